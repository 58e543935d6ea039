//! The origin's side: fetches, their bytes, and when the next is due.

use std::time::Duration;

use crate::swarm::blocks::{Look, Only, Source, blocks};
use crate::swarm::deal::picker;
use crate::swarm::picker::Asker;
use crate::swarm::supply::{Fetch, Mate, Plan, Scene};
use crate::swarm::{FetchKey, LATELY, OriginKey, Output, PROSPECT_WAIT, PeerKey, ReaderKey, Swarm};
use crate::units::lab::Buy;
use crate::units::{Block, ByteRange, Cause, OriginPolicy, Time};

/// An origin that ends a fetch without a byte of it is left alone for so long.
const EMPTY_PAUSE: Duration = Duration::from_secs(5);
/// Plans are no finer than this: time goes on between two looks.
const PLAN_GRAIN: Duration = Duration::from_millis(1);

impl Swarm {
    /// `file_range`: bytes of the torrent that it has. `direct`: the player asked for this very
    /// origin, so its bytes go out before their hash is known.
    pub fn add_origin(&mut self, now: Time, file_range: ByteRange, direct: bool) -> OriginKey {
        self.now = now;
        let origin = self.supply.add_origin(file_range, direct);
        self.replan = true;
        self.settle(now);
        origin
    }

    pub fn remove_origin(&mut self, now: Time, origin: OriginKey) {
        self.now = now;
        for fetch in self.supply.remove_origin(origin) {
            self.give_back(&fetch, true);
            self.outputs
                .push_back(Output::CancelFetch { fetch: fetch.key });
        }
        self.orphan(now, Only::Origin(origin));
        self.settle(now);
    }

    /// What the connection has measured.
    pub fn set_estimate(&mut self, origin: OriginKey, first_byte: Duration, bytes_per_s: f64) {
        self.supply.set_estimate(origin, first_byte, bytes_per_s);
    }

    pub fn origin_down(&mut self, now: Time, origin: OriginKey, until: Time) {
        self.now = now;
        self.supply.set_down(origin, until);
        self.replan = true;
        self.settle(now);
    }

    /// Bytes that a passthrough has or is getting are a fetch, counted there. To be fed from
    /// `range.start` on. `None` while the metadata is unknown.
    pub fn adopt(&mut self, now: Time, origin: OriginKey, range: ByteRange) -> Option<FetchKey> {
        self.now = now;
        let torrent = self.torrent.as_mut()?;
        let range = range.and(ByteRange::new(0, torrent.layout.length()));
        let key = self.supply.start(now, origin, range, Cause::Start)?.key;
        self.supply.fetch_mut(key)?.counted = false;
        torrent.requests.buy(range, key);
        Some(key)
    }

    /// The next bytes of a fetch, in order.
    pub fn handle_fetch_bytes(&mut self, now: Time, key: FetchKey, bytes: &[u8]) {
        self.now = now;
        let len = u64::try_from(bytes.len()).expect("usize fits");
        let Some(fetch) = self.supply.fetch_mut(key) else {
            self.stats.bytes.wasted += len;
            return;
        };
        let range = ByteRange::new(fetch.at, (fetch.at + len).min(fetch.range.end));
        fetch.at = range.end;
        fetch.progress = now;
        let fetch = fetch.clone();
        if fetch.disowned {
            self.resume(key, range.start);
        }
        if fetch.counted {
            self.stats.bytes.from_origin += len;
            self.stats.origin_bytes_by_cause.add(fetch.cause, len);
        }
        let stored = self.pour(&fetch, range);
        self.stats.bytes.wasted += len - stored;
        if fetch.direct {
            self.advance_readers(now);
        }
        self.settle(now);
    }

    pub fn handle_fetch_done(&mut self, now: Time, key: FetchKey) {
        self.now = now;
        if let Some(fetch) = self.supply.finish(key) {
            let short = fetch.at < fetch.range.end;
            self.give_back(&fetch, true);
            if fetch.at == fetch.range.start && short {
                self.supply.set_down(fetch.origin, now + EMPTY_PAUSE);
            }
            if short {
                self.orphan(now, Only::Origin(fetch.origin));
            }
        }
        self.replan = true;
        self.settle(now);
    }

    /// `retry_at`: `None` if asking again is no use (it ignores ranges, or has no such file): this
    /// origin is asked no more, whatever is measured of it. `remove_origin` and `add_origin` begin
    /// anew. See [`Swarm::is_stranded`].
    pub fn handle_fetch_failed(&mut self, now: Time, key: FetchKey, retry_at: Option<Time>) {
        self.now = now;
        if let Some(fetch) = self.supply.finish(key) {
            let until = retry_at.unwrap_or(Time::NEVER);
            self.supply.set_down(fetch.origin, until);
            self.give_back(&fetch, true);
            self.orphan(now, Only::Origin(fetch.origin));
        }
        self.replan = true;
        self.settle(now);
    }

