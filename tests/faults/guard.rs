//! One run of a rig, whatever becomes of it.

use std::time::Duration;

/// Runs a rig in a task of its own, for `within` at most; its panic is a sentence, since it is a cell of a table.
pub async fn guarded<Report: Send + 'static>(
    rig: impl Future<Output = Report> + Send + 'static,
    within: Duration,
) -> Result<Report, String> {
    let task = tokio::spawn(rig);
    let abort = task.abort_handle();
    match tokio::time::timeout(within, task).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) => Err(error.try_into_panic().map_or_else(|error| error.to_string(), |panic| text_of(&*panic))),
        Err(_) => {
            abort.abort();
            Err(format!("it did not end within {} s", within.as_secs()))
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text: String = text.unwrap_or("without a text").chars().take(2_000).collect();
    format!("the rig panicked: {}", text.replace('\n', " "))
}
