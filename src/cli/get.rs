//! `bittube get`: the same engine from a terminal, into a file.

use std::fs;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use indicatif::ProgressBar;
use percent_encoding::percent_decode_str;

use crate::admin::stats::Stats;
use crate::cli::client;
use crate::cli::progress;
use crate::http::head::ResponseHead;
use crate::ring::runtime;
use crate::shard::engine::Shared;
use crate::store::names;
use crate::stub::address::Address;

/// How often the bar is told who delivered what.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where the film goes.
pub enum Target {
    File(PathBuf),
    Stdout,
}

/// Gets the film at `address` through the stub at `listen`; `shared` tells peers from origin if
/// the stub is this process's own.
pub fn run(
    listen: SocketAddr,
    shared: Option<Arc<Shared>>,
    address: &str,
    target: &Target,
) -> anyhow::Result<()> {
    let path = path_of(address)?;
    let mut out = Out::open(target)?;
    let bar = progress::bar(0, "getting");
    let fetched = runtime::run(async {
        let looking = shared.map(|shared| runtime::spawn(look(shared, bar.clone())));
        let got = client::get(listen, &path, &[], |head, bytes| {
            if head.status == 200 {
                if let Some(len) = head.headers.get("content-length") {
                    bar.set_length(len.parse().unwrap_or(0));
                }
                bar.inc(bytes.len() as u64);
            }
            out.take(head, bytes)
        })
        .await;
        if let Some(looking) = looking {
            looking.abort();
        }
        got
    });
    let head = fetched.context("the ring")?.context("the film broke off")?;
    bar.finish();
    if head.status != 200 {
        bail!("{}", out.refusal(&head));
    }
    out.finish(target)
}

/// Asks the engine who delivered, for the bar, until the film is there.
async fn look(shared: Arc<Shared>, bar: ProgressBar) {
    loop {
        runtime::sleep(LOOK_EVERY).await;
        let stats = shared.stats().await;
        bar.set_message(shares(&stats));
    }
}

/// The stub that holds the store, as it noted there.
pub fn running_stub(store: &Path) -> Option<SocketAddr> {
    let note = fs::read_to_string(store.join("lock")).ok()?;
    note.trim().strip_prefix("http://")?.parse().ok()
}

/// `peers 12.3 MB (4)  origin 1.0 MB`.
pub fn shares(stats: &Stats) -> String {
    let peers: u32 = stats.swarms.iter().map(|swarm| swarm.peers).sum();
    format!(
        "peers {} ({peers})  origin {}",
        indicatif::HumanBytes(stats.bytes.from_peers),
        indicatif::HumanBytes(stats.bytes.from_origin)
    )
}

/// The request target of an address as a person may give it: as the stub takes it, or with the
/// stub's own `http://localhost:8081/` before it.
pub fn path_of(address: &str) -> anyhow::Result<String> {
    let rest = ["http://localhost:", "http://127.0.0.1:", "http://[::1]:"]
        .iter()
        .find_map(|stub| address.strip_prefix(stub))
        .and_then(|rest| rest.split_once('/'))
        .filter(|(port, rest)| {
            let nested = rest.starts_with("http") || rest.starts_with("magnet:");
            let nested = nested || rest.starts_with("udp");
            nested && port.bytes().all(|byte| byte.is_ascii_digit())
        })
        .map(|(_, rest)| rest);
    let path = format!("/{}", rest.unwrap_or(address));
    Address::parse(&path).with_context(|| format!("not an address: {address}"))?;
    Ok(path)
}

/// A name for the file, from the address (R33).
pub fn name_of(address: &str) -> String {
    let trimmed = address
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .trim_end_matches('/');
    let last = trimmed.rsplit('/').next().unwrap_or_default();
    let last = last.strip_suffix(".torrent").unwrap_or(last);
    let decoded = percent_decode_str(last).decode_utf8_lossy();
    let name = names::clean(&decoded);
    if name.is_empty() || name.starts_with("magnet") {
        "film".to_owned()
    } else {
        name
    }
}

/// Writes to `<file>.part`, which takes the file's name once it is whole.
struct Out {
    part: Option<PathBuf>,
    sink: Box<dyn Write>,
    /// The body of an answer that is not the film.
    error: Vec<u8>,
}

impl Out {
    fn open(target: &Target) -> anyhow::Result<Self> {
        let (part, sink): (_, Box<dyn Write>) = match target {
            Target::Stdout => (None, Box::new(io::stdout())),
            Target::File(file) => {
                let part = part_of(file);
                let made = fs::File::create(&part);
                (
                    Some(part.clone()),
                    Box::new(made.with_context(|| part.display().to_string())?),
                )
            }
        };
        Ok(Self {
            part,
            sink,
            error: Vec::new(),
        })
    }

    fn take(&mut self, head: &ResponseHead, bytes: &[u8]) -> io::Result<()> {
        if head.status == 200 {
            return self.sink.write_all(bytes);
        }
        let room = 4096_usize.saturating_sub(self.error.len());
        self.error
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    /// What the stub says of why there is no film.
    fn refusal(&mut self, head: &ResponseHead) -> String {
        if let Some(part) = self.part.take() {
            // Nothing was written to it.
            let _ = fs::remove_file(part);
        }
        let said: serde_json::Value = serde_json::from_slice(&self.error).unwrap_or_default();
        let detail = said
            .get("detail")
            .and_then(serde_json::Value::as_str)
            .unwrap_or("no reason");
        format!("{detail} (status {})", head.status)
    }

    fn finish(mut self, target: &Target) -> anyhow::Result<()> {
        self.sink.flush()?;
        if let (Some(part), Target::File(file)) = (&self.part, target) {
            fs::rename(part, file).with_context(|| file.display().to_string())?;
            eprintln!("{}", file.display());
        }
        Ok(())
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_the_stub() {
        let plain = "http://t.example/announce/https://v.example/a.mp4?x=1";
        let path = format!("/{plain}");
        assert_eq!(path_of(plain).unwrap(), path);
        assert_eq!(
            path_of(&format!("http://localhost:8081/{plain}")).unwrap(),
            path
        );
        assert!(path_of("no address").is_err());
    }

    #[test]
    fn a_video_on_this_machine_is_no_stub() {
        let video = "http://127.0.0.1:9000/film.mp4";
        assert_eq!(path_of(video).unwrap(), format!("/{video}"));
    }

    #[test]
    fn names_come_from_addresses() {
        assert_eq!(
            name_of("http://t/announce/http://v/a%20b.mp4?x=/y"),
            "a b.mp4"
        );
        assert_eq!(name_of("http://v/film.mkv.torrent"), "film.mkv");
        assert_eq!(name_of("magnet:?xt=urn:btih:00"), "film");
        assert!(!name_of("http://v/..%2f..%2fetc").contains('/'));
    }
}
