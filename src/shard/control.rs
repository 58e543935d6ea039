//! Connections to the control port: few, small, and never on a swarm's way.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::admin::api::Api;
use crate::admin::api::Verdict;
use crate::http::head::RequestHead;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::callers;

const CONNECTIONS_MAX: usize = 64;
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
                    let answer = async |head: &RequestHead| answer(&shard, &api, head).await;
                    callers::attend(socket, HEAD_WAIT, answer).await;
                    open.set(open.get() - 1);
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the control port takes nobody"),
        }
    }
}

/// What the shards say is asked for only if the page shows it.
async fn answer(shard: &Shard, api: &RefCell<Api>, head: &RequestHead) -> Vec<Bytes> {
    let verdict = api.borrow_mut().handle_request(shard.now(), head);
    let reply = match verdict {
        Verdict::Reply(reply) => reply,
        Verdict::NeedsStats(page) => Api::render(page, &shard.shared.stats().await, head),
    };
    vec![reply.into()]
}
