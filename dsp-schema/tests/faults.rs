// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that each fault of a document is told with its code, its line and column, the faulty text and a cure, that
//! all faults come at once, and that the sound twin of each faulty document is accepted.

use dsp_schema::{Faults, parse, report};

/// A document around these contexts and rules; the contexts' line is 3, the rules start at line 7.
fn document(rules: &str) -> String {
    format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\">\n\
         <contexts>\n\
         <context ScID=\"10\" name=\"phonemania\"/><context ScID=\"20\" name=\"ringbell\"/>\n\
         </contexts>\n\
         <nodes><node SnID=\"1\" name=\"munster\"/></nodes>\n\
         <rules>\n\
         {rules}\n\
         </rules>\n\
         </DSP>\n"
    )
}

fn faults(text: &str) -> Faults {
    match parse("policy.xml", text.as_bytes()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(faults) => faults,
    }
}

/// Code, place and faulty text of each fault.
fn summary(faults: &Faults) -> Vec<(&'static str, usize, usize, String)> {
    let source = faults.source();
    faults
        .iter()
        .map(|fault| {
            let at = source.position(fault.span.start);
            (
                fault.kind.code(),
                at.line,
                at.column,
                source.text()[fault.span.clone()].to_owned(),
            )
        })
        .collect()
}

/// Asserts that a document with these rules has exactly this one fault, and returns it as people read it.
#[track_caller]
fn one(rules: &str, code: &str, line: usize, column: usize, text: &str) -> String {
    let faults = faults(&document(rules));
    let found = summary(&faults);
    let [(found_code, found_line, found_column, found_text)] = found.as_slice() else {
        panic!("expected one fault, found {}:\n{faults}", found.len());
    };
    assert_eq!(
        (*found_code, *found_line, *found_column, found_text.as_str()),
        (code, line, column, text),
        "{faults}"
    );
    report::render(&faults, false)
}

#[track_caller]
fn sound(rules: &str) {
    if let Err(faults) = parse("policy.xml", document(rules).as_bytes()) {
        panic!("{faults}");
    }
}

fn transition(parent: &str, binary: &str, new: &str) -> String {
    format!(
        "<transition><parent_ScID>{parent}</parent_ScID><binary_ScID>{binary}</binary_ScID><new_ScID>{new}</new_ScID></transition>"
    )
}

fn network(source: &str, target: &str, rest: &str) -> String {
    format!(
        "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{rest}</network_permission>"
    )
}

fn socket(source: &str, target: &str, rest: &str) -> String {
    format!(
        "<socket_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{rest}</socket_permission>"
    )
}

fn label(protocol: &str, port: &str, new: &str) -> String {
    format!(
        "<socket_label><protocol>{protocol}</protocol><port>{port}</port><new_ScID>{new}</new_ScID></socket_label>"
    )
}

#[test]
fn numbers_names_and_white_space_are_accepted() {
    sound(&transition(" 2 ", "\n\t10\n", "phonemania"));
    sound(&transition(
        "default",
        "<!-- ten -->10",
        "1<!-- and a nought -->0",
    ));
    sound(&network(
        "outside",
        "default",
        "<grant> send\n connect </grant>",
    ));
    sound(
        "<hosting><SnID>munster</SnID><ScID>ringbell</ScID></hosting><hosting><ScID>10</ScID><SnID>7</SnID></hosting>",
    );
    sound(&label("tcp", "1-65535", "10"));
    sound("<!-- nothing -->");
}

#[test]
fn a_syntax_error_is_told_where_it_is() {
    let faults =
        faults("<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\">\n  <rules>\n  </rule>\n</DSP>\n");
    assert_eq!(summary(&faults)[0].0, "syntax");
    assert_eq!(summary(&faults)[0].1, 3);
    assert_eq!(faults.iter().count(), 1);
    let text = report::render(&faults, false);
    assert!(text.contains("policy.xml:3:"), "{text}");
    assert!(text.contains("expected 'rules' tag, not 'rule'"), "{text}");
}

#[test]
fn entities_and_dtds_are_refused() {
    let laughs = "<!DOCTYPE DSP [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><DSP xmlns=\"urn:dsi:dsp:1\">&b;</DSP>";
    assert_eq!(summary(&faults(laughs))[0].0, "syntax");
    let external = "<!DOCTYPE DSP SYSTEM \"file:///etc/passwd\"><DSP xmlns=\"urn:dsi:dsp:1\"/>";
    assert_eq!(summary(&faults(external))[0].0, "syntax");
}

