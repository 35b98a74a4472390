use super::*;
use proptest::prelude::*;

/// Patterns, texts, and whether Go 1.26 finds the one in the other.
const IN_GO: [(&str, &[u8], bool); 156] = [
    ("oo", b"foobar", true),
    ("oo", b"fbar", false),
    ("^oo", b"foobar", false),
    ("", b"", true),
    ("", b"x", true),
    ("^$", b"", true),
    ("^$", b"x", false),
    ("^$", b"\n", false),
    ("a$", b"a", true),
    ("a$", b"a\n", false),
    ("(?m)a$", b"a\nb", true),
    ("(?m)^b", b"a\nb", true),
    ("^b", b"a\nb", false),
    (r"a\z", b"a", true),
    (r"a\z", b"a\n", false),
    (r"\Aa", b"a", true),
    (r"\Aa", b"ba", false),
    ("a.b", b"a\nb", false),
    ("a.b", b"a\xc3\xa9b", true),
    ("a.b", b"a\xffb", true),
    ("a.b", b"ab", false),
    ("a.b", b"a\xe2\x82b", false),
    ("(?s)a.b", b"a\nb", true),
    ("^.$", b"\xc3\xa9", true),
    ("^.$", b"\xf0\x9f\x9a\x80", true),
    ("^.$", b"\xff", true),
    ("^.$", b"\xe2\x82", false),
    ("^.$", b"\xed\xa0\x80", false),
    ("^..$", b"\xe2\x82", true),
    ("^...$", b"\xed\xa0\x80", true),
    (r"\d", b"5", true),
    (r"\d", b"\xd9\xa3", false),
    (r"\D", b"5", false),
    (r"\D", b"\xd9\xa3", true),
    (r"\w", b"\xc3\xa9", false),
    (r"\w", b"_", true),
    (r"\w", b"\xc5\xbf", false),
    (r"(?i)\w", b"\xc5\xbf", true),
    (r"(?i)\w", b"\xc3\xa9", false),
    (r"(?i)\W", b"\xc5\xbf", false),
    (r"(?i)\W", b"\xc3\xa9", true),
    (r"\W", b"\xc3\xa9", true),
    (r"\W", b"a", false),
    (r"\s", b"\x0b", false),
    (r"\s", b"\t", true),
    (r"\s", b"\xc2\xa0", false),
    (r"\S", b"\x0b", true),
    (r"\S", b"\t", false),
    (r"[\s]", b"\x0b", false),
    ("[[:space:]]", b"\x0b", true),
    ("[[:space:]]", b"\xc2\xa0", false),
    ("\\b\u{e9}", b"\xc3\xa9", false),
    ("\\b\u{e9}", b"a\xc3\xa9", true),
    ("\\B\u{e9}", b"\xc3\xa9", true),
    ("\\B\u{e9}", b"a\xc3\xa9", false),
    (r"\B", b"\xc3\xa9", true),
    (r"\B", b"a\xc3\xa9a", false),
    (r"\B", b"a", false),
    (r"\B", b"", true),
    (r"\bb", b"\xc3\xa9 b", true),
    (r"\bb", b"\xc3\xa9b", true),
    ("[[:word:]]", b"\xc3\xa9", false),
    ("[[:word:]]", b"_", true),
    ("[[:^alpha:]]", b"a", false),
    ("[[:^alpha:]]", b"1", true),
    ("[^[:^lower:]]", b"a", true),
    ("[^[:^lower:]]", b"A", false),
    ("(?i)[[:upper:]]", b"a", true),
    ("(?i)[[:upper:]]", b"1", false),
    ("[a&&b]", b"&", true),
    ("[a&&b]", b"a", true),
    ("[a&&b]", b"c", false),
    ("[a~~b]", b"~", true),
    ("^[[a]$", b"[", true),
    ("^[[a]$", b"a", true),
    ("[]a]", b"]", true),
    ("[^]a]", b"]", false),
    ("[^]a]", b"b", true),
    ("[-a]", b"-", true),
    ("[a-]", b"-", true),
    ("[a-]", b"b", false),
    (r"[\d-z]", b"-", true),
    (r"[\d-z]", b"y", false),
    ("[[:alpha]", b":", true),
    ("[[:alpha]", b"b", false),
    (r"\pN", b"\xd9\xa3", true),
    (r"\pN", b"a", false),
    (r"\PN", b"\xd9\xa3", false),
    (r"\PN", b"a", true),
    (r"\pl", b"a", true),
    (r"\p{Greek}", b"\xcf\x83", true),
    (r"\p{Greek}", b"s", false),
    (r"\p{^Greek}", b"\xcf\x83", false),
    (r"\p{^Greek}", b"s", true),
    (r"\P{^Greek}", b"\xcf\x83", true),
    (r"\p{ LETTER }", b"a", true),
    (r"\p{Lu}", b"A", true),
    (r"\p{Lu}", b"a", false),
    (r"(?i)\p{Lu}", b"a", true),
    (r"\p{Cs}", b"a", false),
    (r"\P{Cs}", b"a", true),
    (r"[^\p{Cs}]", b"a", true),
    (r"\p{Cn}", b"\xcd\xb8", true),
    (r"\p{Cn}", b"a", false),
    (r"\p{Any}", b"\xff", true),
    (r"\p{ASCII}", b"\xc3\xa9", false),
    (r"\x41", b"A", true),
    (r"\x{1F680}", b"\xf0\x9f\x9a\x80", true),
    (r"\x{fffd}", b"\xff", true),
    (r"\101", b"A", true),
    (r"\0", b"\x00", true),
    (r"\08", b"\x008", true),
    (r"\1234", b"S4", true),
    (r"\a\f\t\n\r\v", b"\x07\x0c\t\n\r\x0b", true),
    (r#"\.\_\-\<\ \""#, b"._-< \"", true),
    (r"\Qa.b\E+", b"a.bb", true),
    (r"\Qa.b\E+", b"aab", false),
    (r"\Q.*", b".*", true),
    (r"\Q.*", b"a", false),
    (r"^a\Q\E*$", b"aa", true),
    (r"(?i)\Qk\E", b"K", true),
    ("(?i)s", b"\xc5\xbf", true),
    ("(?i)\u{df}", b"\xe1\xba\x9e", true),
    ("(?i)\u{3c3}", b"\xcf\x82", true),
    ("(?i)i", b"\xc4\xb0", false),
    ("(?i)i", b"\xc4\xb1", false),
    ("(?i)[^k]", b"K", false),
    ("(?i:a)b", b"Ab", true),
    ("(?i:a)b", b"AB", false),
    ("((?i)a|b)c", b"Bc", true),
    ("((?i)a|b)c", b"BC", false),
    ("(?i)(?-i)a", b"A", false),
    ("(?i-s:a.)", b"A\n", false),
    ("(?U)a+", b"a", true),
    ("(?)a", b"a", true),
    ("(?P<n>a)(?P<n>b)", b"ab", true),
    ("(?<n>a)", b"a", true),
    ("^x{,2}$", b"x{,2}", true),
    ("^x{01}$", b"x{01}", true),
    ("^x{01}$", b"x", false),
    ("^a{$", b"a{", true),
    ("^{}$", b"{}", true),
    ("^x{0}y$", b"y", true),
    ("^x{2,}$", b"x", false),
    ("^x{2,}$", b"xxx", true),
    ("^x{2,3}?$", b"xxx", true),
    ("^x{2,3}?$", b"xxxx", false),
    ("^(?:a*(?i)*)$", b"aa", true),
    ("^(?:a+(?i)?)$", b"", true),
    ("^*a", b"ba", true),
    ("(|a)*b", b"b", true),
    ("a||b", b"", true),
    (r"[\x{d7ff}-\x{e000}]", b"\xee\x80\x80", true),
    (r"[\x{d7ff}-\x{e000}]", b"\xff", false),
    ("\u{e9}+", b"\xc3\xa9\xc3\xa9", true),
    ("#a # b", b"#a # b", true),
];

#[test]
fn patterns_match_as_in_go() {
    for (pattern, text, is_match) in IN_GO {
        let compiled = Pattern::new(pattern).unwrap();
        assert_eq!(compiled.is_match(text), is_match, "{pattern:?} {text:?}");
    }
}

/// What Go 1.26 refuses too.
#[test]
fn what_is_not_re2_is_refused() {
    let patterns = [
        "(",
        "a)",
        "(a",
        "*",
        "a|*",
        "(*)",
        "(?i)*",
        "a**",
        "a*??",
        "a{2}{3}",
        "x{1001}",
        "x{2,1}",
        "(x{100}){11}",
        "((x{10}){11}){10}",
        "[",
        "[]",
        "[a",
        "[^",
        "[b-a]",
        "[a--]",
        r"[a-\d]",
        "[[:foo:]]",
        "[[:^foo:]]",
        r"\",
        r"[\",
        r"\1",
        r"\8",
        r"\18",
        r"\C",
        r"\Z",
        r"\G",
        r"\E",
        r"\e",
        r"\h",
        r"\R",
        r"\X",
        r"\N",
        r"\cA",
        r"\u0041",
        "\\\u{e9}",
        r"\x",
        r"\x4",
        r"\xg0",
        r"\x{}",
        r"\x{110000}",
        r"\x{ 41}",
        r"\x{41",
        "\\x\u{e9}1",
        r"[\b]",
        r"[\Q]\E]",
        r"\p",
        r"\p{",
        r"\p{}",
        r"\p{^}",
        r"\p^",
        r"\p{Foo}",
        r"\p{isL}",
        r"\p{L&}",
        r"\p{sc=Greek}",
        r"\p{Alphabetic}",
        "\\p\u{e9}",
        "(?x)a",
        "(?u)a",
        "(?R)a",
        "(?",
        "(?i",
        "(?i-)",
        "(?--i)",
        "(?P=n)",
        "(?P<>a)",
        "(?<a-b>a)",
        "(?P<\u{e9}>a)",
        "(?P<n",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?>a)",
        "(?#a)",
    ];
    for pattern in patterns {
        assert!(Pattern::new(pattern).is_err(), "{pattern:?}");
    }
}

