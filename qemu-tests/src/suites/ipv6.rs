//! Proves that IPv6 is judged as IPv4 is: each packet between nodes carries a label where the wire format puts it, what
//! a policy denies is denied beside its allowed twin, forged and malformed labels reach nobody, and no process sheds
//! its label or puts another one there. No servers. The labels are read and made here, by nothing of the module's.

use std::net::Ipv6Addr;

use serde_json::json;

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{CLUSTER, enrol, hex, load, pair_key, secret, siphash, unload, ynl};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::pcap::{Frame, Ipv6};
use crate::regime::{
    self, Counters, Denial, Regime, WITHIN_10, ZONES, document, every_packet, network, tcp_ext,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "ipv6",
    proves: "an IPv6 packet has the same authenticated label as an IPv4 packet, and no other way in or out",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "udp-across-nodes-10-to-20-denied" => |c| denied(c, "udp", ACROSS, ZONE_10, ZONE_20),
    "udp-across-nodes-20-to-20-ok" => |c| allowed(c, "udp", ACROSS, ZONE_20, ZONE_20),
    "udp-across-nodes-20-to-10-denied" => |c| denied(c, "udp", ACROSS, ZONE_20, ZONE_10),
    "udp-across-nodes-10-to-10-ok" => |c| allowed(c, "udp", ACROSS, ZONE_10, ZONE_10),
    "tcp-across-nodes-10-to-20-denied" => |c| denied(c, "tcp", ACROSS, ZONE_10, ZONE_20),
    "tcp-across-nodes-20-to-20-ok" => |c| allowed(c, "tcp", ACROSS, ZONE_20, ZONE_20),
    "tcp-across-nodes-20-to-10-denied" => |c| denied(c, "tcp", ACROSS, ZONE_20, ZONE_10),
    "tcp-across-nodes-10-to-10-ok" => |c| allowed(c, "tcp", ACROSS, ZONE_10, ZONE_10),
    "udp-same-node-10-to-20-denied" => |c| denied(c, "udp", WITHIN, ZONE_10, ZONE_20),
    "udp-same-node-20-to-20-ok" => |c| allowed(c, "udp", WITHIN, ZONE_20, ZONE_20),
    "tcp-same-node-10-to-20-denied" => |c| denied(c, "tcp", WITHIN, ZONE_10, ZONE_20),
    "tcp-same-node-20-to-20-ok" => |c| allowed(c, "tcp", WITHIN, ZONE_20, ZONE_20),
    "udp-loopback-10-to-20-denied" => |c| denied(c, "udp", LOOPBACK, ZONE_10, ZONE_20),
    "udp-loopback-20-to-20-ok" => |c| allowed(c, "udp", LOOPBACK, ZONE_20, ZONE_20),
    "tcp-loopback-10-to-20-denied" => |c| denied(c, "tcp", LOOPBACK, ZONE_10, ZONE_20),
    "tcp-loopback-20-to-20-ok" => |c| allowed(c, "tcp", LOOPBACK, ZONE_20, ZONE_20),
    "udp-fragments-across-nodes-10-to-20-denied" => |c| in_parts(c, denied, ZONE_10),
    "udp-fragments-across-nodes-20-to-20-ok" => |c| in_parts(c, allowed, ZONE_20),
    "udp-fragments-same-node-10-to-20-denied" => |c| denied(c, "udp", LARGE_WITHIN, ZONE_10, ZONE_20),
    "udp-fragments-same-node-20-to-20-ok" => |c| allowed(c, "udp", LARGE_WITHIN, ZONE_20, ZONE_20),
    "udp-v4-mapped-10-to-20-denied" => |c| denied(c, "udp", MAPPED, ZONE_10, ZONE_20),
    "udp-v4-mapped-20-to-20-ok" => |c| allowed(c, "udp", MAPPED, ZONE_20, ZONE_20),
    "tcp-v4-mapped-10-to-20-denied" => |c| denied(c, "tcp", MAPPED, ZONE_10, ZONE_20),
    "tcp-v4-mapped-20-to-20-ok" => |c| allowed(c, "tcp", MAPPED, ZONE_20, ZONE_20),
    "rule-for-a-node-from-that-node-ok" => node_rule_meets,
    "rule-for-a-node-from-another-node-denied" => node_rule_misses,
    "outside-by-udp-denied" => |c| outside_denied(c, "udp"),
    "outside-by-tcp-denied" => |c| outside_denied(c, "tcp"),
    "outside-by-rule-ok" => outside_allowed,
    "udp-datagram-carries-authentic-label-ok" => udp_label,
    "every-tcp-segment-carries-authentic-label-ok" => tcp_label,
    "bulk-fits-the-mtu-ok" => bulk,
    "large-datagram-is-fragmented-ok" => fragments,
    "closed-port-resets-with-kernels-label-ok" => closed_port,
    "connection-by-syn-cookie-ok" => syn_cookie,
    "tshark-finds-header-where-it-is-described-ok" => tshark,
    "forged-labels-denied" => forged,
    "malformed-headers-denied" => malformed,
    "unlabelled-denied" => unlabelled,
    "right-label-by-hand-ok" => by_hand,
    "options-of-a-zone-denied" => options_denied,
    "options-of-default-stay-labelled-ok" => options_of_default,
    "unload-leaves-no-label-ok" => leaves_nothing,
};

