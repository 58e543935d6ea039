//! Videos that the tracker fetches and hashes by itself: which may, in which order, how many.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Time;

/// Fetched at once; of one host one.
pub const AT_ONCE_MAX: usize = 2;
/// Waiting for their turn.
pub const QUEUE_MAX: usize = 64;
/// For one video, from its turn on.
pub const TIME_MAX: Duration = Duration::from_secs(2 * 3600);
/// A host's videos: so many at once to begin with, then one in each such time.
const HOST_BURST: u32 = 16;
const HOST_EVERY: Duration = Duration::from_secs(60);
/// Those of all hosts together.
const TOTAL_BURST: u32 = 64;
const TOTAL_EVERY: Duration = Duration::from_secs(10);
/// Hosts whose rate is known; one at rest is forgotten.
const HOSTS_MAX: usize = 1024;

const _: () = assert!(QUEUE_MAX >= AT_ONCE_MAX);

/// Names one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

#[derive(Debug)]
struct Job {
    id: JobId,
    url: String,
    /// Host and port.
    site: String,
}

#[derive(Debug)]
struct Running {
    job: Job,
    until: Time,
}

#[derive(Debug, Default)]
pub struct Jobs {
    queue: VecDeque<Job>,
    running: Vec<Running>,
    sites: BTreeMap<String, Meter>,
    total: Meter,
    next_id: u64,
}

/// Too much is asked for; worth another try after this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy(pub Duration);

impl Jobs {
    pub fn contains(&self, url: &str) -> bool {
        self.all().any(|job| job.url == url)
    }

    pub fn is_running(&self, url: &str) -> bool {
        self.running.iter().any(|running| running.job.url == url)
    }

    /// Queues a video that is not there yet.
    pub fn add(&mut self, now: Time, url: &str, site: &str) -> Result<(), Busy> {
        if self.queue.len() >= QUEUE_MAX {
            return Err(Busy(TOTAL_EVERY));
        }
        if !self.sites.contains_key(site) && self.sites.len() >= HOSTS_MAX {
            self.sites.retain(|_, meter| !meter.is_at_rest(now));
            if self.sites.len() >= HOSTS_MAX {
                return Err(Busy(HOST_EVERY));
            }
        }
        let of_site = self.sites.entry(site.to_owned()).or_default();
        of_site.may(now, HOST_BURST, HOST_EVERY)?;
        self.total.may(now, TOTAL_BURST, TOTAL_EVERY)?;
        of_site.note(now, HOST_EVERY);
        self.total.note(now, TOTAL_EVERY);
        let id = JobId(self.next_id);
        self.next_id += 1;
        self.queue.push_back(Job {
            id,
            url: url.to_owned(),
            site: site.to_owned(),
        });
        Ok(())
    }

    /// The next that may begin, with the id under which it runs.
    pub fn start(&mut self, now: Time) -> Option<(JobId, String)> {
        if self.running.len() >= AT_ONCE_MAX {
            return None;
        }
        let busy = |site: &str| self.running.iter().any(|running| running.job.site == site);
        let at = self.queue.iter().position(|job| !busy(&job.site))?;
        let job = self.queue.remove(at)?;
        let started = (job.id, job.url.clone());
        let until = now + TIME_MAX;
        self.running.push(Running { job, until });
        Some(started)
    }

    /// The video of a job that ended by itself; `None` if it was given up before.
    pub fn end(&mut self, id: JobId) -> Option<String> {
        let mut running = self.running.iter();
        let at = running.position(|running| running.job.id == id)?;
        Some(self.running.swap_remove(at).job.url)
    }

    /// Somebody else has the torrent; the id of what runs for nothing now.
    pub fn give_up(&mut self, url: &str) -> Option<JobId> {
        self.queue.retain(|job| job.url != url);
        let mut running = self.running.iter();
        let at = running.position(|running| running.job.url == url)?;
        Some(self.running.swap_remove(at).job.id)
    }

    /// What runs for too long, and is forgotten.
    pub fn overdue(&mut self, now: Time) -> Option<(JobId, String)> {
        let mut running = self.running.iter();
        let at = running.position(|running| running.until <= now)?;
        let job = self.running.swap_remove(at).job;
        Some((job.id, job.url))
    }

    pub fn next_timeout(&self) -> Time {
        let untils = self.running.iter().map(|running| running.until);
        untils.min().unwrap_or(Time::NEVER)
    }

