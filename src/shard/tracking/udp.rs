//! Announces by UDP: taken in, answered and sent in batches.

use std::rc::Rc;
use std::time::Duration;

use crate::ring::datagrams::Caller;
use crate::ring::datagrams::Incoming;
use crate::ring::datagrams::Outgoing;
use crate::ring::runtime;
use crate::shard::tracking::desk::Desk;
use crate::shard::tracking::desk::Handed;
use crate::shard::tracking::desk::Letter;
use crate::tracker::server::asked::Asked;
use crate::tracker::server::table::Told;
use crate::tracker::server::udp;
use crate::tracker::server::udp::Heard;
use crate::units::InfoHash;
use crate::units::Time;

/// After a socket's error, which is the machine's: none is the sender's.
const PAUSE: Duration = Duration::from_millis(100);

/// Scrapes that wait for other shards, at a time; the clients of further ones ask again.
const SCRAPES_MAX: usize = 256;

/// What answers are made with, used again and again.
#[derive(Default)]
pub struct Post {
    /// Of the batch.
    now: Time,
    outgoing: Outgoing,
    told: Told,
    datagram: Vec<u8>,
}

/// Answers what comes to one socket, for ever.
pub async fn listen(desk: Rc<Desk>, door: usize) {
    let (mut incoming, mut post) = (Incoming::default(), Post::default());
    let mut handed: Vec<Vec<Handed>> = desk.shared.mail.iter().map(|_| Vec::new()).collect();
    loop {
        if let Err(error) = desk.doors[door].recv(&mut incoming).await {
            tracing::warn!(addr = %desk.doors[door].local_addr(), %error, "no datagrams come");
            runtime::sleep(PAUSE).await;
            continue;
        }
        post.now = runtime::now();
        for (from, bytes) in incoming.iter() {
            hear(&desk, door, from, bytes, &mut post, &mut handed);
        }
        post.send(&desk, door);
        hand_over(&desk, door, &mut handed);
        if incoming.is_full() {
            // More may be there already: the others take their turn.
            runtime::breathe().await;
        }
    }
}

/// Answers what came at other shards.
pub fn answer_handed(desk: &Desk, door: usize, handed: &[Handed], post: &mut Post) {
    post.now = runtime::now();
    for one in handed {
        post.announce(desk, door, one.to, one.transaction, &one.asked);
    }
    post.send(desk, door);
}

fn hear(
    desk: &Rc<Desk>,
    door: usize,
    from: Caller,
    bytes: &[u8],
    post: &mut Post,
    handed: &mut [Vec<Handed>],
) {
    let heard = udp::read(
        post.now,
        &desk.shared.keys,
        from.addr,
        bytes,
        &mut post.datagram,
    );
    let mut counted = desk.counted.borrow_mut();
    match heard {
        Heard::Noise => counted.udp_noise += 1,
        Heard::Connected => {
            counted.udp_connects += 1;
            drop(counted);
            post.push(desk, door, from);
        }
        Heard::Malformed => {
            counted.udp.malformed += 1;
            drop(counted);
            post.push(desk, door, from);
        }
        Heard::Announce { transaction, asked } => {
            counted.udp.announces += 1;
            drop(counted);
            let owner = desk.owner(asked.info_hash);
            if owner == desk.index {
                post.announce(desk, door, from, transaction, &asked);
            } else {
                handed[owner].push(Handed {
                    to: from,
                    transaction,
                    asked,
                });
            }
        }
        Heard::Scrape {
            transaction,
            hashes,
        } => {
            counted.udp.scrapes += 1;
            drop(counted);
            if hashes.iter().all(|hash| desk.owner(*hash) == desk.index) {
                udp::put_scrape(&mut post.datagram, transaction, &desk.scrape_here(&hashes));
                post.push(desk, door, from);
            } else if desk.scrapes.get() < SCRAPES_MAX {
                desk.scrapes.set(desk.scrapes.get() + 1);
                let desk = desk.clone();
                runtime::spawn(async move {
                    scrape(&desk, door, from, transaction, &hashes).await;
                    desk.scrapes.set(desk.scrapes.get() - 1);
                });
            } else {
                desk.counted.borrow_mut().overrun += 1;
            }
        }
    }
}

/// A scrape that asks other shards as well.
async fn scrape(desk: &Desk, door: usize, from: Caller, transaction: u32, hashes: &[InfoHash]) {
    if let Some(found) = desk.scrape(hashes).await {
        let mut post = Post::default();
        udp::put_scrape(&mut post.datagram, transaction, &found);
        post.push(desk, door, from);
        post.send(desk, door);
    }
}

fn hand_over(desk: &Desk, door: usize, handed: &mut [Vec<Handed>]) {
    for (mail, handed) in desk.shared.mail.iter().zip(handed) {
        let count = handed.len() as u64;
        if count == 0 {
            continue;
        }
        let handed = std::mem::take(handed);
        let sent = mail.send(Letter::Announces { door, handed });
        let mut counted = desk.counted.borrow_mut();
        match sent {
            Ok(()) => counted.handed_over += count,
            // Their clients ask again.
            Err(_) => counted.overrun += count,
        }
    }
}

impl Post {
    fn announce(&mut self, desk: &Desk, door: usize, to: Caller, transaction: u32, asked: &Asked) {
        match desk.announce_into(self.now, asked, &mut self.told) {
            Ok(()) => {
                let interval = desk.shared.limits.interval;
                let is_v6 = asked.peer.is_ipv6();
                udp::put_announce(&mut self.datagram, transaction, interval, is_v6, &self.told);
            }
            Err(why) => {
                desk.counted.borrow_mut().udp.refused += 1;
                udp::put_error(&mut self.datagram, transaction, &why.to_string());
            }
        }
        self.push(desk, door, to);
    }

    /// What was put into `datagram`.
    fn push(&mut self, desk: &Desk, door: usize, to: Caller) {
        self.outgoing.push(to, &self.datagram);
        if self.outgoing.is_full() {
            self.send(desk, door);
        }
    }

    fn send(&mut self, desk: &Desk, door: usize) {
        if !self.outgoing.is_empty() {
            let lost = desk.doors[door].send(&mut self.outgoing) as u64;
            desk.counted.borrow_mut().udp_lost += lost;
        }
    }
}
