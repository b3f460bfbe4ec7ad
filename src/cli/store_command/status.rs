//! `walcast store status`: how far the store is.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::super::message::rfc3339;
use super::super::output::Output;
use super::super::stopped::letters;
use super::super::{Exit, Failure, client, status};
use super::Stopped;
use crate::config::Settings;
use crate::projector::{DeadLetter, Opening};

/// Time between the two looks that rates are made of.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Dead letters that are listed on a screen.
const LISTED_MAX: usize = 20;

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown {
    store: String,
    /// Whether a broker was asked; otherwise the store itself.
    broker_is_running: bool,
    projected: u64,
    durable: u64,
    lag_records: u64,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    projected_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appended_per_second: Option<f64>,
    dead_letters: Vec<Letter>,
}

#[derive(Debug, Serialize)]
struct Letter {
    sequence: u64,
    subject: String,
    id: u32,
    body_bytes: usize,
    set_aside_at: Option<String>,
    reason: String,
}

/// Asks the broker, or the store if there is none.
pub(super) fn run(settings: &Settings, admin: Option<&str>, json: bool, output: &mut Output) -> Result<(), Failure> {
    let address = admin.map_or_else(|| format!("http://{}", settings.admin_listen), str::to_owned);
    let shown = match running(&address) {
        Ok(shown) => shown,
        Err(failure) if failure.exit() == Exit::Unavailable && admin.is_none() => {
            without_broker(settings).map_err(|failure| where_it_answers(failure, &address))?
        }
        Err(failure) => return Err(failure),
    };
    let dead_letters = letters(settings)?.all().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let shown = Shown { dead_letters: dead_letters.iter().map(Letter::of).collect(), ..shown };
    if json { output.json(&shown) } else { screen(&shown).iter().try_for_each(|line| output.line(line)) }
}

/// A broker that runs, and is not where it was asked.
fn where_it_answers(failure: Failure, asked: &str) -> Failure {
    if failure.exit() != Exit::InUse {
        return failure;
    }
    let message = format!(
        "a broker has the data directory, and none answers at {asked}: name its admin address with --admin or WALCAST_ADMIN"
    );
    Failure::new(Exit::InUse, message)
}

/// From two looks at a running broker.
fn running(admin: &str) -> Result<Shown, Failure> {
    let first = look(admin)?;
    let looked = Instant::now();
    thread::sleep(LOOK_AGAIN);
    let then = look(admin)?;
    let seconds = looked.elapsed().as_secs_f64();
    let number = |report: &Value, pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let rate = |pointer| Some(number(&then, pointer).saturating_sub(number(&first, pointer)) as f64 / seconds);
    let text = |pointer, otherwise: &str| then.pointer(pointer).and_then(Value::as_str).unwrap_or(otherwise).to_owned();
    Ok(Shown {
        store: text("/projector/store", "unknown"),
        broker_is_running: true,
        projected: number(&then, "/log/projected"),
        durable: number(&then, "/log/durable"),
        lag_records: number(&then, "/projector/lag_records"),
        state: text("/projector/state", "the broker is starting"),
        projected_per_second: rate("/log/projected"),
        appended_per_second: rate("/log/durable"),
        dead_letters: Vec::new(),
    })
}

fn look(admin: &str) -> Result<Value, Failure> {
    let body = status::get(admin)?;
    serde_json::from_str(&body).map_err(|error| {
        let message = format!("{admin} is not the admin port of a walcast broker: {error}; give it with --admin");
        Failure::new(Exit::Failed, message)
    })
}

/// From the store and the log.
fn without_broker(settings: &Settings) -> Result<Shown, Failure> {
    client::block_on(async {
        let stopped = Stopped::open(settings, Opening::Look).await?;
        let (projected, durable) = (stopped.projected.sequence().get(), stopped.inspection.last().get());
        Ok(Shown {
            store: stopped.store.kind().to_owned(),
            broker_is_running: false,
            projected,
            durable,
            lag_records: durable.saturating_sub(projected),
            state: "no broker is running".to_owned(),
            projected_per_second: None,
            appended_per_second: None,
            dead_letters: Vec::new(),
        })
    })
}

impl Letter {
    fn of(letter: &DeadLetter) -> Self {
        let row = &letter.row;
        Self {
            sequence: row.sequence.get(),
            subject: row.subject.as_str().to_owned(),
            id: row.id.get(),
            body_bytes: row.body.len(),
            set_aside_at: rfc3339(letter.set_aside_at),
            reason: letter.reason.clone(),
        }
    }
}

/// A name and its value a line.
fn screen(shown: &Shown) -> Vec<String> {
    let rate = |rate: Option<f64>| rate.map(|rate| format!(", {rate:.0}/s")).unwrap_or_default();
    let mut lines = vec![
        format!("{:14}{}, {}", "store", shown.store, shown.state),
        format!("{:14}sequence {}{}", "cursor", shown.projected, rate(shown.projected_per_second)),
        format!("{:14}sequence {}{}", "log", shown.durable, rate(shown.appended_per_second)),
        format!("{:14}{} records", "lag", shown.lag_records),
        format!("{:14}{}", "dead letters", shown.dead_letters.len()),
    ];
    for letter in shown.dead_letters.iter().take(LISTED_MAX) {
        let Letter { sequence, subject, id, body_bytes, reason, .. } = letter;
        lines.push(format!("  {sequence}  {subject} {id}, {body_bytes} bytes: {reason}"));
    }
    if shown.dead_letters.len() > LISTED_MAX {
        lines.push(format!("  and {} more (--json lists all)", shown.dead_letters.len() - LISTED_MAX));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_names_what_an_operator_asks_of_a_store() {
        let letter = |sequence| Letter {
            sequence,
            subject: "orders".to_owned(),
            id: 3,
            body_bytes: 12,
            set_aside_at: None,
            reason: "no".to_owned(),
        };
        let shown = Shown {
            store: "postgres".to_owned(),
            broker_is_running: true,
            projected: 90,
            durable: 100,
            lag_records: 10,
            state: "projecting".to_owned(),
            projected_per_second: Some(5.4),
            appended_per_second: None,
            dead_letters: (1..=22).map(letter).collect(),
        };
        let lines = screen(&shown);
        assert_eq!(
            lines[..4],
            [
                "store         postgres, projecting",
                "cursor        sequence 90, 5/s",
                "log           sequence 100",
                "lag           10 records",
            ]
        );
        assert_eq!(lines[5], "  1  orders 3, 12 bytes: no");
        assert_eq!(lines[25], "  and 2 more (--json lists all)");
        assert_eq!(lines.len(), 26);
    }
}
