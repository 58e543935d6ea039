//! Rows as they come, medians and ranges at the end, and the folder that keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One figure of one contestant in one round.
struct Row {
    /// What was measured, such as `stored 64 KiB`.
    trial: String,
    contestant: &'static str,
    round: usize,
    /// With its unit, such as `MB/s`.
    figure: &'static str,
    value: f64,
}

pub struct Report {
    /// How it was measured.
    about: String,
    /// Programs that took part.
    versions: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

pub const OURS: &str = "bittube";

/// A trial, a contestant, a figure.
type Series<'a> = (&'a str, &'static str, &'static str);

impl Report {
    pub const fn new(about: String) -> Self {
        Self {
            about,
            versions: Vec::new(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn version(&mut self, program: &'static str, version: String) {
        self.versions.push((program, version));
    }

    pub fn add(
        &mut self,
        trial: &str,
        contestant: &'static str,
        round: usize,
        figure: &'static str,
        value: f64,
    ) {
        eprintln!("{trial:<16} {contestant:<9} round {round:<3} {value:>10.3} {figure}");
        let trial = trial.to_owned();
        self.rows.push(Row {
            trial,
            contestant,
            round,
            figure,
            value,
        });
    }

    /// A sentence under the table: what a promise came to.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub fn median(&self, trial: &str, contestant: &str, figure: &str) -> f64 {
        let wanted =
            |row: &&Row| row.trial == trial && row.contestant == contestant && row.figure == figure;
        median(
            self.rows
                .iter()
                .filter(wanted)
                .map(|row| row.value)
                .collect(),
        )
    }

    /// The table of medians, and of ratios to each rival taken round by round.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:<18} {:<10} {:<12} {:>10} {:>10} {:>10}   {}\n",
            "trial", "contestant", "figure", "median", "least", "most", "bittube / contestant"
        );
        for (series, values) in self.series() {
            let (trial, contestant, figure) = series;
            let sorted = sorted(values);
            let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
            let ratio = if contestant == OURS {
                String::new()
            } else {
                self.ratio(series)
            };
            writeln!(
                text,
                "{trial:<18} {contestant:<10} {figure:<12} {:>10.3} {least:>10.3} {most:>10.3}   \
                 {ratio}",
                median(sorted)
            )
            .unwrap();
        }
        for note in &self.notes {
            writeln!(text, "\n{note}").unwrap();
        }
        text
    }

    /// `README.md`, `summary.txt` and `raw.csv`, in a folder that is never written again.
    pub fn write(&self, folder: &Path, words: &[String]) {
        fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut csv = "trial,contestant,round,figure,value\n".to_owned();
        for row in &self.rows {
            let Row {
                trial,
                contestant,
                round,
                figure,
                value,
            } = row;
            writeln!(csv, "{trial},{contestant},{round},{figure},{value}").unwrap();
        }
        fs::write(folder.join("raw.csv"), csv).unwrap();
        fs::write(folder.join("summary.txt"), self.summary()).unwrap();
        fs::write(folder.join("README.md"), self.readme(words)).unwrap();
        println!("\nwritten to {}", folder.display());
    }

    fn series(&self) -> Vec<(Series<'_>, Vec<f64>)> {
        let mut order = Vec::new();
        let mut values: BTreeMap<Series<'_>, Vec<f64>> = BTreeMap::new();
        for row in &self.rows {
            let series = (row.trial.as_str(), row.contestant, row.figure);
            if !values.contains_key(&series) {
                order.push(series);
            }
            values.entry(series).or_default().push(row.value);
        }
        order
            .into_iter()
            .map(|series| (series, values.remove(&series).unwrap()))
            .collect()
    }

    /// Ours over theirs, round by round: what shakes both alike falls out.
    fn ratio(&self, (trial, contestant, figure): Series<'_>) -> String {
        let of = |contestant: &str, round: usize| {
            let row = self.rows.iter().find(|row| {
                row.trial == trial
                    && row.contestant == contestant
                    && row.figure == figure
                    && row.round == round
            });
            row.map(|row| row.value)
        };
        let rounds = self.rows.iter().map(|row| row.round + 1).max().unwrap_or(0);
        let ratios: Vec<_> = (0..rounds)
            .filter_map(|round| Some(of(OURS, round)? / of(contestant, round)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        if ratios.is_empty() {
            return String::new();
        }
        let sorted = sorted(ratios);
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        format!("{:.2} ({least:.2} to {most:.2})", median(sorted))
    }

    fn readme(&self, words: &[String]) -> String {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .unwrap_or("?");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let own = ["--out", "--rqbit", "--aquatic"];
        let out = words.iter().position(|word| own.contains(&word.as_str()));
        let shown: Vec<_> = words[..out.unwrap_or(words.len())].iter().collect();
        let shown = shown
            .iter()
            .fold(String::new(), |text, word| text + " " + word);
        let versions = self
            .versions
            .iter()
            .fold(String::new(), |text, (program, version)| {
                text + &format!("| {program} | {version} |\n")
            });
        format!(
            "# BitTube measured\n\n\
             Command: `scripts/bench.sh{shown}`. {} Raw figures in `raw.csv`.\n\n\
             | | |\n|---|---|\n\
             | date | {} |\n| commit | {} |\n| rustc | {} |\n{versions}\
             | kernel | {} |\n| processor |{} |\n| cores | {} |\n\n\
             ```\n{}```\n",
            self.about,
            said("date", &["-u", "+%F %R UTC"]),
            said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            said("rustc", &["--version"]),
            said("uname", &["-r"]),
            cpu.trim_start_matches([' ', '\t', ':']),
            online_cores(cores),
            self.summary()
        )
    }
}

/// All cores of the machine, though this process is kept to one.
fn online_cores(otherwise: usize) -> String {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match online
        .trim()
        .rsplit('-')
        .next()
        .and_then(|last| last.parse::<usize>().ok())
    {
        Some(last) => (last + 1).to_string(),
        None => otherwise.to_string(),
    }
}

/// The first line that a program prints.
pub fn said(program: &str, words: &[&str]) -> String {
    let path = crate::bed::nginx::path_with_sbin();
    let Ok(output) = Command::new(program).args(words).env("PATH", path).output() else {
        return "?".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("?")
        .to_owned()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: Vec<f64>) -> f64 {
    let values = sorted(values);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}
