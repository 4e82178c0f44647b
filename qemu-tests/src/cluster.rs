//! A cluster: nodes that were booted together on one network.

use std::any::Any;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::images::Images;
use crate::node::{Guest, Node};
use crate::switch::Switch;
use crate::vm::{Phase, Vm, VmSpec};

/// How long a guest may take to boot on a busy machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);

/// How much more memory a kernel with its checkers on (`scripts/debug-kernel`) wants.
const DEBUG_MEMORY: u32 = 3;

/// What a kernel with its checkers on is told besides: under KASAN, an interrupt that comes while the kernel finds out
/// what the processor can do takes addresses of five levels for wild ones.
const DEBUG_ARGS: &[&str] = &["no5lvl"];

/// A node that a suite wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Host name.
    pub name: &'static str,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Boots the kernel as it is packaged, which unpacks itself to a random address. Without this it is
    /// unpacked before, which saves seconds of emulation and leaves it at its linked address.
    pub kaslr: bool,
    /// Whether its memory is a file, `NODE/memory` in the cluster's directory, for as long as it runs.
    pub readable_memory: bool,
    /// Words added to the kernel's command line.
    pub kernel_args: &'static [&'static str],
    /// Words added to QEMU's command line.
    pub qemu_args: &'static [&'static str],
}

impl NodeSpec {
    /// A node with one CPU and the usual memory.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            cpus: 1,
            memory_mib: 512,
            kaslr: false,
            readable_memory: false,
            kernel_args: &[],
            qemu_args: &[],
        }
    }

    /// The same with this many CPUs.
    pub const fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// The same with this memory.
    pub const fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// The same with the kernel at a random address.
    pub const fn kaslr(mut self) -> Self {
        self.kaslr = true;
        self
    }

    /// The same with memory that can be read from outside.
    pub const fn readable_memory(mut self) -> Self {
        self.readable_memory = true;
        self
    }

    /// The same with words added to QEMU's command line.
    pub const fn qemu_args(mut self, args: &'static [&'static str]) -> Self {
        self.qemu_args = args;
        self
    }

    /// The same with words added to the kernel's command line.
    pub const fn kernel_args(mut self, args: &'static [&'static str]) -> Self {
        self.kernel_args = args;
        self
    }
}

/// Booted nodes on one switch. All of it ends when this is dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    /// The network between the nodes.
    pub switch: Switch,
    /// The images that the nodes run from.
    pub images: Images,
    /// What one test of a suite leaves to the next.
    pub kept: Option<Box<dyn Any + Send>>,
    dir: PathBuf,
    // The sockets' short path leads through this descriptor.
    _sockets: File,
}

/// Address of the node with this index on the cluster's network.
pub fn address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, index)
}

/// Its IPv6 address there.
pub fn address6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, index.into())
}

impl Cluster {
    /// Boots nodes with the payload disk; logs, sockets and the capture go to `dir`, which is emptied.
    /// Must be called by a thread that lives as long as the cluster.
    pub fn boot(
        specs: &[NodeSpec],
        images: &Images,
        payload: &Path,
        dir: &Path,
    ) -> Result<Self, Fault> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).map_err(Fault::host("create", dir))?;
        let sockets = File::open(dir).map_err(Fault::host("open", dir))?;
        // A socket's path has at most 107 bytes, and a checkout may lie deeper.
        let short = PathBuf::from(format!("/proc/self/fd/{}", sockets.as_raw_fd()));
        let names: Vec<String> = specs.iter().map(|spec| spec.name.to_owned()).collect();
        let switch = Switch::start(&names, &short, &dir.join("wire.pcap"))?;

        let indices: Vec<u8> = (1..=u8::MAX).take(specs.len()).collect();
        let hosts: Vec<_> = specs
            .iter()
            .zip(&indices)
            .map(|(spec, i)| (spec.name.to_owned(), address(*i)))
            .collect();
        let mut nodes = Vec::new();
        for (spec, index) in specs.iter().zip(indices) {
            let vm_spec = VmSpec {
                name: spec.name.to_owned(),
                index,
                ip: address(index),
                cpus: spec.cpus,
                memory_mib: spec.memory_mib * if images.is_debug() { DEBUG_MEMORY } else { 1 },
                kaslr: spec.kaslr,
                readable_memory: spec.readable_memory,
                kernel_args: spec
                    .kernel_args
                    .iter()
                    .chain(if images.is_debug() { DEBUG_ARGS } else { &[] })
                    .map(|arg| (*arg).to_owned())
                    .collect(),
                qemu_args: spec.qemu_args.iter().map(|arg| (*arg).to_owned()).collect(),
                hosts: hosts.clone(),
            };
            let (vm, control) = Vm::start(&vm_spec, images, payload, dir)?;
            nodes.push(Node::new(&vm_spec, vm, control, dir)?);
        }
        let deadline = Instant::now() + BOOT_PATIENCE;
        for node in &mut nodes {
            node.wait_ready(deadline)?;
        }
        Ok(Self {
            nodes,
            switch,
            images: images.clone(),
            kept: None,
            dir: dir.to_owned(),
            _sockets: sockets,
        })
    }

    /// The node of this name. Asking for one that the suite has not named is a fault of the suite.
    pub fn node(&self, name: &str) -> Result<&Node, Fault> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| Fault::Prepare {
                what: "the suite".into(),
                detail: format!("it asks for a node '{name}' that it has not named"),
            })
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What ends the nodes from another thread.
    pub(crate) fn guests(&self) -> Vec<Guest> {
        self.nodes.iter().map(Node::guest).collect()
    }

    /// Pulls a node's plug.
    pub fn power_off(&mut self, name: &str) {
        for node in self.nodes.iter_mut().filter(|node| node.name == name) {
            node.power_off();
        }
    }

    /// Where this run's logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fails if a node that should run does not answer.
    pub fn check_alive(&self) -> Result<(), Fault> {
        self.nodes
            .iter()
            .filter(|node| node.phase() == Phase::Ready)
            .try_for_each(Node::ping)
    }

    /// What the nodes' kernels have complained of since this was last asked.
    pub fn new_complaints(&self) -> Vec<String> {
        let of = |node: &Node| {
            node.new_complaints()
                .into_iter()
                .map(move |line| (node.name.clone(), line))
                .collect::<Vec<_>>()
        };
        self.nodes
            .iter()
            .flat_map(of)
            .map(|(name, line)| format!("{name}: {line}"))
            .collect()
    }

    /// Copies the guests' logs to the host.
    pub fn collect_logs(&self) {
        self.nodes.iter().for_each(Node::collect_logs);
    }

    /// A place in each node's console.
    pub fn console_marks(&self) -> Vec<u64> {
        self.nodes.iter().map(Node::kernel_mark).collect()
    }

    /// The tails of all logs, for a failure's report.
    pub fn log_tails(&self, lines: usize) -> String {
        self.log_tails_since(&vec![0; self.nodes.len()], lines)
    }

    /// The same, consoles from their marks on.
    pub fn log_tails_since(&self, marks: &[u64], lines: usize) -> String {
        let nodes = self.nodes.iter().zip(marks);
        nodes
            .map(|(node, mark)| node.log_tails(*mark, lines))
            .collect()
    }
}
