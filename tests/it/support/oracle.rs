//! The truth about every publish, kept outside the broker, and the judgement over what the broker says
//! after a fault.
//!
//! - **No loss**: every acknowledged message is fetched byte for byte, every delivered one too.
//! - **Order**: ids are dense on each subject; a subscriber sees them without gap or repeat.
//! - **No invention**: whatever is found was sent, on that subject, with those bytes.
//! - **No duplicates**: no id is given twice, no message has two ids.
//! - **Unknown outcomes** may be there or not, but the same everywhere.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Names one message for ever; it stands in front of its body.
pub type Token = u64;

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Names it.
    pub token: Token,
    /// Its subject's number.
    pub subject: usize,
    /// Its body.
    pub body: Bytes,
    /// 0 or long enough for the whole run.
    pub expiration_seconds: i32,
}

/// What `Fetch` said about one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The message.
    Body(Bytes),
    /// Issued and expired.
    Expired,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    subject: usize,
    kept: bool,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Acknowledged,
    Refused,
}

#[derive(Debug, Default)]
struct Subject {
    acknowledged: BTreeMap<i32, Token>,
    delivered: BTreeMap<i32, Token>,
    /// Where a message of unknown outcome was found.
    surfaced: BTreeMap<i32, Option<Token>>,
    /// Publishes of unknown outcome that are kept, and that are fire and forget.
    unknown: Unknown,
}

#[derive(Debug, Default, Clone, Copy)]
struct Unknown {
    kept: usize,
    forgotten: usize,
}

impl Unknown {
    fn of(&mut self, kept: bool) -> &mut usize {
        if kept { &mut self.kept } else { &mut self.forgotten }
    }
}

/// One subscription as the oracle follows it.
#[derive(Debug, Clone)]
pub struct Follower {
    subject: usize,
    /// The highest id acknowledged before the subscription was asked for.
    after: i32,
    last: Option<i32>,
}

/// Everything that was sent, acknowledged and delivered, and every promise found broken.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    next: u64,
    sent: HashMap<Token, Sent>,
    subjects: Vec<Subject>,
    /// Subject and id of what was acknowledged and is lost.
    lost: HashSet<(usize, i32)>,
    broken: Vec<String>,
}

// Longer than any jump of the clock in the table of faults.
const KEPT_SECONDS: i32 = 30 * 86_400;

impl Ledger {
    /// An empty one; bodies follow from `seed`.
    pub fn new(seed: u64, subjects: usize) -> Self {
        let subjects = (0..subjects).map(|_| Subject::default()).collect();
        Self { seed, next: 0, sent: HashMap::new(), subjects, lost: HashSet::new(), broken: Vec::new() }
    }

    /// The name of a subject.
    pub fn name(subject: usize) -> String {
        format!("oracle-{subject:03}")
    }

