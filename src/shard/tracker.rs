//! Announces and scrapes of one swarm, carried to its trackers.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use url::Url;

use crate::admin::stats::TrackerStats;
use crate::reach::Reach;
use crate::ring::datagram::Datagrams;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::fetch;
use crate::shard::host::Host;
use crate::shard::origin;
use crate::swarm::dialer::Found;
use crate::tracker::TrackerFailed;
use crate::tracker::announce::Answer;
use crate::tracker::announcer::Announcer;
use crate::tracker::announcer::Ask;
use crate::tracker::announcer::Output;
use crate::tracker::announcer::State;
use crate::tracker::announcer::TrackerView;
use crate::tracker::http;
use crate::tracker::udp;
use crate::tracker::udp::Call;
use crate::tracker::udp::Question;
use crate::units::Time;

/// Trackers that this shard's torrents ask at the same time (R24). Further asks wait in the order
/// in which they came, at most as many as each torrent may have, and their time has not begun.
pub(in crate::shard) const ASKS_MAX: usize = 50;

/// Announces for the life of the swarm, until the last tracker heard its end.
pub async fn announce(host: Rc<Host>) {
    while !host.announcer.borrow().stopped() {
        let Some(shard) = host.shard.upgrade() else {
            return;
        };
        let now = shard.now();
        report_totals(&host);
        drain(&shard, &host);
        let next = host.announcer.borrow().next_timeout();
        drop(shard);
        if next <= now {
            host.announcer.borrow_mut().handle_timeout(now);
            runtime::breathe().await;
            continue;
        }
        let wait = if next == Time::NEVER {
            Duration::from_secs(3600)
        } else {
            next.since(now)
        };
        tokio::select! {
            () = runtime::sleep(wait) => {
                let now = runtime::now();
                host.announcer.borrow_mut().handle_timeout(now);
            }
            () = host.announce_wake.notified() => {}
        }
    }
}

/// What trackers are told of our progress.
pub fn report_totals(host: &Rc<Host>) {
    let swarm = host.swarm.borrow();
    let bytes = swarm.stats();
    let left = match swarm.layout() {
        Some(layout) => {
            let missing = layout
                .pieces()
                .filter(|piece| !swarm.have().contains(piece.at()));
            missing
                .map(|piece| u64::from(layout.piece_len(piece)))
                .sum()
        }
        // Not known yet: not a seed, at any rate.
        None => 1,
    };
    let bytes = bytes.bytes;
    let downloaded = bytes.from_peers + bytes.from_origin;
    host.announcer
        .borrow_mut()
        .totals(bytes.to_peers, downloaded, left);
}

fn drain(shard: &Rc<Shard>, host: &Rc<Host>) {
    loop {
        let output = host.announcer.borrow_mut().poll_output();
        match output {
            None => return,
            Some(Output::Ask { id, ask, deadline }) => {
                runtime::spawn(carry_out(shard.clone(), host.clone(), id, ask, deadline));
            }
            Some(Output::Peers(addrs)) => host.add_addresses(&addrs, Found::Tracker),
        }
    }
}

/// Asks once it is its turn among all that this shard's torrents ask.
async fn carry_out(shard: Rc<Shard>, host: Rc<Host>, id: u64, ask: Ask, deadline: Duration) {
    let turn = shard.asks.acquire().await.expect("it is never closed");
    let begun = host.announcer.borrow_mut().handle_begun(shard.now(), id);
    if !begun {
        return;
    }
    let answer = match ask {
        Ask::HttpAnnounce(url) => {
            let body = get(&shard, &url).await;
            body.and_then(|body| http::parse_reply(&body).map(Answer::Announced))
        }
        Ask::HttpScrape(url, info_hash) => {
            let body = get(&shard, &url).await;
            body.and_then(|body| http::parse_scrape(&body, info_hash).map(Answer::Scraped))
        }
        Ask::Udp { url, question } => call(&shard, &url, &question, deadline).await,
    };
    drop(turn);
    if let Err(error) = &answer {
        tracing::debug!(%error, "a tracker failed");
    }
    let now = shard.now();
    host.announcer.borrow_mut().handle_answer(now, id, answer);
    host.announce_wake.notify_one();
    drain(&shard, &host);
}

async fn get(shard: &Rc<Shard>, url: &str) -> Result<Vec<u8>, TrackerFailed> {
    let url = Url::parse(url).map_err(|_| TrackerFailed::new("not a URL"))?;
    if !http::loopback_path_ok(&url) {
        return Err(TrackerFailed::new(
            "on this machine only /announce and /scrape are asked",
        ));
    }
    let got = fetch::get(shard, url, http::REPLY_LEN_MAX).await;
    got.map_err(|error| TrackerFailed::new(error.why))
}

/// One address after the other, which share the time.
async fn call(
    shard: &Rc<Shard>,
    url: &str,
    question: &Question,
    deadline: Duration,
) -> Result<Answer, TrackerFailed> {
    let until = shard.now() + deadline;
    let url = Url::parse(url).map_err(|_| TrackerFailed::new("not a URL"))?;
    let found = origin::resolve(&shard.shared.reach, &url, Reach::udp_tracker).await;
    let found = found.map_err(|error| TrackerFailed::new(error.why))?;
    let mut failed = TrackerFailed::new("no address");
    for (nth, addr) in found.iter().enumerate() {
        let left = u32::try_from(found.len() - nth).expect("few");
        let patience = until.since(shard.now()) / left;
        let (question, seed) = (question.clone(), rand::random());
        let call = Call::new(shard.now(), question, addr.is_ipv6(), patience, seed);
        match carry(*addr, call).await {
            Ok(answer) => return answer,
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// What the tracker at that address said, or why it said nothing.
async fn carry(
    addr: SocketAddr,
    mut call: Call,
) -> Result<Result<Answer, TrackerFailed>, TrackerFailed> {
    let lost = |error: io::Error| TrackerFailed::new(error.to_string());
    let socket = Datagrams::connect(addr).await.map_err(lost)?;
    // One byte more than is good tells too long from right.
    let mut buffer = [0; udp::DATAGRAM_MAX + 1];
    loop {
        while let Some(datagram) = call.poll_datagram() {
            socket.send(&datagram).await.map_err(lost)?;
        }
        let wait = call.next_timeout().since(runtime::now());
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let len = received.map_err(lost)?;
                if let Some(answer) = call.handle_datagram(runtime::now(), &buffer[..len]) {
                    return Ok(answer);
                }
            }
            () = runtime::sleep(wait) => {
                if let Some(failed) = call.handle_timeout(runtime::now()) {
                    return Err(failed);
                }
            }
        }
    }
}

/// How each tracker fares, for the control port.
pub fn views(announcer: &Announcer) -> Vec<TrackerStats> {
    let views = announcer.status().into_iter();
    views
        .map(|view| TrackerStats {
            status: describe(&view),
            url: view.url,
            seeders: view.counts.map(|counts| counts.seeders),
            leechers: view.counts.map(|counts| counts.leechers),
        })
        .collect()
}

fn describe(view: &TrackerView) -> String {
    let peers = view.peers;
    match &view.state {
        State::Idle => "not asked yet".into(),
        State::Announcing => "announcing".into(),
        State::Working(None) => format!("{peers} peers"),
        State::Working(Some(warning)) => format!("{peers} peers, warns: {warning}"),
        State::Failed(why) => format!("failed: {why}"),
        State::Refused(why) => format!("not used: {why}"),
    }
}
