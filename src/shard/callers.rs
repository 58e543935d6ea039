//! One caller of a small HTTP server: heads come in, replies go out, one after the other.

use std::time::Duration;

use bytes::Bytes;

use crate::http::head;
use crate::http::head::RequestHead;
use crate::ring::buffers::Buffer;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;

const HEAD_LEN: usize = 24 * 1024;

/// Until the caller, a reply or a silence as long as `wait` ends it. What `answer` returns is sent
/// as it is, part by part.
pub async fn attend(
    socket: Socket,
    wait: Duration,
    answer: impl AsyncFn(&RequestHead) -> Vec<Bytes>,
) {
    let (mut receiver, mut sender) = Stream::new(socket).split();
    let mut buffer = Buffer::take(HEAD_LEN);
    loop {
        let head = match head::parse_request(buffer.bytes()) {
            Ok(Some(head)) => head,
            Ok(None) if buffer.room() > 0 => {
                let (result, filled) = receiver.recv(buffer, Some(wait)).await;
                buffer = filled;
                if !matches!(result, Ok(1..)) {
                    return;
                }
                continue;
            }
            Ok(None) | Err(_) => return,
        };
        buffer.consume(head.len);
        let mut parts = answer(&head).await.into_iter().peekable();
        while let Some(part) = parts.next() {
            let more = parts.peek().is_some();
            if sender.send_all(part, more).await.is_err() {
                return;
            }
        }
        // A body is never wanted here: after one the framing is not worth keeping.
        if head.body_len().map_or(true, |len| len > 0) || !head.keep_alive() {
            return;
        }
        buffer.compact();
    }
}
