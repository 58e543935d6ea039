//! The servers, each started on its core.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::net::{answers, free_port, loopback};
use crate::bed::process::Process;
use crate::bed::stub::Options;
use crate::crowd::{Crowd, SOURCES};
use crate::report::{OURS, Report, said};
use crate::usage;

const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Contestant {
    pub name: &'static str,
    pub udp: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    process: Process,
}

impl Contestant {
    /// Those that there are.
    pub fn start_all(
        bed: &Bed,
        crowd: &Crowd,
        aquatic: Option<&Path>,
        report: &mut Report,
    ) -> Vec<Self> {
        let mut all = Vec::new();
        match bittube(bed, crowd) {
            Some(ours) => all.push(ours),
            None => report.note("This bittube is no tracker yet: not measured.".to_owned()),
        }
        let package = ["-W", "-f", "${Version} (Debian)", "opentracker"];
        report.version("opentracker", said("dpkg-query", &package));
        all.push(opentracker(bed, crowd));
        if let Some(program) = aquatic {
            // Its `--version` names no version.
            report.version(
                "aquatic_udp",
                "0.9.0 (crates.io), without prometheus".to_owned(),
            );
            all.push(aquatic_udp(bed, program));
        }
        all
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes.
    pub fn memory(&self) -> u64 {
        usage::memory(self.id())
    }
}

fn bittube(bed: &Bed, crowd: &Crowd) -> Option<Contestant> {
    let options = Options::new(bed);
    let mut asked = options.command();
    let known = asked.args(["tracker", "--help"]).output().unwrap();
    if !known.status.success() {
        return None;
    }
    let addr = loopback(free_port());
    let mut command = options.command();
    command.args([
        "tracker",
        "--http",
        &addr.to_string(),
        "--udp",
        &addr.to_string(),
    ]);
    // The load's addresses are few, and each has the peers of a town.
    let most = crowd.per_source() * SOURCES;
    command.env("BITTUBE_TRACKER_ADDRESS_MAX", most.to_string());
    Some(start(bed, OURS, &command, Some(addr), Some(addr)))
}

/// Debian's tracks only what is on its list.
fn opentracker(bed: &Bed, crowd: &Crowd) -> Contestant {
    let addr = loopback(free_port());
    let home = bed.folder(&format!("opentracker-{}", addr.port()));
    fs::write(home.join("list"), crowd.list()).unwrap();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mut command = Command::new("opentracker");
    command.args(["-i", &ip, "-p", &port, "-P", &port, "-w", "list", "-d"]);
    command.arg(&home).current_dir(&home);
    start(bed, "opentracker", &command, Some(addr), Some(addr))
}

fn aquatic_udp(bed: &Bed, program: &Path) -> Contestant {
    let addr = loopback(free_port());
    let home = bed.folder(&format!("aquatic-{}", addr.port()));
    let conf = home.join("aquatic.toml");
    let text = format!("[network]\naddress = \"{addr}\"\n");
    fs::write(&conf, text).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(&conf);
    start(bed, "aquatic_udp", &command, Some(addr), None)
}

fn start(
    bed: &Bed,
    name: &'static str,
    command: &Command,
    udp: Option<SocketAddr>,
    http: Option<SocketAddr>,
) -> Contestant {
    let mut command_there = usage::pinned(command);
    if let Some(folder) = command.get_current_dir() {
        command_there.current_dir(folder);
    }
    let mut process = Process::spawn(bed, name, &mut command_there);
    process.wait_ready(START_LIMIT, || {
        http.is_none_or(answers) && udp.is_none_or(answers_udp)
    });
    Contestant {
        name,
        udp,
        http,
        process,
    }
}

/// Whether a tracker gives an id (BEP 15).
fn answers_udp(addr: SocketAddr) -> bool {
    let socket = UdpSocket::bind(loopback(0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let connect = [&0x0417_2710_1980_u64.to_be_bytes()[..], &[0; 8]].concat();
    let mut answer = [0; 64];
    socket.connect(addr).unwrap();
    socket.send(&connect).is_ok() && matches!(socket.recv(&mut answer), Ok(16))
}
