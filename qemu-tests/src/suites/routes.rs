//! Proves that a label holds over a route: munster and colby talk by way of a third node, which only forwards, over IPv4
//! and IPv6, and what a policy denies is denied beside its allowed twin. Relay hosts neither zone, and can say nothing in
//! the name of what it forwards. No servers.

use serde_json::json;

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{enrol, hex, load, pair_key, ynl};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::pcap::Frame;
use crate::regime::{
    self, Counters, Denial, Regime, WITHIN_10, ZONES, document, every_packet, until,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "routes",
    proves: "a label holds by way of a node that only forwards, and what is denied is denied there, too",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("relay"),
    ],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "udp-by-way-of-a-third-node-within-a-zone-ok" => |c| allowed(c, UDP, FAR),
    "udp-by-way-of-a-third-node-to-another-zone-denied" => |c| denied(c, UDP, FAR),
    "tcp-by-way-of-a-third-node-within-a-zone-ok" => |c| allowed(c, TCP, FAR),
    "tcp-by-way-of-a-third-node-to-another-zone-denied" => |c| denied(c, TCP, FAR),
    "ipv6-udp-by-way-of-a-third-node-within-a-zone-ok" => |c| allowed(c, UDP, FAR6),
    "ipv6-udp-by-way-of-a-third-node-to-another-zone-denied" => |c| denied(c, UDP, FAR6),
    "ipv6-tcp-by-way-of-a-third-node-within-a-zone-ok" => |c| allowed(c, TCP, FAR6),
    "ipv6-tcp-by-way-of-a-third-node-to-another-zone-denied" => |c| denied(c, TCP, FAR6),
    "third-node-in-its-own-name-denied" => own_name,
    "tcp-through-a-smaller-hop-by-handshake-ok" => |c| stream_through_a_smaller_hop(c, FAR, false),
    "tcp-through-a-smaller-hop-labelled-each-ok" => |c| stream_through_a_smaller_hop(c, FAR, true),
    "ipv6-tcp-through-a-smaller-hop-by-handshake-ok" => |c| stream_through_a_smaller_hop(c, FAR6, false),
    "ipv6-tcp-through-a-smaller-hop-labelled-each-ok" => |c| stream_through_a_smaller_hop(c, FAR6, true),
    "udp-through-a-smaller-hop-within-a-zone-ok" => |c| datagrams_through_a_smaller_hop(c, FAR, "10"),
    "udp-through-a-smaller-hop-to-another-zone-denied" => |c| datagrams_through_a_smaller_hop(c, FAR, "20"),
    "ipv6-udp-through-a-smaller-hop-within-a-zone-ok" => |c| datagrams_through_a_smaller_hop(c, FAR6, "10"),
    "ipv6-udp-through-a-smaller-hop-to-another-zone-denied" => |c| datagrams_through_a_smaller_hop(c, FAR6, "20"),
};

const NAMES: [&str; 3] = ["munster", "colby", "relay"];
const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const EPOCH: u8 = 1;
/// Kinds of sockets.
const TCP: &str = "1";
const UDP: &str = "2";

/// How long is waited for what must not come. What is denied stays so, however long. A SYN is sent again each second: not
/// just when the test goes on.
const DENIED_MS: &str = "1500";

/// Family of addresses, any of them, and colby's.
#[derive(Clone, Copy)]
struct Ends {
    family: &'static str,
    any: &'static str,
    colby: &'static str,
}

/// Munster and colby where only relay sees both.
const FAR: Ends = Ends {
    family: "2",
    any: "0.0.0.0",
    colby: "10.79.2.2",
};
const FAR6: Ends = Ends {
    family: "10",
    any: "[::]",
    colby: "[fd79:2::2]",
};
/// Their further addresses, and what is theirs in the node map.
const OF_MUNSTER: [&str; 2] = ["10.79.1.1", "fd79:1::1"];
const OF_COLBY: [&str; 2] = ["10.79.2.2", "fd79:2::2"];

const HOSTING: &str = "
<hosting><SnID>munster</SnID><ScID>10</ScID></hosting><hosting><SnID>munster</SnID><ScID>20</ScID></hosting>
<hosting><SnID>colby</SnID><ScID>10</ScID></hosting><hosting><SnID>colby</SnID><ScID>20</ScID></hosting>";

/// Addresses and routes: `$1` the own network's number, `$2` the own address' last part, `$3` the other network's.
const ADDRESSES: &str = "sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.eth0.accept_redirects=0 \
     net.ipv6.conf.all.accept_redirects=0 net.ipv6.conf.eth0.accept_redirects=0 && \
     ip addr add 10.79.$1.$2/24 dev eth0 && ip -6 addr add fd79:$1::$2/64 dev eth0 nodad && \
     ip route add 10.79.$3.0/24 via 10.79.$1.254 src 10.79.$1.$2 && \
     ip -6 route add fd79:$3::/64 via fd79:$1::fe src fd79:$1::$2";
