//! Bad starts: one clear sentence, the exit code that interfaces.md gives it, nothing touched.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::{Broker, Mounted, Setup, Stopped, eventually, random_bytes};

/// Exit codes of interfaces.md.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const DAMAGED: i32 = 3;
const IN_USE: i32 = 4;

/// One sentence for a person, no back trace, no debug output.
fn refuses(setup: &Setup, code: i32, parts: &[&str]) -> String {
    let (found, text) = setup.refuse();
    assert_eq!(found, code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is named in: {text}");
    }
    for never in ["panicked", "RUST_BACKTRACE", "Os {", "kind: "] {
        assert!(!text.contains(never), "{never:?} in: {text}");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_nothing_is_created() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--listen", "--admin-listen"] {
        let setup = Setup::new().arg(flag).arg(&address);
        refuses(&setup, FAILED, &[&address, "in use"]);
        assert!(!setup.data().exists(), "ports are bound before the first side effect");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_exit_4() {
    let setup = Setup::new();
    let broker = setup.clone().start().await;
    refuses(&setup, IN_USE, &[&setup.data().display().to_string()]);
    broker.client().await.publish_kept("s", "still served").await;
    broker.stop().await.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let setup = Setup::new();
    let file = setup.folder().join("a-file");
    fs::write(&file, "x").expect("written");
    for data_dir in [file.clone(), file.join("below")] {
        refuses(&setup.clone().data_dir(&data_dir), FAILED, &[&data_dir.display().to_string()]);
    }
    assert_eq!(fs::read(&file).expect("untouched"), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_one_clear_sentence() {
    let setup = Setup::new();
    let disk = Mounted::tmpfs(&setup, "size=1M");
    let setup = setup.data_dir(disk.at().join("data"));
    let text = refuses(&setup, FAILED, &[&disk.at().display().to_string()]);
    assert!(text.to_lowercase().contains("space") || text.to_lowercase().contains("full"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_one_clear_sentence() {
    let setup = Setup::new();
    let disk = Mounted::tmpfs(&setup, "size=64M");
    let setup = setup.data_dir(disk.at().join("data"));
    let stopped = setup.clone().start().await.stop().await;
    disk.read_only();
    let text = refuses(&setup, FAILED, &[&disk.at().display().to_string()]);
    assert!(text.to_lowercase().contains("read-only"), "{text}");
    drop(stopped);
    let fresh = setup.data_dir(disk.at().join("another"));
    refuses(&fresh, FAILED, &[&disk.at().display().to_string()]);
}

/// A log with a few records, of a broker that has ended.
async fn stopped_with_records() -> Stopped {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for number in 0..20 {
        client.publish_kept("s", random_bytes(number, 10_000)).await;
    }
    drop(client);
    broker.kill_nine().await
}

/// The segment files, oldest first.
fn segments(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data.join("log"))
        .expect("the log's folder")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == SEGMENT_EXTENSION))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "there are segments in {}", data.display());
    found
}

const SEGMENT_EXTENSION: &str = "wal";

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("a segment");
    file.write_all_at(bytes, offset).expect("written");
}

fn name_of(segment: &Path) -> String {
    segment.file_name().expect("a name").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_in_the_middle_is_exit_3_with_file_and_offset() {
    let stopped = stopped_with_records().await;
    let segment = segments(stopped.data()).remove(0);
    let before = fs::read(&segment).expect("readable");
    overwrite(&segment, 50_000, &[before[50_000] ^ 1]);
    let setup = stopped.setup();
    refuses(&setup, DAMAGED, &[&name_of(&segment), "damaged at byte", "not a torn write"]);
    assert_eq!(fs::read(&segment).expect("readable")[50_001..], before[50_001..], "nothing was repaired by itself");
}

/// A damaged last record looks like a torn write; that the store has it proves that it was none.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_last_record_that_the_store_has_is_refused_and_not_cut() {
    let setup = Setup::new();
    let broker = setup.start().await;
    let client = broker.client().await;
    for number in 0..5 {
        client.publish_kept("s", random_bytes(number, 1_000)).await;
    }
    eventually("all in the store", || async { (broker.position("projected").await == 5.0).then_some(()) }).await;
    drop(client);
    let stopped = broker.kill_nine().await;
    let segment = segments(stopped.data()).remove(0);
    let mut damaged = fs::read(&segment).expect("readable");
    let last = damaged.iter().rposition(|byte| *byte != 0).expect("there are records");
    overwrite(&segment, last as u64 - 3, &[damaged[last - 3] ^ 1]);
    damaged[last - 3] ^= 1;
    let setup = stopped.setup();
    for _ in 0..2 {
        refuses(&setup, DAMAGED, &["ends at sequence 4", "sequence 5 is known to have been durable"]);
        assert!(fs::read(&segment).expect("readable") == damaged, "nothing was cut");
    }
}

/// The tool knows, as a start does, that records are missing at the end.
#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_when_the_log_has_lost_its_end() {
    let stopped = stopped_with_records().await.start().await.stop().await;
    let verify = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_walcast"));
        let output = command.args(["log", "verify", "--data-dir"]).arg(stopped.data()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(verify().0, Some(0));
    let segment = segments(stopped.data()).remove(0);
    let bytes = fs::read(&segment).expect("readable");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("there are records");
    overwrite(&segment, last as u64 - 3, &[bytes[last - 3] ^ 1]);
    for newer in &segments(stopped.data())[1..] {
        fs::remove_file(newer).expect("removed");
    }
    let (code, text) = verify();
    assert_eq!(code, Some(DAMAGED), "{text}");
    assert!(text.contains("sequence 20 is known to have been durable"), "{text}");
}

/// The store is removed while the broker is down: memory must not take its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_far_behind_costs_no_memory_and_everything_is_found_in_the_log() {
    let setup = Setup::new().set("limits.in_flight_bytes", "2MiB").set("limits.hot_tail_bytes", "1MiB");
    let setup = setup.set("limits.body_bytes", "128KiB").set("limits.subscriber_bytes", "1MiB");
    let broker = setup.start().await;
    let client = broker.client().await;
    for number in 0..150 {
        client.publish_kept("s", random_bytes(number, 100_000)).await;
    }
    drop(client);
    let stopped = broker.kill_nine().await;
    fs::remove_dir_all(stopped.data().join("store")).expect("removed");
    let broker = stopped.start().await;
    let held = broker.metric("walcast_hot_tail_bytes").await;
    assert!(held < 4.0 * 1024.0 * 1024.0, "{held} bytes in memory");
    let client = broker.client().await;
    for number in (0..150).rev() {
        let found = client.fetch_body("s", number as i32 + 1).await;
        assert!(found == random_bytes(number, 100_000), "{number}");
    }
    // The reads were of the log: they need not have waited for it.
    eventually("all in the store", || async { (broker.position("projected").await == 150.0).then_some(()) }).await;
}

/// None of the runs writes enough for a checkpoint of its own; without one nothing could ever be trimmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_again_and_again_still_takes_checkpoints_and_trims() {
    let setup = Setup::new().set("log.segment_bytes", "2MiB").set("log.keep_bytes", "0");
    let mut broker = setup.set("limits.body_bytes", "128KiB").start().await;
    for round in 0..5 {
        let client = broker.client().await;
        for number in 0..6 {
            client.publish_kept("s", random_bytes(number, 100_000)).await;
        }
        drop(client);
        let durable = broker.position("durable").await;
        eventually("everything in the store", || async {
            (broker.position("projected").await == durable).then_some(())
        })
        .await;
        if round == 4 {
            eventually("old segments to be trimmed", || async {
                (broker.position("trimmed").await >= 18.0).then_some(())
            })
            .await;
        }
        broker = broker.kill_nine().await.start().await;
    }
}

