//! The window against a plain list of what was published: what is known at any time is what the list says, whatever the
//! clock does, and a restart changes nothing of it.

use std::time::Duration;

use proptest::prelude::*;

use crate::event::record::KeyEntry;
use crate::event::{MessageId, Sequence, UnixMicros};
use crate::ingest::KeysFull;
use crate::ingest::idempotency::{Entry, Fingerprint, Window, WindowConfig};

const KEEP_SECONDS: i64 = 60;
const KEYS: u8 = 20;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A publish with this key and one of two bodies.
    Publish(u8, bool),
    /// Many others, with keys that nobody repeats.
    Flood(u16),
    /// The clock moves, at times backwards.
    Clock(i64),
    Restart,
    DropExpired(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..KEYS, any::<bool>()).prop_map(|(key, other)| Step::Publish(key, other)),
        1 => (1..6_000_u16).prop_map(Step::Flood),
        4 => (-20..40_i64).prop_map(Step::Clock),
        1 => (-200..200_i64).prop_map(Step::Clock),
        1 => Just(Step::Restart),
        1 => (0..10_u8).prop_map(Step::DropExpired),
    ];
    prop::collection::vec(step, 1..120)
}

/// The list: everything that was ever kept, in order, each with the latest time since.
struct Model {
    kept: Vec<(Entry, UnixMicros)>,
    keys_max: usize,
}

impl Model {
    fn keep(&mut self, entry: Entry) {
        self.kept.push((entry, entry.at));
    }

    fn it_is(&mut self, now: UnixMicros) {
        self.kept.iter_mut().for_each(|(_, latest)| *latest = now.max(*latest));
    }

    /// The newest with this key, if it has not expired.
    fn possible(&self, print: &Fingerprint, now: UnixMicros) -> Option<&Entry> {
        let (entry, _) = self.kept.iter().rev().find(|(entry, _)| entry.print.name == print.name)?;
        is_within(entry, now).then_some(entry)
    }

    /// The same, if it is one of the last `keys_max` and had not expired at any time since.
    fn certain(&self, print: &Fingerprint) -> Option<&Entry> {
        let held = &self.kept[self.kept.len().saturating_sub(self.keys_max)..];
        let (entry, latest) = held.iter().rev().find(|(entry, _)| entry.print.name == print.name)?;
        is_within(entry, *latest).then_some(entry)
    }
}

fn is_within(entry: &Entry, now: UnixMicros) -> bool {
    now.as_micros() - entry.at.as_micros() < KEEP_SECONDS * 1_000_000
}

fn print_of(key: u8, other: bool) -> Fingerprint {
    Fingerprint::new("s", &key.to_string(), if other { b"other" } else { b"body" })
}

