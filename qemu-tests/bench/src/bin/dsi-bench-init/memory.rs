//! What the kernel's memory grows by, object by object of its allocator: with so many more sockets, processes, rules
//! and nodes. The same without the module, where it can be had, is a boot of its own; what DSI adds is the difference.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use crate::full::Full;
use crate::twin::{Companion, Failure, expect};

/// Until what was freed has gone back: callbacks after grace periods, counters that are kept for each processor, and
/// connections that have ended, of which the kernel keeps something for a minute. This is the guest's time, in which an
/// idle minute takes the host no moment.
const SETTLE: Duration = Duration::from_secs(70);

/// Sockets of each kind.
const SOCKETS: u32 = 20_000;
/// Processes.
const PROCESSES: u32 = 5_000;
/// Rules of the smaller one of two policies, and what the larger one has more. Both images are beyond what the kernel
/// takes from elsewhere than its vmalloc area.
const RULES: u32 = 500_000;
/// Nodes.
const NODES: u32 = 10_000;

/// Bytes of a page.
const PAGE: i64 = 4096;

/// Bytes in use: by cache of the slab allocator, in larger pieces, in the vmalloc area and for each processor.
struct Usage(BTreeMap<String, i64>);

impl Usage {
    /// As it stands once nothing is being freed any more.
    fn now() -> Result<Self, Failure> {
        std::thread::sleep(SETTLE);
        // Objects that the processor keeps for the next to ask would count as used.
        for cache in fs::read_dir("/sys/kernel/slab")? {
            fs::write(cache?.path().join("shrink"), "1")?;
        }
        fs::write("/proc/sys/vm/stat_refresh", "1")?;
        let mut usage = BTreeMap::new();
        let mut slabs = 0;
        // name, objects in use, objects, size, objects in a slab, pages in a slab : ... : slabdata, slabs in use, slabs
        for line in fs::read_to_string("/proc/slabinfo")?.lines().skip(2) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| -> Result<i64, Failure> {
                let word = words.get(at).ok_or("a line of slabinfo is too short")?;
                Ok(word.parse()?)
            };
            let name = words.first().ok_or("slabinfo has an empty line")?;
            usage.insert((*name).to_owned(), number(1)? * number(3)?);
            slabs += number(14)? * number(5)? * PAGE;
        }
        let info = fs::read_to_string("/proc/meminfo")?;
        let bytes = |name: &str| -> Result<i64, Failure> {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .ok_or("meminfo lacks a line")?;
            let word = line
                .trim_start_matches(':')
                .split_whitespace()
                .next()
                .ok_or("meminfo lacks a number")?;
            Ok(word.parse::<i64>()? * 1024)
        };
        usage.insert("(large)".into(), bytes("Slab")? - slabs);
        usage.insert("(vmalloc)".into(), bytes("VmallocUsed")?);
        usage.insert("(percpu)".into(), bytes("Percpu")?);
        Ok(Self(usage))
    }

    /// One line for each place that has changed since.
    fn tell(&self, answer: &mut File, kind: &str, count: u32) -> Result<(), Failure> {
        for (place, bytes) in Self::now()?.0 {
            let added = bytes - self.0.get(&place).copied().unwrap_or(0);
            if added != 0 {
                writeln!(answer, "mem {kind} {count} {place} {added}")?;
            }
        }
        Ok(())
    }
}

/// Memory of the module itself, which `load` loads.
pub fn of_module(
    answer: &mut File,
    load: impl FnOnce(&mut File) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let before = Usage::now()?;
    load(answer)?;
    before.tell(answer, "module", 1)
}

/// Memory of sockets and processes; with the module also that of rules and nodes. With the module it must know of each.
pub fn measure(answer: &mut File, mut full: Option<&mut Full>) -> Result<(), Failure> {
    for (kind, task, count) in [
        ("tcp_socket", "hold", SOCKETS),
        ("udp_socket", "hold_udp", SOCKETS),
        ("process", "hold_processes", PROCESSES),
    ] {
        let known = known(full.as_deref_mut(), kind)?;
        let before = Usage::now()?;
        let mut companion = Companion::start(task, &count.to_string())?;
        before.tell(answer, kind, count)?;
        if let Some(full) = full.as_deref_mut() {
            let more = full.known(kind)? - known;
            expect(more >= u64::from(count), || {
                format!("of {count} of the kind {kind} the module knows {more}")
            })?;
        }
        companion.stop()?;
    }
    let Some(full) = full else {
        return Ok(());
    };
    full.install(Some(RULES), 2)?;
    let before = Usage::now()?;
    full.install(Some(2 * RULES), 3)?;
    before.tell(answer, "rule", RULES)?;
    let before = Usage::now()?;
    full.add_nodes(NODES)?;
    before.tell(answer, "node", NODES)
}

fn known(full: Option<&mut Full>, kind: &str) -> Result<u64, Failure> {
    full.map_or(Ok(0), |full| full.known(kind))
}
