//! One announce or scrape over UDP: connect, ask, and both again while nothing comes (BEP 15, 41).

use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use url::Url;

use crate::tracker::TrackerFailed;
use crate::tracker::announce;
use crate::tracker::announce::Announce;
use crate::tracker::announce::Answer;
use crate::tracker::announce::Counts;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::tracker::announce::Reply;
use crate::units::InfoHash;
use crate::units::Time;

/// Longer datagrams are none of a tracker (R48): 200 peers of IPv6 are 3,620 bytes, which no
/// tracker sends in one.
pub const DATAGRAM_MAX: usize = 1500;
/// What connects, before a tracker has given an id of its own.
const PROTOCOL: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// An answer's action and transaction; what every datagram of a tracker begins with.
const HEAD_LEN: usize = 8;
/// Before the first datagram is sent again; each further wait is twice as long. BEP 15 asks for 15
/// s, which is what a viewer has for its first peers altogether: in 30 s it sends four at most.
const SEND_AGAIN: Duration = Duration::from_secs(3);
/// BEP 41: an option's kind, and the most that one holds.
const URL_DATA: u8 = 2;
const OPTION_LEN_MAX: usize = 255;
/// Of an address's path and query; more would not fit the datagram.
const URL_DATA_MAX: usize = 1024;

/// Whether a tracker is announced to this way.
pub fn is(base: &str) -> bool {
    let scheme = base.get(..4);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("udp:"))
}

/// Whether and where a tracker's address can be announced to: its path and query, which it hears.
pub fn check(base: &str) -> Result<String, TrackerFailed> {
    let url = Url::parse(base).map_err(|_| TrackerFailed::lasting("not a URL"))?;
    if url.scheme() != "udp" || !url.has_host() {
        return Err(TrackerFailed::lasting("not udp"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(TrackerFailed::lasting("user name in its URL"));
    }
    if url.port().is_none_or(|port| port == 0) {
        return Err(TrackerFailed::lasting("no port in its URL"));
    }
    let mut heard = url.path().to_owned();
    if let Some(query) = url.query() {
        heard = format!("{heard}?{query}");
    }
    if heard == "/" {
        heard.clear();
    }
    if heard.len() > URL_DATA_MAX {
        return Err(TrackerFailed::lasting("too long a URL"));
    }
    Ok(heard)
}

/// What a tracker is asked by UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Announce {
        said: Box<Announce>,
        /// What it hears of its address, as [`check`] gave it.
        heard: String,
    },
    Scrape(InfoHash),
}

/// A question to one address of a tracker.
#[derive(Debug)]
pub struct Call {
    question: Question,
    is_v6: bool,
    /// The answer must name it: who cannot see our datagrams cannot answer in their place.
    transaction: u32,
    /// The id that the tracker gave us. It holds for a minute, longer than a call lasts.
    connection: Option<u64>,
    again: Time,
    wait: Duration,
    ends: Time,
    due: bool,
    rng: SmallRng,
}

impl Call {
    /// `is_v6`: the family of the tracker's address, and so of the peers that it names; `seed` is
    /// random and nobody's to know.
    pub fn new(now: Time, question: Question, is_v6: bool, patience: Duration, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        Self {
            question,
            is_v6,
            transaction: rng.random(),
            connection: None,
            again: now + SEND_AGAIN,
            wait: SEND_AGAIN,
            ends: now + patience,
            due: true,
            rng,
        }
    }