const FORWARDING: &str = "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0 && \
     ip addr add 10.79.1.254/24 dev eth0 && ip addr add 10.79.2.254/24 dev eth0 && \
     ip -6 addr add fd79:1::fe/64 dev eth0 nodad && ip -6 addr add fd79:2::fe/64 dev eth0 nodad && \
     sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";

fn setup(cluster: &mut Cluster) -> TestResult {
    for (name, numbers) in [("munster", ["1", "1", "2"]), ("colby", ["2", "2", "1"])] {
        let argv = [&["bash", "-c", ADDRESSES, "addresses"][..], &numbers].concat();
        cluster.node(name)?.run(&argv)?.ok()?;
    }
    cluster.node("relay")?.sh(FORWARDING)?.ok()?;
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20"] {
            for (program, copy) in [(PROBE, program(zone)), (TRAFFIC, traffic(zone))] {
                node.run(&["install", "-D", program, &copy])?.ok()?;
                node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                    .ok()?;
            }
        }
    }
    enrol(cluster, &NAMES, EPOCH)?;
    for name in NAMES {
        let node = cluster.node(name)?;
        for (snid, more) in [(1, OF_MUNSTER), (2, OF_COLBY)] {
            let all = [
                format!("10.77.0.{snid}"),
                address6(snid).to_string(),
                more[0].to_owned(),
                more[1].to_owned(),
            ];
            let mut member = json!({"snid": snid, "address": all});
            if node.index != snid {
                member["key-epoch"] = EPOCH.into();
                member["tx-key"] = hex(&pair_key(node.index.into(), snid.into(), EPOCH)).into();
            }
            ynl(node, &[json!(["node-set", member])])?.ok()?;
        }
    }
    let regime = Regime::establish(cluster, &NAMES)?;
    cluster.kept = Some(Box::new(regime));
    enforce(cluster, &policy())
}

/// What is in force, but for tests that say otherwise.
fn policy() -> String {
    let policy = document("enforcing", &[ZONES, WITHIN_10, HOSTING]);
    // The third node is in it, too.
    policy.replace("</nodes>", "<node SnID=\"3\" name=\"relay\"/></nodes>")
}

fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let regime: &Regime = regime::kept(cluster)?;
    NAMES
        .iter()
        .try_for_each(|name| regime.enforce(cluster.node(name)?, policy))
}

fn program(zone: &str) -> String {
    format!("/srv/zone{zone}/dsi-sock-probe")
}

fn traffic(zone: &str) -> String {
    format!("/srv/zone{zone}/dsi-traffic")
}

/// Does these steps in a process of a zone.
fn run(node: &Node, zone: &str, steps: &str) -> Result<Output, Failure> {
    let program = program(zone);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    Ok(node.run(&argv)?)
}

/// A server of zone 10 on colby, which answers what it gets.
fn server(cluster: &Cluster, kind: &str, ends: Ends) -> Result<Process, Failure> {
    let colby = cluster.node("colby")?;
    let (family, any) = (ends.family, ends.any);
    let steps = if kind == TCP {
        format!(
            "socket,l,{family},1,0 option,l,1,2,1 bind,l,{any}:7010 listen,l say,ready accept,c,l recv,c send,c,answer"
        )
    } else {
        format!("socket,c,{family},2,0 bind,c,{any}:7010 say,ready recv,c")
    };
    let program = program("10");
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    let server = colby.spawn(&format!("server-{kind}-{family}"), &argv)?;
    server.wait_line("say ok ready")?;
    Ok(server)
}

/// What a client says to it.
fn question(kind: &str, ends: Ends, ms: &str) -> String {
    let (family, colby) = (ends.family, ends.colby);
    let answer = if kind == TCP { "recv,s" } else { "" };
    format!(
        "socket,s,{family},{kind},0 timeout,s,{ms} connect,s,{colby}:7010 send,s,question {answer}"
    )
}

/// How often each packet to colby's port was on the wire since a mark: once to relay and once from it.
fn on_the_wire(cluster: &Cluster, mark: u64) -> Result<usize, Failure> {
    let frames = cluster.switch.frames_since(mark)?;
    let holds = |payload: &[u8]| payload.windows(8).any(|part| part == b"question");
    let is_question = |frame: &&Frame| match (frame.ipv4(), frame.ipv6()) {
        (Some(packet), _) => holds(&packet.payload),
        (_, Some(packet)) => holds(&packet.payload),
        _ => false,
    };
    Ok(frames.iter().filter(is_question).count())
}

