//! Connections to a broker.

use std::future::Future;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::failure::innermost;
use super::{Exit, Failure};
use crate::event::limits::BODY_BYTES_CEILING;
use crate::proto::client::broker_client::BrokerClient;

/// A broker on the same machine answers at once, one far away within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for an answer: far above the server's own bound for admission.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a response adds to its body: subject, id, time and their tags.
const RESPONSE_OVERHEAD_BYTES: usize = 1024;

/// Flow-control windows for streams of messages, so that the network and not the window sets the pace.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Runs a client command on this thread.
pub fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| cannot_start(&error))?.block_on(command)
}

/// The process cannot start a runtime.
pub fn cannot_start(error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("cannot start the client: {error}; is the limit of open files or threads reached?"),
    )
}

/// A connection of its own to the broker at `server`.
pub async fn connect(server: &str) -> Result<BrokerClient<Channel>, Failure> {
    let channel = endpoint(server)?.connect().await.map_err(|error| {
        let reason = innermost(&error);
        let way_out = "start one with `walcast serve` or name another with --server";
        Failure::new(Exit::Unavailable, format!("cannot reach a broker at {server}: {reason}; {way_out}"))
    })?;
    Ok(BrokerClient::new(channel).max_decoding_message_size(BODY_BYTES_CEILING + RESPONSE_OVERHEAD_BYTES))
}

fn endpoint(server: &str) -> Result<Endpoint, Failure> {
    let wrong = |reason: &str| {
        let message = format!("the server address {server} {reason}; write it like http://127.0.0.1:50051");
        Failure::new(Exit::Usage, message)
    };
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    if url.starts_with("https://") {
        return Err(wrong("asks for TLS, which is not in this build yet"));
    }
    let endpoint = Endpoint::from_shared(url).map_err(|_| wrong("is not a URL"))?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
        return Err(wrong("is not a http URL"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_out_the_scheme() {
        for server in ["http://127.0.0.1:50051", "127.0.0.1:50051", "localhost:1", "http://[::1]:1"] {
            assert!(endpoint(server).is_ok(), "{server}");
        }
        for server in ["https://h:1", "", "ftp://h", "not a url"] {
            let failure = endpoint(server).expect_err(server);
            assert_eq!(failure.exit(), Exit::Usage, "{server}");
        }
    }

    #[test]
    fn an_unreachable_broker_is_named_with_the_way_out() {
        // Port 1 of the loopback address: nothing listens there.
        let failure = block_on(connect("http://127.0.0.1:1")).map(drop).expect_err("nothing listens");
        assert_eq!(failure.exit().code(), 5);
        let message = failure.message().expect("a sentence");
        assert!(message.starts_with("cannot reach a broker at http://127.0.0.1:1: "), "{message}");
        assert!(message.contains("refused") && message.contains("walcast serve"), "{message}");
    }
}
