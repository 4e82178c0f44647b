//! Proves that whatever an enforcing policy denies is denied because of the policy: each `...-denied` has
//! an `...-ok` twin with the same programs and ports. Who may talk to whom by UDP and TCP, on one node
//! and across nodes, in both directions; rules for nodes; what a process may do with sockets and
//! execute; the change of a policy under an established flow; sockets that are older than the module.
//! What is denied on the way in is told and counted by the receiving node. No servers.

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{YNL_DO, enrol, load};
use crate::fault::Failure;
use crate::label::{Claim, Label, claim};
use crate::node::{Node, Output, Process};
use crate::pcap::{Frame, Ipv4};
use crate::regime::{
    self, Counters, Denial, Regime, ZONES, document, last_number, network, numbers, until,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "twins",
    proves: "what a policy denies is refused by the receiving node, and its allowed twin goes through",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "sockets-older-than-module-labelled-as-default-ok" => older_sockets,
    "zone-to-socket-older-than-module-denied" => older_socket_of_default,
    "udp-across-nodes-10-to-20-denied" => |c| denied(c, &UDP_ACROSS, ZONE_10, ZONE_20),
    "udp-across-nodes-20-to-20-ok" => |c| allowed(c, &UDP_ACROSS, ZONE_20, ZONE_20),
    "udp-across-nodes-20-to-10-denied" => |c| denied(c, &UDP_ACROSS, ZONE_20, ZONE_10),
    "udp-across-nodes-10-to-10-ok" => |c| allowed(c, &UDP_ACROSS, ZONE_10, ZONE_10),
    "udp-same-node-10-to-20-denied" => |c| denied(c, &UDP_WITHIN, ZONE_10, ZONE_20),
    "udp-same-node-20-to-20-ok" => |c| allowed(c, &UDP_WITHIN, ZONE_20, ZONE_20),
    "udp-same-node-20-to-10-denied" => |c| denied(c, &UDP_WITHIN, ZONE_20, ZONE_10),
    "udp-same-node-10-to-10-ok" => |c| allowed(c, &UDP_WITHIN, ZONE_10, ZONE_10),
    "tcp-across-nodes-10-to-20-denied" => |c| denied(c, &TCP_ACROSS, ZONE_10, ZONE_20),
    "tcp-across-nodes-20-to-20-ok" => |c| allowed(c, &TCP_ACROSS, ZONE_20, ZONE_20),
    "tcp-across-nodes-20-to-10-denied" => |c| denied(c, &TCP_ACROSS, ZONE_20, ZONE_10),
    "tcp-across-nodes-10-to-10-ok" => |c| allowed(c, &TCP_ACROSS, ZONE_10, ZONE_10),
    "tcp-same-node-10-to-20-denied" => |c| denied(c, &TCP_WITHIN, ZONE_10, ZONE_20),
    "tcp-same-node-20-to-20-ok" => |c| allowed(c, &TCP_WITHIN, ZONE_20, ZONE_20),
    "tcp-same-node-20-to-10-denied" => |c| denied(c, &TCP_WITHIN, ZONE_20, ZONE_10),
    "tcp-same-node-10-to-10-ok" => |c| allowed(c, &TCP_WITHIN, ZONE_10, ZONE_10),
    "udp-loopback-10-to-20-denied" => |c| denied(c, &UDP_LOOPBACK, ZONE_10, ZONE_20),
    "udp-loopback-20-to-20-ok" => |c| allowed(c, &UDP_LOOPBACK, ZONE_20, ZONE_20),
    "tcp-loopback-10-to-20-denied" => |c| denied(c, &TCP_LOOPBACK, ZONE_10, ZONE_20),
    "tcp-loopback-20-to-20-ok" => |c| allowed(c, &TCP_LOOPBACK, ZONE_20, ZONE_20),
    "udp-fragments-across-nodes-10-to-20-denied" => |c| in_parts(c, denied, ZONE_10),
    "udp-fragments-across-nodes-20-to-20-ok" => |c| in_parts(c, allowed, ZONE_20),
    "udp-fragments-same-node-10-to-20-denied" => |c| denied(c, &LARGE_WITHIN, ZONE_10, ZONE_20),
    "udp-fragments-same-node-20-to-20-ok" => |c| allowed(c, &LARGE_WITHIN, ZONE_20, ZONE_20),
    "closed-port-resets-ok" => closed_port,
    "rule-for-a-node-from-that-node-ok" => node_rule_meets,
    "rule-for-a-node-from-another-node-denied" => node_rule_misses,
    "zone-that-its-node-does-not-host-denied" => not_hosted,
    "zone-that-its-node-hosts-ok" => hosted,
    "bind-to-a-port-of-another-zone-denied" => bind_denied,
    "bind-to-a-port-of-the-own-zone-ok" => bind_allowed,
    "exec-without-transition-denied" => exec_denied,
    "exec-with-transition-ok" => exec_allowed,
    "forked-child-to-another-zone-denied" => fork_denied,
    "forked-child-within-its-zone-ok" => fork_allowed,
    "raw-and-packet-sockets-of-a-zone-denied" => raw_denied,
    "raw-and-packet-sockets-of-default-ok" => raw_of_default,
    "raw-and-packet-sockets-by-permission-ok" => raw_allowed,
    "permissive-10-to-20-told-and-ok" => permissive,
    "flow-under-a-policy-that-still-allows-it-loses-nothing-ok" => flow_kept,
    "flow-under-a-policy-that-forbids-it-denied-at-once" => flow_cut,
};

