//! The checks. Each starts with an empty place.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;

use super::samples::{
    LOG, PUBLISHED, apply, at, batch, equal, holds, id, lacks, mark, position, refuse, row, seconds, subject,
};
use super::{Check, Place};
use crate::event::{Expiration, MessageId, Sequence, UnixMicros};
use crate::projector::{HighWaterMark, Row, Store, StoreBatch};

type Outcome = Result<(), String>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), |place| Box::pin($name(place)))),*]
    };
}

pub(super) const WITH_HISTORY: &[Check] = checks![
    starts_empty,
    applies_rows_marks_and_position_together,
    applies_in_order_and_once,
    moves_the_position_without_rows,
    refuses_without_a_trace,
    writes_rows_again,
    keeps_bodies_byte_for_byte,
    keeps_a_mebibyte,
    tells_odd_subjects_apart,
    tells_the_same_id_on_other_subjects_apart,
    reads_a_subject_in_the_order_of_its_ids,
    reads_a_subject_page_by_page,
    keeps_high_water_marks,
    finds_until_it_expires,
    finds_every_life_time,
    frees_what_expired_and_keeps_the_rest,
    goes_on_after_a_row_came_expired,
    remembers_when_opened_again,
    refuses_another_log,
    waits_for_an_abandoned_batch,
    reads_beside_writes,
];

pub(super) const WITHOUT_HISTORY: &[Check] =
    checks![starts_empty, applies_in_order_and_once, moves_the_position_without_rows, takes_rows_again, finds_nothing];

async fn starts_empty(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    equal("the position", &position(&*store).await?, &at(0))?;
    equal("a mark", &mark(&*store, "s").await?, &None)?;
    lacks(&*store, "s", 1, PUBLISHED).await
}

async fn applies_rows_marks_and_position_together(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let rows = vec![row(1, "a", 1, 60, b"one")?, row(3, "b", 1, 3_600, b"two")?, row(4, "a", 2, 60, b"three")?];
    apply(&*store, &batch(0, 5, rows.clone())).await?;
    for row in &rows {
        holds(&*store, row, PUBLISHED).await?;
    }
    equal("the position", &position(&*store).await?, &at(5))?;
    equal("the mark of a", &mark(&*store, "a").await?, &Some(2))?;
    equal("the mark of b", &mark(&*store, "b").await?, &Some(1))
}

async fn applies_in_order_and_once(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let first = batch(0, 2, vec![row(1, "a", 1, 60, b"1")?]);
    apply(&*store, &first).await?;
    refuse(&*store, &first).await?;
    refuse(&*store, &batch(3, 4, vec![row(4, "a", 2, 60, b"2")?])).await?;
    refuse(&*store, &batch(1, 4, vec![row(4, "a", 2, 60, b"2")?])).await?;
    apply(&*store, &batch(2, 4, vec![row(4, "a", 2, 60, b"2")?])).await?;
    equal("the position", &position(&*store).await?, &at(4))
}

async fn moves_the_position_without_rows(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    apply(&*store, &batch(0, 7, Vec::new())).await?;
    equal("the position", &position(&*store).await?, &at(7))?;
    apply(&*store, &batch(7, 8, vec![row(8, "a", 1, 60, b"1")?])).await?;
    equal("the position", &position(&*store).await?, &at(8))
}

async fn refuses_without_a_trace(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let kept = row(1, "a", 1, 60, b"kept")?;
    apply(&*store, &batch(0, 1, vec![kept.clone()])).await?;
    refuse(&*store, &batch(5, 6, vec![row(6, "a", 1, 60, b"other")?, row(6, "b", 9, 60, b"new")?])).await?;
    holds(&*store, &kept, PUBLISHED).await?;
    lacks(&*store, "b", 9, PUBLISHED).await?;
    equal("the mark of b", &mark(&*store, "b").await?, &None)?;
    equal("the position", &position(&*store).await?, &at(1))
}

