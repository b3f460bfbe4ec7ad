//! The cursor row: to which log the store belongs, who may write to it, and how far it is.
//!
//! It is changed by lightweight transactions only. Each process writes a random *claim* into it when it takes the store, and
//! moves the position only while its claim is there: whoever took it before is fenced. A transaction whose answer was lost may
//! still be carried out later. So after any doubt the process writes a new claim before it believes the position: what was on
//! its way under the old one comes to nothing.

use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::value::{CqlValue, Row as CqlRow};

use super::errors::{fenced, inconsistent, passing, unavailable};
use super::session::{Database, rows};
use crate::event::{Projected, Sequence};
use crate::projector::StoreError;

/// The only row's key.
const NAME: &str = "projector";

/// How often a claim is tried anew because somebody else changed the row meanwhile. Two processes that start at once need
/// two or three; more means that something is wrong, and the pipeline comes again.
const CLAIMS_MAX: usize = 8;

/// The log and the process that a store is used by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// Identity of the log.
    pub(super) log_id: u128,
    /// How many times the log was opened; of two processes that have it, the higher one is newer.
    pub(super) epoch: u64,
}

/// What this process has written into the row.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The claim that was there when the server last confirmed one.
    confirmed: Option<String>,
    /// A claim that was sent, and may be there.
    pending: Option<String>,
}

impl Claims {
    /// Whether this process has ever held the store.
    pub(super) const fn were_confirmed(&self) -> bool {
        self.confirmed.is_some()
    }

    fn include(&self, claim: &str) -> bool {
        [&self.confirmed, &self.pending].into_iter().flatten().any(|own| own == claim)
    }

    /// The claim to write: the one that is on its way already, or a new one.
    fn next(&mut self) -> Result<String, StoreError> {
        if let Some(pending) = &self.pending {
            return Ok(pending.clone());
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| unavailable(format!("no random bytes for a claim: {error}")))?;
        Ok(self.pending.insert(format!("{:032x}", u128::from_be_bytes(random))).clone())
    }

    fn confirm(&mut self) {
        self.confirmed = self.pending.take();
    }
}

/// The row as it was read.
struct Cursor {
    log_id: String,
    epoch: u64,
    claim: String,
    projected: Projected,
}

/// What became of a move.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// The store is at the new position.
    Done,
    /// It is still this process's, but at this position.
    At(Projected),
}

impl Database {
    /// Takes the store for `owner`, and reads its position. From then on nothing that was sent under an earlier claim counts.
    pub(super) async fn claim(&self, owner: Owner, claims: &mut Claims) -> Result<Projected, StoreError> {
        for _ in 0..CLAIMS_MAX {
            let claim = claims.next()?;
            let log_id = format!("{:032x}", owner.log_id);
            let epoch = owner.epoch.cast_signed();
            let Some(cursor) = self.cursor().await? else {
                if claims.were_confirmed() {
                    return Err(inconsistent(
                        "its cursor is gone; somebody emptied the keyspace while walcast was running",
                    ));
                }
                let values = (NAME, &log_id, epoch, &claim);
                if applied(self.session.execute_unpaged(&self.insert_cursor, values).await)? {
                    claims.confirm();
                    return Ok(Projected::default());
                }
                continue;
            };
            cursor.may_be_taken_by(owner, claims)?;
            let projected = position(cursor.projected)?;
            let values = (epoch, &claim, NAME, &log_id, &cursor.claim, projected);
            if applied(self.session.execute_unpaged(&self.claim_cursor, values).await)? {
                claims.confirm();
                return Ok(cursor.projected);
            }
        }
        Err(unavailable("others are taking the store at the same time"))
    }

    /// Whether the store is still this process's, by a plain read: before rows are written, so that a process that lost it, perhaps to a
    /// copy of itself that has other messages by now, leaves no trace of its next batch. The move that follows proves it.
    pub(super) async fn is_held(&self, owner: Owner, claims: &Claims) -> Result<(), StoreError> {
        let answer = self.session.execute_unpaged(&self.look_at_cursor, (NAME,)).await;
        cursor_of(answer)?.ok_or_else(gone)?.may_be_taken_by(owner, claims)
    }

    /// Moves the position, if the store is still this process's and where it is believed to be.
    pub(super) async fn advance(
        &self,
        owner: Owner,
        claims: &Claims,
        from: Projected,
        to: Projected,
    ) -> Result<Moved, StoreError> {
        let claim = claims.confirmed.as_deref().unwrap_or_default();
        let log_id = format!("{:032x}", owner.log_id);
        let values = (position(to)?, NAME, &log_id, claim, position(from)?);
        if applied(self.session.execute_unpaged(&self.move_cursor, values).await)? {
            return Ok(Moved::Done);
        }
        let cursor = self.cursor().await?.ok_or_else(gone)?;
        cursor.may_be_taken_by(owner, claims)?;
        // Only this process moves it while it has the claim, and it moves it to the ends of batches whose rows are all there.
        Ok(if cursor.projected == to { Moved::Done } else { Moved::At(cursor.projected) })
    }

