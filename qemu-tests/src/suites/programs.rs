//! Proves that unchanged servers of Debian work in zones: Redis, nginx and PostgreSQL, each in a ScID of
//! its own on munster and on colby, serve their own clients of the same ScID on the other node under load without an error,
//! those on munster also while policies change. Nobody of another zone gets anything from them, and each client is told so at once. A policy that
//! forbids a load ends it. No servers of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, in_zone, load};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::regime::{self, Counters, Regime, network, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "programs",
    proves: "unchanged Redis, nginx and PostgreSQL serve their own zone under load, and nobody else",
    nodes: &[
        NodeSpec::new("munster").memory_mib(768),
        NodeSpec::new("colby").memory_mib(768),
    ],
    needs: &[Need::Module, Need::Servers, Need::Programs],
    setup,
    tests: &[
        Test {
            name: "redis-under-load-ok",
            run: |cluster| redis_ok(cluster, "munster"),
        },
        Test {
            name: "redis-of-another-zone-denied-at-once",
            run: |cluster| redis_denied(cluster, "munster"),
        },
        Test {
            name: "redis-on-colby-under-load-ok",
            run: |cluster| redis_ok(cluster, "colby"),
        },
        Test {
            name: "redis-on-colby-of-another-zone-denied-at-once",
            run: |cluster| redis_denied(cluster, "colby"),
        },
        Test {
            name: "nginx-under-load-ok",
            run: |cluster| nginx_ok(cluster, "munster"),
        },
        Test {
            name: "nginx-of-another-zone-denied-at-once",
            run: |cluster| nginx_denied(cluster, "munster"),
        },
        Test {
            name: "nginx-on-colby-under-load-ok",
            run: |cluster| nginx_ok(cluster, "colby"),
        },
        Test {
            name: "nginx-on-colby-of-another-zone-denied-at-once",
            run: |cluster| nginx_denied(cluster, "colby"),
        },
        Test {
            name: "nginx-under-load-of-wrk-ok",
            run: |cluster| nginx_wrk_ok(cluster, "munster"),
        },
        Test {
            name: "nginx-of-another-zone-by-wrk-denied-at-once",
            run: |cluster| nginx_wrk_denied(cluster, "munster"),
        },
        Test {
            name: "nginx-on-colby-under-load-of-wrk-ok",
            run: |cluster| nginx_wrk_ok(cluster, "colby"),
        },
        Test {
            name: "nginx-on-colby-of-another-zone-by-wrk-denied-at-once",
            run: |cluster| nginx_wrk_denied(cluster, "colby"),
        },
        Test {
            name: "postgresql-under-load-ok",
            run: |cluster| postgresql_ok(cluster, "munster"),
        },
        Test {
            name: "postgresql-of-another-zone-denied-at-once",
            run: |cluster| postgresql_denied(cluster, "munster"),
        },
        Test {
            name: "postgresql-on-colby-under-load-ok",
            run: |cluster| postgresql_ok(cluster, "colby"),
        },
        Test {
            name: "postgresql-on-colby-of-another-zone-denied-at-once",
            run: |cluster| postgresql_denied(cluster, "colby"),
        },
        Test {
            name: "redis-under-load-over-new-policies-ok",
            run: |cluster| load_kept(cluster, &LOADS[0]),
        },
        Test {
            name: "redis-under-load-when-forbidden-denied",
            run: |cluster| load_ended(cluster, &LOADS[0]),
        },
        Test {
            name: "nginx-under-load-over-new-policies-ok",
            run: |cluster| load_kept(cluster, &LOADS[1]),
        },
        Test {
            name: "nginx-under-load-when-forbidden-denied",
            run: |cluster| load_ended(cluster, &LOADS[1]),
        },
        Test {
            name: "postgresql-under-load-over-new-policies-ok",
            run: |cluster| load_kept(cluster, &LOADS[2]),
        },
        Test {
            name: "postgresql-under-load-when-forbidden-denied",
            run: |cluster| load_ended(cluster, &LOADS[2]),
        },
    ],
};

