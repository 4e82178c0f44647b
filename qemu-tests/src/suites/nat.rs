//! Proves that who is behind NAT is outside: his address is no node's, so no label of his can be verified by anybody, and
//! none that comes to him by him. Both nodes have a container, a network namespace whose address the node map does not
//! name: munster's goes out under munster's address, colby's is served by ports of colby's. Munster also reaches colby by a
//! service's address, which it translates itself. What is denied is denied at once, with a message that says why, beside
//! its twin that a rule for outside allows; over UDP and TCP, IPv4 and IPv6. And that a packet which the node's filter
//! takes through a process of the administrator's (NFQUEUE) stays its sender's. No servers.

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, load};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::regime::{self, Counters, Denial, Regime, WITHIN_10, ZONES, document};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "nat",
    proves: "who is behind NAT is outside, which a message says, and gets through by a rule for outside only",
    nodes: &[NodeSpec::new("munster"), NodeSpec::new("colby")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "client-behind-nat-denied" => client_denied,
    "client-behind-nat-with-a-rule-at-its-own-end-only-denied" => client_denied_by_receiver,
    "client-behind-nat-by-rule-for-outside-ok" => client_allowed,
    "server-behind-nat-denied" => server_denied,
    "server-behind-nat-by-rule-for-outside-ok" => server_allowed,
    "service-address-denied" => service_denied,
    "service-address-to-another-zone-denied" => service_of_another_zone,
    "service-address-by-rule-for-outside-ok" => service_allowed,
    "stream-from-behind-nat-aborted-when-its-rule-goes-its-twin-ok" => stream,
    "through-a-filter-in-user-space-within-a-zone-ok" => queued_allowed,
    "through-a-filter-in-user-space-to-another-zone-denied" => queued_denied,
};

const NAMES: [&str; 2] = ["munster", "colby"];
const PROBE: &str = "/opt/dsi/bin/dsi-sock-probe";
const TRAFFIC: &str = "/opt/dsi/bin/dsi-traffic";
const GO: &str = "/tmp/go";
const EACCES: i32 = 13;
const ECONNABORTED: i32 = 103;
const ECONNREFUSED: i32 = 111;
/// What is denied without an answer stays so, however long.
const DENIED_MS: &str = "1500";
const ALLOWED_MS: &str = "170000";

/// On colby; in colby's container; of colby, for the one in the container.
const PORT: u16 = 7010;
const INSIDE: u16 = 7011;
const SHOWN: u16 = 7015;

/// An address of each family.
type Addresses = [&'static str; 2];
const MUNSTER: Addresses = ["10.77.0.1", "fd77::1"];
const COLBY: Addresses = ["10.77.0.2", "fd77::2"];
const CLIENT: Addresses = ["10.78.0.2", "fd78::2"];
const SERVER: Addresses = ["10.79.0.2", "fd79::2"];
const SERVICE: Addresses = ["10.99.0.1", "fd99::1"];
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];

/// A container whose network is `$1`, by way of its node.
const CONTAINER: &str = "modprobe -a veth nf_tables nft_chain_nat nft_masq nft_nat && ip netns add box && \
     ip link add host type veth peer name inner netns box && \
     ip addr add 10.$1.0.1/24 dev host && ip -6 addr add fd$1::1/64 dev host nodad && ip link set host up && \
     ip -n box addr add 10.$1.0.2/24 dev inner && ip -n box -6 addr add fd$1::2/64 dev inner nodad && \
     ip -n box link set inner up && ip -n box link set lo up && \
     ip -n box route add default via 10.$1.0.1 && ip -n box -6 route add default via fd$1::1 && \
     sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
