//! What the parts of DSI say to each other, and how they come to believe it.
//!
//! The messages (`v1`), the certificates and roles behind the connections ([`pki`], [`tls`]), the join token
//! ([`token`]), the signature over a policy ([`signature`]) and the client of the kernel's netlink family
//! ([`netlink`]). No daemon's behaviour lives here, and no policy is interpreted here.

#![forbid(unsafe_code)]

pub mod address;
pub mod files;
pub mod netlink;
pub mod pki;
pub mod policy;
pub mod profile;
pub mod signature;
pub mod tls;
pub mod token;

/// The gRPC messages and services, as generated from `dsi/v1/*.proto`.
#[expect(
    missing_docs,
    reason = "generated; the .proto files carry the documentation"
)]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("dsi.v1");
}

/// Version of the manager protocol spoken by this build (`Hello.protocol`).
pub const PROTOCOL: u32 = 2;

/// Batches of audit events that a manager may have sent and no server answered.
pub const AUDIT_WINDOW: usize = 4;

/// Events in one batch.
pub const AUDIT_BATCH: usize = 256;

/// Port on which a server answers all its services unless configured otherwise.
pub const DEFAULT_PORT: u16 = 7430;
