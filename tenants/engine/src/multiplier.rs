//! How many spans one sampled span stands for (processors §0.7).
//!
//! A weight is always finite, above 0 and at most 2^56: whatever a sender writes, adding it to a count is harmless.

use crate::any_value::AnyValue;

/// The greatest weight: that of the smallest sampling probability a threshold of 56 bits can say.
pub const MAX_MULTIPLIER: f64 = 72_057_594_037_927_936.0;

/// Thresholds and randomness are numbers of 56 bits, written as this many hex digits.
const HEX_DIGITS: usize = 14;
const THRESHOLDS: u64 = 1 << 56;
/// The OpenTelemetry member of a tracestate may be this long.
const MAX_VALUE_LEN: usize = 256;

/// Where a processor takes a span's weight from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MultiplierPlan {
    /// Watched attribute that holds the sampling ratio.
    pub key: Option<usize>,
    /// Read the sampling threshold of the tracestate.
    pub tracestate: bool,
}

impl MultiplierPlan {
    /// Whether a span can weigh anything but 1.
    #[inline]
    pub fn is_active(self) -> bool {
        self.tracestate || self.key.is_some()
    }

    /// The weight of a span: its tracestate's if that is read and says one, else its attribute's, else 1.
    ///
    /// `from_attribute` is what [`attribute_multiplier`] made of the first usable attribute with the key: of all the
    /// span's attributes, then of all the resource's.
    #[inline]
    pub fn weight(self, tracestate: &[u8], from_attribute: Option<f64>) -> f64 {
        if self.tracestate && !tracestate.is_empty() {
            let multiplier = tracestate_multiplier(tracestate);
            if multiplier > 0.0 {
                return multiplier;
            }
        }
        from_attribute.unwrap_or(1.0)
    }
}

/// The weight that a sampling ratio stands for; `None` if the value is no double above 0, or infinite.
///
/// Ratios above 1 make weights below 1 (Q8); a ratio so small that its weight would pass 2^56 weighs 2^56 (Q6).
#[inline]
pub fn attribute_multiplier(value: AnyValue<'_>) -> Option<f64> {
    match value {
        // The greatest finite ratio still has a reciprocal above 0, if a subnormal one.
        AnyValue::Double(ratio) if ratio > 0.0 && ratio.is_finite() => {
            Some((1.0 / ratio).min(MAX_MULTIPLIER))
        }
        _ => None,
    }
}

/// The weight that the `ot` member of a W3C tracestate says, 0 if it says none.
///
/// The tracestate is walked once, whatever its length; nothing is allocated.
pub fn tracestate_multiplier(tracestate: &[u8]) -> f64 {
    otel_value(tracestate)
        .and_then(Sampling::read)
        .map_or(0.0, Sampling::multiplier)
}

/// The text of the first member that begins with `ot=`. White space is allowed in front of a member and at the very
/// end of the tracestate, nowhere else.
fn otel_value(tracestate: &[u8]) -> Option<&str> {
    let mut members = tracestate.split(|byte| *byte == b',');
    let value = members.find_map(|member| {
        let start = member.iter().position(|byte| *byte == b'o')?;
        let (before, member) = member.split_at_checked(start)?;
        let value = member.strip_prefix(b"ot=")?;
        is_white_space(before).then_some(value)
    })?;
    // The value's own characters are all ASCII, so bytes that are not UTF-8 are no value either.
    let value = str::from_utf8(value).ok()?;
    let is_last = members.next().is_none();
    Some(if is_last { value.trim_end() } else { value })
}

fn is_white_space(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.trim_start().is_empty())
}

/// What an OpenTelemetry value says of sampling.
#[derive(Debug, Clone, Copy)]
struct Sampling {
    /// `th`: of 2^56 random numbers, how many lead to the span being dropped.
    threshold: u64,
    /// `rv`: the trace's own random number.
    randomness: Option<u64>,
}

impl Sampling {
    /// Read `key:value` items joined by `;`. One fault anywhere, and nothing of the value is believed.
    fn read(value: &str) -> Option<Self> {
        if value.len() > MAX_VALUE_LEN {
            return None;
        }
        let mut threshold = None;
        let mut randomness = None;
        for item in value.split(';') {
            let (key, value) = item.split_once(':')?;
            if !is_key(key) || !value.bytes().all(is_value_byte) {
                return None;
            }
            match key {
                "th" => threshold = Some(read_threshold(value)?),
                "rv" if value.len() == HEX_DIGITS => randomness = Some(read_hex(value)?),
                "rv" => return None,
                _ => {}
            }
        }
        Some(Self {
            threshold: threshold?,
            randomness,
        })
    }

