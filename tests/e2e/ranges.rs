//! HTTP as a player hears it: the same answers as nginx gives for the same file, but where the
//! specification leaves it open and the design chose otherwise.

use std::io;

use sha1::{Digest, Sha1};

use crate::bed::film::{Film, Random};
use crate::bed::http::{Client, Reply};
use crate::bed::nginx::Nginx;
use crate::bed::scene::Scene;
use crate::bed::stub::{Stub, target};
use crate::bed::{Bed, film};

const SEED: u64 = 0x51ab_1e5e_ed00_0001;
const FILM_LEN: usize = 200_003;
const CASES: usize = 2_500;
const CASES_PASSTHROUGH: usize = 500;

/// Spelt like a range, and none.
const NO_RANGES: &[&str] = &[
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=a-b",
    "bytes=0-b",
    "bytes=1",
    "bytes 0-5",
    "bytes=0--5",
    "bytes=+1-5",
    "bytes=0x0-0x5",
    "items=0-5",
    "=0-5",
    "bytes==0-5",
    "bytes=99999999999999999999-",
    "bytes=0-99999999999999999999",
    "bytes=1-5;q=1",
    "bytes=0.5-7",
    "bytes=5-0",
];

/// One generated request.
struct Case {
    range: Option<String>,
    if_range: Option<IfRange>,
    /// One range, as RFC 9110 spells it: nginx is right. All else we ignore (DESIGN §9), where
    /// nginx answers 416, or several parts.
    is_one_range: bool,
}

#[derive(Clone, Copy)]
enum IfRange {
    /// The server's own, as it gave it.
    Etag,
    OtherEtag,
    WeakEtag,
    OldDate,
}

#[test]
fn every_range_as_nginx_answers_it() {
    let scene = Scene::new(FILM_LEN, 16_384);
    let stub = Stub::start(&scene.bed);
    // From here on the film comes from the store.
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert_alike(&stub, &scene.target(), &scene.nginx, &scene.film, CASES);
}

#[test]
fn every_range_of_a_film_without_a_torrent_as_nginx_answers_it() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 16_384);
    let nginx = Nginx::start(&bed);
    std::fs::copy(film.path(), nginx.root().join("film.bin")).unwrap();
    let stub = Stub::start(&bed);
    let target = target(&[], &nginx.url("film.bin"));
    assert_alike(&stub, &target, &nginx, &film, CASES_PASSTHROUGH);
}

#[track_caller]
fn assert_alike(stub: &Stub, target: &str, nginx: &Nginx, film: &Film, cases: usize) {
    let mut random = Random::new(SEED);
    let mut ours = Kept::new(stub.addr(), target);
    let mut theirs = Kept::new(nginx.addr(), "/film.bin");
    let whole = Sha1::digest(&*film.data);
    for n in 0..cases {
        let case = Case::random(&mut random, film.len());
        let (our, their) = (ours.ask(&case), theirs.ask(&case));
        let what = format!(
            "case {n} of seed {SEED:#x}: {:?} {:?}",
            case.range,
            case.if_range.map(|validator| ours.validator(validator)),
        );
        let our = our.unwrap_or_else(|error| panic!("{what}: {error}"));
        let their = their.unwrap_or_else(|error| panic!("{what}, nginx: {error}"));
        if case.is_one_range {
            assert_eq!(seen(&our), seen(&their), "{what}");
        } else {
            assert_eq!(our.status, 200, "{what}");
            assert_eq!(our.header("content-range"), None, "{what}");
            assert_eq!(our.length(), Some(film.len()), "{what}");
            assert_eq!(Sha1::digest(&our.body), whole, "{what}");
        }
    }
}

/// What must be the same. Of a refusal the body is each server's own.
fn seen(reply: &Reply) -> (u16, Option<String>, Option<usize>, String) {
    let bytes = reply.status != 416;
    (
        reply.status,
        reply.header("content-range").map(str::to_owned),
        reply.length().filter(|_| bytes),
        if bytes {
            film::hex(&Sha1::digest(&reply.body))
        } else {
            String::new()
        },
    )
}

/// A connection that is made again when the server has had enough of it.
struct Kept {
    addr: std::net::SocketAddr,
    target: String,
    client: Client,
    etag: String,
}

impl Kept {
    fn new(addr: std::net::SocketAddr, target: &str) -> Self {
        let mut client = Client::connect(addr).unwrap();
        client.send("HEAD", target, &[]).unwrap();
        let etag = client
            .reply("HEAD")
            .unwrap()
            .header("etag")
            .expect("an ETag")
            .to_owned();
        assert!(etag.starts_with('"'), "a strong ETag: {etag}");
        Self {
            addr,
            target: target.to_owned(),
            client,
            etag,
        }
    }

    fn ask(&mut self, case: &Case) -> io::Result<Reply> {
        let mut lines = Vec::new();
        lines.extend(case.range.as_ref().map(|range| format!("Range: {range}")));
        let validator = case.if_range.map(|validator| self.validator(validator));
        lines.extend(validator.map(|validator| format!("If-Range: {validator}")));
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let reply = self.client.get(&self.target, &lines);
        if let Ok(reply) = &reply
            && reply
                .header("connection")
                .is_none_or(|value| value != "close")
        {
            return Ok(reply.clone());
        }
        self.client = Client::connect(self.addr)?;
        reply.or_else(|_| self.client.get(&self.target, &lines))
    }

