// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that rules for some addresses outside of the cluster are about these, the port of their target and nothing else.
//! That they decide together with all other rules as a look at each would is shown by `policy.rs`.

use dsi_engine::image::Image;
use dsi_engine::outside::Address;
use dsi_engine::{Decision, Peer, Remote, ScId, SnId};
use dsp_schema::{compile, parse, CompileInput};
use std::net::IpAddr;

const OUTSIDE: Peer = Peer::OUTSIDE;

fn zone(snid: u16) -> Peer {
    Peer {
        scid: ScId(10),
        snid: SnId::from_u16(snid),
    }
}

fn image(rules: &str) -> Vec<u8> {
    let text = format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><contexts><context ScID=\"10\" name=\"ten\"/></contexts><rules>{rules}</rules></DSP>"
    );
    let policy = parse("outside.xml", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"));
    let input = CompileInput {
        cluster_uuid: [1; 16],
        version: 1,
    };
    compile(&policy, &input).unwrap()
}

fn rule(source: &str, target: &str, rest: &str) -> String {
    format!(
        "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{rest}</network_permission>"
    )
}

/// A peer outside, from port 5000 of an address, and the zone's port 7000.
fn at(address: &str) -> Remote {
    Remote {
        address: Address::of(address.parse::<IpAddr>().unwrap()),
        port: 5000,
        own_port: 7000,
    }
}

fn permits(image: &[u8], ask: impl Fn(&dsi_engine::Policy<'_>) -> Decision) -> bool {
    ask(&Image::validate(image).unwrap().policy()).permit
}

#[test]
fn a_prefix_ends_at_its_last_bit() {
    for (network, inside, without) in [
        (
            "192.0.2.128/25",
            ["192.0.2.128", "192.0.2.255"],
            ["192.0.2.127", "192.0.3.0"],
        ),
        (
            "192.0.2.7",
            ["192.0.2.7", "192.0.2.7"],
            ["192.0.2.6", "192.0.2.8"],
        ),
        ("0.0.0.0/0", ["0.0.0.1", "255.255.255.255"], ["::", "::1"]),
        ("::/0", ["::1", "ffff::"], ["0.0.0.0", "192.0.2.1"]),
        (
            "2001:db8:0:8000::/49",
            ["2001:db8:0:8000::", "2001:db8:0:ffff::1"],
            ["2001:db8:0:7fff::", "2001:db8:1::"],
        ),
        (
            "2001:db8::8000:0:0:0/65",
            ["2001:db8::8000:0:0:0", "2001:db8::ffff:0:0:1"],
            ["2001:db8::7fff:0:0:1", "2001:db8:0:1::"],
        ),
    ] {
        let rest = format!("<address>{network}</address><grant>connect</grant>");
        let image = image(&rule("10", "outside", &rest));
        let asked = |address| {
            permits(&image, |policy| {
                policy.network_connect(zone(1), OUTSIDE, &at(address))
            })
        };
        for address in inside {
            assert!(asked(address), "{address} is in {network}");
        }
        for address in without {
            assert!(!asked(address), "{address} is not in {network}");
        }
    }
}

#[test]
fn a_port_is_the_targets_whichever_way_a_packet_goes() {
    let remote = at("192.0.2.1");
    let theirs = image(&rule(
        "10",
        "outside",
        "<port>5000</port><grant>connect send receive</grant>",
    ));
    let ours = image(&rule(
        "outside",
        "10",
        "<port>7000</port><grant>connect send receive</grant>",
    ));
    for (image, source, target) in [(&theirs, zone(1), OUTSIDE), (&ours, OUTSIDE, zone(1))] {
        assert!(permits(image, |policy| policy
            .network_connect(source, target, &remote)));
        // It is a permission to connect one way.
        assert!(!permits(image, |policy| policy
            .network_connect(target, source, &remote)));
        // The question, and the answer to it.
        assert!(permits(image, |policy| policy
            .network_datagram(source, target, &remote)));
        assert!(permits(image, |policy| policy
            .network_datagram(target, source, &remote)));
        let elsewhere = Remote {
            port: remote.own_port,
            own_port: remote.port,
            ..remote
        };
        assert!(!permits(image, |policy| policy
            .network_connect(source, target, &elsewhere)));
        assert!(!permits(image, |policy| policy
            .network_datagram(source, target, &elsewhere)));
    }
}

#[test]
fn a_deny_for_a_part_beats_a_grant_for_all_and_the_reverse() {
    let all = rule("10", "outside", "<grant>connect</grant>");
    let port = rule("10", "outside", "<port>5000</port><deny>connect</deny>");
    let network = rule(
        "10",
        "outside",
        "<address>192.0.2.0/24</address><deny>connect</deny>",
    );
    let granted = rule(
        "10",
        "outside",
        "<address>192.0.2.1</address><grant>connect</grant>",
    );
    let none = rule("10", "outside", "<deny>connect</deny>");
    for (rules, address, permit) in [
        ([&all, &port], "192.0.2.1", false),
        ([&all, &network], "192.0.2.1", false),
        ([&all, &network], "192.0.3.1", true),
        ([&granted, &network], "192.0.2.1", false),
        ([&granted, &none], "192.0.2.1", false),
    ] {
        let image = image(&rules.map(String::as_str).concat());
        let asked = permits(&image, |policy| {
            policy.network_connect(zone(1), OUTSIDE, &at(address))
        });
        assert_eq!(asked, permit, "{address} under {rules:?}");
    }
}

/// A datagram may be granted as sent or as received, and denied as either.
#[test]
fn a_deny_of_receiving_beats_a_grant_of_sending() {
    let remote = at("192.0.2.1");
    let ten = ("10", zone(1));
    for (source, target) in [
        (ten, ("outside", OUTSIDE)),
        (("outside", OUTSIDE), ten),
        (ten, ("10", zone(2))),
    ] {
        let sent = rule(source.0, target.0, "<grant>send</grant>");
        // Of some only, so that it does not contradict a grant for all.
        let place = if source.0 == target.0 {
            "<source_SnID>2</source_SnID>"
        } else {
            "<address>192.0.2.0/24</address>"
        };
        let received = rule(target.0, source.0, &format!("{place}<deny>receive</deny>"));
        for (rules, passes) in [(sent.clone(), true), (sent + &received, false)] {
            let image = image(&rules);
            let permit = permits(&image, |policy| {
                policy.network_datagram(source.1, target.1, &remote)
            });
            assert_eq!(permit, passes, "{rules}");
        }
    }
}

#[test]
fn a_rule_may_be_for_one_node() {
    let rest = "<source_SnID>1</source_SnID><address>192.0.2.1</address><grant>connect</grant>";
    let image = image(&rule("10", "outside", rest));
    for (snid, permit) in [(1, true), (2, false)] {
        let asked = permits(&image, |policy| {
            policy.network_connect(zone(snid), OUTSIDE, &at("192.0.2.1"))
        });
        assert_eq!(asked, permit, "node {snid}");
    }
}
