//! What the log lines hold and what they never hold, and that docs/logs.md has every line of level WARN and ERROR.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::support::{Setup, eventually};

/// Rigs only: no release has these lines.
const RIGS: [&str; 2] = ["wal/fault_controls.rs", "wal/crash_points.rs"];

/// The lines of level WARN and ERROR in this source: (level, message).
fn lines_in(source: &str) -> Vec<(&'static str, String)> {
    let source = &source[..source.find("\n#[cfg(test)]\nmod tests {").unwrap_or(source.len())];
    let mut found = Vec::new();
    for (level, call) in [("WARN", "warn!("), ("ERROR", "error!(")] {
        for (at, _) in source.match_indices(call) {
            let before = source[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && before != '_' {
                found.push((level, last_literal(&source[at + call.len()..])));
            }
        }
    }
    found
}

/// The last string of a call's arguments, as it is printed.
fn last_literal(arguments: &str) -> String {
    let (mut depth, mut literal, mut last) = (1, None::<String>, String::new());
    let mut letters = arguments.chars().peekable();
    while let Some(letter) = letters.next() {
        match (&mut literal, letter) {
            (Some(text), '\\') => match letters.next() {
                Some('\n') => while letters.next_if(|letter| letter.is_whitespace()).is_some() {},
                Some(escaped) => text.push(escaped),
                None => break,
            },
            (Some(_), '"') => last = literal.take().expect("it is there"),
            (Some(text), other) => text.push(other),
            (None, '"') => literal = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true if path.file_name().is_some_and(|name| name != "tests" && name != "cli") => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            _ => {}
        }
    }
}

/// Rows of the form "| LEVEL | `message` | what it means | what to do |".
fn documented() -> BTreeSet<(String, String)> {
    let text = include_str!("../../docs/logs.md");
    let mut rows = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| WARN |") || line.starts_with("| ERROR |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(
            cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()),
            "level, message, meaning, action: {row}"
        );
        let message = cells[1].trim_start_matches('`').trim_end_matches('`').trim();
        assert!(rows.insert((cells[0].to_owned(), message.to_owned())), "documented twice: {row}");
    }
    rows
}

#[test]
fn every_warning_and_error_is_documented_with_what_to_do_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut lines = BTreeSet::new();
    for file in files.iter().filter(|file| !RIGS.iter().any(|rig| file.ends_with(rig))) {
        let source = fs::read_to_string(file).expect("UTF-8");
        lines.extend(lines_in(&source).into_iter().map(|(level, message)| (level.to_owned(), message)));
    }
    assert!(lines.len() > 15, "the sources are there: {lines:?}");
    let documented = documented();
    assert_eq!(lines.difference(&documented).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "not documented");
    assert_eq!(documented.difference(&lines).collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "no such line");
}