const MEMBERS: [&str; 2] = ["munster", "colby"];
const REDIS: u32 = 11;
const NGINX: u32 = 12;
const POSTGRESQL: u32 = 13;
const ZONES: [u32; 3] = [REDIS, NGINX, POSTGRESQL];
/// What a load may take in an emulated guest.
const LOAD: Duration = Duration::from_secs(300);
/// What a client says whose connection a policy does not allow: it was prohibited, so it did not have to wait.
const PROHIBITED: &str = "No route to host";
/// What a client says whose connection a new policy ends, or who comes again afterwards.
const ENDED: [&str; 5] = [
    "Software caused connection abort",
    "Connection reset by peer",
    "erver closed the connection",
    "perhaps the backend died",
    PROHIBITED,
];

struct Kept {
    regime: Regime,
    servers: Vec<Server>,
}

struct Server {
    node: String,
    zone: u32,
    process: Process,
}

/// The node where the clients of a server on this one are.
fn other(server: &str) -> &'static str {
    if server == "munster" {
        "colby"
    } else {
        "munster"
    }
}

/// A server that has been started.
fn running<'a>(cluster: &'a Cluster, node: &str, zone: u32) -> Result<&'a Process, Failure> {
    let kept: &Kept = regime::kept(cluster)?;
    let mut servers = kept.servers.iter();
    let server = servers.find(|server| server.node == node && server.zone == zone);
    let server = server.ok_or_else(|| Failure::new("the server has not been started"))?;
    check!(server.process.is_running()?, "the server has ended");
    Ok(&server.process)
}

/// A policy under which these zones reach their servers over the network. It is another version with each note.
fn policy(open: &[u32], note: &str) -> String {
    let mut rules = String::new();
    for zone in ZONES {
        let number = zone.to_string();
        rules += &format!(
            "<socket_permission><source_ScID>{zone}</source_ScID><target_ScID>{zone}</target_ScID>\
             <grant>create bind connect listen accept send receive</grant></socket_permission>\
             <process_permission><source_ScID>2</source_ScID><target_ScID>{zone}</target_ScID><grant>signal</grant></process_permission>"
        );
        if open.contains(&zone) {
            rules += &network(&number, "", &number, "connect");
        }
    }
    format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"deny\" refusal=\"reject\"><contexts>\
         <context ScID=\"{REDIS}\" name=\"redis\"/><context ScID=\"{NGINX}\" name=\"nginx\"/>\
         <context ScID=\"{POSTGRESQL}\" name=\"postgresql\"/></contexts><nodes><node SnID=\"1\" name=\"munster\"/>\
         <node SnID=\"2\" name=\"colby\"/></nodes><rules>{rules}{note}</rules></DSP>"
    )
}

/// Has a policy in force on both nodes, the server's first.
fn enforce(cluster: &Cluster, policy: &str) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    MEMBERS
        .iter()
        .try_for_each(|name| kept.regime.enforce(cluster.node(name)?, policy))
}

/// Lays the disk with the programs under /usr.
const MOUNT: &str = "for dir in /sys/block/vd*; do \
                       if [ \"$(cat $dir/serial)\" = programs ]; then mkdir -p /mnt/programs && mount -o ro /dev/${dir##*/} /mnt/programs; fi; \
                     done; mount -t overlay -o lowerdir=/mnt/programs/usr:/usr usr /usr && ldconfig && mkdir -p /var/lib/nginx /var/log/nginx && \
                     echo postgres:x:5432:5432::/tmp:/bin/sh >>/etc/passwd && echo postgres:x:5432: >>/etc/group && \
                     ln -sf /usr/lib/postgresql/17/bin/pgbench /usr/lib/postgresql/17/bin/psql /opt/dsi/bin/";

const NGINX_CONF: &str =
    "daemon off; worker_processes 1; user root; pid /tmp/nginx.pid; error_log /tmp/nginx-error.log;
events { worker_connections 256; }
http { access_log /tmp/nginx-access.log; keepalive_requests 1000000000; server { listen 0.0.0.0:8080; root /srv/www; } }
";

