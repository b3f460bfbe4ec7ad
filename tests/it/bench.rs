//! `walcast bench` against a real broker: its files, its search, and its exit codes.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::{Broker, Setup, walcast};

/// Runs `walcast bench` against the broker.
async fn bench(broker: &Broker, arguments: &[&str]) -> Output {
    let (server, admin) = (format!("http://{}", broker.grpc()), format!("http://{}", broker.admin()));
    let line = [&["bench"], arguments, &["--server", &server, "--admin", &admin]].concat();
    let mut command = walcast(&line);
    tokio::task::block_in_place(|| command.output()).expect("it can be run")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("written")).expect("JSON")
}

fn said(output: &Output) -> String {
    [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_a_page_with_the_brokers_own_figures_and_a_second_one_is_compared_with_it() {
    let setup = Setup::new();
    let [first, second, page] = ["first.json", "second.json", "page.html"].map(|name| setup.folder().join(name));
    let broker = setup.start().await;
    let load = ["--rate", "200", "--duration", "3s", "--warmup", "0s", "--connections", "2", "--max-errors", "0"];
    let paths = [&first, &second, &page].map(|path| path.to_str().expect("text"));

    let output = bench(&broker, &[&["publish"], &load[..], &["--json", paths[0]]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report = json(&first);
    assert_eq!(report["count"], 600);
    let seconds = report["each_second"].as_array().expect("seconds");
    let counted: u64 = seconds.iter().filter_map(|second| second["count"].as_u64()).sum();
    assert!(seconds.len() >= 2 && counted == 600, "{seconds:?}");
    let server = report["around"]["server"].as_array().expect("the broker's own figures");
    let sum = |name: &str| server.iter().filter_map(|second| second[name].as_f64()).sum::<f64>();
    assert!(sum("fsyncs") > 0.0 && sum("fsync_p99") > 0.0 && sum("cpu") > 0.0, "{server:?}");
    assert!(report["late_us"]["p99"].as_u64().is_some(), "{report}");

    let fanout = ["--subscribers", "4", "--json", paths[1], "--html", paths[2], "--compare", paths[0]];
    let output = bench(&broker, &[&["fanout"], &load[..], &fanout].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("compared    publishes: "), "{}", said(&output));
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.matches("<svg").count() >= 6 && html.contains("deliveries, now"), "{html}");
    assert_eq!(json(&second)["deliveries"]["count"], 2400);

    // The same page from the files alone.
    let again = walcast(&["bench", "report", paths[1], "--compare", paths[0], "--html", paths[2]]).output();
    assert_eq!(again.expect("it can be run").status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&page).expect("a page"), html);
    let output = bench(&broker, &[&["publish"], &load[..], &["--compare", paths[2]]].concat()).await;
    assert_eq!(output.status.code(), Some(2), "a page is no result: {}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_rate_is_searched_for() {
    let setup = Setup::new();
    let [result, page] = ["result.json", "page.html"].map(|name| setup.folder().join(name));
    let broker = setup.start().await;
    let line = ["publish", "--find-max", "--rate", "100", "--duration", "1s", "--warmup", "0s", "--connections", "2"];
    let files = ["--json", result.to_str().expect("text"), "--html", page.to_str().expect("text")];

    // Every machine keeps this one.
    let loose = ["--max-p99", "60s", "--max-rate", "200"];
    let output = bench(&broker, &[&line[..], &loose, &files].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("200 calls a second keep a p99 of 1m, and more were not tried"),
        "{}",
        said(&output)
    );
    let found = json(&result);
    assert_eq!((&found["search"]["highest"], &found["rate_wanted"]), (&200.into(), &200.into()));
    let rates: Vec<_> = found["search"]["steps"].as_array().expect("steps").iter().map(|step| &step["rate"]).collect();
    assert_eq!(rates, [100, 200]);
    assert!(std::fs::read_to_string(&page).expect("a page").contains("All rates that were tried"));

    // No machine keeps this one.
    let output = bench(&broker, &[&line[..], &["--max-p99", "1us"]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let sentence = "no rate keeps a p99 of 1us: not even 100 calls a second: p99 is ";
    assert!(said(&output).contains(sentence), "{}", said(&output));
    // A rate is not enough: it has to be what was asked for.
    let output = bench(&broker, &[&line[..], &loose, &["--min-rate", "100000"]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    // A search without a bound has no end.
    assert_eq!(bench(&broker, &line).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_fail_the_command_and_a_server_that_is_away_has_its_own_code() {
    let broker = Broker::start().await;
    let line = ["publish", "--rate", "100", "--count", "50", "--warmup", "0s", "--connections", "1"];
    for (bound, sentence) in [(["--max-p99", "1us"], "above 1us"), (["--min-rate", "1000000"], "below 1000000")] {
        let output = bench(&broker, &[&line[..], &bound].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{bound:?}: {}", said(&output));
        assert!(said(&output).contains(sentence), "{}", said(&output));
    }
    let away = walcast(&["bench", "publish", "--server", "http://127.0.0.1:1"]).output().expect("it can be run");
    assert_eq!(away.status.code(), Some(5), "{}", said(&away));
}
