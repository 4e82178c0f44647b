//! Proves that the label keys of a cluster can be changed under traffic without a lost packet, that a change goes on
//! when the server is killed in it, that keys of two changes ago are worthless, that an expelled node is refused at
//! once by all others while they lose nothing, and that a module loaded anew gets everything back.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::control::{Control, Families, insmod, start_ssd};
use crate::fault::Failure;
use crate::images::GUEST_MODULE;
use crate::node::{Node, Output, Process};
use crate::pcap::Frame;
use crate::regime::{self, Counters, document, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "rotation",
    proves: "keys are changed without a lost packet, and an expelled node is refused at once",
    nodes: &[
        NodeSpec::new("munster"),
        NodeSpec::new("colby"),
        NodeSpec::new("limerick"),
    ],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: &[
        Test {
            name: "keys-changed-under-traffic-lose-nothing-ok",
            run: under_traffic,
        },
        Test {
            name: "keys-of-two-changes-ago-denied-those-in-use-ok",
            run: old_keys,
        },
        Test {
            name: "server-killed-during-a-change-goes-on-ok",
            run: killed,
        },
        Test {
            name: "module-loaded-anew-gets-everything-back-ok",
            run: reloaded,
        },
        Test {
            name: "expelled-node-denied-at-once-its-twin-ok",
            run: expelled,
        },
    ],
};

const NAMES: [&str; 3] = ["munster", "colby", "limerick"];
const STOP: &str = "/tmp/stop-rotation";
const ALLOWED_MS: &str = "170000";
const UDP: u16 = 7210;
const TCP: u16 = 7211;
/// The server's patience with managers that are away when it starts.
const RETURN: Duration = Duration::from_secs(30);
const SMD_LOG: &str = "/var/log/dsi-test/smd.log";

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}
use Family::{V4, V6};

impl Family {
    /// A node's address.
    fn of(self, node: &Node) -> IpAddr {
        match self {
            V4 => node.ip.into(),
            V6 => address6(node.index).into(),
        }
    }

    fn at(self, node: &Node, port: u16) -> String {
        SocketAddr::new(self.of(node), port).to_string()
    }
}

/// Zone 10 may use sockets of its own, and reach nobody.
const ZONE_10: &str = "<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>\
<grant>create bind connect send receive</grant></socket_permission>";

/// What the tests share.
struct Kept {
    control: Control,
    servers: Vec<Process>,
    /// A datagram of either family under the first keys.
    first: Vec<(Family, Frame)>,
}

fn kept(cluster: &mut Cluster) -> Result<&mut Kept, Failure> {
    let kept = cluster.kept.as_mut().and_then(|kept| kept.downcast_mut());
    kept.ok_or_else(|| Failure::new("the setup has left nothing"))
}

fn control(cluster: &Cluster) -> Result<&Control, Failure> {
    let kept: &Kept = regime::kept(cluster)?;
    Ok(&kept.control)
}

fn setup(cluster: &mut Cluster) -> TestResult {
    for node in cluster.nodes() {
        insmod(node, &[])?;
    }
    let members = [("colby", 1), ("munster", 2), ("limerick", 3)];
    let control = Control::start(cluster, "colby", &members, Families::Both)?;
    let own = network("2", "", "2", "send receive connect");
    let policy = document("enforcing", &[&own, ZONE_10]);
    cluster.node("colby")?.write("/root/rotation.xml", policy)?;
    control.apply(cluster, "/root/rotation.xml")?;
    let mut servers = Vec::new();
    for (name, mode, port) in [
        ("colby", "udp-server", UDP),
        ("colby", "tcp-server", TCP),
        ("limerick", "udp-server", UDP),
    ] {
        let bind = format!("[::]:{port}");
        let argv = ["dsi-traffic", mode, "--bind", &bind];
        let server = cluster
            .node(name)?
            .spawn(&format!("rotation-{mode}"), &argv)?;
        server.wait_line("serving")?;
        servers.push(server);
    }
    cluster.kept = Some(Box::new(Kept {
        control,
        servers,
        first: Vec::new(),
    }));
    Ok(())
}

