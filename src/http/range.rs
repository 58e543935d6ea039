//! `Range` as asked and `Content-Range` as answered (RFC 9110 §14, R28).
//!
//! The grammar is nginx's, blanks included (`bytes= 0 - 9`), and so are its answers: a suffix of 0
//! is unsatisfiable, and of an empty body the range from 0 is the whole. Only here do we differ,
//! as DESIGN §9 rules: several ranges are ignored where nginx answers in parts; reversed,
//! malformed and overflowing ones are ignored where nginx answers 416. (nginx 1.22 also takes a tab
//! behind a header's value for a part of it, and so for malformed; RFC 9110 §5.5 strips it.)

use crate::units::ByteRange;

/// What a `Range` header comes to for a body of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// No header, or one to be ignored: 200.
    Whole,
    /// Not empty and within the body: 206.
    Part(ByteRange),
    /// 416.
    Unsatisfiable,
}

pub fn resolve(header: Option<&str>, len: u64) -> Asked {
    let Some((first, last)) = header.and_then(parse) else {
        return Asked::Whole;
    };
    let (start, end) = match (first, last) {
        (Some(first), Some(last)) if last < first => return Asked::Whole,
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(len)),
        (Some(first), None) => (first, len),
        (None, Some(suffix)) => (len.saturating_sub(suffix), len),
        (None, None) => return Asked::Whole,
    };
    if start < end {
        Asked::Part(ByteRange::new(start, end))
    } else if start == 0 {
        Asked::Whole // the body is empty
    } else {
        Asked::Unsatisfiable
    }
}

/// A `Content-Range` header. `range` is `None` for `*`, `total` likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub range: Option<ByteRange>,
    pub total: Option<u64>,
}

/// `None` unless it is well formed and its range lies within its total.
pub fn parse_content_range(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = rest.trim_start().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        digits => Some(whole_number(digits)?),
    };
    let range = match range.trim() {
        "*" => None,
        span => {
            let (first, last) = span.split_once('-')?;
            let (first, last) = (whole_number(first)?, whole_number(last)?);
            if last < first || total.is_some_and(|total| last >= total) {
                return None;
            }
            Some(ByteRange::new(first, last + 1))
        }
    };
    if range.is_none() && total.is_none() {
        return None;
    }
    Some(ContentRange { range, total })
}

/// First and last byte of the one range asked for; of a suffix, only its length as the latter.
fn parse(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    const UNIT: &str = "bytes=";
    let unit = header.get(..UNIT.len())?;
    if !unit.eq_ignore_ascii_case(UNIT) {
        return None;
    }
    let set = skip_blanks(&header[UNIT.len()..]);
    let (first, rest) = match set.strip_prefix('-') {
        // No blank may stand between the dash and a suffix's length.
        Some(suffix) => (None, suffix),
        None => {
            let (first, rest) = number(set)?;
            let rest = skip_blanks(skip_blanks(rest).strip_prefix('-')?);
            if rest.is_empty() {
                return Some((Some(first), None));
            }
            (Some(first), rest)
        }
    };
    let (last, rest) = number(rest)?;
    skip_blanks(rest).is_empty().then_some((first, Some(last)))
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(' ')
}

fn whole_number(text: &str) -> Option<u64> {
    match number(text)? {
        (value, "") => Some(value),
        _ => None,
    }
}

/// The digits that `text` begins with, and the rest. `None` beyond 63 bits: no file is longer.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(digits);
    let value = digits.parse::<i64>().ok()?;
    Some((u64::try_from(value).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(start: u64, end: u64) -> Asked {
        Asked::Part(ByteRange::new(start, end))
    }

    #[test]
    fn one_range_is_a_part() {
        for (header, answer) in [
            ("bytes=0-1", part(0, 2)),
            ("Bytes=0-1", part(0, 2)),
            ("BYTES=0-", part(0, 100)),
            ("bytes=99-", part(99, 100)),
            ("bytes=10-10", part(10, 11)),
            ("bytes=10-1000", part(10, 100)),
            ("bytes=10-9223372036854775807", part(10, 100)),
            ("bytes=-1", part(99, 100)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=0000000000000000000000000001-2", part(1, 3)),
            ("bytes=  1  -  2  ", part(1, 3)),
            ("bytes= -2 ", part(98, 100)),
        ] {
            assert_eq!(resolve(Some(header), 100), answer, "{header}");
        }
    }

    #[test]
    fn what_lies_outside_is_unsatisfiable() {
        for header in [
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=9223372036854775807-",
        ] {
            assert_eq!(resolve(Some(header), 100), Asked::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn the_rest_is_ignored() {
        assert_eq!(resolve(None, 100), Asked::Whole);
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2x",
            "bytes=x1-2",
            "bytes=- 5",
            "bytes =0-1",
            "bytes:0-1",
            " bytes=0-1",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=\t1-2",
            "bytes=1-2\t",
            "bytes=0-1é",
            "bytéé",
            // reversed
            "bytes=10-5",
            "bytes=200-150",
            // several
            "bytes=0-1,5-6",
            "bytes=0-1,",
            "bytes=,0-1",
            "bytes=0-,5-",
            // beyond 63 bits
            "bytes=9223372036854775808-",
            "bytes=0-9223372036854775808",
            "bytes=-99999999999999999999",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(resolve(Some(header), 100), Asked::Whole, "{header:?}");
        }
    }

    #[test]
    fn an_empty_body_has_no_parts() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=-0"] {
            assert_eq!(resolve(Some(header), 0), Asked::Whole, "{header}");
        }
        assert_eq!(resolve(Some("bytes=5-"), 0), Asked::Unsatisfiable);
    }

    #[test]
    fn content_range_is_read() {
        let read = |text| parse_content_range(text);
        let whole = |start, end, total| {
            let range = Some(ByteRange::new(start, end));
            Some(ContentRange { range, total })
        };
        assert_eq!(read("bytes 0-9/100"), whole(0, 10, Some(100)));
        assert_eq!(read("Bytes 5-5/*"), whole(5, 6, None));
        assert_eq!(
            read("bytes */100"),
            Some(ContentRange {
                range: None,
                total: Some(100)
            })
        );
        for bad in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes */*",
            "items 0-9/100",
            "bytes -9/100",
            "bytes 0-/100",
            "bytes=0-9/100",
            "bytes 0-9/-1",
            "bytes 0-9223372036854775808/*",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn parts_lie_within(header in "[Bb]ytes=[ 0-9,-]{0,24}", len in 0..200u64) {
            if let Asked::Part(range) = resolve(Some(&header), len) {
                prop_assert!(range.start < range.end && range.end <= len);
            }
        }

        #[test]
        fn any_text_is_answered(header in ".{0,40}", len: u64) {
            let _ = resolve(Some(&header), len);
            let _ = parse_content_range(&header);
        }
    }
}
