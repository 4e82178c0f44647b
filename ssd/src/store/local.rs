//! The store of a single server: one redb file, each command one fsync'ed transaction.
//!
//! All writes go through one thread, so commands have one order. The state in memory changes only after the
//! transaction that holds the change is durable.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};

use super::{PolicyFiles, ProposeError, Revision, Store, StoreError};
use crate::state::{
    Change, Cluster, Command, KeyEpochs, Node, Outcome, PolicyRecord, State, Token,
};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const NODES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("nodes");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
const SNIDS: TableDefinition<'_, u32, ()> = TableDefinition::new("snids");
const POLICIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policies");
const IMAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policy-images");
const SOURCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policy-sources");
const SIGNATURES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policy-signatures");

const CLUSTER: &str = "cluster";
const FORMAT: &str = "format";
const NODE_MAP_VERSION: &str = "node-map-version";
/// Absent before the first change of keys.
const KEY_EPOCHS: &str = "key-epochs";

/// Layout of the tables; a file of another one is refused, not guessed at.
const FORMAT_VERSION: u32 = 1;

/// Commands that wait for the writer; more callers wait for room.
const QUEUE: usize = 64;

/// A store in one file.
pub struct LocalStore {
    shared: Arc<Shared>,
    proposals: mpsc::Sender<Proposal>,
    revision: watch::Receiver<Revision>,
}

struct Shared {
    path: PathBuf,
    database: Database,
    state: RwLock<State>,
    newest: RwLock<Option<(u64, Arc<PolicyFiles>)>>,
}

struct Proposal {
    command: Command,
    files: Option<Arc<PolicyFiles>>,
    answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

impl LocalStore {
    /// Makes the store of a new cluster. Its file is private and must not exist.
    pub fn create(path: &Path, cluster: &Cluster) -> Result<(), StoreError> {
        if path.exists() {
            return Err(StoreError::Exists {
                path: path.to_owned(),
            });
        }
        // Under another name until it is whole: a store that can be opened is one that was finished.
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let failed = |source| StoreError::File {
            path: unfinished.clone(),
            source,
        };
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(failed)?;
        let error = |source: redb::Error| StoreError::Database {
            path: unfinished.clone(),
            source: Box::new(source),
        };
        let database = Database::create(&unfinished).map_err(|source| error(source.into()))?;
        let write = || -> Result<(), redb::Error> {
            let transaction = begin(&database)?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert(FORMAT, json(&FORMAT_VERSION).as_slice())?;
                meta.insert(CLUSTER, json(cluster).as_slice())?;
                meta.insert(NODE_MAP_VERSION, json(&0).as_slice())?;
                transaction.open_table(NODES)?;
                transaction.open_table(TOKENS)?;
                transaction.open_table(SNIDS)?;
                transaction.open_table(POLICIES)?;
                transaction.open_table(IMAGES)?;
                transaction.open_table(SOURCES)?;
                transaction.open_table(SIGNATURES)?;
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(error)?;
        drop(database);
        let finish = || {
            std::fs::rename(&unfinished, path)?;
            File::open(
                path.parent()
                    .filter(|parent| !parent.as_os_str().is_empty())
                    .unwrap_or(Path::new(".")),
            )?
            .sync_all()
        };
        finish().map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// Opens an existing store, reads its state and starts its writer.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing {
                path: path.to_owned(),
            });
        }
        let database = Database::open(path).map_err(|source| StoreError::Database {
            path: path.to_owned(),
            source: Box::new(source.into()),
        })?;
        let state = Reader {
            path,
            database: &database,
        }
        .state()?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            database,
            state: RwLock::new(state),
            newest: RwLock::new(None),
        });
        let (proposals, waiting) = mpsc::channel(QUEUE);
        let (changed, revision) = watch::channel(0);
        let writer = Writer {
            shared: shared.clone(),
            waiting,
            changed,
        };
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::File {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            shared,
            proposals,
            revision,
        })
    }
}

#[tonic::async_trait]
impl Store for LocalStore {
    async fn propose(
        &self,
        command: Command,
        files: Option<Arc<PolicyFiles>>,
    ) -> Result<Outcome, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.proposals
            .send(Proposal {
                command,
                files,
                answer,
            })
            .await
            .map_err(|_| StoreError::Stopped)?;
        answered.await.map_err(|_| StoreError::Stopped)?
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state.read()
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    async fn policy_files(&self, version: u64) -> Result<Option<Arc<PolicyFiles>>, StoreError> {
        let kept = self.shared.newest.read().clone();
        if let Some((newest, files)) = kept
            && newest == version
        {
            return Ok(Some(files));
        }
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.read_policy_files(version))
            .await
            .map_err(|_| StoreError::Stopped)?
    }
}

