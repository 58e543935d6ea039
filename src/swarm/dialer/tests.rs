//! Limits, back-off and order of dialling.

use proptest::prelude::*;

use super::*;

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([8, 8, 8, last], 6881))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn dialer() -> Dialer {
    Dialer::new(Time::ZERO, Limits::default())
}

/// Dials, and is refused.
fn fail(dialer: &mut Dialer, addr: SocketAddr) -> Duration {
    let now = dialer.next_timeout();
    assert_eq!(dialer.poll_dial(now), Some(addr));
    dialer.handle_closed(now, addr);
    dialer.next_timeout().since(now)
}

#[test]
fn each_failure_doubles_the_pause_up_to_half_an_hour() {
    let mut dialer = dialer();
    dialer.add(Time::ZERO, addr(1), Found::User);
    let pauses: Vec<_> = (0..11)
        .map(|_| fail(&mut dialer, addr(1)).as_secs())
        .collect();
    assert_eq!(
        pauses,
        [10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]
    );
    dialer.add(Time::ZERO, addr(1), Found::Tracker);
    assert_eq!(dialer.len(), 1, "told again, it is no newer");
    assert!(dialer.next_timeout() > Time::from_secs(4000));
}

#[test]
fn who_answered_once_is_tried_every_minute_however_often_it_broke() {
    let mut dialer = dialer();
    dialer.add(Time::ZERO, addr(1), Found::Tracker);
    let pauses: Vec<_> = (0..12)
        .map(|_| {
            let now = dialer.next_timeout();
            assert_eq!(dialer.poll_dial(now), Some(addr(1)));
            dialer.handle_connected(now, addr(1));
            dialer.handle_shaken(addr(1));
            dialer.handle_closed(now, addr(1));
            dialer.next_timeout().since(now).as_secs()
        })
        .collect();
    assert_eq!(pauses[..3], [10, 20, 40]);
    assert_eq!(pauses[3..], [60; 9]);
}

#[test]
fn a_stranger_is_given_up_sooner() {
    let mut dialer = dialer();
    dialer.add(Time::ZERO, addr(1), Found::Pex);
    let pauses: Vec<_> = (0..3)
        .map(|_| fail(&mut dialer, addr(1)).as_secs())
        .collect();
    assert_eq!(pauses, [10, 20, 1800]);
}

#[test]
fn a_connection_that_lasted_is_tried_again_soon() {
    let mut dialer = dialer();
    dialer.add(Time::ZERO, addr(1), Found::Tracker);
    fail(&mut dialer, addr(1));
    let now = dialer.next_timeout();
    assert_eq!(dialer.poll_dial(now), Some(addr(1)));
    dialer.handle_connected(now, addr(1));
    dialer.handle_shaken(addr(1));
    let end = now + LASTING;
    dialer.handle_closed(end, addr(1));
    assert_eq!(dialer.next_timeout(), end + RETRY_MIN);
}

#[test]
fn a_connection_that_broke_at_once_counts_as_failed() {
    let mut dialer = dialer();
    dialer.add(Time::ZERO, addr(1), Found::Tracker);
    let now = dialer.next_timeout();
    dialer.poll_dial(now);
    dialer.handle_connected(now, addr(1));
    dialer.handle_closed(now, addr(1));
    assert_eq!(dialer.next_timeout(), now + RETRY_MIN * 2);
}

#[test]
fn the_users_come_first_then_fresh_ones_then_good_ones() {
    let mut dialer = dialer();
    let now = Time::ZERO;
    dialer.add(now, addr(1), Found::Pex);
    dialer.add(now, addr(2), Found::Pex);
    dialer.poll_dial(now);
    dialer.poll_dial(now);
    dialer.handle_connected(now, addr(2));
    dialer.handle_shaken(addr(2));
    dialer.handle_closed(now, addr(1));
    dialer.handle_closed(now, addr(2));
    dialer.add(now, addr(3), Found::Tracker);
    dialer.add(now, addr(4), Found::User);
    let later = Time::from_secs(60);
    let order: Vec<_> = std::iter::from_fn(|| dialer.poll_dial(later)).collect();
    assert_eq!(order, [addr(4), addr(3), addr(2), addr(1)]);
}

