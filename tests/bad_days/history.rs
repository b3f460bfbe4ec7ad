//! What a database holds, read by the rig itself, and the comparison with what publishers were told.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;

use crate::ledger::{Kind, Ledger, Sent, Token, body, token_of};

/// A row as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRow {
    /// The subject's name.
    pub subject: String,
    /// The id.
    pub id: i32,
    /// The body.
    pub body: Vec<u8>,
}

/// A database with a history.
#[async_trait]
pub trait History: Send + Sync {
    /// All of its rows, by a connection of the rig's own.
    async fn rows(&self) -> Vec<FoundRow>;
}

/// How rows differ from what publishers were told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Acknowledged with an expiration.
    pub acknowledged: u64,
    /// Rows in the database.
    pub rows: u64,
    /// Acknowledged, and no row.
    pub missing: u64,
    /// The same subject and id once more, or the same message under another id.
    pub duplicates: u64,
    /// Rows with other bytes than were sent, of what nobody sent, of what was not to be kept, or that were refused.
    pub altered: u64,
    /// Rows of publishes that were not answered.
    pub unanswered: u64,
}

/// Compares rows with what was sent; `aside` are messages that the database does not take and need not have.
pub fn compare(sent: &HashMap<Token, Sent>, rows: &[FoundRow], aside: impl Fn(&Sent) -> bool) -> Comparison {
    let mut comparison = Comparison { rows: rows.len() as u64, ..Comparison::default() };
    let (mut keys, mut tokens) = (HashSet::new(), HashSet::new());
    for row in rows {
        if !keys.insert((&row.subject, row.id)) {
            comparison.duplicates += 1;
            continue;
        }
        let found = token_of(&row.body).and_then(|token| sent.get(&token).map(|sent| (token, sent)));
        let genuine = found.filter(|(token, sent)| {
            sent.kind != Kind::FireAndForget
                && Ledger::number(&row.subject) == Some(sent.subject)
                && body(*token, sent.kind) == row.body
        });
        match genuine {
            None => comparison.altered += 1,
            Some((_, sent)) if sent.id.is_some_and(|id| id != row.id) => comparison.duplicates += 1,
            Some((token, _)) if !tokens.insert(token) => comparison.duplicates += 1,
            Some((_, sent)) => comparison.unanswered += u64::from(sent.id.is_none()),
        }
    }
    for (token, sent) in sent {
        if sent.kind != Kind::FireAndForget && sent.id.is_some() {
            comparison.acknowledged += 1;
            comparison.missing += u64::from(!tokens.contains(token) && !aside(sent));
        }
    }
    comparison
}