    /// How many publishes were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        self.subjects.iter().map(|subject| subject.acknowledged.len()).sum()
    }

    /// Bytes of the bodies that were acknowledged.
    pub fn acknowledged_bytes(&self) -> u64 {
        let tokens = self.subjects.iter().flat_map(|subject| subject.acknowledged.values());
        tokens.map(|token| body_length(self.seed, *token).1 as u64).sum()
    }

    /// How many different messages were delivered.
    pub fn delivered_count(&self) -> usize {
        self.subjects.iter().map(|subject| subject.delivered.len()).sum()
    }

    /// The promises that were broken so far, one sentence each.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// How many acknowledged messages are gone, or hold something else. One that is missed again and again counts once.
    pub fn lost_count(&self) -> usize {
        self.lost.len()
    }

    /// How often an id was given that somebody had already.
    pub fn given_twice_count(&self) -> usize {
        self.broken.iter().filter(|line| line.contains("was given")).count()
    }

    /// A message to publish on `subject`. From now on its outcome is unknown.
    pub fn send(&mut self, subject: usize) -> Outgoing {
        self.next += 1;
        let token = self.next;
        // One in eight is fire and forget.
        let kept = !token.is_multiple_of(8);
        self.sent.insert(token, Sent { subject, kept, outcome: Outcome::Unknown });
        *self.subjects[subject].unknown.of(kept) += 1;
        let expiration_seconds = if kept { KEPT_SECONDS } else { 0 };
        Outgoing { token, subject, body: body(self.seed, token), expiration_seconds }
    }

    /// The publish was acknowledged with `id`.
    pub fn acknowledged(&mut self, token: Token, id: i32) {
        let subject = self.settle(token, Outcome::Acknowledged);
        let Subject { acknowledged, surfaced, delivered, .. } = &mut self.subjects[subject];
        if let Some(other) = acknowledged.insert(id, token) {
            self.broken.push(format!("id {id} of subject {subject} was given twice: to messages {other} and {token}"));
        }
        if surfaced.contains_key(&id) {
            self.broken.push(format!("id {id} of subject {subject} was given again: it had surfaced before"));
        }
        if delivered.get(&id).is_some_and(|other| *other != token) {
            self.broken.push(format!("id {id} of subject {subject} was delivered with another message"));
        }
        if id < 1 {
            self.broken.push(format!("id {id} of subject {subject} is below 1"));
        }
    }

    /// The publish was refused in so many words: it must not have taken an id.
    pub fn refused(&mut self, token: Token) {
        self.settle(token, Outcome::Refused);
    }

    /// The outcome is known; gives the subject.
    fn settle(&mut self, token: Token, outcome: Outcome) -> usize {
        let sent = self.sent.get_mut(&token).expect("it was sent");
        if sent.outcome == Outcome::Unknown {
            *self.subjects[sent.subject].unknown.of(sent.kept) -= 1;
        }
        sent.outcome = outcome;
        sent.subject
    }

    /// Follows a subscription that is about to be asked for.
    pub fn follow(&self, subject: usize) -> Follower {
        let last = self.subjects[subject].acknowledged.last_key_value();
        Follower { subject, after: last.map_or(0, |(id, _)| *id), last: None }
    }

    /// A message came over a subscription.
    pub fn delivered(&mut self, follower: &mut Follower, id: i32, body: &[u8]) {
        let subject = follower.subject;
        match follower.last {
            Some(last) if id != last + 1 => {
                self.broken.push(format!("a subscriber of subject {subject} got id {id} after id {last}"));
            }
            None if id <= follower.after => {
                let after = follower.after;
                self.broken
                    .push(format!("a subscriber of subject {subject} got id {id}, acknowledged before (to {after})"));
            }
            _ => {}
        }
        follower.last = Some(id);
        let Some(token) = self.recognise(subject, id, body) else { return };
        if let Some(other) = self.subjects[subject].delivered.insert(id, token)
            && other != token
        {
            self.broken.push(format!("id {id} of subject {subject} was delivered as message {other} and as {token}"));
        }
    }

    /// Judges what was fetched of a subject: `found[0]` is id `from`, and the id after the last is unknown to the broker.
    pub fn judge(&mut self, subject: usize, from: i32, found: &[Found]) {
        let end = from + found.len() as i32;
        let beyond = |messages: &BTreeMap<i32, Token>| messages.range(end..).map(|(id, _)| *id).collect::<Vec<_>>();
        for (what, lost) in [
            ("acknowledged", beyond(&self.subjects[subject].acknowledged)),
            ("delivered", beyond(&self.subjects[subject].delivered)),
        ] {
            for id in lost {
                self.note_lost(subject, id);
                self.broken.push(format!("lost: id {id} of subject {subject} was {what}, ids end at {}", end - 1));
            }
        }
        for (id, found) in (from..).zip(found) {
            self.judge_one(subject, id, found);
        }
        self.judge_surfaced(subject);
    }

    fn note_lost(&mut self, subject: usize, id: i32) {
        if self.subjects[subject].acknowledged.contains_key(&id) {
            self.lost.insert((subject, id));
        }
    }

    fn judge_one(&mut self, subject: usize, id: i32, found: &Found) {
        let token = match found {
            Found::Body(body) => self.recognise(subject, id, body),
            Found::Expired => None,
        };
        let of = &mut self.subjects[subject];
        let expected = of.acknowledged.get(&id).or_else(|| of.delivered.get(&id)).copied();
        let Some(expected) = expected else {
            of.surfaced.insert(id, token);
            return;
        };
        if !of.acknowledged.contains_key(&id) {
            of.surfaced.insert(id, Some(expected));
        }
        let kept = self.sent[&expected].kept;
        if kept && token != Some(expected) {
            self.note_lost(subject, id);
            self.broken
                .push(format!("lost: id {id} of subject {subject} was message {expected}, found is {found:.0?}"));
        }
        if !kept && *found != Found::Expired {
            self.broken.push(format!("id {id} of subject {subject} was fire and forget and is found"));
        }
    }

    /// Ids that nobody was told of must belong to publishes of unknown outcome, each to one of its own.
    fn judge_surfaced(&mut self, subject: usize) {
        let of = &self.subjects[subject];
        let Unknown { kept, forgotten } = of.unknown;
        let mut seen = HashMap::new();
        let mut nameless = 0;
        let mut broken = Vec::new();
        for (id, token) in &of.surfaced {
            let Some(token) = token else {
                nameless += 1;
                continue;
            };
            if self.sent[token].outcome != Outcome::Unknown {
                broken.push(format!("id {id} of subject {subject} holds message {token}, whose outcome is another"));
            }
            if let Some(other) = seen.insert(token, id) {
                broken.push(format!("message {token} has two ids of subject {subject}: {other} and {id}"));
            }
        }
        if nameless > forgotten || of.surfaced.len() > kept + forgotten {
            broken.push(format!(
                "subject {subject} has {} ids that nobody was told of ({nameless} expired), but only {kept} + {forgotten} publishes of unknown outcome",
                of.surfaced.len(),
            ));
        }
        self.broken.extend(broken);
    }

    /// The message that these bytes are, if it was sent on this subject with these bytes.
    fn recognise(&mut self, subject: usize, id: i32, found: &[u8]) -> Option<Token> {
        let token = found.first_chunk().map(|bytes| Token::from_le_bytes(*bytes));
        let known = token.filter(|token| self.sent.get(token).is_some_and(|sent| sent.subject == subject));
        let genuine = known.filter(|token| body(self.seed, *token) == found);
        if genuine.is_none() {
            let length = found.len();
            self.broken.push(format!("id {id} of subject {subject} holds {length} bytes that nobody sent there"));
        }
        genuine
    }
}

