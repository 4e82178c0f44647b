//! Proves that whatever an enforcing policy denies is denied because of the policy: each `...-denied` has
//! an `...-ok` twin with the same programs and ports. Who may talk to whom by UDP and TCP, on one node
//! and across nodes, in both directions; rules for nodes; what a process may do with sockets and
//! execute; the change of a policy under an established flow; sockets that are older than the module.
//! What is denied on the way in is told and counted by the receiving node. No servers.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load};
use crate::fault::Failure;
use crate::label::Label;
use crate::node::{Node, Output, PATIENCE, Process};
use crate::regime::{Counters, Denial, Regime, document, network};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "twins",
    proves: "what a policy denies is refused by the receiving node, and its allowed twin goes through",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module],
    setup,
    tests: TESTS,
};

macro_rules! tests {
    ($($name:literal => $run:expr,)+) => { &[$(Test { name: $name, run: $run },)+] };
}

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
const ZONE_10: Zone = Zone { scid: "10", port: 7010 };
const ZONE_20: Zone = Zone { scid: "20", port: 7020 };
/// How long a client waits for what must not come. What is denied stays so, however long.
const DENIED_MS: &str = "1500";
const ALLOWED_MS: &str = "60000";
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const OLD_UDP: &str = "7200";
const OLD_TCP: &str = "7201";
const OLD_STOP: &str = "/tmp/stop-old";

/// What all policies here have in common: ports 7010 to 7019 are zone 10's and 7020 to 7029 zone 20's;
/// both may use their own sockets, and so may the rest of the system.
const COMMON: &str = "
<socket_label><protocol>udp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>udp</protocol><port>7020-7029</port><new_ScID>20</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7020-7029</port><new_ScID>20</new_ScID></socket_label>
<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<socket_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>
<network_permission><source_ScID>2</source_ScID><target_ScID>2</target_ScID><grant>send receive connect</grant></network_permission>
<network_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID><grant>send receive connect</grant></network_permission>";

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
}

const UDP_ACROSS: Way = Way { protocol: "udp", from: "munster", by: By::Exec };
const UDP_WITHIN: Way = Way { protocol: "udp", from: "colby", by: By::TaskSet };
const TCP_ACROSS: Way = Way { protocol: "tcp", from: "munster", by: By::TaskSet };
const TCP_WITHIN: Way = Way { protocol: "tcp", from: "colby", by: By::Exec };

/// A policy: what all have in common, zone 10 within itself, and more rules.
fn policy(mode: &str, more: &[&str]) -> String {
    let own = network("10", "", "10", "send receive connect");
    let mut rules = vec![COMMON, own.as_str()];
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
    let older = Older::start(munster, colby)?;
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
    let keep = Kept { servers, older };
    KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(keep);
    cluster.kept = Some(Box::new(regime));
    Ok(())
}