async fn writes_rows_again(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let there = vec![row(1, "a", 1, 60, b"one")?, row(2, "a", 2, 60, b"two")?];
    apply(&*store, &batch(0, 3, there.clone())).await?;
    // One that is there, one that this store never got, and one behind its position.
    let later = row(4, "a", 3, 3_600, b"four")?;
    let again = Arc::new(vec![there[0].clone(), row(3, "b", 1, 60, b"three")?, later.clone()]);
    for _ in 0..2 {
        store.rewrite(&again).await.map_err(|error| error.to_string())?;
    }
    equal("the position", &position(&*store).await?, &at(3))?;
    equal("the mark of a", &mark(&*store, "a").await?, &Some(2))?;
    equal("the mark of b", &mark(&*store, "b").await?, &None)?;
    apply(&*store, &batch(3, 4, vec![later])).await?;
    drop(store);
    let store = place.open(LOG).await?;
    equal("the position, opened again", &position(&*store).await?, &at(4))?;
    for row in again.iter().chain(&there) {
        holds(&*store, row, PUBLISHED).await?;
    }
    Ok(())
}

async fn takes_rows_again(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    store.rewrite(&Arc::new(vec![row(1, "a", 1, 60, b"one")?])).await.map_err(|error| error.to_string())?;
    equal("the position", &position(&*store).await?, &at(0))
}

async fn keeps_bodies_byte_for_byte(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let bodies: [&[u8]; 6] = [b"", b"\0", b"a\0b\0", b"\xff\xfe\xc3\x28", b"'; drop table messages; --\\", &every_byte];
    let mut rows = Vec::new();
    for (number, body) in (1u32..).zip(bodies) {
        rows.push(row(u64::from(number), "bytes", number, 60, body)?);
    }
    apply(&*store, &batch(0, rows.len() as u64, rows.clone())).await?;
    for row in &rows {
        holds(&*store, row, PUBLISHED).await?;
    }
    Ok(())
}

async fn keeps_a_mebibyte(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    // Does not compress, and ends in a byte of its own.
    let mut state = 1u32;
    let mut body: Vec<u8> = Vec::with_capacity(1 << 20);
    while body.len() < (1 << 20) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        body.push(state.to_le_bytes()[3]);
    }
    let rows = vec![row(1, "large", 1, 60, &body)?, row(2, "large", 2, 60, b"small")?, row(3, "large", 3, 60, &body)?];
    apply(&*store, &batch(0, 3, rows.clone())).await?;
    for row in &rows {
        holds(&*store, row, PUBLISHED).await?;
    }
    Ok(())
}

async fn tells_odd_subjects_apart(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let (longest, near) = ("x".repeat(255), format!("{}y", "x".repeat(254)));
    let four_bytes = "🦀".repeat(63);
    let subjects = [
        "a",
        "A",
        "ä",
        "a\u{308}",
        "a ",
        " a",
        "a.b",
        "a/b",
        "a%",
        "a_",
        "'",
        "\"",
        "`",
        ";",
        "'; drop table x; --",
        "\\",
        "$1",
        "{}",
        "null",
        "日本",
        "🦀",
        &four_bytes,
        &longest,
        &near,
    ];
    let mut rows = Vec::new();
    for (sequence, text) in (1u64..).zip(subjects) {
        rows.push(row(sequence, text, 1, 60, format!("of {text}").as_bytes())?);
    }
    apply(&*store, &batch(0, rows.len() as u64, rows.clone())).await?;
    for row in &rows {
        holds(&*store, row, PUBLISHED).await?;
        equal("a mark", &mark(&*store, row.subject.as_str()).await?, &Some(1))?;
    }
    lacks(&*store, &"x".repeat(254), 1, PUBLISHED).await
}

async fn tells_the_same_id_on_other_subjects_apart(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let mut rows = Vec::new();
    // Names that are prefixes of each other, and ids whose digits could belong to the name.
    for (sequence, (text, number)) in (1u64..).zip([("s", 1), ("s1", 1), ("s", 11), ("s1", 11), ("s11", 1), ("s", 256)])
    {
        rows.push(row(sequence, text, number, 60, format!("{text} {number}").as_bytes())?);
    }
    apply(&*store, &batch(0, rows.len() as u64, rows.clone())).await?;
    for row in &rows {
        holds(&*store, row, PUBLISHED).await?;
    }
    lacks(&*store, "s11", 11, PUBLISHED).await?;
    lacks(&*store, "s", 2, PUBLISHED).await
}

