//! Whose answer comes next.
//!
//! Answers come in the order of the requests, and each source has its own in that order. So only whose turn it is must be kept,
//! in runs: publishes of this node gather into batches whatever lies between them.

use std::collections::VecDeque;

/// Where the answer to a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This node's log.
    Own,
    /// It was refused as it came.
    Refused,
    /// Another node, by its place among those of the stream.
    Other(usize),
}

/// The sources of the answers that are due. Bounded by what a stream may have in flight.
#[derive(Debug, Default)]
pub struct Order {
    runs: VecDeque<(Source, usize)>,
}

impl Order {
    /// Nothing is due.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// One more at the end.
    pub fn push(&mut self, source: Source) {
        match self.runs.back_mut() {
            Some((last, count)) if *last == source => *count += 1,
            _ => self.runs.push_back((source, 1)),
        }
    }

    /// Whose answer is the next one.
    pub fn next(&self) -> Option<Source> {
        self.runs.front().map(|(source, _)| *source)
    }

    /// The next one was answered.
    pub fn pop(&mut self) {
        if let Some((_, count)) = self.runs.front_mut() {
            *count -= 1;
            if *count == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Leaves away the last `lost` of this node's own and what was refused behind the first of them, as far as no answer of
    /// another node is behind them. Gives how many of both.
    pub fn truncate(&mut self, lost: usize) -> (usize, usize) {
        let (mut own, mut refused) = (0, 0);
        while own < lost
            && let Some((source, count)) = self.runs.back_mut()
        {
            let left_away = match source {
                Source::Own => (*count).min(lost - own),
                Source::Refused => *count,
                Source::Other(_) => break,
            };
            *if *source == Source::Own { &mut own } else { &mut refused } += left_away;
            *count -= left_away;
            if *count == 0 {
                self.runs.pop_back();
            }
        }
        (own, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(sources: &[Source]) -> Order {
        let mut order = Order::default();
        sources.iter().for_each(|source| order.push(*source));
        order
    }

    fn rest(mut order: Order) -> Vec<Source> {
        let mut sources = Vec::new();
        while let Some(source) = order.next() {
            order.pop();
            sources.push(source);
        }
        sources
    }

    use Source::{Other, Own, Refused};

    #[test]
    fn sources_come_in_the_order_that_they_went_in() {
        let sources = [Own, Own, Other(0), Own, Refused, Refused, Other(1), Other(0), Other(0)];
        let order = order(&sources);
        assert_eq!(order.runs.len(), 6);
        assert_eq!(rest(order), sources);
    }

    #[test]
    fn what_is_lost_is_left_away_unless_another_nodes_answer_is_behind_it() {
        let mut at_the_end = order(&[Own, Refused, Own, Own, Refused]);
        assert_eq!(at_the_end.truncate(2), (2, 1));
        assert_eq!(rest(at_the_end), [Own, Refused]);
        let mut within_a_run = order(&[Own, Own, Own]);
        assert_eq!(within_a_run.truncate(1), (1, 0));
        assert_eq!(rest(within_a_run), [Own, Own]);
        let mut before_another = order(&[Own, Own, Other(0), Own, Refused]);
        assert_eq!(before_another.truncate(2), (1, 1));
        assert_eq!(rest(before_another), [Own, Own, Other(0)]);
        assert_eq!(order(&[Own, Refused]).truncate(0), (0, 0));
    }
}
