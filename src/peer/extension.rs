//! Extended messages: the BEP 10 handshake, and metadata by BEP 9.

use crate::peer::PeerMisbehaved;
use crate::torrent::bencode;
use crate::units::BLOCK_LEN;

/// Id of the extended handshake itself.
pub const HANDSHAKE: u8 = 0;
/// The id under which we take `ut_metadata`; each side names its own. PEX (BEP 11) would be 2.
pub const UT_METADATA: u8 = 1;

/// Requests that we let a peer queue; what a silent one allows us (libtorrent's default too).
pub const REQQ: u32 = 250;
/// Info dictionaries taken from peers (R30, libtorrent's limit).
pub const METADATA_MAX: u32 = 3 * 1024 * 10_240;
/// Letters kept of a client's name.
const CLIENT_MAX: usize = 64;

const CLIENT: &str = concat!("BitTube ", env!("CARGO_PKG_VERSION"));

/// What the extended handshake says; what it leaves out keeps what an earlier one said (BEP 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The peer's id for `ut_metadata`; zero where it takes none.
    pub ut_metadata: Option<u8>,
    pub metadata_len: Option<u32>,
    pub client: Option<String>,
    pub reqq: Option<u32>,
    /// BEP 21.
    pub upload_only: Option<bool>,
    /// Where it accepts connections.
    pub listen_port: Option<u16>,
}

impl Offer {
    pub fn parse(payload: &[u8]) -> Result<Self, PeerMisbehaved> {
        let (value, _) = bencode::parse_prefix(payload)
            .map_err(|_| PeerMisbehaved::drop("extended-handshake"))?;
        let dict = value
            .dict()
            .ok_or(PeerMisbehaved::drop("extended-handshake"))?;
        let metadata_len = dict.int(b"metadata_size");
        Ok(Self {
            ut_metadata: dict
                .dict(b"m")
                .and_then(|m| m.int(b"ut_metadata"))
                .map(|id| u8::try_from(id).unwrap_or(0)),
            metadata_len: metadata_len
                .and_then(|len| u32::try_from(len).ok())
                .filter(|len| (1..=METADATA_MAX).contains(len)),
            client: dict.bytes(b"v").map(readable),
            reqq: dict
                .int(b"reqq")
                .map(|reqq| u32::try_from(reqq.max(1)).unwrap_or(u32::MAX)),
            upload_only: dict.int(b"upload_only").map(|flag| flag != 0),
            listen_port: dict
                .int(b"p")
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
        })
    }

    /// Takes over what `newer` says.
    pub fn update(&mut self, newer: Self) {
        fn set<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        set(&mut self.ut_metadata, newer.ut_metadata);
        set(&mut self.metadata_len, newer.metadata_len);
        set(&mut self.client, newer.client);
        set(&mut self.reqq, newer.reqq);
        set(&mut self.upload_only, newer.upload_only);
        set(&mut self.listen_port, newer.listen_port);
    }
}

/// Untrusted text for logs and pages (R51).
fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .chars()
        .filter(|letter| !letter.is_control())
        .take(CLIENT_MAX)
        .collect()
}

/// Our handshake's payload. A dictionary's keys are sorted (BEP 3), which the order here keeps.
pub fn handshake(metadata_len: Option<u32>, listen_port: u16, upload_only: bool) -> Vec<u8> {
    let mut out = format!("d1:md11:ut_metadatai{UT_METADATA}ee");
    if let Some(len) = metadata_len {
        out += &format!("13:metadata_sizei{len}e");
    }
    if listen_port != 0 {
        out += &format!("1:pi{listen_port}e");
    }
    out += &format!("4:reqqi{REQQ}e");
    out += &format!("11:upload_onlyi{}e", u8::from(upload_only));
    out += &format!("1:v{}:{CLIENT}e", CLIENT.len());
    out.into_bytes()
}

/// A BEP 9 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    Request {
        piece: u32,
    },
    /// The bytes are those of the payload from `at` on.
    Data {
        piece: u32,
        total: u32,
        at: usize,
    },
    Reject {
        piece: u32,
    },
    /// Of a type that BEP 9 does not name: to be ignored.
    Unknown,
}

impl Metadata {
    pub fn parse(payload: &[u8]) -> Result<Self, PeerMisbehaved> {
        const BAD: PeerMisbehaved = PeerMisbehaved::drop("ut-metadata");
        let (value, at) = bencode::parse_prefix(payload).map_err(|_| BAD)?;
        let dict = value.dict().ok_or(BAD)?;
        let number = |key| {
            let value = dict.int(key).ok_or(BAD)?;
            u32::try_from(value).map_err(|_| BAD)
        };
        let piece = number(b"piece".as_slice())?;
        match dict.int(b"msg_type").ok_or(BAD)? {
            0 => Ok(Self::Request { piece }),
            1 => {
                let total = number(b"total_size".as_slice())?;
                let len = metadata_piece_len(piece, total);
                if total > METADATA_MAX || len == 0 || len != payload.len() - at {
                    return Err(BAD);
                }
                Ok(Self::Data { piece, total, at })
            }
            2 => Ok(Self::Reject { piece }),
            _ => Ok(Self::Unknown),
        }
    }

