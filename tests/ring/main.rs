//! The ring in a process of its own: what it leaves behind, and what it does where it gets nothing.
#![allow(clippy::unwrap_used, reason = "a test panics on what should not be")]

use std::future::Future;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bittube::ring::buffers::{Buffer, SMALL};
use bittube::ring::listener::Listener;
use bittube::ring::runtime;
use bittube::ring::stream::{Socket, Stream};
use socket2::{Domain, Type};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

#[test]
fn a_cancelled_accept_leaks_nothing() {
    alone("a_cancelled_accept_leaks_nothing", async {
        let listener = Listener::bind_shared(LOOPBACK.into(), 1).unwrap().remove(0);
        let to = listener.local_addr();
        let mut accepted = Vec::new();
        // The first call sets the listener up.
        assert!(
            tokio::time::timeout(MILLI, listener.accept())
                .await
                .is_err()
        );
        let before = open_files();
        for _ in 0..50 {
            assert!(
                tokio::time::timeout(MILLI, listener.accept())
                    .await
                    .is_err()
            );
        }
        assert_eq!(open_files(), before);
        // Now with clients that come at the moment of the cancel.
        let clients = runtime::blocking(move || {
            let clients = (0..200).map(|n| {
                std::thread::park_timeout(Duration::from_micros(n * 37 % 500));
                client(to)
            });
            clients.collect::<Vec<_>>()
        });
        let start = runtime::now();
        while accepted.len() < 200 {
            let wait = Duration::from_micros(accepted.len() as u64 * 13 % 300);
            tokio::select! {
                biased;
                connection = listener.accept() => accepted.push(connection.unwrap().0),
                () = runtime::sleep(wait) => {}
            }
            assert!(
                runtime::now().since(start) < 10 * SECOND,
                "{}",
                accepted.len()
            );
        }
        let clients = clients.await.unwrap();
        // None took another's place: each client's connection was accepted.
        for (client, ours) in clients.iter().zip(&accepted) {
            let from = client.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(ours.peer_addr().unwrap(), from);
        }
        drop((clients, accepted));
        assert_eq!(open_files(), before);
    });
}

#[test]
fn out_of_files_does_not_spin() {
    alone("out_of_files_does_not_spin", async {
        let listener = Listener::bind_shared(LOOPBACK.into(), 1).unwrap().remove(0);
        let mut clients = vec![client(listener.local_addr())];
        drop(listener.accept().await.unwrap());
        clients.extend((0..20).map(|_| client(listener.local_addr())));
        let mut clock = ProcessorClock::open();
        let free = std::fs::File::open("/dev/null").unwrap();
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // Room for one more: the reserve that is opened now.
        let next = std::os::fd::AsRawFd::as_raw_fd(&free);
        limit.current = Some(u64::try_from(next).unwrap() + 1);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        let before = clock.ticks();
        let accept = tokio::time::timeout(SECOND, listener.accept()).await;
        assert!(accept.is_err(), "there was no file for it");
        let ticks = clock.ticks() - before;
        assert!(ticks <= 20, "{ticks} of 100 ticks were spent on failing");
        // And it goes on as soon as the pause is over.
        drop(free);
        let accept = tokio::time::timeout(4 * SECOND, listener.accept()).await;
        let first = accept.expect("a file is free").unwrap();
        drop(first);
        for _ in 0..19 {
            listener.accept().await.unwrap();
        }
    });
}

#[test]
fn a_thousand_connections_leave_no_file_open() {
    alone("a_thousand_connections_leave_no_file_open", async {
        let listener = Listener::bind_shared(LOOPBACK.into(), 1).unwrap().remove(0);
        let to = listener.local_addr();
        drop((client(to), listener.accept().await.unwrap()));
        let before = open_files();
        for n in 0..1000 {
            let connect = Stream::connect(to, SECOND);
            let (stream, accepted) = tokio::join!(connect, listener.accept());
            let (stream, (socket, _)) = (stream.unwrap(), accepted.unwrap());
            use_and_drop(n, stream, socket).await;
        }
        // Connects that nobody answers, dropped on their way.
        let full = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(LOOPBACK).into()).unwrap();
        full.listen(0).unwrap();
        let to = full.local_addr().unwrap().as_socket().unwrap();
        let first = client(to);
        for _ in 0..20 {
            let connect = Stream::connect(to, 10 * SECOND);
            assert!(tokio::time::timeout(MILLI, connect).await.is_err());
        }
        drop((first, full));
        let start = runtime::now();
        while open_files() > before {
            let left = open_files() - before;
            assert!(runtime::now().since(start) < 5 * SECOND, "{left} left open");
            runtime::sleep(MILLI).await;
        }
    });
}

