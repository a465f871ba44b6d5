//! Checks that each regular expression in CEL and its twin in Rust agree on any text. The table in `tests/it/api`
//! checks fewer texts against a real API server.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use regex::Regex;

use super::rules::{self, Rule};
use super::{address, syntax};

/// Returns a predicate that evaluates the `self.matches(…)` calls of a rule, joined by `&&` or by `||`. The caller
/// handles the other conditions.
fn cel_matcher(rule: Rule) -> impl Fn(&str) -> bool {
    let any = rule.expression.contains("||");
    let patterns: Vec<(bool, Regex)> = rule
        .expression
        .match_indices("self.matches(")
        .map(|(at, call)| {
            let wanted = !rule.expression[..at].ends_with('!');
            let rest = &rule.expression[at + call.len()..];
            let quote = rest.chars().next().unwrap();
            let pattern = rest[1..].split_once(&format!("{quote})")).unwrap().0;
            // RE2 reads a bracket in a class literally, this crate as the start of a nested class.
            let pattern = pattern
                .replace("[[](", r"\[(")
                .replace("[[]:", r"\[:")
                .replace("[]]", r"\]");
            (wanted, Regex::new(&pattern).unwrap())
        })
        .collect();
    move |text| {
        let mut kept = patterns
            .iter()
            .map(|(wanted, pattern)| pattern.is_match(text) == *wanted);
        if any {
            kept.any(|kept| kept)
        } else {
            kept.all(|kept| kept)
        }
    }
}

#[test]
fn dates_agree_with_the_calendar() {
    let start = cel_matcher(rules::START);
    for year in 1960..=2110 {
        for month in 0..=13 {
            for day in 0..=32 {
                let text = format!("{year}-{month:02}-{day:02}");
                assert_eq!(start(&text), syntax::parse_date(&text).is_some(), "{text}");
            }
        }
    }
    for rule in [rules::END, rules::GAP_DATE, rules::UNSIGNED_BEFORE] {
        assert_eq!(rule.expression, rules::START.expression);
    }
}

/// Asserts that the expressions of the rule and the twin in Rust agree on generated texts.
fn assert_agree(texts: impl Strategy<Value = String>, rule: Rule, twin: impl Fn(&str) -> bool) {
    let kept = cel_matcher(rule);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(4096));
    let run = runner.run(&texts, |text| {
        prop_assert_eq!(kept(&text), twin(&text), "{}", text);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn addresses_agree_with_cel() {
    let texts = prop_oneof![
        r"https?://[a-c0-9A._-]{0,12}(:[0-9]{0,6})?(/[ -~]{0,6})?",
        r"https?://\[[0-9a-f:.]{0,24}\](:[0-9]{1,5})?/?",
        r"https?://\[([0-9a-fA-F]{1,4}:){0,8}:?([0-9a-f]{1,5}:?){0,7}\]",
        r"https://[0-9]{1,3}(\.[0-9]{1,3}){2,4}",
        r"http://(localhost|127\.0\.0\.1|\[::1\])[ -~]{0,5}",
        r"\PC{0,12}",
    ];
    assert_agree(texts, rules::URL, |text| address::parse_url(text).is_some());
}

#[test]
fn spaces_agree_with_cel() {
    // CEL compares `.` and `..` outside of the expression.
    let texts =
        prop_oneof!["[ -~]{1,6}", r"\PC{0,6}"].prop_filter("named", |text| text != "." && text != "..");
    assert_agree(texts, rules::SPACE, syntax::is_space_id);
}

#[test]
fn prefixes_agree_with_cel() {
    let texts = || {
        prop_oneof![
            "[ -~]{1,6}",
            r"\PC{0,6}",
            "[._/a]{1,8}",
            "[a/]{0,2}(space|scope|date)=?[a/]{0,2}"
        ]
    };
    assert_agree(texts(), rules::PREFIX_COMPONENTS, |text| {
        text.split('/').all(syntax::is_prefix_component)
    });
    assert_agree(texts(), rules::PREFIX_RESERVED, |text| {
        !text.split('/').any(syntax::is_reserved)
    });
}

#[test]
fn buckets_agree_with_cel() {
    let texts = prop_oneof!["[ -~]{3,6}", "[a1.-]{3,8}", r"[0-9]{1,2}(\.[0-9]{1,3}){2,4}"];
    // CEL checks these pairs outside of the expression.
    let pairs = |text: &String| ["..", ".-", "-."].iter().any(|pair| text.contains(pair));
    assert_agree(
        texts.prop_filter("named", move |text| !pairs(text)),
        rules::BUCKET,
        syntax::is_bucket_name,
    );
}

#[test]
fn names_agree_with_cel() {
    assert_agree(
        prop_oneof!["[ -~]{1,6}", "[a1.-]{1,8}"],
        rules::SECRET_NAME,
        syntax::is_subdomain,
    );
    assert_eq!(
        rules::SERVICE_ACCOUNT_NAME.expression,
        rules::SECRET_NAME.expression
    );
    assert_agree(
        prop_oneof!["[ -~]{1,4}", "[A1_-]{1,4}"],
        rules::S3_REGION,
        syntax::is_s3_region,
    );
}

#[test]
fn durations_agree_with_cel() {
    let texts = prop_oneof!["([0-9]{1,6}(h|m|s|ms)){1,5}", "[0-9hms.]{1,8}"];
    assert_agree(texts, rules::SETTLE_AFTER, |text| {
        super::parse_duration(text).is_some()
    });
}

#[test]
fn reasons_agree_with_cel() {
    let texts = prop_oneof!["[ \t\r\n\u{b}\u{c}\u{a0}a\u{1}\u{7f}]{1,3}", r"\PC{0,3}"];
    assert_agree(texts, rules::GAP_REASON, syntax::is_gap_reason);
}

#[test]
fn heads_agree_with_cel() {
    let texts = prop_oneof![
        "[0-9]{0,9}:[0-9a-g]{63,65}",
        "[1-9][0-9]{0,7}:[0-9a-f]{64}",
        "[ -~]{0,12}"
    ];
    assert_agree(texts, rules::HEAD, syntax::is_head);
}
