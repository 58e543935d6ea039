//! What bytes are: media or not (R18), their Content-Type (R16), how long they play.

use std::borrow::Cow;

pub use crate::torrent::duration::DURATION_HEAD_MAX;
pub use crate::torrent::duration::Duration;
use crate::torrent::duration::doc_type;
pub use crate::torrent::duration::duration;

/// How much of a file [`sniff`] wants to see: this, or all of a shorter one.
pub const SNIFF_LEN: usize = 4096;

/// Bytes that a player plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    pub container: Container,
    pub content_type: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    IsoBmff,
    Matroska,
    MpegTs,
    MpegPs,
    Ogg,
    Flac,
    Wav,
    Mp3,
    Aac,
    Avi,
    Flv,
    /// A playlist: its addresses are checked like any other.
    Hls,
    /// Likewise.
    Dash,
    Vtt,
}

/// The `Content-Type` of a reply, and whether a browser must not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    pub value: Cow<'static, str>,
    pub attachment: bool,
}

/// Looks at a file's first [`SNIFF_LEN`] bytes. `None`: nothing that a page may get from us.
pub fn sniff(head: &[u8]) -> Option<Media> {
    let head = &head[..head.len().min(SNIFF_LEN)];
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let (container, content_type) = match head {
        _ if is_iso_bmff(head) => (Container::IsoBmff, iso_bmff_type(head)),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => match doc_type(head)? {
            b"webm" => (Container::Matroska, "video/webm"),
            b"matroska" => (Container::Matroska, "video/x-matroska"),
            _ => return None,
        },
        [b'O', b'g', b'g', b'S', 0, ..] if contains(head, b"\x80theora") => {
            (Container::Ogg, "video/ogg")
        }
        [b'O', b'g', b'g', b'S', 0, ..] => (Container::Ogg, "audio/ogg"),
        [b'f', b'L', b'a', b'C', ..] => (Container::Flac, "audio/flac"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'A',
            b'V',
            b'I',
            b' ',
            ..,
        ] => (Container::Avi, "video/x-msvideo"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'A',
            b'V',
            b'E',
            ..,
        ] => (Container::Wav, "audio/wav"),
        [b'F', b'L', b'V', 1, ..] => (Container::Flv, "video/x-flv"),
        // The first byte after the start code tells MPEG-2 from MPEG-1.
        [0, 0, 1, 0xba, 0x40..=0x7f | 0x20..=0x2f, ..] => (Container::MpegPs, "video/mpeg"),
        [b'I', b'D', b'3', 2..=4, ..] => (Container::Mp3, "audio/mpeg"),
        _ if is_mpeg_ts(head) => (Container::MpegTs, "video/mp2t"),
        _ if has_frames(head, mp3_frame_len) => (Container::Mp3, "audio/mpeg"),
        _ if has_frames(head, adts_frame_len) => (Container::Aac, "audio/aac"),
        _ if text.starts_with(b"#EXTM3U") => (Container::Hls, "application/vnd.apple.mpegurl"),
        _ if is_vtt(text) => (Container::Vtt, "text/vtt"),
        _ if is_dash(text) => (Container::Dash, "application/dash+xml"),
        _ => return None,
    };
    Some(Media {
        container,
        content_type,
    })
}

/// From the name's extension and what the bytes were found to be. What the bytes say holds; the
/// extension only tells kinds of one container apart, or stands in where nothing was looked at.
pub fn content_type(name: &str, sniffed: Option<Media>) -> ContentType {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let known = EXTENSIONS
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(extension));
    let shown = |value: Cow<'static, str>| ContentType {
        value,
        attachment: false,
    };
    if let Some(media) = sniffed {
        return match known {
            Some((_, container, value)) if *container == media.container => shown((*value).into()),
            _ => shown(media.content_type.into()),
        };
    }
    if let Some((_, _, value)) = known {
        return shown((*value).into());
    }
    let guess = new_mime_guess::from_ext(extension)
        .iter()
        .find(|guess| matches!(guess.type_().as_str(), "video" | "audio"));
    match guess {
        Some(guess) => shown(guess.essence_str().to_owned().into()),
        None => ContentType {
            value: "application/octet-stream".into(),
            attachment: true,
        },
    }
}

/// Ogg is not here: whether there is video in it, only its bytes tell.
const EXTENSIONS: &[(&str, Container, &str)] = &[
    ("mp4", Container::IsoBmff, "video/mp4"),
    ("m4v", Container::IsoBmff, "video/mp4"),
    ("m4s", Container::IsoBmff, "video/mp4"),
    ("m4a", Container::IsoBmff, "audio/mp4"),
    ("mov", Container::IsoBmff, "video/quicktime"),
    ("3gp", Container::IsoBmff, "video/3gpp"),
    ("webm", Container::Matroska, "video/webm"),
    ("mkv", Container::Matroska, "video/x-matroska"),
    ("mka", Container::Matroska, "audio/x-matroska"),
    ("ts", Container::MpegTs, "video/mp2t"),
    ("m2ts", Container::MpegTs, "video/mp2t"),
    ("mts", Container::MpegTs, "video/mp2t"),
    ("mpg", Container::MpegPs, "video/mpeg"),
    ("mpeg", Container::MpegPs, "video/mpeg"),
    ("vob", Container::MpegPs, "video/mpeg"),
    ("avi", Container::Avi, "video/x-msvideo"),
    ("flv", Container::Flv, "video/x-flv"),
    ("mp3", Container::Mp3, "audio/mpeg"),
    ("aac", Container::Aac, "audio/aac"),
    ("flac", Container::Flac, "audio/flac"),
    ("wav", Container::Wav, "audio/wav"),
    ("m3u8", Container::Hls, "application/vnd.apple.mpegurl"),
    ("mpd", Container::Dash, "application/dash+xml"),
    ("vtt", Container::Vtt, "text/vtt"),
];

