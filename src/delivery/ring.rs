//! The unread messages of one subject, shared by all its subscribers.
//!
//! A message stands here once however many subscribers have yet to read it; each of them has a place in
//! the ring. So the memory of a thousand subscribers that never read is that of one.

use std::collections::VecDeque;
use std::task::Waker;

use crate::event::{EncodedMessage, MessageId};

/// What an entry costs beside its encoded bytes: the entry itself and the allocation's header.
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Unread>() + 32;

/// A durable message that some subscriber may not have read.
#[derive(Debug, Clone)]
pub struct Unread {
    /// Its id.
    pub id: MessageId,
    /// The response that carries it.
    pub encoded: EncodedMessage,
}

impl Unread {
    fn cost(&self) -> usize {
        self.encoded.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// A subscriber's handle on its place in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// The place of a subscriber that reads history: no entry has this number, so it holds nothing back.
const PARKED: u64 = u64::MAX;

#[derive(Debug)]
struct Reader {
    /// Number of the next entry to read, counted from the ring's first ever; or [`PARKED`].
    next: u64,
    /// Ids up to here were handed out, or are not for the subscriber.
    settled: u32,
    /// Whether `settled` was told: between the join and that nobody knows how far behind it is.
    placed: bool,
    waker: Option<Waker>,
}

/// What a subscriber finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Messages were appended to the buffer.
    Some,
    /// Nothing to read; the waker is kept.
    Nothing,
    /// What it should read next is no longer in the ring. Everything up to this id is settled.
    Lagged(u32),
    /// The next id is not the one after this one: a message is missing between the log and here.
    Missing {
        /// Everything up to this id is settled.
        settled: u32,
        /// What came next.
        found: MessageId,
    },
}

/// The ring of one subject.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Unread>,
    /// Number of the first entry.
    first: u64,
    bytes: usize,
    readers: Vec<Option<Reader>>,
    free: Vec<usize>,
    /// Entries pushed, and subscribers gone, since read entries were last dropped.
    untidy: usize,
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Registers a subscriber: it reads what is pushed from now on, once it says what it does not need of it.
    pub fn join(&mut self) -> Place {
        let reader = Reader { next: self.end(), settled: 0, placed: false, waker: None };
        match self.free.pop() {
            Some(at) => {
                self.readers[at] = Some(reader);
                Place(at)
            }
            None => {
                self.readers.push(Some(reader));
                Place(self.readers.len() - 1)
            }
        }
    }

    /// Lets a subscriber read from its place on, without ids up to `settled`. False if it has lost its place.
    pub fn go_live(&mut self, place: Place, settled: u32) -> bool {
        let first = self.first;
        let reader = self.reader(place);
        (reader.settled, reader.placed) = (settled, true);
        reader.next != PARKED && reader.next >= first
    }

    /// Keeps what is pushed from now on for a subscriber, as far as the bound allows.
    pub fn hold(&mut self, place: Place) {
        let end = self.end();
        self.reader(place).next = end;
    }

    /// Keeps nothing for a subscriber any more.
    pub fn park(&mut self, place: Place) {
        self.reader(place).next = PARKED;
    }

    /// Notes how far a subscriber is that reads history.
    pub fn settle(&mut self, place: Place, settled: u32) {
        let reader = self.reader(place);
        (reader.settled, reader.placed) = (settled, true);
    }

    /// The id up to which a subscriber is served.
    pub fn settled(&mut self, place: Place) -> u32 {
        self.reader(place).settled
    }

    /// The id up to which every subscriber is served.
    pub fn settled_by_all(&self) -> u32 {
        self.readers
            .iter()
            .flatten()
            .filter(|reader| reader.placed)
            .map(|reader| reader.settled)
            .min()
            .unwrap_or(u32::MAX)
    }

    /// Forgets a subscriber.
    pub fn leave(&mut self, place: Place) {
        self.readers[place.0] = None;
        self.free.push(place.0);
        if self.free.len() == self.readers.len() {
            *self = Self { first: self.end(), ..Self::default() };
            return;
        }
        // Finding what nobody waits for any more looks at every subscriber: once per as many that leave.
        self.untidy += 1;
        if !self.entries.is_empty() && self.untidy >= self.readers.len().max(64) {
            self.drop_read();
        }
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.readers.len() - self.free.len()
    }