/// The token, then bytes that follow from it: mostly short, sometimes many pages long.
fn body(seed: u64, token: Token) -> Bytes {
    let (mut random, length) = body_length(seed, token);
    let mut body = vec![0; length];
    body[..8].copy_from_slice(&token.to_le_bytes());
    random.fill_bytes(&mut body[8..]);
    Bytes::from(body)
}

/// The source of the rest of the body, and the length of all of it.
fn body_length(seed: u64, token: Token) -> (StdRng, usize) {
    let mut random = StdRng::seed_from_u64(seed ^ token.rotate_left(32));
    let length = if token.is_multiple_of(200) { 64 * 1024 } else { random.random_range(0..1_024) };
    (random, 8 + length)
}

#[cfg(test)]
mod controls {
    //! The oracle must notice each kind of broken promise, and nothing where all are kept.

    use super::*;

    /// Three acknowledged messages on subject 0 and one of unknown outcome; what a faithful broker has of them.
    fn faithful() -> (Ledger, Vec<Found>, Vec<Outgoing>) {
        let mut ledger = Ledger::new(1, 2);
        let sent: Vec<Outgoing> = (0..4).map(|_| ledger.send(0)).collect();
        for (message, id) in sent.iter().zip(1..=3) {
            ledger.acknowledged(message.token, id);
        }
        let found = sent.iter().map(|message| Found::Body(message.body.clone())).collect();
        (ledger, found, sent)
    }