#[test]
fn what_is_no_text_is_refused() {
    assert_eq!(faults("").iter().next().unwrap().kind.code(), "syntax");
    let faults = parse("policy.xml", b"<DSP>\n \xff</DSP>").unwrap_err();
    assert_eq!(faults.iter().next().unwrap().kind.code(), "not-utf8");
    assert!(
        faults
            .to_string()
            .starts_with("policy.xml:2:2: byte 7 is not UTF-8"),
        "{faults}"
    );
}

#[test]
fn another_document_is_refused() {
    assert_eq!(
        summary(&faults("<html/>")),
        [("wrong-root", 1, 2, "html".to_owned())]
    );
    let without = faults("<DSP mode=\"enforcing\"><rules/></DSP>");
    assert_eq!(summary(&without)[0].0, "wrong-root");
    assert!(
        without
            .to_string()
            .contains("write <DSP xmlns=\"urn:dsi:dsp:1\""),
        "{without}"
    );
    assert_eq!(
        summary(&faults("<DSP xmlns=\"urn:dsi:dsp:2\"><rules/></DSP>"))[0].0,
        "wrong-root"
    );
}

#[test]
fn an_unknown_element_is_told_with_the_one_that_was_meant() {
    let text = one("<transiton/>", "unknown-element", 7, 2, "transiton");
    assert!(
        text.contains("unknown element <transiton> in <rules>"),
        "{text}"
    );
    assert!(text.contains("did you mean <transition>?"), "{text}");
    assert!(text.contains("^^^^^^^^^"), "{text}");
    let text = one("<firewall/>", "unknown-element", 7, 2, "firewall");
    assert!(
        text.contains("known here: <socket_label>, <socket_permission>"),
        "{text}"
    );
    let rule = transition("2", "10", "10").replace("</transition>", "<port>1</port></transition>");
    one(
        &rule,
        "unknown-element",
        7,
        rule.find("<port>").unwrap() + 2,
        "port",
    );
    let nested = transition("2", "<b>10</b>", "10");
    one(
        &nested,
        "unknown-element",
        7,
        nested.find("<b>").unwrap() + 2,
        "b",
    );
    one(
        "<x:transition xmlns:x=\"urn:x\"/>",
        "wrong-namespace",
        7,
        2,
        "x:transition",
    );
}

#[test]
fn an_unknown_attribute_is_told_with_the_one_that_was_meant() {
    let rule = transition("2", "10", "10");
    let text = one(
        &rule.replace("<transition>", "<transition coment=\"x\">"),
        "unknown-attribute",
        7,
        13,
        "coment",
    );
    assert!(text.contains("did you mean comment?"), "{text}");
    sound(&rule.replace("<transition>", "<transition id=\"shell\" comment=\"x\">"));
    one(
        &rule.replace("<transition>", "<transition id=\"1\">"),
        "bad-name",
        7,
        17,
        "1",
    );
}

#[test]
fn a_scid_out_of_range_is_told() {
    let at = transition("2", "", "").find("binary").unwrap() + 13;
    let text = one(
        &transition("2", "4294967296", "10"),
        "out-of-range",
        7,
        at,
        "4294967296",
    );
    assert!(
        text.contains("a policy's ScIDs go from 2 to 4294967294"),
        "{text}"
    );
    one(
        &transition("2", " 4294967295 ", "10"),
        "out-of-range",
        7,
        at + 1,
        "4294967295",
    );
    one(
        &transition("2", "99999999999999999999999999", "10"),
        "out-of-range",
        7,
        at,
        "99999999999999999999999999",
    );
    let text = one(&transition("2", "1", "10"), "reserved-ScID", 7, at, "1");
    assert!(text.contains("management's"), "{text}");
    one(&transition("2", "0", "10"), "reserved-ScID", 7, at, "0");
    one(&transition("2", "-10", "10"), "bad-number", 7, at, "-10");
    one(&transition("2", "010", "10"), "bad-number", 7, at, "010");
    one(&transition("2", "1 0", "10"), "bad-id", 7, at, "1 0");
    one(
        &transition("2", "", "10"),
        "empty",
        7,
        at - 12,
        "binary_ScID",
    );
}

