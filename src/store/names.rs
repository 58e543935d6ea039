//! Torrents' names made fit for a file system, where a person asked for them: export and seeding.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::torrent::metainfo::Metainfo;

/// Bytes of one name; what is cut goes from before its extension.
const NAME_LEN_MAX: usize = 240;
/// Room for what is set before a device's name.
const PREFIX_LEN: usize = 1;
const EXTENSION_LEN_MAX: usize = 16;
const DEPTH_MAX: usize = 100;
/// Names that differ in case only, and so meet on some file systems.
const CLASHES_MAX: u32 = 500;

/// Paths relative to where the torrent goes, one a file; `None` for padding and for what cannot be
/// named (R33). A torrent of several files has its name as first directory.
pub fn paths(meta: &Metainfo) -> Vec<Option<PathBuf>> {
    let mut taken = BTreeMap::new();
    let root = (meta.files.len() > 1).then(|| clean(&meta.name));
    let paths = meta.files.iter().map(|file| {
        if file.pad || file.path.len() > DEPTH_MAX {
            return None;
        }
        let parts = file.path.iter().map(|part| clean(part));
        let mut names: Vec<String> = root.iter().cloned().chain(parts).collect();
        if names.is_empty() {
            names.push(clean(&meta.name));
        }
        let key = |names: &[String]| names.join("/").to_lowercase();
        let count = taken.entry(key(&names)).or_insert(0);
        *count += 1;
        if *count > 1 {
            if *count > CLASHES_MAX {
                return None;
            }
            let last = names.pop().expect("at least one");
            let (stem, extension) = split(&last);
            names.push(format!("{stem}~{count}{extension}"));
            taken.insert(key(&names), 1);
        }
        Some(names.iter().collect())
    });
    paths.collect()
}

/// One component: no separator, no control or direction mark, no device, not empty, not too long.
pub fn clean(name: &str) -> String {
    let kept: String = name.chars().filter(|letter| !is_unfit(*letter)).collect();
    let cut = cut(kept.trim_end_matches(['.', ' ']));
    let name = cut.trim_end_matches(['.', ' ']);
    if name.is_empty() || is_device(name) {
        return format!("_{name}");
    }
    name.to_owned()
}

/// Separators, C0 and C1, zero-width and bidirectional marks, what other systems refuse, and what
/// stands for broken UTF-8.
fn is_unfit(letter: char) -> bool {
    let invisible = matches!(
        letter,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fffd}'
    );
    letter.is_control() || invisible || "/\\:*?\"<>|".contains(letter)
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    let stem = stem.trim_end().to_ascii_uppercase();
    let numbered = ["COM", "LPT"]
        .iter()
        .filter_map(|device| stem.strip_prefix(device));
    let mut numbers = numbered.filter(|rest| rest.len() == 1);
    matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) || numbers.any(|number| number.chars().all(|digit| digit.is_ascii_digit()))
}

fn cut(name: &str) -> String {
    if name.len() <= NAME_LEN_MAX - PREFIX_LEN {
        return name.to_owned();
    }
    let (stem, extension) = split(name);
    let room = NAME_LEN_MAX - PREFIX_LEN - extension.len();
    let end = (0..=room.min(stem.len()))
        .rev()
        .find(|&end| stem.is_char_boundary(end))
        .unwrap_or(0);
    format!("{}{extension}", &stem[..end])
}

/// The extension with its dot, if it looks like one.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= EXTENSION_LEN_MAX => name.split_at(dot),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::torrent::metainfo::Builder;
    use crate::torrent::metainfo::FileEntry;

    #[test]
    fn hostile_names_become_harmless() {
        assert_eq!(clean(".."), "_");
        assert_eq!(clean(""), "_");
        assert_eq!(clean("../../etc/passwd"), "....etcpasswd");
        assert_eq!(clean("a\u{202e}gpj.exe"), "agpj.exe");
        assert_eq!(clean("nul.mp4"), "_nul.mp4");
        assert_eq!(clean("COM1"), "_COM1");
        assert_eq!(clean("COMET.mkv"), "COMET.mkv");
        assert_eq!(clean("film. ."), "film");
        assert_eq!(clean("Grüße aus 日本.mkv"), "Grüße aus 日本.mkv");
        let long = clean(&("ü".repeat(300) + ".mp4"));
        assert!(long.len() < NAME_LEN_MAX && long.ends_with("ü.mp4"));
    }

    #[test]
    fn names_that_meet_are_told_apart() {
        let entry = |path: &[&str], pad| FileEntry {
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            length: 10,
            pad,
        };
        let files = [
            entry(&["A", "film.mkv"], false),
            entry(&["a", "FILM.mkv"], false),
            entry(&[".pad", "0"], true),
        ];
        let torrent = Builder {
            name: "two/../films".to_owned(),
            piece_len: 16_384,
            length: 30,
            hashes: vec![[0; 20]],
            trackers: Vec::new(),
            web_seeds: Vec::new(),
        }
        .build_files(&files);
        let meta = Metainfo::parse(&torrent).unwrap();
        assert_eq!(
            paths(&meta),
            [
                Some(PathBuf::from("two..films/A/film.mkv")),
                Some(PathBuf::from("two..films/a/FILM~2.mkv")),
                None
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_clean_name_is_one_component_and_stays(name in "\\PC*|.{0,400}") {
            let name = clean(&name);
            let path = PathBuf::from(&name);
            let mut parts = path.components();
            prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
            prop_assert!(parts.next().is_none());
            prop_assert!(name.len() <= NAME_LEN_MAX);
            prop_assert_eq!(clean(&name), name);
        }
    }
}