    pub fn poll_datagram(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.due).then(|| match self.connection {
            None => self.connect(),
            Some(id) => match &self.question {
                Question::Announce { said, heard } => self.announce(id, said, heard),
                Question::Scrape(info_hash) => self.scrape(id, *info_hash),
            },
        })
    }

    pub fn next_timeout(&self) -> Time {
        self.again.min(self.ends)
    }

    /// The end of the call, if nothing came in time.
    pub fn handle_timeout(&mut self, now: Time) -> Option<TrackerFailed> {
        if now >= self.ends {
            return Some(TrackerFailed::new("no answer in time"));
        }
        if now >= self.again {
            self.wait *= 2;
            self.again = now + self.wait;
            self.due = true;
        }
        None
    }

    /// What came from the tracker's address; its answer ends the call. What is not an answer to our
    /// last datagram is passed over.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        bytes: &[u8],
    ) -> Option<Result<Answer, TrackerFailed>> {
        if bytes.len() > DATAGRAM_MAX {
            return None;
        }
        let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
        let (action, transaction) = (word(head, 0)?, word(head, 4)?);
        if transaction != self.transaction {
            return None;
        }
        match (action, self.connection) {
            (CONNECT, None) => {
                let id = rest.first_chunk()?;
                self.connection = Some(u64::from_be_bytes(*id));
                self.transaction = self.rng.random();
                self.wait = SEND_AGAIN;
                self.again = now + self.wait;
                self.due = true;
                None
            }
            (ANNOUNCE, Some(_)) if matches!(self.question, Question::Announce { .. }) => {
                Some(Ok(Answer::Announced(self.reply(rest)?)))
            }
            (SCRAPE, Some(_)) if matches!(self.question, Question::Scrape(_)) => {
                let counts = Counts {
                    seeders: word(rest, 0)?,
                    // Between them stands how many were seeders once.
                    leechers: word(rest, 8)?,
                };
                Some(Ok(Answer::Scraped(counts)))
            }
            (ERROR, _) => Some(Err(TrackerFailed::new(announce::shown(rest)))),
            _ => None,
        }
    }

    fn connect(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.extend(PROTOCOL.to_be_bytes());
        out.extend(CONNECT.to_be_bytes());
        out.extend(self.transaction.to_be_bytes());
        out
    }

    fn scrape(&self, id: u64, info_hash: InfoHash) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        out.extend(id.to_be_bytes());
        out.extend(SCRAPE.to_be_bytes());
        out.extend(self.transaction.to_be_bytes());
        out.extend(info_hash.0);
        out
    }

    fn announce(&self, id: u64, said: &Announce, heard: &str) -> Vec<u8> {
        let event: u32 = match said.event {
            Event::None => 0,
            Event::Completed => 1,
            Event::Started => 2,
            Event::Stopped => 3,
        };
        let mut out = Vec::with_capacity(98 + heard.len());
        out.extend(id.to_be_bytes());
        out.extend(ANNOUNCE.to_be_bytes());
        out.extend(self.transaction.to_be_bytes());
        out.extend(said.info_hash.0);
        out.extend(said.peer_id.0);
        out.extend(said.downloaded.to_be_bytes());
        out.extend(said.left.to_be_bytes());
        out.extend(said.uploaded.to_be_bytes());
        out.extend(event.to_be_bytes());
        // Our address is the one that the datagram comes from.
        out.extend(0u32.to_be_bytes());
        out.extend(said.key.to_be_bytes());
        out.extend(said.numwant.to_be_bytes());
        out.extend(said.port.to_be_bytes());
        for part in heard.as_bytes().chunks(OPTION_LEN_MAX) {
            out.push(URL_DATA);
            out.push(u8::try_from(part.len()).expect("no longer than one"));
            out.extend(part);
        }
        out
    }

    fn reply(&self, rest: &[u8]) -> Option<Reply> {
        let (fixed, peers) = rest.split_at_checked(12)?;
        let peers = if self.is_v6 {
            announce::compact_v6(peers).take(PEERS_MAX).collect()
        } else {
            announce::compact_v4(peers).take(PEERS_MAX).collect()
        };
        let seconds = Duration::from_secs(word(fixed, 0)?.into());
        Some(Reply {
            interval: announce::interval(seconds),
            min_interval: None,
            peers,
            leechers: Some(word(fixed, 4)?),
            seeders: Some(word(fixed, 8)?),
            tracker_id: None,
            warning: None,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::PeerId;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn call(heard: &str, is_v6: bool) -> Call {
        let said = Announce {
            info_hash: InfoHash([7; 20]),
            peer_id: PeerId(*b"-BU0100-abcdefghijkl"),
            port: 10234,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: Event::Started,
            numwant: 200,
            key: 0xab,
            tracker_id: None,
        };
        let question = Question::Announce {
            said: Box::new(said),
            heard: heard.to_owned(),
        };
        Call::new(Time::ZERO, question, is_v6, PATIENCE, 1)
    }

    /// The peers and counts of an answer.
    fn reply(answer: Option<Result<Answer, TrackerFailed>>) -> Reply {
        match answer {
            Some(Ok(Answer::Announced(reply))) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn answer(action: u32, transaction: u32, rest: &[u8]) -> Vec<u8> {
        [&action.to_be_bytes(), &transaction.to_be_bytes(), rest].concat()
    }

    fn transaction(datagram: &[u8]) -> u32 {
        word(datagram, 12).unwrap()
    }

    /// A call whose tracker has given it an id; what it said then.
    fn connected(heard: &str, is_v6: bool) -> (Call, Vec<u8>) {
        connect(call(heard, is_v6))
    }

    fn connect(mut call: Call) -> (Call, Vec<u8>) {
        let hello = call.poll_datagram().unwrap();
        let id = answer(CONNECT, transaction(&hello), &[9; 8]);
        assert_eq!(call.handle_datagram(Time::ZERO, &id), None);
        let said = call.poll_datagram().unwrap();
        (call, said)
    }

    #[test]
    fn connects_announces_and_hears_peers_of_both_families() {
        let mut it = call("", false);
        let hello = it.poll_datagram().unwrap();
        assert_eq!(hello.len(), 16);
        assert_eq!(
            hello[..12],
            [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0]
        );
        assert_eq!(it.poll_datagram(), None);

        let (mut it, said) = connected("", false);
        assert_eq!(said.len(), 98);
        assert_eq!(said[..12], [9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 1]);
        assert_eq!(said[16..36], [7; 20]);
        assert_eq!(&said[36..56], b"-BU0100-abcdefghijkl");
        let numbers = [2, 3, 1].map(u64::to_be_bytes).concat();
        assert_eq!(said[56..80], numbers);
        let words = [2, 0, 0xab, 200].map(u32::to_be_bytes).concat();
        assert_eq!(said[80..96], words);
        assert_eq!(said[96..], 10234u16.to_be_bytes());

        let counts = [1800, 4, 5].map(u32::to_be_bytes).concat();
        let peers = b"\x01\x02\x03\x04\x1a\xe1\x01\x02\x03\x05\x00\x00xx";
        let body = [&counts[..], peers].concat();
        let heard = it.handle_datagram(Time::ZERO, &answer(ANNOUNCE, transaction(&said), &body));
        let reply = reply(heard);
        assert_eq!(reply.peers, ["1.2.3.4:6881".parse().unwrap()]);
        assert_eq!((reply.leechers, reply.seeders), (Some(4), Some(5)));
        assert_eq!(reply.interval, Duration::from_secs(1800));

        let (mut it, said) = connected("", true);
        let body = [
            &counts[..],
            &[0x20, 1, 0xd, 0xb8],
            &[0; 11],
            &[1, 0x1a, 0xe1],
        ]
        .concat();
        let heard = it.handle_datagram(Time::ZERO, &answer(ANNOUNCE, transaction(&said), &body));
        let peers = self::reply(heard).peers;
        assert_eq!(peers, ["[2001:db8::1]:6881".parse().unwrap()]);
    }

    #[test]
    fn a_scrape_counts() {
        let call = Call::new(
            Time::ZERO,
            Question::Scrape(InfoHash([7; 20])),
            true,
            PATIENCE,
            1,
        );
        let (mut it, said) = connect(call);
        assert_eq!(said[..12], [9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 2]);
        assert_eq!(said[16..], [7; 20]);
        let counts = [4, 5, 6].map(u32::to_be_bytes).concat();
        let right = transaction(&said);
        for datagram in [
            answer(ANNOUNCE, right, &counts),
            answer(SCRAPE, right, &counts[..11]),
        ] {
            assert_eq!(it.handle_datagram(Time::ZERO, &datagram), None);
        }
        let heard = it.handle_datagram(Time::ZERO, &answer(SCRAPE, right, &counts));
        let counts = Counts {
            seeders: 4,
            leechers: 6,
        };
        assert_eq!(heard, Some(Ok(Answer::Scraped(counts))));
    }

    #[test]
    fn a_lost_datagram_is_sent_again_and_silence_has_an_end() {
        let mut it = call("", false);
        let mut sent = Vec::new();
        let mut now = Time::ZERO;
        let failed = loop {
            sent.extend(it.poll_datagram().map(|_| now.since(Time::ZERO).as_secs()));
            assert!(it.next_timeout() > now);
            now = it.next_timeout();
            if let Some(failed) = it.handle_timeout(now) {
                break failed;
            }
        };
        assert_eq!(sent, [0, 3, 9, 21]);
        assert_eq!(failed, TrackerFailed::new("no answer in time"));
        assert_eq!(now, Time::ZERO + PATIENCE);
    }

    #[test]
    fn nobody_else_can_answer() {
        let (mut it, said) = connected("", false);
        let right = transaction(&said);
        let counts = [0; 12];
        for datagram in [
            answer(ANNOUNCE, right ^ 1, &counts),
            answer(CONNECT, right, &[1; 8]),
            answer(7, right, &counts),
            answer(SCRAPE, right, &counts),
            answer(ANNOUNCE, right, &counts[..11]),
            answer(ANNOUNCE, right, &[0; DATAGRAM_MAX]),
            right.to_be_bytes().to_vec(),
            Vec::new(),
        ] {
            assert_eq!(it.handle_datagram(Time::ZERO, &datagram), None);
            assert_eq!(it.poll_datagram(), None);
        }
        let refused = it.handle_datagram(Time::ZERO, &answer(ERROR, right, b"not\x1b here"));
        assert_eq!(refused, Some(Err(TrackerFailed::new("not  here"))));
    }

    #[test]
    fn the_tracker_hears_its_path_and_query() {
        let (_, said) = connected(&check("udp://t:1/a?k=1").unwrap(), false);
        assert_eq!(&said[98..], b"\x02\x06/a?k=1");
        let long = "x".repeat(300);
        let (_, said) = connected(&check(&format!("udp://t:1/{long}")).unwrap(), false);
        assert_eq!(said[98..100], [2, 255]);
        assert_eq!(said[355..357], [2, 46]);
        assert_eq!(said.len(), 98 + 2 + 255 + 2 + 46);
        assert_eq!(check("udp://t:1/").unwrap(), "");
        assert_eq!(check("udp://t:1").unwrap(), "");
        for url in [
            "udp://t/a",
            "udp://t:0/a",
            "udp://u@t:1/a",
            "http://t/a",
            "udp:",
            "t",
        ] {
            assert!(check(url).is_err(), "{url}");
        }
        assert!(check(&format!("udp://t:1/{}", "x".repeat(URL_DATA_MAX))).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_read(action in 0u32..5, bytes: Vec<u8>, is_v6: bool, known: bool) {
            let (mut it, said) = connected("", is_v6);
            let transaction = if known { transaction(&said) } else { 0 };
            it.handle_datagram(Time::ZERO, &answer(action, transaction, &bytes));
        }
    }
}
