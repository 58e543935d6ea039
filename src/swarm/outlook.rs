//! One reader, seen from one origin: what to buy for it next, and when.

use std::time::Duration;

use crate::swarm::blocks::{Look, blocks};
use crate::swarm::reader::{PROMOTED_AFTER, Reader, TARGET};
use crate::swarm::rendezvous::{AHEAD_S, Turn, competes};
use crate::swarm::supply::{Mate, Origin, Plan, Scene};
use crate::swarm::{OriginKey, PeerKey};
use crate::units::lab::{Buy, FALLBACK_S, Lab};
use crate::units::{Block, ByteRange, Cause, OriginPolicy, PieceIndex, Time};

/// So much film is a start, s.
const START_S: f64 = 2.0;
/// Of a cold window so much is bought at once, s, within these bounds of bytes: peers that are just
/// being met may bring the rest.
const FIRST_S: f64 = 0.5;
const START_BYTES_MIN: u64 = 64 << 10;
const START_BYTES_MAX: u64 = 1 << 20;
/// The same of a film whose rate is a guess.
const START_BYTES_GUESSED: u64 = 128 << 10;
/// A crowd that waits for its start throws in what is needed so soon, s: with less it would have
/// nothing to hand on afterwards, with more the origin would be too slow for its starts.
const CROWD_AHEAD_S: f64 = 11.0;
/// What is needed later than this, s, is not bought in place of peers for who is held back in a
/// crowd: until all have something to hand on, the origin is for that.
const CROWD_BUYS_S: f64 = 2.0;
/// One hedge: what abandoning it costs at most.
pub const HEDGE_BYTES_MAX: u64 = 256 << 10;
/// And what an origin brings in this time, s, if that is more than a piece.
const GRANULE_S: f64 = 0.1;
/// One purchase of what no peer has.
const UNSEEN_BYTES_MAX: u64 = 1 << 20;
/// With no peer at all purchases grow to this.
const LONE_BYTES_MAX: u64 = 4 << 20;
/// How far ahead of the reader the origin alone works: the longer of the two.
const LONE_LEAD_S: f64 = 20.0;
const LONE_LEAD_BYTES: u64 = 4 << 20;
/// The same while peers are being called that may yet take over: ahead of the film, however
/// greedily it is read; little at first, and as much within a second or two.
const PROSPECT_FIRST_S: f64 = 0.5;
const PROSPECT_FIRST_BYTES: u64 = 128 << 10;
const PROSPECT_LEAD_S: f64 = 2.0;
const PROSPECT_LEAD_BYTES: u64 = 512 << 10;
/// For a start one range at a time is enough of an origin that is so many times faster than the
/// film.
const FAST_TIMES: f64 = 1.5;
/// Everything so far ahead is bought at once under `OriginPolicy::Eager`, s.
const EAGER_S: f64 = 60.0;
/// Share of the margin at which everything missing is bought.
const LAST_MARGIN: f64 = 0.3;
/// A block is expected in time if it comes so long before its deadline, s.
const IN_TIME_S: f64 = 0.2;
/// What would be late so little after that is bought with what is late, s.
const NEARLY_S: f64 = 0.5;
/// Peers that promise to be faster than the origin get this head start at least.
const HEAD_START: Duration = Duration::from_millis(250);
/// While peers are being called the film's clock is looked at so often.
const PROSPECT_LOOK_S: f64 = 0.1;
/// Bounds of the wait between two looks at blocks that are due and expected.
const LOOK_AGAIN_S: (f64, f64) = (0.05, 0.5);

/// One reader, seen from one origin.
pub struct Outlook<'a> {
    pub scene: &'a Scene<'a>,
    pub reader: &'a Reader,
    pub origin: &'a Origin,
    /// Bytes that this origin is still to bring.
    pub to_come: u64,
    pub margin_s: f64,
    pub policy: OriginPolicy,
    pub lab: Lab,
}

/// A purchase, and how many seconds before or since its time: the least is the most urgent.
struct Due {
    over_s: f64,
    plan: Plan,
}

