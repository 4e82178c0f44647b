//! Proves that what a change forbids ends with it: established TCP connections that a new policy, an expelled
//! node or a changed ScID forbids are aborted before the command is answered, at each end by its own
//! kernel, and their allowed twins lose nothing; no datagram arrives that is sent later. Also what becomes of
//! refused packets and of attempts to unload the module, as the policy says. No servers.

use serde_json::json;

use crate::cluster::{Cluster, NodeSpec, address6};
use crate::enrol::{enrol, load, members, requests, unload, ynl};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::pcap::Frame;
use crate::regime::{self, Counters, Regime, document, last_number, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "revoke",
    proves: "what a change forbids is ended by it at both ends, and its allowed twin loses nothing",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "stream-forbidden-by-the-acceptors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "colby", V4),
    "stream-forbidden-by-the-connectors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "munster", V4),
    "stream-on-one-node-forbidden-aborted-at-both-ends-ok" => |c| forbidden_within(c, V4),
    "ipv6-stream-forbidden-by-the-acceptors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "colby", V6),
    "ipv6-stream-forbidden-by-the-connectors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "munster", V6),
    "ipv6-stream-on-one-node-forbidden-aborted-at-both-ends-ok" => |c| forbidden_within(c, V6),
    "idle-stream-forbidden-by-the-acceptors-policy-aborted-its-twin-ok" => |c| idle(c, V4),
    "ipv6-idle-stream-forbidden-by-the-acceptors-policy-aborted-its-twin-ok" => |c| idle(c, V6),
    "stream-forbidden-by-a-permissive-policy-goes-on-ok" => |c| permissive(c, V4),
    "ipv6-stream-forbidden-by-a-permissive-policy-goes-on-ok" => |c| permissive(c, V6),
    "stream-from-an-expelled-node-aborted-twin-on-the-node-ok" => |c| expelled(c, V4),
    "ipv6-stream-from-an-expelled-node-aborted-twin-on-the-node-ok" => |c| expelled(c, V6),
    "stream-whose-zone-may-no-longer-receive-aborted-ok" => |c| receive_withdrawn(c, V4),
    "ipv6-stream-whose-zone-may-no-longer-receive-aborted-ok" => |c| receive_withdrawn(c, V6),
    "stream-of-a-process-that-changes-its-zone-aborted-its-twin-ok" => |c| task_set(c, V4),
    "ipv6-stream-of-a-process-that-changes-its-zone-aborted-its-twin-ok" => |c| task_set(c, V6),
    "datagrams-forbidden-by-the-receivers-policy-denied-at-once-their-twin-ok" => |c| datagrams(c, "colby", V4),
    "datagrams-forbidden-by-the-senders-policy-denied-at-once-their-twin-ok" => |c| datagrams(c, "munster", V4),
    "ipv6-datagrams-forbidden-by-the-receivers-policy-denied-at-once-their-twin-ok" => |c| datagrams(c, "colby", V6),
    "ipv6-datagrams-forbidden-by-the-senders-policy-denied-at-once-their-twin-ok" => |c| datagrams(c, "munster", V6),
    "udp-across-nodes-under-reject-denied-at-once" => |c| rejected(c, "munster", "udp", V4),
    "tcp-across-nodes-under-reject-denied-at-once" => |c| rejected(c, "munster", "tcp", V4),
    "udp-same-node-under-reject-denied-at-once" => |c| rejected(c, "colby", "udp", V4),
    "tcp-same-node-under-reject-denied-at-once" => |c| rejected(c, "colby", "tcp", V4),
    "ipv6-udp-across-nodes-under-reject-denied-at-once" => |c| rejected(c, "munster", "udp", V6),
    "ipv6-tcp-across-nodes-under-reject-denied-at-once" => |c| rejected(c, "munster", "tcp", V6),
    "ipv6-udp-same-node-under-reject-denied-at-once" => |c| rejected(c, "colby", "udp", V6),
    "ipv6-tcp-same-node-under-reject-denied-at-once" => |c| rejected(c, "colby", "tcp", V6),
    "udp-under-drop-denied-without-an-answer" => |c| dropped(c, "udp", V4),
    "tcp-under-drop-denied-without-an-answer" => |c| dropped(c, "tcp", V4),
    "ipv6-udp-under-drop-denied-without-an-answer" => |c| dropped(c, "udp", V6),
    "ipv6-tcp-under-drop-denied-without-an-answer" => |c| dropped(c, "tcp", V6),
    "flood-of-datagrams-under-reject-answered-at-the-kernels-rate-denied" => |c| flooded(c, "udp", V4),
    "flood-of-openings-under-reject-answered-at-the-kernels-rate-denied" => |c| flooded(c, "tcp", V4),
    "ipv6-flood-of-datagrams-under-reject-answered-at-the-kernels-rate-denied" => |c| flooded(c, "udp", V6),
    "ipv6-flood-of-openings-under-reject-answered-at-the-kernels-rate-denied" => |c| flooded(c, "tcp", V6),
    "udp-under-permissive-reject-ok" => |c| permissive_reject(c, V4),
    "ipv6-udp-under-permissive-reject-ok" => |c| permissive_reject(c, V6),
    "unload-under-a-policy-that-refuses-it-denied" => unload_refused,
    "unload-under-a-policy-that-permits-it-ok" => unload_permitted,
    "unload-under-a-permissive-policy-ok" => unload_permissive,
    "unload-with-the-override-ok" => unload_override,
};

