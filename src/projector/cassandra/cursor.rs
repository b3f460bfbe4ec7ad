//! The cursor row of a log: who may write, and how far it is. A broker that is alone has the only one, which also says that the store
//! is its log's; in a cluster each log has its own ([`super::joining`]).
//!
//! It is changed by lightweight transactions only. Each process writes a random *claim* into it when it takes the store, and
//! moves the position only while its claim is there: whoever took it before is fenced. A transaction whose answer was lost may
//! still be carried out later. So after any doubt the process writes a new claim before it believes the position: what was on
//! its way under the old one comes to nothing.
//!
//! A node that loses confirmed writes in a crash may bring back a row with an earlier claim. Those of one process have its name
//! in common, so that it can tell the row that went back from one that a rival took: it takes it again, and the pipeline
//! projects again what was lost.

use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::value::{CqlValue, Row as CqlRow};

use super::errors::{fenced, inconsistent, passing, unavailable};
use super::joining::{ANCHOR, of_a_cluster};
use super::session::{Database, rows};
use crate::event::{Projected, Sequence};
use crate::projector::StoreError;
use crate::projector::store::beyond_the_log;

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
    /// Whether the nodes of a cluster share the store.
    pub(super) shared: bool,
    /// Where the log ended when it was opened, if that is known: a store that is further has another process's messages.
    pub(super) log_ends_at: Option<Projected>,
}

impl Owner {
    /// The log as the tables have it, 32 hexadecimal digits.
    pub(super) fn log(&self) -> String {
        format!("{:032x}", self.log_id)
    }

    /// The key of its cursor.
    fn name(&self) -> String {
        if self.shared { self.log() } else { ANCHOR.to_owned() }
    }
}

/// What this process has written into the row: claims of its random name and a number.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Drawn for the first claim. By the name every earlier claim is known, however many there were, and none need be kept.
    name: Option<String>,
    /// How many claims were made.
    made: u64,
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

    /// Whether it is one of this process's, be it an earlier one.
    fn include(&self, claim: &str) -> bool {
        let name = claim.rsplit_once(BEFORE_NUMBER).map(|(name, _)| name);
        name.is_some() && name == self.name.as_deref()
    }

    fn are_current(&self, claim: &str) -> bool {
        self.confirmed.as_deref() == Some(claim)
    }

    /// The claim to write: the one that is on its way already, or a new one.
    pub(super) fn next(&mut self) -> Result<String, StoreError> {
        if let Some(pending) = &self.pending {
            return Ok(pending.clone());
        }
        let name = match &self.name {
            Some(name) => name,
            None => self.name.insert(random_name()?),
        };
        self.made += 1;
        Ok(self.pending.insert(format!("{name}{BEFORE_NUMBER}{}", self.made)).clone())
    }

    fn confirm(&mut self) {
        self.confirmed = self.pending.take();
    }
}

/// Between a process's name and the number of its claim.
const BEFORE_NUMBER: char = '.';

