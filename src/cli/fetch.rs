//! `walcast fetch`.

use super::arguments::FetchArguments;
use super::output::Output;
use super::{Failure, client, message};
use crate::proto::client::FetchRequest;

/// Writes the message.
pub async fn run(arguments: &FetchArguments, output: &mut Output) -> Result<(), Failure> {
    let server = &arguments.server.server;
    let mut client = client::connect(server).await?;
    let request = FetchRequest { subject: arguments.subject.clone(), id: arguments.id };
    let response = client.fetch(request).await.map_err(|status| {
        Failure::status(&format!("fetching message {} of {:?}", arguments.id, arguments.subject), server, &status)
    })?;
    message::write(output, response.get_ref(), arguments.format, false)
}
