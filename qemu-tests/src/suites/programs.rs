//! Proves that unchanged servers of Debian work in zones: Redis, nginx and PostgreSQL, each in a ScID of
//! its own on munster, serve their own clients of the same ScID on colby under load without an error,
//! and nobody of another zone gets anything from them. No servers of ours.

use std::time::Duration;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{YNL_DO, enrol, load};
use crate::fault::Failure;
use crate::node::{Node, Output, Process};
use crate::regime::{self, Counters, Regime, network};
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
            run: redis_ok,
        },
        Test {
            name: "redis-of-another-zone-denied",
            run: redis_denied,
        },
        Test {
            name: "nginx-under-load-ok",
            run: nginx_ok,
        },
        Test {
            name: "nginx-of-another-zone-denied",
            run: nginx_denied,
        },
        Test {
            name: "postgresql-under-load-ok",
            run: postgresql_ok,
        },
        Test {
            name: "postgresql-of-another-zone-denied",
            run: postgresql_denied,
        },
    ],
};

const MEMBERS: [&str; 2] = ["munster", "colby"];
const REDIS: u32 = 11;
const NGINX: u32 = 12;
const POSTGRESQL: u32 = 13;
/// What a load may take in an emulated guest.
const LOAD: Duration = Duration::from_secs(300);
/// Seconds after which a client that is not answered gives up.
const GIVE_UP: &str = "timeout 5";

struct Kept {
    _regime: Regime,
    redis: Process,
    nginx: Process,
    postgresql: Option<Process>,
}

fn policy() -> String {
    let mut rules = String::new();
    for zone in [REDIS, NGINX, POSTGRESQL] {
        let zone = zone.to_string();
        rules += &format!(
            "<socket_permission><source_ScID>{zone}</source_ScID><target_ScID>{zone}</target_ScID>\
             <grant>create bind connect listen accept send receive</grant></socket_permission>"
        );
        rules += &network(&zone, "", &zone, "connect");
    }
    format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"deny\"><contexts><context ScID=\"{REDIS}\" name=\"redis\"/>\
         <context ScID=\"{NGINX}\" name=\"nginx\"/><context ScID=\"{POSTGRESQL}\" name=\"postgresql\"/></contexts><nodes>\
         <node SnID=\"1\" name=\"munster\"/><node SnID=\"2\" name=\"colby\"/></nodes><rules>{rules}</rules></DSP>"
    )
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
http { access_log /tmp/nginx-access.log; server { listen 0.0.0.0:8080; root /srv/www; } }
";

fn in_zone(zone: u32, script: &str) -> String {
    format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": {zone}}}]\" | {YNL_DO} >/dev/null && {script}"
    )
}

fn setup(cluster: &mut Cluster) -> TestResult {
    for name in MEMBERS {
        let node = cluster.node(name)?;
        node.sh(MOUNT)?.ok()?;
        load(node, &[])?;
    }
    enrol(cluster, &MEMBERS, 1)?;
    let regime = Regime::establish(cluster, &MEMBERS)?;
    for name in MEMBERS {
        regime.enforce(cluster.node(name)?, &policy())?;
    }
    let munster = cluster.node("munster")?;
    let spawn = |name: &str, zone: u32, command: &str| {
        munster.spawn(name, &["bash", "-c", &in_zone(zone, command)])
    };
    let redis = spawn(
        "redis",
        REDIS,
        "exec redis-server --bind 0.0.0.0 --port 6379 --save '' --protected-mode no",
    )?;
    redis.wait_line("Ready to accept connections")?;
    munster.write("/srv/nginx.conf", NGINX_CONF)?;
    munster.write("/srv/www/index.html", "x".repeat(1024))?;
    let nginx = spawn(
        "nginx",
        NGINX,
        "exec nginx -e /tmp/nginx-error.log -c /srv/nginx.conf",
    )?;
    cluster.kept = Some(Box::new(Kept {
        _regime: regime,
        redis,
        nginx,
        postgresql: None,
    }));
    Ok(())
}

/// Runs a client of a zone on a node.
fn client(node: &Node, zone: u32, command: &str) -> Result<Output, Failure> {
    Ok(node
        .command(&["bash", "-c", &in_zone(zone, command)])
        .timeout(LOAD)
        .run()?)
}

