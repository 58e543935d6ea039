//! What is media, what is not, and what each is called.

use proptest::prelude::*;

use super::*;

fn kind(head: &[u8]) -> Option<&'static str> {
    sniff(head).map(|media| media.content_type)
}

fn frames(frame: &[u8], len: usize, count: usize) -> Vec<u8> {
    let mut one = frame.to_vec();
    one.resize(len, 0);
    one.repeat(count)
}

#[test]
fn media_is_known_by_its_bytes() {
    let mut ts = vec![0; 4096];
    for at in (0..4096).step_by(188) {
        ts[at] = 0x47;
    }
    let mut m2ts = vec![0; 4096];
    for at in (4..4096).step_by(192) {
        m2ts[at] = 0x47;
    }
    let theora = [b"OggS\0\x02".as_slice(), &[0; 22], b"\x80theora"].concat();
    let rows: &[(&[u8], &str)] = &[
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video/mp4"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "video/quicktime"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0", "audio/mp4"),
        (b"\0\0\0\x18ftyp3gp4\0\0\0\0", "video/3gpp"),
        (b"\0\0\0\x18stypmsdh\0\0\0\0", "video/mp4"),
        (b"\0\0\x01\0moof\0\0\0\0", "video/mp4"),
        (b"\0\0\0\x01mdat\0\0\0\0", "video/mp4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video/mp4"),
        (b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm", "video/webm"),
        (
            b"\x1a\x45\xdf\xa3\x8f\x42\x86\x81\x01\x42\x82\x88matroska",
            "video/x-matroska",
        ),
        (&ts, "video/mp2t"),
        (&ts[..376], "video/mp2t"),
        (&m2ts, "video/mp2t"),
        (b"\0\0\x01\xba\x44\0\x04", "video/mpeg"),
        (b"\0\0\x01\xba\x21\0\x01", "video/mpeg"),
        (&theora, "video/ogg"),
        (b"OggS\0\x02\0\0\0\0OpusHead", "audio/ogg"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        (b"RIFF\x24\0\0\0AVI LIST", "video/x-msvideo"),
        (b"FLV\x01\x05", "video/x-flv"),
        (b"ID3\x04\0\0\0\0\0\0", "audio/mpeg"),
        // 128 kbit/s at 44.1 kHz: frames of 417 bytes.
        (&frames(&[0xff, 0xfb, 0x90, 0x00], 417, 3), "audio/mpeg"),
        // 64 kbit/s at 22.05 kHz, padded: 209 bytes.
        (&frames(&[0xff, 0xf3, 0x82, 0x00], 209, 2), "audio/mpeg"),
        (
            &frames(&[0xff, 0xf1, 0x50, 0x80, 0x0c, 0x80, 0], 100, 4),
            "audio/aac",
        ),
        (
            b"#EXTM3U\n#EXT-X-VERSION:3",
            "application/vnd.apple.mpegurl",
        ),
        (b"\xef\xbb\xbf#EXTM3U", "application/vnd.apple.mpegurl"),
        (
            b"<?xml version=\"1.0\"?>\n<!-- x -->\n<MPD xmlns=\"\">",
            "application/dash+xml",
        ),
        (b"<MPD>", "application/dash+xml"),
        (b"WEBVTT", "text/vtt"),
        (b"WEBVTT - Title\n", "text/vtt"),
    ];
    for (head, expected) in rows {
        assert_eq!(kind(head), Some(*expected), "{}", head.escape_ascii());
    }
}

#[test]
fn the_rest_is_not_media() {
    let almost_ts = [vec![0x47], vec![0; 187], vec![0x47], vec![0; 187], vec![0]].concat();
    let rows: &[&[u8]] = &[
        b"",
        b"\0",
        b"<!doctype html><html>",
        b"<html><video src=x>",
        b"{\"token\":\"ftyp\"}",
        b"<?xml version=\"1.0\"?><svg>",
        b"<?xml version=\"1.0\"?><!DOCTYPE MPD [<!ENTITY a \"b\">]><MPD>",
        b"<?xml",
        b"<MPDX>",
        b"WEBVTTX",
        b"#EXTINF",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"GIF89a",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"\0\0\0\x18ftypavif\0\0\0\0",
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"\x1a\x45\xdf\xa3\x84\x42\x82\x81x",
        b"\x1a\x45\xdf\xa3",
        b"text free of any box at its front",
        b"sugarfree",
        b"PK\x03\x04",
        b"\xff\xfb\x90\x00",
        b"\xff\xfbxy and then only text, long enough or not",
        &frames(&[0xff, 0xfb, 0x90, 0x00], 400, 3),
        b"ssh-rsa AAAA",
        b"root:x:0:0:root:/root:/bin/bash\n",
        &almost_ts,
    ];
    for head in rows {
        assert_eq!(kind(head), None, "{}", head.escape_ascii());
    }
}

#[test]
fn names_tell_kinds_of_one_container_apart() {
    let iso = sniff(b"\0\0\0\x18ftypisom\0\0\0\0");
    let webm = sniff(b"\x1a\x45\xdf\xa3\x87\x42\x82\x84webm");
    let ogg = sniff(b"OggS\0\x02\0\0\0\0OpusHead");
    for (name, sniffed, expected) in [
        ("a.m4a", iso, "audio/mp4"),
        ("a.MP4", iso, "video/mp4"),
        ("a.mkv", iso, "video/mp4"),
        ("a.mkv", webm, "video/x-matroska"),
        ("a.html", webm, "video/webm"),
        ("a", ogg, "audio/ogg"),
        ("dir.x/a.ts", None, "video/mp2t"),
        ("a.m3u8", None, "application/vnd.apple.mpegurl"),
        ("a.opus", None, "audio/ogg"),
    ] {
        let found = content_type(name, sniffed);
        assert_eq!(
            (found.value.as_ref(), found.attachment),
            (expected, false),
            "{name}"
        );
    }
    for name in [
        "a.html",
        "a.svg",
        "a.js",
        "a.wasm",
        "a.xml",
        "a.txt",
        "a",
        "",
        "html",
        "a.mp4.exe",
    ] {
        let found = content_type(name, None);
        assert_eq!(found.value, "application/octet-stream", "{name}");
        assert!(found.attachment, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn hostile_bytes_never_panic(
        start in prop::sample::select(vec![
            b"".to_vec(), vec![0xff, 0xfb], vec![0xff, 0xf1], vec![0x1a, 0x45, 0xdf, 0xa3], b"\0\0\0\x08ftyp".to_vec(),
            b"<!--".to_vec(), b"<?xml".to_vec(), b"OggS\0".to_vec(),
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = sniff(&[start, rest].concat());
    }

    #[test]
    fn no_text_is_media(text in "[ -\"$-;=-VX-~\n][ -~\n]{0,400}") {
        prop_assert_eq!(sniff(text.as_bytes()), None);
    }
}
