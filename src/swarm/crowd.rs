//! Whom to call, whom to upload to, and what is shown of all that.

use std::net::SocketAddr;
use std::time::Duration;

use crate::peer::session;
use crate::swarm::choker::{self, Candidate};
use crate::swarm::dialer::Found;
use crate::swarm::stats::{PeerView, ReaderView, Stats};
use crate::swarm::{MORE_PEERS_EVERY, Output, PEERS_ENOUGH, Swarm, wake};
use crate::units::Time;

/// So many viewers within so much of the film, s, are a crowd.
const CROWD: usize = 3;
const CROWD_S: f64 = 4.0;
/// Most trackers answer within this time; the others are not waited for.
pub(in crate::swarm) const ANSWER_WAIT: Duration = Duration::from_millis(300);
/// Addresses that are due but in use are looked at again after this long.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// Who has a slot and asks for nothing for so long does not use it.
const IDLE: Duration = Duration::from_millis(200);

/// Addresses, choking, and what is shown.
impl Swarm {
    /// The driver has checked that they may be connected to (R19, R20).
    pub fn add_addresses(&mut self, now: Time, addrs: &[SocketAddr], found: Found) {
        self.now = now;
        for &addr in addrs {
            self.dialer.add(now, addr, found);
        }
        if found == Found::Tracker {
            self.answer_by = Time::ZERO;
            // Whom is called matters to what is bought.
            self.dial(now);
            self.replan = true;
        }
        self.settle(now);
    }

    pub(in crate::swarm) fn dial(&mut self, now: Time) {
        while self.wants_peers() {
            let Some(addr) = self.dialer.poll_dial(now) else {
                break;
            };
            if self
                .peers
                .iter()
                .any(|(_, peer)| peer.listens == Some(addr))
            {
                self.dialer.handle_reached(now, addr);
                continue;
            }
            let peer = self.peers.add(addr, None);
            self.outputs.push_back(Output::Dial { peer, addr });
        }
        let few = self.peers.count() < PEERS_ENOUGH.min(self.setup.limits.peers_max);
        if few && self.wanting_peers() && now >= self.more_peers_at {
            self.more_peers_at = now + MORE_PEERS_EVERY;
            self.answer_by = now + ANSWER_WAIT;
            self.outputs.push_back(Output::MorePeers);
        }
    }

    /// A film that many begin together is begun a little later: there is more of it to hand on.
    pub(in crate::swarm) fn meet_crowd(&mut self, now: Time) {
        let Some(torrent) = &self.torrent else { return };
        let piece_len = f64::from(torrent.layout.nominal_piece_len());
        for (_, reader) in &mut self.readers {
            if !reader.may_be_in_crowd() {
                continue;
            }
            let ours = torrent.layout.piece_of(reader.ready()).0;
            let near = self.peers.iter().filter(|(_, peer)| {
                let front = peer.rival(now).map(|(_, front)| front);
                let apart = front.map(|front| f64::from(front.abs_diff(ours)) * piece_len);
                apart.is_some_and(|apart| apart < CROWD_S * reader.rate())
            });
            if near.count() >= CROWD {
                reader.handle_crowd();
            }
        }
    }

    /// Whether peers are of use: for readers, for metadata, or to seed.
    fn wanting_peers(&self) -> bool {
        !self.shut_down && (self.torrent.is_none() || self.wanting())
    }

    pub(in crate::swarm) fn wants_peers(&self) -> bool {
        !self.shut_down && self.peers.count() < self.setup.limits.peers_max
    }

    pub(in crate::swarm) fn dial_at(&self) -> Time {
        if !self.wants_peers() {
            return Time::NEVER;
        }
        let due = self.dialer.next_timeout();
        // What is due and was not dialled waits for a connection to end.
        if due <= self.now {
            self.now + DIAL_AGAIN
        } else {
            due
        }
    }