async fn reads_a_subject_in_the_order_of_its_ids(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    // Life times that lie apart, so that a store with one place for each of them has to merge.
    let mut rows = Vec::new();
    for number in 1..=40u32 {
        let life = [60, 604_800, 5, 3_600, 31_536_000][number as usize % 5];
        rows.push(row(u64::from(number) * 3, "run", number, life, &[number.to_le_bytes()[0]; 100])?);
        for beside in ["ru", "run0"] {
            rows.push(row(u64::from(number) * 3 + 1, beside, number, 60, b"another subject")?);
        }
    }
    for (number, rows) in (0u64..).zip(rows.chunks(30)) {
        apply(&*store, &batch(number * 200, number * 200 + 200, rows.to_vec())).await?;
    }
    let expected = |after: u32, now: UnixMicros, count: usize| -> Vec<_> {
        let live =
            rows.iter().filter(|row| row.subject.as_str() == "run" && now < row.expiration.expires_at(PUBLISHED));
        live.filter(|row| row.id.get() > after).take(count).map(|row| (row.id, row.body.clone())).collect()
    };
    let later = PUBLISHED.plus_seconds(5);
    for (after, now, messages_max, bytes_max, count) in [
        (0, PUBLISHED, 100, usize::MAX, 40),
        (17, PUBLISHED, 100, usize::MAX, 23),
        (17, PUBLISHED, 5, usize::MAX, 5),
        // The body that reaches the bound is the last.
        (0, PUBLISHED, 100, 1, 1),
        (3, PUBLISHED, 100, 300, 3),
        (3, PUBLISHED, 100, 301, 4),
        (0, later, 100, usize::MAX, 32),
        (38, later, 100, usize::MAX, 2),
        (40, PUBLISHED, 100, usize::MAX, 0),
        (u32::MAX, PUBLISHED, 100, usize::MAX, 0),
    ] {
        let found = store.after(&subject("run")?, after, messages_max, bytes_max, now).await;
        let found: Vec<_> = found.map_err(|error| error.to_string())?.into_iter().collect();
        let found: Vec<_> = found.into_iter().map(|(id, message)| (id, message.body)).collect();
        let what = format!("ids above {after}, at most {messages_max} and {bytes_max} bytes, at {}", now.as_micros());
        equal(&what, &found, &expected(after, now, count))?;
    }
    Ok(())
}

/// A store may read ahead for those who do this; nobody is to notice.
async fn reads_a_subject_page_by_page(place: &dyn Place) -> Outcome {
    const ROWS: u32 = 600;
    let store = place.open(LOG).await?;
    let mut rows = Vec::new();
    for number in 1..=ROWS {
        let life = [60, 604_800, 5, 3_600][number as usize % 4];
        rows.push(row(u64::from(number), "run", number, life, &[number.to_le_bytes()[0]; 50])?);
    }
    let (first, second) = rows.split_at(400);
    apply(&*store, &batch(0, 400, first.to_vec())).await?;
    let expected = |live_at: &dyn Fn(&Row) -> UnixMicros| -> Vec<_> {
        let live = rows.iter().filter(|row| live_at(row) < row.expiration.expires_at(PUBLISHED));
        live.map(|row| (row.id, row.body.clone())).collect()
    };
    // While somebody reads on, others read the same from the beginning, rows are added, and time goes on, and back.
    let (later, late, back) = (PUBLISHED.plus_seconds(5), 150, 300);
    let now = |after: u32| if (late..back).contains(&after) { later } else { PUBLISHED };
    let (mut found, mut others, mut last) = (Vec::new(), Vec::new(), 0);
    loop {
        let page = store.after(&subject("run")?, last, 10, 450, now(last)).await.map_err(|error| error.to_string())?;
        if page.len() > 9 {
            return Err(format!("{} messages where nine have 450 bytes", page.len()));
        }
        let Some((id, _)) = page.last() else { break };
        if last < 100 && id.get() >= 100 {
            apply(&*store, &batch(400, u64::from(ROWS), second.to_vec())).await?;
        }
        if others.is_empty() && id.get() >= 60 {
            others = pages(&*store, 0, ROWS).await?;
        }
        // A page that begins before a change of the time is read at the time before.
        last = [late, back].into_iter().find(|change| last < *change && id.get() > *change).unwrap_or_else(|| id.get());
        found.extend(page.into_iter().filter(|(id, _)| id.get() <= last).map(|(id, message)| (id, message.body)));
    }
    let read_at = |row: &Row| if (late + 1..=back).contains(&row.id.get()) { later } else { PUBLISHED };
    equal("what the one who reads on gets", &found, &expected(&read_at))?;
    let before: Vec<_> = expected(&|_| PUBLISHED).into_iter().take(others.len()).collect();
    equal("what another one gets", &others, &before)?;
    equal("what a third one gets", &pages(&*store, 0, ROWS).await?, &expected(&|_| PUBLISHED))
}

