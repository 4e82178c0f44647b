//! Proves that the module can come and go on a stock kernel under traffic: it claims its hooks, its
//! state can be read by the kernel's own netlink client, ten rounds of loading and unloading lose no
//! request and no kernel complains, and afterwards nothing of it is left.

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, in_zone, load, members, requests, status, unload, ynl};
use crate::fault::Failure;
use crate::node::{Node, Process};
use crate::pcap::Ipv4;
use crate::regime::{Counters, until};
use crate::suite::{Need, Suite, Test, TestResult, no_setup};
use crate::{check, check_eq};

/// The suite. Its first node boots the packaged kernel, at a random address, and has two CPUs.
pub const SUITE: Suite = Suite {
    name: "module",
    proves: "the module loads, is read by a foreign client, and leaves under load without a trace",
    nodes: &[
        NodeSpec::new("munster").kaslr().cpus(2),
        NodeSpec::new("colby"),
    ],
    needs: &[Need::Module],
    setup: no_setup,
    tests: &[
        Test {
            name: "stock-kernel-loads-module-ok",
            run: loads,
        },
        Test {
            name: "second-insmod-refused",
            run: second_load,
        },
        Test {
            name: "status-read-by-kernels-own-client-ok",
            run: foreign_client,
        },
        Test {
            name: "status-asked-without-capability-ok",
            run: without_capability,
        },
        Test {
            name: "keys-asked-without-capability-denied",
            run: keys_without_capability,
        },
        Test {
            name: "traffic-without-keys-carries-no-label-ok",
            run: no_keys_no_label,
        },
        Test {
            name: "traffic-with-keys-carries-labels-ok",
            run: keys_label,
        },
        Test {
            name: "ten-rounds-under-load-lose-nothing-ok",
            run: ten_rounds,
        },
        Test {
            name: "unloaded-module-leaves-no-label-ok",
            run: no_label_left,
        },
        Test {
            name: "closed-module-denied-until-unloaded-ok",
            run: closed_until_unloaded,
        },
        Test {
            name: "socket-beyond-the-limit-denied-until-there-is-room-ok",
            run: sockets_limit,
        },
        Test {
            name: "connection-beyond-the-limit-denied-until-there-is-room-ok",
            run: connections_limit,
        },
        Test {
            name: "clone-beyond-the-limit-denied",
            run: |c| cloned(c, true),
        },
        Test {
            name: "clone-within-the-limit-ok",
            run: |c| cloned(c, false),
        },
    ],
};

const NAMES: [&str; 2] = ["munster", "colby"];
const ROUNDS: usize = 10;
const ALLOWED_MS: &str = "170000";
/// What is denied stays so, however long.
const DENIED_MS: &str = "1500";

fn is_loaded(node: &Node) -> Result<bool, Failure> {
    Ok(node
        .run(&["cat", "/proc/modules"])?
        .ok()?
        .stdout
        .lines()
        .any(|line| line.starts_with("dsm ")))
}

fn loads(cluster: &mut Cluster) -> TestResult {
    for node in cluster.nodes() {
        let mark = node.kernel_mark();
        load(node, &[])?;
        node.wait_kernel_line(mark, "dsm: loaded")?;
        check!(is_loaded(node)?, "{}: lsmod does not show it", node.name);
    }
    Ok(())
}

fn second_load(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    node.run(&["insmod", crate::images::GUEST_MODULE])?
        .exits_with(1)?
        .says("File exists")?;
    Ok(())
}

fn foreign_client(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    // The client as it is shipped, which also holds the spec against the kernel's schema.
    let spec = crate::images::GUEST_SPEC;
    let argv = [
        "python3",
        "/opt/ynl/pyynl/cli.py",
        "--spec",
        spec,
        "--output-json",
        "--do",
        "status-get",
    ];
    let output = node.run(&argv)?.ok()?;
    let status: serde_json::Value = serde_json::from_str(&output.stdout)
        .map_err(|error| Failure::new(format!("not JSON: {error}: {}", output.stdout)))?;
    check_eq!(status["mode"], "no-policy", "mode");
    check_eq!(status["policy-version"], 0, "policy version");
    check_eq!(status["snid"], 0, "SnID");
    check!(
        status["instance"].as_u64().is_some_and(|drawn| drawn != 0),
        "no instance: {status}"
    );
    let hooks = status["hooks"].as_array().map_or(0, Vec::len);
    check!(hooks >= 10, "only {hooks} hooks are told: {status}");
    Ok(())
}

fn unprivileged(script: &str) -> [&str; 6] {
    [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "bash",
        "-c",
        script,
    ]
}

