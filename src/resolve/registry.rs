//! The registries of an address's trackers: which are asked, what each has said, when again.

use std::time::Duration;

use percent_encoding::AsciiSet;
use percent_encoding::utf8_percent_encode;
use url::Url;

use crate::http::pin::Pin;
use crate::torrent::metainfo::Metainfo;
use crate::units::Time;

/// Trackers of one address that are asked.
pub const REGISTRIES_MAX: usize = 4;
/// One that has not answered by then has no torrent.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// So long a registry goes before the torrent that lies beside the video.
const PRECEDENCE: Duration = Duration::from_millis(300);
/// Between two questions to one that is making the torrent; by a second more each time.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// All of its questions: hashing a long film takes as long as its server takes to send it.
const LATER_MAX: Duration = Duration::from_secs(1800);

/// All that RFC 3986 §2.3 does not call unreserved.
const RESERVED: &AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where a tracker's registry knows the video: at the announce URL's host and port, for a UDP
/// tracker by HTTP.
pub fn metainfo_url(tracker: &Url, video: &Url) -> Option<Url> {
    let scheme = match tracker.scheme() {
        "http" | "udp" => "http",
        "https" => "https",
        _ => return None,
    };
    let host = tracker.host_str().filter(|host| !host.is_empty())?;
    let port = tracker.port().map(|port| format!(":{port}"));
    let port = port.unwrap_or_default();
    let video = utf8_percent_encode(video.as_str(), RESERVED);
    Url::parse(&format!("{scheme}://{host}{port}/metainfo?url={video}")).ok()
}

/// A torrent that a registry gave.
#[derive(Debug)]
pub struct Given {
    pub url: Url,
    pub metainfo: Box<Metainfo>,
    /// The version of the video that it is of, as far as the registry says.
    pub pin: Pin,
}

#[derive(Debug, Default)]
pub struct Registries {
    places: Vec<Place>,
    given: Vec<Given>,
    /// Until then an answer is waited for although there is another torrent.
    precedence: Time,
    give_up: Time,
}

#[derive(Debug)]
struct Place {
    url: Url,
    state: State,
    asked: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unasked,
    /// Until then.
    Asked(Time),
    /// It makes the torrent: to be asked again at that time.
    Making(Time),
    /// It has answered, or will not.
    Over,
}

impl Registries {
    pub fn new(video: &Url, trackers: &[Url]) -> Self {
        let mut urls: Vec<Url> = Vec::new();
        for url in trackers.iter().filter_map(|url| metainfo_url(url, video)) {
            if urls.len() < REGISTRIES_MAX && !urls.contains(&url) {
                urls.push(url);
            }
        }
        let place = |url| Place {
            url,
            state: State::Unasked,
            asked: 0,
        };
        Self {
            places: urls.into_iter().map(place).collect(),
            given: Vec::new(),
            precedence: Time::NEVER,
            give_up: Time::NEVER,
        }
    }

    /// The next that is to be asked now: its number, for its answer.
    pub fn ask(&mut self, now: Time) -> Option<(usize, Url)> {
        let due = |state| match state {
            State::Unasked => true,
            State::Making(at) => at <= now,
            State::Asked(_) | State::Over => false,
        };
        let at = self.places.iter().position(|place| due(place.state))?;
        self.precedence = self.precedence.min(now + PRECEDENCE);
        self.give_up = self.give_up.min(now + LATER_MAX);
        let place = &mut self.places[at];
        place.state = State::Asked(now + ANSWER_WAIT);
        place.asked += 1;
        Some((at, place.url.clone()))
    }

    pub fn handle_given(&mut self, place: usize, metainfo: Box<Metainfo>, pin: Pin) {
        self.places[place].state = State::Over;
        let url = self.places[place].url.clone();
        self.given.push(Given { url, metainfo, pin });
    }

    /// It knows nothing, or is not to be reached.
    pub fn handle_nothing(&mut self, place: usize) {
        self.places[place].state = State::Over;
    }

    /// It makes the torrent, and may say for how long.
    pub fn handle_making(&mut self, now: Time, place: usize, wait: Option<Duration>) {
        let place = &mut self.places[place];
        let wait = wait.unwrap_or_default().max(AGAIN_MIN * place.asked);
        let again = now + wait.min(AGAIN_MAX);
        place.state = if again < self.give_up {
            State::Making(again)
        } else {
            State::Over
        };
    }

