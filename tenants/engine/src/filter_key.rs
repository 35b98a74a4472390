//! The keys of filter attributes: those `TraceQL` identifiers that a filter can look up (processors §0.8).

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The span's name.
    Name,
    /// The span's kind.
    Kind,
    /// The span's status code.
    Status,
    /// The span's attribute of this name.
    Span(String),
    /// The resource's attribute of this name.
    Resource(String),
}

impl Key {
    /// Read a key; the error says what is wrong with it.
    pub fn read(key: &str) -> Result<Self, String> {
        // `span.kind` is an attribute called `kind`: only a colon, or no scope at all, names the span's own field.
        match key {
            "" => return Err("is empty".to_owned()),
            "name" | "span:name" => return Ok(Self::Name),
            "kind" | "span:kind" => return Ok(Self::Kind),
            "status" | "span:status" => return Ok(Self::Status),
            _ => {}
        }
        // A span's parent is not at hand: the reference looks at the span itself, and so do we (Q32).
        let scoped = key.strip_prefix("parent.").unwrap_or(key);
        if let Some(name) = scoped.strip_prefix("span.") {
            attribute_name(name).map(Self::Span)
        } else if let Some(name) = scoped.strip_prefix("resource.") {
            attribute_name(name).map(Self::Resource)
        } else {
            Err(format!(
                "{key:?} is none of kind, name, status, span.<attribute>, resource.<attribute>"
            ))
        }
    }
}

/// Read a name in which any part may stand in double quotes: `foo`, `"foo bar"`, `foo."bar \"baz\""`.
fn attribute_name(text: &str) -> Result<String, String> {
    let mut name = String::new();
    let mut is_quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => match characters.next() {
                Some(escaped @ ('"' | '\\')) => name.push(escaped),
                _ => return Err("has a backslash in quotes before anything but \" and \\".to_owned()),
            },
            _ if !is_quoted && ends_a_name(character) => {
                return Err(format!(
                    "has {character:?} in an attribute's name; put the name in double quotes"
                ));
            }
            _ => name.push(character),
        }
    }
    if is_quoted {
        Err("has a quote that is not closed".to_owned())
    } else if name.is_empty() {
        Err("lacks the attribute's name".to_owned())
    } else {
        Ok(name)
    }
}

/// Whether `TraceQL` takes the character for the end of an unquoted name.
fn ends_a_name(character: char) -> bool {
    character.is_whitespace() || "{}()=~!<>&|^,".contains(character)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_mean_what_traceql_means_by_them() {
        let span = |name: &str| Key::Span(name.to_owned());
        let resource = |name: &str| Key::Resource(name.to_owned());
        let cases = [
            ("name", Key::Name),
            ("kind", Key::Kind),
            ("status", Key::Status),
            ("span:name", Key::Name),
            ("span:kind", Key::Kind),
            ("span:status", Key::Status),
            ("span.kind", span("kind")),
            ("span.http.status_code", span("http.status_code")),
            ("span.span.x", span("span.x")),
            ("span.resource.x", span("resource.x")),
            ("span.parent.x", span("parent.x")),
            ("span.a-b/c:d[0]*+@\u{e9}", span("a-b/c:d[0]*+@\u{e9}")),
            ("resource.service.name", resource("service.name")),
            ("resource.kind", resource("kind")),
            ("parent.span.x", span("x")),
            ("parent.resource.x", resource("x")),
            (r#"span."foo bar""#, span("foo bar")),
            (r#"resource."foo bar""#, resource("foo bar")),
            (r#"parent.span."foo bar""#, span("foo bar")),
            (r#"span.foo."b r"."{}""#, span("foo.b r.{}")),
            (r#"span."a\"b\\c""#, span(r#"a"b\c"#)),
            (r"span.a\b", span(r"a\b")),
        ];
        for (key, meaning) in cases {
            assert_eq!(Key::read(key).unwrap(), meaning, "{key}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let keys = [
            "",
            " ",
            ".foo",
            "foo",
            "Kind",
            "kind ",
            "duration",
            "statusMessage",
            "rootName",
            "rootServiceName",
            "nestedSetLeft",
            "parent",
            "parent.foo",
            "parent.kind",
            "parent.parent.span.x",
            "parent:id",
            "trace:id",
            "trace:rootName",
            "span:id",
            "span:duration",
            "span:statusMessage",
            "resource:name",
            "event.name",
            "event:name",
            "link.foo",
            "link:traceID",
            "instrumentation.foo",
            "instrumentation:name",
            "span",
            "span.",
            "resource.",
            "parent.span.",
            "span.foo bar",
            "span.foo=bar",
            "span.a,b",
            "span.{a}",
            "span.\"\"",
            "span.\"foo",
            "span.foo\"",
            "span.\"a\\n\"",
            "span.\"a\\",
            "\"span.foo\"",
        ];
        for key in keys {
            assert!(Key::read(key).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_refused(key: String) {
            let _ = Key::read(&key);
        }

        #[test]
        fn a_quoted_name_is_taken_as_it_is(name in "[^\"\\\\]+") {
            prop_assert_eq!(Key::read(&format!("span.\"{name}\"")), Ok(Key::Span(name)));
        }
    }
}