    /// Bytes of unread messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn reader(&mut self, place: Place) -> &mut Reader {
        self.readers[place.0].as_mut().expect("a place is used until it leaves, and once")
    }

    /// Adds messages, evicts the oldest beyond `bytes_max`, and collects who waits for them.
    pub fn push(&mut self, unread: impl Iterator<Item = Unread>, bytes_max: usize, wakers: &mut Vec<Waker>) {
        for entry in unread {
            self.bytes += entry.cost();
            self.entries.push_back(entry);
            self.untidy += 1;
        }
        // Finding what everyone has read looks at every subscriber: once per as many messages.
        if self.untidy >= self.readers.len().max(64) || self.bytes > bytes_max {
            self.drop_read();
        }
        while self.bytes > bytes_max && !self.entries.is_empty() {
            self.evict_first();
        }
        wakers.extend(self.readers.iter_mut().flatten().filter_map(|reader| reader.waker.take()));
    }

    /// Evicts everything, read or not.
    pub fn evict_all(&mut self) {
        while !self.entries.is_empty() {
            self.evict_first();
        }
    }

    fn evict_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.cost();
            self.first += 1;
        }
    }

    /// Drops what every subscriber has read.
    pub fn drop_read(&mut self) {
        self.untidy = 0;
        let (first, end) = (self.first, self.end());
        // Who has lost its place already, or reads history, holds nothing back.
        let places = self.readers.iter().flatten().map(|reader| reader.next).filter(|&next| next >= first);
        let read = places.min().unwrap_or(end).min(end);
        while self.first < read && !self.entries.is_empty() {
            self.evict_first();
        }
        if self.entries.is_empty() && self.entries.capacity() > 1_024 {
            // What a burst needed is not kept.
            self.entries.shrink_to(64);
        }
    }

    /// Moves what a subscriber has not read into `buffer`: at most `count` messages of at most `bytes`, or one
    /// larger one.
    pub fn take(
        &mut self,
        place: Place,
        count: usize,
        bytes: usize,
        waker: &Waker,
        buffer: &mut VecDeque<EncodedMessage>,
    ) -> Taken {
        let (first, end) = (self.first, self.end());
        let reader = self.readers[place.0].as_mut().expect("a place is used until it leaves, and once");
        if reader.next < first || reader.next == PARKED {
            return Taken::Lagged(reader.settled);
        }
        let mut taken = 0;
        while reader.next < end && taken < bytes && buffer.len() < count {
            // Below `end - first`, the number of entries.
            let entry = &self.entries[(reader.next - first) as usize];
            if taken > 0 && taken + entry.encoded.len() > bytes {
                break;
            }
            let id = entry.id.get();
            if id > reader.settled + 1 {
                // What was taken before is handed out first.
                if taken == 0 {
                    return Taken::Missing { settled: reader.settled, found: entry.id };
                }
                break;
            }
            reader.next += 1;
            if id > reader.settled {
                reader.settled = id;
                taken += entry.encoded.len();
                buffer.push_back(entry.encoded.clone());
            }
        }
        if buffer.is_empty() {
            reader.waker = Some(waker.clone());
            return Taken::Nothing;
        }
        if reader.next == end && self.readers.len() == 1 {
            self.drop_read();
        }
        Taken::Some
    }

    /// Takes every waker, to tell all subscribers of an end.
    pub fn wake_all(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.readers.iter_mut().flatten().filter_map(|reader| reader.waker.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::Record;
    use crate::event::{Expiration, UnixMicros};

    fn unread(ids: std::ops::RangeInclusive<u32>) -> impl Iterator<Item = Unread> {
        ids.map(|number| {
            let id = MessageId::new(number).expect("an id");
            let encoded = EncodedMessage::new(&Record {
                subject: "s",
                id,
                published_at: UnixMicros::from_micros(1),
                expiration: Expiration::FIRE_AND_FORGET,
                idempotency_key: None,
                traceparent: None,
                body: &[b'x'; 100],
            });
            Unread { id, encoded }
        })
    }

    fn read(ring: &mut Ring, place: Place, count: usize) -> (usize, Taken) {
        let mut buffer = VecDeque::new();
        let taken = ring.take(place, count, usize::MAX, Waker::noop(), &mut buffer);
        (buffer.len(), taken)
    }

    #[test]
    fn each_subscriber_reads_everything_after_it_joined_once() {
        let mut ring = Ring::default();
        let early = ring.join();
        ring.push(unread(1..=3), usize::MAX, &mut Vec::new());
        let late = ring.join();
        assert!(ring.go_live(late, 3));
        ring.push(unread(4..=5), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, early, 10), (5, Taken::Some));
        assert_eq!(read(&mut ring, late, 10), (2, Taken::Some));
        assert_eq!(read(&mut ring, early, 10), (0, Taken::Nothing));
        ring.drop_read();
        assert_eq!(ring.bytes(), 0);
    }

    #[test]
    fn what_was_durable_before_the_registration_is_skipped() {
        let mut ring = Ring::default();
        let place = ring.join();
        assert!(ring.go_live(place, 2));
        ring.push(unread(1..=3), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, place, 10), (1, Taken::Some));
    }

    #[test]
    fn who_falls_behind_the_bound_is_told_its_last_id_and_others_are_not() {
        let mut ring = Ring::default();
        let (slow, fast) = (ring.join(), ring.join());
        ring.push(unread(1..=2), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, slow, 1), (1, Taken::Some));
        assert_eq!(read(&mut ring, fast, 10), (2, Taken::Some));
        ring.push(unread(3..=20), 1_500, &mut Vec::new());
        assert!(ring.bytes() <= 1_500);
        assert_eq!(read(&mut ring, slow, 10), (0, Taken::Lagged(1)));
        ring.leave(slow);
        let mut ring = Ring::default();
        let fast = ring.join();
        for id in 1..=100 {
            ring.push(unread(id..=id), 1_500, &mut Vec::new());
            assert_eq!(read(&mut ring, fast, 10), (1, Taken::Some), "keeps up with a tiny ring");
        }
    }

    #[test]
    fn a_message_larger_than_the_bound_is_not_kept() {
        let mut ring = Ring::default();
        let place = ring.join();
        ring.push(unread(1..=1), 10, &mut Vec::new());
        assert_eq!(ring.bytes(), 0);
        assert_eq!(read(&mut ring, place, 1), (0, Taken::Lagged(0)));
    }

    #[test]
    fn who_reads_history_holds_nothing_back_until_it_says_so() {
        let mut ring = Ring::default();
        let (parked, fast) = (ring.join(), ring.join());
        ring.park(parked);
        ring.push(unread(1..=100), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, fast, 100), (100, Taken::Some));
        ring.drop_read();
        assert_eq!(ring.bytes(), 0);
        assert!(!ring.go_live(parked, 100), "it has no place");
        ring.hold(parked);
        ring.push(unread(101..=103), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, fast, 100), (3, Taken::Some));
        ring.drop_read();
        assert!(ring.bytes() > 0, "kept for the other one");
        assert!(ring.go_live(parked, 101));
        assert_eq!(read(&mut ring, parked, 100), (2, Taken::Some), "101 was read from history");
        ring.hold(parked);
        ring.push(unread(104..=120), 1_000, &mut Vec::new());
        assert!(!ring.go_live(parked, 110), "overflowed");
        ring.park(fast);
        ring.park(parked);
        ring.push(unread(121..=250), usize::MAX, &mut Vec::new());
        assert_eq!(ring.bytes(), 0, "nobody waits for any of it");
    }

    #[test]
    fn a_missing_id_is_told_after_what_comes_before_it() {
        let mut ring = Ring::default();
        let place = ring.join();
        ring.push(unread(1..=2).chain(unread(4..=4)), usize::MAX, &mut Vec::new());
        assert_eq!(read(&mut ring, place, 10), (2, Taken::Some));
        let found = MessageId::new(4).expect("an id");
        assert_eq!(read(&mut ring, place, 10), (0, Taken::Missing { settled: 2, found }));
    }

    #[test]
    fn a_waiting_subscriber_is_woken_once_and_a_gone_one_never() {
        let mut ring = Ring::default();
        let (waits, gone) = (ring.join(), ring.join());
        assert_eq!(read(&mut ring, waits, 1), (0, Taken::Nothing));
        assert_eq!(read(&mut ring, gone, 1), (0, Taken::Nothing));
        ring.leave(gone);
        let mut wakers = Vec::new();
        ring.push(unread(1..=1), usize::MAX, &mut wakers);
        assert_eq!(wakers.len(), 1);
        ring.push(unread(2..=2), usize::MAX, &mut wakers);
        assert_eq!(wakers.len(), 1);
        assert_eq!(ring.subscribers(), 1);
    }
}
