//! The loads: one program for all systems.

mod fetch;
mod idle;
mod slow;
mod streams;

use crate::Failure;
use crate::cell::{Cell, Side};
use crate::client::connect::{CONNECTIONS, IN_FLIGHT, SUBJECTS};
use crate::client::fan_out::{self, FanOut};
use crate::client::{Plan, calls, open_loop, subjects};
use crate::figures::Measured;
use crate::system::{Launch, ServerProcess};

/// Where there are many subjects.
const MANY: u32 = 1_000_000;

/// Subjects of a side.
fn subjects_of(side: Side, plan: &Plan) -> usize {
    if side == Side::Walcast { plan.scaled(MANY) as usize } else { SUBJECTS }
}

/// What is started for a side of a cell.
pub fn launch(cell: Cell, side: Side) -> Launch {
    match side {
        Side::Noop => Launch::Noop { stamped: cell.is_timed() },
        _ if cell == Cell::FetchCold => {
            Launch::Walcast(fetch::COLD_SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
        }
        _ => Launch::Walcast(Vec::new()),
    }
}

/// Prepares a server that is kept through all rounds.
pub async fn prepare(cell: Cell, side: Side, server: &ServerProcess, plan: &Plan) -> Result<(), Failure> {
    match (cell, side) {
        (Cell::FetchCold, Side::Walcast) => fetch::prepare_cold(server, plan).await,
        (Cell::Subjects, _) => subjects::prepare(server, subjects_of(side, plan)).await,
        _ => Ok(()),
    }
}

/// Runs one side of a cell; `offered` calls a second where the load is an open loop, and `in_flight` publishes of a fan-out, if not
/// as many as usual.
pub async fn run(
    cell: Cell,
    side: Side,
    server: &ServerProcess,
    plan: &Plan,
    offered: Option<f64>,
    in_flight: Option<usize>,
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
        Cell::FanOut1 | Cell::FanOut64 | Cell::FanOut1000 => {
            let in_flight = in_flight.unwrap_or_else(|| cell.in_flight());
            let fan_out = FanOut { subscribers: cell.subscribers(), in_flight, in_order: side != Side::Noop };
            fan_out::closed(server, plan, fan_out).await
        }
        Cell::Delivery1 | Cell::Delivery64 | Cell::Delivery1000 => {
            fan_out::timed(server, plan, side != Side::Noop, cell.subscribers(), offered()?).await
        }
        Cell::Slow => slow::run(server, plan, side).await,
        Cell::Idle => idle::run(server, plan).await,
        Cell::Subjects => subjects::run(server, plan, subjects_of(side, plan)).await,
    }
}
