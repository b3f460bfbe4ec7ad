//! The text of `/metrics`, judged by promtool.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::Broker;

#[tokio::test(flavor = "multi_thread")]
async fn the_exposition_is_what_prometheus_expects() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("s", "body").await;
    let scraped = broker.get("/metrics").await.expect("scraped").body;
    let (ok, said) = promtool(&scraped);
    // The two names of the older brokers have no unit as suffix, and are kept as they are.
    let ours: Vec<&str> = said.lines().filter(|line| !line.starts_with("method_")).collect();
    assert!(ours.is_empty(), "{ok}: {ours:#?}");
    let (ok, said) = promtool("# TYPE bad counter\nbad{x=\"1\"} 1\n");
    assert!(!ok, "the control is refused: {said}");
}

/// Whether `promtool check metrics` takes this, and what it says.
fn promtool(exposition: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    let command =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool runs: `tests/services/install prometheus`");
    child.stdin.take().expect("piped").write_all(exposition.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}
