//! The broker beside servers of other projects that acknowledge what is on the disk, and beside one that does nothing: NATS
//! JetStream (file storage, sync always) and Redis Streams (appendfsync always), by one client program at the same concurrency.
//!
//! `make bench-peers` prints a table and writes it into `docs/performance.md`. Rounds are interleaved and ratios are made within a
//! round. NATS and Redis speak protocols of their own, which cost both sides less than gRPC: a ratio to the server that does
//! nothing says what their users get, not how good their disks are.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod calls;
#[allow(dead_code, reason = "shared with the yardstick, which uses all of it")]
#[path = "../common/figures.rs"]
mod figures;
mod lines;
mod nats;
#[path = "../common/noop.rs"]
mod noop;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod pages;
#[allow(dead_code, reason = "shared with the comparison of the stores")]
#[path = "../common/processes.rs"]
mod processes;
#[path = "../common/program.rs"]
mod program;
mod redis;
mod server;
mod table;

pub use program::{BODY_BYTES, Failure};

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use program::Role;
use server::Server;
use table::Results;

/// Subjects, or streams of Redis, that messages are spread over.
pub const SUBJECTS: usize = 100;

/// Compares the broker with NATS JetStream, Redis Streams and a server that does nothing.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them [default: 3, quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Measured seconds of each load, after half a second of warm-up [default: 3, quick: 1].
    #[arg(long)]
    seconds: Option<f64>,
    /// One short round: shows that everything works; its figures mean nothing.
    #[arg(long)]
    quick: bool,
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
    program::run("peers", args.role, async {
        if args.control {
            control(&args).await?
        } else {
            compare(&args).await?
        }
        Ok(ExitCode::SUCCESS)
    })
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
    for round in 1..=args.rounds() {
        for load in LOADS {
            // Turn and turn about: what a system leaves to do for the disk would always meet the same one.
            let mut turn = systems.clone();
            if round % 2 == 0 {
                turn.reverse();
            }
            for system in turn {
                eprintln!(
                    "round {round} of {}: {}, {} x {}",
                    args.rounds(),
                    system.title(),
                    load.connections,
                    load.in_flight
                );
                let server = Server::start(system, args).await?;
                let found = calls::run(&server, load, Duration::from_secs_f64(args.seconds())).await;
                results.add(load, system, found.map_err(|error| format!("{}: {error}", system.title()))?);
            }
        }
    }
    let text = results.markdown(args, &LOADS)?;
    println!("{text}");
    if let Some(page) = &args.write {
        let mut page = pages::Page::open(page)?;
        page.put("peers", &text)?;
        page.save()?;
    }
    Ok(())
}

impl Args {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 1.0 } else { 3.0 })
    }

    /// What was measured, for the page.
    fn settings(&self) -> Result<String, Failure> {
        let machine = pages::machine(&self.data_root)?;
        Ok(format!(
            "{}{}; {machine}. {} interleaved rounds of {} s a load, bodies of {BODY_BYTES} bytes.",
            if self.quick { pages::QUICK } else { "" },
            pages::made()?,
            self.rounds(),
            self.seconds()
        ))
    }
}
