//! Units, and a link of known rate and delay that the measure must find out.

use proptest::prelude::*;

use super::*;

const BLOCK: u64 = BLOCK_LEN as u64;

/// A peer that serves in order at `rate` bytes a second, `rtt` away; arrivals are seen in steps of
/// `grain`, as a receive call sees them.
struct Link {
    rate: f64,
    rtt: Duration,
    grain: Duration,
    now: Time,
    free: Time,
    arrivals: VecDeque<Time>,
}

impl Link {
    fn new(rate: f64, rtt: Duration) -> Self {
        Self {
            rate,
            rtt,
            grain: Duration::ZERO,
            now: Time::from_secs(1),
            free: Time::ZERO,
            arrivals: VecDeque::new(),
        }
    }

    fn ask(&mut self, pace: &mut Pace) {
        pace.handle_requested(self.now, BLOCK);
        let start = (self.now + self.rtt / 2).max(self.free);
        self.free = start + seconds(BLOCK as f64 / self.rate);
        self.arrivals.push_back(self.free + self.rtt / 2);
    }

    fn fill(&mut self, pace: &mut Pace) {
        while self.arrivals.len() < pace.depth() as usize {
            self.ask(pace);
        }
    }

    /// Up to the next arrivals; says how many there were.
    fn step(&mut self, pace: &mut Pace) -> usize {
        let next = *self.arrivals.front().expect("something is outstanding");
        self.now = self.now.max(next) + self.grain;
        let mut count = 0;
        while self.arrivals.front().is_some_and(|due| *due <= self.now) {
            self.arrivals.pop_front();
            pace.handle_received(self.now, BLOCK);
            count += 1;
        }
        count
    }

    /// Keeps the queue full for `time`, or for `blocks`.
    fn run(&mut self, pace: &mut Pace, time: Duration, blocks: usize) {
        let end = self.now + time;
        let mut seen = 0;
        while self.now < end && seen < blocks {
            self.fill(pace);
            seen += self.step(pace);
        }
    }

    /// What the link carries with at most `DEPTH_MAX` blocks in flight.
    fn best(&self) -> f64 {
        let window = f64::from(DEPTH_MAX) * BLOCK as f64;
        let cycle = self.rtt + self.grain + seconds(BLOCK as f64 / self.rate);
        self.rate.min(window / cycle.as_secs_f64())
    }
}

fn near(found: f64, expected: f64, part: f64) -> bool {
    (found - expected).abs() <= expected * part
}

#[test]
fn eta_counts_bytes_and_nanoseconds_alike() {
    let mut pace = Pace::new();
    pace.rate = 1_048_576.0;
    pace.rtt = Some(Duration::from_millis(100));
    assert_eq!(pace.eta(0), Duration::from_millis(100));
    assert_eq!(pace.eta(1_048_576), Duration::from_millis(1100));
    for _ in 0..64 {
        pace.handle_requested(Time::ZERO, BLOCK);
    }
    assert_eq!(pace.outstanding(), 1_048_576);
    assert_eq!(pace.eta(1_048_576), Duration::from_millis(2100));
    pace.handle_lost(32 * BLOCK);
    assert_eq!(pace.eta(0), Duration::from_millis(600));
}

#[test]
fn a_new_peer_gets_a_probe_and_then_what_it_can_take() {
    let mut pace = Pace::new();
    assert_eq!(pace.depth(), DEPTH_MIN);
    let mut link = Link::new(50e6, Duration::from_millis(40));
    let mut rounds = 0;
    while pace.depth() < 400 {
        link.run(&mut pace, link.rtt, usize::MAX);
        rounds += 1;
        assert!(rounds <= 10, "depth {} after {rounds} rounds", pace.depth());
    }
}