/// All of the subject `run` above an id, in small pages.
async fn pages(store: &dyn Store, after: u32, rows: u32) -> Result<Vec<(MessageId, Bytes)>, String> {
    let (mut found, mut last) = (Vec::new(), after);
    for _ in 0..=rows {
        let page = store.after(&subject("run")?, last, 10, 450, PUBLISHED).await.map_err(|error| error.to_string())?;
        let Some((id, _)) = page.last() else { return Ok(found) };
        last = id.get();
        found.extend(page.into_iter().map(|(id, message)| (id, message.body)));
    }
    Err("there is always another page".to_owned())
}

async fn keeps_high_water_marks(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    apply(&*store, &batch(0, 2, vec![row(1, "a", 1, 60, b"")?])).await?;
    // Everything in this run was fire and forget: marks without rows.
    let mark_of = |text, last, sequence| -> Result<HighWaterMark, String> {
        Ok(HighWaterMark { subject: subject(text)?, id: id(last)?, sequence: Sequence::new(sequence) })
    };
    let marks = vec![mark_of("a", 9, 10)?, mark_of("b", i32::MAX.cast_unsigned(), 11)?];
    let run = StoreBatch { previous: at(2), projected: at(11), rows: Vec::new(), high_water_marks: marks };
    apply(&*store, &Arc::new(run)).await?;
    equal("the mark of a", &mark(&*store, "a").await?, &Some(9))?;
    equal("the mark of b", &mark(&*store, "b").await?, &Some(i32::MAX.cast_unsigned()))?;
    lacks(&*store, "a", 9, PUBLISHED).await?;
    drop(store);
    let store = place.open(LOG).await?;
    equal("the mark of a, opened again", &mark(&*store, "a").await?, &Some(9))
}

async fn finds_until_it_expires(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let rows = vec![row(1, "a", 1, 1, b"one second")?, row(2, "a", 2, 60, b"a minute")?];
    apply(&*store, &batch(0, 2, rows.clone())).await?;
    for row in &rows {
        let end = row.expiration.expires_at(row.published_at);
        holds(&*store, row, before(end)).await?;
        lacks(&*store, "a", row.id.get(), end).await?;
        lacks(&*store, "a", row.id.get(), end.plus_seconds(1_000_000)).await?;
        // The clock of the one who asks may jump back.
        holds(&*store, row, PUBLISHED).await?;
    }
    Ok(())
}

async fn finds_every_life_time(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let lives = [1, 2, 14, 15, 16, 59, 60, 61, 240, 241, 3_600, 86_400, 604_800, 31_536_000, 1_000_000_000, i32::MAX];
    let mut rows = Vec::new();
    for (number, life) in (1u32..).zip(lives) {
        rows.push(row(u64::from(number), "life", number, life, &life.to_be_bytes())?);
    }
    apply(&*store, &batch(0, rows.len() as u64, rows.clone())).await?;
    for row in &rows {
        let end = row.expiration.expires_at(row.published_at);
        store.expire(before(end)).await.map_err(|error| error.to_string())?;
        holds(&*store, row, before(end)).await?;
        lacks(&*store, "life", row.id.get(), end).await?;
    }
    Ok(())
}

async fn frees_what_expired_and_keeps_the_rest(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let mut rows = Vec::new();
    for number in 1..=40u32 {
        let mut row = row(u64::from(number), "tick", number, 30, b"tick")?;
        row.published_at = PUBLISHED.plus_seconds(number);
        rows.push(row);
    }
    apply(&*store, &batch(0, 40, rows.clone())).await?;
    for passed in 0..=40 {
        let now = PUBLISHED.plus_seconds(30 + passed);
        store.expire(now).await.map_err(|error| error.to_string())?;
        for row in &rows {
            if now < row.expiration.expires_at(row.published_at) {
                holds(&*store, row, now).await?;
            } else {
                lacks(&*store, "tick", row.id.get(), now).await?;
            }
        }
    }
    equal("the mark", &mark(&*store, "tick").await?, &Some(40))?;
    apply(&*store, &batch(40, 41, vec![row(41, "tick", 41, 30, b"after")?])).await?;
    equal("the position", &position(&*store).await?, &at(41))
}

