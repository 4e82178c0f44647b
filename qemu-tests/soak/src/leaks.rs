//! What the module leaves behind. The guest's kernel notes by whom each object of its slab caches was made
//! (`slab_debug=U`), which also makes the caches count exactly. There are two looks, both while the module is away:
//!
//! - **What the module made.** A stack in which an address has no name any more is one of the unloaded module's. There
//!   must be no object with one, nor such a caller in `/proc/vmallocinfo`: a single object is found, whatever its size,
//!   and however many there are of its cache.
//! - **What it made others keep**, such as by a reference that it did not put, and memory that no stack tells of. Each
//!   count is taken ten times. The least of the last three may not be above the most of the first three by more than a
//!   quarter of the cycles: what one cycle leaves makes that half of them. Counts rise and fall with the traffic, and
//!   those of caches without notes go by whole slabs, so the bound is never below [`NOISE`]: a run of less than four
//!   hundred cycles finds by this look only what leaves several objects a cycle.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::traffic::PATIENCE;
use crate::{Outcome, at};

/// By how much counts differ without any leak.
const NOISE: i64 = 150;
/// How often they are taken.
const LOOKS: u32 = 10;
const SLAB: &str = "/sys/kernel/debug/slab";

/// Caches that the module makes objects of, itself or by a call.
const MADE: [&str; 4] = ["kmalloc-", "cred", "key_jar", "vmap_area"];

/// Pieces of the allocation traces that `wanted` picks, each with its cache.
fn traces(wanted: impl Fn(&str) -> bool) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    let mut read = 0;
    for entry in fs::read_dir(SLAB).map_err(at(SLAB))? {
        let entry = entry.map_err(at(SLAB))?;
        let cache = entry.file_name().to_string_lossy().into_owned();
        if !MADE.iter().any(|made| cache.starts_with(made)) {
            continue;
        }
        let path = entry.path().join("alloc_traces");
        // A cache can go meanwhile.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        read += usize::from(text.contains(" pid="));
        let picked = text.split("\n\n").filter(|piece| wanted(piece));
        found.extend(picked.map(|piece| format!("{cache}: {}", piece.trim())));
    }
    if read == 0 {
        return Err(format!(
            "{SLAB} tells of no allocation: the kernel wants slab_debug=U"
        ));
    }
    Ok(found)
}

/// An address of the kernel that has no name: `%pS` of what is no more.
fn is_nameless(text: &str) -> bool {
    text.split_whitespace()
        .any(|word| word.starts_with("0xffffffff"))
}

/// That the looks are no blind ones: while it is loaded, there are objects of the module.
pub(crate) fn owns_something() -> Outcome<()> {
    let found = traces(|piece| piece.contains("[dsm]"))?;
    if found.is_empty() {
        return Err(
            "no object is the module's while it is loaded: its leaks would not be seen".into(),
        );
    }
    Ok(())
}

/// The kernel keeps copies of keys that are made in its first five minutes, and of the anchor with them, in case that a
/// policy of IMA comes that wants them measured.
const KEPT_BY_IMA: &str = "ima_queue_key";

/// What the module, which is away, has made.
fn left() -> Outcome<Vec<String>> {
    let mut found = traces(|piece| is_nameless(piece) && !piece.contains(KEPT_BY_IMA))?;
    let areas = fs::read_to_string("/proc/vmallocinfo").map_err(at("vmallocinfo"))?;
    let areas = areas.lines().filter(|line| {
        line.split_whitespace()
            .nth(2)
            .is_some_and(|caller| caller.starts_with("0xffffffff"))
    });
    found.extend(areas.map(|line| format!("vmalloc: {line}")));
    Ok(found)
}

/// Fails if the module, which is away, has left something. A packet that it made may still be on its way.
fn leaves_nothing() -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = left()?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the module left: {}", left.join("\n")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Counts of everything, by name.
type Counts = BTreeMap<String, i64>;

fn counts() -> Outcome<Counts> {
    let write = |path: &str, what: &str| fs::write(path, what).map_err(at(path));
    let read = |path: &str| fs::read_to_string(path).map_err(at(path));
    // Directory entries and inodes that nobody uses, and what CPUs have not added up yet.
    write("/proc/sys/vm/drop_caches", "2")?;
    write("/proc/sys/vm/stat_refresh", "1")?;
    let mut counts = Counts::new();
    let mut slab_pages = 0;
    for line in read("/proc/slabinfo")?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
        if let (Some(active), Some(per_slab), Some(slabs)) = (number(1), number(5), number(14)) {
            counts.insert(format!("slab {}", words[0]), active);
            slab_pages += per_slab * slabs;
        }
    }
    // Objects of more than two pages are in no cache.
    for line in read("/proc/vmstat")?.lines() {
        if let Some((name, value)) = line.split_once(' ')
            && let Ok(value) = value.parse::<i64>()
            && name.starts_with("nr_slab_")
        {
            *counts.entry("pages of large objects".into()).or_default() += value;
        }
    }
    *counts.entry("pages of large objects".into()).or_default() -= slab_pages;
    for line in read("/proc/vmallocinfo")?.lines() {
        if let Some(caller) = line.split_whitespace().nth(2) {
            let caller = caller.split('+').next().unwrap_or(caller);
            *counts.entry(format!("vmalloc {caller}")).or_default() += 1;
        }
    }
    for line in read("/proc/meminfo")?.lines() {
        if let Some(kib) = line.strip_prefix("Percpu:") {
            let kib = kib.trim().trim_end_matches(" kB").parse::<i64>();
            counts.insert(
                "pages of per-CPU memory".into(),
                kib.unwrap_or_default() / 4,
            );
        }
    }
    Ok(counts)
}

