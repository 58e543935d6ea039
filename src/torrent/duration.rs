//! How long a file plays, read from its first bytes.

use std::time;

/// More of a file's head is never wanted: what tells the duration then lies elsewhere.
pub const DURATION_HEAD_MAX: usize = 256 * 1024;

/// Anything longer is a mistake, or malice.
const DURATION_MAX: time::Duration = time::Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Known(time::Duration),
    /// So many bytes from the file's start would tell more, at most [`DURATION_HEAD_MAX`].
    NeedMore(usize),
    /// The head of this file does not tell.
    Unknown,
}

/// `head`: a file's bytes from its first.
pub fn duration(head: &[u8]) -> Duration {
    let found = match head {
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska(Head(head)),
        [b'R', b'I', b'F', b'F', ..] => avi(Head(head)),
        _ if head.get(4..8).is_some_and(is_box) => iso_bmff(Head(head)),
        _ if head.len() < SHORTEST => Err(Duration::NeedMore(SHORTEST)),
        _ => Err(Duration::Unknown),
    };
    match found {
        Ok(duration) if !duration.is_zero() && duration <= DURATION_MAX => {
            Duration::Known(duration)
        }
        Ok(_) => Duration::Unknown,
        Err(why) => why,
    }
}

/// What an EBML header says the file is.
pub fn doc_type(head: &[u8]) -> Option<&[u8]> {
    let head = Head(head);
    let header = element(head, 0).ok()?;
    let mut at = header.body;
    while at < header.end? {
        let child = element(head, at).ok()?;
        if child.id == ID_DOC_TYPE {
            let len = child.len()?;
            return head.take(child.body, len).ok();
        }
        at = child.end?;
    }
    None
}

/// Enough to tell the containers apart.
const SHORTEST: usize = 8;

