// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What a policy decides, asked without a cluster: `policy can`, `policy test`, `policy diff`, their exit codes, and that
//! each answer names the rule that gives it.

use std::fs;

use crate::common::{Run, dsictl, example};
use serde_json::json;

const SHOP: &str = "outside.xml";
const OPERATORS: &str = "two-operators.xml";

/// The line of an example on which a text stands.
fn line_of(name: &str, text: &str) -> usize {
    let source = fs::read_to_string(example(name)).unwrap();
    source.lines().position(|line| line.contains(text)).unwrap() + 1
}

fn can(policy: &str, question: &[&str]) -> Run {
    let file = example(policy);
    dsictl(&[&["policy", "can", "--policy", &file], question].concat())
}

/// Tests a policy against expectations, and gives the name of their file.
fn test(policy: &str, expectations: &str, json: bool) -> (Run, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.expect");
    fs::write(&file, expectations).unwrap();
    let name = file.display().to_string();
    let mut arguments = vec!["policy", "test", "--policy", policy, &name];
    if json {
        arguments.insert(0, "--json");
    }
    (dsictl(&arguments), name)
}

#[test]
fn what_is_allowed_ends_with_0_and_names_its_rule() {
    let file = example(OPERATORS);
    let line = line_of(OPERATORS, "maintenance-ringbell");
    let rule = format!("network_permission \"maintenance-ringbell\" ({file}:{line})");
    // The same datagrams, whichever end asks, on whatever nodes.
    for question in [
        ["maintenance", "network:send", "ringbell"],
        ["30@7", "network:send", "20@1"],
        ["ringbell", "network:receive", "maintenance"],
    ] {
        let run = can(OPERATORS, &question).ends(0);
        assert!(run.stdout.starts_with("allowed: "), "{run:?}");
        assert!(
            run.stdout.contains(&format!("allowed by {rule}")),
            "{run:?}"
        );
    }
    let run = can(OPERATORS, &["default", "execute", "phonemania"]).ends(0);
    assert!(run.stdout.contains("becomes phonemania"), "{run:?}");
    let run = can(OPERATORS, &["default", "net_admin"]).ends(0);
    assert!(run.stdout.contains("no rule is needed"), "{run:?}");
    can(OPERATORS, &["65535", "host", "ringbell"]).ends(0);
}

#[test]
fn what_is_denied_ends_with_1_and_says_why() {
    let run = can(OPERATORS, &["phonemania@1", "network:send", "ringbell@2"]).ends(1);
    assert!(
        run.stdout
            .starts_with("denied: phonemania@1 network:send ringbell@2\n"),
        "{run:?}"
    );
    assert!(run.stdout.contains("no rule grants it"), "{run:?}");
    let remedy = "<source_ScID>phonemania</source_ScID><source_SnID>1</source_SnID><target_ScID>ringbell</target_ScID>\
                  <target_SnID>2</target_SnID><grant>send</grant>";
    assert!(run.stdout.contains(remedy), "{run:?}");

    let line = line_of(
        OPERATORS,
        "<source_ScID>10</source_ScID><target_ScID>20</target_ScID></socket",
    );
    let run = can(OPERATORS, &["phonemania", "bind", "ringbell"]).ends(1);
    let rule = format!(
        "denied by socket_permission ({}:{line})",
        example(OPERATORS)
    );
    assert!(run.stdout.contains(&rule), "{run:?}");
    assert!(
        !run.stdout.contains("would allow"),
        "deny beats grant: {run:?}"
    );

    can(OPERATORS, &["phonemania", "execute", "ringbell"]).ends(1);
    can(
        OPERATORS,
        &["default", "execute", "phonemania", "--becomes", "ringbell"],
    )
    .ends(1);
    can(OPERATORS, &["phonemania", "net_admin"]).ends(1);
}

#[test]
fn a_permission_of_two_classes_is_answered_for_each() {
    let run = can(OPERATORS, &["phonemania", "send", "phonemania"]).ends(0);
    for class in ["socket:send: allowed", "network:send: allowed"] {
        assert!(run.stdout.contains(class), "{run:?}");
    }
    let run = can(OPERATORS, &["maintenance", "send", "ringbell"]).ends(1);
    for class in ["depends: ", "socket:send: denied", "network:send: allowed"] {
        assert!(run.stdout.contains(class), "{run:?}");
    }
}