#[test]
fn only_scripts_may_have_names_that_go_does_not_know() {
    assert!(
        Pattern::new(r"\p{Old_Italic}\p{Grek}")
            .unwrap()
            .is_match("\u{10300}\u{3c3}".as_bytes())
    );
}

/// Each would take much memory or time; each is refused, with the limit that it passes.
#[test]
fn costly_patterns_are_refused() {
    let cases = [
        ("a".repeat(MAX_PATTERN_LEN + 1), "bytes"),
        (r"\pL{1000}".to_owned(), "when compiled"),
        ("(?:a{30}b{30}.{30}){30}.{1000}".to_owned(), "when compiled"),
        (format!("({}){{1000}}", "a?".repeat(1000)), "when compiled"),
        (r"(?i)\pL".to_owned() + &r"\pN".repeat(1000), "wide"),
        ("(?i)".to_owned() + &"[ -\u{fffff}]".repeat(400), "wide"),
        (r"[\W]".repeat(800), "wide"),
        ("(".repeat(2000) + &")".repeat(2000), "nest"),
        ("(?:".repeat(800) + &")*".repeat(800), "nest"),
        ("a*".to_owned() + &"(?i)*".repeat(800), "nest"),
    ];
    for (pattern, limit) in cases {
        let fault = Pattern::new(&pattern).unwrap_err();
        assert!(fault.contains(limit), "{fault}");
    }
}