const NAMES: [&str; 2] = ["munster", "colby"];
const MUNSTER: u8 = 1;
const COLBY: u8 = 2;
const EPOCH: u8 = 1;
const ZONE_10: Zone = Zone {
    scid: 10,
    port: 7010,
};
const ZONE_20: Zone = Zone {
    scid: 20,
    port: 7020,
};
/// Ports of the default zone on colby.
const DEFAULT: u16 = 7000;
const DEFAULT_SCID: u32 = 2;
const ACROSS: Way = Way {
    from: "munster",
    to: "[fd77::2]",
    source: "[fd77::1]",
    size: "64",
};
const WITHIN: Way = Way {
    from: "colby",
    to: "[fd77::2]",
    source: "[fd77::2]",
    size: "64",
};
const LOOPBACK: Way = Way {
    from: "colby",
    to: "[::1]",
    source: "[::1]",
    size: "64",
};
const MAPPED: Way = Way {
    from: "munster",
    to: "[::ffff:10.77.0.2]",
    source: "10.77.0.1",
    size: "64",
};
/// Of more octets than the network takes at once.
const LARGE_ACROSS: Way = Way {
    size: "8000",
    ..ACROSS
};
/// Than loopback does.
const LARGE_WITHIN: Way = Way {
    size: "65000",
    ..WITHIN
};
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
/// How long a client waits for what must not come. What is denied stays so, however long. A SYN is sent again each
/// second: not just when the test goes on.
const DENIED_MS: &str = "1500";
const ALLOWED_MS: &str = "170000";
const UDP: u8 = 17;
const TCP: u8 = 6;
const HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DEST: u8 = 60;
/// Port that forged packets come from.
const FORGER: u16 = 5555;

/// A zone, with the port of its servers on colby.
#[derive(Clone, Copy)]
struct Zone {
    scid: u32,
    port: u16,
}

/// The way of a message: from a node, to an address of colby's, which sees it come from another.
#[derive(Clone, Copy)]
struct Way {
    from: &'static str,
    to: &'static str,
    source: &'static str,
    /// Octets of the message.
    size: &'static str,
}

struct Kept {
    regime: Regime,
    _servers: Vec<Process>,
}

fn setup(cluster: &mut Cluster) -> TestResult {
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for (zone, program) in [("10", TRAFFIC), ("20", TRAFFIC), ("10", "/usr/bin/python3")] {
            let copy = of_zone(program, zone);
            node.run(&["install", "-D", program, &copy])?.ok()?;
            node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                .ok()?;
        }
    }
    enrol(cluster, &NAMES, EPOCH)?;
    let regime = Regime::establish(cluster, &NAMES)?;
    for name in NAMES {
        regime.enforce(cluster.node(name)?, &policy(&[]))?;
    }
    let colby = cluster.node("colby")?;
    let mut servers = Vec::new();
    for (zone, port) in [("10", ZONE_10.port), ("20", ZONE_20.port), ("", DEFAULT)] {
        for protocol in ["udp", "tcp"] {
            let program = if zone.is_empty() {
                TRAFFIC.to_owned()
            } else {
                of_zone(TRAFFIC, zone)
            };
            let (mode, bind) = (format!("{protocol}-server"), format!("[::]:{port}"));
            let server = colby.spawn(
                &format!("{mode}-{port}"),
                &[&program, &mode, "--bind", &bind],
            )?;
            server.wait_line("serving")?;
            servers.push(server);
        }
    }
    cluster.kept = Some(Box::new(Kept {
        regime,
        _servers: servers,
    }));
    Ok(())
}

fn policy(more: &[&str]) -> String {
    let mut rules = vec![ZONES, WITHIN_10];
    rules.extend(more);
    document("enforcing", &rules)
}

/// Has a policy in force on both nodes.
fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    NAMES
        .iter()
        .try_for_each(|name| kept.regime.enforce(cluster.node(name)?, policy))
}

/// The copy of a program that has a zone's label.
fn of_zone(program: &str, zone: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone{zone}/{name}")
}

