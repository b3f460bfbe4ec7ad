//! Into standard output.

use tokio::time::sleep_until;

use super::super::super::Failure;
use super::super::super::output::Output;
use super::super::show::shown_record;
use super::Replay;
use super::checkpoint::Ranges;
use crate::event::record::Record;

/// Writes every record as a JSON line; a frame has arrived once the reader has taken it.
pub(super) async fn replay(replay: &mut Replay, output: &mut Output) -> Result<Ranges, Failure> {
    while !replay.stop.is_cancelled() {
        let Some(chunk) = replay.next().await else { break };
        let chunk = chunk?;
        for selected in &chunk.selected {
            sleep_until(replay.pace.next()).await;
            let message = &selected.message;
            let record = Record {
                subject: message.subject.as_str(),
                id: message.id,
                published_at: message.published_at,
                expiration: message.expiration,
                body: &message.body,
            };
            output.json(&shown_record(selected.sequence, &record, false))?;
            replay.arrived += 1;
        }
        output.flush()?;
        replay.reached(chunk.through, Ranges::default)?;
    }
    Ok(Ranges::default())
}
