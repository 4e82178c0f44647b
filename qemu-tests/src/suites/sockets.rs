//! Proves that no kind of socket and no way of handing one over leads out of a zone: source routes, addresses of no
//! family, MPTCP, raw and ICMP sockets, multicast, AF_UNIX, descriptors, io_uring, splice, other network namespaces,
//! and what a socket remembers of an earlier flow or policy. Each `...-denied` has a twin `...-ok` with the same
//! steps. No servers; a native helper does the steps.

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{addresses, enrol, load, members, requests, ynl, ynl_all};
use crate::fault::Failure;
use crate::label::Label;
use crate::node::{Node, Output, Process};
use crate::pcap::Ipv6;
use crate::regime::{
    self, Counters, Denial, Regime, WITHIN_10, ZONES, document, every_packet, network, until,
};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "sockets",
    proves: "no kind of socket and no way of handing one over leads out of a zone",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "source-route-out-of-a-zone-denied" => source_route_denied,
    "source-route-told-by-a-permissive-policy-ok" => source_route_tolerated,
    "address-of-no-family-after-withdrawal-denied" => |c| no_family(c, false),
    "address-of-no-family-with-permission-ok" => |c| no_family(c, true),
    "ip-options-of-a-zone-denied" => ip_options_denied,
    "ip-options-of-default-ok" => ip_options_of_default,
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
    "unix-stream-to-another-zone-denied" => |c| unix_denied(c, "1"),
    "unix-stream-within-a-zone-ok" => |c| unix_within(c, "1"),
    "unix-stream-by-permission-ok" => |c| unix_allowed(c, "1"),
    "unix-seqpacket-to-another-zone-denied" => |c| unix_denied(c, "5"),
    "unix-seqpacket-by-permission-ok" => |c| unix_allowed(c, "5"),
    "unix-datagram-to-another-zone-denied" => |c| unix_denied(c, "2"),
    "unix-datagram-within-a-zone-ok" => |c| unix_within(c, "2"),
    "unix-datagram-by-permission-ok" => |c| unix_allowed(c, "2"),
    "unix-pair-within-a-process-ok" => unix_pair,
    "unix-connection-after-withdrawal-denied" => |c| unix_withdrawn(c, false),
    "unix-connection-under-another-policy-that-grants-it-ok" => |c| unix_withdrawn(c, true),
    "netlink-message-to-another-zone-denied" => |c| netlink(c, false),
    "netlink-message-by-permission-ok" => |c| netlink(c, true),
    "descriptor-from-another-zone-denied" => |c| descriptor(c, ""),
    "descriptor-by-permission-ok" => |c| descriptor(c, "use_fd"),
    "descriptor-within-a-zone-ok" => descriptor_within,
    "datagram-socket-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN, "2", false),
    "datagram-socket-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN, "2", true),
    "stream-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN, "1", false),
    "stream-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN, "1", true),
    "ipv6-datagram-socket-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN6, "2", false),
    "ipv6-datagram-socket-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN6, "2", true),
    "ipv6-stream-handed-over-to-another-zone-denied" => |c| handed_over(c, PLAIN6, "1", false),
    "ipv6-stream-handed-over-by-permission-ok" => |c| handed_over(c, PLAIN6, "1", true),
    "pidfd-getfd-from-another-zone-denied" => |c| getfd(c, "trace"),
    "pidfd-getfd-by-permission-ok" => |c| getfd(c, "trace use_fd"),
    "stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN, &[&READS, &WRITES]),
    "stream-of-the-own-zone-ok" => |c| own_stream(c, PLAIN, &[&READS, &WRITES]),
    "ipv6-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, PLAIN6, &[&READS, &WRITES]),
    "ipv6-stream-of-the-own-zone-ok" => |c| own_stream(c, PLAIN6, &[&READS, &WRITES]),
    "ktls-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, KTLS, &[&KTLS_WAYS]),
    "ktls-stream-of-the-own-zone-ok" => |c| own_stream(c, KTLS, &[&KTLS_WAYS]),
    "ktls-stream-to-another-zone-denied" => |c| ktls_denied(c, KTLS),
    "ipv6-ktls-stream-of-another-zone-denied" => |c| foreign_stream_denied(c, KTLS6, &[&KTLS_WAYS]),
    "ipv6-ktls-stream-of-the-own-zone-ok" => |c| own_stream(c, KTLS6, &[&KTLS_WAYS]),
    "ipv6-ktls-stream-to-another-zone-denied" => |c| ktls_denied(c, KTLS6),
    "stream-of-another-zone-by-permission-ok" => |c| foreign_stream_allowed(c, PLAIN),
    "ipv6-stream-of-another-zone-by-permission-ok" => |c| foreign_stream_allowed(c, PLAIN6),
    "datagrams-of-another-zone-denied" => |c| foreign_datagrams(c, PLAIN, "20", false),
    "datagrams-of-another-zone-by-permission-ok" => |c| foreign_datagrams(c, PLAIN, "20", true),
    "datagrams-of-the-own-zone-ok" => |c| foreign_datagrams(c, PLAIN, "10", true),
    "ipv6-datagrams-of-another-zone-denied" => |c| foreign_datagrams(c, PLAIN6, "20", false),
    "ipv6-datagrams-of-another-zone-by-permission-ok" => |c| foreign_datagrams(c, PLAIN6, "20", true),
    "ipv6-datagrams-of-the-own-zone-ok" => |c| foreign_datagrams(c, PLAIN6, "10", true),
    "message-of-a-thread-to-another-zone-denied" => |c| of_thread(c, PLAIN, None, "20"),
    "message-of-a-thread-within-its-zone-ok" => |c| of_thread(c, PLAIN, None, "10"),
    "message-of-a-thread-over-ipv6-to-another-zone-denied" => |c| of_thread(c, PLAIN6, None, "20"),
    "message-of-a-thread-over-ipv6-within-its-zone-ok" => |c| of_thread(c, PLAIN6, None, "10"),
    "message-of-a-thread-beside-one-that-was-given-another-zone-denied" => |c| of_thread(c, PLAIN, Some(20), "10"),
    "message-of-a-thread-beside-one-that-was-given-its-zone-ok" => |c| of_thread(c, PLAIN, Some(10), "10"),
    "exec-by-a-thread-without-transition-denied" => |c| exec_by_thread(c, "20", "10"),
    "exec-by-a-thread-with-transition-ok" => |c| exec_by_thread(c, "10", "20"),
    "io-uring-to-another-zone-denied" => |c| uring_denied(c, PLAIN),
    "io-uring-within-a-zone-ok" => |c| uring_allowed(c, PLAIN),
    "io-uring-over-ipv6-to-another-zone-denied" => |c| uring_denied(c, PLAIN6),
    "io-uring-over-ipv6-within-a-zone-ok" => |c| uring_allowed(c, PLAIN6),
    "io-uring-by-earlier-credentials-denied" => |c| earlier_credentials(c, "10", "", EPERM),
    "io-uring-by-earlier-credentials-of-default-ok" => |c| earlier_credentials(c, "2", "", 0),
    "io-uring-by-earlier-credentials-by-permission-ok" => |c| earlier_credentials(c, "10", SYS_ADMIN, 0),
    "io-uring-by-inherited-credentials-of-another-zone-denied" => |c| inherited_credentials(c, "10", EACCES),
    "io-uring-by-inherited-credentials-of-the-own-zone-ok" => |c| inherited_credentials(c, "2", 0),
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