#[test]
fn what_is_left_open_is_asked_throughout() {
    let run = can(SHOP, &["outside", "connect", "shop"]).ends(1);
    for case in [
        "depends: outside connect shop\n",
        "outside (any but 198.51.100.0/24) -> shop port 443: allowed by network_permission \"customers\"",
        "outside:198.51.100.0/24 -> shop: denied by network_permission \"banned\"",
    ] {
        assert!(run.stdout.contains(case), "{case}: {run:?}");
    }
    for (from, exit) in [
        ("192.0.2.7", 0),
        ("2001:db8::7", 0),
        ("198.51.100.7", 1),
        ("198.51.100.0/24", 1),
    ] {
        let subject = format!("outside:{from}");
        can(SHOP, &[&subject, "connect", "shop", "--port", "443"]).ends(exit);
    }
    can(
        SHOP,
        &["outside:192.0.2.7", "connect", "shop", "--port", "443-444"],
    )
    .ends(1);

    let found = dsictl(&[
        "--json",
        "policy",
        "can",
        "--policy",
        &example(SHOP),
        "outside",
        "connect",
        "shop",
        "--port",
        "443",
    ])
    .ends(1)
    .json();
    assert_eq!(found["verdict"], "depends");
    let cases = &found["answers"][0]["cases"];
    assert_eq!(
        cases[0]["addresses"],
        json!({ "any_but": ["198.51.100.0/24"] })
    );
    assert_eq!(
        cases[1]["addresses"],
        json!({ "only": ["198.51.100.0/24"] })
    );
    assert_eq!(cases[0]["findings"][0]["rule"]["id"], "customers");
    assert_eq!(
        cases[1]["findings"][0]["rule"]["line"],
        line_of(SHOP, "id=\"banned\"")
    );
}

#[test]
fn hosting_is_asked_before_the_permission() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hosted.xml").display().to_string();
    let rules = "<rules>\n<hosting id=\"home\"><SnID>munster</SnID><ScID>20</ScID></hosting>";
    let text = fs::read_to_string(example(OPERATORS)).unwrap().replacen(
        "<rules>",
        &format!("<nodes><node SnID=\"1\" name=\"munster\"/></nodes>{rules}"),
        1,
    );
    fs::write(&file, text).unwrap();
    let ask =
        |question: &[&str]| dsictl(&[&["policy", "can", "--policy", &file], question].concat());
    let run = ask(&["ringbell@munster", "network:send", "ringbell@9"]).ends(0);
    assert!(
        run.stdout
            .contains("may speak for ringbell by hosting \"home\""),
        "{run:?}"
    );
    let run = ask(&["ringbell@9", "network:send", "ringbell@munster"]).ends(1);
    assert!(
        run.stdout
            .contains("denied: only other nodes may speak for ringbell"),
        "{run:?}"
    );
    let run = ask(&["ringbell", "network:send", "ringbell"]).ends(1);
    assert!(
        run.stdout.contains("ringbell@munster -> ringbell: "),
        "{run:?}"
    );
    ask(&["munster", "host", "ringbell"]).ends(0);
    ask(&["9", "host", "ringbell"]).ends(1);
}

