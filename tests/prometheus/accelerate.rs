//! Rules that run faster: every duration in a file of rules divided by the same factor, and nothing else changed.
//!
//! A duration is what PromQL and the files write as one (`5m`, `1d`): ranges, offsets and `for`, outside of comments and of
//! texts in quotes. The last argument of `predict_linear` is one as well, and what an age (`time() - ...`) is compared with:
//! numbers of seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::Setup;

/// A piece of a file: what stays, and what is a duration.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Duration(Duration),
    /// A number of seconds, written without a unit.
    Seconds(u64),
}

const PREDICTION: &str = "predict_linear(";
const AGE: &str = "time() - (";

/// The path of a file of `deploy/prometheus`.
pub fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name)
}

/// Writes both files of rules, accelerated, into the folder of a setup; gives their paths.
pub fn rules(setup: &Setup, factor: u32) -> [PathBuf; 2] {
    ["walcast.recording.yml", "walcast.alerts.yml"].map(|name| {
        let text = fs::read_to_string(deployed(name)).expect("the rules are there");
        let path = setup.folder().join(name);
        fs::write(&path, accelerate(&text, factor)).expect("the folder is ours");
        path
    })
}

/// The same rules with every duration divided.
pub fn accelerate(text: &str, factor: u32) -> String {
    let faster = pieces(text).into_iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Duration(duration) => written(duration / factor),
        Piece::Seconds(seconds) => (seconds / u64::from(factor)).to_string(),
    });
    faster.collect()
}

fn written(duration: Duration) -> String {
    assert_eq!(duration.subsec_nanos() % 1_000_000, 0, "{duration:?} is no whole number of milliseconds");
    format!("{}ms", duration.as_millis())
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        // Comments and the texts for people stay as they are.
        let trimmed = line.trim_start();
        let prose = ["#", "summary:", "description:", "runbook_url:", "- alert:", "- record:", "- name:"];
        if prose.iter().any(|start| trimmed.starts_with(start)) {
            found.push(Piece::Text(line.to_owned()));
        } else {
            pieces_of_line(line, &mut found);
        }
    }
    found
}

fn pieces_of_line(line: &str, found: &mut Vec<Piece>) {
    let mut text = String::new();
    let mut rest = line;
    let mut quoted = false;
    let (mut predicting, mut aging) = (false, false);
    while let Some(next) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let word = &rest[..word.max(next.len_utf8())];
        let piece = match duration(word) {
            _ if quoted => None,
            Some(duration) => Some(Piece::Duration(duration)),
            None if (predicting && text.ends_with(", ")) || (aging && text.ends_with(") < ")) => {
                word.parse().ok().map(Piece::Seconds)
            }
            None => None,
        };
        predicting = (predicting || rest.starts_with(PREDICTION)) && next != ')';
        aging |= rest.starts_with(AGE);
        quoted ^= next == '"';
        rest = &rest[word.len()..];
        match piece {
            Some(piece) => found.extend([Piece::Text(std::mem::take(&mut text)), piece]),
            None => text.push_str(word),
        }
    }
    found.push(Piece::Text(text));
}

fn duration(word: &str) -> Option<Duration> {
    let digits = word.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = word[..digits].parse().ok()?;
    let milliseconds = match &word[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number * milliseconds))
}

#[test]
fn nothing_but_durations_is_changed_and_each_by_the_same_factor() {
    const FACTOR: u32 = 60;
    let mut durations = 0;
    for name in ["walcast.recording.yml", "walcast.alerts.yml"] {
        let original = fs::read_to_string(deployed(name)).expect("it is there");
        let accelerated = accelerate(&original, FACTOR);
        let slow_again = pieces(&accelerated).into_iter().map(|piece| match piece {
            Piece::Duration(duration) => Piece::Duration(duration * FACTOR),
            Piece::Seconds(seconds) => Piece::Seconds(seconds * u64::from(FACTOR)),
            text @ Piece::Text(_) => text,
        });
        assert_eq!(slow_again.collect::<Vec<_>>(), pieces(&original), "{name}");
        // Counted in another way: by what stands around them.
        let code = || original.lines().filter(|line| !line.trim_start().starts_with('#'));
        let ranges: usize = code().map(|line| line.matches('[').count()).sum();
        let others = |word: &str| code().map(|line| line.matches(word).count()).sum::<usize>();
        let expected = ranges + others(" offset ") + others(" for: ") + others(PREDICTION) + others(AGE);
        let found = pieces(&original).iter().filter(|piece| !matches!(piece, Piece::Text(_))).count();
        assert_eq!(found, expected, "{name}");
        durations += found;
    }
    assert!(durations > 50, "{durations}");
}

#[test]
fn what_is_no_duration_stays() {
    let rules = "# 5m\n- alert: A\n  for: 10m\n  expr: rate(walcast:x:rate5m{le=\"1h\"}[1d] offset 1h) > 0.5 and 14.4 * 60 > x2h\n\
                 \x20 expr: -predict_linear(f[1h], 14400) > 60\n  expr: time() - (f > 0) < 3600\n  summary: \"in 5m\"\n";
    let expected = "# 5m\n- alert: A\n  for: 10000ms\n  expr: rate(walcast:x:rate5m{le=\"1h\"}[1440000ms] offset 60000ms) > 0.5 \
                    and 14.4 * 60 > x2h\n\x20 expr: -predict_linear(f[60000ms], 240) > 60\n  expr: time() - (f > 0) < 60\n  summary: \"in 5m\"\n";
    assert_eq!(accelerate(rules, 60), expected);
}
