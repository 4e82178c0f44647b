//! The documents name tests as proofs. This looks that each test which they name is there, and that each row of
//! docs/enforcement.md which says what is refused names a test of the refusal and one of its allowed twin.

use super::{ALL, LONG};
use std::path::Path;

/// The documents that name tests.
const DOCUMENTS: [&str; 2] = ["docs/enforcement.md", "docs/threat-model.md"];
/// Heading of the columns in which each row must name a test of either kind.
const TWINS: &str = "tests (refused / allowed)";
/// What a test's name has that shows a refusal.
const REFUSALS: [&str; 3] = ["denied", "refused", "aborted"];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The whole names of all tests.
fn tests() -> Vec<String> {
    [ALL, LONG]
        .concat()
        .iter()
        .flat_map(|suite| {
            let name = |test: &crate::suite::Test| format!("{}/{}", suite.name, test.name);
            suite.tests.iter().map(name).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a name is what a pattern says, whose stars stand for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|name| {
            (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
        }),
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_suite(name: &str) -> bool {
    [ALL, LONG].concat().iter().any(|suite| suite.name == name)
}

/// Patterns of tests in a text: `suite/pattern`, and suites that are called so.
fn patterns(text: &str) -> Vec<String> {
    let suites = text.split("uite `").skip(1);
    let suites = suites.filter_map(|rest| rest.split('`').next().map(|name| format!("{name}/*")));
    let also = text.split("uites ").skip(1).flat_map(|rest| {
        let list = rest
            .split(['|', ';', ':', '.', ')'])
            .next()
            .unwrap_or_default();
        quoted(list)
            .filter(|name| is_suite(name))
            .map(|name| format!("{name}/*"))
    });
    let named = quoted(text).filter(|name| {
        name.split_once('/').is_some_and(|(suite, test)| {
            is_suite(suite) && !test.contains('/') && !test.contains('.')
        })
    });
    suites.chain(also).chain(named.map(str::to_owned)).collect()
}

#[test]
fn documents_name_tests_that_exist() {
    let tests = tests();
    let mut missing = Vec::new();
    for name in DOCUMENTS {
        let text = document(name);
        let named = patterns(&text);
        assert!(named.len() > 20, "{name} names {} tests", named.len());
        for pattern in named {
            if !tests.iter().any(|test| matches(&pattern, test)) {
                missing.push(format!("{name}: {pattern}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

#[test]
fn each_row_names_a_refusal_and_its_twin() {
    let tests = tests();
    let text = document("docs/enforcement.md");
    let (mut faults, mut rows, mut twins) = (Vec::new(), 0, false);
    for line in text.lines() {
        if !line.starts_with('|') {
            twins = false;
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let last = cells.last().copied().unwrap_or_default();
        if last == TWINS || last.starts_with("---") {
            twins |= last == TWINS;
            continue;
        }
        if !twins {
            continue;
        }
        rows += 1;
        let patterns = patterns(last);
        if let Some(short) =
            quoted(last).find(|name| !is_suite(name) && !patterns.iter().any(|p| p == name))
        {
            faults.push(format!("{}: '{short}' is no whole name", cells[0]));
        }
        let names: Vec<&String> = tests
            .iter()
            .filter(|test| patterns.iter().any(|pattern| matches(pattern, test)))
            .collect();
        let refuses = |name: &&&String| REFUSALS.iter().any(|word| name.contains(word));
        if !names.iter().any(|name| refuses(&name)) {
            faults.push(format!("{}: no test of a refusal", cells[0]));
        }
        if !names.iter().any(|name| name.ends_with("-ok")) {
            faults.push(format!("{}: no test of what is allowed", cells[0]));
        }
    }
    assert!(rows > 50, "{rows} rows");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn stars_stand_for_anything() {
    assert!(matches("a/*-ok", "a/b-c-ok"));
    assert!(matches("a/*", "a/b"));
    assert!(matches("a/b-*-c-*", "a/b-x-c-y"));
    assert!(!matches("a/*-ok", "a/b-denied"));
    assert!(!matches("a/b", "a/bc"));
}
