//! Three web servers, each with lines of the test's own in its configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::net::answers;
use crate::bed::nginx::path_with_sbin;
use crate::bed::process::Process;

const START_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
pub enum Server {
    Nginx,
    Apache,
    Caddy,
}

/// Serves a folder.
pub struct Site {
    pub root: PathBuf,
    _process: Process,
}

impl Site {
    /// `lines` stand where a publisher puts them: among those of the one site that there is.
    pub fn start(bed: &Bed, server: Server, addr: SocketAddr, lines: &str) -> Self {
        let root = bed.folder(&format!("site-{}", addr.port()));
        let folder = root.display();
        let conf = match server {
            Server::Nginx => format!("server {{\nlisten {addr};\nroot {folder};\n{lines}\n}}\n"),
            Server::Apache => lines.to_owned(),
            Server::Caddy => {
                format!("http://{addr} {{\nroot * {folder}\nfile_server\n{lines}\n}}\n")
            }
        };
        let process = Self::run(bed, server, &[addr], &conf, &root);
        Self {
            root,
            _process: process,
        }
    }

    /// A whole configuration, as a publisher has it in a file of its own; `addrs` are what it
    /// listens on.
    pub fn run(
        bed: &Bed,
        server: Server,
        addrs: &[SocketAddr],
        conf: &str,
        root: &Path,
    ) -> Process {
        let name = format!("{server:?}-{}", addrs[0].port()).to_lowercase();
        let home = bed.folder(&name);
        let path = home.join("conf");
        let (text, mut command) = match server {
            Server::Nginx => nginx(&home, &path, conf),
            Server::Apache => apache(&home, &path, addrs[0], root, conf),
            Server::Caddy => caddy(&home, &path, conf),
        };
        fs::write(&path, text).unwrap();
        command.env("PATH", path_with_sbin());
        let mut process = Process::spawn(bed, &name, &mut command);
        process.wait_ready(START_LIMIT, || addrs.iter().all(|addr| answers(*addr)));
        process
    }
}

/// The program's own necessities around `conf`.
fn nginx(home: &Path, path: &Path, conf: &str) -> (String, Command) {
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;",
        false => "",
    };
    let dir = home.display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
        .concat();
    let text = format!(
        "{user}\ndaemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\n\
         http {{\naccess_log off;\n{temp}{conf}}}\n"
    );
    let mut command = Command::new("nginx");
    command.arg("-p").arg(home).arg("-c").arg(path);
    (text, command)
}

fn apache(
    home: &Path,
    path: &Path,
    addr: SocketAddr,
    root: &Path,
    conf: &str,
) -> (String, Command) {
    let modules = [
        "mpm_event:mod_mpm_event",
        "authz_core:mod_authz_core",
        "headers:mod_headers",
    ];
    let modules = modules.map(|module| {
        let (name, file) = module.split_once(':').unwrap();
        format!("LoadModule {name}_module /usr/lib/apache2/modules/{file}.so\n")
    });
    let (dir, root) = (home.display(), root.display());
    let text = format!(
        "{}ServerRoot {dir}\nPidFile {dir}/pid\nErrorLog {dir}/error.log\nServerName localhost\n\
         Listen {addr}\nDocumentRoot {root}\n\
         <Directory {root}>\nRequire all granted\n</Directory>\n{conf}\n",
        modules.concat()
    );
    let mut command = Command::new("apache2");
    // As root it would give itself up to a user that is not named here.
    command.args(["-D", "FOREGROUND", "-f"]).arg(path);
    (text, command)
}

fn caddy(home: &Path, path: &Path, conf: &str) -> (String, Command) {
    let text = format!("{{\nadmin off\nauto_https off\n}}\n{conf}");
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(path);
    command.env("HOME", home);
    command
        .env("XDG_CONFIG_HOME", home)
        .env("XDG_DATA_HOME", home);
    (text, command)
}
