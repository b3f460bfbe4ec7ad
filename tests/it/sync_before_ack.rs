//! No answer to a publish before the fdatasync that covers it, seen from outside with `strace`.

use std::collections::HashMap;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Setup, random_bytes, require_strace};

/// One system call that has returned, in the order of the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// Bytes that hold this message went to a file.
    Logged { file: i32, message: usize },
    /// A file's data is on the disk.
    Synced { file: i32 },
    /// Bytes went to a client's connection.
    Answered,
}

/// Whether each answer came after an fdatasync, begun after the write, of the file that its message was written to.
///
/// The publisher is alone and sends one message after the other, so the n-th message's answer is the first
/// write to a socket after the message was logged.
fn check(calls: &[Call], messages: usize) -> Result<(), String> {
    let mut waiting: Option<(i32, usize)> = None;
    let mut next = 0;
    for call in calls {
        match *call {
            Call::Logged { file, message } if message == next => {
                waiting = Some((file, message));
                next += 1;
            }
            Call::Logged { .. } => {}
            Call::Synced { file } => {
                if waiting.is_some_and(|(written, _)| written == file) {
                    waiting = None;
                }
            }
            Call::Answered => {
                if let Some((file, message)) = waiting {
                    return Err(format!(
                        "something was sent after message {message} was written to {file} and before a sync"
                    ));
                }
            }
        }
    }
    if next == messages { Ok(()) } else { Err(format!("only {next} of {messages} messages were seen in the log")) }
}

/// Each message is a text of its own, long enough to be nothing else.
fn text_of(message: usize) -> String {
    let noise: String = random_bytes(message as u64, 24).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    format!("<{message:05}{noise}>")
}

/// Reads what `strace -f -yy -xx` wrote of the calls that write, send and sync.
///
/// A sync counts from its return and must have begun after the write returned: strace prints both ends of a
/// call that was interrupted by others (`<unfinished ...>`, `<... resumed>`).
fn parse(trace: &str, messages: usize) -> Vec<Call> {
    let texts: Vec<String> = (0..messages).map(text_of).collect();
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let whole = if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            // What is sent counts from the moment it may have been sent: the beginning of the call.
            if is_answer(begun) {
                calls.push(Call::Answered);
            }
            unfinished.insert(thread, begun.to_owned());
            continue;
        } else if rest.starts_with("<...") {
            let Some(begun) = unfinished.remove(thread) else { continue };
            let Some((_, end)) = rest.split_once("resumed>") else { continue };
            if is_answer(&begun) {
                continue;
            }
            format!("{begun}{end}")
        } else {
            if is_answer(rest) {
                calls.push(Call::Answered);
                continue;
            }
            rest.to_owned()
        };
        calls.extend(file_call(&whole, &texts));
    }
    calls
}

/// Whether the call sends an HTTP/2 HEADERS or DATA frame. Others (SETTINGS, WINDOW_UPDATE, PING) answer nothing.
fn is_answer(call: &str) -> bool {
    let sends = ["sendto(", "sendmsg(", "writev(", "write("].iter().any(|name| call.starts_with(name));
    if !sends || !call.contains("<TCP") {
        return false;
    }
    let bytes = bytes_of(call);
    let mut rest = bytes.as_slice();
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        if matches!(*kind, FRAME_DATA | FRAME_HEADERS) {
            return true;
        }
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        rest = payload.get(length..).unwrap_or(&[]);
    }
    false
}

const FRAME_DATA: u8 = 0;
const FRAME_HEADERS: u8 = 1;

