//! Torrents good, odd and hostile.

use proptest::prelude::*;

use super::*;

const PIECE: u32 = 16 * 1024;

/// A .torrent around `info`, keys as given.
fn torrent(info: &[u8]) -> Vec<u8> {
    [b"d4:info", info, b"e"].concat()
}

fn reason(info: &[u8]) -> &'static str {
    Metainfo::parse(&torrent(info)).unwrap_err().reason
}

fn info(piece_len: i64, length: i64, pieces: usize) -> Vec<u8> {
    Encoder::new()
        .int(b"length", length)
        .text(b"name", "a.mp4")
        .int(b"piece length", piece_len)
        .bytes(b"pieces", vec![7u8; pieces])
        .finish()
}

fn file(path: &[&str], length: u64) -> FileEntry {
    FileEntry {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        length,
        pad: false,
    }
}

fn several(name: &str, files: &[FileEntry]) -> Metainfo {
    let length: u64 = files.iter().map(|file| file.length).sum();
    let count = usize::try_from(length.div_ceil(u64::from(PIECE))).unwrap();
    let builder = Builder {
        name: name.to_owned(),
        piece_len: PIECE,
        hashes: vec![[3; 20]; count],
        ..Builder::default()
    };
    Metainfo::parse(&builder.build_files(files)).unwrap()
}

#[test]
fn one_file_and_its_hashes() {
    let data: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
    let metainfo = Metainfo::parse(&make("film.mp4", PIECE, &data)).unwrap();
    assert_eq!(metainfo.name, "film.mp4");
    assert_eq!(metainfo.files, [file(&["film.mp4"], 40_000)]);
    assert_eq!(metainfo.layout, Layout::single(40_000, PIECE));
    assert_eq!(metainfo.hashes.len(), 3);
    let last: [u8; 20] = Sha1::digest(&data[32_768..]).into();
    assert_eq!(metainfo.hashes[2], last);
    // As libtorrent 2.0.8 computes it for the same bytes.
    assert_eq!(
        metainfo.info_hash.to_string(),
        "f78dab414d48be95184ca24f140ff5e40a9b8b5b"
    );
}

#[test]
fn info_hash_is_over_the_bytes_as_found() {
    let unsorted = [
        b"d6:pieces20:".as_slice(),
        &[9; 20],
        b"12:piece lengthi16384e4:name1:a6:lengthi5e5:extrai1ee",
    ]
    .concat();
    let bytes = [
        b"d8:url-list0:4:info",
        &unsorted[..],
        b"8:announce7:http://e",
    ]
    .concat();
    let metainfo = Metainfo::parse(&bytes).unwrap();
    let hash: [u8; 20] = Sha1::digest(&unsorted).into();
    assert_eq!(metainfo.info_hash, InfoHash(hash));
    let again = Metainfo::parse(&metainfo.to_torrent()).unwrap();
    assert_eq!(again, metainfo);
    let from_peers = Metainfo::from_info(metainfo.info.clone(), InfoHash(hash)).unwrap();
    assert_eq!(from_peers.layout, metainfo.layout);
    let other = Metainfo::from_info(metainfo.info, InfoHash([1; 20]));
    assert_eq!(other.unwrap_err().reason, "wrong-info-hash");
}

#[test]
fn limits_of_r31_hold() {
    assert!(Metainfo::parse(&torrent(&info(16_384, 16_385, 40))).is_ok());
    for piece_len in [0, -16_384, 16_383, 64 * 1024 * 1024 + 1, i64::MAX] {
        assert_eq!(reason(&info(piece_len, 16_385, 40)), "piece-length");
    }
    assert!(Metainfo::parse(&torrent(&info(64 * 1024 * 1024, 1, 20))).is_ok());
    assert_eq!(reason(&info(16_384, 16_385, 41)), "pieces");
    assert_eq!(reason(&info(16_384, 16_385, 20)), "pieces");
    assert_eq!(reason(&info(16_384, 16_385, 60)), "pieces");
    assert_eq!(reason(&info(16_384, -1, 20)), "file-length");
    assert_eq!(reason(&info(16_384, 0, 0)), "empty");
    assert_eq!(reason(&info(16_384, 1 << 48, 20)), "too-large");
    assert_eq!(reason(&info(16_384, i64::MAX, 20)), "too-large");
    let many = (PIECES_MAX + 1) * 20;
    let length = i64::try_from(PIECES_MAX + 1).unwrap() * 16_384;
    assert_eq!(reason(&info(16_384, length, many)), "too-long");
    assert_eq!(reason(b"i1e"), "no-info");
    assert_eq!(reason(b"de"), "no-pieces");
    assert_eq!(Metainfo::parse(b"le").unwrap_err().reason, "no-dict");
    assert_eq!(
        Metainfo::parse(b"").unwrap_err().reason,
        "bencode-cut-short"
    );
}

