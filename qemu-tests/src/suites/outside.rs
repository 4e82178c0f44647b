//! Proves that a machine which is no node is reached, and reaches, only where a rule names its address, the port and the
//! direction: UDP and TCP, IPv4 and IPv6, each denied beside its allowed twin. Also that what was let through to one
//! port is no excuse for another, and that a policy which closes a port or an address ends the flows over it. Munster is
//! the cluster; colby is a machine outside of it, without module. No servers.

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{enrol, load, ynl};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::regime::{self, Counters, Denial, Regime, document, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "outside",
    proves: "a machine outside is reached, and reaches, by the address, port and direction of a rule only",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "no-rule-denied" => no_rule,
    "udp-out-to-an-address-of-the-rule-ok" => |c| out(c, "udp", &NEAR_ONLY, NEAR, PORT, true),
    "udp-out-to-an-address-beside-the-rule-denied" => |c| out(c, "udp", &NEAR_ONLY, FAR, PORT, false),
    "udp-out-to-that-address-by-its-own-rule-ok" => |c| out(c, "udp", &FAR_ONLY, FAR, PORT, true),
    "tcp-out-to-an-address-of-the-rule-ok" => |c| out(c, "tcp", &NEAR_ONLY, NEAR, PORT, true),
    "tcp-out-to-an-address-beside-the-rule-denied" => |c| out(c, "tcp", &NEAR_ONLY, FAR, PORT, false),
    "tcp-out-to-that-address-by-its-own-rule-ok" => |c| out(c, "tcp", &FAR_ONLY, FAR, PORT, true),
    "udp-out-to-a-port-of-the-rule-ok" => |c| out(c, "udp", &PORT_ONLY, NEAR, PORT, true),
    "udp-out-to-a-port-beside-the-rule-denied" => |c| out(c, "udp", &PORT_ONLY, NEAR, PORT + 1, false),
    "tcp-out-to-a-port-of-the-rule-ok" => |c| out(c, "tcp", &PORT_ONLY, NEAR, PORT, true),
    "tcp-out-to-a-port-beside-the-rule-denied" => |c| out(c, "tcp", &PORT_ONLY, NEAR, PORT + 1, false),
    "udp-in-from-an-address-of-the-rule-ok" => |c| inwards(c, "udp", &NEAR_ONLY, NEAR, OWN, true),
    "udp-in-from-an-address-beside-the-rule-denied" => |c| inwards(c, "udp", &NEAR_ONLY, FAR, OWN, false),
    "tcp-in-from-an-address-of-the-rule-ok" => |c| inwards(c, "tcp", &NEAR_ONLY, NEAR, OWN, true),
    "tcp-in-from-an-address-beside-the-rule-denied" => |c| inwards(c, "tcp", &NEAR_ONLY, FAR, OWN, false),
    "udp-in-to-a-port-of-the-rule-ok" => |c| inwards(c, "udp", &OWN_ONLY, FAR, OWN, true),
    "udp-in-to-a-port-beside-the-rule-denied" => |c| inwards(c, "udp", &OWN_ONLY, FAR, OWN + 1, false),
    "tcp-in-to-a-port-of-the-rule-ok" => |c| inwards(c, "tcp", &OWN_ONLY, FAR, OWN, true),
    "tcp-in-to-a-port-beside-the-rule-denied" => |c| inwards(c, "tcp", &OWN_ONLY, FAR, OWN + 1, false),
    "zone-that-may-ask-outside-asks-ok" => |c| direction(c, true, true),
    "zone-that-may-ask-outside-is-asked-denied" => |c| direction(c, true, false),
    "zone-that-may-be-asked-is-asked-ok" => |c| direction(c, false, false),
    "zone-that-may-be-asked-asks-outside-denied" => |c| direction(c, false, true),
    "port-that-a-rule-denies-in-a-granted-network-denied" => |c| exception(c, PORT, false),
    "other-port-of-that-network-ok" => |c| exception(c, PORT + 1, true),
    "ipv4-by-an-ipv6-socket-to-an-address-of-the-rule-ok" => |c| mapped(c, NEAR, true),
    "ipv4-by-an-ipv6-socket-beside-the-rule-denied" => |c| mapped(c, FAR, false),
    "ping-to-an-address-of-the-rule-ok" => |c| ping(c, &NEAR_ONLY, NEAR, true),
    "ping-to-an-address-beside-the-rule-denied" => |c| ping(c, &NEAR_ONLY, FAR, false),
    "ping-by-a-rule-for-a-port-denied" => |c| ping(c, &PORT_ONLY, NEAR, false),
    "udp-lite-out-to-a-port-of-the-rule-ok" => |c| lite_out(c, true),
    "udp-lite-out-to-a-port-beside-the-rule-denied" => |c| lite_out(c, false),
    "udp-lite-in-to-a-port-of-the-rule-ok" => |c| lite_in(c, true),
    "udp-lite-in-to-a-port-beside-the-rule-denied" => |c| lite_in(c, false),
    "group-of-the-rule-ok" => |c| group(c, ["239.7.7.7", "ff05::7:7"], true),
    "group-beside-the-rule-denied" => |c| group(c, ["239.8.7.7", "ff05::8:7"], false),
    "verdict-on-one-port-is-none-on-another-out-denied" => |c| remembered_out(c, false),
    "both-ports-by-rule-out-ok" => |c| remembered_out(c, true),
    "verdict-on-one-port-is-none-on-another-in-denied" => |c| remembered_in(c, false),
    "both-ports-by-rule-in-ok" => |c| remembered_in(c, true),
    "stream-out-whose-port-is-closed-aborted-its-twin-ok" => stream_out,
    "stream-in-whose-address-is-closed-aborted-its-twin-ok" => stream_in,
    "datagram-out-of-a-socket-that-asked-to-listen-denied" => |c| listened(c, false),
    "datagram-out-of-a-socket-that-asked-to-listen-by-rule-ok" => |c| listened(c, true),
    "datagram-out-after-its-port-is-closed-denied" => |c| datagram_out(c, false),
    "datagram-out-under-another-policy-that-opens-its-port-ok" => |c| datagram_out(c, true),
    "second-of-many-to-a-port-beside-the-rule-denied" => |c| many(c, false),
    "second-of-many-to-a-port-of-the-rule-ok" => |c| many(c, true),
    "datagram-begun-before-its-port-is-closed-denied" => |c| begun(c, false),
    "datagram-begun-before-another-policy-that-opens-its-port-ok" => |c| begun(c, true),
};

