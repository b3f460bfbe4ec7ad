//! What the clients' commands take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Which broker a client talks to.
#[derive(Debug, Clone, Args)]
pub struct ServerArguments {
    /// Address of the broker's gRPC port
    #[arg(long, value_name = "URL", env = "WALCAST_SERVER", default_value = "http://127.0.0.1:50051")]
    pub server: String,
}

/// How messages are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// The body as it is
    Body,
    /// One JSON object a line: subject, id, `published_at`, `body_base64`, and body where it is UTF-8
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct PublishArguments {
    /// 1 to 255 bytes of text without control characters
    pub subject: String,
    /// The message, or `-` for standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub body: Option<String>,
    /// How long Fetch finds the message, in whole seconds; without it, it is delivered and not kept
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, default_value = "0s")]
    pub expires: i32,
    /// Idempotency key: published again with the same key, it is the same message, and the answer is its id
    #[arg(long, value_name = "KEY", conflicts_with = "lines")]
    pub key: Option<String>,
    /// Take the message from this file
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// One message a line of the file or of standard input, in order: each is acknowledged before the next is sent
    #[arg(long)]
    pub lines: bool,
    /// With --lines: send up to this many lines ahead of their acknowledgements; after a refused line some may be published
    #[arg(long, value_name = "N", requires = "lines", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// Print one JSON object a message instead of its id
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct SubscribeArguments {
    /// The subject
    pub subject: String,
    /// First every message after this id that can still be had, then what is published; 0 for all there is
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub after: Option<i32>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// How messages are shown; a body is followed by a newline
    #[arg(long, value_enum, default_value = "body")]
    pub format: MessageFormat,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct FetchArguments {
    /// The subject
    pub subject: String,
    /// The id that publishing returned
    #[arg(allow_negative_numbers = true)]
    pub id: i32,
    /// How the message is shown; a body is written byte for byte, with nothing added
    #[arg(long, value_enum, default_value = "body")]
    pub format: MessageFormat,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Address of the broker's admin port
    #[arg(long, value_name = "URL", env = "WALCAST_ADMIN", default_value = "http://127.0.0.1:9464")]
    pub admin: String,
    /// Print the broker's answer as it is, one JSON object
    #[arg(long)]
    pub json: bool,
    /// Exit with 5 if the broker is not ready, as health checks want it
    #[arg(long)]
    pub ready: bool,
}

/// A duration of whole seconds that fits the contract's `int32`.
pub fn whole_seconds(text: &str) -> Result<i32, String> {
    let span = duration(text)?;
    if span.subsec_nanos() != 0 {
        return Err("the contract counts whole seconds".to_owned());
    }
    i32::try_from(span.as_secs()).map_err(|_| format!("at most {} seconds", i32::MAX))
}

/// A duration such as `2ms`, `60s` or `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 2ms, 60s or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_whole_seconds() {
        assert_eq!(whole_seconds("60s"), Ok(60));
        assert_eq!(whole_seconds("2h"), Ok(7200));
        assert_eq!(whole_seconds("0"), Ok(0));
        assert!(whole_seconds("500ms").is_err_and(|reason| reason.contains("whole seconds")));
        assert!(whole_seconds("100years").is_err_and(|reason| reason.contains("2147483647")));
        assert!(whole_seconds("60").is_err_and(|reason| reason.contains("60s")));
    }
}
