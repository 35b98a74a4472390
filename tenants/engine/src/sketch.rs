//! How many distinct things were seen lately: a sliding `HyperLogLog` (processors §4.10).
//!
//! A window is cut into slots, each with a sketch of its own: the window moves on by clearing the sketch of the slot that
//! begins. A sketch is exact as long as it is small, and so is the estimate of a window whose sketches all are.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::checkpoint::refuse;
use crate::error::FrameError;

/// Length of a slot, unless the window is too long for it.
const SLOT_MS: i64 = 5 * 60_000;
/// The window in place of one shorter than a slot.
const FALLBACK_STALE_MS: i64 = 15 * 60_000;
/// Most slots of full length that a stale duration is cut into: beyond an hour slots grow, not the ring.
const MAX_SLOTS: i64 = 12;

const PRECISION: u32 = 10;
const REGISTERS: usize = 1 << PRECISION;
/// The greatest value of a register: all bits of a hash but those that choose the register are zero.
const MAX_RANK: usize = 64 - PRECISION as usize + 1;
/// Most hashes that a slot keeps before it turns to registers, which take as many bytes.
const MAX_EXACT: usize = REGISTERS / size_of::<u32>();

/// The slots that time is cut into. They begin at multiples of their length, so that all windows move on together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(i64, usize)", into = "(i64, usize)")]
pub struct Window {
    slot_ms: i64,
    slots: usize,
}

impl Window {
    /// The window that holds what was seen within `stale_ms`, and at most one slot longer.
    pub fn of(stale_ms: i64) -> Self {
        let stale_ms = if stale_ms < SLOT_MS {
            FALLBACK_STALE_MS
        } else {
            stale_ms
        };
        let slot_ms = SLOT_MS.max(stale_ms.div_euclid(MAX_SLOTS));
        Self {
            slot_ms,
            slots: (stale_ms / slot_ms + 1).max(2) as usize,
        }
    }

    /// The number of the slot that a time falls into.
    #[inline]
    pub fn slot(self, now_ms: i64) -> i64 {
        now_ms.div_euclid(self.slot_ms)
    }

    /// How many slots the window has.
    pub fn slots(self) -> usize {
        self.slots
    }
}

impl From<Window> for (i64, usize) {
    fn from(window: Window) -> Self {
        (window.slot_ms, window.slots)
    }
}

impl TryFrom<(i64, usize)> for Window {
    type Error = FrameError;

    fn try_from((slot_ms, slots): (i64, usize)) -> Result<Self, FrameError> {
        let is_window = (SLOT_MS..=i64::MAX / MAX_SLOTS).contains(&slot_ms)
            && (2..=MAX_SLOTS as usize + 1).contains(&slots);
        is_window
            .then_some(Self { slot_ms, slots })
            .ok_or(refuse("a window is out of range"))
    }
}

/// What was seen in one slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "SlotState", into = "SlotState")]
enum Slot {
    /// The upper halves of all hashes, ascending.
    Exact(Vec<u32>),
    Registers(Box<[u8; REGISTERS]>),
}

impl Slot {
    const EMPTY: Self = Self::Exact(Vec::new());

    fn insert(&mut self, hash: u64) {
        match self {
            Self::Registers(registers) => raise(registers, hash),
            Self::Exact(hashes) => {
                let half = (hash >> 32) as u32;
                let Err(at) = hashes.binary_search(&half) else {
                    return;
                };
                if hashes.len() < MAX_EXACT {
                    hashes.insert(at, half);
                    return;
                }
                let mut registers = Box::new([0; REGISTERS]);
                self.raise_all(&mut registers);
                raise(&mut registers, hash);
                *self = Self::Registers(registers);
            }
        }
    }