const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const GO: &str = "/tmp/go";
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;

/// Where colby answers, on this port and the next one.
const PORT: u16 = 7110;
/// Where zone 10 answers on munster, on this port and the next one.
const OWN: u16 = 7010;
/// How long is waited for what must not come. What is denied stays so, however long. A SYN is sent again each second: not
/// just when the test goes on.
const DENIED_MS: &str = "1500";
const ALLOWED_MS: &str = "170000";

/// One address of each family.
type Addresses = [&'static str; 2];
/// Of munster, a node.
const NODE: Addresses = ["10.77.0.1", "fd77::1"];
/// Of colby, in the networks that rules name.
const NEAR: Addresses = ["10.77.0.102", "fd77::102"];
/// Of colby, beside them.
const FAR: Addresses = ["10.77.0.2", "fd77::2"];

/// What rules say of where outside is, one rule for each.
type Places = [&'static str];
const NEAR_ONLY: [&str; 2] = [
    "<address>10.77.0.96/28</address>",
    "<address>fd77::100/120</address>",
];
const FAR_ONLY: [&str; 2] = ["<address>10.77.0.2</address>", "<address>fd77::2</address>"];
const PORT_ONLY: [&str; 1] = ["<port>7110</port>"];
const OWN_ONLY: [&str; 1] = ["<port>7010</port>"];

const COMMON: &str = "
<socket_label><protocol>udp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
<network_permission><source_ScID>2</source_ScID><target_ScID>2</target_ScID><grant>send receive connect</grant></network_permission>";

/// Zone 10 may ask outside, there.
fn asks(place: &str) -> String {
    rule(
        "10",
        "outside",
        place,
        "<grant>send receive connect</grant>",
    )
}

/// Zone 10 may be asked from outside, there.
fn is_asked(place: &str) -> String {
    rule(
        "outside",
        "10",
        place,
        "<grant>send receive connect</grant>",
    )
}

fn rule(source: &str, target: &str, place: &str, lists: &str) -> String {
    format!(
        "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>{place}{lists}\
         </network_permission>"
    )
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    colby
        .sh(&format!(
            "ip addr add {}/24 dev eth0 && ip -6 addr add {}/64 dev eth0 nodad",
            NEAR[0], NEAR[1]
        ))?
        .ok()?;
    let mut servers = Vec::new();
    for address in [NEAR, FAR].concat() {
        for port in [PORT, PORT + 1] {
            for protocol in ["udp", "tcp"] {
                servers.push(serve(colby, TRAFFIC, protocol, address, port)?);
            }
        }
    }
    munster
        .sh("ip route add 224.0.0.0/4 dev eth0 && echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range")?
        .ok()?;
    load(munster, &[])?;
    for program in [PROBE, TRAFFIC] {
        let copy = of_zone(program);
        munster.run(&["install", "-D", program, &copy])?.ok()?;
        munster
            .run(&["setfattr", "-n", "security.dsi", "-v", "10", &copy])?
            .ok()?;
    }
    enrol(cluster, &["munster"], 1)?;
    let both = [NODE[0].to_owned(), address6(1).to_string()];
    ynl(
        munster,
        &[serde_json::json!(["node-set", {"snid": 1, "address": both}])],
    )?
    .ok()?;
    let regime = Regime::establish(cluster, &["munster"])?;
    regime.enforce(munster, &policy(&[]))?;
    for port in [OWN, OWN + 1] {
        for protocol in ["udp", "tcp"] {
            servers.push(serve(munster, &of_zone(TRAFFIC), protocol, "::", port)?);
        }
    }
    cluster.kept = Some(Box::new(Kept {
        regime,
        _servers: servers,
    }));
    Ok(())
}

struct Kept {
    regime: Regime,
    _servers: Vec<Process>,
}

/// The copy of a program that has zone 10's label.
fn of_zone(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone10/{name}")
}

/// An address and a port as one word.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn serve(
    node: &Node,
    program: &str,
    protocol: &str,
    address: &str,
    port: u16,
) -> Result<Process, Failure> {
    let (mode, bind) = (format!("{protocol}-server"), at(address, port));
    let name = format!("{mode}-{}-{port}", address.replace(':', "."));
    let server = node.spawn(&name, &[program, &mode, "--bind", &bind])?;
    server.wait_line("serving")?;
    Ok(server)
}

fn policy(rules: &[String]) -> String {
    let rules: Vec<&str> = [COMMON]
        .into_iter()
        .chain(rules.iter().map(String::as_str))
        .collect();
    document("enforcing", &rules)
}

/// Has munster obey these rules.
fn enforce(cluster: &Cluster, rules: &[String]) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    kept.regime
        .enforce(cluster.node("munster")?, &policy(rules))
}

