//! nginx as the origin: a folder over http and https, a log of what it sent to whom.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::bed::net::{answers, free_port, loopback};
use crate::bed::process::Process;
use crate::bed::{Bed, wait_for};

pub struct Nginx {
    root: PathBuf,
    http: SocketAddr,
    https: SocketAddr,
    /// Signs the https certificate: what `--ca-file` is given.
    ca_file: PathBuf,
    access_log: PathBuf,
    home: PathBuf,
    process: Process,
}

/// One line of the access log.
#[derive(Clone, Debug)]
pub struct Sent {
    pub status: u16,
    pub path: String,
    /// First byte of the file that was in the body.
    pub start: u64,
    /// Bytes of the body that went out.
    pub bytes: u64,
    /// Connection's number and which request on it this is: keep-alive shows here.
    pub connection: u64,
    pub nth_on_connection: u64,
}

impl Nginx {
    pub fn start(bed: &Bed) -> Self {
        Self::start_with(bed, "")
    }

    /// `limits` is configuration for the location, such as `limit_rate 1m;`.
    pub fn start_with(bed: &Bed, limits: &str) -> Self {
        let port = free_port();
        let home = bed.folder(&format!("nginx-{port}"));
        let (http, https) = (loopback(port), loopback(free_port()));
        let root = bed.folder(&format!("nginx-{port}/root"));
        let ca_file = write_certificates(&home);
        let conf = home.join("nginx.conf");
        fs::write(&conf, configuration(&home, http, https, limits)).unwrap();
        let access_log = home.join("access.log");
        Self {
            process: launch(bed, &home, [http, https]),
            root,
            http,
            https,
            ca_file,
            access_log,
            home,
        }
    }

    /// After it was killed, where it was.
    pub fn revive(&mut self, bed: &Bed) {
        self.process = launch(bed, &self.home, [self.http, self.https]);
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn addr(&self) -> SocketAddr {
        self.http
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.http)
    }

    /// By name, for the certificate is for `localhost`.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.https.port())
    }

    /// At once, in the middle of whatever it sends.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// What it has sent of `name`, finished answers only.
    pub fn sent(&self, name: &str) -> Vec<Sent> {
        let log = fs::read_to_string(&self.access_log).unwrap_or_default();
        log.lines()
            .filter_map(Sent::parse)
            .filter(|sent| sent.path == format!("/{name}"))
            .collect()
    }

    /// Bytes of `name` that it has sent. Waits for the log to be still: a line is written only when
    /// its answer has ended.
    pub fn bytes_sent(&self, name: &str) -> u64 {
        self.settle();
        self.sent(name).iter().map(|sent| sent.bytes).sum()
    }

    /// Bytes of `name` at or beyond `from` that it has sent.
    pub fn bytes_sent_from(&self, name: &str, from: u64) -> u64 {
        self.settle();
        self.sent(name)
            .iter()
            .map(|sent| (sent.start + sent.bytes).saturating_sub(from.max(sent.start)))
            .sum()
    }

    fn settle(&self) {
        let mut last = None;
        wait_for("nginx's log to be still", Duration::from_secs(20), || {
            std::thread::sleep(Duration::from_millis(100));
            let len = fs::metadata(&self.access_log).map_or(0, |log| log.len());
            (last.replace(len) == Some(len)).then_some(())
        });
    }
}

impl Sent {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let connection = words.next()?.parse().ok()?;
        let nth_on_connection = words.next()?.parse().ok()?;
        let status = words.next()?.parse().ok()?;
        let bytes = words.next()?.parse().ok()?;
        // `bytes 10-19/100` in the log is one word: the blank is escaped by nginx's map.
        let start = words.next()?.split('-').next()?.parse().unwrap_or(0);
        let path = words.next()?.to_owned();
        Some(Self {
            status,
            path,
            start,
            bytes,
            connection,
            nth_on_connection,
        })
    }
}

fn configuration(home: &Path, http: SocketAddr, https: SocketAddr, limits: &str) -> String {
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let home = home.display();
    format!(
        r#"{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
    map $sent_http_content_range $first {{ default -; "~^bytes (?<number>[0-9]+-)" $number; }}
    log_format sent "$connection $connection_requests $status $body_bytes_sent $first $uri";
    access_log {home}/access.log sent;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    types {{ video/mp4 mp4; application/x-bittorrent torrent; }}
    default_type application/octet-stream;
    server {{
        listen {http};
        listen {https} ssl;
        ssl_certificate {home}/cert.pem;
        ssl_certificate_key {home}/key.pem;
        location / {{ root {home}/root; {limits} }}
    }}
}}
"#
    )
}

/// A certificate for `localhost`, and the authority that signed it, whose file is returned.
fn write_certificates(home: &Path) -> PathBuf {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // By default both have one name, and then the one looks as if it had signed itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "The bed's authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let cert = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    fs::write(home.join("cert.pem"), cert.pem()).unwrap();
    fs::write(home.join("key.pem"), key.serialize_pem()).unwrap();
    let ca_file = home.join("ca.pem");
    fs::write(&ca_file, authority.pem()).unwrap();
    ca_file
}

fn launch(bed: &Bed, home: &Path, addrs: [SocketAddr; 2]) -> Process {
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(home)
        .arg("-c")
        .arg(home.join("nginx.conf"))
        .env("PATH", path_with_sbin());
    let name = format!("nginx-{}", addrs[0].port());
    let mut process = Process::spawn(bed, &name, &mut command);
    process.wait_ready(Duration::from_secs(5), || addrs.into_iter().all(answers));
    process
}

/// Debian keeps servers where a user's own search path may not look.
pub fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}
