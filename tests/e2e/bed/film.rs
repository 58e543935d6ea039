//! Films to seed: made-up bytes or the clip, with a torrent written by the bed itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use crate::bed::Bed;
use crate::bed::seeder::Goods;

/// The clip that `demo` plays.
pub const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/demo/clip.mp4");

/// A file in a folder of its own, and its torrent.
#[derive(Clone)]
pub struct Film {
    pub name: String,
    /// Holds the file, and nothing else: what a seeder is pointed at.
    pub dir: PathBuf,
    pub data: Arc<Vec<u8>>,
    pub piece_len: u32,
    pub info_hash: [u8; 20],
    info: Vec<u8>,
}

impl Film {
    /// Bytes from a seeded generator: no two blocks alike.
    pub fn random(bed: &Bed, name: &str, len: usize, piece_len: u32) -> Self {
        let seed = name.bytes().fold(len as u64, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Self::new(bed, name, Random::new(seed).bytes(len), piece_len)
    }

    pub fn clip(bed: &Bed, piece_len: u32) -> Self {
        Self::new(bed, "clip.mp4", fs::read(CLIP).unwrap(), piece_len)
    }

    /// A real film, `film.mp4`: 6 Mbit/s throughout.
    pub fn made(bed: &Bed, seconds: usize, piece_len: u32) -> Self {
        Self::new(bed, "film.mp4", encoded(bed, seconds), piece_len)
    }

    pub fn new(bed: &Bed, name: &str, data: Vec<u8>, piece_len: u32) -> Self {
        let dir = bed.folder(&format!("film-{name}"));
        fs::write(dir.join(name), &data).unwrap();
        let hashes: Vec<u8> = data
            .chunks(piece_len as usize)
            .flat_map(|piece| Sha1::digest(piece).to_vec())
            .collect();
        let mut info = format!(
            "d6:lengthi{}e4:name{}:{name}12:piece lengthi{piece_len}e6:pieces{}:",
            data.len(),
            name.len(),
            hashes.len()
        )
        .into_bytes();
        info.extend_from_slice(&hashes);
        info.push(b'e');
        let info_hash = Sha1::digest(&info).into();
        Self {
            name: name.to_owned(),
            dir,
            data: Arc::new(data),
            piece_len,
            info_hash,
            info,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn pieces(&self) -> usize {
        self.len().div_ceil(self.piece_len as usize)
    }

    pub fn hex(&self) -> String {
        hex(&self.info_hash)
    }

    pub fn goods(&self) -> Goods {
        Goods {
            info_hash: self.info_hash,
            piece_len: self.piece_len,
            data: Arc::clone(&self.data),
        }
    }

    /// The torrent; `announce` and `web_seed` may be empty.
    pub fn torrent(&self, announce: &str, web_seed: &str) -> Vec<u8> {
        let mut out = b"d".to_vec();
        if !announce.is_empty() {
            out.extend(format!("8:announce{}:{announce}", announce.len()).bytes());
        }
        out.extend_from_slice(b"4:info");
        out.extend_from_slice(&self.info);
        if !web_seed.is_empty() {
            out.extend(format!("8:url-list{}:{web_seed}", web_seed.len()).bytes());
        }
        out.push(b'e');
        out
    }

    /// Writes [`Film::torrent`] to a file in the bed.
    pub fn torrent_file(&self, bed: &Bed, announce: &str) -> PathBuf {
        bed.write(
            &format!("{}.torrent", self.name),
            self.torrent(announce, ""),
        )
    }

    /// Puts the film, and its torrent beside it, where a web server will find them.
    pub fn publish(&self, root: &Path, announce: &str) {
        fs::write(root.join(&self.name), &*self.data).unwrap();
        self.publish_torrent(root, announce);
    }

    /// The torrent alone: no origin has the film.
    pub fn publish_torrent(&self, root: &Path, announce: &str) {
        let torrent = self.torrent(announce, "");
        fs::write(root.join(format!("{}.torrent", self.name)), torrent).unwrap();
    }

    #[track_caller]
    pub fn assert_same(&self, body: &[u8]) {
        self.assert_part(0, body);
        assert_eq!(body.len(), self.len(), "length of the film");
    }

    /// `body` is the film's bytes from `start`.
    #[track_caller]
    pub fn assert_part(&self, start: usize, body: &[u8]) {
        let right = &self.data[start.min(self.len())..(start + body.len()).min(self.len())];
        if right == body {
            return;
        }
        let wrong = right.iter().zip(body).position(|(right, got)| right != got);
        assert_eq!(
            wrong.map(|at| start + at),
            None,
            "offset of the first wrong byte"
        );
        panic!("{} bytes beyond the end", body.len() - right.len());
    }
}

/// The clip with its index behind its media.
#[track_caller]
pub fn clip_with_index_at_end(bed: &Bed) -> PathBuf {
    let film = bed.dir().join("end.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i", CLIP, "-c", "copy"]);
    ffmpeg.args(["-movflags", "-faststart"]).arg(&film);
    let made = ffmpeg.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    film
}

/// `filler`: what is easily coded takes as many bytes.
fn encoded(bed: &Bed, seconds: usize) -> Vec<u8> {
    let path = bed.dir().join("encoded.mp4");
    let rate = "-b:v 6M -minrate 6M -maxrate 6M -bufsize 2M -x264-params nal-hrd=cbr:filler=1";
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi"])
        .args(["-i", "testsrc2=size=640x360:rate=25"])
        .args(["-t", &seconds.to_string()])
        .args(["-c:v", "libx264", "-preset", "ultrafast"])
        .args(rate.split(' '))
        .args(["-pix_fmt", "yuv420p", "-movflags", "+faststart"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::read(path).unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `splitmix64`: the same numbers for the same seed, on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect();
        out.truncate(len);
        out
    }
}