fn random_name() -> Result<String, StoreError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| unavailable(format!("no random bytes for a claim: {error}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

/// The row as it was read.
pub(super) struct Cursor {
    pub(super) log_id: String,
    pub(super) epoch: u64,
    pub(super) claim: String,
    pub(super) projected: Projected,
}

/// What became of a move.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// The store is at the new position.
    Done,
    /// It was not moved, or the row has gone back since: it has another position, or an earlier claim. Whoever wants to go on
    /// takes it again first.
    Not,
}

impl Database {
    /// Takes the store for `owner`, and reads its position. From then on nothing that was sent under an earlier claim counts.
    pub(super) async fn claim(&self, owner: Owner, claims: &mut Claims) -> Result<Projected, StoreError> {
        let (name, log_id, epoch) = (owner.name(), owner.log(), owner.epoch.cast_signed());
        for _ in 0..CLAIMS_MAX {
            let claim = claims.next()?;
            let Some(cursor) = self.cursor(&name).await? else {
                if claims.were_confirmed() {
                    return Err(inconsistent(
                        "its cursor is gone; somebody emptied the keyspace while walcast was running",
                    ));
                }
                let values = (&name, &log_id, epoch, &claim, 0_i64);
                if applied(self.session.execute_unpaged(&self.insert_cursor, values).await)? {
                    claims.confirm();
                    return Ok(Projected::default());
                }
                continue;
            };
            cursor.may_be_taken_by(owner, claims)?;
            let projected = position(cursor.projected)?;
            let values = (epoch, &claim, &name, &log_id, &cursor.claim, projected);
            if applied(self.session.execute_unpaged(&self.claim_cursor, values).await)? {
                claims.confirm();
                return Ok(cursor.projected);
            }
        }
        Err(unavailable("others are taking the store at the same time"))
    }

    /// Whether the row is as this process left it, by a plain read: before rows are written, so that a process that lost the
    /// store, perhaps to a copy of itself that has other messages by now, leaves no trace of its next batch. The move that
    /// follows proves it. False if the row has gone back to an earlier claim.
    pub(super) async fn is_held(&self, owner: Owner, claims: &Claims) -> Result<bool, StoreError> {
        let cursor = self.seen(&owner.name()).await?.ok_or_else(gone)?;
        cursor.may_be_taken_by(owner, claims)?;
        Ok(claims.are_current(&cursor.claim))
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
        let (name, log_id) = (owner.name(), owner.log());
        let values = (position(to)?, &name, &log_id, claim, position(from)?);
        if applied(self.session.execute_unpaged(&self.move_cursor, values).await)? {
            return Ok(Moved::Done);
        }
        let cursor = self.cursor(&name).await?.ok_or_else(gone)?;
        cursor.may_be_taken_by(owner, claims)?;
        // Only this process moves it while it has the claim, and it moves it to the ends of batches whose rows are all there.
        let is_done = cursor.projected == to && claims.are_current(&cursor.claim);
        Ok(if is_done { Moved::Done } else { Moved::Not })
    }

    /// Where the store of `owner`'s log is, by a plain read, which is as new as the last move that was confirmed. A serial one
    /// could finish the move of whoever writes.
    pub(super) async fn look_at_position(&self, owner: Owner) -> Result<Projected, StoreError> {
        let Some(cursor) = self.seen(&owner.name()).await? else { return Ok(Projected::default()) };
        cursor.is_of(owner)?;
        Ok(cursor.projected)
    }

    /// The row as the last transaction left it; one that is half done is finished first.
    pub(super) async fn cursor(&self, name: &str) -> Result<Option<Cursor>, StoreError> {
        cursor_of(self.session.execute_unpaged(&self.select_cursor, (name,)).await)
    }

    /// The row by a plain read.
    pub(super) async fn seen(&self, name: &str) -> Result<Option<Cursor>, StoreError> {
        cursor_of(self.session.execute_unpaged(&self.look_at_cursor, (name,)).await)
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
    /// Whether the store belongs to the log of `owner`.
    pub(super) fn is_of(&self, owner: Owner) -> Result<(), StoreError> {
        self.is_of_one(owner, false)
    }

    fn is_of_one(&self, owner: Owner, had_it: bool) -> Result<(), StoreError> {
        if let Some(members) = self.members() {
            return Err(of_a_cluster(&members?, owner, had_it));
        }
        let log_id = owner.log();
        if self.log_id == log_id {
            return Ok(());
        }
        Err(inconsistent(format!(
            "it belongs to the log {}, and this is the log {log_id}; give each log a keyspace of its own",
            self.log_id
        )))
    }

    /// Whether `owner`, who wrote `claims`, has the store or may take it.
    pub(super) fn may_be_taken_by(&self, owner: Owner, claims: &Claims) -> Result<(), StoreError> {
        self.is_of_one(owner, claims.were_confirmed())?;
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
        // Before it is taken from whoever has written that.
        match owner.log_ends_at.filter(|end| self.projected > *end) {
            Some(end) => Err(inconsistent(beyond_the_log(self.projected, end))),
            None => Ok(()),
        }
    }
}

pub(super) fn position(projected: Projected) -> Result<i64, StoreError> {
    i64::try_from(projected.sequence().get()).map_err(|_| inconsistent("the position is beyond what the table holds"))
}

/// Whether a lightweight transaction was carried out: the first column says so, whatever else a server adds.
pub(super) fn applied(answer: Result<QueryResult, ExecutionError>) -> Result<bool, StoreError> {
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

    const OWNER: Owner = Owner { log_id: 7, epoch: 3, shared: false, log_ends_at: None };

    fn cursor(log_id: u128, epoch: u64, claim: &str) -> Cursor {
        Cursor { log_id: format!("{log_id:032x}"), epoch, claim: claim.to_owned(), projected: Projected::default() }
    }

    fn claims(confirmed: Option<&str>, pending: Option<&str>) -> Claims {
        let own = |number: &str| format!("mine.{number}");
        Claims { name: Some("mine".to_owned()), made: 5, confirmed: confirmed.map(own), pending: pending.map(own) }
    }

    #[test]
    fn a_store_is_taken_from_older_starts_only() {
        let none = claims(None, None);
        for (epoch, taken) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(cursor(7, epoch, "other").may_be_taken_by(OWNER, &none).is_ok(), taken, "{epoch}");
        }
        // One whose log ends before what is there takes it from nobody; whoever has it already moves it on.
        let at = |sequence| Some(Projected(Sequence::new(sequence)));
        let further = Cursor { projected: Projected(Sequence::new(9)), ..cursor(7, 2, "other") };
        for (end, taken) in [(None, true), (at(9), true), (at(8), false)] {
            let owner = Owner { log_ends_at: end, ..OWNER };
            assert_eq!(further.may_be_taken_by(owner, &none).is_ok(), taken, "{end:?}");
        }
        let own = Cursor { claim: "mine.4".to_owned(), ..further };
        assert!(own.may_be_taken_by(Owner { log_ends_at: at(8), ..OWNER }, &claims(Some("4"), None)).is_ok());
        let other = cursor(8, 1, "other").may_be_taken_by(OWNER, &none);
        assert!(matches!(other, Err(StoreError::Inconsistent { .. })), "{other:?}");
    }

    #[test]
    fn a_store_that_was_lost_is_not_taken_again() {
        let held = claims(Some("4"), None);
        assert!(cursor(7, 3, "mine.4").may_be_taken_by(OWNER, &held).is_ok());
        for epoch in [2, 3, 4] {
            for other in ["other.4", "other", "mine", "", ".4"] {
                let lost = cursor(7, epoch, other).may_be_taken_by(OWNER, &held);
                assert!(matches!(lost, Err(StoreError::Fenced { .. })), "{epoch} {other}: {lost:?}");
            }
        }
        let half = claims(Some("4"), Some("5"));
        assert!(cursor(7, 3, "mine.4").may_be_taken_by(OWNER, &half).is_ok());
        assert!(cursor(7, 3, "mine.5").may_be_taken_by(OWNER, &half).is_ok());
    }

    #[test]
    fn an_earlier_claim_is_this_process_s_but_not_where_it_was() {
        let held = claims(Some("4"), None);
        for earlier in ["mine.1", "mine.3"] {
            assert!(cursor(7, 3, earlier).may_be_taken_by(OWNER, &held).is_ok(), "{earlier}");
            assert!(!held.are_current(earlier), "{earlier}");
        }
        assert!(held.are_current("mine.4"));
        let unnamed = Claims::default();
        assert!(!unnamed.include(".1") && !unnamed.include("") && !unnamed.include("mine.1"));
    }

    #[test]
    fn a_claim_stays_until_it_is_confirmed() {
        let mut claims = Claims::default();
        let first = claims.next().expect("random");
        assert_eq!(claims.next().expect("random"), first);
        claims.confirm();
        assert!(claims.include(&first) && claims.are_current(&first) && claims.were_confirmed());
        let second = claims.next().expect("random");
        assert_ne!(second, first);
        claims.confirm();
        assert!(claims.include(&first) && !claims.are_current(&first));
        assert!(!Claims::default().include(&first));
        let mut other = Claims::default();
        assert!(!other.next().is_ok_and(|claim| claims.include(&claim)), "another process's");
    }
}