/// A connection's life, with one of the ways in which it can end.
async fn use_and_drop(n: usize, stream: Stream, socket: Socket) {
    let (mut receiver, mut sender) = stream.split();
    let (mut their_receiver, mut their_sender) = Stream::new(socket).split();
    let idle = tokio::time::timeout(Duration::ZERO, receiver.hangup()).await;
    assert!(idle.is_err());
    sender.send_all("ping", false).await.unwrap();
    let (result, _) = their_receiver.recv(Buffer::take(SMALL), Some(SECOND)).await;
    assert_eq!(result.unwrap(), 4);
    match n % 5 {
        0 => drop(tokio::time::timeout(Duration::ZERO, their_receiver.readable()).await),
        1 => {
            let read = receiver.recv(Buffer::take(SMALL), None);
            drop(tokio::time::timeout(Duration::ZERO, read).await);
        }
        2 => {
            let send = their_sender.send_all(vec![0; 1 << 23], false);
            drop(tokio::time::timeout(Duration::ZERO, send).await);
        }
        3 => {
            let read = receiver
                .recv(Buffer::take(SMALL), Some(Duration::ZERO))
                .await;
            assert!(read.0.is_err());
            drop(Stream::rejoin(receiver, sender).into_socket().await);
        }
        _ => their_receiver.closer().close(),
    }
}

#[test]
fn fifty_dropped_reads_give_their_sockets_back() {
    alone("fifty_dropped_reads_give_their_sockets_back", async {
        let listener = Listener::bind_shared(LOOPBACK.into(), 1).unwrap().remove(0);
        let mut clients = Vec::new();
        let mut streams = Vec::new();
        let mut idle = 0;
        for n in 0..=50 {
            let client = client(listener.local_addr());
            let (socket, _) = listener.accept().await.unwrap();
            if n == 0 {
                // What the first connection alone brings with it does not count.
                idle = open_files() - 2;
                continue;
            }
            clients.push(client);
            streams.push(Stream::new(socket));
        }
        for stream in streams {
            let (mut receiver, _sender) = stream.split();
            let read = receiver.recv(Buffer::take(SMALL), None);
            assert!(tokio::time::timeout(MILLI, read).await.is_err());
        }
        let start = runtime::now();
        // Ours are closed although every client is still there,
        while open_files() > idle + clients.len() {
            assert!(runtime::now().since(start) < 5 * SECOND);
            runtime::sleep(MILLI).await;
        }
        // and every client sees it.
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    });
}

#[test]
fn a_refused_ring_ends_in_one_line() {
    const NAME: &str = "a_refused_ring_ends_in_one_line";
    if std::env::var_os(ALONE).is_some() {
        let probed = runtime::probe().unwrap_err().to_string();
        let ran = runtime::run(async {}).unwrap_err().to_string();
        assert_eq!(probed, ran);
        println!("\nrefused: {probed}");
        return;
    }
    for (errno, remedy) in [
        (libc::EPERM, ["seccomp", "sysctl"]),
        (libc::ENOSYS, ["CONFIG_IO_URING"; 2]),
        (libc::ENOMEM, ["ulimit -l"; 2]),
    ] {
        let out = without_ring(errno, &itself(NAME)).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("refused: "));
        let line = line.expect("the refusal is on one line");
        assert!(remedy.iter().any(|word| line.contains(word)), "{line}");
    }
}

const ALONE: &str = "BITTUBE_TEST_ALONE";

/// Runs `body` on a ring in a process without other tests, in 30 s at most.
fn alone(name: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(ALONE).is_none() {
        assert!(itself(name).status().unwrap().success());
        return;
    }
    let done = runtime::run(async { tokio::time::timeout(30 * SECOND, body).await });
    done.unwrap().expect("done within 30 s");
}

/// The same command where the kernel refuses to make a ring.
fn without_ring(errno: i32, command: &Command) -> Command {
    let mut without = Command::new("python3");
    without
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/ring/without_ring.py"
        ))
        .arg(errno.to_string())
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        without.env(name, value.unwrap_or_default());
    }
    without
}

/// This program, to run one test.
fn itself(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1");
    command
}

fn client(to: SocketAddr) -> socket2::Socket {
    let client = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.connect(&to.into()).unwrap();
    client.set_read_timeout(Some(10 * SECOND)).unwrap();
    client
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What this process has spent on a processor; kept open, for there may be no file left.
struct ProcessorClock(std::fs::File);

impl ProcessorClock {
    fn open() -> Self {
        Self(std::fs::File::open("/proc/self/stat").unwrap())
    }

    /// In hundredths of seconds (proc(5), fields 14 and 15).
    fn ticks(&mut self) -> u64 {
        let mut stat = String::new();
        self.0.rewind().unwrap();
        self.0.read_to_string(&mut stat).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }
}