/// On munster: the container goes out under the node's address, and the service is colby.
const OUTWARDS: &str = "ip route add 10.99.0.0/24 via 10.77.0.2 src 10.77.0.1 && ip -6 route add fd99::/64 via fd77::2 src fd77::1 && nft -f - <<'E'
table ip t {
  chain post { type nat hook postrouting priority 100; ip saddr 10.78.0.0/24 oif eth0 snat to 10.77.0.1; }
  chain out { type nat hook output priority -100; ip daddr 10.99.0.1 dnat to 10.77.0.2; }
}
table ip6 t {
  chain post { type nat hook postrouting priority 100; ip6 saddr fd78::/64 oif eth0 snat to fd77::1; }
  chain out { type nat hook output priority -100; ip6 daddr fd99::1 dnat to fd77::2; }
}
E";
/// On colby: a port of the node's is the container's.
const INWARDS: &str = "nft -f - <<'E'
table ip t {
  chain pre { type nat hook prerouting priority -100; iif eth0 meta l4proto { tcp, udp } th dport 7015 dnat to 10.79.0.2:7011; }
}
table ip6 t {
  chain pre { type nat hook prerouting priority -100; iif eth0 meta l4proto { tcp, udp } th dport 7015 dnat to [fd79::2]:7011; }
}
E";

fn setup(cluster: &mut Cluster) -> TestResult {
    for (name, network, rules) in [("munster", "78", OUTWARDS), ("colby", "79", INWARDS)] {
        let node = cluster.node(name)?;
        node.run(&["bash", "-c", CONTAINER, "container", network])?
            .ok()?;
        node.sh(rules)?.ok()?;
        load(node, &[])?;
        for (program, zone) in [(PROBE, "10"), (PROBE, "20"), (TRAFFIC, "10")] {
            let copy = of_zone(program, zone);
            node.run(&["install", "-D", program, &copy])?.ok()?;
            node.run(&["setfattr", "-n", "security.dsi", "-v", zone, &copy])?
                .ok()?;
        }
    }
    enrol(cluster, &NAMES, 1)?;
    let regime = Regime::establish(cluster, &NAMES)?;
    for name in NAMES {
        regime.enforce(cluster.node(name)?, &document("enforcing", &NO_RULE))?;
    }
    let colby = cluster.node("colby")?;
    let mut servers = Vec::new();
    for protocol in PROTOCOLS {
        servers.push(serve(colby, &[], protocol, PORT)?);
        servers.push(serve(colby, &IN_CONTAINER, protocol, INSIDE)?);
    }
    cluster.kept = Some(Box::new(Kept {
        regime,
        _servers: servers,
    }));
    Ok(())
}

struct Kept {
    regime: Regime,
    _servers: Vec<Process>,
}

const NO_RULE: [&str; 2] = [ZONES, WITHIN_10];
const IN_CONTAINER: [&str; 4] = ["ip", "netns", "exec", "box"];

fn of_zone(program: &str, zone: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!("/srv/zone{zone}/{name}")
}

/// A server of zone 10 that sends back what it gets, over both families.
fn serve(node: &Node, place: &[&str], protocol: &str, port: u16) -> Result<Process, Failure> {
    let (mode, bind) = (format!("{protocol}-server"), format!("[::]:{port}"));
    let program = of_zone(TRAFFIC, "10");
    let argv = [place, &[&program, &mode, "--bind", &bind]].concat();
    let server = node.spawn(&format!("{mode}-{port}"), &argv)?;
    server.wait_line("serving")?;
    Ok(server)
}

/// Has both nodes obey these rules beside those within the zones.
fn enforce(cluster: &Cluster, rules: &[String]) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let rules: Vec<&str> = NO_RULE
        .into_iter()
        .chain(rules.iter().map(String::as_str))
        .collect();
    let policy = document("enforcing", &rules);
    NAMES
        .iter()
        .try_for_each(|name| kept.regime.enforce(cluster.node(name)?, &policy))
}

/// A zone may ask outside, at an address of either family.
fn asks(zone: &str, at: Addresses) -> String {
    at.map(|address| rule(zone, "outside", address)).concat()
}

/// Zone 10 may be asked from outside.
fn is_asked(by: Addresses) -> String {
    by.map(|address| rule("outside", "10", address)).concat()
}