#[test]
fn patterns_within_the_limits_are_taken() {
    let patterns = [
        "a".repeat(MAX_PATTERN_LEN),
        "(?:a|".repeat(50) + &"b)*".repeat(50),
        "(?:(?:a{10}){10}){10}".to_owned(),
        ".{1,1000}".to_owned(),
        "(?i)".to_owned() + &r"\pL".repeat(20),
        (0..400)
            .map(|number| format!("/api/{number}|"))
            .collect::<Vec<String>>()
            .concat(),
    ];
    for pattern in patterns {
        assert!(Pattern::new(&pattern).is_ok(), "{pattern}");
    }
}

proptest! {
    #[test]
    fn any_pattern_is_compiled_or_refused(pattern: String, text: Vec<u8>) {
        if let Ok(compiled) = Pattern::new(&pattern) {
            compiled.is_match(&text);
        }
    }

    /// The crate has nothing to object to in what the rewriter writes.
    #[test]
    fn likely_patterns_fail_in_the_rewriter_alone(
        pattern in r"([a-k\-\^\]&~{},:]|\(|\(\?[ims]*:|\)|\||[*+?]|\[\^?|\{[0-3],?[0-3]?\}|\\[dDwWsSbBAzQEpPx]|\\p\{L\}|\(\?[ims-]+\)|[\.$]){0,12}",
        text: Vec<u8>,
    ) {
        match (re2::rewrite(&pattern), Pattern::new(&pattern)) {
            (Ok(_), Ok(compiled)) => {
                compiled.is_match(&text);
            }
            (Ok(rewritten), Err(fault)) => prop_assert!(fault.contains("when compiled"), "{rewritten}: {fault}"),
            (Err(_), compiled) => prop_assert!(compiled.is_err()),
        }
    }

    #[test]
    fn quoted_text_matches_itself_alone(text in "[^\\\\]{0,20}", around in ".{0,5}") {
        let pattern = Pattern::new(&format!("^\\Q{text}\\E$")).unwrap();
        prop_assert!(pattern.is_match(text.as_bytes()));
        let longer = format!("{around}{text}{around}");
        prop_assert_eq!(pattern.is_match(longer.as_bytes()), longer == text);
    }
}
