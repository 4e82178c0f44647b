// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that the example policies compile to images that validate, and that these say what the 2004 article says:
//! each thing that is refused beside its allowed twin.

use dsi_engine::image::Image;
use dsi_engine::outside::Address;
use dsi_engine::{
    Mode, NetworkPermission, Peer, PolicyMeta, Reason, Remote, ScId, SnId, SocketPermission,
};
use dsp_schema::{CompileInput, Dsp, Names, RuleBody, compile, parse};

const SOMEWHERE: Remote = Remote {
    address: Address(0, 0xFFFF_C000_0201),
    port: 7000,
    own_port: 7000,
};

const INPUT: CompileInput = CompileInput {
    cluster_uuid: *b"0123456789abcdef",
    version: 7,
};

const ENFORCING: &str = include_str!("../examples/two-operators.xml");
const PERMISSIVE: &str = include_str!("../examples/two-operators-permissive.xml");
const CHANGED: &str = include_str!("../examples/two-operators-changed.xml");
const SHOP: &str = include_str!("../examples/outside.xml");

const UDP: u8 = 17;
const TCP: u8 = 6;

fn read(text: &str) -> Dsp {
    parse("example.xml", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}"))
}

fn peer(scid: u32, snid: u32) -> Peer {
    Peer {
        scid: ScId(scid),
        snid: SnId::node(snid).unwrap(),
    }
}

#[test]
fn the_image_of_an_example_validates_and_carries_its_input() {
    for text in [ENFORCING, PERMISSIVE, CHANGED, SHOP] {
        let dsp = read(text);
        let bytes = compile(&dsp, &INPUT).unwrap();
        let image = Image::validate(&bytes).unwrap();
        let meta: PolicyMeta = image.meta();
        assert_eq!(meta.version(), 7);
        assert_eq!(meta.cluster(), &INPUT.cluster_uuid);
        assert_eq!(meta.source_sha256(), &dsp.source_sha256);
        assert_eq!(meta.rules() as usize, dsp.rules.len());
        assert_eq!(
            bytes,
            compile(&read(text), &INPUT).unwrap(),
            "same input, same bytes"
        );
    }
}

#[test]
fn the_article_has_twelve_rules_and_they_come_first() {
    let kinds: Vec<&str> = read(ENFORCING)
        .rules
        .iter()
        .take(12)
        .map(|rule| rule.body.kind())
        .collect();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count("socket_label"), 4);
    assert_eq!(count("socket_permission"), 4);
    assert_eq!(count("network_permission"), 2);
    assert_eq!(count("transition"), 2);
}

#[test]
fn permissive_and_enforcing_have_the_same_rules() {
    let bodies = |text| {
        read(text)
            .rules
            .into_iter()
            .map(|rule| rule.body)
            .collect::<Vec<RuleBody>>()
    };
    assert_eq!(bodies(ENFORCING), bodies(PERMISSIVE));
    assert_eq!(bodies(ENFORCING).len(), bodies(CHANGED).len() + 1);
    assert_eq!(read(PERMISSIVE).mode, Mode::Permissive);
    assert_eq!(read(ENFORCING).mode, Mode::Enforcing);
}

