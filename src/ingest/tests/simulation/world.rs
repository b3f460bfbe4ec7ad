//! A whole run from one seed: publishes, faults, crashes and restarts, then peace.

use std::path::Path;

use super::node::{FRAME_BYTES, LOG_DIR, Node, StartError};
use super::oracle::Oracle;
use crate::event::{IdempotencyKey, Sequence};
use crate::ingest::tests::publish;
use crate::ingest::{CommitterMetrics, Publish};
use crate::wal::sim::{Fault, Pretend, Random, SimFileSystem};
use crate::wal::{FileSystem as _, SegmentState, format};

const SUBJECTS: [&str; 5] = ["a", "b.c", "orders.créés", "d", "e"];
/// EIO, ENOSPC, EMFILE, EROFS.
const ERRORS: [i32; 4] = [5, 28, 24, 30];
/// Restarts in a row that may fail: each of them meets at most one fault.
const RESTARTS_MAX: usize = 8;

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    pub acknowledged: usize,
    pub restarts: usize,
    pub power_cuts: usize,
    pub errors_armed: usize,
    pub bits_flipped: usize,
    pub refusals_for_room: usize,
    pub retries: usize,
    pub conflicts: usize,
    pub operations: u64,
    pub fingerprint: u32,
}

pub struct World {
    seed: u64,
    random: Random,
    fs: SimFileSystem,
    node: Option<Node>,
    metrics: CommitterMetrics,
    oracle: Oracle,
    /// Whether an error may be the work of a fault.
    armed: bool,
    report: Report,
    /// What happened, a line each.
    pub trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, pretend: Pretend, metrics: CommitterMetrics) -> Self {
        let fs = SimFileSystem::new(seed);
        fs.pretend(pretend);
        Self {
            seed,
            random: Random::new(seed.rotate_left(32) ^ 0xD15C),
            fs,
            node: None,
            metrics,
            oracle: Oracle::default(),
            armed: false,
            report: Report::default(),
            trace: Vec::new(),
        }
    }

    /// Safety while everything fails, then liveness once nothing does.
    pub fn run(&mut self) -> Result<Report, String> {
        self.restart(false)?;
        for _ in 0..20 + self.random.roll(30) {
            self.step()?;
            self.look()?;
            if self.fs.is_crashed() {
                self.restart(true)?;
            } else if self.node().has_failed() {
                let power_cut = self.random.roll(2) == 0;
                self.restart(power_cut)?;
            }
        }
        self.peace()?;
        self.report.acknowledged = self.oracle.acknowledged();
        self.report.fingerprint = self.fs.fingerprint();
        Ok(self.report.clone())
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("a node runs between restarts")
    }

    fn tell(&mut self, line: impl Into<String>) {
        let line = format!("{:4} {}", self.fs.operations(), line.into());
        self.trace.push(line);
    }

    fn step(&mut self) -> Result<(), String> {
        // A fault that has struck excuses nothing any more.
        self.armed = self.fs.has_fault();
        match self.random.roll(20) {
            0..=8 => {
                let count = 1 + self.random.roll(30);
                self.publish(count);
                Ok(())
            }
            9 | 10 => self.checkpoint(),
            11 | 12 => self.release(),
            13 | 14 => {
                self.arm();
                Ok(())
            }
            15 => {
                let bytes = if self.random.roll(2) == 0 { 100 } else { u64::MAX };
                self.fs.set_available(bytes);
                self.tell(format!("free space: {bytes}"));
                Ok(())
            }
            16 | 17 => self.rot(),
            18 => {
                let power_cut = self.random.roll(2) == 0;
                self.restart(power_cut)
            }
            _ => self.read_all(),
        }
    }

    fn publish(&mut self, count: usize) {
        let batched = self.random.roll(3) == 0;
        self.tell(format!("publish {count}{}", if batched { " in batches" } else { "" }));
        let mut publishes = Vec::with_capacity(count);
        for _ in 0..count {
            if self.random.roll(4) == 0 && self.retry() {
                continue;
            }
            let subject = SUBJECTS[self.random.roll(SUBJECTS.len())];
            let bytes = if self.random.roll(12) == 0 { FRAME_BYTES - 200 } else { 200 };
            let bytes = self.random.roll(bytes);
            let keyed = self.random.roll(2) == 0;
            let (number, body) = self.oracle.send(subject, bytes, keyed);
            let seconds = if self.random.roll(2) == 0 { 60 } else { 0 };
            let key = keyed.then(|| key_of(number));
            publishes.push((number, Publish { key, ..publish(subject, &body, seconds) }));
        }
        if batched {
            self.node().publish_batches(publishes);
        } else {
            publishes.into_iter().for_each(|(number, publish)| self.node().publish(number, publish));
        }
        let Self { node, random, .. } = self;
        node.as_mut().expect("a node runs between restarts").commit(random);
    }

    /// Sends a publish that had a key once more, be it answered, refused, of unknown outcome or under way; at times with
    /// another body. False if there was none.
    fn retry(&mut self) -> bool {
        let sent = self.oracle.keyed();
        if sent == 0 {
            return false;
        }
        // Mostly a late one: what was under way when something failed.
        let back = if self.random.roll(3) == 0 { self.random.roll(sent) } else { self.random.roll(sent.min(20)) };
        let (number, subject, mut body) = self.oracle.again(sent - 1 - back);
        if self.random.roll(8) == 0 && self.oracle.is_acknowledged(number) {
            body.push(b'!');
            self.report.conflicts += 1;
        }
        self.report.retries += 1;
        self.node().publish(number, Publish { key: Some(key_of(number)), ..publish(&subject, &body, 60) });
        true
    }

    /// Hears the answers, sees what is delivered.
    fn look(&mut self) -> Result<(), String> {
        let (outcomes, seen) = self.node().outcomes();
        seen.iter().try_for_each(|seen| self.oracle.saw(seen))?;
        for outcome in &outcomes {
            self.oracle.answered(outcome)?;
            if outcome.answer.is_err() {
                self.tell(format!("{}: {:?}", outcome.number, outcome.answer));
            }
            if matches!(outcome.answer, Err(crate::ingest::PublishError::NoRoom(_))) {
                self.report.refusals_for_room += 1;
            }
        }
        match self.node().waits() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} publishes are never answered")),
        }
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        let taken = self.node().checkpoint();
        self.tell(format!("checkpoint: {taken:?}"));
        self.tolerate(taken)
    }

    fn release(&mut self) -> Result<(), String> {
        let checkpointed = self.node().checkpointed.get();
        let percent = [50, 80, 100][self.random.roll(3)];
        let up_to = self.oracle.released.max(checkpointed * percent / 100);
        self.oracle.released = up_to;
        let released = self.node().log.release(Sequence::new(up_to)).map_err(|error| error.to_string());
        self.tell(format!("release {up_to}: {released:?}"));
        self.tolerate(released.map(drop))
    }

    /// Lets something go wrong soon.
    fn arm(&mut self) {
        self.armed = true;
        let soon = self.random.roll(40) as u64;
        let fault = match self.random.roll(5) {
            0 | 1 => Fault::Crash,
            2 => {
                self.fs.fail_read_after(soon);
                self.report.errors_armed += 1;
                return self.tell(format!("read {soon} fails"));
            }
            _ => Fault::Error(ERRORS[self.random.roll(ERRORS.len())]),
        };
        if matches!(fault, Fault::Error(_)) {
            self.report.errors_armed += 1;
        }
        self.fs.fault_at(self.fs.operations() + soon, fault);
        self.tell(format!("in {soon}: {fault:?}"));
    }

    /// An error needs a cause.
    fn tolerate(&self, outcome: Result<(), String>) -> Result<(), String> {
        outcome.or_else(|error| if self.armed { Ok(()) } else { Err(format!("without a fault: {error}")) })
    }

    fn read_all(&mut self) -> Result<(), String> {
        let Self { node, oracle, .. } = self;
        let node = node.as_ref().expect("a node runs between restarts");
        let read = oracle.check(&node.log, &node.subjects);
        let checked = node.log.verify_next().map_err(|error| error.to_string());
        self.tell(format!("read: {read:?}, {checked:?}"));
        // A read that fails says so; it must not find other records.
        self.tolerate(checked.map(drop))?;
        read.or_else(|error| if self.armed && error.contains("os error 5") { Ok(()) } else { Err(error) })
    }

    /// A bit of a closed segment changes: readers say so, a restart refuses, nothing is deleted; then it changes back.
    fn rot(&mut self) -> Result<(), String> {
        self.fs.heal();
        self.armed = false;
        let mut closed = self.node().log.segments();
        let trimmed = self.node().log.trimmed().sequence();
        closed.retain(|segment| segment.state == SegmentState::Closed && segment.last > trimmed);
        if closed.is_empty() {
            return Ok(());
        }
        let segment = &closed[self.random.roll(closed.len())];
        let end = end_of_frames(&self.fs, &segment.path, segment.records);
        let bit = self.random.roll(end * 8);
        self.report.bits_flipped += 1;
        self.fs.flip(&segment.path, bit);
        self.tell(format!("bit {bit} of {} flips", segment.path.display()));
        // A header is read at the opening only.
        if bit / 8 >= format::SEGMENT_HEADER_BYTES as usize {
            let node = self.node();
            let found = super::node::read(&node.log, node.log.trimmed().sequence()).err().unwrap_or_default();
            names(&found, &segment.path)?;
        }
        self.look()?;
        self.node = None;
        let before = self.files();
        match Node::start(&self.fs, &self.metrics) {
            Err(StartError::Refused(found)) => names(&found, &segment.path)?,
            Err(StartError::Disk(error)) => return Err(format!("a flipped bit is taken for a failing disk: {error}")),
            Ok(_) => return Err(format!("bit {bit} of {} goes unnoticed", segment.path.display())),
        }
        if self.files() != before {
            return Err("a refused start changed files".to_owned());
        }
        self.fs.flip(&segment.path, bit);
        self.restart(false)
    }

    fn files(&self) -> Vec<(String, u64)> {
        let files = self.fs.list(Path::new(LOG_DIR)).expect("reads do not fail here");
        files.into_iter().map(|file| (file.name, file.bytes)).filter(|(name, _)| name.ends_with(".wal")).collect()
    }

    fn restart(&mut self, power_cut: bool) -> Result<(), String> {
        if self.node.is_some() && !self.fs.is_crashed() {
            self.look()?;
        }
        self.node = None;
        if power_cut {
            self.cut_power();
        }
        // Without a spare a node does not start on a full disk, and says so; that is not what is tried here.
        self.fs.set_available(u64::MAX);
        for _ in 0..RESTARTS_MAX {
            self.report.restarts += 1;
            match Node::start(&self.fs, &self.metrics) {
                Ok(node) => {
                    self.tell(format!("started with {} durable", node.log.durable().sequence()));
                    let mut checked = self.oracle.check(&node.log, &node.subjects);
                    if checked.is_err() && self.armed {
                        // It has met the read that fails.
                        checked = self.oracle.check(&node.log, &node.subjects);
                    }
                    self.node = Some(node);
                    return checked;
                }
                Err(StartError::Disk(error)) => {
                    self.tell(format!("does not start: {error}"));
                    self.tolerate(Err(error))?;
                    if self.fs.is_crashed() || self.random.roll(2) == 0 {
                        self.cut_power();
                    }
                }
                Err(StartError::Refused(error)) => return Err(format!("refuses to start: {error}")),
            }
        }
        Err("does not start".to_owned())
    }

    fn cut_power(&mut self) {
        self.report.power_cuts += 1;
        self.report.operations += self.fs.operations();
        let seed = self.random.next() ^ self.seed;
        self.fs = self.fs.after_crash(seed);
        self.armed = false;
        self.tell("power cut");
        // Sometimes recovery meets a fault of its own.
        if self.random.roll(3) == 0 {
            self.arm();
        }
    }

    /// Nothing fails any more: everything must work at once.
    fn peace(&mut self) -> Result<(), String> {
        self.fs.heal();
        self.armed = false;
        self.restart(false)?;
        self.checkpoint()?;
        let durable = self.oracle.durable();
        self.oracle.released = durable;
        self.node().log.release(Sequence::new(durable)).map_err(|error| format!("peace: {error}"))?;
        let before = self.oracle.answers();
        for _ in 0..4 {
            self.publish(10);
            self.look()?;
        }
        let answered = self.oracle.answers() - before;
        if answered != 40 {
            return Err(format!("in peace {answered} of 40 publishes are acknowledged"));
        }
        if self.node().bytes_in_flight() != 0 {
            return Err(format!("{} bytes of admission are gone", self.node().bytes_in_flight()));
        }
        self.restart(false)?;
        self.report.operations += self.fs.operations();
        Ok(())
    }
}

fn key_of(number: usize) -> IdempotencyKey {
    IdempotencyKey::new(format!("key {number}")).expect("a key")
}

fn names(found: &str, path: &Path) -> Result<(), String> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if found.contains(name) { Ok(()) } else { Err(format!("{} is damaged, what is said is {found:?}", path.display())) }
}

/// Where the frames of a closed segment end, from its bytes.
fn end_of_frames(fs: &SimFileSystem, path: &Path, records: u64) -> usize {
    let file = fs.open(path).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("has a length") as usize];
    file.read_at(&mut bytes, 0).expect("readable");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (mut end, mut left) = (format::SEGMENT_HEADER_BYTES as usize, records);
    while left > 0 {
        left -= u64::from(number(end + 12));
        end += format::FRAME_HEADER_BYTES + number(end + 8) as usize;
    }
    end
}