fn setup(cluster: &mut Cluster) -> TestResult {
    for name in MEMBERS {
        let node = cluster.node(name)?;
        node.sh(MOUNT)?.ok()?;
        load(node, &[])?;
    }
    enrol(cluster, &MEMBERS, 1)?;
    let regime = Regime::establish(cluster, &MEMBERS)?;
    for name in MEMBERS {
        regime.enforce(cluster.node(name)?, &policy(&ZONES, ""))?;
    }
    let mut servers = Vec::new();
    for name in MEMBERS {
        let node = cluster.node(name)?;
        let spawn = |what: &str, zone: u32, command: &str| {
            node.spawn(what, &["bash", "-c", &in_zone(zone, command)])
        };
        let redis = spawn(
            "redis",
            REDIS,
            "exec redis-server --bind 0.0.0.0 --port 6379 --save '' --protected-mode no",
        )?;
        redis.wait_line("Ready to accept connections")?;
        node.write("/srv/nginx.conf", NGINX_CONF)?;
        node.write("/srv/www/index.html", "x".repeat(1024))?;
        let nginx = spawn(
            "nginx",
            NGINX,
            "exec nginx -e /tmp/nginx-error.log -c /srv/nginx.conf",
        )?;
        node.poll(&["ss", "-Htln", "sport = :8080"], ":8080")?;
        for (zone, process) in [(REDIS, redis), (NGINX, nginx)] {
            servers.push(Server {
                node: name.into(),
                zone,
                process,
            });
        }
    }
    cluster.kept = Some(Box::new(Kept { regime, servers }));
    Ok(())
}

/// Runs a client of a zone on a node.
fn client(node: &Node, zone: u32, command: &str) -> Result<Output, Failure> {
    Ok(node
        .command(&["bash", "-c", &in_zone(zone, command)])
        .timeout(LOAD)
        .run()?)
}

/// Clients of these zones, on both nodes, must be told that they get nothing from a server, and its node count it.
fn refused(cluster: &Cluster, server: &str, zones: [u32; 2], command: &str) -> TestResult {
    let on = cluster.node(server)?;
    for name in MEMBERS {
        for zone in zones {
            let before = Counters::of(on)?;
            let output = client(cluster.node(name)?, zone, &format!("{command} 2>&1"))?;
            check!(
                output.code != Some(0),
                "zone {zone} of {name} was served: {}",
                output.describe()
            );
            let output = output.says(PROHIBITED)?;
            let refusals = Counters::of(on)?.refusals(&before)?;
            let count = refusals
                .get("refused-no-permission")
                .copied()
                .unwrap_or_default();
            check!(
                count > 0,
                "zone {zone} of {name} failed by itself: {refusals:?}; {}",
                output.describe()
            );
        }
    }
    Ok(())
}

