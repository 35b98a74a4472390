use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const PATH: &str = "span_metrics.filter_policies";

fn compile(policies: &Json, strict_types: bool) -> Result<(Option<Filter>, Vec<String>), PlanError> {
    let policies: Vec<FilterPolicySettings> = serde_json::from_value(policies.clone()).unwrap();
    let mut keys: Vec<String> = Vec::new();
    let mut number = |key: &str| {
        let known = keys.iter().position(|known| known == key);
        known.unwrap_or_else(|| {
            keys.push(key.to_owned());
            keys.len() - 1
        })
    };
    let filter = Filter::compile(PATH, &policies, strict_types, &mut number)?;
    Ok((filter, keys))
}

fn slots<'a>(keys: &[String], attributes: &[(&str, AnyValue<'a>)]) -> Vec<Option<AnyValue<'a>>> {
    let find = |key: &String| attributes.iter().find(|(name, _)| name == key);
    keys.iter()
        .map(|key| find(key).map(|(_, value)| *value))
        .collect()
}

/// One span to decide about.
#[derive(Clone, Copy, Default)]
struct Sample<'a> {
    span: Span<'a>,
    resource: &'a [(&'a str, AnyValue<'a>)],
    attributes: &'a [(&'a str, AnyValue<'a>)],
}

fn is_accepted(policies: &Json, strict_types: bool, sample: Sample<'_>) -> bool {
    let (filter, keys) = compile(policies, strict_types).unwrap();
    let (resource, attributes) = (slots(&keys, sample.resource), slots(&keys, sample.attributes));
    filter.is_none_or(|filter| filter.accepts(&sample.span, &resource, &attributes))
}

fn block(match_type: &str, attributes: &[(&str, Json)]) -> Json {
    let attributes: Vec<Json> = attributes
        .iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    json!({"match_type": match_type, "attributes": attributes})
}

fn of_kind(kind: i32) -> Span<'static> {
    Span {
        kind,
        ..Span::default()
    }
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const INTERNAL: i32 = 1;

#[test]
fn without_policies_there_is_no_filter() {
    assert!(compile(&json!([]), false).unwrap().0.is_none());
}

#[test]
fn cases_40_and_41_include_and_exclude() {
    let resource = [
        ("location", AnyValue::String(b"earth")),
        ("othervalue", AnyValue::String(b"something-else")),
    ];
    let sample = Sample {
        span: of_kind(SERVER),
        resource: &resource,
        attributes: &[],
    };
    let include = |kind: &str| {
        block(
            "strict",
            &[("kind", json!(kind)), ("resource.location", json!("earth"))],
        )
    };
    let server = include("SPAN_KIND_SERVER");
    assert!(is_accepted(&json!([{"include": server}]), false, sample));
    let client = include("SPAN_KIND_CLIENT");
    assert!(!is_accepted(&json!([{"include": client}]), false, sample));
    let exclude = block("regex", &[("resource.othervalue", json!("something.*"))]);
    let both = json!([{"include": server, "exclude": exclude}]);
    assert!(!is_accepted(&both, false, sample));
}

#[test]
fn cases_42_to_45_include_any() {
    let policies = json!([
        {"include": block("strict", &[("kind", json!("SPAN_KIND_SERVER"))])},
        {"include_any": block("strict", &[
            ("kind", json!("SPAN_KIND_INTERNAL")),
            ("resource.service.name", json!("auth-service")),
        ])},
    ]);
    for (kind, service, accepted) in [
        (INTERNAL, "auth-service", true),
        (INTERNAL, "noisy-service", false),
        (SERVER, "noisy-service", true),
    ] {
        let resource = [("service.name", AnyValue::String(service.as_bytes()))];
        let sample = Sample {
            span: of_kind(kind),
            resource: &resource,
            attributes: &[],
        };
        assert_eq!(
            is_accepted(&policies, false, sample),
            accepted,
            "{kind} {service}"
        );
    }

    let any = |kind: &str| json!({"include_any": block("strict", &[("kind", json!(kind))])});
    let two = json!([any("SPAN_KIND_CONSUMER"), any("SPAN_KIND_CLIENT")]);
    let client = Sample {
        span: of_kind(CLIENT),
        ..Sample::default()
    };
    assert!(is_accepted(&two, false, client));
    assert!(!is_accepted(&json!([any("SPAN_KIND_CONSUMER")]), false, client));

    let policies = json!([
        any("SPAN_KIND_CLIENT"),
        {"exclude": block("strict", &[("resource.env", json!("dev"))])},
    ]);
    for (environment, accepted) in [("dev", false), ("prod", true)] {
        let resource = [("env", AnyValue::String(environment.as_bytes()))];
        let sample = Sample {
            resource: &resource,
            ..client
        };
        assert_eq!(is_accepted(&policies, false, sample), accepted, "{environment}");
    }
}