/// ISO 14496-12: a size, then one of the boxes that a file or a segment begins with.
fn is_iso_bmff(head: &[u8]) -> bool {
    let Some((size, kind)) = head
        .first_chunk::<8>()
        .map(|[a, b, c, d, kind @ ..]| (u32::from_be_bytes([*a, *b, *c, *d]), kind))
    else {
        return false;
    };
    match kind {
        b"ftyp" | b"styp" => !head.get(8..12).is_none_or(is_image_brand),
        b"moov" | b"moof" | b"sidx" | b"mdat" | b"emsg" | b"prft" => size == 1 || size >= 8,
        // Letters of a text could spell these; such a size they could not.
        b"free" | b"skip" | b"wide" | b"pnot" => (8..1 << 24).contains(&size),
        _ => false,
    }
}

/// HEIF and AVIF share the box format.
fn is_image_brand(brand: &[u8]) -> bool {
    [
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis",
        b"crx ", b"jp2 ", b"jxl ",
    ]
    .iter()
    .any(|image| brand == *image)
}

fn iso_bmff_type(head: &[u8]) -> &'static str {
    match head.get(4..12) {
        Some(b"ftypqt  ") => "video/quicktime",
        Some(b"ftypM4A " | b"ftypM4B ") => "audio/mp4",
        Some([b'f', b't', b'y', b'p', b'3', b'g', ..]) => "video/3gpp",
        _ => "video/mp4",
    }
}

/// Sync bytes all along, in packets of 188 bytes, or of 192 with a time before each (M2TS).
fn is_mpeg_ts(head: &[u8]) -> bool {
    [(0, 188), (4, 192)].into_iter().any(|(first, packet)| {
        head.len() >= 2 * packet
            && head[first..]
                .iter()
                .step_by(packet)
                .all(|&byte| byte == 0x47)
    })
}

/// Whether a frame stands in front, and behind it another or the end.
fn has_frames(head: &[u8], frame_len: impl Fn(&[u8]) -> Option<usize>) -> bool {
    frame_len(head).is_some_and(|len| match head.get(len..) {
        Some([]) => true,
        Some(next) => frame_len(next).is_some(),
        None => false,
    })
}

/// MPEG audio, layer III, any version (ISO 11172-3 §2.4.2.3).
fn mp3_frame_len(head: &[u8]) -> Option<usize> {
    const KBIT_V1: [usize; 16] = [
        0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0,
    ];
    const KBIT_V2: [usize; 16] = [
        0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0,
    ];
    const HERTZ_V1: [usize; 3] = [44_100, 48_000, 32_000];
    let &[0xff, version, rate, ..] = head else {
        return None;
    };
    // Sync, two bits of version (01 is reserved), two of layer (01 is III), one of protection.
    let (kbit, hertz_shift, samples_per_8_bit) = match version & 0b1111_1110 {
        0b1111_1010 => (KBIT_V1, 0, 144),
        0b1111_0010 => (KBIT_V2, 1, 72),
        0b1110_0010 => (KBIT_V2, 2, 72),
        _ => return None,
    };
    let kbit = kbit[usize::from(rate >> 4)];
    let hertz = HERTZ_V1.get(usize::from(rate >> 2 & 3))? >> hertz_shift;
    let padding = usize::from(rate >> 1 & 1);
    (kbit > 0).then(|| samples_per_8_bit * kbit * 1000 / hertz + padding)
}

/// AAC in ADTS (ISO 13818-7 §6.2).
fn adts_frame_len(head: &[u8]) -> Option<usize> {
    const HEADER_LEN: usize = 7;
    let &[0xff, second, _, high, middle, low, ..] = head else {
        return None;
    };
    if second & 0b1111_0110 != 0b1111_0000 {
        return None;
    }
    let len = usize::from(high & 3) << 11 | usize::from(middle) << 3 | usize::from(low >> 5);
    (len >= HEADER_LEN).then_some(len)
}

fn is_vtt(text: &[u8]) -> bool {
    text.strip_prefix(b"WEBVTT")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b' ' | b'\t' | b'\n' | b'\r')))
}

/// `<MPD`, after a declaration and comments. No DOCTYPE: entities are not for us.
fn is_dash(text: &[u8]) -> bool {
    let mut rest = text.trim_ascii_start();
    loop {
        let end: &[u8] = match rest {
            [b'<', b'?', ..] => b"?>",
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            [b'<', b'M', b'P', b'D', next, ..] => {
                return next.is_ascii_whitespace() || *next == b'>';
            }
            _ => return false,
        };
        let Some(at) = find(rest, end) else {
            return false;
        };
        rest = rest[at + end.len()..].trim_ascii_start();
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    find(bytes, wanted).is_some()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|run| run == wanted)
}

#[cfg(test)]
mod tests;
