//! The `walcast` program.

use std::process::ExitCode;

use walcast::broker;
use walcast::cli::{self, Exit, Failure};
use walcast::config::{Effective, LogFormat};
use walcast::telemetry::logging::{self, Format};

/// A call costs some twenty small allocations, freed on another thread as often as not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Public for the build that misbehaves on purpose (`tests/faults/broken.rs`).
pub fn main() -> ExitCode {
    cli::main(serve)
}

/// Sets up logging and the runtime, and runs the broker in them.
fn serve(effective: Effective) -> Result<(), Failure> {
    let settings = effective.settings;
    let format = match settings.telemetry.log_format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    logging::init(format, &settings.telemetry.log_filter)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("start the runtime: {error}")))?;
    let ended = runtime.block_on(broker::run(settings));
    // What is left are connections beyond the grace period and blocking reads that nobody waits for.
    runtime.shutdown_background();
    logging::finish();
    ended.map_err(|error| {
        let exit = match error.kind() {
            broker::ErrorKind::Damaged => Exit::Damaged,
            broker::ErrorKind::InUse => Exit::InUse,
            broker::ErrorKind::Configuration => Exit::Usage,
            broker::ErrorKind::Failed => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })
}