const NAMES: [&str; 2] = ["munster", "colby"];
const ZONE_10: Zone = Zone {
    scid: "10",
    port: 7010,
};
const ZONE_20: Zone = Zone {
    scid: "20",
    port: 7020,
};
/// How long a client waits for what must not come. What is denied stays so, however long.
const DENIED_MS: &str = "1500";
const ALLOWED_MS: &str = "170000";
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
/// Servers that are older than the module: protocol, where they wait, and their port.
const OLD: [(&str, &str, &str); 4] = [
    ("udp", "0.0.0.0", "7200"),
    ("tcp", "0.0.0.0", "7201"),
    ("udp", "[::]", "7202"),
    ("tcp", "[::]", "7203"),
];
const OLD_STOP: &str = "/tmp/stop-old";

/// A zone, with the port of its servers on colby.
#[derive(Clone, Copy)]
struct Zone {
    scid: &'static str,
    port: u16,
}

/// How a client becomes a process of its zone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// By executing a labelled copy of the program.
    Exec,
    /// By being given the ScID.
    TaskSet,
}

/// The way of a message; the receiver is colby.
struct Way {
    protocol: &'static str,
    from: &'static str,
    by: By,
    /// By colby's address 127.0.0.1.
    loopback: bool,
    /// Over IPv6.
    v6: bool,
    /// Octets of the message.
    size: &'static str,
}

impl Way {
    const fn new(protocol: &'static str, from: &'static str, by: By) -> Self {
        Self {
            protocol,
            from,
            by,
            loopback: false,
            v6: false,
            size: "64",
        }
    }

    /// Addresses that a message comes from and goes to.
    fn ends(&self, cluster: &Cluster) -> Result<[String; 2], Failure> {
        if self.loopback {
            return Ok(["127.0.0.1".into(), "127.0.0.1".into()]);
        }
        let (from, to) = (cluster.node(self.from)?, cluster.node("colby")?);
        if self.v6 {
            return Ok([from, to].map(|node| format!("[{}]", address6(node.index))));
        }
        Ok([from, to].map(|node| node.ip.to_string()))
    }
}