    #[test]
    fn a_faithful_broker_breaks_nothing_whatever_became_of_the_unknown() {
        for kept in [3, 4] {
            let (mut ledger, found, sent) = faithful();
            let mut follower = ledger.follow(1);
            let other = ledger.send(1);
            ledger.delivered(&mut follower, 1, &other.body);
            ledger.judge(0, 1, &found[..kept]);
            ledger.judge(1, 1, &[Found::Body(other.body)]);
            assert_eq!(ledger.broken(), &[] as &[String], "{sent:?}");
        }
    }

    #[test]
    fn each_broken_promise_is_noticed() {
        type Break = fn(&mut Ledger, &mut Vec<Found>, &[Outgoing]);
        let breaks: [(&str, Break); 12] = [
            ("lost: id 3", |_, found, _| found.truncate(2)),
            ("lost: id 2", |_, found, _| found[1] = Found::Expired),
            ("lost: id 1", |_, found, _| found.swap(0, 1)),
            ("nobody sent there", |_, found, _| found[2] = Found::Body(Bytes::from_static(b"invented by the broker"))),
            ("nobody sent there", |ledger, found, _| found[3] = Found::Body(ledger.send(1).body)),
            ("nobody sent there", |_, found, sent| found[0] = Found::Body(sent[0].body.slice(..8))),
            ("two ids", |_, found, sent| found.push(Found::Body(sent[3].body.clone()))),
            ("that nobody was told of", |_, found, _| found.extend([Found::Expired, Found::Expired])),
            ("given twice", |ledger, _, sent| ledger.acknowledged(sent[3].token, 2)),
            ("after id 1", |ledger, _, sent| {
                let mut follower = Follower { subject: 0, after: 0, last: None };
                ledger.delivered(&mut follower, 1, &sent[0].body);
                ledger.delivered(&mut follower, 3, &sent[2].body);
            }),
            ("acknowledged before", |ledger, _, sent| {
                let mut follower = ledger.follow(0);
                ledger.delivered(&mut follower, 3, &sent[2].body);
            }),
            ("lost: id 4 of subject 0 was delivered", |ledger, found, sent| {
                let mut follower = ledger.follow(0);
                ledger.delivered(&mut follower, 4, &sent[3].body);
                found.truncate(3);
            }),
        ];
        for (expected, break_it) in breaks {
            let (mut ledger, mut found, sent) = faithful();
            break_it(&mut ledger, &mut found, &sent);
            ledger.judge(0, 1, &found);
            assert!(ledger.broken().iter().any(|line| line.contains(expected)), "{expected}: {:?}", ledger.broken());
        }
    }

    #[test]
    fn what_is_lost_counts_once() {
        let (mut ledger, found, sent) = faithful();
        let mut follower = ledger.follow(0);
        ledger.delivered(&mut follower, 3, &sent[2].body);
        ledger.judge(0, 1, &found[..1]);
        ledger.judge(0, 1, &found[..1]);
        assert_eq!((ledger.lost_count(), ledger.given_twice_count()), (2, 0), "{:?}", ledger.broken());
        ledger.acknowledged(sent[3].token, 2);
        assert_eq!((ledger.lost_count(), ledger.given_twice_count()), (2, 1), "{:?}", ledger.broken());
    }

    #[test]
    fn an_id_that_surfaced_after_one_restart_is_not_given_after_the_next() {
        let (mut ledger, found, _) = faithful();
        ledger.judge(0, 1, &found);
        let next = ledger.send(0);
        ledger.acknowledged(next.token, 4);
        assert!(ledger.broken().iter().any(|line| line.contains("given again")), "{:?}", ledger.broken());
    }
}
