//! Proves that the kernel's own network selftests give the same result with the module, for processes of
//! a zone under an enforcing policy that allows everything, as without it: each program runs on a bare
//! node and on a node of a cluster, and exit code and every single verdict are compared. Two differences are
//! expected: zones are refused hop-by-hop options, which has a test of its own, and labelled datagrams are not merged, so
//! that what asks for it runs without labels. No servers.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{addresses, enrol, in_zone, load, ynl};
use crate::fault::Failure;
use crate::images::GUEST_SELFTESTS;
use crate::node::{Node, Output};
use crate::regime::Regime;
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite. Only munster gets the module.
pub const SUITE: Suite = Suite {
    name: "selftests",
    proves: "the kernel's own network selftests give the same result with the module as without it",
    nodes: &[
        NodeSpec::new("munster").cpus(2),
        NodeSpec::new("bare").cpus(2),
    ],
    needs: &[Need::Module, Need::Selftests],
    setup,
    tests: TESTS,
};

macro_rules! programs {
    ($($name:literal: $command:literal,)+) => {
        &[
            Test { name: "udpgso-v6-same-but-hop-by-hop-options-denied", run: but_hop_by_hop_options },
            Test { name: "udpgro-v6-without-labels-same", run: |c| without_labels(c, MERGED) },
            Test { name: "udpgro-v6-segments-without-labels-same", run: |c| without_labels(c, MERGED_SEGMENTS) },
            $(Test { name: concat!($name, "-same"), run: |cluster| same(cluster, $command) },)+
        ]
    };
}

/// Not among them: what wants tools that guests lack, such as `cmsg_so_priority.sh` (jq) and the parts of `udpgro.sh` that
/// translate addresses (iptables). Of `tls` only two of thirteen ciphers: all take many minutes under emulation.
/// `scripts/selftests` tells what could not be built.
const TESTS: &[Test] = programs! {
    "reuseport-bpf": "./reuseport_bpf",
    "reuseport-bpf-cpu": "./reuseport_bpf_cpu",
    "reuseport-dualstack": "./reuseport_dualstack",
    "reuseport-addr-any": "./reuseport_addr_any.sh",
    "reuseaddr-conflict": "./reuseaddr_conflict",
    "reuseaddr-ports-exhausted": "./reuseaddr_ports_exhausted.sh",
    "bind-wildcard": "./bind_wildcard",
    "bind-timewait": "./bind_timewait",
    "sk-bind-sendto-listen": "./sk_bind_sendto_listen",
    "sk-connect-zero-addr": "./sk_connect_zero_addr",
    "sk-so-peek-off": "./sk_so_peek_off",
    "socket": "./socket",
    "so-netns-cookie": "./so_netns_cookie",
    "getsockopt-iter": "./getsockopt_iter",
    "tcp-port-share": "./in_netns.sh ./tcp_port_share",
    "tcp-inq": "./tcp_inq",
    "udpgso-v4": "./in_netns.sh ./udpgso.sh test_dev_mtu -- ./udpgso -4 -C",
    "udpgso-connected": "./in_netns.sh ./udpgso.sh test_route_mtu -- ./udpgso -4 -c",
    "udpgso-msg-more": "./in_netns.sh ./udpgso.sh test_dev_mtu -- ./udpgso -4 -C -m",
    "udp-splice-checksum": "./in_netns.sh ./udp_splice_checksum",
    "tls": "./tls -V 12_chacha -V 13_chacha -V 13_sm4_gcm -V 13_sm4_ccm -V 12_aes_ccm -V 13_aes_ccm -V 12_aes_gcm_256 -V 13_aes_gcm_256 -V 13_nopad -V 12_aria_gcm -V 12_aria_gcm_256",
    "udpgro-none": "./in_netns.sh ./udpgro.sh __subprocess -l 4 -4 -D 192.168.1.1 -M 10 -s 1400 rx -G -r -4 -n 10 -l 1400 -S -1",
    "udpgro": "./in_netns.sh ./udpgro.sh __subprocess -l 4 -4 -D 192.168.1.1 -M 1 -s 14720 -S 0 rx -G -r -4 -n 1 -l 14720 -S 1472",
    "udpgro-segments": "./in_netns.sh ./udpgro.sh __subprocess -l 4 -4 -D 192.168.1.1 -M 1 -s 14720 -S 500 rx -G -r -4 -n 1 -l 14720 -S 500",
    "unix-msg-oob": "./msg_oob",
    "unix-scm-inq": "./scm_inq",
    "unix-scm-pidfd": "./scm_pidfd",
    "unix-scm-rights": "./scm_rights",
    "unix-connect": "./unix_connect",
    "unix-connreset": "./unix_connreset",
    "unix-listen": "./unix_listen",
    "unix-so-peek-off": "./unix_so_peek_off",
    "unix-diag-uid": "./diag_uid",
    "mptcp-inq": "cd mptcp && ./mptcp_inq",
    "mptcp-sockopt": "cd mptcp && ./mptcp_sockopt",
};

