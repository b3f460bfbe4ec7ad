//! What publishers were told, kept outside the broker: the truth that rows and deliveries are compared with.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Subjects of the load.
pub const SUBJECTS: usize = 20;
/// Bytes of a body.
const BODY_BYTES: usize = 256;
/// Bytes of a body that a constraint can tell from the others.
pub const POISON_BYTES: usize = 300;
/// Bytes of a body with which a publish is refused: more than the rig's `limits.body_bytes`, 256 KiB.
const TOO_LONG_BYTES: usize = 300 * 1024;
/// A message that comes later than this after it was sent is late. A thousand times what a delivery takes, so that a busy
/// machine is no finding, and less than what a broker that waited for its database would take.
const LATE: Duration = Duration::from_millis(1_500);

/// Names one message for ever; it stands in front of its body.
pub type Token = u64;

/// How a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It becomes a row.
    Kept,
    /// It becomes a row unless a constraint is in its way.
    Poison,
    /// It never becomes a row.
    FireAndForget,
    /// The broker must refuse it: a control.
    TooLong,
}

impl Kind {
    /// What its publisher asks for, in seconds. Longer than any run.
    pub fn expiration_seconds(self) -> i32 {
        if self == Self::FireAndForget { 0 } else { 7_200 }
    }
}

/// A message that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Its subject's number.
    pub subject: usize,
    /// How.
    pub kind: Kind,
    at: Instant,
    /// What the publisher was told, if anything.
    pub id: Option<i32>,
}

/// What a subscriber of a subject saw.
#[derive(Debug, Default, Clone, Copy)]
struct Follower {
    last: i32,
}

/// Faults of live delivery.
#[derive(Debug, Default, Clone, Copy)]
pub struct Deliveries {
    /// Messages that came.
    pub came: u64,
    /// Acknowledged and never came, or came with other bytes.
    pub missing: u64,
    /// Came later than [`LATE`].
    pub late: u64,
    /// Came again, or after a later one.
    pub again: u64,
}

#[derive(Debug, Default)]
struct State {
    sent: HashMap<Token, Sent>,
    /// In the order of their acknowledgements, which is nearly that of the log.
    acknowledged: Vec<Token>,
    last_ids: [i32; SUBJECTS],
    followers: [Follower; SUBJECTS],
    deliveries: Deliveries,
}

/// The truth; shared by all tasks of a load.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<State>);

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a subject: with quotes, a semicolon and a character of four bytes.
    pub fn name(subject: usize) -> String {
        format!("bad day'; -- \"{subject}\" 🦀")
    }

    /// The number in a name.
    pub fn number(name: &str) -> Option<usize> {
        (0..SUBJECTS).find(|subject| Self::name(*subject) == name)
    }

    /// A new message; gives its token.
    pub fn send(&self, subject: usize, kind: Kind) -> Token {
        let mut state = self.state();
        let token = state.sent.len() as Token;
        state.sent.insert(token, Sent { subject, kind, at: Instant::now(), id: None });
        token
    }

    /// A publisher was told the id.
    pub fn acknowledged(&self, token: Token, id: i32) {
        let mut state = self.state();
        let sent = state.sent.get_mut(&token).expect("it was sent");
        sent.id = Some(id);
        let subject = sent.subject;
        state.acknowledged.push(token);
        state.last_ids[subject] = state.last_ids[subject].max(id);
    }

    /// A subscriber was given a message.
    pub fn delivered(&self, subject: usize, id: i32, bytes: &[u8]) {
        let mut state = self.state();
        let state = &mut *state;
        let follower = &mut state.followers[subject];
        state.deliveries.came += 1;
        if id <= follower.last {
            state.deliveries.again += 1;
            return;
        }
        // Ids are dense, so what lies between never came.
        state.deliveries.missing += u64::from((id - follower.last - 1).unsigned_abs());
        follower.last = id;
        match token_of(bytes).and_then(|token| state.sent.get(&token).map(|sent| (token, sent))) {
            Some((token, sent)) if sent.subject == subject && bytes == body(token, sent.kind) => {
                state.deliveries.late += u64::from(sent.at.elapsed() > LATE);
            }
            _ => state.deliveries.missing += 1,
        }
    }

    /// Whether every subscriber has seen the last message of its subject.
    pub fn all_delivered(&self) -> bool {
        let state = self.state();
        state.followers.iter().zip(&state.last_ids).all(|(follower, last)| follower.last >= *last)
    }

    /// Live delivery so far; what has not come by now counts as missing.
    pub fn deliveries(&self) -> Deliveries {
        let state = self.state();
        let behind = |(follower, last): (&Follower, &i32)| u64::from((last - follower.last).max(0).unsigned_abs());
        let outstanding: u64 = state.followers.iter().zip(&state.last_ids).map(behind).sum();
        Deliveries { missing: state.deliveries.missing + outstanding, ..state.deliveries }
    }

    /// Acknowledged messages of a kind.
    pub fn acknowledged_of(&self, kind: Kind) -> u64 {
        let state = self.state();
        state.acknowledged.iter().filter(|token| state.sent[token].kind == kind).count() as u64
    }

    /// A kept message that at least `skip` others were acknowledged before, chosen by `random`: subject, id, body.
    pub fn kept_after(&self, skip: usize, random: u64) -> Option<(usize, i32, Bytes)> {
        let state = self.state();
        let behind = state.acknowledged.get(skip..).filter(|behind| !behind.is_empty())?;
        let token = behind[usize::try_from(random).unwrap_or_default() % behind.len()];
        let sent = state.sent[&token];
        if sent.kind == Kind::FireAndForget {
            return None;
        }
        Some((sent.subject, sent.id?, body(token, sent.kind)))
    }

    /// Everything that was sent.
    pub fn all(&self) -> HashMap<Token, Sent> {
        self.state().sent.clone()
    }
}

/// The token in front of a body.
pub fn token_of(bytes: &[u8]) -> Option<Token> {
    bytes.first_chunk().map(|bytes| Token::from_le_bytes(*bytes))
}

/// The body of a message: bytes of all values that follow from its token.
pub fn body(token: Token, kind: Kind) -> Bytes {
    let length = match kind {
        Kind::Kept | Kind::FireAndForget => BODY_BYTES,
        Kind::Poison => POISON_BYTES,
        Kind::TooLong => TOO_LONG_BYTES,
    };
    let mut bytes = vec![0; length];
    bytes[..8].copy_from_slice(&token.to_le_bytes());
    StdRng::seed_from_u64(token).fill_bytes(&mut bytes[8..]);
    Bytes::from(bytes)
}
