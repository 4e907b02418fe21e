//! Where the nodes of a tree end: a keyed pseudo-random function of the keys decides.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// Decides after which entries a node of a tree ends.
///
/// Lengths of nodes follow a Weibull distribution with shape 2: the longer a node already is, the
/// likelier the next entry ends it. That gives even lengths without a hard minimum and maximum,
/// which would make a cut depend on cuts far before it. Only the *key* of an entry is hashed, so
/// a new value of the same length never moves a boundary.
#[derive(Clone)]
pub struct Boundary(SipHasher24);

impl Boundary {
    /// The boundaries of a repository, by its key for them.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(key))
    }

    /// Whether a node at `level` (0 for leaves) ends after the entry `key`.
    ///
    /// `before` and `after` say how long the node is without and with the entry, and `target` how
    /// long nodes shall be on average, in the same unit; all below 2³². An entry that alone makes
    /// the node longer than 1.1284 · `target` always ends it.
    ///
    /// The hazard of the distribution with scale L between two lengths is (after² − before²) / L²,
    /// and its mean is L · √π / 2, hence L = 1.1284 · target. All in integers: floating point is
    /// not the same on every machine, but boundaries have to be.
    pub fn is_cut(&self, level: u8, key: &[u8], before: u64, after: u64, target: u64) -> bool {
        let square = |n: u64| u128::from(n) * u128::from(n);
        let scale = target * 11_284 / 10_000;
        u128::from(self.hash(level, key)) * square(scale) < (square(after) - square(before)) << 32
    }

    /// The low half of SipHash-2-4 of the level and the key.
    fn hash(&self, level: u8, key: &[u8]) -> u32 {
        let mut hasher = self.0;
        hasher.write(&[level]);
        hasher.write(key);
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
        let low = hasher.finish() as u32;
        low
    }
}

impl fmt::Debug for Boundary {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boundary").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = *b"sixteen byte key";
    const TARGET: u64 = 16 << 10;

    /// Lengths of the nodes that `count` entries of `size` bytes make.
    fn lengths(level: u8, count: u32, size: u64, target: u64) -> Vec<u64> {
        let boundary = Boundary::new(&KEY);
        let (mut lengths, mut length) = (Vec::new(), 0);
        for key in 0..count {
            length += size;
            if boundary.is_cut(level, &key.to_be_bytes(), length - size, length, target) {
                lengths.push(std::mem::take(&mut length));
            }
        }
        lengths
    }

    #[test]
    fn boundaries_are_those_of_the_format() {
        let boundary = Boundary::new(&KEY);
        assert_eq!(boundary.hash(0, b""), GOLDEN_HASHES[0]);
        assert_eq!(boundary.hash(1, b"a key"), GOLDEN_HASHES[1]);
        let ends: Vec<_> = lengths(0, 1_000, 400, TARGET)
            .iter()
            .scan(0, |end, length| {
                *end += length / 400;
                Some(*end)
            })
            .collect();
        assert_eq!(ends, GOLDEN_LEAVES);
        assert_eq!(lengths(1, 1_000, 1, 64), GOLDEN_INNER);
    }

    const GOLDEN_HASHES: [u32; 2] = [0x6121_894c, 0x90ef_762a];
    const GOLDEN_LEAVES: &[u64] = &[
        36, 101, 144, 165, 180, 214, 259, 295, 334, 384, 410, 449, 474, 489, 509, 530, 560, 602,
        687, 717, 724, 751, 763, 819, 868, 915, 928, 946, 992,
    ];
    const GOLDEN_INNER: &[u64] = &[166, 52, 67, 46, 34, 42, 97, 84, 78, 74, 127, 112];

    #[test]
    fn the_hash_is_siphash_of_level_and_key() {
        let whole = SipHasher24::new_with_key(&KEY).hash(b"\x03some key longer than eight");
        let parts = Boundary::new(&KEY).hash(3, b"some key longer than eight");
        assert_eq!(u64::from(parts), whole & 0xffff_ffff);
    }

    #[test]
    fn lengths_scatter_about_the_target() {
        for (level, size, target) in [(0, 400, TARGET), (0, 40, TARGET), (1, 1, 64)] {
            let lengths = lengths(level, 400_000, size, target);
            let mean = lengths.iter().sum::<u64>() / lengths.len() as u64;
            assert!(mean.abs_diff(target) < target / 20, "mean {mean} of {target}");
            assert!(*lengths.iter().max().unwrap() < 5 * target);
            let short = lengths.iter().filter(|length| **length < target / 8).count();
            assert!(short * 40 < lengths.len(), "{short} of {} are short", lengths.len());
        }
    }

    #[test]
    fn an_entry_longer_than_the_scale_ends_its_node() {
        let boundary = Boundary::new(&KEY);
        for key in 0..1_000_u32 {
            assert!(boundary.is_cut(0, &key.to_be_bytes(), 0, TARGET * 2, TARGET));
            assert!(boundary.is_cut(0, &key.to_be_bytes(), TARGET, 1 << 31, TARGET));
            assert!(!boundary.is_cut(0, &key.to_be_bytes(), 9, 9, TARGET));
        }
    }
}