#[test]
fn loopback_is_filled_at_once() {
    // 2 GB/s, 30 µs, and reads of a megabyte.
    let mut pace = Pace::new();
    let mut link = Link::new(2e9, Duration::from_micros(30));
    link.run(&mut pace, Duration::from_secs(1), 64);
    assert_eq!(pace.depth(), DEPTH_MAX);
    link.grain = Duration::from_micros(500);
    link.run(&mut pace, Duration::from_secs(1), 100_000);
    assert!(near(pace.rate(), 2e9, 0.2), "{}", pace.rate());
    assert_eq!(pace.depth(), DEPTH_MAX);
}

#[test]
fn a_slow_link_is_not_flooded() {
    let mut pace = Pace::new();
    let mut link = Link::new(50e3, Duration::from_millis(50));
    let mut deepest = 0;
    for _ in 0..100 {
        link.fill(&mut pace);
        deepest = deepest.max(pace.depth());
        link.step(&mut pace);
    }
    assert!(deepest <= 8, "{deepest}");
    assert!(pace.depth() <= 3, "{}", pace.depth());
    assert!(near(pace.rate(), 50e3, 0.1), "{}", pace.rate());
}

#[test]
fn a_full_bucket_does_not_pass_for_a_fast_link() {
    // 64 KiB at once, then 1 MB/s: a token bucket on a LAN.
    let mut pace = Pace::new();
    let mut link = Link::new(1e9, Duration::from_millis(1));
    link.run(&mut pace, Duration::from_secs(1), 4);
    link.rate = 1e6;
    let mut deepest = 0;
    for _ in 0..300 {
        link.fill(&mut pace);
        deepest = deepest.max(pace.depth());
        link.step(&mut pace);
    }
    assert!(deepest <= 64, "{deepest}");
    assert!(pace.depth() <= 24, "{}", pace.depth());
}

#[test]
fn a_link_that_slows_down_is_noticed() {
    let mut pace = Pace::new();
    let mut link = Link::new(4e6, Duration::from_millis(30));
    link.run(&mut pace, Duration::from_secs(5), usize::MAX);
    assert!(near(pace.rate(), 4e6, 0.1), "{}", pace.rate());
    link.rate = 400e3;
    link.run(&mut pace, Duration::from_secs(8), usize::MAX);
    assert!(near(pace.rate(), 400e3, 0.25), "{}", pace.rate());
    assert!(pace.depth() <= 14, "{}", pace.depth());
    link.rate = 4e6;
    link.run(&mut pace, Duration::from_secs(8), usize::MAX);
    assert!(near(pace.rate(), 4e6, 0.25), "{}", pace.rate());
}

#[test]
fn a_caller_that_asks_for_less_than_the_depth_still_measures() {
    let mut pace = Pace::new();
    let mut link = Link::new(100e6, Duration::from_millis(5));
    let run = |link: &mut Link, pace: &mut Pace| {
        for _ in 0..20_000 {
            while link.arrivals.len() < 128.min(pace.depth() as usize) {
                link.ask(pace);
            }
            link.step(pace);
        }
    };
    run(&mut link, &mut pace);
    assert!(near(pace.rate(), 100e6, 0.15), "{}", pace.rate());
    link.rate = 20e6;
    run(&mut link, &mut pace);
    assert!(near(pace.rate(), 20e6, 0.15), "{}", pace.rate());
}

#[test]
fn asking_little_does_not_make_a_peer_look_slow_but_lateness_does() {
    let mut pace = Pace::new();
    let mut link = Link::new(4e6, Duration::from_millis(30));
    link.run(&mut pace, Duration::from_secs(5), usize::MAX);
    while !link.arrivals.is_empty() {
        link.step(&mut pace);
    }
    for _ in 0..50 {
        link.ask(&mut pace);
        link.step(&mut pace);
    }
    assert!(near(pace.rate(), 4e6, 0.15), "{}", pace.rate());
    link.rate = 40e3;
    for _ in 0..20 {
        link.ask(&mut pace);
        link.step(&mut pace);
    }
    assert!(pace.rate() < 100e3, "{}", pace.rate());
}

