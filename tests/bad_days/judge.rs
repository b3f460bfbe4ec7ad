//! The bounds of answer times and of the backlog: judgements of figures alone, so that figures on both sides of each bound
//! can be put before them. [`knows_its_bounds`] does so at each run, because no control can hold a full run's bounds.

use hdrhistogram::Histogram;

use crate::table::{Answers, Drain};

/// A publish during a bad day may take this many times as long as on a calm one.
const P99_RATIO_MAX: f64 = 1.5;
/// What the clocks of rig and machine add to an answer time at random.
const P99_NOISE_MS: f64 = 1.0;
/// Where the machine is shared and stretches are short, percentiles are those of the machine: then only a standstill shows.
const P99_SHORT_MAX_MS: f64 = 1_500.0;
/// The backlog must go this much faster than it grows.
const DRAIN_RATIO_MIN: f64 = 2.0;
/// A smaller backlog is gone in a batch or two after the broker's pause: the rate is that of the pause.
const JUDGED_BACKLOG_SECONDS: f64 = 10.0;
/// A backlog of seconds is gone by then, whatever the broker's pause was.
pub const SMALL_DRAINED_SECONDS: f64 = 8.0;

/// Judges answer times in microseconds, of each calm stretch and of the bad one.
pub fn answers(calm: &[Histogram<u64>], bad: &Histogram<u64>, thorough: bool) -> (Answers, Result<(), String>) {
    let mut all = Histogram::new(3).expect("three digits");
    let mut worst_calm_ms = 0.0_f64;
    for stretch in calm {
        all.add(stretch).expect("it resizes itself");
        worst_calm_ms = worst_calm_ms.max(p99_ms(stretch));
    }
    let answers = Answers { calm_ms: p99_ms(&all), bad_ms: p99_ms(bad) };
    // The percentile of nothing is 0.
    if bad.is_empty() || all.is_empty() {
        return (answers, Err("no publish was answered in the calm, or none in the trouble".to_owned()));
    }
    let limit_ms =
        if thorough { (worst_calm_ms * P99_RATIO_MAX).max(answers.calm_ms + P99_NOISE_MS) } else { P99_SHORT_MAX_MS };
    let verdict = if answers.bad_ms <= limit_ms {
        Ok(())
    } else {
        Err(format!("publish p99 was {:.1} ms, more than {limit_ms:.1} ms", answers.bad_ms))
    };
    (answers, verdict)
}

fn p99_ms(histogram: &Histogram<u64>) -> f64 {
    histogram.value_at_quantile(0.99) as f64 / 1_000.0
}

/// Judges how a backlog of so many seconds of load went in `seconds`: so many records for each one that came meanwhile.
/// A small one must be gone within `small_drained_seconds`.
pub fn drain(behind_seconds: f64, ratio: f64, seconds: f64, small_drained_seconds: f64) -> (Drain, Result<(), String>) {
    let judged = behind_seconds >= JUDGED_BACKLOG_SECONDS;
    let verdict = if judged && ratio < DRAIN_RATIO_MIN {
        Err(format!("the backlog drains at {ratio:.2} times the rate of ingest"))
    } else if !judged && seconds >= small_drained_seconds {
        Err(format!("a backlog of {behind_seconds:.1} s was there for another {seconds:.1} s"))
    } else {
        Ok(())
    };
    (Drain { ratio: judged.then_some(ratio), behind_seconds, seconds }, verdict)
}

/// Puts figures on both sides of every bound before the judgements, and says which were judged wrongly.
pub fn knows_its_bounds() -> Result<(), String> {
    // All other answers are as quick as on the best of days, so that it is the percentile that is judged.
    let stretch = |slow_ms: &[u64]| {
        let mut answers = Histogram::new(3).expect("three digits");
        answers.record_n(1_000, 100 - slow_ms.len() as u64).expect("it resizes itself");
        slow_ms.iter().for_each(|ms| answers.record(ms * 1_000).expect("it resizes itself"));
        answers
    };
    let calm = [stretch(&[50, 50]), stretch(&[100, 100])];
    let at_ease = [stretch(&[])];
    let none = Histogram::new(3).expect("three digits");
    let times = |calm: &[Histogram<u64>], bad: &Histogram<u64>, thorough| answers(calm, bad, thorough).1.is_ok();
    let backlog = |behind, ratio, seconds| drain(behind, ratio, seconds, SMALL_DRAINED_SECONDS).1.is_ok();
    let cases = [
        ("a p99 of 1.49 times the worst calm one", times(&calm, &stretch(&[149, 149]), true), true),
        ("a p99 of 1.51 times the worst calm one", times(&calm, &stretch(&[151, 151]), true), false),
        ("one slow answer in a hundred", times(&calm, &stretch(&[9_000]), true), true),
        ("0.9 ms more than 1 ms", times(&at_ease, &quick(1_900), true), true),
        ("1.1 ms more than 1 ms", times(&at_ease, &quick(2_100), true), false),
        ("1.4 s in a short run", times(&calm, &stretch(&[1_400, 1_400]), false), true),
        ("1.6 s in a short run", times(&calm, &stretch(&[1_600, 1_600]), false), false),
        ("no answer during the trouble", times(&calm, &none, true), false),
        ("no answer during the trouble of a short run", times(&calm, &none, false), false),
        ("no answer in the calm", times(&[], &stretch(&[]), false), false),
        ("a backlog that drains at 2.01", backlog(10.0, 2.01, 60.0), true),
        ("a backlog that drains at 1.99", backlog(10.0, 1.99, 1.0), false),
        ("a small backlog gone in 7.9 s", backlog(9.9, 0.5, 7.9), true),
        ("a small backlog gone in 8.1 s", backlog(9.9, 9.0, 8.1), false),
    ];
    let wrong: Vec<&str> = cases.iter().filter(|(_, said, meant)| said != meant).map(|(name, ..)| *name).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("judged wrongly: {}", wrong.join(", "))) }
}

/// A hundred answers after so many microseconds.
fn quick(micros: u64) -> Histogram<u64> {
    let mut answers = Histogram::new(3).expect("three digits");
    answers.record_n(micros, 100).expect("it resizes itself");
    answers
}
