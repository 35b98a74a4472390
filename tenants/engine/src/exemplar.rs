//! Which observation of a bucket becomes its exemplar.
//!
//! Within one collection interval an error beats a success, then the slower beats the faster, then the greater trace id
//! wins: the choice does not depend on the order of arrival nor on how many shards there are.

const ERROR: u64 = 1 << 63;

/// How interesting an observation is: error or not, then its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ExemplarRank(pub u64);

impl ExemplarRank {
    /// Durations above 292 years are held as that.
    #[inline]
    pub fn new(is_error: bool, duration_ns: u64) -> Self {
        Self(duration_ns.min(ERROR - 1) | if is_error { ERROR } else { 0 })
    }

    /// Whether it was an error.
    pub fn is_error(self) -> bool {
        self.0 & ERROR != 0
    }

    /// The observed duration.
    pub fn duration_ns(self) -> u64 {
        self.0 & (ERROR - 1)
    }
}

/// A trace worth looking at; a zero trace id is an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Exemplar {
    /// What decides between two.
    pub rank: ExemplarRank,
    // Two halves instead of a u128 keep the slot at 24 bytes.
    trace_high: u64,
    trace_low: u64,
}

impl Exemplar {
    /// An exemplar of the given trace.
    #[inline]
    pub fn new(rank: ExemplarRank, trace: u128) -> Self {
        Self {
            rank,
            trace_high: (trace >> 64) as u64,
            trace_low: trace as u64,
        }
    }

    /// The trace id as a number; zero for an empty slot.
    #[inline]
    pub fn trace(self) -> u128 {
        u128::from(self.trace_high) << 64 | u128::from(self.trace_low)
    }

    /// Keep the better of the two.
    #[inline]
    pub fn offer(&mut self, other: Self) {
        if other.trace() != 0 && (self.trace() == 0 || other > *self) {
            *self = other;
        }
    }

    /// The trace id as text: hexadecimal without leading zeros (processors §0.6).
    pub fn trace_text(self) -> String {
        format!("{:x}", self.trace())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_beat_slowness_and_ties_go_to_the_greater_trace() {
        let slow = Exemplar::new(ExemplarRank::new(false, 900), 1);
        let failed = Exemplar::new(ExemplarRank::new(true, 5), 2);
        let twin = Exemplar::new(ExemplarRank::new(true, 5), 3);
        let mut held = Exemplar::default();
        for (offered, kept) in [
            (slow, slow),
            (failed, failed),
            (slow, failed),
            (twin, twin),
            (failed, twin),
        ] {
            held.offer(offered);
            assert_eq!(held, kept);
        }
        held.offer(Exemplar::new(ExemplarRank::new(true, 99), 0));
        assert_eq!(held, twin);
    }

    #[test]
    fn trace_text_drops_leading_zeros() {
        let trace = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
        let exemplar = Exemplar::new(ExemplarRank::default(), trace);
        assert_eq!(exemplar.trace_text(), "102030405060708090a0b0c0d0e0f10");
    }
}