/// Bytes at an offset, or what to answer without them.
#[derive(Clone, Copy)]
struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    fn take(self, at: u64, len: u64) -> Result<&'a [u8], Duration> {
        let end = at.checked_add(len).ok_or(Duration::Unknown)?;
        let end = usize::try_from(end).map_err(|_| Duration::Unknown)?;
        if end > DURATION_HEAD_MAX {
            return Err(Duration::Unknown);
        }
        let start = usize::try_from(at).expect("before the end");
        self.0.get(start..end).ok_or(Duration::NeedMore(end))
    }

    fn number(self, at: u64, len: u64) -> Result<u64, Duration> {
        debug_assert!(len <= 8, "fits");
        let bytes = self.take(at, len)?.iter();
        Ok(bytes.fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn float(self, at: u64, len: u64) -> Result<f64, Duration> {
        match len {
            4 => {
                let bits = u32::try_from(self.number(at, 4)?).expect("four bytes");
                Ok(f64::from(f32::from_bits(bits)))
            }
            8 => Ok(f64::from_bits(self.number(at, 8)?)),
            _ => Err(Duration::Unknown),
        }
    }
}

/// Boxes that stand at the front of a film.
fn is_box(kind: &[u8]) -> bool {
    [
        b"ftyp", b"styp", b"moov", b"free", b"skip", b"wide", b"pnot", b"uuid", b"pdin", b"sidx",
    ]
    .iter()
    .any(|known| kind == *known)
}

/// ISO 14496-12 §8.2.2. A `moov` behind the media is not looked for.
fn iso_bmff(head: Head<'_>) -> Result<time::Duration, Duration> {
    let movie = find_box(head, 0, u64::MAX, *b"moov")?;
    let header = find_box(head, movie.body, movie.end, *b"mvhd")?;
    let version = head.number(header.body, 1)?;
    let (scale_at, duration_len) = if version == 1 { (20, 8) } else { (12, 4) };
    let scale = head.number(header.body + scale_at, 4)?;
    let duration = head.number(header.body + scale_at + 4, duration_len)?;
    // All ones: not known.
    if duration == u64::MAX >> (64 - 8 * duration_len) {
        return Err(Duration::Unknown);
    }
    fraction(duration, scale)
}

struct FoundBox {
    body: u64,
    end: u64,
}

/// Each step goes forward by 8 bytes or more, so there are no more than the head has room for.
fn find_box(head: Head<'_>, from: u64, end: u64, kind: [u8; 4]) -> Result<FoundBox, Duration> {
    let mut at = from;
    while at < end {
        let size = head.number(at, 4)?;
        let found = head.take(at + 4, 4)?;
        if found == b"mdat" || found == b"moof" {
            return Err(Duration::Unknown);
        }
        let (body, size) = match size {
            0 => (at + 8, end - at),
            1 => (at + 16, head.number(at + 8, 8)?),
            _ => (at + 8, size),
        };
        let after = at.checked_add(size).ok_or(Duration::Unknown)?;
        if after < body || after > end {
            return Err(Duration::Unknown);
        }
        if found == kind {
            return Ok(FoundBox { body, end: after });
        }
        at = after;
    }
    Err(Duration::Unknown)
}

const ID_SEGMENT: u64 = 0x1853_8067;
const ID_INFO: u64 = 0x1549_A966;
const ID_CLUSTER: u64 = 0x1F43_B675;
const ID_TIMESTAMP_SCALE: u64 = 0x2A_D7B1;
const ID_DURATION: u64 = 0x4489;
const ID_DOC_TYPE: u64 = 0x4282;

/// RFC 9559 §5.1.2.
fn matroska(head: Head<'_>) -> Result<time::Duration, Duration> {
    let header = element(head, 0)?;
    let segment = element(head, header.end.ok_or(Duration::Unknown)?)?;
    if segment.id != ID_SEGMENT {
        return Err(Duration::Unknown);
    }
    let mut at = segment.body;
    let info = loop {
        let child = element(head, at)?;
        match child.id {
            ID_INFO => break child,
            ID_CLUSTER => return Err(Duration::Unknown),
            _ => at = child.end.ok_or(Duration::Unknown)?,
        }
    };
    let end = info.end.ok_or(Duration::Unknown)?;
    let (mut scale_ns, mut ticks) = (1_000_000, None);
    let mut at = info.body;
    while at < end {
        let child = element(head, at)?;
        let len = child.len().ok_or(Duration::Unknown)?;
        match child.id {
            ID_TIMESTAMP_SCALE if len <= 8 => scale_ns = head.number(child.body, len)?,
            ID_DURATION => ticks = Some(head.float(child.body, len)?),
            _ => {}
        }
        at = child.body + len;
    }
    let ticks = ticks.ok_or(Duration::Unknown)?;
    let scale = time::Duration::from_nanos(scale_ns).as_secs_f64();
    time::Duration::try_from_secs_f64(ticks * scale).map_err(|_| Duration::Unknown)
}

struct Element {
    id: u64,
    body: u64,
    /// `None`: of unknown size.
    end: Option<u64>,
}

impl Element {
    fn len(&self) -> Option<u64> {
        Some(self.end? - self.body)
    }
}

/// RFC 8794 §4: how many zero bits a number begins with tells its length.
fn element(head: Head<'_>, at: u64) -> Result<Element, Duration> {
    let id_len = vint_len(head, at, 4)?;
    let id = head.number(at, id_len)?;
    let size_at = at + id_len;
    let size_len = vint_len(head, size_at, 8)?;
    let ones = (1 << (7 * size_len)) - 1;
    let size = head.number(size_at, size_len)? & ones;
    let body = size_at + size_len;
    Ok(Element {
        id,
        body,
        end: (size != ones).then_some(body + size),
    })
}

fn vint_len(head: Head<'_>, at: u64, max: u64) -> Result<u64, Duration> {
    let len = u64::from(head.take(at, 1)?[0].leading_zeros()) + 1;
    if len > max {
        return Err(Duration::Unknown);
    }
    Ok(len)
}

/// Microseconds a frame and number of frames, of the main header that stands first.
fn avi(head: Head<'_>) -> Result<time::Duration, Duration> {
    const MAIN_HEADER_AT: u64 = 32;
    let front = head.take(0, MAIN_HEADER_AT)?;
    if &front[8..16] != b"AVI LIST" || &front[20..28] != b"hdrlavih" {
        return Err(Duration::Unknown);
    }
    let little = |at| {
        head.take(MAIN_HEADER_AT + at, 4)
            .map(|bytes| bytes.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    };
    let (frame_us, frames) = (little(0)?, little(16)?);
    Ok(time::Duration::from_micros(frame_us.saturating_mul(frames)))
}

fn fraction(ticks: u64, ticks_per_s: u64) -> Result<time::Duration, Duration> {
    if ticks_per_s == 0 {
        return Err(Duration::Unknown);
    }
    let nanos = u128::from(ticks % ticks_per_s) * 1_000_000_000 / u128::from(ticks_per_s);
    let nanos = u64::try_from(nanos).expect("less than a second");
    Ok(time::Duration::from_secs(ticks / ticks_per_s) + time::Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = (body.len() as u32 + 8).to_be_bytes();
        [&size, kind.as_slice(), body].concat()
    }

    fn mvhd(version: u8, scale: u32, duration: u64) -> Vec<u8> {
        let mut body = vec![version, 0, 0, 0];
        if version == 1 {
            body.extend([0; 16]);
            body.extend(scale.to_be_bytes());
            body.extend(duration.to_be_bytes());
        } else {
            body.extend([0; 8]);
            body.extend(scale.to_be_bytes());
            body.extend((duration as u32).to_be_bytes());
        }
        body.extend([0; 80]);
        boxed(b"mvhd", &body)
    }

    fn film(before: &[u8], mvhd: &[u8]) -> Vec<u8> {
        let moov = boxed(b"moov", mvhd);
        [
            boxed(b"ftyp", b"isom\0\0\0\0"),
            before.to_vec(),
            moov,
            boxed(b"mdat", b""),
        ]
        .concat()
    }

    fn ebml(id: &[u8], body: &[u8]) -> Vec<u8> {
        [id, &[0x08, 0, 0, 0, body.len() as u8], body].concat()
    }

    fn mkv(info: &[u8]) -> Vec<u8> {
        let header = ebml(&[0x1a, 0x45, 0xdf, 0xa3], &ebml(&[0x42, 0x82], b"webm"));
        let segment = [
            0x18, 0x53, 0x80, 0x67, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        let void = ebml(&[0xec], &[0; 20]);
        let info = ebml(&[0x15, 0x49, 0xa9, 0x66], info);
        let cluster = [0x1f, 0x43, 0xb6, 0x75, 0x80];
        [&header, segment.as_slice(), &void, &info, &cluster].concat()
    }

    fn avi_head() -> Vec<u8> {
        let mut head = b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih\x38\0\0\0".to_vec();
        head.extend(40_000u32.to_le_bytes());
        head.extend([0; 12]);
        head.extend(250u32.to_le_bytes());
        head
    }

    fn known(millis: u64) -> Duration {
        Duration::Known(time::Duration::from_millis(millis))
    }

    #[test]
    fn films_tell_their_duration() {
        assert_eq!(duration(&film(b"", &mvhd(0, 1000, 61_500))), known(61_500));
        assert_eq!(
            duration(&film(b"", &mvhd(1, 90_000, 90_000 * 7200))),
            known(7_200_000)
        );
        let free = boxed(b"free", &[0; 5000]);
        assert_eq!(duration(&film(&free, &mvhd(0, 600, 900))), known(1500));
        // 64-bit size
        let wide = [
            &[0, 0, 0, 1],
            b"free".as_slice(),
            &[0, 0, 0, 0, 0, 0, 0, 20, 1, 2, 3, 4],
        ];
        assert_eq!(duration(&film(&wide.concat(), &mvhd(0, 1, 9))), known(9000));

        let seconds = 12.5f64.to_be_bytes();
        let scale = ebml(&[0x2a, 0xd7, 0xb1], &[0x3b, 0x9a, 0xca, 0x00]);
        let info = [scale, ebml(&[0x44, 0x89], &seconds)].concat();
        assert_eq!(duration(&mkv(&info)), known(12_500));
        let millis = ebml(&[0x44, 0x89], &1500f32.to_be_bytes());
        assert_eq!(duration(&mkv(&millis)), known(1500));
        assert_eq!(duration(&avi_head()), known(10_000));
    }

    #[test]
    fn what_the_head_lacks_is_asked_for() {
        for head in [
            film(b"", &mvhd(0, 1, 9)),
            mkv(&ebml(&[0x44, 0x89], &9e3f32.to_be_bytes())),
            avi_head(),
        ] {
            let mut len = 0;
            let mut calls = 0;
            loop {
                match duration(&head[..len]) {
                    Duration::NeedMore(more) => {
                        assert!(more > len, "{len}");
                        len = more.min(head.len());
                    }
                    found => break assert!(matches!(found, Duration::Known(_)), "{found:?}"),
                }
                calls += 1;
                assert!(calls < 40);
            }
        }
        let large = boxed(b"free", &vec![0; DURATION_HEAD_MAX]);
        assert_eq!(duration(&film(&large, &mvhd(0, 1, 9))), Duration::Unknown);
    }

    #[test]
    fn some_do_not_tell() {
        let behind = [boxed(b"ftyp", b"isom\0\0\0\0"), boxed(b"mdat", b"x")].concat();
        for head in [
            behind,
            film(b"", &mvhd(0, 0, 9)),
            film(b"", &mvhd(0, 1000, 0)),
            film(b"", &mvhd(0, 1000, 0xffff_ffff)),
            film(b"", &mvhd(1, 1000, u64::MAX)),
            film(b"", &mvhd(1, 1, u64::MAX - 1)),
            film(b"", &boxed(b"trak", b"")),
            mkv(b""),
            mkv(&ebml(&[0x44, 0x89], &f64::NAN.to_be_bytes())),
            mkv(&ebml(&[0x44, 0x89], &(-1f64).to_be_bytes())),
            mkv(&ebml(&[0x44, 0x89], &1e300f64.to_be_bytes())),
            mkv(&ebml(&[0x44, 0x89], &[1, 2, 3])),
            b"<!doctype html><html><body>not a film".to_vec(),
            vec![0; 64],
        ] {
            assert_eq!(duration(&head), Duration::Unknown, "{head:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn hostile_bytes_never_panic(
            start in prop::sample::select(vec![
                b"".to_vec(), b"\0\0\0\x08ftyp".to_vec(), b"\0\0\0\0moov".to_vec(), b"\x1a\x45\xdf\xa3".to_vec(),
                b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\x15\x49\xa9\x66".to_vec(), b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrlavih".to_vec(),
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let head = [start, rest].concat();
            let _ = doc_type(&head);
            if let Duration::NeedMore(more) = duration(&head) {
                prop_assert!(head.len() < more && more <= DURATION_HEAD_MAX);
            }
        }

        #[test]
        fn damaged_films_never_panic(at in 0..200usize, byte: u8) {
            let info = ebml(&[0x44, 0x89], &12.5f64.to_be_bytes());
            for mut head in [film(b"", &mvhd(1, 1000, 9)), mkv(&info), avi_head()] {
                let at = at % head.len();
                head[at] = byte;
                if let Duration::Known(found) = duration(&head) {
                    prop_assert!(found <= DURATION_MAX);
                }
            }
        }
    }
}