const NAMES: [&str; 2] = ["munster", "colby"];
const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
/// An address of colby's that is not in the node map: a machine outside of the cluster.
const OUTSIDE: &str = "10.77.0.102";
/// The same, over IPv6.
const OUTSIDE6: &str = "fd00:77::102";
const GROUP: &str = "239.7.7.7:7016";
const GROUP6: &str = "[ff05::7:7]:7016";
const BROADCAST: &str = "10.77.0.255:7016";
/// A process in munster's other network namespace.
const INNER: &str = "10.78.0.2";
/// The same, over IPv6.
const INNER6: &str = "fd78::2";
/// A second address of munster's, which the node map has.
const SECOND: &str = "10.77.0.201";
const SECOND6: &str = "fd77::201";
/// One of munster's that the node map lacks.
const STRANGE: &str = "10.77.0.202";
const STRANGE6: &str = "fd77::202";
const GO: &str = "/tmp/go";
const ALLOWED_MS: &str = "170000";
/// How long is waited for what must not come. What is denied stays so, however long. A SYN is sent again each second: not
/// just when the test goes on.
const DENIED_MS: &str = "1500";

pub(super) const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
pub(super) const EACCES: i32 = 13;

/// What of zone 10's executes a program of zone 20's gets there.
const FROM_10: &str = "<transition><parent_ScID>10</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>";

pub(super) fn policy(more: &[&str]) -> String {
    let mut rules = vec![ZONES, WITHIN_10, FROM_10];
    rules.extend(more);
    document("enforcing", &rules)
}

fn socket_rule(source: &str, target: &str, grant: &str) -> String {
    format!(
        "<socket_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></socket_permission>"
    )
}

fn process_rule(source: &str, target: &str, grant: &str) -> String {
    format!(
        "<process_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></process_permission>"
    )
}