#[test]
fn sums_of_files_are_checked() {
    let huge = format!(
        "d5:filesl{}e4:name1:a12:piece lengthi16384e6:pieces0:e",
        "d6:lengthi9223372036854775807e4:pathl1:bee".repeat(3)
    );
    assert_eq!(reason(huge.as_bytes()), "too-large");
    let many = format!(
        "d5:filesl{}e4:name1:a12:piece lengthi16384e6:pieces0:e",
        "d6:lengthi0e4:pathl1:bee".repeat(FILES_MAX + 1)
    );
    assert_eq!(reason(many.as_bytes()), "too-many-files");
    let deep = |parts| {
        format!(
            "d5:filesld6:lengthi1e4:pathl{}eee4:name1:a12:piece lengthi16384e6:pieces20:{:20}e",
            "1:b".repeat(parts),
            ""
        )
    };
    assert!(Metainfo::parse(&torrent(deep(PATH_DEPTH_MAX).as_bytes())).is_ok());
    assert_eq!(reason(deep(PATH_DEPTH_MAX + 1).as_bytes()), "file-path");
    for bad in [
        "d6:lengthi1ee",
        "d6:lengthi1e4:pathlee",
        "d6:lengthi1e4:pathli1eee",
        "d4:pathl1:aee",
        "i1e",
    ] {
        let info = format!("d5:filesl{bad}e4:name1:a12:piece lengthi16384e6:pieces0:e");
        assert!(reason(info.as_bytes()).starts_with("file-"), "{bad}");
    }
}

#[test]
fn padding_symlinks_and_utf8_names() {
    let info = b"d5:filesl\
        d6:lengthi10e4:pathl1:\xff5:b.mp4e10:path.utf-8l2:\xc3\xa95:b.mp4ee\
        d4:attr1:p6:lengthi16374e4:pathl4:.pad5:16374ee\
        d6:lengthi20e4:pathl4:.pad2:20ee\
        d6:lengthi4e4:pathl4:.pad5:a.mkvee\
        d4:attr1:l4:pathl4:linke12:symlink pathl1:aee\
        d4:attr2:xh6:lengthi0e4:pathl5:emptyee\
        e4:name2:?a10:name.utf-83:\xc3\xa4a12:piece lengthi16384e6:pieces40:0123456789012345678901234567890123456789e";
    let metainfo = Metainfo::parse(&torrent(info)).unwrap();
    assert_eq!(metainfo.name, "äa");
    assert_eq!(metainfo.files[0].path, ["é", "b.mp4"]);
    let pads: Vec<_> = metainfo.files.iter().map(|file| file.pad).collect();
    assert_eq!(pads, [false, true, true, false, false, false]);
    let lengths: Vec<_> = metainfo.files.iter().map(|file| file.length).collect();
    assert_eq!(lengths, [10, 16_374, 20, 4, 0, 0]);
    assert_eq!(metainfo.layout.files().len(), 6);
    assert_eq!(metainfo.file_at("é/b.mp4"), Some(0));
    assert_eq!(metainfo.file_at("äa/é/b.mp4"), Some(0));
    assert_eq!(metainfo.file_at(".pad/20"), None);
    assert_eq!(
        metainfo.web_seed_url("http://h/d", 0).unwrap(),
        "http://h/d/%C3%A4a/%C3%A9/b.mp4"
    );
}

