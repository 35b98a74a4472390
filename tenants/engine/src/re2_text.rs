//! Reading RE2's syntax character by character: escapes and repetition operators; see [`crate::re2`].

const LAST_CHARACTER: u32 = 0x10_ffff;

const BAD_ESCAPE: &str = "invalid escape sequence";

/// How often something may occur.
#[derive(Debug, Clone, Copy)]
pub struct Repetition {
    /// At least this often.
    pub least: u32,
    /// At most this often; `None`: any number of times.
    pub most: Option<u32>,
    /// What it adds to the product of nested counts: Go multiplies those in braces alone.
    pub factor: u32,
    /// As rarely as possible, rather than as often: decides what a group captures, not whether there is a match.
    pub is_lazy: bool,
}

impl Repetition {
    fn simple(least: u32, most: Option<u32>) -> Self {
        Self {
            least,
            most,
            factor: 1,
            is_lazy: false,
        }
    }
}

/// The rest of a pattern.
#[derive(Debug, Clone, Copy)]
pub struct Characters<'p>(&'p str);

impl<'p> Characters<'p> {
    /// Begin to read `pattern`.
    pub fn new(pattern: &'p str) -> Self {
        Self(pattern)
    }

    /// What is not yet read.
    pub fn text(&self) -> &'p str {
        self.0
    }

    /// The next character, left in place.
    pub fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    /// Take the next character.
    pub fn take_any(&mut self) -> Option<char> {
        let mut rest = self.0.chars();
        let next = rest.next();
        self.0 = rest.as_str();
        next
    }

    /// Take the next character as text, nothing at the end.
    pub fn take_one(&mut self) -> &'p str {
        let before = self.0;
        self.take_any();
        before.strip_suffix(self.0).unwrap_or_default()
    }

    /// Step over `text` if it comes next.
    pub fn take(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Take everything up to `end`, and step over it; `None` if it does not come.
    pub fn take_until(&mut self, end: char) -> Option<&'p str> {
        let (text, rest) = self.0.split_once(end)?;
        self.0 = rest;
        Some(text)
    }

    /// Take everything up to `\E`, and step over that, or to the end.
    pub fn take_quoted(&mut self) -> &'p str {
        let (text, rest) = self.0.split_once("\\E").unwrap_or((self.0, ""));
        self.0 = rest;
        text
    }

    /// Take a repetition operator. Braces that hold no counts are plain text.
    pub fn take_repetition(&mut self) -> Option<Repetition> {
        let mut repetition = if self.take("*") {
            Repetition::simple(0, None)
        } else if self.take("+") {
            Repetition::simple(1, None)
        } else if self.take("?") {
            Repetition::simple(0, Some(1))
        } else {
            let (least, rest) = read_count(self.0.strip_prefix('{')?)?;
            let (most, rest) = match rest.strip_prefix(',') {
                None => (Some(least), rest),
                Some(rest) if rest.starts_with('}') => (None, rest),
                Some(rest) => read_count(rest).map(|(most, rest)| (Some(most), rest))?,
            };
            self.0 = rest.strip_prefix('}')?;
            Repetition {
                least,
                most,
                factor: most.unwrap_or(least),
                is_lazy: false,
            }
        };
        repetition.is_lazy = self.take("?");
        Some(repetition)
    }

    /// The next character, a backslash being one that changes what follows.
    pub fn escaped_or_plain(&mut self) -> Result<u32, String> {
        match self.take_any() {
            Some('\\') => self.escaped(),
            Some(plain) => Ok(u32::from(plain)),
            None => Err("the pattern ends early".to_owned()),
        }
    }

    fn escaped(&mut self) -> Result<u32, String> {
        let character = self.take_any().ok_or("a backslash at the end")?;
        Ok(match character {
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' => self.hex()?,
            // A single digit other than 0 would be a back-reference.
            '1'..='7' if !self.0.starts_with(|next| matches!(next, '0'..='7')) => {
                return Err(format!("{BAD_ESCAPE} \\{character}"));
            }
            '0'..='7' => self.octal(u32::from(character) - u32::from('0')),
            _ if character.is_ascii() && !character.is_ascii_alphanumeric() => u32::from(character),
            _ => return Err(format!("{BAD_ESCAPE} \\{character}")),
        })
    }

    fn octal(&mut self, first: u32) -> u32 {
        let mut number = first;
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|next| next.to_digit(8)) else {
                break;
            };
            number = number * 8 + digit;
            self.take_any();
        }
        number
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = if self.take("{") {
            self.take_until('}')
        } else {
            let digits = self.0.get(..2);
            self.0 = self.0.get(2..).unwrap_or_default();
            digits
        };
        let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = digits
            .filter(is_hex)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        number
            .filter(|number| *number <= LAST_CHARACTER)
            .ok_or_else(|| format!("{BAD_ESCAPE} \\x"))
    }
}

fn read_count(text: &str) -> Option<(u32, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(length)?;
    if digits.is_empty() || digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    // A number that does not fit is refused like any that is too great.
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}
