//! The alerts of `deploy/prometheus/`: each has its page, its cases and its row; what they ask for exists.
//!
//! What they say of a series is checked by promtool (`tests/services/run rules`), whether a fault fires them by the test
//! `prometheus`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::walcast;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("it is there");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a text"));
    names.filter_map(|name| name.strip_suffix(extension).map(str::to_owned)).collect()
}

/// The rules of a file, each with its lines: those that begin with `- alert: ` or `- record: `.
fn rules(text: &str, kind: &str) -> BTreeMap<String, String> {
    let start = format!("- {kind}: ");
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("- ") {
            current = trimmed.strip_prefix(&start).map(str::to_owned);
        }
        let code = !trimmed.starts_with('#');
        if let (Some(name), true) = (&current, code) {
            *found.entry(name.clone()).or_default() += &format!("{line}\n");
        }
    }
    found
}

fn alerts() -> BTreeMap<String, String> {
    rules(&read("deploy/prometheus/walcast.alerts.yml"), "alert")
}

fn records() -> BTreeMap<String, String> {
    rules(&read("deploy/prometheus/walcast.recording.yml"), "record")
}

/// The names of series in a rule's expression.
fn series(rule: &str) -> BTreeSet<String> {
    let expression = rule.split("annotations:").next().unwrap_or_default();
    let expression = expression.split_once("expr:").expect("a rule has an expression").1;
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let starts = ["walcast_", "walcast:", "process_", "method_", "active_"];
    let named = words.filter(|word| starts.iter().any(|start| word.starts_with(start)));
    named.map(|word| word.trim_end_matches(':').to_owned()).collect()
}

fn base(name: &str) -> &str {
    let suffixes = ["_bucket", "_sum", "_count"];
    // `method_count` is a counter of that name.
    let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    base.filter(|base| *base != "method").unwrap_or(name)
}

/// The rows of docs/metrics.md: the series, and what stands in the column "alert".
fn documented() -> BTreeMap<String, String> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let name = line.strip_prefix("| `")?.split(['`', '{']).next()?;
        Some((name.to_owned(), line.trim_end_matches(" |").rsplit(" | ").next()?.to_owned()))
    });
    rows.collect()
}

/// The metrics behind an expression, those of the recorded series in it included.
fn metrics(rule: &str, records: &BTreeMap<String, String>) -> BTreeSet<String> {
    let all = series(rule).into_iter().flat_map(|name| match records.get(&name) {
        Some(recorded) => metrics(recorded, records),
        None => BTreeSet::from([base(&name).to_owned()]),
    });
    all.collect()
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() {
    let pages: BTreeSet<String> = files("docs/runbooks", ".md").into_iter().collect();
    let alerts = alerts();
    assert_eq!(pages, alerts.keys().cloned().collect(), "docs/runbooks and walcast.alerts.yml");
    let overview = read("docs/alerts.md");
    for (name, rule) in &alerts {
        assert!(rule.contains(&format!("runbook_url: docs/runbooks/{name}.md")), "{name}: runbook_url");
        let severity = ["critical", "warning"].into_iter().find(|word| rule.contains(&format!("severity: {word}")));
        let severity = severity.unwrap_or_else(|| panic!("{name} has no severity"));
        for part in ["expr:", "summary: ", "description: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        assert!(overview.contains(&format!("| [{name}](runbooks/{name}.md) | {severity} |")), "docs/alerts.md: {name}");
        let page = read(&format!("docs/runbooks/{name}.md"));
        for part in [&*format!("# {name}\n"), "## How to look\n", "## What to do\n", "## What it is not\n"] {
            assert!(page.contains(part), "docs/runbooks/{name}.md has no {part}");
        }
    }
}

#[test]
fn the_command_of_the_docs_makes_urls_of_all_paths_of_pages() {
    let overview = read("docs/alerts.md");
    let line = overview.lines().find(|line| line.contains("sed -i 's|runbook_url: ")).expect("the command is there");
    let expression = line.split('\'').nth(1).expect("its expression is quoted");
    let rules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/walcast.alerts.yml");
    let output = Command::new("sed").arg(expression).arg(rules).output().expect("sed runs");
    let text = String::from_utf8(output.stdout).expect("a text");
    for name in alerts().keys() {
        let page = text.lines().find(|line| line.ends_with(&format!("/runbooks/{name}.md"))).expect("its page");
        assert!(page.contains("runbook_url: https://"), "{page}");
    }
}

#[test]
fn every_recorded_series_is_asked_for() {
    let mut asking: String = alerts().into_values().collect();
    for page in files("docs/runbooks", ".md") {
        asking += &read(&format!("docs/runbooks/{page}.md"));
    }
    for name in records().keys() {
        assert!(asking.contains(name.as_str()), "no alert and no runbook asks for {name}");
    }
}

#[test]
fn the_pages_name_what_exists() {
    let (documented, records) = (documented(), records());
    let exists = |name: &str| documented.contains_key(base(name)) || records.contains_key(name);
    for page in files("docs/runbooks", ".md") {
        let text = read(&format!("docs/runbooks/{page}.md"));
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("walcast_") || word.starts_with("walcast:")) {
            assert!(exists(word), "docs/runbooks/{page}.md names {word}, which is no series");
        }
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            assert!(alerts().contains_key(target.trim_end_matches(".md")), "{page}: {target} is no page");
        }
    }
}

