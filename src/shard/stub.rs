//! Connections of players: heads in, replies out, moved to the shard of their film.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::BUFFERS_LEN_MAX;
use crate::config::PLAYER_ACTIVE_LEN_MAX;
use crate::http::head;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::ring::buffers;
use crate::ring::buffers::Buffer;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::ring::stream::Receiver;
use crate::ring::stream::Sender;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;
use crate::shard::Letter;
use crate::shard::Shard;
use crate::shard::film::Film;
use crate::shard::film::State;
use crate::shard::passthrough;
use crate::shard::quota::Quota;
use crate::shard::tally::Tally;
use crate::stub::address::Address;
use crate::stub::gate::Provenance;
use crate::stub::gate::Target;
use crate::stub::reply;
use crate::stub::reply::Failure;
use crate::stub::reply::Plan;
use crate::stub::session::Expired;
use crate::stub::session::Next;
use crate::stub::session::STALL_MAX;
use crate::stub::session::Session;
use crate::units::ShardId;
use crate::units::Time;

/// A head may be this long (R10); what a player pipelines beyond it waits in the kernel.
const HEAD_LEN: usize = 16 * 1024 + 8 * 1024;
/// A reply waits so long for others to give memory back, and looks for it so often.
const MEMORY_WAIT: Duration = Duration::from_secs(5);
const MEMORY_LOOK: Duration = Duration::from_millis(100);
/// What a stream or file address may take to be found before the player hears 504.
const FIND_WAIT: Duration = Duration::from_secs(65);

/// A player is served for so long at a stretch.
const TURN_MAX: Duration = Duration::from_micros(200);

/// One player's connection, on the shard that serves it now.
pub struct Player {
    pub receiver: Receiver,
    pub sender: Sender,
    pub addr: SocketAddr,
    buffer: Option<Buffer>,
    asked: Option<Asked>,
    /// When the others last had theirs.
    turn: Time,
    session: Session,
}

/// What a player asked for last: it mostly asks for more of the same.
struct Asked {
    target: String,
    address: Rc<Address>,
    key: String,
}

impl Asked {
    fn new(shard: &Shard, head: &RequestHead, address: Address) -> Result<Self, Failure> {
        shard.shared.check_address(&address)?;
        Ok(Self {
            target: head.target.clone(),
            key: address.key(),
            address: Rc::new(address),
        })
    }
}

/// How a request ended.
pub enum Ended {
    /// The next one may come on this connection.
    Kept,
    /// The connection is of no more use.
    Closed,
}

impl Ended {
    pub fn kept_if(kept: bool) -> Self {
        if kept { Self::Kept } else { Self::Closed }
    }
}

/// Takes players in, for ever.
pub async fn accept(shard: Rc<Shard>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok((socket, addr)) => {
                if shard.players.get() >= shard.shared.players_max {
                    Tally::add(&shard.tally.refused, 1);
                    continue;
                }
                arrive(&shard, socket, addr, &[]);
            }
            Err(error) => tracing::warn!(%error, "no player can be taken in"),
        }
    }
}

/// A player on this shard; `early` has been read from its socket already.
pub fn arrive(shard: &Rc<Shard>, socket: Socket, addr: SocketAddr, early: &[u8]) {
    let buffer = (!early.is_empty()).then(|| {
        let mut buffer = Buffer::take(HEAD_LEN);
        buffer.append(early);
        buffer
    });
    let (receiver, mut sender) = Stream::new(socket).split();
    sender.set_stall(STALL_MAX);
    let session = Session::new(shard.now());
    let player = Player {
        receiver,
        sender,
        addr,
        buffer,
        asked: None,
        turn: shard.now(),
        session,
    };
    shard.players.set(shard.players.get() + 1);
    shard
        .idle
        .handle_arrival(shard.players.get(), shard.shared.players_max);
    let shard = shard.clone();
    runtime::spawn(async move {
        player.attend(&shard).await;
        shard.players.set(shard.players.get() - 1);
    });
}

impl Player {
    async fn attend(mut self, shard: &Rc<Shard>) {
        loop {
            let head = match self.read_head(shard).await {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(failure) => {
                    self.refuse(shard, None, &failure).await;
                    return;
                }
            };
            Tally::add(&shard.tally.requests, 1);
            let ended = match self.route(shard, &head) {
                Ok(Route::Here(request, address)) => {
                    let ended = self.answer(shard, &request, address).await;
                    self.next(shard, &head, ended)
                }
                Ok(Route::Reply(plan)) => {
                    let sent = self.sender.send_all(plan.head, false).await;
                    let ended = Ended::kept_if(plan.keep_alive);
                    sent.is_ok() && self.next(shard, &head, ended)
                }
                Ok(Route::Elsewhere(home)) => return self.hand_over(shard, home).await,
                Err(failure) => self.refuse(shard, Some(&head), &failure).await,
            };
            if !ended {
                return;
            }
        }
    }

