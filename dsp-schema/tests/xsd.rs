// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that the parser and the normative XML schema agree on the shape of documents, with a foreign validator
//! (xmllint) as the judge: what the parser accepts the schema accepts, what the schema refuses the parser refuses.
//! Without xmllint only the parser's half is shown, and the test says so.

use dsp_schema::parse;
use std::io::Write;
use std::process::{Command, Stdio};

/// Faults that a schema cannot see: they are about what is declared, or about two rules.
const BEYOND_A_SCHEMA: &[&str] = &[
    "undeclared-ScID",
    "unknown-name",
    "outside-not-allowed",
    "node-outside",
    "reserved-name",
    "bad-address",
    "host-bits",
    "place-inside",
    "ports-reversed",
    "grant-and-deny",
    "two-transitions",
    "two-labels",
];

/// Whether the schema accepts a document; `None` without xmllint.
fn schema_accepts(text: &str) -> Option<bool> {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/dsp.xsd");
    let mut child = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema", schema, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    match child.wait().ok()?.code() {
        Some(0) => Some(true),
        // 1: not well-formed, 3: not valid. Anything else is the validator's or the schema's own fault.
        Some(1 | 3) => Some(false),
        other => panic!("xmllint ended with {other:?}"),
    }
}

fn document(rules: &str) -> String {
    format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><contexts><context ScID=\"10\" name=\"a\"/></contexts>\
         <nodes><node SnID=\"1\" name=\"munster\"/></nodes><rules>{rules}</rules></DSP>"
    )
}

