//! `walcast log replay` with the real binary: interrupted by `kill -9` and gone on with, nothing is missing at the other
//! broker and every subject keeps its order.
//!
//! `WALCAST_REPLAY_RECORDS` makes the log larger.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt as _};
use serde_json::Value;

use super::support::{Broker, PATIENCE, Setup, eventually, random_bytes, walcast};

const SUBJECTS: u64 = 1_000;
const BODY_BYTES: usize = 256;
const INTERRUPTED: i32 = 130;

fn records() -> u64 {
    std::env::var("WALCAST_REPLAY_RECORDS").map_or(20_000, |text| text.parse().expect("a number"))
}

/// A body that tells its number; the rest of it is noise.
fn body(number: u64) -> Vec<u8> {
    let mut body = random_bytes(number, BODY_BYTES).to_vec();
    body[..8].copy_from_slice(&number.to_le_bytes());
    body
}

fn subject(number: u64) -> String {
    // A few subjects have most of the records.
    let spread = if number.is_multiple_of(4) { number % 8 } else { number % SUBJECTS };
    format!("replay.{spread}")
}

/// Subject, id and body of every record of a log, in log order.
fn shown(data: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let output = walcast(&["log", "show", "--data-dir"]).arg(data).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse(&serde_json::from_slice(line).expect("JSON"))).collect()
}

fn parse(record: &Value) -> (String, u64, Vec<u8>) {
    let text = |name: &str| record[name].as_str().unwrap_or_else(|| panic!("no {name} in {record}")).to_owned();
    (text("subject"), record["id"].as_u64().expect("an id"), STANDARD.decode(text("body_base64")).expect("base64"))
}

fn replay(from: &Path, into: &str, more: &[&str]) -> Command {
    let mut command = walcast(&["log", "replay", "--into", into, "--data-dir"]);
    command.arg(from).args(more);
    command
}

/// Publishes the records from 1 on: each subject in order, subjects side by side.
async fn fill(broker: &Broker, count: u64) {
    let mut subjects: HashMap<String, Vec<u64>> = HashMap::new();
    for number in 1..=count {
        subjects.entry(subject(number)).or_default().push(number);
    }
    let client = broker.client().await;
    let publish = |(subject, numbers): (String, Vec<u64>)| {
        let client = client.clone();
        async move {
            for number in numbers {
                // One in seven is fire and forget.
                let seconds = if number.is_multiple_of(7) { 0 } else { 3_600 };
                client.publish(&subject, body(number), seconds).await.expect("accepted");
            }
        }
    };
    stream::iter(subjects).map(publish).buffer_unordered(256).collect::<Vec<()>>().await;
}

/// What is wrong at the target.
#[derive(Debug, Default)]
struct Compared {
    missing: usize,
    repeated: usize,
    out_of_order: usize,
    /// Records that the source never had.
    invented: usize,
}

/// Compares by subject and body: ids of repeats differ.
fn compare(source: &[(String, u64, Vec<u8>)], target: &[(String, u64, Vec<u8>)]) -> Compared {
    let mut expected: HashMap<&str, Vec<&[u8]>> = HashMap::new();
    for (subject, _, body) in source {
        expected.entry(subject).or_default().push(body);
    }
    let mut found: HashMap<&str, Vec<&[u8]>> = HashMap::new();
    let mut seen: HashSet<(&str, &[u8])> = HashSet::new();
    let mut compared = Compared::default();
    for (subject, _, body) in target {
        if seen.insert((subject, body)) {
            found.entry(subject).or_default().push(body);
        } else {
            compared.repeated += 1;
        }
    }
    for (subject, bodies) in &expected {
        let firsts = found.remove(subject).unwrap_or_default();
        let known: HashSet<&[u8]> = bodies.iter().copied().collect();
        let arrived: HashSet<&[u8]> = firsts.iter().copied().collect();
        compared.missing += bodies.iter().filter(|body| !arrived.contains(*body)).count();
        compared.invented += firsts.iter().filter(|body| !known.contains(*body)).count();
        let in_order = bodies.iter().filter(|body| arrived.contains(*body));
        let wanted = firsts.iter().filter(|body| known.contains(*body));
        compared.out_of_order += in_order.zip(wanted).filter(|(one, other)| one != other).count();
    }
    compared.invented += found.values().map(Vec::len).sum::<usize>();
    compared
}

