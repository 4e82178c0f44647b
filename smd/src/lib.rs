//! The security manager of DSI: it brings its node's kernel what the servers decided, and the servers what the
//! kernel refused.
//!
//! ```text
//!  servers ──stream──▶ link ──Event──▶ Machine ──Action──▶ kernel thread ──netlink──▶ dsm.ko
//!     ▲                                  │  ▲                                            │
//!     └──State, AuditBatch───────────────┘  └──────────────── audit thread ◀──multicast──┘
//! ```
//!
//! [`machine`] decides and touches nothing; [`driver`] does what it is told and decides nothing. The manager never
//! parses a policy's XML, and hands the kernel nothing that it does not believe itself. When it stops, the kernel
//! goes on enforcing.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod audit;
pub mod config;
pub mod driver;
pub mod join;
pub mod kernel;
mod link;
pub mod machine;
pub mod metrics;
pub mod operations;
pub mod peers;
pub mod persist;
