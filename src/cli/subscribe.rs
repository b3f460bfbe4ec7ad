//! `walcast subscribe`.

use futures_util::StreamExt as _;

use super::arguments::SubscribeArguments;
use super::output::{self, Output};
use super::{Exit, Failure, client, message};
use crate::proto::client::SubscribeRequest;

/// Messages that are written before the reader is given what there is.
const BURST: usize = 256;

/// Writes messages until the count is reached or the stream ends.
pub async fn run(arguments: &SubscribeArguments, output: &mut Output) -> Result<(), Failure> {
    let server = &arguments.server.server;
    let what = format!("subscribing to {:?}", arguments.subject);
    let mut client = client::connect(server).await?;
    let request = SubscribeRequest { subject: arguments.subject.clone(), after_id: arguments.after };
    let response = client.subscribe(request).await.map_err(|status| Failure::status(&what, server, &status))?;
    // The headers are here: what is published from now on arrives.
    output::note(&format!("subscribed to {:?}", arguments.subject));
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut last = arguments.after;
    // Everything that is there already goes out in one write.
    let mut bursts = response.into_inner().ready_chunks(BURST);
    while let Some(burst) = bursts.next().await {
        for received in burst {
            let received = received.map_err(|status| ended(&following(arguments, last), server, &status, output))?;
            last = Some(received.id);
            message::write(output, &received, arguments.format, true)?;
            left -= 1;
            if left == 0 {
                return output.flush();
            }
        }
        output.flush()?;
    }
    let what = following(arguments, last);
    Err(Failure::new(Exit::Failed, format!("{what} failed: the broker ended the stream without a reason")))
}

/// What was being done, with the place to go on from.
fn following(arguments: &SubscribeArguments, last: Option<i32>) -> String {
    match last {
        Some(id) => format!("following {:?} after message {id}", arguments.subject),
        None => format!("following {:?}", arguments.subject),
    }
}

fn ended(what: &str, server: &str, status: &tonic::Status, output: &mut Output) -> Failure {
    // What came before the end is shown before the reason for it.
    output.flush().err().unwrap_or_else(|| Failure::status(what, server, status))
}
