//! The HTTP API of Prometheus, as far as the tests ask it.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A series: its labels, and what it was at which time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// With `__name__`, if it has a name.
    pub labels: BTreeMap<String, String>,
    /// Unix time in seconds, and the value; one point of an instant query.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// The last value.
    pub fn value(&self) -> f64 {
        self.points.last().expect("Prometheus gives no series without a point").1
    }

    /// The value of a label; empty when it is not there, as in PromQL.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Its rule's name.
    pub name: String,
    /// `pending` or `firing`.
    pub state: String,
    /// Of the rule and of the series.
    pub labels: BTreeMap<String, String>,
    /// With values put in.
    pub annotations: BTreeMap<String, String>,
}

/// A rule as Prometheus has loaded it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Of the alert or of the recorded series.
    pub name: String,
    /// `alerting` or `recording`.
    pub kind: String,
    /// The expression.
    pub query: String,
    /// `ok`, `err`, or `unknown` before its first evaluation.
    pub health: String,
    /// Why it could not be evaluated; empty if it could.
    pub last_error: String,
}

/// Asks, and gives the `data` of the answer.
///
/// # Errors
/// What Prometheus says about the question, or that it cannot be reached.
pub async fn ask(address: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let answer = get(address, &format!("{path}?{}", parameters.join("&"))).await.map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let mut answer: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
    match answer["status"].as_str() {
        Some("success") => Ok(answer["data"].take()),
        _ => Err(answer["error"].as_str().unwrap_or(body).to_owned()),
    }
}

/// `GET` in HTTP/1.0: its answers come in one piece and end with the connection.
async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The series of an answer to a query. A scalar is a series without labels.
pub fn series(data: &Value) -> Vec<Series> {
    if data["resultType"] == "scalar" {
        return vec![Series { labels: BTreeMap::new(), points: vec![point(&data["result"])] }];
    }
    let all = data["result"].as_array().expect("an array of series");
    let of_one = |one: &Value| match one["values"].as_array() {
        Some(points) => points.iter().map(point).collect(),
        None => vec![point(&one["value"])],
    };
    all.iter().map(|one| Series { labels: labels(&one["metric"]), points: of_one(one) }).collect()
}

fn point(point: &Value) -> (f64, f64) {
    let value = point[1].as_str().and_then(|text| text.parse().ok()); // NaN and +Inf are texts, too
    (point[0].as_f64().expect("a time"), value.expect("a number"))
}

fn labels(labels: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    labels.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// The alerts of an answer.
pub fn alerts(data: &Value) -> Vec<Alert> {
    let all = data["alerts"].as_array().expect("an array of alerts");
    let of_one = |one: &Value| Alert {
        name: one["labels"]["alertname"].as_str().expect("each alert has a name").to_owned(),
        state: one["state"].as_str().expect("each alert has a state").to_owned(),
        labels: labels(&one["labels"]),
        annotations: labels(&one["annotations"]),
    };
    all.iter().map(of_one).collect()
}

/// The rules of an answer, of all groups.
pub fn rules(data: &Value) -> Vec<Rule> {
    let groups = data["groups"].as_array().expect("an array of groups");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_one = |one: &Value| Rule {
        name: text(&one["name"]),
        kind: text(&one["type"]),
        query: text(&one["query"]),
        health: text(&one["health"]),
        last_error: text(&one["lastError"]),
    };
    groups.iter().flat_map(|group| group["rules"].as_array().expect("an array of rules")).map(of_one).collect()
}
