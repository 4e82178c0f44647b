//! An administrator's profile: the directory from which `dsictl` knows its cluster and who it is.
//!
//! `cluster.json` (name, UUID, servers), `ca.pem`, `admin.pem`, `admin.key` (private). The policy signers' key
//! may lie beside them, but is none of this module's business.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::address::ServerAddress;
use crate::files::{self, FileError};
use crate::pki::{self, PkiError, PrivateKey};
use crate::tls::{self, ClientCredentials, ConnectError, OwnCredentials};

/// Largest file of a profile.
const MAX_FILE: u64 = 64 * 1024;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file is missing, unreadable or not private.
    #[error("administrator's profile: {0}")]
    File(#[from] FileError),
    /// `cluster.json` is damaged.
    #[error("administrator's profile: {}: {source}", path.display())]
    Description {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A certificate or key is damaged.
    #[error("administrator's profile: {}: {source}", path.display())]
    Credential {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The cluster's name.
    pub name: String,
    /// The cluster's UUID.
    pub uuid: Uuid,
    /// Where its servers answer.
    pub servers: Vec<ServerAddress>,
}

/// An administrator's view of a cluster.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The cluster.
    pub cluster: Description,
    /// What the administrator connects with.
    pub credentials: ClientCredentials,
}

impl Profile {
    /// Reads a profile's directory.
    pub fn load(directory: &Path) -> Result<Self, ProfileError> {
        let path = directory.join("cluster.json");
        let cluster = serde_json::from_slice(&files::read(&path, MAX_FILE)?)
            .map_err(|source| ProfileError::Description { path, source })?;
        let certificate = |name: &str| {
            let path = directory.join(name);
            pki::certificate_from_pem(&files::read(&path, MAX_FILE)?)
                .map_err(|source| ProfileError::Credential { path, source })
        };
        let ca_der = certificate("ca.pem")?;
        let certificate_der = certificate("admin.pem")?;
        let path = directory.join("admin.key");
        let key = PrivateKey::from_pem(&files::read_private(&path, MAX_FILE)?)
            .map_err(|source| ProfileError::Credential { path, source })?;
        Ok(Self {
            cluster,
            credentials: ClientCredentials {
                ca_der,
                own: Some(OwnCredentials {
                    certificate_der,
                    key,
                }),
            },
        })
    }

    /// Writes the profile; its private key's file is private from its first moment.
    pub fn save(&self, directory: &Path) -> Result<(), FileError> {
        files::create_private_directory(directory)?;
        let mut description =
            serde_json::to_vec_pretty(&self.cluster).expect("plain strings are always JSON");
        description.push(b'\n');
        if let Some(own) = &self.credentials.own {
            files::write_private(&directory.join("admin.key"), own.key.to_pem().as_bytes())?;
            files::write_public(
                &directory.join("admin.pem"),
                pki::certificate_pem(&own.certificate_der).as_bytes(),
            )?;
        }
        files::write_public(
            &directory.join("ca.pem"),
            pki::certificate_pem(&self.credentials.ca_der).as_bytes(),
        )?;
        files::write_public(&directory.join("cluster.json"), &description)
    }

    /// Connects to one of the cluster's servers.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        tls::connect(&self.cluster.servers, &self.credentials).await
    }
}
