//! The demo's web server: the clip, its torrent beside it, and a page that plays it.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::cli::demo::server;
use crate::http::head::RequestHead;
use crate::http::range;
use crate::http::range::Asked;
use crate::http::reply::Reply;

/// Serves `/clip.mp4` and `/clip.mp4.torrent` on a free loopback port.
pub fn start(clip: &'static [u8], torrent: Vec<u8>) -> io::Result<SocketAddr> {
    let torrent = Bytes::from(torrent);
    server::start("demo-origin", move || {
        move |head: &RequestHead, _| match head.target.as_str() {
            "/clip.mp4" => film(clip, head),
            "/clip.mp4.torrent" => Reply::new(200, "application/x-bittorrent", torrent.clone()),
            _ => Reply::new(404, "text/plain", "no such file\n"),
        }
    })
}

fn film(clip: &'static [u8], head: &RequestHead) -> Reply {
    let len = clip.len() as u64;
    let asked = range::resolve(head.headers.get("range"), len);
    let reply = match asked {
        Asked::Whole => Reply::new(200, "video/mp4", clip),
        Asked::Part(part) => {
            let (start, end) = (to_usize(part.start), to_usize(part.end));
            let said = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            Reply::new(206, "video/mp4", &clip[start..end]).with("Content-Range", said)
        }
        Asked::Unsatisfiable => {
            Reply::new(416, "text/plain", "").with("Content-Range", format!("bytes */{len}"))
        }
    };
    reply
        .with("Accept-Ranges", "bytes")
        .with("ETag", "\"demo-clip\"")
}

fn to_usize(at: u64) -> usize {
    usize::try_from(at).expect("inside the clip")
}