/// What a node's kernel says of itself.
fn status(node: &Node) -> Result<Value, Failure> {
    let output = node.run(&["dsictl", "--json", "status", "--local"])?.ok()?;
    serde_json::from_str(&output.stdout)
        .map_err(|error| Failure::new(format!("{error}: {}", output.describe())))
}

/// Key epoch that a node's kernel stamps with.
fn epoch(node: &Node) -> Result<u64, Failure> {
    Ok(status(node)?["key_epoch"].as_u64().unwrap_or_default())
}

/// Requests to colby by UDP and TCP that go on until they are stopped, and those of a zone that may not.
struct Traffic {
    allowed: Vec<Process>,
    denied: Option<Process>,
    from: String,
    mark: u64,
}

impl Traffic {
    fn start(cluster: &Cluster, from: &str) -> Result<Self, Failure> {
        let (node, colby) = (cluster.node(from)?, cluster.node("colby")?);
        node.run(&["rm", "-f", STOP])?.ok()?;
        let mark = cluster.switch.mark();
        let client = |mode, family: Family, port, count| {
            let to = family.at(colby, port);
            let argv = [
                "dsi-traffic",
                mode,
                "--to",
                &to,
                "--count",
                count,
                "--until-file",
                STOP,
                "--interval-ms",
                "5",
                "--timeout-ms",
                ALLOWED_MS,
            ];
            node.spawn(&format!("rotation-{mode}-{family:?}"), &argv)
        };
        // A datagram client has at least so many messages, a connection at most.
        let allowed = vec![
            client("udp-client", V4, UDP, "1")?,
            client("tcp-client", V4, TCP, "100000000")?,
            client("udp-client", V6, UDP, "1")?,
            client("tcp-client", V6, TCP, "100000000")?,
        ];
        let udp = V4.at(colby, UDP);
        let argv = [
            "dsictl",
            "run",
            "--scid",
            "10",
            "--",
            "dsi-traffic",
            "udp-client",
            "--to",
            &udp,
            "--until-file",
            STOP,
            "--timeout-ms",
            "200",
            "--keep-going",
        ];
        let denied = node.spawn("rotation-denied", &argv)?;
        let traffic = Self {
            allowed,
            denied: Some(denied),
            from: from.into(),
            mark,
        };
        traffic.flows(cluster)?;
        Ok(traffic)
    }

    /// Waits until more datagrams have been answered.
    fn flows(&self, cluster: &Cluster) -> TestResult {
        let mark = cluster.switch.mark();
        until("the traffic to flow", || {
            Ok(echoes(cluster, mark, &self.from, V4)?.len() > 5
                && echoes(cluster, mark, &self.from, V6)?.len() > 5)
        })
    }

    /// Ends it. Each request was answered, and none of the zone's.
    fn lost_nothing(mut self, cluster: &Cluster) -> TestResult {
        cluster.node(&self.from)?.write(STOP, "")?;
        let mut said = Vec::new();
        for client in &self.allowed {
            check_eq!(client.join()?, Some(0), "'{}'", client.output()?.trim());
            let line = client.wait_line("result=ok")?;
            check!(line.ends_with("lost=0"), "{line}");
            said.push(line);
        }
        let denied = self.denied.take().ok_or_else(|| Failure::new("no twin"))?;
        check_eq!(denied.join()?, Some(11), "'{}'", denied.output()?.trim());
        let line = denied.wait_line("result=timeout")?;
        check!(line.contains("answered=0"), "{line}");
        // Both sides agree, by what crossed the wire: the only answers are those to the datagram clients.
        for (said, family) in [(&said[0], V4), (&said[2], V6)] {
            let answered = said
                .split_whitespace()
                .find_map(|word| word.strip_prefix("answered="));
            let seen = echoes(cluster, self.mark, &self.from, family)?;
            let seen = seen.len().to_string();
            check_eq!(answered, Some(seen.as_str()), "answers on the wire");
        }
        Ok(())
    }
}