const NAMES: [&str; 2] = ["munster", "colby"];
const ZONE_10: Zone = Zone {
    scid: "10",
    port: "7110",
};
const ZONE_20: Zone = Zone {
    scid: "20",
    port: "7120",
};
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const STOP: &str = "/tmp/stop-revoke";
const ALLOWED_MS: &str = "170000";
/// What is denied stays so, however long.
const DENIED_MS: &str = "1500";
const ABORTED: &str = "error=103";
const RESET: &str = "error=104";

const COMMON: &str = "
<socket_label><protocol>tcp</protocol><port>7110-7119</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7120-7129</port><new_ScID>20</new_ScID></socket_label>
<socket_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>
<network_permission><source_ScID>2</source_ScID><target_ScID>2</target_ScID><grant>send receive connect</grant></network_permission>
<network_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID><grant>send receive connect</grant></network_permission>";

/// What zone 10 may do with its own sockets.
const OWN_10: &str = "<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>";

/// A family of addresses: where a server waits for connections of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Family {
    any: &'static str,
}

const V4: Family = Family { any: "0.0.0.0" };
const V6: Family = Family { any: "::" };

impl Family {
    /// A node's address.
    fn of(self, node: &Node) -> String {
        if self == V4 {
            node.ip.to_string()
        } else {
            address6(node.index).to_string()
        }
    }

    /// With a port.
    fn at(self, address: &str, port: &str) -> String {
        if self == V4 {
            format!("{address}:{port}")
        } else {
            format!("[{address}]:{port}")
        }
    }
}

/// A zone, with the port of its servers.
#[derive(Clone, Copy)]
struct Zone {
    scid: &'static str,
    port: &'static str,
}

/// A policy: zone 20 within itself, and more rules.
fn policy(mode: &str, more: &[&str]) -> String {
    let mut rules = vec![COMMON];
    rules.extend(more);
    document(mode, &rules)
}

/// Zone 10 may talk within itself, too.
fn allowing() -> String {
    let own = network("10", "", "10", "send receive connect");
    policy("enforcing", &[OWN_10, &own])
}

/// Zone 10 may not connect any more.
fn forbidding(mode: &str) -> String {
    let own = network("10", "", "10", "send receive");
    policy(mode, &[OWN_10, &own])
}

