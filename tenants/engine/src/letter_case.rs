//! Lower and upper case character by character, as Go's `strings.ToLower` and `ToUpper` have it.
//!
//! The standard library maps some characters to several, and knows where a word ends; Go's mapping does neither.

/// `text` in lower case.
pub fn to_lower(text: &str) -> String {
    text.chars()
        .map(|character| {
            let mut lower = character.to_lowercase();
            // U+0130 alone has several; Unicode's simple mapping takes the first of them.
            lower.next().unwrap_or(character)
        })
        .collect()
}

/// `text` in upper case.
pub fn to_upper(text: &str) -> String {
    text.chars().map(upper).collect()
}

fn upper(character: char) -> char {
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        // Greek letters with an iota below have one with an iota beside them.
        _ => match u32::from(character) {
            code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => moved(code, 8),
            code @ (0x1fb3 | 0x1fc3 | 0x1ff3) => moved(code, 9),
            _ => character,
        },
    }
}

fn moved(code: u32, by: u32) -> char {
    char::from_u32(code + by).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_single() {
        let cases = [
            ("bAr123Foo", "bar123foo", "BAR123FOO"),
            ("stra\u{df}e \u{e9}", "stra\u{df}e \u{e9}", "STRA\u{df}E \u{c9}"),
            ("\u{130}", "i", "\u{130}"),
            ("\u{131}", "\u{131}", "I"),
            ("\u{3a3}\u{3c2}", "\u{3c3}\u{3c2}", "\u{3a3}\u{3a3}"),
            ("\u{1fb3}\u{1f81}", "\u{1fb3}\u{1f81}", "\u{1fbc}\u{1f89}"),
            ("\u{1c5}", "\u{1c6}", "\u{1c4}"),
        ];
        for (text, lower, upper) in cases {
            assert_eq!((&*to_lower(text), &*to_upper(text)), (lower, upper), "{text}");
        }
    }
}