impl Shared {
    fn error(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source: Box::new(source.into()),
        }
    }

    fn read_policy_files(&self, version: u64) -> Result<Option<Arc<PolicyFiles>>, StoreError> {
        let read = || -> Result<Option<PolicyFiles>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let part = |table: TableDefinition<'_, u64, &'static [u8]>| -> Result<Option<Vec<u8>>, redb::Error> {
                Ok(transaction.open_table(table)?.get(version)?.map(|value| value.value().to_vec()))
            };
            let (Some(image), Some(source), Some(signature)) =
                (part(IMAGES)?, part(SOURCES)?, part(SIGNATURES)?)
            else {
                return Ok(None);
            };
            Ok(Some(PolicyFiles {
                image,
                source,
                signature,
            }))
        };
        let Some(files) = read().map_err(|source| self.error(source))? else {
            return Ok(None);
        };
        let files = Arc::new(files);
        if version == self.state.read().newest_policy() {
            *self.newest.write() = Some((version, files.clone()));
        }
        Ok(Some(files))
    }
}

struct Writer {
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Proposal>,
    changed: watch::Sender<Revision>,
}

impl Writer {
    fn run(mut self) {
        while let Some(Proposal {
            command,
            files,
            answer,
        }) = self.waiting.blocking_recv()
        {
            let outcome = self.carry_out(&command, files);
            if let Err(ProposeError::Store(error)) = &outcome {
                tracing::error!(%error, "a command could not be stored");
            }
            // Whoever asked may have gone; the command stands all the same.
            let _ = answer.send(outcome);
        }
    }

    fn carry_out(
        &self,
        command: &Command,
        files: Option<Arc<PolicyFiles>>,
    ) -> Result<Outcome, ProposeError> {
        let (outcome, changes) = self.shared.state.read().decide(command)?;
        if changes.is_empty() {
            return Ok(outcome);
        }
        self.persist(&changes, files.as_deref())
            .map_err(|source| self.shared.error(source))?;
        if let (Command::AddPolicy { record, .. }, Some(files)) = (command, files) {
            *self.shared.newest.write() = Some((record.version, files));
        }
        {
            let mut state = self.shared.state.write();
            changes.into_iter().for_each(|change| state.absorb(change));
        }
        self.changed.send_modify(|revision| *revision += 1);
        Ok(outcome)
    }