#[test]
fn what_rules_ask_for_exists_and_the_table_of_metrics_names_the_alerts() {
    let (documented, records, alerts) = (documented(), records(), alerts());
    for (name, rule) in records.iter().chain(&alerts) {
        let asked = metrics(rule, &records);
        assert!(name == "WalcastBrokerDown" || !asked.is_empty(), "{name} asks for no series that is ours");
        for metric in asked {
            assert!(documented.contains_key(&metric), "{name} asks for {metric}, which docs/metrics.md does not have");
        }
    }
    for (metric, column) in &documented {
        let asking = alerts.iter().filter(|(_, rule)| metrics(rule, &records).contains(metric));
        let asking: BTreeSet<&str> = asking.map(|(name, _)| name.as_str()).collect();
        let named: BTreeSet<&str> = column.split(", ").filter(|word| word.starts_with("Walcast")).collect();
        assert_eq!(named, asking, "the column \"alert\" of {metric} in docs/metrics.md");
        assert!(!named.is_empty() || column == "none, for reading", "{metric}: {column}");
    }
}

/// The texts between backticks on a page.
fn quoted(page: &str) -> Vec<String> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn the_commands_on_the_pages_are_commands() {
    let mut checked = 0;
    for page in files("docs/runbooks", ".md") {
        let text = read(&format!("docs/runbooks/{page}.md"));
        for command in quoted(&text).iter().filter_map(|text| text.strip_prefix("walcast ")) {
            let lower =
                |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
            let mut words: Vec<&str> = command.split(' ').take_while(lower).collect();
            words.push("--help");
            let output = walcast(&words).output().expect("it runs");
            assert!(output.status.success(), "{page}: walcast {command}");
            let help = String::from_utf8_lossy(&output.stdout);
            for flag in command.split(' ').filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag), "{page}: walcast {command} has no {flag}");
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn the_log_lines_on_the_pages_are_in_the_code() {
    let (mut code, mut checked) = (String::new(), 0);
    for file in sources(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")) {
        code += &fs::read_to_string(file).expect("readable");
    }
    for page in files("docs/runbooks", ".md") {
        let text = read(&format!("docs/runbooks/{page}.md"));
        // A line of the log has words; a query, a setting or a command has none without other signs between them.
        let sentence = |text: &&String| {
            let plain = |c: char| c.is_ascii_alphabetic() || " ,;'".contains(c);
            text.split(' ').count() > 3 && text.chars().all(plain)
        };
        for line in quoted(&text).iter().filter(sentence).filter(|line| !line.starts_with("canceling")) {
            let there = line.starts_with("walcast ") || code.contains(line.as_str());
            assert!(there, "{page}: no code says {line:?}");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    let found = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The alert cases of promtool's tests: (alert, whether it fires).
fn cases() -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for file in files("deploy/prometheus/tests", ".yml") {
        let text = read(&format!("deploy/prometheus/tests/{file}.yml"));
        for case in text.split("alertname: ").skip(1) {
            let name = case.lines().next().expect("a line").to_owned();
            let (silent, fires) = (case.find("exp_alerts: []"), case.find("exp_labels:"));
            found.push((name, silent.is_none_or(|silent| fires.is_some_and(|fires| fires < silent))));
        }
    }
    found
}

#[test]
fn every_alert_has_a_firing_and_a_silent_case_and_every_recording_rule_a_value() {
    let cases = cases();
    for name in alerts().keys() {
        for fires in [true, false] {
            let count = cases.iter().filter(|case| **case == (name.clone(), fires)).count();
            assert!(
                count > 0,
                "deploy/prometheus/tests has no case in which {name} {}",
                if fires { "fires" } else { "is silent" }
            );
        }
    }
    let tests: Vec<String> = files("deploy/prometheus/tests", ".yml");
    let tests: String = tests.iter().map(|file| read(&format!("deploy/prometheus/tests/{file}.yml"))).collect();
    for name in records().keys() {
        let asked = tests.lines().any(|line| line.contains("expr: ") && line.contains(name.as_str()));
        assert!(asked, "deploy/prometheus/tests has no value of {name}");
    }
}

#[test]
fn a_rule_without_a_page_or_with_an_unknown_series_is_found() {
    let text = "rules:\n  - alert: A\n    # walcast_comment\n    expr: rate(walcast_x_bucket{le=\"1\"}[5m]) > walcast:y:ratio\n\
                \x20   annotations: { summary: walcast_text }\n  - record: walcast:y:ratio\n    expr: method_count\n";
    let (alerts, records) = (rules(text, "alert"), rules(text, "record"));
    assert_eq!((alerts.len(), records.len()), (1, 1));
    assert_eq!(series(&alerts["A"]), ["walcast:y:ratio", "walcast_x_bucket"].map(str::to_owned).into());
    assert_eq!(metrics(&alerts["A"], &records), ["method_count", "walcast_x"].map(str::to_owned).into());
}
