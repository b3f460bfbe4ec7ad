//! The loads: one program for all systems.

mod audience;
mod calls;
mod client;
mod fan_out;
mod fetch;
mod idle;
mod open_loop;
mod slow;
mod stamp;
mod streams;
mod subjects;

use std::time::Duration;

use client::{CONNECTIONS, IN_FLIGHT};

use crate::Failure;
use crate::cell::{Cell, Side};
use crate::figures::Measured;
use crate::server::{Launch, ServerProcess};

pub use client::BODY_BYTES;

/// Goes before each measurement: connections, caches and the servers' memory are warm by then.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Measured time of a load, after the warm-up.
    pub measured: Duration,
    /// Publishes in flight of a fan-out, if not as many as usual.
    pub in_flight: Option<usize>,
    /// A tenth of subjects, subscribers and messages: shows that everything works.
    pub quick: bool,
}

impl Plan {
    /// What the run goes through: all, or a tenth.
    fn scaled(&self, all: u32) -> u32 {
        if self.quick { all / 10 } else { all }
    }
}

/// What is started for a side of a cell.
pub fn launch(cell: Cell, side: Side) -> Launch {
    match side {
        Side::Noop => Launch::Noop { stamped: cell.is_timed() },
        _ if cell == Cell::FetchCold => Launch::Walcast(fetch::COLD_SETTINGS),
        _ => Launch::Walcast(&[]),
    }
}

/// Prepares a server that is kept through all rounds.
pub async fn prepare(cell: Cell, side: Side, server: &ServerProcess, plan: &Plan) -> Result<(), Failure> {
    match (cell, side) {
        (Cell::FetchCold, Side::Walcast) => fetch::prepare_cold(server, plan).await,
        (Cell::Subjects, _) => subjects::prepare(server, subjects::count(side, plan)).await,
        _ => Ok(()),
    }
}

/// Runs one side of a cell; `offered` calls a second where the load is an open loop.
pub async fn run(
    cell: Cell,
    side: Side,
    server: &ServerProcess,
    plan: &Plan,
    offered: Option<f64>,
) -> Result<Measured, Failure> {
    let offered = || offered.ok_or("no rate to offer");
    match cell {
        Cell::Publish => calls::run(server, plan, CONNECTIONS, IN_FLIGHT, calls::Publish::kept_for(60)).await,
        Cell::PublishForget => calls::run(server, plan, CONNECTIONS, IN_FLIGHT, calls::Publish::kept_for(0)).await,
        // Beside the streams the server that does nothing answers calls of their own.
        Cell::Stream if side == Side::Walcast => streams::run(server, plan, 60).await,
        Cell::StreamForget if side == Side::Walcast => streams::run(server, plan, 0).await,
        Cell::Stream | Cell::StreamForget => {
            calls::run(server, plan, CONNECTIONS, IN_FLIGHT, calls::Publish::kept_for(0)).await
        }
        Cell::PublishAlone => calls::run(server, plan, 1, 1, calls::Publish::kept_for(60)).await,
        Cell::PublishHalf => open_loop::publish(server, plan, offered()?).await,
        Cell::Fetch => fetch::hot(server, plan, side).await,
        Cell::FetchCold => fetch::cold(server, plan, side).await,
        Cell::FanOut1 | Cell::FanOut64 | Cell::FanOut1000 => fan_out::closed(server, plan, side, cell).await,
        Cell::Delivery1 | Cell::Delivery64 | Cell::Delivery1000 => {
            fan_out::timed(server, plan, side, cell.subscribers(), offered()?).await
        }
        Cell::Slow => slow::run(server, plan, side).await,
        Cell::Idle => idle::run(server, plan).await,
        Cell::Subjects => subjects::run(server, plan, subjects::count(side, plan)).await,
    }
}
