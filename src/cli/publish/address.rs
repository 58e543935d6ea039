//! What a publisher puts into pages and servers: the localhost address, the magnet link, the head.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::stub::address::Address;
use crate::units::InfoHash;

/// Where every stub listens.
const STUB: &str = "http://localhost:8081";
/// A URL as one segment of a path, or as one value of a query.
pub const WHOLE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What some server's configuration would take for its own in a URL.
const QUOTED: &AsciiSet = &AsciiSet::EMPTY
    .add(b'$')
    .add(b'\'')
    .add(b'"')
    .add(b'\\')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// A published film: `videos` holds one address at least.
pub struct Published<'a> {
    pub name: &'a str,
    pub videos: &'a [Url],
    pub trackers: &'a [Url],
    pub info_hash: InfoHash,
    pub length: u64,
}

impl Published<'_> {
    /// The publisher's form (DESIGN §3), plain where a stub reads it as it is meant.
    pub fn localhost(&self) -> String {
        let plain = self.path(|url| url.to_string());
        let path = match Address::parse(&plain) {
            Ok(Address::Video { trackers, video }) if self.is_meant(&trackers, &video) => plain,
            _ => self.path(|url| utf8_percent_encode(url.as_str(), WHOLE).to_string()),
        };
        format!("{STUB}{path}")
    }

    fn is_meant(&self, trackers: &[Url], video: &Url) -> bool {
        // `udp://t:1` and `udp://t:1/` are one tracker.
        let bare = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        let same = trackers.iter().map(bare).eq(self.trackers.iter().map(bare));
        same && *video == self.videos[0]
    }

    fn path(&self, write: impl Fn(&Url) -> String) -> String {
        let urls = self.trackers.iter().chain(&self.videos[..1]);
        urls.map(|url| format!("/{}", write(url))).collect()
    }

    /// BEP 9, with the trackers, the web seeds (BEP 19) and where the torrent file is.
    pub fn magnet(&self) -> String {
        let mut out = format!("magnet:?xt=urn:btih:{}", self.info_hash);
        let mut add = |key: &str, value: &str| {
            out += &format!("&{key}={}", utf8_percent_encode(value, WHOLE));
        };
        add("dn", self.name);
        add("xl", &self.length.to_string());
        for tracker in self.trackers {
            add("tr", tracker.as_str());
        }
        for video in self.videos {
            add("ws", video.as_str());
        }
        add("xs", &self.torrent_url());
        out
    }

    /// Beside the video: where stubs look.
    pub fn torrent_url(&self) -> String {
        let mut url = self.videos[0].clone();
        let path = format!("{}.torrent", url.path());
        url.set_path(&path);
        url.to_string()
    }

    /// RFC 6249 §4.
    pub fn link(&self) -> String {
        let url = self.torrent_url();
        let url = utf8_percent_encode(&url, QUOTED);
        format!("<{url}>; rel=\"describedby\"; type=\"application/x-bittorrent\"")
    }

    /// The head's line in the words of three servers.
    pub fn servers(&self) -> [(&'static str, String); 3] {
        let (path, link) = (self.videos[0].path(), self.link());
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let name = format!("film_{:.8}", self.info_hash.to_string());
        [
            (
                "nginx, in the server that has the film's root",
                format!(
                    "location = \"{}\" {{ add_header Link '{link}'; }}",
                    decoded.replace('\\', "\\\\").replace('"', "\\\"")
                ),
            ),
            (
                "Apache, with mod_headers",
                format!(
                    "<LocationMatch \"^{}$\">\n    Header add Link \"{}\"\n</LocationMatch>",
                    pattern(&decoded),
                    // A percent sign begins a variable of mod_headers.
                    link.replace('"', "\\\"").replace('%', "%%")
                ),
            ),
            (
                "Caddy",
                format!(
                    "@{name} path_regexp `^{}$`\nheader @{name} +Link `{link}`",
                    pattern(&decoded)
                ),
            ),
        ]
    }

    /// Plays also where there is no BitTube.
    pub fn snippet(&self) -> String {
        let source = |url: &str| format!("  <source src=\"{}\">\n", escape(url));
        let sources = source(&self.localhost()) + &source(self.videos[0].as_str());
        format!("<video controls>\n{sources}</video>")
    }
}

