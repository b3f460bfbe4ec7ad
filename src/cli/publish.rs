//! `walcast publish`.

mod pipeline;

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tonic::transport::Channel;

use super::arguments::PublishArguments;
use super::output::Output;
use super::{Exit, Failure, client};
use crate::event::limits::BODY_BYTES_CEILING;
use crate::proto::client::PublishRequest;
use crate::proto::client::broker_client::BrokerClient;

/// What was published, as JSON.
#[derive(Debug, Serialize)]
struct Published<'a> {
    subject: &'a str,
    id: i32,
}

/// A source of bodies. It is read without blocking: the connection answers pings while it waits.
type Source = Box<dyn AsyncBufRead + Send + Unpin>;

/// Publishes and writes the ids.
pub async fn run(arguments: &PublishArguments, output: &mut Output) -> Result<(), Failure> {
    if arguments.key.as_deref() == Some("") {
        // The wire cannot tell it from none.
        return Err(Failure::new(Exit::Usage, "--key is empty; give 1 to 255 bytes, or leave it out"));
    }
    let source = open(arguments).await?;
    if arguments.lines && source.is_none() {
        let message = "--lines reads a file or standard input: give --file or `-` in place of the body";
        return Err(Failure::new(Exit::Usage, message));
    }
    let mut publisher =
        Publisher { client: client::connect(&arguments.server.server).await?, arguments, output, line: None };
    match source {
        None => publisher.publish(Bytes::from(arguments.body.clone().unwrap_or_default())).await,
        Some(source) if arguments.lines && arguments.in_flight > 1 => {
            let Publisher { client, output, .. } = publisher;
            pipeline::publish_lines(client, arguments, output, source).await
        }
        Some(source) if arguments.lines => publish_lines(&mut publisher, source).await,
        Some(source) => {
            let body = read_whole(source).await?;
            publisher.publish(body).await
        }
    }
}

struct Publisher<'a> {
    client: BrokerClient<Channel>,
    arguments: &'a PublishArguments,
    output: &'a mut Output,
    /// The line that is being published, from 1.
    line: Option<u64>,
}

impl Publisher<'_> {
    async fn publish(&mut self, body: Bytes) -> Result<(), Failure> {
        let response = self.client.publish(request(self.arguments, body)).await.map_err(|status| {
            let what = publishing(self.arguments, self.line);
            Failure::status(&what, &self.arguments.server.server, &status)
        })?;
        write_id(self.arguments, self.output, response.get_ref().id)?;
        // The next line may be long in coming, and its reader waits for this answer.
        self.output.flush()
    }
}

fn request(arguments: &PublishArguments, body: Bytes) -> PublishRequest {
    PublishRequest {
        subject: arguments.subject.clone(),
        body,
        expiration_seconds: arguments.expires,
        idempotency_key: arguments.key.clone().unwrap_or_default(),
    }
}

/// What was tried, for the begin of a sentence.
fn publishing(arguments: &PublishArguments, line: Option<u64>) -> String {
    let subject = &arguments.subject;
    match line {
        Some(line) => format!("publishing line {line} on {subject:?}"),
        None => format!("publishing on {subject:?}"),
    }
}

fn write_id(arguments: &PublishArguments, output: &mut Output, id: i32) -> Result<(), Failure> {
    if arguments.json {
        return output.json(&Published { subject: &arguments.subject, id });
    }
    output.line(id.to_string())
}

/// The next line without its newline; None at the end.
async fn next_line(source: &mut Source, number: u64) -> Result<Option<Bytes>, Failure> {
    let mut line = Vec::new();
    let read = source.take(BODY_BYTES_CEILING as u64 + 2).read_until(b'\n', &mut line).await;
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read line {number}: {error}")))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > BODY_BYTES_CEILING {
        return Err(too_large(&format!("line {number}")));
    }
    Ok(Some(Bytes::from(line)))
}

/// One message a line, without its newline. Unary calls may overtake each other, so one is in flight at a time.
async fn publish_lines(publisher: &mut Publisher<'_>, mut source: Source) -> Result<(), Failure> {
    let mut number = 1;
    while let Some(line) = next_line(&mut source, number).await? {
        publisher.line = Some(number);
        publisher.publish(line).await?;
        number += 1;
    }
    Ok(())
}

async fn open(arguments: &PublishArguments) -> Result<Option<Source>, Failure> {
    match (&arguments.file, arguments.body.as_deref()) {
        (Some(path), _) => Ok(Some(Box::new(BufReader::new(open_file(path).await?)))),
        (None, Some("-")) => Ok(Some(Box::new(BufReader::new(tokio::io::stdin())))),
        (None, _) => Ok(None),
    }
}

async fn open_file(path: &Path) -> Result<tokio::fs::File, Failure> {
    tokio::fs::File::open(path)
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display())))
}

async fn read_whole(source: Source) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    let read = source.take(BODY_BYTES_CEILING as u64 + 1).read_to_end(&mut body).await;
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read the message: {error}")))?;
    if body.len() > BODY_BYTES_CEILING {
        return Err(too_large("the message"));
    }
    Ok(Bytes::from(body))
}

fn too_large(what: &str) -> Failure {
    let limit = BODY_BYTES_CEILING / (1024 * 1024);
    Failure::new(Exit::Failed, format!("{what} is over {limit} MiB, the largest body that any broker takes; split it"))
}