fn rule(source: &str, target: &str, address: &str) -> String {
    format!(
        "<network_permission><source_ScID>{source}</source_ScID><target_ScID>{target}</target_ScID>\
         <address>{address}</address><grant>send receive connect</grant></network_permission>"
    )
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// A program and its steps: a question and its answer.
fn question(zone: &str, protocol: &str, to: &str, port: u16, ms: &str) -> Vec<String> {
    let family = if to.contains(':') { 10 } else { 2 };
    let kind = if protocol == "tcp" { 1 } else { 2 };
    let steps = format!(
        "{} socket,s,{family},{kind},0 timeout,s,{ms} connect,s,{} send,s,question recv,s",
        of_zone(PROBE, zone),
        at(to, port)
    );
    steps.split(' ').map(str::to_owned).collect()
}

/// A process on munster asks, there or in its container.
fn ask(cluster: &Cluster, place: &[&str], question: &[String]) -> Result<Output, Failure> {
    let argv: Vec<&str> = place
        .iter()
        .copied()
        .chain(question.iter().map(String::as_str))
        .collect();
    Ok(cluster.node("munster")?.run(&argv)?)
}

/// Each protocol over each family: its name, and which of the addresses.
fn kinds() -> impl Iterator<Item = (&'static str, usize)> {
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| [(protocol, 0), (protocol, 1)])
}

/// The node says once in a while which address is no node's.
const MESSAGE: &str = "is no node's address by the node map";

fn client_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[])?;
    let munster = cluster.node("munster")?;
    let first = munster.kernel_mark();
    for (protocol, family) in kinds() {
        let (mark, before) = (munster.kernel_mark(), Counters::of(munster)?);
        let (step, errno) = if protocol == "tcp" {
            ("connect", ECONNREFUSED)
        } else {
            ("send", EACCES)
        };
        let question = question("10", protocol, COLBY[family], PORT, ALLOWED_MS);
        ask(cluster, &IN_CONTAINER, &question)?
            .exits_with(12)?
            .says(&format!("{step} errno={errno}\n"))?;
        let head = format!("denied sscid=10 ssnid=1 tscid=outside tsnid=0 {protocol}");
        let denial = Denial::wait(munster, mark, &head)?;
        denial.says("reason", "unknown-node")?;
        let (source, destination) = denial.ends()?;
        check!(source.contains(CLIENT[family]), "source of {denial:?}");
        check_eq!(destination, at(COLBY[family], PORT), "destination");
        let after = Counters::of(munster)?;
        check!(after.rise(&before, "unmapped")? > 0, "not counted");
    }
    munster.wait_kernel_line(first, MESSAGE)?;
    Ok(())
}

fn client_denied_by_receiver(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[asks("10", COLBY)])?;
    let colby = cluster.node("colby")?;
    for (protocol, family) in kinds() {
        let mark = colby.kernel_mark();
        let question = question("10", protocol, COLBY[family], PORT, DENIED_MS);
        ask(cluster, &IN_CONTAINER, &question)?.exits_with(12)?;
        let head = format!("denied sscid=outside ssnid=0 tscid=10 tsnid=2 {protocol}");
        let denial = Denial::wait(colby, mark, &head)?;
        denial.says("reason", "no-label")?;
        check!(
            denial.ends()?.0.contains(MUNSTER[family]),
            "source of {denial:?}"
        );
    }
    Ok(())
}

/// A question of zone 10 is answered over each protocol and family, and nothing is refused.
fn answered(cluster: &Cluster, place: &[&str], to: Addresses, port: u16) -> TestResult {
    for (protocol, family) in kinds() {
        let before = NAMES.map(|name| cluster.node(name).map(Counters::of));
        let mut question = question("10", protocol, to[family], port, ALLOWED_MS);
        if protocol == "tcp" {
            // Nothing of it is under way when the next policy comes.
            question.push("end,s".to_owned());
        }
        ask(cluster, place, &question)?
            .ok()?
            .says("recv ok question")?;
        for (name, before) in NAMES.into_iter().zip(before) {
            let refusals = Counters::of(cluster.node(name)?)?.refusals(&before??)?;
            check!(refusals.is_empty(), "{protocol}: {name}: {refusals:?}");
        }
    }
    Ok(())
}