/// Does these steps in a process: of zone 10 on munster, or outside.
fn run(cluster: &Cluster, node: &str, steps: &str) -> Result<Output, Failure> {
    let program = program(node);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    Ok(cluster.node(node)?.run(&argv)?)
}

/// The same in the background, up to the step `say,ready`.
fn start(cluster: &Cluster, node: &str, name: &str, steps: &str) -> Result<Process, Failure> {
    let program = program(node);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    let process = cluster.node(node)?.spawn(name, &argv)?;
    process.wait_line("say ok ready")?;
    Ok(process)
}

fn program(node: &str) -> String {
    if node == "munster" {
        of_zone(PROBE)
    } else {
        PROBE.to_owned()
    }
}

/// The step that makes a socket `s` for an address of this family.
fn socket(protocol: &str, address: &str) -> String {
    let family = if address.contains(':') { 10 } else { 2 };
    let kind = if protocol == "tcp" { 1 } else { 2 };
    format!("socket,s,{family},{kind},0")
}

/// The steps of a question and its answer.
fn ask(protocol: &str, from: Option<&str>, to: &str, port: u16, ms: &str) -> String {
    let socket = socket(protocol, to);
    let bind = from.map_or(String::new(), |from| format!("bind,s,{}", at(from, 0)));
    let to = at(to, port);
    let question = if protocol == "tcp" {
        format!("connect,s,{to} send,s,question")
    } else {
        format!("send,s,question,{to}")
    };
    format!("{socket} timeout,s,{ms} {bind} {question} recv,s")
}

/// The same for what goes well. A connection ends at both ends before the next test has another policy.
fn asked_well(protocol: &str, from: Option<&str>, to: &str, port: u16) -> String {
    let end = if protocol == "tcp" { "end,s" } else { "" };
    format!("{} {end}", ask(protocol, from, to, port, ALLOWED_MS))
}

