//! Proves that `DSI_SOAK_CYCLES` (500) times of loading, configuring and unloading the module under traffic lose nothing
//! and leave nothing: IPv4 and IPv6, UDP, TCP and MPTCP, between two network name spaces and within one, on two CPUs.
//! All streams are verified byte by byte, those that were open before the module came and those that began at any time
//! since. In each cycle a policy is enforced, zone 10 talks within itself, and zone 20 is refused. What the module has
//! made is looked for by the kernel's own notes of who made each object, and counts of everything must not rise with the
//! cycles. The work is done by `qemu-tests/soak`, in the guest. No servers.

use std::time::{Duration, Instant};

use crate::check;
use crate::cluster::{Cluster, NodeSpec};
use crate::fault::{Failure, Fault};
use crate::node::{Node, Process};
use crate::regime::{WITHIN_10, ZONES, document, network};
use crate::signer::{Signer, cluster_uuid};
use crate::suite::{Need, Suite, Test, TestResult};
use dsp_schema::{CompileInput, compile, parse};

/// The suite. Addresses that the kernel prints stay hashed, as they are without such notes.
pub const SUITE: Suite = Suite {
    name: "soak",
    proves: "hundreds of loads and unloads under traffic lose no byte and leave no object",
    nodes: &[NodeSpec::new("munster")
        .cpus(2)
        .memory_mib(1024)
        .kernel_args(&[NOTES, "hash_pointers=always"])],
    needs: &[Need::Module],
    setup,
    tests: &[Test {
        name: "cycles-under-traffic-lose-nothing-and-leave-nothing-ok",
        run: cycles,
    }],
};

/// Of which objects the kernel notes who made them: all that the module can make, and those that it can hold. To note it
/// of all would take an emulated guest more time than all else.
const NOTES: &str = "slab_debug=U,kmalloc-*,cred*,key_jar,pool_workqueue,task_struct,pid,filp,sock_inode_cache,TCP*,UDP*,MPTCP*,vmap_area";

/// What a cycle may take on a busy machine.
const CYCLE: Duration = Duration::from_secs(60);
const DIR: &str = "/tmp/soak";

/// A pair of devices into another name space, each end with addresses of this node and addresses of nobody. Ends of
/// connections that wait for their time to pass would be a count that rises for a minute.
const NETWORK: &str = "set -e
modprobe veth
mkdir -p /run/netns /tmp/soak
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
ip netns add far
ip link add near type veth peer name near netns far
for in in '' '-n far'; do
  side=1; test -z \"$in\" || side=2
  ip $in link set lo up
  ip $in link set near up
  for net in 88 89; do
    ip $in addr add 10.$net.0.$side/24 dev near
    ip $in addr add fd$net::$side/64 dev near nodad
  done
done
for in in '' 'ip netns exec far'; do $in sysctl -q -w net.ipv4.tcp_max_tw_buckets=4; done";

fn setup(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    munster.sh(NETWORK)?.ok()?;
    let both = |from, to| network(from, "", to, "send connect");
    let rules = [
        ZONES,
        WITHIN_10,
        &both("default", "outside"),
        &both("outside", "default"),
    ];
    let fault = |detail: String| Fault::Prepare {
        what: "the suite's policy".into(),
        detail,
    };
    let document = document("enforcing", &rules);
    let policy = parse("suite", document.as_bytes())
        .map_err(|faults| fault(dsp_schema::report::render(&faults, false)))?;
    let input = CompileInput {
        cluster_uuid: cluster_uuid(),
        version: 1,
    };
    let image = compile(&policy, &input).map_err(|error| fault(error.to_string()))?;
    let signer = Signer::new(cluster.dir(), "signer")?;
    for (name, content) in [
        ("cluster", cluster_uuid().to_vec()),
        ("anchor", signer.certificate()?),
        ("cms", signer.sign(&image)?),
        ("image", image),
    ] {
        munster.write(&format!("{DIR}/{name}"), content)?;
    }
    Ok(())
}

/// How many.
fn wanted() -> u32 {
    let wanted = std::env::var("DSI_SOAK_CYCLES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// Tells what a process says, until it ends; fails as soon as the kernel complains.
fn told(cluster: &Cluster, node: &Node, soak: &Process, most: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + most;
    let mut told = 0;
    loop {
        let running = soak.is_running()?;
        let output = soak.output()?;
        for line in output.lines().skip(told) {
            println!("{line}");
            told += 1;
        }
        if !running {
            return Ok(());
        }
        let complaints = cluster.new_complaints();
        check!(complaints.is_empty(), "{}", complaints.join("\n"));
        check!(
            Instant::now() < deadline,
            "{}: it is not done after {} s",
            node.name,
            most.as_secs()
        );
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn cycles(cluster: &mut Cluster) -> TestResult {
    let munster = cluster.node("munster")?;
    let number = wanted().to_string();
    let mut command = munster.command(&["dsi-soak", "run", &number, DIR]);
    if let Ok(counts) = std::env::var("DSI_SOAK_COUNTS") {
        command = command.env("DSI_SOAK_COUNTS", &counts);
    }
    let soak = command.spawn("soak")?;
    told(
        cluster,
        munster,
        &soak,
        CYCLE * wanted() + Duration::from_secs(600),
    )?;
    let code = soak.join()?;
    check!(code == Some(0), "{code:?}: {}", soak.output()?);
    soak.wait_line("nothing lost, nothing left").map(drop)
}