#[test]
fn r44_so_many_calls_in_a_time_and_so_many_at_once() {
    let mut dialer = dialer();
    let most = DIALS_MAX as usize;
    for port in 1..=2 * DIALS_MAX as u16 {
        dialer.add(Time::ZERO, local(port), Found::Tracker);
    }
    let burst: Vec<_> = std::iter::from_fn(|| dialer.poll_dial(Time::ZERO)).collect();
    assert_eq!(burst.len(), most);
    for addr in burst {
        dialer.handle_connected(Time::ZERO, addr);
    }
    let again = Time::ZERO + DIALS_TIME;
    assert_eq!(dialer.next_timeout(), again);
    let late = again + DIALS_TIME / 2;
    assert!(dialer.poll_dial(late).is_some());
    let rest = std::iter::from_fn(|| dialer.poll_dial(late)).count();
    assert_eq!(rest, most - 1);

    let mut dialer = Dialer::new(
        Time::ZERO,
        Limits {
            dials: 1000,
            ..Limits::default()
        },
    );
    for port in 1..=200 {
        dialer.add(Time::ZERO, local(port), Found::Tracker);
    }
    let open: Vec<_> = std::iter::from_fn(|| dialer.poll_dial(Time::ZERO)).collect();
    assert_eq!(open.len(), HALF_OPEN_MAX);
    assert_eq!(dialer.next_timeout(), Time::NEVER);
    dialer.handle_closed(Time::ZERO, open[0]);
    assert!(dialer.poll_dial(Time::ZERO).is_some());
}

#[test]
fn r44_one_connection_to_a_global_ip() {
    let now = Time::ZERO;
    let mut dialer = dialer();
    let other = SocketAddr::from(([8, 8, 8, 1], 7000));
    dialer.add(now, addr(1), Found::Tracker);
    dialer.add(now, other, Found::Tracker);
    assert_eq!(dialer.poll_dial(now), Some(addr(1)));
    assert_eq!(dialer.poll_dial(now), None);
    dialer.handle_connected(now, addr(1));
    dialer.handle_shaken(addr(1));
    assert!(!dialer.accept(now, SocketAddr::from(([8, 8, 8, 1], 50_000))));
    dialer.handle_closed(now, addr(1));
    assert_eq!(dialer.poll_dial(now + SAME_IP), Some(other));

    // On one's own machine and network there may be many.
    assert!(dialer.accept(now, local(50_000)) && dialer.accept(now, local(50_001)));
    dialer.add(now, local(6881), Found::User);
    assert_eq!(dialer.poll_dial(now), Some(local(6881)));
}

#[test]
fn crossed_calls_are_both_let_in_and_no_third() {
    let now = Time::ZERO;
    let incoming = |port| SocketAddr::from(([8, 8, 8, 1], port));
    for connected in [false, true] {
        let mut dialer = dialer();
        dialer.add(now, addr(1), Found::Tracker);
        assert_eq!(dialer.poll_dial(now), Some(addr(1)));
        if connected {
            dialer.handle_connected(now, addr(1));
        }
        assert!(dialer.accept(now, incoming(50_000)), "{connected}");
        assert!(!dialer.accept(now, incoming(50_001)), "{connected}");
        // The superfluous one went; the other still holds the IP.
        dialer.handle_closed(now, addr(1));
        assert!(!dialer.accept(now, incoming(50_001)), "{connected}");
        dialer.handle_closed(now, incoming(50_000));
        assert!(dialer.accept(now, incoming(50_001)), "{connected}");
    }
}

#[test]
fn an_accepted_ip_is_not_dialled_as_long_as_it_is_there() {
    let now = Time::ZERO;
    let mut dialer = dialer();
    let incoming = SocketAddr::from(([8, 8, 8, 1], 50_000));
    assert!(dialer.accept(now, incoming));
    dialer.add(now, addr(1), Found::Tracker);
    assert_eq!(dialer.poll_dial(now), None);
    dialer.handle_closed(now, incoming);
    let due = dialer.next_timeout();
    assert_eq!((due, dialer.poll_dial(due)), (now + SAME_IP, Some(addr(1))));
}

#[test]
fn a_ban_lasts_an_hour() {
    let now = Time::from_secs(9);
    let mut dialer = dialer();
    dialer.add(now, addr(1), Found::Tracker);
    dialer.poll_dial(now);
    dialer.handle_connected(now, addr(1));
    dialer.ban(now, addr(1));
    dialer.handle_closed(now, addr(1));
    assert!(dialer.is_empty());
    let other_port = SocketAddr::from(([8, 8, 8, 1], 50_000));
    assert!(!dialer.accept(now, other_port) && !dialer.add(now, addr(1), Found::User));
    assert!(dialer.add(now + BAN, addr(1), Found::Tracker));

    dialer.ban(now, local(1000));
    assert!(dialer.accept(now, local(1001)));
    assert!(!dialer.accept(now, local(1000)));
}