    /// `at_once`: somebody became interested, or a slot free.
    pub(in crate::swarm) fn choose_uploads(&mut self, now: Time, at_once: bool) {
        let Some(torrent) = &self.torrent else {
            if !at_once {
                self.choker.handle_timeout(now, None, &[]);
            }
            return;
        };
        let count = torrent.layout.piece_count();
        let span = choker::RECHOKE.as_secs_f64();
        let mut candidates = Vec::new();
        let have = &self.have;
        for (key, peer) in self.peers.iter_mut() {
            let Some(session) = peer.session.as_ref().filter(|session| session.ready()) else {
                continue;
            };
            let (down, up) = (peer.bytes_down - peer.marks.0, peer.bytes_up - peer.marks.1);
            if !at_once {
                peer.marks = (peer.bytes_down, peer.bytes_up);
            }
            let first_missing = peer.front.map_or(count, |front| front.at());
            let interested = session.interested_in_us();
            candidates.push(Candidate {
                key,
                interested,
                lacks: interested && have.difference(session.pieces()).next().is_some(),
                idle: !session.choked()
                    && session.next_upload().is_none()
                    && now.since(peer.took_at) >= IDLE,
                first_missing,
                have_count: session.held(),
                rate_to_us: float(down) / span,
                rate_from_us: float(up) / span,
            });
        }
        let lacks = self.have.zeroes().next();
        let lacks = lacks.map(|piece| u32::try_from(piece).expect("at most the pieces"));
        let hungry = self.readers.iter().filter(|(_, reader)| reader.is_hungry());
        let reads = hungry.map(|(_, reader)| torrent.layout.piece_of(reader.ready()).0);
        // Where we are in the film; a seed is nowhere.
        let ours = lacks.map(|lacks| reads.min().unwrap_or(lacks));
        self.choker.set_slots(match self.setup.lab.no_upload {
            true => 0,
            false => choker::slots(self.setup.limits.upload_slots, self.serving.width()),
        });
        if at_once {
            self.choker.handle_interested(now, ours, &candidates);
        } else {
            self.choker.handle_timeout(now, ours, &candidates);
        }
        for candidate in candidates {
            let choke = !self.choker.unchoked().contains(&candidate.key);
            let Some(peer) = self.peers.get_mut(candidate.key) else {
                continue;
            };
            if let Some(session) = &mut peer.session
                && session.choked() != choke
            {
                session.choke(choke);
                self.turn = true;
                peer.took_at = now;
                wake(&mut self.outputs, candidate.key, &mut peer.woken);
            }
        }
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        if let Some(torrent) = &self.torrent {
            stats.length = torrent.layout.length();
            stats.pieces = torrent.layout.piece_count();
            stats.have_pieces = stats.pieces - torrent.left;
        }
        let sessions = || self.peers.iter().filter_map(|(_, peer)| peer.ready());
        stats.peers = sessions().count();
        stats.peers_unchoked = sessions().filter(|session| !session.choking_us()).count();
        for (_, reader) in &self.readers {
            stats.stalls += u64::from(reader.stalls());
            stats.stall_s += reader.stall_s(self.now);
            stats.deadline_missed += reader.missed();
            stats.readers.push(ReaderView {
                offset: reader.pos(),
                slack_s: reader.slack_s(self.now, reader.ready()),
                stalls: reader.stalls(),
                stall_s: reader.stall_s(self.now),
            });
        }
        stats
    }

    /// Whether a peer that we unchoked wants what we have.
    pub fn is_supplying(&self) -> bool {
        let mut sessions = self.peers.iter().filter_map(|(_, peer)| peer.ready());
        sessions.any(|session| session.interested_in_us() && !session.choked())
    }

    /// Those that shook hands.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().filter_map(|(key, peer)| {
            let session = peer.ready()?;
            Some(PeerView {
                key,
                addr: peer.addr,
                incoming: peer.incoming,
                client: session.client().map(str::to_owned),
                have_pieces: session.held(),
                choking_us: session.choking_us(),
                choked: session.choked(),
                interested_in_us: session.interested_in_us(),
                late: peer.late,
                rate: peer.pace.rate(),
                srtt_s: peer.pace.srtt().as_secs_f64(),
                outstanding: peer.pace.outstanding(),
                bytes_down: peer.bytes_down,
                bytes_up: peer.bytes_up,
            })
        })
    }

    pub(in crate::swarm) fn session_setup(&self) -> session::Setup {
        session::Setup {
            info_hash: self.setup.info_hash,
            peer_id: self.setup.peer_id,
            listen_port: self.setup.listen_port,
            pieces: self
                .torrent
                .as_ref()
                .map(|torrent| torrent.layout.piece_count()),
            metadata_len: self.torrent.as_ref().map(|torrent| torrent.info_len),
            upload_only: self.upload_only || self.is_complete(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}
