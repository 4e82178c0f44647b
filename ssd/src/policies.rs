//! When a server takes a policy: it is signed, it is for this cluster, and its image is what its source says.
//!
//! The source is compiled again here and must give the same bytes: nobody, the signer included, can show one text
//! and enforce another.

use dsi_proto::policy::{self, PolicyFault, VerifiedPolicy};
use dsi_proto::v1::PolicyBundle;
use dsp_schema::{CompileError, CompileInput};
use uuid::Uuid;

use crate::state::{Cluster, PolicyRecord};
use crate::store::PolicyFiles;

/// Name of the source in messages; the server has no file of it.
const SOURCE_NAME: &str = "policy.xml";

/// Longest text of faults in the XML that is sent back.
const MAX_REPORT: usize = 4096;

/// Why a server does not take a policy.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not believed.
    #[error(transparent)]
    Fault(#[from] PolicyFault),
    /// The source is no policy.
    #[error("the policy's source is not valid:\n{0}")]
    Source(String),
    /// The source gives no image.
    #[error("the policy's source cannot be compiled: {0}")]
    Compile(#[from] CompileError),
    /// The image is another one.
    #[error(
        "the image is not what its source compiles to (first difference at byte {at}); sign the image that the `dsictl` of this release makes"
    )]
    OtherImage {
        /// Offset of the first byte that differs.
        at: usize,
    },
}

/// A policy that the server takes if its version rises.
#[derive(Debug)]
pub struct AcceptedPolicy {
    verified: VerifiedPolicy,
    label: String,
}

impl AcceptedPolicy {
    /// What is known about it, once it is applied.
    pub fn record(&self, comment: &str, applied_by: &str, applied_unix_ms: i64) -> PolicyRecord {
        let meta = self.verified.meta();
        PolicyRecord {
            version: meta.version(),
            enforcing: meta.enforcing(),
            label: self.label.clone(),
            comment: comment.to_owned(),
            applied_by: applied_by.to_owned(),
            applied_unix_ms,
            rules: meta.rules(),
            image_bytes: self.verified.bundle().image.len() as u64,
            source_sha256: *meta.source_sha256(),
        }
    }

    /// The cluster in its header.
    pub fn cluster(&self) -> Uuid {
        Uuid::from_bytes(*self.verified.meta().cluster())
    }

    /// Its files.
    pub fn into_files(self) -> PolicyFiles {
        let PolicyBundle {
            image,
            source,
            signature,
            ..
        } = self.verified.into_bundle();
        PolicyFiles {
            image,
            source,
            signature,
        }
    }
}

/// Checks everything about a policy that one server can check alone. Takes a while for a large one.
///
/// # Errors
/// See [`Refusal`].
pub fn check(bundle: PolicyBundle, cluster: &Cluster) -> Result<AcceptedPolicy, Refusal> {
    let verified = policy::verify(bundle, &cluster.anchor_der, cluster.uuid)?;
    let document = dsp_schema::parse(SOURCE_NAME, &verified.bundle().source).map_err(|faults| {
        let mut report = dsp_schema::report::render(&faults, false);
        if report.len() > MAX_REPORT {
            report.truncate(
                (0..=MAX_REPORT)
                    .rev()
                    .find(|&end| report.is_char_boundary(end))
                    .unwrap_or(0),
            );
            report.push_str("\n…");
        }
        Refusal::Source(report)
    })?;
    let input = CompileInput {
        cluster_uuid: *cluster.uuid.as_bytes(),
        version: verified.version(),
    };
    let compiled = dsp_schema::compile(&document, &input)?;
    let image = &verified.bundle().image;
    if compiled != *image {
        let same = compiled
            .iter()
            .zip(image)
            .take_while(|(ours, theirs)| ours == theirs)
            .count();
        return Err(Refusal::OtherImage { at: same });
    }
    Ok(AcceptedPolicy {
        verified,
        label: document.version_label.unwrap_or_default(),
    })
}
