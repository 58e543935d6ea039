//! Bencode (BEP 3): a checked view of untrusted bytes, and an encoder.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bendy::encoding::{Error as EncodeError, SingleItemEncoder, ToBencode};

/// Lists and dictionaries inside each other (R30).
pub const DEPTH_MAX: usize = 32;
/// Values and ends of lists and dictionaries together (R30).
pub const TOKENS_MAX: usize = 3_000_000;

/// Why bytes are not acceptable bencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBencode {
    /// More bytes could mend it.
    #[error("bencode-cut-short")]
    Truncated,
    #[error("bencode-malformed")]
    Malformed,
    #[error("bencode-too-deep")]
    Depth,
    #[error("bencode-too-many-tokens")]
    Tokens,
    #[error("bencode-duplicate-key")]
    DuplicateKey,
    #[error("bencode-trailing-bytes")]
    Trailing,
}

impl BadBencode {
    /// The reason code that an error body carries.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "bencode-cut-short",
            Self::Malformed => "bencode-malformed",
            Self::Depth => "bencode-too-deep",
            Self::Tokens => "bencode-too-many-tokens",
            Self::DuplicateKey => "bencode-duplicate-key",
            Self::Trailing => "bencode-trailing-bytes",
        }
    }
}

/// A value inside bytes that were checked as a whole: it borrows them and allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List(List<'a>),
    Dict(Dict<'a>),
}

/// A list, walked anew by each iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a> {
    raw: &'a [u8],
}

/// A dictionary; no key occurs twice, the order is as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dict<'a> {
    raw: &'a [u8],
}

/// The one value that `bytes` hold.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, BadBencode> {
    match parse_prefix(bytes)? {
        (value, end) if end == bytes.len() => Ok(value),
        _ => Err(BadBencode::Trailing),
    }
}

/// The value that `bytes` begin with, and its length: a `ut_metadata` message has a payload behind
/// its dictionary (BEP 9).
pub fn parse_prefix(bytes: &[u8]) -> Result<(Value<'_>, usize), BadBencode> {
    let end = check(bytes, TOKENS_MAX)?;
    let raw = &bytes[..end];
    let value = match token(raw, 0)?.0 {
        Token::Int(value) => Value::Int(value),
        Token::Bytes(value) => Value::Bytes(value),
        Token::List => Value::List(List { raw }),
        Token::Dict => Value::Dict(Dict { raw }),
        Token::End => return Err(BadBencode::Malformed),
    };
    Ok((value, end))
}

impl<'a> Value<'a> {
    pub fn int(self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(value),
            _ => None,
        }
    }

    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Bytes that are UTF-8.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub fn list(self) -> Option<List<'a>> {
        match self {
            Self::List(value) => Some(value),
            _ => None,
        }
    }

    pub fn dict(self) -> Option<Dict<'a>> {
        match self {
            Self::Dict(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> List<'a> {
    /// The bytes as found, `l` to `e`.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut at = 1;
        std::iter::from_fn(move || next_value(self.raw, &mut at))
    }
}

impl<'a> Dict<'a> {
    /// The bytes as found, `d` to `e`: what an info-hash is taken over.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> {
        let mut at = 1;
        std::iter::from_fn(move || {
            let key = next_value(self.raw, &mut at)?.bytes()?;
            Some((key, next_value(self.raw, &mut at)?))
        })
    }

    /// Walks the dictionary: look several keys of a long one up by one [`Dict::iter`].
    pub fn get(self, key: &[u8]) -> Option<Value<'a>> {
        self.iter()
            .find_map(|(found, value)| (found == key).then_some(value))
    }

    pub fn int(self, key: &[u8]) -> Option<i64> {
        self.get(key)?.int()
    }

    pub fn bytes(self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.bytes()
    }

    pub fn text(self, key: &[u8]) -> Option<&'a str> {
        self.get(key)?.text()
    }

    pub fn list(self, key: &[u8]) -> Option<List<'a>> {
        self.get(key)?.list()
    }

    pub fn dict(self, key: &[u8]) -> Option<Dict<'a>> {
        self.get(key)?.dict()
    }
}