#[test]
fn a_burst_out_of_a_buffer_is_not_the_rate() {
    // 40 blocks at once every 640 ms: 1 MB/s.
    let mut pace = Pace::new();
    let mut now = Time::from_secs(1);
    for _ in 0..30 {
        for _ in 0..40 {
            pace.handle_requested(now, BLOCK);
        }
        now = now + Duration::from_millis(640);
        for _ in 0..40 {
            pace.handle_received(now, BLOCK);
        }
    }
    assert!(near(pace.rate(), 1_024_000.0, 0.1), "{}", pace.rate());
}

#[test]
fn silence_is_seen() {
    let mut pace = Pace::new();
    let mut link = Link::new(4e6, Duration::from_millis(30));
    link.run(&mut pace, Duration::from_secs(5), usize::MAX);
    link.fill(&mut pace);
    let since = pace.quiet_since().unwrap();
    assert!(pace.eta(BLOCK) < Duration::from_millis(500));
    assert!(since <= link.now);
    pace.handle_lost(pace.outstanding());
    assert_eq!(pace.quiet_since(), None);
    assert_eq!(pace.outstanding(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    })]

    #[test]
    fn rate_delay_and_depth_are_found_out(
        rate in 4.5f64..9.0,
        rtt in 4.5f64..8.7,
    ) {
        let rate = 10f64.powf(rate);
        let rtt = Duration::from_nanos(10f64.powf(rtt) as u64);
        let mut pace = Pace::new();
        let mut link = Link::new(rate, rtt);
        link.run(&mut pace, Duration::from_secs(10).max(rtt * 30), 10_000);
        let best = link.best();
        prop_assert!(near(pace.rate(), best, 0.15), "rate {} of {best}", pace.rate());
        let fewest = (rtt.as_secs_f64() + 0.25) * best * 0.8 / BLOCK as f64;
        prop_assert!(f64::from(pace.depth()) >= fewest.min(f64::from(DEPTH_MAX)) - 1.0, "depth {}", pace.depth());
        // An honest window: never twice what rate and delay ask for.
        let single = rtt + seconds(BLOCK as f64 / rate);
        let most = (single.as_secs_f64() + 0.3) * best * 1.5 / BLOCK as f64;
        prop_assert!(f64::from(pace.depth()) <= most.max(4.0), "depth {} over {most}", pace.depth());
        // What the next block is foreseen to take, it takes.
        link.fill(&mut pace);
        let foreseen = pace.eta(BLOCK);
        link.ask(&mut pace);
        let takes = link.arrivals.back().expect("asked").since(link.now);
        prop_assert!(foreseen >= takes.mul_f64(0.75), "{foreseen:?} against {takes:?}");
        let most = takes.mul_f64(1.25) + single.mul_f64(1.25);
        prop_assert!(foreseen <= most, "{foreseen:?} against {takes:?}");
    }

    #[test]
    fn any_order_of_calls_keeps_the_books(calls in proptest::collection::vec((0u8..4, 0u64..100_000, 0u64..5_000_000_000), 1..200)) {
        let mut pace = Pace::new();
        let mut now = Time::ZERO;
        for (call, bytes, wait) in calls {
            now = now + Duration::from_nanos(wait);
            match call {
                0 | 1 => pace.handle_requested(now, bytes),
                2 => pace.handle_received(now, bytes),
                _ => pace.handle_lost(bytes),
            }
            prop_assert!(pace.rate().is_finite() && pace.rate() >= 0.0);
            prop_assert!((DEPTH_MIN..=DEPTH_MAX).contains(&pace.depth()));
            prop_assert!(pace.eta(bytes) >= pace.srtt());
            prop_assert!(pace.eta(bytes + 1) >= pace.eta(bytes));
            prop_assert_eq!(pace.quiet_since().is_some(), pace.outstanding() > 0);
        }
    }
}