pub(super) fn setup(cluster: &mut Cluster) -> TestResult {
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in ["10", "20"] {
            let copy = program(zone);
            node.run(&["install", "-D", PROBE, &copy])?.ok()?;
            node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                .ok()?;
        }
        // A zone has the kernel load nothing for it.
        node.sh("modprobe tls && ip route add 224.0.0.0/4 dev eth0 && \
             echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range")?
            .ok()?;
        // A connection whose parts are gone waits a minute for others, where the kernel does not know how long it may.
        node.sh(
            "[ ! -e /proc/sys/net/mptcp/close_timeout ] || sysctl -qw net.mptcp.close_timeout=1",
        )?
        .ok()?;
    }
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    colby
        .sh(&format!(
            "ip addr add {OUTSIDE}/24 dev eth0 && ip -6 addr add {OUTSIDE6}/64 dev eth0 nodad && ip route add 10.78.0.0/24 via {} && ip -6 route add fd78::/64 via fd77::1",
            munster.ip
        ))?
        .ok()?;
    munster
        .sh(&format!(
            "modprobe veth && ip -6 addr add fd00:77::101/64 dev eth0 nodad && ip netns add blue && ip link add host type veth peer name inner netns blue && \
             ip addr add 10.78.0.1/24 dev host && ip link set host up && \
             ip -6 addr add fd78::1/64 dev host nodad && ip -n blue -6 addr add {INNER6}/64 dev inner nodad && \
             ip -n blue addr add {INNER}/24 dev inner && ip -n blue link set inner up && \
             ip -n blue link set lo up && ip -n blue route add default via 10.78.0.1 && \
             ip -n blue -6 route add default via fd78::1 && \
             echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        ))?
        .ok()?;
    enrol(cluster, &NAMES, 1)?;
    // Addresses that are routed without NAT belong to the node that they are on.
    let key = crate::enrol::pair_key(2, 1, 1);
    let mut node = serde_json::json!({"snid": 1, "address": of_munster(munster)});
    ynl(munster, &[serde_json::json!(["node-set", node])])?.ok()?;
    node["key-epoch"] = 1.into();
    node["tx-key"] = crate::enrol::hex(&key).into();
    ynl(colby, &[serde_json::json!(["node-set", node])])?.ok()?;
    let regime = Regime::establish(cluster, &NAMES)?;
    cluster.kept = Some(Box::new(regime));
    Ok(())
}

/// Munster's addresses, of either family, and those in its other network namespace.
fn of_munster(munster: &Node) -> [String; 6] {
    [
        munster.ip.to_string(),
        address6(munster.index).to_string(),
        SECOND.to_owned(),
        SECOND6.to_owned(),
        INNER.to_owned(),
        INNER6.to_owned(),
    ]
}

pub(super) fn program(zone: &str) -> String {
    if zone == "2" {
        PROBE.into()
    } else {
        format!("/srv/zone{zone}/dsi-sock-probe")
    }
}

/// Has a policy in force on both nodes.
pub(super) fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let regime: &Regime = regime::kept(cluster)?;
    NAMES
        .iter()
        .try_for_each(|name| regime.enforce(cluster.node(name)?, policy))
}

pub(super) fn nodes(cluster: &Cluster) -> Result<(&Node, &Node), Failure> {
    Ok((cluster.node("munster")?, cluster.node("colby")?))
}

/// Does these steps in a process of a zone.
pub(super) fn run(node: &Node, zone: &str, steps: &str) -> Result<Output, Failure> {
    let program = program(zone);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    Ok(node.run(&argv)?)
}

/// The same in the background, up to the step `say,ready`.
pub(super) fn start(node: &Node, name: &str, zone: &str, steps: &str) -> Result<Process, Failure> {
    node.run(&["rm", "-f", GO])?.ok()?;
    let program = program(zone);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    let process = node.spawn(name, &argv)?;
    process.wait_line("say ok ready")?;
    Ok(process)
}