#[test]
fn lines_are_found_in_every_form_that_they_have() {
    let source = r#"
        tracing::warn!(%error, file = name("x"), "one");
        match found { _ => warn!(
            late_seconds,
            "two, over \
             lines with `code`"
        ) }
        thiserror::error!(target: T, "three {count}");
        my_warn!("not a line");
"#;
    let found = lines_in(source);
    let expected = [("WARN", "one"), ("WARN", "two, over lines with `code`"), ("ERROR", "three {count}")]
        .map(|(level, text)| (level, text.to_owned()));
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_body_key_or_subject_is_in_a_line_whatever_the_level() {
    const SECRETS: [&str; 5] =
        ["pa55word", "BODY-OF-A-MESSAGE", "key-of-a-publish", "a-subject-of-mine", "00f067aa0ba902b7"];
    let url = "postgres://somebody:pa55word@127.0.0.1:1/walcast";
    let setup = Setup::new().store("postgres").arg("--postgres-url").arg(url).set("telemetry.log_filter", "debug");
    let setup =
        setup.expect_log("projection waits for the store").expect_log("stopped before everything was projected");
    let broker = setup.start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("a-subject-of-mine").await;
    let mut request = Request::new(PublishRequest {
        subject: "a-subject-of-mine".to_owned(),
        body: "BODY-OF-A-MESSAGE".into(),
        expiration_seconds: 60,
        idempotency_key: "key-of-a-publish".to_owned(),
    });
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("a header");
    request.metadata_mut().insert("traceparent", traceparent);
    client.publish_request(request).await.expect("accepted");
    subscription.next().await;
    client.fetch_body("a-subject-of-mine", 1).await;
    client.fetch("a-subject-of-mine", 2).await.expect_err("never published");
    client.publish("a-subject-of-mine\u{7}", "BODY-OF-A-MESSAGE", 60).await.expect_err("not a subject");
    eventually("a stalled store", || async { (broker.metric("walcast_store_up").await == 0.0).then_some(()) }).await;
    let stopped = broker.stop().await;
    for secret in SECRETS {
        assert_eq!(stopped.logged(secret), 0, "{secret} is in a log line");
    }
    // The lines are there: the address of the store is in them, its password redacted.
    assert!(stopped.logged("127.0.0.1:1") > 0 && stopped.logged("somebody:[redacted]@") > 0);
    assert!(stopped.logged("\"level\":\"DEBUG\"") > 0, "the filter reached the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_what_it_serves() {
    let broker = Setup::new().set("limits.connections", "77").start().await;
    let (grpc, data) = (broker.grpc().to_owned(), broker.data().display().to_string());
    let stopped = broker.stop().await;
    assert_eq!(stopped.logged("what this broker serves"), 1);
    for part in [
        "\"connections_max\":77",
        "\"store\":\"embedded\"",
        "\"log_bytes_max\":",
        "\"disk_free_bytes\":",
        data.as_str(),
    ] {
        assert!(stopped.logged(part) > 0, "{part}");
    }
    assert!(stopped.logged(&grpc) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_a_node_says_which_it_is() {
    let nodes =
        Setup::new().set("cluster.nodes", "a=127.0.0.1:1,b=127.0.0.1:2").set("cluster.slots", "a=0-9,b=10-1023");
    let broker = nodes.set("cluster.node", "b").start().await;
    let digest = broker.get("/status").await.expect("it answers").body;
    let digest =
        digest.split("\"digest\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a digest").to_owned();
    let stopped = broker.stop().await;
    let fields =
        format!("\"cluster_node\":\"b\",\"layout_version\":\"1\",\"layout_digest\":\"{digest}\",\"slots\":\"10-1023\"");
    assert_eq!(stopped.logged(&fields), 1, "{fields}");
    let alone = Setup::new().start().await.stop().await;
    assert_eq!(alone.logged("layout_version"), 0, "a broker that is alone has none");
}

#[test]
fn for_people_the_start_is_a_block() {
    let (code, said) = {
        // Taken by the broker that starts: the second one says everything and then finds it taken.
        let setup = Setup::new().set("telemetry.log_format", "text");
        let mut child = setup.command().spawn().expect("it runs");
        let logs = crate::support::logs::Logs::collect(child.stderr.take().expect("piped"));
        logs.wait_for("that it listens", |line| line.contains("listening").then_some(())).expect("it does");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .expect("it runs");
        (child.wait().expect("it ends").code(), logs.to_the_end())
    };
    assert_eq!(code, Some(0), "{said:#?}");
    let rows: Vec<&str> = said.iter().skip_while(|line| !line.starts_with("walcast ")).map(String::as_str).collect();
    for (row, name) in rows[1..].iter().zip(["gRPC", "admin", "data", "log", "records", "store", "limits", "telemetry"])
    {
        assert!(row.starts_with(&format!("  {name} ")), "{name}: {rows:#?}");
    }
    assert!(rows[3].contains(" free of "), "{rows:#?}");
}
