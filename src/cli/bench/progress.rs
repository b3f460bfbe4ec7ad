//! Progress: a line a second, on a terminal in place, elsewhere one below the other.

use std::future::Future;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output;
use super::record::Tally;

/// Shows what `tally` counts, each second until `work` is done.
pub async fn show<T>(unit: &str, tally: &Tally, work: impl Future<Output = T>) -> T {
    let bar = output::is_terminal().then(spinner);
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    let mut before = tally.read();
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                return result;
            }
            _ = ticks.tick() => {
                let now = tally.read();
                let line = line(started.elapsed(), unit, now.0 - before.0, now.1 - before.1);
                before = now;
                match &bar {
                    Some(bar) => bar.set_message(line),
                    None => output::note(&line),
                }
            }
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn line(elapsed: Duration, unit: &str, done: u64, failed: u64) -> String {
    let errors = if failed == 0 { String::new() } else { format!(", {failed} errors/s") };
    format!("{:>4} s  {done} {unit}/s{errors}", elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_rate_and_errors_where_there_are_some() {
        assert_eq!(line(Duration::from_millis(3100), "publishes", 500, 0), "   3 s  500 publishes/s");
        assert_eq!(line(Duration::from_secs(12), "fetches", 0, 7), "  12 s  0 fetches/s, 7 errors/s");
    }
}
