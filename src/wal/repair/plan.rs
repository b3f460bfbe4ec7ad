//! From the files that are there to the steps that make a whole log of them. Reads everything, changes nothing.

use std::path::{Path, PathBuf};

use super::candidates::{self, Candidate, Candidates};
use super::ends::{self, Ends, GivenUp};
use super::salvage::{self, Salvaged};
use super::{Finding, Known, Remedy};
use crate::event::Sequence;
use crate::wal::error::{Damage, DamageReason, VerifyError};
use crate::wal::file_system::FileSystem;
use crate::wal::format::{LogId, Salted, SegmentHeader, segment_name};
use crate::wal::recovery;
use crate::wal::segments::Segment;

/// One change to the directory.
#[derive(Debug)]
pub(super) enum Step {
    /// The file goes into the folder of damaged files.
    MoveAside(PathBuf),
    /// The file gets the name that its header says.
    PutBack { from: PathBuf, to: PathBuf },
    /// A segment is written anew, or for the first time.
    Write(Rewrite),
}

impl Step {
    /// From where to where a file is moved within the log.
    pub fn moves(&self, dir: &Path) -> Option<(&Path, PathBuf)> {
        let (from, to) = match self {
            Self::MoveAside(_) => return None,
            Self::PutBack { from, to } => (from, to.clone()),
            Self::Write(rewrite) => (&rewrite.source.as_ref()?.path, dir.join(segment_name(rewrite.header.first))),
        };
        (*from != to).then_some((from, to))
    }
}

/// A segment to be written.
#[derive(Debug)]
pub(super) struct Rewrite {
    /// All of its header but the salt.
    pub header: SegmentHeader,
    /// Where its frames are read from; None if nothing is left of it.
    pub source: Option<Source>,
    /// Whether a file of its name, of which nothing can be used, has to give way.
    pub replaces: bool,
    /// Sequences behind those of the source that get markers, first and last.
    pub lost: Option<(Sequence, Sequence)>,
}

/// What is left of a segment, and where.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub path: PathBuf,
    pub salted: Salted,
    /// Its last record, as for [`salvage::salvage`].
    pub last: Option<Sequence>,
}

/// What is wrong and what to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub findings: Vec<Finding>,
    pub steps: Vec<Step>,
    pub segments: usize,
    /// The first record of the log and the last one, after the repair.
    pub first: Sequence,
    pub last: Sequence,
}

pub(super) type OnSuspect<'a> = &'a mut dyn FnMut(Sequence, &[u8]);

pub(super) fn plan(
    fs: &dyn FileSystem,
    dir: &Path,
    known: &Known,
    suspect: OnSuspect<'_>,
) -> Result<Plan, VerifyError> {
    let Candidates { usable, useless, log_id } = candidates::collect(fs, dir, known.log_id)?;
    let mut plan = Plan::default();
    let chain = chain(usable, &mut plan);
    let (ends, strangers) = Ends::of(useless, &chain);
    for damage in strangers {
        plan.move_aside(damage);
    }
    let log_id = log_id.unwrap_or(LogId::from_bytes([0; 16]));
    let mut walk = Walk { fs, dir, known, log_id, suspect, plan, before: None, newer: ends.newer };
    walk.older(&ends.older, chain.first());
    let mut rest = chain.iter().peekable();
    while let Some(candidate) = rest.next() {
        walk.segment(candidate, rest.peek().copied())?;
    }
    walk.newer()?;
    walk.missing_end();
    Ok(walk.plan)
}

/// The candidates that follow from each other, from the newest back. What lies between two that belong together is moved
/// aside.
fn chain(mut usable: Vec<Candidate>, plan: &mut Plan) -> Vec<Candidate> {
    let mut chain = Vec::new();
    while let Some(candidate) = usable.pop() {
        let before = candidate.known().map(|header| header.previous_first);
        if let Some(at) = usable.iter().rposition(|older| Some(older.first) == before) {
            for between in usable.drain(at + 1..) {
                let reason = DamageReason::Overlaps { first: between.first };
                plan.move_aside(Damage { file: between.path, offset: 0, reason });
            }
        }
        chain.push(candidate);
    }
    chain.reverse();
    chain
}

impl Plan {
    fn move_aside(&mut self, damage: Damage) {
        self.steps.push(Step::MoveAside(damage.file.clone()));
        self.findings.push(Finding { damage, lost: None, unknown_behind: None, remedy: Remedy::MovedAside });
    }
}

