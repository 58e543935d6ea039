//! The demo's tracker: the announce table behind the smallest HTTP server.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use crate::cli::demo::server;
use crate::cli::demo::server::Reply;
use crate::http::head::RequestHead;
use crate::ring::runtime;
use crate::tracker::server::Limits;
use crate::tracker::server::Server;

/// Serves `/announce` on a free loopback port.
pub fn start() -> io::Result<SocketAddr> {
    server::start("demo-tracker", || {
        let table = RefCell::new(Server::new(Limits::default(), 1));
        move |head: &RequestHead, from| {
            let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
            if path != "/announce" {
                return Reply::new(404, "text/plain", "announces go to /announce\n");
            }
            let body = table
                .borrow_mut()
                .handle_announce(runtime::now(), query, from);
            Reply::new(200, "text/plain", body)
        }
    })
}