impl Outlook<'_> {
    /// No peer delivers: the origin carries the film, as fast as it is read, in ranges that grow.
    pub fn alone(&self, key: OriginKey) -> Plan {
        let now = self.scene.now;
        let reader = self.reader;
        let rate = reader.rate();
        let waited_s = now.since(reader.opened()).as_secs_f64();
        let lead = if !self.scene.prospects {
            LONE_LEAD_BYTES.max(bytes(rate * LONE_LEAD_S)) + reader.pos()
        } else if reader.knows_rate() {
            let due = reader.reach(now, (PROSPECT_FIRST_S + waited_s).min(PROSPECT_LEAD_S));
            due.max(reader.range().start + START_BYTES_MIN)
        } else {
            let lead = PROSPECT_FIRST_BYTES + bytes(waited_s * float(PROSPECT_LEAD_BYTES));
            reader.reach(now, 0.0) + lead.min(PROSPECT_LEAD_BYTES)
        };
        let layout = self.scene.layout;
        let from = self.first_byte();
        let window = ByteRange::new(from, lead.clamp(from, self.end()));
        let wanted = self.each_missing(window).next();
        let Some(first) = wanted else {
            let due = self.scene.prospects && !reader.is_frozen();
            let again = now + seconds(PROSPECT_LOOK_S);
            return Plan::Wait(if due { again } else { Time::NEVER });
        };
        // A range that shares the line with one under way delays what the player begins with.
        let early = self.to_come.saturating_sub(self.origin.pipeline());
        let begins = reader.ready() < reader.range().start + bytes(rate * START_S);
        if begins && early > 0 && self.origin.rate > FAST_TIMES * rate {
            return Plan::Wait(now + seconds(float(early) / self.origin.rate));
        }
        let room = bytes(self.origin.rate).clamp(HEDGE_BYTES_MAX, LONE_BYTES_MAX);
        // In unequal steps, so that two fetches that share the line do not end together.
        let size = self.start_size() << (2 * self.origin.runs.min(4));
        let size = if self.scene.prospects {
            let left = window.end.saturating_sub(layout.block_range(first).start);
            size.min(START_BYTES_MAX).min(left)
        } else {
            size.min(room)
        };
        let cause = self.cause(Cause::Hedge);
        self.run(key, first, size, cause, |_| true)
    }

    /// There are peers: the origin brings what they cannot in time, and what nobody has.
    pub fn beside_peers(&self, key: OriginKey) -> Plan {
        let early_s = self.slack_s(self.first_byte()) - CROWD_BUYS_S;
        let hedge = match self.reader.held_until().is_some() && early_s > 0.0 {
            true => Err(self.scene.now + seconds(early_s)),
            false => self.hedge(key),
        };
        match (hedge, self.inject(key)) {
            (Ok(hedge), Ok(inject)) if inject.over_s < hedge.over_s => inject.plan,
            (Ok(due), _) | (Err(_), Ok(due)) => due.plan,
            (Err(hedge), Err(inject)) => Plan::Wait(hedge.min(inject)),
        }
    }

    /// What peers cannot bring in time; or when to look again.
    fn hedge(&self, key: OriginKey) -> Result<Due, Time> {
        let now = self.scene.now;
        let from = self.first_byte();
        let horizon = self.horizon().clamp(from, self.end());
        let layout = self.scene.layout;
        let mut wait = Time::NEVER;
        if self.lab.no_hedge && !self.reader.is_starting() {
            return Err(wait);
        }
        let mut expected = Expectation::new(self.scene, self.reader.rate());
        // No deadline of a guess is worth more than peers that keep up with it.
        let carried = !self.reader.knows_rate()
            && !self.reader.is_starting()
            && self.policy == OriginPolicy::Hybrid
            && expected.rate >= self.reader.rate();
        for piece in layout.pieces_of(ByteRange::new(from, horizon)) {
            let piece = PieceIndex(piece);
            if self.is_drawn_for(piece) {
                continue;
            }
            let range = layout.piece_range(piece);
            let slack_s = self.slack_s(range.start);
            let times = expected.piece(range);
            if times.is_empty() {
                continue;
            }
            let last_s = times.iter().map(|&(_, at)| at).fold(0.0, f64::max);
            if carried && last_s.is_finite() {
                continue;
            }
            let threshold = match self.threshold(slack_s, last_s) {
                Ok(threshold) => threshold,
                Err(again_s) => {
                    wait = wait.min(now + seconds(again_s));
                    continue;
                }
            };
            let window = ByteRange::new(from, horizon);
            let late = |block: Block, than_s: f64| {
                let due = layout.block_range(block).and(window);
                let time = times.binary_search_by_key(&block, |&(known, _)| known);
                !due.is_empty() && time.is_ok_and(|place| times[place].1 > than_s)
            };
            let mut missing = self.each_missing(range.and(window));
            if let Some(first) = missing.find(|&block| late(block, threshold)) {
                // Other viewers may bring meanwhile what a long range brings last.
                let unseen = last_s.is_infinite() && !self.scene.has_rivals();
                let size = match (self.hurries(), unseen) {
                    (true, _) => self.start_size(),
                    (false, true) => UNSEEN_BYTES_MAX,
                    (false, false) => self.granule(),
                };
                let elsewhere = |block: Block| {
                    block.piece != piece
                        && unseen
                        && layout.block_range(block).start < horizon
                        && !self.is_drawn_for(block.piece)
                };
                let cause = self.cause(Cause::Hedge);
                let plan = self.run(key, first, size, cause, |block| {
                    late(block, threshold - NEARLY_S) || elsewhere(block)
                });
                let over_s = slack_s - self.lead_s();
                return Ok(Due { over_s, plan });
            }
            wait = wait.min(now + seconds(LOOK_AGAIN_S.1));
        }
        Err(wait.min(self.enters_at(horizon, self.lead_s())))
    }

    /// What nobody has and whose turn has come to be fetched by us; or when it may be.
    fn inject(&self, key: OriginKey) -> Result<Due, Time> {
        let now = self.scene.now;
        let reader = self.reader;
        let mut wait = Time::NEVER;
        if !self.injects() {
            return Err(wait);
        }
        let from = self.first_byte();
        let mut horizon = reader.reach(now, AHEAD_S);
        if reader.is_probe() {
            horizon = horizon.min(match reader.is_in_crowd() {
                true => reader.reach(now, CROWD_AHEAD_S),
                false => reader.range().start + PROMOTED_AFTER,
            });
        }
        let window = ByteRange::new(from, horizon.clamp(from, self.end()));
        let layout = self.scene.layout;
        let mut best: Option<(f64, Block)> = None;
        for piece in layout.pieces_of(window) {
            let piece = PieceIndex(piece);
            if !self.is_drawn_for(piece) {
                continue;
            }
            let whole = ByteRange::new(from, self.end());
            let whole = layout.piece_range(piece).and(whole);
            let Some(first) = self.each_missing(whole).next() else {
                continue;
            };
            let over_s = self.over_s(piece);
            if over_s > 0.0 {
                wait = wait.min(now + seconds(over_s));
            } else if best.is_none_or(|(least, _)| over_s < least) {
                best = Some((over_s, first));
            }
        }
        let Some((over_s, first)) = best else {
            if reader.is_frozen() {
                // Its deadlines stand still, and other viewers' are not ours.
                return Err(Time::NEVER);
            }
            return Err(wait.min(self.enters_at(window.end, AHEAD_S)));
        };
        let last_call_s = self.origin.eta_s(HEDGE_BYTES_MAX) + LAST_MARGIN * self.margin_s;
        let last_call = self.slack_s(layout.piece_range(first.piece).start) <= last_call_s;
        let cause = match last_call {
            true => self.cause(Cause::Hedge),
            false => Cause::Inject,
        };
        let due = |block: Block| {
            let other = block.piece != first.piece;
            !other || self.is_drawn_for(block.piece) && self.over_s(block.piece) <= 0.0
        };
        let plan = self.run(key, first, self.granule(), cause, due);
        Ok(Due { over_s, plan })
    }

    /// One purchase beside peers: a piece, or what a fast origin brings at once. A crowd's origin
    /// is slow to each, and the second half of a long range comes too late.
    fn granule(&self) -> u64 {
        let piece = u64::from(self.scene.layout.nominal_piece_len());
        let soon = bytes(self.origin.rate * GRANULE_S);
        soon.clamp(piece.min(HEDGE_BYTES_MAX), HEDGE_BYTES_MAX)
    }

    /// Whether viewers inject at all, and this one now.
    fn injects(&self) -> bool {
        self.policy == OriginPolicy::Hybrid
            && self.lab.buy == Buy::Hybrid
            && !self.lab.no_inject
            && !self.scene.rarity.has_seeds()
            && !self.hurries()
    }

    /// It waits for its first byte, and others do not wait for the same.
    fn hurries(&self) -> bool {
        self.reader.is_starting() && !self.reader.is_in_crowd()
    }

    /// Nobody has the piece: it is fetched by who drew the lot.
    fn is_drawn_for(&self, piece: PieceIndex) -> bool {
        self.injects() && self.scene.rarity.of(piece) == 0
    }

    /// Seconds until it is our turn to fetch a piece that nobody has.
    fn over_s(&self, piece: PieceIndex) -> f64 {
        let scene = self.scene;
        let range = scene.layout.piece_range(piece);
        let slack_s = self.slack_s(range.start);
        let relay_s = float(u64::from(scene.layout.nominal_piece_len())) / self.reader.rate();
        let rivals = scene.mates.iter().filter_map(|mate| {
            let (lot, front) = mate.rival?;
            let theirs_s = (f64::from(piece.0) - f64::from(front)) * relay_s;
            let lacks = !mate.pieces.contains(piece.at());
            (lacks && competes(theirs_s, slack_s)).then_some(lot)
        });
        let turn = match self.lab.no_rank {
            true => Turn { rank: 0, of: 1 },
            false => Turn::of(piece, scene.lot, rivals),
        };
        let origin_s = self.origin.eta_s(HEDGE_BYTES_MAX);
        slack_s - turn.due_s(origin_s, self.margin_s, relay_s)
    }

    /// Until the first byte of these that the reader lacks is needed, s.
    fn slack_s(&self, start: u64) -> f64 {
        let at = start.max(self.reader.ready());
        self.reader.slack_s(self.scene.now, at)
    }

    /// When the piece after those that end at `horizon` is due in `lead_s`.
    fn enters_at(&self, horizon: u64, lead_s: f64) -> Time {
        if horizon >= self.end() || self.reader.is_frozen() || self.hurries() {
            return Time::NEVER;
        }
        let layout = self.scene.layout;
        let next = layout.piece_range(layout.piece_of(horizon)).end;
        let due_s = self.slack_s(next) - lead_s;
        self.scene.now + seconds(due_s.max(LOOK_AGAIN_S.0))
    }

    /// Blocks expected later than this many seconds from now are bought; or in how many seconds to
    /// look at the piece again, whose last block is expected in `last_s`.
    fn threshold(&self, slack_s: f64, last_s: f64) -> Result<f64, f64> {
        let look_again = last_s.clamp(LOOK_AGAIN_S.0, LOOK_AGAIN_S.1);
        let origin_s = self.origin.eta_s(HEDGE_BYTES_MAX);
        if self.policy == OriginPolicy::Eager {
            return Ok(0.0);
        }
        if self.lab.buy == Buy::Fallback {
            return match slack_s <= FALLBACK_S {
                true => Ok(-1.0),
                false => Err(slack_s - FALLBACK_S),
            };
        }
        let last_call_s = origin_s + LAST_MARGIN * self.margin_s;
        if self.policy == OriginPolicy::LastResort {
            return if slack_s <= last_call_s {
                Ok(f64::MAX)
            } else {
                Err(slack_s - last_call_s)
            };
        }
        if self.hurries() {
            if last_s > origin_s.min(TARGET.as_secs_f64()) {
                return Ok(origin_s);
            }
            let waited = self.scene.now.since(self.reader.opened());
            let start_s = slack_s - self.origin.eta_s(START_BYTES_MIN);
            if waited < HEAD_START || start_s > 0.0 {
                let head_start = HEAD_START.saturating_sub(waited).as_secs_f64();
                return Err(head_start.max(start_s));
            }
            return Ok(0.0);
        }
        let hedge_s = slack_s - origin_s - self.margin_s;
        if hedge_s > 0.0 {
            return Err(hedge_s);
        }
        if slack_s <= last_call_s && last_s > slack_s * 0.5 {
            return Ok(slack_s.max(0.0) * 0.5);
        }
        if last_s > slack_s - IN_TIME_S {
            return Ok(slack_s - IN_TIME_S);
        }
        Err(look_again)
    }

    /// The contiguous run of wanted blocks from `first` on.
    fn run(
        &self,
        origin: OriginKey,
        first: Block,
        size: u64,
        cause: Cause,
        wanted: impl Fn(Block) -> bool,
    ) -> Plan {
        let layout = self.scene.layout;
        let start = self.scene.requests.lacks_from(first);
        let limit = ByteRange::new(start, (start + size).min(self.end()).max(start));
        let mut end = start;
        for block in blocks(layout, limit) {
            if !self.is_missing(block) || !(block == first || wanted(block)) {
                break;
            }
            end = layout.block_range(block).end;
        }
        let range = ByteRange::new(start, end).and(self.origin.range);
        Plan::Buy {
            origin,
            range,
            cause,
        }
    }

    /// Where the origin's work for this reader begins: unverified pieces of an origin whose bytes
    /// are not shown must be had whole.
    fn first_byte(&self) -> u64 {
        let layout = self.scene.layout;
        let ready = self.reader.ready();
        // What is here and not shown waits for the rest of its piece, which may begin before it.
        let unshown = ready < layout.length()
            && self.scene.requests.look(layout.block_of(ready)) == Look::Stored;
        let start = if self.origin.direct && !unshown {
            layout.block_range(layout.block_of(ready)).start
        } else {
            layout.piece_range(layout.piece_of(ready)).start
        };
        start.max(self.origin.range.start)
    }

    /// Where it ends.
    fn end(&self) -> u64 {
        let layout = self.scene.layout;
        let last = self.reader.range().end - 1;
        let end = if self.origin.direct {
            layout.block_range(layout.block_of(last)).end
        } else {
            layout.piece_range(layout.piece_of(last)).end
        };
        end.min(self.origin.range.end)
    }

    fn horizon(&self) -> u64 {
        let reader = self.reader;
        let now = self.scene.now;
        if self.policy == OriginPolicy::Eager {
            reader.reach(now, self.lead_s())
        } else if reader.is_starting() {
            reader.range().start + self.start_size()
        } else {
            reader.reach(now, self.lead_s())
        }
    }

    /// The origin concerns itself with what is due within this many seconds.
    fn lead_s(&self) -> f64 {
        if self.lab.buy == Buy::Fallback {
            return FALLBACK_S;
        }
        if self.policy == OriginPolicy::Eager {
            return EAGER_S;
        }
        self.origin.eta_s(HEDGE_BYTES_MAX) + self.margin_s
    }

    fn start_size(&self) -> u64 {
        let film = bytes(self.reader.rate() * FIRST_S);
        let most = match self.reader.knows_rate() {
            true => START_BYTES_MAX,
            false => START_BYTES_GUESSED,
        };
        film.clamp(START_BYTES_MIN, most)
    }

    /// `then`: why, once the first seconds are there.
    fn cause(&self, then: Cause) -> Cause {
        let film = bytes(self.reader.rate() * START_S);
        let start = film.clamp(START_BYTES_MIN, START_BYTES_MAX);
        match self.reader.ready() < self.reader.range().start + start {
            true => Cause::Start,
            false => then,
        }
    }

    fn each_missing(&self, range: ByteRange) -> impl Iterator<Item = Block> + '_ {
        blocks(self.scene.layout, range).filter(|&block| self.is_missing(block))
    }

    /// Neither here nor bought, and the origin has what lacks of it.
    fn is_missing(&self, block: Block) -> bool {
        match self.scene.requests.look(block) {
            Look::Stored | Look::Bought => false,
            Look::Asked { bought, .. } => !bought,
            Look::Missing { bought } => {
                !bought && !self.scene.requests.covers(block, self.origin.range)
            }
        }
    }
}

