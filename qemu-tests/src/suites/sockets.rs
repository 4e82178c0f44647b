//! Proves that no kind of socket leads out of a zone: source routes, addresses of no family, MPTCP, raw and ICMP sockets,
//! families without label, maps of sockets, multicast, other network namespaces, and what a socket remembers of an
//! earlier flow or policy. Each `...-denied` has a twin `...-ok` with the same steps. No servers; a native helper does
//! the steps.

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{addresses, members, requests, ynl};
use crate::fault::Failure;
use crate::label::Label;
use crate::node::{Node, Output, Process};
use crate::pcap::Ipv6;
use crate::probe::{
    ALLOWED_MS, DENIED_MS, EACCES, EAGAIN, EPERM, FROM_10, GO, INNER, INNER6, Kind, NAMES, OUTSIDE,
    OUTSIDE6, PLAIN, PLAIN6, SECOND, SECOND6, enforce, fails, nodes, of_munster, policy, program,
    run, setup, socket_rule, start,
};
use crate::regime::{
    self, Counters, Denial, Regime, WITHIN_10, ZONES, document, every_packet, network, until,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "sockets",
    proves: "no kind of socket leads out of a zone",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "call-without-its-permission-denied" => calls_denied,
    "call-with-its-permission-ok" => calls_allowed,
    "source-route-out-of-a-zone-denied" => source_route_denied,
    "source-route-told-by-a-permissive-policy-ok" => source_route_tolerated,
    "address-of-no-family-after-withdrawal-denied" => |c| no_family(c, false),
    "address-of-no-family-with-permission-ok" => |c| no_family(c, true),
    "ip-options-of-a-zone-denied" => ip_options_denied,
    "ip-options-of-default-ok" => ip_options_of_default,
    "ip-options-of-a-ping-socket-of-a-zone-denied" => |c| ping_options(c, "10"),
    "ip-options-of-a-ping-socket-of-default-ok" => |c| ping_options(c, "2"),
    "mptcp-between-zones-denied" => |c| mptcp_denied(c, PLAIN),
    "mptcp-within-a-zone-labelled-ok" => |c| mptcp_allowed(c, PLAIN),
    "mptcp-over-ipv6-between-zones-denied" => |c| mptcp_denied(c, PLAIN6),
    "mptcp-over-ipv6-within-a-zone-labelled-ok" => |c| mptcp_allowed(c, PLAIN6),
    "mptcp-within-a-zone-by-handshake-ok" => |c| mptcp_by_handshake(c, PLAIN),
    "mptcp-over-ipv6-within-a-zone-by-handshake-ok" => |c| mptcp_by_handshake(c, PLAIN6),
    "mptcp-join-within-a-zone-ok" => |c| join_allowed(c, PLAIN, SECOND),
    "mptcp-join-from-an-address-of-no-node-denied" => |c| join_denied(c, PLAIN, STRANGE),
    "mptcp-connection-of-two-subflows-after-withdrawal-aborted" => |c| join_withdrawn(c, PLAIN, SECOND),
    "mptcp-join-over-ipv6-within-a-zone-ok" => |c| join_allowed(c, PLAIN6, SECOND6),
    "mptcp-join-over-ipv6-from-an-address-of-no-node-denied" => |c| join_denied(c, PLAIN6, STRANGE6),
    "mptcp-connection-of-two-subflows-over-ipv6-after-withdrawal-aborted" => |c| join_withdrawn(c, PLAIN6, SECOND6),
    "segment-without-label-in-a-labelled-flow-denied" => |c| unlabelled_segment(c, PLAIN),
    "ipv6-segment-without-label-in-a-labelled-flow-denied" => |c| unlabelled_segment(c, PLAIN6),
    "verdict-of-a-socket's-earlier-flow-denied" => |c| earlier_flow(c, PLAIN, false),
    "connection-to-a-socket-that-connected-before-ok" => |c| earlier_flow(c, PLAIN, true),
    "verdict-of-an-ipv6-socket's-earlier-flow-denied" => |c| earlier_flow(c, PLAIN6, false),
    "connection-to-an-ipv6-socket-that-connected-before-ok" => |c| earlier_flow(c, PLAIN6, true),
    "open-packet-socket-after-withdrawal-denied" => |c| withdrawn(c, false),
    "open-packet-socket-with-permission-ok" => |c| withdrawn(c, true),
    "each-packet-is-counted-ok" => counted,
    "raw-packet-in-another-zone's-name-denied" => raw_denied,
    "raw-packet-in-the-own-name-ok" => raw_allowed,
    "raw-fragment-of-a-zone-denied" => raw_fragment,
    "raw-socket-sees-no-packets-of-another-zone-denied" => |c| raw_sees(c, false),
    "raw-socket-sees-packets-by-permission-ok" => |c| raw_sees(c, true),
    "raw-ipv6-packet-carries-no-label-denied" => |c| raw6(c, false),
    "raw-ipv6-packet-to-who-hears-outside-ok" => |c| raw6(c, true),
    "ping-over-ipv6-without-permission-denied" => |c| ping6(c, false),
    "ping-over-ipv6-by-permission-ok" => |c| ping6(c, true),
    "ping-to-outside-denied" => |c| ping(c, false),
    "ping-to-a-node-ok" => |c| ping(c, true),
    "sockets-without-labels-denied" => |c| families_denied(c, ""),
    "sockets-without-labels-of-default-ok" => |c| families_allowed(c, "2", &[], ""),
    "sockets-without-labels-by-permission-ok" => |c| families_allowed(c, "10", &[&unmediated()], ""),
    "map-of-sockets-without-permission-denied" => |c| sockmap(c, ""),
    "map-of-sockets-by-permission-ok" => |c| sockmap(c, MAPS),
    "what-an-icmp-error-quotes-denied" => |c| quoted(c, "10", &[], false),
    "what-an-icmp-error-quotes-of-default-ok" => |c| quoted(c, "2", &[], true),
    "what-an-icmp-error-quotes-by-permission-ok" => |c| quoted(c, "10", &[&socket_rule("10", "10", "create_unmediated")], true),
    "many-errors-in-one-call-denied" => |c| more_errors(c, MANY, "10", &[], false),
    "many-errors-in-one-call-of-default-ok" => |c| more_errors(c, MANY, "2", &[], true),
    "many-errors-in-one-call-by-permission-ok" => |c| more_errors(c, MANY, "10", &[&socket_rule("10", "10", "create_unmediated")], true),
    "errors-beside-time-stamps-denied" => |c| more_errors(c, STAMPED, "10", &[], false),
    "errors-beside-time-stamps-of-default-ok" => |c| more_errors(c, STAMPED, "2", &[], true),
    "errors-beside-time-stamps-by-permission-ok" => |c| more_errors(c, STAMPED, "10", &[&socket_rule("10", "10", "create_unmediated")], true),
    "time-stamps-and-completions-of-a-zone-ok" => own_errors,
    "to-no-address-to-another-zone-denied" => |c| to_no_address(c, "20"),
    "to-no-address-within-a-zone-ok" => |c| to_no_address(c, "10"),
    "multicast-sent-without-permission-denied" => |c| multicast_unsent(c, GROUP),
    "multicast-received-without-permission-denied" => |c| multicast_unreceived(c, &[GROUP, BROADCAST]),
    "multicast-by-permission-ok" => |c| multicast_passes(c, GROUP),
    "multicast-over-ipv6-sent-without-permission-denied" => |c| multicast_unsent(c, GROUP6),
    "multicast-over-ipv6-received-without-permission-denied" => |c| multicast_unreceived(c, &[GROUP6]),
    "multicast-over-ipv6-by-permission-ok" => |c| multicast_passes(c, GROUP6),
    "broadcast-sent-without-permission-denied" => |c| multicast_unsent(c, BROADCAST),
    "broadcast-by-permission-ok" => |c| multicast_passes(c, BROADCAST),
    "network-namespace-to-another-zone-denied" => |c| namespace(c, PLAIN, "20"),
    "network-namespace-within-a-zone-ok" => |c| namespace(c, PLAIN, "10"),
    "network-namespace-over-ipv6-to-another-zone-denied" => |c| namespace(c, PLAIN6, "20"),
    "network-namespace-over-ipv6-within-a-zone-ok" => |c| namespace(c, PLAIN6, "10"),
};