/// A step fails with this error.
pub(super) fn fails(output: Output, step: &str, errno: i32) -> TestResult {
    output
        .exits_with(12)?
        .says(&format!("{step} errno={errno}\n"))?;
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
    for (name, address) in [("unspec", "unspec"), ("short", "short")] {
        enforce(cluster, &with)?;
        let process = start(
            munster,
            &format!("no-family-{name}-{keep}"),
            "10",
            &format!(
                "socket,u,10,2,0 connect,u,[{OUTSIDE6}]:9999 send,u,one,{address} say,ready until,{GO} \
                 send,u,two,{address}"
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
        munster.write(GO, "")?;
        let code = process.join()?;
        let said = process.output()?;
        if keep {
            check_eq!(code, Some(0), "exit code of '{said}'");
        } else {
            check!(
                said.ends_with(&format!("send errno={EACCES}\n")),
                "{name}: {said}"
            );
        }
    }
    Ok(())
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

/// A server of zone 20 on colby's AF_UNIX socket, up to its first message.
fn unix_server(colby: &Node, kind: &str) -> Result<Process, Failure> {
    let accept = if kind == "2" {
        "recv,l"
    } else {
        "listen,l say,ready accept,c,l recv,c"
    };
    start(
        colby,
        &format!("unix-{kind}"),
        "20",
        &format!("socket,l,1,{kind},0 bind,l,@zone20 {accept} say,ready")
            .replace("recv,l say,ready", "say,ready recv,l"),
    )
}

fn unix_client(colby: &Node, zone: &str, kind: &str) -> Result<Output, Failure> {
    run(
        colby,
        zone,
        &format!("socket,a,1,{kind},0 connect,a,@zone20 send,a,message"),
    )
}

pub(super) fn unix_denied(cluster: &mut Cluster, kind: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let _server = unix_server(colby, kind)?;
    let mark = colby.kernel_mark();
    fails(unix_client(colby, "10", kind)?, "connect", EACCES)?;
    let permission = if kind == "2" {
        "unix_send"
    } else {
        "unix_connect"
    };
    let denial = Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?;
    denial.says("perm", permission)?;
    denial.says("comm", "dsi-sock-probe")?;
    // Nor by a message to an address, nor for the default zone.
    if kind == "2" {
        let output = run(colby, "10", "socket,a,1,2,0 send,a,message,@zone20")?;
        fails(output, "send", EACCES)?;
    }
    fails(unix_client(colby, "2", kind)?, "connect", EACCES)
}

pub(super) fn unix_within(cluster: &mut Cluster, kind: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let server = unix_server(colby, kind)?;
    unix_client(colby, "20", kind)?.ok()?;
    server.wait_line("ok message")?;
    Ok(())
}

pub(super) fn unix_allowed(cluster: &mut Cluster, kind: &str) -> TestResult {
    let rule = process_rule("10", "20", "unix_connect unix_send");
    enforce(cluster, &policy(&[&rule]))?;
    let (_, colby) = nodes(cluster)?;
    let server = unix_server(colby, kind)?;
    unix_client(colby, "10", kind)?.ok()?;
    server.wait_line("ok message")?;
    Ok(())
}

fn unix_pair(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    for kind in ["1", "2", "5"] {
        run(
            colby,
            "10",
            &format!("pair,a,b,{kind} send,a,message recv,b"),
        )?
        .ok()?
        .says("recv ok message")?;
    }
    Ok(())
}

/// Zone 10 is connected to zone 20 when another policy comes into force. Neither end sends any more, unless it grants
/// the connection, too.
fn unix_withdrawn(cluster: &mut Cluster, granted: bool) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let both = process_rule("10", "20", "unix_connect unix_send");
    enforce(cluster, &policy(&[&connect]))?;
    let (_, colby) = nodes(cluster)?;
    for (kind, name) in [("1", "stream"), ("5", "seqpacket")] {
        let mark = colby.kernel_mark();
        enforce(cluster, &policy(&[&connect]))?;
        let server = start(
            colby,
            &format!("withdrawn-server-{name}-{granted}"),
            "20",
            &format!(
                "socket,l,1,{kind},0 bind,l,@{name}{granted} listen,l say,ready accept,c,l recv,c send,c,first until,{GO} send,c,second recv,c"
            ),
        )?;
        // Each takes the other's message before it ends: no one sends to an end that is gone.
        let client = format!("withdrawn-client-{name}-{granted}");
        let steps = format!(
            "socket,s,1,{kind},0 connect,s,@{name}{granted} send,s,question recv,s say,ready until,{GO} send,s,another recv,s"
        );
        let client = start(colby, &client, "10", &steps)?;
        let rules: &[&str] = if granted { &[&both] } else { &[] };
        enforce(cluster, &policy(rules))?;
        colby.write(GO, "")?;
        for (process, message) in [(&server, "second"), (&client, "another")] {
            let code = process.join()?;
            if granted {
                check_eq!(code, Some(0), "{name}: {message}: {}", process.output()?);
            } else {
                check_eq!(code, Some(12), "{name}: {message}: {}", process.output()?);
                let said = process.output()?;
                check!(
                    said.contains(&format!("send errno={EACCES}")),
                    "{name}: {said}"
                );
            }
        }
        if !granted {
            Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?
                .says("perm", "unix_connect")?;
        }
    }
    Ok(())
}

/// Of two messages to a netlink socket of zone 20, a process of zone 10 sends the first one.
fn netlink(cluster: &mut Cluster, granted: bool) -> TestResult {
    let rule = process_rule("10", "20", "unix_send");
    let rules: Vec<&str> = granted.then_some(rule.as_str()).into_iter().collect();
    enforce(cluster, &policy(&rules))?;
    let (_, colby) = nodes(cluster)?;
    let mark = colby.kernel_mark();
    let receiver = start(
        colby,
        &format!("netlink-{granted}"),
        "20",
        "socket,n,16,3,2 bind,n,netlink:777 say,ready recv,n",
    )?;
    for (zone, message) in [("10", "foreign"), ("20", "own")] {
        // Who is refused is not told: his message is lost.
        let steps = format!("socket,n,16,3,2 send,n,{message},netlink:777");
        run(colby, zone, &steps)?;
    }
    if granted {
        receiver.wait_line("recv ok foreign")?;
        return Ok(());
    }
    receiver.wait_line("recv ok own")?;
    Denial::wait(colby, mark, "denied sscid=10 ssnid=2 tscid=20 tsnid=2")?.says("perm", "unix_send")
}

/// Zone 10 hands a socket of its own to a server of zone 20.
pub(super) fn descriptor(cluster: &mut Cluster, grant: &str) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let take = process_rule("20", "10", grant);
    let mut rules = vec![connect.as_str()];
    if !grant.is_empty() {
        rules.push(&take);
    }
    enforce(cluster, &policy(&rules))?;
    let (_, colby) = nodes(cluster)?;
    for (name, socket) in [
        ("udp", "socket,s,2,2,0"),
        ("tcp", "socket,s,2,1,0"),
        ("udp-over-ipv6", "socket,s,10,2,0"),
        ("tcp-over-ipv6", "socket,s,10,1,0"),
        ("unix", "pair,s,t,1"),
    ] {
        let mark = colby.kernel_mark();
        let server = start(
            colby,
            &format!("taker-{name}-{}", grant.is_empty()),
            "20",
            "socket,l,1,1,0 bind,l,@taker listen,l say,ready accept,c,l recvfd,c,s say,taken",
        )?;
        let steps = format!("{socket} socket,a,1,1,0 connect,a,@taker sendfd,a,s");
        run(colby, "10", &steps)?.ok()?;
        if grant.is_empty() {
            check_eq!(server.join()?, Some(12), "{name}: {}", server.output()?);
            Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?
                .says("perm", "use_fd")?;
        } else {
            server.wait_line("say ok taken")?;
        }
    }
    Ok(())
}

fn descriptor_within(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    run(
        colby,
        "10",
        "socket,s,2,2,0 pair,a,b,1 sendfd,a,s recvfd,b,t",
    )?
    .ok()?;
    Ok(())
}

/// Zone 10 on colby hands zone 20 a socket, which that may take, and which is zone 10's as before: a bound one for
/// datagrams (2), or a connection (1).
pub(super) fn handed_over(
    cluster: &mut Cluster,
    kind: Kind,
    sock: &str,
    granted: bool,
) -> TestResult {
    let connect = process_rule("10", "20", "unix_connect");
    let take = process_rule("20", "10", "use_fd");
    let receive = socket_rule("20", "10", "receive");
    let mut rules = vec![connect.as_str(), &take];
    rules.extend(granted.then_some(receive.as_str()));
    enforce(cluster, &policy(&rules))?;
    let (munster, colby) = nodes(cluster)?;
    let name = format!("{}-{sock}-{granted}", kind.family);
    let stream = sock == "1";
    let _greeter = stream.then(|| kind.greeter(colby)).transpose()?;
    let taker = start(
        colby,
        &format!("handed-taker-{name}"),
        "20",
        &format!(
            "socket,l,1,1,0 bind,l,@taker listen,l say,ready accept,c,l recvfd,c,s say,taken until,{GO} recv,s"
        ),
    )?;
    let own = if stream {
        format!("connect,s,{}:7015", kind.colby)
    } else {
        format!("bind,s,{}:7016", kind.any)
    };
    let giver = start(
        colby,
        &format!("handed-giver-{name}"),
        "10",
        &format!(
            "socket,s,{},{sock},0 {own} socket,a,1,1,0 connect,a,@taker sendfd,a,s say,ready until,{GO}",
            kind.family
        ),
    )?;
    taker.wait_line("say ok taken")?;
    if !stream {
        let message = format!(
            "socket,u,{},2,0 send,u,greeting,{}:7016",
            kind.family, kind.colby
        );
        run(munster, "10", &message)?.ok()?;
    }
    let mark = colby.kernel_mark();
    colby.write(GO, "")?;
    let code = taker.join()?;
    giver.join()?;
    let said = taker.output()?;
    if granted {
        check_eq!(code, Some(0), "{said}");
        check!(said.ends_with("recv ok greeting\n"), "{said}");
        return Ok(());
    }
    check!(said.ends_with(&format!("recv errno={EACCES}\n")), "{said}");
    Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?.says("perm", "receive")
}

pub(super) fn getfd(cluster: &mut Cluster, grant: &str) -> TestResult {
    enforce(cluster, &policy(&[&process_rule("20", "10", grant)]))?;
    let (_, colby) = nodes(cluster)?;
    let owner = start(
        colby,
        &format!("getfd-{}", grant.len()),
        "10",
        &format!("socket,s,2,2,0 keep,s,9 say,ready until,{GO}"),
    )?;
    let output = run(colby, "20", &format!("getfd,s,{},9", owner.pid()))?;
    colby.write(GO, "")?;
    owner.join()?;
    if grant == "trace" {
        fails(output, "getfd", EACCES)
    } else {
        output.ok().map(drop)
    }
}

/// What reads from and writes to a stream, and what a server's greeting looks like then.
pub(super) const READS: [&str; 6] = [
    "recv,a",
    "read,a",
    "splice,a",
    "map,a",
    "ring,r,0 ringrecv,r,a",
    "ring,r,0 ringsplice,r,a",
];
pub(super) const WRITES: [&str; 5] = [
    "send,a,more",
    "zerocopy,a,more",
    "sendfile,a,/etc/hostname",
    "ring,r,0 ringsend,r,a,more",
    "ring,r,2 ringsend,r,a,more",
];
/// An end that is closed with the greeting unread resets the connection, and what it has written may be lost.
const TAKES_GREETING: &str = "recv,a";

/// A kind of stream: family, any address of it, munster's, colby's, and what both ends do with it before its first byte.
pub(super) struct Kind {
    family: &'static str,
    any: &'static str,
    munster: &'static str,
    colby: &'static str,
    begin: &'static str,
}

pub(super) const PLAIN: Kind = Kind {
    family: "2",
    any: "0.0.0.0",
    munster: "10.77.0.1",
    colby: "10.77.0.2",
    begin: "",
};
pub(super) const PLAIN6: Kind = Kind {
    family: "10",
    any: "[::]",
    munster: "[fd77::1]",
    colby: "[fd77::2]",
    begin: "",
};
const KTLS: Kind = Kind {
    begin: "ktls",
    ..PLAIN
};
const KTLS6: Kind = Kind {
    begin: "ktls",
    ..PLAIN6
};
/// What the kernel's TLS has: neither MSG_ZEROCOPY nor TCP_ZEROCOPY_RECEIVE.
const KTLS_WAYS: [&str; 7] = [
    "recv,a",
    "read,a",
    "splice,a",
    "ring,r,0 ringrecv,r,a",
    "send,a,more",
    "sendfile,a,/etc/hostname",
    "ring,r,0 ringsend,r,a,more",
];

impl Kind {
    /// The step that a socket begins with.
    fn begin(&self, socket: &str) -> String {
        match self.begin {
            "" => String::new(),
            step => format!("{step},{socket}"),
        }
    }

    /// A server of zone 10 that greets and waits for an answer.
    fn greeter(&self, colby: &Node) -> Result<Process, Failure> {
        start(
            colby,
            "greeter",
            "10",
            &format!(
                "socket,l,{},1,0 option,l,1,2,1 bind,l,{}:7015 listen,l say,ready accept,c,l {} send,c,greeting recv,c",
                self.family,
                self.any,
                self.begin("c")
            ),
        )
    }
}

/// A process of zone 10 connects, and a program of another zone goes on with its stream, once for each of these.
fn streams(
    cluster: &Cluster,
    kind: &Kind,
    zone: &str,
    ways: &[&str],
    mut judge: impl FnMut(&str, Output, &Process) -> TestResult,
) -> TestResult {
    let (munster, colby) = nodes(cluster)?;
    for way in ways {
        let then = if reads(way) { "" } else { TAKES_GREETING };
        let server = kind.greeter(colby)?;
        let output = run(
            munster,
            "10",
            &format!(
                "socket,a,{},1,0 connect,a,{}:7015 {} keep,a,9 exec,{} fd,a,9 {way} {then}",
                kind.family,
                kind.colby,
                kind.begin("a"),
                program(zone)
            ),
        )?;
        judge(way, output, &server)?;
    }
    Ok(())
}

pub(super) fn foreign_stream_denied(
    cluster: &mut Cluster,
    kind: Kind,
    ways: &[&[&str]],
) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    streams(cluster, &kind, "20", &ways.concat(), |way, output, _| {
        let step = way.split_whitespace().last().unwrap_or(way);
        let verb = step.split(',').next().unwrap_or(step);
        fails(output, verb, EACCES)
    })
}