/// Zone 10 asks colby and is answered.
fn asks_well(cluster: &Cluster, protocol: &str, to: &str, port: u16) -> TestResult {
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    run(cluster, "munster", &asked_well(protocol, None, to, port))?
        .ok()?
        .says("recv ok question")?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// Zone 10 may not even ask colby, and that is told with the address.
fn asks_in_vain(
    cluster: &Cluster,
    protocol: &str,
    to: &str,
    port: u16,
    reason: &str,
) -> TestResult {
    let munster = cluster.node("munster")?;
    let (mark, before) = (munster.kernel_mark(), Counters::of(munster)?);
    let step = if protocol == "tcp" { "connect" } else { "send" };
    run(
        cluster,
        "munster",
        &ask(protocol, None, to, port, ALLOWED_MS),
    )?
    .exits_with(12)?
    .says(&format!("{step} errno={EACCES}\n"))?;
    let denial = Denial::wait(
        munster,
        mark,
        &format!("denied sscid=10 ssnid=1 tscid=outside tsnid=0 {protocol}"),
    )?;
    denial.says("reason", reason)?;
    check_eq!(denial.ends()?.1, at(to, port), "destination");
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check_eq!(
        refusals.into_iter().collect::<Vec<_>>(),
        [(format!("refused-{reason}"), 1)],
        "refusals"
    );
    Ok(())
}

/// Colby asks zone 10 from an address and is answered.
fn is_asked_well(cluster: &Cluster, protocol: &str, from: &str, port: u16) -> TestResult {
    let munster = cluster.node("munster")?;
    let before = Counters::of(munster)?;
    run(
        cluster,
        "colby",
        &asked_well(protocol, Some(from), own(from), port),
    )?
    .ok()?
    .says("recv ok question")?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// What colby asks from an address does not reach zone 10.
fn is_asked_in_vain(cluster: &Cluster, protocol: &str, from: &str, port: u16) -> TestResult {
    let munster = cluster.node("munster")?;
    let (mark, before) = (munster.kernel_mark(), Counters::of(munster)?);
    let step = if protocol == "tcp" { "connect" } else { "recv" };
    run(
        cluster,
        "colby",
        &ask(protocol, Some(from), own(from), port, DENIED_MS),
    )?
    .exits_with(12)?
    .says(&format!("{step} errno="))?;
    let denial = Denial::wait(
        munster,
        mark,
        &format!("denied sscid=outside ssnid=0 tscid=10 tsnid=1 {protocol}"),
    )?;
    denial.says("reason", "no-label")?;
    check_eq!(denial.ends()?.1, at(own(from), port), "destination");
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check_eq!(
        refusals.keys().collect::<Vec<_>>(),
        ["refused-no-label"],
        "reasons"
    );
    Ok(())
}

/// Munster's address of the same family.
fn own(address: &str) -> &'static str {
    NODE[usize::from(address.contains(':'))]
}

fn no_rule(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[])?;
    for protocol in ["udp", "tcp"] {
        for address in NEAR {
            asks_in_vain(cluster, protocol, address, PORT, "no-permission")?;
            is_asked_in_vain(cluster, protocol, address, OWN)?;
        }
    }
    Ok(())
}

fn out(
    cluster: &mut Cluster,
    protocol: &str,
    places: &Places,
    to: Addresses,
    port: u16,
    passes: bool,
) -> TestResult {
    let rules: Vec<String> = places.iter().map(|place| asks(place)).collect();
    enforce(cluster, &rules)?;
    to.into_iter().try_for_each(|to| {
        if passes {
            asks_well(cluster, protocol, to, port)
        } else {
            asks_in_vain(cluster, protocol, to, port, "no-permission")
        }
    })
}

fn inwards(
    cluster: &mut Cluster,
    protocol: &str,
    places: &Places,
    from: Addresses,
    port: u16,
    passes: bool,
) -> TestResult {
    let rules: Vec<String> = places.iter().map(|place| is_asked(place)).collect();
    enforce(cluster, &rules)?;
    from.into_iter().try_for_each(|from| {
        if passes {
            is_asked_well(cluster, protocol, from, port)
        } else {
            is_asked_in_vain(cluster, protocol, from, port)
        }
    })
}

/// A rule for one direction is none for the other, whatever the ports.
fn direction(cluster: &mut Cluster, rule_is_out: bool, asks_out: bool) -> TestResult {
    let rule = if rule_is_out {
        asks(PORT_ONLY[0])
    } else {
        is_asked(OWN_ONLY[0])
    };
    enforce(cluster, &[rule])?;
    for protocol in ["udp", "tcp"] {
        for address in NEAR {
            match (asks_out, rule_is_out) {
                (true, true) => asks_well(cluster, protocol, address, PORT)?,
                (true, false) => asks_in_vain(cluster, protocol, address, PORT, "no-permission")?,
                (false, false) => is_asked_well(cluster, protocol, address, OWN)?,
                (false, true) => is_asked_in_vain(cluster, protocol, address, OWN)?,
            }
        }
    }
    Ok(())
}