async fn goes_on_after_a_row_came_expired(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let late = PUBLISHED.plus_seconds(100_000);
    let old = row(1, "a", 1, 60, b"old")?;
    for round in 0..3 {
        // A projector that was away for long: the row has expired when it arrives, and its bucket is dropped.
        let (previous, next) = (round * 2, round * 2 + 2);
        let mut fresh = row(next, "a", u32::try_from(next).map_err(|error| error.to_string())?, 60, b"fresh")?;
        fresh.published_at = late;
        let expired = Row { id: id(u32::try_from(next - 1).map_err(|error| error.to_string())?)?, ..old.clone() };
        apply(&*store, &batch(previous, next, vec![expired.clone(), fresh.clone()])).await?;
        store.expire(late).await.map_err(|error| error.to_string())?;
        lacks(&*store, "a", expired.id.get(), late).await?;
        holds(&*store, &fresh, late).await?;
    }
    Ok(())
}

async fn remembers_when_opened_again(place: &dyn Place) -> Outcome {
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..4u32 {
        let store = place.open(LOG).await?;
        equal("the position, opened again", &position(&*store).await?, &at(u64::from(round) * 10))?;
        for row in &rows {
            holds(&*store, row, PUBLISHED).await?;
        }
        let sequence = u64::from(round) * 10 + 10;
        let life = [60, 3_600, 5, 604_800][round as usize % 4];
        let added = row(sequence, "again", round + 1, life, format!("round {round}").as_bytes())?;
        apply(&*store, &batch(sequence - 10, sequence, vec![added.clone()])).await?;
        rows.push(added);
        drop(store);
    }
    let store = place.open(LOG).await?;
    equal("the mark, opened again", &mark(&*store, "again").await?, &Some(4))?;
    lacks(&*store, "again", 3, PUBLISHED.plus_seconds(5)).await
}

async fn refuses_another_log(place: &dyn Place) -> Outcome {
    let kept = row(1, "a", 1, 60, b"kept")?;
    let store = place.open(LOG).await?;
    apply(&*store, &batch(0, 1, vec![kept.clone()])).await?;
    drop(store);
    match place.open(LOG + 1).await {
        Ok(_) => return Err("it opened for another log".to_owned()),
        Err(reason) if reason.contains(&format!("{:x}", LOG + 1)) && reason.contains(&format!("{LOG:x}")) => {}
        Err(reason) => return Err(format!("the refusal does not name both logs: {reason}")),
    }
    let store = place.open(LOG).await?;
    holds(&*store, &kept, PUBLISHED).await
}

async fn waits_for_an_abandoned_batch(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    for round in 1..=20u32 {
        let done = u64::from(round) - 1;
        let run = batch(done, done + 1, vec![row(done + 1, "gone", round, 60, b"body")?]);
        // Polled once, then dropped.
        drop(store.apply(&run).now_or_never());
        let after = position(&*store).await?;
        if after == at(done + 1) {
            refuse(&*store, &run).await?;
        } else {
            equal("the position after an abandoned batch", &after, &at(done))?;
            apply(&*store, &run).await?;
        }
        holds(&*store, &run.rows[0], PUBLISHED).await?;
    }
    Ok(())
}

async fn reads_beside_writes(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    let live = row(1, "live", 1, 3_600, b"live")?;
    apply(&*store, &batch(0, 1, vec![live.clone()])).await?;
    let write = async {
        for round in 1..40u64 {
            let mut short =
                row(round + 1, "short", u32::try_from(round).map_err(|error| error.to_string())?, 1, b"short")?;
            short.published_at = PUBLISHED.plus_seconds(u32::try_from(round * 20).map_err(|error| error.to_string())?);
            let now = short.published_at.plus_seconds(40);
            apply(&*store, &batch(round, round + 1, vec![short])).await?;
            store.expire(now).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    let read = async {
        for _ in 0..400 {
            holds(&*store, &live, PUBLISHED.plus_seconds(1_000)).await?;
        }
        Ok(())
    };
    let (written, read): (Outcome, Outcome) = futures_util::future::join(write, read).await;
    written.and(read)
}

async fn finds_nothing(place: &dyn Place) -> Outcome {
    let store = place.open(LOG).await?;
    equal("keeps history", &store.keeps_history(), &false)?;
    apply(&*store, &batch(0, 1, vec![row(1, "a", 1, 60, b"1")?])).await?;
    lacks(&*store, "a", 1, PUBLISHED).await?;
    store.expire(PUBLISHED).await.map_err(|error| error.to_string())?;
    equal("fire and forget", &seconds(0)?, &Expiration::FIRE_AND_FORGET)
}

/// The last instant before `end`.
fn before(end: UnixMicros) -> UnixMicros {
    UnixMicros::from_micros(end.as_micros() - 1)
}