fn without_capability(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let script = format!("echo '[\"status-get\", {{}}]' | {}", crate::enrol::YNL_DO);
    let output = node.run(&unprivileged(&script))?.ok()?.says("no-policy")?;
    check!(
        !output.stdout.contains("counter") && !output.stdout.contains("snid"),
        "told without a capability: {}",
        output.describe()
    );
    Ok(())
}

fn keys_without_capability(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let request = requests(1, &[], 1).remove(0);
    let script = format!("echo '{request}' | {}", crate::enrol::YNL_DO);
    node.run(&unprivileged(&script))?
        .exits_with(1)?
        .says("Operation not permitted")?;
    check_eq!(status(node)?["snid"], 0, "SnID after a refused request");
    Ok(())
}

/// UDP and TCP echo of `count` messages, from each node to a server on munster.
fn exchange(cluster: &Cluster, count: &str) -> TestResult {
    let munster = cluster.node("munster")?;
    for (server, client) in [("udp-server", "udp-client"), ("tcp-server", "tcp-client")] {
        let serving = munster.spawn(server, &["dsi-traffic", server, "--bind", "0.0.0.0:7000"])?;
        serving.wait_line("serving")?;
        for node in cluster.nodes() {
            let argv = [
                "dsi-traffic",
                client,
                "--to",
                "10.77.0.1:7000",
                "--count",
                count,
                "--timeout-ms",
                ALLOWED_MS,
            ];
            node.run(&argv)?.ok()?.says("result=ok")?;
        }
        serving.stop()?;
    }
    Ok(())
}

/// The UDP and TCP packets that crossed the network since a mark.
fn packets(cluster: &Cluster, mark: u64) -> Result<Vec<Ipv4>, Failure> {
    let frames = cluster.switch.frames_since(mark)?;
    let packets: Vec<Ipv4> = frames
        .iter()
        .filter_map(|frame| frame.ipv4())
        .filter(|packet| packet.ports().is_some())
        .collect();
    check!(!packets.is_empty(), "no packet of UDP or TCP was captured");
    Ok(packets)
}

fn no_options(cluster: &Cluster, mark: u64) -> TestResult {
    let with = packets(cluster, mark)?
        .into_iter()
        .find(|packet| !packet.options.is_empty());
    check!(with.is_none(), "a packet carries options: {with:?}");
    Ok(())
}

fn no_keys_no_label(cluster: &mut Cluster) -> TestResult {
    let mark = cluster.switch.mark();
    exchange(cluster, "20")?;
    no_options(cluster, mark)
}

fn keys_label(cluster: &mut Cluster) -> TestResult {
    enrol(cluster, &NAMES, 1)?;
    let mark = cluster.switch.mark();
    exchange(cluster, "20")?;
    let bare = packets(cluster, mark)?
        .into_iter()
        .find(|packet| packet.option(crate::label::OPTION).is_none());
    check!(bare.is_none(), "a packet carries no label: {bare:?}");
    Ok(())
}

/// Load that goes on until a file is there.
struct Load {
    servers: Vec<Process>,
    clients: Vec<(String, Process)>,
}

const STOP: &str = "/tmp/stop-load";

impl Load {
    fn start(cluster: &Cluster) -> Result<Self, Failure> {
        let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
        for node in [munster, colby] {
            node.run(&["rm", "-f", STOP])?.ok()?;
        }
        let mut load = Self {
            servers: Vec::new(),
            clients: Vec::new(),
        };
        for (server, bind) in [
            ("udp-server", "0.0.0.0:7001"),
            ("tcp-server", "0.0.0.0:7002"),
        ] {
            let serving = munster.spawn(
                &format!("load-{server}"),
                &["dsi-traffic", server, "--bind", bind],
            )?;
            serving.wait_line("serving")?;
            load.servers.push(serving);
        }
        let clients: [(&str, &Node, &[&str]); 5] = [
            (
                "udp-remote",
                colby,
                &["udp-client", "--to", "10.77.0.1:7001"],
            ),
            (
                "udp-remote-unconnected",
                colby,
                &["udp-client", "--unconnected", "--to", "10.77.0.1:7001"],
            ),
            (
                "udp-local",
                munster,
                &["udp-client", "--to", "127.0.0.1:7001"],
            ),
            (
                "tcp-long",
                colby,
                &[
                    "tcp-client",
                    "--to",
                    "10.77.0.1:7002",
                    "--count",
                    "100000000",
                ],
            ),
            (
                "tcp-short",
                munster,
                &[
                    "tcp-client",
                    "--to",
                    "10.77.0.1:7002",
                    "--count",
                    "5",
                    "--size",
                    "5000",
                ],
            ),
        ];
        for (name, node, args) in clients {
            let mut argv = vec!["dsi-traffic"];
            argv.extend(args);
            argv.extend([
                "--until-file",
                STOP,
                "--timeout-ms",
                ALLOWED_MS,
                "--interval-ms",
                "5",
            ]);
            load.clients
                .push((name.to_owned(), node.spawn(&format!("load-{name}"), &argv)?));
        }
        Ok(load)
    }

