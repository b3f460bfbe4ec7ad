//! How far long work is: a bar on a terminal, a line every few seconds elsewhere; both on standard error.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output;

/// How often a line is written where nobody looks at a terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Progress towards a known end.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    unit: &'static str,
    total: u64,
    done: u64,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Nothing of `total` is done.
    pub fn new(unit: &'static str, total: u64) -> Self {
        let bar = output::is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{wide_bar} {human_pos} of {human_len} {msg}, {per_sec}, {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(unit);
            bar
        });
        let now = Instant::now();
        Self { bar, unit, total, done: 0, started: now, said: now }
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            output::note(&line(self.unit, done, self.total, self.started.elapsed()));
        }
    }

    /// Makes room for what is said in the end.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(unit: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
    let left = total.saturating_sub(done) as f64 / rate.max(f64::EPSILON);
    if done == 0 {
        return format!("0 of {total} {unit}");
    }
    format!("{done} of {total} {unit}, {rate:.0}/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_rate_and_the_time_that_is_left() {
        assert_eq!(line("records", 500, 2_000, Duration::from_secs(5)), "500 of 2000 records, 100/s, 15 s left");
        assert_eq!(line("records", 0, 2_000, Duration::from_secs(5)), "0 of 2000 records");
    }
}