const GROUP: &str = "239.7.7.7:7016";
const GROUP6: &str = "[ff05::7:7]:7016";
const BROADCAST: &str = "10.77.0.255:7016";
/// One of munster's addresses that the node map lacks.
const STRANGE: &str = "10.77.0.202";
const STRANGE6: &str = "fd77::202";

/// What zone 10 may do with sockets of its own.
const CALLS: &str = "create bind connect listen accept send receive";

/// A stream and a datagram over a loopback address, each call once, and the step that takes each permission.
fn calls(address: &str) -> [(String, Vec<(&'static str, &'static str)>); 2] {
    let family = if address.starts_with('[') { 10 } else { 2 };
    let at = format!("{address}:7010");
    let end = format!("timeout,c,{ALLOWED_MS} connect,c,{at}");
    [
        (
            format!(
                "socket,l,{family},1,0 option,l,1,2,1 bind,l,{at} listen,l socket,c,{family},1,0 {end} accept,a,l \
                 send,c,message timeout,a,{ALLOWED_MS} recv,a"
            ),
            [
                ("create", "socket"),
                ("bind", "bind"),
                ("connect", "connect"),
                ("listen", "listen"),
                ("accept", "accept"),
                ("send", "send"),
                ("receive", "recv"),
            ]
            .to_vec(),
        ),
        (
            format!(
                "socket,l,{family},2,0 bind,l,{at} socket,c,{family},2,0 {end} send,c,message \
                 timeout,l,{ALLOWED_MS} recv,l"
            ),
            [
                ("create", "socket"),
                ("bind", "bind"),
                ("connect", "connect"),
                ("send", "send"),
                ("receive", "recv"),
            ]
            .to_vec(),
        ),
    ]
}

/// Each word of the grant is taken out in turn, and the call of that name is refused, no other one before it.
fn calls_denied(cluster: &mut Cluster) -> TestResult {
    let (munster, _) = nodes(cluster)?;
    let regime: &Regime = regime::kept(cluster)?;
    for word in CALLS.split(' ') {
        let rest: Vec<&str> = CALLS.split(' ').filter(|other| *other != word).collect();
        // Zone 10's is the first one.
        let zones = ZONES.replacen(CALLS, &rest.join(" "), 1);
        check!(zones != ZONES, "there is no such grant: {ZONES}");
        regime.enforce(
            munster,
            &document("enforcing", &[&zones, WITHIN_10, FROM_10]),
        )?;
        for (steps, takes) in ["127.0.0.1", "[::1]"].into_iter().flat_map(calls) {
            let Some((_, step)) = takes.iter().find(|(takes, _)| *takes == word) else {
                continue;
            };
            let mark = munster.kernel_mark();
            fails(run(munster, "10", &steps)?, step, EACCES)?;
            let denial = Denial::wait(munster, mark, "denied sscid=10 ssnid=1 tscid=10 tsnid=1")?;
            denial.says("perm", word)?;
            denial.says("reason", "no-permission")?;
        }
    }
    Ok(())
}

fn calls_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    let before = Counters::of(munster)?;
    for (steps, _) in ["127.0.0.1", "[::1]"].into_iter().flat_map(calls) {
        run(munster, "10", &steps)?.ok()?.says("recv ok message")?;
    }
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

fn source_route(cluster: &Cluster) -> Result<Output, Failure> {
    let (munster, colby) = nodes(cluster)?;
    let to = format!("{}:7010", colby.ip);
    run(
        munster,
        "10",
        &format!("socket,u,2,2,0 send,u,plain,{to} srr,u,routed,{to},{OUTSIDE}"),
    )
}

fn source_route_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    let (mark, before) = (munster.kernel_mark(), Counters::of(munster)?);
    let output = source_route(cluster)?.says("send ok 5")?;
    fails(output, "srr", EPERM)?;
    Denial::wait(munster, mark, "denied sscid=10")?.says("reason", "source-route")?;
    let after = Counters::of(munster)?;
    check_eq!(after.rise(&before, "out-refused")?, 1, "packets kept");
    Ok(())
}

fn source_route_tolerated(cluster: &mut Cluster) -> TestResult {
    enforce(
        cluster,
        &document("permissive", &[ZONES, WITHIN_10, FROM_10]),
    )?;
    let (munster, _) = nodes(cluster)?;
    let before = Counters::of(munster)?;
    source_route(cluster)?.ok()?.says("srr ok 6")?;
    let rise = Counters::of(munster)?.rise(&before, "would-refuse-source-route")?;
    check_eq!(rise, 1, "told");
    Ok(())
}

/// Three that do nothing, on a socket that has yet to be used: level SOL_IP, IP_OPTIONS, NOP three times and the end.
pub(super) const OPTIONS: &str = "option,u,0,4,65793";
/// The same on sockets that hold room for a label already: of a datagram as large as a packet, and of a connection.
const LATER: [&str; 2] = [
    "socket,u,2,2,0 connect,u,10.77.0.2:7015 fill,u,1400",
    "socket,u,2,1,0 connect,u,10.77.0.2:7015",
];

fn ip_options_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    for kind in ["1", "2"] {
        let output = run(munster, "10", &format!("socket,u,2,{kind},0 {OPTIONS}"))?;
        fails(output, "option", EPERM)?;
    }
    let _server = PLAIN.greeter(colby)?;
    for begin in LATER {
        let output = run(munster, "10", &format!("{begin} {OPTIONS}"))?;
        fails(output, "option", EPERM)?;
    }
    Ok(())
}

/// The default zone may say them, and what it sends is labelled all the same.
/// A socket for ICMP's questions: set IP options, and be shown those of what comes.
fn ping_options(cluster: &mut Cluster, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    for option in ["0,4,65793", "0,6,1", "0,7,1"] {
        let output = run(munster, zone, &format!("socket,p,2,2,1 option,p,{option}"))?;
        if zone == "10" {
            fails(output, "option", EPERM)?;
        } else {
            output.ok()?;
        }
    }
    Ok(())
}

