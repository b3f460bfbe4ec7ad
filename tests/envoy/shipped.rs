//! What can be said of the configuration before any call.

use std::fs;
use std::process::Command;

use crate::envoy::{Plan, program, repository, shipped};
use crate::support::http;

/// What Envoy says of a configuration: whether it is good, and why not.
fn validate(text: &str) -> (bool, String) {
    let folder = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, text).expect("the folder is ours");
    let output =
        Command::new(program()).arg("-c").arg(&file).args(["--mode", "validate"]).output().expect("Envoy runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn configure(arguments: &[&str]) -> std::process::Output {
    Command::new(repository("deploy/envoy/configure")).args(arguments).output().expect("it can be run")
}

fn configured(arguments: &[&str]) -> String {
    let output = configure(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn envoy_finds_each_variant_valid() {
    let elsewhere = ["--listen", "0.0.0.0:8080", "--stats", "0.0.0.0:9902", "--broker", "walcast:50051"];
    let elsewhere = [&elsewhere[..], &["--ratelimit", "ratelimit:8081", "--collector", "jaeger:4317"]].concat();
    let six =
        ["--listen", "[::]:8080", "--stats", "[::1]:9902", "--broker", "[::1]:50051", "--broker", "localhost:50051"];
    let named = ["--listen", "localhost:8080", "--broker", "localhost:50051", "--collector", "localhost:4317"];
    let affine = [&elsewhere[..], &["--affinity"]].concat();
    for arguments in [&[][..], &["--affinity"], &elsewhere, &affine, &six, &named] {
        let (valid, said) = validate(&configured(arguments));
        assert!(valid, "{arguments:?}: {said}");
        assert!(!said.contains("[warning]") && !said.contains("deprecated"), "{arguments:?}: {said}");
    }
    let (valid, said) = validate(&shipped().replace("idle_timeout: 0s, retry", "idle_timeuot: 0s, retry"));
    assert!(!valid && said.contains("idle_timeuot"), "the check sees a mistake: {said}");
}

#[test]
fn what_configure_is_not_told_stays_as_it_is() {
    assert_eq!(configured(&[]), shipped());
    let three = configured(&["--broker", "a:1", "--broker", "b:2", "--broker", "[2001:db8::1]:3", "--admin", "7"]);
    let lines: Vec<_> = three.lines().filter(|line| line.ends_with(" # @broker")).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[2].contains("{ address: \"2001:db8::1\", port_value: 3 }"), "{lines:?}");
    let admin: Vec<_> = three.lines().filter(|line| line.ends_with(" # @admin")).collect();
    assert_eq!(admin.len(), 2, "the port itself, and what the stats are read from");
    assert!(admin.iter().all(|line| line.contains("{ address: 127.0.0.1, port_value: 7 }")), "{admin:?}");
    let others = |text: &str| text.lines().filter(|line| !line.contains(" # @")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(others(&three), others(shipped()));
}

#[test]
fn configure_refuses_what_would_be_another_file() {
    for arguments in [
        &["--brokr", "a:1"][..],
        &["--broker"],
        &["--broker", "a"],
        &["--broker", "a:0"],
        &["--broker", "a:65536"],
        &["--broker", "a }:1"],
        &["--admin", "0.0.0.0:9901"],
        &["--listen", "walcast:8080"],
        &["--stats", "walcast:9902"],
    ] {
        let output = configure(arguments);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("configure: "), "{output:?}");
    }
}

#[test]
fn configure_says_how_it_is_used() {
    let help = configured(&["--help"]);
    for flag in ["--listen", "--broker", "--ratelimit", "--collector", "--stats", "--admin", "--affinity"] {
        assert!(help.contains(flag), "{help}");
    }
    assert!(!help.contains('#') && !help.contains("set -eu"), "nothing but the text: {help}");
}

#[test]
fn affinity_reads_subjects_with_the_contract_of_the_broker() {
    let kept = fs::read(repository("deploy/envoy/broker.pb")).expect("it is there");
    let found =
        "deploy/envoy/broker.pb is not of proto/broker.proto: copy target/*/build/walcast-*/out/broker.descriptors.bin";
    assert!(kept == walcast::proto::DESCRIPTORS, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_is_on_loopback_and_two_of_its_pages_elsewhere() {
    let broker = crate::support::Broker::start().await;
    let envoy = Plan::before([&broker]).start().await;
    let port = envoy.admin().rsplit_once(':').expect("HOST:PORT").1.parse().expect("a port");
    let listening = listening_on(port);
    assert_eq!(listening, ["127.0.0.1"], "and nowhere else");
    // The control: what listens everywhere is seen.
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    assert_eq!(listening_on(everywhere.local_addr().expect("bound").port()), ["0.0.0.0"]);
    let page = |path: &'static str| async { http::get(envoy.stats(), path).await.map(|answer| answer.status) };
    assert_eq!((page("/stats/prometheus").await, page("/ready").await), (Some(200), Some(200)));
    for path in ["/", "/config_dump", "/stats", "/stats/prometheus/../../config_dump", "/ready/../quitquitquit"] {
        assert_eq!(page(path).await, Some(404), "{path}");
    }
    for path in ["/quitquitquit", "/stats/prometheus"] {
        assert_eq!(http::post(envoy.stats(), path).await.map(|answer| answer.status), Some(404), "{path}");
    }
}

/// The addresses of IPv4 that something listens on with this port.
fn listening_on(port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let columns = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = columns.filter(|columns| columns[3] == LISTEN && columns[1].ends_with(&format!(":{port:04X}")));
    let address = |columns: Vec<&str>| {
        let bits = u32::from_str_radix(&columns[1][..8], 16).expect("eight digits");
        std::net::Ipv4Addr::from(bits.swap_bytes()).to_string()
    };
    own.map(address).collect()
}