/// One port is denied in a network that is granted.
fn exception(cluster: &mut Cluster, port: u16, passes: bool) -> TestResult {
    let deny = "<deny>send connect</deny>";
    let mut rules: Vec<String> = NEAR_ONLY.iter().map(|place| asks(place)).collect();
    rules.push(rule("10", "outside", PORT_ONLY[0], deny));
    enforce(cluster, &rules)?;
    for protocol in ["udp", "tcp"] {
        for address in NEAR {
            if passes {
                asks_well(cluster, protocol, address, port)?;
            } else {
                asks_in_vain(cluster, protocol, address, port, "denied-by-rule")?;
            }
        }
    }
    Ok(())
}

/// IPv4 as an IPv6 socket writes it is IPv4 to a rule, too.
fn mapped(cluster: &mut Cluster, to: Addresses, passes: bool) -> TestResult {
    enforce(cluster, &[asks(NEAR_ONLY[0])])?;
    let munster = cluster.node("munster")?;
    for (protocol, step) in [("udp", "send"), ("tcp", "connect")] {
        let (mark, wire) = (munster.kernel_mark(), cluster.switch.mark());
        let steps = ask(
            protocol,
            None,
            &format!("::ffff:{}", to[0]),
            PORT,
            ALLOWED_MS,
        );
        let output = run(cluster, "munster", &steps)?;
        if passes {
            output.ok()?.says("recv ok question")?;
            check!(
                on_the_wire(cluster, wire, to[0], PORT)? > 0,
                "the capture has no packet"
            );
            continue;
        }
        output
            .exits_with(12)?
            .says(&format!("{step} errno={EACCES}\n"))?;
        let head = format!("denied sscid=10 ssnid=1 tscid=outside tsnid=0 {protocol}");
        let denial = Denial::wait(munster, mark, &head)?;
        denial.says("reason", "no-permission")?;
        check_eq!(denial.ends()?.1, at(to[0], PORT), "destination");
        let sent = on_the_wire(cluster, wire, to[0], PORT)?;
        check_eq!(sent, 0, "{protocol}: packets beside the rule");
    }
    Ok(())
}

/// What has no ports is of no rule for a port.
fn ping(cluster: &mut Cluster, places: &Places, to: Addresses, passes: bool) -> TestResult {
    let rules: Vec<String> = places.iter().map(|place| asks(place)).collect();
    enforce(cluster, &rules)?;
    let steps = format!("socket,p,2,2,1 timeout,p,{ALLOWED_MS} ping,p,{}", to[0]);
    let output = run(cluster, "munster", &steps)?;
    if passes {
        output.ok()?;
    } else {
        output
            .exits_with(12)?
            .says(&format!("ping errno={EPERM}\n"))?;
    }
    Ok(())
}

fn group(cluster: &mut Cluster, to: Addresses, passes: bool) -> TestResult {
    let places = [
        "<address>239.7.0.0/16</address><port>7016</port>",
        "<address>ff05::7:0/112</address><port>7016</port>",
    ];
    let grant = "<grant>multicast</grant>";
    let rules: Vec<String> = places
        .iter()
        .map(|place| rule("10", "outside", place, grant))
        .collect();
    enforce(cluster, &rules)?;
    let device = cluster
        .node("munster")?
        .run(&["cat", "/sys/class/net/eth0/ifindex"])?
        .ok()?
        .stdout;
    let device = device.trim();
    for to in to {
        let send = |port: u16| {
            // IPv6's are reached by every device: by this one.
            let by = match to.contains(':') {
                true => format!("option,s,41,17,{device}"),
                false => String::new(),
            };
            let steps = format!("{} {by} send,s,message,{}", socket("udp", to), at(to, port));
            run(cluster, "munster", &steps)
        };
        let denied = format!("send errno={EACCES}\n");
        if passes {
            send(7016)?.ok()?;
        } else {
            send(7016)?.exits_with(12)?.says(&denied)?;
        }
        send(7017)?.exits_with(12)?.says(&denied)?;
    }
    Ok(())
}