/// The counts of a run.
pub(crate) struct Ledger {
    cycles: u32,
    counts: Vec<Counts>,
}

impl Ledger {
    pub(crate) fn new(cycles: u32) -> Self {
        Self {
            cycles,
            counts: Vec::new(),
        }
    }

    /// Whether it has no counts yet.
    pub(crate) fn is_first(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether to look after this cycle: after each tenth of all.
    pub(crate) fn is_due(&self, cycle: u32) -> bool {
        let tenth = |cycle: u32| u64::from(cycle) * u64::from(LOOKS) / u64::from(self.cycles);
        tenth(cycle) > tenth(cycle - 1)
    }

    /// Takes the counts, and after the first tenth and the last looks for what the module has made: to read who made
    /// each object takes an emulated guest long, and what is left stays.
    pub(crate) fn look(&mut self, cycle: u32) -> Outcome<()> {
        if self.counts.is_empty() || cycle == self.cycles {
            leaves_nothing()?;
        }
        let symbols = fs::read_to_string("/proc/kallsyms").map_err(at("kallsyms"))?;
        if symbols.contains("[dsm]") {
            return Err("the kernel still knows symbols of the module".into());
        }
        self.counts.push(counts()?);
        if std::env::var_os("DSI_SOAK_COUNTS").is_some() {
            println!("counts {cycle} {:?}", self.counts.last());
        }
        Ok(())
    }

    /// Fails if a count has risen with the cycles.
    pub(crate) fn judge(&self) -> Outcome<()> {
        let bound = NOISE.max(i64::from(self.cycles) / 4);
        let risen: Vec<String> = rises(&self.counts)
            .into_iter()
            .filter(|(_, rise)| *rise > 0)
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .map(|(name, rise)| format!("{name} by {rise}"))
            .collect();
        println!(
            "cycle {}: risen of {} counts, each by {bound} at most: {}",
            self.cycles,
            self.counts.last().map_or(0, Counts::len),
            if risen.is_empty() {
                "none".into()
            } else {
                risen.join(", ")
            }
        );
        let leaks: Vec<String> = rises(&self.counts)
            .into_iter()
            .filter(|(_, rise)| *rise > bound)
            .map(|(name, rise)| {
                let all = self
                    .counts
                    .iter()
                    .map(|c| c.get(name.as_str()).copied().unwrap_or_default());
                format!("{name} rose by {rise}: {:?}", all.collect::<Vec<_>>())
            })
            .collect();
        if leaks.is_empty() {
            return Ok(());
        }
        Err(leaks.join("; "))
    }
}

/// By how much the least of the last third is above the most of the first third.
fn rises(counts: &[Counts]) -> BTreeMap<String, i64> {
    let third = (counts.len() / 3).max(1);
    let value = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or_default();
    let names = counts.iter().flat_map(Counts::keys);
    names
        .map(|name| {
            let first = counts.iter().take(third).map(|counts| value(counts, name));
            let last = counts
                .iter()
                .rev()
                .take(third)
                .map(|counts| value(counts, name));
            let rise = last.min().unwrap_or_default() - first.max().unwrap_or_default();
            (name.clone(), rise)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten counts of one name.
    fn ledger(cycles: u32, count: impl Fn(i64) -> i64) -> Ledger {
        let tenth = i64::from(cycles) / 10;
        let counts = (1..=10).map(|look| Counts::from([("slab x".into(), count(look * tenth))]));
        Ledger {
            cycles,
            counts: counts.collect(),
        }
    }

    #[test]
    fn one_object_a_cycle_is_found_in_noise_and_noise_is_none() {
        let noise = |cycle: i64| 1000 + cycle % 17 * 2;
        assert!(ledger(500, |cycle| noise(cycle) + cycle).judge().is_err());
        assert!(ledger(500, noise).judge().is_ok());
        assert!(ledger(500, |cycle| 1000 + cycle.min(150)).judge().is_ok());
    }

    #[test]
    fn a_look_is_due_after_each_tenth() {
        for cycles in [10, 20, 37, 500] {
            let ledger = ledger(cycles, |_| 0);
            let due = (1..=cycles).filter(|cycle| ledger.is_due(*cycle));
            let due: Vec<u32> = due.collect();
            assert_eq!((due.len(), due.last()), (10, Some(&cycles)));
        }
    }

    #[test]
    fn an_address_without_a_name_is_one_of_the_kernel() {
        assert!(is_nameless("3 kfree+0x1 pid=1\n        0xffffffffc0401234"));
        assert!(!is_nameless("3 dsm_alloc+0x1/0x20 [dsm] age=0 pid=0xf"));
    }
}
