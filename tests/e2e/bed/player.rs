//! A player that reads as time goes by.

use std::thread;
use std::time::{Duration, Instant};

use crate::bed::film::Film;
use crate::bed::stub::Stub;

/// Reads a film from its beginning: two seconds' worth at once, then `rate` bytes a second.
#[track_caller]
pub fn play_in_time(stub: &Stub, target: &str, film: &Film, rate: usize) {
    let mut client = stub.client();
    client.send("GET", target, &["Range: bytes=0-"]).unwrap();
    assert_eq!(client.head().unwrap().status, 206);
    let begun = Instant::now();
    let mut body = Vec::new();
    while body.len() < film.len() {
        let due = 2 * rate + (begun.elapsed().as_secs_f64() * rate as f64) as usize;
        let due = due.min(film.len());
        if due > body.len() {
            body.extend(client.take(due - body.len()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    film.assert_same(&body);
}
