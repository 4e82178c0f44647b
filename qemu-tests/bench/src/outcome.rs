//! What a guest answers, read line by line into an [`Outcome`]; and every way in which a run can go wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// What of DSI a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Config {
    /// The stock kernel without the module.
    Bare,
    /// The module with `hooks_only=1`: every hook claimed, each lets everything pass.
    Hooks,
    /// The module with node map, keys and an enforcing policy; every packet labelled and verified.
    Dsm,
}

impl Config {
    /// The configuration's name in the table, in the JSON and on the guest's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Hooks => "hooks",
            Self::Dsm => "dsm",
        }
    }
}

impl FromStr for Config {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        [Self::Bare, Self::Hooks, Self::Dsm]
            .into_iter()
            .find(|config| config.name() == text)
            .ok_or_else(|| {
                Fault::Usage(format!(
                    "configuration '{text}' is none of bare, hooks, dsm"
                ))
            })
    }
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
        for (name, _) in OPERATIONS {
            if only.is_none_or(|o| o == name) && !outcome.costs.contains_key(name) {
                return Err(format!("the guest measured no {name}"));
            }
        }
        Ok(outcome)
    }
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
