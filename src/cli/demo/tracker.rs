//! The demo's tracker: the announce table behind the smallest HTTP server.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::cli::demo::server;
use crate::http::head::RequestHead;
use crate::http::reply::Reply;
use crate::ring::runtime;
use crate::tracker::server::allow::Allow;
use crate::tracker::server::http;
use crate::tracker::server::ids::Keys;
use crate::tracker::server::table::Limits;
use crate::tracker::server::table::Table;
use crate::tracker::server::table::Told;

/// Serves `/announce` on a free loopback port.
pub fn start() -> io::Result<SocketAddr> {
    server::start("demo-tracker", || {
        let keys = Keys::new(rand::random());
        let table = Table::new(Limits::default(), keys, Arc::new(Allow::All), 1);
        let table = RefCell::new(table);
        move |head: &RequestHead, from| {
            let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
            if path != "/announce" {
                return Reply::new(404, "text/plain", "announces go to /announce\n");
            }
            Reply::new(
                200,
                "text/plain",
                announce(&mut table.borrow_mut(), query, from),
            )
        }
    })
}

fn announce(table: &mut Table, query: &str, from: IpAddr) -> Vec<u8> {
    let asked = match http::read_announce(query, from) {
        Ok(asked) => asked,
        Err(why) => return http::malformed_body(why),
    };
    let mut told = Told::default();
    match table.handle_announce(runtime::now(), &asked, &mut told) {
        Ok(()) => http::announce_body(table.limits(), asked.peer.ip(), &told),
        Err(why) => http::refused_body(why),
    }
}