/// Source, destination and ports of a datagram.
type Ends = (IpAddr, IpAddr, (u16, u16));

fn ends(frame: &Frame) -> Option<Ends> {
    const UDP: u8 = 17;
    match (frame.ipv4(), frame.ipv6()) {
        (Some(packet), _) if packet.protocol == UDP => Some((
            packet.source.into(),
            packet.destination.into(),
            packet.ports()?,
        )),
        (_, Some(packet)) if packet.protocol == UDP => Some((
            packet.source.into(),
            packet.destination.into(),
            packet.ports()?,
        )),
        _ => None,
    }
}

fn frames(
    cluster: &Cluster,
    mark: u64,
    wanted: impl Fn(Ends) -> bool,
) -> Result<Vec<Frame>, Failure> {
    let mut frames = cluster.switch.frames_since(mark)?;
    frames.retain(|frame| ends(frame).is_some_and(&wanted));
    Ok(frames)
}

/// Answers of colby's datagram server to a node.
fn echoes(cluster: &Cluster, mark: u64, to: &str, family: Family) -> Result<Vec<Frame>, Failure> {
    let [colby, to] = [
        family.of(cluster.node("colby")?),
        family.of(cluster.node(to)?),
    ];
    frames(cluster, mark, |(source, destination, (from, _))| {
        (source, destination, from) == (colby, to, UDP)
    })
}

/// A datagram that was sent to colby's server and answered, with its answer's port.
fn answered(cluster: &Cluster, mark: u64, from: &str, family: Family) -> Result<Frame, Failure> {
    let answers = echoes(cluster, mark, from, family)?;
    let port = answers.last().and_then(ends).map(|(_, _, ports)| ports.1);
    let colby = family.of(cluster.node("colby")?);
    let requests = frames(cluster, mark, |(_, to, ports)| {
        to == colby && Some(ports.0) == port && ports.1 == UDP
    })?;
    let first = requests.into_iter().next();
    first.ok_or_else(|| Failure::new("no datagram was answered"))
}

fn rotate(cluster: &Cluster, epoch_after: u64) -> TestResult {
    // As soon as the nodes have come through the last change.
    until("the keys to be changed", || {
        let rotate = ["key", "rotate", "--timeout", "170s"];
        let output = control(cluster)?.dsictl(cluster, &rotate)?;
        if output.code == Some(1) && output.stderr.contains("are still in use because of") {
            return Ok(false);
        }
        output.ok()?.says("are in use on all 3 connected nodes")?;
        Ok(true)
    })?;
    for name in NAMES {
        check_eq!(
            epoch(cluster.node(name)?)?,
            epoch_after,
            "key epoch of {name}"
        );
    }
    Ok(())
}

fn counters(cluster: &Cluster) -> Result<Vec<Counters>, Failure> {
    let nodes = NAMES.iter().map(|name| cluster.node(name));
    nodes.map(|node| Counters::of(node?)).collect()
}

/// Reasons that only a label under the wrong keys has.
const KEYS: [&str; 3] = [
    "refused-unknown-epoch",
    "refused-bad-mac",
    "refused-unknown-node",
];

/// Since `before` the zone was refused on colby, and nobody anywhere for his keys.
fn no_key_refused(cluster: &Cluster, before: &[Counters]) -> TestResult {
    for (now, before) in counters(cluster)?.iter().zip(before) {
        for reason in KEYS {
            check_eq!(now.rise(before, reason)?, 0, "{reason} in {now:?}");
        }
    }
    let zone = counters(cluster)?[1].rise(&before[1], "refused-no-permission")?;
    check!(zone > 0, "nothing of the zone was refused");
    Ok(())
}

