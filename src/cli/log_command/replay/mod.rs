//! `walcast log replay`: the records of a log once more, into standard output, another broker, or the history store.
//!
//! Reads the log as `show` does, beside a running broker or a stopped one. What has arrived stands in the checkpoint file.
//! At least once: what had arrived and was not in the file yet when a replay was killed comes again.

mod broker;
mod checkpoint;
mod filter;
mod pace;
mod source;
mod stdout;
mod store;
mod window;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::super::config_command::StoreFlags;
use super::super::output::{self, Output};
use super::super::{Exit, Failure, client, signals, stopped};
use super::look;
use super::progress::Progress;
use crate::config::{Settings, StoreKind};
use crate::event::{Sequence, UnixMicros};
use crate::projector::Opening;
use checkpoint::{Checkpoint, Keeper, Ranges};
use filter::{Filter, instant};
use pace::Pace;
use source::{Chunk, Source};

#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A record arrives at least once: after a kill -9, what was sent in the last tenth of a second may come \
twice. The order within a subject is kept. A first SIGINT or SIGTERM ends in order with exit code 130, a second one at once."
)]
pub struct ReplayArguments {
    /// `stdout` (JSON lines as of `show`), `http://SERVER` (published anew, with what is left of its expiration), or `store`
    /// (the history store of this data directory; the broker must be stopped)
    #[arg(long, value_name = "TARGET")]
    pub into: Target,
    /// First sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub from: u64,
    /// Last sequence [default: the last one of the log when the replay starts]
    #[arg(long, value_name = "SEQUENCE")]
    pub to: Option<u64>,
    /// Only subjects that match; `*` stands for any text, `?` for one character
    #[arg(long, value_name = "GLOB")]
    pub subject: Option<String>,
    /// Only what was published then or later, such as 2026-11-24T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub since: Option<UnixMicros>,
    /// Only what was published before
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub until: Option<UnixMicros>,
    /// At most this many records a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Keep what has arrived in this file, and go on from there if it exists
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreFlags,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A broker.
    Broker(String),
    /// The history store.
    Store,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdout" | "-" => Ok(Self::Stdout),
            "store" => Ok(Self::Store),
            server if server.contains("://") => Ok(Self::Broker(server.to_owned())),
            other => Err(format!("{other:?} is neither stdout nor store nor http://HOST:PORT")),
        }
    }
}

impl Target {
    fn name(&self) -> &str {
        match self {
            Self::Stdout => "stdout",
            Self::Broker(server) => server,
            Self::Store => "store",
        }
    }
}

impl ReplayArguments {
    fn filter(&self) -> Filter {
        Filter {
            from: self.from,
            to: self.to,
            subject: self.subject.clone(),
            since: self.since.map(UnixMicros::as_micros),
            until: self.until.map(UnixMicros::as_micros),
        }
    }
}

