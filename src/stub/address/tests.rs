//! Addresses as people, pages and proxies write them, and those that are refused.

use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;
use proptest::prelude::*;

use super::*;

/// `trackers | video`, or `trackers | torrent | path`, or `magnet | query | path`.
fn read(target: &str) -> String {
    let join = |trackers: &[Url]| {
        let trackers: Vec<_> = trackers.iter().map(Url::as_str).collect();
        trackers.join(" ")
    };
    match Address::parse(target) {
        Ok(Address::Video { trackers, video }) => format!("{} | {video}", join(&trackers)),
        Ok(Address::Torrent {
            url,
            path,
            trackers,
        }) => format!("{} | {url} | {}", join(&trackers), path.unwrap_or_default()),
        Ok(Address::Magnet { query, path }) => {
            format!("magnet | {query} | {}", path.unwrap_or_default())
        }
        Err(bad) => format!("{} {}", bad.status, bad.detail),
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn check(rows: &[(&str, &str)]) {
    for (target, expected) in rows {
        assert_eq!(read(target), *expected, "{target}");
    }
}

#[test]
fn the_publishers_form() {
    check(&[
        (
            "/http://t.org:6969/announce/http://h.org/v.mp4",
            "http://t.org:6969/announce | http://h.org/v.mp4",
        ),
        (
            "/http://t.org/announce/https://h.org/v.mp4?a=b&c=d",
            "http://t.org/announce | https://h.org/v.mp4?a=b&c=d",
        ),
        (
            "/udp://t.org:1337/announce/http://h.org/v.mp4",
            "udp://t.org:1337/announce | http://h.org/v.mp4",
        ),
        (
            "/udp://t.org:80/http://h.org/v.mp4",
            "udp://t.org:80/ | http://h.org/v.mp4",
        ),
        // Several, of all kinds.
        (
            "/http://a/announce/udp://b:1/https://c/x/announce.php?key=1/http://h/v.mp4",
            "http://a/announce udp://b:1/ https://c/x/announce.php?key=1 | http://h/v.mp4",
        ),
        // A tracker without path.
        (
            "/http://t.org/http://h/v.mp4",
            "http://t.org/ | http://h/v.mp4",
        ),
        (
            "/http://t.org//http://h/v.mp4",
            "http://t.org/ | http://h/v.mp4",
        ),
        (
            "/http://t.org:8/http://h/v.mp4",
            "http://t.org:8/ | http://h/v.mp4",
        ),
        // A key in the path.
        (
            "/https://t/0123/announce/http://h/v.mp4",
            "https://t/0123/announce | http://h/v.mp4",
        ),
    ]);
}

#[test]
fn folded_slashes_and_odd_case() {
    check(&[
        (
            "/http:/t/announce/http:/h/v.mp4?x=http:/y",
            "http://t/announce | http://h/v.mp4?x=http:/y",
        ),
        ("/https:/h/v.mp4", " | https://h/v.mp4"),
        (
            "/HTTP://T.Org/Announce/HTTPS://H.Org:443/V.mp4",
            "http://t.org/Announce | https://h.org/V.mp4",
        ),
        (
            "/UDP://T.Org:6969/http://h/v.mp4",
            "udp://t.org:6969/ | http://h/v.mp4",
        ),
        (
            "/http%3A//t/announce/http%3a//h/v.mp4",
            "http://t/announce | http://h/v.mp4",
        ),
    ]);
}

#[test]
fn percent_encoded_segments() {
    let tracker = encode("http://t.org/announce?key=a/b");
    let video = encode("https://h.org/v.mp4?a=b&c=http://x/y");
    let expected = "http://t.org/announce?key=a/b | https://h.org/v.mp4?a=b&c=http://x/y";
    assert_eq!(read(&format!("/{tracker}/{video}")), expected);
    assert_eq!(read(&format!("/{tracker}/{video}/")), expected);
    assert_eq!(
        read(&format!("/{tracker}/http://h/v.mp4?a=b")),
        "http://t.org/announce?key=a/b | http://h/v.mp4?a=b"
    );
    assert_eq!(
        read(&format!("/udp://u:1/{video}")),
        "udp://u:1/ | https://h.org/v.mp4?a=b&c=http://x/y"
    );
    check(&[
        ("/http%3A%2F%2Fh%2Fv.mp4", " | http://h/v.mp4"),
        ("/http:%2f%2fh%2fv.mp4", " | http://h/v.mp4"),
        // A name with a blank, encoded twice as it must be.
        ("/http%3A%2F%2Fh%2Fa%2520b.mp4", " | http://h/a%20b.mp4"),
        // Exactly one URL, whatever it looks like.
        (
            "/http%3A%2F%2Fh%2Fannounce%2Fhttp%3A%2F%2Fx%2Fv.mp4",
            " | http://h/announce/http://x/v.mp4",
        ),
        // A query that the player adds.
        ("/http%3A%2F%2Fh%2Fv.mp4?t=1", " | http://h/v.mp4?t=1"),
        ("/http%3A%2F%2Fh%2Fv.mp4%3Fa?t=1", " | http://h/v.mp4?a&t=1"),
        // Any URL that another follows is a tracker if it is encoded.
        (
            "/http%3A%2F%2Ft%2Fx/http://h/v.mp4",
            "http://t/x | http://h/v.mp4",
        ),
        (
            "/http%3A%2F%2Fh%2Fv.mp4/more",
            "400 something follows the encoded address",
        ),
    ]);
}

#[test]
fn a_video_alone() {
    check(&[
        ("/http://h.org/v.mp4", " | http://h.org/v.mp4"),
        ("/http://h.org", " | http://h.org/"),
        (
            "/https://h.org:8443/a/b/v.mp4?q",
            " | https://h.org:8443/a/b/v.mp4?q",
        ),
        (
            "/http://h.org/My%20Video.mp4",
            " | http://h.org/My%20Video.mp4",
        ),
        ("/http://h.org/é.mp4", " | http://h.org/%C3%A9.mp4"),
        (
            "/http://bücher.de/v.mp4",
            " | http://xn--bcher-kva.de/v.mp4",
        ),
        (
            "/http://[2606:4700::1]:81/v.mp4",
            " | http://[2606:4700::1]:81/v.mp4",
        ),
        // One spelling of an address, whatever was typed.
        ("/http://0x7f.1/v.mp4", " | http://127.0.0.1/v.mp4"),
        ("/http://017700000001/v.mp4", " | http://127.0.0.1/v.mp4"),
        // Alone it is the video, whatever it looks like.
        ("/http://h/announce", " | http://h/announce"),
    ]);
}

#[test]
fn a_video_whose_path_holds_a_url() {
    check(&[
        (
            "/https://web.archive.org/web/2020/http://x.org/y.mp4",
            " | https://web.archive.org/web/2020/http://x.org/y.mp4",
        ),
        (
            "/http://t/announce/https://web.archive.org/web/2020/http://x/announce/y.mp4",
            "http://t/announce | https://web.archive.org/web/2020/http://x/announce/y.mp4",
        ),
        (
            "/http://h/v.mp4?from=/http://x/announce/http://y",
            " | http://h/v.mp4?from=/http://x/announce/http://y",
        ),
        (
            "/http://h/?u=/http://x/y.mp4",
            " | http://h/?u=/http://x/y.mp4",
        ),
        (
            "/http://h/v.mp4?u=http://x/y",
            " | http://h/v.mp4?u=http://x/y",
        ),
        // `udp:` is a tracker and `http:` begins a URL only at the start of a segment.
        ("/http://h/a-http://x/y.mp4", " | http://h/a-http://x/y.mp4"),
        ("/http://h/http:x/y.mp4", " | http://h/http:x/y.mp4"),
    ]);
}

#[test]
fn torrents_on_the_web() {
    let encoded = encode("https://h/x.torrent?key=1");
    check(&[
        ("/http://h/x.torrent", " | http://h/x.torrent | "),
        ("/http://h/x.torrent/", " | http://h/x.torrent | "),
        (
            "/http://h/X.TORRENT?key=1",
            " | http://h/X.TORRENT?key=1 | ",
        ),
        (
            "/http://h/d/x.torrent/a%20dir/film.mkv?key=1",
            " | http://h/d/x.torrent?key=1 | a dir/film.mkv",
        ),
        (
            "/udp://t:1/announce/http://h/x.torrent/film.mkv",
            "udp://t:1/announce | http://h/x.torrent | film.mkv",
        ),
        ("/http://h.torrent/v.mp4", " | http://h.torrent/v.mp4"),
        ("/http://h.torrent", " | http://h.torrent/"),
        ("/http://h/.torrent/v.mp4", " | http://h/.torrent/v.mp4"),
        (
            "/http://h/v.mp4?x=a.torrent",
            " | http://h/v.mp4?x=a.torrent",
        ),
        (
            &format!("/{encoded}/dir/film.mkv"),
            " | https://h/x.torrent?key=1 | dir/film.mkv",
        ),
        (&format!("/{encoded}"), " | https://h/x.torrent?key=1 | "),
        // Encoded, a URL is what its own end says.
        (
            &format!("/{}", encode("http://h/x.torrent/v.mp4")),
            " | http://h/x.torrent/v.mp4",
        ),
    ]);
}

#[test]
fn magnet_links() {
    let whole = encode("magnet:?xt=urn:btih:abc&dn=a%20b&tr=http%3A%2F%2Ft");
    check(&[
        (
            "/magnet:?xt=urn:btih:abc&tr=udp://t:1",
            "magnet | xt=urn:btih:abc&tr=udp://t:1 | ",
        ),
        ("/MAGNET:/?xt=urn:btih:abc", "magnet | xt=urn:btih:abc | "),
        (
            "/magnet:/a%20dir/f.mkv?xt=urn:btih:abc&dn=x%20y",
            "magnet | xt=urn:btih:abc&dn=x%20y | a dir/f.mkv",
        ),
        ("/magnet%3A?xt=urn:btih:abc", "magnet | xt=urn:btih:abc | "),
        (
            &format!("/{whole}"),
            "magnet | xt=urn:btih:abc&dn=a%20b&tr=http%3A%2F%2Ft | ",
        ),
        ("/magnet:", "400 a magnet link needs ?xt=urn:btih:…"),
        ("/magnet:?", "400 a magnet link needs ?xt=urn:btih:…"),
        ("/magnet:?xt=a%0db", "400 an encoded control character"),
    ]);
}

#[test]
fn what_rule_11_refuses() {
    for target in [
        "/ftp://h/v.mp4",
        "/file:///etc/passwd",
        "/http://t/announce/ftp://h/v.mp4",
        "/javascript:/alert",
        "/udp://t:1337/announce",
        "/udp://t:1337/announce/v.mp4",
        "/udp://t/announce/http://h/v.mp4",
        "/http://user@h/v.mp4",
        "/http://user:pass@h/v.mp4",
        "/http://@h/v.mp4",
        "/udp://u@t:1/http://h/v.mp4",
        "/http%3A%2F%2Fuser%40h%2Fv.mp4",
        "/http://h/v.mp4#t=1",
        "/http%3A%2F%2Fh%2Fv.mp4%23t",
        "/http:///v.mp4",
        "/http:////h/v.mp4",
        "/http:/",
        "/http://",
        "/http://?x",
        "/http://:80/v.mp4",
        "/udp://:80/http://h/v.mp4",
        "/http://h:0/v.mp4",
        "/udp://t:0/http://h/v.mp4",
        "/http://h:65536/v.mp4",
        "/http://h/a b.mp4",
        "/http://h/a\tb.mp4",
        "/http://h/a\u{7f}.mp4",
        "/http://h/a%0d%0aX:y",
        "/http://h/a%00.mp4",
        "/http://h/a%1fb",
        "/http://h/a%7Fb",
        "/http://h/v.mp4?a=%0A",
        "/http://h/a%250d%250a",
        "/http://h/a%250A",
        "/http%3A%2F%2Fh%2Fa%20b.mp4",
        "/http%3A%2F%2Fh%2Fa%0db",
        "/http%3A%2F%2Fh%2Fa%250db",
        "/http%3A%2F%2Fh%2Fa%25250db",
        "/http%3A%2F%2Fh%2F%ff.mp4",
        "/http://h/x.torrent/%ff",
        "/http://a b/v.mp4",
        "/http://a%2fb/v.mp4",
        "/http://[::1/v.mp4",
        "/http://1.2.3.4.5/v.mp4",
        "/http://xn--a/v.mp4",
    ] {
        let bad = Address::parse(target).expect_err(target);
        assert_eq!((bad.status, bad.code), (400, "bad-address"), "{target}");
    }
    let many = format!("/{}http://h/v.mp4", "udp://t:1/".repeat(TRACKERS_MAX + 1));
    assert_eq!(read(&many), "400 more than 16 trackers");
    let most = format!("/{}http://h/v.mp4", "udp://t:1/".repeat(TRACKERS_MAX));
    assert!(Address::parse(&most).is_ok());
}

#[test]
fn what_is_no_address_is_not_found() {
    for target in [
        "/",
        "",
        "*",
        "/favicon.ico",
        "/h.org/v.mp4",
        "//http://h/v.mp4",
        "/://h",
    ] {
        let bad = Address::parse(target).expect_err(target);
        assert_eq!((bad.status, bad.code), (404, "not-found"), "{target}");
    }
}

#[test]
fn absolute_form_is_the_thing_itself() {
    let video = |target| match Address::from_absolute_form(target) {
        Ok(Address::Video { trackers, video }) if trackers.is_empty() => video.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(video("http://H.org/v.mp4?x"), "http://h.org/v.mp4?x");
    assert_eq!(
        video("http://h/a/http://b/c.torrent"),
        "http://h/a/http://b/c.torrent"
    );
    for bad in [
        "ftp://h/v",
        "udp://h:1/v",
        "http://u@h/v",
        "/http://h/v",
        "http://h/#a",
        "h:80",
    ] {
        assert!(Address::from_absolute_form(bad).is_err(), "{bad}");
    }
}

#[test]
fn keys_name_the_torrent_or_the_video() {
    let key = |target| Address::parse(target).unwrap().key();
    assert_eq!(
        key("/http://H:80/v.mp4"),
        key("/udp://t:1/http%3A%2F%2Fh%2Fv.mp4")
    );
    assert_ne!(key("/http://h/v.mp4"), key("/http://h/v.mp4?x"));
    assert_eq!(key("/http://h/x.torrent/a"), key("/http://h/x.torrent/b"));
    let hex = "/magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";
    let base32 = "/magnet:/f.mkv?dn=x&xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH";
    assert_eq!(key(hex), key(base32));
    assert_ne!(key(hex), key("/magnet:?xt=urn:btih:abc"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_target_is_answered(target in "/(http:/|https://|udp://|magnet:|%2f|%3A|announce|\\.torrent|[ -~é]|[\\?/%:@#]){0,12}") {
        if let Ok(address) = Address::parse(&target) {
            let urls: Vec<Url> = match address {
                Address::Video { trackers, video } => trackers.into_iter().chain([video]).collect(),
                Address::Torrent { url, trackers, .. } => trackers.into_iter().chain([url]).collect(),
                Address::Magnet { .. } => vec![],
            };
            for url in urls {
                prop_assert!(matches!(url.scheme(), "http" | "https" | "udp"));
                prop_assert!(url.username().is_empty() && url.password().is_none());
                prop_assert!(url.fragment().is_none() && url.port() != Some(0));
                prop_assert!(url.host_str().is_some_and(|host| !host.is_empty() && host.is_ascii()));
                prop_assert!(url.as_str().bytes().all(|byte| byte > 0x20 && byte != 0x7f));
            }
        }
    }

    #[test]
    fn plain_and_encoded_are_one(
        tracker in "(http|https|udp)://[a-z]{1,8}:[1-9][0-9]{1,3}/announce",
        video in "https?://[a-z]{1,8}(/[a-z0-9]{0,3}[a-z]){1,4}\\.mp4(\\?[a-z&=]{1,8})?",
    ) {
        let plain = Address::parse(&format!("/{tracker}/{video}")).unwrap();
        let encoded = Address::parse(&format!("/{}/{}", encode(&tracker), encode(&video))).unwrap();
        prop_assert_eq!(&plain, &encoded);
        let Address::Video { trackers, video: read } = plain else { panic!("a video") };
        prop_assert_eq!(trackers.len(), 1);
        prop_assert_eq!(read.as_str(), video);
    }
}