    /// Buys for each reader what is due, and notes when to look again.
    pub(in crate::swarm) fn plan(&mut self, now: Time) {
        self.plan_at = Time::NEVER;
        self.alone = false;
        let Some(torrent) = &self.torrent else {
            return;
        };
        if self.losses.pauses_all() {
            return;
        }
        let length = torrent.layout.length();
        self.meet_crowd(now);
        let mut order: Vec<(f64, usize)> = Vec::new();
        for (key, reader) in &self.readers {
            if reader.is_hungry() && reader.ready() < length {
                order.push((reader.slack_s(now, reader.ready()), key));
            }
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, key) in order {
            while let Some(plan) = self.plan_one(now, ReaderKey(key)) {
                match plan {
                    Plan::Wait(until) => {
                        self.plan_at = self.plan_at.min(until.max(now + PLAN_GRAIN));
                        break;
                    }
                    Plan::Buy {
                        origin,
                        range,
                        cause,
                    } => {
                        if range.is_empty() || !self.fetch(now, origin, range, cause) {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn plan_one(&mut self, now: Time, key: ReaderKey) -> Option<Plan> {
        let torrent = self.torrent.as_ref()?;
        let reader = self.readers.get(key.0)?;
        let origin = match self.supply.choose(now, reader) {
            Ok(origin) => origin,
            Err(until) => return Some(Plan::Wait(until)),
        };
        let sessions = self.peers.iter().filter_map(|(key, peer)| {
            let session = peer.ready()?;
            Some(Mate {
                key,
                pieces: session.pieces(),
                usable: peer.delivers() && !session.pieces().is_subset(&self.have),
                finish_s: peer.finish_s(),
                rate: peer.pace.rate(),
                young: peer.is_young(now),
                srtt_s: peer.pace.srtt().as_secs_f64(),
                outstanding: peer.pace.outstanding(),
                queue: &peer.queue,
                rival: peer.rival(now),
            })
        });
        let mates: Vec<_> = sessions.collect();
        let alone = mates.iter().all(|mate| !mate.usable);
        let delivered = if alone { self.delivered } else { Some(now) };
        let lately_until = delivered.map_or(Time::ZERO, |at| at + LATELY);
        let alone_since = alone.then(|| self.alone_since.unwrap_or(now));
        let forsaken_at = alone_since.map_or(Time::NEVER, |since| {
            since.max(reader.opened()) + PROSPECT_WAIT
        });
        let asked = now < self.answer_by;
        let called = asked || self.peers.iter().any(|(_, peer)| peer.is_prospect());
        let scene = Scene {
            now,
            layout: &torrent.layout,
            requests: &torrent.requests,
            rarity: &torrent.rarity,
            lot: self.lot,
            mates: &mates,
            prospects: called && now.since(reader.opened()) < PROSPECT_WAIT,
            forsaken: forsaken_at <= now,
            lately: lately_until > now && !reader.is_starting(),
        };
        if self.setup.lab.buy == Buy::WebSeed {
            return self.plan_web_seed(now, origin);
        }
        let plan = self.supply.plan(&scene, reader, origin);
        let mut until_alone = match scene.prospects {
            true if asked => self.answer_by.min(reader.opened() + PROSPECT_WAIT),
            true => reader.opened() + PROSPECT_WAIT,
            false => Time::NEVER,
        };
        if !scene.forsaken {
            until_alone = until_alone.min(forsaken_at);
        }
        if alone && scene.lately {
            until_alone = until_alone.min(lately_until);
        }
        self.alone |= alone;
        self.alone_since = alone_since;
        self.delivered = delivered;
        match plan {
            Plan::Wait(until) => Some(Plan::Wait(until.min(until_alone))),
            buy => Some(buy),
        }
    }

    /// As a peer that has everything would be asked (BEP 19): piece by piece, whatever is due when.
    fn plan_web_seed(&self, now: Time, key: OriginKey) -> Option<Plan> {
        let torrent = self.torrent.as_ref()?;
        let readers = &self.readers;
        let picker = picker(now, torrent, readers, self.want_all, &self.setup);
        let mut all = self.have.clone();
        all.insert_range(..);
        let asker = Asker {
            key: PeerKey(usize::MAX),
            pieces: &all,
            eta_s: 0.0,
            allowed: None,
        };
        let Some(piece) = picker.next(&asker) else {
            return Some(Plan::Wait(Time::NEVER));
        };
        let range = torrent.layout.piece_range(piece);
        let missing = |block: &Block| {
            let look = torrent.requests.look(*block);
            look == Look::Missing { bought: false }
        };
        let mut rest = blocks(&torrent.layout, range).skip_while(|block| !missing(block));
        let first = rest.next()?;
        let last = rest.take_while(missing).last().unwrap_or(first);
        let start = torrent.requests.lacks_from(first);
        let range = ByteRange::new(start, torrent.layout.block_range(last).end);
        let range = range.and(self.supply.range(key)?);
        Some(Plan::Buy {
            origin: key,
            range,
            cause: Cause::Hedge,
        })
    }

    pub(in crate::swarm) fn fetch(
        &mut self,
        now: Time,
        origin: OriginKey,
        range: ByteRange,
        cause: Cause,
    ) -> bool {
        let Some(torrent) = &mut self.torrent else {
            return false;
        };
        let Some(fetch) = self.supply.start(now, origin, range, cause) else {
            return false;
        };
        let hedged = cause == Cause::Hedge && self.setup.policy == OriginPolicy::Hybrid;
        let asked = blocks(&torrent.layout, range).filter(|_| hedged);
        let asked = asked.flat_map(|block| {
            let peers = match torrent.requests.look(block) {
                Look::Asked { peers, .. } => peers,
                _ => [None; 2],
            };
            peers.into_iter().flatten().map(move |key| (block, key))
        });
        let late: Vec<_> = asked.collect();
        torrent.requests.buy(range, fetch.key);
        self.outputs.push_back(Output::Fetch {
            fetch: fetch.key,
            origin,
            range,
            cause,
        });
        // Peers that would bring it too late have better things to bring.
        for (block, key) in late {
            self.cancel(key, block);
            self.release(block, key);
        }
        true
    }

    /// A silent fetch: peers may have its blocks.
    pub(in crate::swarm) fn disown(&mut self, fetch: &Fetch) {
        self.give_back(fetch, false);
        self.deal = true;
    }

    /// It speaks again: what of it nobody has brought meanwhile is its own again.
    fn resume(&mut self, key: FetchKey, from: u64) {
        let Some(fetch) = self.supply.resume(key) else {
            return;
        };
        if let Some(torrent) = &mut self.torrent {
            let rest = ByteRange::new(from, fetch.range.end);
            torrent.requests.buy(rest, key);
        }
    }

    /// `over`: nothing more comes of it.
    pub(in crate::swarm) fn give_back(&mut self, fetch: &Fetch, over: bool) {
        if let Some(torrent) = &mut self.torrent {
            torrent.requests.unbuy(fetch.range, fetch.key, over);
        }
        self.deal = true;
        self.replan = true;
    }

    /// Stores what of `range` this fetch is to write; how many bytes those are.
    fn pour(&mut self, fetch: &Fetch, range: ByteRange) -> u64 {
        let Some(torrent) = &mut self.torrent else {
            return 0;
        };
        let layout = std::sync::Arc::clone(&torrent.layout);
        let source = Source::Origin {
            origin: fetch.origin,
            direct: fetch.direct,
        };
        let mut stored = 0;
        let mut run: Option<ByteRange> = None;
        let mut rivals = Vec::new();
        for block in blocks(&layout, range) {
            let part = layout.block_range(block).and(range);
            let poured = torrent.requests.pour(part, fetch.key, source);
            rivals.extend(poured.rivals.into_iter().flatten().map(|key| (key, block)));
            let base = layout.block_range(block).start;
            for part in poured.parts.into_iter().filter(|part| !part.is_empty()) {
                let start = base + u64::from(part.start);
                let written = ByteRange::new(start, base + u64::from(part.end));
                stored += written.len();
                run = match run {
                    Some(run) if run.end == written.start && part.start + block.block.0 > 0 => {
                        Some(ByteRange::new(run.start, written.end))
                    }
                    before => {
                        self.outputs
                            .extend(before.map(|before| store(range, before)));
                        Some(written)
                    }
                };
            }
        }
        if let Some(run) = run {
            self.outputs.push_back(store(range, run));
        }
        for (key, block) in rivals {
            self.cancel(key, block);
        }
        stored
    }
}

/// `range` is where in the torrent the bytes just handed in lie.
fn store(range: ByteRange, written: ByteRange) -> Output {
    let offset = |at: u64| usize::try_from(at - range.start).expect("inside the bytes");
    Output::Store {
        range: written,
        at: offset(written.start)..offset(written.end),
    }
}
