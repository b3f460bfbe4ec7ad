//! What the broker wrote to stderr, and which of it the test announced.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;

/// The lines of one broker process, complete once the process has ended.
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Logs {
    /// Collects `stderr` on a thread of its own until it ends.
    pub fn collect(stderr: impl Read + Send + 'static) -> Self {
        let logs = Self::default();
        let collector = logs.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                collector.change(|state| state.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            collector.change(|state| state.ended = true);
        });
        logs
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
    }

    /// The first line for which `pick` gives something; None when the process ended without one.
    ///
    /// # Panics
    /// When neither happens in time.
    pub fn wait_for<T>(&self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let give_up = Instant::now() + PATIENCE;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = state.lines.iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            if state.ended {
                return None;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the broker never logged {what}; it logged {:#?}", state.lines);
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The lines so far.
    #[allow(dead_code, reason = "the power-cut rig uses it")]
    pub fn so_far(&self) -> Vec<String> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// All lines, once the process has ended.
    pub fn to_the_end(&self) -> Vec<String> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.ended {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.lines.clone()
    }
}

/// The addresses of the line that says `listening`: gRPC, admin.
pub fn listening(line: &str) -> Option<(String, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")?.as_str()? != "listening" {
        return None;
    }
    Some((fields.get("grpc")?.as_str()?.to_owned(), fields.get("admin")?.as_str()?.to_owned()))
}

/// The lines that nobody announced: WARN, ERROR, and whatever is not a log line at all (a panic, a print).
pub fn unannounced(lines: &[String], announced: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .filter(|line| match serde_json::from_str::<Value>(line) {
            Ok(parsed) => matches!(parsed.get("level").and_then(Value::as_str), Some("WARN" | "ERROR") | None),
            Err(_) => true,
        })
        .filter(|line| !announced.iter().any(|text| line.contains(text)))
        .cloned()
        .collect()
}

#[test]
fn warnings_errors_and_panics_are_noticed_unless_announced() {
    let lines: Vec<String> = [
        r#"{"level":"INFO","fields":{"message":"listening"}}"#,
        r#"{"level":"WARN","fields":{"message":"disk is nearly full"}}"#,
        r#"{"level":"ERROR","fields":{"message":"the log failed"}}"#,
        "thread 'main' panicked at src/main.rs",
    ]
    .map(str::to_owned)
    .to_vec();
    assert_eq!(unannounced(&lines, &[]), lines[1..]);
    assert_eq!(unannounced(&lines, &["nearly full".to_owned(), "panicked".to_owned()]), lines[2..3]);
}
