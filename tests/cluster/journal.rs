//! What publishers were told and subscribers saw, and every promise that was broken.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A message of the load: its number, which is its body and its key.
pub type Token = u64;

/// How a promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Acknowledged, and somebody will never see it.
    Lost,
    /// One id for two messages, or two ids for one.
    Twice,
    /// A subscriber did not get the id that is next.
    Gap,
    /// A subscriber got an id or a message again.
    Repeat,
    /// Another message than the one that was acknowledged.
    Altered,
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Broken {
    pub kind: Kind,
    /// The number of the subject, if it is of one.
    pub subject: Option<usize>,
    pub what: String,
}

impl Broken {
    fn of(subject: usize, kind: Kind, what: String) -> Self {
        Self { kind, subject: Some(subject), what }
    }
}

/// Everything that was promised.
#[derive(Debug)]
pub struct Journal {
    begun: Instant,
    subjects: usize,
    /// By subject and id.
    acknowledged: BTreeMap<(usize, i32), Token>,
    given: BTreeMap<Token, i32>,
    subscribers: Vec<Seen>,
    broken: Vec<Broken>,
    /// Publishes that were given up, and why.
    failed: Vec<String>,
    retries: usize,
    /// When an answer came last, by subject.
    answered: Vec<Duration>,
    /// The longest time without one, by subject.
    silent: Vec<Duration>,
    /// How long a subscriber that had lost its stream was without one.
    resumed: Vec<Duration>,
}

/// What one subscriber saw, over all its streams.
#[derive(Debug)]
struct Seen {
    subject: usize,
    /// What came under the ids from 1.
    tokens: Vec<Token>,
}

/// What a run has shown.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Publishes that were given up.
    pub failed: Vec<String>,
    /// Tries beyond the first of each publish.
    pub retries: usize,
    /// What subscribers were given.
    pub delivered: usize,
    /// How often a subscriber had to resume.
    pub resumes: usize,
    /// How long the slowest resume took.
    pub resumed_within: Duration,
    /// Everything that must not be.
    pub broken: Vec<Broken>,
    /// The longest time without an answer, by subject.
    pub silent: Vec<Duration>,
}

impl Verdict {
    /// Promises that were broken in this way.
    pub fn count(&self, kind: Kind) -> usize {
        self.broken.iter().filter(|broken| broken.kind == kind).count()
    }
}

impl Journal {
    /// Of so many subjects, each with so many subscribers.
    pub fn new(subjects: usize, each: usize) -> Self {
        let seen = |number: usize| Seen { subject: number % subjects, tokens: Vec::new() };
        Self {
            begun: Instant::now(),
            subjects,
            acknowledged: BTreeMap::new(),
            given: BTreeMap::new(),
            subscribers: (0..subjects * each).map(seen).collect(),
            broken: Vec::new(),
            failed: Vec::new(),
            retries: 0,
            answered: vec![Duration::ZERO; subjects],
            silent: vec![Duration::ZERO; subjects],
            resumed: Vec::new(),
        }
    }

    /// Its subscribers and their subjects.
    pub fn subscribers(&self) -> Vec<usize> {
        self.subscribers.iter().map(|seen| seen.subject).collect()
    }

    /// A publish was acknowledged.
    pub fn acknowledged(&mut self, subject: usize, id: i32, token: Token) {
        if let Some(other) = self.acknowledged.insert((subject, id), token) {
            let what = format!("id {id} of subject {subject} was given to {other} and to {token}");
            self.broken.push(Broken::of(subject, Kind::Twice, what));
        }
        if let Some(other) = self.given.insert(token, id) {
            let what = format!("message {token} was given id {other} and id {id}");
            self.broken.push(Broken::of(subject, Kind::Twice, what));
        }
        let now = self.begun.elapsed();
        let silent = now.saturating_sub(std::mem::replace(&mut self.answered[subject], now));
        self.silent[subject] = self.silent[subject].max(silent);
    }

    /// A publish was given up.
    pub fn failed(&mut self, token: Token, why: &tonic::Status) {
        self.failed.push(format!("message {token}: {why}"));
    }

    /// A publish was tried again.
    pub fn retried(&mut self) {
        self.retries += 1;
    }

    /// A subscriber that had lost its stream has one again.
    pub fn resumed(&mut self, after: Duration) {
        self.resumed.push(after);
    }

    /// The id after which a subscriber goes on.
    pub fn last_seen(&self, subscriber: usize) -> i32 {
        self.subscribers[subscriber].tokens.len() as i32
    }

    /// A subscriber was given a message.
    pub fn delivered(&mut self, subscriber: usize, id: i32, token: Token) {
        let seen = &mut self.subscribers[subscriber];
        let expected = seen.tokens.len() as i32 + 1;
        if id != expected {
            let kind = if id > expected { Kind::Gap } else { Kind::Repeat };
            let what = format!("subscriber {subscriber} was to get id {expected} and got {id}");
            self.broken.push(Broken::of(seen.subject, kind, what));
            return;
        }
        seen.tokens.push(token);
    }

    /// The last id of each subject that anybody knows of.
    pub fn last_ids(&self) -> Vec<i32> {
        let last = |subject| self.acknowledged.range((subject, 0)..=(subject, i32::MAX)).next_back();
        (0..self.subjects).map(|subject| last(subject).map_or(0, |((_, id), _)| *id)).collect()
    }

