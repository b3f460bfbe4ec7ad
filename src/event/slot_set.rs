//! A set of slots, as text `0-341+400`.

use std::fmt;
use std::str::FromStr;

use super::slots::{SLOTS, Slot};

const WORD_BITS: usize = u64::BITS as usize;

/// Some of the 1,024 slots: 128 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SlotSet([u64; SLOTS as usize / WORD_BITS]);

/// Text that names no slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} is not a slot or a range such as 0-341, up to {}", SLOTS - 1)]
pub struct SlotSetError {
    /// What was read.
    pub part: String,
}

impl SlotSet {
    /// Whether the slot is in it.
    pub fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index() / WORD_BITS] & bit(slot) != 0
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        self.0[slot.index() / WORD_BITS] |= bit(slot);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Its slots in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        Slot::all().filter(|slot| self.contains(*slot))
    }

    /// The slots of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.with(other, |own, other| own | other)
    }

    /// The slots of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.with(other, |own, other| own & other)
    }

    /// The slots that the other does not have.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.with(other, |own, other| own & !other)
    }

    fn with(&self, other: &Self, bits: impl Fn(u64, u64) -> u64) -> Self {
        let mut set = *self;
        set.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own = bits(*own, *other));
        set
    }
}

fn bit(slot: Slot) -> u64 {
    1 << (slot.index() % WORD_BITS)
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// Ranges in order, joined by `+`; nothing for the empty set.
impl fmt::Display for SlotSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = self.iter().map(Slot::number).peekable();
        let mut between = "";
        while let Some(first) = slots.next() {
            let mut last = first;
            while slots.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(formatter, "{between}{first}")?;
            if last > first {
                write!(formatter, "-{last}")?;
            }
            between = "+";
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SlotSet({self})")
    }
}

impl FromStr for SlotSet {
    type Err = SlotSetError;

    fn from_str(text: &str) -> Result<Self, SlotSetError> {
        let mut set = Self::default();
        for part in text.split('+').filter(|part| !part.is_empty()) {
            let slots = range(part).ok_or_else(|| SlotSetError { part: part.to_owned() })?;
            slots.filter_map(Slot::new).for_each(|slot| set.insert(slot));
        }
        Ok(set)
    }
}

fn range(part: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> SlotSet {
        text.parse().expect("slots")
    }

    #[test]
    fn text_reads_back() {
        for text in ["", "0", "1023", "0-1023", "0-341+400", "1+3+5-63+65-128", "63-64"] {
            assert_eq!(set(text).to_string(), text);
        }
        assert_eq!(set("3+1+2").to_string(), "1-3");
        for text in ["1024", "5-4", "x", "0-1024", "-1", "1-", "70000"] {
            assert_eq!(text.parse::<SlotSet>().expect_err("no slots").part, text);
        }
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let (a, b) = (set("0-99"), set("50-149+1023"));
        assert_eq!(a.union(&b).to_string(), "0-149+1023");
        assert_eq!(a.intersection(&b).to_string(), "50-99");
        assert_eq!(b.minus(&a).to_string(), "100-149+1023");
        assert_eq!((b.len(), b.is_empty(), SlotSet::default().is_empty()), (101, false, true));
        let every_other: SlotSet = Slot::all().step_by(2).collect();
        assert_eq!(every_other.len(), 512);
        assert!(every_other.iter().all(|slot| slot.number() % 2 == 0));
    }
}