    /// The row as the last transaction left it; one that is half done is finished first.
    async fn cursor(&self) -> Result<Option<Cursor>, StoreError> {
        cursor_of(self.session.execute_unpaged(&self.select_cursor, (NAME,)).await)
    }
}

/// The row of an answer.
fn cursor_of(answer: Result<QueryResult, ExecutionError>) -> Result<Option<Cursor>, StoreError> {
    let found = rows::<(Option<String>, Option<i64>, Option<String>, Option<i64>)>(answer)?;
    let Some(row) = found.into_iter().next() else { return Ok(None) };
    let (Some(log_id), Some(epoch), Some(claim), Some(projected)) = row else {
        return Err(inconsistent("its cursor lacks a part; somebody changed the table by hand"));
    };
    let sequence = u64::try_from(projected).map_err(|_| inconsistent(format!("its position is {projected}")))?;
    Ok(Some(Cursor { log_id, epoch: epoch.cast_unsigned(), claim, projected: Projected(Sequence::new(sequence)) }))
}

fn gone() -> StoreError {
    inconsistent("its cursor is gone; somebody emptied the keyspace while walcast was running")
}

impl Cursor {
    /// Whether `owner`, who wrote `claims`, has the store or may take it.
    fn may_be_taken_by(&self, owner: Owner, claims: &Claims) -> Result<(), StoreError> {
        let log_id = format!("{:032x}", owner.log_id);
        if self.log_id != log_id {
            return Err(inconsistent(format!(
                "it belongs to the log {}, and this is the log {log_id}; give each log a keyspace of its own",
                self.log_id
            )));
        }
        if claims.include(&self.claim) {
            return Ok(());
        }
        if claims.were_confirmed() {
            return Err(fenced(format!(
                "start {} of this log has taken it; this one is start {}",
                self.epoch, owner.epoch
            )));
        }
        if self.epoch > owner.epoch {
            return Err(fenced(format!(
                "start {} of this log has it, and this one, start {}, is older; is the data directory a copy?",
                self.epoch, owner.epoch
            )));
        }
        Ok(())
    }
}

fn position(projected: Projected) -> Result<i64, StoreError> {
    i64::try_from(projected.sequence().get()).map_err(|_| inconsistent("the position is beyond what the table holds"))
}

/// Whether a lightweight transaction was carried out: the first column says so, whatever else a server adds.
fn applied(answer: Result<QueryResult, ExecutionError>) -> Result<bool, StoreError> {
    let answer = answer.map_err(|error| passing(&error))?;
    let unreadable = || unavailable("its answer to a lightweight transaction does not fit");
    let rows = answer.into_rows_result().map_err(|_| unreadable())?;
    let row = rows.first_row::<CqlRow>().map_err(|_| unreadable())?;
    match row.columns.into_iter().next().flatten() {
        Some(CqlValue::Boolean(applied)) => Ok(applied),
        _ => Err(unreadable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { log_id: 7, epoch: 3 };

    fn cursor(log_id: u128, epoch: u64, claim: &str) -> Cursor {
        Cursor { log_id: format!("{log_id:032x}"), epoch, claim: claim.to_owned(), projected: Projected::default() }
    }

    fn claims(confirmed: Option<&str>, pending: Option<&str>) -> Claims {
        Claims { confirmed: confirmed.map(str::to_owned), pending: pending.map(str::to_owned) }
    }

    #[test]
    fn a_store_is_taken_from_older_starts_only() {
        let none = claims(None, None);
        for (epoch, taken) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(cursor(7, epoch, "other").may_be_taken_by(OWNER, &none).is_ok(), taken, "{epoch}");
        }
        let other = cursor(8, 1, "other").may_be_taken_by(OWNER, &none);
        assert!(matches!(other, Err(StoreError::Inconsistent { .. })), "{other:?}");
    }

    #[test]
    fn a_store_that_was_lost_is_not_taken_again() {
        let held = claims(Some("mine"), None);
        assert!(cursor(7, 3, "mine").may_be_taken_by(OWNER, &held).is_ok());
        for epoch in [2, 3, 4] {
            let lost = cursor(7, epoch, "other").may_be_taken_by(OWNER, &held);
            assert!(matches!(lost, Err(StoreError::Fenced { .. })), "{epoch}: {lost:?}");
        }
        let half = claims(Some("old"), Some("sent"));
        assert!(cursor(7, 3, "old").may_be_taken_by(OWNER, &half).is_ok());
        assert!(cursor(7, 3, "sent").may_be_taken_by(OWNER, &half).is_ok());
    }

    #[test]
    fn a_claim_stays_until_it_is_confirmed() {
        let mut claims = Claims::default();
        let first = claims.next().expect("random");
        assert_eq!(claims.next().expect("random"), first);
        claims.confirm();
        assert!(claims.include(&first) && claims.were_confirmed());
        assert_ne!(claims.next().expect("random"), first);
    }
}