fn documents() -> Vec<String> {
    let transition = "<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>";
    let network = |rest: &str| {
        format!(
            "<network_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>{rest}</network_permission>"
        )
    };
    let socket = |rest: &str| {
        format!(
            "<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>{rest}</socket_permission>"
        )
    };
    let process = |rest: &str| {
        format!(
            "<process_permission><source_ScID>10</source_ScID><target_ScID>2</target_ScID>{rest}</process_permission>"
        )
    };
    let system = |rest: &str| {
        format!("<system_permission><source_ScID>10</source_ScID>{rest}</system_permission>")
    };
    let label = |protocol: &str, port: &str| {
        format!(
            "<socket_label><protocol>{protocol}</protocol><port>{port}</port><new_ScID>10</new_ScID></socket_label>"
        )
    };
    let mut rules = vec![
        String::new(),
        "text".into(),
        transition.into(),
        format!("{transition}{transition}"),
        transition.replace(
            "<transition>",
            "<transition id=\" a.b-c_1 \" comment=\"&lt;x&gt;\">",
        ),
        transition.replace("<transition>", "<transition id=\"1\">"),
        transition.replace("<transition>", "<transition id=\"\">"),
        transition.replace("<transition>", "<transition name=\"x\">"),
        format!(
            "{0}{0}",
            transition.replace("<transition>", "<transition id=\"a\">")
        ),
        transition.replace("</transition>", "more</transition>"),
        transition.replace("<parent_ScID>2</parent_ScID>", ""),
        transition.replace(
            "<parent_ScID>2</parent_ScID>",
            "<parent_ScID>2</parent_ScID><parent_ScID>2</parent_ScID>",
        ),
        transition.replace("parent_ScID", "parent_scid"),
        transition.replace("<new_ScID>", "<new_ScID x=\"1\">"),
        "<transition/>".into(),
        "<transitions/>".into(),
        network(""),
        network("<grant>send</grant>"),
        network("<grant>send send receive connect</grant><deny> receive\n</deny>"),
        network(
            "<deny>connect</deny><source_SnID>munster</source_SnID><target_SnID>65535</target_SnID>",
        ),
        network("<address>192.0.2.0/24</address><grant>send</grant>")
            .replace("<target_ScID>10", "<target_ScID>outside"),
        network("<address>2001:db8::/32</address><port>53</port>")
            .replace("<source_ScID>10", "<source_ScID>outside"),
        network("<address>192.0.2.0/33</address>")
            .replace("<source_ScID>10", "<source_ScID>outside"),
        network("<address/>").replace("<source_ScID>10", "<source_ScID>outside"),
        network("<port>53</port>"),
        network("<grant/>"),
        network("<grant> </grant>"),
        network("<grant>bind</grant>"),
        network("<grant>send,receive</grant>"),
        network("<grant>send</grant><grant>receive</grant>"),
        network("<grant>send</grant>").replace("<source_ScID>10", "<source_ScID>outside"),
        socket("<grant>create bind connect listen accept send receive create_unmediated</grant>"),
        socket("<deny>create_unmediated</deny><source_SnID>1</source_SnID>"),
        socket("<target_SnID>1</target_SnID>"),
        socket("<grant>Send</grant>"),
        socket("<grant>send</grant>").replace("<source_ScID>10", "<source_ScID>outside"),
        process(""),
        process("<grant>signal trace unix_connect unix_send use_fd</grant>"),
        process("<deny>trace</deny><source_SnID>1</source_SnID><grant>signal</grant>"),
        process("<grant>signal</grant><grant>trace</grant>"),
        process("<grant>signal</grant><deny>signal</deny>"),
        process("<grant>send</grant>"),
        process("<grant/>"),
        process("<target_SnID>1</target_SnID>"),
        process("<grant>signal</grant>").replace("<target_ScID>2</target_ScID>", ""),
        process("<grant>signal</grant>").replace("<target_ScID>2", "<target_ScID>outside"),
        process("<grant>signal</grant>").replace("<target_ScID>2", "<target_ScID>1"),
        system(""),
        system(
            "<grant>load_module bpf boot raw_io</grant><deny>trace_kernel net_admin label sys_admin</deny>",
        ),
        system("<source_SnID>munster</source_SnID><grant>bpf</grant>"),
        system("<grant>bpf</grant><deny>bpf</deny>"),
        system("<grant>BPF</grant>"),
        system("<deny/>"),
        system("<target_ScID>10</target_ScID>"),
        "<system_permission><grant>bpf</grant></system_permission>".into(),
        network("<grant>multicast</grant>").replace("<target_ScID>10", "<target_ScID>outside"),
        "<hosting><SnID>1</SnID><ScID>a</ScID></hosting>".into(),
        "<hosting><ScID>a</ScID><SnID>munster</SnID></hosting>".into(),
        "<hosting><ScID>a</ScID></hosting>".into(),
        format!("<!-- c --><?pi?>{transition}"),
        "<![CDATA[x]]>".into(),
        "<x:hosting xmlns:x=\"urn:x\"/>".into(),
        transition.replace("2</parent_ScID>", "<!-- c -->2</parent_ScID>"),
        transition.replace("2</parent_ScID>", "<![CDATA[2]]></parent_ScID>"),
        transition.replace("2</parent_ScID>", "&#50;</parent_ScID>"),
        transition.replace("2</parent_ScID>", "&two;</parent_ScID>"),
    ];
    for scid in [
        "0",
        "1",
        "2",
        "3",
        "10",
        " 10 ",
        "\n\t10\r",
        "010",
        "+10",
        "-10",
        "1 0",
        "10.0",
        "ten!",
        "a",
        "default",
        "outside",
        "4294967294",
        "4294967295",
        "4294967296",
        "99999999999999999999999",
        "",
        " ",
        "\u{a0}10",
        "\u{661}",
    ] {
        rules.push(transition.replace("<binary_ScID>10", &format!("<binary_ScID>{scid}")));
    }
    for snid in [
        "0", "1", "65535", "65536", "00001", "munster", "9munster", "",
    ] {
        rules.push(format!(
            "<hosting><SnID>{snid}</SnID><ScID>10</ScID></hosting>"
        ));
    }
    for port in [
        "0",
        "1",
        " 80 ",
        "65535",
        "65536",
        "80-90",
        "90-80",
        "80 - 90",
        "80-",
        "-",
        "1-65535",
        "080",
        "1-99999",
        "65535-65535",
        "65536-65537",
        "1-65536",
        "60000-64999",
        "x",
        "",
    ] {
        rules.push(label("udp", port));
    }
    for protocol in ["tcp", " udp ", "UDP", "17", "icmp", ""] {
        rules.push(label(protocol, "80"));
    }
    let long = "n".repeat(64);
    rules.push(transition.replace("<transition>", &format!("<transition id=\"{long}\">")));
    rules.push(transition.replace("<transition>", &format!("<transition id=\"{long}n\">")));

    let mut documents: Vec<String> = rules.iter().map(|rules| document(rules)).collect();
    let root = |attributes: &str, body: &str| {
        format!("<DSP xmlns=\"urn:dsi:dsp:1\" {attributes}>{body}</DSP>")
    };
    documents.extend([
        include_str!("../examples/two-operators.xml").into(),
        include_str!("../examples/two-operators-permissive.xml").into(),
        include_str!("../examples/two-operators-changed.xml").into(),
        root("mode=\"enforcing\"", "<rules/>"),
        root("mode=\" permissive \" default=\"allow\" version_label=\"\"", "<rules/>"),
        root("mode=\"enforcing\" default=\"\"", "<rules/>"),
        root("mode=\"enforcing\" refusal=\"reject\" unload=\" permit \"", "<rules/>"),
        root("mode=\"enforcing\" refusal=\"drop\" unload=\"refuse\"", "<rules/>"),
        root("mode=\"enforcing\" refusal=\"deny\"", "<rules/>"),
        root("mode=\"enforcing\" tcp_labels=\"handshake\"", "<rules/>"),
        root("mode=\"enforcing\" tcp_labels=\" every-packet\"", "<rules/>"),
        root("mode=\"enforcing\" tcp_labels=\"every\"", "<rules/>"),
        root("mode=\"enforcing\" unload=\"yes\"", "<rules/>"),
        root("mode=\"enforcing\" unload=\"\"", "<rules/>"),
        root("", "<rules/>"),
        root("mode=\"enforcing\"", ""),
        root("mode=\"enforcing\"", "<rules/><nodes/><contexts/>"),
        root("mode=\"enforcing\"", "<rules/><rules/>"),
        root("mode=\"enforcing\" xml:lang=\"en\"", "<rules/>"),
        root("mode=\"enforcing\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:schemaLocation=\"urn:dsi:dsp:1 dsp.xsd\"", "<rules/>"),
        root("mode=\"enforcing\"", "<contexts><context ScID=\"10\" name=\"a\"/><context ScID=\"10\" name=\"b\"/></contexts><rules/>"),
        root("mode=\"enforcing\"", "<contexts><context ScID=\"10\" name=\"a\">x</context></contexts><rules/>"),
        root("mode=\"enforcing\"", "<contexts><context name=\"a\"/></contexts><rules/>"),
        root("mode=\"enforcing\"", "<contexts x=\"1\"/><rules/>"),
        root("mode=\"enforcing\"", "<nodes><node SnID=\"1\" name=\"1\"/></nodes><rules/>"),
        root("mode=\"enforcing\"", "<nodes><node SnID=\"65536\" name=\"a\"/></nodes><rules/>"),
        "<DSP mode=\"enforcing\"><rules/></DSP>".into(),
        "<rules xmlns=\"urn:dsi:dsp:1\"/>".into(),
        "<d:DSP xmlns:d=\"urn:dsi:dsp:1\" mode=\"enforcing\"><d:rules/></d:DSP>".into(),
        "<d:DSP xmlns:d=\"urn:dsi:dsp:1\" mode=\"enforcing\"><rules/></d:DSP>".into(),
        "\u{feff}<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><rules/></DSP>".into(),
        "<DSP".into(),
        String::new(),
    ]);
    documents
}

#[test]
fn parser_and_schema_agree_on_the_shape_of_documents() {
    let mut judged = 0;
    let mut differences = String::new();
    for text in documents() {
        let parsed = parse("policy.xml", text.as_bytes());
        let Some(valid) = schema_accepts(&text) else {
            continue;
        };
        judged += 1;
        let (agree, parser) = match &parsed {
            Ok(_) => (valid, "accepts it".to_owned()),
            Err(faults) => {
                let beyond = |code| BEYOND_A_SCHEMA.contains(&code);
                let of_shape = faults.iter().any(|fault| !beyond(fault.kind.code()));
                (valid != of_shape, faults.to_string())
            }
        };
        if !agree {
            differences += &format!("{text}\nschema: valid = {valid}; parser: {parser}\n\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    if judged == 0 {
        println!("no xmllint here: the schema was not asked");
    }
}