fn under_traffic(cluster: &mut Cluster) -> TestResult {
    let before = counters(cluster)?;
    let traffic = Traffic::start(cluster, "munster")?;
    let first = [V4, V6]
        .map(|family| Ok((family, answered(cluster, traffic.mark, "munster", family)?)))
        .into_iter()
        .collect::<Result<_, Failure>>()?;
    rotate(cluster, 2)?;
    traffic.flows(cluster)?;
    traffic.lost_nothing(cluster)?;
    no_key_refused(cluster, &before)?;
    kept(cluster)?.first = first;
    Ok(())
}

/// A replayed datagram is served, as all under a valid key are.
fn served(cluster: &Cluster, family: Family, frame: &Frame) -> TestResult {
    let before = Counters::of(cluster.node("colby")?)?;
    let mark = cluster.switch.mark();
    cluster.switch.inject(&frame.0);
    until("the datagram to be answered", || {
        Ok(!echoes(cluster, mark, "munster", family)?.is_empty())
    })?;
    let refusals = Counters::of(cluster.node("colby")?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

fn old_keys(cluster: &mut Cluster) -> TestResult {
    let first = kept(cluster)?.first.clone();
    check_eq!(first.len(), 2, "datagrams that were kept");
    // Valid for one change more: what is on its way must arrive.
    for (family, frame) in &first {
        served(cluster, *family, frame)?;
    }
    rotate(cluster, 3)?;
    let colby = cluster.node("colby")?;
    for (family, frame) in first {
        let (before, mark) = (Counters::of(colby)?, cluster.switch.mark());
        cluster.switch.inject(&frame.0);
        until("the datagram to be refused", || {
            Ok(Counters::of(colby)?.rise(&before, "refused-unknown-epoch")? == 1)
        })?;
        // Its twin, under the keys in use.
        message(cluster, "munster", "colby", family, ALLOWED_MS)?.ok()?;
        let now = answered(cluster, mark, "munster", family)?;
        check_eq!(
            echoes(cluster, mark, "munster", family)?.len(),
            1,
            "answers"
        );
        served(cluster, family, &now)?;
    }
    Ok(())
}

fn smd(cluster: &Cluster, name: &str) -> Result<String, Failure> {
    let smd = control(cluster)?.smd.iter().find(|(of, _)| of == name);
    smd.map(|(_, smd)| smd.pid().to_string())
        .ok_or_else(|| Failure::new("there is no such manager"))
}

/// The server is killed while a manager keeps it waiting.
fn killed(cluster: &mut Cluster) -> TestResult {
    let before = counters(cluster)?;
    let traffic = Traffic::start(cluster, "munster")?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let manager = smd(cluster, "munster")?;
    until("the change to begin", || {
        munster.run(&["kill", "-STOP", &manager])?.ok()?;
        let rotate = ["key", "rotate", "--timeout", "10s"];
        let output = control(cluster)?.dsictl(cluster, &rotate)?.exits_with(1)?;
        // The change before has not come to its end.
        if output.stderr.contains("are still in use because of") {
            munster.run(&["kill", "-CONT", &manager])?.ok()?;
            return Ok(false);
        }
        output.says("waiting for munster")?;
        Ok(true)
    })?;
    let ssd = control(cluster)?.ssd.pid().to_string();
    colby.run(&["kill", "-KILL", &ssd])?.ok()?;
    control(cluster)?.ssd.join()?;
    let started = Instant::now();
    let ssd = start_ssd(colby)?;
    colby.poll(&["dsictl", "status"], "those of 4 are being handed out")?;
    let again = control(cluster)?.dsictl(cluster, &["key", "rotate"])?;
    let epochs = [epoch(munster)?, epoch(colby)?];
    // After so long the new server does without the manager that is away.
    if started.elapsed() < RETURN {
        again.exits_with(1)?.says("under way")?;
        check_eq!(epochs, [3, 3], "key epochs");
    } else {
        println!("  too slow to see the change under way");
    }
    munster.run(&["kill", "-CONT", &manager])?.ok()?;
    for name in NAMES {
        let node = cluster.node(name)?;
        until("the new keys to be in use", || Ok(epoch(node)? == 4))?;
    }
    traffic.flows(cluster)?;
    traffic.lost_nothing(cluster)?;
    no_key_refused(cluster, &before)?;
    kept(cluster)?.control.ssd = ssd;
    for name in NAMES {
        control(cluster)?.wait_connected(cluster, name)?;
    }
    Ok(())
}

/// Unloaded and loaded again before its manager looks at it.
fn reloaded(cluster: &mut Cluster) -> TestResult {
    let limerick = cluster.node("limerick")?;
    for family in [V4, V6] {
        message(cluster, "limerick", "colby", family, ALLOWED_MS)?.ok()?;
    }
    let before = status(limerick)?;
    check_eq!(before["mode"], "enforcing", "mode");
    limerick
        .sh(&format!("rmmod dsm && insmod {GUEST_MODULE}"))?
        .ok()?;
    until("limerick to have everything back", || {
        let now = status(limerick)?;
        let same = |name: &str| now[name] == before[name];
        Ok([
            "mode",
            "policy_version",
            "snid",
            "cluster",
            "key_epoch",
            "nodes",
        ]
        .iter()
        .all(|name| same(name)))
    })?;
    check!(
        status(limerick)?["instance"] != before["instance"],
        "it is the same load"
    );
    for family in [V4, V6] {
        message(cluster, "limerick", "colby", family, ALLOWED_MS)?.ok()?;
    }
    control(cluster)?.wait_connected(cluster, "limerick")
}

/// One message to a node's datagram server; what came of it.
fn message(
    cluster: &Cluster,
    from: &str,
    to: &str,
    family: Family,
    ms: &str,
) -> Result<Output, Failure> {
    let address = family.at(cluster.node(to)?, UDP);
    let argv = [
        "dsi-traffic",
        "udp-client",
        "--to",
        &address,
        "--timeout-ms",
        ms,
    ];
    Ok(cluster.node(from)?.run(&argv)?)
}

fn expelled(cluster: &mut Cluster) -> TestResult {
    for family in [V4, V6] {
        message(cluster, "munster", "limerick", family, ALLOWED_MS)?.ok()?;
    }
    let lost = Traffic::start(cluster, "munster")?;
    let twin = Traffic::start(cluster, "limerick")?;
    let before = counters(cluster)?;
    control(cluster)?
        .dsictl(cluster, &["node", "remove", "munster", "--timeout", "170s"])?
        .ok()?
        .says("SnID 2 is expelled, and refused by 2 of 2 connected nodes")?;
    // It is over when the command is answered.
    let colby = cluster.node("colby")?;
    let aborted = Counters::of(colby)?.rise(&before[1], "flows-aborted")?;
    check!(aborted > 0, "none of its connections was aborted");
    for (to, before) in [("colby", &before[1]), ("limerick", &before[2])] {
        let refused = || Counters::of(cluster.node(to)?)?.rise(before, "refused-unknown-node");
        for family in [V4, V6] {
            let so_far = refused()?;
            message(cluster, "munster", to, family, "1500")?.exits_with(11)?;
            until("it to be refused as an unknown node's", || {
                Ok(refused()? > so_far)
            })?;
        }
        check_eq!(status(cluster.node(to)?)?["nodes"], 2, "nodes of {to}");
    }
    twin.flows(cluster)?;
    twin.lost_nothing(cluster)?;
    drop(lost);
    // Its certificate opens nothing, and its SnID is not given out again.
    cluster
        .node("munster")?
        .wait_line(SMD_LOG, "no member of this cluster")?;
    let control = control(cluster)?;
    let list = control.dsictl(cluster, &["node", "list"])?.ok()?;
    list.says_not("munster")?;
    control
        .dsictl(cluster, &["node", "join-token", "cork", "--snid", "2"])?
        .exits_with(1)?
        .says("never reused")?;
    let kept: &Kept = regime::kept(cluster)?;
    for server in &kept.servers {
        check!(server.is_running()?, "{}", server.output()?);
    }
    Ok(())
}
