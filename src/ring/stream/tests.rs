//! The faults of tokio-uring, each met on a real socket.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use super::*;
use crate::ring::buffers::{LARGE, MEDIUM, SMALL};
use crate::ring::mapping::Mapping;
use crate::ring::path;
use crate::ring::path::Path;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const PAGE: usize = 4096;

/// A connection's two ends: ours, and a plain blocking one whose calls end after 10 s.
fn pair() -> (Socket, socket2::Socket) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    peer.connect(&listener.local_addr().unwrap().into())
        .unwrap();
    peer.set_read_timeout(Some(10 * SECOND)).unwrap();
    peer.set_write_timeout(Some(10 * SECOND)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (Socket::accepted(ours.into()), peer)
}

#[test]
fn what_is_accepted_waits_and_sends_at_once() {
    let listener = crate::ring::listener::Listener::bind_shared(([127, 0, 0, 1], 0).into(), 1)
        .unwrap()
        .pop()
        .unwrap();
    let peer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    peer.connect(&listener.local_addr().into()).unwrap();
    let (ours, _) = ring(async move { listener.accept().await.unwrap() });
    let ours = socket2::Socket::from(ours.0);
    // Operations on non-blocking sockets return EAGAIN instead of waiting (H22).
    assert!(ours.tcp_nodelay().unwrap() && !ours.nonblocking().unwrap());
}

/// Runs on a ring of this thread; fails after 20 s.
fn ring<T>(future: impl Future<Output = T>) -> T {
    runtime::run(async { tokio::time::timeout(20 * SECOND, future).await })
        .unwrap()
        .expect("done within 20 s")
}

/// Part of an endless sequence that repeats at no power of two.
fn sequence(range: Range<usize>) -> Vec<u8> {
    const PERIOD: usize = 251;
    let period: Vec<u8> = (0..PERIOD).map(|at| at as u8).collect();
    let start = range.start % PERIOD;
    let mut data = period.repeat((start + range.len()) / PERIOD + 1);
    data.truncate(start + range.len());
    data.drain(..start);
    data
}

fn check(data: &[u8], at: usize) {
    let expected = sequence(at..at + data.len());
    if data != expected {
        let wrong = data.iter().zip(&expected).position(|(a, b)| a != b);
        panic!(
            "{} bytes at {at}: {wrong:?} is the first wrong one",
            data.len()
        );
    }
}

#[test]
fn a_dropped_read_closes_the_connection() {
    let (sockets, peers): (Vec<_>, Vec<_>) = (0..50).map(|_| pair()).unzip();
    let ends = thread::spawn(move || {
        let ends = peers.into_iter().map(|mut peer| peer.read(&mut [0; 1]));
        ends.map(|end| end.ok()).collect::<Vec<_>>()
    });
    ring(async {
        // Both halves live on: it is the dropped read alone that closes.
        let mut halves = Vec::new();
        for socket in sockets {
            let (mut receiver, sender) = Stream::new(socket).split();
            let read = receiver.recv(Buffer::take(SMALL), None);
            assert!(tokio::time::timeout(MILLI, read).await.is_err());
            halves.push((receiver, sender));
        }
        let ends = runtime::blocking(|| ends.join().unwrap()).await.unwrap();
        assert_eq!(ends, [Some(0); 50]);
        drop(halves);
    });
}

#[test]
fn a_deadline_loses_no_byte_in_either_direction() {
    const LEN: usize = 300_000;
    const BACK: usize = 24 << 20;
    let (socket, peer) = pair();
    let mut writer = peer.try_clone().unwrap();
    let write = thread::spawn(move || {
        let data = sequence(0..LEN);
        for (n, part) in data.chunks(97).enumerate() {
            writer.write_all(part).unwrap();
            // Now back to back, now with gaps, so that bytes meet cancels at every moment.
            if n % 3 > 0 {
                thread::park_timeout(Duration::from_micros(n as u64 % 11 * 30));
            }
        }
    });
    let mut reader = peer;
    let read = thread::spawn(move || {
        let (mut got, mut buffer) = (0, vec![0; 8192]);
        while got < BACK {
            let count = reader.read(&mut buffer).unwrap();
            assert!(count > 0, "the end after {got} bytes");
            check(&buffer[..count], got);
            got += count;
            if got % 16 == 0 {
                thread::park_timeout(Duration::from_micros(50));
            }
        }
    });
    let cancelled = ring(async {
        let (mut receiver, mut sender) = Stream::new(socket).split();
        let receive = async {
            let (mut got, mut cancelled, mut turn) = (0, 0, 0);
            let mut buffer = Buffer::take(SMALL);
            while got < LEN {
                turn += 1;
                let wait = Duration::from_micros(turn % 5 * 25);
                let (result, back) = receiver.recv(buffer, Some(wait)).await;
                buffer = back;
                match result {
                    Ok(count) => {
                        assert!(count > 0, "the end after {got} bytes");
                        check(buffer.bytes(), got);
                        got += count;
                        buffer.consume(count);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                        assert!(buffer.is_empty());
                        cancelled += 1;
                    }
                }
            }
            cancelled
        };
        let send = async {
            // Each cancel meets these too: they go on where they were.
            let data = sequence(0..BACK);
            for (n, part) in data.chunks(5 << 20).enumerate() {
                let part = Bytes::copy_from_slice(part);
                sender.send_all(part, n % 2 == 0).await.unwrap();
            }
        };
        let (cancelled, ()) = tokio::join!(receive, send);
        let done = runtime::blocking(move || (write.join().is_ok(), read.join().is_ok()));
        assert_eq!(done.await.unwrap(), (true, true));
        cancelled
    });
    assert!(cancelled > 1000, "only {cancelled} cancels");
}