/// Digits that never overflow a `u64`; no `i64` has more.
const DIGITS_MAX: usize = 19;

/// One step of the text.
enum Token<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List,
    Dict,
    End,
}

/// An open list or dictionary.
struct Level {
    dict: bool,
    /// A key was read and its value was not.
    key_open: bool,
    /// Where this dictionary's keys begin in the common stack.
    keys_from: usize,
    unsorted: bool,
}

// bendy's decoder refuses unsorted keys with no way to allow them, which torrents and trackers in
// the field do send, and allocates 144 KiB each time. So untrusted bytes are walked here, to the
// rules of R30, and bendy encodes.
/// The end of the first value, if it obeys R30.
fn check(bytes: &[u8], tokens_max: usize) -> Result<usize, BadBencode> {
    let mut levels: Vec<Level> = Vec::with_capacity(DEPTH_MAX);
    let mut keys: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    for _ in 0..tokens_max {
        let (token, end) = token(bytes, at)?;
        at = end;
        match (token, levels.last_mut()) {
            (Token::Bytes(key), Some(level)) if level.dict && !level.key_open => {
                if let Some(last) = keys[level.keys_from..].last() {
                    level.unsorted |= *last >= key;
                }
                keys.push(key);
                level.key_open = true;
                continue;
            }
            (Token::End, Some(level)) if !level.key_open => {
                if level.unsorted && has_twins(&mut keys[level.keys_from..]) {
                    return Err(BadBencode::DuplicateKey);
                }
                keys.truncate(level.keys_from);
                levels.pop();
            }
            (Token::End, _) => return Err(BadBencode::Malformed),
            (_, Some(level)) if level.dict && !level.key_open => {
                return Err(BadBencode::Malformed);
            }
            (token @ (Token::List | Token::Dict), _) => {
                if levels.len() == DEPTH_MAX {
                    return Err(BadBencode::Depth);
                }
                levels.push(Level {
                    dict: matches!(token, Token::Dict),
                    key_open: false,
                    keys_from: keys.len(),
                    unsorted: false,
                });
                continue;
            }
            (Token::Int(_) | Token::Bytes(_), _) => {}
        }
        match levels.last_mut() {
            Some(level) => level.key_open = false,
            None => return Ok(at),
        }
    }
    Err(BadBencode::Tokens)
}

fn has_twins(keys: &mut [&[u8]]) -> bool {
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// The token at `at`, and where it ends.
fn token(bytes: &[u8], at: usize) -> Result<(Token<'_>, usize), BadBencode> {
    match bytes.get(at).ok_or(BadBencode::Truncated)? {
        b'i' => {
            let (value, end) = int(bytes, at + 1)?;
            Ok((Token::Int(value), end))
        }
        b'l' => Ok((Token::List, at + 1)),
        b'd' => Ok((Token::Dict, at + 1)),
        b'e' => Ok((Token::End, at + 1)),
        b'0'..=b'9' => {
            let (len, start) = digits(bytes, at, b':')?;
            let end = usize::try_from(len)
                .ok()
                .and_then(|len| start.checked_add(len));
            let end = end.ok_or(BadBencode::Malformed)?;
            let found = bytes.get(start..end).ok_or(BadBencode::Truncated)?;
            Ok((Token::Bytes(found), end))
        }
        _ => Err(BadBencode::Malformed),
    }
}

/// An integer after its `i`: no `-0`, no leading zero.
fn int(bytes: &[u8], at: usize) -> Result<(i64, usize), BadBencode> {
    let negative = *bytes.get(at).ok_or(BadBencode::Truncated)? == b'-';
    let (value, end) = digits(bytes, at + usize::from(negative), b'e')?;
    match (negative, value) {
        (true, 0) => Err(BadBencode::Malformed),
        (true, value) => Ok((0i64.checked_sub_unsigned(value), end)),
        (false, value) => Ok((i64::try_from(value).ok(), end)),
    }
    .and_then(|(value, end)| Ok((value.ok_or(BadBencode::Malformed)?, end)))
}

/// Decimal digits up to `stop`, which is passed over. The hot loop of every walk.
fn digits(bytes: &[u8], start: usize, stop: u8) -> Result<(u64, usize), BadBencode> {
    let rest = bytes.get(start..).ok_or(BadBencode::Truncated)?;
    let mut value = 0u64;
    for (len, byte) in rest.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let good = *byte == stop && len > 0;
            return good
                .then_some((value, start + len + 1))
                .ok_or(BadBencode::Malformed);
        }
        // A value of 0 that goes on has a leading zero.
        if len > 0 && value == 0 || len >= DIGITS_MAX {
            return Err(BadBencode::Malformed);
        }
        value = value * 10 + u64::from(digit);
    }
    Err(BadBencode::Truncated)
}

