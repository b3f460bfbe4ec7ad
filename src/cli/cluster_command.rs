//! `walcast cluster status`: the layout and its nodes, as their admin ports tell it.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster_move::{self, MoveArguments};
use super::output::Output;
use super::{Exit, Failure, status};
use crate::cluster::LayoutVersion;

#[derive(Debug, Args)]
pub struct ClusterArguments {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show the layout, and each node with its slots, phase and positions
    Status(ClusterStatusArguments),
    /// Give slots to another node, while all of them run
    Move(MoveArguments),
}

/// The admin ports of nodes.
#[derive(Debug, Args)]
pub(super) struct AdminPorts {
    /// Addresses of the nodes' admin ports, separated by commas
    #[arg(
        long,
        value_name = "URLS",
        env = "WALCAST_ADMIN",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:9464"
    )]
    pub(super) admin: Vec<String>,
}

#[derive(Debug, Args)]
struct ClusterStatusArguments {
    #[command(flatten)]
    admin: AdminPorts,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Of the status of a node.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Report {
    ready: bool,
    phase: Option<String>,
    log: Option<Log>,
    projector: Option<Projector>,
    pub(super) cluster: Option<Layout>,
}

#[derive(Debug, Clone, Deserialize)]
struct Log {
    durable: u64,
    projected: u64,
    trimmed: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Projector {
    lag_records: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Layout {
    pub(super) node: String,
    version: u64,
    #[serde(default)]
    moves: u64,
    digest: String,
    pub(super) nodes: Vec<Node>,
    moving: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    address: String,
    pub(super) slots: String,
}

/// What one admin port said.
pub(super) struct Asked {
    pub(super) admin: String,
    pub(super) answer: Result<Report, Failure>,
}

/// A node of the layout, or an admin port that tells of none.
#[derive(Debug, Default, Serialize)]
struct Row {
    name: String,
    slots: String,
    address: String,
    admin: Option<String>,
    state: String,
    layout_version: Option<u64>,
    layout_moves: Option<u64>,
    /// What it gives away now.
    moving: Option<Value>,
    durable: Option<u64>,
    projected: Option<u64>,
    trimmed: Option<u64>,
    lag_records: Option<u64>,
}

/// Runs the command.
pub fn run(arguments: &ClusterArguments, output: &mut Output) -> Result<(), Failure> {
    let arguments = match &arguments.command {
        ClusterCommand::Status(arguments) => arguments,
        ClusterCommand::Move(arguments) => return cluster_move::run(arguments, output),
    };
    let asked: Vec<Asked> = arguments.admin.admin.iter().map(|admin| ask(admin)).collect();
    let layouts = || asked.iter().filter_map(|asked| asked.answer.as_ref().ok()?.cluster.as_ref());
    let Some(newest) = layouts().max_by_key(|layout| (layout.version, layout.moves)) else {
        let failed = asked.into_iter().find_map(|asked| asked.answer.err());
        let alone = || Failure::new(Exit::Failed, "no node of a cluster was asked: cluster.node is not set there");
        return Err(failed.unwrap_or_else(alone));
    };
    let rows = rows(newest, &asked);
    if arguments.json {
        output.json(&serde_json::json!({
            "version": newest.version,
            "moves": newest.moves,
            "digest": newest.digest,
            "nodes": serde_json::to_value(&rows).unwrap_or(Value::Null),
        }))?;
    } else {
        let version = version(newest.version, newest.moves);
        output.line(format!("layout {version}, digest {}, {} nodes", newest.digest, newest.nodes.len()))?;
        rows.iter().try_for_each(|row| output.line(line(row)))?;
    }
    if let Some(failure) = asked.iter().find_map(|asked| asked.answer.as_ref().err()) {
        return Err(Failure::new(failure.exit(), failure.message().unwrap_or_default()));
    }
    if layouts().any(|layout| layout.digest != newest.digest) {
        let message = "the nodes have different layouts; give all of them the same cluster.* settings and restart them";
        return Err(Failure::new(Exit::Failed, message));
    }
    if rows.iter().any(|row| row.admin.is_none()) {
        let message = "a node of the layout was not asked; name the admin ports of all nodes with --admin";
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(())
}

pub(super) fn ask(admin: &str) -> Asked {
    let wrong = |reason: serde_json::Error| {
        let message = format!("{admin} is not the admin port of a walcast broker: {reason}; give it with --admin");
        Failure::new(Exit::Failed, message)
    };
    let answer = status::get(admin).and_then(|body| serde_json::from_str(&body).map_err(wrong));
    Asked { admin: admin.to_owned(), answer }
}

/// As the broker writes it: of the settings, and how many times a slot has moved since.
fn version(configured: u64, moves: u64) -> LayoutVersion {
    LayoutVersion { configured, moves }
}

/// The nodes of the layout, then the admin ports that are none of them.
fn rows(layout: &Layout, asked: &[Asked]) -> Vec<Row> {
    let named = |asked: &Asked| Some(asked.answer.as_ref().ok()?.cluster.as_ref()?.node.clone());
    let mut rows: Vec<Row> = layout
        .nodes
        .iter()
        .map(|node| {
            let found = asked.iter().find(|asked| named(asked).as_ref() == Some(&node.name));
            let (name, slots, address) = (node.name.clone(), node.slots.clone(), node.address.clone());
            let unknown = || Row { state: "not asked".to_owned(), ..Row::default() };
            Row { name, slots, address, ..found.map_or_else(unknown, row) }
        })
        .collect();
    let in_layout = |name: &String| layout.nodes.iter().any(|node| node.name == *name);
    for asked in asked.iter().filter(|asked| !named(asked).as_ref().is_some_and(in_layout)) {
        rows.push(Row { name: named(asked).unwrap_or_else(|| "?".to_owned()), ..row(asked) });
    }
    rows
}

fn row(asked: &Asked) -> Row {
    let admin = Some(asked.admin.clone());
    let report = match &asked.answer {
        Ok(report) => report,
        Err(failure) => {
            let state = if failure.exit() == Exit::Unavailable { "does not answer" } else { "is no broker" };
            return Row { admin, state: state.to_owned(), ..Row::default() };
        }
    };
    let state = match (&report.phase, report.ready) {
        (_, true) => "ready",
        (Some(phase), false) => phase,
        (None, false) => "not ready",
    };
    let log = report.log.as_ref();
    Row {
        admin,
        state: state.to_owned(),
        layout_version: report.cluster.as_ref().map(|layout| layout.version),
        layout_moves: report.cluster.as_ref().map(|layout| layout.moves),
        moving: report.cluster.as_ref().and_then(|layout| layout.moving.clone()),
        durable: log.map(|log| log.durable),
        projected: log.map(|log| log.projected),
        trimmed: log.map(|log| log.trimmed),
        lag_records: report.projector.as_ref().map(|projector| projector.lag_records),
        ..Row::default()
    }
}

fn line(row: &Row) -> String {
    let slots = if row.slots.is_empty() { "none" } else { &row.slots };
    let mut line = format!("{:16}slots {slots}, {}", row.name, row.state);
    if !row.address.is_empty() {
        line.push_str(&format!(", at {}", row.address));
    }
    if let Some(layout) = row.layout_version {
        line.push_str(&format!(", layout {}", version(layout, row.layout_moves.unwrap_or_default())));
    }
    if let (Some(durable), Some(projected), Some(trimmed)) = (row.durable, row.projected, row.trimmed) {
        line.push_str(&format!(", durable {durable}, projected {projected}, trimmed {trimmed}"));
    }
    if let Some(lag) = row.lag_records {
        line.push_str(&format!(", store {lag} records behind"));
    }
    if let Some(moving) = &row.moving {
        let text = |key: &str| moving[key].as_str().unwrap_or_default().to_owned();
        let (slots, to, step) = (text("slots"), text("to"), text("step"));
        line.push_str(&format!(", gives slots {slots} to {to}: {step}, {} records", moving["records"]));
    }
    if let (true, Some(admin)) = (row.address.is_empty(), &row.admin) {
        line.push_str(&format!(", admin {admin}"));
    }
    line
}
