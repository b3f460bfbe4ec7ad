//! SIGINT and SIGTERM: the first ends the command in order, the second at once.

use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output;
use super::{Exit, Failure, client};

/// Cancelled by the first signal. A thread of its own waits for them, so that also a command that is stuck in a write
/// to a full pipe can be ended.
pub fn watch() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| client::cannot_start(&error))?;
    let _context = runtime.enter();
    let signals = signal(SignalKind::interrupt()).and_then(|one| Ok((one, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = signals.map_err(|error| client::cannot_start(&error))?;
    drop(_context);
    let wait = move || {
        runtime.block_on(async {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if first {
                    output::note("ending once what is under way has arrived; a second signal ends at once");
                    stopping.cancel();
                }
            }
        });
        std::process::exit(i32::from(Exit::Interrupted.code()));
    };
    // It ends with the process.
    thread::Builder::new()
        .name("replay-signals".to_owned())
        .spawn(wait)
        .map_err(|error| client::cannot_start(&error))?;
    Ok(stop)
}
