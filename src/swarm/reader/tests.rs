//! Deadlines, stalls, rates and crowds, as one player's request sees them.

use crate::swarm::reader::hold::CROWD_TARGET;
use crate::swarm::reader::*;

const FILE: ByteRange = ByteRange::new(0, 100_000_000);

#[test]
fn in_a_crowd_a_film_begins_a_little_later_or_with_much_of_it() {
    let rate = 1_000_000.0;
    let begun = |crowd: bool| {
        let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(rate));
        assert!(reader.may_be_in_crowd());
        if crowd {
            reader.handle_crowd();
        }
        reader.set_ready(Time::from_secs(1), 2_500_000);
        assert!(!reader.release(Time::from_secs(1)));
        reader
    };
    assert_eq!(begun(false).sendable(), 2_500_000);
    let mut reader = begun(true);
    assert_eq!(reader.sendable(), 1_000_000);
    let now = Time::from_secs(1);
    reader.handle_sent(now, 1_000_000, 0);
    // Its first byte is needed when it is let go, and the rest at the film's rate.
    let left_s = CROWD_TARGET.as_secs_f64() - 1.0;
    assert!(close(reader.slack_s(now, 0), left_s));
    assert!(close(reader.slack_s(now, 2_000_000), left_s + 2.0));
    let begins = Time::ZERO + CROWD_TARGET;
    assert_eq!(reader.held_until(), Some(begins));
    assert!(reader.release(begins) && !reader.release(begins));
    assert_eq!(reader.sendable(), 2_500_000);
    // Much of it is as good, and what was promised stays promised.
    let mut reader = begun(true);
    reader.set_ready(now, 5_900_000);
    assert!(!reader.release(now));
    reader.set_ready(now, 6_000_000);
    assert!(reader.release(now) && !reader.may_be_in_crowd());
    let mut late = begun(false);
    late.handle_crowd();
    assert_eq!(late.sendable(), 2_500_000);
    // With more than a second sent by others before, nothing goes out until it is let go.
    let rest = ByteRange::new(1_000_000, FILE.end);
    let mut reader = Reader::new(Time::ZERO, rest, FILE, Some(rate));
    reader.handle_crowd();
    reader.set_ready(now, 2_000_000);
    assert_eq!(reader.sendable(), 1_000_000);
    assert_eq!(reader.held_until(), Some(Time::ZERO + CROWD_TARGET));
    assert!(reader.release(Time::ZERO + CROWD_TARGET));
    // Who has begun to show the film, or comes to its middle, is not held.
    let mut shown = begun(false);
    shown.handle_sent(now, 2_000_000, 0);
    assert!(!shown.may_be_in_crowd());
    let middle = ByteRange::new(50_000_000, FILE.end);
    assert!(!Reader::new(now, middle, FILE, Some(rate)).may_be_in_crowd());
}

fn playing(rate: f64) -> Reader {
    let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(rate));
    reader.set_ready(Time::from_secs(1), 1_000_000);
    reader.handle_sent(Time::from_secs(1), 1_000_000, 0);
    reader
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn deadlines_follow_the_film_not_the_reading() {
    let reader = playing(500_000.0);
    // A second after its first byte the player, which has read two seconds, needs byte 500,000.
    assert!(close(reader.slack_s(Time::from_secs(2), 500_000), 0.0));
    assert!(close(reader.slack_s(Time::from_secs(2), 1_000_000), 1.0));
    assert_eq!(reader.reach(Time::from_secs(2), 12.0), 6_500_000);
}

#[test]
fn pause_freezes_the_clock() {
    let mut reader = playing(500_000.0);
    reader.handle_blocked(Time::from_secs(2));
    assert!(close(reader.slack_s(Time::from_secs(60), 1_000_000), 1.0));
    reader.handle_sent(Time::from_secs(60), 0, 0);
    assert!(close(reader.slack_s(Time::from_secs(60), 1_000_000), 1.0));
    assert!(close(reader.slack_s(Time::from_secs(61), 1_000_000), 0.0));
    assert_eq!(reader.stalls(), 0);
}

#[test]
fn stall_lasts_from_the_deadline_to_the_next_byte() {
    let mut reader = playing(500_000.0);
    reader.handle_starved(Time::from_secs(2));
    // The last byte was due at 3 s.
    assert!(close(reader.stall_s(Time::from_secs(4)), 1.0));
    reader.set_ready(Time::from_secs(5), 1_500_000);
    assert_eq!(reader.missed(), 31);
    reader.handle_sent(Time::from_secs(5), 500_000, 0);
    assert_eq!(reader.stalls(), 1);
    assert!(close(reader.stall_s(Time::from_secs(5)), 2.0));
    assert!(close(reader.slack_s(Time::from_secs(5), 1_500_000), 1.0));
}

#[test]
fn who_has_taken_everything_is_starved_without_being_told() {
    let mut reader = playing(500_000.0);
    assert!(close(reader.stall_s(Time::from_secs(4)), 1.0));
    reader.set_ready(Time::from_secs(4), 2_000_000);
    reader.handle_sent(Time::from_secs(4), 500_000, 0);
    assert_eq!(reader.stalls(), 1);
    assert!(close(reader.stall_s(Time::from_secs(20)), 1.0));
}

