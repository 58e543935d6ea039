//! Where a message's body ends, and its bytes without the framing (RFC 9112 §6, §7).

use std::ops::Range;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Whether the connection's next message can be found after this body.
    pub const fn ends_by_itself(self) -> bool {
        !matches!(self, Self::UntilClose)
    }
}

/// The sender's fault: the connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad body: {why}")]
pub struct BadBody {
    pub why: &'static str,
}

/// What one call of [`BodyDecoder::decode`] took from its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes to drop from the front of the input.
    pub consumed: usize,
    /// The body's bytes among those consumed; may be empty.
    pub data: Range<usize>,
    /// The body is complete; what follows belongs to the next message.
    pub done: bool,
}

/// Finds the body's bytes in what arrives, and keeps none.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
}

impl BodyDecoder {
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::Size {
                value: 0,
                digits: 0,
            },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// At most one run of data a call: call again with the rest until `done`, or until nothing is
    /// left.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, BadBody> {
        let mut at = 0;
        while at < bytes.len() {
            let left = bytes.len() - at;
            let run = match &mut self.state {
                State::Done => break,
                State::UntilClose => left,
                State::Length(remaining) | State::Data(remaining) => {
                    let run = usize::try_from(*remaining).map_or(left, |len| len.min(left));
                    *remaining -= run as u64;
                    run
                }
                _ => {
                    self.state = self.state.after(bytes[at])?;
                    at += 1;
                    continue;
                }
            };
            match self.state {
                State::Length(0) => self.state = State::Done,
                State::Data(0) => self.state = State::DataCr,
                _ => {}
            }
            return Ok(Decoded {
                consumed: at + run,
                data: at..at + run,
                done: self.is_done(),
            });
        }
        Ok(Decoded {
            consumed: at,
            data: at..at,
            done: self.is_done(),
        })
    }

    /// The sender closed its side.
    pub fn handle_eof(&mut self) -> Result<(), BadBody> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BadBody {
                why: "it ended early",
            }),
        }
    }

    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

/// The line before a run of `len` bytes in the chunked coding; a line end follows the run.
pub fn run_head(len: usize) -> Vec<u8> {
    debug_assert!(len > 0, "a run of 0 ends the body");
    format!("{len:x}\r\n").into_bytes()
}

/// Follows each run.
pub const RUN_END: &[u8] = b"\r\n";
/// Ends a body in the chunked coding.
pub const BODY_END: &[u8] = b"0\r\n\r\n";

/// Extensions carry nothing we know; a line of them is read over (RFC 9112 §7.1.1).
const EXTENSION_LEN_MAX: u16 = 256;
const TRAILERS_LEN_MAX: u16 = 8 * 1024;
/// Of a size: 63 bits are enough for any body.
const SIZE_DIGITS_MAX: u8 = 15;

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size { value: u64, digits: u8 },
    Extension { value: u64, seen: u16 },
    SizeLf { value: u64 },
    Data(u64),
    DataCr,
    DataLf,
    Trailer { line_empty: bool, seen: u16 },
    TrailerLf { line_empty: bool, seen: u16 },
    Done,
}