#[test]
fn a_dropped_send_ends_the_connection() {
    let (socket, mut peer) = pair();
    ring(async {
        let (_receiver, mut sender) = Stream::new(socket).split();
        let send = sender.send_all(sequence(0..32 << 20), false);
        assert!(tokio::time::timeout(20 * MILLI, send).await.is_err());
        let error = sender.send_all("next", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let got = runtime::blocking(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            got
        });
        // The beginning, and nothing of what came after it.
        let got = got.await.unwrap();
        assert!(got.len() < 32 << 20);
        check(&got, 0);
    });
}

#[test]
fn a_stalled_send_ends_and_a_slow_one_does_not() {
    let (socket, mut peer) = pair();
    ring(async {
        let (_receiver, mut sender) = Stream::new(socket).split();
        let stall = 300 * MILLI;
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let got = runtime::blocking(move || {
            let (mut got, mut part) = (0, vec![0; 512 << 10]);
            // All in all longer than the limit.
            while got < 16 << 20 {
                thread::park_timeout(40 * MILLI);
                got += peer.read(&mut part).unwrap();
            }
            let _ = wait.recv();
            got
        });
        let start = runtime::now();
        sender.set_stall(stall);
        let slow = sender.send_all(sequence(0..16 << 20), false);
        slow.await.unwrap();
        assert!(runtime::now().since(start) > stall);
        let start = runtime::now();
        let error = sender.send_all(sequence(0..64 << 20), false).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(runtime::now().since(start) >= stall);
        let error = sender.send_all("next", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        drop(go);
        assert!(got.await.unwrap() >= 16 << 20);
    });
}

#[test]
fn hangup_sees_the_end_and_the_reset() {
    ring(async {
        for reset in [false, true] {
            let (socket, mut peer) = pair();
            let (mut receiver, _sender) = Stream::new(socket).split();
            peer.write_all(b"unread bytes do not hide it").unwrap();
            let before = ops::in_flight();
            for _ in 0..1000 {
                tokio::select! {
                    biased;
                    () = receiver.hangup() => panic!("the other side is there"),
                    () = runtime::breathe() => {}
                }
            }
            assert_eq!(
                ops::in_flight(),
                before + 1,
                "one poll, however often it is awaited"
            );
            if reset {
                peer.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(peer);
            receiver.hangup().await;
            receiver.hangup().await;
        }
    });
}

#[test]
fn hangup_outlives_the_cancels_of_a_deadline() {
    ring(async {
        let (socket, peer) = pair();
        let (mut receiver, mut sender) = Stream::new(socket).split();
        for _ in 0..20 {
            tokio::select! {
                biased;
                () = receiver.hangup() => panic!("the other side is there"),
                () = runtime::sleep(MILLI) => {}
            }
            let buffer = Buffer::take(SMALL);
            let (result, _) = receiver
                .recv(buffer, Some(Duration::from_micros(100)))
                .await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        sender.send_all("still there", false).await.unwrap();
        drop(peer);
        receiver.hangup().await;
    });
}

#[test]
fn a_connection_moves_between_rings_with_its_bytes() {
    const MOVES: usize = 20;
    const LEN: usize = 2 << 20;
    let (socket, mut peer) = pair();
    let write = thread::spawn(move || peer.write_all(&sequence(0..LEN)).map(|()| peer));
    let (mut there, mut here) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (send, receive) = std::sync::mpsc::channel::<(Socket, usize)>();
        there.push(send);
        here.push(receive);
    }
    let end = thread::scope(|scope| {
        let (out, done) = std::sync::mpsc::channel();
        for (shard, receive) in here.into_iter().enumerate() {
            let next = there[1 - shard].clone();
            let out = out.clone();
            scope.spawn(move || {
                while let Ok((socket, at)) = receive.recv_timeout(10 * SECOND) {
                    let (socket, at) = ring(some_of_it(socket, at, LEN.min(at + LEN / MOVES)));
                    if at == LEN {
                        out.send(socket).unwrap();
                        break;
                    } else if next.send((socket, at)).is_err() {
                        break;
                    }
                }
            });
        }
        there[0].send((socket, 0)).unwrap();
        let end = done.recv_timeout(10 * SECOND).unwrap();
        drop(there);
        end
    });
    // It still is a connection, both ways.
    let mut peer = write.join().unwrap().unwrap();
    ring(async {
        let (_receiver, mut sender) = Stream::new(end).split();
        sender.send_all("thanks", false).await.unwrap();
    });
    let mut thanks = String::new();
    peer.read_to_string(&mut thanks).unwrap();
    assert_eq!(thanks, "thanks");
}

/// Reads from `at` to `until` or beyond, and leaves both polls pending.
async fn some_of_it(socket: Socket, mut at: usize, until: usize) -> (Socket, usize) {
    let (mut receiver, sender) = Stream::new(socket).split();
    while at < until {
        tokio::select! {
            biased;
            () = receiver.hangup() => panic!("the other side is there"),
            () = runtime::breathe() => {}
        }
        receiver.readable().await;
        let (result, buffer) = receiver.recv(Buffer::take(MEDIUM), Some(SECOND)).await;
        check(buffer.bytes(), at);
        at += result.unwrap();
    }
    // A wait that is given up leaves its poll pending, beside that of the hangup.
    drop(tokio::time::timeout(Duration::ZERO, receiver.readable()).await);
    (Stream::rejoin(receiver, sender).into_socket().await, at)
}

#[test]
fn mapped_bytes_arrive_and_a_truncated_file_is_an_error() {
    const LEN: usize = 4 << 20;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sequence(0..LEN)).unwrap();
    let map = Mapping::map(&file, LEN).unwrap();
    let (socket, mut peer) = pair();
    ring(async {
        let (mut receiver, mut sender) = Stream::new(socket).split();
        let got = runtime::blocking(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).map(|_| got)
        });
        sender.send_all("head", true).await.unwrap();
        let sent = sender.send_mapped(Arc::clone(&map), 1000..LEN, false).await;
        assert_eq!(sent.unwrap(), LEN - 1000);
        file.set_len(16 * PAGE as u64).unwrap();
        let mut cut = 0;
        let fault = loop {
            let sent = sender.send_mapped(Arc::clone(&map), cut..LEN, false).await;
            match sent {
                Ok(sent) => cut += sent,
                Err(error) => break error,
            }
            assert!(0 < cut && cut <= 16 * PAGE, "{cut} bytes of what is gone");
        };
        assert!(is_fault(&fault), "{fault}");
        let sent = sender.send_mapped(map, 0..LEN + 1, false).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // The connection is as good as before.
        sender.send_all("tail", false).await.unwrap();
        sender.finish().unwrap();
        let got = got.await.unwrap().unwrap();
        let (head, rest) = got.split_at(4);
        let (body, rest) = rest.split_at(LEN - 1000);
        assert_eq!(head, b"head");
        check(body, 1000);
        check(&rest[..cut], 0);
        assert_eq!(&rest[cut..], b"tail");
        let (result, _) = receiver.recv(Buffer::take(SMALL), Some(SECOND)).await;
        assert_eq!(result.unwrap(), 0, "the peer has closed");
    });
}