fn ip_options_of_default(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        "ip-options",
        "2",
        "socket,u,2,2,0 bind,u,0.0.0.0:7002 say,ready recv,u",
    )?;
    let before = Counters::of(colby)?;
    run(
        munster,
        "2",
        &format!("socket,u,2,2,0 {OPTIONS} send,u,message,10.77.0.2:7002"),
    )?
    .ok()?;
    receiver.wait_line("recv ok message")?;
    let rise = Counters::of(colby)?.rise(&before, "in-labelled")?;
    check_eq!(rise, 1, "labelled packets");
    Ok(())
}

fn no_family(cluster: &mut Cluster, keep: bool) -> TestResult {
    let grant = network("10", "", "outside", "send");
    let with = policy(&[&grant]);
    enforce(cluster, &with)?;
    let (munster, colby) = nodes(cluster)?;
    // Without a socket there, the kernel would tell of the first message before the second.
    let _there = start(
        colby,
        "no-family-there",
        "2",
        &format!("socket,u,10,2,0 bind,u,[::]:9999 say,ready until,{GO}"),
    )?;
    let to = format!("[{OUTSIDE6}]:9999");
    for name in ["unspec", "short"] {
        enforce(cluster, &with)?;
        let wire = cluster.switch.mark();
        let process = start(
            munster,
            &format!("no-family-{name}-{keep}"),
            "10",
            &format!(
                "socket,u,10,2,0 connect,u,{to} send,u,one,{name} say,ready until,{GO} send,u,two,{name}"
            ),
        )?;
        enforce(
            cluster,
            &if keep {
                // Another one, that still permits it.
                policy(&[&grant, &network("10", "", "20", "send")])
            } else {
                policy(&[])
            },
        )?;
        let mark = munster.kernel_mark();
        munster.write(GO, "")?;
        let code = process.join()?;
        let said = process.output()?;
        let mut sent = vec!["one"];
        if keep {
            check_eq!(code, Some(0), "exit code of '{said}'");
            sent.push("two");
        } else {
            check!(
                said.ends_with(&format!("send errno={EACCES}\n")),
                "{name}: {said}"
            );
            let head = "denied sscid=10 ssnid=1 tscid=outside tsnid=0 udp";
            let denial = Denial::wait(munster, mark, head)?;
            denial.says("reason", "no-permission")?;
            check_eq!(denial.ends()?.1, to, "{name}: destination");
        }
        until("what was sent", || {
            Ok(sent_to(cluster, wire, 9999)?.len() >= sent.len())
        })?;
        check_eq!(sent_to(cluster, wire, 9999)?, sent, "{name}: on the wire");
    }
    Ok(())
}

/// What datagrams to a port have said since a mark.
fn sent_to(cluster: &Cluster, mark: u64, port: u16) -> Result<Vec<String>, Failure> {
    const UDP_HEADER: usize = 8;
    let said = |ports: Option<(u16, u16)>, payload: &[u8]| {
        let (_, to) = ports?;
        let data = payload.get(UDP_HEADER..)?;
        (to == port).then(|| String::from_utf8_lossy(data).into_owned())
    };
    let frames = cluster.switch.frames_since(mark)?;
    let all = frames.iter().filter_map(|frame| {
        let v4 = frame.ipv4();
        v4.and_then(|packet| said(packet.ports(), &packet.payload))
            .or_else(|| {
                let packet = frame.ipv6()?;
                said(packet.ports(), &packet.payload)
            })
    });
    Ok(all.collect())
}

/// As many bytes as take several segments of full size.
const BULK: &str = "30000";

fn mptcp_server(kind: &Kind, colby: &Node) -> Result<Process, Failure> {
    start(
        colby,
        "mptcp-server",
        "10",
        &format!(
            "socket,l,{},1,262 option,l,1,2,1 bind,l,{}:7012 listen,l say,ready accept,c,l drain,c,{BULK} fill,c,{BULK}",
            kind.family, kind.any
        ),
    )
}

fn mptcp(cluster: &Cluster, kind: &Kind, zone: &str) -> Result<Output, Failure> {
    let (munster, _) = nodes(cluster)?;
    let ms = if zone == "10" { ALLOWED_MS } else { DENIED_MS };
    run(
        munster,
        zone,
        &format!(
            "socket,a,{},1,262 timeout,a,{ms} connect,a,{}:7012 fill,a,{BULK} drain,a,{BULK}",
            kind.family, kind.colby
        ),
    )
}

fn mptcp_denied(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let _server = mptcp_server(&kind, colby)?;
    let mark = colby.kernel_mark();
    mptcp(cluster, &kind, "20")?
        .exits_with(12)?
        .says("connect errno=")?;
    Denial::wait(colby, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=2 tcp")?
        .says("reason", "no-permission")
}

fn mptcp_by_handshake(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let before = Counters::of(colby)?;
    let server = mptcp_server(&kind, colby)?;
    mptcp(cluster, &kind, "10")?.ok()?;
    check_eq!(
        server.join()?,
        Some(0),
        "exit code of '{}'",
        server.output()?
    );
    let after = Counters::of(colby)?;
    check!(after.rise(&before, "flow-bound")? > 0, "no flow was bound");
    check!(after.rise(&before, "in-bare")? > 0, "no data came in bare");
    let refusals = after.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

fn mptcp_allowed(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &every_packet(&policy(&[])))?;
    let (_, colby) = nodes(cluster)?;
    let server = mptcp_server(&kind, colby)?;
    let mark = cluster.switch.mark();
    let before = Counters::of(colby)?;
    mptcp(cluster, &kind, "10")?.ok()?;
    check_eq!(
        server.join()?,
        Some(0),
        "exit code of '{}'",
        server.output()?
    );
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    let frames = cluster.switch.frames_since(mark)?;
    let of_flow = |ports: Option<(u16, u16)>| ports.is_some_and(|(a, b)| a == 7012 || b == 7012);
    let mut seen = 0;
    for frame in &frames {
        let (scid, mptcp) = match (frame.ipv4(), frame.ipv6()) {
            (Some(packet), _) if of_flow(packet.ports()) => {
                let scid = Label::of(&packet).map(|label| label.scid);
                (scid, speaks_mptcp(&packet.payload))
            }
            (_, Some(packet)) if of_flow(packet.ports()) => {
                (scid_of(&packet), speaks_mptcp(&packet.payload))
            }
            _ => continue,
        };
        seen += 1;
        check!(matches!(scid, Some(10 | 0)), "label of {frame:?}");
        // The first one tells whether this was MPTCP.
        check!(seen > 1 || mptcp, "no MPTCP: {frame:?}");
    }
    check!(seen > 4, "{seen} packets");
    Ok(())
}

/// A counter of the kernel's of the network, as `MPTcpExt` and `MPJoinAckRx`.
fn netstat(node: &Node, group: &str, name: &str) -> Result<u64, Failure> {
    let output = node.run(&["cat", "/proc/net/netstat"])?.ok()?;
    let mut lines = output
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, values) = (lines.next(), lines.next());
    let both = names.zip(values);
    both.and_then(|(names, values)| {
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        both.find(|(of, _)| *of == name)?.1.parse().ok()
    })
    .ok_or_else(|| Failure::new(format!("{}: no counter {name}", node.name)))
}