    fn check_running(&self) -> TestResult {
        for (name, client) in &self.clients {
            check!(
                client.is_running()?,
                "the load {name} ended early: {}",
                client.output()?
            );
        }
        Ok(())
    }

    /// Ends it, and fails if anything was lost.
    fn finish(self, cluster: &Cluster) -> TestResult {
        for name in NAMES {
            cluster.node(name)?.write(STOP, "")?;
        }
        for (name, client) in &self.clients {
            let code = client.join()?;
            check_eq!(
                code,
                Some(0),
                "exit code of the load {name}, which said '{}'",
                client.output()?.trim()
            );
            let said = client.wait_line("result=ok")?;
            check!(said.ends_with("lost=0"), "{name}: {said}");
        }
        for server in &self.servers {
            server.stop()?;
        }
        Ok(())
    }
}

/// Has both nodes loaded and labelling, as the tests before leave them, if they have run.
fn members_of_cluster(cluster: &Cluster) -> TestResult {
    for node in cluster.nodes() {
        if !is_loaded(node)? {
            load(node, &[])?;
        }
    }
    enrol(cluster, &NAMES, 1)
}

fn ten_rounds(cluster: &mut Cluster) -> TestResult {
    members_of_cluster(cluster)?;
    let running = Load::start(cluster)?;
    let munster = cluster.node("munster")?;
    let requests = requests(u32::from(munster.index), &members(cluster, &NAMES)?, 1);
    for round in 1..=ROUNDS {
        let mark = cluster.switch.mark();
        unload(munster)?;
        load(munster, &[])?;
        ynl(munster, &requests)?.ok()?;
        running.check_running()?;
        let complaints = cluster.new_complaints();
        check!(
            complaints.is_empty(),
            "round {round}: {}",
            complaints.join("\n")
        );
        until("the load on the wire", || {
            let frames = cluster.switch.frames_since(mark)?;
            let mut packets = frames.iter().filter_map(|frame| frame.ipv4());
            Ok(packets.any(|packet| packet.ports().is_some()))
        })?;
    }
    running.finish(cluster)
}

fn no_label_left(cluster: &mut Cluster) -> TestResult {
    members_of_cluster(cluster)?;
    // Sockets that were labelled live on: their reservations must go, too.
    let running = Load::start(cluster)?;
    cluster
        .nodes()
        .iter()
        .try_for_each(|node| unload(node).map(drop))?;
    // What was labelled before is on the wire before these.
    exchange(cluster, "1")?;
    let mark = cluster.switch.mark();
    exchange(cluster, "20")?;
    running.check_running()?;
    running.finish(cluster)?;
    no_options(cluster, mark)?;
    for node in cluster.nodes() {
        check!(!is_loaded(node)?, "{}: it is still loaded", node.name);
    }
    Ok(())
}

fn closed_until_unloaded(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let (mut serving, families) = (Vec::new(), ["10.77.0.1:7003", "[fd77::1]:7003"]);
    for (at, bind) in families.into_iter().enumerate() {
        let server = munster.spawn(
            &format!("closed-server-{at}"),
            &["dsi-traffic", "udp-server", "--bind", bind],
        )?;
        server.wait_line("serving")?;
        serving.push(server);
    }
    let ask = |to, ms| {
        let to = ["--to", to, "--timeout-ms", ms];
        colby.run(&[&["dsi-traffic", "udp-client"], &to[..]].concat())
    };
    for to in families {
        ask(to, ALLOWED_MS)?.ok()?;
    }
    load(munster, &["enrolled=1"])?;
    let closed = (|| {
        check_eq!(status(munster)?["mode"], "closed", "mode");
        for to in families {
            let before = Counters::of(munster)?;
            ask(to, DENIED_MS)?.exits_with(11)?.says("result=timeout")?;
            until("the refusal", || {
                Ok(!Counters::of(munster)?.refusals(&before)?.is_empty())
            })?;
        }
        Ok(())
    })();
    unload(munster)?;
    closed?;
    for to in families {
        ask(to, ALLOWED_MS)?.ok()?;
    }
    for server in serving {
        server.stop()?;
    }
    Ok(())
}