fn wait(mut child: Child, what: &str) -> i32 {
    let give_up = Instant::now() + PATIENCE * 20;
    loop {
        if let Some(status) = child.try_wait().expect("it was started") {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < give_up, "{what} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn position(checkpoint: &Path) -> u64 {
    let text = std::fs::read(checkpoint).unwrap_or_default();
    let checkpoint: Option<Value> = serde_json::from_slice(&text).ok();
    checkpoint.and_then(|checkpoint| checkpoint["position"].as_u64()).unwrap_or(0)
}

/// Waits for a checkpoint; a large log takes its time.
async fn reaches(checkpoint: &Path, enough: u64) {
    let give_up = Instant::now() + PATIENCE * 20;
    while position(checkpoint) < enough {
        assert!(Instant::now() < give_up, "the replay never came to {enough}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two brokers, the first one with records.
async fn pair(count: u64) -> (Broker, Broker) {
    let large = |setup: Setup| setup.set("log.segment_bytes", "16MiB").set("log.keep_bytes", "8GiB");
    let source = large(Setup::new()).start().await;
    fill(&source, count).await;
    (source, large(Setup::new()).start().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_three_times_loses_nothing_and_keeps_each_subject_s_order() {
    let count = records();
    let (source, target) = pair(count).await;
    let checkpoint = source.data().join("replay.json");
    let into = format!("http://{}", target.grpc());
    let flags = ["--checkpoint", checkpoint.to_str().expect("UTF-8")];
    let started = Instant::now();
    for kill in 1..=3 {
        let mut child = replay(source.data(), &into, &flags).stderr(Stdio::null()).spawn().expect("it runs");
        let enough = count * kill / 4;
        reaches(&checkpoint, enough).await;
        child.kill().expect("it runs");
        child.wait().expect("it was started");
    }
    let child = replay(source.data(), &into, &flags).stderr(Stdio::null()).spawn().expect("it runs");
    assert_eq!(wait(child, "the last replay"), 0);
    let elapsed = started.elapsed();
    assert_eq!(position(&checkpoint), count);
    let again = target.metric("walcast_idempotency_duplicates_total").await;
    let (source, target) = (source.stop().await, target.stop().await);
    let compared = compare(&shown(source.data()), &shown(target.data()));
    println!(
        "{count} records in {:.1} s with three kills: {} repeated, {} missing, {} out of order",
        elapsed.as_secs_f64(),
        compared.repeated,
        compared.missing,
        compared.out_of_order
    );
    assert_eq!((compared.missing, compared.out_of_order, compared.invented), (0, 0, 0), "{compared:?}");
    // A kill costs the calls under way and what was acknowledged in the last tenth of a second: they are made again, with
    // the same keys.
    assert_eq!(compared.repeated, 0, "{compared:?}");
    assert!(again > 0.0, "nothing was sent twice, so nothing was shown");
}

/// The control: a checkpoint that runs ahead of what has arrived is a loss, and must be seen as one.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_runs_ahead_is_found_out_as_a_loss() {
    let (source, target) = pair(1_000).await;
    let checkpoint = source.data().join("replay.json");
    let into = format!("http://{}", target.grpc());
    let flags = ["--checkpoint", checkpoint.to_str().expect("UTF-8")];
    let mut first = replay(source.data(), &into, &[&flags[..], &["--rate", "100"]].concat());
    let child = first.stderr(Stdio::null()).spawn().expect("it runs");
    eventually("some records", || async { (position(&checkpoint) >= 20).then_some(()) }).await;
    terminate(&child);
    assert_eq!(wait(child, "the interrupted replay"), INTERRUPTED);
    let mut ahead: Value = serde_json::from_slice(&std::fs::read(&checkpoint).expect("kept")).expect("JSON");
    let arrived = ahead["position"].as_u64().expect("a position");
    assert!(arrived < 1_000, "it was interrupted");
    ahead["position"] = (arrived + 10).into();
    ahead["arrived"] = serde_json::json!([]);
    std::fs::write(&checkpoint, ahead.to_string()).expect("written");
    let child = replay(source.data(), &into, &flags).stderr(Stdio::null()).spawn().expect("it runs");
    assert_eq!(wait(child, "the second replay"), 0);
    let (source, target) = (source.stop().await, target.stop().await);
    let compared = compare(&shown(source.data()), &shown(target.data()));
    assert!(compared.missing > 0 && compared.missing <= 10, "the loss goes unnoticed: {compared:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_to_standard_output_is_what_show_prints() {
    let source = Broker::start().await;
    fill(&source, 500).await;
    let lines = |command: &mut Command| String::from_utf8(command.output().expect("it runs").stdout).expect("text");
    let all = lines(&mut replay(source.data(), "stdout", &[]));
    assert_eq!(all, lines(walcast(&["log", "show", "--data-dir"]).arg(source.data())));
    assert_eq!(all.lines().count(), 500);
    let some = lines(&mut replay(source.data(), "stdout", &["--subject", "replay.5*", "--from", "10", "--to", "400"]));
    let wanted = all.lines().filter(|line| {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let sequence = record["sequence"].as_u64().expect("a sequence");
        (10..=400).contains(&sequence) && record["subject"].as_str().is_some_and(|name| name.starts_with("replay.5"))
    });
    assert_eq!(some.lines().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    let none = lines(&mut replay(source.data(), "stdout", &["--until", "2020-01-01T00:00:00Z"]));
    assert_eq!(none, "");
}

/// With its records in the log, a store that was removed is filled again, as often as one likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_into_the_store_fills_it_and_leaves_its_position_right() {
    let source = Broker::start().await;
    fill(&source, 300).await;
    let into_store = |data: &Path| {
        let output = replay(data, "store", &[]).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = into_store(source.data());
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("in use by process"), "{text}");
    let stopped = source.stop().await;
    std::fs::remove_dir_all(stopped.data().join("store")).expect("removed");
    for _ in 0..2 {
        let (code, text) = into_store(stopped.data());
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("300 records replayed"), "{text}");
    }
    let all = shown(stopped.data());
    let broker = stopped.start().await;
    assert_eq!(broker.position("projected").await, 300.0);
    let client = broker.client().await;
    for (subject, id, body) in all {
        let number = u64::from_le_bytes(body[..8].try_into().expect("eight bytes"));
        if !number.is_multiple_of(7) {
            assert!(client.fetch_body(&subject, i32::try_from(id).expect("small")).await == body, "{subject} {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_a_broker_that_restarts_and_names_one_that_is_not_there() {
    let (source, target) = pair(3_000).await;
    let into = format!("http://{}", target.grpc());
    let address = target.grpc().to_owned();
    let checkpoint: PathBuf = source.data().join("replay.json");
    let flags = ["--checkpoint", checkpoint.to_str().expect("UTF-8"), "--rate", "1000"];
    let child = replay(source.data(), &into, &flags).stderr(Stdio::null()).spawn().expect("it runs");
    eventually("some records", || async { (position(&checkpoint) >= 500).then_some(()) }).await;
    let stopped = target.kill_nine().await;
    let target = stopped.setup().arg("--listen").arg(&address).start().await;
    assert_eq!(wait(child, "the replay"), 0);
    let target = target.stop().await;
    let source = source.stop().await;
    let compared = compare(&shown(source.data()), &shown(target.data()));
    assert_eq!((compared.missing, compared.out_of_order, compared.invented), (0, 0, 0), "{compared:?}");
    assert_eq!(compared.repeated, 0, "keys outlive the broker: {compared:?}");
    let output = replay(source.data(), &into, &[]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let other = replay(source.data(), "http://127.0.0.1:1", &flags[..2]).output().expect("it runs");
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(2), "{text}");
    assert!(text.contains("is of a replay into"), "{text}");
}

/// Nobody reads the pipe: the first signal waits for the write, the second does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_replay_at_once() {
    let source = Broker::start().await;
    fill(&source, 1_000).await;
    let mut command = replay(source.data(), "stdout", &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let unread = child.stdout.take();
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    // It has begun, and so it watches for signals.
    eventually("a full pipe", || async { waits_for_a_pipe(child.id()).then_some(()) }).await;
    terminate(&child);
    let mut line = String::new();
    said.read_line(&mut line).expect("text");
    assert!(line.contains("a second signal ends at once"), "{line}");
    assert_eq!(child.try_wait().expect("it was started"), None);
    terminate(&child);
    assert_eq!(wait(child, "the replay"), INTERRUPTED);
    drop(unread);
}

/// At one record a second the frame that a signal finds would take minutes. What was written before it counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replay_to_standard_output_ends_inside_a_frame_and_goes_on_there() {
    let source = Broker::start().await;
    fill(&source, 1_000).await;
    let checkpoint = source.data().join("replay.json");
    let flags = ["--checkpoint", checkpoint.to_str().expect("UTF-8")];
    let mut slow = replay(source.data(), "stdout", &[&flags[..], &["--rate", "1"]].concat());
    let mut child = slow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut text =
        |count: usize| -> Vec<String> { lines.by_ref().take(count).map(|line| line.expect("text")).collect() };
    let mut taken = text(2);
    terminate(&child);
    taken.extend(text(usize::MAX));
    assert_eq!(wait(child, "the slow replay"), INTERRUPTED);
    assert_eq!(position(&checkpoint), taken.len() as u64);
    assert!(taken.len() < 100, "{} records came in the end", taken.len());
    let rest = replay(source.data(), "stdout", &flags).output().expect("it runs").stdout;
    taken.extend(String::from_utf8(rest).expect("text").lines().map(str::to_owned));
    let all = walcast(&["log", "show", "--data-dir"]).arg(source.data()).output().expect("it runs").stdout;
    assert_eq!(taken, String::from_utf8(all).expect("text").lines().collect::<Vec<_>>());
}

/// The same into the store: what was gathered is committed, and the next replay has the rest to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replay_into_the_store_ends_inside_a_frame_and_goes_on_there() {
    let source = Broker::start().await;
    fill(&source, 300).await;
    let stopped = source.stop().await;
    let store = stopped.data().join("store");
    std::fs::remove_dir_all(&store).expect("removed");
    let checkpoint = stopped.data().join("replay.json");
    let flags = ["--checkpoint", checkpoint.to_str().expect("UTF-8")];
    let mut slow = replay(stopped.data(), "store", &[&flags[..], &["--rate", "1"]].concat());
    let child = slow.stderr(Stdio::null()).spawn().expect("it runs");
    eventually("an open store", || async { store.is_dir().then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    terminate(&child);
    assert_eq!(wait(child, "the slow replay"), INTERRUPTED);
    let reached = position(&checkpoint);
    assert!(reached < 100, "it came to {reached}");
    let output = replay(stopped.data(), "store", &flags).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(&format!("{} records replayed", 300 - reached)), "{reached}: {text}");
    let broker = stopped.start().await;
    assert_eq!(broker.position("projected").await, 300.0);
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
}

/// Whether the main thread of a process is stuck in a write to a pipe.
fn waits_for_a_pipe(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/syscall")).unwrap_or_default();
    // The first argument of the call, whatever its number is here: standard output.
    state.split(' ').nth(1) == Some("0x1")
}