/// One socket sends to one port twice, which is remembered, and then to another of the same address.
fn remembered_out(cluster: &mut Cluster, both: bool) -> TestResult {
    let place = if both {
        "<port>7110-7111</port>"
    } else {
        PORT_ONLY[0]
    };
    enforce(cluster, &[asks(place)])?;
    for address in NEAR {
        let any = if address.contains(':') {
            "::"
        } else {
            "0.0.0.0"
        };
        let send = |port| format!("send,s,message,{}", at(address, port));
        let steps = format!(
            "{} bind,s,{} {} {} {} say,end",
            socket("udp", address),
            at(any, 7012),
            send(PORT),
            send(PORT),
            send(PORT + 1)
        );
        let output = run(cluster, "munster", &steps)?;
        check_eq!(
            output.stdout.matches("send ok").count(),
            if both { 3 } else { 2 },
            "messages sent: {}",
            output.describe()
        );
        if both {
            output.ok()?;
        } else {
            output
                .exits_with(12)?
                .says(&format!("send errno={EACCES}\n"))?;
        }
    }
    Ok(())
}

/// One socket receives from one port twice, which is remembered, and then from another of the same address.
fn remembered_in(cluster: &mut Cluster, both: bool) -> TestResult {
    let place = if both {
        "<port>7120-7121</port>"
    } else {
        "<port>7120</port>"
    };
    enforce(cluster, &[asks(place)])?;
    let munster = cluster.node("munster")?;
    for address in NEAR {
        let steps = format!(
            "{} bind,s,{} say,ready recv,s recv,s recv,s",
            socket("udp", address),
            at(own(address), 7013)
        );
        let receiver = start(cluster, "munster", &format!("remembered-in-{both}"), &steps)?;
        let before = Counters::of(munster)?;
        for (port, message) in [(7120, "first"), (7120, "second"), (7121, "third")] {
            let steps = format!(
                "{} bind,s,{} send,s,{message},{}",
                socket("udp", address),
                at(address, port),
                at(own(address), 7013)
            );
            run(cluster, "colby", &steps)?.ok()?;
            if port == 7120 || both {
                receiver.wait_line(&format!("recv ok {message}"))?;
            }
        }
        if both {
            check_eq!(receiver.join()?, Some(0), "exit code");
        } else {
            until("the refusal", || {
                Ok(Counters::of(munster)?.rise(&before, "refused-no-label")? == 1)
            })?;
            let said = receiver.output()?;
            check!(!said.contains("third"), "it was delivered: {said}");
            receiver.stop()?;
        }
    }
    Ok(())
}

/// The steps of a stream that waits for what never comes, or for the file and then asks once more.
fn stream(from: Option<&str>, to: &str, port: u16, goes_on: bool) -> String {
    let first = ask("tcp", from, to, port, ALLOWED_MS);
    let then = if goes_on {
        format!("until,{GO} send,s,again recv,s")
    } else {
        "recv,s".to_owned()
    };
    format!("{first} say,ready {then}")
}

/// Ends a stream's twin well, and tells with what the stream itself ended.
fn ends(cluster: &Cluster, node: &str, stream: &Process, twin: &Process, errno: i32) -> TestResult {
    stream.wait_line(&format!("recv errno={errno}"))?;
    cluster.node(node)?.write(GO, "")?;
    twin.wait_line("recv ok again")?;
    check_eq!(twin.join()?, Some(0), "exit code of '{}'", twin.output()?);
    Ok(())
}

/// Zone 10 has connections to two ports outside, and one of the ports is closed.
fn stream_out(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    for address in NEAR {
        munster.run(&["rm", "-f", GO])?.ok()?;
        enforce(cluster, &[asks("<port>7110-7111</port>")])?;
        let start = |name, port, goes_on| {
            let steps = stream(None, address, port, goes_on);
            start(cluster, "munster", name, &steps)
        };
        let closed = start("stream-out", PORT, false)?;
        let twin = start("stream-out-twin", PORT + 1, true)?;
        let before = Counters::of(munster)?;
        enforce(cluster, &[asks("<port>7111</port>")])?;
        Counters::wait_aborted(munster, &before, 1)?;
        ends(cluster, "munster", &closed, &twin, ECONNABORTED)?;
    }
    Ok(())
}

/// Zone 10 has connections from two addresses outside, and one of the addresses is closed.
fn stream_in(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    for (far, near) in FAR.into_iter().zip(NEAR) {
        colby.run(&["rm", "-f", GO])?.ok()?;
        enforce(cluster, &[is_asked(OWN_ONLY[0])])?;
        let start = |name, from, goes_on| {
            let steps = stream(Some(from), own(from), OWN, goes_on);
            start(cluster, "colby", name, &steps)
        };
        let closed = start("stream-in", far, false)?;
        let twin = start("stream-in-twin", near, true)?;
        let before = Counters::of(munster)?;
        let rules: Vec<String> = NEAR_ONLY.iter().map(|place| is_asked(place)).collect();
        enforce(cluster, &rules)?;
        Counters::wait_aborted(munster, &before, 1)?;
        ends(cluster, "colby", &closed, &twin, ECONNRESET)?;
    }
    Ok(())
}