#[test]
fn a_question_that_is_none_ends_with_2_and_says_where() {
    let run = can(
        SHOP,
        &["shopp", "conect", "outside:1.2.3", "--port", "70000"],
    )
    .ends(2);
    assert!(run.stdout.is_empty(), "{run:?}");
    for fault in [
        "did you mean shop?",
        "did you mean connect?",
        "1.2.3 is no IP address",
        "70000 is neither a port",
    ] {
        assert!(run.stderr.contains(fault), "{fault}: {run:?}");
    }
    for (question, fault) in [
        (&["shop", "connect"][..], "the object is missing"),
        (&["1", "connect", "shop"], "ScID 1 is the management's"),
        (&["7", "connect", "shop"], "ScID 7 is not declared"),
        (
            &["outside", "connect", "outside"],
            "one end has to be a zone",
        ),
        (&["outside", "create", "shop"], "cannot be outside"),
        (
            &["outside@1", "connect", "shop"],
            "a node is named for a peer outside",
        ),
        (
            &["shop", "multicast", "shop"],
            "multicast is a permission between a zone and outside",
        ),
        (
            &["shop", "connect", "shop", "--port", "1"],
            "no rule names a port",
        ),
        (
            &["outside", "connect", "shop", "--from-port", "1"],
            "no rule names this port",
        ),
        (&["shop", "signal", "shop@1"], "its own node only"),
        (&["shop", "net_admin", "shop"], "shop has no place here"),
        (&["shop", "sockets:send", "shop"], "did you mean socket?"),
        (
            &["shop", "signal", "shop", "--becomes", "shop"],
            "becomes has no place here",
        ),
    ] {
        let run = can(SHOP, question).ends(2);
        assert!(run.stderr.contains(fault), "{fault}: {run:?}");
    }
    // Nor is there an answer without a policy: 1 says no, and nothing else.
    let missing = dsictl(&[
        "policy",
        "can",
        "--policy",
        "/nonexistent.xml",
        "a",
        "connect",
        "b",
    ])
    .ends(2);
    assert!(missing.stderr.contains("/nonexistent.xml"), "{missing:?}");
    dsictl(&["policy", "can", "a", "connect", "b"]).ends(2);
}

#[test]
fn expectations_that_are_met_end_with_0() {
    let expectations = "\
# Who comes to the door.
allow outside:192.0.2.7 connect shop port 443
deny  outside:198.51.100.0/24 connect shop   # banned
deny  outside connect shop port 444

allow shop@3 network:send outside:192.0.2.53 port 53 from port 1024-65535
allow outside:192.0.2.53 network:send shop from port 53
allow shop network:receive outside:192.0.2.53 port 53
allow default execute shop becomes shop\r
deny  shop load_module
allow 4 host shop
";
    let (run, _) = test(&example(SHOP), expectations, false);
    let run = run.ends(0);
    assert_eq!(
        run.stdout,
        format!("{}: 9 passed, 0 failed\n", example(SHOP))
    );
}

#[test]
fn expectations_that_are_not_met_end_with_1_and_name_the_rule() {
    let expectations = "deny outside:192.0.2.7 connect shop port 443\nallow shop socket:send shop\nallow outside connect shop port 443\nallow shop net_admin\n";
    let (run, file) = test(&example(SHOP), expectations, false);
    let run = run.ends(1);
    let customers = format!(
        "\"customers\" ({}:{})",
        example(SHOP),
        line_of(SHOP, "id=\"customers\"")
    );
    for said in [
        &format!(
            "FAILED {file}:1: deny outside:192.0.2.7 connect shop port 443\n  allowed by network_permission {customers}"
        ),
        &format!("FAILED {file}:3: allow outside connect shop port 443\n  it depends:\n"),
        &format!(
            "FAILED {file}:4: allow shop net_admin\n  denied: no rule grants it\n  this would allow it: <system_permission>"
        ),
        "1 passed, 3 failed\n",
    ] {
        assert!(run.stdout.contains(said), "{said}\nin\n{}", run.stdout);
    }
    let (run, file) = test(&example(SHOP), expectations, true);
    let found = run.ends(1).json();
    assert_eq!((&found["passed"], &found["failed"]), (&json!(1), &json!(3)));
    let first = &found["expectations"][0];
    assert_eq!(first["file"], json!(file));
    assert_eq!(
        (&first["line"], &first["met"], &first["verdict"]),
        (&json!(1), &json!(false), &json!("allowed"))
    );
    assert_eq!(first["cases"][0]["findings"][0]["rule"]["id"], "customers");
}

#[test]
fn all_faults_of_expectations_are_told_and_nothing_is_tested() {
    let expectations = "alow shop socket:send shop\nallow shop send shop\ndeny shop network:sned\n# fine\nallow nobody signal shop\n";
    let (run, file) = test(&example(SHOP), expectations, false);
    let run = run.ends(2);
    assert!(run.stdout.is_empty(), "{run:?}");
    for fault in [
        "did you mean allow?",
        "send is a permission of several classes: socket, network",
        "write socket:send or network:send",
        "did you mean send?",
        "no context is named nobody",
    ] {
        assert!(run.stderr.contains(fault), "{fault}: {}", run.stderr);
    }
    for place in ["1:1", "2:12", "3:19", "5:7"] {
        assert!(
            run.stderr.contains(&format!("{file}:{place}")),
            "{place}: {}",
            run.stderr
        );
    }
    let (run, _) = test(&example(SHOP), expectations, true);
    let error = run.ends(2).error_json();
    assert_eq!(
        (&error["exit"], &error["errors"][1]["line"]),
        (&json!(2), &json!(2))
    );
    // A file that expects nothing would be met by everything.
    let (run, _) = test(&example(SHOP), "# later\n", false);
    assert!(run.ends(2).stderr.contains("the expectation is missing"));
}