    /// The payload; the bytes of `Data` are appended by the caller.
    pub fn encode(self) -> Vec<u8> {
        let text = match self {
            Self::Request { piece } => format!("d8:msg_typei0e5:piecei{piece}ee"),
            Self::Data { piece, total, .. } => {
                format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total}ee")
            }
            Self::Reject { piece } => format!("d8:msg_typei2e5:piecei{piece}ee"),
            Self::Unknown => String::new(),
        };
        text.into_bytes()
    }
}

/// Pieces of metadata are 16 KiB, the last one shorter (BEP 9); zero beyond it.
pub fn metadata_piece_len(piece: u32, total: u32) -> usize {
    let start = u64::from(piece) * u64::from(BLOCK_LEN);
    let left = u64::from(total).saturating_sub(start);
    usize::try_from(left.min(u64::from(BLOCK_LEN))).expect("at most 16 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_handshake_reads_back() {
        let payload = handshake(Some(31_235), 10_234, true);
        let value = bencode::parse(&payload).expect("bencode");
        let keys: Vec<_> = value
            .dict()
            .expect("a dict")
            .iter()
            .map(|(key, _)| key)
            .collect();
        assert!(keys.is_sorted());
        assert_eq!(
            Offer::parse(&payload),
            Ok(Offer {
                ut_metadata: Some(UT_METADATA),
                metadata_len: Some(31_235),
                client: Some(CLIENT.to_owned()),
                reqq: Some(REQQ),
                upload_only: Some(true),
                listen_port: Some(10_234),
            })
        );
        let plain = Offer::parse(&handshake(None, 0, false)).expect("an offer");
        assert_eq!((plain.metadata_len, plain.listen_port), (None, None));
    }

    #[test]
    fn a_second_handshake_changes_what_it_names() {
        let mut offer = Offer::parse(&handshake(Some(9), 0, true)).expect("an offer");
        offer.update(Offer::parse(b"d1:md11:ut_metadatai0eee").expect("an offer"));
        assert_eq!(offer.ut_metadata, Some(0));
        assert_eq!(
            (offer.metadata_len, offer.upload_only),
            (Some(9), Some(true))
        );
    }

    #[test]
    fn values_that_cannot_be_are_not_taken() {
        let odd = b"d1:md11:ut_metadatai256ee13:metadata_sizei31457281e1:pi65536e4:reqqi-3ee";
        let offer = Offer::parse(odd).expect("an offer");
        assert_eq!(offer.ut_metadata, Some(0));
        assert_eq!((offer.metadata_len, offer.listen_port), (None, None));
        assert_eq!(offer.reqq, Some(1));
        assert!(Offer::parse(b"le").is_err() && Offer::parse(b"d").is_err());
    }

    #[test]
    fn a_client_name_is_short_and_printable() {
        let mut payload = b"d1:v200:\xff\x1b[31m".to_vec();
        payload.resize(payload.len() + 194, b'x');
        payload.push(b'e');
        let client = Offer::parse(&payload).expect("an offer").client;
        let client = client.expect("a name");
        assert!(client.starts_with("\u{fffd}[31mxx"), "{client:?}");
        assert_eq!(client.chars().count(), CLIENT_MAX);
    }

    #[test]
    fn metadata_messages_read_back() {
        for message in [
            Metadata::Request { piece: 7 },
            Metadata::Reject { piece: 7 },
        ] {
            assert_eq!(Metadata::parse(&message.encode()), Ok(message));
        }
        let total = 16_384 + 5;
        let mut payload = Metadata::Data {
            piece: 1,
            total,
            at: 0,
        }
        .encode();
        let at = payload.len();
        payload.extend(b"d4:ei");
        assert_eq!(
            Metadata::parse(&payload),
            Ok(Metadata::Data {
                piece: 1,
                total,
                at
            })
        );
        payload.push(b'!');
        assert!(Metadata::parse(&payload).is_err());
        let beyond = Metadata::Data {
            piece: 2,
            total,
            at: 0,
        }
        .encode();
        assert!(Metadata::parse(&beyond).is_err());
        assert_eq!(
            Metadata::parse(b"d8:msg_typei9e5:piecei0ee"),
            Ok(Metadata::Unknown)
        );
    }
}
