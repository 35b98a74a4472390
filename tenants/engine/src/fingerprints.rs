//! Which requests a shard has applied lately: one that comes again, from its client or from a gateway, adds nothing.
//!
//! Nearly every request is applied to the whole range of its shard. Such a one costs its sixteen bytes and a number; only
//! where shards have been cut anew is it told to which hashes a request was applied.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::hash_table::OccupiedEntry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::fingerprint::Fingerprint;
use crate::hash_range::HashRanges;

/// Most fingerprints of one shard. Beyond it the oldest go early: 1 700 requests a second are known for ten minutes.
pub const MAX_FINGERPRINTS: usize = 1 << 20;
const SECOND_NS: u64 = 1_000_000_000;

/// To what a request was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied<'a> {
    /// To all that the shard is of.
    Whole,
    /// To these hashes alone.
    Part(&'a HashRanges),
}

/// Requests of one second.
#[derive(Debug)]
struct Run {
    at_s: u64,
    requests: usize,
}

/// The fingerprints of one shard.
#[derive(Debug)]
pub struct Fingerprints {
    window_ns: u64,
    /// Oldest first. One that was applied to more hashes later stands here twice, and the later place counts.
    queue: VecDeque<Fingerprint>,
    /// When those in the queue were applied.
    runs: VecDeque<Run>,
    /// Number of the first in the queue.
    first: u64,
    /// Low half of the number of every fingerprint: the queue is far shorter than the half reaches.
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Of those that were not applied to all.
    parts: HashMap<Fingerprint, HashRanges>,
    /// From this number on no record tells of them.
    untold: u64,
    dropped: u64,
}

impl Fingerprints {
    /// Remembers each for at least `window_ns`, and less than a second longer.
    pub fn new(window_ns: u64) -> Self {
        Self {
            window_ns,
            queue: VecDeque::new(),
            runs: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            parts: HashMap::new(),
            untold: 0,
            dropped: 0,
        }
    }

