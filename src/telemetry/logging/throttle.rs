//! Lines that repeat: a few of each kind pass, the others are counted, and the count is a line of its own.
//!
//! A kind is a place in the code, so the table is as long as the code has log lines at most, and no line can be written
//! without bound, whoever adds it. Debug lines pass: who asks for them wants all.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Lines of a kind that pass in one [`WINDOW`]: each different segment or partition of a bad start is still told.
const LINES_MAX: u32 = 10;

/// With 10 lines in 10 s a kind writes a line a second at most, less than 100 MB of JSON a day.
const WINDOW: Duration = Duration::from_secs(10);

/// Characters of the message that a summary repeats.
const LIKE_MAX: usize = 200;

/// Where summaries come from; never throttled itself, there is one for each kind in a window at most.
const TARGET: &str = "walcast::repeated";

/// The kinds of line that were seen.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

#[derive(Debug)]
struct Kind {
    /// Of the window.
    began: Instant,
    /// Lines that passed in it.
    passed: u32,
    /// Lines that did not, and that no summary has told yet.
    left_out: u64,
    /// When the first of them came.
    first_left_out: Instant,
    /// Whether some of them are of a window that is over: while lines keep coming, a new one has always begun.
    due: bool,
    level: Level,
    like: String,
}

/// What was left out of a kind.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    level: Level,
    count: u64,
    /// Since the first of them.
    seconds: u64,
    like: String,
}

impl Throttle {
    /// Whether the line is written; counts it if not.
    pub(super) fn passes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let level = *metadata.level();
        if level > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        self.admits(metadata.callsite(), level, Instant::now(), || Message::of(event))
    }

    /// Whether a line of this kind passes now; `message` is asked for the first that does not.
    fn admits(&self, kind: Identifier, level: Level, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds.lock();
        let new =
            || Kind { began: now, passed: 0, left_out: 0, first_left_out: now, due: false, level, like: String::new() };
        let kind = kinds.entry(kind).or_insert_with(new);
        if now.duration_since(kind.began) >= WINDOW {
            (kind.began, kind.passed, kind.due) = (now, 0, kind.left_out > 0);
        }
        if kind.passed < LINES_MAX {
            kind.passed += 1;
            return true;
        }
        if kind.left_out == 0 {
            (kind.like, kind.first_left_out) = (message(), now);
        }
        kind.left_out += 1;
        false
    }

    /// What was left out, of kinds with a window that is over at `now`, or of `all`.
    fn due(&self, now: Instant, all: bool) -> Vec<Summary> {
        let mut kinds = self.kinds.lock();
        let is_due = |kind: &Kind| all || kind.due || now.duration_since(kind.began) >= WINDOW;
        let due = kinds.values_mut().filter(|kind| kind.left_out > 0 && is_due(kind));
        due.map(|kind| {
            kind.due = false;
            Summary {
                level: kind.level,
                count: std::mem::take(&mut kind.left_out),
                seconds: now.duration_since(kind.first_left_out).as_secs().max(1),
                like: std::mem::take(&mut kind.like),
            }
        })
        .collect()
    }

    /// Writes the counts of windows that are over.
    pub(super) fn summarize(&self) {
        self.due(Instant::now(), false).iter().for_each(Summary::write);
    }

    /// Writes the counts of all windows: nobody will ask again.
    pub(super) fn finish(&self) {
        self.due(Instant::now(), true).iter().for_each(Summary::write);
    }
}

impl Summary {
    fn write(&self) {
        let (count, seconds, like) = (self.count, self.seconds, self.like.as_str());
        match self.level {
            Level::ERROR => tracing::error!(target: TARGET, count, like, "{count} more like it in {seconds} s"),
            Level::WARN => tracing::warn!(target: TARGET, count, like, "{count} more like it in {seconds} s"),
            _ => tracing::info!(target: TARGET, count, like, "{count} more like it in {seconds} s"),
        }
    }
}

/// The text of an event without its fields.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Self::default();
        event.record(&mut message);
        message.0.chars().take(LIKE_MAX).collect()
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite as _, Metadata};

    use super::*;

    /// Two kinds of line.
    fn kinds() -> [Identifier; 2] {
        static ONE: tracing::callsite::DefaultCallsite = tracing::callsite::DefaultCallsite::new(&ONE_METADATA);
        static ONE_METADATA: Metadata<'static> = tracing::metadata! {
            name: "one", target: "test", level: Level::WARN, fields: &[], callsite: &ONE,
            kind: tracing::metadata::Kind::EVENT
        };
        static OTHER: tracing::callsite::DefaultCallsite = tracing::callsite::DefaultCallsite::new(&OTHER_METADATA);
        static OTHER_METADATA: Metadata<'static> = tracing::metadata! {
            name: "other", target: "test", level: Level::WARN, fields: &[], callsite: &OTHER,
            kind: tracing::metadata::Kind::EVENT
        };
        [ONE.metadata().callsite(), OTHER.metadata().callsite()]
    }

    #[test]
    fn ten_of_a_kind_pass_in_ten_seconds_and_the_others_are_counted_once() {
        let (throttle, start, [one, other]) = (Throttle::default(), Instant::now(), kinds());
        let asked = |kind: &Identifier, at| throttle.admits(kind.clone(), Level::WARN, at, || "refused".to_owned());
        let passed = (0..1_000).filter(|_| asked(&one, start)).count();
        assert_eq!(passed, 10);
        assert!(asked(&other, start), "another kind is not held up");
        assert_eq!(throttle.due(start, false), [], "the window is not over");

        let later = start + WINDOW;
        let summary = Summary { level: Level::WARN, count: 990, seconds: 10, like: "refused".to_owned() };
        assert_eq!(throttle.due(later, false), [summary]);
        assert_eq!(throttle.due(later, false), [], "told once");
        assert!(asked(&one, later), "the next window");
        assert_eq!((0..20).filter(|_| asked(&one, later)).count(), 9);
        assert_eq!(
            throttle.due(later, true).first().map(|summary| summary.count),
            Some(11),
            "at the end the window is not waited for"
        );
    }

    #[test]
    fn lines_that_nobody_asked_for_in_time_are_not_forgotten() {
        let (throttle, start, [one, _]) = (Throttle::default(), Instant::now(), kinds());
        for window in 0..3 {
            for _ in 0..12 {
                throttle.admits(one.clone(), Level::INFO, start + WINDOW * window, String::new);
            }
        }
        assert_eq!(throttle.due(start + WINDOW * 3, true).first().map(|summary| summary.count), Some(6));
    }

    #[test]
    fn a_flood_that_goes_on_is_told_of_once_a_window() {
        let (throttle, start, [one, _]) = (Throttle::default(), Instant::now(), kinds());
        let (mut told, mut passed) = (Vec::new(), 0);
        for tick in 0..600 {
            let now = start + Duration::from_millis(50) * tick;
            passed += u64::from(throttle.admits(one.clone(), Level::WARN, now, || "refused".to_owned()));
            if tick % 20 == 19 {
                told.extend(throttle.due(now, false));
            }
        }
        told.extend(throttle.due(start + WINDOW * 3, true));
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(passed + told.iter().map(|summary| summary.count).sum::<u64>(), 600);
        assert!(told.iter().all(|summary| (9..=11).contains(&summary.seconds)), "{told:?}");
    }
}