fn run(steps: &[Step], keys_max: usize) -> Result<(), TestCaseError> {
    let config = WindowConfig { keep_for: Duration::from_secs(KEEP_SECONDS.unsigned_abs()), keys_max };
    let mut window = Window::new(config);
    let mut model = Model { kept: Vec::new(), keys_max };
    let (mut now, mut sequence) = (1_000_000_000_000_i64, 0);
    let mut publish = |window: &mut Window, model: &mut Model, print: Fingerprint, now: UnixMicros| {
        sequence += 1;
        let id = MessageId::new(sequence).expect("an id");
        let entry = Entry { print, sequence: Sequence::new(u64::from(sequence)), at: now, id };
        window.remember(entry, now);
        model.keep(entry);
    };
    for step in steps {
        let at = UnixMicros::from_micros(now);
        match step {
            Step::Publish(key, other) => {
                let print = print_of(*key, *other);
                if window.look_up(&print, at).is_none() {
                    publish(&mut window, &mut model, print, at);
                }
            }
            Step::Flood(count) => {
                for number in 0..*count {
                    let key = format!("flood {number} of {}", model.kept.len());
                    publish(&mut window, &mut model, Fingerprint::new("s", &key, b""), at);
                }
            }
            Step::Clock(seconds) => now += seconds * 1_000_000,
            Step::DropExpired(at_most) => window.drop_expired(at, usize::from(*at_most)),
            Step::Restart => {
                let mut restored = Window::new(config);
                let snapshot = window.snapshot();
                for entry in snapshot.entries() {
                    if !restored.is_expired(entry.at, at) {
                        restored.remember(*entry, at);
                    }
                }
                window = restored;
            }
        }
        prop_assert!(window.len() <= keys_max);
        let at = UnixMicros::from_micros(now);
        model.it_is(at);
        for (key, other) in (0..KEYS).flat_map(|key| [(key, false), (key, true)]) {
            let print = print_of(key, other);
            let found = window.look_up(&print, at).map(|known| (known.id, known.same_body));
            let of = |entry: &Entry| (entry.id, entry.print == print);
            // What expired once may be dropped, and stays forgotten when the clock goes back.
            match found {
                Some(found) => prop_assert_eq!(Some(found), model.possible(&print, at).map(of), "key {}", key),
                None => prop_assert_eq!(model.certain(&print), None, "key {} at {}", key, now),
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn knows_what_a_list_of_everything_knows(steps in steps(), few in any::<bool>()) {
        run(&steps, if few { 7 } else { 9_000 })?;
    }
}

fn entry(number: u32, seconds: i64) -> Entry {
    let print = Fingerprint::new("s", &number.to_string(), b"");
    let (sequence, at) = (Sequence::new(u64::from(number)), UnixMicros::from_micros(seconds * 1_000_000));
    Entry { print, sequence, at, id: MessageId::new(number).expect("an id") }
}

fn of(keys_max: usize) -> Window {
    Window::new(WindowConfig { keep_for: Duration::from_secs(60), keys_max })
}

#[test]
fn keys_that_are_forgotten_early_are_counted_and_those_that_expired_are_not() {
    let mut window = of(3);
    for number in 1..=5 {
        let entry = entry(number, 100);
        window.remember(entry, entry.at);
    }
    assert_eq!((window.len(), window.take_forgotten_early(), window.take_forgotten_early()), (3, 2, 0));
    let late = entry(6, 161);
    window.remember(late, late.at);
    assert_eq!(window.take_forgotten_early(), 0);
}

#[test]
fn what_has_expired_makes_room_for_keys_of_another_node() {
    let mut window = of(3);
    for (number, seconds) in [(1, 100), (2, 100), (3, 150)] {
        let entry = entry(number, seconds);
        window.remember(entry, entry.at);
    }
    let key = |number: u32| {
        let Entry { print, at, id, .. } = entry(number, 150);
        KeyEntry { name: print.name, body: print.body, published_at: at, id }
    };
    let at = |seconds: i64| UnixMicros::from_micros(seconds * 1_000_000);
    assert_eq!(window.has_room_for(&[key(4)], at(159)), Err(KeysFull { new: 1, max: 3 }));
    assert_eq!(window.has_room_for(&[key(3)], at(159)), Ok(()), "it is known");
    assert_eq!(window.has_room_for(&[key(4), key(5)], at(160)), Ok(()));
    assert_eq!((window.len(), window.take_forgotten_early()), (1, 0));
    assert_eq!(window.has_room_for(&[key(4), key(5), key(6)], at(160)), Err(KeysFull { new: 3, max: 3 }));
}

#[test]
fn an_expired_window_is_dropped_bit_by_bit() {
    let mut window = of(100_000);
    for number in 1..=10_000 {
        let entry = entry(number, 100);
        window.remember(entry, entry.at);
    }
    let late = entry(10_001, 200);
    window.remember(late, late.at);
    assert_eq!(window.len(), 9_999, "two are dropped for one that comes");
    window.drop_expired(late.at, 5_000);
    assert_eq!(window.len(), 4_999);
    window.drop_expired(late.at, 100_000);
    assert_eq!(window.len(), 1);
}

/// A snapshot stands still while the window goes on.
#[test]
fn a_snapshot_is_of_one_moment() {
    let mut window = of(5_000);
    for number in 1..=6_000 {
        let entry = entry(number, 100);
        window.remember(entry, entry.at);
    }
    let snapshot = window.snapshot();
    for number in 6_001..=20_000 {
        let entry = entry(number, 100);
        window.remember(entry, entry.at);
    }
    let numbers: Vec<u64> = snapshot.entries().map(|entry| entry.sequence.get()).collect();
    assert_eq!(numbers, (1_001..=6_000).collect::<Vec<_>>());
}

#[test]
fn an_entry_takes_no_more_than_is_said() {
    assert_eq!(size_of::<Entry>(), 56);
}