/// A connected UDP socket of zone 10 sends before and after a change of policy.
/// To have asked for connections, which UDP has none of, makes nobody the one who is asked: what he sends is judged.
fn listened(cluster: &mut Cluster, granted: bool) -> TestResult {
    let rules: &[String] = if granted {
        &[asks("<port>7110</port>")]
    } else {
        &[]
    };
    enforce(cluster, rules)?;
    for address in NEAR {
        let steps = format!(
            "{} timeout,s,{ALLOWED_MS} listen-in-vain,s send,s,question,{} recv,s",
            socket("udp", address),
            at(address, PORT)
        );
        let output = run(cluster, "munster", &steps)?;
        if granted {
            output.ok()?.says("recv ok question")?;
        } else {
            output
                .exits_with(12)?
                .says(&format!("send errno={EACCES}\n"))?;
        }
    }
    Ok(())
}

fn datagram_out(cluster: &mut Cluster, still_open: bool) -> TestResult {
    let munster = cluster.node("munster")?;
    for address in NEAR {
        munster.run(&["rm", "-f", GO])?.ok()?;
        enforce(cluster, &[asks("<port>7110-7111</port>")])?;
        let steps = format!(
            "{} timeout,s,{ALLOWED_MS} connect,s,{} send,s,one recv,s say,ready until,{GO} send,s,two recv,s",
            socket("udp", address),
            at(address, PORT)
        );
        let sender = start(cluster, "munster", "datagram-out", &steps)?;
        let place = if still_open { 7110 } else { 7111 };
        enforce(cluster, &[asks(&format!("<port>{place}</port>"))])?;
        munster.write(GO, "")?;
        if still_open {
            sender.wait_line("recv ok two")?;
        } else {
            sender.wait_line(&format!("send errno={EACCES}"))?;
        }
    }
    Ok(())
}

/// How many packets to a port of an address of colby's have been on the wire since a mark.
fn on_the_wire(cluster: &Cluster, mark: u64, address: &str, port: u16) -> Result<usize, Failure> {
    let is_to = |destination: &dyn std::fmt::Display, ports: Option<(u16, u16)>| {
        destination.to_string() == address && ports.is_some_and(|(_, to)| to == port)
    };
    let frames = cluster.switch.frames_since(mark)?;
    let there = frames.iter().filter(|frame| {
        let v4 = frame
            .ipv4()
            .is_some_and(|p| is_to(&p.destination, p.ports()));
        v4 || frame
            .ipv6()
            .is_some_and(|p| is_to(&p.destination, p.ports()))
    });
    Ok(there.count())
}

/// One call sends to two ports of an address (sendmmsg).
fn many(cluster: &mut Cluster, both: bool) -> TestResult {
    let place = if both {
        "<port>7110-7111</port>"
    } else {
        PORT_ONLY[0]
    };
    enforce(cluster, &[asks(place)])?;
    let munster = cluster.node("munster")?;
    for address in NEAR {
        let (mark, wire) = (munster.kernel_mark(), cluster.switch.mark());
        let before = Counters::of(munster)?;
        let answers = if both { "recv,s recv,s" } else { "recv,s" };
        let steps = format!(
            "{} timeout,s,{ALLOWED_MS} sendmany,s,message,{},{} {answers}",
            socket("udp", address),
            at(address, PORT),
            at(address, PORT + 1)
        );
        let output = run(cluster, "munster", &steps)?
            .ok()?
            .says(&format!("sendmany ok {}\n", 1 + u8::from(both)))?;
        let answered = output.stdout.matches("recv ok message").count();
        check_eq!(answered, 1 + usize::from(both), "answers: {output:?}");
        let refusals = Counters::of(munster)?.refusals(&before)?;
        if both {
            check!(refusals.is_empty(), "refused: {refusals:?}");
        } else {
            let head = "denied sscid=10 ssnid=1 tscid=outside tsnid=0 udp";
            let denial = Denial::wait(munster, mark, head)?;
            denial.says("reason", "no-permission")?;
            denial.says("hook", "socket_sendmsg")?;
            check_eq!(denial.ends()?.1, at(address, PORT + 1), "destination");
            check_eq!(
                refusals.into_iter().collect::<Vec<_>>(),
                [("refused-no-permission".to_owned(), 1)],
                "refusals"
            );
            // The first one has come back: the other one would have left right behind it.
            let others = on_the_wire(cluster, wire, address, PORT + 1)?;
            check_eq!(others, 0, "datagrams beside the rule");
        }
        check!(
            on_the_wire(cluster, wire, address, PORT)? > 0,
            "the capture has no datagram"
        );
    }
    Ok(())
}

