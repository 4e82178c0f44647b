// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that foresight is exact: two policies differ as `difference` lists and in nothing else, held against every
//! combination of a small whole world; an answer is the engine's in every case that it distinguishes; and the image
//! decides as a naive reading of the rules does.

mod generate;

use dsi_engine::outside::Address;
use dsi_engine::{NetworkPermission, ScId, SnId};
use dsp_schema::foresight::{
    Change, Compiled, Deed, Difference, End, Matter, Point, Question, Verdict, What, difference,
};
use dsp_schema::model::{Permissions, Place};
use dsp_schema::{Dsp, NAMESPACE, RuleBody, parse};
use generate::{document, rule};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

/// The zones of the generator, one that no rule names, and outside.
const ZONES: [ScId; 5] = [ScId(2), ScId(10), ScId(20), ScId(30), ScId::OUTSIDE];
/// Its nodes, and one that no rule names.
const NODES: [u32; 4] = [1, 2, 9, 77];
/// One in each part of the world that its rules tell apart.
const ADDRESSES: [&str; 5] = [
    "192.0.2.7",
    "192.0.2.8",
    "10.0.0.1",
    "2001:db8::1",
    "2002::1",
];
/// One in each of its ranges, and none.
const PORTS: [u16; 7] = [0, 1, 53, 60, 100, 443, 444];

fn compiled(text: &str) -> Compiled {
    Compiled::new(
        parse("policy.xml", text.as_bytes()).unwrap_or_else(|faults| panic!("{faults}\n{text}")),
    )
    .unwrap()
}

/// A document's rules and attributes.
type Written = (Vec<String>, bool, bool);

fn written((rules, allow, permissive): &Written) -> Compiled {
    let mut text = document(rules);
    if *allow {
        text = text.replacen("mode=", "default=\"allow\" mode=", 1);
    }
    if *permissive {
        text = text.replacen("\"enforcing\"", "\"permissive\"", 1);
    }
    compiled(&text)
}

/// Two documents: strangers, or one with a few rules less and a few more than the other.
fn pair() -> impl Strategy<Value = (Written, Written)> {
    let attributes = || (prop::bool::weighted(0.3), prop::bool::weighted(0.2));
    let rules = |odd: bool| proptest::collection::vec(rule(odd), 0..14);
    let strangers = (any::<bool>(), any::<bool>(), attributes(), attributes()).prop_flat_map(
        move |(a, b, of_a, of_b)| {
            (rules(a), rules(b)).prop_map(move |(a, b)| ((a, of_a.0, of_a.1), (b, of_b.0, of_b.1)))
        },
    );
    let kin = (any::<bool>(), attributes()).prop_flat_map(|(odd, of)| {
        (
            proptest::collection::vec((rule(odd), prop::bool::weighted(0.9)), 0..24),
            proptest::collection::vec(rule(odd), 0..3),
        )
            .prop_map(move |(rules, more)| {
                let before = rules.iter().map(|(rule, _)| rule.clone()).collect();
                let kept = rules
                    .iter()
                    .filter(|(_, kept)| *kept)
                    .map(|(rule, _)| rule.clone());
                (
                    (before, of.0, of.1),
                    (kept.chain(more).collect(), of.0, of.1),
                )
            })
    });
    prop_oneof![strangers, kin]
}

/// Every deed between any two zones.
fn matters() -> Vec<Matter> {
    let mut deeds = vec![Deed::Datagram, Deed::Connection, Deed::Multicast];
    deeds.extend(
        dsi_engine::SocketPermission::ALL
            .iter()
            .map(|p| Deed::Socket(*p)),
    );
    deeds.extend(
        dsi_engine::ProcessPermission::ALL
            .iter()
            .map(|p| Deed::Process(*p)),
    );
    let systems = dsi_engine::SystemPermission::ALL
        .iter()
        .map(|p| Deed::System(*p));
    let mut matters = Vec::new();
    for source in ZONES {
        for deed in &deeds {
            matters.extend(ZONES.iter().map(|target| Matter {
                deed: *deed,
                source,
                target: *target,
            }));
        }
        matters.extend(systems.clone().map(|deed| Matter {
            deed,
            source,
            target: ScId::KERNEL,
        }));
    }
    matters.retain(|matter| {
        let network = matches!(
            matter.deed,
            Deed::Datagram | Deed::Connection | Deed::Multicast
        );
        matter.is_asked()
            && (network || (matter.source != ScId::OUTSIDE && matter.target != ScId::OUTSIDE))
    });
    matters
}