#[test]
fn a_snid_out_of_range_is_told() {
    let hosting = |snid| format!("<hosting><SnID>{snid}</SnID><ScID>10</ScID></hosting>");
    for (snid, code) in [
        ("0", "out-of-range"),
        ("65536", "out-of-range"),
        ("colby", "unknown-name"),
    ] {
        one(&hosting(snid), code, 7, 16, snid);
    }
    assert!(
        one(&hosting("munter"), "unknown-name", 7, 16, "munter").contains("did you mean munster?")
    );
    sound(&hosting("65535"));
}

#[test]
fn a_transition_to_an_undeclared_scid_is_told() {
    let rule = transition("2", "10", "11");
    let at = rule.find("<new_ScID>").unwrap() + 11;
    let text = one(&rule, "undeclared-ScID", 7, at, "11");
    assert!(
        text.contains("<context ScID=\"11\" name=\"...\"/>"),
        "{text}"
    );
    let text = one(
        &transition("2", "10", "phonemanja"),
        "unknown-name",
        7,
        at,
        "phonemanja",
    );
    assert!(text.contains("did you mean phonemania?"), "{text}");
    sound(&transition("2", "10", "20"));
}

#[test]
fn a_missing_or_doubled_value_is_told() {
    let text = one(
        "<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID></transition>",
        "missing-element",
        7,
        2,
        "transition",
    );
    assert!(text.contains("<transition> has no <new_ScID>"), "{text}");
    let doubled = transition("2", "10", "10")
        .replace("<new_ScID>", "<parent_ScID>10</parent_ScID><new_ScID>");
    let text = one(
        &doubled,
        "repeated-element",
        7,
        doubled.rfind("<parent_ScID>").unwrap() + 2,
        "parent_ScID",
    );
    assert!(text.contains("the first one"), "{text}");
    one(
        &format!("oops {}", transition("2", "10", "10")),
        "stray-text",
        7,
        1,
        "oops",
    );
}

#[test]
fn a_wrong_word_is_told_with_the_one_that_was_meant() {
    let rule = socket("10", "10", "<grant>create bnd</grant>");
    let text = one(&rule, "bad-word", 7, rule.find("bnd").unwrap() + 1, "bnd");
    assert!(text.contains("did you mean bind?"), "{text}");
    let rule = network("10", "10", "<deny>bind</deny>");
    let text = one(&rule, "bad-word", 7, rule.find("bind").unwrap() + 1, "bind");
    assert!(text.contains("bind is no network permission"), "{text}");
    let rule = label("icmp", "1", "10");
    one(&rule, "bad-word", 7, rule.find("icmp").unwrap() + 1, "icmp");
    let rule = network("10", "10", "<grant/>");
    one(&rule, "empty", 7, rule.find("grant").unwrap() + 1, "grant");
}

#[test]
fn a_wrong_port_is_told() {
    let at = label("udp", "", "").find("<port>").unwrap() + 7;
    for port in ["0", "65536", "80-", "-80", "80-0", "http", "1-2-3", "08"] {
        one(&label("udp", port, "10"), "bad-port", 7, at, port);
    }
    let text = one(
        &label("udp", "90-80", "10"),
        "ports-reversed",
        7,
        at,
        "90-80",
    );
    assert!(text.contains("write 80-90"), "{text}");
}

