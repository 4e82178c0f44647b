//! The security server of DSI: it keeps what the cluster has decided, and tells everybody concerned.
//!
//! ```text
//! services (gRPC) ──Command──▶ Store ──State::decide──▶ Change ──fsync──▶ State
//!      ▲                                                                   │ revision
//!      └──────────── sessions: what is due to this manager? ◀──────────────┘
//! ```
//!
//! The server believes no policy that the policy signers have not signed, and holds no key that could sign one.

#![forbid(unsafe_code)]

pub mod audit;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod hub;
pub mod keys;
pub mod metrics;
pub mod policies;
mod rotation;
pub mod server;
mod services;
mod session;
pub mod state;
pub mod store;