impl State {
    /// After one byte of framing of the chunked coding.
    fn after(self, byte: u8) -> Result<Self, BadBody> {
        let bad = |why| Err(BadBody { why });
        Ok(match (self, byte) {
            (Self::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS_MAX {
                    return bad("a size is too large");
                }
                let digit = char::from(byte).to_digit(16).expect("matched above");
                Self::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Self::Size { digits: 0, .. }, _) => return bad("a size is missing"),
            (Self::Size { value, .. } | Self::Extension { value, .. }, b'\r') => {
                Self::SizeLf { value }
            }
            (Self::Size { value, .. }, b';' | b' ' | b'\t') => Self::Extension { value, seen: 0 },
            (Self::Size { .. }, _) => return bad("a malformed size"),
            (Self::Extension { .. }, b'\n') => return bad("a bare line feed"),
            (Self::Extension { value, seen }, _) if seen < EXTENSION_LEN_MAX => Self::Extension {
                value,
                seen: seen + 1,
            },
            (Self::Extension { .. }, _) => return bad("an extension is too long"),
            (Self::SizeLf { value: 0 }, b'\n') => Self::Trailer {
                line_empty: true,
                seen: 0,
            },
            (Self::SizeLf { value }, b'\n') => Self::Data(value),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size {
                value: 0,
                digits: 0,
            },
            (Self::Trailer { line_empty, seen }, b'\r') => Self::TrailerLf { line_empty, seen },
            (Self::Trailer { .. }, b'\n') => return bad("a bare line feed"),
            (Self::Trailer { seen, .. }, _) if seen < TRAILERS_LEN_MAX => Self::Trailer {
                line_empty: false,
                seen: seen + 1,
            },
            (Self::Trailer { .. }, _) => return bad("the trailers are too long"),
            (
                Self::TrailerLf {
                    line_empty: true, ..
                },
                b'\n',
            ) => Self::Done,
            (Self::TrailerLf { seen, .. }, b'\n') => Self::Trailer {
                line_empty: true,
                seen,
            },
            _ => return bad("a line end is missing"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces of `step`; the body, and what was left over.
    fn read(framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, usize), BadBody> {
        let mut decoder = BodyDecoder::new(framing);
        let (mut body, mut at, mut fed) = (Vec::new(), 0, 0);
        while !decoder.is_done() && fed < input.len() {
            fed = (fed + step).min(input.len());
            while at < fed && !decoder.is_done() {
                let decoded = decoder.decode(&input[at..fed])?;
                assert!(decoded.consumed > 0);
                assert_eq!(decoded.done, decoder.is_done());
                body.extend(&input[at..fed][decoded.data]);
                at += decoded.consumed;
            }
        }
        if !decoder.is_done() {
            decoder.handle_eof()?;
        }
        Ok((body, input.len() - at))
    }

    #[test]
    fn bodies_end_where_they_should() {
        for step in 1..20 {
            let body = |framing, input: &[u8]| read(framing, input, step).unwrap();
            assert_eq!(body(Framing::Empty, b"next"), (vec![], 4));
            assert_eq!(body(Framing::Length(0), b"next"), (vec![], 4));
            assert_eq!(body(Framing::Length(4), b"bodynext").0, b"body");
            assert_eq!(body(Framing::UntilClose, b"all"), (b"all".to_vec(), 0));
            assert_eq!(
                body(
                    Framing::Chunked,
                    b"3;a=b\r\nabc\r\n0A \r\n0123456789\r\n000\r\nTrailer: x\r\n\r\nnext"
                )
                .0,
                b"abc0123456789"
            );
        }
        assert_eq!(read(Framing::Length(4), b"bodynext", 8).unwrap().1, 4);
        assert_eq!(
            read(Framing::Chunked, b"1\r\na\r\n0\r\n\r\nnext", 99)
                .unwrap()
                .1,
            4
        );
    }

    #[test]
    fn an_early_end_is_told() {
        assert!(read(Framing::Length(4), b"bod", 1).is_err());
        assert!(read(Framing::Chunked, b"3\r\nabc\r\n", 1).is_err());
        assert!(read(Framing::Chunked, b"3\r\nabc\r\n0\r\n", 1).is_err());
    }

    #[test]
    fn bad_framing_is_refused() {
        let long = format!("1;{}", "x".repeat(1000));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(3000));
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3;a\n",
            "1000000000000000\r\n",
            "ffffffffffffffffff\r\n",
            "0\r\na\n\r\n",
            "0x3\r\n",
            ";a\r\n",
            &long,
            &trailers,
        ] {
            let refused = read(Framing::Chunked, bad.as_bytes(), 7).unwrap_err();
            assert_ne!(refused.why, "it ended early", "{bad:.20}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_framed_is_read(runs in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6), step in 1..64usize) {
            let mut wire = Vec::new();
            for run in &runs {
                wire.extend(run_head(run.len()));
                wire.extend(run);
                wire.extend(RUN_END);
            }
            wire.extend(BODY_END);
            let (body, left) = read(Framing::Chunked, &wire, step).unwrap();
            prop_assert_eq!(body, runs.concat());
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1..20usize) {
            let _ = read(Framing::Chunked, &bytes, step);
        }
    }
}