#[test]
fn every_include_block_must_match() {
    let include = |key: &str| json!({"include": block("strict", &[(key, json!("x"))])});
    let policies = json!([include("span.a"), include("span.b")]);
    let x = AnyValue::String(b"x");
    for (attributes, accepted) in [(&[("a", x), ("b", x)][..], true), (&[("a", x)], false)] {
        let sample = Sample {
            attributes,
            ..Sample::default()
        };
        assert_eq!(is_accepted(&policies, false, sample), accepted);
    }
}

#[test]
fn a_block_without_attributes_matches_everything() {
    let empty = block("strict", &[]);
    for (name, accepted) in [("exclude", false), ("include", true), ("include_any", true)] {
        let policies = json!([{name: empty}]);
        assert_eq!(
            is_accepted(&policies, false, Sample::default()),
            accepted,
            "{name}"
        );
    }
}

#[test]
fn case_46_kinds_and_status_codes_match_by_name() {
    let pattern = json!("SPAN_KIND_(SERVER|CONSUMER|CLIENT|PRODUCER)");
    let policies = json!([{"include": block("regex", &[("kind", pattern)])}]);
    for (kind, accepted) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (4, true),
        (5, true),
        (6, false),
        (-1, false),
    ] {
        let sample = Sample {
            span: of_kind(kind),
            ..Sample::default()
        };
        assert_eq!(is_accepted(&policies, false, sample), accepted, "{kind}");
    }
    // An unknown number is its decimal text to a pattern, and equal to no name.
    for (key, value, number, accepted) in [
        ("kind", "^42$", 42, true),
        ("span:kind", "^-2147483648$", i32::MIN, true),
        ("kind", "^2$", 2, false),
        ("status", "^7$", 7, true),
        ("status", "ERROR$", 2, true),
        ("span:status", "UNSET", 0, true),
    ] {
        let policies = json!([{"include": block("regex", &[(key, json!(value))])}]);
        let span = Span {
            kind: number,
            status_code: number,
            ..Span::default()
        };
        let sample = Sample {
            span,
            ..Sample::default()
        };
        assert_eq!(is_accepted(&policies, false, sample), accepted, "{key} {value}");
    }
    let unset = json!([{"include": block("strict", &[("status", json!("STATUS_CODE_UNSET"))])}]);
    assert!(is_accepted(&unset, false, Sample::default()));
}

#[test]
fn names_are_compared_as_a_whole_or_searched() {
    let span = Span {
        name: b"GET /health",
        ..Span::default()
    };
    let sample = Sample {
        span,
        ..Sample::default()
    };
    for (match_type, value, accepted) in [
        ("strict", "GET /health", true),
        ("strict", "GET", false),
        ("regex", "heal", true),
        ("regex", "^/health", false),
    ] {
        for key in ["name", "span:name"] {
            let policies = json!([{"include": block(match_type, &[(key, json!(value))])}]);
            assert_eq!(
                is_accepted(&policies, false, sample),
                accepted,
                "{match_type} {value}"
            );
        }
    }
}