fn allowed(cluster: &mut Cluster, kind: &str, ends: Ends) -> TestResult {
    let (munster, colby, relay) = (
        cluster.node("munster")?,
        cluster.node("colby")?,
        cluster.node("relay")?,
    );
    let server = server(cluster, kind, ends)?;
    let (mark, before, relayed) = (
        cluster.switch.mark(),
        Counters::of(colby)?,
        Counters::of(relay)?,
    );
    run(munster, "10", &question(kind, ends, "170000"))?.ok()?;
    server.wait_line("recv ok question")?;
    check_eq!(
        server.join()?,
        Some(0),
        "exit code of '{}'",
        server.output()?
    );
    check!(
        on_the_wire(cluster, mark)? >= 2,
        "it has not gone by way of relay"
    );
    let after = Counters::of(colby)?;
    check!(
        after.rise(&before, "in-labelled")? > 0,
        "no labelled packet was counted"
    );
    let refusals = after.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    let refusals = Counters::of(relay)?.refusals(&relayed)?;
    check!(refusals.is_empty(), "relay refused: {refusals:?}");
    Ok(())
}

fn denied(cluster: &mut Cluster, kind: &str, ends: Ends) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let server = server(cluster, kind, ends)?;
    let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
    let output = run(munster, "20", &question(kind, ends, DENIED_MS))?;
    if kind == TCP {
        output.exits_with(12)?.says("connect errno=")?;
    }
    let protocol = if kind == TCP { "tcp" } else { "udp" };
    let denial = Denial::wait(
        colby,
        mark,
        &format!("denied sscid=20 ssnid=1 tscid=10 tsnid=2 {protocol}"),
    )?;
    denial.says("reason", "no-permission")?;
    let (source, _) = denial.ends()?;
    check!(
        OF_MUNSTER.iter().any(|own| source.contains(own)),
        "source of {denial:?}"
    );
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check_eq!(
        refusals.keys().collect::<Vec<_>>(),
        ["refused-no-permission"],
        "reasons"
    );
    check!(server.is_running()?, "it ended: {}", server.output()?);
    Ok(())
}

/// Relay itself hosts no zone: what its own process of zone 10 says is refused, over the same wire.
fn own_name(cluster: &mut Cluster) -> TestResult {
    let (relay, colby) = (cluster.node("relay")?, cluster.node("colby")?);
    for (ends, to) in [(FAR, "10.77.0.2"), (FAR6, "[fd77::2]")] {
        for kind in [UDP, TCP] {
            let server = server(cluster, kind, ends)?;
            let mark = colby.kernel_mark();
            run(
                relay,
                "10",
                &question(kind, Ends { colby: to, ..ends }, DENIED_MS),
            )?;
            let protocol = if kind == TCP { "tcp" } else { "udp" };
            let head = format!("denied sscid=10 ssnid=3 tscid=10 tsnid=2 {protocol}");
            Denial::wait(colby, mark, &head)?.says("reason", "not-hosted")?;
            check!(server.is_running()?, "it ended: {}", server.output()?);
        }
    }
    Ok(())
}

/// What relay lets through to colby's network, and nobody else knows: `$1` the number of bytes. What has been learnt of an
/// earlier one is forgotten.
const SMALLER_HOP: &str = "ip route change 10.79.2.0/24 dev eth0 proto kernel scope link src 10.79.2.254 mtu $1 && \
     ip -6 route change fd79:2::/64 dev eth0 proto kernel metric 256 mtu $1";
const FORGET: &str = "ip route flush cache && ip -6 route flush cache";
const SMALLER: usize = 1300;

/// Makes the hop smaller for one test.
fn narrow(cluster: &Cluster, bytes: usize) -> TestResult {
    let bytes = bytes.to_string();
    cluster
        .node("relay")?
        .run(&["bash", "-c", SMALLER_HOP, "hop", &bytes])?
        .ok()?;
    for name in ["munster", "colby"] {
        cluster.node(name)?.sh(FORGET)?.ok()?;
    }
    Ok(())
}

/// How many packets since a mark were told to be too big (RFC 792, 4443), and the longest that went on to colby.
fn too_big(cluster: &Cluster, mark: u64, ends: Ends) -> Result<(usize, usize), Failure> {
    let mac = cluster.node("colby")?.mac()?;
    let (mut told, mut longest) = (0, 0);
    for frame in cluster.switch.frames_since(mark)? {
        match (frame.ipv4(), frame.ipv6()) {
            (Some(packet), _) if packet.protocol == 1 && packet.payload.starts_with(&[3, 4]) => {
                told += 1;
            }
            (_, Some(packet)) if packet.protocol == 58 && packet.payload.first() == Some(&2) => {
                told += 1;
            }
            _ => {}
        }
        let family = u16::from_be_bytes([frame.0[12], frame.0[13]]);
        if frame.0[..6] == mac && family == if ends.family == "2" { 0x0800 } else { 0x86dd } {
            longest = longest.max(frame.0.len() - 14);
        }
    }
    Ok((told, longest))
}

