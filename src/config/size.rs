//! Sizes as people write them: `20GB`, `1.5 TiB`, `700000000`.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Most that the store may hold, in bytes; `none` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimit(pub Option<u64>);

/// Not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    #[error("not a size: write a number and a unit, such as 500MB, 20GB or 1.5TiB")]
    Malformed,
    #[error("too large")]
    TooLarge,
}

impl FromStr for StoreLimit {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Self, BadSize> {
        if text == "none" {
            return Ok(Self(None));
        }
        parse(text).map(|bytes| Self(Some(bytes)))
    }
}

impl<'de> Deserialize<'de> for StoreLimit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"20GB\", or a number of bytes")]
        enum Typed {
            Bytes(u64),
            Text(String),
        }
        match Typed::deserialize(from)? {
            Typed::Bytes(bytes) => Ok(Self(Some(bytes))),
            Typed::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// Units by thousands (kB, MB, GB, TB; k, M, G, T mean the same) or by 1024 (KiB to TiB), in any
/// case; without one, bytes. A fraction is rounded down to whole bytes.
fn parse(text: &str) -> Result<u64, BadSize> {
    let text = text.trim();
    let unit_at = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit: u128 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u128.pow(2),
        "g" | "gb" => 1000_u128.pow(3),
        "t" | "tb" => 1000_u128.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(BadSize::Malformed),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let part_scale = digits_scale(part)?;
    let bytes = digits(whole)?
        .checked_mul(unit)
        .zip(digits(part)?.checked_mul(unit))
        .and_then(|(whole, part)| whole.checked_add(part / part_scale))
        .ok_or(BadSize::TooLarge)?;
    u64::try_from(bytes).map_err(|_| BadSize::TooLarge)
}

fn digits(text: &str) -> Result<u128, BadSize> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadSize::Malformed);
    }
    text.parse().map_err(|_| BadSize::TooLarge)
}

fn digits_scale(part: &str) -> Result<u128, BadSize> {
    let places = u32::try_from(part.len()).map_err(|_| BadSize::Malformed)?;
    10_u128.checked_pow(places).ok_or(BadSize::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("700000000", 700_000_000),
            ("20GB", 20_000_000_000),
            ("20g", 20_000_000_000),
            (" 500 MB ", 500_000_000),
            ("1.5TiB", 3 << 39),
            ("0.5kib", 512),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GB",
            "20 apples",
            "-1GB",
            "1e9",
            "1,5GB",
            "1.GB",
            ".5GB",
            "1.2.3GB",
            "²GB",
        ] {
            assert_eq!(parse(text), Err(BadSize::Malformed), "{text}");
        }
        for text in [
            "18446744073709551616",
            "17000000TiB",
            "9".repeat(60).as_str(),
        ] {
            assert_eq!(parse(text), Err(BadSize::TooLarge), "{text}");
        }
    }

    #[test]
    fn none_lifts_the_limit() {
        assert_eq!("none".parse(), Ok(StoreLimit(None)));
        assert_eq!("1kB".parse(), Ok(StoreLimit(Some(1000))));
    }
}