/// What goes by these IPv6 addresses has labels, if the node map has them; a datagram with one is never merged (GRO).
const MERGED: &str = "./in_netns.sh ./udpgro.sh __subprocess -l 4 -6 -D 2001:db8::1 -M 1 -s 14520 -S 0 rx -G -r -n 1 -l 14520 -S 1452";
const MERGED_SEGMENTS: &str = "./in_netns.sh ./udpgro.sh __subprocess -l 4 -6 -D 2001:db8::1 -M 1 -s 14520 -S 500 rx -G -r -n 1 -l 14520 -S 500";

/// What a program of the list may take.
const LONGEST: Duration = Duration::from_secs(600);

/// Zone 10 may do everything, and so may all others.
const POLICY: &str = "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"allow\"><contexts>\
                      <context ScID=\"10\" name=\"ten\"/></contexts><nodes><node SnID=\"1\" name=\"munster\"/></nodes>\
                      <rules></rules></DSP>";

fn setup(cluster: &mut Cluster) -> TestResult {
    for node in cluster.nodes() {
        node.sh(&format!(
            "cp -r {GUEST_SELFTESTS} /tmp/selftests && chmod -R +x /tmp/selftests && mkdir -p /run/netns && modprobe tls"
        ))?
        .ok()?;
    }
    load(cluster.node("munster")?, &[])?;
    enrol(cluster, &["munster"], 1)?;
    let munster = cluster.node("munster")?;
    map(munster, true)?;
    let regime = Regime::establish(cluster, &["munster"])?;
    regime.enforce(munster, POLICY)
}

/// Whether munster's node map has what programs give themselves in name spaces of their own: what they send from there has
/// labels, or they are outside.
fn map(munster: &Node, inner: bool) -> TestResult {
    let mut own = addresses(1, &munster.ip.to_string()).to_vec();
    if inner {
        own.extend((1..=3).map(|i| format!("2001:db8::{i}")));
    }
    ynl(munster, &[json!(["node-set", {"snid": 1, "address": own}])])?.ok()?;
    Ok(())
}

fn without_labels(cluster: &mut Cluster, command: &str) -> TestResult {
    map(cluster.node("munster")?, false)?;
    let result = same(cluster, command);
    map(cluster.node("munster")?, true)?;
    result
}

fn run(node: &Node, zone: Option<u32>, command: &str) -> Result<Output, Failure> {
    let script = format!("cd /tmp/selftests && {command} 2>&1");
    let script = zone.map_or(script.clone(), |zone| in_zone(zone, &script));
    let output = node
        .command(&["bash", "-c", &script])
        .timeout(LONGEST)
        .run()?;
    check!(!output.timed_out, "{}: {}", node.name, output.describe());
    Ok(output)
}

/// The verdicts of a program that tells them one by one, without the time that each took.
fn verdicts(output: &Output) -> Vec<&str> {
    let is_verdict = |line: &&str| line.starts_with("ok ") || line.starts_with("not ok ");
    let verdict = |line| str::split(line, " # time=").next().unwrap_or(line);
    output
        .stdout
        .lines()
        .filter(is_verdict)
        .map(verdict)
        .collect()
}

fn same(cluster: &mut Cluster, command: &str) -> TestResult {
    let bare = run(cluster.node("bare")?, None, command)?;
    // A program that cannot run here, or wants a tool that is not there, proves nothing about the module.
    check_eq!(
        bare.code,
        Some(0),
        "exit code of {command} without the module: {}",
        bare.describe()
    );
    let full = run(cluster.node("munster")?, Some(10), command)?;
    check_eq!(
        full.code,
        bare.code,
        "exit code of {command}; with the module: {}without: {}",
        full.describe(),
        bare.describe()
    );
    check_eq!(verdicts(&full), verdicts(&bare), "verdicts of {command}");
    println!(
        "     {command}: exit code {:?}, {} verdicts, on both",
        full.code.unwrap_or_default(),
        verdicts(&full).len()
    );
    Ok(())
}

/// A zone's process cannot set IPv6 extension headers on a socket, where the label's has its room. That is the only
/// difference: the program ends there, and has said the same until then.
fn but_hop_by_hop_options(cluster: &mut Cluster) -> TestResult {
    let command = "./in_netns.sh ./udpgso.sh test_dev_mtu -- ./udpgso -6 -C";
    let bare = run(cluster.node("bare")?, None, command)?.ok()?;
    let full = run(cluster.node("munster")?, Some(10), command)?.exits_with(1)?;
    let said: Vec<&str> = full.stdout.lines().collect();
    let Some((last, first)) = said.split_last() else {
        return Err(Failure::new(full.describe()));
    };
    check!(
        last.ends_with("setsockopt ipv6 hopopts: Operation not permitted"),
        "{}",
        full.describe()
    );
    check!(first.len() > 10, "{}", full.describe());
    let same: Vec<&str> = bare.stdout.lines().take(first.len()).collect();
    check_eq!(first, same, "what {command} says until then");
    Ok(())
}
