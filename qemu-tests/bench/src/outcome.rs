//! What a guest answers, read line by line into an [`Outcome`]; and every way in which a run can go wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a guest runs beside the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Config {
    /// The stock kernel without the module.
    Bare,
    /// The module with `hooks_only=1`: every hook claimed, each lets everything pass.
    Hooks,
    /// The module with node map, keys and an enforcing policy; every packet labelled and verified.
    Dsm,
    /// An nftables verdict map by the sender's address.
    NftMap,
    /// BPF programs in the hooks, each of which asks a hash map.
    BpfLsm,
    /// SELinux, with CIPSO labels on the packets.
    Cipso,
    /// As [`Config::Dsm`], with so many rules beside the workload's own.
    Rules(u32),
    /// As [`Config::Dsm`], beside another process that has so many connected TCP sockets open.
    Sockets(u32),
    /// As [`Config::Bare`], beside the same process.
    BareSockets(u32),
    /// As [`Config::Dsm`]; what memory grows by is measured, and no operation.
    Memory,
    /// The same without the module.
    BareMemory,
}

/// What memory is measured of, and what each is; the last three without the module would be nothing.
pub const MEMORY: [(&str, &str); 6] = [
    ("process", "process of a zone"),
    ("tcp_socket", "TCP socket of a zone, connected"),
    ("udp_socket", "UDP socket of a zone that has sent"),
    ("rule", "rule of the policy"),
    ("node", "node, with an address and a key"),
    ("module", "the module itself"),
];

/// What the counts are to be flat over: configurations that differ in one number only, the smallest first.
pub const SCALES: [&[Config]; 3] = [
    &[
        Config::Rules(10),
        Config::Rules(1_000),
        Config::Rules(100_000),
        Config::Rules(1_000_000),
    ],
    &[
        Config::Sockets(10),
        Config::Sockets(1_000),
        Config::Sockets(100_000),
    ],
    &[
        Config::BareSockets(10),
        Config::BareSockets(1_000),
        Config::BareSockets(100_000),
    ],
];

impl Config {
    /// All that the table is of, in its order.
    pub const ALL: [Self; 6] = [
        Self::Bare,
        Self::Hooks,
        Self::Dsm,
        Self::NftMap,
        Self::BpfLsm,
        Self::Cipso,
    ];

    /// The kernel's security modules: those that the configuration is about and no other.
    pub fn lsm(self) -> &'static str {
        match self {
            Self::Bare
            | Self::Hooks
            | Self::Dsm
            | Self::NftMap
            | Self::Rules(_)
            | Self::Sockets(_)
            | Self::BareSockets(_)
            | Self::Memory
            | Self::BareMemory => "capability",
            Self::BpfLsm => "capability,bpf",
            Self::Cipso => "capability,selinux",
        }
    }

    /// The configuration's name in the table and in the JSON.
    pub fn name(self) -> String {
        match self {
            Self::Bare => "bare".into(),
            Self::Hooks => "hooks".into(),
            Self::Dsm => "dsm".into(),
            Self::NftMap => "nft_map".into(),
            Self::BpfLsm => "bpf_lsm".into(),
            Self::Cipso => "cipso".into(),
            Self::Rules(n) => format!("rules_{n}"),
            Self::Sockets(n) => format!("sockets_{n}"),
            Self::BareSockets(n) => format!("bare_sockets_{n}"),
            Self::Memory => "memory".into(),
            Self::BareMemory => "bare_memory".into(),
        }
    }

    /// What the guest's first process is told on the kernel's command line.
    pub fn order(self) -> String {
        match self {
            Self::Rules(n) => format!("dsi_bench=dsm dsi_bench_rules={n}"),
            Self::Sockets(n) => format!("dsi_bench=dsm dsi_bench_sockets={n}"),
            Self::BareSockets(n) => format!("dsi_bench=bare dsi_bench_sockets={n}"),
            _ => format!("dsi_bench={}", self.name()),
        }
    }

    /// What else is on the kernel's command line. The kernel's own table of TCP connections is as large as on a machine
    /// with memory for many, or its chains would be what grows.
    pub fn tables(self) -> &'static str {
        match self {
            Self::Rules(_) | Self::Sockets(_) | Self::BareSockets(_) => " thash_entries=131072",
            _ => "",
        }
    }

    /// The guest's memory in MiB: the same for all that are compared with each other.
    pub fn memory(self) -> u32 {
        match self {
            Self::Bare | Self::Hooks | Self::Dsm | Self::NftMap | Self::BpfLsm | Self::Cipso => 512,
            _ => 2048,
        }
    }
}