fn reads(way: &str) -> bool {
    READS.contains(&way)
}

/// What is read is the greeting, and what is written gets there, under the label that the flow began with.
fn passes(way: &str, output: Output, server: &Process) -> TestResult {
    let output = output.ok()?;
    if reads(way) {
        output.says("ok greeting")?;
    } else {
        server.wait_line("recv ok ")?;
    }
    Ok(())
}

pub(super) fn own_stream(cluster: &mut Cluster, kind: Kind, ways: &[&[&str]]) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let before = Counters::of(colby)?;
    streams(cluster, &kind, "10", &ways.concat(), passes)?;
    let refusals = Counters::of(colby)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// An encrypted connection is one like others: its zone is judged when it begins, and again when the policy changes.
fn ktls_denied(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let _server = kind.greeter(colby)?;
    let mark = colby.kernel_mark();
    run(
        munster,
        "20",
        &format!(
            "socket,a,{},1,0 timeout,a,{DENIED_MS} connect,a,{}:7015",
            kind.family, kind.colby
        ),
    )?
    .exits_with(12)?
    .says("connect errno=")?;
    Denial::wait(colby, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=2 tcp")?
        .says("reason", "no-permission")?;
    // Between zones by permission, until that is withdrawn.
    let with = policy(&[&network("20", "", "10", "connect")]);
    enforce(cluster, &with)?;
    let client = start(
        munster,
        "ktls-withdrawn",
        "20",
        &format!(
            "socket,a,{},1,0 connect,a,{}:7015 ktls,a recv,a say,ready until,{GO} recv,a",
            kind.family, kind.colby
        ),
    )?;
    let before = Counters::of(colby)?;
    regime::kept::<Regime>(cluster)?.enforce(colby, &policy(&[]))?;
    Counters::wait_aborted(colby, &before, 1)?;
    munster.write(GO, "")?;
    check_eq!(client.join()?, Some(12), "{}", client.output()?);
    Ok(())
}

pub(super) fn foreign_stream_allowed(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(
        cluster,
        &policy(&[&socket_rule("20", "10", "send receive")]),
    )?;
    streams(cluster, &kind, "20", &["splice,a", "send,a,more"], passes)
}

/// What takes a datagram from a socket. The last one is a thread of the process'.
const TAKES: [&str; 4] = ["recv,u", "read,u", "ring,r,0 ringrecv,r,u", "thread recv,u"];

/// Zone 10's socket on colby is inherited by a program of a zone, which takes datagrams from it and sends some.
pub(super) fn foreign_datagrams(
    cluster: &mut Cluster,
    kind: Kind,
    zone: &str,
    granted: bool,
) -> TestResult {
    let use_10 = socket_rule("20", "10", "send receive");
    // A datagram bears the name of who sends it.
    let reach_10 = network("20", "", "10", "send");
    let rules: &[&str] = if granted && zone == "20" {
        &[&use_10, &reach_10]
    } else {
        &[]
    };
    enforce(cluster, &policy(rules))?;
    let (munster, colby) = nodes(cluster)?;
    let answers = format!("send,u,message,{}:7017", kind.munster);
    for (at, way) in TAKES.into_iter().chain([answers.as_str()]).enumerate() {
        let sends = way == answers;
        let name = format!("datagrams-{}-{zone}-{granted}-{at}", kind.family);
        let listener = start(
            munster,
            &format!("{name}-listener"),
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7017 say,ready recv,u",
                kind.family, kind.any
            ),
        )?;
        let holder = start(
            colby,
            &name,
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7016 keep,u,9 exec,{} fd,u,9 say,ready until,{GO} {way}",
                kind.family,
                kind.any,
                program(zone)
            ),
        )?;
        let message = format!(
            "socket,u,{},2,0 send,u,greeting,{}:7016",
            kind.family, kind.colby
        );
        run(munster, "10", &message)?.ok()?;
        let mark = colby.kernel_mark();
        colby.write(GO, "")?;
        let code = holder.join()?;
        let said = holder.output()?;
        if !granted {
            check_eq!(code, Some(12), "{way}: {said}");
            check!(
                said.ends_with(&format!("errno={EACCES}\n")),
                "{way}: {said}"
            );
            let permission = if sends { "send" } else { "receive" };
            Denial::wait(colby, mark, "denied sscid=20 ssnid=2 tscid=10 tsnid=2")?
                .says("perm", permission)?;
            check!(listener.is_running()?, "{}", listener.output()?);
        } else {
            check_eq!(code, Some(0), "{way}: {said}");
            if sends {
                listener.wait_line("recv ok message")?;
            } else {
                check!(said.ends_with("ok greeting\n"), "{way}: {said}");
            }
        }
        listener.stop()?;
    }
    Ok(())
}