/// When peers will have brought the blocks of a window, in its order.
struct Expectation<'a> {
    scene: &'a Scene<'a>,
    /// By key.
    mates: Vec<Option<&'a Mate<'a>>>,
    /// Bytes that peers owe or will be asked for before the next missing block.
    ahead: u64,
    rate: f64,
    srtt_s: f64,
}

impl<'a> Expectation<'a> {
    /// With a young one that is not late, peers are taken to carry the film together.
    fn new(scene: &'a Scene<'a>, film: f64) -> Self {
        let usable = || scene.mates.iter().filter(|mate| mate.usable);
        let rate: f64 = usable().map(|mate| mate.rate).sum();
        let young = usable().any(|mate| mate.young);
        let keys = scene.mates.iter().map(|mate| mate.key.0 + 1);
        let mut mates = vec![None; keys.max().unwrap_or(0)];
        for mate in scene.mates {
            mates[mate.key.0] = Some(mate);
        }
        Self {
            scene,
            mates,
            ahead: usable().map(|mate| mate.outstanding).sum(),
            rate: if young { rate.max(film) } else { rate },
            srtt_s: usable().map(|mate| mate.srtt_s).fold(f64::MAX, f64::min),
        }
    }

    /// Until a block is here that a peer was asked for, s.
    fn asked_s(&self, key: PeerKey, block: Block) -> f64 {
        let Some(mate) = self.mates.get(key.0).copied().flatten() else {
            return f64::INFINITY;
        };
        let behind = mate.queue.behind(block).unwrap_or(0);
        let queued_s = match mate.rate > 0.0 {
            true => mate.finish_s - float(behind) / mate.rate,
            false => mate.finish_s,
        };
        // Its turn has not come although it should have, and may not for as long again.
        let queued_s = queued_s.max(mate.queue.overdue_s(self.scene.now, block));
        let coming_s = mate.queue.coming_s(self.scene.now, block);
        coming_s.map_or(queued_s, |coming_s| queued_s.min(coming_s))
    }

    /// The blocks of one piece that are not stored, with the seconds until each is here.
    fn piece(&mut self, range: ByteRange) -> Vec<(Block, f64)> {
        let layout = self.scene.layout;
        let piece = layout.piece_of(range.start);
        let mates = self.scene.mates;
        let somebody = mates
            .iter()
            .any(|mate| mate.usable && mate.pieces.contains(piece.at()));
        let mut times = Vec::new();
        for block in blocks(layout, range) {
            let time = match self.scene.requests.look(block) {
                Look::Stored | Look::Bought => continue,
                Look::Asked { peers, .. } => {
                    let asked = peers.into_iter().flatten();
                    let times = asked.map(|key| self.asked_s(key, block));
                    times.fold(f64::INFINITY, f64::min)
                }
                Look::Missing { .. } if somebody && self.rate > 0.0 => {
                    self.ahead += u64::from(layout.span(block).len);
                    self.srtt_s + float(self.ahead) / self.rate
                }
                Look::Missing { .. } => f64::INFINITY,
            };
            times.push((block, time));
        }
        times
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
pub fn bytes(estimate: f64) -> u64 {
    estimate as u64
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