/// Every combination on which a decision could depend.
fn points(matter: &Matter) -> Vec<Point> {
    let whole = matter.domain();
    let nodes = || {
        NODES
            .iter()
            .map(|n| SnId::node(*n).unwrap())
            .chain([SnId::NONE])
    };
    let addresses = || {
        let somewhere = ADDRESSES
            .iter()
            .map(|a| Address::of(a.parse::<IpAddr>().unwrap()));
        somewhere.chain([Address(0, 0)]).filter(|address| {
            let number = u128::from(address.0) << 64 | u128::from(address.1);
            whole.addresses().contains(number)
                && (whole.addresses().only().is_some() || number != 0)
        })
    };
    let of = |set: &dsp_schema::foresight::Set| -> Vec<u16> {
        PORTS
            .iter()
            .copied()
            .filter(|port| set.contains(u128::from(*port)))
            .collect()
    };
    let mut points = Vec::new();
    for source_node in nodes().filter(|n| whole.source_nodes().contains(u128::from(n.get()))) {
        for target_node in nodes().filter(|n| whole.target_nodes().contains(u128::from(n.get()))) {
            for address in addresses() {
                for remote_port in of(whole.remote_ports()) {
                    for own_port in of(whole.own_ports()) {
                        points.push(Point {
                            source_node,
                            target_node,
                            address,
                            remote_port,
                            own_port,
                        });
                    }
                }
            }
        }
    }
    assert!(points.iter().all(|point| whole.contains(point)));
    points
}

/// The rules of a document, read one by one, with deny before grant before default. Knows nothing of images.
fn naive(dsp: &Dsp, matter: &Matter, at: &Point) -> bool {
    let fits = |node: SnId, asked: SnId| node.is_none() || node == asked;
    let placed = |place: &Option<Place>, port: u16| {
        place.as_ref().is_none_or(|place| {
            let ports = place
                .ports
                .is_none_or(|(first, last)| (first..=last).contains(&port));
            let number = |address: IpAddr| match address {
                IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32_u32),
                IpAddr::V6(v6) => (v6.to_bits(), 128),
            };
            let asked = if at.address.is_ipv4() {
                (u128::from(at.address.1) & 0xFFFF_FFFF, 32)
            } else {
                (
                    u128::from(at.address.0) << 64 | u128::from(at.address.1),
                    128,
                )
            };
            let network = place.network.is_none_or(|(address, bits)| {
                let (first, width) = number(address);
                let below = width - u32::from(bits);
                asked.1 == width
                    && asked.0.checked_shr(below).unwrap_or(0)
                        == first.checked_shr(below).unwrap_or(0)
            });
            ports && network
        })
    };
    let (mut grant, mut deny) = (false, false);
    let mut note = |permissions: &Permissions, bit: u16| {
        grant |= permissions.grant & bit != 0;
        deny |= permissions.deny & bit != 0;
    };
    for rule in &dsp.rules {
        match (&rule.body, matter.deed) {
            (
                RuleBody::SocketPermission {
                    source,
                    source_node,
                    target,
                    permissions,
                },
                Deed::Socket(permission),
            ) if (*source, *target) == (matter.source, matter.target)
                && fits(*source_node, at.source_node) =>
            {
                note(permissions, permission.bit());
            }
            (
                RuleBody::ProcessPermission {
                    source,
                    source_node,
                    target,
                    permissions,
                },
                Deed::Process(permission),
            ) if (*source, *target) == (matter.source, matter.target)
                && fits(*source_node, at.source_node) =>
            {
                note(permissions, permission.bit());
            }
            (
                RuleBody::SystemPermission {
                    source,
                    source_node,
                    permissions,
                },
                Deed::System(permission),
            ) if *source == matter.source && fits(*source_node, at.source_node) => {
                note(permissions, permission.bit());
            }
            (
                RuleBody::NetworkPermission {
                    tuple,
                    place,
                    permissions,
                },
                deed,
            ) => {
                let port = if tuple.target == ScId::OUTSIDE {
                    at.remote_port
                } else {
                    at.own_port
                };
                let forth = (tuple.source, tuple.target) == (matter.source, matter.target)
                    && fits(tuple.source_node, at.source_node)
                    && fits(tuple.target_node, at.target_node);
                let back = (tuple.target, tuple.source) == (matter.source, matter.target)
                    && fits(tuple.target_node, at.source_node)
                    && fits(tuple.source_node, at.target_node);
                let bits = match deed {
                    Deed::Datagram => (
                        NetworkPermission::Send.bit(),
                        NetworkPermission::Receive.bit(),
                    ),
                    Deed::Connection => (NetworkPermission::Connect.bit(), 0),
                    Deed::Multicast => (NetworkPermission::Multicast.bit(), 0),
                    _ => (0, 0),
                };
                if placed(place, port) {
                    note(permissions, if forth { bits.0 } else { 0 });
                    note(permissions, if back { bits.1 } else { 0 });
                }
            }
            _ => {}
        }
    }
    let own = match matter.deed {
        Deed::Socket(_) => (matter.source, matter.target) == (ScId::DEFAULT, ScId::DEFAULT),
        Deed::Process(_) => matter.source == matter.target,
        Deed::System(_) => matter.source == ScId::DEFAULT,
        _ => false,
    };
    !deny && (grant || own || dsp.default_allow)
}

