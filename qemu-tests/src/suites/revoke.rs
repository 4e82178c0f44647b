//! Proves that what a change forbids ends with it: established TCP connections that a new policy, an expelled
//! node or a changed ScID forbids are aborted before the command is answered, at each end by its own
//! kernel, and their allowed twins lose nothing. No servers.

use serde_json::json;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, load, members, requests, ynl};
use crate::fault::Failure;
use crate::node::{Node, Process};
use crate::regime::{self, Counters, Regime, document, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "revoke",
    proves: "what a change forbids is ended by it at both ends, and its allowed twin loses nothing",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

macro_rules! tests {
    ($($name:literal => $run:expr,)+) => { &[$(Test { name: $name, run: $run },)+] };
}

const TESTS: &[Test] = tests! {
    "stream-forbidden-by-the-acceptors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "colby"),
    "stream-forbidden-by-the-connectors-policy-aborted-its-twin-ok" => |c| forbidden_on(c, "munster"),
    "stream-on-one-node-forbidden-aborted-at-both-ends-ok" => forbidden_within,
    "stream-forbidden-by-a-permissive-policy-goes-on-ok" => permissive,
    "stream-from-an-expelled-node-aborted-twin-on-the-node-ok" => expelled,
    "stream-whose-zone-may-no-longer-receive-aborted-ok" => receive_withdrawn,
    "stream-of-a-process-that-changes-its-zone-aborted-its-twin-ok" => task_set,
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
        listener = socket.create_server(('0.0.0.0', int(sys.argv[3])))
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

/// A connection of a zone with a process at either end that waits for data.
struct Stream {
    acceptor: Process,
    connector: Process,
}

impl Stream {
    /// Makes one; the names tell where the ends are.
    fn start(to: &Node, from: &Node, zone: Zone) -> Result<Self, Failure> {
        let (env, address) = (of_zone("/usr/bin/env", zone), to.ip.to_string());
        let start = |node: &Node, side: &str| {
            let argv = [&env, "python3", "-c", WAITER, side, &address, zone.port];
            node.spawn(&format!("{side}-{}", zone.scid), &argv)
        };
        let acceptor = start(to, "accept")?;
        acceptor.wait_line("serving")?;
        let connector = start(from, "connect")?;
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
    fn start(to: &Node, from: &Node) -> Result<Self, Failure> {
        from.run(&["rm", "-f", STOP])?.ok()?;
        let (program, bind) = (
            of_zone(TRAFFIC, ZONE_20),
            format!("0.0.0.0:{}", ZONE_20.port),
        );
        let server = to.spawn("twin-server", &[&program, "tcp-server", "--bind", &bind])?;
        server.wait_line("serving")?;
        let address = format!("{}:{}", to.ip, ZONE_20.port);
        let argv = [
            program.as_str(),
            "tcp-client",
            "--to",
            &address,
            "--count",
            "100000000",
            "--until-file",
            STOP,
            "--interval-ms",
            "5",
            "--timeout-ms",
            "120000",
        ];
        let client = from.spawn("twin-client", &argv)?;
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
fn forbidden_on(cluster: &mut Cluster, judge: &str) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let node = cluster.node(judge)?;
    let stream = Stream::start(colby, munster, ZONE_10)?;
    let twin = Twin::start(colby, munster)?;
    let before = Counters::of(node)?;
    enforce(cluster, &[judge], &forbidding("enforcing"))?;
    let after = Counters::of(node)?;
    // It is over when the command is answered.
    check_eq!(after.rise(&before, "flows-aborted")?, 1, "flows aborted");
    let (own, other) = if judge == "colby" {
        (&stream.acceptor, &stream.connector)
    } else {
        (&stream.connector, &stream.acceptor)
    };
    own.wait_line(ABORTED)?;
    other.wait_line(RESET)?;
    twin.lost_nothing(cluster)
}

fn forbidden_within(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let colby = cluster.node("colby")?;
    let stream = Stream::start(colby, colby, ZONE_10)?;
    let twin = Twin::start(colby, colby)?;
    let before = Counters::of(colby)?;
    enforce(cluster, &["colby"], &forbidding("enforcing"))?;
    let after = Counters::of(colby)?;
    check_eq!(after.rise(&before, "flows-aborted")?, 2, "flows aborted");
    stream.acceptor.wait_line(ABORTED)?;
    stream.connector.wait_line(ABORTED)?;
    twin.lost_nothing(cluster)
}

fn permissive(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10)?;
    let before = Counters::of(colby)?;
    enforce(cluster, &NAMES, &forbidding("permissive"))?;
    let after = Counters::of(colby)?;
    check_eq!(after.rise(&before, "flows-aborted")?, 0, "flows aborted");
    stream.stands()
}

/// Colby takes munster out of its map.
fn expelled(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10)?;
    let twin = Twin::start(colby, colby)?;
    let before = Counters::of(colby)?;
    ynl(colby, &[json!(["node-del", {"snid": munster.index}])])?.ok()?;
    let after = Counters::of(colby)?;
    check_eq!(after.rise(&before, "flows-aborted")?, 1, "flows aborted");
    stream.acceptor.wait_line(ABORTED)?;
    // The expelled node may go on to send, for itself.
    let to = format!("{}:{}", colby.ip, ZONE_20.port);
    let client = of_zone(TRAFFIC, ZONE_20);
    let argv = [
        client.as_str(),
        "tcp-client",
        "--to",
        &to,
        "--timeout-ms",
        "1500",
    ];
    munster.run(&argv)?.exits_with(11)?.says("result=timeout")?;
    let refused = Counters::of(colby)?.rise(&after, "refused-unknown-node")?;
    check!(
        refused > 0,
        "its labels were not refused as an unknown node's"
    );
    twin.lost_nothing(cluster)?;
    drop(stream);
    let members = members(cluster, &NAMES)?;
    ynl(colby, &requests(u32::from(colby.index), &members, 1))?.ok()?;
    Ok(())
}

/// A process waits in a call that the new policy would not let it make.
fn receive_withdrawn(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10)?;
    let twin = Twin::start(colby, munster)?;
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

fn task_set(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &NAMES, &allowing())?;
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let stream = Stream::start(colby, munster, ZONE_10)?;
    let twin = Twin::start(colby, munster)?;
    let before = Counters::of(colby)?;
    let change = json!(["task-set", {"pid": stream.acceptor.pid(), "scid": 20}]);
    ynl(colby, &[change])?.ok()?;
    stream.acceptor.wait_line(ABORTED)?;
    stream.connector.wait_line(RESET)?;
    let aborted = Counters::of(colby)?.rise(&before, "flows-aborted")?;
    // The connection; the listener behind it is no flow.
    check_eq!(aborted, 1, "flows aborted");
    // A process that gets the ScID that it has keeps what it does.
    let same = json!(["task-set", {"pid": twin.server.pid(), "scid": 20}]);
    ynl(colby, &[same])?.ok()?;
    until("the twin to go on", || Ok(twin.client.is_running()?))?;
    twin.lost_nothing(cluster)
}