#[test]
fn hybrid_is_v1_and_pure_v2_is_refused() {
    let tree = "9:file treed5:a.mp4d0:d6:lengthi5eeee";
    let hybrid = format!(
        "d{tree}6:lengthi5e12:meta versioni2e4:name5:a.mp412:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae"
    );
    assert!(Metainfo::parse(&torrent(hybrid.as_bytes())).is_ok());
    let v2 = format!("d{tree}12:meta versioni2e4:name5:a.mp412:piece lengthi16384ee");
    assert_eq!(reason(v2.as_bytes()), "v2-only");
}

#[test]
fn trackers_and_web_seeds_as_the_field_writes_them() {
    let info = info(16_384, 5, 20);
    let with = |before: &str, after: &str| {
        let bytes = [
            format!("d{before}4:info").as_bytes(),
            &info,
            format!("{after}e").as_bytes(),
        ]
        .concat();
        Metainfo::parse(&bytes).unwrap()
    };
    let listed = with(
        "8:announce8:http://a13:announce-listll8:http://b9: http://cel8:udp://d1el8:http://beli5eel0:ee",
        "8:url-list8:http://w",
    );
    assert_eq!(
        listed.trackers,
        [vec!["http://b", "http://c"], vec!["udp://d1"]]
    );
    assert_eq!(listed.web_seeds, ["http://w"]);
    let alone = with(
        "8:announce8:http://a13:announce-listle",
        "8:url-listl8:http://w8:http://w8:http://xe",
    );
    assert_eq!(alone.trackers, [["http://a"]]);
    assert_eq!(alone.web_seeds, ["http://w", "http://x"]);
    let odd = with("8:announcei1e13:announce-list5:hello", "8:url-listd1:ai1ee");
    assert!(odd.trackers.is_empty() && odd.web_seeds.is_empty());
    let many: String = (0..200).map(|at| format!("l10:http://{at:03}e")).collect();
    assert_eq!(
        with(&format!("13:announce-listl{many}e"), "")
            .trackers
            .len(),
        URLS_MAX
    );
}

#[test]
fn files_are_found_by_path() {
    let metainfo = several(
        "Show",
        &[
            file(&["a", "b.mkv"], 5),
            file(&["a"], 1),
            file(&["Show", "c"], 2),
            file(&["c"], 3),
        ],
    );
    assert_eq!(metainfo.file_at("a/b.mkv"), Some(0));
    assert_eq!(metainfo.file_at("/Show/a/b.mkv"), Some(0));
    assert_eq!(metainfo.file_at("a"), Some(1));
    assert_eq!(metainfo.file_at("Show/c"), Some(2));
    assert_eq!(metainfo.file_at("c"), Some(3));
    assert_eq!(metainfo.file_at("ab.mkv"), None);
    assert_eq!(metainfo.file_at("Showc"), None);
    assert_eq!(metainfo.file_at(""), None);
}

#[test]
fn media_is_the_largest_video() {
    let list = [
        file(&["big.iso"], 900),
        file(&["song.FLAC"], 500),
        file(&["one.mp4"], 100),
        file(&["two.MKV"], 100),
        file(&["sample.mp4"], 10),
    ];
    assert_eq!(several("s", &list).largest_media(), Some(2));
    assert_eq!(several("s", &list[..2]).largest_media(), Some(1));
    assert_eq!(several("s", &list[..1]).largest_media(), Some(0));
    let pad = FileEntry {
        pad: true,
        ..file(&[".pad", "9"], 9)
    };
    assert_eq!(several("s", &[pad]).largest_media(), None);
}

