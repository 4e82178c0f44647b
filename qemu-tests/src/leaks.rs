//! What a kernel with kmemleak (`scripts/debug-kernel`) knows of memory that nothing refers to any more.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::fault::Failure;
use crate::node::Node;
use crate::suite::TestResult;
use crate::vm::Phase;

/// Has kmemleak look through all memory, twice: what is on its way between two places at the first look is not lost.
const SCAN: &str =
    "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug || exit 1
cd /sys/kernel/debug && echo scan >kmemleak && echo scan >kmemleak && cat kmemleak";

/// How long looking through all memory may take in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(900);

/// Fails if a node's kernel has lost memory that dsm.ko allocated. What else it has lost is printed.
///
/// # Errors
/// A leak, or a kernel that has no kmemleak, or has switched it off for want of memory.
pub fn none(cluster: &mut Cluster) -> TestResult {
    let ready = cluster.nodes().iter();
    for node in ready.filter(|node| node.phase() == Phase::Ready) {
        none_on(node)?;
    }
    Ok(())
}

fn none_on(node: &Node) -> TestResult {
    let look = node.command(&["sh", "-c", SCAN]).timeout(PATIENCE);
    let report = look.run()?.ok()?.stdout;
    let (ours, others): (Vec<&str>, Vec<&str>) =
        objects(&report).partition(|object| object.contains("[dsm]"));
    for object in others {
        println!("     {}: not of dsm.ko: {object}", node.name);
    }
    if ours.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} has lost memory of dsm.ko:\n{}",
        node.name,
        ours.join("\n")
    )))
}

/// The objects that a report of kmemleak names, each with the way by which it was allocated.
fn objects(report: &str) -> impl Iterator<Item = &str> {
    const HEAD: &str = "unreferenced object ";
    let starts: Vec<usize> = report.match_indices(HEAD).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .copied()
        .chain([report.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| report[start..end].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_report_are_told_apart() {
        let report = "unreferenced object 0xffff888004a0b000 (size 96):
  comm \"insmod\", pid 311, jiffies 4294913210
  backtrace (crc 7a8f3c51):
    __kmalloc_noprof+0x2f4/0x4a0
    dsm_entry_new+0x41/0x90 [dsm]
unreferenced object 0xffff888004a0c000 (size 32):
  comm \"swapper/0\", pid 1, jiffies 4294892301
  backtrace (crc 0):
    kmem_cache_alloc_noprof+0x1a0/0x300
";
        let found: Vec<&str> = objects(report).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("[dsm]") && found[0].ends_with("[dsm]"));
        assert!(found[1].contains("size 32") && !found[1].contains("[dsm]"));
        assert_eq!(objects("").count(), 0);
    }
}
