// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that every document of the language gives an image that validates and decides as its rules say, that damaged
//! text gives faults and never a panic, and that a large document is no special case.

use dsi_engine::image::{Image, SocketLabelEntry};
use dsi_engine::outside::Address;
use dsi_engine::{NetworkPermission, Peer, Remote, ScId, SnId, SocketPermission};
use dsp_schema::{CompileInput, NAMESPACE, compile, parse, report};
use proptest::prelude::*;
use std::fmt::Write;

const SOMEWHERE: Remote = Remote {
    address: Address(0, 0xFFFF_C000_0201),
    port: 7000,
    own_port: 7000,
};

const INPUT: CompileInput = CompileInput {
    cluster_uuid: [7; 16],
    version: 1,
};

/// Permissions by name, in the order of their bits.
fn list(element: &str, names: &[&str], bits: u16) -> String {
    let named: Vec<&str> = names
        .iter()
        .enumerate()
        .filter(|(n, _)| bits & 1 << n != 0)
        .map(|(_, name)| *name)
        .collect();
    if named.is_empty() {
        String::new()
    } else {
        format!("<{element}>{}</{element}>", named.join(" "))
    }
}

/// A rule as XML. Grants only even permissions and denies only odd ones, so that no two rules contradict each other.
fn rule() -> impl Strategy<Value = String> {
    const SOCKET: [&str; 8] = [
        "create",
        "bind",
        "connect",
        "listen",
        "accept",
        "send",
        "receive",
        "create_unmediated",
    ];
    const NETWORK: [&str; 4] = ["send", "receive", "connect", "multicast"];
    const PROCESS: [&str; 5] = ["signal", "trace", "unix_connect", "unix_send", "use_fd"];
    const SYSTEM: [&str; 8] = [
        "load_module",
        "bpf",
        "boot",
        "raw_io",
        "trace_kernel",
        "net_admin",
        "label",
        "sys_admin",
    ];
    const PLACES: [&str; 5] = [
        "<address>192.0.2.0/24</address>",
        "<address>192.0.2.7</address><port>53</port>",
        "<address>2001:db8::/32</address><port>1-99</port>",
        "<address>0.0.0.0/0</address>",
        "<port>443</port>",
    ];
    const NAMES: [&str; 4] = ["2", "default", "10", "twenty"];
    let zone = || prop::sample::select(NAMES.to_vec());
    let end = || prop_oneof![4 => prop::sample::select(NAMES.to_vec()), 1 => Just("outside")];
    let node = || prop_oneof![Just(None), Just(Some("1")), Just(Some("munster"))];
    let optional = |element: &'static str, value: Option<&'static str>| {
        value.map_or(String::new(), |value| {
            format!("<{element}>{value}</{element}>")
        })
    };
    prop_oneof![
        (zone(), node(), zone(), 1_u16..256).prop_map(move |(source, node, target, bits)| format!(
            "<socket_permission><source_ScID>{source}</source_ScID>{}<target_ScID>{target}</target_ScID>{}{}\
             </socket_permission>",
            optional("source_SnID", node),
            list("grant", &SOCKET, bits & 0x55),
            list("deny", &SOCKET, bits & 0xAA | u16::from(bits & 0x55 == 0) << 1),
        )),
        (zone(), node(), zone(), 1_u16..32).prop_map(move |(source, node, target, bits)| format!(
            "<process_permission><source_ScID>{source}</source_ScID>{}<target_ScID>{target}</target_ScID>{}{}\
             </process_permission>",
            optional("source_SnID", node),
            list("grant", &PROCESS, bits & 0b10101),
            list("deny", &PROCESS, bits & 0b01010 | u16::from(bits & 0b10101 == 0) << 1),
        )),
        (zone(), node(), 1_u16..256).prop_map(move |(source, node, bits)| format!(
            "<system_permission><source_ScID>{source}</source_ScID>{}{}{}</system_permission>",
            optional("source_SnID", node),
            list("grant", &SYSTEM, bits & 0x55),
            list("deny", &SYSTEM, bits & 0xAA | u16::from(bits & 0x55 == 0) << 1),
        )),
        (zone(), prop::sample::select(PLACES.to_vec()), any::<bool>(), 1_u16..16).prop_map(move |(zone, place, out, bits)| {
            let (source, target) = if out { (zone, "outside") } else { ("outside", zone) };
            format!(
                "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{place}{}{}\
                 </network_permission>",
                list("grant", &NETWORK, bits & 0b101),
                list("deny", &NETWORK, bits & 0b1010 | u16::from(bits & 0b101 == 0) << 1),
            )
        }),
        (end(), node(), end(), node(), 1_u16..16).prop_map(move |(source, from, target, to, bits)| format!(
            "<network_permission>{}<source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{}{}{}\
             </network_permission>",
            optional("source_SnID", from.filter(|_| source != "outside")),
            optional("target_SnID", to.filter(|_| target != "outside")),
            list("grant", &NETWORK, bits & 0b101),
            list("deny", &NETWORK, bits & 0b1010 | u16::from(bits & 0b101 == 0) << 1),
        )),
        (zone(), zone()).prop_map(|(parent, binary)| format!(
            "<transition><parent_ScID>{parent}</parent_ScID><binary_ScID>{binary}</binary_ScID><new_ScID>{binary}\
             </new_ScID></transition>"
        )),
        (zone(), prop::sample::select(vec!["1", "munster", "9"]))
            .prop_map(|(scid, node)| format!("<hosting><SnID>{node}</SnID><ScID>{scid}</ScID></hosting>")),
        (1_u16.., 1_u16..).prop_map(|(a, b)| format!(
            "<socket_label><protocol>udp</protocol><port>{}-{}</port><new_ScID>10</new_ScID></socket_label>",
            a.min(b),
            a.max(b)
        )),
    ]
}

