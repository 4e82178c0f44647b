//! Proves that keys are wiped from the kernel's memory: when the node that they are shared with is expelled, when a
//! change of keys retires them, and when the module goes. The memory is read from outside, as QEMU has it.
//!
//! What is looked for are the keys that the module derives by itself: what came in by netlink has been in other
//! programs' memory too. No servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{CLUSTER, hex, load, pair_key, secret, unload, ynl};
use crate::fault::{Failure, Fault};
use crate::regime::{self, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "memory",
    proves: "keys are gone from the kernel's memory with their node, with their epoch and with the module",
    nodes: &[NodeSpec::new(NODE).readable_memory()],
    needs: &[Need::Module],
    setup,
    tests: TESTS,
};

const TESTS: &[Test] = tests! {
    "keys-in-use-found-ok" => in_use,
    "keys-of-expelled-nodes-wiped-those-of-others-found-ok" => expelled,
    "keys-of-a-retired-epoch-wiped-those-in-use-found-ok" => retired,
    "keys-wiped-by-unloading-ok" => unloaded,
};

const NODE: &str = "colby";
const OWN: u32 = 1;
/// Nodes that are members only for their keys; they stand side by side in the kernel's memory, expelled or not.
const OTHERS: std::ops::Range<u32> = 1001..1065;

type Key = [u8; 16];

/// Where in memory a key is.
type Places = BTreeMap<(u32, u8), BTreeSet<u64>>;

/// What the tests leave each other: which nodes are members.
struct Kept {
    members: Vec<u32>,
}

fn setup(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node(NODE)?;
    load(node, &[])?;
    let cluster_id = format!("hex:{CLUSTER}");
    let mut requests = vec![
        json!(["config-set", {"snid": OWN, "cluster": cluster_id}]),
        key_set(1),
    ];
    requests.extend(OTHERS.map(|snid| {
        let address = format!("10.78.{}.{}", snid >> 8, snid & 0xff);
        json!(["node-set", {"snid": snid, "address": [address]}])
    }));
    ynl(node, &requests)?.ok()?;
    cluster.kept = Some(Box::new(Kept {
        members: OTHERS.collect(),
    }));
    Ok(())
}

fn key_set(epoch: u8) -> Value {
    json!(["key-set", {"epoch": epoch, "secret": hex(&secret(OWN, epoch)), "active": 1}])
}

fn members(cluster: &Cluster) -> Result<Vec<u32>, Failure> {
    let kept: &Kept = regime::kept(cluster)?;
    Ok(kept.members.clone())
}

/// The keys of packets from these nodes in an epoch.
fn keys(of: &[u32], epoch: u8) -> BTreeMap<(u32, u8), Key> {
    of.iter()
        .map(|snid| ((*snid, epoch), pair_key(*snid, OWN, epoch)))
        .collect()
}

/// The node's memory, which goes on changing.
fn memory(cluster: &Cluster) -> Result<File, Failure> {
    let path = cluster.dir().join(NODE).join("memory");
    Ok(File::open(&path).map_err(Fault::host("open", &path))?)
}

fn read(memory: &File, into: &mut [u8], at: u64) -> Result<usize, Failure> {
    let read = memory.read_at(into, at);
    read.map_err(|error| Failure::new(format!("the node's memory: {error}")))
}

/// Where these keys are, in all of the memory.
fn find(memory: &File, keys: &BTreeMap<(u32, u8), Key>) -> Result<Places, Failure> {
    // Hardly any two bytes of the memory begin a key.
    let begin = |bytes: &[u8]| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let mut begins = vec![false; 1 << 16];
    keys.values().for_each(|key| begins[begin(key)] = true);
    const STEP: usize = 1 << 20;
    const MORE: usize = size_of::<Key>() - 1;
    let mut bytes = vec![0; STEP + MORE];
    let mut places = Places::new();
    for at in (0..).step_by(STEP) {
        let len = read(memory, &mut bytes, at)?;
        let ends = len.saturating_sub(MORE);
        for from in (0..ends).step_by(4096) {
            let part = &bytes[from..(from + 4096 + MORE).min(len)];
            // Much of a guest's memory has never been used.
            if part == &[0; 4096 + MORE][..part.len()] {
                continue;
            }
            for (i, pair) in part[..part.len() - MORE + 1].windows(2).enumerate() {
                if !begins[begin(pair)] {
                    continue;
                }
                for (name, key) in keys {
                    if part[i..].starts_with(key) {
                        let place = at + (from + i) as u64;
                        places.entry(*name).or_default().insert(place);
                    }
                }
            }
        }
        if len < bytes.len() {
            break;
        }
    }
    Ok(places)
}