#[test]
fn outside_is_for_the_network_only() {
    let rule = socket("outside", "10", "<grant>send</grant>");
    one(
        &rule,
        "outside-not-allowed",
        7,
        rule.find("outside").unwrap() + 1,
        "outside",
    );
    let rule = network(
        "outside",
        "10",
        "<source_SnID>1</source_SnID><grant>send</grant>",
    );
    let place =
        |source, target, rest: &str| network(source, target, &format!("{rest}<grant>send</grant>"));
    for (address, code, cure) in [
        ("192.0.2.256", "bad-address", "write an address like"),
        ("192.0.2.0/33", "bad-address", "write an address like"),
        ("192.0.2.0/024", "bad-address", "write an address like"),
        ("192.0.2.0/", "bad-address", "write an address like"),
        ("192.0.2/24", "bad-address", "write an address like"),
        ("2001:db8::/129", "bad-address", "write an address like"),
        ("fe80::1%eth0", "bad-address", "write an address like"),
        ("munster", "bad-address", "write an address like"),
        ("::ffff:192.0.2.1", "bad-address", "write 192.0.2.1"),
        ("::ffff:192.0.2.0/120", "bad-address", "write 192.0.2.0/24"),
        ("192.0.2.1/24", "host-bits", "write 192.0.2.0/24 for"),
        ("2001:db8::1/64", "host-bits", "write 2001:db8::/64 for"),
        ("10.0.0.0/0", "host-bits", "write 0.0.0.0/0 for"),
    ] {
        let rule = place("10", "outside", &format!("<address>{address}</address>"));
        let told = one(&rule, code, 7, rule.find(address).unwrap() + 1, address);
        assert!(told.contains(cure), "{told}");
    }
    for (port, code, cure) in [
        ("0", "bad-port", "from 1 to 65535"),
        ("65536", "bad-port", "from 1 to 65535"),
        ("1-65536", "bad-port", "from 1 to 65535"),
        ("https", "bad-port", "from 1 to 65535"),
        ("8899-8800", "ports-reversed", "write 8800-8899"),
    ] {
        let rule = place("outside", "10", &format!("<port>{port}</port>"));
        let told = one(&rule, code, 7, rule.find("<port>").unwrap() + 7, port);
        assert!(told.contains(cure), "{told}");
    }
    for (source, target) in [("10", "10"), ("outside", "outside")] {
        for (element, value) in [("port", "53"), ("address", "192.0.2.7")] {
            let rule = place(source, target, &format!("<{element}>{value}</{element}>"));
            let at = rule.find(&format!("{element}>")).unwrap() + 1;
            one(&rule, "place-inside", 7, at, element);
        }
    }
    sound(&place(
        "10",
        "outside",
        "<address>192.0.2.0/24</address><port>53</port>",
    ));
    sound(&place("outside", "10", "<address>2001:db8::/32</address>"));
    sound(&place(
        "outside",
        "10",
        "<address>::/0</address><port>1-1024</port>",
    ));
    one(
        &rule,
        "node-outside",
        7,
        rule.find("<source_SnID>").unwrap() + 2,
        "source_SnID",
    );
    sound(&network(
        "outside",
        "10",
        "<target_SnID>1</target_SnID><grant>send</grant>",
    ));
}

#[test]
fn contradictory_permissions_are_told_with_both_places() {
    let grant = network("10", "20", "<grant>send connect</grant>");
    let deny = network("phonemania", "ringbell", "<deny>receive send</deny>");
    let text = one(
        &format!("{grant}\n{deny}"),
        "grant-and-deny",
        8,
        2,
        "network_permission",
    );
    assert!(text.contains("send is granted and denied"), "{text}");
    assert!(
        text.contains("policy.xml:8:2") && text.contains("policy.xml:7:2"),
        "{text}"
    );
    // Another tuple, node or permission is no contradiction.
    sound(&format!(
        "{grant}{}",
        network("20", "10", "<deny>send</deny>")
    ));
    sound(&format!(
        "{grant}{}",
        network("10", "20", "<source_SnID>1</source_SnID><deny>send</deny>")
    ));
    sound(&format!(
        "{grant}{}",
        network("10", "20", "<deny>receive</deny>")
    ));
    sound(&format!("{grant}{grant}"));
    // Nor is an exception for a part of the outside; for the same part it is.
    let there = |place: &str, list: &str| network("10", "outside", &format!("{place}{list}"));
    let (grant, deny) = ("<grant>send</grant>", "<deny>send</deny>");
    let (port, address) = ("<port>53</port>", "<address>192.0.2.0/24</address>");
    sound(&(there("", grant) + &there(port, deny) + &there(address, deny)));
    sound(&(there(port, grant) + &there("<port>50-60</port>", deny)));
    for place in [port, address] {
        let rules = format!("{}\n{}", there(place, grant), there(place, deny));
        one(&rules, "grant-and-deny", 8, 2, "network_permission");
    }

    let both = socket("10", "10", "<grant>bind send</grant><deny>bind</deny>");
    one(&both, "grant-and-deny", 7, 2, "socket_permission");
    sound(&socket(
        "10",
        "10",
        "<grant>bind send</grant><deny>receive</deny>",
    ));

    let empty = socket("10", "20", "");
    let text = one(
        &format!("{empty}\n{}", socket("10", "20", "<grant>send</grant>")),
        "grant-and-deny",
        8,
        2,
        "socket_permission",
    );
    assert!(text.contains("no permission at all"), "{text}");
    sound(&format!("{empty}{}", socket("20", "10", "")));
}