const UDP_ACROSS: Way = Way::new("udp", "munster", By::Exec);
const UDP_WITHIN: Way = Way::new("udp", "colby", By::TaskSet);
const TCP_ACROSS: Way = Way::new("tcp", "munster", By::TaskSet);
const TCP_WITHIN: Way = Way::new("tcp", "colby", By::Exec);
const UDP_LOOPBACK: Way = Way {
    loopback: true,
    ..UDP_WITHIN
};
const TCP_LOOPBACK: Way = Way {
    loopback: true,
    ..TCP_WITHIN
};
/// Of more octets than the network takes at once.
const LARGE_ACROSS: Way = Way {
    size: "8000",
    ..UDP_ACROSS
};
/// Than loopback does.
const LARGE_WITHIN: Way = Way {
    size: "65000",
    ..UDP_WITHIN
};

/// A policy: what all have in common, zone 10 within itself, and more rules.
fn policy(mode: &str, more: &[&str]) -> String {
    let own = network("10", "", "10", "send receive connect");
    let mut rules = vec![ZONES, own.as_str()];
    rules.extend(more);
    document(mode, &rules)
}

/// The policy that keeps the zones apart.
fn base() -> String {
    policy("enforcing", &[])
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    // They end with the guests, or when a test asks them to.
    let mark = cluster.switch.mark();
    let older = Older::start(munster, colby)?;
    for (_, _, port) in OLD {
        until("sockets that will be older than the module", || {
            Ok(claims(cluster, mark, port)?.len() >= 4)
        })?;
    }
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20"] {
            for program in [TRAFFIC, "/usr/bin/env"] {
                labelled_copy(node, program, zone)?;
            }
        }
    }
    enrol(cluster, &NAMES, 1)?;
    let regime = Regime::establish(cluster, &NAMES)?;
    for name in NAMES {
        regime.enforce(cluster.node(name)?, &base())?;
    }
    let mut servers = Vec::new();
    for zone in [ZONE_10, ZONE_20] {
        for protocol in ["udp", "tcp"] {
            servers.push(serve(cluster.node("colby")?, zone, protocol)?);
        }
    }
    cluster.kept = Some(Box::new(Kept {
        regime,
        older,
        _servers: servers,
    }));
    Ok(())
}

/// What the tests share.
struct Kept {
    regime: Regime,
    older: Older,
    _servers: Vec<Process>,
}

/// Servers on colby and clients on munster whose sockets were there before the module.
struct Older {
    clients: Vec<Process>,
    _servers: Vec<Process>,
}

impl Older {
    fn start(munster: &Node, colby: &Node) -> Result<Self, Failure> {
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for (protocol, any, port) in OLD {
            let (mode, bind) = (format!("{protocol}-server"), format!("{any}:{port}"));
            let server = colby.spawn(
                &format!("older-{mode}-{port}"),
                &[TRAFFIC, &mode, "--bind", &bind],
            )?;
            server.wait_line("serving")?;
            servers.push(server);
            let to = if any == "[::]" {
                format!("[{}]:{port}", address6(colby.index))
            } else {
                format!("{}:{port}", colby.ip)
            };
            let mode = format!("{protocol}-client");
            // One connection has at most so many messages, a datagram client at least.
            let count = if protocol == "tcp" { "100000000" } else { "1" };
            let argv = [
                TRAFFIC,
                &mode,
                "--to",
                &to,
                "--count",
                count,
                "--until-file",
                OLD_STOP,
                "--interval-ms",
                "50",
                "--timeout-ms",
                ALLOWED_MS,
            ];
            clients.push(munster.spawn(&format!("older-{mode}-{port}"), &argv)?);
        }
        Ok(Self {
            clients,
            _servers: servers,
        })
    }
}

fn labelled_copy(node: &Node, program: &str, zone: &str) -> TestResult {
    let copy = of_zone(program, zone);
    node.run(&["install", "-D", program, &copy])?.ok()?;
    node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
        .ok()?;
    Ok(())
}

/// The copy of a program that has a zone's label.
fn of_zone(program: &str, zone: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone{zone}/{name}")
}