    /// Whoever has not answered in time is over.
    pub fn handle_timeout(&mut self, now: Time) {
        for place in &mut self.places {
            if matches!(place.state, State::Asked(until) if until <= now) {
                place.state = State::Over;
            }
        }
    }

    /// A torrent that came, the first one first.
    pub fn take(&mut self) -> Option<Given> {
        (!self.given.is_empty()).then(|| self.given.remove(0))
    }

    /// Whether an answer is to come that would go before the torrent beside the video.
    pub fn go_first(&self, now: Time) -> bool {
        self.are_asked() && now < self.precedence
    }

    /// Whether an answer is to come.
    pub fn are_asked(&self) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place.state, State::Unasked | State::Asked(_)))
    }

    /// Whether one makes the torrent.
    pub fn are_making(&self) -> bool {
        let mut places = self.places.iter();
        places.any(|place| matches!(place.state, State::Making(_)))
    }

    pub fn next_timeout(&self, now: Time) -> Time {
        let times = self.places.iter().map(|place| match place.state {
            State::Asked(at) | State::Making(at) => at,
            State::Unasked | State::Over => Time::NEVER,
        });
        let first = times.min().unwrap_or(Time::NEVER);
        if self.go_first(now) {
            first.min(self.precedence)
        } else {
            first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_registry_stands_at_its_trackers_host() {
        let video = url("https://v.example/b+c%20d.mp4?x=1&y=2");
        let query = "/metainfo?url=https%3A%2F%2Fv.example%2Fb%2Bc%2520d.mp4%3Fx%3D1%26y%3D2";
        for (tracker, base) in [
            ("http://t.example/announce?key=1", "http://t.example"),
            ("https://t.example:444/a/b", "https://t.example:444"),
            ("udp://t.example:6969", "http://t.example:6969"),
            ("udp://[::1]:6969/announce", "http://[::1]:6969"),
            ("udp://t.example", "http://t.example"),
        ] {
            let found = metainfo_url(&url(tracker), &video).unwrap();
            assert_eq!(found.as_str(), format!("{base}{query}"));
        }
        assert_eq!(metainfo_url(&url("ws://t.example/"), &video), None);
    }

    #[test]
    fn each_is_asked_once_and_their_number_is_bounded() {
        let same = [
            url("http://t:1/announce"),
            url("udp://t:1"),
            url("http://u/a"),
        ];
        let mut it = Registries::new(&url("http://v/a"), &same);
        assert_eq!(it.ask(Time::ZERO).unwrap().0, 0);
        assert_eq!(it.ask(Time::ZERO).unwrap().0, 1);
        assert!(it.ask(Time::ZERO).is_none() && it.are_asked());
        let many: Vec<_> = (0..9).map(|nth| url(&format!("http://t{nth}/"))).collect();
        let mut it = Registries::new(&url("http://v/a"), &many);
        let asked = std::iter::from_fn(|| it.ask(Time::ZERO)).count();
        assert_eq!(asked, REGISTRIES_MAX);
    }

    #[test]
    fn one_that_makes_it_is_asked_again_ever_later_and_given_up() {
        let mut it = Registries::new(&url("http://v/a"), &[url("http://t/")]);
        let mut now = Time::from_secs(7);
        let mut asked = 0;
        it.ask(now).unwrap();
        loop {
            it.handle_making(now, 0, Some(Duration::ZERO));
            if !it.are_making() {
                break;
            }
            asked += 1;
            assert!(it.ask(now).is_none());
            let next = it.next_timeout(now);
            assert_eq!(next.since(now), (AGAIN_MIN * asked).min(AGAIN_MAX));
            now = next;
            it.ask(now).unwrap();
        }
        assert!(
            now.since(Time::from_secs(7)) <= LATER_MAX && asked < 100,
            "{asked}"
        );
        assert_eq!(it.next_timeout(now), Time::NEVER);
    }

    #[test]
    fn silence_is_no_torrent() {
        let mut it = Registries::new(&url("http://v/a"), &[url("http://t/")]);
        it.ask(Time::ZERO).unwrap();
        assert!(it.go_first(Time::ZERO));
        let first = it.next_timeout(Time::ZERO);
        assert_eq!(first, Time::ZERO + PRECEDENCE);
        assert!(!it.go_first(first) && it.are_asked());
        let end = it.next_timeout(first);
        it.handle_timeout(end);
        assert!(!it.are_asked() && it.take().is_none());
    }
}