/// A connection within zone 10, of which munster would make another part from this address.
struct Joining {
    server: Process,
    client: Process,
    before: [Counters; 2],
    joined: u64,
    mark: u64,
}

impl Joining {
    fn start(cluster: &Cluster, kind: &Kind, from: &str) -> Result<Self, Failure> {
        enforce(cluster, &policy(&[]))?;
        let (munster, colby) = nodes(cluster)?;
        let bits = if kind.family == "2" { "24" } else { "64 nodad" };
        // Nobody takes an address for his own that is not preferred, unless he asks for it.
        munster
            .sh(&format!(
                "ip mptcp endpoint flush && ip mptcp limits set subflow 2 && \
                 ip addr replace {from}/{bits} dev eth0 preferred_lft 0 && ip mptcp endpoint add {from} dev eth0 subflow"
            ))?
            .ok()?;
        let before = [Counters::of(munster)?, Counters::of(colby)?];
        let joined = netstat(colby, "MPTcpExt", "MPJoinAckRx")?;
        let mark = cluster.switch.mark();
        let server = start(
            colby,
            &format!("join-server-{from}"),
            "10",
            &format!(
                "socket,l,{},1,262 option,l,1,2,1 bind,l,{}:7012 listen,l say,ready accept,c,l drain,c,{BULK} \
                 fill,c,{BULK} until,{GO} fill,c,{BULK} drain,c,{BULK}",
                kind.family, kind.any
            ),
        )?;
        // Once each end has heard of the other, it may be joined.
        let client = start(
            munster,
            &format!("join-client-{from}"),
            "10",
            &format!(
                "socket,a,{},1,262 timeout,a,{ALLOWED_MS} bind,a,{}:0 connect,a,{}:7012 fill,a,{BULK} drain,a,{BULK} \
                 say,ready until,{GO} drain,a,{BULK} fill,a,{BULK}",
                kind.family, kind.munster, kind.colby
            ),
        )?;
        Ok(Self {
            server,
            client,
            before,
            joined,
            mark,
        })
    }

    fn joins(&self, colby: &Node) -> Result<u64, Failure> {
        Ok(netstat(colby, "MPTcpExt", "MPJoinAckRx")? - self.joined)
    }

    /// Both ends go on, and end with this code.
    fn end(&self, cluster: &Cluster, code: i32) -> TestResult {
        let (munster, colby) = nodes(cluster)?;
        for node in [munster, colby] {
            node.write(GO, "")?;
        }
        for process in [&self.server, &self.client] {
            let ended = process.join()?;
            check_eq!(ended, Some(code), "exit code of '{}'", process.output()?);
        }
        munster.sh("ip mptcp endpoint flush")?.ok()?;
        Ok(())
    }
}

/// ScIDs and SnIDs by which the openings from an address to the server speak.
fn openings(cluster: &Cluster, mark: u64, from: &str) -> Result<Vec<Option<u32>>, Failure> {
    const SYN: u8 = 2;
    let opens = |ports: Option<(u16, u16)>, segment: &[u8]| {
        ports.is_some_and(|(_, to)| to == 7012)
            && segment
                .get(13)
                .is_some_and(|flags| flags & (SYN | 16) == SYN)
    };
    let frames = cluster.switch.frames_since(mark)?;
    let of_frame = |frame: &crate::pcap::Frame| match (frame.ipv4(), frame.ipv6()) {
        (Some(packet), _)
            if packet.source.to_string() == from && opens(packet.ports(), &packet.payload) =>
        {
            Some(Label::of(&packet).map(|label| label.scid))
        }
        (_, Some(packet))
            if packet.source.to_string() == from && opens(packet.ports(), &packet.payload) =>
        {
            Some(scid_of(&packet))
        }
        _ => None,
    };
    Ok(frames.iter().filter_map(of_frame).collect())
}

/// Another part of a connection is labelled and judged as the first one.
fn join_allowed(cluster: &mut Cluster, kind: Kind, from: &str) -> TestResult {
    let joining = Joining::start(cluster, &kind, from)?;
    let (munster, colby) = nodes(cluster)?;
    until("the second part", || Ok(joining.joins(colby)? == 1))?;
    joining.end(cluster, 0)?;
    let openings = openings(cluster, joining.mark, from)?;
    check!(
        !openings.is_empty() && openings.iter().all(|scid| *scid == Some(10)),
        "labels of the openings from {from}: {openings:?}"
    );
    for (node, before) in [munster, colby].into_iter().zip(&joining.before) {
        let refusals = Counters::of(node)?.refusals(before)?;
        check!(refusals.is_empty(), "{}: refused: {refusals:?}", node.name);
    }
    Ok(())
}

/// Munster's kernel says whose part it is, but its address is not munster's for colby; the first part goes on.
fn join_denied(cluster: &mut Cluster, kind: Kind, from: &str) -> TestResult {
    let joining = Joining::start(cluster, &kind, from)?;
    let (_, colby) = nodes(cluster)?;
    until("the refusal", || {
        let rise = Counters::of(colby)?.rise(&joining.before[1], "refused-unknown-node")?;
        Ok(rise > 0)
    })?;
    joining.end(cluster, 0)?;
    check_eq!(joining.joins(colby)?, 0, "joined");
    Ok(())
}

/// A policy that forbids the connection ends all its parts, and none is made anew.
fn join_withdrawn(cluster: &mut Cluster, kind: Kind, from: &str) -> TestResult {
    let joining = Joining::start(cluster, &kind, from)?;
    let (munster, colby) = nodes(cluster)?;
    until("the second part", || Ok(joining.joins(colby)? == 1))?;
    let before = Counters::of(munster)?;
    enforce(cluster, &document("enforcing", &[ZONES, FROM_10]))?;
    // Munster's part of each, or a reset of colby's was first.
    until("a part to be ended", || {
        Ok(Counters::of(munster)?.rise(&before, "flows-aborted")? > 0)
    })?;
    joining.end(cluster, 12)?;
    check_eq!(joining.joins(colby)?, 1, "joined");
    Ok(())
}

/// The ScID that an IPv6 packet's label names.
fn scid_of(packet: &Ipv6) -> Option<u32> {
    let is_label = |header: &[u8]| header.len() == 24 && header[4] == 0x1e;
    let (_, header) = packet
        .extensions
        .iter()
        .find(|(kind, header)| *kind == 60 && is_label(header))?;
    header
        .get(12..16)
        .and_then(|scid| scid.try_into().ok())
        .map(u32::from_be_bytes)
}

/// Whether MPTCP's option, 30, is among a segment's.
fn speaks_mptcp(segment: &[u8]) -> bool {
    let len = segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let mut rest = segment.get(20..len).unwrap_or_default();
    loop {
        match *rest {
            [30, ..] => return true,
            [1, ..] => rest = &rest[1..],
            [0, ..] | [] | [_] => return false,
            [_, len, ..] => rest = rest.get(usize::from(len).max(2)..).unwrap_or_default(),
        }
    }
}