fn serve(node: &Node, zone: Zone, protocol: &str) -> Result<Process, Failure> {
    let (mode, bind) = (
        format!("{protocol}-server"),
        format!("0.0.0.0:{}", zone.port),
    );
    let program = of_zone(TRAFFIC, zone.scid);
    let server = node.spawn(
        &format!("zone{}-{mode}", zone.scid),
        &[&program, &mode, "--bind", &bind],
    )?;
    server.wait_line("serving")?;
    Ok(server)
}

fn kept(cluster: &Cluster) -> Result<&Kept, Failure> {
    regime::kept(cluster)
}

/// Has a policy in force on both nodes.
fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let regime = &kept(cluster)?.regime;
    NAMES
        .iter()
        .try_for_each(|name| regime.enforce(cluster.node(name)?, policy))
}

/// Runs a client of a zone against a zone's server on colby.
fn client(
    cluster: &Cluster,
    way: &Way,
    from: Zone,
    port: u16,
    timeout_ms: &str,
) -> Result<Output, Failure> {
    let node = cluster.node(way.from)?;
    let (mode, to) = (
        format!("{}-client", way.protocol),
        format!("{}:{port}", way.ends(cluster)?[1]),
    );
    let args = [
        mode.as_str(),
        "--to",
        &to,
        "--timeout-ms",
        timeout_ms,
        "--size",
        way.size,
    ];
    let output = match way.by {
        By::Exec => {
            let program = of_zone(TRAFFIC, from.scid);
            let argv: Vec<&str> = [program.as_str()].into_iter().chain(args).collect();
            node.run(&argv)?
        }
        By::TaskSet => {
            let script = format!(
                "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": {}}}]\" | {YNL_DO} >/dev/null && exec {TRAFFIC} {}",
                from.scid,
                args.join(" ")
            );
            node.sh(&script)?
        }
    };
    Ok(output)
}

/// A message and its answer pass, and the receiver's node refuses nothing.
fn passes(cluster: &Cluster, way: &Way, from: Zone, to: Zone) -> TestResult {
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    client(cluster, way, from, to.port, ALLOWED_MS)?
        .ok()?
        .says("result=ok sent=1 answered=1 lost=0")?;
    let after = Counters::of(colby)?;
    check!(
        after.rise(&before, "in-labelled")? > 0,
        "no labelled packet was counted"
    );
    check!(
        after.refusals(&before)?.is_empty(),
        "refused: {:?}",
        after.refusals(&before)?
    );
    Ok(())
}

/// A message is refused by the receiver's node, which counts it and tells all that it knows of it.
fn is_refused(cluster: &Cluster, way: &Way, from: Zone, to: Zone, reason: &str) -> TestResult {
    let (colby, node) = (cluster.node("colby")?, cluster.node(way.from)?);
    let mark = colby.kernel_mark();
    let before = Counters::of(colby)?;
    client(cluster, way, from, to.port, DENIED_MS)?
        .exits_with(11)?
        .says("result=timeout")?;
    let [source, destination] = way.ends(cluster)?;
    let head = format!(
        "denied sscid={} ssnid={} tscid={} tsnid=2 {} {source}:",
        from.scid, node.index, to.scid, way.protocol
    );
    let denial = Denial::wait(colby, mark, &head)?;
    check_eq!(
        denial.ends()?.1,
        format!("{destination}:{}", to.port),
        "destination"
    );
    let permission = if way.protocol == "tcp" {
        "connect"
    } else {
        "send"
    };
    for (field, value) in [
        ("perm", permission),
        ("reason", reason),
        ("hook", "socket_sock_rcv_skb"),
        // It is refused where packets are handled: no process of the receiver's has a part in it.
        ("pid", "0"),
        ("comm", ""),
        ("rule", "0"),
    ] {
        denial.says(field, value)?;
    }
    let after = Counters::of(colby)?;
    let refusals = after.refusals(&before)?;
    let name = format!("refused-{reason}");
    let count = refusals.get(&name).copied().unwrap_or_default();
    check_eq!(refusals.len(), 1, "reasons in {refusals:?}");
    // A connection is asked for again and again, a datagram is sent once.
    check!(
        count == 1 || (way.protocol == "tcp" && count > 1),
        "{name} rose by {count}"
    );
    Ok(())
}