/// A thread of zone 10's on munster sends to a zone on colby; before that, its process is given a zone by way of the
/// thread itself.
pub(super) fn of_thread(
    cluster: &mut Cluster,
    kind: Kind,
    given: Option<u32>,
    to: &str,
) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let name = format!("thread-{}-{}-{to}", kind.family, given.unwrap_or_default());
    let receiver = start(
        colby,
        &format!("{name}-receiver"),
        to,
        &format!(
            "socket,u,{},2,0 bind,u,{}:70{to} say,ready thread recv,u",
            kind.family, kind.any
        ),
    )?;
    let sender = start(
        munster,
        &name,
        "10",
        &format!(
            "thread say,ready until,{GO} socket,u,{},2,0 send,u,message,{}:70{to}",
            kind.family, kind.colby
        ),
    )?;
    if let Some(given) = given {
        let said = sender.output()?;
        let thread = said
            .lines()
            .find_map(|line| line.strip_prefix("thread ok ")?.parse::<i32>().ok());
        let thread = thread.ok_or_else(|| Failure::new(said))?;
        check!(thread != sender.pid(), "it is the first thread");
        let set = serde_json::json!(["task-set", {"pid": sender.pid(), "scid": given}]);
        let get = serde_json::json!(["task-get", {"pid": thread}]);
        let answers = ynl_all(munster, &[set, get])?;
        check_eq!(
            answers.last().map(|answer| answer["scid"].clone()),
            Some(given.into()),
            "ScID of the thread"
        );
    }
    let (mark, before) = (colby.kernel_mark(), Counters::of(colby)?);
    munster.write(GO, "")?;
    check_eq!(sender.join()?, Some(0), "{}", sender.output()?);
    let zone = given.unwrap_or(10).to_string();
    if zone == to {
        receiver.wait_line("recv ok message")?;
        let refusals = Counters::of(colby)?.refusals(&before)?;
        check!(refusals.is_empty(), "refused: {refusals:?}");
        return Ok(());
    }
    let head = format!("denied sscid={zone} ssnid=1 tscid={to} tsnid=2 udp");
    Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
    check!(receiver.is_running()?, "it ended: {}", receiver.output()?);
    Ok(())
}

