//! What a manager needs to survive alone, on its disk: who it is, the last good policy, the other nodes and the keys.
//!
//! Everything is written whole or not at all. The last good policy is one that the kernel has taken; what is read
//! back is verified again like anything from outside.

use std::path::{Path, PathBuf};

use dsi_proto::address::ServerAddress;
use dsi_proto::files::{self, FileError};
use dsi_proto::pki::{self, PkiError, PrivateKey};
use dsi_proto::policy;
use dsi_proto::tls::{ClientCredentials, OwnCredentials};
use dsi_proto::v1::{AuditBatch, PolicyBundle};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::peers::StoredPeers;

/// Who the node is; written last when it joins, so that its presence means that all else is there.
const NODE: &str = "node.json";
const CA: &str = "ca.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";
const ANCHOR: &str = "anchor.der";
const POLICY: &str = "policy.bin";
const PEERS: &str = "peers.bin";
const AUDIT: &str = "audit.bin";

/// Largest credential or description.
const MAX_SMALL: u64 = 64 << 10;

/// Largest file of peers: 65,535 nodes with 16 addresses each.
const MAX_PEERS: u64 = 64 << 20;

/// Largest file of audit events: a full queue.
const MAX_AUDIT: u64 = 64 << 20;

/// Stored state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node has not joined.
    #[error("{}: this node has not joined a cluster; run `smd join --token-file FILE` first", .0.display())]
    NotJoined(PathBuf),
    /// The description is damaged.
    #[error("{}: {source}; remove the directory and join again", path.display())]
    Description {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A certificate or key is damaged.
    #[error("{}: {source}; remove the directory and join again", path.display())]
    Credential {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: PkiError,
    },
    /// Stored state is damaged.
    #[error("{}: it is damaged: {source}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Its name.
    pub name: String,
    /// Its id.
    pub snid: u32,
    /// Its cluster.
    pub cluster: Uuid,
    /// Where the cluster's servers answer.
    pub servers: Vec<ServerAddress>,
    /// Its own addresses, as it has told them.
    pub addresses: Vec<std::net::IpAddr>,
}

/// A node that has joined: who it is, and whom it believes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who it is.
    pub node: NodeDescription,
    /// The policy signers' anchor, DER.
    pub anchor_der: Vec<u8>,
}

/// A manager's directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory at `path`; nothing is touched yet.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the node has joined.
    pub fn has_joined(&self) -> bool {
        self.0.join(NODE).exists()
    }

    /// Keeps everything about a node that has joined.
    pub fn save_identity(
        &self,
        identity: &Identity,
        credentials: &ClientCredentials,
    ) -> Result<(), FileError> {
        files::create_private_directory(&self.0)?;
        if let Some(own) = &credentials.own {
            files::write_private(&self.0.join(KEY), own.key.to_pem().as_bytes())?;
            files::write_public(
                &self.0.join(CERTIFICATE),
                pki::certificate_pem(&own.certificate_der).as_bytes(),
            )?;
        }
        files::write_public(
            &self.0.join(CA),
            pki::certificate_pem(&credentials.ca_der).as_bytes(),
        )?;
        files::write_public(&self.0.join(ANCHOR), &identity.anchor_der)?;
        let mut description =
            serde_json::to_vec_pretty(&identity.node).expect("plain strings are always JSON");
        description.push(b'\n');
        files::write_public(&self.0.join(NODE), &description)
    }

    /// Who the node is.
    pub fn identity(&self) -> Result<Identity, PersistError> {
        let path = self.0.join(NODE);
        let text = match files::read(&path, MAX_SMALL) {
            Err(error) if error.is_not_found() => {
                return Err(PersistError::NotJoined(self.0.clone()));
            }
            other => other?,
        };
        let node = serde_json::from_slice(&text)
            .map_err(|source| PersistError::Description { path, source })?;
        Ok(Identity {
            node,
            anchor_der: files::read(&self.0.join(ANCHOR), MAX_SMALL)?,
        })
    }

    /// What the manager connects with, as of now: the files may be replaced while it runs.
    pub fn credentials(&self) -> Result<ClientCredentials, PersistError> {
        let certificate = |name: &str| {
            let path = self.0.join(name);
            pki::certificate_from_pem(&files::read(&path, MAX_SMALL)?)
                .map_err(|source| PersistError::Credential { path, source })
        };
        let (ca_der, certificate_der) = (certificate(CA)?, certificate(CERTIFICATE)?);
        let path = self.0.join(KEY);
        let pem = Zeroizing::new(files::read_private(&path, MAX_SMALL)?);
        let key = PrivateKey::from_pem(&pem)
            .map_err(|source| PersistError::Credential { path, source })?;
        Ok(ClientCredentials {
            ca_der,
            own: Some(OwnCredentials {
                certificate_der,
                key,
            }),
        })
    }

    /// Keeps a policy that the kernel has taken.
    pub fn save_policy(&self, bundle: &PolicyBundle) -> Result<(), FileError> {
        files::write_private(&self.0.join(POLICY), &bundle.encode_to_vec())
    }

    /// The last good policy, not verified yet.
    pub fn policy(&self) -> Result<Option<PolicyBundle>, PersistError> {
        self.load(POLICY, policy::MAX_MESSAGE as u64)
    }

    /// Keeps what a server has told of the other nodes.
    pub fn save_peers(&self, peers: &StoredPeers) -> Result<(), FileError> {
        files::write_private(&self.0.join(PEERS), &Zeroizing::new(peers.encode_to_vec()))
    }

    /// What a server has told of the other nodes, not checked yet.
    pub fn peers(&self) -> Result<Option<StoredPeers>, PersistError> {
        self.load(PEERS, MAX_PEERS)
    }

    /// Keeps the audit events that no server is known to have.
    pub fn save_audit(&self, left: &AuditBatch) -> Result<(), FileError> {
        files::write_private(&self.0.join(AUDIT), &left.encode_to_vec())
    }

    /// The audit events that a former life of the manager has kept. They are not there any more: a manager that ends
    /// without keeping its own has lost them.
    pub fn take_audit(&self) -> Result<Option<AuditBatch>, PersistError> {
        let left = self.load(AUDIT, MAX_AUDIT);
        // What cannot be read will not be readable later.
        let _ = std::fs::remove_file(self.0.join(AUDIT));
        left
    }

    fn load<T: prost::Message + Default>(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<T>, PersistError> {
        let path = self.0.join(name);
        let bytes = match files::read_private(&path, limit) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => Zeroizing::new(other?),
        };
        T::decode(bytes.as_slice())
            .map(Some)
            .map_err(|source| PersistError::Damaged { path, source })
    }
}