    fn all(&self) -> impl Iterator<Item = &Job> {
        let running = self.running.iter().map(|running| &running.job);
        running.chain(&self.queue)
    }
}

/// How much was asked for of late: as much in advance as a burst allows (GCRA).
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    /// When all that was allowed would have been, one at a time.
    paid: Time,
}

impl Meter {
    fn may(self, now: Time, burst: u32, every: Duration) -> Result<(), Busy> {
        let ahead = self.paid.since(now);
        let most = every * (burst - 1);
        if ahead > most {
            return Err(Busy(ahead - most));
        }
        Ok(())
    }

    fn note(&mut self, now: Time, every: Duration) {
        self.paid = self.paid.max(now) + every;
    }

    fn is_at_rest(self, now: Time) -> bool {
        self.paid <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1000);

    fn add(it: &mut Jobs, now: Time, url: &str) -> Result<(), Busy> {
        let (site, _) = url.split_once('/').unwrap();
        it.add(now, url, site)
    }

    #[test]
    fn one_of_a_host_and_two_in_all() {
        let mut it = Jobs::default();
        for url in ["a/1", "a/2", "b/1", "c/1"] {
            add(&mut it, NOW, url).unwrap();
        }
        let first = it.start(NOW).unwrap();
        assert_eq!(first, (JobId(0), "a/1".to_owned()));
        assert_eq!(it.start(NOW).unwrap().1, "b/1");
        assert!(it.start(NOW).is_none());
        assert!(it.is_running("a/1") && !it.is_running("a/2") && it.contains("a/2"));
        assert_eq!(it.end(first.0).as_deref(), Some("a/1"));
        assert_eq!(it.end(first.0), None);
        assert_eq!(it.start(NOW).unwrap().1, "a/2");
        assert_eq!(it.give_up("c/1"), None);
        assert!(!it.contains("c/1"));
        assert_eq!(it.give_up("b/1"), Some(JobId(2)));
        assert_eq!((it.running.len(), it.queue.len()), (1, 0));
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let mut it = Jobs::default();
        add(&mut it, NOW, "a/1").unwrap();
        let (id, _) = it.start(NOW).unwrap();
        let end = it.next_timeout();
        assert_eq!(end, NOW + TIME_MAX);
        assert!(it.overdue(end.before(Duration::from_nanos(1))).is_none());
        assert_eq!(it.overdue(end), Some((id, "a/1".to_owned())));
        assert_eq!(it.next_timeout(), Time::NEVER);
    }

    #[test]
    fn a_host_has_its_rate_and_all_have_one() {
        let mut it = Jobs::default();
        let run = |it: &mut Jobs, now| {
            while let Some((id, _)) = it.start(now) {
                it.end(id);
            }
        };
        for nth in 0..HOST_BURST {
            add(&mut it, NOW, &format!("a/{nth}")).unwrap();
        }
        assert_eq!(add(&mut it, NOW, "a/x"), Err(Busy(HOST_EVERY)));
        run(&mut it, NOW);
        let later = NOW + HOST_EVERY;
        add(&mut it, later, "a/x").unwrap();
        assert!(add(&mut it, later, "a/y").is_err());
        run(&mut it, later);
        let mut taken = 0;
        while add(&mut it, later, &format!("h{taken}/x")).is_ok() {
            run(&mut it, later);
            taken += 1;
        }
        assert!(
            (TOTAL_BURST - HOST_BURST..=TOTAL_BURST).contains(&taken),
            "{taken}"
        );
    }

    #[test]
    fn the_queue_and_the_hosts_are_bounded() {
        let mut it = Jobs::default();
        let mut now = NOW;
        for nth in 0..QUEUE_MAX {
            add(&mut it, now, &format!("h{nth}/x")).unwrap();
            now = now + TOTAL_EVERY;
        }
        assert!(add(&mut it, now, "one/more").is_err());
        assert_eq!(it.queue.len(), QUEUE_MAX);
        let mut it = Jobs::default();
        for nth in 0..3 * HOSTS_MAX {
            now = now + TOTAL_EVERY;
            add(&mut it, now, &format!("h{nth}/x")).unwrap();
            let (id, _) = it.start(now).unwrap();
            it.end(id);
        }
        assert!(it.sites.len() <= HOSTS_MAX);
    }
}
