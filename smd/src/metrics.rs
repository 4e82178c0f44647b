//! What Prometheus is told about a manager and its node's kernel.

use std::sync::Arc;

use dsi_proto::netlink::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::machine::{self, Machine};

/// A counter of the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KernelCounter {
    /// Its name.
    pub name: String,
}

/// A manager's figures.
#[derive(Debug, Default)]
pub struct Metrics {
    connected: Gauge,
    module: Gauge,
    enforcing: Gauge,
    policy_version: Gauge,
    key_epoch: Gauge,
    nodes: Gauge,
    tasks: Gauge,
    sockets: Gauge,
    queued: Gauge,
    counters: Family<KernelCounter, Gauge>,
}

impl Metrics {
    /// Fresh figures, and the registry that shows them.
    pub fn new() -> (Arc<Self>, Registry) {
        let metrics = Arc::new(Self::default());
        let mut registry = Registry::with_prefix("dsi_smd");
        registry.register(
            "server_connected",
            "1 while a server is connected",
            metrics.connected.clone(),
        );
        registry.register(
            "module_present",
            "1 while the kernel module answers",
            metrics.module.clone(),
        );
        registry.register(
            "enforcing",
            "1 while the kernel carries refusals out",
            metrics.enforcing.clone(),
        );
        registry.register(
            "policy_version",
            "Policy in force in the kernel",
            metrics.policy_version.clone(),
        );
        registry.register(
            "key_epoch",
            "Key epoch of the kernel's labels",
            metrics.key_epoch.clone(),
        );
        registry.register(
            "kernel_nodes",
            "Nodes in the kernel's map",
            metrics.nodes.clone(),
        );
        registry.register(
            "kernel_tasks",
            "Tasks with a ScID of their own",
            metrics.tasks.clone(),
        );
        registry.register(
            "kernel_sockets",
            "Sockets that the kernel follows",
            metrics.sockets.clone(),
        );
        registry.register(
            "audit_queued",
            "Audit events that wait for a server",
            metrics.queued.clone(),
        );
        registry.register(
            "kernel_counter",
            "Counters of the kernel module",
            metrics.counters.clone(),
        );
        (metrics, registry)
    }

    /// Shows the manager's state.
    pub fn show(&self, machine: &Machine) {
        self.connected.set(machine.is_connected().into());
        self.queued.set(signed(machine.queued_events() as u64));
        let status = machine.status();
        self.module.set(status.is_some().into());
        self.enforcing
            .set(status.is_some_and(machine::is_enforcing).into());
        if let Some(status) = status {
            self.show_kernel(status);
        }
    }

    fn show_kernel(&self, status: &Status) {
        self.policy_version.set(signed(status.policy_version));
        self.key_epoch.set(status.key_epoch.into());
        self.nodes.set(status.nodes.into());
        self.tasks.set(signed(status.tasks));
        self.sockets.set(signed(status.sockets));
        for counter in &status.counters {
            let name = KernelCounter {
                name: counter.name.clone(),
            };
            self.counters
                .get_or_create(&name)
                .set(signed(counter.value));
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