/// The next value of a checked list or dictionary; `None` at its end.
fn next_value<'a>(raw: &'a [u8], at: &mut usize) -> Option<Value<'a>> {
    let (value, end) = value_at(raw, *at).ok().flatten()?;
    *at = end;
    Some(value)
}

/// The value at `at` of checked bytes and where it ends; `None` for the end of a list.
fn value_at(raw: &[u8], at: usize) -> Result<Option<(Value<'_>, usize)>, BadBencode> {
    let (value, end) = match token(raw, at)? {
        (Token::Int(value), end) => (Value::Int(value), end),
        (Token::Bytes(value), end) => (Value::Bytes(value), end),
        (Token::List, start) => {
            let end = end_of(raw, start)?;
            (Value::List(List { raw: &raw[at..end] }), end)
        }
        (Token::Dict, start) => {
            let end = end_of(raw, start)?;
            (Value::Dict(Dict { raw: &raw[at..end] }), end)
        }
        (Token::End, _) => return Ok(None),
    };
    Ok(Some((value, end)))
}

/// Behind the end of the list or dictionary whose first item is at `at`.
fn end_of(raw: &[u8], mut at: usize) -> Result<usize, BadBencode> {
    let mut depth = 1usize;
    while depth > 0 {
        let (token, end) = token(raw, at)?;
        at = end;
        match token {
            Token::List | Token::Dict => depth += 1,
            Token::End => depth -= 1,
            Token::Int(_) | Token::Bytes(_) => {}
        }
    }
    Ok(at)
}

/// A dictionary to be written; keys come out sorted, a key given twice keeps its last value.
#[derive(Clone, Debug, Default)]
pub struct Encoder<'a> {
    pairs: BTreeMap<Cow<'a, [u8]>, Item<'a>>,
}

/// A value to be written.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    Int(i64),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Item<'a>>),
    Dict(Encoder<'a>),
}

impl<'a> Encoder<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn item(mut self, key: impl Into<Cow<'a, [u8]>>, item: Item<'a>) -> Self {
        self.pairs.insert(key.into(), item);
        self
    }

    #[must_use]
    pub fn int(self, key: impl Into<Cow<'a, [u8]>>, value: impl Into<i64>) -> Self {
        self.item(key, Item::Int(value.into()))
    }

    #[must_use]
    pub fn bytes(self, key: impl Into<Cow<'a, [u8]>>, value: impl Into<Cow<'a, [u8]>>) -> Self {
        self.item(key, Item::Bytes(value.into()))
    }

    #[must_use]
    pub fn text(self, key: impl Into<Cow<'a, [u8]>>, value: &'a str) -> Self {
        self.item(key, Item::from(value))
    }

    #[must_use]
    pub fn list(self, key: impl Into<Cow<'a, [u8]>>, items: Vec<Item<'a>>) -> Self {
        self.item(key, Item::List(items))
    }

    #[must_use]
    pub fn dict(self, key: impl Into<Cow<'a, [u8]>>, value: Self) -> Self {
        self.item(key, Item::Dict(value))
    }

    pub fn finish(&self) -> Vec<u8> {
        self.to_bencode()
            .expect("sorted by the map, and nested as deep as our own code does")
    }
}