/// A thread that is not the first one of its process executes a program of another zone, which then is all of it.
pub(super) fn exec_by_thread(cluster: &mut Cluster, from: &str, to: &str) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (munster, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        &format!("exec-by-thread-{to}"),
        to,
        &format!("socket,u,2,2,0 bind,u,0.0.0.0:70{to} say,ready recv,u"),
    )?;
    let mark = munster.kernel_mark();
    let steps = format!(
        "thread exec,{} socket,u,2,2,0 send,u,message,{}:70{to}",
        program(to),
        colby.ip
    );
    let output = run(munster, from, &steps)?;
    if to == "20" {
        output.ok()?;
        receiver.wait_line("recv ok message")?;
        return Ok(());
    }
    fails(output, "exec", EACCES)?;
    Denial::wait(munster, mark, "denied sscid=20 ssnid=1 tscid=10 tsnid=1")?.says("perm", "execute")
}

/// Sends by io_uring: by the process itself, by its kernel thread, and with registered credentials.
const RINGS: [&str; 3] = [
    "ring,r,0 ringsend,r,u,message",
    "ring,r,2 ringsend,r,u,message",
    "ring,r,0 personality,r ringsendas,r,u,message,1",
];

fn uring(cluster: &Cluster, kind: &Kind, port: &str, way: &str) -> TestResult {
    let (munster, _) = nodes(cluster)?;
    run(
        munster,
        "10",
        &format!(
            "socket,u,{},2,0 connect,u,{}:{port} {way}",
            kind.family, kind.colby
        ),
    )?
    .ok()?;
    Ok(())
}