/// Runs a client of a zone.
fn client(
    node: &Node,
    protocol: &str,
    scid: u32,
    to: &str,
    timeout_ms: &str,
    more: &[&str],
) -> Result<Output, Failure> {
    let program = if scid == DEFAULT_SCID {
        TRAFFIC.to_owned()
    } else {
        of_zone(TRAFFIC, &scid.to_string())
    };
    let mode = format!("{protocol}-client");
    let mut argv = vec![
        program.as_str(),
        &mode,
        "--to",
        to,
        "--timeout-ms",
        timeout_ms,
    ];
    argv.extend(more);
    Ok(node.run(&argv)?)
}

fn allowed(cluster: &mut Cluster, protocol: &str, way: Way, from: Zone, to: Zone) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    passes(cluster, protocol, way, from, to)
}

fn denied(cluster: &mut Cluster, protocol: &str, way: Way, from: Zone, to: Zone) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    is_refused(cluster, protocol, way, from, to)
}

/// A message and its answer pass, and the receiver's node refuses nothing.
fn passes(cluster: &Cluster, protocol: &str, way: Way, from: Zone, to: Zone) -> TestResult {
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    let target = format!("{}:{}", way.to, to.port);
    client(
        cluster.node(way.from)?,
        protocol,
        from.scid,
        &target,
        ALLOWED_MS,
        &["--size", way.size],
    )?
    .ok()?
    .says("result=ok sent=1 answered=1 lost=0")?;
    let after = Counters::of(colby)?;
    check!(
        after.rise(&before, "in-labelled")? > 0,
        "no labelled packet was counted"
    );
    let refusals = after.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// A message is refused by the receiver's node.
fn is_refused(cluster: &Cluster, protocol: &str, way: Way, from: Zone, to: Zone) -> TestResult {
    let (colby, node) = (cluster.node("colby")?, cluster.node(way.from)?);
    let mark = colby.kernel_mark();
    let before = Counters::of(colby)?;
    let target = format!("{}:{}", way.to, to.port);
    let size = ["--size", way.size];
    client(node, protocol, from.scid, &target, DENIED_MS, &size)?
        .exits_with(11)?
        .says("result=timeout")?;
    let head = format!(
        "denied sscid={} ssnid={} tscid={} tsnid=2 {protocol} {}:",
        from.scid, node.index, to.scid, way.source
    );
    let denial = Denial::wait(colby, mark, &head)?;
    let destination = target.replace("[::ffff:10.77.0.2]", "10.77.0.2");
    check_eq!(denial.ends()?.1, destination, "destination");
    denial.says("reason", "no-permission")?;
    denial.says("hook", "socket_sock_rcv_skb")?;
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check_eq!(
        refusals.keys().collect::<Vec<_>>(),
        ["refused-no-permission"],
        "reasons"
    );
    Ok(())
}

/// Zone 10 may reach zone 20, but only from a node; only on a node.
fn node_rules(from: &str, to: &str) -> [String; 2] {
    let grant = "send receive connect";
    let target = format!("</target_ScID><target_SnID>{to}</target_SnID>");
    [
        policy(&[&network("10", from, "20", grant)]),
        policy(&[&network("10", "", "20", grant).replace("</target_ScID>", &target)]),
    ]
}

fn node_rule_meets(cluster: &mut Cluster) -> TestResult {
    for policy in node_rules("munster", "colby") {
        enforce(cluster, &policy)?;
        passes(cluster, "udp", ACROSS, ZONE_10, ZONE_20)?;
        passes(cluster, "tcp", ACROSS, ZONE_10, ZONE_20)?;
    }
    Ok(())
}

fn node_rule_misses(cluster: &mut Cluster) -> TestResult {
    // The first one names munster, and colby sends; the other one names munster, and colby receives.
    for policy in node_rules("munster", "munster") {
        enforce(cluster, &policy)?;
        is_refused(cluster, "udp", WITHIN, ZONE_10, ZONE_20)?;
        is_refused(cluster, "tcp", WITHIN, ZONE_10, ZONE_20)?;
    }
    Ok(())
}

/// Zone 20's server gets a datagram in parts; it is judged once, when it is whole.
fn in_parts(
    cluster: &mut Cluster,
    judge: fn(&mut Cluster, &str, Way, Zone, Zone) -> TestResult,
    from: Zone,
) -> TestResult {
    let mark = cluster.switch.mark();
    judge(cluster, "udp", LARGE_ACROSS, from, ZONE_20)?;
    let frames = cluster.switch.frames_since(mark)?;
    let parts = frames.iter().filter_map(Frame::ipv6).filter(|packet| {
        packet.source == address6(MUNSTER)
            && packet.extensions.iter().any(|(kind, _)| *kind == FRAGMENT)
    });
    let parts = parts.count();
    check!(parts >= 6, "8000 octets in {parts} parts");
    Ok(())
}

/// Nobody has this address, so no node does.
const NOBODY: &str = "[fd77::99]:7010";

fn outside_denied(cluster: &mut Cluster, protocol: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let munster = cluster.node("munster")?;
    let mark = munster.kernel_mark();
    client(munster, protocol, 10, NOBODY, DENIED_MS, &[])?
        .exits_with(12)?
        .says("result=denied")?;
    let denial = Denial::wait(
        munster,
        mark,
        "denied sscid=10 ssnid=1 tscid=outside tsnid=0",
    )?;
    check_eq!(denial.ends()?.1, NOBODY, "destination");
    // A link-local address is no node's, whoever has it.
    client(
        munster,
        protocol,
        10,
        "[fe80::5054:ff:fe77:2]:7010",
        DENIED_MS,
        &[],
    )?
    .exits_with(12)?;
    Ok(())
}

fn outside_allowed(cluster: &mut Cluster) -> TestResult {
    let rule = network("10", "", "outside", "send connect");
    enforce(cluster, &policy(&[&rule]))?;
    let munster = cluster.node("munster")?;
    let mark = cluster.switch.mark();
    // It is sent for, in vain.
    let output = client(munster, "udp", 10, NOBODY, DENIED_MS, &[])?;
    check!(
        !output.stdout.contains("result=denied"),
        "{}",
        output.describe()
    );
    let asked = cluster
        .switch
        .frames_since(mark)?
        .iter()
        .filter_map(Frame::ipv6)
        .any(|packet| packet.protocol == 58 && packet.payload.first() == Some(&135));
    check!(asked, "nobody was asked for the address");
    enforce(cluster, &policy(&[]))
}

/// The packets with this port since a mark.
fn packets(cluster: &Cluster, mark: u64, port: u16) -> Result<Vec<Ipv6>, Failure> {
    Ok(cluster
        .switch
        .frames_since(mark)?
        .iter()
        .filter_map(Frame::ipv6)
        .filter(|packet| {
            packet
                .ports()
                .is_some_and(|(from, to)| from == port || to == port)
        })
        .collect())
}

/// Who a label says that it is from.
#[derive(Clone, Copy)]
struct Claim {
    snid: u8,
    scid: u32,
    epoch: u8,
    key: [u8; 16],
}

/// What the label's header of a packet must be.
fn header(
    claim: &Claim,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    protocol: u8,
    (sport, dport): (u16, u16),
) -> [u8; 24] {
    let halves = |address: Ipv6Addr| {
        let bits = address.to_bits();
        [(bits >> 64) as u64, bits as u64]
    };
    let [s0, s1] = halves(source);
    let [d0, d1] = halves(destination);
    let code = siphash(
        &claim.key,
        &[
            1 << 60
                | u64::from(claim.epoch) << 48
                | u64::from(protocol) << 32
                | u64::from(claim.snid),
            u64::from(claim.scid) << 32 | u64::from(sport) << 16 | u64::from(dport),
            s0,
            s1,
            d0,
            d1,
        ],
    );
    let mut header = [0; 24];
    header[..8].copy_from_slice(&[protocol, 2, 1, 0, 0x1e, 18, 0x10, claim.epoch]);
    header[8..12].copy_from_slice(&u32::from(claim.snid).to_be_bytes());
    header[12..16].copy_from_slice(&claim.scid.to_be_bytes());
    header[16..].copy_from_slice(&code.to_be_bytes());
    header
}

/// Whether a segment is an acknowledgement in the kernel's name: who has ended a connection has no socket of his any more
/// that could answer what comes late.
fn is_kernels_own(packet: &Ipv6) -> bool {
    const SYN_FIN_RST: u8 = 7;
    let (Some(offset), Some(flags)) = (packet.payload.get(12), packet.payload.get(13)) else {
        return false;
    };
    let empty = packet.payload.len() == usize::from(offset >> 4) * 4;
    let scid = packet
        .extensions
        .iter()
        .find(|(kind, header)| *kind == DEST && header.len() == 24);
    packet.protocol == TCP
        && empty
        && flags & SYN_FIN_RST == 0
        && scid.is_some_and(|(_, header)| header[12..16] == [0; 4])
}

/// Each packet of a flow, there and back, has the one header that it must have.
fn authentic(packets: &[Ipv6], scid: u32) -> TestResult {
    check!(packets.len() >= 2, "{} packets", packets.len());
    for packet in packets {
        let from = if packet.source == address6(MUNSTER) {
            MUNSTER
        } else {
            COLBY
        };
        let claim = Claim {
            snid: from,
            scid: if is_kernels_own(packet) { 0 } else { scid },
            epoch: EPOCH,
            key: pair_key(from.into(), (3 - from).into(), EPOCH),
        };
        let ports = packet
            .ports()
            .ok_or_else(|| Failure::new("no ports".to_owned()))?;
        let ends = (packet.source, packet.destination);
        let expected = header(&claim, ends, packet.protocol, ports).to_vec();
        let found: Vec<_> = packet
            .extensions
            .iter()
            .filter(|(kind, _)| *kind != FRAGMENT)
            .cloned()
            .collect();
        check_eq!(
            found,
            [(DEST, expected)],
            "headers of {:?} {ports:?}",
            packet.source
        );
    }
    Ok(())
}

fn udp_label(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let munster = cluster.node("munster")?;
    client(
        munster,
        "udp",
        10,
        "[fd77::2]:7010",
        ALLOWED_MS,
        &["--count", "3"],
    )?
    .ok()?;
    authentic(&packets(cluster, mark, 7010)?, 10)
}

fn tcp_label(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &every_packet(&policy(&[])))?;
    let mark = cluster.switch.mark();
    let munster = cluster.node("munster")?;
    client(
        munster,
        "tcp",
        20,
        "[fd77::2]:7020",
        ALLOWED_MS,
        &["--count", "3"],
    )?
    .ok()?;
    let packets = packets(cluster, mark, 7020)?;
    check!(
        packets.iter().all(|packet| packet.protocol == TCP),
        "{packets:?}"
    );
    authentic(&packets, 20)
}

