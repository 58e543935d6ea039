//! The registry against a web server on loopback: fetched once, kept, looked at again, retired.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::*;
use crate::http::head;
use crate::http::head::HeadWriter;
use crate::http::head::RequestHead;
use crate::http::range;
use crate::http::range::Asked as Part;
use crate::origin::tls;
use crate::reach::Reach;
use crate::ring::listener::Listener;
use crate::shard::callers;
use crate::torrent::metainfo::Builder;
use crate::torrent::metainfo::Metainfo;

const CLIP: &[u8] = include_bytes!("../../cli/demo/clip.mp4");
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const WAIT: Duration = Duration::from_secs(60);

/// Has the clip as every `.mp4`, a page elsewhere.
struct Origin {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Of the clip, requested as a whole.
    whole: AtomicU64,
    version: AtomicU64,
}

impl Origin {
    fn start() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind_shared(any, 1).unwrap().pop().unwrap();
        let addr = listener.local_addr();
        let seen = Arc::new(Seen::default());
        let theirs = seen.clone();
        thread::spawn(move || {
            runtime::run(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let seen = theirs.clone();
                    runtime::spawn(callers::attend(socket, WAIT, async move |head| {
                        answer(&seen, head)
                    }));
                }
            })
        });
        Self { addr, seen }
    }

    fn query(&self, name: &str) -> String {
        format!("url=http%3A%2F%2F{}%2F{name}", self.addr)
    }

    fn fetched(&self) -> u64 {
        self.seen.whole.load(Ordering::Relaxed)
    }

    fn change(&self) {
        self.seen.version.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(seen: &Seen, head: &RequestHead) -> Vec<Bytes> {
    let is_clip = head.target.ends_with(".mp4");
    let body: &[u8] = if is_clip {
        CLIP
    } else {
        b"<html>no film</html>"
    };
    let len = body.len() as u64;
    let (status, part) = match range::resolve(head.headers.get("range"), len) {
        Part::Part(part) => (206, part),
        _ => (200, crate::units::ByteRange::new(0, len)),
    };
    if is_clip && status == 200 {
        seen.whole.fetch_add(1, Ordering::Relaxed);
    }
    let (start, end) = (part.start, part.end);
    let mut writer = HeadWriter::response(status)
        .header("Content-Length", part.len())
        .header(
            "Content-Range",
            format_args!("bytes {start}-{}/{len}", end - 1),
        );
    if !head.target.contains("unstamped") {
        let version = seen.version.load(Ordering::Relaxed);
        writer = writer.header("ETag", format_args!("\"v{version}\""));
    }
    let at = |at| usize::try_from(at).unwrap();
    let body = Bytes::copy_from_slice(&body[at(start)..at(end)]);
    vec![writer.finish().into(), body]
}

fn open(dir: &std::path::Path, origin: &Origin, allow_private: bool) -> Door {
    let host = origin.addr.to_string();
    let tokens = format!("{TOKEN} {host} other.example");
    start(Options {
        dir: dir.to_owned(),
        policy: Policy {
            tokens: Tokens::parse(&tokens).unwrap(),
            auto: vec![host.parse().unwrap()],
            announce: vec!["http://t.example/announce".to_owned()],
            ..Policy::default()
        },
        web: Web {
            reach: Reach::new(allow_private, Vec::new(), |_| false),
            tls: tls::config(None).unwrap(),
            agent: "bittube-test".to_owned(),
        },
    })
    .unwrap()
}

fn headers(lines: &str) -> Headers {
    let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
    head::parse_request(text.as_bytes())
        .unwrap()
        .unwrap()
        .headers
}

async fn get(door: &Door, query: &str) -> Reply {
    let none = headers("");
    door.answer(Method::Get, query, &none, Bytes::new()).await
}

async fn put(door: &Door, query: &str, body: Vec<u8>) -> u16 {
    let headers = headers(&format!("Authorization: Bearer {TOKEN}\r\n"));
    let answer = door.answer(Method::Put, query, &headers, body.into());
    answer.await.status
}

/// Asked again until it is something else than 202.
async fn settled(door: &Door, query: &str) -> Reply {
    let end = runtime::now() + WAIT;
    loop {
        let answer = get(door, query).await;
        if answer.status != 202 {
            return answer;
        }
        assert!(
            answer
                .headers
                .iter()
                .any(|(name, _)| *name == "Retry-After")
        );
        assert!(runtime::now() < end, "still being made");
        runtime::sleep(Duration::from_millis(10)).await;
    }
}

fn said<'a>(answer: &'a Reply, name: &str) -> Option<&'a str> {
    let found = answer.headers.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn a_video_is_fetched_once_and_kept() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    let query = origin.query("clip.mp4");
    runtime::run(async {
        let door = open(dir.path(), &origin, true);
        assert_eq!(get(&door, &query).await.status, 202);
        let answer = settled(&door, &query).await;
        assert_eq!(
            (answer.status, said(&answer, "Video-ETag")),
            (200, Some("\"v0\""))
        );
        let metainfo = Metainfo::parse(&answer.body).unwrap();
        let whole = Builder::of("clip.mp4", metainfo.layout.nominal_piece_len(), CLIP);
        assert_eq!(metainfo.hashes, whole.hashes);
        assert_eq!(metainfo.trackers, [["http://t.example/announce"]]);
        let video = format!("http://{}/clip.mp4", origin.addr);
        assert_eq!(metainfo.web_seeds, [video]);
        assert_eq!(origin.fetched(), 1);
        drop(door);
        // The next process has it, once the server has said that it is still the same.
        let door = open(dir.path(), &origin, true);
        let again = settled(&door, &query).await;
        assert_eq!((again.status, &again.body), (200, &answer.body));
        assert_eq!(origin.fetched(), 1);
        drop(door);
        // And one after that finds it changed: the old one is never given again.
        origin.change();
        let door = open(dir.path(), &origin, true);
        let changed = settled(&door, &query).await;
        assert_eq!(said(&changed, "Video-ETag"), Some("\"v1\""));
        assert_eq!(origin.fetched(), 2);
    })
    .unwrap();
}