fn client_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[asks("10", COLBY), is_asked(MUNSTER)])?;
    answered(cluster, &IN_CONTAINER, COLBY, PORT)
}

fn server_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[])?;
    let colby = cluster.node("colby")?;
    let first = colby.kernel_mark();
    for (protocol, family) in kinds() {
        let mark = colby.kernel_mark();
        let question = question("10", protocol, COLBY[family], SHOWN, DENIED_MS);
        ask(cluster, &[], &question)?.exits_with(12)?;
        let head = format!("denied sscid=10 ssnid=1 tscid=10 tsnid=2 {protocol}");
        let denial = Denial::wait(colby, mark, &head)?;
        denial.says("reason", "unknown-node")?;
        check_eq!(denial.ends()?.1, at(SERVER[family], INSIDE), "destination");
    }
    colby.wait_kernel_line(first, MESSAGE)?;
    Ok(())
}

fn server_allowed(cluster: &mut Cluster) -> TestResult {
    let both = [
        asks("10", COLBY),
        is_asked(MUNSTER),
        // Its answers to datagrams are datagrams of its own.
        asks("10", MUNSTER),
    ];
    enforce(cluster, &both)?;
    answered(cluster, &[], COLBY, SHOWN)
}

fn service_denied(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[])?;
    let munster = cluster.node("munster")?;
    for (protocol, family) in kinds() {
        let mark = munster.kernel_mark();
        let question = question("10", protocol, SERVICE[family], PORT, ALLOWED_MS);
        ask(cluster, &[], &question)?
            .exits_with(12)?
            .says(&format!("connect errno={EACCES}\n"))?;
        let head = format!("denied sscid=10 ssnid=1 tscid=outside tsnid=0 {protocol}");
        Denial::wait(munster, mark, &head)?.says("reason", "no-permission")?;
    }
    Ok(())
}

/// The label goes to the node that serves the address, which judges it.
fn service_of_another_zone(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[asks("20", SERVICE)])?;
    let colby = cluster.node("colby")?;
    for (protocol, family) in kinds() {
        let mark = colby.kernel_mark();
        let question = question("20", protocol, SERVICE[family], PORT, DENIED_MS);
        ask(cluster, &[], &question)?.exits_with(12)?;
        let head = format!("denied sscid=20 ssnid=1 tscid=10 tsnid=2 {protocol}");
        Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
    }
    Ok(())
}

fn service_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[asks("10", SERVICE)])?;
    answered(cluster, &[], SERVICE, PORT)
}

fn stream(cluster: &mut Cluster) -> TestResult {
    let rules = [asks("10", COLBY), is_asked(MUNSTER)];
    let kept: &Kept = regime::kept(cluster)?;
    let munster = cluster.node("munster")?;
    for stays in [true, false] {
        enforce(cluster, &rules)?;
        for (family, number) in [(0, 2), (1, 10)] {
            munster.run(&["rm", "-f", GO])?.ok()?;
            let steps = format!(
                "{} socket,s,{number},1,0 connect,s,{} send,s,question recv,s say,ready until,{GO} send,s,another recv,s",
                of_zone(PROBE, "10"),
                at(COLBY[family], PORT)
            );
            let argv: Vec<&str> = IN_CONTAINER.into_iter().chain(steps.split(' ')).collect();
            let client = munster.spawn(&format!("stream-{stays}-{family}"), &argv)?;
            client.wait_line("say ok ready")?;
            // Another policy at the client's end alone: with its rule, or without.
            let rules = [WITHIN_10, ZONES, if stays { &rules[0] } else { "" }];
            kept.regime
                .enforce(munster, &document("enforcing", &rules))?;
            munster.write(GO, "")?;
            let code = client.join()?;
            let said = client.output()?;
            if stays {
                check_eq!(code, Some(0), "{said}");
                check!(said.contains("recv ok another"), "{said}");
            } else {
                check_eq!(code, Some(12), "{said}");
                check!(
                    said.contains(&format!("send errno={ECONNABORTED}")),
                    "{said}"
                );
            }
            enforce(cluster, &[asks("10", COLBY), is_asked(MUNSTER)])?;
        }
    }
    Ok(())
}