#[test]
fn our_own_address_is_refused_without_its_neighbours() {
    let now = Time::ZERO;
    let mut dialer = dialer();
    let other_port = SocketAddr::from(([8, 8, 8, 1], 50_000));
    dialer.refuse(now, addr(1));
    assert!(!dialer.add(now, addr(1), Found::Tracker));
    assert!(dialer.add(now, other_port, Found::Tracker));
}

#[test]
fn the_list_of_bans_is_bounded_by_dropping_the_oldest() {
    let mut dialer = dialer();
    for at in 0..=BANNED_MAX {
        let port = u16::try_from(at + 1).unwrap();
        dialer.ban(Time::from_millis(at as u64), local(port));
    }
    let now = Time::from_secs(10);
    assert_eq!(dialer.banned.len(), BANNED_MAX);
    assert!(!dialer.is_banned(now, local(1)) && dialer.is_banned(now, local(2)));
}

#[test]
fn a_full_table_keeps_what_never_failed() {
    let mut dialer = Dialer::new(
        Time::ZERO,
        Limits {
            known: 2,
            ..Limits::default()
        },
    );
    let now = Time::ZERO;
    assert!(dialer.add(now, addr(1), Found::Tracker) && dialer.add(now, addr(2), Found::Tracker));
    assert!(!dialer.add(now, addr(3), Found::Tracker));
    let failed = dialer.poll_dial(now).unwrap();
    dialer.handle_closed(now, failed);
    assert!(dialer.add(now, addr(3), Found::Pex));
    assert!(dialer.add(now, addr(4), Found::User));
    assert_eq!(dialer.len(), 2);
    let order: Vec<_> = std::iter::from_fn(|| dialer.poll_dial(now)).collect();
    assert_eq!(order, [addr(4), addr(2)]);
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Add(u8, bool),
    Dial,
    Connected(u8),
    Shaken(u8),
    Closed(u8),
    Ban(u8),
    Accept(u8),
}

fn call() -> impl Strategy<Value = Call> {
    let who = 0..12u8;
    prop_oneof![
        (who.clone(), any::<bool>()).prop_map(|(who, user)| Call::Add(who, user)),
        Just(Call::Dial),
        Just(Call::Dial),
        who.clone().prop_map(Call::Connected),
        who.clone().prop_map(Call::Shaken),
        who.clone().prop_map(Call::Closed),
        who.clone().prop_map(Call::Ban),
        who.prop_map(Call::Accept),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn queues_counts_and_table_agree(calls in proptest::collection::vec((call(), 0..20_000u64), 1..150)) {
        let limits = Limits { known: 6, half_open: 2, dials: 5 };
        let mut dialer = Dialer::new(Time::ZERO, limits);
        let mut now = Time::ZERO;
        for (call, wait) in calls {
            now = now + Duration::from_millis(wait);
            match call {
                Call::Add(who, user) => {
                    dialer.add(now, addr(who), if user { Found::User } else { Found::Pex });
                }
                Call::Dial => {
                    let due = dialer.next_timeout();
                    let dialled = dialer.poll_dial(now);
                    prop_assert!(dialled.is_none() || due <= now, "{due:?} {now:?}");
                    if dialled.is_none() {
                        // Else the driver would spin.
                        prop_assert!(dialer.next_timeout() > now);
                    }
                }
                Call::Connected(who) => dialer.handle_connected(now, addr(who)),
                Call::Shaken(who) => dialer.handle_shaken(addr(who)),
                Call::Closed(who) => dialer.handle_closed(now, addr(who)),
                Call::Ban(who) => dialer.ban(now, addr(who)),
                Call::Accept(who) => {
                    dialer.accept(now, addr(who));
                }
            }
            let count = |state: fn(&State) -> bool| {
                dialer.known.values().filter(|known| state(&known.state)).count()
            };
            prop_assert_eq!(dialer.half_open, count(|state| *state == State::Dialling));
            prop_assert_eq!(dialer.ready.len(), count(|state| *state == State::Ready));
            prop_assert_eq!(dialer.later.len(), count(|state| matches!(state, State::Later(_))));
            prop_assert!(dialer.known.len() <= 6 && dialer.half_open <= 2);
        }
    }
}