/// Case 47 and the facts of §0.8 about types, without and with strict types.
#[test]
fn values_of_other_types() {
    let text = AnyValue::String;
    let cases = [
        ("strict", json!(0), text(b"zzz"), true, false),
        ("strict", json!(200), AnyValue::Double(200.0), false, true),
        ("regex", json!("^200$"), AnyValue::Int(200), false, false),
        ("regex", json!("oo"), text(b"foobar"), true, true),
        ("strict", json!(200), AnyValue::Int(200), true, true),
        ("strict", json!(200), AnyValue::Int(201), false, false),
        ("strict", json!(200), text(b"200"), false, false),
        ("strict", json!(0), AnyValue::Double(200.0), true, false),
        ("strict", json!(0), AnyValue::Int(0), true, true),
        ("strict", json!(0), AnyValue::Int(1), false, false),
        ("strict", json!(0), AnyValue::Empty, true, false),
        ("strict", json!(200.0), AnyValue::Double(200.0), true, true),
        ("strict", json!(200.0), AnyValue::Int(200), false, true),
        ("strict", json!(200.5), AnyValue::Int(200), false, false),
        ("strict", json!(0.0), AnyValue::Int(7), true, false),
        ("strict", json!(0.0), AnyValue::Double(-0.0), true, true),
        ("strict", json!(0.0), AnyValue::Double(f64::NAN), false, false),
        ("strict", json!(0.0), text(b""), true, false),
        ("strict", json!(""), AnyValue::Int(7), true, false),
        ("strict", json!(""), AnyValue::Array(&[]), true, false),
        ("strict", json!(""), AnyValue::List(&[]), true, false),
        ("strict", json!(""), AnyValue::Empty, true, false),
        ("strict", json!(""), text(b""), true, true),
        ("strict", json!(""), text(b"x"), false, false),
        ("strict", json!("true"), AnyValue::Bool(true), false, false),
        ("strict", json!(true), AnyValue::Bool(true), true, true),
        ("strict", json!(true), text(b"true"), false, false),
        ("strict", json!(false), AnyValue::Bool(false), true, true),
        ("strict", json!(false), AnyValue::Bool(true), false, false),
        ("strict", json!(false), text(b"true"), true, false),
        ("strict", json!(false), AnyValue::Int(1), true, false),
        ("regex", json!("^$"), AnyValue::Int(200), true, false),
        ("regex", json!(""), AnyValue::Bool(true), true, false),
        ("regex", json!("^$"), text(b""), true, true),
        ("strict", json!(i64::MAX), AnyValue::Int(i64::MAX), true, true),
        (
            "strict",
            json!(i64::MAX),
            AnyValue::Double(9_223_372_036_854_775_808.0),
            false,
            false,
        ),
        (
            "strict",
            json!(i64::MIN),
            AnyValue::Double(-9_223_372_036_854_775_808.0),
            false,
            true,
        ),
        (
            "strict",
            json!(9_007_199_254_740_993_i64),
            AnyValue::Double(9_007_199_254_740_992.0),
            false,
            false,
        ),
        ("strict", json!(1), AnyValue::Double(f64::INFINITY), false, false),
    ];
    for (match_type, value, attribute, loose, strict) in cases {
        let policies = json!([{"include": block(match_type, &[("span.a", value.clone())])}]);
        let attributes = [("a", attribute)];
        let sample = Sample {
            attributes: &attributes,
            ..Sample::default()
        };
        let answers = (
            is_accepted(&policies, false, sample),
            is_accepted(&policies, true, sample),
        );
        assert_eq!(answers, (loose, strict), "{match_type} {value} {attribute:?}");
    }
}

#[test]
fn an_absent_attribute_matches_nothing() {
    for (match_type, value) in [
        ("strict", json!("")),
        ("strict", json!(0)),
        ("strict", json!(false)),
        ("regex", json!("")),
    ] {
        let policies = json!([{"include": block(match_type, &[("span.a", value)])}]);
        assert!(!is_accepted(&policies, false, Sample::default()));
    }
}

