//! Span names as tokens, and which tokens look like data (processors appendix B).
//!
//! A name is cut from left to right, and its tokens joined are the name again. The end marker that the appendix adds to
//! every name is counted where counts matter and stored nowhere: it is equal in all names.

use unicode_general_category::{GeneralCategory, get_general_category};

/// Fewest tokens of a name that is learned; 3 with the end marker.
pub const MIN_TOKENS: usize = 2;
/// Most tokens of a name that is learned; 80 with the end marker.
pub const MAX_TOKENS: usize = 79;
/// Longer names are left alone, as if they had too many tokens: a token may be as long as its name.
pub const MAX_NAME_BYTES: usize = 16 << 10;

const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const PUNCTUATION: u8 = 4;
const WHITE_SPACE: u8 = 8;
const HEX_DIGIT: u8 = 16;

const ASCII_CLASSES: [u8; 128] = {
    let mut classes = [0; 128];
    let mut byte = 0u8;
    while byte < 128 {
        let mut class = 0;
        if byte.is_ascii_alphabetic() {
            class |= LETTER;
        }
        if byte.is_ascii_digit() {
            class |= NUMBER;
        }
        if byte.is_ascii_hexdigit() {
            class |= HEX_DIGIT;
        }
        // Unicode counts these nine as symbols (S*), not as punctuation (P*).
        let is_symbol = matches!(byte, b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~');
        if byte.is_ascii_punctuation() && !is_symbol {
            class |= PUNCTUATION;
        }
        if matches!(byte, b'\t'..=b'\r' | b' ') {
            class |= WHITE_SPACE;
        }
        classes[byte as usize] = class;
        byte += 1;
    }
    classes
};

/// The classes of processors §0.9 that a character belongs to.
#[inline]
fn classes(character: char) -> u8 {
    match ASCII_CLASSES.get(character as usize) {
        Some(classes) => *classes,
        None => unicode_classes(character),
    }
}

#[inline(never)]
fn unicode_classes(character: char) -> u8 {
    use GeneralCategory as Category;
    let by_category = match get_general_category(character) {
        Category::UppercaseLetter
        | Category::LowercaseLetter
        | Category::TitlecaseLetter
        | Category::ModifierLetter
        | Category::OtherLetter => LETTER,
        Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => NUMBER,
        Category::ConnectorPunctuation
        | Category::DashPunctuation
        | Category::OpenPunctuation
        | Category::ClosePunctuation
        | Category::InitialPunctuation
        | Category::FinalPunctuation
        | Category::OtherPunctuation => PUNCTUATION,
        _ => 0,
    };
    // Outside of ASCII, the property Hex_Digit is the full-width forms and nothing else.
    let is_hex_digit =
        matches!(character, '\u{ff10}'..='\u{ff19}' | '\u{ff21}'..='\u{ff26}' | '\u{ff41}'..='\u{ff46}');
    let hex_digit = if is_hex_digit { HEX_DIGIT } else { 0 };
    let white_space = if character.is_whitespace() { WHITE_SPACE } else { 0 };
    by_category | hex_digit | white_space
}

/// Why a name is not learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Fewer than [`MIN_TOKENS`].
    TooFewTokens,
    /// More than [`MAX_TOKENS`], or longer than [`MAX_NAME_BYTES`].
    TooManyTokens,
}

/// The tokens of a name.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    name: &'a str,
    ends: [u16; MAX_TOKENS],
    count: usize,
}

impl<'a> Tokens<'a> {
    /// Cut a name, if it is fit to be learned.
    #[inline]
    pub fn cut(name: &'a str) -> Result<Self, Unfit> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Unfit::TooManyTokens);
        }
        let mut ends = [0; MAX_TOKENS];
        let (mut count, mut rest) = (0, name);
        while !rest.is_empty() {
            let slot = ends.get_mut(count).ok_or(Unfit::TooManyTokens)?;
            rest = rest.get(token_bytes(rest)..).unwrap_or_default();
            *slot = (name.len() - rest.len()) as u16;
            count += 1;
        }
        if count < MIN_TOKENS {
            return Err(Unfit::TooFewTokens);
        }
        Ok(Self { name, ends, count })
    }

    /// The name they were cut from.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Where each token ends in the name.
    pub fn ends(&self) -> &[u16] {
        self.ends.get(..self.count).unwrap_or_default()
    }

    /// How many there are, the end marker aside.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The tokens from left to right.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        pieces(self.name, self.ends())
    }
}