#[test]
fn web_seed_urls_follow_bep_19() {
    let single = Metainfo::parse(&torrent(&info(16_384, 5, 20))).unwrap();
    assert_eq!(
        single.web_seed_url("http://h/x.mp4", 0).unwrap(),
        "http://h/x.mp4"
    );
    assert_eq!(
        single.web_seed_url("http://h/d/", 0).unwrap(),
        "http://h/d/a.mp4"
    );
    assert_eq!(single.web_seed_url("http://h/d/", 1), None);
    let metainfo = several("A b", &[file(&["c#d", "é?.mp4"], 5)]);
    let url = "http://h/d/A%20b/c%23d/%C3%A9%3F.mp4";
    assert_eq!(metainfo.web_seed_url("http://h/d", 0).unwrap(), url);
    assert_eq!(metainfo.web_seed_url("http://h/d/", 0).unwrap(), url);
    assert_eq!(metainfo.web_seed_url("http://h/d/", 1), None);
}

#[test]
fn piece_length_is_half_a_second_or_less() {
    assert_eq!(piece_len_for(1 << 30, Some(1_000_000)), 262_144);
    assert_eq!(piece_len_for(1 << 30, Some(1 << 20)), 1 << 19);
    assert_eq!(piece_len_for(1 << 30, Some(10_000)), 16 * 1024);
    assert_eq!(piece_len_for(1 << 40, Some(1 << 30)), 16 << 20);
    assert_eq!(piece_len_for(0, Some(0)), 16 * 1024);
    assert_eq!(piece_len_for(1 << 30, None), 1 << 20);
    assert_eq!(piece_len_for(1 << 45, None), 16 << 20);
    // 16 KiB pieces of 16 GiB would make a .torrent of 20 MB.
    assert_eq!(piece_len_for(16 << 30, Some(20_000)), 64 * 1024);
}

#[test]
fn a_bitrate_is_bytes_a_second() {
    assert_eq!(bitrate(300, Duration::from_millis(1500)), Some(200));
    assert_eq!(bitrate(0, Duration::from_secs(1)), Some(0));
    assert_eq!(bitrate(300, Duration::ZERO), None);
    assert_eq!(bitrate(u64::MAX, Duration::from_millis(1)), None);
}

#[test]
fn a_hundred_thousand_files_are_taken() {
    let files: Vec<_> = (0..FILES_MAX)
        .map(|at| FileEntry {
            path: vec![
                format!("directory number {}", at / 100),
                format!("a file of some length, {at:06}.mkv"),
            ],
            length: 1_000_000,
            pad: false,
        })
        .collect();
    let count = (1_000_000 * FILES_MAX).div_ceil(1 << 22);
    let bytes = Builder {
        name: "many".to_owned(),
        piece_len: 1 << 22,
        hashes: vec![[3; 20]; count],
        ..Builder::default()
    }
    .build_files(&files);
    assert!(
        bytes.len() > 8_000_000 && bytes.len() <= TORRENT_LEN_MAX,
        "{}",
        bytes.len()
    );
    assert_eq!(Metainfo::parse(&bytes).unwrap().files, files);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn built_torrents_are_read_back(
        name in "[a-zé ]{1,12}",
        lengths in proptest::collection::vec((0u64..100_000, any::<bool>()), 1..8),
    ) {
        let files: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(at, (length, pad))| FileEntry { path: vec![format!("f{at}")], length: *length, pad: *pad })
            .collect();
        prop_assume!(files.iter().any(|file| file.length > 0));
        let metainfo = several(&name, &files);
        prop_assert_eq!(&metainfo.files, &files);
        prop_assert_eq!(Metainfo::parse(&metainfo.to_torrent()).unwrap(), metainfo);
    }

    #[test]
    fn torn_torrents_do_not_panic(
        flips in proptest::collection::vec((0usize..400, any::<u8>()), 1..8),
    ) {
        let files = [file(&["a", "b.mp4"], 20_000), file(&["c"], 0), file(&["d"], 5)];
        let mut bytes = several("torrent", &files).to_torrent();
        let len = bytes.len();
        for (at, byte) in flips {
            bytes[at % len] = byte;
        }
        if let Ok(metainfo) = Metainfo::parse(&bytes) {
            prop_assert_eq!(metainfo.files.len(), metainfo.layout.files().len());
            prop_assert_eq!(metainfo.hashes.len() as u64, u64::from(metainfo.layout.piece_count()));
            let _ = metainfo.web_seed_url("http://h/", 0);
            let _ = metainfo.largest_media();
        }
    }
}