/// The configurations of a name: one, with `scale` all of [`SCALES`], with `memory` also the one without the module.
pub fn configs(text: &str) -> Result<Vec<Config>, Fault> {
    let scales = || SCALES.into_iter().flatten().copied();
    match text {
        "scale" => return Ok(scales().collect()),
        "memory" => return Ok(vec![Config::BareMemory, Config::Memory]),
        _ => {}
    }
    let all = || Config::ALL.into_iter().chain(scales());
    let one = all().find(|config| config.name() == text);
    one.map(|config| vec![config]).ok_or_else(|| {
        let names: Vec<_> = all().map(Config::name).collect();
        let names = names.join(", ");
        Fault::Usage(format!(
            "configuration '{text}' is none of {names}, scale, memory"
        ))
    })
}

/// What memory grew by when there was more of one kind.
#[derive(Debug, Default)]
pub struct Growth {
    /// How many more.
    pub count: u32,
    /// Bytes by the place that they are in: a cache of the slab allocator, or one of its kind in parentheses.
    pub bytes: BTreeMap<String, i64>,
}

/// Instructions of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Median of the batches.
    pub median: f64,
    /// Cheapest batch.
    pub lowest: f64,
    /// Dearest batch.
    pub highest: f64,
    /// How often the operation was done between the profiler's marks.
    pub times: f64,
}

/// The complete answer of one guest.
#[derive(Debug)]
pub struct Outcome {
    /// What the guest ran.
    pub config: Config,
    /// Cost by the operation's name.
    pub costs: BTreeMap<String, Cost>,
    /// Growth of memory by kind.
    pub growths: BTreeMap<String, Growth>,
    /// What the guest says of its own set-up: module parameters, counters that moved.
    pub facts: BTreeMap<String, String>,
    /// The guest's kernel symbols by address; only a guest that is profiled tells them.
    pub symbols: BTreeMap<u64, String>,
}

/// Operations in the order of the table, and what each is.
pub const OPERATIONS: [(&str, &str); 8] = [
    ("udp_conn", "UDP there and back, connected, 64 bytes"),
    ("udp_unconn", "UDP there and back, unconnected, 64 bytes"),
    ("udp_fan_in", "UDP there and back, 16 clients in turn"),
    ("tcp_pp", "TCP there and back, 64 bytes"),
    ("tcp_crc", "TCP socket, connect, accept, close"),
    ("tcp_bulk_kib", "TCP bulk, a KiB"),
    ("execve", "execve"),
    ("fork_exit", "fork and exit"),
];

/// Operations that are measured beside many sockets only: the sockets in use are older than those.
pub const OLD_OPERATIONS: [(&str, &str); 2] = [
    ("udp_old", "UDP there and back, sockets older"),
    ("tcp_old", "TCP there and back, sockets older"),
];

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A file of the host cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// QEMU did not start or did not end by itself.
    #[error("{config}: QEMU: {what}; the guest's console is in {console}", config = config.name(), console = console.display())]
    Qemu {
        /// What the guest was to run.
        config: Config,
        /// What happened.
        what: String,
        /// Where the guest's console went.
        console: PathBuf,
    },
    /// The guest itself reported a fault, or its answer is not what was asked for.
    #[error("{config}: {what}; the guest's console is in {console}", config = config.name(), console = console.display())]
    Guest {
        /// What the guest was to run.
        config: Config,
        /// What is wrong.
        what: String,
        /// Where the guest's console went.
        console: PathBuf,
    },
}

