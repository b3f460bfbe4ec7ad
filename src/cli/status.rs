//! `walcast status`: the admin port's `/status` on one screen.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde::Deserialize;

use super::arguments::StatusArguments;
use super::output::Output;
use super::{Exit, Failure};

/// Longest wait for the admin port, for each of connecting, sending and receiving.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer that is read: a status has some kilobytes, metrics some hundred.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What the broker says of itself. Parts are absent until it has opened them.
#[derive(Debug, Deserialize)]
struct Report {
    version: String,
    uptime_seconds: u64,
    ready: bool,
    phase: Option<String>,
    log: Option<Log>,
    ids: Option<Ids>,
    queue: Option<Queue>,
    hot_tail: Option<HotTail>,
    projector: Option<Projector>,
    delivery: Option<Delivery>,
    connections: Option<u64>,
    limits: Option<Limits>,
    cluster: Option<Cluster>,
}

/// What it is of a cluster; a broker that is alone says nothing of it.
#[derive(Debug, Deserialize)]
struct Cluster {
    node: String,
    version: u64,
    digest: String,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    slots: String,
    unreachable: bool,
}

#[derive(Debug, Deserialize)]
struct Log {
    id: String,
    epoch: u64,
    appended: Option<u64>,
    durable: u64,
    projected: u64,
    trimmed: u64,
    bytes: u64,
    files: u64,
}

#[derive(Debug, Deserialize)]
struct Ids {
    subjects: u64,
}

#[derive(Debug, Deserialize)]
struct Queue {
    bytes: u64,
    bytes_max: u64,
    publishes: u64,
}

#[derive(Debug, Deserialize)]
struct HotTail {
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug, Deserialize)]
struct Projector {
    store: String,
    lag_records: u64,
    state: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    subscribers: u64,
    topics: u64,
    bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    in_flight_publishes: Option<u64>,
    subjects: Option<u64>,
    subscribers: Option<u64>,
    delivery_bytes: Option<u64>,
    connections: Option<u64>,
}

/// Asks the broker and shows what it says.
pub fn run(arguments: &StatusArguments, output: &mut Output) -> Result<(), Failure> {
    let body = get(&arguments.admin)?;
    let wrong = |reason: serde_json::Error| {
        let admin = &arguments.admin;
        let message = format!("{admin} is not the admin port of a walcast broker: {reason}; give it with --admin");
        Failure::new(Exit::Failed, message)
    };
    let value: serde_json::Value = serde_json::from_str(&body).map_err(wrong)?;
    let report = Report::deserialize(&value).map_err(wrong)?;
    if arguments.json {
        output.json(&value)?;
    } else {
        screen(&report).iter().try_for_each(|line| output.line(line))?;
    }
    if arguments.ready && !report.ready {
        let message = format!("the broker at {} is {}", arguments.admin, state(&report));
        return Err(Failure::new(Exit::Unavailable, message));
    }
    Ok(())
}

fn state(report: &Report) -> &str {
    match (&report.phase, report.ready) {
        (_, true) => "ready",
        (Some(phase), false) => phase,
        (None, false) => "not ready",
    }
}

/// Which node of which layout it is, and whom it cannot reach.
fn node(Cluster { node, version, digest, nodes }: &Cluster) -> String {
    let slots = nodes.iter().find(|it| it.name == *node).map_or("", |own| own.slots.as_str());
    let slots = if slots.is_empty() { "none" } else { slots };
    let away: Vec<_> = nodes.iter().filter(|it| it.unreachable).map(|it| it.name.as_str()).collect();
    let away = if away.is_empty() { String::new() } else { format!(", cannot reach {}", away.join(", ")) };
    format!("{node} of {}, layout {version} (digest {digest}), slots {slots}{away}", nodes.len())
}

