//! Exemplars of native histograms, which have no `_bucket` series to put them on.
//!
//! Candidates are the best observations of each power of two, so that they show slow traces beside fast ones; the best
//! ten are sent, once (processors §4.4, Q22).

use crate::exemplar::Exemplar;

/// Most exemplars of one series in one collection.
pub const MOST_EXEMPLARS: usize = 10;

/// The slot in which durations compete: the power of two of nanoseconds that each is below, 0 to 64.
#[inline]
pub fn exemplar_slot(duration_ns: u64) -> u8 {
    (u64::BITS - duration_ns.leading_zeros()) as u8
}

/// Choose what to send at `now_ms` of the best exemplars since the collection of `collected_at_ms`: at most ten,
/// ascending by value.
///
/// Receivers take an exemplar only if it is later than the last of its series. Each therefore has a millisecond of its
/// own, the last one `now_ms`; and there are no more than there are milliseconds since `collected_at_ms`.
pub fn choose_exemplars(
    held: impl IntoIterator<Item = Exemplar>,
    collected_at_ms: i64,
    now_ms: i64,
) -> Vec<(i64, Exemplar)> {
    let mut chosen: Vec<Exemplar> = held
        .into_iter()
        .filter(|exemplar| exemplar.trace() != 0)
        .collect();
    chosen.sort_unstable_by(|one, other| other.cmp(one));
    let milliseconds = usize::try_from(now_ms.saturating_sub(collected_at_ms)).unwrap_or_default();
    chosen.truncate(MOST_EXEMPLARS.min(milliseconds));
    chosen.sort_unstable_by_key(|exemplar| (exemplar.rank.duration_ns(), *exemplar));
    let first_ms = now_ms - chosen.len() as i64 + 1;
    (first_ms..).zip(chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exemplar::ExemplarRank;

    fn exemplar(is_error: bool, duration_ns: u64) -> Exemplar {
        Exemplar::new(
            ExemplarRank::new(is_error, duration_ns),
            u128::from(duration_ns) + 1,
        )
    }

    fn chosen(held: &[(bool, u64)], collected_at_ms: i64, now_ms: i64) -> Vec<(i64, u64)> {
        let held = held
            .iter()
            .map(|(is_error, duration_ns)| exemplar(*is_error, *duration_ns));
        let chosen = choose_exemplars(held, collected_at_ms, now_ms);
        chosen
            .iter()
            .map(|(at_ms, exemplar)| (*at_ms, exemplar.rank.duration_ns()))
            .collect()
    }

    #[test]
    fn durations_compete_within_a_power_of_two() {
        for (duration_ns, slot) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (u64::MAX, 64)] {
            assert_eq!(exemplar_slot(duration_ns), slot, "{duration_ns}");
        }
    }

    #[test]
    fn they_ascend_in_value_and_time() {
        let held = [(false, 900), (true, 5), (false, 70)];
        assert_eq!(chosen(&held, 0, 1000), [(998, 5), (999, 70), (1000, 900)]);
        assert_eq!(chosen(&[], 0, 1000), []);
    }

    #[test]
    fn the_ten_best_are_chosen_errors_first() {
        let mut held: Vec<_> = (0..15).map(|power| (false, 1 << power)).collect();
        held.extend([(true, 0), (true, 3)]);
        let durations: Vec<u64> = chosen(&held, 0, 1000)
            .into_iter()
            .map(|(_, duration)| duration)
            .collect();
        let slowest = (7..15).map(|power| 1 << power);
        assert_eq!(durations, [0, 3].into_iter().chain(slowest).collect::<Vec<_>>());
    }

    #[test]
    fn none_is_dated_at_or_before_the_last_collection() {
        let held = [(false, 1), (false, 2), (false, 4)];
        assert_eq!(chosen(&held, 998, 1000), [(999, 2), (1000, 4)]);
        assert_eq!(chosen(&held, 1000, 1000), []);
    }

    #[test]
    fn an_observation_without_a_trace_is_none() {
        let empty = Exemplar::new(ExemplarRank::new(true, 9), 0);
        assert_eq!(choose_exemplars([empty, Exemplar::default()], 0, 1000), []);
    }
}
