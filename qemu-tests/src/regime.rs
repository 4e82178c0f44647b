//! What suites without servers share once policies are in force: whose policy it is, which one is in
//! force where, and what the kernels have counted and told under it. It asks nothing of the product but
//! the compiler, and decides nothing: what must be refused is the suites' matter.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dsp_schema::{CompileInput, compile, parse};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::fault::{Failure, Fault};
use crate::node::{Node, Output, PATIENCE, Process};
use crate::signer::{Signer, cluster_uuid, install, set_anchor};
use crate::{check, check_eq};

/// The signer of a cluster's policies, and what is in force on its nodes.
pub struct Regime {
    signer: Signer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// The document in force, by node.
    in_force: BTreeMap<String, String>,
}

/// The harness ends what it has started. These rules come last, so that the others keep their numbers.
const SIGNALS: &str = "<process_permission><source_ScID>2</source_ScID><target_ScID>10</target_ScID><grant>signal</grant>\
</process_permission><process_permission><source_ScID>2</source_ScID><target_ScID>20</target_ScID><grant>signal</grant>\
</process_permission>";

/// Zones 10 and 20: ports 7010 to 7019 and 7020 to 7029, their own sockets, programs that the default zone starts in
/// them; the default zone and zone 20 within themselves.
pub const ZONES: &str = "
<socket_label><protocol>udp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7010-7019</port><new_ScID>10</new_ScID></socket_label>
<socket_label><protocol>udp</protocol><port>7020-7029</port><new_ScID>20</new_ScID></socket_label>
<socket_label><protocol>tcp</protocol><port>7020-7029</port><new_ScID>20</new_ScID></socket_label>
<socket_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<socket_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID>
  <grant>create bind connect listen accept send receive</grant></socket_permission>
<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>
<network_permission><source_ScID>2</source_ScID><target_ScID>2</target_ScID><grant>send receive connect</grant></network_permission>
<network_permission><source_ScID>20</source_ScID><target_ScID>20</target_ScID><grant>send receive connect</grant></network_permission>";

/// Zone 10 within itself.
pub const WITHIN_10: &str = "<network_permission><source_ScID>10</source_ScID><target_ScID>10</target_ScID>\
<grant>send receive connect</grant></network_permission>";

/// A document with these rules, zones 10 and 20, and nodes 1 and 2.
pub fn document(mode: &str, rules: &[&str]) -> String {
    format!(
        "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"{mode}\" default=\"deny\" unload=\"permit\"><contexts><context ScID=\"10\" name=\"ten\"/>\
         <context ScID=\"20\" name=\"twenty\"/></contexts><nodes><node SnID=\"1\" name=\"munster\"/>\
         <node SnID=\"2\" name=\"colby\"/></nodes><rules>\n{}\n{SIGNALS}</rules></DSP>",
        rules.join("\n")
    )
}

/// The same document, with a label on each TCP segment.
pub fn every_packet(document: &str) -> String {
    document.replacen("<DSP ", "<DSP tcp_labels=\"every-packet\" ", 1)
}

/// A network permission between zones, from any node or, as `NODE`, from one.
pub fn network(source: &str, node: &str, target: &str, grant: &str) -> String {
    let node = if node.is_empty() {
        String::new()
    } else {
        format!("<source_SnID>{node}</source_SnID>")
    };
    format!(
        "<network_permission><source_ScID>{source}</source_ScID>{node}<target_ScID>{target}</target_ScID>\
         <grant>{grant}</grant></network_permission>"
    )
}

/// What a suite's setup has left in its cluster for the tests.
pub fn kept<T: 'static>(cluster: &Cluster) -> Result<&T, Failure> {
    let kept = cluster.kept.as_ref().and_then(|kept| kept.downcast_ref());
    kept.ok_or_else(|| {
        Failure::Fault(Fault::Prepare {
            what: "the suite".into(),
            detail: "its setup has left nothing of this kind".into(),
        })
    })
}

/// Asks again and again, with the harness' patience.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        check!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// How many packets of IPv4 a node's kernel has handed up to TCP, UDP and the like: merged ones count once.
pub fn delivered(node: &Node) -> Result<usize, Failure> {
    let output = node
        .sh("awk '$1 == \"Ip:\" && $10 ~ /^[0-9]/ {print $10}' /proc/net/snmp")?
        .ok()?;
    let number = output.stdout.trim().parse();
    number.map_err(|_| Failure::new(output.describe()))
}