fn redis_ok(cluster: &mut Cluster, server: &str) -> TestResult {
    let from = cluster.node(other(server))?;
    let before = Counters::of(cluster.node(server)?)?;
    let output = client(
        from,
        REDIS,
        &format!("redis-benchmark -h {server} -t set,get,incr,lpush -n 2000 -c 20 -d 512 -q"),
    )?
    .ok()?
    .says("LPUSH")?
    .says_not("rror")?;
    client(
        from,
        REDIS,
        &format!("redis-cli -h {server} set greeting hello"),
    )?
    .ok()?
    .says("OK")?;
    client(from, REDIS, &format!("redis-cli -h {server} get greeting"))?
        .ok()?
        .says("hello")?;
    let refusals = Counters::of(cluster.node(server)?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    println!(
        "     {}",
        output
            .stdout
            .replace('\r', "\n")
            .lines()
            .filter(|line| line.contains("per second"))
            .collect::<Vec<_>>()
            .join("; ")
    );
    Ok(())
}

/// Connections that Redis has taken in its life.
fn connections(cluster: &Cluster, server: &str) -> Result<u64, Failure> {
    let output = client(
        cluster.node(other(server))?,
        REDIS,
        &format!("redis-cli -h {server} info stats"),
    )?
    .ok()?;
    let value = output.stdout.lines().find_map(|line| {
        line.strip_prefix("total_connections_received:")?
            .trim()
            .parse()
            .ok()
    });
    value.ok_or_else(|| Failure::new(output.describe()))
}

fn redis_denied(cluster: &mut Cluster, server: &str) -> TestResult {
    let before = connections(cluster, server)?;
    refused(
        cluster,
        server,
        [NGINX, POSTGRESQL],
        &format!("redis-cli -h {server} get greeting"),
    )?;
    // The last look is a connection itself.
    check_eq!(
        connections(cluster, server)?,
        before + 1,
        "connections of Redis"
    );
    running(cluster, server, REDIS)?;
    Ok(())
}

fn served(cluster: &Cluster, server: &str) -> Result<u64, Failure> {
    let output = cluster
        .node(server)?
        .run(&["wc", "-l", "/tmp/nginx-access.log"])?
        .ok()?;
    let lines = output.stdout.split_whitespace().next();
    lines
        .and_then(|lines| lines.parse().ok())
        .ok_or_else(|| Failure::new(output.describe()))
}

fn nginx_ok(cluster: &mut Cluster, server: &str) -> TestResult {
    let already = served(cluster, server)?;
    let before = Counters::of(cluster.node(server)?)?;
    let output = client(
        cluster.node(other(server))?,
        NGINX,
        &format!("ab -q -n 1000 -c 20 http://{server}:8080/index.html"),
    )?
    .ok()?
    .says("Complete requests:      1000")?
    .says("Failed requests:        0")?
    .says_not("Non-2xx")?;
    // It writes of each when it has answered.
    until("nginx to have written of all requests", || {
        Ok(served(cluster, server)? == already + 1000)
    })?;
    let refusals = Counters::of(cluster.node(server)?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    println!(
        "     {}",
        output
            .stdout
            .lines()
            .filter(|line| line.contains("per second"))
            .collect::<String>()
    );
    Ok(())
}

fn nginx_denied(cluster: &mut Cluster, server: &str) -> TestResult {
    nothing_by(cluster, server, "ab -q -n 1")
}

/// As long as it is told to, on as many connections; it says so if one of them fails. It takes 8 MB for each second of its
/// patience.
fn nginx_wrk_ok(cluster: &mut Cluster, server: &str) -> TestResult {
    let already = served(cluster, server)?;
    let before = Counters::of(cluster.node(server)?)?;
    let output = client(
        cluster.node(other(server))?,
        NGINX,
        &format!("wrk -t 2 -c 20 -d 10s --timeout 30s http://{server}:8080/index.html"),
    )?
    .ok()?
    .says("Requests/sec:")?
    .says_not("Socket errors")?
    .says_not("Non-2xx")?;
    let done = output.stdout.lines().find_map(|line| {
        let (number, _) = line.trim().split_once(" requests in ")?;
        number.parse::<u64>().ok()
    });
    let done = done.ok_or_else(|| Failure::new(output.describe()))?;
    check!(done >= 20, "{}", output.describe());
    until("nginx to have written of all requests", || {
        Ok(served(cluster, server)? >= already + done)
    })?;
    let refusals = Counters::of(cluster.node(server)?)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    println!("     {done} requests");
    Ok(())
}

fn nginx_wrk_denied(cluster: &mut Cluster, server: &str) -> TestResult {
    nothing_by(cluster, server, "wrk -t 1 -c 1 -d 1s")
}

fn nothing_by(cluster: &Cluster, server: &str, command: &str) -> TestResult {
    let before = served(cluster, server)?;
    refused(
        cluster,
        server,
        [REDIS, POSTGRESQL],
        &format!("{command} http://{server}:8080/index.html"),
    )?;
    check_eq!(
        served(cluster, server)?,
        before,
        "requests that nginx has served"
    );
    running(cluster, server, NGINX)?;
    Ok(())
}

const START_POSTGRESQL: &str = "as='setpriv --reuid 5432 --regid 5432 --clear-groups env HOME=/tmp PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin'; \
     install -d -o 5432 -g 5432 /tmp/pg && $as initdb -D /tmp/pg -A trust --no-sync --no-locale -E UTF8 && \
     echo 'host all all 10.77.0.0/24 trust' >>/tmp/pg/pg_hba.conf && \
     exec $as postgres -D /tmp/pg -c listen_addresses=0.0.0.0 -c unix_socket_directories= -c fsync=off -c jit=off \
     -c log_connections=on -c shared_buffers=16MB";

fn postgresql_ok(cluster: &mut Cluster, server: &str) -> TestResult {
    let (on, from) = (cluster.node(server)?, cluster.node(other(server))?);
    let process = on.spawn(
        "postgresql",
        &["bash", "-c", &in_zone(POSTGRESQL, START_POSTGRESQL)],
    )?;
    process.wait_line_for("ready to accept connections", LOAD)?;
    let before = Counters::of(on)?;
    client(
        from,
        POSTGRESQL,
        &format!("pgbench -h {server} -U postgres -i -q -s 1 postgres"),
    )?
    .ok()?;
    let output = client(
        from,
        POSTGRESQL,
        &format!("pgbench -h {server} -U postgres -c 4 -t 50 postgres"),
    )?
    .ok()?
    .says("200/200")?
    .says("number of failed transactions: 0")?;
    client(
        from,
        POSTGRESQL,
        &format!("psql -h {server} -U postgres -Atc 'select count(*) from pgbench_history'"),
    )?
    .ok()?
    .says("200")?;
    let refusals = Counters::of(on)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    println!(
        "     {}",
        output
            .stdout
            .lines()
            .filter(|line| line.starts_with("tps"))
            .collect::<String>()
    );
    let kept = cluster
        .kept
        .as_mut()
        .and_then(|kept| kept.downcast_mut::<Kept>());
    if let Some(kept) = kept {
        kept.servers.push(Server {
            node: server.into(),
            zone: POSTGRESQL,
            process,
        });
    }
    Ok(())
}

fn postgresql_denied(cluster: &mut Cluster, server: &str) -> TestResult {
    let process = running(cluster, server, POSTGRESQL)?;
    let taken = |text: String| text.matches("connection received").count();
    let before = taken(process.output()?);
    refused(
        cluster,
        server,
        [REDIS, NGINX],
        &format!("psql -h {server} -U postgres -Atc 'select 1'"),
    )?;
    check_eq!(
        taken(process.output()?),
        before,
        "connections of PostgreSQL"
    );
    Ok(())
}

/// A client that keeps a server busy.
struct Load {
    name: &'static str,
    zone: u32,
    port: u16,
    /// How many connections it has.
    clients: usize,
    /// More than anybody waits for.
    endless: &'static str,
    /// One question, answered.
    short: &'static str,
    /// It may go on when its connections have ended: `redis-benchmark` takes every failure to write for one that passes
    /// (`cliWriteConn()`), so where an answer and the reset come together, it tries for ever.
    may_spin: bool,
}

const LOADS: [Load; 3] = [
    Load {
        name: "redis",
        zone: REDIS,
        port: 6379,
        clients: 20,
        endless: "redis-benchmark -h munster -t set -n 100000000 -c 20 -d 512 -q",
        short: "redis-cli -h munster ping",
        may_spin: true,
    },
    Load {
        name: "nginx",
        zone: NGINX,
        port: 8080,
        clients: 20,
        endless: "ab -q -k -n 1000000 -c 20 http://munster:8080/index.html",
        short: "ab -q -n 1 http://munster:8080/index.html",
        may_spin: false,
    },
    Load {
        name: "postgresql",
        zone: POSTGRESQL,
        port: 5432,
        clients: 4,
        endless: "pgbench -h munster -U postgres -c 4 -t 100000000 -n postgres",
        short: "psql -h munster -U postgres -Atc \"select 'pong'\"",
        may_spin: false,
    },
];

impl Load {
    /// Starts it on colby, and waits until the server has taken its connections.
    fn start(&self, cluster: &Cluster, kind: &str) -> Result<Process, Failure> {
        let script = in_zone(self.zone, &format!("exec {} 2>&1", self.endless));
        let name = format!("{kind}-load-of-{}", self.name);
        let process = cluster
            .node("colby")?
            .spawn(&name, &["bash", "-c", &script])?;
        until("the load's connections", || {
            check!(process.is_running()?, "it has ended: {}", process.output()?);
            Ok(self.connections(cluster)?.len() >= self.clients)
        })?;
        Ok(process)
    }

    /// The server's established connections: the client's address and port, and the bytes that it has got so far.
    fn connections(&self, cluster: &Cluster) -> Result<BTreeMap<String, u64>, Failure> {
        let output = cluster.node("munster")?.run(&[
            "ss",
            "-HtniO",
            "state",
            "established",
            &format!("sport = :{}", self.port),
        ])?;
        let output = output.ok()?;
        let connections = output.stdout.lines().filter_map(|line| {
            let words = || line.split_whitespace();
            let acked = words().find_map(|word| word.strip_prefix("bytes_acked:"));
            let acked = acked
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or_default();
            // Received, to be sent, the server's end, the client's.
            Some((words().nth(3)?.to_owned(), acked))
        });
        Ok(connections.collect())
    }
}

/// New versions that still allow it: each of its connections goes on, and it is told of no error.
fn load_kept(cluster: &mut Cluster, load: &Load) -> TestResult {
    let before = Counters::of(cluster.node("munster")?)?;
    let process = load.start(cluster, "kept")?;
    let first = load.connections(cluster)?;
    for port in [40_000, 40_001] {
        let note = format!(
            "<socket_label><protocol>tcp</protocol><port>{port}</port><new_ScID>{}</new_ScID></socket_label>",
            load.zone
        );
        enforce(cluster, &policy(&ZONES, &note))?;
    }
    let then = load.connections(cluster)?;
    check_eq!(
        then.keys().collect::<Vec<_>>(),
        first.keys().collect::<Vec<_>>(),
        "connections after the changes and before"
    );
    until("more bytes on each connection", || {
        check!(process.is_running()?, "it has ended: {}", process.output()?);
        let now = load.connections(cluster)?;
        Ok(then
            .iter()
            .all(|(client, bytes)| now.get(client) > Some(bytes)))
    })?;
    let after = Counters::of(cluster.node("munster")?)?;
    let refusals = after.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    check_eq!(
        after.rise(&before, "flows-aborted")?,
        0,
        "flows that were ended"
    );
    process.signal(9)?;
    process.join()?;
    let said = process.output()?.to_lowercase();
    for word in [
        "error", "abort", "fail", "reset", "closed", "refused", "died",
    ] {
        check!(!said.contains(word), "the load says: {said}");
    }
    Ok(())
}

/// A version that forbids it ends the load, and nobody comes in; one that allows it again serves again.
fn load_ended(cluster: &mut Cluster, load: &Load) -> TestResult {
    let before = Counters::of(cluster.node("munster")?)?;
    let process = load.start(cluster, "ended")?;
    let others: Vec<u32> = ZONES
        .into_iter()
        .filter(|zone| *zone != load.zone)
        .collect();
    enforce(cluster, &policy(&others, ""))?;
    check_eq!(
        load.connections(cluster)?.len(),
        0,
        "connections after the commit"
    );
    let at_client = [
        "ss",
        "-Htn",
        "state",
        "established",
        &format!("dport = :{}", load.port),
    ];
    until("the end of the client's connections", || {
        Ok(cluster
            .node("colby")?
            .run(&at_client)?
            .ok()?
            .stdout
            .is_empty())
    })?;
    if load.may_spin {
        process.end_by(9)?;
    } else {
        let code = process.join_for(LOAD)?;
        let said = process.output()?;
        check!(code != Some(0), "the load ended well: {said}");
        check!(
            ENDED.iter().any(|text| said.contains(text)),
            "the load says: {said}"
        );
    }
    let after = Counters::of(cluster.node("munster")?)?;
    check!(
        after.rise(&before, "flows-aborted")? > 0,
        "no flow was ended"
    );
    let colby = cluster.node("colby")?;
    client(colby, load.zone, &format!("{} 2>&1", load.short))?.says(PROHIBITED)?;
    enforce(cluster, &policy(&ZONES, ""))?;
    client(colby, load.zone, load.short)?.ok()?;
    Ok(())
}