fn allowed(cluster: &mut Cluster, way: &Way, from: Zone, to: Zone) -> TestResult {
    enforce(cluster, &base())?;
    passes(cluster, way, from, to)
}

fn denied(cluster: &mut Cluster, way: &Way, from: Zone, to: Zone) -> TestResult {
    enforce(cluster, &base())?;
    is_refused(cluster, way, from, to, "no-permission")
}

/// Zone 20's server gets a datagram in parts, each of which names its sender; it is judged once, when it is whole.
fn in_parts(
    cluster: &mut Cluster,
    judge: fn(&mut Cluster, &Way, Zone, Zone) -> TestResult,
    from: Zone,
) -> TestResult {
    let mark = cluster.switch.mark();
    judge(cluster, &LARGE_ACROSS, from, ZONE_20)?;
    let munster = cluster.node("munster")?.ip;
    let frames = cluster.switch.frames_since(mark)?;
    let parts: Vec<Ipv4> = frames
        .iter()
        .filter(|frame| frame.ipv4_part().is_some())
        .filter_map(Frame::ipv4)
        .filter(|packet| packet.source == munster)
        .collect();
    check!(parts.len() >= 6, "8000 octets in {} parts", parts.len());
    for part in &parts {
        let label = Label::of(part).map(|label| label.scid.to_string());
        check_eq!(label.as_deref(), Some(from.scid), "label of {part:?}");
    }
    Ok(())
}

/// What crossed the network to or from a port since a mark.
fn packets(cluster: &Cluster, mark: u64, port: &str) -> Result<Vec<Ipv4>, Failure> {
    let wanted = |packet: &Ipv4| {
        packet
            .ports()
            .is_some_and(|(from, to)| [from.to_string(), to.to_string()].iter().any(|p| p == port))
    };
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames
        .iter()
        .filter_map(Frame::ipv4)
        .filter(wanted)
        .collect())
}

/// Of the packets to or from a port of colby's since a mark, over either family: whether they go to that port, and SnID and
/// ScID of their labels.
fn claims(cluster: &Cluster, mark: u64, port: &str) -> Result<Vec<(bool, Option<Claim>)>, Failure> {
    let one = |frame: &Frame| {
        let ports = match (frame.ipv4(), frame.ipv6()) {
            (Some(packet), _) => packet.ports(),
            (_, Some(packet)) => packet.ports(),
            _ => None,
        };
        let (from, to) = ports?;
        let there = to.to_string() == port;
        (there || from.to_string() == port).then(|| (there, claim(frame)))
    };
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames.iter().filter_map(one).collect())
}

fn older_sockets(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let older = &kept(cluster)?.older;
    for (_, _, port) in OLD {
        let mark = cluster.switch.mark();
        until("packets of sockets older than the module", || {
            Ok(claims(cluster, mark, port)?.len() >= 20)
        })?;
        for (from_munster, label) in claims(cluster, mark, port)? {
            let wanted = (if from_munster { 1 } else { 2 }, 2);
            check_eq!(
                label,
                Some(wanted),
                "SnID and ScID of a packet of port {port}"
            );
        }
    }
    for name in NAMES {
        let status = crate::enrol::status(cluster.node(name)?)?;
        let adopted = crate::signer::counter(&status, "socket-adopted");
        check!(
            adopted.unwrap_or_default() > 0,
            "{name}: socket-adopted is {adopted:?}"
        );
    }
    cluster.node("munster")?.write(OLD_STOP, "")?;
    for client in &older.clients {
        check_eq!(
            client.join()?,
            Some(0),
            "exit code of '{}'",
            client.output()?.trim()
        );
        let said = client.wait_line("result=ok")?;
        check!(said.ends_with("lost=0"), "{said}");
    }
    Ok(())
}