    fn validator(&self, if_range: IfRange) -> String {
        match if_range {
            IfRange::Etag => self.etag.clone(),
            IfRange::OtherEtag => "\"no-such-tag\"".to_owned(),
            IfRange::WeakEtag => format!("W/{}", self.etag),
            IfRange::OldDate => "Mon, 01 Jan 2001 00:00:00 GMT".to_owned(),
        }
    }
}

impl IfRange {
    fn random(random: &mut Random) -> Option<Self> {
        match random.below(8) {
            0 => Some(Self::Etag),
            1 => Some(Self::OtherEtag),
            2 => Some(Self::WeakEtag),
            3 => Some(Self::OldDate),
            _ => None,
        }
    }
}

impl Case {
    fn random(random: &mut Random, len: usize) -> Self {
        let edge = [
            0,
            1,
            len / 2,
            len - 2,
            len - 1,
            len,
            len + 1,
            10 * len,
            usize::MAX / 4,
        ];
        let place = |random: &mut Random| match random.below(3) {
            0 => edge[random.below(edge.len())],
            _ => random.below(len + 10),
        };
        let unit = ["bytes", "Bytes", "BYTES", "bytes"][random.below(4)];
        let (mut is_one_range, mut from, mut to) = (true, place(random), place(random));
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        let range = match random.below(12) {
            0..=3 => format!("{unit}={from}-{to}"),
            4 | 5 => format!("{unit}={from}-"),
            6 | 7 => format!("{unit}=-{from}"),
            8 => {
                is_one_range = false;
                format!("{unit}={from}-{to},{}-{}", place(random), usize::MAX / 2)
            }
            9 => {
                // The second number is the smaller: reversed.
                is_one_range = false;
                format!("{unit}={}-{from}", to + 1)
            }
            10 => {
                is_one_range = false;
                NO_RANGES[random.below(NO_RANGES.len())].to_owned()
            }
            _ => {
                return Self {
                    range: None,
                    if_range: None,
                    is_one_range,
                };
            }
        };
        let if_range = IfRange::random(random);
        Self {
            range: Some(range),
            if_range,
            is_one_range,
        }
    }
}

/// The rows of `research/features.md` §1.4 in which other streaming engines are wrong.
#[test]
fn where_others_are_wrong() {
    let scene = Scene::new(FILM_LEN, 16_384);
    let stub = Stub::start(&scene.bed);
    let mut client = stub.client();
    let mut ask = |method: &str, lines: &[&str]| {
        client.send(method, &scene.target(), lines).unwrap();
        client
            .reply(method)
            .unwrap_or_else(|error| panic!("{method} {lines:?}: {error}"))
    };
    let last = FILM_LEN - 1;
    let rows: &[(&str, u16, usize, Option<String>)] = &[
        ("bytes=0-1", 206, 2, Some(format!("bytes 0-1/{FILM_LEN}"))),
        (
            "bytes=200000-999999999",
            206,
            3,
            Some(format!("bytes 200000-{last}/{FILM_LEN}")),
        ),
        (
            "bytes=-100",
            206,
            100,
            Some(format!("bytes {}-{last}/{FILM_LEN}", FILM_LEN - 100)),
        ),
        ("bytes=0-0,10-19", 200, FILM_LEN, None),
        ("bytes=10-5", 200, FILM_LEN, None),
        ("Bytes=0-1", 206, 2, Some(format!("bytes 0-1/{FILM_LEN}"))),
    ];
    for (range, status, len, content_range) in rows {
        let reply = ask("GET", &[&format!("Range: {range}")]);
        assert_eq!((reply.status, reply.body.len()), (*status, *len), "{range}");
        assert_eq!(
            reply.header("content-range"),
            content_range.as_deref(),
            "{range}"
        );
        assert_eq!(reply.header("accept-ranges"), Some("bytes"), "{range}");
    }
    let beyond = ask("GET", &[&format!("Range: bytes={FILM_LEN}-")]);
    assert_eq!(beyond.status, 416);
    let unsatisfied = format!("bytes */{FILM_LEN}");
    assert_eq!(beyond.header("content-range"), Some(unsatisfied.as_str()));
    let other = ask("GET", &["Range: bytes=0-1", "If-Range: \"nope\""]);
    assert_eq!((other.status, other.body.len()), (200, FILM_LEN));
    let head = ask("HEAD", &[]);
    assert_eq!((head.status, head.length()), (200, Some(FILM_LEN)));
    let etag = head.header("etag").expect("an ETag").to_owned();
    let unchanged = ask("GET", &[&format!("If-None-Match: {etag}")]);
    assert_eq!(unchanged.status, 304);
    let options = ask("OPTIONS", &["Origin: http://example.com"]);
    assert!(matches!(options.status, 200 | 204), "{}", options.status);
    let post = ask("POST", &["Content-Length: 0"]);
    assert_eq!(post.status, 405);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let scene = Scene::new(FILM_LEN, 16_384);
    let stub = Stub::start(&scene.bed);
    let mut client = stub.client();
    let starts = [150_000, 0, 77_777, 199_000, 5];
    for start in starts {
        let range = format!("Range: bytes={start}-{}", start + 999);
        client.send("GET", &scene.target(), &[&range]).unwrap();
    }
    client.send("HEAD", &scene.target(), &[]).unwrap();
    for start in starts {
        let part = client.reply("GET").unwrap();
        assert_eq!(part.status, 206);
        scene.film.assert_part(start, &part.body);
        assert_eq!(part.body.len(), 1000);
    }
    assert_eq!(client.reply("HEAD").unwrap().length(), Some(FILM_LEN));
}
