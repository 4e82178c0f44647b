// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! A conversation with the cluster's server: the profile, and a connection under mutual TLS.

use std::path::{Path, PathBuf};

use dsi_proto::{
    files,
    policy::MAX_MESSAGE,
    profile::Profile,
    signature::{self, Signer},
    v1::admin_client::AdminClient,
};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::{
    failure::Failure,
    management::{self, Management},
};

/// File of the policy signers' private key in a profile.
pub const SIGNER_KEY: &str = "signer.key";
/// File of their certificate, the anchor.
pub const ANCHOR: &str = "anchor.der";
/// Largest file of a signer.
const MAX_SIGNER_FILE: u64 = 64 << 10;

/// An administrator's profile and the runtime that his calls are made on.
pub struct Session {
    directory: PathBuf,
    /// The profile.
    pub profile: Profile,
    management: Management,
    runtime: Runtime,
}

impl Session {
    /// Loads the profile. Nothing is sent yet.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        // First, while the process has one thread and no socket.
        let management = management::assume();
        let profile = Profile::load(directory).map_err(|source| Failure::Profile {
            directory: directory.to_owned(),
            source,
        })?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Failure::System {
                action: "starting the event loop",
                source,
            })?;
        Ok(Self {
            directory: directory.to_owned(),
            profile,
            management,
            runtime,
        })
    }

    /// Connects, and runs one conversation to its end.
    pub fn talk<R>(
        &self,
        conversation: impl AsyncFnOnce(AdminClient<Channel>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.runtime.block_on(async {
            let channel = self
                .profile
                .connect()
                .await
                .map_err(|source| Failure::Unreachable {
                    source,
                    management: match &self.management {
                        Management::Ready => None,
                        Management::Without(error) => Some(error.to_string()),
                    },
                })?;
            let client = AdminClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            conversation(client).await
        })
    }

    /// The anchor of the policy signers.
    pub fn anchor(&self) -> Result<Vec<u8>, Failure> {
        anchor(&self.directory)
    }

    /// The policy signer.
    pub fn signer(&self) -> Result<Signer, Failure> {
        signer(&self.directory)
    }
}

/// The anchor in a profile's directory.
pub fn anchor(directory: &Path) -> Result<Vec<u8>, Failure> {
    files::read(&directory.join(ANCHOR), MAX_SIGNER_FILE)
        .map_err(|source| Failure::SignerFile { source })
}

/// The policy signer in a profile's directory.
pub fn signer(directory: &Path) -> Result<Signer, Failure> {
    let path = directory.join(SIGNER_KEY);
    let pem = files::read_private(&path, MAX_SIGNER_FILE)
        .map_err(|source| Failure::SignerFile { source })?;
    let pem = zeroize::Zeroizing::new(pem);
    let text = std::str::from_utf8(&pem).unwrap_or_default();
    signature::load_signer(text, &anchor(directory)?)
        .map_err(|source| Failure::Signer { path, source })
}