impl Outcome {
    /// Reads a guest's answer. `Err` names the first thing that is wrong with it.
    /// With `only`, the guest measured that operation and no other.
    pub fn parse(config: Config, only: Option<&str>, answer: &str) -> Result<Self, String> {
        let mut outcome = Self {
            config,
            costs: BTreeMap::new(),
            growths: BTreeMap::new(),
            facts: BTreeMap::new(),
            symbols: BTreeMap::new(),
        };
        let mut done = false;
        for line in answer
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            match kind {
                "op" => {
                    let (name, cost) = cost(rest).ok_or_else(|| format!("cannot read '{line}'"))?;
                    outcome.costs.insert(name, cost);
                }
                "mem" => {
                    let (kind, count, place, bytes) =
                        growth(rest).ok_or_else(|| format!("cannot read '{line}'"))?;
                    let growth = outcome.growths.entry(kind).or_default();
                    growth.count = count;
                    growth.bytes.insert(place, bytes);
                }
                "fact" => {
                    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    outcome.facts.insert(name.into(), value.into());
                }
                "symbol" => {
                    let (address, name) =
                        symbol(rest).ok_or_else(|| format!("cannot read '{line}'"))?;
                    outcome.symbols.insert(address, name);
                }
                "done" => done = true,
                "fault" => return Err(rest.into()),
                _ => return Err(format!("cannot read '{line}'")),
            }
        }
        if !done {
            return Err("the guest ended before its work was done".into());
        }
        let kinds = match config {
            Config::Memory => &MEMORY[..],
            Config::BareMemory => &MEMORY[..3],
            _ => &[],
        };
        for (kind, _) in kinds {
            if !outcome.growths.contains_key(*kind) {
                return Err(format!("the guest measured no memory of the kind {kind}"));
            }
        }
        if !kinds.is_empty() {
            return Ok(outcome);
        }
        for (name, _) in OPERATIONS {
            if only.is_none_or(|o| o == name) && !outcome.costs.contains_key(name) {
                return Err(format!("the guest measured no {name}"));
            }
        }
        Ok(outcome)
    }
}

fn growth(text: &str) -> Option<(String, u32, String, i64)> {
    let mut words = text.split_whitespace();
    let mut word = || words.next().map(str::to_owned);
    let (kind, count, place, bytes) = (word()?, word()?, word()?, word()?);
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some((kind, count, place, bytes.parse().ok()?))
}

fn symbol(text: &str) -> Option<(u64, String)> {
    let (address, name) = text.split_once(' ')?;
    Some((u64::from_str_radix(address, 16).ok()?, name.to_owned()))
}

fn cost(text: &str) -> Option<(String, Cost)> {
    let mut words = text.split_whitespace();
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse::<f64>().ok().filter(|n| *n > 0.0);
    let cost = Cost {
        median: number()?,
        lowest: number()?,
        highest: number()?,
        times: number()?,
    };
    words.next().is_none().then_some((name, cost))
}

#[cfg(test)]
mod tests {
    use super::{Config, OPERATIONS, Outcome};

    fn complete() -> String {
        OPERATIONS
            .iter()
            .map(|(name, _)| format!("op {name} 10.5 10.0 11.0 7\n"))
            .chain(["fact rules 7\n".into(), "done\n".into()])
            .collect()
    }

    #[test]
    fn a_complete_answer_is_taken() {
        let outcome = Outcome::parse(Config::Bare, None, &complete()).unwrap();
        assert_eq!(outcome.costs.len(), OPERATIONS.len());
        assert_eq!(outcome.facts["rules"], "7");
    }

    #[test]
    fn an_answer_that_breaks_off_is_refused() {
        let answer = complete().replace("done\n", "");
        assert!(
            Outcome::parse(Config::Bare, None, &answer)
                .unwrap_err()
                .contains("ended before")
        );
    }

    #[test]
    fn an_answer_without_one_of_the_operations_is_refused() {
        let answer = complete().replace("op execve 10.5 10.0 11.0 7\n", "");
        assert!(
            Outcome::parse(Config::Bare, None, &answer)
                .unwrap_err()
                .contains("execve")
        );
    }

    #[test]
    fn a_fault_of_the_guest_is_refused_whatever_follows() {
        let answer = format!("fault nothing was verified\n{}", complete());
        assert_eq!(
            Outcome::parse(Config::Dsm, None, &answer).unwrap_err(),
            "nothing was verified"
        );
    }

    #[test]
    fn a_cost_of_nothing_is_refused() {
        let answer = complete().replace("op execve 10.5", "op execve 0.0");
        assert!(Outcome::parse(Config::Bare, None, &answer).is_err());
    }
}