/// Every decision of the small world, held against the list. Each entry of the list has to be met at least once.
fn held_against_the_world(
    a: &Compiled,
    b: &Compiled,
    list: &Difference,
) -> Result<(), TestCaseError> {
    let default = a.document().default_allow != b.document().default_allow;
    prop_assert_eq!(
        list.settings
            .iter()
            .any(|setting| setting.name == "default"),
        default
    );
    let mode = a.document().mode != b.document().mode;
    prop_assert_eq!(
        list.settings.iter().any(|setting| setting.name == "mode"),
        mode
    );
    let mut met = vec![false; list.changes.len()];
    let mut differs = mode || default;
    for asked in matters() {
        let listed: Vec<(usize, &Change)> = list
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| matches!(&change.what, What::Permission { matter, .. } if *matter == asked))
            .collect();
        for at in points(&asked) {
            let (was, is) = (asked.ask(&a.policy(), &at), asked.ask(&b.policy(), &at));
            prop_assert_eq!(
                !was.is_refusal(),
                naive(a.document(), &asked, &at),
                "{:?} {:?}",
                asked,
                at
            );
            let mut told = 0;
            for (n, change) in &listed {
                if let What::Permission { space, allowed, .. } = &change.what
                    && space.contains(&at)
                {
                    told += 1;
                    met[*n] = true;
                    prop_assert_eq!(*allowed, !is.is_refusal());
                    prop_assert!(was.rule == 0 || change.before.contains(&was.rule));
                    prop_assert!(is.rule == 0 || change.after.contains(&is.rule));
                }
            }
            let differ = was.is_refusal() != is.is_refusal();
            differs |= differ;
            let by_rule = was.rule != 0 || is.rule != 0;
            prop_assert_eq!(told, usize::from(differ && by_rule), "{:?} {:?}", asked, at);
            prop_assert!(!differ || by_rule || default);
        }
    }
    for parent in ZONES {
        for binary in ZONES {
            let (was, is) = (
                a.policy().transition(parent, binary),
                b.policy().transition(parent, binary),
            );
            let became = |t: dsi_engine::Transition| (!t.decision.is_refusal()).then_some(t.scid);
            let differ = became(was) != became(is);
            differs |= differ;
            let by_rule = was.decision.rule != 0 || is.decision.rule != 0;
            let told: Vec<usize> = (0..list.changes.len())
                .filter(|n| matches!(&list.changes[*n].what, What::Transition { parent: p, binary: q, before, after }
                    if (*p, *q, *before, *after) == (parent, binary, became(was), became(is))))
                .collect();
            prop_assert_eq!(told.len(), usize::from(differ && by_rule));
            prop_assert!(!differ || by_rule || default);
            told.into_iter().for_each(|n| met[n] = true);
        }
    }
    for zone in ZONES {
        for node in NODES {
            let id = SnId::node(node).unwrap();
            let (was, is) = (a.policy().hosting(id, zone), b.policy().hosting(id, zone));
            let differ = was.is_refusal() != is.is_refusal();
            differs |= differ;
            let told: Vec<usize> = (0..list.changes.len())
                .filter(|n| matches!(&list.changes[*n].what, What::Hosting { scid, nodes, allowed }
                    if *scid == zone && nodes.contains(u128::from(node)) && *allowed != is.is_refusal()))
                .collect();
            prop_assert_eq!(told.len(), usize::from(differ));
            told.into_iter().for_each(|n| met[n] = true);
        }
    }
    // Each label begins and ends at a bound of a rule: either side of all of them is all there is.
    let bounds: BTreeSet<u16> = a
        .document()
        .rules
        .iter()
        .chain(&b.document().rules)
        .filter_map(|rule| match rule.body {
            RuleBody::SocketLabel { first, last, .. } => Some([first, last]),
            _ => None,
        })
        .flatten()
        .flat_map(|port| [port.saturating_sub(1).max(1), port, port.saturating_add(1)])
        .chain([1, u16::MAX])
        .collect();
    for protocol in [6, 17] {
        for port in bounds.iter().copied() {
            let scid = |policy: &Compiled| {
                policy
                    .policy()
                    .socket_label(protocol, port)
                    .map(|(scid, _)| scid)
            };
            let (was, is) = (scid(a), scid(b));
            let mut told = 0;
            for (n, change) in list.changes.iter().enumerate() {
                if let What::SocketLabel {
                    protocol: p,
                    ports,
                    before,
                    after,
                } = &change.what
                    && *p == protocol
                    && ports.contains(u128::from(port))
                {
                    told += 1;
                    met[n] = true;
                    prop_assert_eq!((*before, *after), (was, is));
                }
            }
            differs |= was != is;
            prop_assert_eq!(told, usize::from(was != is));
        }
    }
    prop_assert!(
        met.into_iter().all(|met| met),
        "what is listed differs: {:?}",
        list
    );
    // The module may be unloaded while the policy is permissive: a setting that follows from the mode.
    prop_assert_eq!(list.is_empty(), !differs);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_lists_exactly_what_differs((a, b) in pair()) {
        let (a, b) = (written(&a), written(&b));
        held_against_the_world(&a, &b, &difference(&a, &b))?;
        prop_assert!(difference(&a, &a).is_empty());
    }

    #[test]
    fn the_way_back_is_the_same_turned_round((a, b) in pair()) {
        let (a, b) = (written(&a), written(&b));
        let (forth, back) = (difference(&a, &b), difference(&b, &a));
        prop_assert_eq!(forth.changes.len(), back.changes.len());
        for change in forth.changes {
            let what = match change.what {
                What::Permission { matter, space, allowed } => What::Permission { matter, space, allowed: !allowed },
                What::Hosting { scid, nodes, allowed } => What::Hosting { scid, nodes, allowed: !allowed },
                What::Transition { parent, binary, before, after } =>
                    What::Transition { parent, binary, before: after, after: before },
                What::SocketLabel { protocol, ports, before, after } =>
                    What::SocketLabel { protocol, ports, before: after, after: before },
            };
            let turned = Change { what, before: change.after, after: change.before };
            prop_assert!(back.changes.contains(&turned), "{:?}\n{:?}", turned, back.changes);
        }
    }

    #[test]
    fn adding_a_grant_never_removes_a_permission(
        (rules, more) in any::<bool>().prop_flat_map(|odd| (
            proptest::collection::vec(rule(odd), 0..20),
            rule(odd).prop_filter("a grant", |rule| rule.contains("<grant>") && !rule.contains("<deny>")),
        )),
        allow: bool,
    ) {
        let before = written(&(rules.clone(), allow, false));
        let after = written(&([rules, vec![more]].concat(), allow, false));
        for change in difference(&before, &after).changes {
            prop_assert!(matches!(change.what, What::Permission { allowed: true, .. }), "{:?}", change);
        }
    }

    #[test]
    fn the_order_of_rules_is_no_difference(rules in proptest::collection::vec(rule(false), 0..20)) {
        let mut turned = rules.clone();
        turned.reverse();
        let (a, b) = (written(&(rules, false, false)), written(&(turned, false, false)));
        prop_assert!(difference(&a, &b).is_empty());
    }

    #[test]
    fn any_expectations_give_faults_or_answers(
        lines in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![
                    8 => prop::sample::select(vec![
                        "allow", "deny", "10", "twenty", "10@munster", "20@9", "outside", "outside:192.0.2.0/24", "munster",
                        "outside:", "@", ":", "network:", "network:send", "send", "receive", "connect", "host", "execute",
                        "becomes", "port", "from", "443", "1-99", "net_admin", "socket:bind", "multicast", "#", "0", "hots",
                    ]).prop_map(str::to_owned),
                    1 => "[@:a-z0-9#/\u{e9}\u{20ac}.-]{0,9}",
                ],
                0..9,
            ),
            1..6,
        ),
    ) {
        let policy = compiled(&document(&[]));
        let text = lines.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join("\n");
        match policy.expectations("some.expect", text.as_bytes()) {
            Ok(expectations) => {
                prop_assert!(!expectations.is_empty());
                for expectation in expectations {
                    prop_assert!(!policy.answer(&expectation.question).cases.is_empty());
                }
            }
            Err(faults) => {
                prop_assert!(faults.iter().count() > 0);
                prop_assert!(dsp_schema::report::render(&faults, false).contains("some.expect"));
            }
        }
        if let Ok(questions) = policy.questions("question", &text) {
            prop_assert!(!questions.is_empty());
        }
    }

    #[test]
    fn an_answer_is_the_engines_in_each_of_its_cases(
        policy in any::<bool>().prop_flat_map(|odd| proptest::collection::vec(rule(odd), 0..20)),
        allow: bool,
        nth: prop::sample::Index,
    ) {
        let policy = written(&(policy, allow, false));
        let matters = matters();
        let matter = matters[nth.index(matters.len())];
        let end = |scid| End::of(scid, SnId::NONE);
        let question = Question::Permission {
            deed: matter.deed,
            receive: false,
            source: end(matter.source),
            target: end(matter.target),
        };
        let answer = policy.answer(&question);
        let mut seen = (false, false);
        for at in points(&matter) {
            let cases: Vec<_> = answer.cases.iter().filter(|case| case.space.contains(&at)).collect();
            prop_assert_eq!(cases.len(), 1, "the cases are all there is, and apart");
            let decision = matter.ask(&policy.policy(), &at);
            let last = cases[0].findings.last().unwrap();
            prop_assert_eq!((last.reason, last.rule), (decision.reason, decision.rule));
            let inside = matter.source != ScId::OUTSIDE && matter.target != ScId::OUTSIDE;
            let hosts = |node, scid| !policy.policy().hosting(node, scid).is_refusal();
            let hosted = match matter.deed {
                Deed::Datagram if inside => hosts(at.source_node, matter.source),
                Deed::Connection if inside => {
                    hosts(at.source_node, matter.source) && hosts(at.target_node, matter.target)
                }
                _ => true,
            };
            let allowed = hosted && !decision.is_refusal();
            prop_assert_eq!(cases[0].is_allowed(), allowed);
            seen = (seen.0 || allowed, seen.1 || !allowed);
        }
        let expected = match seen {
            (true, true) => Verdict::Depends,
            (true, false) => Verdict::Allowed,
            _ => Verdict::Denied,
        };
        prop_assert_eq!(answer.verdict(), expected);
    }
}

