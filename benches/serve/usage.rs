//! Processor time of a server with its children, and the core that it is kept to.

use std::fs;
use std::process::Command;

use crate::bed::process::wrap;

/// The server's core; load and seeder have the other, which `scripts/bench.sh` sees to.
pub const SERVER_CORE: &str = "0";

/// Seconds of processor time, in user and kernel, of a process and all below it.
pub fn cpu_s(id: u32) -> f64 {
    let ticks: u64 = family(id)
        .iter()
        .filter_map(|&id| stat(id))
        .map(|stat| stat.ticks)
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Resident bytes of a process and all below it.
pub fn memory(id: u32) -> u64 {
    let resident = |id: u32| {
        let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    family(id).into_iter().filter_map(resident).sum::<u64>() * 1024
}

/// Keeps a running process, its threads and its children to the server's core.
pub fn pin(id: u32) {
    for id in family(id) {
        let id = id.to_string();
        let pinned = Command::new("taskset")
            .args(["-a", "-c", "-p", SERVER_CORE, &id])
            .output();
        assert!(
            pinned.is_ok_and(|output| output.status.success()),
            "taskset cannot pin {id}"
        );
    }
}

/// A command that starts another on the server's core.
pub fn pinned(inner: &Command) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE]);
    wrap(command, inner)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name, which may hold blanks: state, parent, …, utime (12th), stime (13th).
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(1)? as u32,
        ticks: number(11)? + number(12)?,
    })
}

fn family(id: u32) -> Vec<u32> {
    let all: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = vec![id];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(
            all.iter()
                .filter(|&&id| stat(id).is_some_and(|stat| stat.parent == parent)),
        );
        at += 1;
    }
    found
}
