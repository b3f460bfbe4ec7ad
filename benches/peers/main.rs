//! The broker beside servers of other projects that acknowledge what is on the disk, and beside one that does nothing: NATS
//! JetStream (file storage, sync always) and Redis Streams (appendfsync always), by one client program at the same concurrency.
//!
//! `make bench-peers` prints a table and writes it into `docs/performance.md`. Rounds are interleaved and ratios are made within a
//! round. NATS and Redis speak protocols of their own, which cost both sides less than gRPC: a ratio to the server that does
//! nothing says what their users get, not how good their disks are.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod calls;
mod lines;
mod nats;
mod redis;
mod server;
mod table;

#[allow(dead_code, reason = "shared with the yardstick, which uses all of it")]
#[path = "../yardstick/figures.rs"]
mod figures;
#[path = "../yardstick/noop.rs"]
mod noop;
#[path = "../stores/page.rs"]
mod pages;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use server::Server;
use table::Results;

/// Why a run ended early, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of each body.
pub const BODY_BYTES: usize = 256;

/// Subjects, or streams of Redis, that messages are spread over.
pub const SUBJECTS: usize = 100;

/// Compares the broker with NATS JetStream, Redis Streams and a server that does nothing.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measured seconds of each load, after half a second of warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<System>,
    /// The program nats-server.
    #[arg(long, default_value = "nats-server")]
    nats: PathBuf,
    /// Where all of them keep their data; must be a real disk for the figures to mean anything.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Also writes the table of this page, between its marks: `docs/performance.md`.
    #[arg(long, conflicts_with = "only")]
    write: Option<PathBuf>,
    /// The control: starts NATS and Redis as they are by default, which answer before they sync, and ends with exit code 1 unless
    /// both are found out.
    #[arg(long, conflicts_with_all = ["only", "write"])]
    control: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Runs the server that does nothing, until it is killed.
    #[command(hide = true)]
    Noop,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum System {
    /// A tonic server that answers at once.
    Noop,
    /// The broker, embedded store, messages kept for a minute.
    Walcast,
    /// JetStream with file storage and `sync_interval: always`.
    Nats,
    /// Streams with `appendfsync always`.
    Redis,
}

impl System {
    const ALL: [Self; 4] = [Self::Noop, Self::Walcast, Self::Nats, Self::Redis];

    /// In the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Noop => "a tonic server that does nothing",
            Self::Walcast => "walcast",
            Self::Nats => "NATS JetStream, file, sync always",
            Self::Redis => "Redis Streams, appendfsync always",
        }
    }

    /// How a client talks to it.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Noop | Self::Walcast => "gRPC",
            Self::Nats | Self::Redis => "its own",
        }
    }
}

/// Connections, and calls in flight on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// On each of them.
    pub in_flight: usize,
}

const LOADS: [Load; 2] = [Load { connections: 8, in_flight: 32 }, Load { connections: 1, in_flight: 1 }];

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match args.role {
            Some(Role::Noop) => noop::serve(false).await,
            None if args.control => control(&args).await,
            None => compare(&args).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn control(args: &Args) -> Result<(), Failure> {
    for (system, said) in [(System::Nats, "sync always: "), (System::Redis, "appendfsync: ")] {
        match Server::start(system, args).await {
            Ok(_) => return Err(format!("{} was believed without it", system.title()).into()),
            Err(error) if error.to_string().contains(said) => println!("{}: found out", system.title()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn compare(args: &Args) -> Result<(), Failure> {
    let systems = if args.only.is_empty() { System::ALL.to_vec() } else { args.only.clone() };
    let mut results = Results::default();
    for round in 1..=args.rounds {
        for load in LOADS {
            for &system in &systems {
                eprintln!(
                    "round {round} of {}: {}, {} x {}",
                    args.rounds,
                    system.title(),
                    load.connections,
                    load.in_flight
                );
                let server = Server::start(system, args).await?;
                let found = calls::run(&server, load, Duration::from_secs_f64(args.seconds)).await;
                results.add(load, system, found.map_err(|error| format!("{}: {error}", system.title()))?);
            }
        }
    }
    let text = results.markdown(args, &LOADS)?;
    println!("{text}");
    if let Some(page) = &args.write {
        let mut whole = std::fs::read_to_string(page)?;
        pages::replace(&mut whole, "peers", &text)?;
        std::fs::write(page, whole)?;
    }
    Ok(())
}

impl Args {
    /// What was measured, for the page.
    fn settings(&self) -> Result<String, Failure> {
        let machine = pages::machine(&self.data_root)?;
        Ok(format!(
            "{machine}. {} interleaved rounds of {} s a load, bodies of {BODY_BYTES} bytes.",
            self.rounds, self.seconds
        ))
    }
}