#[test]
fn contradictory_process_and_system_permissions_are_told_with_both_places() {
    let process = |target: &str, rest: &str| {
        format!(
            "<process_permission><source_ScID>10</source_ScID><target_ScID>{target}</target_ScID>{rest}\
             </process_permission>"
        )
    };
    let system = |source: &str, rest: &str| {
        format!("<system_permission><source_ScID>{source}</source_ScID>{rest}</system_permission>")
    };
    let (granted, denied) = ("<grant>signal trace</grant>", "<deny>trace use_fd</deny>");
    let text = one(
        &format!(
            "{}\n{}",
            process("20", granted),
            process("ringbell", denied)
        ),
        "grant-and-deny",
        8,
        2,
        "process_permission",
    );
    assert!(text.contains("trace is granted and denied"), "{text}");
    assert!(text.contains("policy.xml:7:2"), "{text}");
    sound(&format!(
        "{}{}",
        process("20", granted),
        process("2", denied)
    ));

    let text = one(
        &format!(
            "{}\n{}",
            system("10", "<grant>bpf</grant>"),
            system("10", "")
        ),
        "grant-and-deny",
        8,
        2,
        "system_permission",
    );
    assert!(text.contains("bpf is granted and denied"), "{text}");
    assert!(text.contains("no permission at all"), "{text}");
    sound(&format!(
        "{}{}",
        system("10", "<grant>bpf</grant><deny>boot</deny>"),
        system("default", "")
    ));
    let text = one(
        &system("10", "<grant>load_modules</grant>"),
        "bad-word",
        7,
        56,
        "load_modules",
    );
    assert!(text.contains("did you mean load_module?"), "{text}");
}

#[test]
fn contradictory_transitions_are_told_with_both_places() {
    let rules = format!(
        "{}\n{}",
        transition("2", "10", "10"),
        transition("default", "10", "20")
    );
    let text = one(&rules, "two-transitions", 8, 2, "transition");
    assert!(text.contains("becomes 20 here and 10 elsewhere"), "{text}");
    assert!(text.contains("policy.xml:7:2"), "{text}");
    sound(&format!(
        "{}\n{}",
        transition("2", "10", "10"),
        transition("2", "20", "20")
    ));
    sound(&format!(
        "{}\n{}",
        transition("2", "10", "10"),
        transition("2", "10", "10")
    ));
}

#[test]
fn contradictory_labels_are_told_with_both_places() {
    let rules = format!(
        "{}\n{}",
        label("udp", "8800", "10"),
        label("udp", "8000-8900", "20")
    );
    let text = one(&rules, "two-labels", 8, 2, "socket_label");
    assert!(
        text.contains("udp port 8800 get ScID 20 here and 10 elsewhere"),
        "{text}"
    );
    sound(&format!(
        "{}{}",
        label("udp", "8800", "10"),
        label("tcp", "8800", "20")
    ));
    sound(&format!(
        "{}{}",
        label("udp", "8800-8810", "10"),
        label("udp", "8805-8820", "10")
    ));
    sound(&format!(
        "{}{}",
        label("udp", "8800-8810", "10"),
        label("udp", "8811-8820", "20")
    ));
    // The contradicting range lies behind a long one and a short one of other ScIDs.
    let rules = format!(
        "{}\n{}\n{}",
        label("udp", "1-100", "10"),
        label("udp", "200-300", "20"),
        label("udp", "50-60", "20")
    );
    one(&rules, "two-labels", 9, 2, "socket_label");
}

#[test]
fn declarations_are_checked() {
    let with = |contexts: &str| {
        format!(
            "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"permissive\">\n<contexts>{contexts}</contexts><rules/></DSP>"
        )
    };
    let code = |contexts: &str| summary(&faults(&with(contexts)))[0].0;
    assert_eq!(code("<context ScID=\"1\" name=\"a\"/>"), "reserved-ScID");
    assert_eq!(
        code("<context ScID=\"4294967295\" name=\"a\"/>"),
        "out-of-range"
    );
    assert_eq!(code("<context ScID=\"ten\" name=\"a\"/>"), "bad-id");
    assert_eq!(code("<context ScID=\"10\" name=\"10\"/>"), "bad-name");
    assert_eq!(
        code("<context ScID=\"10\" name=\"outside\"/>"),
        "reserved-name"
    );
    assert_eq!(code("<context ScID=\"10\"/>"), "missing-attribute");
    assert_eq!(
        code("<context ScID=\"10\" name=\"a\"/><context ScID=\"10\" name=\"b\"/>"),
        "redeclared"
    );
    assert_eq!(
        code("<context ScID=\"10\" name=\"a\"/><context ScID=\"11\" name=\"a\"/>"),
        "redeclared"
    );
    assert_eq!(code("<node SnID=\"1\" name=\"a\"/>"), "unknown-element");
    parse(
        "policy.xml",
        with("<context ScID=\" 2 \" name=\"system\"/>").as_bytes(),
    )
    .unwrap();
}

