//! The detached CMS signature over a policy image, and the policy signers' anchor.