/// A datagram is begun, the policy changes, and the socket lets it go without another call to send.
fn begun(cluster: &mut Cluster, still_open: bool) -> TestResult {
    let munster = cluster.node("munster")?;
    for address in NEAR {
        munster.run(&["rm", "-f", GO])?.ok()?;
        enforce(cluster, &[asks("<port>7110-7111</port>")])?;
        let steps = format!(
            "{} timeout,s,{ALLOWED_MS} connect,s,{} send,s,one recv,s option,s,17,1,1 send,s,two say,ready until,{GO} \
             option,s,17,1,0 recv,s",
            socket("udp", address),
            at(address, PORT)
        );
        let sender = start(cluster, "munster", "datagram-begun", &steps)?;
        let place = if still_open { 7110 } else { 7111 };
        enforce(cluster, &[asks(&format!("<port>{place}</port>"))])?;
        let mark = munster.kernel_mark();
        munster.write(GO, "")?;
        if still_open {
            sender.wait_line("recv ok two")?;
        } else {
            Denial::wait(
                munster,
                mark,
                "denied sscid=10 ssnid=1 tscid=outside tsnid=0 udp",
            )?
            .says("reason", "no-permission")?;
            check!(
                !sender.output()?.contains("recv ok two"),
                "it was answered: {}",
                sender.output()?
            );
            sender.stop()?;
        }
    }
    Ok(())
}

/// The header of a UDP-Lite packet, in letters: `bb` is the target's port, which is that of the rule, or it is another.
const LITE: [&str; 2] = ["aabbcccc", "aazzcccc"];
const LITE_PORT: &str = "<port>25186</port>";
/// A socket of zone 10 for UDP-Lite, for which recent kernels have none but raw ones.
const LITE_SOCKET: &str = "socket,s,2,3,136";

/// One end may use raw sockets.
fn lite(place: String) -> [String; 2] {
    let raw = "<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>\
               <grant>create_unmediated</grant></socket_permission>";
    [raw.to_owned(), place]
}

fn lite_out(cluster: &mut Cluster, allowed: bool) -> TestResult {
    enforce(cluster, &lite(asks(LITE_PORT)))?;
    let munster = cluster.node("munster")?;
    let mark = munster.kernel_mark();
    let header = LITE[usize::from(!allowed)];
    let steps = format!("{LITE_SOCKET} send,s,{header},{}:0", NEAR[0]);
    let output = run(cluster, "munster", &steps)?;
    if allowed {
        output.ok()?;
        return Ok(());
    }
    output
        .exits_with(12)?
        .says(&format!("send errno={EPERM}\n"))?;
    Denial::wait(
        munster,
        mark,
        "denied sscid=10 ssnid=1 tscid=outside tsnid=0 ip-136",
    )
    .map(drop)
}

fn lite_in(cluster: &mut Cluster, allowed: bool) -> TestResult {
    enforce(cluster, &lite(is_asked(LITE_PORT)))?;
    let munster = cluster.node("munster")?;
    let mark = munster.kernel_mark();
    let name = format!("lite-{allowed}");
    let receiver = start(
        cluster,
        "munster",
        &name,
        &format!("{LITE_SOCKET} say,ready recv,s"),
    )?;
    let [of_rule, beside] = LITE;
    if !allowed {
        let steps = format!("{LITE_SOCKET} send,s,{beside},{}:0", NODE[0]);
        run(cluster, "colby", &steps)?.ok()?;
        let head = "denied sscid=outside ssnid=0 tscid=10 tsnid=1 ip-136";
        Denial::wait(munster, mark, head)?;
    }
    let steps = format!("{LITE_SOCKET} send,s,{of_rule},{}:0", NODE[0]);
    run(cluster, "colby", &steps)?.ok()?;
    until("a packet", || Ok(!receiver.is_running()?))?;
    let output = receiver.output()?;
    check!(
        output.contains(of_rule) && !output.contains(beside),
        "received: {output}"
    );
    Ok(())
}