/// The pieces of a text that ends at the last of `ends`.
#[inline]
pub fn pieces<'a>(text: &'a str, ends: &'a [u16]) -> impl Iterator<Item = &'a str> {
    let mut start = 0;
    ends.iter().map(move |end| {
        let from = std::mem::replace(&mut start, usize::from(*end));
        text.get(from..start).unwrap_or_default()
    })
}

/// Length of the token that a text, which must not be empty, begins with.
#[inline]
fn token_bytes(text: &str) -> usize {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return 0;
    };
    let class = classes(first);
    if class & HEX_DIGIT != 0 {
        let hex_digits = run(text, |_, class| class & HEX_DIGIT != 0);
        return match text.get(hex_digits..).and_then(|rest| rest.chars().next()) {
            Some('-') => run(text, |character, class| {
                character == '-' || class & HEX_DIGIT != 0
            }),
            Some(next) if classes(next) & (LETTER | NUMBER) != 0 => {
                run(text, |_, class| class & (LETTER | NUMBER) != 0)
            }
            _ => hex_digits,
        };
    }
    if class & (LETTER | NUMBER) != 0 {
        return run(text, |_, class| class & (LETTER | NUMBER) != 0);
    }
    if class & WHITE_SPACE != 0 {
        return run(text, |_, class| class & WHITE_SPACE != 0);
    }
    if first == '%' {
        return match (characters.next(), characters.next()) {
            (Some(high), Some(low)) => {
                let is_escape = classes(high) & classes(low) & HEX_DIGIT != 0;
                1 + if is_escape {
                    high.len_utf8() + low.len_utf8()
                } else {
                    0
                }
            }
            _ => text.len(),
        };
    }
    first.len_utf8()
}

/// Bytes of the characters that a text begins with and that belong.
#[inline]
fn run(text: &str, belongs: impl Fn(char, u8) -> bool) -> usize {
    text.char_indices()
        .find(|(_, character)| !belongs(*character, classes(*character)))
        .map_or(text.len(), |(at, _)| at)
}

