//! Videos that could not be fetched or hashed, remembered so that not each request tries them anew.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::units::Time;

/// After a first failure, doubled by each further one.
pub const WAIT_MIN: Duration = Duration::from_secs(60);
pub const WAIT_MAX: Duration = Duration::from_secs(6 * 3600);
/// Beyond it the one whose time is up first is forgotten.
const FAILURES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub struct Failures {
    by_url: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    until: Time,
    wait: Duration,
}

impl Failures {
    /// `asked`: what the video's server asks to wait.
    pub fn note(&mut self, now: Time, url: &str, asked: Option<Duration>) {
        let before = self.by_url.get(url).map(|failure| failure.wait * 2);
        let wait = before.unwrap_or(WAIT_MIN).max(asked.unwrap_or_default());
        let wait = wait.min(WAIT_MAX);
        if self.by_url.len() >= FAILURES_MAX && before.is_none() {
            let first = self.by_url.iter().min_by_key(|(_, failure)| failure.until);
            let first = first.map(|(url, _)| url.clone());
            first.and_then(|url| self.by_url.remove(&url));
        }
        let until = now + wait;
        self.by_url.insert(url.to_owned(), Failure { until, wait });
    }

    /// How long it is not worth another try.
    pub fn wait(&self, now: Time, url: &str) -> Option<Duration> {
        let left = self.by_url.get(url)?.until.since(now);
        (!left.is_zero()).then_some(left)
    }

    pub fn forget(&mut self, url: &str) {
        self.by_url.remove(url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_twice_as_long_up_to_a_bound() {
        let mut it = Failures::default();
        let mut now = Time::from_secs(5);
        let mut expect = WAIT_MIN;
        for _ in 0..12 {
            assert_eq!(it.wait(now, "a"), None);
            it.note(now, "a", None);
            assert_eq!(it.wait(now, "a"), Some(expect));
            now = now + expect;
            expect = (expect * 2).min(WAIT_MAX);
        }
        it.forget("a");
        it.note(now, "a", Some(Duration::from_secs(600)));
        assert_eq!(it.wait(now, "a"), Some(Duration::from_secs(600)));
        it.note(now, "b", Some(Duration::MAX));
        assert_eq!(it.wait(now, "b"), Some(WAIT_MAX));
    }

    #[test]
    fn their_number_is_bounded() {
        let mut it = Failures::default();
        for nth in 0..FAILURES_MAX as u64 + 10 {
            it.note(Time::from_secs(nth), &nth.to_string(), None);
        }
        assert_eq!(it.by_url.len(), FAILURES_MAX);
        assert!(!it.by_url.contains_key("9") && it.by_url.contains_key("10"));
    }
}
