//! Where the cluster's decisions are kept: the interface that one server and a replicated group share.
//!
//! A store takes commands, puts them in one order, keeps what they change, and tells when something has changed.
//! It decides nothing itself: that is [`State`]'s. What [`Store::propose`] has acknowledged survives a crash.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use tokio::sync::watch;

use crate::state::{Command, Outcome, Rejection, State};

mod local;

pub use local::LocalStore;

/// Files of a policy as they were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFiles {
    /// What is enforced.
    pub image: Vec<u8>,
    /// The XML.
    pub source: Vec<u8>,
    /// Detached CMS over the image, DER.
    pub signature: Vec<u8>,
}

/// A store that cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("store {}: {source}", path.display())]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A stored record makes no sense: the file is damaged, or of a newer release.
    #[error("store {}: record `{key}` of table `{table}` is damaged: {fault}; restore the file from a backup", path.display())]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// The record's table.
        table: &'static str,
        /// The record.
        key: String,
        /// What is wrong with it.
        fault: String,
    },
    /// There is no store where one should be.
    #[error("store {}: not there; `dsictl cluster init` makes one", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is one where none should be.
    #[error("store {}: there already; a cluster is initialised once", path.display())]
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// Its file cannot be prepared.
    #[error("store {}: {source}", path.display())]
    File {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store's thread is gone, after a failure that was logged.
    #[error("the store has stopped after a failure")]
    Stopped,
}

/// A command that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The cluster's state does not allow it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store cannot do its work.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Counts the commands that changed something: who has seen revision n knows all changes up to it.
pub type Revision = u64;

/// An ordered log of commands and the state that they lead to.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Carries a command out; returns when what it changed cannot be lost any more. `files` go with
    /// [`Command::AddPolicy`] and are kept with it, or not at all.
    async fn propose(
        &self,
        command: Command,
        files: Option<Arc<PolicyFiles>>,
    ) -> Result<Outcome, ProposeError>;

    /// The state as of now. Held only for moments: proposals wait for it.
    fn state(&self) -> RwLockReadGuard<'_, State>;

    /// Tells when the state has changed.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// The files of a policy; none if there is no such version.
    async fn policy_files(&self, version: u64) -> Result<Option<Arc<PolicyFiles>>, StoreError>;
}