/// What leaves for the servers' port goes by way of a process.
const QUEUE: &str = "modprobe -a nfnetlink_queue nft_queue && nft -f - <<'E'
table inet q {
  chain out { type filter hook output priority 0; oif eth0 meta l4proto { tcp, udp } th dport 7010 queue num 7; }
}
E";

/// Lets every packet of queue 7 go on, and says so (linux/netfilter/nfnetlink_queue.h).
const FILTER: &str = "
import socket, struct
QUEUE, PACKET, VERDICT, CONFIG = 7, 3 << 8, 3 << 8 | 1, 3 << 8 | 2
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.bind((0, 0))
def send(kind, attribute, data):
    head = struct.pack('=BB', 0, 0) + struct.pack('!H', QUEUE)
    body = head + struct.pack('=HH', 4 + len(data), attribute) + data + bytes(-len(data) % 4)
    netlink.send(struct.pack('=IHHII', 16 + len(body), kind, 1, 0, 0) + body)
send(CONFIG, 1, struct.pack('!BBH', 1, 0, 0))
send(CONFIG, 2, struct.pack('!IB', 0, 1))
print('filtering', flush=True)
while True:
    message = netlink.recv(65536)
    length, kind = struct.unpack_from('=IH', message)
    at = 20
    while kind == PACKET and at < length:
        size, attribute = struct.unpack_from('=HH', message, at)
        if attribute == 1:
            number, = struct.unpack_from('!I', message, at + 4)
            send(VERDICT, 2, struct.pack('!II', 1, number))
            print('passed', flush=True)
        at += size + 3 & ~3
    if kind == 2:
        print('error', struct.unpack_from('=i', message, 16), flush=True)
";

/// Munster's packets go through the filter while `f` runs. It is the default zone's.
fn queued(cluster: &Cluster, f: impl FnOnce(&Process) -> TestResult) -> TestResult {
    let munster = cluster.node("munster")?;
    let filter = munster.spawn("filter", &["python3", "-c", FILTER])?;
    filter.wait_line("filtering")?;
    munster.sh(QUEUE)?.ok()?;
    let result = f(&filter);
    munster
        .run(&["nft", "delete", "table", "inet", "q"])?
        .ok()?;
    check!(filter.is_running()?, "it ended: {}", filter.output()?);
    filter.stop()?;
    result
}

fn queued_allowed(cluster: &mut Cluster) -> TestResult {
    enforce(cluster, &[])?;
    queued(cluster, |filter| {
        answered(cluster, &[], COLBY, PORT)?;
        filter.wait_line("passed").map(drop)
    })
}

/// The filter's zone might.
fn queued_denied(cluster: &mut Cluster) -> TestResult {
    let filters = "<network_permission><source_ScID>2</source_ScID><target_ScID>10</target_ScID>\
         <grant>send receive connect</grant></network_permission>";
    enforce(cluster, &[filters.to_owned()])?;
    let colby = cluster.node("colby")?;
    queued(cluster, |filter| {
        for (protocol, family) in kinds() {
            let mark = colby.kernel_mark();
            let question = question("20", protocol, COLBY[family], PORT, DENIED_MS);
            ask(cluster, &[], &question)?.exits_with(12)?;
            filter.wait_line("passed")?;
            let head = format!("denied sscid=20 ssnid=1 tscid=10 tsnid=2 {protocol}");
            Denial::wait(colby, mark, &head)?.says("reason", "no-permission")?;
        }
        Ok(())
    })
}