fn unlabelled_segment(cluster: &mut Cluster, kind: Kind) -> TestResult {
    let open = [
        network("outside", "", "10", "connect"),
        network("10", "", "outside", "connect"),
    ];
    // With a label on each segment, also of those that a handshake would do for.
    enforce(cluster, &every_packet(&policy(&[&open[0], &open[1]])))?;
    let (munster, colby) = nodes(cluster)?;
    let server = start(
        colby,
        &format!("bound-server-{}", kind.family),
        "10",
        &format!(
            "socket,l,{},1,0 option,l,1,2,1 bind,l,{}:7013 listen,l say,ready accept,c,l recv,c recv,c",
            kind.family, kind.any
        ),
    )?;
    let client = start(
        munster,
        "bound-client",
        "10",
        &format!(
            "socket,a,{},1,0 connect,a,{}:7013 send,a,first say,ready until,{GO} send,a,second",
            kind.family, kind.colby
        ),
    )?;
    server.wait_line("recv ok first")?;
    // Munster forgets its key: what it sends carries no label, as what a stranger would put into the flow. Its policy is
    // permissive meanwhile, or it would abort the connection to a node that it no longer knows.
    let tolerant = every_packet(&document(
        "permissive",
        &[ZONES, WITHIN_10, FROM_10, &open[0], &open[1]],
    ));
    regime::kept::<Regime>(cluster)?.enforce(munster, &tolerant)?;
    let before = Counters::of(colby)?;
    ynl(
        munster,
        &[
            serde_json::json!(["node-del", {"snid": 2}]),
            serde_json::json!(["node-set", {"snid": 2, "address": addresses(2, &colby.ip.to_string())}]),
        ],
    )?
    .ok()?;
    munster.write(GO, "")?;
    until("the refusal", || {
        Ok(Counters::of(colby)?.rise(&before, "refused-not-bound")? > 0)
    })?;
    check!(
        !server.output()?.contains("second"),
        "it was delivered: {}",
        server.output()?
    );
    // And with its label it is.
    ynl(munster, &requests(1, &members(cluster, &NAMES)?, 1))?.ok()?;
    server.wait_line("recv ok second")?;
    check_eq!(client.join()?, Some(0), "exit code");
    let whole = serde_json::json!({"snid": 1, "address": of_munster(munster)});
    ynl(munster, &[serde_json::json!(["node-set", whole])])?.ok()?;
    Ok(())
}

/// Zone 10 on munster connects from 7014 to 7024, which is zone 20's on colby. Later the same socket waits for
/// connections, and zone 20 connects from 7024 to 7014.
fn earlier_flow(cluster: &mut Cluster, kind: Kind, granted: bool) -> TestResult {
    let forth = network("10", "", "20", "connect");
    let back = network("20", "", "10", "connect");
    let mut rules = vec![forth.as_str()];
    rules.extend(granted.then_some(back.as_str()));
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    let (family, at_munster, at_colby) = (kind.family, kind.munster, kind.colby);
    let peer = start(
        colby,
        &format!("earlier-peer-{family}-{granted}"),
        "20",
        &format!(
            "socket,l,{family},1,0 option,l,1,2,1 bind,l,{}:7024 listen,l say,ready accept,c,l send,c,hello \
             until,{GO} end,c close,c close,l socket,b,{family},1,0 option,b,1,2,1 bind,b,{at_colby}:7024 \
             timeout,b,{} connect,b,{at_munster}:7014",
            kind.any,
            if granted { ALLOWED_MS } else { DENIED_MS }
        ),
    )?;
    let own = start(
        munster,
        &format!("earlier-own-{family}-{granted}"),
        "10",
        &format!(
            "socket,a,{family},1,0 option,a,1,2,1 bind,a,{at_munster}:7014 connect,a,{at_colby}:7024 recv,a \
             connect,a,unspec timeout,a,{} listen,a say,ready until,{GO} accept,c,a",
            if granted { ALLOWED_MS } else { "50" }
        ),
    )?;
    let before = Counters::of(munster)?;
    colby.write(GO, "")?;
    let peer_code = peer.join()?;
    if !granted {
        until("the refusal", || {
            Ok(Counters::of(munster)?.rise(&before, "refused-no-permission")? > 0)
        })?;
    }
    munster.write(GO, "")?;
    own.join()?;
    let (said, peer_said) = (own.output()?, peer.output()?);
    check_eq!(peer_code == Some(0), granted, "connected: {peer_said}");
    let accepted = said.contains("accept ok");
    check_eq!(accepted, granted, "accepted: {said}{peer_said}");
    Ok(())
}

fn withdrawn(cluster: &mut Cluster, keep: bool) -> TestResult {
    let grant = socket_rule("10", "10", "create_unmediated");
    enforce(cluster, &policy(&[&grant]))?;
    let (_, colby) = nodes(cluster)?;
    let process = start(
        colby,
        &format!("withdrawn-{keep}"),
        "10",
        &format!("socket,p,17,3,0 timeout,p,50 say,ready until,{GO} recv,p"),
    )?;
    enforce(
        cluster,
        &if keep {
            policy(&[&grant, &network("10", "", "20", "send")])
        } else {
            policy(&[])
        },
    )?;
    colby.write(GO, "")?;
    process.join()?;
    // Nothing comes: protocol 0 is none.
    let errno = if keep { EAGAIN } else { EACCES };
    let said = process.output()?;
    check!(said.ends_with(&format!("recv errno={errno}\n")), "{said}");
    Ok(())
}

fn counted(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        "counted",
        "10",
        &format!("socket,u,2,2,0 bind,u,0.0.0.0:7011 say,ready until,{GO}"),
    )?;
    let before = Counters::of(colby)?;
    let sends = "send,u,x ".repeat(20);
    run(
        munster,
        "10",
        &format!("socket,u,2,2,0 connect,u,{}:7011 {sends}", colby.ip),
    )?
    .ok()?;
    until("20 packets to be counted", || {
        Ok(Counters::of(colby)?.rise(&before, "in-labelled")? >= 20)
    })?;
    colby.write(GO, "")?;
    receiver.join()?;
    Ok(())
}

/// What zone 10 sends by a raw socket, as if it came of zone 20's port.
fn raw(cluster: &Cluster, step: &str, port: &str) -> Result<Output, Failure> {
    let (munster, colby) = nodes(cluster)?;
    run(
        munster,
        "10",
        &format!(
            "socket,r,2,3,255 {step},r,{}:7029,{}:{port},message",
            munster.ip, colby.ip
        ),
    )
}

fn raw_policy() -> String {
    policy(&[&socket_rule("10", "10", "create_unmediated")])
}

fn raw_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &raw_policy())?;
    let (_, colby) = nodes(cluster)?;
    let _receiver = start(
        colby,
        "raw-20",
        "20",
        &format!("socket,u,2,2,0 bind,u,0.0.0.0:7020 say,ready until,{GO}"),
    )?;
    let mark = colby.kernel_mark();
    raw(cluster, "rawudp", "7020")?.ok()?;
    Denial::wait(colby, mark, "denied sscid=10 ssnid=1 tscid=20 tsnid=2 udp")?
        .says("reason", "no-permission")
}