/// A stream starts with segments that are too big for a hop on its way, learns that from the router, and arrives whole.
fn stream_through_a_smaller_hop(cluster: &mut Cluster, ends: Ends, each: bool) -> TestResult {
    let policy = if each {
        every_packet(&policy())
    } else {
        policy()
    };
    enforce(cluster, &policy)?;
    let colby = cluster.node("colby")?;
    let bind = format!("{}:7011", ends.any);
    let server = colby.spawn(
        &format!("stream-{}-{each}", ends.family),
        &[&traffic("10"), "tcp-server", "--bind", &bind],
    )?;
    server.wait_line("serving")?;
    narrow(cluster, SMALLER)?;
    let before: Vec<Counters> = NAMES
        .iter()
        .map(|name| Counters::of(cluster.node(name)?))
        .collect::<Result<_, Failure>>()?;
    let mark = cluster.switch.mark();
    let to = format!("{}:7011", ends.colby);
    let argv = [
        &traffic("10"),
        "tcp-client",
        "--to",
        &to,
        "--size",
        "100000",
        "--count",
        "3",
        "--timeout-ms",
        "170000",
    ];
    cluster.node("munster")?.run(&argv)?.ok()?;
    let (told, longest) = too_big(cluster, mark, ends)?;
    narrow(cluster, 1500)?;
    check!(told > 0, "no segment was too big for the hop");
    check!(
        longest <= SMALLER && longest > SMALLER - 100,
        "the longest that went on had {longest} bytes"
    );
    for (name, before) in NAMES.iter().zip(&before) {
        let after = Counters::of(cluster.node(name)?)?;
        let refusals = after.refusals(before)?;
        check!(refusals.is_empty(), "{name} refused: {refusals:?}");
        if *name == "colby" {
            let labelled = after.rise(before, "in-labelled")?;
            // 300,000 bytes in segments of at most 1,300, or the handshake alone.
            check!(
                if each { labelled > 200 } else { labelled > 0 },
                "{labelled} labelled segments"
            );
        }
    }
    Ok(())
}

/// A datagram that is too big for a hop on its way is lost, and its sender cuts the next ones to what fits: they arrive
/// whole, or are refused whole.
fn datagrams_through_a_smaller_hop(cluster: &mut Cluster, ends: Ends, zone: &str) -> TestResult {
    enforce(cluster, &policy())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let bind = format!("{}:7012", ends.any);
    let server = colby.spawn(
        &format!("datagrams-{}-{zone}", ends.family),
        &[&traffic("10"), "udp-server", "--bind", &bind],
    )?;
    server.wait_line("serving")?;
    narrow(cluster, SMALLER)?;
    let (mark, kernel, before) = (
        cluster.switch.mark(),
        colby.kernel_mark(),
        Counters::of(colby)?,
    );
    let to = format!("{}:7012", ends.colby);
    let program = traffic(zone);
    let ask = || {
        let argv = [
            &program,
            "udp-client",
            "--to",
            &to,
            "--size",
            "1400",
            "--timeout-ms",
            DENIED_MS,
        ];
        munster.run(&argv)
    };
    if zone == "10" {
        until("an answer", || Ok(ask()?.code == Some(0)))?;
    } else {
        until("a refusal of the whole datagram", || {
            check!(ask()?.code != Some(0), "it was answered");
            let after = Counters::of(colby)?;
            Ok(after.rise(&before, "refused-no-permission")? > 0)
        })?;
        let head = "denied sscid=20 ssnid=1 tscid=10 tsnid=2 udp";
        Denial::wait(colby, kernel, head)?.says("reason", "no-permission")?;
    }
    let (told, longest) = too_big(cluster, mark, ends)?;
    narrow(cluster, 1500)?;
    check!(told > 0, "no datagram was too big for the hop");
    check!(
        longest <= SMALLER,
        "the longest that went on had {longest} bytes"
    );
    let refusals = Counters::of(colby)?.refusals(&before)?;
    let expected: &[&str] = if zone == "10" {
        &[]
    } else {
        &["refused-no-permission"]
    };
    check_eq!(refusals.keys().collect::<Vec<_>>(), expected, "reasons");
    Ok(())
}