#[test]
fn slow_reading_is_no_stall() {
    let mut reader = playing(500_000.0);
    reader.set_ready(Time::from_secs(2), 3_000_000);
    reader.handle_sent(Time::from_secs(9), 10, 0);
    assert_eq!(reader.stalls(), 0);
    assert!(reader.slack_s(Time::from_secs(9), 3_000_000) > 3.0);
}

#[test]
fn reading_is_believed_up_to_a_limit_and_starving_makes_no_greed() {
    let mut reader = Reader::new(Time::ZERO, FILE, FILE, None);
    assert!(close(reader.rate(), RATE_GUESS_MAX));
    let (mut second, mut ready) = (0, 0);
    let mut take = |reader: &mut Reader, bytes: u64, spare: u64| {
        (second, ready) = (second + 1, ready + bytes);
        reader.set_ready(Time::from_secs(second), ready + spare);
        reader.handle_sent(Time::from_secs(second), bytes, 0);
    };
    for _ in 0..10 {
        take(&mut reader, 5_000_000, 0);
    }
    assert!(close(reader.rate(), RATE_GUESS_MAX));
    // It leaves some: this is what it wants.
    for _ in 0..60 {
        take(&mut reader, 300_000, 100_000);
    }
    assert!((reader.rate() - 300_000.0).abs() < 10_000.0);
    // It gets too little, which says nothing of what it wants.
    for _ in 0..10 {
        take(&mut reader, 150_000, 0);
    }
    assert!(reader.rate() > 250_000.0);
    reader.set_rate(Time::from_secs(80), 250_000.0);
    assert!(close(reader.rate(), 250_000.0));
}

fn tenth(tenths: u64) -> Time {
    Time::from_millis(tenths * 100)
}

/// After two seconds; `unread` of it lie in the socket. And what it is ahead, s.
fn full(unread: u64) -> (Reader, f64) {
    let mut reader = playing(500_000.0);
    reader.set_ready(tenth(20), 100_000_000);
    reader.handle_sent(tenth(20), 5_000_000, unread);
    let lead = reader.slack_s(tenth(20), reader.pos());
    (reader, lead)
}

#[test]
fn a_full_player_that_takes_the_film_as_it_plays_is_not_paused() {
    let (mut reader, lead) = full(0);
    // A second's worth is taken each second, and blocks for most of it.
    for now in (20..320).step_by(10) {
        reader.handle_blocked(tenth(now + 3));
        for _ in 0..5 {
            reader.handle_sent(tenth(now + 10), 100_000, 0);
        }
    }
    assert!(close(reader.slack_s(tenth(320), reader.pos()), lead));
    // A pause is one: what is taken at its end was shown, the rest of the time nothing.
    reader.handle_blocked(tenth(320));
    reader.handle_sent(tenth(920), 500_000, 0);
    assert!(close(reader.slack_s(tenth(920), reader.pos()), lead));
}

#[test]
fn what_is_read_out_of_a_full_socket_is_shown() {
    let (mut reader, lead) = full(2_000_000);
    // The socket takes more only when three seconds were read out of it, and there is little more.
    reader.handle_blocked(tenth(23));
    reader.handle_sent(tenth(50), 10_000, 510_000);
    let left = reader.slack_s(tenth(50), reader.pos());
    assert!(close(left, lead - 3.0 + 0.02), "{left} of {lead}");
    // A pause, after which two more were read, is one.
    reader.handle_blocked(tenth(53));
    reader.handle_sent(tenth(653), 1_000_000, 510_000);
    let left = reader.slack_s(tenth(653), reader.pos());
    assert!(close(left, lead - 3.0 + 0.02), "{left} of {lead}");
}

#[test]
fn reading_on_keeps_the_clock_and_a_seek_does_not() {
    let first = playing(500_000.0);
    let legacy = first.legacy(Time::from_secs(2));
    let rest = ByteRange::new(1_000_000, 100_000_000);
    let mut on = Reader::new(Time::from_secs(3), rest, FILE, Some(500_000.0));
    on.inherit(Time::from_secs(3), &legacy);
    assert!(!on.is_starting());
    assert!(close(on.slack_s(Time::from_secs(3), 1_000_000), 0.0));
    let far = ByteRange::new(50_000_000, 100_000_000);
    let mut seek = Reader::new(Time::from_secs(3), far, FILE, Some(500_000.0));
    seek.inherit(Time::from_secs(3), &legacy);
    assert!(seek.is_starting());
    assert!(close(seek.slack_s(Time::from_secs(3), 50_000_000), 1.2));
}

#[test]
fn a_tail_request_is_a_probe_and_reading_on_promotes() {
    let tail = Reader::new(
        Time::ZERO,
        ByteRange::new(99_900_000, 100_000_000),
        FILE,
        None,
    );
    assert!(tail.is_probe());
    let mut head = Reader::new(Time::ZERO, FILE, FILE, None);
    assert!(head.is_probe());
    head.set_ready(Time::ZERO, 600_000);
    head.handle_sent(Time::ZERO, 600_000, 0);
    assert!(!head.is_probe());
}