#[test]
fn each_part_of_a_rule_makes_a_difference() {
    let network = |ends: &str, place: &str, said: &str| {
        format!("<network_permission>{ends}{place}{said}</network_permission>")
    };
    let (leaving, arriving, inside) = (
        "<source_ScID>10</source_ScID><target_ScID>outside</target_ScID>",
        "<source_ScID>outside</source_ScID><target_ScID>10</target_ScID>",
        "<source_ScID>10</source_ScID><target_ScID>20</target_ScID>",
    );
    let (grant, deny) = (
        "<grant>send receive connect multicast</grant>",
        "<deny>send receive connect multicast</deny>",
    );
    let mut kinds: Vec<Vec<String>> = Vec::new();
    for ends in [leaving, arriving] {
        let node = if ends == leaving {
            "source_SnID"
        } else {
            "target_SnID"
        };
        kinds.push(vec![
            network(ends, "", grant),
            network(ends, "<port>53</port>", grant),
            network(ends, "<port>1-99</port>", grant),
            network(ends, "<address>192.0.2.7</address>", grant),
            network(ends, "<address>192.0.2.7</address><port>53</port>", grant),
            network(ends, "<address>192.0.2.0/24</address>", grant),
            network(ends, "<address>2001:db8::/32</address>", grant),
            network(ends, "<address>::/0</address>", grant),
            network(ends, "<address>0.0.0.0/0</address>", grant),
            network(ends, &format!("<{node}>1</{node}>"), grant),
            network(ends, &format!("<{node}>2</{node}>"), grant),
            network(ends, &format!("<{node}>2</{node}><port>53</port>"), grant),
            network(ends, "", "<grant>send</grant>"),
            network(ends, "", "<grant>receive</grant>"),
            network(ends, "", "<grant>connect</grant>"),
        ]);
    }
    kinds.push(vec![
        network(inside, "", "<grant>send connect</grant>"),
        network(inside, "", "<grant>receive</grant>"),
        network(
            inside,
            "<target_SnID>1</target_SnID>",
            "<grant>connect</grant>",
        ),
        network(
            inside,
            "<target_SnID>2</target_SnID>",
            "<grant>connect</grant>",
        ),
        network(inside, "<source_SnID>1</source_SnID>", grant),
        network(inside, "<target_SnID>1</target_SnID>", grant),
        network(
            inside,
            "<source_SnID>1</source_SnID><target_SnID>2</target_SnID>",
            grant,
        ),
        network(
            inside,
            "<source_SnID>1</source_SnID><target_SnID>9</target_SnID>",
            grant,
        ),
        network(
            inside,
            "<source_SnID>2</source_SnID><target_SnID>9</target_SnID>",
            grant,
        ),
    ]);
    for (element, ends, permission) in [
        ("socket_permission", inside, "bind"),
        ("process_permission", inside, "signal"),
        ("system_permission", "<source_ScID>10</source_ScID>", "bpf"),
    ] {
        let rule =
            |node: &str| format!("<{element}>{ends}{node}<grant>{permission}</grant></{element}>");
        kinds.push(vec![
            rule(""),
            rule("<source_SnID>1</source_SnID>"),
            rule("<source_SnID>2</source_SnID>"),
        ]);
    }
    for rules in kinds {
        for before in &rules {
            for after in &rules {
                let (a, b) = (
                    compiled(&document(std::slice::from_ref(before))),
                    compiled(&document(std::slice::from_ref(after))),
                );
                assert_eq!(
                    difference(&a, &b).is_empty(),
                    before == after,
                    "{before}\n{after}"
                );
            }
        }
    }
    // What is granted, and then denied in the same place; or beside another rule that grants it all.
    for (ends, all) in [
        (leaving, "<port>53</port>"),
        (arriving, "<address>192.0.2.0/24</address>"),
        (inside, ""),
    ] {
        let granted = [network(ends, all, grant)];
        let denied = [network(ends, all, deny)];
        let (a, b) = (compiled(&document(&granted)), compiled(&document(&denied)));
        assert!(!difference(&a, &b).is_empty(), "{ends}");
        held_against_the_world(&a, &b, &difference(&a, &b)).unwrap();
    }
}

