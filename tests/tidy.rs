//! The house rules that a compiler does not know, as a test: what may import what, and tidiness.
#![allow(clippy::unwrap_used, reason = "a test panics on what should not be")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Each module of `src`, and what of the crate it may name. Arrows only go down: nothing is named
/// by what stands above it here.
const MAY_IMPORT: &[(&str, &str)] = &[
    ("units", ""),
    ("reach", "units"),
    ("config", "units reach"),
    ("http", "units reach"),
    ("torrent", "units reach"),
    ("peer", "units reach torrent"),
    ("ring", "units"),
    ("store", "units reach torrent ring"),
    ("origin", "units reach http"),
    ("tracker", "units reach http torrent"),
    ("stub", "units reach http torrent"),
    ("resolve", "units reach http torrent"),
    ("swarm", "units reach torrent peer"),
    ("admin", "units reach http"),
    (
        "shard",
        "units reach config http torrent peer ring store origin tracker stub resolve swarm admin",
    ),
    ("cli", EVERYTHING),
    ("lib", EVERYTHING),
    ("main", EVERYTHING),
];
const EVERYTHING: &str = "units reach config http torrent peer ring store origin tracker stub \
    resolve swarm admin shard cli";

/// Files that may be longer than [`LINES_MAX`], each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
/// Without tests. A file this long has swallowed a second subject.
const LINES_MAX: usize = 600;
/// Tests may hold a long line: what they quote is what it is.
const COLUMNS_MAX: usize = 100;

/// What the top level holds, beside dot files and what is built.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench-results",
    "benches",
    "scripts",
    "src",
    "target",
    "tests",
];

/// Never in a source file or a script; written in halves, for this file is read as well.
const BANNED: &[(&str, &str)] = &[
    (
        concat!("FIX", "ME"),
        "mend it, or say in words why it is so",
    ),
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("XX", "X"), "say what is wrong"),
    (concat!("to", "do!("), "write it"),
    (concat!("unimpl", "emented!("), "write it"),
    (concat!("#[ig", "nore"), "a test runs, or it goes"),
    (concat!("/wo", "rk/"), "no path of one machine"),
    (concat!("/ro", "ot/"), "no path of one machine"),
];

#[test]
fn imports_only_go_down() {
    let mut faults = Vec::new();
    for source in Source::all_under("src") {
        let module = source.module();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            faults.push(format!(
                "{}: `{module}` is not in the import table",
                source.name
            ));
            continue;
        };
        for (number, line) in source.code() {
            let mut fault = |what: &str| faults.push(format!("{}:{number}: {what}", source.name));
            if line.contains("super::") {
                fault("`super::` outside tests hides where an import comes from");
            }
            for rest in line.split("crate::").skip(1) {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                if name.is_empty() {
                    fault("one `use crate::module::…` a line");
                } else if name != module && !allowed.split_whitespace().any(|may| may == name) {
                    fault(&format!("`{module}` may not import `{name}`"));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn each_file_says_what_it_is() {
    let faults: Vec<_> = ["src", "tests", "benches"]
        .into_iter()
        .flat_map(Source::all_under)
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}: the first line is `//! one sentence`", source.name))
        .collect();
    report(&faults);
}

#[test]
fn only_the_ring_is_unsafe() {
    let mut faults = Vec::new();
    for source in ["src", "tests", "benches"]
        .into_iter()
        .flat_map(Source::all_under)
    {
        let ring = source.name.starts_with("src/ring/");
        for (number, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let quoted = code.contains(concat!("\"un", "safe"));
            if !ring && !quoted && words.any(|word| word == concat!("un", "safe")) {
                faults.push(format!("{}:{}: only src/ring may", source.name, number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn no_banned_word() {
    let mut faults = Vec::new();
    for source in ["src", "tests", "benches", "scripts"]
        .into_iter()
        .flat_map(Source::all_under)
    {
        for (number, line) in source.text.lines().enumerate() {
            for (word, instead) in BANNED {
                if line.contains(word) {
                    let number = number + 1;
                    faults.push(format!("{}:{number}: {word}: {instead}", source.name));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn files_and_lines_are_short() {
    let mut faults = Vec::new();
    for source in Source::all_under("src") {
        let lines = source.code().count();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == source.name);
        if lines > LINES_MAX && !excused {
            faults.push(format!(
                "{}: {lines} lines without tests: split it",
                source.name
            ));
        }
        if lines <= LINES_MAX && excused {
            faults.push(format!(
                "{}: no longer long, strike it off the list",
                source.name
            ));
        }
        for (number, line) in source.text.lines().take(lines).enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!(
                    "{}:{}: over {COLUMNS_MAX}",
                    source.name,
                    number + 1
                ));
            }
        }
    }
    report(&faults);
}

#[test]
fn top_level_is_as_agreed() {
    let faults: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .map(|name| format!("{name}: not among what the top level holds"))
        .collect();
    report(&faults);
}

#[test]
fn scripts_can_be_run() {
    let faults: Vec<_> = Source::all_under("scripts")
        .into_iter()
        .map(|source| source.name)
        .chain([".ci/run".to_owned()])
        .filter(|name| {
            let mode = fs::metadata(root().join(name))
                .unwrap()
                .permissions()
                .mode();
            mode & 0o111 == 0
        })
        .map(|name| format!("{name}: no execute bit"))
        .collect();
    report(&faults);
}

#[track_caller]
fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text file of the project.
struct Source {
    /// Relative to the project's root.
    name: String,
    text: String,
}

impl Source {
    /// Rust, Python and shell files under `folder`, by name.
    fn all_under(folder: &str) -> Vec<Self> {
        let mut paths = Vec::new();
        walk(&root().join(folder), &mut paths);
        paths.sort();
        assert!(!paths.is_empty(), "{folder} holds no source file");
        paths
            .into_iter()
            .map(|path| Self {
                name: path
                    .strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                text: fs::read_to_string(&path).unwrap(),
            })
            .filter(|source| source.name.ends_with(".rs") || folder == "scripts")
            .collect()
    }

    /// `swarm` for `src/swarm/picker.rs`, `units` for `src/units.rs`.
    fn module(&self) -> &str {
        let path = self.name.trim_start_matches("src/");
        let end = path.find('/').unwrap_or(path.len());
        path[..end].trim_end_matches(".rs")
    }

    /// Numbered lines up to the tests, which come last; without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_tests = self.name.ends_with("/tests.rs") || self.name.contains("/tests/");
        let end = if is_tests {
            Some(0)
        } else {
            self.text.find("\n#[cfg(test)]\nmod tests")
        };
        self.text[..end.unwrap_or(self.text.len())]
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path
            .extension()
            .is_some_and(|end| end == "rs" || end == "py" || end == "sh")
        {
            found.push(path);
        }
    }
}