/// Places at which a part of the key that was there is left: whoever frees memory writes over some of it.
fn left(
    memory: &File,
    keys: &BTreeMap<(u32, u8), Key>,
    places: &Places,
) -> Result<Vec<(u32, u8)>, Failure> {
    let mut left = Vec::new();
    for (name, key) in keys {
        for at in places.get(name).into_iter().flatten() {
            let mut bytes = Key::default();
            read(memory, &mut bytes, *at)?;
            if bytes.chunks(4).zip(key.chunks(4)).any(|(a, b)| a == b) {
                left.push(*name);
            }
        }
    }
    Ok(left)
}

/// Writes over what the kernel has used and given back: the stacks of its calls, which had the keys pass, and free pages.
const WASH: &str = "
import os, subprocess
for _ in range(2):
    for process in [subprocess.Popen(['sleep', '0.1']) for _ in range(24)]:
        process.wait()
open('/proc/self/oom_score_adj', 'w').write('1000')
open('/proc/sys/vm/drop_caches', 'w').write('3')
def free():
    return next(int(line.split()[1]) for line in open('/proc/meminfo') if line.startswith('MemFree'))
taken = []
while free() > 12000 and len(taken) < 256:
    taken.append(b'\\xa5' * (2 << 20))
print('washed', len(taken))
";

fn wash(cluster: &Cluster) -> TestResult {
    let node = cluster.node(NODE)?;
    node.run(&["python3", "-c", WASH])?.ok()?.says("washed")?;
    Ok(())
}

/// Where the keys are that are in use; each is somewhere.
fn found(cluster: &Cluster, keys: &BTreeMap<(u32, u8), Key>) -> Result<Places, Failure> {
    wash(cluster)?;
    let places = find(&memory(cluster)?, keys)?;
    let missing: Vec<_> = keys
        .keys()
        .filter(|key| !places.contains_key(key))
        .collect();
    check!(
        missing.is_empty(),
        "keys of (SnID, epoch) not in memory: {missing:?}"
    );
    let copies: usize = places.values().map(BTreeSet::len).sum();
    println!("  {} keys at {copies} places", keys.len());
    Ok(places)
}

/// These keys are nowhere: neither where they were nor elsewhere.
fn wiped(cluster: &Cluster, keys: &BTreeMap<(u32, u8), Key>, places: &Places) -> TestResult {
    let memory = memory(cluster)?;
    // Readers of the packet path are waited for.
    let mut still = Vec::new();
    until("the keys to be wiped where they were", || {
        still = left(&memory, keys, places)?;
        Ok(still.is_empty())
    })
    .map_err(|error| {
        Failure::new(format!(
            "{error}; those of (SnID, epoch) {still:?} are there"
        ))
    })?;
    // On stacks they are until something else takes their place.
    let mut elsewhere = Places::new();
    for _ in 0..5 {
        wash(cluster)?;
        elsewhere = find(&memory, keys)?;
        if elsewhere.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::new(format!(
        "keys are in memory at {elsewhere:x?}"
    )))
}

fn in_use(cluster: &mut Cluster) -> TestResult {
    found(cluster, &keys(&members(cluster)?, 1))?;
    // Those that the module has not been given the secret of are not: the search finds what is there.
    let others = find(&memory(cluster)?, &keys(&members(cluster)?, 2))?;
    check_eq!(others, Places::new(), "keys that nobody has made");
    Ok(())
}

fn expelled(cluster: &mut Cluster) -> TestResult {
    let (gone, stay): (Vec<u32>, Vec<u32>) = members(cluster)?
        .into_iter()
        .partition(|snid| snid % 2 == 0);
    let gone_keys = keys(&gone, 1);
    let places = found(cluster, &gone_keys)?;
    let requests: Vec<_> = gone
        .iter()
        .map(|snid| json!(["node-del", {"snid": snid}]))
        .collect();
    ynl(cluster.node(NODE)?, &requests)?.ok()?;
    wiped(cluster, &gone_keys, &places)?;
    found(cluster, &keys(&stay, 1))?;
    cluster.kept = Some(Box::new(Kept { members: stay }));
    Ok(())
}

fn retired(cluster: &mut Cluster) -> TestResult {
    let (node, members) = (cluster.node(NODE)?, members(cluster)?);
    ynl(node, &[key_set(2)])?.ok()?;
    let old = keys(&members, 1);
    let places = found(cluster, &old)?;
    ynl(node, &[key_set(3)])?.ok()?;
    wiped(cluster, &old, &places)?;
    for epoch in [2, 3] {
        found(cluster, &keys(&members, epoch))?;
    }
    Ok(())
}

fn unloaded(cluster: &mut Cluster) -> TestResult {
    let members = members(cluster)?;
    let mut all = keys(&members, 2);
    all.extend(keys(&members, 3));
    let places = found(cluster, &all)?;
    unload(cluster.node(NODE)?)?;
    wiped(cluster, &all, &places)
}