impl<'a> From<&'a str> for Item<'a> {
    fn from(text: &'a str) -> Self {
        Self::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

impl<'a> From<&'a [u8]> for Item<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Item<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Cow::Owned(bytes))
    }
}

impl ToBencode for Encoder<'_> {
    const MAX_DEPTH: usize = DEPTH_MAX;

    fn encode(&self, encoder: SingleItemEncoder<'_>) -> Result<(), EncodeError> {
        encoder.emit_dict(|mut dict| {
            self.pairs
                .iter()
                .try_for_each(|(key, item)| dict.emit_pair(key, item))
        })
    }
}

impl ToBencode for Item<'_> {
    const MAX_DEPTH: usize = DEPTH_MAX;

    fn encode(&self, encoder: SingleItemEncoder<'_>) -> Result<(), EncodeError> {
        match self {
            Self::Int(value) => encoder.emit_int(*value),
            Self::Bytes(value) => encoder.emit_bytes(value),
            Self::List(items) => {
                encoder.emit_list(|list| items.iter().try_for_each(|item| list.emit(item)))
            }
            Self::Dict(dict) => dict.encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use bendy::decoding::Object;
    use proptest::prelude::*;

    use super::*;

    fn refused(bytes: &[u8]) -> BadBencode {
        parse(bytes).unwrap_err()
    }

    #[test]
    fn values_are_read() {
        let value = parse(b"d1:ai-7e1:bl3:abc0:e1:cd0:i0eee").unwrap();
        let dict = value.dict().unwrap();
        assert_eq!(dict.int(b"a"), Some(-7));
        let list: Vec<_> = dict.list(b"b").unwrap().iter().collect();
        assert_eq!(list, [Value::Bytes(b"abc"), Value::Bytes(b"")]);
        let inner = dict.dict(b"c").unwrap();
        assert_eq!(inner.raw(), b"d0:i0ee");
        assert_eq!(inner.int(b""), Some(0));
        assert_eq!(dict.get(b"d"), None);
        assert_eq!(dict.bytes(b"a"), None);
    }

    #[test]
    fn unsorted_keys_pass_and_twins_do_not() {
        let value = parse(b"d1:bi1e1:ai2ee").unwrap();
        assert_eq!(value.dict().unwrap().int(b"a"), Some(2));
        assert_eq!(refused(b"d1:ai1e1:ai2ee"), BadBencode::DuplicateKey);
        assert_eq!(refused(b"d1:bi1e1:ai2e1:bi3ee"), BadBencode::DuplicateKey);
        // The same key in another dictionary is no twin, inside or beside.
        assert!(parse(b"d1:ad1:ai1ee1:bd1:ai1eee").is_ok());
        assert!(parse(b"d1:bd1:bi1ee1:ai1ee").is_ok());
        assert_eq!(
            refused(b"d1:bd1:bi1e1:ai1e1:bi1ee1:ai1ee"),
            BadBencode::DuplicateKey
        );
    }

    #[test]
    fn malformed_is_refused() {
        let bad: [&[u8]; 19] = [
            b"i-0e",
            b"i007e",
            b"ie",
            b"i-e",
            b"i+1e",
            b"i1.0e",
            b"03:abc",
            b"e",
            b"de1",
            b"di1e1:ae",
            b"d1:ae",
            b"dlei1ee",
            b"x",
            b" i1e",
            b"-1:a",
            b"i9223372036854775808e",
            b"i-9223372036854775809e",
            b"99999999999999999999:a",
            b"18446744073709551615:a",
        ];
        for bytes in bad {
            assert!(
                matches!(refused(bytes), BadBencode::Malformed | BadBencode::Trailing),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(parse(b"i-9223372036854775808e"), Ok(Value::Int(i64::MIN)));
        assert_eq!(parse(b"i9223372036854775807e"), Ok(Value::Int(i64::MAX)));
    }

    #[test]
    fn every_cut_is_truncated() {
        let whole = b"d1:ai-7e1:bl3:abc0:e1:cd0:i10eee";
        assert!(parse(whole).is_ok());
        for len in 0..whole.len() {
            assert_eq!(refused(&whole[..len]), BadBencode::Truncated, "{len}");
        }
        assert_eq!(refused(b"i1ei2e"), BadBencode::Trailing);
        let (value, end) = parse_prefix(b"d1:ai1eepayload").unwrap();
        assert_eq!((value.dict().unwrap().int(b"a"), end), (Some(1), 8));
    }

    #[test]
    fn depth_and_tokens_are_bounded() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(refused(&nested(DEPTH_MAX + 1)), BadBencode::Depth);
        assert_eq!(refused(&vec![b'l'; 5_000_000]), BadBencode::Depth);
        let flat = |count: usize| [b"l".to_vec(), b"0:".repeat(count), b"e".to_vec()].concat();
        assert_eq!(check(&flat(8), 10), Ok(18));
        assert_eq!(check(&flat(9), 10), Err(BadBencode::Tokens));
        assert_eq!(refused(&flat(TOKENS_MAX)), BadBencode::Tokens);
    }

    #[test]
    fn encoder_sorts() {
        let bytes = Encoder::new()
            .int(b"z", 1u32)
            .dict(
                b"m",
                Encoder::new().int(b"ut_pex", 1).int(b"ut_metadata", 2),
            )
            .bytes(b"a", &b"\xff"[..])
            .list(b"l", vec![Item::Int(3), Item::from("x")])
            .finish();
        assert_eq!(
            bytes,
            b"d1:a1:\xff1:lli3e1:xe1:md11:ut_metadatai2e6:ut_pexi1ee1:zi1ee"
        );
    }

    fn item() -> impl Strategy<Value = Item<'static>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Item::Int),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Item::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let pairs = proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..4),
                inner.clone(),
                0..6,
            );
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Item::List),
                pairs.prop_map(|pairs| {
                    let start = Encoder::new();
                    Item::Dict(
                        pairs
                            .into_iter()
                            .fold(start, |dict, (key, item)| dict.item(key, item)),
                    )
                }),
            ]
        })
    }

    fn same(item: &Item<'_>, value: Value<'_>) -> bool {
        match (item, value) {
            (Item::Int(a), Value::Int(b)) => *a == b,
            (Item::Bytes(a), Value::Bytes(b)) => **a == *b,
            (Item::List(a), Value::List(b)) => {
                a.len() == b.iter().count() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b))
            }
            (Item::Dict(a), Value::Dict(b)) => {
                a.pairs.len() == b.iter().count()
                    && a.pairs
                        .iter()
                        .zip(b.iter())
                        .all(|((key, a), (found, b))| **key == *found && same(a, b))
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_written_is_read_back(item in item()) {
            let bytes = item.to_bencode().unwrap();
            prop_assert!(same(&item, parse(&bytes).unwrap()));
        }

        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b':'), Just(b'1'), Just(b'-'), any::<u8>()],
            0..200,
        )) {
            let found = parse_prefix(&bytes);
            if let Ok((Value::Dict(dict), end)) = found {
                prop_assert_eq!(dict.raw().len(), end);
                for (key, _) in dict.iter() {
                    prop_assert!(dict.get(key).is_some());
                }
            }
            // All that bendy takes is taken here; only unsorted keys are taken besides.
            let mut bendy = bendy::decoding::Decoder::new(&bytes).with_max_depth(DEPTH_MAX);
            let strict = match bendy.next_object() {
                Ok(Some(Object::List(list))) => list.into_raw().map(<[u8]>::len).ok(),
                Ok(Some(Object::Dict(dict))) => dict.into_raw().map(<[u8]>::len).ok(),
                _ => None,
            };
            if let Some(len) = strict {
                prop_assert_eq!(found.unwrap().1, len);
            }
        }
    }
}
