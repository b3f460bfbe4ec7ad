//! The truth: what was sent, what was acknowledged, and what the log has shown to anybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Sequence;
use crate::ingest::{PublishError, SubjectTable};
use crate::wal::Log;

use super::node::{self, Outcome};

/// A message as it was delivered or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub sequence: u64,
    pub subject: String,
    pub id: u32,
    /// None where only the metadata is at hand.
    pub body: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct Oracle {
    /// By number.
    sent: Vec<(String, Vec<u8>)>,
    /// Numbers of those that have a key.
    keyed: Vec<usize>,
    /// Subject and id of each of them that is known to be a message.
    ids: BTreeMap<usize, (String, u32)>,
    /// Answers that were not refusals.
    answers: usize,
    /// What was durable by sequence, from 1: subject and id. Never changes, only grows.
    history: Vec<(String, u32)>,
    marks: BTreeMap<String, u32>,
    /// Number by subject and id.
    acknowledged: BTreeMap<(String, u32), usize>,
    /// Numbers of publishes that were refused with the word that nothing was published.
    refused: BTreeSet<usize>,
    /// How far the log was allowed to forget.
    pub released: u64,
}

impl Oracle {
    /// Makes the body of the next publish on `subject`, `bytes` long or longer; returns its number, too.
    pub fn send(&mut self, subject: &str, bytes: usize, keyed: bool) -> (usize, Vec<u8>) {
        let number = self.sent.len();
        if keyed {
            self.keyed.push(number);
        }
        let mut body = format!("{number:08}").into_bytes();
        body.resize(body.len().max(bytes), number as u8);
        self.sent.push((subject.to_owned(), body.clone()));
        (number, body)
    }

    /// How many had a key.
    pub fn keyed(&self) -> usize {
        self.keyed.len()
    }

    /// One of those that had a key: number, subject and body.
    pub fn again(&self, index: usize) -> (usize, String, Vec<u8>) {
        let number = self.keyed[index];
        let (subject, body) = self.sent[number].clone();
        (number, subject, body)
    }

    /// Whether a publish with a key was acknowledged.
    pub fn is_acknowledged(&self, number: usize) -> bool {
        self.ids.contains_key(&number)
    }

    pub fn answers(&self) -> usize {
        self.answers
    }

    /// A key has one message.
    fn is(&mut self, number: usize, message: &(String, u32)) -> Result<(), String> {
        if self.keyed.binary_search(&number).is_err() {
            return Ok(());
        }
        match self.ids.insert(number, message.clone()) {
            Some(other) if other != *message => Err(format!("{number} has one key and is {other:?} and {message:?}")),
            _ => Ok(()),
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn durable(&self) -> u64 {
        self.history.len() as u64
    }

    /// Takes down an answer.
    pub fn answered(&mut self, outcome: &Outcome) -> Result<(), String> {
        match &outcome.answer {
            Ok(id) => {
                let subject = self.sent[outcome.number].0.clone();
                let key = (subject, id.get());
                // Ids have no gaps.
                if self.marks.get(&key.0).is_none_or(|mark| *mark < key.1) {
                    return Err(format!("{key:?} was acknowledged and never durable"));
                }
                self.answers += 1;
                self.is(outcome.number, &key)?;
                let keyed = self.keyed.binary_search(&outcome.number).is_ok();
                match self.acknowledged.insert(key.clone(), outcome.number) {
                    Some(other) if !keyed || other != outcome.number => {
                        return Err(format!("{key:?} was given to {other} and to {}", outcome.number));
                    }
                    _ => {}
                }
            }
            Err(PublishError::KeyTaken { id }) => {
                self.answers += 1;
                let message = (self.sent[outcome.number].0.clone(), id.get());
                self.is(outcome.number, &message)?;
            }
            // Of one that is tried again an earlier attempt may be in the log.
            Err(_) if self.keyed.binary_search(&outcome.number).is_ok() => {}
            // Its outcome is unknown.
            Err(PublishError::LogFailed) => {}
            Err(_) => drop(self.refused.insert(outcome.number)),
        }
        Ok(())
    }

    /// Takes down what somebody has seen: the same as ever, or the next.
    pub fn saw(&mut self, seen: &Seen) -> Result<(), String> {
        let at = usize::try_from(seen.sequence - 1).map_err(|error| error.to_string())?;
        let entry = (seen.subject.clone(), seen.id);
        match self.history.get(at) {
            Some(known) if *known == entry => {}
            Some(known) => return Err(format!("sequence {} was {known:?} and is {entry:?}", seen.sequence)),
            None if at == self.history.len() => {
                let mark = self.marks.entry(seen.subject.clone()).or_default();
                if seen.id != *mark + 1 {
                    return Err(format!("{entry:?} follows id {mark}"));
                }
                *mark = seen.id;
                self.history.push(entry.clone());
            }
            None => return Err(format!("sequence {} follows {}", seen.sequence, self.history.len())),
        }
        let Some(body) = &seen.body else { return Ok(()) };
        let number = body.get(..8).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let sent = number.and_then(|number| Some((number, self.sent.get(number)?)));
        let Some((number, (subject, sent_body))) = sent else { return Err(format!("{entry:?} was never sent")) };
        if *subject != seen.subject || sent_body != body {
            return Err(format!("{entry:?} is not what was sent as {number}"));
        }
        self.is(number, &entry)?;
        if self.refused.contains(&number) {
            return Err(format!("{number} was refused and is {entry:?}"));
        }
        match self.acknowledged.get(&entry) {
            Some(acknowledged) if *acknowledged != number => {
                Err(format!("{entry:?} was acknowledged to {acknowledged} and is {number}"))
            }
            _ => Ok(()),
        }
    }

    /// Compares the whole log and the ids with the truth.
    pub fn check(&mut self, log: &Log, subjects: &SubjectTable) -> Result<(), String> {
        let (trimmed, durable) = (log.trimmed().sequence(), log.durable().sequence());
        if trimmed.get() > self.released {
            return Err(format!("trimmed up to {trimmed}, released up to {}", self.released));
        }
        if durable.get() < self.durable() {
            return Err(format!("lost: the log ends at {durable}, {} was durable", self.durable()));
        }
        let mut next = trimmed;
        for seen in node::read(log, trimmed)? {
            next = next.next();
            if Sequence::new(seen.sequence) != next {
                return Err(format!("sequence {} where {next} is due", seen.sequence));
            }
            self.saw(&seen)?;
        }
        if next != durable {
            return Err(format!("readers end at {next}, the log at {durable}"));
        }
        for (subject, mark) in &self.marks {
            let found = subjects.high_water_mark(subject).map_or(0, |(_, id)| id.get());
            if found != *mark {
                return Err(format!("the mark of {subject} is {found}, its last message {mark}"));
            }
        }
        Ok(())
    }
}
