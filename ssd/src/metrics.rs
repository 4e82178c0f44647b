//! What Prometheus is told about a server.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why something was refused; a fixed, small set of words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// The word.
    pub cause: &'static str,
}

/// A server's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Handshakes that succeeded.
    pub connections: Counter,
    /// Handshakes that failed.
    pub handshakes_failed: Counter,
    /// Managers connected.
    pub managers: Gauge,
    /// Nodes that joined since the start.
    pub joins: Counter,
    /// Joins refused, by cause.
    pub joins_refused: Family<Cause, Counter>,
    /// Policies taken since the start.
    pub policies: Counter,
    /// Policies refused, by cause.
    pub policies_refused: Family<Cause, Counter>,
    /// Version of the newest policy.
    pub policy_version: Gauge,
    /// Audit events received.
    pub audit_events: Counter,
    /// Audit events that managers had to drop.
    pub audit_dropped_by_managers: Counter,
    /// Attempts to write audit events that failed; each is made again until it succeeds.
    pub audit_write_failures: Counter,
}

impl Metrics {
    /// Fresh counters, and the registry that shows them.
    pub fn new() -> (Arc<Self>, Registry) {
        let metrics = Arc::new(Self::default());
        let mut registry = Registry::with_prefix("dsi_ssd");
        registry.register(
            "connections",
            "TLS handshakes that succeeded",
            metrics.connections.clone(),
        );
        registry.register(
            "handshakes_failed",
            "TLS handshakes that failed",
            metrics.handshakes_failed.clone(),
        );
        registry.register(
            "managers_connected",
            "Managers connected now",
            metrics.managers.clone(),
        );
        registry.register("joins", "Nodes that joined", metrics.joins.clone());
        registry.register(
            "joins_refused",
            "Joins refused",
            metrics.joins_refused.clone(),
        );
        registry.register(
            "policies_applied",
            "Policies taken",
            metrics.policies.clone(),
        );
        registry.register(
            "policies_refused",
            "Policies refused",
            metrics.policies_refused.clone(),
        );
        registry.register(
            "policy_version",
            "Version of the newest policy",
            metrics.policy_version.clone(),
        );
        registry.register(
            "audit_events",
            "Audit events received",
            metrics.audit_events.clone(),
        );
        registry.register(
            "audit_events_dropped_by_managers",
            "Audit events that managers had to drop",
            metrics.audit_dropped_by_managers.clone(),
        );
        registry.register(
            "audit_write_failures",
            "Failed attempts to write audit events, each made again until it succeeds",
            metrics.audit_write_failures.clone(),
        );
        (metrics, registry)
    }
}