    fn persist(&self, changes: &[Change], files: Option<&PolicyFiles>) -> Result<(), redb::Error> {
        let transaction = begin(&self.shared.database)?;
        for change in changes {
            match change {
                Change::PutToken { name, token } => {
                    transaction
                        .open_table(TOKENS)?
                        .insert(name.as_str(), json(token).as_slice())?;
                }
                Change::DropToken { name } => {
                    transaction.open_table(TOKENS)?.remove(name.as_str())?;
                }
                Change::UseSnId { snid } => {
                    transaction.open_table(SNIDS)?.insert(snid, ())?;
                }
                Change::PutNode(node) => {
                    transaction
                        .open_table(NODES)?
                        .insert(node.snid, json(node).as_slice())?;
                }
                Change::DropNode { snid } => {
                    transaction.open_table(NODES)?.remove(snid)?;
                }
                Change::KeyEpochs(epochs) => {
                    transaction
                        .open_table(META)?
                        .insert(KEY_EPOCHS, json(epochs).as_slice())?;
                }
                Change::NodeMapVersion(version) => {
                    transaction
                        .open_table(META)?
                        .insert(NODE_MAP_VERSION, json(version).as_slice())?;
                }
                Change::PutPolicy(record) => {
                    transaction
                        .open_table(POLICIES)?
                        .insert(record.version, json(record).as_slice())?;
                    if let Some(files) = files {
                        transaction
                            .open_table(IMAGES)?
                            .insert(record.version, files.image.as_slice())?;
                        transaction
                            .open_table(SOURCES)?
                            .insert(record.version, files.source.as_slice())?;
                        transaction
                            .open_table(SIGNATURES)?
                            .insert(record.version, files.signature.as_slice())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    Ok(transaction)
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys and finite numbers only")
}

struct Reader<'a> {
    path: &'a Path,
    database: &'a Database,
}

impl Reader<'_> {
    fn state(&self) -> Result<State, StoreError> {
        let format: u32 = self.meta(FORMAT)?;
        if format != FORMAT_VERSION {
            return Err(self.damaged(
                "meta",
                FORMAT,
                format!("format {format} is not {FORMAT_VERSION}"),
            ));
        }
        let mut state = State::new(self.meta(CLUSTER)?);
        let epochs: Option<KeyEpochs> = self.meta_if_there(KEY_EPOCHS)?;
        let mut changes = vec![
            Change::NodeMapVersion(self.meta(NODE_MAP_VERSION)?),
            Change::KeyEpochs(epochs.unwrap_or_default()),
        ];
        let mut rows = Vec::new();
        self.rows(|transaction| {
            for row in transaction.open_table(SNIDS)?.iter()? {
                let snid = row?.0.value();
                changes.push(Change::UseSnId { snid });
            }
            for row in transaction.open_table(TOKENS)?.iter()? {
                let (key, value) = row?;
                rows.push(("tokens", key.value().to_owned(), value.value().to_vec()));
            }
            for row in transaction.open_table(NODES)?.iter()? {
                let (key, value) = row?;
                rows.push(("nodes", key.value().to_string(), value.value().to_vec()));
            }
            for row in transaction.open_table(POLICIES)?.iter()? {
                let (key, value) = row?;
                rows.push(("policies", key.value().to_string(), value.value().to_vec()));
            }
            Ok(())
        })?;
        for (table, key, value) in rows {
            changes.push(match table {
                "tokens" => Change::PutToken {
                    token: self.record::<Token>(table, &key, &value)?,
                    name: key,
                },
                "nodes" => Change::PutNode(self.record::<Node>(table, &key, &value)?),
                _ => Change::PutPolicy(self.record::<PolicyRecord>(table, &key, &value)?),
            });
        }
        changes.into_iter().for_each(|change| state.absorb(change));
        Ok(state)
    }

    fn meta<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, StoreError> {
        self.meta_if_there(key)?
            .ok_or_else(|| self.damaged("meta", key, "it is missing".into()))
    }

    fn meta_if_there<T: DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let mut found = None;
        self.rows(|transaction| {
            found = transaction
                .open_table(META)?
                .get(key)?
                .map(|value| value.value().to_vec());
            Ok(())
        })?;
        found
            .map(|value| self.record("meta", key, &value))
            .transpose()
    }

    fn rows(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let all = || read(&self.database.begin_read()?);
        all().map_err(|source| StoreError::Database {
            path: self.path.to_owned(),
            source: Box::new(source),
        })
    }

    fn record<T: DeserializeOwned>(
        &self,
        table: &'static str,
        key: &str,
        value: &[u8],
    ) -> Result<T, StoreError> {
        serde_json::from_slice(value).map_err(|error| self.damaged(table, key, error.to_string()))
    }

    fn damaged(&self, table: &'static str, key: &str, fault: String) -> StoreError {
        StoreError::Damaged {
            path: self.path.to_owned(),
            table,
            key: key.to_owned(),
            fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use uuid::Uuid;

    use super::*;
    use crate::state::{NodeSecret, Rejection};

    fn cluster() -> Cluster {
        Cluster {
            name: "test".into(),
            uuid: Uuid::from_u128(7),
            anchor_der: vec![1, 2, 3],
        }
    }

    fn token(name: &str) -> Command {
        Command::CreateToken {
            name: name.into(),
            snid: None,
            hash: [7; 32],
            expires_unix_ms: 100,
            created_by: "anna".into(),
            now_unix_ms: 0,
        }
    }

    fn policy(version: u64) -> (Command, Arc<PolicyFiles>) {
        let record = PolicyRecord {
            version,
            enforcing: true,
            label: "l".into(),
            comment: "c".into(),
            applied_by: "anna".into(),
            applied_unix_ms: 5,
            rules: 1,
            image_bytes: 3,
            source_sha256: [9; 32],
        };
        let part = |kind: u8| vec![kind, version as u8];
        let files = Arc::new(PolicyFiles {
            image: part(1),
            source: part(2),
            signature: part(3),
        });
        (
            Command::AddPolicy {
                record,
                cluster: cluster().uuid,
            },
            files,
        )
    }

    /// Opens a store whose last user was dropped: the writer lets go of the file when its last command is done.
    async fn reopen(path: &Path) -> LocalStore {
        loop {
            match LocalStore::open(path) {
                Ok(store) => return store,
                Err(StoreError::Database { source, .. })
                    if matches!(*source, redb::Error::DatabaseAlreadyOpen) =>
                {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn each_step_of_a_change_of_keys_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        LocalStore::create(&path, &cluster()).unwrap();
        let mut store = LocalStore::open(&path).unwrap();
        // As a store of an earlier release is.
        assert_eq!(store.state().key_epochs(), KeyEpochs::default());
        let join = |name: &str, snid| Command::Join {
            name: name.into(),
            hash: [7; 32],
            snid,
            addresses: vec![format!("192.0.2.{snid}").parse().unwrap()],
            secret: NodeSecret::new([4; 16]),
            next_secret: NodeSecret::new([6; 16]),
            now_unix_ms: 1,
        };
        let secrets = [1, 2].map(|snid| (snid, NodeSecret::new([snid as u8; 16])));
        let steps = [
            token("a"),
            join("a", 1),
            token("b"),
            join("b", 2),
            Command::RotateKeys {
                secrets: secrets.into(),
                force: false,
            },
            Command::KeysTaken {
                snid: 1,
                verifies: 2,
                sends: 1,
            },
            Command::ActivateKeys { epoch: 2 },
            Command::RemoveNode { name: "b".into() },
        ];
        for step in steps {
            store.propose(step, None).await.unwrap();
            let before = store.state().clone();
            drop(store);
            store = reopen(&path).await;
            assert_eq!(*store.state(), before);
        }
        let state = store.state();
        assert_eq!((state.key_epochs().active, state.nodes().len()), (2, 1));
        assert!(state.nodes()[&1].takes(2));
    }

    #[test]
    fn node_of_an_earlier_release_is_read() {
        let secret = vec!["4"; 16].join(",");
        let row = format!(
            r#"{{"name":"a","snid":1,"addresses":["192.0.2.1"],"secrets":{{"1":[{secret}]}},"joined_unix_ms":1}}"#
        );
        let node: Node = serde_json::from_str(&row).unwrap();
        assert_eq!((node.verifies_epoch, node.sends_epoch), (0, 0));
        assert!(node.takes(1));
        assert_eq!(node.secrets[&1], NodeSecret::new([4; 16]));
    }

    #[tokio::test]
    async fn acknowledged_commands_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        LocalStore::create(&path, &cluster()).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );

        let store = LocalStore::open(&path).unwrap();
        let mut revisions = store.revisions();
        assert_eq!(
            store.propose(token("munster"), None).await.unwrap(),
            Outcome::TokenCreated { snid: 1 }
        );
        let join = Command::Join {
            name: "munster".into(),
            hash: [7; 32],
            snid: 1,
            addresses: vec!["192.0.2.1".parse().unwrap()],
            secret: NodeSecret::new([4; 16]),
            next_secret: NodeSecret::new([6; 16]),
            now_unix_ms: 1,
        };
        store.propose(join.clone(), None).await.unwrap();
        for version in [3, 5] {
            let (command, files) = policy(version);
            store.propose(command, Some(files)).await.unwrap();
        }
        assert!(revisions.has_changed().unwrap());
        assert_eq!(*revisions.borrow_and_update(), 4);
        let before = store.state().clone();
        assert_eq!(store.policy_files(3).await.unwrap().unwrap(), policy(3).1);
        drop(store);

        let store = reopen(&path).await;
        assert_eq!(*store.state(), before);
        assert_eq!(store.policy_files(5).await.unwrap().unwrap(), policy(5).1);
        assert_eq!(store.policy_files(4).await.unwrap(), None);
        let again = store.propose(join, None).await.unwrap_err();
        assert!(
            matches!(again, ProposeError::Rejected(Rejection::TokenSpent { .. })),
            "{again}"
        );
        assert_eq!(
            *store.revisions().borrow(),
            0,
            "a rejected command is no change"
        );
    }

    #[test]
    fn store_is_made_once_and_never_by_opening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        assert!(matches!(
            LocalStore::open(&path),
            Err(StoreError::Missing { .. })
        ));
        LocalStore::create(&path, &cluster()).unwrap();
        assert!(matches!(
            LocalStore::create(&path, &cluster()),
            Err(StoreError::Exists { .. })
        ));
    }

    #[test]
    fn file_that_is_no_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        assert!(matches!(
            LocalStore::open(&path),
            Err(StoreError::Database { .. })
        ));
        let database = Database::create(directory.path().join("other.redb")).unwrap();
        drop(database);
        assert!(LocalStore::open(&directory.path().join("other.redb")).is_err());
    }
}