/// A path as a regular expression that nothing else matches; without a backslash before a quote or
/// another backslash, which Apache's own parser would take.
fn pattern(path: &str) -> String {
    let mut out = String::new();
    for letter in path.chars() {
        match letter {
            '.' => out += "[.]",
            '/' | '-' | '_' => out.push(letter),
            _ if letter.is_ascii() && !letter.is_ascii_alphanumeric() => {
                out += &format!("\\x{:02X}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out
}

/// Within the quotes of an attribute.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrent::magnet::Magnet;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn with<T>(videos: &[&str], trackers: &[&str], ask: impl Fn(&Published<'_>) -> T) -> T {
        ask(&Published {
            name: "a film.mp4",
            videos: &urls(videos),
            trackers: &urls(trackers),
            info_hash: InfoHash([0xab; 20]),
            length: 1234,
        })
    }

    #[test]
    fn the_address_is_read_as_it_is_meant() {
        let plain = with(
            &["https://v.example/a.mp4?x=1&y"],
            &["https://t.example/announce", "udp://t.example:1/announce"],
            |film| film.localhost(),
        );
        assert_eq!(
            plain,
            "http://localhost:8081/https://t.example/announce/udp://t.example:1/announce\
             /https://v.example/a.mp4?x=1&y"
        );
        let bare = with(
            &["https://v.example/a.mp4"],
            &["udp://t.example:1"],
            |film| film.localhost(),
        );
        assert_eq!(
            bare,
            "http://localhost:8081/udp://t.example:1/https://v.example/a.mp4"
        );
        // A tracker that does not look like one, a video that does, a query before another URL.
        for (video, tracker) in [
            ("https://v.example/a.mp4", "https://t.example/a.php"),
            (
                "https://v.example/announce/a.mp4",
                "https://t.example/announce",
            ),
            (
                "https://v.example/a.mp4",
                "https://t.example/announce?key=1",
            ),
            ("https://v.example/a.torrent/b.mp4", "udp://t.example:1/"),
        ] {
            let address = with(&[video], &[tracker], |film| film.localhost());
            let read = Address::parse(address.strip_prefix(STUB).unwrap()).unwrap();
            let meant = Address::Video {
                trackers: urls(&[tracker]),
                video: video.parse().unwrap(),
            };
            assert_eq!(read, meant, "{address}");
        }
    }

    #[test]
    fn the_magnet_says_it_all() {
        let magnet = with(
            &["https://v.example/a.mp4?x=1&y", "http://w.example/a.mp4"],
            &["https://t.example/announce?k=1"],
            |film| film.magnet(),
        );
        let read = Magnet::parse(&magnet).unwrap();
        assert_eq!(read.info_hash, InfoHash([0xab; 20]));
        assert_eq!(read.name.as_deref(), Some("a film.mp4"));
        assert_eq!(read.trackers, ["https://t.example/announce?k=1"]);
        let seeds = ["https://v.example/a.mp4?x=1&y", "http://w.example/a.mp4"];
        assert_eq!(read.web_seeds, seeds);
        assert_eq!(read.sources, ["https://v.example/a.mp4.torrent?x=1&y"]);
    }

    #[test]
    fn pages_and_servers_are_told() {
        let snippet = with(
            &["https://v.example/a.mp4?x=1&y"],
            &["https://t.example/announce"],
            |film| film.snippet(),
        );
        assert_eq!(
            snippet,
            "<video controls>\n  <source src=\"http://localhost:8081/https://t.example/announce\
             /https://v.example/a.mp4?x=1&amp;y\">\n  <source src=\"https://v.example/a.mp4?x=1\
             &amp;y\">\n</video>"
        );
        let [nginx, apache, caddy] =
            with(&["https://v.example/f/a.mp4"], &[], |film| film.servers());
        let link = "<https://v.example/f/a.mp4.torrent>; rel=\"describedby\"; \
                    type=\"application/x-bittorrent\"";
        let line = format!("location = \"/f/a.mp4\" {{ add_header Link '{link}'; }}");
        assert_eq!(nginx.1, line);
        assert!(apache.1.starts_with("<LocationMatch \"^/f/a[.]mp4$\">"));
        assert!(apache.1.contains("rel=\\\"desc"));
        let name = "@film_abababab";
        let line = format!("{name} path_regexp `^/f/a[.]mp4$`\nheader {name} +Link `{link}`");
        assert_eq!(caddy.1, line);

        let [nginx, apache, _] = with(&["https://v.example/a%20'$.mp4"], &[], |film| {
            film.servers()
        });
        assert!(
            nginx.1.starts_with("location = \"/a '$.mp4\""),
            "{}",
            nginx.1
        );
        assert!(nginx.1.contains("/a%20%27%24.mp4.torrent>"), "{}", nginx.1);
        assert!(
            apache.1.contains("\"^/a\\x20\\x27\\x24[.]mp4$\""),
            "{}",
            apache.1
        );
        assert!(
            apache.1.contains("/a%%20%%27%%24.mp4.torrent>"),
            "{}",
            apache.1
        );
    }
}