fn bulk(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &every_packet(&policy(&[])))?;
    let mark = cluster.switch.mark();
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let before = Counters::of(colby)?;
    let received = "awk '$1 == \"Ip6InReceives\" {print $2}' /proc/net/snmp6";
    let handled = || -> Result<usize, Failure> {
        let output = colby.sh(received)?.ok()?;
        let number = output.stdout.trim().parse();
        number.map_err(|_| Failure::new(output.describe()))
    };
    let handled_before = handled()?;
    let size = ["--size", "300000", "--count", "2"];
    client(munster, "tcp", 10, "[fd77::2]:7010", ALLOWED_MS, &size)?.ok()?;
    let handled = handled()? - handled_before;
    let packets = packets(cluster, mark, 7010)?;
    let sent = packets
        .iter()
        .filter(|packet| packet.source == address6(MUNSTER))
        .count();
    check!(
        handled < sent,
        "of {sent} packets on the wire {handled} came up the stack: none was merged"
    );
    let largest = packets
        .iter()
        .map(|packet| packet.len)
        .max()
        .unwrap_or_default();
    check_eq!(largest, 1500, "octets of the largest packet");
    let after = Counters::of(colby)?;
    let refusals = after.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    authentic(&packets, 10)
}

fn fragments(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let munster = cluster.node("munster")?;
    client(
        munster,
        "udp",
        10,
        "[fd77::2]:7010",
        ALLOWED_MS,
        &["--size", "8000"],
    )?
    .ok()?;
    let frames = cluster.switch.frames_since(mark)?;
    let parts: Vec<Ipv6> = frames
        .iter()
        .filter_map(Frame::ipv6)
        .filter(|packet| packet.extensions.iter().any(|(kind, _)| *kind == FRAGMENT))
        .collect();
    check!(
        parts.len() >= 12,
        "8000 octets there and back in {} parts",
        parts.len()
    );
    // The label's header is in each fragment, before the one that makes it a fragment.
    let mut firsts = Vec::new();
    for mut part in parts {
        check_eq!(part.extensions.len(), 2, "headers of a fragment");
        check_eq!(part.extensions[0].1[0], FRAGMENT, "second header");
        part.extensions[0].1[0] = UDP;
        if part.extensions[1].1[2..4] == [0, 1] {
            firsts.push(part);
        } else {
            let first = firsts
                .iter()
                .find(|first: &&Ipv6| first.source == part.source);
            check_eq!(
                first.map(|first| &first.extensions[0]),
                Some(&part.extensions[0]),
                "the label of a part and of its first part"
            );
        }
    }
    check_eq!(firsts.len(), 2, "first fragments");
    authentic(&firsts, 10)
}