/// The lines of the screen: a name and its value.
fn screen(report: &Report) -> Vec<String> {
    let state = state(report);
    let uptime = humantime::format_duration(Duration::from_secs(report.uptime_seconds));
    let limits = report.limits.as_ref();
    let limit = |choose: fn(&Limits) -> Option<u64>| limits.and_then(choose);
    let mut rows = vec![("broker", format!("walcast {}, {state}, up {uptime}", report.version))];
    if let Some(cluster) = &report.cluster {
        rows.push(("node", node(cluster)));
    }
    if let Some(log) = &report.log {
        rows.push(("log", format!("{} in {} files, id {}, epoch {}", size(log.bytes), log.files, log.id, log.epoch)));
        let appended = log.appended.map(|appended| format!("appended {appended}, ")).unwrap_or_default();
        let positions =
            format!("{appended}durable {}, projected {}, trimmed {}", log.durable, log.projected, log.trimmed);
        rows.push(("positions", positions));
    }
    if let Some(projector) = &report.projector {
        let state = projector.state.as_ref().map(|state| format!(", {state}")).unwrap_or_default();
        rows.push(("store", format!("{}, {} records behind{state}", projector.store, projector.lag_records)));
    }
    if let Some(queue) = &report.queue {
        let publishes = of(queue.publishes, limit(|limits| limits.in_flight_publishes));
        rows.push(("queue", format!("{publishes} publishes, {} of {}", size(queue.bytes), size(queue.bytes_max))));
    }
    if let Some(hot) = &report.hot_tail {
        rows.push(("hot tail", format!("{} of {}", size(hot.bytes), size(hot.bytes_max))));
    }
    if let Some(ids) = &report.ids {
        rows.push(("subjects", of(ids.subjects, limit(|limits| limits.subjects))));
    }
    if let Some(delivery) = &report.delivery {
        let subscribers = of(delivery.subscribers, limit(|limits| limits.subscribers));
        let unread_max = limit(|limits| limits.delivery_bytes).map(|max| format!(" of {}", size(max)));
        let unread = format!("{}{} unread", size(delivery.bytes), unread_max.unwrap_or_default());
        rows.push(("subscribers", format!("{subscribers} on {} subjects, {unread}", delivery.topics)));
    }
    if let Some(connections) = report.connections {
        rows.push(("connections", of(connections, limit(|limits| limits.connections))));
    }
    rows.into_iter().map(|(name, value)| format!("{name:12}{value}")).collect()
}

