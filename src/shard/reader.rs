//! A reply out of a swarm: what is verified goes from the mapped file to the player.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::ring::runtime;
use crate::ring::stream::is_fault;
use crate::shard::Shard;
use crate::shard::entity;
use crate::shard::film::Film;
use crate::shard::host::Host;
use crate::shard::passthrough;
use crate::shard::stub::Ended;
use crate::shard::stub::Player;
use crate::shard::stub::Request;
use crate::store::Part;
use crate::stub::media;
use crate::stub::media::Media;
use crate::stub::reply;
use crate::stub::reply::Failure;
use crate::swarm::ReaderKey;
use crate::units::ByteRange;
use crate::units::Time;

/// As much as one SEND takes of a verified run.
const SEND_MAX: u64 = 256 * 1024;
/// While another player waits for its first byte.
const HURRIED_SEND_MAX: u64 = 64 * 1024;
/// A socket that takes nothing for this long belongs to a paused player.
pub const BLOCKED_AFTER: Duration = Duration::from_millis(300);
/// How often a waiting reader looks whether anything can still come.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A page's first request may wait this long for the first bytes to be looked at.
const SNIFF_WAIT: Duration = Duration::from_secs(30);

/// A reader that closes itself in its swarm.
pub struct OpenReader {
    host: Rc<Host>,
    key: ReaderKey,
    wake: Rc<Notify>,
}

impl Request<'_> {
    pub async fn from_swarm(
        &self,
        player: &mut Player,
        shard: &Rc<Shard>,
        film: &Rc<Film>,
        host: &Rc<Host>,
        file: usize,
    ) -> Ended {
        if self.provenance.web
            && let Err(failure) = self.admit(player, film, host, file).await
        {
            return player.fail(shard, self, &failure).await;
        }
        let entity = entity::of_swarm(film, host, file);
        let plan = reply::plan(self.head, &entity, &self.provenance, self.last);
        let Some(range) = plan.body else {
            let sent = player.sender.send_all(plan.head, false).await;
            return Ended::kept_if(sent.is_ok() && plan.keep_alive);
        };
        let reader = OpenReader::new(host, file, range, self.asked_at);
        let ready = !host.swarm.borrow().readable(reader.key).is_empty();
        // Held back for the first bytes of the body only if those are at hand.
        if player.sender.send_all(plan.head, ready).await.is_err() {
            return Ended::Closed;
        }
        let sent = self.stream(player, shard, film, &reader, range).await;
        Ended::kept_if(sent && plan.keep_alive)
    }

    /// All of `range` of the file, where `reader` begins, or nothing more.
    pub async fn stream(
        &self,
        player: &mut Player,
        shard: &Rc<Shard>,
        film: &Rc<Film>,
        reader: &OpenReader,
        range: ByteRange,
    ) -> bool {
        let host = &reader.host;
        let mut left = range.len();
        let mut first = true;
        let mut hurried = None;
        while left > 0 {
            let ready = host.swarm.borrow().readable(reader.key);
            if ready.is_empty() {
                let stranded = host.swarm.borrow().is_stranded(reader.key);
                if film.origin_only(host, shard.now()) || stranded && film.has_origin() {
                    let rest = ByteRange::new(range.end - left, range.end);
                    let rest = passthrough::go_on(player, shard, film, self, rest);
                    return Box::pin(rest).await;
                }
                if host.shelf.is_full(shard.now()) {
                    tracing::warn!("a player was let go: the disk is full, and no origin helps");
                    return false;
                }
                hurried = hurried.or_else(|| first.then(|| shard.hurry.begin()));
                if !self.wait(player, film, reader).await {
                    return false;
                }
                continue;
            }
            let most = if shard.hurry.is_on() {
                HURRIED_SEND_MAX
            } else {
                SEND_MAX
            };
            let run = ByteRange::new(ready.start, ready.end.min(ready.start + left.min(most)));
            if !reader
                .send(player, run, ready.end.min(ready.start + left))
                .await
            {
                return false;
            }
            if first {
                first = false;
                drop(hurried.take());
            }
            self.handle_sent(shard);
            left -= run.len();
            let unread = player.sender.unread();
            host.swarm
                .borrow_mut()
                .handle_sent(shard.now(), reader.key, run.len(), unread);
            host.drain(&[]);
            player.take_turns(shard).await;
        }
        true
    }

    /// Until there may be more; false if nobody wants it or nothing can come.
    async fn wait(&self, player: &mut Player, film: &Rc<Film>, reader: &OpenReader) -> bool {
        tokio::select! {
            () = reader.wake.notified() => true,
            () = player.receiver.hangup() => false,
            () = runtime::sleep(LOOK_AGAIN) => {
                let changed = film.origin.as_ref().is_some_and(|origin| origin.changed.get());
                let hopeless = changed && reader.host.peers.borrow().is_empty();
                !hopeless && !reader.host.ended.get()
            }
        }
    }

    /// A page gets media only (R18), and no faster for another site's having watched it (R13).
    async fn admit(
        &self,
        player: &mut Player,
        film: &Rc<Film>,
        host: &Rc<Host>,
        file: usize,
    ) -> Result<(), Failure> {
        film.confirm_site(&self.provenance).await;
        if film.sniffed.get().is_none() {
            film.sniffed.set(sniff(player, host, file).await);
        }
        match film.sniffed.get() {
            Some(Some(_)) => Ok(()),
            _ => Err(passthrough::NOT_MEDIA),
        }
    }
}