fn setup(cluster: &mut Cluster) -> TestResult {
    for name in NAMES {
        let node = cluster.node(name)?;
        load(node, &[])?;
        for zone in [ZONE_10, ZONE_20] {
            for program in [TRAFFIC, "/usr/bin/env"] {
                let copy = of_zone(program, zone);
                node.run(&["install", "-D", program, &copy])?.ok()?;
                node.run(&["setfattr", "-n", "security.dsi", "-v", zone.scid, &copy])?
                    .ok()?;
            }
        }
    }
    enrol(cluster, &NAMES, 1)?;
    let regime = Regime::establish(cluster, &NAMES)?;
    cluster.kept = Some(Box::new(regime));
    enforce(cluster, &NAMES, &allowing())
}

/// The copy of a program that has a zone's label.
fn of_zone(program: &str, zone: Zone) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone{}/{name}", zone.scid)
}

/// Has a policy in force on nodes.
fn enforce(cluster: &Cluster, names: &[&str], policy: &str) -> TestResult {
    let regime: &Regime = regime::kept(cluster)?;
    names
        .iter()
        .try_for_each(|name| regime.enforce(cluster.node(name)?, policy))
}

/// Takes or makes a connection, and waits for what never comes; tells how that ended.
const WAITER: &str = "
import socket, sys
try:
    if sys.argv[1] == 'accept':
        family = socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET
        listener = socket.create_server((sys.argv[2], int(sys.argv[3])), family=family)
        print('serving', flush=True)
        connection, _ = listener.accept()
        connection.sendall(b'x')
    else:
        connection = socket.create_connection((sys.argv[2], int(sys.argv[3])))
        connection.recv(1)
        connection.sendall(b'y')
    if sys.argv[1] == 'accept':
        connection.recv(1)
    print('waiting', flush=True)
    connection.recv(1)
    print('eof', flush=True)
except OSError as error:
    print(f'error={error.errno}', flush=True)
";

/// Takes or makes a connection over which nobody says anything, until there is a certain file; then the connector
/// sends a byte, and the acceptor takes it.
const IDLER: &str = "
import os, socket, sys, time
go = sys.argv[4]
try:
    if sys.argv[1] == 'accept':
        family = socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET
        listener = socket.create_server((sys.argv[2], int(sys.argv[3])), family=family)
        print('serving', flush=True)
        connection, _ = listener.accept()
        print('waiting', flush=True)
        connection.recv(1)
        print('heard', flush=True)
    else:
        connection = socket.create_connection((sys.argv[2], int(sys.argv[3])))
        print('waiting', flush=True)
        while not os.path.exists(go):
            time.sleep(0.05)
        connection.sendall(b'x')
        print('said', flush=True)
        connection.recv(1)
except OSError as error:
    print(f'error={error.errno}', flush=True)
";

/// Both ends have connected, and say nothing. The acceptor's node takes over a policy that forbids it: it ends its end,
/// although no packet has come over the connection. That of the other zone stands, and carries what is sent then.
fn idle(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    munster.run(&["rm", "-f", STOP])?.ok()?;
    let [stream, twin] =
        [ZONE_10, ZONE_20].map(|zone| Stream::of(IDLER, colby, munster, zone, family));
    let (stream, twin) = (stream?, twin?);
    let before = Counters::of(colby)?;
    enforce(cluster, &["colby"], &forbidding("enforcing"))?;
    Counters::wait_aborted(colby, &before, 1)?;
    stream.acceptor.wait_line(ABORTED)?;
    twin.stands()?;
    munster.write(STOP, "")?;
    stream.connector.wait_line("error=")?;
    twin.connector.wait_line("said")?;
    twin.acceptor.wait_line("heard")?;
    Ok(())
}

/// A connection of a zone with a process at either end that waits for data.
struct Stream {
    acceptor: Process,
    connector: Process,
}

impl Stream {
    /// Makes one; the names tell where the ends are.
    fn start(to: &Node, from: &Node, zone: Zone, family: Family) -> Result<Self, Failure> {
        Self::of(WAITER, to, from, zone, family)
    }