#[test]
fn what_is_no_video_is_not_published() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    runtime::run(async {
        let door = open(dir.path(), &origin, true);
        for name in ["page.html", "unstamped.mp4"] {
            let query = origin.query(name);
            assert_eq!(settled(&door, &query).await.status, 404, "{name}");
            // It is remembered.
            assert_eq!(get(&door, &query).await.status, 404, "{name}");
        }
        drop(door);
        // A public tracker is no way into a private network, whatever hosts it is told.
        let door = open(dir.path(), &origin, false);
        let before = origin.fetched();
        assert_eq!(settled(&door, &origin.query("clip.mp4")).await.status, 404);
        assert_eq!(origin.fetched(), before);
    })
    .unwrap();
}

#[test]
fn a_publisher_tells_and_is_believed_for_its_hosts() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start());
    let torrent = Builder::of("clip.mp4", 65_536, CLIP).build();
    runtime::run(async {
        let door = open(dir.path(), &origin, true);
        let query = origin.query("mine.mp4");
        let none = headers("");
        let refused = door.refusal(&query, &none).await.unwrap();
        assert_eq!(
            (refused.status, said(&refused, "WWW-Authenticate")),
            (401, Some("Bearer"))
        );
        let mine = headers(&format!("Authorization: Bearer {TOKEN}\r\n"));
        assert!(door.refusal(&query, &mine).await.is_none());
        assert_eq!(
            put(&door, "url=http://third.example/a.mp4", torrent.clone()).await,
            403
        );
        assert_eq!(put(&door, &query, b"nothing".to_vec()).await, 422);
        assert_eq!(put(&door, &query, torrent.clone()).await, 201);
        assert_eq!(put(&door, &query, torrent.clone()).await, 200);
        let given = get(&door, &query).await;
        assert_eq!(given.status, 200);
        let metainfo = Metainfo::parse(&given.body).unwrap();
        assert_eq!(
            metainfo.info_hash,
            Metainfo::parse(&torrent).unwrap().info_hash
        );
        let other = door.answer(Method::Post, &query, &none, Bytes::new()).await;
        assert_eq!(
            (other.status, said(&other, "Allow")),
            (405, Some("GET, HEAD, PUT"))
        );
        assert!(door.set_hosts(Tokens::default(), Vec::new()));
        assert_eq!(put(&door, &query, torrent).await, 401);
        assert_eq!(origin.fetched(), 0);
    })
    .unwrap();
}