/// What the file's first bytes are; `None` if that could not be seen in time.
async fn sniff(player: &mut Player, host: &Rc<Host>, file: usize) -> Option<Option<Media>> {
    let whole = host.metainfo.borrow().as_ref()?.layout.file_range(file);
    let head = ByteRange::new(0, whole.len().min(media::SNIFF_LEN as u64));
    let reader = OpenReader::new(host, file, head, runtime::now());
    let until = runtime::now() + SNIFF_WAIT;
    loop {
        let ready = host.swarm.borrow().readable(reader.key);
        if ready.len() >= head.len() {
            let bytes = host.shelf.read(head.up(whole.start))?;
            return Some(media::sniff(&bytes));
        }
        let left = until.since(runtime::now());
        if left.is_zero() {
            return None;
        }
        tokio::select! {
            () = reader.wake.notified() => {}
            () = player.receiver.hangup() => return None,
            () = runtime::sleep(left) => return None,
        }
    }
}

impl OpenReader {
    /// `range`: bytes of the file.
    pub fn new(host: &Rc<Host>, file: usize, range: ByteRange, asked: Time) -> Self {
        let metainfo = host
            .metainfo
            .borrow()
            .clone()
            .expect("a film that is here has metainfo");
        let whole = metainfo.layout.file_range(file);
        let wake = Rc::new(Notify::new());
        let now = runtime::now();
        host.watched_at.set(now);
        let key = host
            .swarm
            .borrow_mut()
            .open_reader(now, asked, range.up(whole.start), whole);
        host.readers.borrow_mut().insert(key, wake.clone());
        host.drain(&[]);
        Self {
            host: host.clone(),
            key,
            wake,
        }
    }

    /// Sends `run` of the torrent, which goes on to `until`; false if the player
    /// or the disk is gone.
    async fn send(&self, player: &mut Player, run: ByteRange, until: u64) -> bool {
        let now = runtime::now();
        self.host.watched_at.set(now);
        let ahead = SEND_MAX.min(until - run.end);
        let parts = self.host.shelf.parts(now, run, ahead);
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%error, "stored bytes could not be served");
                self.host.lose(run);
                return false;
            }
        };
        for part in parts {
            let sending = send_part(player, part);
            tokio::pin!(sending);
            let sent = tokio::select! {
                biased;
                sent = &mut sending => sent,
                () = runtime::sleep(BLOCKED_AFTER) => {
                    self.host.swarm.borrow_mut().handle_blocked(runtime::now(), self.key);
                    self.host.drain(&[]);
                    sending.await
                }
            };
            if let Err(error) = sent {
                if is_fault(&error) {
                    tracing::warn!("a piece file lost bytes under its mapping");
                    self.host.lose(run);
                }
                return false;
            }
        }
        true
    }
}

async fn send_part(player: &mut Player, part: Part) -> io::Result<()> {
    match part {
        Part::Mapped { map, mut range } => {
            // Less than was asked was sent where the file cannot be read on; the next call says so.
            while !range.is_empty() {
                range.start += player
                    .sender
                    .send_mapped(map.clone(), range.clone(), false)
                    .await?;
            }
            Ok(())
        }
        Part::Zeros(len) => player.sender.send_all(vec![0; len], false).await,
    }
}

impl Drop for OpenReader {
    fn drop(&mut self) {
        self.host.readers.borrow_mut().remove(&self.key);
        self.host
            .swarm
            .borrow_mut()
            .close_reader(runtime::now(), self.key);
        self.host.drain(&[]);
    }
}
