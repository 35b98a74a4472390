//! Label names and label sets (processors §0.4 and §0.5).
//!
//! A label set is kept in one canonical encoding: for each label in ascending order of name, the name's length and
//! bytes, then the value's length and bytes, lengths as varints. Empty values never appear. Two label sets are the
//! same exactly when their bytes are.

use crate::wire::put_varint;

/// Longest label set, and longest half of an edge, in bytes: a longer one is no series that a receiver would take.
pub const MAX_LABEL_SET: usize = 1 << 18;

/// Names that span metrics reserve for their intrinsic dimensions, whether switched on or not.
pub const SPAN_METRICS_RESERVED: [&str; 5] = [
    "service",
    "span_name",
    "span_kind",
    "status_code",
    "status_message",
];
/// Names that service graphs reserve for the labels they build themselves (processors Q3).
pub const SERVICE_GRAPH_RESERVED: [&str; 4] = ["client", "server", "connection_type", "virtual_node"];

/// Replace every character outside `[A-Za-z0-9_]` by one underscore (processors §0.4).
pub fn sanitize(name: &str) -> String {
    name.chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || character == '_' {
                character
            } else {
                '_'
            }
        })
        .collect()
}

/// [`sanitize`], then put two underscores before a reserved name.
pub fn sanitize_protected(name: &str, reserved: &[&str]) -> String {
    let name = sanitize(name);
    if reserved.contains(&name.as_str()) {
        format!("__{name}")
    } else {
        name
    }
}

/// Cut `text` to at most `limit` bytes (0: no limit) without splitting a UTF-8 character (processors Q4).
#[inline]
pub fn truncate(text: &[u8], limit: usize) -> &[u8] {
    if limit == 0 || text.len() <= limit {
        return text;
    }
    let mut end = limit;
    // A character has at most three continuation bytes; longer runs are not UTF-8 and are cut where they stand.
    while end > 0 && limit - end < 3 && text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// Append one label to a canonical label set; labels must come in ascending order of name.
#[inline]
pub fn put_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put_varint(out, name.len() as u64);
    out.extend_from_slice(name);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Build a canonical label set from pairs in the order they were added: the last of equal names wins, and if it is
/// empty the label is gone (processors §0.5 step 2).
pub fn label_set(mut pairs: Vec<(&[u8], &[u8])>) -> Vec<u8> {
    pairs.sort_by_key(|(name, _)| *name);
    let mut out = Vec::new();
    for (index, (name, value)) in pairs.iter().enumerate() {
        let is_last_of_name = pairs.get(index + 1).is_none_or(|(next, _)| next != name);
        if is_last_of_name && !value.is_empty() {
            put_label(&mut out, name, value);
        }
    }
    out
}

/// The labels of a canonical label set.
#[derive(Debug, Clone)]
pub struct Labels<'a>(pub &'a [u8]);

impl<'a> Labels<'a> {
    fn part(&mut self) -> Option<&'a [u8]> {
        let mut length = 0usize;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            length |= usize::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                let (part, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                return Some(part);
            }
        }
        None
    }

    /// Whether every name and value of a set made by [`put_label`] is UTF-8 (processors §0.5 step 5).
    #[inline]
    pub fn is_valid(self) -> bool {
        self.0.is_ascii() || self.has_only_utf8()
    }

    fn has_only_utf8(mut self) -> bool {
        while !self.0.is_empty() {
            let Some((name, value)) = self.next() else {
                return false;
            };
            if name.is_empty() || std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
                return false;
            }
        }
        true
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.part()?;
        let value = self.part()?;
        Some((name, value))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sanitizing_replaces_each_character_once() {
        let cases = [
            ("a..b", "a__b"),
            ("1x", "1x"),
            ("gr\u{f6}\u{df}e", "gr__e"),
            ("http.method", "http_method"),
        ];
        for (name, label) in cases {
            assert_eq!(sanitize(name), label);
        }
        assert_eq!(
            sanitize_protected("span.kind", &SPAN_METRICS_RESERVED),
            "__span_kind"
        );
    }

    #[test]
    fn truncation_keeps_characters_whole() {
        let cases: [(&str, usize, &str); 4] = [
            ("aaaaaaaaa\u{e9}", 10, "aaaaaaaaa"),
            ("aaaaaaaaa\u{e9}", 11, "aaaaaaaaa\u{e9}"),
            ("\u{1f680}x", 3, ""),
            ("abc", 0, "abc"),
        ];
        for (text, limit, cut) in cases {
            assert_eq!(truncate(text.as_bytes(), limit), cut.as_bytes());
        }
    }

    #[test]
    fn the_last_of_equal_names_wins_even_when_empty() {
        let set = label_set(vec![(b"dup", b"first"), (b"other", b"v"), (b"dup", b"second")]);
        let labels: Vec<_> = Labels(&set).collect();
        assert_eq!(labels, [(&b"dup"[..], &b"second"[..]), (b"other", b"v")]);
        let set = label_set(vec![(b"dup", b"first"), (b"other", b"v"), (b"dup", b"")]);
        assert_eq!(Labels(&set).collect::<Vec<_>>(), [(&b"other"[..], &b"v"[..])]);
    }

    #[test]
    fn sets_that_are_not_utf8_are_not_valid() {
        assert!(Labels(&label_set(vec![(b"a", b"b")])).is_valid());
        assert!(Labels(&label_set(vec![(b"a", "\u{e9}".as_bytes())])).is_valid());
        assert!(Labels(&[]).is_valid());
        assert!(!Labels(&label_set(vec![(b"a", &[0xff])])).is_valid());
        assert!(!Labels(&[3, 0xff]).is_valid());
    }
}
