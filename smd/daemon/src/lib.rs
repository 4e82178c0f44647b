//! What makes `ssd` and `smd` good services: logs, metrics, readiness and shutdown, and their own ScID.
//!
//! Nothing in here knows what a daemon is for.

pub mod label;
pub mod logs;
pub mod metrics;
pub mod service;