#[test]
fn each_scope_is_looked_up_in_its_own_place() {
    let value = [("a b", AnyValue::String(b"x"))];
    let (of_span, of_resource) = (
        Sample {
            attributes: &value,
            ..Sample::default()
        },
        Sample {
            resource: &value,
            ..Sample::default()
        },
    );
    for (key, in_span) in [
        (r#"span."a b""#, true),
        (r#"parent.span."a b""#, true),
        (r#"resource."a b""#, false),
        (r#"parent.resource."a b""#, false),
    ] {
        let policies = json!([{"include": block("strict", &[(key, json!("x"))])}]);
        assert_eq!(is_accepted(&policies, false, of_span), in_span, "{key}");
        assert_eq!(is_accepted(&policies, false, of_resource), !in_span, "{key}");
    }
}

#[test]
fn case_48_errors_name_the_setting() {
    let include = |match_type: &str, key: &str, value: Json| {
        json!([{"exclude": block("strict", &[])}, {
            "include": block(match_type, &[("name", json!("x")), (key, value)]),
        }])
    };
    let key_path = "span_metrics.filter_policies[1].include.attributes[1].key";
    let value_path = "span_metrics.filter_policies[1].include.attributes[1].value";
    let cases = [
        (json!([{}]), "span_metrics.filter_policies[0]"),
        (json!([{"include": null}]), "span_metrics.filter_policies[0]"),
        (include("strict", "", json!("x")), key_path),
        (include("strict", "duration", json!("x")), key_path),
        (include("strict", "event.name", json!("x")), key_path),
        (include("strict", "kind", json!("INVALID_KIND")), value_path),
        (include("strict", "kind", json!("SERVER")), value_path),
        (include("strict", "kind", json!("2")), value_path),
        (include("strict", "kind", json!(2)), value_path),
        (include("strict", "status", json!("OK")), value_path),
        (include("strict", "status", json!(true)), value_path),
        (include("strict", "name", json!(1.5)), value_path),
        (include("regex", "span.a", json!(".*(")), value_path),
        (include("regex", "kind", json!(".*(")), value_path),
        (include("regex", "span.a", json!(200)), value_path),
        (include("regex", "name", json!(true)), value_path),
    ];
    for (policies, path) in cases {
        let error = compile(&policies, false).unwrap_err();
        assert_eq!(error.path, path, "{policies}: {error}");
    }
}

#[test]
fn settings_of_another_form_are_refused() {
    let policies = [
        json!([{"include": block("invalid", &[])}]),
        json!([{"include": block("Strict", &[])}]),
        json!([{"include": block("strict", &[("name", json!(null))])}]),
        json!([{"include": block("strict", &[("name", json!(["x"]))])}]),
        json!([{"include": block("strict", &[("name", json!({"x": 1}))])}]),
        json!([{"include": {"match_type": "strict"}}]),
        json!([{"include": {"attributes": []}}]),
        json!([{"included": block("strict", &[])}]),
        json!([{"include": {"match_type": "strict", "attributes": [{"key": "name"}]}}]),
    ];
    for policies in policies {
        let settings = serde_json::from_value::<Vec<FilterPolicySettings>>(policies.clone());
        assert!(settings.is_err(), "{policies}");
    }
}

#[test]
fn numbers_of_the_document_keep_their_types() {
    let cases = [
        ("200", FilterValue::Int(200)),
        ("-1", FilterValue::Int(-1)),
        ("200.0", FilterValue::Double(200.0)),
        ("2e2", FilterValue::Double(200.0)),
        ("true", FilterValue::Bool(true)),
        ("\"200\"", FilterValue::String("200".to_owned())),
        ("9223372036854775807", FilterValue::Int(i64::MAX)),
        (
            "9223372036854775808",
            FilterValue::Double(9_223_372_036_854_775_808.0),
        ),
    ];
    for (text, value) in cases {
        assert_eq!(
            serde_json::from_str::<FilterValue>(text).unwrap(),
            value,
            "{text}"
        );
    }
}

#[test]
fn only_so_many_different_patterns() {
    let policies = |count: usize| {
        let patterns: Vec<(&str, Json)> = (0..count * 2)
            .map(|index| ("name", json!(format!("x{}", index % count))))
            .collect();
        json!([{"exclude": block("regex", &patterns)}])
    };
    assert!(compile(&policies(MAX_PATTERNS), false).is_ok());
    let error = compile(&policies(MAX_PATTERNS + 1), false).unwrap_err();
    assert_eq!(
        error.path,
        "span_metrics.filter_policies[0].exclude.attributes[64].value"
    );
}

#[test]
fn a_pattern_is_checked_as_it_is_compiled() {
    assert!(check_regex("a.*b").is_ok());
    let error = check_regex(".*(").unwrap_err();
    assert_eq!(
        error.to_string(),
        "value: is not a usable pattern in RE2 syntax: missing )"
    );
}

fn strict_block() -> impl Strategy<Value = FilterBlockSettings> {
    let value = prop_oneof![
        any::<bool>().prop_map(FilterValue::Bool),
        (0..3_i64).prop_map(FilterValue::Int),
        (0..3).prop_map(|number| FilterValue::Double(f64::from(number))),
        "[ab]?".prop_map(FilterValue::String),
    ];
    let attribute = (prop_oneof![Just("span.a"), Just("resource.a")], value);
    blocks_of(MatchType::Strict, attribute)
}

fn regex_block() -> impl Strategy<Value = FilterBlockSettings> {
    let keys = vec!["name", "kind", "status", "span.a", "resource.a"];
    let patterns = vec!["SERVER", "^[ab]$", "O", "[0-9]", ".", ""];
    let value =
        proptest::sample::select(patterns).prop_map(|pattern| FilterValue::String(pattern.to_owned()));
    blocks_of(MatchType::Regex, (proptest::sample::select(keys), value))
}

fn blocks_of(
    match_type: MatchType,
    attribute: impl Strategy<Value = (&'static str, FilterValue)>,
) -> impl Strategy<Value = FilterBlockSettings> {
    let attribute = attribute.prop_map(|(key, value)| FilterAttributeSettings {
        key: key.to_owned(),
        value,
    });
    proptest::collection::vec(attribute, 0..3).prop_map(move |attributes| FilterBlockSettings {
        match_type,
        attributes,
    })
}

fn any_policy() -> impl Strategy<Value = FilterPolicySettings> {
    let block = || proptest::option::of(prop_oneof![strict_block(), regex_block()]);
    (block(), block(), block())
        .prop_map(|(include, include_any, exclude)| FilterPolicySettings {
            include,
            include_any,
            exclude,
        })
        .prop_filter("a policy has a block", |policy| {
            policy.include.is_some() || policy.include_any.is_some() || policy.exclude.is_some()
        })
}

fn any_attribute() -> impl Strategy<Value = AnyValue<'static>> {
    prop_oneof![
        proptest::sample::select(vec![&b""[..], b"a", b"b", b"\xff"]).prop_map(AnyValue::String),
        any::<bool>().prop_map(AnyValue::Bool),
        (0..3_i64).prop_map(AnyValue::Int),
        (0..3).prop_map(|number| AnyValue::Double(f64::from(number))),
        Just(AnyValue::Empty),
    ]
}

proptest! {
    /// The decision follows from which blocks match alone, each of which is asked by itself as an `include`.
    #[test]
    fn policies_decide_by_their_blocks(
        policies in proptest::collection::vec(any_policy(), 0..3),
        name: Vec<u8>, kind in -1..8, status_code in -1..4, strict_types: bool,
        attribute in proptest::option::of(any_attribute()), of_resource in proptest::option::of(any_attribute()),
    ) {
        let span = Span { name: &name, kind, status_code, ..Span::default() };
        let decide = |policies: &[FilterPolicySettings]| {
            let filter = Filter::compile(PATH, policies, strict_types, &mut |_| 0).unwrap();
            filter.is_none_or(|filter| filter.accepts(&span, &[of_resource], &[attribute]))
        };
        let answers = |pick: fn(&FilterPolicySettings) -> Option<&FilterBlockSettings>| {
            let alone = policies.iter().filter_map(pick).map(|block| FilterPolicySettings {
                include: Some(block.clone()),
                ..FilterPolicySettings::default()
            });
            alone.map(|policy| decide(&[policy])).collect::<Vec<bool>>()
        };
        let exclude = answers(|policy| policy.exclude.as_ref());
        let include_any = answers(|policy| policy.include_any.as_ref());
        let include = answers(|policy| policy.include.as_ref());
        let expected = !exclude.contains(&true)
            && (include_any.contains(&true)
                || !include.contains(&false) && (!include.is_empty() || include_any.is_empty()));
        prop_assert_eq!(decide(&policies), expected);
    }
}