    /// For how long each is remembered.
    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many went before their time.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// To what a request was applied, if it was.
    #[inline]
    pub fn find(&self, fingerprint: Fingerprint) -> Option<Applied<'_>> {
        self.number(fingerprint)?;
        Some(self.applied(fingerprint))
    }

    fn applied(&self, fingerprint: Fingerprint) -> Applied<'_> {
        if self.parts.is_empty() {
            return Applied::Whole;
        }
        self.parts.get(&fingerprint).map_or(Applied::Whole, Applied::Part)
    }

    fn number(&self, fingerprint: Fingerprint) -> Option<u64> {
        let is_it = |low: &u32| self.at(self.number_of(*low)) == Some(fingerprint);
        let low = self.numbers.find(self.hasher.hash_one(fingerprint), is_it)?;
        Some(self.number_of(*low))
    }

    fn number_of(&self, low: u32) -> u64 {
        self.first + u64::from(low.wrapping_sub(self.first as u32))
    }

    fn at(&self, number: u64) -> Option<Fingerprint> {
        self.queue.get((number - self.first) as usize).copied()
    }

    /// Remember to what a request has been applied by now; `None`: to all.
    #[inline]
    pub fn put(&mut self, fingerprint: Fingerprint, part: Option<HashRanges>, now_ns: u64) {
        self.put_at(fingerprint, part, now_ns / SECOND_NS);
    }

    /// [`Self::put`] in a second of the past.
    pub fn put_at(&mut self, fingerprint: Fingerprint, part: Option<HashRanges>, at_s: u64) {
        let hash = self.hasher.hash_one(fingerprint);
        let (queue, first) = (&self.queue, self.first);
        let at = |low: &u32| queue.get(low.wrapping_sub(first as u32) as usize);
        if let Ok(entry) = self.numbers.find_entry(hash, |low| at(low) == Some(&fingerprint)) {
            entry.remove();
        }
        let number = self.first + self.queue.len() as u64;
        let hasher = &self.hasher;
        self.numbers.insert_unique(hash, number as u32, |low| {
            at(low).map_or(hash, |other| hasher.hash_one(other))
        });
        self.queue.push_back(fingerprint);
        match part {
            Some(part) => {
                self.parts.insert(fingerprint, part);
            }
            None if !self.parts.is_empty() => {
                self.parts.remove(&fingerprint);
            }
            None => {}
        }
        match self.runs.back_mut() {
            // A clock that went back makes nothing older than what came before.
            Some(run) if run.at_s >= at_s => run.requests += 1,
            _ => self.runs.push_back(Run { at_s, requests: 1 }),
        }
        while self.queue.len() > MAX_FINGERPRINTS {
            self.dropped += u64::from(self.pop());
        }
    }

    /// Forget those whose time is over.
    #[inline]
    pub fn expire(&mut self, now_ns: u64) {
        let Some(begin_ns) = now_ns.checked_sub(self.window_ns) else {
            return;
        };
        while self
            .runs
            .front()
            .is_some_and(|run| run.at_s < begin_ns / SECOND_NS)
        {
            self.pop();
        }
    }

    /// Take the oldest out of the queue; returns whether it is forgotten by that.
    fn pop(&mut self) -> bool {
        let Some(fingerprint) = self.queue.front().copied() else {
            return false;
        };
        if let Some(run) = self.runs.front_mut() {
            run.requests -= 1;
            if run.requests == 0 {
                self.runs.pop_front();
            }
        }
        let low = self.first as u32;
        let is_it = |other: &u32| *other == low;
        let entry = self.numbers.find_entry(self.hasher.hash_one(fingerprint), is_it);
        let is_last = entry.map(OccupiedEntry::remove).is_ok();
        if is_last && !self.parts.is_empty() {
            self.parts.remove(&fingerprint);
        }
        self.queue.pop_front();
        self.first += 1;
        is_last
    }

    /// All of them, oldest first: second, fingerprint and to what it was applied.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Fingerprint, Applied<'_>)> {
        self.since(self.first)
    }

    /// Those that no record has told of.
    pub fn untold(&self) -> impl Iterator<Item = (u64, Fingerprint, Applied<'_>)> {
        self.since(self.untold.max(self.first))
    }

    /// From now on a record tells of all there are.
    pub fn set_told(&mut self) {
        self.untold = self.first + self.queue.len() as u64;
    }

    fn since(&self, from: u64) -> impl Iterator<Item = (u64, Fingerprint, Applied<'_>)> {
        let skipped = (from - self.first) as usize;
        let times = self
            .runs
            .iter()
            .flat_map(|run| std::iter::repeat_n(run.at_s, run.requests));
        // Counted from the end: what is new is a few of very many.
        let mut times = times.rev();
        let queue = self.queue.range(skipped..);
        let mut newest: Vec<u64> = times.by_ref().take(queue.len()).collect();
        newest.reverse();
        let numbered = (from..).zip(newest).zip(queue);
        numbered
            .filter(|((number, _), fingerprint)| self.number(**fingerprint) == Some(*number))
            .map(|((_, at_s), fingerprint)| (at_s, *fingerprint, self.applied(*fingerprint)))
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        let parts: usize = self.parts.values().map(HashRanges::heap_bytes).sum();
        self.queue.capacity() * size_of::<Fingerprint>()
            + self.runs.capacity() * size_of::<Run>()
            + self.numbers.capacity() * (size_of::<u32>() + 1)
            + self.parts.capacity() * (size_of::<(Fingerprint, HashRanges)>() + 1)
            + parts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash_range::HashRange;

    const WINDOW_NS: u64 = 10 * SECOND_NS;

    fn print(number: u64) -> Fingerprint {
        Fingerprint::of(&number.to_le_bytes())
    }

    fn half(index: u32) -> HashRanges {
        HashRange::of(index, 2).unwrap().into()
    }

    #[test]
    fn each_is_known_for_the_window_and_no_second_longer() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), None, SECOND_NS + 1);
        known.put(print(2), None, 2 * SECOND_NS);
        known.expire(11 * SECOND_NS + 1);
        assert_eq!(known.find(print(1)), Some(Applied::Whole));
        known.expire(12 * SECOND_NS);
        assert_eq!(known.find(print(1)), None);
        assert_eq!(known.find(print(2)), Some(Applied::Whole));
        // A clock that goes back shortens no one's time.
        known.put(print(3), None, SECOND_NS);
        known.expire(12 * SECOND_NS + 999_999_999);
        assert_eq!((known.len(), known.dropped()), (2, 0));
        known.expire(13 * SECOND_NS);
        assert!(known.is_empty() && known.runs.is_empty() && known.queue.is_empty());
    }

    #[test]
    fn one_that_is_applied_to_more_counts_from_then_on_and_is_told_again() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), Some(half(0)), SECOND_NS);
        known.put(print(2), None, SECOND_NS);
        assert_eq!(known.find(print(1)), Some(Applied::Part(&half(0))));
        known.set_told();
        assert_eq!(known.untold().count(), 0);
        known.put(print(1), None, 5 * SECOND_NS);
        known.put(print(3), Some(half(1)), 6 * SECOND_NS);
        let untold: Vec<_> = known.untold().collect();
        let part = half(1);
        assert_eq!(
            untold,
            [(5, print(1), Applied::Whole), (6, print(3), Applied::Part(&part))]
        );
        let all: Vec<u64> = known.iter().map(|(at_s, ..)| at_s).collect();
        assert_eq!((all, known.len()), (vec![1, 5, 6], 3));
        known.expire(12 * SECOND_NS);
        assert_eq!(known.find(print(1)), Some(Applied::Whole));
        assert_eq!((known.find(print(2)), known.len()), (None, 2));
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_and_are_counted() {
        let mut known = Fingerprints::new(WINDOW_NS);
        // The numbers in the table wrap around meanwhile.
        known.first = u64::from(u32::MAX) - 100;
        for number in 0..MAX_FINGERPRINTS as u64 + 3 {
            known.put(print(number), (number < 2).then(|| half(0)), SECOND_NS);
        }
        assert_eq!((known.len(), known.dropped()), (MAX_FINGERPRINTS, 3));
        assert_eq!((known.find(print(2)), known.parts.len()), (None, 0));
        assert_eq!(known.find(print(3)), Some(Applied::Whole));
        assert_eq!(
            known.find(print(MAX_FINGERPRINTS as u64 + 2)),
            Some(Applied::Whole)
        );
        assert!(known.state_bytes() < 64 * MAX_FINGERPRINTS);
    }
}