/// The bytes of all strings of a call, which `strace -xx` prints as `"\x00\x01"`.
fn bytes_of(call: &str) -> Vec<u8> {
    let strings = call.split('"').skip(1).step_by(2);
    strings.flat_map(|text| text.split("\\x").skip(1)).filter_map(|hex| u8::from_str_radix(hex, 16).ok()).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn file_call(call: &str, texts: &[String]) -> Option<Call> {
    let (name, arguments) = call.split_once('(')?;
    let file = arguments.split(|end: char| !end.is_ascii_digit()).next()?.parse().ok()?;
    match name {
        "pwrite64" | "pwritev" | "pwritev2" | "write" | "writev" => {
            let bytes = bytes_of(call);
            let message = texts.iter().rposition(|text| holds(&bytes, text))?;
            Some(Call::Logged { file, message })
        }
        "fdatasync" | "fsync" if call.trim_end().ends_with("= 0") => Some(Call::Synced { file }),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_publish_is_answered_before_the_fdatasync_that_covers_it() {
    const MESSAGES: usize = 200;
    require_strace();
    let setup = Setup::new().store("none");
    let trace = setup.folder().join("trace");
    let calls = "trace=pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg,writev,write";
    let strace = ["strace", "-f", "-yy", "-xx", "-s", "65536", "-e", calls, "-o"].map(Into::into);
    let setup = setup.under(strace.into_iter().chain([trace.clone().into_os_string()]));
    // strace prints to its own stderr when it is told to end; the broker's lines are JSON.
    let broker = setup.expect_log("strace:").start().await;
    let client = broker.client().await;
    for message in 0..MESSAGES {
        client.publish("traced", text_of(message), (message % 2) as i32 * 60).await.expect("accepted");
    }
    drop(client);
    terminate_traced(broker.pid());
    let (_, stopped) = broker.wait().await;
    let calls = parse(&std::fs::read_to_string(&trace).expect("the trace"), MESSAGES);
    let synced = calls.iter().filter(|call| matches!(call, Call::Synced { .. })).count();
    let answered = calls.iter().filter(|call| **call == Call::Answered).count();
    assert!(synced >= MESSAGES && answered >= MESSAGES, "{synced} syncs, {answered} answers");
    check(&calls, MESSAGES).expect("sync before answer");
    // The trace is in the test's folder.
    drop(stopped);
}

/// `strace` runs the broker as its child; the signal is for the child.
fn terminate_traced(strace: u32) {
    let children = std::fs::read_to_string(Path::new("/proc").join(format!("{strace}/task/{strace}/children")));
    let children = children.expect("strace runs");
    let child = children.split_whitespace().next().expect("strace has a child").parse().expect("a number");
    kill_process(Pid::from_raw(child).expect("not 0"), Signal::TERM).expect("it runs");
}

#[cfg(test)]
mod controls {
    use super::*;

    fn trace(lines: &[&str]) -> String {
        let texts = [text_of(0), text_of(1)];
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let answer = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &[0, 0, 1, FRAME_HEADERS, 4, 0, 0, 0, 1, 0x88]].concat();
        let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        lines
            .join("\n")
            .replace("FIRST", &hex(texts[0].as_bytes()))
            .replace("SECOND", &hex(texts[1].as_bytes()))
            .replace("ANSWER", &hex(&answer))
            .replace("WINDOW", &hex(&window))
    }

    const GOOD: [&str; 6] = [
        r#"7 pwrite64(12</d/log/1.seg>, "FIRST", 64, 0) = 64"#,
        r"7 fdatasync(12</d/log/1.seg>) = 0",
        r#"8 sendto(9<TCP:[1->2]>, "ANSWER", 2, 0, NULL, 0) = 2"#,
        r#"7 pwrite64(12</d/log/1.seg>, "SECOND", 64, 64) = 64"#,
        r"7 fdatasync(12</d/log/1.seg>) = 0",
        r#"8 writev(9<TCP:[1->2]>, [{iov_base="ANSWER", iov_len=2}], 1) = 2"#,
    ];

    #[test]
    fn a_good_trace_passes() {
        assert_eq!(check(&parse(&trace(&GOOD), 2), 2), Ok(()));
        let mut busy = GOOD.to_vec();
        busy.insert(1, r#"8 sendto(9<TCP:[1->2]>, "WINDOW", 13, 0, NULL, 0) = 13"#);
        assert_eq!(check(&parse(&trace(&busy), 2), 2), Ok(()), "a WINDOW_UPDATE is no answer");
    }

    #[test]
    fn an_answer_before_the_sync_fails() {
        let mut early = GOOD;
        early.swap(1, 2);
        assert!(check(&parse(&trace(&early), 2), 2).is_err());
        let mut last = GOOD;
        last.swap(4, 5);
        assert!(check(&parse(&trace(&last), 2), 2).is_err());
    }

    #[test]
    fn an_answer_while_the_sync_still_runs_fails() {
        let lines = [
            GOOD[0],
            "7 fdatasync(12</d/log/1.seg> <unfinished ...>",
            GOOD[2],
            "7 <... fdatasync resumed>) = 0",
            GOOD[3],
            GOOD[4],
            GOOD[5],
        ];
        assert!(check(&parse(&trace(&lines), 2), 2).is_err());
        let whole = [lines[0], lines[1], lines[3], lines[2], lines[4], lines[5], lines[6]];
        assert_eq!(check(&parse(&trace(&whole), 2), 2), Ok(()));
    }

    #[test]
    fn a_sync_of_another_file_or_a_failed_one_or_none_at_all_fails() {
        for (at, with) in [
            (1, "7 fdatasync(13</d/log/2.seg>) = 0"),
            (1, "7 fdatasync(12</d/log/1.seg>) = -1 EIO (Input/output error)"),
            (1, ""),
        ] {
            let mut lines = GOOD;
            lines[at] = with;
            assert!(check(&parse(&trace(&lines), 2), 2).is_err(), "{with}");
        }
        assert!(check(&parse(&trace(&GOOD[..3]), 2), 2).is_err(), "a message that was never logged");
    }
}