#[test]
fn ports_get_the_operators_scids() {
    let bytes = compile(&read(ENFORCING), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    for (port, scid) in [(8800, 10), (8801, 10), (9000, 20), (9001, 20)] {
        assert_eq!(
            policy.socket_label(UDP, port).map(|(scid, _)| scid),
            Some(ScId(scid))
        );
        assert_eq!(policy.socket_label(TCP, port), None);
    }
    assert_eq!(policy.socket_label(UDP, 8802), None);
}

#[test]
fn operators_are_apart_and_each_is_whole() {
    let bytes = compile(&read(ENFORCING), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    let datagram =
        |from: u32, to: u32| policy.network_datagram(peer(from, 1), peer(to, 2), &SOMEWHERE);

    for (from, to, permit) in [
        (10, 10, true),
        (20, 20, true),
        (10, 20, false),
        (20, 10, false),
        (2, 10, true),
        (10, 2, true), // the answer to the client
        (2, 20, true),
        (20, 2, true),
        (30, 10, true),
        (10, 30, true), // the answer to maintenance
        (30, 20, true),
        (20, 30, true),
        (2, 30, false),
        (30, 2, false),
        (2, 2, true),
    ] {
        assert_eq!(datagram(from, to).permit, permit, "{from} to {to}");
    }
    let fraud = datagram(10, 20);
    assert_eq!((fraud.reason, fraud.audit), (Reason::NoPermission, true));

    // No stranger speaks to an operator, and no operator to a stranger; the system does both.
    let zone = |scid| peer(scid, 1);
    for scid in [10, 20, 30] {
        assert!(
            !policy
                .network_datagram(Peer::OUTSIDE, zone(scid), &SOMEWHERE)
                .permit
        );
        assert!(
            !policy
                .network_datagram(zone(scid), Peer::OUTSIDE, &SOMEWHERE)
                .permit
        );
        assert!(
            !policy
                .network_connect(Peer::OUTSIDE, zone(scid), &SOMEWHERE)
                .permit
        );
    }
    assert!(
        policy
            .network_datagram(Peer::OUTSIDE, zone(2), &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .network_datagram(zone(2), Peer::OUTSIDE, &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .network_connect(Peer::OUTSIDE, zone(2), &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .network_connect(zone(2), Peer::OUTSIDE, &SOMEWHERE)
            .permit
    );

    let node = SnId::node(1).unwrap();
    let bind =
        |subject, target| policy.socket(ScId(subject), node, ScId(target), SocketPermission::Bind);
    for (subject, target, permit) in [
        (10, 10, true),
        (10, 20, false),
        (20, 20, true),
        (20, 10, false),
        (2, 10, false),
        (2, 2, true),
    ] {
        assert_eq!(
            bind(subject, target).permit,
            permit,
            "{subject} binds a socket of {target}"
        );
    }
    assert_eq!(bind(10, 20).reason, Reason::DeniedByRule);
    assert_eq!(bind(2, 10).reason, Reason::NoPermission);
}

#[test]
fn a_shell_starts_operators_and_operators_start_nobody_else() {
    let bytes = compile(&read(ENFORCING), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    for (parent, binary, new) in [
        (2, 10, Some(10)),
        (2, 20, Some(20)),
        (2, 30, Some(30)),
        (10, 20, None),
        (10, 0, Some(10)),
    ] {
        let transition = policy.transition(ScId(parent), ScId(binary));
        assert_eq!(
            transition.decision.permit,
            new.is_some(),
            "{parent} executes {binary}"
        );
        assert_eq!(transition.scid, ScId(new.unwrap_or(parent)));
    }
}

#[test]
fn the_permissive_twin_lets_the_fraud_pass_and_tells_of_it() {
    let bytes = compile(&read(PERMISSIVE), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let fraud = image
        .policy()
        .network_datagram(peer(10, 1), peer(20, 2), &SOMEWHERE);
    assert!(fraud.permit && fraud.audit);
    assert_eq!(fraud.reason, Reason::NoPermission);
    let own = image
        .policy()
        .network_datagram(peer(10, 1), peer(10, 2), &SOMEWHERE);
    assert!(own.permit && !own.audit);
}

#[test]
fn the_changed_policy_takes_ringbell_from_maintenance_and_nothing_else() {
    let bytes = compile(&read(CHANGED), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    assert!(
        !policy
            .network_datagram(peer(30, 1), peer(20, 2), &SOMEWHERE)
            .permit
    );
    assert!(
        !policy
            .network_datagram(peer(20, 2), peer(30, 1), &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .network_datagram(peer(30, 1), peer(10, 2), &SOMEWHERE)
            .permit
    );
    assert!(
        policy
            .network_datagram(peer(2, 1), peer(20, 2), &SOMEWHERE)
            .permit
    );
}

#[test]
fn names_explain_decisions() {
    let dsp = read(ENFORCING);
    let names = Names::of(&dsp);
    assert_eq!(names.explain_context(10), "10 (phonemania)");
    assert_eq!(names.explain_context(2), "2 (default)");
    assert_eq!(names.explain_context(u32::MAX), "outside");
    assert_eq!(names.explain_context(99), "99");
    assert_eq!(names.explain_rule(0), "no rule (the policy's default)");
    let label = names.rule(1).unwrap();
    assert_eq!(
        (label.kind.as_str(), label.id.as_deref()),
        ("socket_label", Some("PhoneManiaEP"))
    );
    assert_eq!(
        names.explain_rule(1),
        format!("socket_label \"PhoneManiaEP\", line {}", label.line)
    );
    assert!(
        ENFORCING
            .lines()
            .nth(label.line - 1)
            .unwrap()
            .contains("PhoneManiaEP")
    );
    assert!(names.explain_rule(1000).contains("does not have"));
    assert_eq!(
        NetworkPermission::from_name("connect"),
        Some(NetworkPermission::Connect)
    );

    let json = serde_json::to_string(&names).unwrap();
    assert_eq!(serde_json::from_str::<Names>(&json).unwrap(), names);
}

#[test]
fn a_shop_is_open_where_its_policy_says() {
    let bytes = compile(&read(SHOP), &INPUT).unwrap();
    let image = Image::validate(&bytes).unwrap();
    let policy = image.policy();
    let at = |address: &str, port, own_port| Remote {
        address: Address::of(address.parse().unwrap()),
        port,
        own_port,
    };
    let (shop, outside) = (peer(10, 1), Peer::OUTSIDE);
    for (address, port, permit) in [
        ("203.0.113.7", 443, true),
        ("2001:db8::7", 443, true),
        ("203.0.113.7", 80, false),
        ("198.51.100.7", 443, false),
    ] {
        let decision = policy.network_connect(outside, shop, &at(address, 50000, port));
        assert_eq!(decision.permit, permit, "from {address} to port {port}");
    }
    for (address, port, permit) in [
        ("2001:db8:ba::7", 443, true),
        ("2001:db8:ba::7", 80, false),
        ("2001:db8::7", 443, false),
        ("203.0.113.7", 443, false),
    ] {
        let decision = policy.network_connect(shop, outside, &at(address, port, 50000));
        assert_eq!(decision.permit, permit, "to {address}, port {port}");
    }
    let names = at("192.0.2.53", 53, 50000);
    assert!(policy.network_datagram(shop, outside, &names).permit);
    assert!(policy.network_datagram(outside, shop, &names).permit);
    let other = at("192.0.2.54", 53, 50000);
    assert!(!policy.network_datagram(shop, outside, &other).permit);
    assert!(!policy.network_datagram(outside, shop, &other).permit);
}
