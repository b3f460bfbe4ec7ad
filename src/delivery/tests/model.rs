//! Any number of subscribers under random publishes, reads, overflows and trims, against what they are to get.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const SUBJECT: &str = "s";

/// What one subscriber got, judged as it comes.
#[derive(Debug)]
struct Judge {
    /// Ids up to this one were asked for, or are not for it.
    after: u32,
    /// Ids above this one were published after the subscription.
    owed_after: u32,
    last: u32,
    skipped: Vec<u32>,
}

impl Judge {
    fn new(start: Start, durable: u32) -> Self {
        let after = match start {
            Start::Now => durable,
            Start::After(after) | Start::Owed(after) => after,
        };
        let owed_after = if let Start::Owed(after) = start { after } else { durable };
        Self { after, owed_after, last: after, skipped: Vec::new() }
    }

    fn got(&mut self, id: u32) -> Result<(), String> {
        if id <= self.last {
            return Err(format!("{id} came after {}", self.last));
        }
        let skipped = self.last + 1..id;
        if let Some(owed) = skipped.clone().find(|id| *id > self.owed_after) {
            return Err(format!("{owed} was left out before {id}"));
        }
        self.skipped.extend(skipped);
        self.last = id;
        Ok(())
    }

    /// What was left out must have been gone at some time.
    fn judge(&self, lost: &HashSet<u32>) -> Result<(), String> {
        match self.skipped.iter().find(|id| !lost.contains(id)) {
            Some(id) => Err(format!("{id} was left out, and was never lost")),
            None => Ok(()),
        }
    }
}

struct Subscriber {
    subscription: Subscription,
    judge: Judge,
}