    /// Makes one by such a program.
    fn of(
        program: &str,
        to: &Node,
        from: &Node,
        zone: Zone,
        family: Family,
    ) -> Result<Self, Failure> {
        let (env, address) = (of_zone("/usr/bin/env", zone), family.of(to));
        let start = |node: &Node, side: &str, address: &str| {
            let argv = [
                &env, "python3", "-c", program, side, address, zone.port, STOP,
            ];
            node.spawn(&format!("{side}-{}", zone.scid), &argv)
        };
        let acceptor = start(to, "accept", family.any)?;
        acceptor.wait_line("serving")?;
        let connector = start(from, "connect", &address)?;
        connector.wait_line("waiting")?;
        acceptor.wait_line("waiting")?;
        Ok(Self {
            acceptor,
            connector,
        })
    }

    /// Fails unless both ends still wait.
    fn stands(&self) -> TestResult {
        for end in [&self.acceptor, &self.connector] {
            check!(end.is_running()?, "it has ended: {}", end.output()?);
        }
        Ok(())
    }
}

/// Zone 20 talks all the while, and loses nothing.
struct Twin {
    server: Process,
    client: Process,
    from: String,
}

impl Twin {
    fn start(to: &Node, from: &Node, family: Family) -> Result<Self, Failure> {
        Self::over("tcp", to, from, family)
    }

    fn over(protocol: &str, to: &Node, from: &Node, family: Family) -> Result<Self, Failure> {
        from.run(&["rm", "-f", STOP])?.ok()?;
        let (program, bind) = (
            of_zone(TRAFFIC, ZONE_20),
            family.at(family.any, ZONE_20.port),
        );
        let mode = format!("{protocol}-server");
        let server = to.spawn(&format!("twin-{mode}"), &[&program, &mode, "--bind", &bind])?;
        server.wait_line("serving")?;
        let address = family.at(&family.of(to), ZONE_20.port);
        let mode = format!("{protocol}-client");
        // One connection has at most so many messages, a datagram client at least.
        let count = if protocol == "tcp" { "100000000" } else { "1" };
        let argv = [
            program.as_str(),
            &mode,
            "--to",
            &address,
            "--count",
            count,
            "--until-file",
            STOP,
            "--interval-ms",
            "5",
            "--timeout-ms",
            ALLOWED_MS,
        ];
        let client = from.spawn(&format!("twin-{mode}"), &argv)?;
        Ok(Self {
            server,
            client,
            from: from.name.clone(),
        })
    }

    fn lost_nothing(self, cluster: &Cluster) -> TestResult {
        cluster.node(&self.from)?.write(STOP, "")?;
        check_eq!(
            self.client.join()?,
            Some(0),
            "exit code of '{}'",
            self.client.output()?.trim()
        );
        let said = self.client.wait_line("result=ok")?;
        check!(said.ends_with("lost=0"), "{said}");
        self.server.stop()?;
        Ok(())
    }
}

/// One node takes over a policy that forbids the stream: its kernel aborts its end, and the other end is
/// reset.
fn forbidden_on(cluster: &mut Cluster, judge: &str, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let node = cluster.node(judge)?;
    let stream = Stream::start(colby, munster, ZONE_10, family)?;
    let twin = Twin::start(colby, munster, family)?;
    let before = Counters::of(node)?;
    enforce(cluster, &[judge], &forbidding("enforcing"))?;
    Counters::wait_aborted(node, &before, 1)?;
    let (own, other) = if judge == "colby" {
        (&stream.acceptor, &stream.connector)
    } else {
        (&stream.connector, &stream.acceptor)
    };
    own.wait_line(ABORTED)?;
    other.wait_line(RESET)?;
    twin.lost_nothing(cluster)
}

fn forbidden_within(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let colby = cluster.node("colby")?;
    let stream = Stream::start(colby, colby, ZONE_10, family)?;
    let twin = Twin::start(colby, colby, family)?;
    let before = Counters::of(colby)?;
    enforce(cluster, &["colby"], &forbidding("enforcing"))?;
    Counters::wait_aborted(colby, &before, 2)?;
    stream.acceptor.wait_line(ABORTED)?;
    stream.connector.wait_line(ABORTED)?;
    twin.lost_nothing(cluster)
}