/// What a start has no time to check is checked once it serves, and ends as it would have at the start.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_the_start_had_no_time_to_find_ends_the_broker_with_exit_3() {
    let setup = Setup::new().set("log.verify_for", "0s").set("log.segment_bytes", "2MiB");
    let broker = setup.start().await;
    let client = broker.client().await;
    for number in 0..60 {
        client.publish_kept("s", random_bytes(number, 100_000)).await;
    }
    eventually("everything in the store", || async { (broker.position("projected").await == 60.0).then_some(()) })
        .await;
    drop(client);
    let stopped = broker.stop().await;
    let segment = segments(stopped.data()).remove(0);
    let before = fs::read(&segment).expect("readable");
    overwrite(&segment, 1_000_000, &[before[1_000_000] ^ 1]);
    let setup = stopped.setup().expect_log("a task failed").expect_log("is damaged at byte");
    let broker = setup.start().await;
    let (exit, stopped) = broker.wait().await;
    assert_eq!(exit.code(), Some(DAMAGED));
    // Without the hurry the start itself refuses, by the same name.
    let setup = stopped.setup().set("log.verify_for", "1m");
    refuses(&setup, DAMAGED, &[&name_of(&segment), "damaged at byte"]);
}

/// Where the header of a segment has what (docs of the log's format).
const HEADER_BYTES: usize = 4096;
const VERSION_AT: usize = 8;
const CRC_AT: usize = HEADER_BYTES - 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_foreign_newer_or_half_made_segment_is_exit_3_with_its_name() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("does not start like a segment", |segment| overwrite(segment, 0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0")),
        ("checksum of the segment header", |segment| overwrite(segment, 2_000, b"x")),
        ("too few for a segment header", |segment| {
            let file = fs::OpenOptions::new().write(true).open(segment).expect("a segment");
            file.set_len(100).expect("cut");
        }),
        ("newer walcast", |segment| {
            let mut header = fs::read(segment).expect("readable");
            header.truncate(HEADER_BYTES);
            header[VERSION_AT] = 2;
            let crc = crc32c::crc32c(&header[..CRC_AT]);
            header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            overwrite(segment, 0, &header);
        }),
        ("is a copy or was renamed", |segment| {
            let another = segment.with_file_name("00000000000000000900.wal");
            fs::rename(segment, another).expect("renamed");
        }),
        ("the name is not that of a segment", |segment| {
            fs::copy(segment, segment.with_file_name("backup.wal")).expect("copied");
        }),
    ];
    for (says, harm) in harms {
        let stopped = stopped_with_records().await;
        let segment = segments(stopped.data()).remove(0);
        harm(&segment);
        refuses(&stopped.setup(), DAMAGED, &[".wal is damaged at byte", says]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_exit_3() {
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("log.segment_bytes", "256KiB");
    let broker = setup.start().await;
    let client = broker.client().await;
    for number in 0..16 {
        client.publish_kept("s", random_bytes(number, 64 * 1024)).await;
    }
    drop(client);
    let stopped = broker.kill_nine().await;
    let segments = segments(stopped.data());
    assert!(segments.len() > 3, "{segments:?}");
    fs::remove_file(&segments[1]).expect("removed");
    refuses(&stopped.setup(), DAMAGED, &["is missing", "at byte"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_and_the_rest_is_there() {
    let stopped = stopped_with_records().await;
    let segment = segments(stopped.data()).remove(0);
    let bytes = fs::read(&segment).expect("readable");
    // Behind the last record everything is zero; half of a frame's magic there is a write that the power cut.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("records") as u64 + 1;
    overwrite(&segment, end + 16, &random_bytes(1, 100));
    let broker = stopped.start().await;
    let client = broker.client().await;
    for number in 0..20 {
        assert!(client.fetch_body("s", number as i32 + 1).await == random_bytes(number, 10_000));
    }
    assert_eq!(client.publish_kept("s", "x").await, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_refused_with_the_nearest_known_name() {
    refuses(
        &Setup::new().set("log.segment_bites", "4MiB"),
        USAGE,
        &["WALCAST_LOG__SEGMENT_BITES", "WALCAST_LOG__SEGMENT_BYTES"],
    );
    let setup = Setup::new();
    let file = setup.folder().join("walcast.toml");
    fs::write(&file, "lisen = \"127.0.0.1:0\"\n").expect("written");
    refuses(&setup.arg("--config").arg(&file), USAGE, &["lisen", "listen", "walcast.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_are_refused_by_name() {
    for (key, value) in [
        ("log.segment_bytes", "much"),
        ("log.segment_bytes", "12"),
        ("log.segment_bytes", "-1"),
        ("limits.body_bytes", "17MiB"),
        ("shutdown.grace", "soon"),
        ("store.kind", "mysql"),
        ("listen", "nowhere"),
    ] {
        let mut setup = Setup::new().set(key, value);
        if key == "listen" {
            setup = Setup::new().arg("--listen").arg(value);
        }
        refuses(&setup, USAGE, &[key.rsplit('.').next().expect("a name"), value]);
        assert!(!setup.data().exists());
    }
    refuses(&Setup::new().arg("--no-such-flag"), USAGE, &["--no-such-flag"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_keeps_its_files_to_its_owner_or_group() {
    let broker = Broker::start().await;
    let mode = fs::metadata(broker.data()).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o002, 0, "not writable for everybody: {mode:o}");
}