#[test]
fn the_remedy_is_a_rule_that_allows_what_was_denied() {
    let empty = compiled(&document(&[]));
    for text in [
        "10@munster network:send 20@2",
        "10 network:receive 20@2",
        "10 connect outside:192.0.2.0/24 port 443",
        "outside:2001:db8::7 connect 10 port 8800-8899",
        "outside:192.0.2.7 network:send 10 from port 53",
        "10 network:receive outside:192.0.2.7 port 53",
        "10 network:send outside port 53",
        "10 network:multicast outside:224.0.0.1 port 5353",
        "outside network:multicast 10 port 5353",
        "10@1 socket:create 20",
        "10 signal twenty",
        "10@2 net_admin",
        "2 execute 10",
        "2 execute 10 becomes 20",
    ] {
        let question = |policy: &Compiled| policy.questions("question", text).unwrap()[0];
        assert_eq!(
            empty.answer(&question(&empty)).verdict(),
            Verdict::Denied,
            "{text}"
        );
        let remedy = empty.remedy(&question(&empty)).unwrap();
        let mended = compiled(&document(std::slice::from_ref(&remedy)));
        let verdict = mended.answer(&question(&mended)).verdict();
        assert_eq!(verdict, Verdict::Allowed, "{text}: {remedy}");
        // And nothing but what the question is about.
        assert!(
            difference(&empty, &mended).changes.len() <= 1,
            "{text}: {remedy}"
        );
    }
}