fn raw_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &raw_policy())?;
    let (_, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        "raw-10",
        "10",
        "socket,u,2,2,0 bind,u,0.0.0.0:7010 say,ready recv,u",
    )?;
    raw(cluster, "rawudp", "7010")?.ok()?;
    receiver.wait_line("recv ok message")?;
    Ok(())
}

fn raw_fragment(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &raw_policy())?;
    let (munster, _) = nodes(cluster)?;
    let mark = munster.kernel_mark();
    fails(raw(cluster, "rawfragment", "7010")?, "rawfragment", EPERM)?;
    Denial::wait(munster, mark, "denied sscid=10")?.says("reason", "no-label")
}

/// A raw socket of zone 10 on colby is there when zone 20 sends to zone 20.
fn raw_sees(cluster: &mut Cluster, granted: bool) -> TestResult {
    let unmediated = socket_rule("10", "10", "create_unmediated");
    let from_20 = network("20", "", "10", "send");
    let mut rules = vec![unmediated.as_str()];
    rules.extend(granted.then_some(from_20.as_str()));
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        "seen-20",
        "20",
        "socket,u,2,2,0 bind,u,0.0.0.0:7020 say,ready recv,u",
    )?;
    let listener = start(
        colby,
        &format!("seen-10-{granted}"),
        "10",
        &format!("socket,r,2,3,17 say,ready until,{GO} timeout,r,50 recv,r"),
    )?;
    run(
        munster,
        "20",
        &format!("socket,u,2,2,0 send,u,message,{}:7020", colby.ip),
    )?
    .ok()?;
    receiver.wait_line("recv ok message")?;
    colby.write(GO, "")?;
    listener.join()?;
    let said = listener.output()?;
    check_eq!(said.contains("recv ok"), granted, "{said}");
    Ok(())
}

/// A raw IPv6 socket sends without a label, so whoever it reaches hears it as *outside*.
fn raw6(cluster: &mut Cluster, granted: bool) -> TestResult {
    let unmediated = socket_rule("10", "10", "create_unmediated");
    let outside = network("outside", "", "10", "send");
    let mut rules = vec![unmediated.as_str()];
    rules.extend(granted.then_some(outside.as_str()));
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        &format!("raw6-{granted}"),
        "10",
        "socket,u,10,2,0 bind,u,[::]:7010 say,ready recv,u",
    )?;
    let mark = colby.kernel_mark();
    // The kernel fills in the checksum.
    run(
        munster,
        "10",
        "socket,r,10,3,17 option,r,255,7,6 udp,r,7010,[fd77::2]:7010,message",
    )?
    .ok()?;
    if granted {
        receiver.wait_line("recv ok message")?;
        return Ok(());
    }
    Denial::wait(
        colby,
        mark,
        "denied sscid=outside ssnid=0 tscid=10 tsnid=2 udp",
    )?
    .says("reason", "no-label")?;
    check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    Ok(())
}

/// Over IPv6, an ICMP socket is one that carries no label.
fn ping6(cluster: &mut Cluster, granted: bool) -> TestResult {
    let unmediated = socket_rule("10", "10", "create_unmediated");
    let rules: Vec<&str> = granted.then_some(unmediated.as_str()).into_iter().collect();
    enforce(cluster, &policy(&rules))?;
    let (munster, _) = nodes(cluster)?;
    let output = run(
        munster,
        "10",
        &format!("socket,p,10,2,58 timeout,p,{ALLOWED_MS} ping,p,[fd77::2]"),
    )?;
    if granted {
        output.ok()?;
        Ok(())
    } else {
        fails(output, "socket", EACCES)
    }
}

fn ping(cluster: &mut Cluster, to_node: bool) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let to = if to_node {
        colby.ip.to_string()
    } else {
        OUTSIDE.to_owned()
    };
    let output = run(
        munster,
        "10",
        &format!("socket,p,2,2,1 timeout,p,{ALLOWED_MS} ping,p,{to}"),
    )?;
    if to_node {
        output.ok()?;
        Ok(())
    } else {
        fails(output, "ping", EPERM)
    }
}

/// A kind of socket that carries no label.
struct Unlabelled {
    name: &'static str,
    /// Family, type and protocol.
    numbers: &'static str,
    /// The kernel's module for it, if it is one.
    module: &'static str,
    /// What /proc/net/protocols calls it.
    protocol: &'static str,
}

/// A port for a process of a zone.
fn port(zone: &str) -> u16 {
    if zone == "2" { 7040 } else { 7018 }
}

/// Somebody writes errors of ICMP's to a socket, about packets that it never sent: what they quote is his message.
fn quoted(cluster: &mut Cluster, zone: &str, rules: &[&str], whole: bool) -> TestResult {
    enforce(cluster, &policy(rules))?;
    let (munster, _) = nodes(cluster)?;
    for (at, family, recverr, raw, origin) in [
        ("127.0.0.1", 2, "0,11", "2,3,1", 2),
        ("[::1]", 10, "41,25", "10,3,58", 3),
    ] {
        let address = format!("{at}:{}", port(zone));
        let reader = start(
            munster,
            &format!("quoted-{zone}-{whole}-{family}"),
            zone,
            &format!(
                "socket,u,{family},2,0 bind,u,{address} option,u,{recverr},1 ring,i,0 say,ready errors,u \
                 say,again errors,u say,ring ringerrors,i,u"
            ),
        )?;
        let error = format!("icmperror,r,{address},{at}:9,message");
        let said = if whole {
            format!("origin={origin} errno=111 bytes=7 message")
        } else {
            format!("origin={origin} errno=111 bytes=0")
        };
        for (after, read) in [
            (None, "errors"),
            (Some("say ok again"), "errors"),
            (Some("say ok ring"), "ringerrors"),
        ] {
            if let Some(line) = after {
                reader.wait_line(line)?;
            }
            run(munster, "2", &format!("socket,r,{raw} {error}"))?.ok()?;
            reader.wait_line(&format!("{read} ok {said}"))?;
        }
        check_eq!(reader.join()?, Some(0), "exit code");
        let output = reader.output()?;
        check_eq!(output.contains("message"), whole, "quoted: {output}");
    }
    Ok(())
}

/// Of the messages that one call reads the security hooks see the first one only.
const MANY: [&str; 2] = ["errorsmany", ""];
/// Beside time stamps the kernel may tell what an error quotes as figures of a connection.
const STAMPED: [&str; 2] = ["errors", "option,u,1,37,18"];

