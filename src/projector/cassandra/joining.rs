//! Whose the keyspace is: one log's, or that of a cluster whose nodes share it.
//!
//! The row `projector` of the table `cursor` says so. Where a broker is alone it is that broker's cursor. In a cluster its log is
//! named [`CLUSTER`], its claim is the text of those who share the keyspace ([`crate::projector::members`]), and each log has a
//! cursor of its own name. So a broker that is alone, of an earlier version too, finds there a log that is not its own, and is refused.
//!
//! The row is changed by lightweight transactions only, each conditional on the text that was read: of two nodes that join at once one
//! reads again.

use tracing::info;

use super::KIND;
use super::cursor::{Claims, Cursor, Owner, applied, position};
use super::errors::{fenced, inconsistent, unavailable};
use super::session::Database;
use crate::event::Projected;
use crate::projector::StoreError;
use crate::projector::members::{Members, Membership, admit};

/// The row that says whose the keyspace is.
pub(super) const ANCHOR: &str = "projector";

/// What stands in place of a log where a cluster has the keyspace. No log is named so: their names have hexadecimal digits.
const CLUSTER: &str = "cluster";

/// How often one tries to join while others change the row: as many as there may be nodes, each of which changes it once.
const JOINS_MAX: usize = 64;

/// What one attempt came to.
enum Attempt {
    Joined,
    /// Somebody else changed the row meanwhile.
    Again,
}

impl Cursor {
    /// Who shares the keyspace, if this is the row of a cluster.
    pub(super) fn members(&self) -> Option<Result<Members, StoreError>> {
        (self.log_id == CLUSTER).then(|| Members::read(KIND, &self.claim))
    }
}

impl Database {
    /// Becomes one of those who share the keyspace, before the cursor is claimed. Where a broker was alone, only its own log may make it
    /// a cluster's.
    pub(super) async fn join(
        &self,
        owner: Owner,
        membership: &Membership,
        claims: &mut Claims,
    ) -> Result<(), StoreError> {
        for _ in 0..JOINS_MAX {
            let attempt = match self.cursor(ANCHOR).await? {
                None => self.begin(owner, membership).await?,
                Some(anchor) => match anchor.members() {
                    Some(members) => self.join_those(&anchor, &members?, owner, membership).await?,
                    None => self.convert(anchor, owner, membership, claims).await?,
                },
            };
            if let Attempt::Joined = attempt {
                return Ok(());
            }
        }
        Err(unavailable("others are joining the keyspace at the same time"))
    }

    /// Whether the log is one of those who share the keyspace, or may become one. Changes nothing. Gives the position where the keyspace
    /// is still that of its broker alone.
    pub(super) async fn may_join(
        &self,
        owner: Owner,
        membership: &Membership,
    ) -> Result<Option<Projected>, StoreError> {
        let Some(anchor) = self.seen(ANCHOR).await? else { return Ok(None) };
        match anchor.members() {
            Some(members) => joined(Some(&members?), owner, membership).map(|_| None),
            None => anchor.is_of(owner).map(|()| Some(anchor.projected)),
        }
    }

    /// Nobody has used the keyspace yet.
    async fn begin(&self, owner: Owner, membership: &Membership) -> Result<Attempt, StoreError> {
        let members = joined(None, owner, membership)?;
        let values = (ANCHOR, CLUSTER, 0_i64, members.text(), 0_i64);
        let done = applied(self.session.execute_unpaged(&self.insert_cursor, values).await)?;
        Ok(told(done, membership, &members))
    }

    async fn join_those(
        &self,
        anchor: &Cursor,
        members: &Members,
        owner: Owner,
        membership: &Membership,
    ) -> Result<Attempt, StoreError> {
        let joined = joined(Some(members), owner, membership)?;
        if joined == *members {
            return Ok(Attempt::Joined);
        }
        let values = (0_i64, joined.text(), ANCHOR, CLUSTER, &anchor.claim, 0_i64);
        let done = applied(self.session.execute_unpaged(&self.claim_cursor, values).await)?;
        Ok(told(done, membership, &joined))
    }

    /// Makes the keyspace of this log's broker alone a cluster's: takes its row, so that nobody moves it any more, makes the log's own
    /// row with its position, then changes whose the keyspace is. Cut off anywhere, it begins again: until the last step the log's own row
    /// counts for nothing.
    async fn convert(
        &self,
        anchor: Cursor,
        owner: Owner,
        membership: &Membership,
        claims: &mut Claims,
    ) -> Result<Attempt, StoreError> {
        anchor.may_be_taken_by(owner, claims)?;
        let members = joined(None, owner, membership)?;
        let (claim, log_id, epoch) = (claims.next()?, owner.log(), owner.epoch.cast_signed());
        let projected = position(anchor.projected)?;
        let values = (epoch, &claim, ANCHOR, &log_id, &anchor.claim, projected);
        if !applied(self.session.execute_unpaged(&self.claim_cursor, values).await)? {
            return Ok(Attempt::Again);
        }
        let made = match self.cursor(&log_id).await? {
            None => {
                let values = (&log_id, &log_id, epoch, &claim, projected);
                self.session.execute_unpaged(&self.insert_cursor, values).await
            }
            Some(left_over) => {
                let values = (epoch, &claim, projected, &log_id, &left_over.claim);
                self.session.execute_unpaged(&self.replace_cursor, values).await
            }
        };
        if !applied(made)? {
            return Ok(Attempt::Again);
        }
        let values = (CLUSTER, 0_i64, members.text(), 0_i64, ANCHOR, &log_id, &claim, projected);
        let done = applied(self.session.execute_unpaged(&self.convert_cursor, values).await)?;
        Ok(told(done, membership, &members))
    }
}

fn joined(members: Option<&Members>, owner: Owner, membership: &Membership) -> Result<Members, StoreError> {
    admit(members, &owner.log(), membership).map_err(inconsistent)
}

fn told(done: bool, Membership { node, version, .. }: &Membership, members: &Members) -> Attempt {
    if !done {
        return Attempt::Again;
    }
    info!(%node, layout = version, members = members.named(), "shares the keyspace with the other nodes of the cluster");
    Attempt::Joined
}

/// Why a broker that is alone may not have the keyspace of a cluster.
pub(super) fn of_a_cluster(members: &Members, owner: Owner, had_it: bool) -> StoreError {
    let (log_id, named) = (owner.log(), members.named());
    if had_it {
        return fenced(format!("it became that of a cluster, of the nodes {named}"));
    }
    inconsistent(format!(
        "it belongs to a cluster, to the nodes {named}, and this is the log {log_id} without a cluster; set cluster.node if it is one \
         of them, or give it a keyspace of its own"
    ))
}
