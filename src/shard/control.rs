//! Connections to the control port: few, small, and never on a swarm's way.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::admin::api::Api;
use crate::admin::api::Verdict;
use crate::http::head;
use crate::ring::buffers::Buffer;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;
use crate::shard::Shard;

const CONNECTIONS_MAX: usize = 64;
const HEAD_LEN: usize = 16 * 1024;
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// Takes callers in, for ever.
pub async fn accept(shard: Rc<Shard>, listener: Listener) {
    let port = listener.local_addr().port();
    let api = Rc::new(RefCell::new(Api::new(
        shard.shared.options.token.clone(),
        port,
    )));
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok((socket, _)) if open.get() < CONNECTIONS_MAX => {
                open.set(open.get() + 1);
                let (shard, api, open) = (shard.clone(), api.clone(), open.clone());
                runtime::spawn(async move {
                    attend(&shard, &api, socket).await;
                    open.set(open.get() - 1);
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the control port takes nobody"),
        }
    }
}

async fn attend(shard: &Rc<Shard>, api: &Rc<RefCell<Api>>, socket: Socket) {
    let (mut receiver, mut sender) = Stream::new(socket).split();
    let mut buffer = Buffer::take(HEAD_LEN);
    loop {
        let head = match head::parse_request(buffer.bytes()) {
            Ok(Some(head)) => head,
            Ok(None) if buffer.room() > 0 => {
                let (result, filled) = receiver.recv(buffer, Some(HEAD_WAIT)).await;
                buffer = filled;
                if !matches!(result, Ok(1..)) {
                    return;
                }
                continue;
            }
            Ok(None) | Err(_) => return,
        };
        buffer.consume(head.len);
        let verdict = api.borrow_mut().handle_request(shard.now(), &head);
        let reply = match verdict {
            Verdict::Reply(reply) => reply,
            Verdict::NeedsStats(page) => Api::render(page, &shard.shared.stats().await, &head),
        };
        // A body is never wanted here: after one the framing is not worth keeping.
        let body = head.body_len().map_or(true, |len| len > 0);
        if sender.send_all(reply, false).await.is_err() || body || !head.keep_alive() {
            return;
        }
        buffer.compact();
    }
}
