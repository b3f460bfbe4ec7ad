//! Between which two steps of projection the broker is to die, as if by `kill -9`: for the table of bad days.
//!
//! Compiled with the feature `fault-controls` only, which no release has. `WALCAST_CRASH_POINT=NAME:PASS` kills the process
//! when it comes to the point NAME for the PASS-th time.
//!
//! | NAME | the process dies |
//! |---|---|
//! | `read` | after a batch is read, before anything of it is sent |
//! | `write` | Postgres: before the statement is sent; Cassandra: while rows are on their way |
//! | `rows` | Cassandra: after all rows are confirmed, before the marks are sent |
//! | `marks` | Cassandra: after the marks are confirmed, before the position is sent |
//! | `commit` | after the statement or the position was sent, before its answer is read |
//! | `committed` | after the answer, before anybody is told |
//! | `saved` | after the log was told that it may go |
//! | `trimming` | after a trimmed segment was renamed or removed, before the directory is synced |
//! | `trimmed` | after that |
//! | `forget` | a control: after the position was moved *before* the rows, which a broker must never do |

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use rustix::process::{Signal, getpid, kill_process};

use super::error::OpenError;

/// The environment variable that chooses one.
pub const VARIABLE: &str = "WALCAST_CRASH_POINT";

/// How long after something was sent the process dies at most: a batch of the rig takes about as long.
const ON_ITS_WAY_MAX: Duration = Duration::from_millis(20);

/// A place between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before anything is sent.
    Read,
    /// Before or while rows are written.
    Write,
    /// Between rows and marks.
    Rows,
    /// Between marks and position.
    Marks,
    /// Between a commit and its answer.
    Commit,
    /// Before anybody is told.
    Committed,
    /// Before the log is trimmed.
    Saved,
    /// While it is trimmed.
    Trimming,
    /// After it was trimmed.
    Trimmed,
    /// Between a position and the rows before it, in the wrong order.
    Forget,
}

const ALL: [(&str, CrashPoint); 10] = [
    ("read", CrashPoint::Read),
    ("write", CrashPoint::Write),
    ("rows", CrashPoint::Rows),
    ("marks", CrashPoint::Marks),
    ("commit", CrashPoint::Commit),
    ("committed", CrashPoint::Committed),
    ("saved", CrashPoint::Saved),
    ("trimming", CrashPoint::Trimming),
    ("trimmed", CrashPoint::Trimmed),
    ("forget", CrashPoint::Forget),
];

impl fmt::Display for CrashPoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = ALL.iter().find(|(_, point)| point == self);
        formatter.write_str(named.map_or("unknown", |(name, _)| name))
    }
}

/// The point, and at which pass of it the process dies.
#[derive(Debug)]
struct Chosen {
    point: CrashPoint,
    pass: u64,
    passed: AtomicU64,
}

/// What the environment chooses; the value itself if it is not `NAME:PASS`.
fn read_choice() -> Result<Option<Chosen>, String> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    let parsed = value.split_once(':').and_then(|(name, pass)| {
        let (_, point) = ALL.iter().find(|(known, _)| *known == name)?;
        Some(Chosen { point: *point, pass: pass.parse().ok()?, passed: AtomicU64::new(0) })
    });
    parsed.map(Some).ok_or(value)
}

fn chosen() -> Option<&'static Chosen> {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    // A choice that cannot be read has stopped the log from opening.
    CHOSEN.get_or_init(|| read_choice().ok().flatten()).as_ref()
}

/// Says that the process will die, if so.
///
/// # Errors
/// [`OpenError::Config`] if the environment chooses something unknown: a point that is never met proves nothing.
pub(super) fn announce() -> Result<(), OpenError> {
    let choice = read_choice().map_err(|value| {
        let known = ALL.map(|(name, _)| name).join(", ");
        OpenError::Config { setting: VARIABLE, reason: format!("{value:?} is not NAME:PASS with a NAME of {known}") }
    })?;
    if let Some(Chosen { point, pass, .. }) = choice {
        tracing::warn!(%point, pass, "THIS BROKER DIES ON PURPOSE: it is for the table of bad days only");
    }
    Ok(())
}

/// Whether it is time to die here.
fn is_due(point: CrashPoint) -> bool {
    let due = |chosen: &Chosen| chosen.passed.fetch_add(1, Ordering::SeqCst) + 1 >= chosen.pass;
    chosen().filter(|chosen| chosen.point == point).is_some_and(due)
}

/// Dies if this is the point and it is time.
pub fn pass(point: CrashPoint) {
    if is_due(point) {
        die();
    }
}

/// Carries out `work`; if this is the point and it is time, the process dies in the middle of it. Work that is faster than
/// death comes through, and the next one is tried.
pub async fn during<Work: Future>(point: CrashPoint, work: Work) -> Work::Output {
    if !is_due(point) {
        return work.await;
    }
    let after = ON_ITS_WAY_MAX.mul_f64(rand::rng().random());
    tokio::select! {
        output = work => output,
        () = tokio::time::sleep(after) => die(),
    }
}

/// Whether the position is to be moved before the rows this time.
pub fn forgets() -> bool {
    is_due(CrashPoint::Forget)
}

/// SIGKILL, so that nothing is tidied up.
pub fn die() -> ! {
    // A process may always signal itself; where that fails, ending at once is as good.
    kill_process(getpid(), Signal::KILL).ok();
    std::process::abort()
}
