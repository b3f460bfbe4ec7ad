//! The slots: the parts in which subjects are given to nodes.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

/// How many slots there are, for ever: some 1 % of the load of each of ten nodes, and a layout that fits a screen.
pub const SLOTS: u16 = 1_024;

/// A slot, 0 to 1,023.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number; none beyond the last.
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Its place in a table of all slots.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All slots in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The slot of a subject: XXH3-64 with seed 0 of its bytes, modulo 1,024. It must never change: where a message is depends on it.
pub fn slot_of(subject: &[u8]) -> Slot {
    // Below 1,024, so it fits.
    Slot((xxh3_64(subject) % u64::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_document_hold() {
        let document = include_str!("../../docs/cluster.md");
        let rows = document.lines().filter_map(|line| {
            let (subject, rest) = line.strip_prefix("| `")?.split_once("` | `")?;
            let (hash, slot) = rest.split_once("` | ")?;
            Some((subject, u64::from_str_radix(hash, 16).ok()?, slot.trim_end_matches(" |").parse::<u16>().ok()?))
        });
        let mut seen = 0;
        for (subject, hash, slot) in rows {
            assert_eq!((xxh3_64(subject.as_bytes()), slot_of(subject.as_bytes()).number()), (hash, slot), "{subject}");
            seen += 1;
        }
        assert!(seen >= 5, "{seen} vectors");
    }

    #[test]
    fn subjects_spread_over_all_slots() {
        let mut counts = [0_u32; SLOTS as usize];
        for number in 0..102_400 {
            counts[slot_of(format!("orders.{number}").as_bytes()).index()] += 1;
        }
        // 100 on average; a standard deviation is 10.
        assert!(counts.iter().all(|count| (50..=150).contains(count)), "{counts:?}");
    }
}
