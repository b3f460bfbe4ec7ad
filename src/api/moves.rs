//! `POST /cluster/move` of the admin port: an operator gives slots of this node to another one.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;

use super::admin::Admin;
use super::lifecycle::Phase;
use crate::cluster::SlotSet;
use crate::transfer::{GiveError, Given};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Ranges joined by `+`.
    slots: String,
    /// The node that gets them.
    to: String,
}

/// Moves slots; answers when the move is over. It goes on when the asker is gone.
pub(super) async fn give(State(admin): State<Admin>, Json(Wanted { slots, to }): Json<Wanted>) -> Response {
    let slots = match slots.parse::<SlotSet>() {
        Ok(slots) => slots,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Some(asker) = admin.report.mover() else {
        return failed(StatusCode::CONFLICT, "this broker is in no cluster, or is not ready yet");
    };
    if admin.lifecycle.phase() == Phase::Starting {
        // It may have given these slots away before its volume was set back, and is asking the others.
        return failed(StatusCode::SERVICE_UNAVAILABLE, "the node is not ready yet");
    }
    match asker.give(slots, to.clone()).await {
        Some(Ok(Given { slots, records, pause, version })) => Json(serde_json::json!({
            "slots": slots.to_string(),
            "to": to,
            "records": records,
            "pause_seconds": pause.as_secs_f64(),
            "layout": version,
        }))
        .into_response(),
        Some(Err(error)) => failed(code(&error), &error.to_string()),
        None => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node ends, or another move waits; ask again who owns the slots",
        ),
    }
}

fn failed(code: StatusCode, error: &str) -> Response {
    (code, Json(serde_json::json!({ "error": error }))).into_response()
}

/// 409 for what stays so until somebody acts, 503 for what passes.
fn code(error: &GiveError) -> StatusCode {
    match error {
        GiveError::NoSlots => StatusCode::BAD_REQUEST,
        GiveError::NotOwned { .. }
        | GiveError::NoSuchNode { .. }
        | GiveError::DeadLetters { .. }
        | GiveError::Refused { .. } => StatusCode::CONFLICT,
        GiveError::Busy { .. }
        | GiveError::Unavailable { .. }
        | GiveError::Trimmed { .. }
        | GiveError::Read(_)
        | GiveError::NotIndexed
        | GiveError::Store(_)
        | GiveError::Copy(_)
        | GiveError::Publish(_)
        | GiveError::Kept(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
