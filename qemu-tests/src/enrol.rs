//! The module without servers: gives nodes their ids and label keys as a manager would, but through the
//! kernel's own netlink client, and derives the keys as docs say instead of asking the product.

use std::fmt::Write as _;
use std::hash::Hasher;

use serde_json::Value;
use siphasher::sip::SipHasher24;

use crate::cluster::{Cluster, address6};
use crate::fault::Failure;
use crate::images::GUEST_MODULE;
use crate::node::{Node, Output};

/// The cluster's UUID in suites without servers.
pub const CLUSTER: &str = "6f1c1a52b0a64c0a9f0e3d5a7c21e001";
/// Where the client is in the guest.
pub const YNL_DO: &str = "/opt/dsi/libexec/ynl-do";

/// A shell's script that is run by a process of a zone.
pub fn in_zone(zone: u32, script: &str) -> String {
    format!(
        "echo \"[\\\"task-set\\\", {{\\\"pid\\\": $$, \\\"scid\\\": {zone}}}]\" | {YNL_DO} >/dev/null && {script}"
    )
}

/// SipHash-2-4 over 64-bit words.
pub fn siphash(key: &[u8; 16], words: &[u64]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    let mut bytes = Vec::with_capacity(words.len() * 8);
    words
        .iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    hasher.write(&bytes);
    hasher.finish()
}

/// The receive secret of a node in an epoch, made up for tests.
pub fn secret(snid: u32, epoch: u8) -> [u8; 16] {
    std::array::from_fn(|i| (snid as u8).wrapping_mul(37) ^ epoch.wrapping_mul(91) ^ (i as u8))
}

/// The key of the direction `from` to `to`.
pub fn pair_key(from: u32, to: u32, epoch: u8) -> [u8; 16] {
    let secret = secret(to, epoch);
    let half = |number: u64| siphash(&secret, &[u64::from(from) << 8 | number]).to_le_bytes();
    let mut key = [0; 16];
    key[..8].copy_from_slice(&half(1));
    key[8..].copy_from_slice(&half(2));
    key
}

/// Bytes as `ynl-do` takes them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("hex:"), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Sends netlink requests, JSON lines as `ynl-do` takes them.
pub fn ynl(node: &Node, requests: &[Value]) -> Result<Output, Failure> {
    let lines: String = requests
        .iter()
        .map(|request| format!("{request}\n"))
        .collect();
    Ok(node.command(&[YNL_DO]).stdin(lines).run()?)
}

/// The same, going on after a refusal; returns the answers, those of refusals with the key `refused`.
pub fn ynl_all(node: &Node, requests: &[Value]) -> Result<Vec<Value>, Failure> {
    let lines: String = requests
        .iter()
        .map(|request| format!("{request}\n"))
        .collect();
    let output = node.command(&[YNL_DO, "--all"]).stdin(lines).run()?.ok()?;
    let answers: Result<Vec<Value>, _> = output.stdout.lines().map(serde_json::from_str).collect();
    answers.map_err(|error| Failure::new(format!("{}: {error}: {}", node.name, output.stdout)))
}

/// The module's state, as its netlink family tells it.
pub fn status(node: &Node) -> Result<Value, Failure> {
    let output = ynl(node, &[serde_json::json!(["status-get", {}])])?.ok()?;
    serde_json::from_str(&output.stdout)
        .map_err(|error| Failure::new(format!("{}: status: {error}: {}", node.name, output.stdout)))
}

/// Loads the module, with parameters.
pub fn load(node: &Node, parameters: &[&str]) -> Result<Output, Failure> {
    let mut argv = vec!["insmod", GUEST_MODULE];
    argv.extend(parameters);
    node.run(&argv)?.ok()
}

/// Unloads the module.
pub fn unload(node: &Node) -> Result<Output, Failure> {
    node.run(&["rmmod", "dsm"])?.ok()
}

/// A node's addresses of both families; the IPv6 one follows from its SnID, as its IPv4 one does.
pub fn addresses(snid: u32, address: &str) -> [String; 2] {
    [address.to_owned(), address6(snid as u8).to_string()]
}

/// The requests that make a node with SnID `own` a member of a cluster of these nodes (SnID, IPv4 address).
pub fn requests(own: u32, members: &[(u32, String)], epoch: u8) -> Vec<Value> {
    let mut requests =
        vec![serde_json::json!(["config-set", {"snid": own, "cluster": format!("hex:{CLUSTER}")}])];
    for (snid, address) in members {
        let mut node = serde_json::json!({"snid": snid, "address": addresses(*snid, address)});
        if *snid != own {
            node["key-epoch"] = epoch.into();
            node["tx-key"] = hex(&pair_key(own, *snid, epoch)).into();
        }
        requests.push(serde_json::json!(["node-set", node]));
    }
    requests.push(serde_json::json!(["key-set", {"epoch": epoch, "secret": hex(&secret(own, epoch)), "active": 1}]));
    requests
}

/// SnIDs (their indices) and addresses of these nodes.
pub fn members(cluster: &Cluster, names: &[&str]) -> Result<Vec<(u32, String)>, Failure> {
    names
        .iter()
        .map(|name| {
            cluster
                .node(name)
                .map(|node| (u32::from(node.index), node.ip.to_string()))
                .map_err(Failure::from)
        })
        .collect()
}

/// Makes these nodes, whose modules are loaded, one cluster without a policy.
pub fn enrol(cluster: &Cluster, names: &[&str], epoch: u8) -> Result<(), Failure> {
    let members = members(cluster, names)?;
    for name in names {
        let node = cluster.node(name)?;
        ynl(node, &requests(u32::from(node.index), &members, epoch))?.ok()?;
    }
    Ok(())
}
