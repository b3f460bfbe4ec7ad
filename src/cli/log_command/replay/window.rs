//! What was sent and not acknowledged yet, in log order.

use std::collections::VecDeque;

use super::checkpoint::Ranges;
use crate::event::Sequence;

/// A place in the window; given back with its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Clone, Copy)]
struct Entry {
    sequence: Sequence,
    arrived: bool,
    /// Whether it stands for a record; the other ones only move the position.
    record: bool,
}

/// Records between the position, up to which everything has arrived, and the last one sent.
#[derive(Debug)]
pub struct Window {
    position: Sequence,
    entries: VecDeque<Entry>,
    /// The ticket of the first entry.
    first: u64,
}

impl Window {
    /// Nothing is under way, everything up to `position` has arrived.
    pub fn new(position: Sequence) -> Self {
        Self { position, entries: VecDeque::new(), first: 0 }
    }

    /// A record is being sent.
    pub fn sent(&mut self, sequence: Sequence) -> Ticket {
        self.entries.push_back(Entry { sequence, arrived: false, record: true });
        Ticket(self.first + self.entries.len() as u64 - 1)
    }

    /// Nothing up to here needs to be sent but what is being sent.
    pub fn passed(&mut self, through: Sequence) {
        self.entries.push_back(Entry { sequence: through, arrived: true, record: false });
        self.advance();
    }

    /// A record has arrived.
    pub fn arrived(&mut self, ticket: Ticket) {
        let at = usize::try_from(ticket.0 - self.first).expect("the window is bounded");
        self.entries[at].arrived = true;
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.arrived) {
            self.position = entry.sequence;
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// How many records wait for their acknowledgement, or lie between those.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Everything up to here has arrived.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// What has arrived behind the position.
    pub fn arrived_behind(&self) -> Ranges {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut extends = false;
        for entry in self.entries.iter().filter(|entry| entry.record) {
            let sequence = entry.sequence.get();
            match ranges.last_mut() {
                Some((_, last)) if entry.arrived && extends => *last = sequence,
                _ if entry.arrived => ranges.push((sequence, sequence)),
                _ => {}
            }
            extends = entry.arrived;
        }
        Ranges(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_waits_for_the_first_that_has_not_arrived() {
        let mut window = Window::new(Sequence::new(4));
        let tickets: Vec<_> = [5, 7, 8, 9].map(|sequence| window.sent(Sequence::new(sequence))).to_vec();
        window.passed(Sequence::new(12));
        window.arrived(tickets[1]);
        window.arrived(tickets[2]);
        assert_eq!(window.position(), Sequence::new(4));
        assert_eq!(window.arrived_behind(), Ranges(vec![(7, 8)]));
        window.arrived(tickets[0]);
        assert_eq!((window.position(), window.len()), (Sequence::new(8), 2));
        window.arrived(tickets[3]);
        assert_eq!((window.position(), window.len()), (Sequence::new(12), 0));
        // The end of a frame says nothing of its last record.
        let ticket = window.sent(Sequence::new(20));
        window.passed(Sequence::new(20));
        assert_eq!((window.position(), window.arrived_behind()), (Sequence::new(12), Ranges::default()));
        window.arrived(ticket);
        assert_eq!(window.position(), Sequence::new(20));
        let ticket = window.sent(Sequence::new(21));
        window.arrived(ticket);
        assert_eq!(window.position(), Sequence::new(21));
    }
}