#[test]
fn receives_append_and_a_full_buffer_is_no_end() {
    ring(async {
        let (socket, mut peer) = pair();
        let (mut receiver, _sender) = Stream::new(socket).split();
        let mut buffer = Buffer::take(SMALL);
        buffer.append(b"hand");
        peer.write_all(b"shake").unwrap();
        let (result, mut buffer) = receiver.recv(buffer, None).await;
        assert_eq!((result.unwrap(), buffer.bytes()), (5, &b"handshake"[..]));
        // Compacted when its end is reached,
        buffer.append(&vec![b'x'; SMALL]);
        buffer.consume(SMALL - 2);
        peer.write_all(b"yz").unwrap();
        let (result, mut buffer) = receiver.recv(buffer, None).await;
        assert_eq!((result.unwrap(), buffer.bytes()), (2, &b"xxyz"[..]));
        // and an error when it is full.
        buffer.append(&vec![b'x'; SMALL]);
        let (result, _) = receiver.recv(buffer, None).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn readable_waits_for_a_byte_or_the_end_and_takes_nothing() {
    ring(async {
        let (socket, mut peer) = pair();
        let (mut receiver, _sender) = Stream::new(socket).split();
        for _ in 0..2 {
            let silent = tokio::time::timeout(20 * MILLI, receiver.readable());
            assert!(silent.await.is_err());
        }
        peer.write_all(b"GET").unwrap();
        for _ in 0..2 {
            receiver.readable().await;
        }
        let (result, buffer) = receiver.recv(Buffer::take(SMALL), Some(SECOND)).await;
        assert_eq!((result.unwrap(), buffer.bytes()), (3, &b"GET"[..]));
        let silent = tokio::time::timeout(20 * MILLI, receiver.readable());
        assert!(silent.await.is_err());
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        receiver.readable().await;
        let (result, _) = receiver.recv(buffer, Some(SECOND)).await;
        assert_eq!(result.unwrap(), 0);
    });
}

#[test]
fn close_from_elsewhere_ends_what_waits() {
    ring(async {
        let (socket, mut peer) = pair();
        let stream = Stream::new(socket);
        let closer = stream.closer();
        let (mut receiver, mut sender) = stream.split();
        let waiting = runtime::spawn(async move {
            let (received, _) = receiver.recv(Buffer::take(LARGE), None).await;
            (received, receiver)
        });
        let sending =
            runtime::spawn(async move { sender.send_all(sequence(0..64 << 20), false).await });
        runtime::sleep(20 * MILLI).await;
        closer.close();
        let (received, mut receiver) = waiting.await.unwrap();
        assert_eq!(received.unwrap(), 0);
        assert!(sending.await.unwrap().is_err());
        receiver.hangup().await;
        drop(receiver);
        closer.close();
        let end = runtime::blocking(move || peer.read_to_end(&mut Vec::new()));
        assert!(end.await.unwrap().is_ok());
    });
}

#[test]
fn connects_end_in_time() {
    ring(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = Stream::connect(addr, SECOND).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        drop(listener);
        let refused = Stream::connect(addr, SECOND).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        // A full backlog leaves the next connect unanswered.
        let full = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        full.listen(0).unwrap();
        let addr = full.local_addr().unwrap().as_socket().unwrap();
        let _first = Stream::connect(addr, SECOND).await.unwrap();
        let start = runtime::now();
        let late = Stream::connect(addr, 50 * MILLI).await.err().unwrap();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(runtime::now().since(start) < SECOND / 2);
        let connect = Stream::connect(addr, 10 * SECOND);
        assert!(tokio::time::timeout(MILLI, connect).await.is_err());
        while ops::in_flight() > 0 {
            runtime::sleep(MILLI).await;
        }
    });
}

#[test]
fn mapped_bytes_wait_for_a_slow_reader_and_not_for_a_dead_one() {
    const LEN: usize = 32 << 20;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sequence(0..LEN)).unwrap();
    let map = Mapping::map(&file, LEN).unwrap();
    let (socket, mut peer) = pair();
    ring(async {
        let (_receiver, mut sender) = Stream::new(socket).split();
        let slow = runtime::blocking(move || {
            let mut got = vec![0; LEN];
            for part in got.chunks_mut(LEN / 8) {
                thread::park_timeout(10 * MILLI);
                peer.read_exact(part).unwrap();
            }
            (peer, got)
        });
        let sent = sender.send_mapped(Arc::clone(&map), 0..LEN, false).await;
        assert_eq!(sent.unwrap(), LEN);
        let (_peer, got) = slow.await.unwrap();
        check(&got, 0);
        sender.set_stall(50 * MILLI);
        let sent = sender.send_mapped(map, 0..LEN, false).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn who_takes_nothing_for_the_longest_silence_is_gone() {
    ring(async {
        let (ours, peer) = pair();
        let stream = Stream::new(ours);
        stream.set_silence_max(SECOND / 2);
        let (_receiver, mut sender) = stream.split();
        // More than both sockets hold.
        let sent = sender.send_all(vec![7; 64 << 20], false).await;
        assert!(sent.is_err());
        drop(peer);
    });
}

#[test]
fn what_waits_on_the_way_is_waited_for() {
    const LEN: usize = 1 << 20;
    const BLOCK: usize = 64 << 10;
    ring(async {
        let (ours, mut peer) = pair();
        peer.set_recv_buffer_size(8 << 10).unwrap();
        let (_receiver, mut sender) = Stream::new(ours).split();
        // Some 2 MB/s at most.
        let slow = runtime::blocking(move || {
            let mut got = vec![0; LEN];
            for part in got.chunks_mut(16 << 10) {
                thread::park_timeout(8 * MILLI);
                peer.read_exact(part).unwrap();
            }
            (peer, got)
        });
        for at in (0..LEN).step_by(BLOCK) {
            let block = sequence(at..at + BLOCK);
            sender.send_all(block, false).await.unwrap();
            sender.delivered(BLOCK as u64, None).await.unwrap();
            let path = Path::of(&sender.connection.fd).unwrap();
            assert!(path.pending <= BLOCK as u64 + path.fill(), "{path:?}");
        }
        let (_peer, got) = slow.await.unwrap();
        check(&got, 0);
        // Nobody reads any more.
        sender.set_stall(50 * MILLI);
        let stalled = async {
            loop {
                sender.send_all(vec![7; BLOCK], false).await?;
                sender.delivered(0, None).await?;
            }
        };
        let result: io::Result<()> = stalled.await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn a_late_acknowledgement_is_waited_for_so_long() {
    const BLOCK: usize = 16 << 10;
    ring(async {
        let (ours, peer) = pair();
        peer.set_recv_buffer_size(8 << 10).unwrap();
        let (_receiver, mut sender) = Stream::new(ours).split();
        // More than the other side takes unread.
        for _ in 0..8 {
            sender.send_all(vec![7; BLOCK], false).await.unwrap();
        }
        let waits = path::pending(&sender.connection.fd).unwrap();
        assert!(waits > 2 * BLOCK as u64, "{waits}");
        let since = runtime::now() + 20 * MILLI;
        let late = Late {
            since,
            bytes: waits,
        };
        sender.delivered(BLOCK as u64, Some(late)).await.unwrap();
        assert!(runtime::now() >= since);
        // Never for more than that.
        sender.set_stall(50 * MILLI);
        let bytes = waits / 4;
        let late = Late { since, bytes };
        let result = sender.delivered(0, Some(late)).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(peer);
    });
}

#[test]
fn what_was_sent_is_not_waited_for_when_the_connection_is_over() {
    for closes in [true, false] {
        ring(async {
            let (ours, peer) = pair();
            peer.set_recv_buffer_size(8 << 10).unwrap();
            let stream = Stream::new(ours);
            let closer = stream.closer();
            let (_receiver, mut sender) = stream.split();
            // More than the other side takes, and less than both hold.
            sender.send_all(vec![7; 512 << 10], false).await.unwrap();
            assert!(Path::of(&sender.connection.fd).unwrap().pending > 0);
            runtime::spawn(async move {
                runtime::sleep(50 * MILLI).await;
                if closes { closer.close() } else { drop(peer) }
            });
            let result = sender.delivered(0, None).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotConnected);
        });
    }
}

#[test]
fn what_is_waited_for_comes_together_or_with_the_end() {
    const PARTS: usize = 16;
    const PART: usize = 500;
    ring(async {
        let (ours, mut peer) = pair();
        let (mut receiver, _sender) = Stream::new(ours).split();
        let slow = runtime::blocking(move || {
            for part in sequence(0..PARTS * PART).chunks(PART) {
                thread::park_timeout(4 * MILLI);
                peer.write_all(part).unwrap();
            }
            peer.write_all(&[7; PART]).unwrap();
        });
        let mut buffer = Buffer::take(64 << 10);
        let mut receives = 0;
        while buffer.len() < PARTS * PART {
            receiver.set_low_water(PARTS * PART - buffer.len());
            let (result, filled) = receiver.recv(buffer, None).await;
            buffer = filled;
            assert!(result.unwrap() > 0);
            receives += 1;
        }
        // Some may have come before they were waited for.
        assert!(receives < PARTS / 2, "{receives} receives");
        check(&buffer.bytes()[..PARTS * PART], 0);
        slow.await.unwrap();
        // Fewer than these, and then no more.
        receiver.set_low_water(1 << 20);
        while buffer.len() < (PARTS + 1) * PART {
            let (result, filled) = receiver.recv(buffer, None).await;
            buffer = filled;
            assert!(result.unwrap() > 0);
        }
        let (result, _) = receiver.recv(buffer, None).await;
        assert_eq!(result.unwrap(), 0);
    });
}