    fn raise_all(&self, registers: &mut [u8; REGISTERS]) {
        match self {
            Self::Registers(own) => {
                for (register, own) in registers.iter_mut().zip(own.iter()) {
                    *register = (*register).max(*own);
                }
            }
            // Of a half, zeros beyond its end are unknown. One is put there: one hash in four million has a rank that
            // is too low.
            Self::Exact(hashes) => {
                for half in hashes {
                    raise(registers, u64::from(*half) << 32 | 1 << 31);
                }
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Registers(_) => REGISTERS,
            Self::Exact(hashes) => hashes.capacity() * size_of::<u32>(),
        }
    }
}

/// Raise the register that the first bits of a hash choose to the rank of the rest: the zeros it begins with, plus one.
#[inline]
fn raise(registers: &mut [u8; REGISTERS], hash: u64) {
    let rest = hash << PRECISION | 1 << (PRECISION - 1);
    let rank = rest.leading_zeros() as u8 + 1;
    if let Some(register) = registers.get_mut((hash >> (64 - PRECISION)) as usize) {
        *register = (*register).max(rank);
    }
}

/// A slot in a checkpoint.
#[derive(Serialize, Deserialize)]
enum SlotState {
    Exact(Vec<u32>),
    Registers(Vec<u8>),
}

impl From<Slot> for SlotState {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::Exact(hashes) => Self::Exact(hashes),
            Slot::Registers(registers) => Self::Registers(registers.to_vec()),
        }
    }
}

impl TryFrom<SlotState> for Slot {
    type Error = FrameError;

    fn try_from(state: SlotState) -> Result<Self, FrameError> {
        match state {
            SlotState::Exact(hashes) => {
                let is_slot = hashes.len() <= MAX_EXACT && hashes.is_sorted_by(|one, other| one < other);
                is_slot.then_some(Self::Exact(hashes))
            }
            SlotState::Registers(registers) => {
                let are_ranks = registers.iter().all(|rank| usize::from(*rank) <= MAX_RANK);
                let registers = Box::<[u8; REGISTERS]>::try_from(registers).ok();
                registers.filter(|_| are_ranks).map(Self::Registers)
            }
        }
        .ok_or(refuse("a sketch is out of range"))
    }
}

/// The sketch of one window.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "SketchState", into = "SketchState")]
pub struct Sketch {
    window: Window,
    /// Number of the current slot, and when it ends. The ring's place of a slot is its number modulo the ring's length.
    slot: i64,
    slot_ends_ms: i64,
    ring: Box<[Slot]>,
}

impl Sketch {
    /// A sketch that has seen nothing.
    pub fn new(window: Window, now_ms: i64) -> Self {
        let slot = window.slot(now_ms);
        Self {
            window,
            slot,
            slot_ends_ms: (slot + 1).saturating_mul(window.slot_ms),
            ring: vec![Slot::EMPTY; window.slots].into_boxed_slice(),
        }
    }

    /// Note that the thing with this hash was seen; hashes must be uniform in all 64 bits. Seeing it again within the
    /// slot changes nothing.
    #[inline]
    pub fn insert(&mut self, hash: u64, now_ms: i64) {
        self.advance(now_ms);
        let place = self.place(self.slot);
        if let Some(slot) = self.ring.get_mut(place) {
            slot.insert(hash);
        }
    }

    /// Let the window move on, and forget what has left it. A clock that is set back does not move it.
    #[inline]
    pub fn advance(&mut self, now_ms: i64) {
        if now_ms >= self.slot_ends_ms {
            self.advance_to(self.window.slot(now_ms));
        }
    }

    fn advance_to(&mut self, slot: i64) {
        let entered = (slot - self.slot).min(self.window.slots as i64);
        for number in slot - entered + 1..=slot {
            let place = self.place(number);
            if let Some(slot) = self.ring.get_mut(place) {
                *slot = Slot::EMPTY;
            }
        }
        self.slot = slot;
        self.slot_ends_ms = (slot + 1).saturating_mul(self.window.slot_ms);
    }

