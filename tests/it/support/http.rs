//! Just enough HTTP/1.1 for the admin port.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer of the admin port.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The headers, as sent.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// `GET`; None when the port cannot be reached or closes without an answer.
pub async fn get(address: &str, path: &str) -> Option<HttpAnswer> {
    ask(address, "GET", path).await
}

/// `POST` of nothing; None when the port cannot be reached or closes without an answer.
#[allow(dead_code, reason = "other suites use it")]
pub async fn post(address: &str, path: &str) -> Option<HttpAnswer> {
    ask(address, "POST", path).await
}

async fn ask(address: &str, method: &str, path: &str) -> Option<HttpAnswer> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (headers, body) = answer.split_once("\r\n\r\n")?;
    let status = headers.split(' ').nth(1)?.parse().ok()?;
    Some(HttpAnswer { status, headers: headers.to_owned(), body: body.to_owned() })
}

impl HttpAnswer {
    /// The sum of a metric over its label sets; 0 when it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        self.body
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                (rest.starts_with(' ') || rest.starts_with('{')).then(|| rest.rsplit(' ').next())??.parse::<f64>().ok()
            })
            .sum()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }
}

#[test]
fn a_metric_is_summed_over_its_labels_and_not_over_longer_names() {
    let body = "# TYPE a counter\na{x=\"1 2\"} 3\na{x=\"2\"} 4\na_total 100\nb 0.5\n".to_owned();
    let answer = HttpAnswer { status: 200, headers: String::new(), body };
    assert_eq!(answer.metric("a"), 7.0);
    assert_eq!(answer.metric("b"), 0.5);
    assert_eq!(answer.metric("c"), 0.0);
}