fn older_socket_of_default(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    for (protocol, any, port) in OLD {
        let default = Zone {
            scid: "2",
            port: port.parse().unwrap_or_default(),
        };
        let way = Way {
            v6: any == "[::]",
            ..if protocol == "udp" {
                UDP_ACROSS
            } else {
                TCP_ACROSS
            }
        };
        is_refused(cluster, &way, ZONE_10, default, "no-permission")?;
    }
    Ok(())
}

fn closed_port(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    client(cluster, &TCP_ACROSS, ZONE_10, 7019, ALLOWED_MS)?
        .exits_with(10)?
        .says("result=refused")?;
    Ok(())
}

/// Zone 10 may reach zone 20, but only from munster.
fn node_rule() -> String {
    policy(
        "enforcing",
        &[&network("10", "munster", "20", "send receive connect")],
    )
}

/// The same, but only on a node, from whichever.
fn rule_for_target(node: &str) -> String {
    let target = format!("</target_ScID><target_SnID>{node}</target_SnID>");
    let rule = network("10", "", "20", "send receive connect");
    policy("enforcing", &[&rule.replace("</target_ScID>", &target)])
}

fn node_rule_meets(cluster: &mut Cluster) -> TestResult {
    for policy in [node_rule(), rule_for_target("colby")] {
        enforce(cluster, &policy)?;
        passes(cluster, &UDP_ACROSS, ZONE_10, ZONE_20)?;
        passes(cluster, &TCP_ACROSS, ZONE_10, ZONE_20)?;
    }
    Ok(())
}

fn node_rule_misses(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &node_rule())?;
    is_refused(cluster, &UDP_WITHIN, ZONE_10, ZONE_20, "no-permission")?;
    is_refused(cluster, &TCP_WITHIN, ZONE_10, ZONE_20, "no-permission")
}

const COLBY_HOSTS: &str = "<hosting><SnID>colby</SnID><ScID>10</ScID></hosting>";
const MUNSTER_HOSTS: &str = "<hosting><SnID>munster</SnID><ScID>10</ScID></hosting>";

fn not_hosted(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy("enforcing", &[COLBY_HOSTS]))?;
    is_refused(cluster, &UDP_ACROSS, ZONE_10, ZONE_10, "not-hosted")?;
    is_refused(cluster, &TCP_ACROSS, ZONE_10, ZONE_10, "not-hosted")
}

fn hosted(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy("enforcing", &[COLBY_HOSTS, MUNSTER_HOSTS]))?;
    passes(cluster, &UDP_ACROSS, ZONE_10, ZONE_10)?;
    passes(cluster, &TCP_ACROSS, ZONE_10, ZONE_10)
}

/// Binds a server to zone 20's port, serves nobody, and ends.
fn bind(cluster: &Cluster, mode: &str, zone: Zone) -> Result<Output, Failure> {
    let program = of_zone(TRAFFIC, zone.scid);
    let argv = [
        program.as_str(),
        mode,
        "--bind",
        "0.0.0.0:7029",
        "--count",
        "0",
    ];
    Ok(cluster.node("colby")?.run(&argv)?)
}

fn bind_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let colby = cluster.node("colby")?;
    for protocol in ["udp", "tcp"] {
        let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
        bind(cluster, &format!("{protocol}-server"), ZONE_10)?
            .exits_with(12)?
            .says("op=bind errno=13")?;
        let denial = Denial::wait(
            colby,
            mark,
            &format!("denied sscid=10 ssnid=2 tscid=20 tsnid=2 {protocol}"),
        )?;
        for (field, value) in [
            ("perm", "bind"),
            ("hook", "socket_bind"),
            ("comm", "dsi-traffic"),
        ] {
            denial.says(field, value)?;
        }
        check!(denial.field("pid") != Some("0"), "no process in {denial:?}");
        check_eq!(
            Counters::of(colby)?.rise(&before, "refused-no-permission")?,
            1,
            "refusals"
        );
    }
    Ok(())
}