/// The segments from the oldest to the newest.
struct Walk<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    known: &'a Known,
    log_id: LogId,
    suspect: OnSuspect<'a>,
    plan: Plan,
    /// The segment before, as it will be, and its last record.
    before: Option<(SegmentHeader, Sequence)>,
    /// Files behind the newest segment of which only the name is left.
    newer: Vec<GivenUp>,
}

/// What a segment has, and where it ends.
struct Extent {
    last: Sequence,
    /// Set if it has to be written anew.
    salvaged: Option<Salvaged>,
    /// As for [`salvage::salvage`].
    last_known: Option<Sequence>,
}

impl Walk<'_> {
    fn segment(&mut self, candidate: &Candidate, next: Option<&Candidate>) -> Result<(), VerifyError> {
        let own = candidates::header_for(candidate, self.before.as_ref().map(|(header, _)| header), self.log_id);
        let header = self.linked(&own);
        let missing = next.and_then(|next| missing_before(next, candidate.first));
        let extent = match (next, missing) {
            (Some(next), None) => self.closed(candidate, &own, next.first.previous())?,
            (Some(_), Some(missing)) => self.open_ended(candidate, &own, None, Some(missing.previous()))?,
            (None, _) => self.newest(candidate, &own)?,
        };
        self.plan.segments += 1;
        if self.before.is_none() {
            self.plan.first = header.first;
        }
        self.plan.last = extent.last;
        let mut written_anew = self.tell(candidate, &extent);
        written_anew |= candidate.known() != Some(&header);
        let mut lost = None;
        if let (Some(next), Some(missing)) = (next, missing) {
            // Up to the segment that is missing, and that one.
            let reason = DamageReason::MissingBefore { expected: missing };
            let all = (extent.last.next(), next.first.previous());
            let damage = Damage { file: next.path.clone(), offset: 0, reason };
            self.plan.findings.push(Finding {
                damage,
                lost: Some(all),
                unknown_behind: None,
                remedy: Remedy::Inserted,
            });
            let tail = Some((extent.last.next(), missing.previous())).filter(|(first, last)| first <= last);
            written_anew |= tail.is_some() && extent.last < header.first;
            lost = if written_anew { tail } else { None };
        }
        self.settle(candidate, &header, &extent, written_anew, lost);
        self.before = Some((header, lost.map_or(extent.last, |(_, last)| last)));
        if let (Some(next), Some(missing)) = (next, missing) {
            self.insert(missing.previous());
            self.insert(next.first.previous());
        }
        Ok(())
    }

    /// The newest segment: it ends where its frames do, or before the files behind it, or where it was durable.
    fn newest(&mut self, candidate: &Candidate, own: &SegmentHeader) -> Result<Extent, VerifyError> {
        let mut durable = self.known.durable;
        if !self.newer.is_empty() {
            let last = self.open_ended(candidate, own, None, None)?.last;
            for stranger in ends::drop_implausible(&mut self.newer, last, candidate.bytes) {
                self.plan.move_aside(stranger);
            }
            if let Some(next) = self.newer.first() {
                durable = next.first.previous();
            }
        }
        self.open_ended(candidate, own, Some(durable), None)
    }

    /// Markers in the place of files before the oldest segment of which only the name is left.
    fn older(&mut self, older: &[GivenUp], oldest: Option<&Candidate>) {
        let Some(oldest) = oldest else { return };
        for (at, given_up) in older.iter().enumerate() {
            let end = older.get(at + 1).map_or(oldest.first, |next| next.first);
            let through = oldest.known().map_or(end, |own| own.previous_first);
            let through = if through > given_up.first && through < end { through } else { end };
            self.replace(given_up, end.previous(), through.previous(), None, oldest.known());
            self.insert(end.previous());
        }
    }

    /// The same behind the newest segment; how far the last one went is not known.
    fn newer(&mut self) -> Result<(), VerifyError> {
        if self.before.is_none() {
            for stranger in ends::drop_implausible_alone(&mut self.newer, self.known.durable) {
                self.plan.move_aside(stranger);
            }
        }
        let newer = std::mem::take(&mut self.newer);
        for (at, given_up) in newer.iter().enumerate() {
            let next = newer.get(at + 1).map(|next| next.first.previous());
            let (last, unknown) = match next {
                Some(last) => (last, None),
                None => {
                    let bytes = candidates::read_whole(self.fs, &given_up.damage.file)?;
                    let seen = ends::last_seen(&bytes, given_up.first);
                    (seen.max(self.known.durable), Some(bytes.iter().filter(|byte| **byte != 0).count() as u64))
                }
            };
            self.replace(given_up, last, last, unknown, None);
        }
        Ok(())
    }

    /// A segment of markers through `through` in the place of a file by which the records up to `last` are lost.
    fn replace(
        &mut self,
        given_up: &GivenUp,
        last: Sequence,
        through: Sequence,
        unknown_behind: Option<u64>,
        like: Option<&SegmentHeader>,
    ) {
        let first = given_up.first;
        let mut header =
            self.before.as_ref().map(|(header, _)| header).or(like).cloned().unwrap_or_else(|| self.blank(first));
        header.previous_first = self.before.as_ref().map_or_else(|| first.previous(), |(before, _)| before.first);
        header.first = first;
        if self.before.is_none() {
            self.plan.first = first;
        }
        let lost = Some((first, last));
        let damage = given_up.damage.clone();
        self.plan.findings.push(Finding { damage, lost, unknown_behind, remedy: Remedy::Inserted });
        let rewrite = Rewrite { header: header.clone(), source: None, replaces: true, lost: Some((first, through)) };
        self.plan.steps.push(Step::Write(rewrite));
        self.plan.segments += 1;
        self.plan.last = through;
        self.before = Some((header, through));
    }

    /// The header of a log's first segment.
    fn blank(&self, first: Sequence) -> SegmentHeader {
        SegmentHeader {
            node_id: 0,
            log_id: self.log_id,
            epoch: 1,
            salt: [0; 16],
            first,
            previous_first: Sequence::ZERO,
            created_at: self.fs.now(),
            reused: false,
        }
    }

    /// The header with what follows from the segment before.
    fn linked(&self, own: &SegmentHeader) -> SegmentHeader {
        let mut header = own.clone();
        if let Some((before, _)) = &self.before {
            header.previous_first = before.first;
            header.epoch = header.epoch.max(before.epoch);
        }
        header
    }

    /// A segment whose last record follows from the next one.
    fn closed(&self, candidate: &Candidate, own: &SegmentHeader, last: Sequence) -> Result<Extent, VerifyError> {
        if candidate.known().is_some() {
            let segment = Segment { last, end: None, verified: false, ..self.as_segment(candidate, own) };
            match recovery::verify_closed(self.fs, &segment) {
                Ok(_) => return Ok(Extent { last, salvaged: None, last_known: Some(last) }),
                Err(VerifyError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let salvaged = Some(self.salvage(candidate, Some(last))?);
        Ok(Extent { last, salvaged, last_known: Some(last) })
    }

    /// A segment that ends where its frames do, not before `at_least` and not behind `at_most`.
    fn open_ended(
        &self,
        candidate: &Candidate,
        own: &SegmentHeader,
        at_least: Option<Sequence>,
        at_most: Option<Sequence>,
    ) -> Result<Extent, VerifyError> {
        let mut extent = Extent { last: candidate.first.previous(), salvaged: None, last_known: None };
        let tail = candidate.known().map(|_| recovery::tail(self.fs, &self.as_segment(candidate, own)));
        match tail {
            Some(Ok(tail)) => extent.last = tail.last,
            Some(Err(VerifyError::Damaged(_))) | None => {
                let salvaged = self.salvage(candidate, None)?;
                extent.last = salvage::end_of(&salvaged.parts, candidate.first);
                extent.salvaged = Some(salvaged);
            }
            Some(Err(error)) => return Err(error),
        }
        let wanted = match (at_least, at_most) {
            (Some(at_least), _) if extent.last < at_least => at_least,
            (_, Some(at_most)) if extent.last > at_most => at_most,
            _ => return Ok(extent),
        };
        let salvaged = Some(self.salvage(candidate, Some(wanted))?);
        Ok(Extent { last: wanted, salvaged, last_known: Some(wanted) })
    }

    fn as_segment(&self, candidate: &Candidate, header: &SegmentHeader) -> Segment {
        Segment { path: candidate.path.clone(), ..Segment::empty(self.dir, header.clone(), candidate.bytes) }
    }

    fn salvage(&self, candidate: &Candidate, last: Option<Sequence>) -> Result<Salvaged, VerifyError> {
        let bytes = candidates::read_whole(self.fs, &candidate.path)?;
        Ok(salvage::salvage(&bytes, candidate.salted(), candidate.first, last))
    }

    /// Notes the damage of a segment; whether any of it needs a new file.
    fn tell(&mut self, candidate: &Candidate, extent: &Extent) -> bool {
        let misnamed = matches!(candidate.damage, Some(DamageReason::Name | DamageReason::Doubled { .. }));
        if let Some(damage) = candidate.as_damage() {
            let remedy = if misnamed { Remedy::PutBack } else { Remedy::Rewritten };
            self.plan.findings.push(Finding { damage, lost: None, unknown_behind: None, remedy });
        }
        if let Some(salvaged) = &extent.salvaged {
            self.plan.findings.extend(salvaged.places.iter().map(|place| Finding {
                damage: Damage { file: candidate.path.clone(), offset: place.offset, reason: place.reason.clone() },
                lost: place.lost,
                unknown_behind: None,
                remedy: Remedy::Rewritten,
            }));
            for (sequence, bytes) in &salvaged.suspects {
                (self.suspect)(*sequence, bytes);
            }
        }
        extent.salvaged.is_some() || candidate.damage.is_some() && !misnamed
    }

    fn settle(
        &mut self,
        candidate: &Candidate,
        header: &SegmentHeader,
        extent: &Extent,
        written_anew: bool,
        lost: Option<(Sequence, Sequence)>,
    ) {
        let name = self.dir.join(segment_name(candidate.first));
        if written_anew {
            let path = candidate.path.clone();
            let source = Some(Source { path, salted: candidate.salted(), last: extent.last_known });
            if extent.salvaged.is_none() && candidate.damage.is_none() && lost.is_none() {
                // Its frames are whole; it is the header that does not fit to the segment before.
                let reason = self.misfit(candidate);
                let damage = Damage { file: candidate.path.clone(), offset: 0, reason };
                self.plan.findings.push(Finding {
                    damage,
                    lost: None,
                    unknown_behind: None,
                    remedy: Remedy::Rewritten,
                });
            }
            self.plan.steps.push(Step::Write(Rewrite { header: header.clone(), source, replaces: false, lost }));
        } else if candidate.path != name {
            self.plan.steps.push(Step::PutBack { from: candidate.path.clone(), to: name });
        }
    }

    fn misfit(&self, candidate: &Candidate) -> DamageReason {
        match (&self.before, candidate.known()) {
            (Some((before, _)), Some(own)) if own.epoch < before.epoch => {
                DamageReason::Epoch { found: own.epoch, previous: before.epoch }
            }
            (_, own) => DamageReason::MissingBefore { expected: own.map_or(Sequence::ZERO, |own| own.previous_first) },
        }
    }

    /// A segment of markers from where the log ends so far through `last`.
    fn insert(&mut self, last: Sequence) {
        let Some((before, end)) = &self.before else { return };
        let first = end.next();
        if first > last {
            return;
        }
        let header = SegmentHeader { first, previous_first: before.first, ..before.clone() };
        self.plan.steps.push(Step::Write(Rewrite {
            header: header.clone(),
            source: None,
            replaces: false,
            lost: Some((first, last)),
        }));
        self.plan.segments += 1;
        self.plan.last = last;
        self.before = Some((header, last));
    }

    /// A log without any segment, of which somebody knows that it had records.
    fn missing_end(&mut self) {
        let durable = self.known.durable;
        if self.before.is_some() || durable == Sequence::ZERO {
            return;
        }
        let first = Sequence::ZERO.next();
        let header = self.blank(first);
        let file = self.dir.join(segment_name(first));
        let damage = Damage { file, offset: 0, reason: DamageReason::Frame { expected: first } };
        self.plan.findings.push(Finding {
            damage,
            lost: Some((first, durable)),
            unknown_behind: None,
            remedy: Remedy::Inserted,
        });
        self.plan.steps.push(Step::Write(Rewrite {
            header,
            source: None,
            replaces: false,
            lost: Some((first, durable)),
        }));
        (self.plan.segments, self.plan.first, self.plan.last) = (1, first, durable);
    }
}

/// The first sequence of the segment that must be between the one that starts at `first` and `next`, and is not there.
fn missing_before(next: &Candidate, first: Sequence) -> Option<Sequence> {
    let before = next.known()?.previous_first;
    (before > first && before < next.first).then_some(before)
}