pub(super) fn uring_denied(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    let receiver = start(
        colby,
        &format!("uring-20-{}", kind.family),
        "20",
        &format!(
            "socket,u,{},2,0 bind,u,{}:7021 say,ready until,{GO} timeout,u,50 recv,u",
            kind.family, kind.any
        ),
    )?;
    for way in RINGS {
        let before = Counters::of(colby)?;
        uring(cluster, &kind, "7021", way)?;
        until("the refusal", || {
            Ok(Counters::of(colby)?.rise(&before, "refused-no-permission")? == 1)
        })?;
    }
    colby.write(GO, "")?;
    receiver.join()?;
    let said = receiver.output()?;
    check!(said.ends_with(&format!("recv errno={EAGAIN}\n")), "{said}");
    Ok(())
}

pub(super) fn uring_allowed(cluster: &mut Cluster, kind: Kind) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let (_, colby) = nodes(cluster)?;
    for way in RINGS {
        let receiver = start(
            colby,
            "uring-10",
            "10",
            &format!(
                "socket,u,{},2,0 bind,u,{}:7011 say,ready recv,u",
                kind.family, kind.any
            ),
        )?;
        uring(cluster, &kind, "7011", way)?;
        receiver.wait_line("recv ok message")?;
        receiver.join()?;
    }
    Ok(())
}

const SYS_ADMIN: &str =
    "<system_permission><source_ScID>10</source_ScID><grant>sys_admin</grant></system_permission>";
/// A file whose attributes can be set.
const FILE: &str = "/dev/shm/of-default";

/// Sets an attribute of the administrators' through a ring that has somebody's credentials, and expects this of it.
fn set_trusted(cluster: &Cluster, zone: &str, steps: &str, errno: i32) -> TestResult {
    let (munster, _) = nodes(cluster)?;
    munster.run(&["touch", FILE])?.ok()?;
    let output = run(munster, zone, steps)?;
    let came = if errno == 0 {
        "ringtrusted ok".to_owned()
    } else {
        format!("ringtrusted errno={errno}")
    };
    check!(
        output.stdout.contains(&came),
        "expected '{came}' of {steps} in zone {zone}: {}",
        output.describe()
    );
    munster
        .run(&["setfattr", "-h", "-x", "trusted.dsi-test", FILE])?
        .exits_with(i32::from(errno != 0))?;
    Ok(())
}

/// What a process could before it changed its credentials, its zone must be granted all the same.
fn earlier_credentials(cluster: &Cluster, zone: &str, rule: &str, errno: i32) -> TestResult {
    enforce(cluster, &policy(&[rule]))?;
    let steps = format!("ring,r,0 personality,r newcreds ringtrusted,r,{FILE},1");
    set_trusted(cluster, zone, &steps, errno)
}

/// The default zone's credentials in a ring that it leaves open for a program of a zone.
fn inherited_credentials(cluster: &Cluster, zone: &str, errno: i32) -> TestResult {
    enforce(cluster, &policy(&[]))?;
    let steps = format!(
        "ring,r,0 personality,r ringkeep,r,9 exec,{} ringof,r,9 ringtrusted,r,{FILE},1",
        program(zone)
    );
    set_trusted(cluster, "2", &steps, errno)
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
    Ok(())
}