fn document(rules: &[String]) -> String {
    format!(
        "<DSP xmlns=\"{NAMESPACE}\" mode=\"enforcing\">\n<contexts><context ScID=\"10\" name=\"ten\"/>\
         <context ScID=\"20\" name=\"twenty\"/></contexts>\n<nodes><node SnID=\"1\" name=\"munster\"/></nodes>\n\
         <rules>\n{}\n</rules>\n</DSP>\n",
        rules.join("\n")
    )
}

proptest! {
    #[test]
    fn every_document_compiles_to_an_image_that_validates(rules in proptest::collection::vec(rule(), 0..30)) {
        let text = document(&rules);
        let dsp = parse("policy.xml", text.as_bytes()).map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        prop_assert_eq!(dsp.rules.len(), rules.len());
        let bytes = compile(&dsp, &INPUT).unwrap();
        let image = Image::validate(&bytes).unwrap();
        prop_assert_eq!(image.meta().rules() as usize, rules.len());
        prop_assert_eq!(&bytes, &compile(&parse("other", text.as_bytes()).unwrap(), &INPUT).unwrap());
    }

    #[test]
    fn a_range_of_ports_is_labelled_and_no_other_port(first in 1_u16.., last in 1_u16.., asked: u16) {
        let (first, last) = (first.min(last), first.max(last));
        let text = document(&[format!(
            "<socket_label><protocol>tcp</protocol><port>{first}-{last}</port><new_ScID>10</new_ScID></socket_label>"
        )]);
        let bytes = compile(&parse("policy.xml", text.as_bytes()).unwrap(), &INPUT).unwrap();
        let image = Image::validate(&bytes).unwrap();
        prop_assert!(image.entries::<SocketLabelEntry>().count() <= 30);
        for port in [asked, first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
            let expected = (first..=last).contains(&port).then_some((ScId(10), 1));
            prop_assert_eq!(image.policy().socket_label(6, port), expected);
            prop_assert_eq!(image.policy().socket_label(17, port), None);
        }
    }

    #[test]
    fn damaged_text_gives_faults_that_can_be_shown(
        at in any::<prop::sample::Index>(),
        len in 0_usize..40,
        put in "[<>/&\"'a-zA-Z0-9 _=\u{e9}\u{20ac}\n-]{0,12}",
    ) {
        let mut text: Vec<char> = include_str!("../examples/two-operators.xml").chars().collect();
        let start = at.index(text.len());
        let end = (start + len).min(text.len());
        text.splice(start..end, put.chars());
        let text: String = text.into_iter().collect();
        match parse("policy.xml", text.as_bytes()) {
            Ok(dsp) => drop(Image::validate(&compile(&dsp, &INPUT).unwrap()).unwrap()),
            Err(faults) => {
                prop_assert!(faults.iter().count() > 0);
                prop_assert!(report::render(&faults, true).contains("policy.xml"));
                prop_assert!(faults.to_string().starts_with("policy.xml:"));
                prop_assert!(serde_json::to_string(&faults).is_ok());
            }
        }
    }

    #[test]
    fn any_bytes_give_faults(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let faults = parse("policy.xml", &bytes).unwrap_err();
        prop_assert!(report::render(&faults, false).contains("policy.xml"));
    }
}

