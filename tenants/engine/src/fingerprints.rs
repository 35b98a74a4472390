//! Which requests a shard has applied lately: one that comes again, from its client or from a gateway, adds nothing.
//!
//! Nearly every request is applied to the whole range of its shard. Such a one costs its sixteen bytes and a number; only
//! where shards have been cut anew is it told to which hashes a request was applied.
//!
//! Time passes here only as far as requests come: of a gap between two of them no more counts than a tenth of the window.
//! Whoever sends again after an outage, however long it was, is known.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::hash_table::OccupiedEntry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::fingerprint::Fingerprint;
use crate::hash_range::HashRanges;

/// Most fingerprints of one shard. Beyond it the oldest go early: 1 700 requests a second are known for ten minutes.
pub const MAX_FINGERPRINTS: usize = 1 << 20;
const SECOND_NS: u64 = 1_000_000_000;
/// Gaps that make a window.
const GAPS: u64 = 10;

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
    /// Remembers each for at least `window_ns`, and where requests come steadily less than a second longer.
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
        self.shorten_gap(at_s);
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

    /// Let the time between these count for none of them.
    pub fn hold(&mut self, from_ns: u64, until_ns: u64) {
        let until_s = until_ns / SECOND_NS;
        self.postpone(until_s.saturating_sub(from_ns / SECOND_NS), until_s);
    }

    /// Make the newest one no older than a gap.
    fn shorten_gap(&mut self, now_s: u64) {
        let longest_s = self.window_ns / SECOND_NS / GAPS;
        if let Some(newest) = self.runs.back() {
            let too_late_s = now_s.saturating_sub(newest.at_s.saturating_add(longest_s));
            if too_late_s > 0 {
                self.postpone(too_late_s, now_s);
            }
        }
    }

    /// Make all of them younger, but none younger than a request of `until_s`.
    fn postpone(&mut self, by_s: u64, until_s: u64) {
        for run in &mut self.runs {
            run.at_s = run.at_s.saturating_add(by_s).min(until_s.max(run.at_s));
        }
    }

    /// Forget those whose time is over.
    #[inline]
    pub fn expire(&mut self, now_ns: u64) {
        self.shorten_gap(now_ns / SECOND_NS);
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

    /// Let other requests come, one a second, up to this one.
    fn pass(known: &mut Fingerprints, seconds: std::ops::RangeInclusive<u64>) {
        for second in seconds {
            known.put(print(1000 + second), None, second * SECOND_NS);
        }
    }

    #[test]
    fn each_is_known_for_the_window_and_no_second_longer() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), None, SECOND_NS + 1);
        known.put(print(2), None, 2 * SECOND_NS);
        pass(&mut known, 3..=11);
        known.expire(11 * SECOND_NS + 1);
        assert_eq!(known.find(print(1)), Some(Applied::Whole));
        known.expire(12 * SECOND_NS);
        assert_eq!(known.find(print(1)), None);
        assert_eq!(known.find(print(2)), Some(Applied::Whole));
        // A clock that goes back shortens no one's time.
        known.put(print(3), None, SECOND_NS);
        known.expire(12 * SECOND_NS + 999_999_999);
        assert_eq!((known.find(print(2)), known.dropped()), (Some(Applied::Whole), 0));
        pass(&mut known, 12..=13);
        known.expire(13 * SECOND_NS);
        assert_eq!((known.find(print(2)), known.len()), (None, 12));
        pass(&mut known, 14..=22);
        known.expire(22 * SECOND_NS);
        assert_eq!((known.find(print(3)), known.len()), (None, 11));
        assert_eq!((known.runs.len(), known.queue.len()), (11, 11));
    }

    #[test]
    fn time_passes_only_as_far_as_requests_come() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), None, SECOND_NS);
        for hour in 1..=9 {
            known.expire(hour * 3600 * SECOND_NS);
            known.put(print(1 + hour), None, hour * 3600 * SECOND_NS + 5);
        }
        assert_eq!((known.find(print(1)), known.len()), (Some(Applied::Whole), 10));
        // Ten gaps are older than the window by less than a second, eleven are older.
        known.put(print(20), None, 20 * 3600 * SECOND_NS);
        known.put(print(21), None, 21 * 3600 * SECOND_NS);
        known.expire(22 * 3600 * SECOND_NS);
        assert_eq!(known.find(print(1)), None);
        assert_eq!(known.find(print(3)), Some(Applied::Whole));
    }

    #[test]
    fn time_that_is_held_does_not_count() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), None, SECOND_NS);
        pass(&mut known, 2..=30);
        known.hold(SECOND_NS, 30 * SECOND_NS);
        known.expire(30 * SECOND_NS);
        assert_eq!((known.find(print(1)), known.len()), (Some(Applied::Whole), 30));
        pass(&mut known, 31..=41);
        known.expire(41 * SECOND_NS);
        assert_eq!(known.find(print(1)), None);
    }

    #[test]
    fn one_that_is_applied_to_more_counts_from_then_on_and_is_told_again() {
        let mut known = Fingerprints::new(WINDOW_NS);
        known.put(print(1), Some(half(0)), SECOND_NS);
        known.put(print(2), None, SECOND_NS);
        assert_eq!(known.find(print(1)), Some(Applied::Part(&half(0))));
        known.set_told();
        assert_eq!(known.untold().count(), 0);
        known.put(print(1), None, 2 * SECOND_NS);
        known.put(print(3), Some(half(1)), 3 * SECOND_NS);
        let untold: Vec<_> = known.untold().collect();
        let part = half(1);
        assert_eq!(
            untold,
            [(2, print(1), Applied::Whole), (3, print(3), Applied::Part(&part))]
        );
        let all: Vec<u64> = known.iter().map(|(at_s, ..)| at_s).collect();
        assert_eq!((all, known.len()), (vec![1, 2, 3], 3));
        pass(&mut known, 4..=12);
        known.expire(12 * SECOND_NS);
        assert_eq!(known.find(print(1)), Some(Applied::Whole));
        assert_eq!((known.find(print(2)), known.len()), (None, 11));
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
