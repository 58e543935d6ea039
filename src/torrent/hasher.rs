//! SHA-1 of pieces, by the faster of two implementations on this processor.

use aws_lc_rs::digest;
use sha1::Digest as _;
use sha1::Sha1;

/// Hashes one piece as its bytes come in.
///
/// `sha1` is the fastest there is where the processor has SHA instructions. Where it has none,
/// `aws-lc`'s AVX2 code is near twice as fast as `sha1`'s portable one.
pub struct Hasher(Inner);

enum Inner {
    Instructions(Sha1),
    Vectors(Box<digest::Context>),
}

impl Hasher {
    pub fn new() -> Self {
        Self(if has_sha1_instructions() {
            Inner::Instructions(Sha1::new())
        } else {
            let sha1 = &digest::SHA1_FOR_LEGACY_USE_ONLY;
            Inner::Vectors(Box::new(digest::Context::new(sha1)))
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Instructions(sha1) => sha1.update(bytes),
            Inner::Vectors(context) => context.update(bytes),
        }
    }

    pub fn finish(self) -> [u8; 20] {
        match self.0 {
            Inner::Instructions(sha1) => sha1.finalize().into(),
            Inner::Vectors(context) => {
                let digest = context.finish();
                digest.as_ref().try_into().expect("SHA-1 has 20 bytes")
            }
        }
    }

    /// Of all bytes at once.
    pub fn digest(bytes: &[u8]) -> [u8; 20] {
        let mut hasher = Self::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(target_arch = "x86_64")]
fn has_sha1_instructions() -> bool {
    std::arch::is_x86_feature_detected!("sha")
}

/// Elsewhere `sha1` knows what it can use.
#[cfg(not(target_arch = "x86_64"))]
fn has_sha1_instructions() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both, whichever this processor prefers.
    fn both() -> [Hasher; 2] {
        let vectors = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        [
            Hasher(Inner::Instructions(Sha1::new())),
            Hasher(Inner::Vectors(Box::new(vectors))),
        ]
    }

    #[test]
    fn both_give_the_digest_of_fips_180() {
        let expect = "a9993e364706816aba3e25717850c26c9cd0d89d";
        for mut hasher in both() {
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(crate::units::InfoHash(hasher.finish()).to_string(), expect);
        }
    }

    #[test]
    fn both_agree_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 31 % 251) as u8).collect();
        for mut hasher in both() {
            for part in bytes.chunks(4099) {
                hasher.update(part);
            }
            assert_eq!(hasher.finish(), Hasher::digest(&bytes));
        }
    }
}