fn permissive(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10, family)?;
    let before = [Counters::of(munster)?, Counters::of(colby)?];
    enforce(cluster, &NAMES, &forbidding("permissive"))?;
    for (node, before) in [munster, colby].into_iter().zip(&before) {
        let aborted = Counters::of(node)?.rise(before, "flows-aborted")?;
        check_eq!(aborted, 0, "flows aborted on {}", node.name);
    }
    stream.stands()
}

/// Colby takes munster out of its map.
fn expelled(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10, family)?;
    let twin = Twin::start(colby, colby, family)?;
    let before = Counters::of(colby)?;
    ynl(colby, &[json!(["node-del", {"snid": munster.index}])])?.ok()?;
    Counters::wait_aborted(colby, &before, 1)?;
    let after = Counters::of(colby)?;
    stream.acceptor.wait_line(ABORTED)?;
    // The expelled node may go on to send, for itself.
    let to = family.at(&family.of(colby), ZONE_20.port);
    let client = of_zone(TRAFFIC, ZONE_20);
    let argv = [
        client.as_str(),
        "tcp-client",
        "--to",
        &to,
        "--timeout-ms",
        DENIED_MS,
    ];
    munster.run(&argv)?.exits_with(11)?.says("result=timeout")?;
    until("its labels to be refused as an unknown node's", || {
        Ok(Counters::of(colby)?.rise(&after, "refused-unknown-node")? > 0)
    })?;
    twin.lost_nothing(cluster)?;
    drop(stream);
    let members = members(cluster, &NAMES)?;
    ynl(colby, &requests(u32::from(colby.index), &members, 1))?.ok()?;
    Ok(())
}

/// A process waits in a call that the new policy would not let it make.
fn receive_withdrawn(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10, family)?;
    let twin = Twin::start(colby, munster, family)?;
    let own = network("10", "", "10", "send receive connect");
    let no_receive = OWN_10.replace(" receive<", "<");
    enforce(
        cluster,
        &["colby"],
        &policy("enforcing", &[&no_receive, &own]),
    )?;
    stream.acceptor.wait_line(ABORTED)?;
    stream.connector.wait_line(RESET)?;
    twin.lost_nothing(cluster)
}

fn task_set(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10, family)?;
    let twin = Twin::start(colby, munster, family)?;
    let before = Counters::of(colby)?;
    let change = json!(["task-set", {"pid": stream.acceptor.pid(), "scid": 20}]);
    ynl(colby, &[change])?.ok()?;
    stream.acceptor.wait_line(ABORTED)?;
    stream.connector.wait_line(RESET)?;
    // The connection; the listener behind it is no flow.
    Counters::wait_aborted(colby, &before, 1)?;
    // A process that gets the ScID that it has keeps what it does.
    let same = json!(["task-set", {"pid": twin.server.pid(), "scid": 20}]);
    ynl(colby, &[same])?.ok()?;
    twin.lost_nothing(cluster)
}

/// Tells the number of each datagram that comes. Its socket, too, is a connected one from the first datagram on.
const COUNTER: &str = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
receiver = socket.socket(family, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], int(sys.argv[2])))
print('serving', flush=True)
data, sender = receiver.recvfrom(9)
receiver.connect(sender)
while True:
    print(data.decode(), flush=True)
    data = receiver.recv(9)
";
/// Tells a number, sends it, and so on, until it is refused; never waits for an answer.
const NUMBERS: &str = "
import socket, sys, time
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.connect((sys.argv[1], int(sys.argv[2])))
number = 0
try:
    while True:
        print(f'{number:09}', flush=True)
        sender.send(b'%09d' % number)
        number += 1
        time.sleep(0.01)
except OSError as error:
    print(f'error={error.errno}', flush=True)
";