    #[inline]
    fn place(&self, slot: i64) -> usize {
        slot.rem_euclid(self.window.slots as i64) as usize
    }

    /// How many distinct things were seen within the window.
    pub fn estimate(&mut self, now_ms: i64) -> u64 {
        self.advance(now_ms);
        let mut union = Vec::new();
        for slot in &self.ring {
            match slot {
                Slot::Exact(hashes) => union.extend_from_slice(hashes),
                Slot::Registers(_) => return self.estimate_from_registers(),
            }
        }
        union.sort_unstable();
        union.dedup();
        union.len() as u64
    }

    /// The estimator of O. Ertl, "New cardinality estimation algorithms for `HyperLogLog` sketches" (2017), algorithm
    /// 6: no bias at either end of the range, and so no table of corrections.
    fn estimate_from_registers(&self) -> u64 {
        let mut registers = [0; REGISTERS];
        for slot in &self.ring {
            slot.raise_all(&mut registers);
        }
        let mut counts = [0.0; MAX_RANK + 1];
        for register in registers {
            if let Some(count) = counts.get_mut(usize::from(register)) {
                *count += 1.0;
            }
        }
        let total = REGISTERS as f64;
        let [zeros, ranks @ .., highest] = &counts;
        let upper = total * tau(1.0 - highest / total);
        let sum = ranks.iter().rev().fold(upper, |sum, count| 0.5 * (sum + count));
        let sum = sum + total * sigma(zeros / total);
        (total * total / (2.0 * LN_2 * sum)).round() as u64
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        let slots: usize = self.ring.iter().map(Slot::heap_bytes).sum();
        size_of::<Self>() + size_of_val(&*self.ring) + slots
    }
}

/// A sketch in a checkpoint.
#[derive(Serialize, Deserialize)]
struct SketchState {
    window: Window,
    slot: i64,
    ring: Vec<Slot>,
}

impl From<Sketch> for SketchState {
    fn from(sketch: Sketch) -> Self {
        Self {
            window: sketch.window,
            slot: sketch.slot,
            ring: sketch.ring.into_vec(),
        }
    }
}

impl TryFrom<SketchState> for Sketch {
    type Error = FrameError;

    fn try_from(state: SketchState) -> Result<Self, FrameError> {
        let SketchState { window, slot, ring } = state;
        let slots_of_time = window.slot(i64::MIN)..=window.slot(i64::MAX);
        if ring.len() != window.slots || !slots_of_time.contains(&slot) {
            return Err(refuse("a sketch is out of range"));
        }
        Ok(Self {
            window,
            slot,
            slot_ends_ms: (slot + 1).saturating_mul(window.slot_ms),
            ring: ring.into_boxed_slice(),
        })
    }
}

/// `x + Σ x^(2^k) 2^(k-1)` for k from 1, infinite at 1.
fn sigma(share: f64) -> f64 {
    if share >= 1.0 {
        return f64::INFINITY;
    }
    let (mut power, mut factor, mut sum) = (share, 1.0, share);
    loop {
        power *= power;
        let next = sum + power * factor;
        factor *= 2.0;
        if next <= sum {
            return sum;
        }
        sum = next;
    }
}