fn bind_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    for mode in ["udp-server", "tcp-server"] {
        bind(cluster, mode, ZONE_20)?
            .ok()?
            .says("serving 0.0.0.0:7029")?;
    }
    Ok(())
}

fn exec_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let colby = cluster.node("colby")?;
    let mark = colby.kernel_mark();
    colby
        .run(&["/srv/zone20/env", "/srv/zone10/dsi-traffic", "--help"])?
        .exits_with(126)?
        .says("Permission denied")?;
    let denial = Denial::wait(
        colby,
        mark,
        "denied sscid=20 ssnid=2 tscid=10 tsnid=2 perm=execute",
    )?;
    for (field, value) in [("reason", "no-transition"), ("comm", "env")] {
        denial.says(field, value)?;
    }
    Ok(())
}

fn exec_allowed(cluster: &mut Cluster) -> TestResult {
    let transition = "<transition><parent_ScID>20</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>";
    enforce(cluster, &policy("enforcing", &[transition]))?;
    let colby = cluster.node("colby")?;
    colby
        .run(&["/srv/zone20/env", "/srv/zone10/dsi-traffic", "--help"])?
        .ok()?;
    // And it is of zone 10 then, which its server tells.
    let to = format!("{}:{}", colby.ip, ZONE_10.port);
    let argv = [
        "/srv/zone20/env",
        "/srv/zone10/dsi-traffic",
        "udp-client",
        "--to",
        &to,
        "--timeout-ms",
        ALLOWED_MS,
    ];
    colby.run(&argv)?.ok()?.says("result=ok")?;
    Ok(())
}

/// A child of a process of zone 20, by way of programs without labels, sends to a zone's server.
fn forked(cluster: &Cluster, to: Zone, timeout_ms: &str) -> Result<Output, Failure> {
    let colby = cluster.node("colby")?;
    let script = format!(
        "( ( {TRAFFIC} udp-client --to {}:{} --timeout-ms {timeout_ms}; exit $? ); exit $? ); exit $?",
        colby.ip, to.port
    );
    Ok(colby.run(&["/srv/zone20/env", "bash", "-c", &script])?)
}

fn fork_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let colby = cluster.node("colby")?;
    let mark = colby.kernel_mark();
    forked(cluster, ZONE_10, DENIED_MS)?.exits_with(11)?;
    Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2 udp")?
        .says("reason", "no-permission")
}

fn fork_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    forked(cluster, ZONE_20, ALLOWED_MS)?
        .ok()?
        .says("result=ok")?;
    Ok(())
}

/// Tries sockets that are neither labelled nor checked; tells the error of each.
const UNMEDIATED: &str = "
import socket
for name, kind in (('raw', (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)), ('packet', (socket.AF_PACKET, socket.SOCK_RAW, 0))):
    try:
        socket.socket(*kind)
        print(name, 'ok')
    except OSError as error:
        print(name, error.errno)
";

fn unmediated(cluster: &Cluster, env: &str, result: &str) -> TestResult {
    let output = cluster
        .node("colby")?
        .run(&[env, "python3", "-c", UNMEDIATED])?
        .ok()?;
    output.says(&format!("raw {result}\npacket {result}\n"))?;
    Ok(())
}

fn raw_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let colby = cluster.node("colby")?;
    let mark = colby.kernel_mark();
    unmediated(cluster, "/srv/zone10/env", "13")?;
    let denial = Denial::wait(
        colby,
        mark,
        "denied sscid=10 ssnid=2 tscid=10 tsnid=2 perm=create_unmediated",
    )?;
    for (field, value) in [("hook", "socket_create"), ("comm", "python3")] {
        denial.says(field, value)?;
    }
    Ok(())
}

fn raw_of_default(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    unmediated(cluster, "/usr/bin/env", "ok")
}

fn raw_allowed(cluster: &mut Cluster) -> TestResult {
    let permission = "<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>\
                      <grant>create_unmediated</grant></socket_permission>";
    enforce(cluster, &policy("enforcing", &[permission]))?;
    unmediated(cluster, "/srv/zone10/env", "ok")
}