#[test]
fn permissive_mode_is_told_beside_the_answer() {
    let run = can(
        "two-operators-permissive.xml",
        &["phonemania", "bind", "ringbell"],
    )
    .ends(1);
    assert!(run.stderr.contains("permissive"), "{run:?}");
    assert!(
        can(OPERATORS, &["phonemania", "bind", "ringbell"])
            .ends(1)
            .stderr
            .is_empty()
    );
}

#[test]
fn an_invalid_policy_has_no_answers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.xml").display().to_string();
    fs::write(&file, "<DSP/>").unwrap();
    dsictl(&["policy", "can", "--policy", &file, "a", "connect", "b"]).ends(4);
    assert_eq!(test(&file, "allow 2 connect 2", false).0.code, 4);
}

/// An example with some of its text replaced, in a file.
fn changed(name: &str, replaced: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("changed.xml").display().to_string();
    let mut text = fs::read_to_string(example(name)).unwrap();
    for (from, to) in replaced {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    fs::write(&file, text).unwrap();
    (directory, file)
}

#[test]
fn policies_that_decide_alike_have_no_difference() {
    let file = example(SHOP);
    let run = dsictl(&["policy", "diff", &file, &file]).ends(0);
    assert_eq!(
        run.stdout,
        format!("no decision differs between {file} and {file}\n")
    );
    // Other text, other rules, the same decisions: one rule in place of two, and a grant that is denied anyway.
    let (_directory, other) = changed(
        SHOP,
        &[
            ("version_label=\"shop\"", "version_label=\"another\""),
            (
                "<port>443</port><grant>connect",
                "<port>443</port><grant>connect</grant></network_permission><network_permission><source_ScID>outside</source_ScID><target_ScID>shop</target_ScID><address>198.51.100.7</address><port>80</port><grant>connect",
            ),
            (
                "<grant>create bind connect listen accept send receive</grant>",
                "<grant>receive send accept listen connect bind create</grant>",
            ),
        ],
    );
    dsictl(&["policy", "diff", &file, &other]).ends(0);
}

#[test]
fn every_decision_that_changes_is_told_with_the_rules_of_both_sides() {
    let (old, new) = (example(OPERATORS), example("two-operators-changed.xml"));
    let run = dsictl(&["policy", "diff", &old, &new]).ends(1);
    let rule = format!(
        "network_permission \"maintenance-ringbell\" ({old}:{})",
        line_of(OPERATORS, "maintenance-ringbell")
    );
    for (source, target) in [("maintenance", "ringbell"), ("ringbell", "maintenance")] {
        let line = format!(
            "- {source} may no longer send datagrams to {target} (network)\n    before: {rule}\n    after:  no rule\n"
        );
        assert!(run.stdout.contains(&line), "{line}\nin\n{}", run.stdout);
    }
    assert!(
        run.stdout
            .ends_with(": 0 allowed, 2 denied, 0 changed otherwise, 0 settings\n"),
        "{run:?}"
    );

    let back = dsictl(&["--json", "policy", "diff", &new, &old])
        .ends(1)
        .json();
    assert_eq!(back["settings"], json!([]));
    assert_eq!(back["changes"].as_array().unwrap().len(), 2);
    let change = &back["changes"][1];
    assert_eq!(
        change["source"],
        json!({ "scid": 30, "name": "maintenance" })
    );
    assert_eq!(change["target"], json!({ "scid": 20, "name": "ringbell" }));
    assert_eq!(
        (&change["permission"], &change["now"]),
        (&json!("send"), &json!("allowed"))
    );
    assert_eq!(
        (&change["before"], &change["after"][0]["id"]),
        (&json!([]), &json!("maintenance-ringbell"))
    );
}

#[test]
fn a_change_is_told_where_it_is_and_nowhere_else() {
    let (_directory, new) = changed(
        SHOP,
        &[
            (
                "<rules>",
                "<nodes><node SnID=\"3\" name=\"till\"/></nodes><rules><hosting><SnID>till</SnID><ScID>shop</ScID></hosting><system_permission><source_ScID>shop</source_ScID><source_SnID>till</source_SnID><grant>bpf net_admin</grant></system_permission>",
            ),
            ("198.51.100.0/24", "198.51.100.0/25"),
            (
                "<protocol>tcp</protocol><port>443",
                "<protocol>tcp</protocol><port>440-443",
            ),
            (
                "<new_ScID>shop</new_ScID></transition>",
                "<new_ScID>default</new_ScID></transition>",
            ),
            ("create bind connect", "create connect"),
        ],
    );
    let run = dsictl(&["policy", "diff", &example(SHOP), &new]).ends(1);
    for line in [
        "+ shop@till may now bpf, net_admin (system)\n",
        "- shop may no longer bind sockets of shop (socket)\n",
        "+ outside:198.51.100.128/25 may now connect to shop port 443 (network)\n",
        "~ sockets of tcp port 440, 441, 442 are now shop's, were their process' (socket_label)\n",
        "~ default that executes a binary of shop now becomes default, became shop (transition)\n",
        "- node any but till may no longer speak for shop (hosting)\n",
        ": 2 allowed, 2 denied, 2 changed otherwise, 0 settings\n",
    ] {
        assert!(run.stdout.contains(line), "{line}\nin\n{}", run.stdout);
    }
}

#[test]
fn the_settings_of_a_policy_are_decisions_too() {
    let (_directory, new) = changed(
        SHOP,
        &[(
            "default=\"deny\"",
            "default=\"allow\" refusal=\"reject\" tcp_labels=\"every-packet\"",
        )],
    );
    let run = dsictl(&["policy", "diff", &example(SHOP), &new]).ends(1);
    for line in [
        "! default is allow, was deny: ",
        "! refusal is reject, was drop\n",
        "! tcp_labels is every-packet, was handshake\n",
        ": 0 allowed, 0 denied, 0 changed otherwise, 3 settings\n",
    ] {
        assert!(run.stdout.contains(line), "{line}\nin\n{}", run.stdout);
    }
    let (old, new) = (example(OPERATORS), example("two-operators-permissive.xml"));
    let found = dsictl(&["--json", "policy", "diff", &old, &new])
        .ends(1)
        .json();
    assert_eq!(
        found["settings"][0],
        json!({ "name": "mode", "before": "enforcing", "after": "permissive" })
    );
    assert_eq!(found["changes"], json!([]));
}

#[test]
fn a_name_that_moved_is_told_with_its_number() {
    let (_directory, new) = changed(
        OPERATORS,
        &[
            (
                "ScID=\"10\" name=\"phonemania\"",
                "ScID=\"10\" name=\"ringbell\"",
            ),
            (
                "ScID=\"20\" name=\"ringbell\"",
                "ScID=\"20\" name=\"phonemania\"",
            ),
            (
                "<target_ScID>10</target_ScID><grant>signal",
                "<target_ScID>10</target_ScID><grant>trace",
            ),
        ],
    );
    let run = dsictl(&["policy", "diff", &example(OPERATORS), &new]).ends(1);
    for line in [
        "- default may no longer signal processes of ringbell (ScID 10, before: phonemania) (process)\n",
        "+ default may now trace processes of ringbell (ScID 10, before: phonemania) (process)\n",
    ] {
        assert!(run.stdout.contains(line), "{line}\nin\n{}", run.stdout);
    }
}

#[test]
fn what_cannot_be_compared_ends_above_1() {
    let file = example(SHOP);
    assert!(
        dsictl(&["policy", "diff", &file, "/nonexistent.xml"])
            .ends(2)
            .stdout
            .is_empty()
    );
    dsictl(&["policy", "diff", "--in-force", &file]).ends(2);
    let (_directory, broken) = changed(SHOP, &[("<rules>", "<rulez>")]);
    dsictl(&["policy", "diff", &file, &broken]).ends(4);
}
