//! When a policy is believed: the check that server and manager both make before anything else happens to it.
//!
//! The image must be sound, signed by the policy signers, for this cluster, and made from the source that comes
//! with it. Whether its version rises is for the caller, who knows what is in force. The kernel checks signature,
//! cluster and version once more for itself.

use std::fmt;

use dsi_engine::image::{Image, ImageError, PolicyMeta};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::signature::{self, SignatureError, SignerInfo};
use crate::v1::PolicyBundle;

/// Longest image that is taken: 10^6 rules need less.
pub const MAX_IMAGE: usize = 32 << 20;

/// Longest source that is taken; the parser takes no longer one.
pub const MAX_SOURCE: usize = 64 << 20;

/// Longest signature that is taken.
pub const MAX_SIGNATURE: usize = 16 << 10;

/// Longest gRPC message that carries a policy.
pub const MAX_MESSAGE: usize = MAX_IMAGE + MAX_SOURCE + MAX_SIGNATURE + (64 << 10);

/// Why a policy is not believed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// A part is larger than it may be.
    #[error("the policy's {part} has {found} bytes; at most {limit} are taken")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// Its length.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// It is not signed as it should be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The image is broken, although its signature is good.
    #[error(
        "the policy image is broken: {0}; compile and sign it again with the `dsictl` of this release"
    )]
    Image(ImageError),
    /// It is another cluster's.
    #[error(
        "the policy is for cluster {found}, not for this one, {own}; compile and sign it for this cluster"
    )]
    ForeignCluster {
        /// Cluster in the image's header.
        found: Uuid,
        /// This cluster.
        own: Uuid,
    },
    /// The version outside is not that inside.
    #[error("the policy is handed over as version {claimed}, but its image says version {signed}")]
    VersionMismatch {
        /// Version of the message.
        claimed: u64,
        /// Version in the image's header.
        signed: u64,
    },
    /// The source is not the one that was compiled.
    #[error(
        "the policy's source is not what its image was made from (SHA-256 {found}, the image says {signed}); apply the XML file and its image together"
    )]
    SourceMismatch {
        /// Hash of the source that came with it.
        found: String,
        /// Hash in the image's header.
        signed: String,
    },
}

impl PolicyFault {
    /// Whether the fault is that the policy signers have not signed this.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Signature(_))
    }
}

/// A policy that is believed.
///
/// # Invariants
///
/// Made by [`verify`] only: the image is sound, signed by the anchor it was checked against, for the cluster it was
/// checked for, and made from the source.
#[derive(Clone)]
pub struct VerifiedPolicy {
    bundle: PolicyBundle,
    meta: PolicyMeta,
    signer: SignerInfo,
}

impl VerifiedPolicy {
    /// What is in the image's header.
    pub fn meta(&self) -> &PolicyMeta {
        &self.meta
    }

    /// Who has signed it.
    pub fn signer(&self) -> &SignerInfo {
        &self.signer
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.meta.version()
    }

    /// What the kernel does with a refusal under it.
    pub fn mode(&self) -> &'static str {
        if self.meta.enforcing() {
            "enforcing"
        } else {
            "permissive"
        }
    }

    /// Its parts.
    pub fn bundle(&self) -> &PolicyBundle {
        &self.bundle
    }

    /// Its parts, moved out.
    pub fn into_bundle(self) -> PolicyBundle {
        self.bundle
    }
}

impl fmt::Debug for VerifiedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VerifiedPolicy(version {}, {} bytes)",
            self.version(),
            self.bundle.image.len()
        )
    }
}

/// Checks a policy against the signers' anchor and the cluster that it should be for.
///
/// # Errors
/// The first [`PolicyFault`] found; the signature is checked before a byte of the image is interpreted.
pub fn verify(
    bundle: PolicyBundle,
    anchor_der: &[u8],
    cluster: Uuid,
) -> Result<VerifiedPolicy, PolicyFault> {
    bounded("image", &bundle.image, MAX_IMAGE)?;
    bounded("source", &bundle.source, MAX_SOURCE)?;
    bounded("signature", &bundle.signature, MAX_SIGNATURE)?;
    let signer = signature::verify_detached(anchor_der, &bundle.image, &bundle.signature)?;
    let meta = Image::validate(&bundle.image)
        .map_err(PolicyFault::Image)?
        .meta();
    let found = Uuid::from_bytes(*meta.cluster());
    if found != cluster {
        return Err(PolicyFault::ForeignCluster {
            found,
            own: cluster,
        });
    }
    if bundle.version != meta.version() {
        return Err(PolicyFault::VersionMismatch {
            claimed: bundle.version,
            signed: meta.version(),
        });
    }
    let source = Sha256::digest(&bundle.source);
    if source[..] != meta.source_sha256()[..] {
        return Err(PolicyFault::SourceMismatch {
            found: hex(&source),
            signed: hex(meta.source_sha256()),
        });
    }
    Ok(VerifiedPolicy {
        bundle,
        meta,
        signer,
    })
}

fn bounded(part: &'static str, bytes: &[u8], limit: usize) -> Result<(), PolicyFault> {
    if bytes.len() > limit {
        return Err(PolicyFault::TooLarge {
            part,
            found: bytes.len(),
            limit,
        });
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