/// Replays.
pub(super) fn run(arguments: &ReplayArguments, settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let stop = signals::watch()?;
    let log_dir = settings.log_dir();
    // The store belongs to one process, and the log that it is filled from must not move meanwhile.
    let _lock = match &arguments.into {
        Target::Store if settings.store.kind == StoreKind::None => {
            let message =
                "this data directory keeps no history of its own (store.kind): there is no store to replay into";
            return Err(Failure::new(Exit::Usage, message));
        }
        Target::Store => {
            super::must_exist(&log_dir)?;
            Some(stopped::lock(&log_dir)?)
        }
        Target::Stdout | Target::Broker(_) => None,
    };
    let inspection = look(&log_dir)?;
    let Some(log_id) = inspection.log_id() else {
        output::note("the log is empty: there is nothing to replay");
        return Ok(());
    };
    if arguments.into == Target::Store {
        // What a killed broker wrote last may not be on the disk yet: a power cut would leave a store that is ahead of
        // its log.
        inspection.make_end_durable().map_err(|error| super::unreadable(&error))?;
    }
    let filter = arguments.filter();
    let mut start = Checkpoint::new(log_id.to_string(), arguments.into.name().to_owned(), filter.clone());
    if let Some(path) = &arguments.checkpoint {
        start = start.resumed(path)?;
    }
    let last = filter.end(inspection.last());
    if start.position > inspection.last().get() && arguments.checkpoint.is_some() {
        let (position, end) = (start.position, inspection.last());
        let message = format!(
            "the replay starts after sequence {position}, and the log ends at {end}: records are lost at its end, or the checkpoint is not of it"
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    let after = Sequence::new(start.position);
    let oldest = inspection.segments().first().map_or_else(|| after.next(), |segment| segment.first);
    begins_by(oldest, &start)?;
    let source = Source::start(&inspection, after, last, filter, start.arrived.clone())?;
    let keeper = arguments.checkpoint.clone().map(|path| Keeper::start(path, &start)).transpose()?;
    let mut replay = Replay::new(source, start, keeper, last, arguments.rate, stop);
    let done = match &arguments.into {
        Target::Stdout => client::block_on(stdout::replay(&mut replay, output)),
        Target::Broker(server) => client::block_on(broker::replay(&mut replay, server)),
        Target::Store => client::block_on(async {
            let (store, projected) = stopped::open_store(settings, &inspection, log_id, Opening::Take).await?;
            store::replay(&mut replay, store, stopped::letters(settings)?, projected).await
        }),
    };
    replay.end(done)
}

/// A replay that goes on must find the record that comes next.
fn begins_by(oldest: Sequence, start: &Checkpoint) -> Result<(), Failure> {
    let next = Sequence::new(start.position).next();
    if oldest <= next {
        return Ok(());
    }
    if start.position < start.filter.from {
        output::note(&format!("the log begins at sequence {oldest}; what was before is trimmed"));
        return Ok(());
    }
    let message = format!(
        "the replay goes on at sequence {next}, and the log begins at {oldest}: what lies between was trimmed; begin anew there with --from {oldest} and another checkpoint"
    );
    Err(Failure::new(Exit::Failed, message))
}

/// What every target needs: where records come from, how fast, and where it is noted what has arrived.
#[derive(Debug)]
struct Replay {
    source: Source,
    /// As it was at the start, with what had arrived then; its position moves.
    checkpoint: Checkpoint,
    keeper: Option<Keeper>,
    pace: Pace,
    stop: CancellationToken,
    progress: Progress,
    started: Instant,
    after: u64,
    last: Sequence,
    /// Records that arrived, were not wanted, were lost in a repair, and came too late to be kept.
    arrived: u64,
    passed_over: u64,
    lost: u64,
    expired: u64,
}

impl Replay {
    fn new(
        source: Source,
        checkpoint: Checkpoint,
        keeper: Option<Keeper>,
        last: Sequence,
        rate: Option<u64>,
        stop: CancellationToken,
    ) -> Self {
        let after = checkpoint.position;
        Self {
            source,
            checkpoint,
            keeper,
            pace: Pace::new(rate),
            stop,
            progress: Progress::new("records", last.get().saturating_sub(after)),
            started: Instant::now(),
            after,
            last,
            arrived: 0,
            passed_over: 0,
            lost: 0,
            expired: 0,
        }
    }

    /// The next frame, counted; None at the end.
    async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        let chunk = self.source.next().await?;
        if let Ok(chunk) = &chunk {
            self.passed_over += chunk.passed_over;
            self.lost += chunk.lost;
        }
        Some(chunk)
    }

    /// Waits until then, or until the replay is to end.
    async fn pause(&self, until: tokio::time::Instant) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Everything up to `position` has arrived, and what `arrived` tells behind it.
    fn reached(&mut self, position: Sequence, arrived: impl Fn() -> Ranges) -> Result<(), Failure> {
        self.checkpoint.position = position.get();
        self.progress.set(position.get().saturating_sub(self.after));
        if let Some(keeper) = &self.keeper {
            if !keeper.works() {
                return Err(Failure::new(Exit::Failed, "the checkpoint can no longer be written"));
            }
            keeper.offer(|| self.checkpoint.now(&arrived()));
        }
        Ok(())
    }

    /// Keeps the last state and says how it went.
    fn end(mut self, done: Result<Ranges, Failure>) -> Result<(), Failure> {
        self.progress.end();
        let (arrived, done) = match done {
            Ok(arrived) => (arrived, Ok(())),
            Err(failure) => (Ranges::default(), Err(failure)),
        };
        let keeps = self.keeper.is_some();
        let kept = self.keeper.take().map_or(Ok(()), |keeper| keeper.finish(self.checkpoint.now(&arrived)));
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.arrived as f64 / seconds.max(f64::EPSILON);
        let mut line = format!("{} records replayed in {seconds:.1} s, {rate:.0}/s", self.arrived);
        for (count, what) in [
            (self.passed_over, "not wanted or replayed before"),
            (self.lost, "lost in a repair"),
            (self.expired, "expired"),
        ] {
            if count > 0 {
                line += &format!("; {count} {what}");
            }
        }
        output::note(&line);
        first_of(done, kept)?;
        if self.stop.is_cancelled() && self.checkpoint.position < self.last.get() {
            let position = self.checkpoint.position;
            let way_on =
                if keeps { "the same command goes on from there" } else { "there is no --checkpoint to go on from" };
            let message = format!("interrupted: everything up to sequence {position} has arrived; {way_on}");
            return Err(Failure::new(Exit::Interrupted, message));
        }
        Ok(())
    }
}

/// Why the replay ended comes first. That the checkpoint could not be written may be the cause, and is told beside it.
fn first_of(done: Result<(), Failure>, kept: Result<(), Failure>) -> Result<(), Failure> {
    if let (Err(_), Err(beside)) = (&done, &kept) {
        output::note(beside.message().unwrap_or("the checkpoint could not be written"));
    }
    done.and(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_replay_ended_comes_before_what_went_wrong_then() {
        let ended = || Err(Failure::new(Exit::Unavailable, "nobody is there"));
        let unkept = || Err(Failure::new(Exit::Failed, "the disk is full"));
        assert_eq!(first_of(ended(), unkept()), ended());
        assert_eq!(first_of(ended(), Ok(())), ended());
        assert_eq!(first_of(Ok(()), unkept()), unkept());
        assert_eq!(first_of(Ok(()), Ok(())), Ok(()));
    }

    #[test]
    fn a_replay_that_goes_on_refuses_a_gap_and_a_new_one_takes_what_is_there() {
        let filter = Filter { from: 1, to: None, subject: None, since: None, until: None };
        let fresh = Checkpoint::new("0a".to_owned(), "stdout".to_owned(), filter);
        assert_eq!(begins_by(Sequence::new(100), &fresh), Ok(()));
        let started = Checkpoint { position: 50, ..fresh };
        assert_eq!(begins_by(Sequence::new(51), &started), Ok(()));
        let failure = begins_by(Sequence::new(52), &started).expect_err("one is missing");
        assert!(failure.message().is_some_and(|message| message.contains("--from 52")), "{failure:?}");
    }

    #[test]
    fn targets_are_told_apart() {
        assert_eq!("stdout".parse(), Ok(Target::Stdout));
        assert_eq!("store".parse(), Ok(Target::Store));
        assert_eq!("http://h:1".parse(), Ok(Target::Broker("http://h:1".to_owned())));
        assert!("h:1".parse::<Target>().is_err_and(|reason| reason.contains("http://HOST:PORT")));
    }
}