fn of(value: u64, limit: Option<u64>) -> String {
    limit.map_or_else(|| value.to_string(), |limit| format!("{value} of {limit}"))
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// The body of the answer to `GET /status`.
pub(super) fn get(admin: &str) -> Result<String, Failure> {
    get_path(admin, "/status")
}

/// The body of the answer to `GET` of a path. HTTP/1.0 keeps it simple: the answer ends with the connection.
pub(super) fn get_path(admin: &str, path: &str) -> Result<String, Failure> {
    let (status, body) = call(admin, &format!("GET {path}"), "", TIMEOUT)?;
    if status.split(' ').nth(1) != Some("200") {
        let message = format!("{admin} answered `{status}`; is it the admin port of a walcast broker?");
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(body)
}

/// Calls the admin port, as `GET /status`; gives the first line of the answer, and what follows its head.
pub(super) fn call(admin: &str, what: &str, body: &str, patience: Duration) -> Result<(String, String), Failure> {
    let wrong = || {
        let message = format!("the admin address {admin} is not a URL such as http://127.0.0.1:9464");
        Failure::new(Exit::Usage, message)
    };
    let url = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
    let request = format!(
        "{what} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(host, uri.port_u16().unwrap_or(80), &request, patience).map_err(|error| {
        let way_out = "is a broker running (`walcast serve`), and is --admin its admin address?";
        Failure::new(Exit::Unavailable, format!("cannot reach the admin port at {admin}: {error}; {way_out}"))
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

fn exchange(host: &str, port: u16, request: &str, patience: Duration) -> io::Result<String> {
    let host_name = host.trim_matches(['[', ']']);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host_name, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return ask(stream, request, patience),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(mut stream: TcpStream, request: &str, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::output::tests::Captured;
    use super::*;

    const BODY: &str = r#"{"version":"0.1.0","uptime_seconds":3700,"ready":true,"phase":"serving",
        "log":{"id":"ab","epoch":2,"durable":9,"projected":7,"trimmed":1,"bytes":134217728,"files":2},
        "ids":{"subjects":3},"queue":{"bytes":0,"bytes_max":268435456,"publishes":4},
        "hot_tail":{"bytes":1024,"bytes_max":67108864},
        "projector":{"store":"embedded","lag_records":2},
        "delivery":{"subscribers":5,"topics":2,"bytes":0},"connections":6,
        "limits":{"subscribers":100000,"in_flight_publishes":65536,"later":1}}"#;

    /// An admin port that answers once.
    fn admin(status: &'static str, body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let read = stream.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET /status HTTP/1.0\r\n"));
            write!(stream, "HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}").expect("written");
        });
        url
    }

    fn shown(admin: String, json: bool) -> Result<String, Failure> {
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        run(&StatusArguments { admin, json, ready: false }, &mut output)?;
        output.flush()?;
        Ok(captured.text())
    }

    #[test]
    fn one_screen_names_what_an_operator_asks_first() {
        let text = shown(admin("200 OK", BODY), false).expect("shown");
        let expected = "\
broker      walcast 0.1.0, ready, up 1h 1m 40s
log         128.0 MiB in 2 files, id ab, epoch 2
positions   durable 9, projected 7, trimmed 1
store       embedded, 2 records behind
queue       4 of 65536 publishes, 0 B of 256.0 MiB
hot tail    1.0 KiB of 64.0 MiB
subjects    3
subscribers 5 of 100000 on 2 subjects, 0 B unread
connections 6
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_node_says_which_it_is_and_whom_it_cannot_reach() {
        let body = r#"{"version":"0.1.0","uptime_seconds":0,"ready":true,"phase":"serving",
            "cluster":{"node":"b","version":4,"digest":"00ab","nodes":[
            {"name":"a","address":"h:1","slots":"0-1023","unreachable":true},
            {"name":"b","address":"h:2","slots":"","unreachable":false}]}}"#;
        let expected = "\
broker      walcast 0.1.0, ready, up 0s
node        b of 2, layout 4 (digest 00ab), slots none, cannot reach a
";
        assert_eq!(shown(admin("200 OK", body), false).expect("shown"), expected);
    }

    #[test]
    fn json_is_the_brokers_own_answer_on_one_line() {
        let line = shown(admin("200 OK", BODY), true).expect("shown");
        assert_eq!(line.lines().count(), 1);
        let value = |text| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&line), value(BODY));
    }

    #[test]
    fn a_broker_that_is_still_opening_has_parts_missing() {
        let body = r#"{"version":"0.1.0","uptime_seconds":0,"ready":false,"phase":"starting"}"#;
        assert_eq!(shown(admin("200 OK", body), false).expect("shown"), "broker      walcast 0.1.0, starting, up 0s\n");
    }

    #[test]
    fn a_health_check_fails_until_the_broker_is_ready() {
        let check = |body| {
            let captured = Captured::default();
            let mut output = Output::to(captured.clone());
            let arguments = StatusArguments { admin: admin("200 OK", body), json: false, ready: true };
            let checked = run(&arguments, &mut output);
            output.flush().expect("flushed");
            (checked.map_err(|failure| failure.exit()), captured.text().starts_with("broker "))
        };
        assert_eq!(check(BODY), (Ok(()), true));
        let starting = r#"{"version":"0.1.0","uptime_seconds":0,"ready":false,"phase":"starting"}"#;
        assert_eq!(check(starting), (Err(Exit::Unavailable), true));
    }

    #[test]
    fn what_is_no_admin_port_is_named() {
        for (status, body) in [("200 OK", "hello"), ("404 Not Found", "")] {
            let failure = shown(admin(status, body), false).expect_err("no status");
            assert_eq!(failure.exit(), Exit::Failed);
            assert!(failure.message().is_some_and(|message| message.contains("admin port of a walcast broker")));
        }
        let failure = shown("http://127.0.0.1:1".to_owned(), false).expect_err("nothing listens");
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert_eq!(shown("ftp://x".to_owned(), false).expect_err("no http").exit(), Exit::Usage);
    }
}