/// `(1 - x - Σ (1 - x^(2^-k))² 2^-k) / 3` for k from 1.
fn tau(share: f64) -> f64 {
    if share <= 0.0 || share >= 1.0 {
        return 0.0;
    }
    let (mut root, mut factor, mut sum) = (share, 1.0, 1.0 - share);
    loop {
        root = root.sqrt();
        factor *= 0.5;
        let next = sum - (1.0 - root).powi(2) * factor;
        if next >= sum {
            return sum / 3.0;
        }
        sum = next;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::again;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    const MINUTE_MS: i64 = 60_000;
    const QUARTER_HOUR: i64 = 15 * MINUTE_MS;

    fn hash(thing: u64, seed: u64) -> u64 {
        xxh3_64_with_seed(&thing.to_le_bytes(), seed)
    }

    fn sketch() -> Sketch {
        Sketch::new(Window::of(QUARTER_HOUR), 0)
    }

    #[test]
    fn the_ring_follows_the_stale_duration() {
        let hour = 60 * MINUTE_MS;
        let cases = [
            (QUARTER_HOUR, 4, SLOT_MS),
            (30 * MINUTE_MS, 7, SLOT_MS),
            (5 * MINUTE_MS, 2, SLOT_MS),
            (9 * MINUTE_MS, 2, SLOT_MS),
            (5 * MINUTE_MS - 1, 4, SLOT_MS),
            (MINUTE_MS, 4, SLOT_MS),
            (-1, 4, SLOT_MS),
            (hour, 13, SLOT_MS),
            (24 * hour, 13, 2 * hour),
        ];
        for (stale_ms, slots, slot_ms) in cases {
            assert_eq!(Window::of(stale_ms), Window { slot_ms, slots }, "{stale_ms}");
        }
    }

    #[test]
    fn what_was_seen_leaves_the_window_with_its_slot() {
        for start in [0, 299_999, -1_000_000] {
            let mut sketch = Sketch::new(Window::of(QUARTER_HOUR), start);
            for thing in 0..10 {
                sketch.insert(hash(thing, 0), start);
            }
            let slot_ends = (start.div_euclid(SLOT_MS) + 1) * SLOT_MS;
            for rotation in 0..4 {
                assert_eq!(sketch.estimate(slot_ends + rotation * SLOT_MS - 1), 10);
                sketch.insert(hash(3, 0), slot_ends + rotation * SLOT_MS);
            }
            assert_eq!(sketch.estimate(slot_ends + 3 * SLOT_MS), 1);
            assert_eq!(sketch.estimate(slot_ends), 1, "the clock was set back");
            assert_eq!(sketch.estimate(i64::MAX), 0);
            sketch.insert(hash(1, 0), i64::MAX);
            assert_eq!(sketch.estimate(i64::MAX), 1);
        }
    }

    #[test]
    fn small_windows_are_counted_exactly() {
        let mut sketch = sketch();
        for thing in 0..1_000 {
            // 250 things in each of four slots.
            sketch.insert(hash(thing, 1), thing as i64 / 250 * SLOT_MS);
            sketch.insert(hash(thing, 1), thing as i64 / 250 * SLOT_MS);
        }
        assert_eq!(sketch.estimate(3 * SLOT_MS), 1_000);
        assert_eq!(sketch.estimate(4 * SLOT_MS), 750);
    }

    #[test]
    fn estimates_are_within_three_standard_errors() {
        let counts = [257, 300, 400, 700, 1_000, 3_000, 10_000, 30_000, 100_000];
        let mut deviations = vec![Vec::new(); counts.len()];
        for seed in 0..30 {
            let mut sketch = sketch();
            let mut things = 0;
            for (count, deviations) in counts.iter().zip(&mut deviations) {
                while things < *count {
                    sketch.insert(hash(things, seed), 0);
                    things += 1;
                }
                let estimate = sketch.estimate(0) as f64;
                deviations.push(estimate / *count as f64 - 1.0);
            }
        }
        for (count, deviations) in counts.iter().zip(deviations) {
            let mean = deviations.iter().sum::<f64>() / deviations.len() as f64;
            let worst = deviations.iter().fold(0.0_f64, |worst, one| worst.max(one.abs()));
            assert!(mean.abs() < 3.0 * 0.0325 / 30_f64.sqrt(), "{count}: {mean}");
            assert!(worst < 3.5 * 0.0325, "{count}: {worst}");
        }
    }

    #[test]
    fn a_million_things_take_a_few_kilobytes() {
        let mut sketch = sketch();
        for thing in 0..1_000_000 {
            sketch.insert(hash(thing, 7), thing as i64);
        }
        let deviation = sketch.estimate(1_000_000) as f64 / 1e6 - 1.0;
        assert!(deviation.abs() < 3.0 * 0.0325, "{deviation}");
        assert!(sketch.state_bytes() < 5_000);
    }

    #[test]
    fn every_register_can_hold_every_rank() {
        let mut registers = [0; REGISTERS];
        raise(&mut registers, 0);
        raise(&mut registers, u64::MAX);
        assert_eq!(registers.first(), Some(&(MAX_RANK as u8)));
        assert_eq!(registers.last(), Some(&1));
        // All registers at the top: beyond any count that 64 bits can tell, and still a number.
        let mut sketch = sketch();
        for rest in [1 << 33, 0] {
            for register in 0..REGISTERS as u64 {
                sketch.insert(register << (64 - PRECISION) | rest, 0);
            }
        }
        assert!(sketch.estimate(0) > 1 << 40);
    }

    #[test]
    fn a_window_or_sketch_that_cannot_be_is_refused() {
        let window = Window::of(QUARTER_HOUR);
        for (slot_ms, slots) in [
            (0, 4),
            (SLOT_MS - 1, 4),
            (SLOT_MS, 1),
            (SLOT_MS, 14),
            (i64::MAX, 4),
        ] {
            assert!(again(&Window { slot_ms, slots }).is_err(), "{slot_ms} {slots}");
        }
        let slot = |hashes: &[u32]| Slot::Exact(hashes.to_vec());
        let sketch = |slot, ring: Vec<Slot>| Sketch {
            window,
            slot,
            slot_ends_ms: 0,
            ring: ring.into(),
        };
        let registers = Slot::Registers(Box::new([MAX_RANK as u8 + 1; REGISTERS]));
        let cases = [
            (sketch(1, vec![Slot::EMPTY; 3]), false),
            (sketch(i64::MAX, vec![Slot::EMPTY; 4]), false),
            (
                sketch(1, vec![slot(&[2, 1]), Slot::EMPTY, Slot::EMPTY, Slot::EMPTY]),
                false,
            ),
            (
                sketch(1, vec![registers, Slot::EMPTY, Slot::EMPTY, Slot::EMPTY]),
                false,
            ),
            (
                sketch(1, vec![slot(&[1, 2]), Slot::EMPTY, Slot::EMPTY, Slot::EMPTY]),
                true,
            ),
        ];
        for (sketch, is_taken) in cases {
            assert_eq!(again(&sketch).is_ok(), is_taken, "{sketch:?}");
        }
    }

    proptest! {
        #[test]
        fn a_restored_sketch_goes_on_as_the_one_that_was_kept(
            inserts in prop::collection::vec((0..700u64, 0..40 * MINUTE_MS), 1..500),
            many in any::<bool>(),
            at in any::<prop::sample::Index>(),
        ) {
            let mut kept = sketch();
            for thing in 0..if many { 400 } else { 0 } {
                kept.insert(hash(thing, 3), 0);
            }
            let mut restored = again(&kept).unwrap();
            for (number, (thing, now_ms)) in inserts.iter().enumerate() {
                if number == at.index(inserts.len()) {
                    restored = again(&restored).unwrap();
                }
                kept.insert(hash(*thing, 3), *now_ms);
                restored.insert(hash(*thing, 3), *now_ms);
                prop_assert_eq!(kept.estimate(*now_ms), restored.estimate(*now_ms));
            }
        }

        #[test]
        fn any_clock_and_any_hash_will_do(inserts in prop::collection::vec(any::<(u64, i64)>(), 0..250)) {
            let mut sketch = sketch();
            for (hash, now_ms) in &inserts {
                sketch.insert(*hash, *now_ms);
                sketch.insert(*hash, *now_ms >> 40);
            }
            prop_assert!(sketch.estimate(0) <= inserts.len() as u64);
        }
    }
}