/// Datagrams of zone 10 flow over two connected sockets, whose verdicts are remembered. One node takes over a policy that
/// forbids them: the receiver's, that they are delivered; the sender's, that its process sends. What is sent from then on does
/// not arrive.
fn datagrams(cluster: &mut Cluster, judge: &str, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let (node, by_receiver) = (cluster.node(judge)?, judge == "colby");
    let env = of_zone("/usr/bin/env", ZONE_10);
    let start = |node: &Node, name: &str, program: &str, address: &str| {
        let argv = [&env, "python3", "-c", program, address, ZONE_10.port];
        // What earlier ones have told is in the same file.
        node.spawn(&format!("{name}-{judge}-{}", family.any.len()), &argv)
    };
    let receiver = start(colby, "counter", COUNTER, family.any)?;
    receiver.wait_line("serving")?;
    let sender = start(munster, "numbers", NUMBERS, &family.of(colby))?;
    let twin = Twin::over("udp", colby, munster, family)?;
    receiver.wait_line("000000020")?;
    let before = [Counters::of(munster)?, Counters::of(colby)?];
    let policy = if by_receiver {
        policy("enforcing", &[OWN_10, &network("10", "", "10", "connect")])
    } else {
        let own = network("10", "", "10", "send receive connect");
        policy("enforcing", &[&OWN_10.replace(" send ", " "), &own])
    };
    enforce(cluster, &[judge], &policy)?;
    // Whatever the sender begins to send from here on must not arrive.
    let limit = last_number(&sender)?;
    let refused = || {
        let before = &before[usize::from(by_receiver)];
        Counters::of(node)?.rise(before, "refused-no-permission")
    };
    if by_receiver {
        // It is told nothing, and goes on; each is refused.
        until("numbers to be refused", || {
            Ok(refused()? >= 20 && last_number(&sender)? >= limit + 20)
        })?;
        check!(sender.is_running()?, "it has ended: {}", sender.output()?);
    } else {
        sender.wait_line("error=13")?;
        check_eq!(refused()?, 1, "refusals of {judge}");
        let refusals = Counters::of(colby)?.refusals(&before[1])?;
        check!(refusals.is_empty(), "colby has refused {refusals:?}");
    }
    twin.lost_nothing(cluster)?;
    let arrived = last_number(&receiver)?;
    check!(
        arrived <= limit,
        "{arrived} arrived, which was sent after the policy was in force; {limit} was the last before"
    );
    Ok(())
}

/// Of zone 10, for a client that may not reach it.
const REJECT_PORT: &str = "7111";
/// As the document has it, to be replaced.
const UNLOAD: &str = "unload=\"permit\"";

fn rejecting(mode: &str) -> String {
    let own = network("10", "", "10", "send receive connect");
    // Its TCP port is zone 10's already.
    let label = format!(
        "<socket_label><protocol>udp</protocol><port>{REJECT_PORT}</port><new_ScID>10</new_ScID></socket_label>"
    );
    policy(mode, &[OWN_10, &own, &label]).replace(UNLOAD, &format!("{UNLOAD} refusal=\"reject\""))
}

/// A client of a zone asks a server of zone 10 on colby; how long it waits.
fn ask(
    cluster: &Cluster,
    from: &str,
    zone: Zone,
    protocol: &str,
    family: Family,
    ms: &str,
) -> Result<Output, Failure> {
    let colby = cluster.node("colby")?;
    let program = of_zone(TRAFFIC, ZONE_10);
    let (mode, bind) = (
        format!("{protocol}-server"),
        family.at(family.any, REJECT_PORT),
    );
    let server = colby.spawn(
        &format!("reject-{mode}"),
        &[&program, &mode, "--bind", &bind],
    )?;
    server.wait_line("serving")?;
    let (mode, to) = (
        format!("{protocol}-client"),
        family.at(&family.of(colby), REJECT_PORT),
    );
    let program = of_zone(TRAFFIC, zone);
    let argv = [program.as_str(), &mode, "--to", &to, "--timeout-ms", ms];
    let output = cluster.node(from)?.run(&argv)?;
    server.stop()?;
    Ok(output)
}