/// Opens sockets up to the limit, one after it, and one after half of them are gone.
const SOCKETS: &str = "
import socket
kept = []
try:
    while len(kept) < 1000:
        kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
except OSError as error:
    print(f'opened={len(kept)} errno={error.errno}')
del kept[::2]
kept.append(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
print('opened again')
";

fn sockets_limit(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    let mark = munster.kernel_mark();
    load(munster, &["sockets=64"])?;
    let output = munster.run(&["python3", "-c", SOCKETS]);
    let after = status(munster);
    unload(munster)?;
    // ENOMEM, where a thousand had been asked for; the machine has a few of its own.
    let output = output?.ok()?.says("errno=12")?;
    output.says("opened again")?;
    munster.wait_kernel_line(mark, "state is kept of 64 at most")?;
    let refused = counter(&after?, "sockets-full")?;
    check!(refused >= 1, "the refusal was not counted");
    Ok(())
}

fn counter(status: &serde_json::Value, name: &str) -> Result<u64, Failure> {
    let mut counters = status["counter"].as_array().into_iter().flatten();
    let counter = counters.find(|counter| counter["name"] == name);
    counter
        .and_then(|counter| counter["value"].as_u64())
        .ok_or_else(|| Failure::new(format!("no counter {name}: {status}")))
}

/// Listens, opens sockets up to the limit, closes them when a file is there, and serves one connection.
const LISTENER: &str = "
import os, socket, sys, time
listener = socket.socket()
listener.bind(('0.0.0.0', 7004))
listener.listen(16)
kept = []
try:
    while len(kept) < 1000:
        kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
except OSError as error:
    print(f'full errno={error.errno}', flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
kept.clear()
connection, _ = listener.accept()
connection.sendall(b'served')
print('served', flush=True)
";
const CLIENT: &str = "
import socket
print(socket.create_connection(('10.77.0.1', 7004)).recv(6), flush=True)
";
const GO: &str = "/tmp/go";

/// The limit counts accepted connections, too: at the limit nobody gets one, and who waits gets his once there is room.
fn connections_limit(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    load(munster, &["sockets=64"])?;
    let tried = (|| {
        munster.run(&["rm", "-f", GO])?.ok()?;
        let listener = munster.spawn("listener", &["python3", "-c", LISTENER, GO])?;
        listener.wait_line("full errno=12")?;
        let before = counter(&status(munster)?, "sockets-full")?;
        let client = colby.spawn("client", &["python3", "-c", CLIENT])?;
        until("the connection to be refused", || {
            Ok(counter(&status(munster)?, "sockets-full")? > before)
        })?;
        check!(client.is_running()?, "it is served: {}", client.output()?);
        munster.write(GO, "")?;
        client.wait_line("served")?;
        listener.wait_line("served")?;
        Ok(())
    })();
    unload(munster)?;
    tried
}

/// A process of zone 10 clones a socket that is neither TCP nor UDP, with room for its state or not, and hands the
/// clone to itself.
const CLONES: &str = "
import array, socket, sys
kept, ends = [], socket.socketpair()
listener = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
listener.bind(('hash', 'sha256'))
try:
    while sys.argv[1] == 'full':
        kept.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
except OSError as error:
    print(f'full errno={error.errno}')
clone, _ = listener.accept()
handed = array.array('i', [clone.fileno()])
ends[0].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)])
_, rights, _, _ = ends[1].recvmsg(1, socket.CMSG_SPACE(4))
print(f'handed={len(rights)}')
";

/// Whose a clone is that there is no room for is not known: it is refused what its maker may, and counted.
fn cloned(cluster: &mut Cluster, full: bool) -> TestResult {
    let munster = cluster.node("munster")?;
    // Recent kernels leave AF_ALG to root by default, which a zone's is not.
    munster
        .sh("modprobe algif_hash && for file in /proc/sys/crypto/af_alg_restrict; do test ! -e $file || echo 0 >$file; done")?
        .ok()?;
    let mark = munster.kernel_mark();
    load(munster, &["enrolled=1", "sockets=64"])?;
    let script = in_zone(10, "exec python3 -c \"$1\" $2");
    let how = if full { "full" } else { "room" };
    let output = munster.run(&["bash", "-c", &script, "clones", CLONES, how]);
    let after = status(munster);
    unload(munster)?;
    let (output, after) = (output?.ok()?, after?);
    output.says(if full { "handed=0" } else { "handed=1" })?;
    check_eq!(
        counter(&after, "socket-lost")?,
        u64::from(full),
        "clones without state"
    );
    if full {
        munster.wait_kernel_line(mark, "perm=use_fd reason=no-memory")?;
    }
    Ok(())
}