#[test]
fn mode_and_sections_are_checked() {
    let code = |text: &str| summary(&faults(text))[0].0;
    assert_eq!(
        code("<DSP xmlns=\"urn:dsi:dsp:1\"><rules/></DSP>"),
        "missing-attribute"
    );
    assert_eq!(
        code("<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforce\"><rules/></DSP>"),
        "bad-word"
    );
    assert_eq!(
        code("<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"no\"><rules/></DSP>"),
        "bad-word"
    );
    assert_eq!(
        code("<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"/>"),
        "missing-element"
    );
    assert_eq!(
        code("<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><rules/><rules/></DSP>"),
        "repeated-element"
    );
    let dsp = parse(
        "p",
        b"<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"allow\"><rules/></DSP>",
    )
    .unwrap();
    assert!(dsp.default_allow);
    let dsp = parse(
        "p",
        b"<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><rules/></DSP>",
    )
    .unwrap();
    assert!(!dsp.default_allow);
}

#[test]
fn all_faults_come_at_once_in_the_order_of_their_places() {
    let rules = format!(
        "{}\n<transiton/>\n{}\n{}",
        transition("2", "0", "11"),
        label("udp", "0", "10"),
        network("10", "20", "<grant>snd</grant>")
    );
    let faults = faults(&document(&rules));
    let found: Vec<_> = summary(&faults)
        .into_iter()
        .map(|(code, line, ..)| (code, line))
        .collect();
    assert_eq!(
        found,
        [
            ("reserved-ScID", 7),
            ("undeclared-ScID", 7),
            ("unknown-element", 8),
            ("bad-port", 9),
            ("bad-word", 10)
        ]
    );
    assert!(report::render(&faults, false).ends_with("policy.xml: 5 errors\n"));
}

#[test]
fn many_faults_are_counted_beyond_a_hundred() {
    let faults = faults(&document(&"<x/>\n".repeat(1000)));
    assert_eq!((faults.iter().count(), faults.omitted()), (100, 900));
    assert!(
        report::render(&faults, false).ends_with("policy.xml: 1000 errors, the first 100 shown\n")
    );
}

#[test]
fn a_hundred_thousand_nested_elements_are_an_error_and_no_crash() {
    let deep = document(&("<transition>".repeat(100_000) + &"</transition>".repeat(100_000)));
    assert_eq!(
        summary(&faults(&deep))[0],
        ("missing-element", 7, 2, "transition".to_owned())
    );
}

#[test]
fn a_report_underlines_the_faulty_text() {
    let text = one("<transiton/>", "unknown-element", 7, 2, "transiton");
    let expected = "\
error[unknown-element]: unknown element <transiton> in <rules>
 --> policy.xml:7:2
  |
7 | <transiton/>
  |  ^^^^^^^^^
  |
help: did you mean <transition>?

policy.xml: 1 error
";
    assert_eq!(text, expected);
}

#[test]
fn faults_serialize_for_scripts() {
    let grant = network("10", "20", "<grant>send</grant>");
    let deny = network("10", "20", "<deny>send</deny>");
    let json = serde_json::to_value(faults(&document(&format!("{grant}\n{deny}")))).unwrap();
    assert_eq!(json["file"], "policy.xml");
    let error = &json["errors"][0];
    assert_eq!(
        (&error["code"], &error["line"], &error["column"]),
        (&"grant-and-deny".into(), &8.into(), &2.into())
    );
    assert_eq!(error["end_column"], 2 + "network_permission".len());
    assert_eq!(
        (&error["related"][0]["line"], &error["related"][0]["note"]),
        (&7.into(), &"the other rule".into())
    );
    assert!(
        error["help"]
            .as_str()
            .unwrap()
            .contains("take the permission out")
    );
    assert_eq!(json["omitted"], 0);
}