/// Reads the errors of a datagram to where nobody listens.
fn more_errors(
    cluster: &mut Cluster,
    [read, options]: [&str; 2],
    zone: &str,
    rules: &[&str],
    allowed: bool,
) -> TestResult {
    enforce(cluster, &policy(rules))?;
    let (munster, _) = nodes(cluster)?;
    let mark = munster.kernel_mark();
    let output = run(
        munster,
        zone,
        &format!(
            "socket,u,2,2,0 option,u,0,11,1 {options} connect,u,127.0.0.1:{} send,u,message {read},u",
            port(zone)
        ),
    )?;
    if allowed {
        output.ok()?.says(&format!("{read} ok origin="))?;
        return Ok(());
    }
    fails(output, read, EACCES)?;
    Denial::wait(munster, mark, "denied sscid=10")?.says("perm", "create_unmediated")?;
    Ok(())
}

/// Nobody else has written these: the time at which a datagram left, with the datagram, and that a message that the
/// kernel sent without copying is through, from a socket that asks for ICMP's errors, too.
fn own_errors(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    let at = "127.0.0.1:7018";
    run(
        munster,
        "10",
        &format!("socket,u,2,2,0 option,u,1,37,18 connect,u,{at} send,u,stamp errors,u"),
    )?
    .ok()?
    .says("errors ok origin=4 errno=42")?
    .says("stamp")?;
    run(
        munster,
        "10",
        &format!("socket,u,2,2,0 option,u,1,37,18 connect,u,{at} send,u,stamp errorsmany,u"),
    )?
    .ok()?
    .says("errorsmany ok origin=4 errno=42")?
    .says("stamp")?;
    run(
        munster,
        "10",
        &format!(
            "socket,l,2,1,0 bind,l,{at} listen,l socket,c,2,1,0 option,c,0,11,1 connect,c,{at} accept,a,l \
             zerocopy,c,data recv,a errors,c"
        ),
    )?
    .ok()?
    .says("errors ok origin=5 errno=0 bytes=0")?;
    Ok(())
}

/// What is sent to the address that is none goes to the own node, and is judged as what goes to its loopback address.
fn to_no_address(cluster: &mut Cluster, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, _) = nodes(cluster)?;
    let port = if zone == "10" { 7010 } else { 7020 };
    for (at, to) in [(0, "0.0.0.0"), (1, "[::]"), (2, "[::ffff:0.0.0.0]")] {
        let family = if to == "0.0.0.0" { 2 } else { 10 };
        for (kind, protocol, serve) in [
            (1, "tcp", "listen,l say,ready accept,c,l recv,c"),
            (2, "udp", "say,ready recv,l"),
        ] {
            let server = start(
                munster,
                &format!("no-address-{zone}-{at}-{protocol}"),
                zone,
                &format!("socket,l,10,{kind},0 option,l,1,2,1 bind,l,[::]:{port} {serve}"),
            )?;
            let mark = munster.kernel_mark();
            let timeout = if zone == "10" { ALLOWED_MS } else { DENIED_MS };
            let client = run(
                munster,
                "10",
                &format!(
                    "socket,c,{family},{kind},0 timeout,c,{timeout} connect,c,{to}:{port} send,c,message"
                ),
            )?;
            if zone == "10" {
                client.ok()?;
                server.wait_line("recv ok message")?;
                continue;
            }
            // It leaves, and is refused where it arrives.
            let told = format!("denied sscid=10 ssnid=1 tscid=20 tsnid=1 {protocol}");
            Denial::wait(munster, mark, &told)?;
            check!(server.is_running()?, "it ended: {}", server.output()?);
            check!(!client.stdout.contains("errno=13"), "refused to leave");
            server.stop()?;
        }
    }
    // To one message, not by a connection, from a socket that is bound to an address.
    let from = munster.ip;
    let receiver = start(
        munster,
        &format!("no-address-{zone}-bound"),
        zone,
        &format!("socket,u,2,2,0 bind,u,0.0.0.0:{port} say,ready recv,u"),
    )?;
    let mark = munster.kernel_mark();
    run(
        munster,
        "10",
        &format!("socket,u,2,2,0 bind,u,{from}:7015 send,u,message,0.0.0.0:{port}"),
    )?
    .ok()?;
    if zone == "10" {
        receiver.wait_line("recv ok message")?;
    } else {
        Denial::wait(
            munster,
            mark,
            "denied sscid=10 ssnid=1 tscid=20 tsnid=1 udp",
        )?;
        check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    }
    Ok(())
}

const fn kind(
    name: &'static str,
    numbers: &'static str,
    module: &'static str,
    protocol: &'static str,
) -> Unlabelled {
    Unlabelled {
        name,
        numbers,
        module,
        protocol,
    }
}

const UNLABELLED: [Unlabelled; 17] = [
    kind("packet", "17,3,0", "", "PACKET"),
    kind("xdp", "44,3,0", "", "XDP"),
    kind("raw", "2,3,255", "", "RAW"),
    kind("raw-ipv6", "10,3,255", "", "RAWv6"),
    kind("vsock", "40,1,0", "vsock", "AF_VSOCK"),
    kind("sctp", "2,1,132", "sctp", "SCTP"),
    kind("sctp-datagrams", "2,5,132", "sctp", "SCTP"),
    kind("sctp-over-ipv6", "10,1,132", "sctp", "SCTPv6"),
    kind("rds", "21,5,0", "rds", "RDS"),
    kind("tipc", "30,5,0", "tipc", "TIPC"),
    kind("l2tp", "2,2,115", "l2tp_ip", "L2TP/IP"),
    kind("l2tp-over-ipv6", "10,2,115", "l2tp_ip6", "L2TP/IPv6"),
    kind("smc", "43,1,0", "smc", "SMC"),
    kind("smc-over-ipv6", "43,1,1", "smc", "SMC6"),
    kind("smc-by-protocol", "2,1,256", "smc", "SMC"),
    kind("udp-lite", "2,2,136", "", "UDP-Lite"),
    kind("udp-lite-over-ipv6", "10,2,136", "", "UDPLITEv6"),
];
/// What the kernels of some distributions and versions lack.
const MAY_LACK: [&str; 4] = ["SMC", "SMC6", "UDP-Lite", "UDPLITEv6"];

/// Has the kernel load what it has of these, so that none is refused for want of its module, and tells which it has.
fn with_modules(node: &Node) -> Result<Vec<(&'static Unlabelled, bool)>, Failure> {
    for kind in &UNLABELLED {
        if !kind.module.is_empty() {
            // What is missing then shows.
            node.run(&["modprobe", kind.module])?;
        }
    }
    let protocols = node.run(&["cat", "/proc/net/protocols"])?.ok()?.stdout;
    let has = |name: &str| {
        let mut names = protocols
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        names.any(|of_line| of_line == name)
    };
    let kinds: Vec<_> = UNLABELLED
        .iter()
        .map(|kind| (kind, has(kind.protocol)))
        .collect();
    for (kind, there) in &kinds {
        check!(
            *there || MAY_LACK.contains(&kind.protocol),
            "the kernel has no {}: {protocols}",
            kind.name
        );
    }
    Ok(kinds)
}

pub(super) fn unmediated() -> String {
    socket_rule("10", "10", "create_unmediated")
}

