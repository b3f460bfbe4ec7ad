//! Random runs against a plain list, with a crash at every file operation in turn.

use proptest::prelude::*;

use super::*;
use crate::wal::sim::{Fault, Pretend, SimFileSystem};

#[derive(Debug, Clone)]
enum Action {
    /// A frame of records with these lengths.
    Append(Vec<usize>),
    /// Release this many percent of what is there.
    Release(u64),
    Reopen,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let lengths = prop::collection::vec(prop_oneof![4 => 0..200usize, 1 => 1_000..1_900usize], 1..5);
    let action = prop_oneof![12 => lengths.prop_map(Action::Append), 3 => (0..=100u64).prop_map(Action::Release), 2 => Just(Action::Reopen)];
    prop::collection::vec(action, 1..25)
}

/// What must be true after a crash.
#[derive(Debug, Default, Clone)]
struct Model {
    /// All records ever sent, in order; the last frame perhaps never written.
    sent: Vec<Vec<u8>>,
    acknowledged: usize,
    released: u64,
    log_id: Option<LogId>,
    epoch: u64,
}

fn options() -> Options {
    Options {
        segment_bytes: 12 * 1024,
        max_bytes: 60 * 12 * 1024,
        keep_bytes: 20 * 1024,
        frame_bytes_max: 8_000,
        ..small(Path::new("/log"))
    }
}

fn run(fs: &SimFileSystem, actions: &[Action], model: &mut Model) -> Result<(), String> {
    let mut opened = reopen(fs, model)?;
    for (number, action) in actions.iter().enumerate() {
        match action {
            Action::Append(lengths) => {
                let records: Vec<Vec<u8>> =
                    lengths.iter().map(|length| vec![model.sent.len() as u8 ^ number as u8; *length]).collect();
                let batch = batch(&records.iter().map(Vec::as_slice).collect::<Vec<_>>());
                if let Err(error) = opened.writer.ensure_room(batch.bytes()) {
                    return Err(error.to_string());
                }
                model.sent.extend(records);
                let durable = opened.writer.append(&batch).map_err(|error| error.to_string())?;
                assert_eq!(durable.sequence().get(), model.sent.len() as u64);
                model.acknowledged = model.sent.len();
            }
            Action::Release(percent) => {
                let released = model.acknowledged as u64 * percent / 100;
                model.released = model.released.max(released);
                opened.log.release(Sequence::new(released)).map_err(|error| error.to_string())?;
            }
            Action::Reopen => {
                drop(opened);
                opened = reopen(fs, model)?;
            }
        }
    }
    Ok(())
}

fn reopen(fs: &SimFileSystem, model: &mut Model) -> Result<Opened, String> {
    let opened = open(Arc::new(fs.clone()), options()).map_err(|error| error.to_string())?;
    if model.log_id.is_none() {
        model.log_id = Some(opened.log.log_id());
    }
    model.epoch = opened.log.epoch();
    Ok(opened)
}

/// Opens the log as it is after a crash and compares it with the model.
fn check(fs: &SimFileSystem, model: &Model, start_of_unacknowledged: usize) -> Result<Opened, String> {
    let opened = open(Arc::new(fs.clone()), options()).map_err(|error| format!("does not open: {error}"))?;
    let (log, durable) = (&opened.log, opened.log.durable().sequence().get() as usize);
    let fail = |what: String| Err(format!("{what}; {:?}, acknowledged {}", opened.recovery, model.acknowledged));
    if durable != start_of_unacknowledged && durable != model.sent.len() {
        return fail(format!("{durable} records are there, {} sent", model.sent.len()));
    }
    if model.log_id.is_some_and(|log_id| log_id != log.log_id()) || log.epoch() <= model.epoch {
        return fail("another identity or epoch".to_owned());
    }
    let trimmed = log.trimmed().sequence();
    if trimmed.get() > model.released {
        return fail(format!("trimmed up to {trimmed}, released up to {}", model.released));
    }
    let records = read_all(log, trimmed);
    let expected = (trimmed.get() + 1..).zip(&model.sent[trimmed.get() as usize..durable]);
    let same = records.iter().map(|(sequence, bytes)| (sequence.get(), &bytes[..]));
    if !same.eq(expected.map(|(sequence, bytes)| (sequence, &bytes[..]))) {
        return fail("other records".to_owned());
    }
    Ok(opened)
}

/// The run with a crash at operation `at`, the check, and then life goes on: more records, another crash, in recovery too.
fn crash_at(actions: &[Action], at: u64, seed: u64, pretend: Pretend) -> Result<(), String> {
    let fs = SimFileSystem::new(seed);
    fs.pretend(pretend);
    fs.fault_at(at, Fault::Crash);
    let mut model = Model::default();
    // The error of a crashed run is the crash.
    drop(run(&fs, actions, &mut model));
    let recovered = fs.after_crash(seed ^ at);
    // A second crash somewhere in recovery.
    recovered.fault_at(seed % 17, Fault::Crash);
    drop(open(Arc::new(recovered.clone()), options()));
    let recovered = recovered.after_crash(seed.rotate_left(7) ^ at);

    let mut opened = check(&recovered, &model, model.acknowledged)?;
    model.sent.truncate(opened.log.durable().sequence().get() as usize);
    let next = batch(&[b"after the crash"]);
    opened.writer.append(&next).map_err(|error| error.to_string())?;
    model.sent.push(b"after the crash".to_vec());
    model.acknowledged = model.sent.len();
    drop(opened);
    check(&recovered.after_crash(seed ^ 1), &model, model.acknowledged).map(drop)
}

fn crash_everywhere(actions: &[Action], seed: u64, pretend: Pretend) -> Result<(), String> {
    let fs = SimFileSystem::new(seed);
    run(&fs, actions, &mut Model::default()).map_err(|error| format!("without a crash: {error}"))?;
    (0..=fs.operations()).try_for_each(|at| {
        crash_at(actions, at, seed, pretend).map_err(|error| format!("crash at operation {at}, seed {seed}: {error}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_crash_loses_or_invents_a_record(actions in actions(), seed: u64) {
        if let Err(error) = crash_everywhere(&actions, seed, Pretend::Nothing) {
            return Err(TestCaseError::fail(error));
        }
    }
}

/// Enough frames for several rotations and a trim.
fn long_run() -> Vec<Action> {
    (0..40).map(|number| if number % 13 == 12 { Action::Release(90) } else { Action::Append(vec![700, 10]) }).collect()
}

#[test]
fn the_check_finds_a_disk_that_does_not_sync() {
    assert_eq!(crash_everywhere(&long_run(), 1, Pretend::Nothing), Ok(()));
    for pretend in [Pretend::SyncData, Pretend::SyncDir] {
        assert!(crash_everywhere(&long_run(), 1, pretend).is_err(), "{pretend:?} goes unnoticed");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let files = |seed| {
        let fs = SimFileSystem::new(seed);
        run(&fs, &long_run(), &mut Model::default()).expect("nothing fails");
        (fs.operations(), fs.names())
    };
    assert_eq!(files(3), files(3));
}
