//! `walcast cluster move`: gives slots to another node, each node's by asking its admin port.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::cluster_command::{AdminPorts, Layout, ask};
use super::output::Output;
use super::{Exit, Failure, status};
use crate::cluster::SlotSet;

/// How long a move may take until this command gives it up; it goes on at the nodes.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Args)]
pub struct MoveArguments {
    /// Slots and ranges of them, joined by `+`
    #[arg(long, value_name = "A-B")]
    slots: SlotSet,
    /// The node that gets them
    #[arg(long, value_name = "NODE")]
    to: String,
    #[command(flatten)]
    admin: AdminPorts,
    /// Print one JSON object for each node that gave slots away
    #[arg(long)]
    json: bool,
}

/// What a node says of a move.
#[derive(Debug, Serialize, Deserialize)]
struct Moved {
    slots: String,
    to: String,
    records: u64,
    pause_seconds: f64,
    layout: String,
}

/// Part of a move: slots of one node.
struct Part {
    admin: String,
    node: String,
    slots: SlotSet,
}

/// Runs the command.
pub fn run(arguments: &MoveArguments, output: &mut Output) -> Result<(), Failure> {
    let parts = parts(arguments)?;
    if parts.is_empty() {
        let message = format!("slots {} are of {} already", arguments.slots, arguments.to);
        return if arguments.json { Ok(()) } else { output.line(message) };
    }
    for Part { admin, node, slots } in parts {
        let moved = give(&admin, &node, &slots, &arguments.to)?;
        if arguments.json {
            let mut object = serde_json::to_value(&moved).unwrap_or_default();
            object["from"] = node.into();
            output.json(&object)?;
        } else {
            let Moved { slots, to, records, pause_seconds, layout } = moved;
            let pause = pause_seconds * 1_000.0;
            output.line(format!(
                "slots {slots} moved from {node} to {to}: {records} records, publishes paused {pause:.0} ms, layout {layout}"
            ))?;
        }
    }
    Ok(())
}

/// Who has to give what. All of it is known before anything moves.
fn parts(arguments: &MoveArguments) -> Result<Vec<Part>, Failure> {
    let MoveArguments { slots, to, .. } = arguments;
    if slots.is_empty() {
        return Err(Failure::new(Exit::Usage, "no slots to move; name some with --slots, such as 0-341"));
    }
    let (mut parts, mut left) = (Vec::new(), *slots);
    for admin in &arguments.admin.admin {
        let Layout { node, nodes, .. } = ask(admin).answer?.cluster.ok_or_else(|| {
            Failure::new(Exit::Failed, format!("the broker at {admin} is in no cluster: cluster.node is not set there"))
        })?;
        if !nodes.iter().any(|known| known.name == *to) {
            let message = format!("{to} is not in the layout of {node}; add it to cluster.nodes of all nodes first");
            return Err(Failure::new(Exit::Usage, message));
        }
        let own = nodes.iter().find(|known| known.name == node).map(|own| own.slots.as_str()).unwrap_or_default();
        let own = own.parse::<SlotSet>().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let here = own.intersection(&left);
        left = left.minus(&here);
        if node != *to && !here.is_empty() {
            parts.push(Part { admin: admin.clone(), node, slots: here });
        }
        let theirs = nodes.iter().find(|known| known.name == *to).and_then(|to| to.slots.parse::<SlotSet>().ok());
        left = left.minus(&theirs.unwrap_or_default());
    }
    if left.is_empty() {
        return Ok(parts);
    }
    let message = format!("slots {left} are of nodes that were not asked; name their admin ports with --admin");
    Err(Failure::new(Exit::Usage, message))
}

fn give(admin: &str, node: &str, slots: &SlotSet, to: &str) -> Result<Moved, Failure> {
    let wanted = serde_json::json!({ "slots": slots.to_string(), "to": to }).to_string();
    let (answer, body) = status::call(admin, "POST /cluster/move", &wanted, PATIENCE)?;
    match answer.split(' ').nth(1) {
        Some("200") => serde_json::from_str(&body).map_err(|error| {
            Failure::new(Exit::Failed, format!("node {node} at {admin} answered what does not read: {error}"))
        }),
        code => {
            let said = serde_json::from_str::<serde_json::Value>(&body).ok();
            let said = said.and_then(|said| Some(said["error"].as_str()?.to_owned())).unwrap_or_else(|| answer.clone());
            let exit = if code == Some("503") { Exit::Unavailable } else { Exit::Failed };
            Err(Failure::new(exit, format!("slots {slots} of {node}: {said}")))
        }
    }
}