struct World {
    rig: Rig,
    random: StdRng,
    queued: std::collections::VecDeque<Vec<Live>>,
    subscribers: Vec<Subscriber>,
    lost: HashSet<u32>,
    ended: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        // A ring of some ten messages.
        let config = Config { subscribers_max: 8, subscriber_bytes_max: 2_000, delivery_bytes_max: 3_000 };
        let rig = Rig::new(config);
        let random = StdRng::seed_from_u64(seed);
        Self { rig, random, queued: Default::default(), subscribers: Vec::new(), lost: HashSet::new(), ended: 0 }
    }

    fn last(&self) -> u32 {
        self.rig.history.last_id(&subject(SUBJECT))
    }

    fn publish(&mut self) {
        let count = if self.random.random_ratio(1, 40) { 2_500 } else { self.random.random_range(1..12) };
        let frame: Vec<Live> = (0..count).map(|_| self.rig.publish(SUBJECT)).collect();
        if self.rig.delivery.has_subscribers() {
            self.queued.push_back(frame);
        }
    }

    fn fan_out(&mut self) {
        if let Some(frame) = self.queued.pop_front() {
            self.rig.fanout.fan_out(frame);
        }
    }

    fn subscribe(&mut self) {
        let last = self.last();
        let after = self.random.random_range(0..=last);
        let start = match self.random.random_range(0..5) {
            0 | 1 => Start::Now,
            2 | 3 => Start::After(after),
            _ => Start::Owed(after),
        };
        if let Ok(subscription) = self.rig.delivery.subscribe(&subject(SUBJECT), start) {
            self.subscribers.push(Subscriber { subscription, judge: Judge::new(start, last) });
        }
    }

    /// The log gives some of its oldest away: what is even is in the store then, and the rest nowhere.
    fn trim(&mut self) {
        let through = self.random.random_range(0..=self.last());
        let kept: Vec<bool> = (0..=through).map(|id| self.rig.history.has(SUBJECT, id)).collect();
        self.rig.history.trim(SUBJECT, through, |id| id % 2 == 0);
        let has = |id: &u32| self.rig.history.has(SUBJECT, *id);
        self.lost.extend((1..=through).filter(|id| kept[*id as usize] && !has(id)));
    }

    fn read_some(&mut self, at: usize, count: usize) {
        let Subscriber { subscription, judge } = &mut self.subscribers[at];
        for _ in 0..count {
            match subscription.next().now_or_never() {
                None => return,
                Some(Some(Ok(message))) => judge.got(id_of(message) as u32).expect("in order"),
                Some(Some(Err(StreamEnd::Gone { last_delivered, first_available }))) => {
                    assert!(last_delivered >= judge.last && last_delivered >= judge.after);
                    assert!(
                        self.lost.contains(&(last_delivered + 1)),
                        "{last_delivered} is followed by one that is there"
                    );
                    assert!((last_delivered + 1..first_available).all(|id| self.lost.contains(&id)));
                    assert!(
                        self.lost.contains(&first_available)
                            || first_available <= self.rig.history.last_id(&subject(SUBJECT)) + 1
                    );
                    judge.judge(&self.lost).expect("before the end");
                    drop(self.subscribers.swap_remove(at));
                    self.ended += 1;
                    return;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    fn step(&mut self, trims: bool) {
        match self.random.random_range(0..100) {
            0..25 => self.publish(),
            25..45 => self.fan_out(),
            45..60 => self.rig.read(),
            60..68 => self.subscribe(),
            68..70 if trims => self.trim(),
            70..72 if !self.subscribers.is_empty() => {
                let at = self.random.random_range(0..self.subscribers.len());
                drop(self.subscribers.swap_remove(at));
            }
            72..75 => *self.rig.history.chunk_max.lock() = self.random.random_range(0..30),
            _ if !self.subscribers.is_empty() => {
                let at = self.random.random_range(0..self.subscribers.len());
                let count = self.random.random_range(1..60);
                self.read_some(at, count);
            }
            _ => {}
        }
    }

    /// Everybody reads to the end.
    fn finish(&mut self) {
        while !self.queued.is_empty() {
            self.fan_out();
        }
        *self.rig.history.chunk_max.lock() = 0;
        for at in (0..self.subscribers.len()).rev() {
            for _ in 0..10_000 {
                let before = self.subscribers.len();
                self.read_some(at, usize::MAX);
                if self.subscribers.len() < before || self.subscribers[at].judge.last == self.last() {
                    break;
                }
                self.rig.read();
            }
        }
        for Subscriber { judge, .. } in &self.subscribers {
            // The last ones may be lost, too, for one that resumed.
            let rest = judge.last + 1..=self.last();
            assert!(rest.clone().all(|id| id <= judge.owed_after && self.lost.contains(&id)), "{rest:?} did not come");
            judge.judge(&self.lost).expect("nothing was left out that could be had");
        }
    }
}

#[test]
fn nobody_misses_anything_or_gets_it_twice() {
    let (mut fallbacks, mut rejoins, mut ended, mut behind) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.step(seed % 2 == 0);
        }
        world.finish();
        let metrics = &world.rig.metrics.delivery;
        fallbacks += metrics.fallbacks.get();
        rejoins += metrics.rejoins.get();
        behind += metrics.catch_up_messages.get();
        ended += world.ended;
    }
    println!("{fallbacks} fall-backs, {rejoins} rejoins, {behind} messages from history, {ended} ends");
    assert!(fallbacks > 500 && rejoins > 500 && ended > 20, "{fallbacks} {rejoins} {ended}: it was put to the test");
}

#[test]
fn the_judge_notices_what_is_left_out_and_what_comes_twice() {
    let mut judge = Judge::new(Start::After(2), 5);
    assert_eq!(judge.got(4), Ok(()), "3 may be lost");
    assert!(judge.judge(&HashSet::new()).is_err_and(|error| error.starts_with("3 ")), "but was not");
    assert_eq!(judge.judge(&HashSet::from([3])), Ok(()));
    assert!(judge.got(4).is_err(), "twice");
    assert!(judge.got(7).is_err_and(|error| error.starts_with("6 ")), "6 came after the subscription");
    assert_eq!(judge.got(5), Ok(()));
    assert_eq!(judge.got(6), Ok(()));
}
