//! A real Jaeger, and its query API.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::keeper;
use crate::support::{PATIENCE, Setup, eventually, programs};
use crate::trace::Trace;

/// Where `tests/services/install jaeger` puts it.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/bin/jaeger");

/// A running Jaeger that keeps traces in memory.
#[derive(Debug)]
pub struct Jaeger {
    otlp: u16,
    query: u16,
    _process: Child,
}

/// The one of all tests.
pub fn shared() -> &'static Jaeger {
    static SHARED: LazyLock<Jaeger> = LazyLock::new(|| Jaeger::start_at(programs::port()));
    &SHARED
}

impl Jaeger {
    /// Starts one whose collector has this port.
    pub fn start_at(otlp: u16) -> Self {
        assert!(Path::new(PROGRAM).exists(), "there is no Jaeger: run `tests/services/install jaeger`");
        let (query, health) = (programs::port(), programs::port());
        let folder = keeper::folder("jaeger");
        let config = folder.join("config.json");
        fs::write(&config, config_text(otlp, query, health)).expect("it is ours");
        let log = fs::File::create(folder.join("log")).expect("it is ours");
        let mut command = programs::tied();
        command.arg(PROGRAM).arg("--config").arg(&config).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = programs::spawn(command).expect("setpriv and Jaeger can be run");
        let give_up = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", health)).is_err()
            || std::net::TcpStream::connect(("127.0.0.1", otlp)).is_err()
        {
            let said = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "Jaeger is not ready: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { otlp, query, _process: process }
    }

    /// The port of its collector.
    pub fn otlp(&self) -> u16 {
        self.otlp
    }

    /// Where spans go.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.otlp)
    }

    /// A broker that sends its spans here, with this ratio.
    pub fn setup(&self, ratio: &str) -> Setup {
        Setup::new().arg("--otlp-endpoint").arg(self.endpoint()).set("telemetry.sample_ratio", ratio)
    }

    /// A trace as it is now; None if there is none.
    pub async fn trace(&self, id: &str) -> Option<Trace> {
        let answer = self.get(&format!("/api/traces/{id}")).await;
        answer["data"].get(0).map(Trace::read)
    }

    /// The trace once it has spans of these names.
    pub async fn trace_with(&self, id: &str, names: &[&str]) -> Trace {
        eventually("the trace in Jaeger", || async {
            let trace = self.trace(id).await?;
            names.iter().all(|name| trace.named(name).next().is_some()).then_some(trace)
        })
        .await
    }

    /// The trace once it has spans of these names, and one of this service.
    pub async fn trace_with_process(&self, id: &str, names: &[&str], service: &str) -> Trace {
        eventually("the trace in Jaeger", || async {
            let trace = self.trace_with(id, names).await;
            trace.spans.iter().any(|span| span.service == service).then_some(trace)
        })
        .await
    }

    /// Traces in which a span has this subject, at most 2,000.
    pub async fn traces_of(&self, subject: &str) -> Vec<Trace> {
        let tags = json!({ "messaging.destination.name": subject }).to_string();
        let tags = utf8_percent_encode(&tags, NON_ALPHANUMERIC);
        let answer = self.get(&format!("/api/traces?service=walcast&limit=2000&lookback=1h&tags={tags}")).await;
        answer["data"].as_array().into_iter().flatten().map(Trace::read).collect()
    }

    /// HTTP/1.0, so that the answer is what comes until the end.
    async fn get(&self, path: &str) -> Value {
        let mut connection = TcpStream::connect(("127.0.0.1", self.query)).await.expect("Jaeger answers");
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("headers and a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

/// YAML has JSON in it.
fn config_text(otlp: u16, query: u16, health: u16) -> String {
    let at = |port: u16| json!({ "endpoint": format!("127.0.0.1:{port}") });
    json!({
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": { "traces": {
                "receivers": ["otlp"], "processors": ["batch"], "exporters": ["jaeger_storage_exporter"],
            } },
            "telemetry": { "metrics": { "level": "none" }, "logs": { "level": "warn" } },
        },
        "extensions": {
            "healthcheckv2": { "use_v2": true, "http": at(health) },
            "jaeger_query": { "storage": { "traces": "memory" }, "http": at(query), "grpc": at(programs::port()) },
            "jaeger_storage": { "backends": { "memory": { "memory": { "max_traces": 20_000 } } } },
        },
        "receivers": { "otlp": { "protocols": { "grpc": at(otlp) } } },
        "processors": { "batch": { "timeout": "100ms" } },
        "exporters": { "jaeger_storage_exporter": { "trace_storage": "memory" } },
    })
    .to_string()
}
