//! Into standard output.

use super::super::super::Failure;
use super::super::super::output::Output;
use super::super::show::shown_record;
use super::Replay;
use super::checkpoint::Ranges;
use crate::event::Sequence;

/// Writes every record as a JSON line; it has arrived once the reader has taken it. They are handed over a frame at once,
/// and before every wait.
pub(super) async fn replay(replay: &mut Replay, output: &mut Output) -> Result<Ranges, Failure> {
    let mut through = Sequence::new(replay.after);
    'frames: while let Some(chunk) = replay.next().await {
        let chunk = chunk?;
        for selected in &chunk.selected {
            if let Some(turn) = replay.pace.wait() {
                hand_over(through, replay, output)?;
                replay.pause(turn).await;
            }
            if replay.stop.is_cancelled() {
                break 'frames;
            }
            output.json(&shown_record(selected.sequence, &selected.message.record(), false))?;
            replay.arrived += 1;
            through = selected.sequence;
        }
        through = chunk.through;
        hand_over(through, replay, output)?;
        if replay.stop.is_cancelled() {
            break;
        }
    }
    hand_over(through, replay, output)?;
    Ok(Ranges::default())
}

/// Everything up to `through` was written.
fn hand_over(through: Sequence, replay: &mut Replay, output: &mut Output) -> Result<(), Failure> {
    output.flush()?;
    replay.reached(through, Ranges::default)
}