fn permissive(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy("permissive", &[]))?;
    let colby = cluster.node("colby")?;
    for way in [&UDP_ACROSS, &TCP_ACROSS] {
        let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
        client(cluster, way, ZONE_10, ZONE_20.port, ALLOWED_MS)?
            .ok()?
            .says("result=ok")?;
        let head = format!(
            "would-deny sscid=10 ssnid=1 tscid=20 tsnid=2 {} ",
            way.protocol
        );
        Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
        let refusals = Counters::of(colby)?.refusals(&before)?;
        let only: Vec<&str> = refusals.keys().map(String::as_str).collect();
        check_eq!(
            only,
            ["would-refuse-no-permission"],
            "{}: what was counted",
            way.protocol
        );
    }
    Ok(())
}

const STOP: &str = "/tmp/stop-flow";

fn flow_kept(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    munster.run(&["rm", "-f", STOP])?.ok()?;
    let to = format!("{}:{}", colby.ip, ZONE_10.port);
    let program = of_zone(TRAFFIC, ZONE_10.scid);
    let argv = [
        program.as_str(),
        "tcp-client",
        "--to",
        &to,
        "--count",
        "100000000",
        "--until-file",
        STOP,
        "--interval-ms",
        "5",
        "--timeout-ms",
        ALLOWED_MS,
    ];
    let flow = munster.spawn("flow-kept", &argv)?;
    let port = ZONE_10.port.to_string();
    // Other rules each time, and the one that allows the flow at another place.
    let node_rule = node_rule();
    for policy in [node_rule.as_str(), &base(), &node_rule] {
        enforce(cluster, policy)?;
        let mark = cluster.switch.mark();
        until("the flow to go on", || {
            Ok(packets(cluster, mark, &port)?.len() >= 20)
        })?;
    }
    munster.write(STOP, "")?;
    check_eq!(
        flow.join()?,
        Some(0),
        "exit code of '{}'",
        flow.output()?.trim()
    );
    let said = flow.wait_line("result=ok")?;
    check!(said.ends_with("lost=0"), "{said}");
    Ok(())
}

/// Takes one connection and tells each line of it.
const RECEIVER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 7011))
print('serving', flush=True)
connection, _ = listener.accept()
for line in connection.makefile('r'):
    print(line.strip(), flush=True)
";
/// Tells a number, sends it, and so on; never waits for an answer.
const SENDER: &str = "
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7011))
number = 0
while True:
    print(f'{number:09}', flush=True)
    connection.sendall(b'%09d\\n' % number)
    number += 1
    time.sleep(0.005)
";

fn flow_cut(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &base())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let env = "/srv/zone10/env";
    let receiver = colby.spawn("flow-receiver", &[env, "python3", "-c", RECEIVER])?;
    receiver.wait_line("serving")?;
    let address = colby.ip.to_string();
    let sender = munster.spawn("flow-sender", &[env, "python3", "-c", SENDER, &address])?;
    receiver.wait_line("000000020")?;

    let datagrams_only = document(
        "enforcing",
        &[ZONES, &network("10", "", "10", "send receive")],
    );
    let before = Counters::of(colby)?;
    kept(cluster)?.regime.enforce(colby, &datagrams_only)?;
    // Whatever the sender begins to send from here on must not arrive: the connection is no more.
    let limit = last_number(&sender)?;
    for end in [&receiver, &sender] {
        check_eq!(end.join()?, Some(1), "exit code of '{}'", end.output()?);
    }
    Counters::wait_aborted(colby, &before, 1)?;
    let told = numbers(&receiver)?;
    let arrived = told.last().copied().unwrap_or_default();
    check!(
        arrived <= limit,
        "{arrived} arrived, which was sent after the policy was in force; {limit} was the last before"
    );
    let gap = told
        .iter()
        .zip(0..)
        .find(|(number, expected)| **number != *expected);
    check!(gap.is_none(), "number {gap:?} in the receiver's account");
    Ok(())
}