    /// The reciprocal of the sampling probability; where the trace has a random number, rounded by it to a whole one
    /// so that all spans of a trace are rounded alike and the mean stays right.
    fn multiplier(self) -> f64 {
        let probability = (THRESHOLDS - self.threshold) as f64 / THRESHOLDS as f64;
        let exact = 1.0 / probability;
        let whole = exact.floor();
        match self.randomness {
            Some(randomness) if exact > whole => {
                // The upper 53 bits, which a double holds exactly.
                let uniform = (randomness >> 3) as f64 / (1u64 << 53) as f64;
                if uniform < exact - whole {
                    whole + 1.0
                } else {
                    whole
                }
            }
            _ => exact,
        }
    }
}

fn is_key(key: &str) -> bool {
    let is_key_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.starts_with(|first: char| first.is_ascii_lowercase()) && key.bytes().all(is_key_byte)
}

fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// One to fourteen hex digits; those left out at the end are zeros.
fn read_threshold(digits: &str) -> Option<u64> {
    let missing = HEX_DIGITS.checked_sub(digits.len())?;
    Some(read_hex(digits)? << (4 * missing))
}

fn read_hex(digits: &str) -> Option<u64> {
    // Values have no sign: `is_value_byte` refuses a plus, and the parser a minus.
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "weights are compared bit for bit")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_row_of_the_specification() {
        let cases = [
            ("ot=th:0", 1.0),
            ("ot=th:8", 2.0),
            ("ot=th:c", 4.0),
            ("ot=th:4", 1.333_333_333_333_333_3),
            ("ot=th:fd70a4", 100.000_095_367_522_59),
            ("ot=th:F", 16.0),
            ("ot=p:3;th:8", 2.0),
            ("ot=th:8;th:c", 4.0),
            ("ot=th:xyz", 0.0),
            ("ot=th:", 0.0),
            ("ot=th:123456789abcdef", 0.0),
            ("not=th:8,ot=th:c", 4.0),
            ("ot=rv:00112233445566", 0.0),
            ("ot=th:4;rv:00000000000000", 2.0),
            ("ot=th:4;rv:ffffffffffffff", 1.0),
            ("ot=th:4;rv:55555555555555", 1.0),
            ("ot=th:8;", 0.0),
            ("ot=TH:8", 0.0),
            ("ot=th:8;rv:zz", 0.0),
            ("ot=th:ffffffffffffff", MAX_MULTIPLIER),
        ];
        for (tracestate, multiplier) in cases {
            assert_eq!(
                tracestate_multiplier(tracestate.as_bytes()),
                multiplier,
                "{tracestate}"
            );
        }
    }

    #[test]
    fn members_are_found_as_the_specification_words_it() {
        let cases = [
            ("", 0.0),
            ("ot=", 0.0),
            ("a=b", 0.0),
            ("a=b , ot=th:8", 2.0),
            ("ot=th:8 ,x=y", 0.0),
            ("ot=th:8,x=y", 2.0),
            ("ot=th:8, ", 2.0),
            ("ot=th:8,", 2.0),
            (" \t\u{a0}\u{2003}ot=th:8 \t\u{a0}\r\n", 2.0),
            ("ot =th:8", 0.0),
            ("ot= th:8", 0.0),
            ("OT=th:8", 0.0),
            ("foot=th:8", 0.0),
            // The first member counts, even if it is not valid.
            ("ot=bad,ot=th:8", 0.0),
            ("ot=,ot=th:8", 0.0),
        ];
        for (tracestate, multiplier) in cases {
            assert_eq!(
                tracestate_multiplier(tracestate.as_bytes()),
                multiplier,
                "{tracestate:?}"
            );
        }
        assert_eq!(tracestate_multiplier(b"\xff=1,ot=th:8"), 2.0);
        assert_eq!(tracestate_multiplier(b"\xffot=th:c,ot=th:8"), 2.0);
        assert_eq!(tracestate_multiplier(b"ot=th:8\xff,ot=th:8"), 0.0);
    }

    #[test]
    fn one_fault_rejects_the_whole_value() {
        let cases = [
            ("ot=;th:8", 0.0),
            ("ot=th:8;;p:1", 0.0),
            ("ot=th:8;p", 0.0),
            ("ot=th:8;:1", 0.0),
            ("ot=th:8;1p:1", 0.0),
            ("ot=th:8;p-x:1", 0.0),
            ("ot=th:8;p:a b", 0.0),
            ("ot=th:8;p:a:b", 0.0),
            ("ot=th:8;p:+", 0.0),
            ("ot=th:+8", 0.0),
            ("ot=th:-8", 0.0),
            ("ot=th:8.", 0.0),
            ("ot=th:xyz;th:8", 0.0),
            ("ot=th:8;rv:0011223344556", 0.0),
            ("ot=th:8;rv:001122334455667", 0.0),
            ("ot=th:8;rv:0011223344556g", 0.0),
            ("ot=th:8;p:", 2.0),
            ("ot=th:8;p9:A.z_-9", 2.0),
            ("ot=rv:00112233445566;th:8", 2.0),
        ];
        for (tracestate, multiplier) in cases {
            assert_eq!(
                tracestate_multiplier(tracestate.as_bytes()),
                multiplier,
                "{tracestate}"
            );
        }
    }

    #[test]
    fn a_value_may_have_256_bytes() {
        let value = |length: usize| format!("ot=th:8;p:{}", "x".repeat(length - "th:8;p:".len()));
        assert_eq!(tracestate_multiplier(value(256).as_bytes()), 2.0);
        assert_eq!(tracestate_multiplier(value(257).as_bytes()), 0.0);
        assert_eq!(tracestate_multiplier(format!("{}  ", value(256)).as_bytes()), 2.0);
    }

    #[test]
    fn a_long_tracestate_is_walked_once() {
        const MIB: usize = 1 << 20;
        for filler in [",", " ", "o", "ot=,", "a=b,", "\u{2003}", "ot", ",o"] {
            let tracestate = filler.repeat(MIB / filler.len());
            assert_eq!(tracestate_multiplier(tracestate.as_bytes()), 0.0);
        }
        let tracestate = format!("{}ot=th:8{}", " ,".repeat(MIB / 4), " ".repeat(MIB / 2));
        assert_eq!(tracestate_multiplier(tracestate.as_bytes()), 2.0);
    }

    #[test]
    fn only_a_positive_finite_double_is_a_ratio() {
        let cases = [
            (AnyValue::Double(0.25), Some(4.0)),
            (AnyValue::Double(4.0), Some(0.25)),
            (AnyValue::Double(1.0), Some(1.0)),
            (AnyValue::Double(f64::MIN_POSITIVE), Some(MAX_MULTIPLIER)),
            (AnyValue::Double(5e-324), Some(MAX_MULTIPLIER)),
            (AnyValue::Double(f64::MAX), Some(1.0 / f64::MAX)),
            (AnyValue::Double(0.0), None),
            (AnyValue::Double(-0.0), None),
            (AnyValue::Double(-0.5), None),
            (AnyValue::Double(f64::NAN), None),
            (AnyValue::Double(f64::INFINITY), None),
            (AnyValue::Int(1), None),
            (AnyValue::String(b"0.5"), None),
            (AnyValue::Bool(true), None),
            (AnyValue::Empty, None),
        ];
        for (value, multiplier) in cases {
            assert_eq!(attribute_multiplier(value), multiplier, "{value:?}");
        }
    }

    #[test]
    fn the_tracestate_comes_before_the_attribute() {
        let both = MultiplierPlan {
            key: Some(3),
            tracestate: true,
        };
        let only_key = MultiplierPlan {
            key: Some(3),
            tracestate: false,
        };
        let off = MultiplierPlan::default();
        assert!(both.is_active() && only_key.is_active() && !off.is_active());
        // Case 32 of the specification, then 31.
        assert_eq!(both.weight(b"ot=th:c", Some(2.0)), 4.0);
        assert_eq!(both.weight(b"", Some(2.0)), 2.0);
        assert_eq!(both.weight(b"ot=th:xyz", Some(4.0)), 4.0);
        assert_eq!(both.weight(b"ot=th:xyz", None), 1.0);
        assert_eq!(only_key.weight(b"ot=th:c", Some(0.25)), 0.25);
        assert_eq!(off.weight(b"ot=th:c", None), 1.0);
    }

    fn is_weight(multiplier: f64) -> bool {
        multiplier > 0.0 && multiplier <= MAX_MULTIPLIER
    }

    proptest! {
        #[test]
        fn any_bytes_are_none_or_a_weight(tracestate: Vec<u8>) {
            let multiplier = tracestate_multiplier(&tracestate);
            prop_assert!(multiplier == 0.0 || is_weight(multiplier));
        }

        #[test]
        fn likely_text_is_none_or_a_weight(tracestate in "( |,|ot=|th:|rv:|;|[0-9a-f]{1,14}|[ -~]){0,12}") {
            let multiplier = tracestate_multiplier(tracestate.as_bytes());
            prop_assert!(multiplier == 0.0 || is_weight(multiplier));
        }

        #[test]
        fn rounding_takes_a_neighbour(threshold in "[0-9a-f]{1,14}", randomness in "[0-9a-f]{14}") {
            let exact = tracestate_multiplier(format!("ot=th:{threshold}").as_bytes());
            let rounded = tracestate_multiplier(format!("ot=th:{threshold};rv:{randomness}").as_bytes());
            prop_assert!(is_weight(exact) && is_weight(rounded));
            prop_assert!(rounded == exact || rounded == exact.floor() || rounded == exact.floor() + 1.0);
            prop_assert!(rounded == exact.trunc() || rounded == exact.trunc() + 1.0);
        }

        #[test]
        fn any_ratio_is_none_or_a_weight(bits: u64) {
            let multiplier = attribute_multiplier(AnyValue::Double(f64::from_bits(bits)));
            prop_assert!(multiplier.is_none_or(is_weight));
        }
    }
}
