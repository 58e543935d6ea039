//! What `get`, `status` and `demo` ask of a stub on this machine, over its own HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::http::body::BodyDecoder;
use crate::http::head;
use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::ResponseHead;
use crate::ring::buffers::Buffer;
use crate::ring::stream::Stream;

const CONNECT_WAIT: Duration = Duration::from_secs(5);
const RECEIVE_LEN: usize = 256 * 1024;

/// GETs `target` and gives each part of the body to `each`, which ends it by an error.
///
/// Returns the answer's head once the whole body came; a body that breaks off is an error.
pub async fn get(
    stub: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
    mut each: impl FnMut(&ResponseHead, &[u8]) -> io::Result<()>,
) -> io::Result<ResponseHead> {
    let (mut receiver, mut sender) = Stream::connect(stub, CONNECT_WAIT).await?.split();
    let mut request = HeadWriter::request(Method::Get, target)
        .header("Host", stub)
        .header("Connection", "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    sender.send_all(request.finish(), false).await?;
    let mut buffer = Buffer::take(RECEIVE_LEN);
    let head = loop {
        if let Some(head) = head::parse_response(buffer.bytes()).map_err(broken)? {
            break head;
        }
        let (result, filled) = receiver.recv(buffer, None).await;
        buffer = filled;
        if result? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    buffer.consume(head.len);
    let mut body = BodyDecoder::new(head.framing(false).map_err(broken)?);
    loop {
        while !buffer.is_empty() && !body.is_done() {
            let decoded = body.decode(buffer.bytes()).map_err(broken)?;
            each(&head, &buffer.bytes()[decoded.data])?;
            if decoded.consumed == 0 {
                break;
            }
            buffer.consume(decoded.consumed);
        }
        if body.is_done() {
            return Ok(head);
        }
        buffer.compact();
        let (result, filled) = receiver.recv(buffer, None).await;
        buffer = filled;
        if result? == 0 {
            body.handle_eof().map_err(broken)?;
            return Ok(head);
        }
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