    /// Where a request is to be answered.
    fn route<'a>(
        &mut self,
        shard: &Rc<Shard>,
        head: &'a RequestHead,
    ) -> Result<Route<'a>, Failure> {
        let gate = &shard.shared.gate;
        let provenance = gate.check(head)?;
        let known = self
            .asked
            .take()
            .filter(|asked| asked.target == head.target);
        let asked = match (gate.target(head)?, known) {
            (Target::Server, _) => {
                let last = self.session.handle_request(shard.now(), head);
                return Ok(Route::Reply(reply::preflight(head, &provenance, last)));
            }
            (_, Some(known)) => known,
            (Target::Ours(target), None) => Asked::new(shard, head, Address::parse(target)?)?,
            (Target::Proxied(target), None) => {
                Asked::new(shard, head, Address::from_absolute_form(target)?)?
            }
        };
        let home = shard.shared.directory.film(&asked.key);
        let address = Rc::clone(&asked.address);
        self.asked = Some(asked);
        if home != shard.id {
            return Ok(Route::Elsewhere(home));
        }
        let last = self.session.handle_request(shard.now(), head);
        if matches!(head.method, Method::Options) {
            return Ok(Route::Reply(reply::preflight(head, &provenance, last)));
        }
        let request = Request {
            head,
            provenance,
            last,
            asked_at: shard.now(),
            answered: Cell::new(false),
        };
        Ok(Route::Here(request, address))
    }

    /// A player whose socket never makes it wait must not keep the others from theirs.
    pub async fn take_turns(&mut self, shard: &Shard) {
        if shard.now().since(self.turn) >= TURN_MAX {
            runtime::breathe().await;
            self.turn = shard.now();
        }
    }

    /// The next head, or `None` when the connection ends between requests.
    async fn read_head(&mut self, shard: &Rc<Shard>) -> Result<Option<RequestHead>, Failure> {
        loop {
            if let Some(buffer) = self.buffer.as_mut() {
                if let Some(head) = head::parse_request(buffer.bytes())? {
                    return Ok(Some(head));
                }
                self.session.handle_head_begun(shard.now());
            }
            let wait = self.session.next_timeout().since(shard.now());
            let begun = self.buffer.is_some();
            let mut buffer = self.buffer.take().unwrap_or_else(|| Buffer::take(HEAD_LEN));
            // What is here already waits for no turn of the ring.
            let result = match self.receiver.recv_now(&mut buffer) {
                Some(result) => {
                    self.take_turns(shard).await;
                    result
                }
                None if begun => {
                    let (result, filled) = self.receiver.recv(buffer, Some(wait)).await;
                    buffer = filled;
                    result
                }
                None => {
                    // An idle connection holds no buffer.
                    drop(buffer);
                    let waiting = shard.idle.wait();
                    tokio::select! {
                        biased;
                        () = self.receiver.readable() => continue,
                        () = waiting.told() => return Ok(None),
                        () = runtime::sleep(wait) => return Ok(None),
                    }
                }
            };
            match result {
                Ok(1..) => self.buffer = Some(buffer),
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                    return match self.session.handle_timeout(shard.now()) {
                        Some(Expired::Head) => Err(Failure::TIMEOUT),
                        _ => Ok(None),
                    };
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Done with this request: whether another may come.
    fn next(&mut self, shard: &Rc<Shard>, head: &RequestHead, ended: Ended) -> bool {
        if let Some(buffer) = self.buffer.as_mut() {
            buffer.consume(head.len);
            buffer.compact();
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
        let kept = matches!(ended, Ended::Kept);
        matches!(
            self.session.handle_reply_done(shard.now(), kept),
            Next::Keep
        )
    }

    /// The film lives on another shard: the connection goes there with all that was read.
    async fn hand_over(self, shard: &Rc<Shard>, home: ShardId) {
        let early = self
            .buffer
            .as_ref()
            .map(|buffer| buffer.bytes().to_vec())
            .unwrap_or_default();
        let socket = Stream::rejoin(self.receiver, self.sender)
            .into_socket()
            .await;
        let letter = Letter::Player {
            socket,
            addr: self.addr,
            early,
        };
        if shard.mail(home).send(letter).is_err() {
            Tally::add(&shard.tally.refused, 1);
            tracing::warn!(?home, "a player was dropped: the shard's mailbox is full");
        }
    }

    async fn answer(
        &mut self,
        shard: &Rc<Shard>,
        request: &Request<'_>,
        address: Rc<Address>,
    ) -> Ended {
        let quota = shard.shared.quotas.of(&request.provenance);
        let stream = quota.as_ref().map(Quota::stream);
        if let Some(None) = stream {
            return self.fail(shard, request, &TOO_MANY_STREAMS).await;
        }
        if !self.wait_for_memory().await {
            return self.fail(shard, request, &Failure::BUSY).await;
        }
        self.serve(shard, request, address, quota).await
    }

    /// R29: over the budget no reply begins; one that waited long enough is refused.
    async fn wait_for_memory(&mut self) -> bool {
        let until = runtime::now() + MEMORY_WAIT;
        while buffers::in_use() + PLAYER_ACTIVE_LEN_MAX > BUFFERS_LEN_MAX {
            if runtime::now() >= until {
                return false;
            }
            runtime::sleep(MEMORY_LOOK).await;
        }
        true
    }

    async fn serve(
        &mut self,
        shard: &Rc<Shard>,
        request: &Request<'_>,
        address: Rc<Address>,
        quota: Option<Arc<Quota>>,
    ) -> Ended {
        let film = Film::open(shard, &address, quota.clone());
        let state = match (film.state(), &film.origin) {
            // The first bytes come from the origin at once, and peers take over.
            (State::Resolving, None) => tokio::select! {
                state = film.settled(FIND_WAIT) => state,
                () = self.receiver.hangup() => return Ended::Closed,
            },
            (state, _) => state,
        };
        match state {
            State::Here { host, file } => match host.take_up() {
                Some(host) => request.from_swarm(self, shard, &film, &host, file).await,
                None => Box::pin(self.serve(shard, request, address, quota)).await,
            },
            State::Failed(failure) => self.fail(shard, request, &failure).await,
            State::Resolving if film.origin.is_none() => {
                self.fail(shard, request, &NOT_FOUND_IN_TIME).await
            }
            State::Elsewhere(_) if film.origin.is_none() => self.fail(shard, request, &MOVED).await,
            State::Resolving | State::Passthrough | State::Elsewhere(_) => {
                passthrough::reply(self, shard, &film, request).await
            }
        }
    }

    pub async fn fail(
        &mut self,
        shard: &Rc<Shard>,
        request: &Request<'_>,
        failure: &Failure,
    ) -> Ended {
        Tally::add(&shard.tally.refused, 1);
        tracing::debug!(
            status = failure.status,
            code = failure.code,
            "request failed"
        );
        let plan = reply::fail(request.head, &request.provenance, failure, request.last);
        match self.sender.send_all(plan.head, false).await {
            Ok(()) if plan.keep_alive => Ended::Kept,
            _ => Ended::Closed,
        }
    }

    /// Says why not; true if the connection may go on.
    async fn refuse(
        &mut self,
        shard: &Rc<Shard>,
        head: Option<&RequestHead>,
        failure: &Failure,
    ) -> bool {
        Tally::add(&shard.tally.refused, 1);
        tracing::debug!(status = failure.status, code = failure.code, "refused");
        let last = head.is_none_or(|head| self.session.handle_request(shard.now(), head));
        let plan = reply::refuse(head, failure, last);
        let kept = self.sender.send_all(plan.head, false).await.is_ok() && plan.keep_alive;
        let Some(head) = head.filter(|_| kept) else {
            return false;
        };
        self.next(shard, head, Ended::Kept)
    }
}

/// R12.
const TOO_MANY_STREAMS: Failure = Failure::new(
    429,
    "site-streams",
    "this site plays as many streams as it may",
)
.retry_in(Duration::from_secs(5));
const NOT_FOUND_IN_TIME: Failure = Failure::new(
    504,
    "not-found-in-time",
    "what this address names was not found in time",
);
/// Its swarm lives on another shard: the next request is led there.
const MOVED: Failure = Failure::new(503, "moved", "ask again").retry_in(Duration::from_secs(1));

/// What becomes of a request.
enum Route<'a> {
    Here(Request<'a>, Rc<Address>),
    Reply(Plan),
    Elsewhere(ShardId),
}

/// One request under way.
pub struct Request<'a> {
    pub head: &'a RequestHead,
    pub provenance: Provenance,
    /// The connection ends with this reply.
    pub last: bool,
    pub asked_at: Time,
    /// Bytes of a body have gone out.
    answered: Cell<bool>,
}

impl Request<'_> {
    /// Bytes of the body went out. How long the first took counts once, whoever sends the others.
    pub fn handle_sent(&self, shard: &Shard) {
        if !self.answered.replace(true) {
            shard.tally.first_byte(shard.now().since(self.asked_at));
        }
    }
}