#[test]
fn ten_thousand_rules_are_compared_one_by_one() {
    let text = |ports: &str, last: &str| {
        let mut text = format!("<DSP xmlns=\"{NAMESPACE}\" mode=\"enforcing\"><contexts>");
        for zone in 10..210 {
            write!(text, "<context ScID=\"{zone}\" name=\"zone{zone}\"/>").unwrap();
        }
        text += "</contexts><rules>";
        for n in 0..7_000 {
            let (source, target, node) = (10 + n % 200, 10 + n / 200, 1 + n % 7);
            write!(
                text,
                "<network_permission><source_ScID>{source}</source_ScID><source_SnID>{node}</source_SnID>\
                 <target_ScID>{target}</target_ScID><grant>send connect</grant></network_permission>"
            )
            .unwrap();
        }
        for n in 0..3_000 {
            let (b, c) = (n / 250, n % 250);
            let ban = if n == 2_999 { last } else { "connect" };
            write!(
                text,
                "<network_permission><source_ScID>outside</source_ScID><target_ScID>10</target_ScID>\
                 <address>198.{b}.{c}.0/24</address><deny>{ban}</deny></network_permission>"
            )
            .unwrap();
        }
        write!(
            text,
            "<network_permission><source_ScID>outside</source_ScID><target_ScID>10</target_ScID><port>{ports}</port>\
             <grant>connect</grant></network_permission></rules></DSP>"
        )
        .unwrap();
        compiled(&text)
    };
    let before = text("443", "connect");
    assert!(difference(&before, &text("443", "connect")).is_empty());
    // One more port is one change, whose addresses are all but those that are banned.
    let found = difference(&before, &text("443-444", "connect"));
    let [
        Change {
            what:
                What::Permission {
                    space,
                    allowed: true,
                    ..
                },
            ..
        },
    ] = found.changes.as_slice()
    else {
        panic!("{:?}", found.changes.len());
    };
    assert_eq!(space.own_ports().only(), Some(444));
    let address = |text: &str| {
        let Address(high, low) = Address::of(text.parse().unwrap());
        u128::from(high) << 64 | u128::from(low)
    };
    assert!(space.addresses().contains(address("192.0.2.7")));
    assert!(!space.addresses().contains(address("198.3.4.7")));
    // A ban lifted is one change of one network.
    let found = difference(&before, &text("443", "send"));
    assert_eq!(found.changes.len(), 1, "{:?}", found.changes);
}