/// The numbers that a program has told, one a line.
pub fn numbers(process: &Process) -> Result<Vec<u64>, Failure> {
    let output = process.output()?;
    // The last line may not be whole yet.
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    Ok(whole.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The last one.
pub fn last_number(process: &Process) -> Result<u64, Failure> {
    let last = numbers(process)?.last().copied();
    last.ok_or_else(|| Failure::new("no number was told"))
}

/// A number of `TcpExt` that a node's kernel has counted.
pub fn tcp_ext(node: &Node, name: &str) -> Result<u64, Failure> {
    let script = format!(
        "awk '/^TcpExt:/ {{ if (!n) {{ for (i = 1; i <= NF; i++) if ($i == \"{name}\") n = i }} \
         else print $n }}' /proc/net/netstat"
    );
    let output = node.sh(&script)?.ok()?;
    let number = output.stdout.trim().parse();
    number.map_err(|_| Failure::new(output.describe()))
}

impl Regime {
    /// Makes the signer and has these nodes, which are enrolled, take its certificate as their anchor.
    pub fn establish(cluster: &Cluster, nodes: &[&str]) -> Result<Self, Failure> {
        let signer = Signer::new(cluster.dir(), "signer")?;
        for name in nodes {
            set_anchor(cluster.node(name)?, &signer)?.ok()?;
        }
        Ok(Self {
            signer,
            state: Mutex::default(),
        })
    }

    /// Puts a document in force on a node, unless it is already.
    pub fn enforce(&self, node: &Node, document: &str) -> Result<(), Failure> {
        if self.lock().in_force.get(&node.name).map(String::as_str) == Some(document) {
            return Ok(());
        }
        self.install(node, document)?.ok()?;
        Ok(())
    }

    /// Installs a document on a node as the next version. What is in force there is noted only when the kernel has taken it:
    /// after a refusal nothing is, and the next one is installed anew.
    pub fn install(&self, node: &Node, document: &str) -> Result<Output, Failure> {
        let fault = |detail: String| Fault::Prepare {
            what: "a policy of the suite".into(),
            detail,
        };
        let policy = parse("suite", document.as_bytes())
            .map_err(|faults| fault(dsp_schema::report::render(&faults, false)))?;
        let version = {
            let mut state = self.lock();
            state.version += 1;
            state.in_force.remove(&node.name);
            state.version
        };
        let input = CompileInput {
            cluster_uuid: cluster_uuid(),
            version,
        };
        let image = compile(&policy, &input).map_err(|error| fault(error.to_string()))?;
        let output = install(node, &image, &self.signer.sign(&image)?)?;
        if output.code == Some(0) {
            let mut state = self.lock();
            state.in_force.insert(node.name.clone(), document.into());
        }
        Ok(output)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's counters at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    node: String,
    values: BTreeMap<String, u64>,
}

impl Counters {
    /// Those of now.
    pub fn of(node: &Node) -> Result<Self, Failure> {
        // The kernel's own client says the same (suite `module`), but takes seconds to start.
        let output = node.run(&["dsictl", "--json", "status", "--local"])?.ok()?;
        let status: Value = serde_json::from_str(&output.stdout)
            .map_err(|error| Failure::new(format!("{error}: {}", output.describe())))?;
        let counters = status["counters"].as_object().into_iter().flatten();
        let values: BTreeMap<String, u64> = counters
            .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
            .collect();
        check!(
            values.contains_key("refused-no-permission"),
            "{}: the status has no counters: {status}",
            node.name
        );
        Ok(Self {
            node: node.name.clone(),
            values,
        })
    }

    /// One of them.
    pub fn value(&self, name: &str) -> Result<u64, Failure> {
        self.values
            .get(name)
            .copied()
            .ok_or_else(|| Failure::new(format!("{}: there is no counter {name}", self.node)))
    }

    /// How much one has risen since `before`.
    pub fn rise(&self, before: &Self, name: &str) -> Result<u64, Failure> {
        let value = |counters: &Self| counters.values.get(name).copied();
        match (value(self), value(before)) {
            (Some(now), Some(then)) if now >= then => Ok(now - then),
            (now, then) => Err(Failure::new(format!(
                "{}: counter {name} went from {then:?} to {now:?}",
                self.node
            ))),
        }
    }

    /// Waits until a node has ended so many connections since `before`, and fails if it has ended more.
    pub fn wait_aborted(node: &Node, before: &Self, count: u64) -> Result<(), Failure> {
        let aborted = || Self::of(node)?.rise(before, "flows-aborted");
        // One whose socket a process holds is ended after the command is answered.
        until("connections to be ended", || Ok(aborted()? >= count))?;
        check_eq!(aborted()?, count, "flows aborted on {}", node.name);
        Ok(())
    }

    /// The refusals since `before`, those that were none but in permissive mode included, by reason.
    pub fn refusals(&self, before: &Self) -> Result<BTreeMap<String, u64>, Failure> {
        let mut risen = BTreeMap::new();
        for name in self.values.keys() {
            if name.starts_with("refused-") || name.starts_with("would-refuse-") {
                let rise = self.rise(before, name)?;
                if rise > 0 {
                    risen.insert(name.clone(), rise);
                }
            }
        }
        Ok(risen)
    }
}

/// A denial, as the kernel's log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    line: String,
}

impl Denial {
    /// Waits for one after a mark. `head` is what the line starts with behind the module's name.
    pub fn wait(node: &Node, mark: u64, head: &str) -> Result<Self, Failure> {
        let line = node.wait_kernel_line(mark, &format!("dsm: {head}"))?;
        Ok(Self { line })
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let words = self.line.split_whitespace();
        words
            .filter_map(|word| word.split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Fails unless a field has this value.
    pub fn says(&self, name: &str, value: &str) -> Result<(), Failure> {
        check_eq!(self.field(name), Some(value), "{name} in '{}'", self.line);
        Ok(())
    }

    /// Source and destination of the packet or socket: the words before and after the arrow.
    pub fn ends(&self) -> Result<(&str, &str), Failure> {
        let words: Vec<&str> = self.line.split_whitespace().collect();
        let ends = words
            .windows(3)
            .find(|words| words[1] == "->")
            .map(|words| (words[0], words[2]));
        ends.ok_or_else(|| Failure::new(format!("no addresses in '{}'", self.line)))
    }
}
