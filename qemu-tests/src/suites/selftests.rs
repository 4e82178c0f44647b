//! Proves that the kernel's own network selftests give the same result with the module, for processes of
//! a zone under an enforcing policy that allows everything, as without it: each program runs on a bare
//! node and on a node of a cluster, and exit code and every single verdict are compared. No servers.

use std::time::Duration;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load};
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
        &[$(Test { name: concat!($name, "-same"), run: |cluster| same(cluster, $command) },)+]
    };
}

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
    "unix-msg-oob": "./msg_oob",
    "unix-scm-inq": "./scm_inq",
    "unix-scm-pidfd": "./scm_pidfd",
};

/// What a program of the list may take.
const LONGEST: Duration = Duration::from_secs(240);
/// Exit code of a selftest that could not run here.
const SKIP: i32 = 4;

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
    let munster = cluster.node("munster")?;
    load(munster, &[])?;
    enrol(cluster, &["munster"], 1)?;
    let regime = Regime::establish(cluster, &["munster"])?;
    regime.enforce(munster, POLICY)
}

fn run(node: &Node, head: &str, command: &str) -> Result<Output, Failure> {
    let script = format!("{head} cd /tmp/selftests && {command} 2>&1");
    let output = node
        .command(&["bash", "-c", &script])
        .timeout(LONGEST)
        .run()?;
    check!(!output.timed_out, "{}: {}", node.name, output.describe());
    Ok(output)
}

/// The verdicts of a program that tells them one by one.
fn verdicts(output: &Output) -> Vec<&str> {
    let is_verdict = |line: &&str| line.starts_with("ok ") || line.starts_with("not ok ");
    output.stdout.lines().filter(is_verdict).collect()
}

fn same(cluster: &mut Cluster, command: &str) -> TestResult {
    let bare = run(cluster.node("bare")?, "", command)?;
    // A program that cannot run here proves nothing about the module.
    check!(
        bare.code != Some(SKIP) && bare.code.is_some(),
        "without the module: {}",
        bare.describe()
    );
    let head = format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": 10}}]\" | {YNL_DO} >/dev/null &&"
    );
    let full = run(cluster.node("munster")?, &head, command)?;
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
