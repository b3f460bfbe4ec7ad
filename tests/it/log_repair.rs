//! `walcast log repair` with the real binary: from a broker that refuses to start to one that serves again.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tonic::Request;
use walcast::proto::client::PublishRequest;

use super::support::{Broker, Setup, Stopped, eventually, random_bytes};

const USAGE: i32 = 2;
const DAMAGED: i32 = 3;
const IN_USE: i32 = 4;

fn repair(data: &Path, flags: &[&str]) -> (i32, String, String) {
    log("repair", data, flags)
}

/// Exit code, standard output, standard error.
fn log(command: &str, data: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut walcast = Command::new(env!("CARGO_BIN_EXE_walcast"));
    let output = walcast.args(["log", command, "--data-dir"]).arg(data).args(flags).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log")).expect("the log's folder");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    found.sort();
    found
}

/// Twenty messages of 10,000 bytes on `s`, in the log and in the store.
async fn stopped() -> Stopped {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for number in 0..20 {
        client.publish_kept("s", random_bytes(number, 10_000)).await;
    }
    eventually("all in the store", || async { (broker.position("projected").await == 20.0).then_some(()) }).await;
    drop(client);
    broker.kill_nine().await
}

fn flip(path: &Path, offset: usize) {
    let byte = fs::read(path).expect("readable")[offset];
    let file = fs::OpenOptions::new().write(true).open(path).expect("a segment");
    file.write_all_at(&[byte ^ 1], offset as u64).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_needs_a_decision_and_a_stopped_broker() {
    let broker = Broker::start().await;
    let (code, _, text) = repair(broker.data(), &[]);
    assert_eq!(code, USAGE, "{text}");
    assert!(text.contains("--dry-run") && text.contains("--yes"), "{text}");
    for flag in ["--dry-run", "--yes"] {
        let (code, _, text) = repair(broker.data(), &[flag]);
        assert_eq!(code, IN_USE, "{text}");
        assert!(text.contains(&format!("process {}", broker.pid())), "{text}");
    }
    let stopped = broker.stop().await;
    let (code, text, _) = repair(stopped.data(), &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nothing is damaged"), "{text}");
    // A look makes no store where there is none.
    let store = stopped.data().join("store");
    fs::remove_dir_all(&store).and_then(|()| fs::create_dir(&store)).expect("emptied");
    let (code, text, _) = repair(stopped.data(), &["--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read_dir(&store).expect("listed").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_listed_and_given_up_and_the_broker_serves_again() {
    let stopped = stopped().await;
    let segment = segments(stopped.data()).remove(0);
    // In the body of the fifth message: each frame has 10,000 bytes and a little.
    flip(&segment, 50_000);
    let before = fs::read(&segment).expect("readable");
    let setup = stopped.setup();
    let (code, refusal) = setup.refuse();
    assert_eq!(code, DAMAGED);
    assert!(refusal.contains("`walcast log repair --dry-run`"), "{refusal}");

    let (code, text, _) = repair(setup.data(), &["--dry-run", "--json"]);
    assert_eq!(code, 0, "{text}");
    let shown = json(&text);
    let damaged = &shown["damaged"][0];
    assert_eq!((&damaged["lost_first"], &damaged["lost_last"]), (&5.into(), &5.into()), "{text}");
    let readable = &damaged["readable"][0];
    assert_eq!((&readable["sequence"], &readable["subject"], &readable["id"]), (&5.into(), &"s".into(), &5.into()));
    assert_eq!((&shown["lost_records"], &shown["lost_records_in_store"]), (&1.into(), &1.into()));
    assert!(fs::read(&segment).expect("readable") == before, "a dry run changes nothing");

    let (code, text, _) = repair(setup.data(), &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("record 5 is lost") && text.contains("the log is repaired"), "{text}");
    let aside = fs::read_dir(setup.data().join("log")).expect("listed").map(|entry| entry.expect("readable").path());
    let aside = aside.filter(|path| path.is_dir()).collect::<Vec<_>>();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    assert!(fs::read(aside.join(segment.file_name().expect("named"))).expect("kept") == before);

    // Without its store the broker has to read all of the log.
    fs::remove_dir_all(setup.data().join("store")).expect("removed");
    let broker = setup.start().await;
    eventually("all in the store", || async { (broker.position("projected").await == 20.0).then_some(()) }).await;
    let client = broker.client().await;
    for number in (0..20).filter(|number| *number != 4) {
        assert!(client.fetch_body("s", number as i32 + 1).await == random_bytes(number, 10_000), "{number}");
    }
    assert!(client.fetch("s", 5).await.is_err());
    assert_eq!(client.publish_kept("s", "x").await, 21, "an id is given once");
}

/// A retry of what was lost brings it back; one of what was kept, or is in the store, gets its id.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_lost_message_is_forgotten_unless_the_store_has_it() {
    for (store, in_checkpoint) in [("none", true), ("none", false), ("embedded", true)] {
        let broker = Setup::new().store(store).start().await;
        let client = broker.client().await;
        let request = |number: u64| PublishRequest {
            subject: "s".to_owned(),
            body: random_bytes(number, 10_000),
            expiration_seconds: 3_600,
            idempotency_key: format!("key {number}"),
        };
        for number in 1..=20 {
            client.publish_request(Request::new(request(number))).await.expect("accepted");
        }
        broker.all_projected().await;
        let stopped = if in_checkpoint { broker.stop().await } else { broker.kill_nine().await };
        // In the body of the fifth message.
        flip(&segments(stopped.data())[0], 50_000);
        let setup = stopped.setup();
        let (code, text, said) = repair(setup.data(), &["--yes"]);
        assert_eq!(code, 0, "{text} {said}");
        assert!(text.contains("record 5 is lost"), "{text}");
        let forgotten = text.contains("1 idempotency keys of lost records are forgotten");
        assert_eq!(forgotten, in_checkpoint && store == "none", "{text}");
        let broker = setup.start().await;
        let client = broker.client().await;
        let mut retried = Vec::new();
        for number in [4, 5, 6] {
            retried.push(client.publish_request(Request::new(request(number))).await.expect("accepted"));
        }
        // Behind the checkpoint the lost one may have had any subject's next id; "s" has later records, which say so.
        let again = if store == "none" { 21 } else { 5 };
        assert_eq!(retried, [4, again, 6], "{store}, in a checkpoint: {in_checkpoint}");
        assert!(client.fetch_body("s", again).await == random_bytes(5, 10_000), "{store}");
    }
}

/// All segments are gone; checkpoint and store know how far they went.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_filled_and_no_id_is_given_twice() {
    // A broker that ends in order takes a checkpoint, which knows the log's identity.
    let stopped = stopped().await.start().await.stop().await;
    for segment in segments(stopped.data()) {
        fs::remove_file(segment).expect("removed");
    }
    let setup = stopped.setup();
    let (code, text, _) = repair(setup.data(), &["--yes", "--json"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(json(&text)["lost_records"], 20, "{text}");
    let broker = setup.start().await;
    let client = broker.client().await;
    assert_eq!(client.publish_kept("s", "x").await, 21);
}

/// Neither checkpoint nor store knows anything; the name and the frames that still look like some do.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_segment_is_not_given_up_in_silence() {
    let stopped = stopped().await;
    let segment = segments(stopped.data()).remove(0);
    let file = fs::OpenOptions::new().write(true).open(&segment).expect("a segment");
    // Its header and the start of its first frame.
    file.write_all_at(&[0; 4296], 0).expect("written");
    for name in ["store", "ids"] {
        let folder = stopped.data().join(name);
        if folder.exists() {
            fs::remove_dir_all(folder).expect("removed");
        }
    }
    let (code, text, _) = log("verify", stopped.data(), &["--json"]);
    assert_eq!(code, DAMAGED, "{text}");
    let damaged = &json(&text)["damaged"];
    assert!(damaged["file"].as_str().is_some_and(|file| Path::new(file) == segment), "{text}");
    assert_eq!(damaged["offset"], 0, "{text}");

    let (code, text, _) = repair(stopped.data(), &["--dry-run", "--json"]);
    assert_eq!(code, 0, "{text}");
    let finding = &json(&text)["damaged"][0];
    assert_eq!((&finding["lost_first"], &finding["lost_last"]), (&1.into(), &20.into()), "{text}");
    assert!(finding["unknown_behind_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{text}");
    let (code, text, _) = repair(stopped.data(), &["--yes"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("that is the least"), "{text}");
    let (code, text, _) = log("verify", stopped.data(), &["--json"]);
    assert_eq!((code, &json(&text)["records"]), (0, &20.into()), "{text}");
}