/// Zone 20 is told that it may not reach zone 10, long before its patience ends; zone 10 reaches it.
fn rejected(cluster: &mut Cluster, from: &str, protocol: &str, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &rejecting("enforcing"))?;
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    // EHOSTUNREACH or, for the same message of IPv6, EACCES.
    let (code, errno) = if family == V4 {
        (14, "errno=113")
    } else {
        (12, "errno=13 ")
    };
    ask(cluster, from, ZONE_20, protocol, family, ALLOWED_MS)?
        .exits_with(code)?
        .says(errno)?;
    let after = Counters::of(colby)?;
    check!(after.rise(&before, "rejected")? > 0, "none was answered");
    ask(cluster, from, ZONE_10, protocol, family, ALLOWED_MS)?
        .ok()?
        .says("result=ok")?;
    let twin = Counters::of(colby)?;
    check_eq!(twin.rise(&after, "rejected")?, 0, "rejected of the twin");
    Ok(())
}

/// Answers of a node's kernel that a packet is prohibited, since a mark.
fn prohibited(cluster: &Cluster, mark: u64, from: &Node, family: Family) -> Result<u64, Failure> {
    let (icmp, icmp6) = ((1, [3, 13]), (58, [1, 1]));
    let by = family.of(from);
    let is_one = |frame: &Frame| {
        if family == V4 {
            frame.ipv4().is_some_and(|packet| {
                packet.source.to_string() == by
                    && packet.protocol == icmp.0
                    && packet.payload.starts_with(&icmp.1)
            })
        } else {
            frame.ipv6().is_some_and(|packet| {
                packet.source.to_string() == by
                    && packet.protocol == icmp6.0
                    && packet.payload.starts_with(&icmp6.1)
            })
        }
    };
    let frames = cluster.switch.frames_since(mark)?;
    Ok(frames.iter().filter(|frame| is_one(frame)).count() as u64)
}

/// Messages that a node's kernel has kept back by its own limits.
fn kept_back(node: &Node) -> Result<u64, Failure> {
    let script = "awk '$1 == \"Icmp:\" && $2 !~ /^[0-9]/ { for (i = 2; i <= NF; i++) if ($i ~ /RateLimit/) at[i] = 1 } \
                  $1 == \"Icmp:\" && $2 ~ /^[0-9]/ { for (i in at) { sum += $i; seen = 1 } } \
                  $1 ~ /^Icmp6.*RateLimit/ { sum += $2; seen += 2 } END { print (seen >= 3 ? sum : \"not told\") }' \
                  /proc/net/snmp /proc/net/snmp6";
    let output = node.sh(script)?.ok()?;
    let number = output.stdout.trim().parse();
    number.map_err(|_| Failure::new(output.describe()))
}

/// Whoever floods a node is not answered each time, so that he cannot have it flood another one in his name.
fn flooded(cluster: &mut Cluster, protocol: &str, family: Family) -> TestResult {
    const SENT: u64 = 100;
    enforce(cluster, &NAMES, &rejecting("enforcing"))?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let bind = family.at(family.any, REJECT_PORT);
    let argv = [
        &of_zone(TRAFFIC, ZONE_10),
        &format!("{protocol}-server"),
        "--bind",
        &bind,
    ];
    let server = colby.spawn(&format!("flooded-{protocol}"), &argv)?;
    server.wait_line("serving")?;
    let (before, mark) = (Counters::of(colby)?, cluster.switch.mark());
    let kept_before = kept_back(colby)?;
    let to = family.at(&family.of(colby), REJECT_PORT);
    let (program, mode, sent) = (
        of_zone(TRAFFIC, ZONE_20),
        format!("{protocol}-client"),
        SENT.to_string(),
    );
    let many = if protocol == "udp" {
        "--count"
    } else {
        "--connections"
    };
    let argv = [
        program.as_str(),
        &mode,
        "--to",
        &to,
        many,
        &sent,
        "--timeout-ms",
        "20",
        "--keep-going",
    ];
    let output = munster.run(&argv)?;
    check!(
        output.code != Some(0),
        "it was let in: {}",
        output.describe()
    );
    until("the refusals", || {
        Ok(Counters::of(colby)?.rise(&before, "refused-no-permission")? >= SENT)
    })?;
    let kept = kept_back(colby)? - kept_before;
    let answers = prohibited(cluster, mark, colby, family)?;
    let rejected = Counters::of(colby)?.rise(&before, "rejected")?;
    println!("  {rejected} rejected, {answers} answered, {kept} kept back");
    check!(
        answers > 0 && kept > 0,
        "{answers} answers, {kept} kept back"
    );
    check!(
        answers + kept <= rejected && answers < rejected,
        "{answers} answers and {kept} kept back, of {rejected}"
    );
    server.stop()?;
    // Its twin is served all the same, and who is refused later on is told so again.
    ask(cluster, "munster", ZONE_10, protocol, family, ALLOWED_MS)?
        .ok()?
        .says("result=ok")?;
    let code = if family == V4 { 14 } else { 12 };
    until("an answer to a later one", || {
        let output = ask(cluster, "munster", ZONE_20, protocol, family, DENIED_MS)?;
        Ok(output.code == Some(code))
    })
}