/// Whether a token looks like data: numbers, hex digits and punctuation only, with at least one number; or more numbers
/// than a quarter of its bytes, and more than one.
#[inline]
pub fn looks_like_data(token: &str) -> bool {
    let (mut numbers, mut has_others) = (0, false);
    for character in token.chars() {
        let class = classes(character);
        numbers += usize::from(class & NUMBER != 0);
        has_others |= class & (NUMBER | HEX_DIGIT | PUNCTUATION) == 0;
    }
    (numbers > 0 && !has_others) || numbers > (token.len() / 4).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(name: &str) -> Vec<String> {
        let mut rest = name;
        let mut tokens = Vec::new();
        while !rest.is_empty() {
            let (token, after) = rest.split_at(token_bytes(rest));
            tokens.push(token.to_owned());
            rest = after;
        }
        tokens
    }

    #[test]
    fn names_are_cut_as_the_appendix_says() {
        let cases: &[(&str, &[&str])] = &[
            ("GET /users/123", &["GET", " ", "/", "users", "/", "123"]),
            ("application_1234567890", &["application", "_", "1234567890"]),
            ("query-abc-def-ghi", &["query", "-", "abc-def-", "ghi"]),
            (
                "\u{1f680} deploy service-abc",
                &["\u{1f680}", " ", "deploy", " ", "service", "-", "abc"],
            ),
            (
                "job 123e4567-e89b-12d3-a456-426614174000",
                &["job", " ", "123e4567-e89b-12d3-a456-426614174000"],
            ),
            ("add-item", &["add-", "item"]),
            ("abc1x-2", &["abc1x", "-", "2"]),
            ("123-456--a", &["123-456--a"]),
            ("a \t\u{a0}\u{2003}\n b", &["a", " \t\u{a0}\u{2003}\n ", "b"]),
            ("a%20b", &["a", "%20", "b"]),
            ("a%2gb", &["a", "%", "2gb"]),
            ("a%%41", &["a", "%", "%41"]),
            ("a%", &["a", "%"]),
            ("a%3", &["a", "%3"]),
            ("a%z", &["a", "%z"]),
            ("a%\u{e9}", &["a", "%\u{e9}"]),
            ("%\u{ff11}\u{ff41}x", &["%\u{ff11}\u{ff41}", "x"]),
            (
                "\u{ff11}\u{ff41}-\u{ff42}-z",
                &["\u{ff11}\u{ff41}-\u{ff42}-", "z"],
            ),
            ("\u{ff11}\u{ff47}-1", &["\u{ff11}\u{ff47}", "-", "1"]),
            ("gr\u{f6}\u{df}e\u{bd}/x", &["gr\u{f6}\u{df}e\u{bd}", "/", "x"]),
            // A combining mark and a circled letter are alphabetic, but not letters.
            ("xe\u{301}y", &["xe", "\u{301}", "y"]),
            ("x\u{24b6}y", &["x", "\u{24b6}", "y"]),
            ("a//b", &["a", "/", "/", "b"]),
            ("", &[]),
        ];
        for (name, expected) in cases {
            assert_eq!(tokens(name), *expected, "{name:?}");
        }
    }

    #[test]
    fn data_is_told_from_words() {
        for token in [
            "1",
            "a1",
            "e2e",
            "v10",
            "id55",
            "user12345",
            "1-2",
            "\u{bd}",
            "%41",
        ] {
            assert!(looks_like_data(token), "{token:?}");
        }
        for token in ["v2", "id5", "ab", "-", "$1", "abcdefgh12", " ", "%ab", ""] {
            assert!(!looks_like_data(token), "{token:?}");
        }
    }

    #[test]
    fn only_names_of_a_fit_number_of_tokens_are_cut() {
        let of = |tokens: usize| Tokens::cut(&"/".repeat(tokens)).map(|tokens| tokens.count());
        assert_eq!(of(0), Err(Unfit::TooFewTokens));
        assert_eq!(of(1), Err(Unfit::TooFewTokens));
        assert_eq!(of(2), Ok(2));
        assert_eq!(of(79), Ok(79));
        assert_eq!(of(80), Err(Unfit::TooManyTokens));
        let long = "a /".repeat(MAX_NAME_BYTES);
        assert_eq!(Tokens::cut(&long).err(), Some(Unfit::TooManyTokens));
        let word = format!("/{}", "w".repeat(MAX_NAME_BYTES - 1));
        assert_eq!(Tokens::cut(&word).map(|tokens| tokens.count()), Ok(2));
        assert_eq!(Tokens::cut(&format!("{word}w")).err(), Some(Unfit::TooManyTokens));
    }

    #[test]
    fn the_table_for_ascii_agrees_with_unicode() {
        for character in '\0'..='\u{7f}' {
            let expected = unicode_classes(character);
            let hex_digit = if character.is_ascii_hexdigit() {
                HEX_DIGIT
            } else {
                0
            };
            assert_eq!(classes(character), expected | hex_digit, "{character:?}");
        }
    }

    proptest! {
        #[test]
        fn joined_tokens_are_the_name(name in "\\PC*|[ -/0-9a-f%\u{ff10}-\u{ff19}x\u{a0}]{0,90}") {
            prop_assert_eq!(tokens(&name).concat(), name.clone());
            if let Ok(cut) = Tokens::cut(&name) {
                prop_assert_eq!(cut.iter().collect::<String>(), name.clone());
                prop_assert_eq!(cut.iter().collect::<Vec<_>>(), tokens(&name));
                prop_assert!(cut.iter().all(|token| !token.is_empty() && token != "<_>"));
            }
        }
    }
}
