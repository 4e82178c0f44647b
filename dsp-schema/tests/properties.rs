// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that every document of the language gives an image that validates and decides as its rules say, that damaged
//! text gives faults and never a panic, and that a large document is no special case.

mod generate;

use dsi_engine::image::{Image, SocketLabelEntry};
use dsi_engine::outside::Address;
use dsi_engine::{NetworkPermission, Peer, Remote, ScId, SnId, SocketPermission};
use dsp_schema::{CompileInput, NAMESPACE, compile, parse, report};
use generate::{document, rule};
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

proptest! {
    #[test]
    fn every_document_compiles_to_an_image_that_validates(rules in proptest::collection::vec(rule(false), 0..30)) {
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
