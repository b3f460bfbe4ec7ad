//! Which subjects a part may hold: a Bloom filter in blocks of one cache line (Putze, Sanders, Singler 2007).

/// Bytes of a block: one cache line, so a question is one miss.
const BLOCK_BYTES: usize = 64;
/// Subjects a block is made for: 8 bits each, about 3 % answered with a wrong "maybe".
const SUBJECTS_PER_BLOCK: usize = BLOCK_BYTES;
/// Bits set for a subject; 5 or 6 are best for 8 bits each.
const PROBES: u32 = 6;

/// A filter of the subjects' hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    /// An empty filter for so many subjects.
    pub fn for_subjects(subjects: usize) -> Self {
        Self(vec![0; subjects.div_ceil(SUBJECTS_PER_BLOCK).max(1) * BLOCK_BYTES])
    }

    /// The filter with these bytes; None unless they are whole blocks.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES)).then_some(Self(bytes))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for bit in bits(hash) {
            self.0[block + bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Whether the subject may be there; never no for one that is.
    pub fn may_hold(&self, hash: u64) -> bool {
        let block = self.block(hash);
        bits(hash).all(|bit| self.0[block + bit / 8] & (1 << (bit % 8)) != 0)
    }

    fn block(&self, hash: u64) -> usize {
        let blocks = (self.0.len() / BLOCK_BYTES) as u128;
        ((u128::from(hash) * blocks) >> 64) as usize * BLOCK_BYTES
    }
}

/// Positions of a subject's bits in its block: nine bits of a mixed hash each. The top bits of the hash itself have
/// chosen the block.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = mixed ^ (mixed >> 32);
    (0..PROBES).map(move |probe| ((mixed >> (9 * probe)) & 0x1FF) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    #[test]
    fn never_says_no_for_what_is_there_and_seldom_maybe_for_what_is_not() {
        for subjects in [1usize, 63, 64, 65, 1_000, 100_000] {
            let hash = |number: usize| xxh3_64(&number.to_le_bytes());
            let mut filter = Filter::for_subjects(subjects);
            (0..subjects).for_each(|number| filter.insert(hash(number)));
            assert!((0..subjects).all(|number| filter.may_hold(hash(number))));
            let wrong = (0..10_000).filter(|number| filter.may_hold(hash(1_000_000 + number))).count();
            assert!(wrong < 700, "{wrong} of 10,000 with {subjects} subjects");
            assert_eq!(Filter::from_bytes(filter.bytes().to_vec()), Some(filter));
        }
    }
}
