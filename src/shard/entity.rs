//! What a player is told of a film, whoever serves it.

use std::rc::Rc;
use std::time::SystemTime;

use crate::http::pin::Pin;
use crate::shard::film::Film;
use crate::shard::host::Host;
use crate::shard::origin::OriginHost;
use crate::stub::media;
use crate::stub::reply;
use crate::stub::reply::Entity;

/// What a player is told of a file of the swarm.
pub fn of_swarm(film: &Film, host: &Rc<Host>, file: usize) -> Entity {
    let metainfo = host
        .metainfo
        .borrow()
        .clone()
        .expect("a film that is here has metainfo");
    let entry = &metainfo.files[file];
    let name = entry
        .path
        .last()
        .map_or(metainfo.name.as_str(), String::as_str);
    let pin = film.origin.as_ref().and_then(|origin| origin.pin());
    let of_origin = pin
        .as_ref()
        .and_then(|pin| origin_tag(pin, Some(entry.length)));
    let of_file = reply::etag_of_file(host.info_hash, file);
    // One tag for the film whoever serves it: a player that began with the origin's bytes
    // must find its If-Range true when the swarm answers, and the other way round.
    let (etag, etag_before) = match of_origin {
        Some(of_origin) => (of_origin, Some(of_file)),
        None => (of_file, None),
    };
    Entity {
        len: Some(entry.length),
        etag: Some(etag),
        etag_before,
        last_modified: pin.as_ref().and_then(origin_date),
        content_type: media::content_type(name, film.sniffed.get().flatten()),
    }
}

/// What a player is told of the origin's own file.
pub fn of_origin(film: &Film, origin: &OriginHost, total: Option<u64>) -> Entity {
    let pin = origin.pin();
    Entity {
        len: total,
        etag: pin.as_ref().and_then(|pin| origin_tag(pin, total)),
        etag_before: None,
        last_modified: pin.as_ref().and_then(origin_date),
        content_type: media::content_type(origin.url.path(), film.sniffed.get().flatten()),
    }
}

fn origin_tag(pin: &Pin, len: Option<u64>) -> Option<String> {
    pin.if_range()
        .map(|validator| reply::etag_of_origin(validator, len))
}

fn origin_date(pin: &Pin) -> Option<SystemTime> {
    pin.last_modified
        .as_deref()
        .and_then(|date| httpdate::parse_http_date(date).ok())
}