#[test]
fn a_default_of_allow_permits_what_no_rule_names_and_an_empty_rule_denies_all() {
    let text = |default: &str| {
        document(&[
            "<socket_permission><source_ScID>10</source_ScID><target_ScID>20</target_ScID></socket_permission>".into(),
            "<network_permission><source_ScID>10</source_ScID><target_ScID>20</target_ScID></network_permission>".into(),
        ])
        .replace("mode=", &format!("default=\"{default}\" mode="))
    };
    let node = SnId::node(1).unwrap();
    let peer = |scid| Peer {
        scid: ScId(scid),
        snid: node,
    };
    for (default, permit) in [("allow", true), ("deny", false)] {
        let bytes = compile(
            &parse("policy.xml", text(default).as_bytes()).unwrap(),
            &INPUT,
        )
        .unwrap();
        let image = Image::validate(&bytes).unwrap();
        let policy = image.policy();
        for permission in SocketPermission::ALL {
            assert!(!policy.socket(ScId(10), node, ScId(20), *permission).permit);
            assert_eq!(
                policy.socket(ScId(20), node, ScId(10), *permission).permit,
                permit
            );
        }
        assert!(
            !policy
                .network_datagram(peer(10), peer(20), &SOMEWHERE)
                .permit
        );
        // 10 may not receive from 20, which is what a datagram from 20 to 10 needs.
        assert!(
            !policy
                .network_datagram(peer(20), peer(10), &SOMEWHERE)
                .permit
        );
        assert!(
            !policy
                .network_connect(peer(10), peer(20), &SOMEWHERE)
                .permit
        );
        assert_eq!(
            policy
                .network_connect(peer(20), peer(10), &SOMEWHERE)
                .permit,
            permit
        );
        assert_eq!(
            policy
                .network_datagram(peer(10), peer(10), &SOMEWHERE)
                .permit,
            permit
        );
    }
}

#[test]
fn a_rule_of_a_node_holds_on_that_node_only() {
    let text = document(&[
        "<network_permission><source_ScID>10</source_ScID><source_SnID>munster</source_SnID>\
         <target_ScID>20</target_ScID><target_SnID>2</target_SnID><grant>send</grant></network_permission>"
            .into(),
        "<socket_permission><source_ScID>10</source_ScID><source_SnID>1</source_SnID><target_ScID>10</target_ScID>\
         <grant>bind</grant></socket_permission>"
            .into(),
        "<hosting><SnID>munster</SnID><ScID>20</ScID></hosting>".into(),
    ]);
    let bytes = compile(&parse("policy.xml", text.as_bytes()).unwrap(), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    let node = |snid| SnId::node(snid).unwrap();
    let peer = |scid, snid| Peer {
        scid: ScId(scid),
        snid: node(snid),
    };
    assert!(
        policy
            .network_datagram(peer(10, 1), peer(20, 2), &SOMEWHERE)
            .permit
    );
    assert!(
        !policy
            .network_datagram(peer(10, 2), peer(20, 2), &SOMEWHERE)
            .permit
    );
    assert!(
        !policy
            .network_datagram(peer(10, 1), peer(20, 1), &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .socket(ScId(10), node(1), ScId(10), SocketPermission::Bind)
            .permit
    );
    assert!(
        !policy
            .socket(ScId(10), node(2), ScId(10), SocketPermission::Bind)
            .permit
    );
    assert!(policy.hosting(node(1), ScId(20)).permit);
    assert!(!policy.hosting(node(2), ScId(20)).permit);
    assert!(
        policy.hosting(node(2), ScId(10)).permit,
        "no rule restricts who hosts 10"
    );
}

#[test]
fn tens_of_thousands_of_rules_are_no_special_case() {
    let zones = 200_u32;
    let mut text = format!("<DSP xmlns=\"{NAMESPACE}\" mode=\"enforcing\"><contexts>");
    for zone in 0..zones {
        write!(
            text,
            "<context ScID=\"{}\" name=\"zone{zone}\"/>",
            10 + zone
        )
        .unwrap();
    }
    text += "</contexts><rules>";
    for n in 0..zones * 100 {
        let (source, target) = (10 + n % zones, 10 + n / zones);
        write!(
            text,
            "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
             <grant>send</grant></network_permission>"
        )
        .unwrap();
    }
    text += "</rules></DSP>";
    let dsp = parse("large.xml", text.as_bytes()).unwrap();
    let bytes = compile(&dsp, &INPUT).unwrap();
    assert!(bytes.len() <= 24 * dsp.rules.len() + 512);
    let image = Image::validate(&bytes).unwrap();
    let peer = |scid| Peer {
        scid: ScId(scid),
        snid: SnId::node(1).unwrap(),
    };
    assert_eq!(
        image
            .policy()
            .network_datagram(peer(10), peer(109), &SOMEWHERE)
            .rule,
        zones * 99 + 1
    );
    assert!(
        !image
            .policy()
            .network_datagram(peer(10), peer(110), &SOMEWHERE)
            .permit
    );
    assert_eq!(NetworkPermission::Send.name(), "send");
}