    /// Whether every subscriber has everything that was acknowledged.
    pub fn all_seen(&self) -> bool {
        let last = self.last_ids();
        self.subscribers.iter().all(|seen| seen.tokens.len() as i32 >= last[seen.subject])
    }

    /// Ids and messages that were given twice.
    pub fn given_twice(&self) -> usize {
        self.broken.iter().filter(|broken| broken.kind == Kind::Twice).count()
    }

    /// Messages that were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    /// The verdict at the end.
    pub fn judge(&self) -> Verdict {
        let mut broken = self.broken.clone();
        for (number, seen) in self.subscribers.iter().enumerate() {
            let of_subject = self.acknowledged.range((seen.subject, 0)..=(seen.subject, i32::MAX));
            for ((subject, id), token) in of_subject {
                broken.extend(match seen.tokens.get(*id as usize - 1) {
                    Some(found) if found == token => None,
                    Some(found) => Some(Broken::of(
                        *subject,
                        Kind::Altered,
                        format!("subscriber {number}: id {id} of {subject} is {found}, not {token}"),
                    )),
                    None => Some(Broken::of(
                        *subject,
                        Kind::Lost,
                        format!("subscriber {number} never saw id {id} of subject {subject}"),
                    )),
                });
            }
            let mut once: Vec<_> = seen.tokens.clone();
            once.sort_unstable();
            once.dedup();
            let again = seen.tokens.len() - once.len();
            if again > 0 {
                let what = format!("subscriber {number} saw {again} messages twice");
                broken.push(Broken::of(seen.subject, Kind::Repeat, what));
            }
        }
        Verdict {
            acknowledged: self.acknowledged.len(),
            failed: self.failed.clone(),
            retries: self.retries,
            delivered: self.subscribers.iter().map(|seen| seen.tokens.len()).sum(),
            resumes: self.resumed.len(),
            resumed_within: self.resumed.iter().max().copied().unwrap_or_default(),
            broken,
            silent: self.silent.clone(),
        }
    }

    /// What is wrong with the rows that the nodes' database has in the end, each a subject, an id and a body. Rows of publishes
    /// whose answer was lost are more than what was acknowledged.
    pub fn judge_rows(&self, rows: impl IntoIterator<Item = (usize, i32, Token)>) -> Vec<Broken> {
        let mut found = BTreeMap::new();
        let mut broken = Vec::new();
        for (subject, id, token) in rows {
            if found.insert((subject, id), token).is_some() {
                broken.push(Broken::of(subject, Kind::Twice, format!("id {id} of subject {subject} has two rows")));
            }
        }
        for ((subject, id), token) in &self.acknowledged {
            match found.get(&(*subject, *id)) {
                Some(row) if row == token => {}
                Some(row) => {
                    let what = format!("the row of id {id} of subject {subject} is {row}, not {token}");
                    broken.push(Broken::of(*subject, Kind::Altered, what));
                }
                None => {
                    let what = format!("acknowledged id {id} of subject {subject} has no row");
                    broken.push(Broken::of(*subject, Kind::Lost, what));
                }
            }
        }
        broken
    }
}

#[test]
fn the_judge_finds_each_kind_of_broken_promise() {
    let judged = |break_it: fn(&mut Journal)| {
        let mut journal = Journal::new(1, 1);
        for id in 1..=2 {
            journal.acknowledged(0, id, id as Token);
            journal.delivered(0, id, id as Token);
        }
        break_it(&mut journal);
        journal
            .judge()
            .broken
            .into_iter()
            .map(|broken| format!("{:?}: {}", broken.kind, broken.what))
            .collect::<Vec<_>>()
    };
    assert!(judged(|_| {}).is_empty());
    assert!(
        judged(|journal| journal.acknowledged(0, 2, 9))[0]
            .starts_with("Twice: id 2 of subject 0 was given to 2 and to 9")
    );
    assert!(judged(|journal| journal.acknowledged(0, 3, 2))[0].starts_with("Twice: message 2 was given id 2 and id 3"));
    assert!(judged(|journal| journal.delivered(0, 4, 9))[0].starts_with("Gap: subscriber 0 was to get id 3 and got 4"));
    assert!(
        judged(|journal| journal.delivered(0, 2, 2))[0].starts_with("Repeat: subscriber 0 was to get id 3 and got 2")
    );
    assert!(judged(|journal| journal.acknowledged(0, 3, 3))[0].starts_with("Lost: subscriber 0 never saw id 3"));
    assert!(
        judged(|journal| {
            journal.acknowledged(0, 3, 3);
            journal.delivered(0, 3, 2);
        })[0]
            .starts_with("Altered: subscriber 0: id 3 of 0 is 2, not 3")
    );
    let rows = |rows: &[(usize, i32, Token)]| {
        let mut journal = Journal::new(1, 1);
        journal.acknowledged(0, 1, 1);
        journal.acknowledged(0, 2, 2);
        journal.judge_rows(rows.iter().copied()).iter().map(|broken| broken.kind).collect::<Vec<_>>()
    };
    assert_eq!(rows(&[(0, 1, 1), (0, 2, 2), (0, 3, 3)]), []);
    assert_eq!(rows(&[(0, 1, 1)]), [Kind::Lost]);
    assert_eq!(rows(&[(0, 1, 1), (0, 2, 9)]), [Kind::Altered]);
    assert_eq!(rows(&[(0, 1, 1), (0, 2, 2), (0, 2, 2)]), [Kind::Twice]);
}