/// Clients of these zones, on both nodes, must get nothing from a server, and munster count it.
fn refused(cluster: &Cluster, zones: [u32; 2], command: &str) -> TestResult {
    let munster = cluster.node("munster")?;
    for name in MEMBERS {
        for zone in zones {
            let before = Counters::of(munster)?;
            let output = client(cluster.node(name)?, zone, &format!("{GIVE_UP} {command}"))?;
            check!(
                output.code != Some(0),
                "zone {zone} of {name} was served: {}",
                output.describe()
            );
            let refusals = Counters::of(munster)?.refusals(&before)?;
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

fn redis_ok(cluster: &mut Cluster) -> TestResult {
    let colby = cluster.node("colby")?;
    let before = Counters::of(cluster.node("munster")?)?;
    let output = client(
        colby,
        REDIS,
        "redis-benchmark -h munster -t set,get,incr,lpush -n 2000 -c 20 -d 512 -q",
    )?
    .ok()?
    .says("LPUSH")?
    .says_not("rror")?;
    client(colby, REDIS, "redis-cli -h munster set greeting hello")?
        .ok()?
        .says("OK")?;
    client(colby, REDIS, "redis-cli -h munster get greeting")?
        .ok()?
        .says("hello")?;
    let refusals = Counters::of(cluster.node("munster")?)?.refusals(&before)?;
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
fn connections(cluster: &Cluster) -> Result<u64, Failure> {
    let output = client(
        cluster.node("colby")?,
        REDIS,
        "redis-cli -h munster info stats",
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

fn redis_denied(cluster: &mut Cluster) -> TestResult {
    let before = connections(cluster)?;
    refused(
        cluster,
        [NGINX, POSTGRESQL],
        "redis-cli -h munster get greeting",
    )?;
    // The last look is a connection itself.
    check_eq!(connections(cluster)?, before + 1, "connections of Redis");
    let kept: &Kept = regime::kept(cluster)?;
    check!(kept.redis.is_running()?, "Redis has ended");
    Ok(())
}

fn served(cluster: &Cluster) -> Result<u64, Failure> {
    let output = cluster
        .node("munster")?
        .run(&["wc", "-l", "/tmp/nginx-access.log"])?
        .ok()?;
    let lines = output.stdout.split_whitespace().next();
    lines
        .and_then(|lines| lines.parse().ok())
        .ok_or_else(|| Failure::new(output.describe()))
}

fn nginx_ok(cluster: &mut Cluster) -> TestResult {
    let before = Counters::of(cluster.node("munster")?)?;
    let output = client(
        cluster.node("colby")?,
        NGINX,
        "ab -q -n 1000 -c 20 http://munster:8080/index.html",
    )?
    .ok()?
    .says("Complete requests:      1000")?
    .says("Failed requests:        0")?
    .says_not("Non-2xx")?;
    check_eq!(served(cluster)?, 1000, "requests that nginx has served");
    let refusals = Counters::of(cluster.node("munster")?)?.refusals(&before)?;
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

fn nginx_denied(cluster: &mut Cluster) -> TestResult {
    let before = served(cluster)?;
    refused(
        cluster,
        [REDIS, POSTGRESQL],
        "ab -q -n 1 http://munster:8080/index.html",
    )?;
    check_eq!(served(cluster)?, before, "requests that nginx has served");
    let kept: &Kept = regime::kept(cluster)?;
    check!(kept.nginx.is_running()?, "nginx has ended");
    Ok(())
}

const START_POSTGRESQL: &str = "as='setpriv --reuid 5432 --regid 5432 --clear-groups env HOME=/tmp PATH=/usr/lib/postgresql/17/bin:/usr/bin:/bin'; \
     install -d -o 5432 -g 5432 /tmp/pg && $as initdb -D /tmp/pg -A trust --no-sync --no-locale -E UTF8 && \
     echo 'host all all 10.77.0.0/24 trust' >>/tmp/pg/pg_hba.conf && \
     exec $as postgres -D /tmp/pg -c listen_addresses=0.0.0.0 -c unix_socket_directories= -c fsync=off -c jit=off \
     -c log_connections=on -c shared_buffers=16MB";

fn postgresql_ok(cluster: &mut Cluster) -> TestResult {
    let (munster, colby) = (cluster.node("munster")?, cluster.node("colby")?);
    let server = munster.spawn(
        "postgresql",
        &["bash", "-c", &in_zone(POSTGRESQL, START_POSTGRESQL)],
    )?;
    server.wait_line_for("ready to accept connections", LOAD)?;
    let before = Counters::of(munster)?;
    client(
        colby,
        POSTGRESQL,
        "pgbench -h munster -U postgres -i -q -s 1 postgres",
    )?
    .ok()?;
    let output = client(
        colby,
        POSTGRESQL,
        "pgbench -h munster -U postgres -c 4 -t 50 postgres",
    )?
    .ok()?
    .says("200/200")?
    .says("number of failed transactions: 0")?;
    client(
        colby,
        POSTGRESQL,
        "psql -h munster -U postgres -Atc 'select count(*) from pgbench_history'",
    )?
    .ok()?
    .says("200")?;
    let refusals = Counters::of(munster)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    println!(
        "     {}",
        output
            .stdout
            .lines()
            .filter(|line| line.starts_with("tps"))
            .collect::<String>()
    );
    if let Some(kept) = cluster
        .kept
        .as_mut()
        .and_then(|kept| kept.downcast_mut::<Kept>())
    {
        kept.postgresql = Some(server);
    }
    Ok(())
}

fn postgresql_denied(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = regime::kept(cluster)?;
    let Some(server) = &kept.postgresql else {
        return Err(Failure::new("PostgreSQL is not running"));
    };
    let taken = |text: String| text.matches("connection received").count();
    let before = taken(server.output()?);
    refused(
        cluster,
        [REDIS, NGINX],
        "psql -h munster -U postgres -Atc 'select 1'",
    )?;
    check_eq!(taken(server.output()?), before, "connections of PostgreSQL");
    Ok(())
}