/// Zone 10 is refused each, though the kernel has it. First it does these steps.
pub(super) fn families_denied(cluster: &mut Cluster, first: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    for (kind, _) in with_modules(colby)? {
        let before = Counters::of(colby)?;
        let (name, numbers) = (kind.name, kind.numbers);
        let output = run(
            colby,
            "10",
            &format!("{first} say,{name} socket,s,{numbers}"),
        )?;
        fails(output, "socket", EACCES)?;
        let refused = Counters::of(colby)?.rise(&before, "refused-no-permission")?;
        check_eq!(refused, 1, "{name}: refusals");
    }
    Ok(())
}

pub(super) fn families_allowed(
    cluster: &mut Cluster,
    zone: &str,
    rules: &[&str],
    first: &str,
) -> TestResult {
    const EPROTONOSUPPORT: i32 = 93;
    const EAFNOSUPPORT: i32 = 97;
    enforce(cluster, &policy(rules))?;
    let (_, colby) = nodes(cluster)?;
    let mut lacks = Vec::new();
    for (kind, there) in with_modules(colby)? {
        let (name, numbers) = (kind.name, kind.numbers);
        let output = run(
            colby,
            zone,
            &format!("{first} say,{name} socket,s,{numbers}"),
        )?;
        if there {
            output.ok()?;
            continue;
        }
        // The module lets it be asked for, and the kernel has none.
        let errno = if numbers.starts_with("43,") {
            EAFNOSUPPORT
        } else {
            EPROTONOSUPPORT
        };
        fails(output, "socket", errno)?;
        lacks.push(name);
    }
    println!(
        "  {} kinds of sockets were made; this kernel has no {}",
        UNLABELLED.len() - lacks.len(),
        lacks.join(", ")
    );
    Ok(())
}

/// What it takes to make a map of sockets and put one into it.
const MAPS: &str = "<system_permission><source_ScID>10</source_ScID><grant>bpf net_admin</grant></system_permission>";

/// Zone 10's root makes a map of sockets, by which BPF hands what comes for one of them to another.
fn sockmap(cluster: &mut Cluster, rule: &str) -> TestResult {
    enforce(cluster, &policy(&[rule]))?;
    let (_, colby) = nodes(cluster)?;
    let server = PLAIN.greeter(colby)?;
    let mark = colby.kernel_mark();
    let steps = format!("socket,a,2,1,0 connect,a,{}:7015 sockmap,a", PLAIN.colby);
    let output = run(colby, "10", &steps)?;
    server.stop()?;
    if !rule.is_empty() {
        return output.ok().map(drop);
    }
    check!(
        output.stdout.contains("sockmap errno="),
        "{}",
        output.describe()
    );
    Denial::wait(
        colby,
        mark,
        "denied sscid=10 ssnid=2 tscid=0 tsnid=2 perm=bpf",
    )
    .map(drop)
}

/// The number of a node's network device.
fn device(node: &Node) -> Result<String, Failure> {
    let output = node.run(&["cat", "/sys/class/net/eth0/ifindex"])?.ok()?;
    Ok(output.stdout.trim().to_owned())
}

fn multicast(cluster: &Cluster, to: &str) -> Result<Output, Failure> {
    let (munster, _) = nodes(cluster)?;
    let socket = if to == GROUP6 {
        // Groups are reached by every device: by this one.
        format!("socket,u,10,2,0 option,u,41,17,{}", device(munster)?)
    } else {
        "socket,u,2,2,0 option,u,1,6,1".to_owned()
    };
    run(munster, "10", &format!("{socket} send,u,message,{to}"))
}

fn member(cluster: &Cluster, name: &str, to: &str) -> Result<Process, Failure> {
    let (_, colby) = nodes(cluster)?;
    let socket = if to == GROUP6 {
        let device = device(colby)?;
        format!("socket,u,10,2,0 bind,u,[::]:7016 join,u,ff05::7:7,{device}")
    } else {
        format!(
            "socket,u,2,2,0 bind,u,0.0.0.0:7016 join,u,239.7.7.7,{}",
            colby.ip
        )
    };
    start(colby, name, "10", &format!("{socket} say,ready recv,u"))
}

/// What zone 10 may send and receive otherwise has nothing to do with groups.
fn multicast_policy(send: bool, receive: bool) -> String {
    let rules = [
        network("10", "", "outside", "send"),
        network("outside", "", "10", "send"),
        network("10", "", "outside", "multicast"),
        network("outside", "", "10", "multicast"),
    ];
    let wanted = [true, true, send, receive];
    let rules: Vec<&str> = rules
        .iter()
        .zip(wanted)
        .filter_map(|(rule, wanted)| wanted.then_some(rule.as_str()))
        .collect();
    policy(&rules)
}

fn multicast_unsent(cluster: &mut Cluster, to: &str) -> TestResult {
    enforce(cluster, &multicast_policy(false, true))?;
    fails(multicast(cluster, to)?, "send", EACCES)
}

fn multicast_unreceived(cluster: &mut Cluster, groups: &[&str]) -> TestResult {
    enforce(cluster, &multicast_policy(true, false))?;
    let (_, colby) = nodes(cluster)?;
    let member = member(
        cluster,
        &format!("member-denied-{}", groups.len()),
        groups[0],
    )?;
    for to in groups {
        let mark = colby.kernel_mark();
        let before = Counters::of(colby)?;
        multicast(cluster, to)?.ok()?;
        until("the refusal", || {
            Ok(Counters::of(colby)?.refusals(&before)?.len() == 1)
        })?;
        Denial::wait(
            colby,
            mark,
            "denied sscid=outside ssnid=0 tscid=10 tsnid=2 udp",
        )?
        .says("perm", "multicast")?;
    }
    check!(member.is_running()?, "it ended: {}", member.output()?);
    Ok(())
}

fn multicast_passes(cluster: &mut Cluster, to: &str) -> TestResult {
    enforce(cluster, &multicast_policy(true, true))?;
    let member = member(cluster, "member", to)?;
    multicast(cluster, to)?.ok()?;
    member.wait_line("recv ok message")?;
    Ok(())
}

/// A process of zone 10 in munster's other network namespace, by way of munster's forwarding.
pub(super) fn namespace(cluster: &mut Cluster, kind: Kind, zone: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let port = format!("70{zone}");
    let receiver = start(
        colby,
        &format!("namespace-{zone}"),
        zone,
        &format!(
            "socket,u,{},2,0 bind,u,{}:{port} say,ready recv,u",
            kind.family, kind.any
        ),
    )?;
    let mark = colby.kernel_mark();
    let program = program("10");
    let (socket, message) = (
        format!("socket,u,{},2,0", kind.family),
        format!("send,u,message,{}:{port}", kind.colby),
    );
    let argv = ["ip", "netns", "exec", "blue", &program, &socket, &message];
    munster.run(&argv)?.ok()?;
    if zone == "10" {
        receiver.wait_line("recv ok message")?;
        return Ok(());
    }
    let denial = Denial::wait(colby, mark, "denied sscid=10 ssnid=1 tscid=20 tsnid=2 udp")?;
    denial.says("reason", "no-permission")?;
    let source = denial.ends()?.0;
    check!(
        source.contains(INNER) || source.contains(INNER6),
        "source of {denial:?}"
    );
    check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    Ok(())
}
