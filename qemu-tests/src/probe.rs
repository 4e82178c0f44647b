//! What the suites share whose tests do their steps in the socket probe, a native helper: two nodes with zones 10 and 20,
//! the addresses and policies that they begin with, and how a step is done and judged. It proves nothing by itself.

use crate::cluster::{Cluster, address6};
use crate::enrol::{enrol, load, ynl};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::regime::{self, Regime, WITHIN_10, ZONES, document};
use crate::suite::TestResult;

/// The nodes of these suites.
pub const NAMES: [&str; 2] = ["munster", "colby"];
const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
/// An address of colby's that is not in the node map: a machine outside of the cluster.
pub const OUTSIDE: &str = "10.77.0.102";
/// The same, over IPv6.
pub const OUTSIDE6: &str = "fd00:77::102";
/// A process in munster's other network namespace.
pub const INNER: &str = "10.78.0.2";
/// The same, over IPv6.
pub const INNER6: &str = "fd78::2";
/// A second address of munster's, which the node map has.
pub const SECOND: &str = "10.77.0.201";
/// The same, over IPv6.
pub const SECOND6: &str = "fd77::201";
/// The file that the step `until` waits for.
pub const GO: &str = "/tmp/go";
/// How long is waited for what must come.
pub const ALLOWED_MS: &str = "170000";
/// How long is waited for what must not come. What is denied stays so, however long. A SYN is sent again each second: not
/// just when the test goes on.
pub const DENIED_MS: &str = "1500";

/// Not permitted.
pub const EPERM: i32 = 1;
/// Nothing has come.
pub const EAGAIN: i32 = 11;
/// Denied.
pub const EACCES: i32 = 13;

/// What of zone 10's executes a program of zone 20's gets there.
pub const FROM_10: &str = "<transition><parent_ScID>10</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>";

/// These rules beside what the suites begin with, enforced.
pub fn policy(more: &[&str]) -> String {
    let mut rules = vec![ZONES, WITHIN_10, FROM_10];
    rules.extend(more);
    document("enforcing", &rules)
}

/// What a zone may do with the sockets of another.
pub fn socket_rule(source: &str, target: &str, grant: &str) -> String {
    format!(
        "<socket_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></socket_permission>"
    )
}

/// What a zone may do with the processes of another.
pub fn process_rule(source: &str, target: &str, grant: &str) -> String {
    format!(
        "<process_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></process_permission>"
    )
}

/// Loads the module, and makes the zones' programs, the addresses and the other network namespace.
pub fn setup(cluster: &mut Cluster) -> TestResult {
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
pub fn of_munster(munster: &Node) -> [String; 6] {
    [
        munster.ip.to_string(),
        address6(munster.index).to_string(),
        SECOND.to_owned(),
        SECOND6.to_owned(),
        INNER.to_owned(),
        INNER6.to_owned(),
    ]
}

/// The probe, with the label of a zone.
pub fn program(zone: &str) -> String {
    if zone == "2" {
        PROBE.into()
    } else {
        format!("/srv/zone{zone}/dsi-sock-probe")
    }
}

/// Has a policy in force on both nodes.
pub fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let regime: &Regime = regime::kept(cluster)?;
    NAMES
        .iter()
        .try_for_each(|name| regime.enforce(cluster.node(name)?, policy))
}

/// Munster and colby.
pub fn nodes(cluster: &Cluster) -> Result<(&Node, &Node), Failure> {
    Ok((cluster.node("munster")?, cluster.node("colby")?))
}

/// Does these steps in a process of a zone.
pub fn run(node: &Node, zone: &str, steps: &str) -> Result<Output, Failure> {
    let program = program(zone);
    let argv: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(steps.split_whitespace())
        .collect();
    Ok(node.run(&argv)?)
}

/// The same in the background, up to the step `say,ready`.
pub fn start(node: &Node, name: &str, zone: &str, steps: &str) -> Result<Process, Failure> {
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
pub fn fails(output: Output, step: &str, errno: i32) -> TestResult {
    output
        .exits_with(12)?
        .says(&format!("{step} errno={errno}\n"))?;
    Ok(())
}

/// A kind of stream.
pub struct Kind {
    /// The family's number.
    pub family: &'static str,
    /// Any address of it.
    pub any: &'static str,
    /// Munster's.
    pub munster: &'static str,
    /// Colby's.
    pub colby: &'static str,
    /// The step of both ends before the first byte.
    pub begin: &'static str,
}

/// Over IPv4.
pub const PLAIN: Kind = Kind {
    family: "2",
    any: "0.0.0.0",
    munster: "10.77.0.1",
    colby: "10.77.0.2",
    begin: "",
};
/// Over IPv6.
pub const PLAIN6: Kind = Kind {
    family: "10",
    any: "[::]",
    munster: "[fd77::1]",
    colby: "[fd77::2]",
    begin: "",
};

impl Kind {
    /// The step that a socket begins with.
    pub fn begin(&self, socket: &str) -> String {
        match self.begin {
            "" => String::new(),
            step => format!("{step},{socket}"),
        }
    }

    /// A server of zone 10 that greets and waits for an answer.
    pub fn greeter(&self, colby: &Node) -> Result<Process, Failure> {
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