fn closed_port(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    let munster = cluster.node("munster")?;
    client(munster, "tcp", 10, "[fd77::2]:7999", ALLOWED_MS, &[])?
        .exits_with(10)?
        .says("result=refused")?;
    let packets = packets(cluster, mark, 7999)?;
    let (resets, rest): (Vec<_>, Vec<_>) = packets
        .into_iter()
        .partition(|packet| packet.source == address6(COLBY));
    check!(!rest.is_empty(), "no request");
    authentic(&[&resets[..], &resets[..]].concat(), 0)
}

fn syn_cookie(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &every_packet(&policy(&[])))?;
    let mark = cluster.switch.mark();
    let colby = cluster.node("colby")?;
    let before = tcp_ext(colby, "SyncookiesRecv")?;
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=2")?.ok()?;
    let munster = cluster.node("munster")?;
    client(
        munster,
        "tcp",
        10,
        "[fd77::2]:7010",
        ALLOWED_MS,
        &["--size", "20000"],
    )?
    .ok()?;
    colby.sh("sysctl -qw net.ipv4.tcp_syncookies=1")?.ok()?;
    check!(
        tcp_ext(colby, "SyncookiesRecv")? > before,
        "no cookie was taken"
    );
    authentic(&packets(cluster, mark, 7010)?, 10)
}

