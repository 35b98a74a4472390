//! What a DRAIN model has seen and done (processors §5.5).

use serde::{Deserialize, Serialize};

use crate::checkpoint::plausible;

/// The counters of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainCounters {
    /// Clusters created.
    #[serde(deserialize_with = "plausible")]
    pub patterns_detected: u64,
    /// Clusters evicted for a bound.
    #[serde(deserialize_with = "plausible")]
    pub patterns_evicted: u64,
    /// Clusters that grew too old; always 0, since there is no age limit (appendix B).
    #[serde(deserialize_with = "plausible")]
    pub patterns_expired: u64,
    /// Names with fewer than 3 tokens, the end marker included.
    #[serde(deserialize_with = "plausible")]
    pub lines_skipped_too_few_tokens: u64,
    /// Names with more than 80 tokens, the end marker included, or of more than 16 KiB.
    #[serde(deserialize_with = "plausible")]
    pub lines_skipped_too_many_tokens: u64,
    /// Names for which a pattern stands.
    #[serde(deserialize_with = "plausible")]
    pub spans_sanitized: u64,
    /// Tokens of the names that were learned.
    pub tokens_per_line: TokensPerLine,
}

/// A histogram of the number of tokens, the end marker included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokensPerLine {
    #[serde(deserialize_with = "plausible")]
    counts: [u64; TokensPerLine::BOUNDS.len()],
    #[serde(deserialize_with = "plausible")]
    sum: u64,
}

impl TokensPerLine {
    const BOUNDS: [u8; 10] = [4, 6, 8, 10, 12, 16, 24, 32, 48, 80];

    /// Count a name of so many tokens.
    pub fn observe(&mut self, tokens: u8) {
        let bucket = Self::BOUNDS.iter().take_while(|bound| **bound < tokens).count();
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += u64::from(tokens);
    }

    /// Upper bounds with cumulative counts, up to infinity.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let mut total = 0;
        let mut buckets: Vec<_> = std::iter::zip(Self::BOUNDS, self.counts)
            .map(|(bound, count)| {
                total += count;
                (f64::from(bound), total)
            })
            .collect();
        buckets.push((f64::INFINITY, total));
        buckets
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let mut tokens = TokensPerLine::default();
        for count in [3, 4, 5, 80] {
            tokens.observe(count);
        }
        let buckets = tokens.buckets();
        assert_eq!(buckets.first(), Some(&(4.0, 2)));
        assert_eq!(buckets.get(1), Some(&(6.0, 3)));
        assert_eq!(buckets.get(8), Some(&(48.0, 3)));
        assert_eq!(buckets.get(9..), Some(&[(80.0, 4), (f64::INFINITY, 4)][..]));
        assert!((tokens.sum() - 92.0).abs() < f64::EPSILON);
    }
}