/// It was the policy that let nothing through, not a slow machine.
fn is_refused(colby: &Node, before: &Counters) -> TestResult {
    until("the refusal", || {
        Ok(Counters::of(colby)?.rise(before, "refused-no-permission")? > 0)
    })
}

fn dropped(cluster: &mut Cluster, protocol: &str, family: Family) -> TestResult {
    let policy = rejecting("enforcing").replace(" refusal=\"reject\"", "");
    enforce(cluster, &NAMES, &policy)?;
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    ask(cluster, "munster", ZONE_20, protocol, family, DENIED_MS)?
        .exits_with(11)?
        .says("result=timeout")?;
    is_refused(colby, &before)?;
    check_eq!(
        Counters::of(colby)?.rise(&before, "rejected")?,
        0,
        "rejected"
    );
    Ok(())
}

fn permissive_reject(cluster: &mut Cluster, family: Family) -> TestResult {
    enforce(cluster, &NAMES, &rejecting("permissive"))?;
    let colby = cluster.node("colby")?;
    let before = Counters::of(colby)?;
    ask(cluster, "munster", ZONE_20, "udp", family, ALLOWED_MS)?
        .ok()?
        .says("result=ok")?;
    let after = Counters::of(colby)?;
    check_eq!(after.rise(&before, "rejected")?, 0, "rejected");
    Ok(())
}

fn refusing_unload(mode: &str) -> String {
    allowing()
        .replace(UNLOAD, "unload=\"refuse\"")
        .replace("mode=\"enforcing\"", &format!("mode=\"{mode}\""))
}

/// Colby without its module.
fn unload_colby(cluster: &Cluster) -> TestResult {
    unload(cluster.node("colby")?).map(drop)
}

/// Colby's module anew, with parameters.
fn reload(cluster: &mut Cluster, parameters: &[&str]) -> TestResult {
    load(cluster.node("colby")?, parameters)?;
    enrol(cluster, &["colby"], 1)?;
    let regime = Regime::establish(cluster, &["colby"])?;
    cluster.kept = Some(Box::new(regime));
    Ok(())
}

fn unload_refused(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &["colby"], &refusing_unload("enforcing"))?;
    let colby = cluster.node("colby")?;
    colby
        .run(&["rmmod", "dsm"])?
        .exits_with(1)?
        .says("in use")?;
    // It goes on as if it had not been asked.
    let before = Counters::of(colby)?;
    ask(cluster, "colby", ZONE_20, "tcp", V4, DENIED_MS)?.exits_with(11)?;
    is_refused(colby, &before)
}

fn unload_permitted(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &["colby"], &refusing_unload("enforcing"))?;
    enforce(cluster, &["colby"], &allowing())?;
    unload_colby(cluster)?;
    reload(cluster, &[])
}

fn unload_permissive(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &["colby"], &refusing_unload("enforcing"))?;
    enforce(cluster, &["colby"], &refusing_unload("permissive"))?;
    unload_colby(cluster)?;
    reload(cluster, &[])
}

fn unload_override(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &["colby"], &allowing())?;
    unload_colby(cluster)?;
    reload(cluster, &["unload=1"])?;
    enforce(cluster, &["colby"], &refusing_unload("enforcing"))?;
    unload_colby(cluster)
}