fn tshark(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    client(
        munster,
        "udp",
        10,
        "[fd77::2]:7010",
        ALLOWED_MS,
        &["--size", "777"],
    )?
    .ok()?;
    let output = std::process::Command::new("tshark")
        .arg("-r")
        .arg(cluster.switch.capture_path())
        .args(["-o", "udp.check_checksum:TRUE", "-Y"])
        .arg("udp.dstport == 7010 && udp.length == 785")
        .args(["-T", "fields", "-E", "occurrence=f"])
        .args([
            "-e",
            "ipv6.nxt",
            "-e",
            "ipv6.dstopts.len_oct",
            "-e",
            "ipv6.dstopts.nxt",
        ])
        .args(["-e", "udp.checksum.status"])
        .output()
        .map_err(|error| Failure::new(format!("tshark: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = text.split_whitespace().collect();
    check_eq!(
        fields,
        ["60", "24", "17", "1"],
        "next header, length, next header, checksum verified: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A datagram from munster's address to zone 10 on colby, with these headers in front, the first of this kind.
fn frame(source: Ipv6Addr, headers: &[u8], first: u8, dport: u16, data: &str) -> Vec<u8> {
    let destination = address6(COLBY);
    let mut payload = Vec::new();
    payload.extend(FORGER.to_be_bytes());
    payload.extend(dport.to_be_bytes());
    payload.extend((data.len() as u16 + 8).to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(data.as_bytes());
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend((payload.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, UDP]);
    pseudo.extend(&payload);
    let sum = pseudo.chunks(2).fold(0_u32, |sum, word| {
        let sum = sum + (u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        (sum & 0xffff) + (sum >> 16)
    });
    payload[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = vec![
        0x52, 0x54, 0, 0x77, 0, COLBY, 2, 0, 0, 0, 0, 0x66, 0x86, 0xdd,
    ];
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(((headers.len() + payload.len()) as u16).to_be_bytes());
    frame.extend([first, 64]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(headers);
    frame.extend(payload);
    frame
}

/// The claim that munster may make.
fn right() -> Claim {
    Claim {
        snid: MUNSTER,
        scid: 10,
        epoch: EPOCH,
        key: pair_key(MUNSTER.into(), COLBY.into(), EPOCH),
    }
}

/// Its label's header on a datagram from munster.
fn label(claim: &Claim) -> Vec<u8> {
    let ends = (address6(MUNSTER), address6(COLBY));
    header(claim, ends, UDP, (FORGER, ZONE_10.port)).to_vec()
}

/// Puts frames on the wire; returns once colby has handled them, which answers nobody.
fn inject(cluster: &Cluster, frames: &[Vec<u8>]) -> TestResult {
    let mark = cluster.switch.mark();
    for frame in frames {
        cluster.switch.inject(frame);
    }
    let munster = cluster.node("munster")?;
    client(
        munster,
        "udp",
        DEFAULT_SCID,
        "[fd77::2]:7000",
        ALLOWED_MS,
        &[],
    )?
    .ok()?;
    let answered = packets(cluster, mark, FORGER)?
        .iter()
        .any(|packet| packet.source == address6(COLBY));
    check!(!answered, "a forged packet was answered");
    Ok(())
}

/// These frames must be refused for this reason, each of them.
fn refused(cluster: &Cluster, reason: &str, frames: &[Vec<u8>]) -> TestResult {
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    inject(cluster, frames)?;
    let refusals = Counters::of(colby)?.refusals(&before)?;
    let expected = [(format!("refused-{reason}"), frames.len() as u64)];
    check_eq!(refusals, expected.into(), "what was refused");
    Ok(())
}

fn forged(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let munster = address6(MUNSTER);
    let with = |headers: &[u8]| frame(munster, headers, DEST, ZONE_10.port, "forged");
    let mut wrong = label(&right());
    wrong[23] ^= 1;
    let other_zone = {
        let mut header = label(&right());
        header[15] = 20;
        header
    };
    let foreign = Claim {
        key: [7; 16],
        ..right()
    };
    // The code that an IPv4 packet would have.
    let of_ipv4 = {
        let mut header = label(&right());
        let code = siphash(
            &right().key,
            &[
                1 << 60 | u64::from(EPOCH) << 48 | u64::from(UDP) << 32 | 1,
                10 << 32 | 0x0a4d_0001,
                0x0a4d_0002 << 32 | u64::from(FORGER) << 16 | u64::from(ZONE_10.port),
            ],
        );
        header[16..].copy_from_slice(&code.to_be_bytes());
        header
    };
    let elsewhere = frame(munster, &label(&right()), DEST, ZONE_10.port + 10, "forged");
    // Munster derives the key by which colby labels to it, and colby's to itself is nobody else's.
    let of_other_pair = |from: u8, to: u8| Claim {
        key: pair_key(from.into(), to.into(), EPOCH),
        ..right()
    };
    let frames = [
        with(&wrong),
        with(&other_zone),
        with(&label(&foreign)),
        with(&label(&of_other_pair(COLBY, MUNSTER))),
        with(&label(&of_other_pair(MUNSTER, MUNSTER))),
        with(&of_ipv4),
        elsewhere,
    ];
    refused(cluster, "bad-mac", &frames)?;
    let stranger = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x77);
    let frames = [frame(
        stranger,
        &label(&right()),
        DEST,
        ZONE_10.port,
        "forged",
    )];
    refused(cluster, "unknown-node", &frames)?;
    let own = Claim {
        snid: COLBY,
        ..right()
    };
    refused(cluster, "wrong-source", &[with(&label(&own))])?;
    let later = Claim {
        epoch: EPOCH + 1,
        ..right()
    };
    refused(cluster, "unknown-epoch", &[with(&label(&later))])
}

fn malformed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let munster = address6(MUNSTER);
    let right = label(&right());
    let changed = |at: usize, byte: u8| {
        let mut header = right.clone();
        header[at] = byte;
        header
    };
    let chain = |headers: &[&[u8]]| headers.concat();
    let padding = [UDP, 0, 1, 4, 0, 0, 0, 0];
    // Twice; in the first of two headers; in a hop-by-hop header; beside another option; not aligned; unstamped; another version.
    let cases = [
        (DEST, chain(&[&changed(0, DEST), &right])),
        (DEST, chain(&[&changed(0, DEST), &padding])),
        (HOP, right.clone()),
        (
            DEST,
            chain(&[&[UDP, 3, 1, 0], &right[4..], &[0x1c, 6, 0, 0, 0, 0, 0, 0]]),
        ),
        (DEST, chain(&[&[UDP, 2], &right[4..], &[1, 0]])),
        (DEST, changed(6, 0)),
        (DEST, changed(6, 0x20)),
    ];
    let frames: Vec<_> = cases
        .iter()
        .map(|(first, headers)| frame(munster, headers, *first, ZONE_10.port, "forged"))
        .collect();
    refused(cluster, "bad-label", &frames)
}

fn unlabelled(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let stranger = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x77);
    let padding = [UDP, 0, 1, 4, 0, 0, 0, 0];
    let frames = [
        frame(stranger, &[], UDP, ZONE_10.port, "forged"),
        frame(address6(MUNSTER), &[], UDP, ZONE_10.port, "forged"),
        frame(address6(MUNSTER), &padding, DEST, ZONE_10.port, "forged"),
    ];
    refused(cluster, "no-label", &frames)
}

/// The way is free for who may go it; whatever else fails to arrive was refused.
fn by_hand(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let padding = [DEST, 0, 1, 4, 0, 0, 0, 0];
    let mark = cluster.switch.mark();
    for (first, headers) in [
        (DEST, label(&right())),
        (HOP, [&padding[..], &label(&right())].concat()),
    ] {
        let frame = frame(address6(MUNSTER), &headers, first, ZONE_10.port, "right");
        cluster.switch.inject(&frame);
    }
    // The server sends each back.
    regime::until("two answers", || {
        let packets = packets(cluster, mark, FORGER)?;
        let answers = packets
            .iter()
            .filter(|packet| packet.source == address6(COLBY));
        Ok(answers.count() == 2)
    })
}

/// What a process may try with its sockets' options: prints each attempt and what came of it.
const OPTIONS: &str = "
import socket, sys
S, V = socket, socket.IPPROTO_IPV6
fake = bytes([0, 2, 1, 0, 0x1e, 18, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 20]) + bytes(8)
shifted = bytes([0, 2]) + fake[4:] + bytes([1, 0])
padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])
# A routing header of type 2 by way of colby.
routing = bytes([0, 2, 2, 1, 0, 0, 0, 0]) + S.inet_pton(S.AF_INET6, 'fd77::2')
to = ('fd77::2', int(sys.argv[1]))
def tell(name, run):
    try:
        run()
        print(name, 'ok', flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)
def udp():
    return S.socket(S.AF_INET6, S.SOCK_DGRAM)
for name, option, value in [('hopopts', 54, padding), ('rthdrdstopts', 55, padding), ('rthdr', 57, routing), ('dstopts', 59, fake),
                            ('padding', 59, padding), ('recvhopopts', 53, b'\\1\\0\\0\\0'), ('recvdstopts', 58, b'\\1\\0\\0\\0'),
                            ('2292pktoptions', 6, b'')]:
    tell('set-' + name, lambda: udp().setsockopt(V, option, value))
for name, kind, value in [('padding', 59, padding), ('fake', 59, fake), ('fake-shifted', 59, shifted), ('fake-hop', 54, fake), ('route', 57, routing)]:
    tell('send-' + name, lambda: udp().sendmsg([name.encode()], [(V, kind, value)], 0, to))
connection = S.create_connection(to)
connection.sendall(b'x')
connection.recv(1)
tell('get-dstopts', lambda: connection.getsockopt(V, 59, 64))
tell('replace-dstopts', lambda: connection.setsockopt(V, 59, b''))
connection.sendall(bytes(3000))
";

fn options(cluster: &Cluster, python: &str, port: u16) -> Result<Vec<String>, Failure> {
    let munster = cluster.node("munster")?;
    munster.write("/srv/options.py", OPTIONS)?;
    let output = munster
        .run(&[python, "/srv/options.py", &port.to_string()])?
        .ok()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

fn options_denied(cluster: &mut Cluster) -> TestResult {
    // The connection that options are set on holds room for labels.
    enforce(cluster, &every_packet(&policy(&[])))?;
    let mark = cluster.switch.mark();
    let told = options(cluster, &of_zone("/usr/bin/python3", "10"), ZONE_10.port)?;
    check_eq!(
        told,
        [
            "set-hopopts 1",
            "set-rthdrdstopts 1",
            "set-rthdr 1",
            "set-dstopts 1",
            "set-padding 1",
            "set-recvhopopts 1",
            "set-recvdstopts 1",
            "set-2292pktoptions 1",
            "send-padding ok",
            "send-fake ok",
            "send-fake-shifted 1",
            "send-fake-hop 1",
            "send-route 1",
            "get-dstopts 92",
            "replace-dstopts 1",
        ],
        "what came of each attempt"
    );
    // What looks like room for a label is filled with the true one.
    let packets = packets(cluster, mark, ZONE_10.port)?;
    let (padded, plain): (Vec<_>, Vec<_>) = packets
        .into_iter()
        .partition(|packet| packet.extensions.len() != 1);
    check_eq!(padded.len(), 1, "packets with other headers too");
    let padded: Vec<_> = padded
        .into_iter()
        .map(|mut packet| {
            packet.extensions.remove(0);
            packet
        })
        .collect();
    authentic(&[&padded[..], &plain[..]].concat(), 10)
}

fn options_of_default(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &every_packet(&policy(&[])))?;
    let told = options(cluster, "/usr/bin/python3", DEFAULT)?;
    // Its sockets may have options as long as they hold no room for a label, but no packet leaves with a label of
    // their own, or another way than its destination tells.
    for line in [
        "set-hopopts ok",
        "set-padding ok",
        "send-padding ok",
        "send-fake ok",
        "send-fake-shifted 1",
        "send-fake-hop 1",
        "send-route 1",
        "get-dstopts 92",
        "replace-dstopts 1",
    ] {
        check!(
            told.iter().any(|told| told == line),
            "no '{line}': {told:?}"
        );
    }
    Ok(())
}

fn leaves_nothing(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let munster = cluster.node("munster")?;
    let to = format!("[fd77::2]:{DEFAULT}");
    let flow = munster.spawn(
        "flow",
        &[
            TRAFFIC,
            "tcp-client",
            "--to",
            &to,
            "--count",
            "100000000",
            "--until-file",
            "/tmp/stop-flow",
            "--interval-ms",
            "50",
            "--timeout-ms",
            ALLOWED_MS,
        ],
    )?;
    let since = cluster.switch.mark();
    regime::until("the flow", || {
        Ok(packets(cluster, since, DEFAULT)?.len() > 10)
    })?;
    for name in NAMES {
        unload(cluster.node(name)?)?;
    }
    // What was labelled before is on the wire before this question and its answer.
    client(munster, "udp", DEFAULT_SCID, &to, ALLOWED_MS, &[])?.ok()?;
    let mark = cluster.switch.mark();
    regime::until("packets of the flow", || {
        Ok(packets(cluster, mark, DEFAULT)?.len() > 10)
    })?;
    munster.sh("touch /tmp/stop-flow")?.ok()?;
    check_eq!(flow.join()?, Some(0), "the flow's end");
    let labelled = packets(cluster, mark, DEFAULT)?
        .iter()
        .filter(|packet| !packet.extensions.is_empty())
        .count();
    check_eq!(labelled, 0, "packets with headers");
    // The module can be had again, and has forgotten nothing that it should give back.
    load(munster, &[])?;
    let own = json!(["config-set", {"snid": MUNSTER, "cluster": format!("hex:{CLUSTER}")}]);
    let key = json!(["key-set", {"epoch": 1, "secret": hex(&secret(1, 1)), "active": 1}]);
    ynl(munster, &[own, key])?.ok()?;
    unload(munster)?;
    Ok(())
}
