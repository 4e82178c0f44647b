//! What the cluster has decided: the pure state machine that every server applies in the same order.
//!
//! A [`Command`] is a wish; [`State::decide`] says what it changes or why it may not; [`State::absorb`] does the
//! change. No clock, no randomness, no disk and no network in here: whatever a decision depends on is in the
//! command, so that servers that apply the same commands hold the same state. Policies' bytes are not held here,
//! only what is known about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroize;

/// A node's id; valid ones are 1 to 65,535.
pub type SnId = u32;

/// Largest valid [`SnId`].
pub const MAX_SNID: SnId = 65_535;

/// Addresses that one node may have.
pub const MAX_ADDRESSES: usize = 16;

/// How long a spent or expired token is remembered, so that its bearer gets a precise answer.
const TOKEN_MEMORY_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// What the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The policy signers' anchor, DER.
    pub anchor_der: Vec<u8>,
}

/// A node's secret of one key epoch: whoever has it can speak to the node in any other node's name. Wiped when it is
/// dropped, and in a place of its own, so that moving it leaves no copy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeSecret(Box<[u8; 16]>);

impl NodeSecret {
    /// From bytes drawn at random.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(Box::new(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Drop for NodeSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeSecret(..)")
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its id.
    pub snid: SnId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its receive secrets, by key epoch.
    pub secrets: BTreeMap<u32, NodeSecret>,
    /// When it joined, ms since 1970.
    pub joined_unix_ms: i64,
    /// Newest key epoch whose labels its kernel is known to verify.
    #[serde(default)]
    pub verifies_epoch: u32,
    /// Oldest key epoch with which its kernel may still send to anybody.
    #[serde(default)]
    pub sends_epoch: u32,
}

impl Node {
    fn has_older_than(&self, epoch: u32) -> bool {
        self.secrets.range(..epoch).next().is_some()
    }

    /// Whether others may send to it with the keys of an epoch: it is known to verify them, or has no older ones.
    pub fn takes(&self, epoch: u32) -> bool {
        self.secrets.contains_key(&epoch)
            && (self.verifies_epoch >= epoch || !self.has_older_than(epoch))
    }
}

/// A join token, of which only the hash is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The id that the node will get.
    pub snid: SnId,
    /// When it expires, ms since 1970.
    pub expires_unix_ms: i64,
    /// The administrator who made it.
    pub created_by: String,
    /// Whether a node has joined with it.
    pub spent: bool,
}

/// What is known about a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its version.
    pub version: u64,
    /// Whether refusals are carried out.
    pub enforcing: bool,
    /// The document's own label.
    pub label: String,
    /// Comment given at apply.
    pub comment: String,
    /// The administrator who applied it.
    pub applied_by: String,
    /// When, ms since 1970.
    pub applied_unix_ms: i64,
    /// Rules of the document.
    pub rules: u32,
    /// Length of the image.
    pub image_bytes: u64,
    /// SHA-256 of the source.
    pub source_sha256: [u8; 32],
}

/// A wish that a server has checked as far as it can alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Lets a node of this name join once.
    CreateToken {
        /// Name that the node will bear.
        name: String,
        /// Its id; none lets the state choose.
        snid: Option<SnId>,
        /// SHA-256 of the secret.
        hash: [u8; 32],
        /// When it expires.
        expires_unix_ms: i64,
        /// The administrator.
        created_by: String,
        /// Now.
        now_unix_ms: i64,
    },
    /// Spends a token.
    Join {
        /// Name that the node claims.
        name: String,
        /// SHA-256 of the secret that it presents.
        hash: [u8; 32],
        /// The id that its certificate was made for.
        snid: SnId,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Its receive secret for the current key epoch.
        secret: NodeSecret,
        /// The same for the next one, should a change of keys be under way.
        next_secret: NodeSecret,
        /// Now.
        now_unix_ms: i64,
    },
    /// Gives the holder of a token that is not spent yet another id.
    SetTokenSnId {
        /// Name that the token is for.
        name: String,
        /// The new id.
        snid: SnId,
    },
    /// Expels a node.
    RemoveNode {
        /// Its name.
        name: String,
    },
    /// Begins to change all label keys.
    RotateKeys {
        /// A new receive secret for each node.
        secrets: BTreeMap<SnId, NodeSecret>,
        /// Waits for no node: a change that is under way is ended, and who has not come through the last one is cut
        /// off until it has come through this one.
        force: bool,
    },
    /// A node's kernel has keys.
    KeysTaken {
        /// The node.
        snid: SnId,
        /// The newest epoch that it verifies.
        verifies: u32,
        /// The oldest epoch that it sends with.
        sends: u32,
    },
    /// The next keys are sent with from now on.
    ActivateKeys {
        /// Their epoch.
        epoch: u32,
    },
    /// Takes a verified policy as the newest.
    AddPolicy {
        /// What is known about it.
        record: PolicyRecord,
        /// The cluster in its header.
        cluster: Uuid,
    },
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A token for this id exists.
    TokenCreated {
        /// The id that the node will get.
        snid: SnId,
    },
    /// The node is a member.
    Joined {
        /// Its id.
        snid: SnId,
    },
    /// The token is for this id now.
    SnIdSet {
        /// The new id.
        snid: SnId,
    },
    /// The node is no member any more.
    Removed {
        /// Its id.
        snid: SnId,
        /// The first node map without it.
        node_map_version: u64,
    },
    /// The keys are being changed.
    Rotating {
        /// To this epoch.
        epoch: u32,
    },
    /// It is so.
    Noted,
    /// The policy is the newest.
    PolicyAdded,
}

/// Why a command may not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The name belongs to a member.
    #[error("node `{name}` is a member already, with SnID {snid}")]
    NameTaken {
        /// The name.
        name: String,
        /// The member's id.
        snid: SnId,
    },
    /// The id belongs, or once belonged, to somebody.
    #[error(
        "SnID {snid} was given out before and is never reused; leave it out and the server chooses one"
    )]
    SnIdUsed {
        /// The id.
        snid: SnId,
    },
    /// The id is none.
    #[error("SnID {snid} is not valid: use 1 to {MAX_SNID}")]
    SnIdRange {
        /// The id.
        snid: SnId,
    },
    /// All ids have been given out.
    #[error("all {MAX_SNID} SnIDs have been given out")]
    SnIdsExhausted,
    /// There is no such token.
    #[error("the join token is not valid for the name `{name}`")]
    TokenUnknown {
        /// The name that was claimed.
        name: String,
    },
    /// A node joined with it before.
    #[error(
        "the join token of `{name}` was used before; make another with `dsictl node join-token`"
    )]
    TokenSpent {
        /// The name.
        name: String,
    },
    /// It came too late.
    #[error("the join token of `{name}` has expired; make another with `dsictl node join-token`")]
    TokenExpired {
        /// The name.
        name: String,
    },
    /// An administrator gave the token's holder another id while he joined.
    #[error("the SnID of `{name}` was set to {snid} meanwhile; join again with the same token")]
    SnIdMoved {
        /// The name.
        name: String,
        /// The id now.
        snid: SnId,
    },
    /// No token waits for a node of this name.
    #[error("there is no node and no unused join token of the name `{name}`")]
    NoSuchName {
        /// The name.
        name: String,
    },
    /// There is no node of this name.
    #[error("the cluster has no node `{name}`; `dsictl node list` shows the nodes")]
    NoSuchNode {
        /// The name.
        name: String,
    },
    /// The node has joined: its id is in its certificate and in its peers' kernels.
    #[error(
        "node `{name}` has joined as SnID {snid}, which its certificate binds; an id can be set only before a node joins"
    )]
    AlreadyJoined {
        /// The name.
        name: String,
        /// Its id.
        snid: SnId,
    },
    /// A node without address cannot be recognised by others.
    #[error("a node needs 1 to {MAX_ADDRESSES} addresses, not {count}")]
    AddressCount {
        /// How many were given.
        count: usize,
    },
    /// The address names no single host.
    #[error(
        "{address} is not an address at which other nodes can reach this one; name another with `smd join --address`"
    )]
    AddressUnusable {
        /// The address.
        address: IpAddr,
    },
    /// The address belongs to somebody else.
    #[error("address {address} belongs to node `{owner}`")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Its owner.
        owner: String,
    },
    /// One change of keys at a time.
    #[error(
        "a change to the keys of epoch {epoch} is under way, and these nodes do not have them yet: {}; wait, expel them \
         with `dsictl node remove`, or go on without them with `dsictl key rotate --force`",
        names.join(", ")
    )]
    RotationUnderWay {
        /// The epoch that is being handed out.
        epoch: u32,
        /// Who does not have its keys.
        names: Vec<String>,
    },
    /// Somebody still depends on the keys that the change would retire.
    #[error(
        "the keys before epoch {epoch} are still in use because of these nodes: {}; wait until they are back, expel \
         them with `dsictl node remove`, or cut them off until they are back with `dsictl key rotate --force`",
        names.join(", ")
    )]
    KeysInUse {
        /// The epoch in use.
        epoch: u32,
        /// Who lags.
        names: Vec<String>,
    },
    /// A node came between.
    #[error("the nodes have changed meanwhile; try again")]
    NodesChanged,
    /// All epochs have been used.
    #[error("there is no key epoch after {0}")]
    EpochsExhausted(u32),
    /// The policy is not newer.
    #[error(
        "policy version {offered} does not rise above {newest}, the newest of this cluster; give it a higher version"
    )]
    VersionNotRising {
        /// Version offered.
        offered: u64,
        /// Newest version.
        newest: u64,
    },
    /// The policy is for somebody else.
    #[error("the policy is for cluster {offered}, this is cluster {own}")]
    ForeignCluster {
        /// Cluster in the policy's header.
        offered: Uuid,
        /// This cluster.
        own: Uuid,
    },
}

/// One change of the state; the unit of storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A token is there, or is different now.
    PutToken {
        /// Name that it is for.
        name: String,
        /// The token.
        token: Token,
    },
    /// A token is forgotten.
    DropToken {
        /// Name that it was for.
        name: String,
    },
    /// An id is given out, for ever.
    UseSnId {
        /// The id.
        snid: SnId,
    },
    /// A node is there, or is different now.
    PutNode(Node),
    /// A node is no more. Its id stays given out.
    DropNode {
        /// The id.
        snid: SnId,
    },
    /// The epochs of the label keys.
    KeyEpochs(KeyEpochs),
    /// The node map, or a key that goes with it, has changed.
    NodeMapVersion(u64),
    /// A policy is known.
    PutPolicy(PolicyRecord),
}

/// The epochs of the label keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEpochs {
    /// Whose keys are sent with.
    pub active: u32,
    /// Whose keys are being handed out, during a change.
    pub next: Option<u32>,
}

impl Default for KeyEpochs {
    /// Those of a new cluster.
    fn default() -> Self {
        Self {
            active: FIRST_KEY_EPOCH,
            next: None,
        }
    }
}

/// Everything that the cluster has decided.
///
/// # Invariants
///
/// Every node's and token's id is in `used_snids`; no two nodes share an id, a name or an address; versions in
/// `policies` are of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    cluster: Cluster,
    epochs: KeyEpochs,
    nodes: BTreeMap<SnId, Node>,
    names: BTreeMap<String, SnId>,
    addresses: BTreeMap<IpAddr, SnId>,
    tokens: BTreeMap<String, Token>,
    used_snids: BTreeSet<SnId>,
    policies: BTreeMap<u64, PolicyRecord>,
    node_map_version: u64,
}

/// Key epoch of a new cluster.
pub const FIRST_KEY_EPOCH: u32 = 1;

impl State {
    /// The state of a new cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            epochs: KeyEpochs::default(),
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            addresses: BTreeMap::new(),
            tokens: BTreeMap::new(),
            used_snids: BTreeSet::new(),
            policies: BTreeMap::new(),
            node_map_version: 0,
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Epochs of the label keys.
    pub fn key_epochs(&self) -> KeyEpochs {
        self.epochs
    }

    /// The members, by id.
    pub fn nodes(&self) -> &BTreeMap<SnId, Node> {
        &self.nodes
    }

    /// The member of this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.names.get(name).and_then(|snid| self.nodes.get(snid))
    }

    /// The token for this name, spent or not.
    pub fn token(&self, name: &str) -> Option<&Token> {
        self.tokens.get(name)
    }

    /// All policies, by version.
    pub fn policies(&self) -> &BTreeMap<u64, PolicyRecord> {
        &self.policies
    }

    /// Version of the newest policy; 0 if there is none.
    pub fn newest_policy(&self) -> u64 {
        self.policies
            .last_key_value()
            .map_or(0, |(version, _)| *version)
    }

    /// Rises with each change of the node map or of the keys that go with it.
    pub fn node_map_version(&self) -> u64 {
        self.node_map_version
    }

    /// Says what a command changes, or why it may not be carried out.
    pub fn decide(&self, command: &Command) -> Result<(Outcome, Vec<Change>), Rejection> {
        match command {
            Command::CreateToken {
                name,
                snid,
                hash,
                expires_unix_ms,
                created_by,
                now_unix_ms,
            } => self.create_token(
                name,
                *snid,
                hash,
                *expires_unix_ms,
                created_by,
                *now_unix_ms,
            ),
            Command::Join {
                name,
                hash,
                snid,
                addresses,
                secret,
                next_secret,
                now_unix_ms,
            } => {
                let secrets = [secret, next_secret];
                self.join(name, hash, *snid, addresses, secrets, *now_unix_ms)
            }
            Command::SetTokenSnId { name, snid } => self.set_token_snid(name, *snid),
            Command::RemoveNode { name } => self.remove_node(name),
            Command::RotateKeys { secrets, force } => self.rotate_keys(secrets, *force),
            Command::KeysTaken {
                snid,
                verifies,
                sends,
            } => Ok((Outcome::Noted, self.keys_taken(*snid, *verifies, *sends))),
            Command::ActivateKeys { epoch } if self.epochs.next == Some(*epoch) => {
                Ok((Outcome::Noted, self.activate(*epoch)))
            }
            Command::ActivateKeys { .. } => Ok((Outcome::Noted, Vec::new())),
            Command::AddPolicy { record, cluster } => self.add_policy(record, *cluster),
        }
    }

    /// Checks a token without spending it; gives the id that it stands for.
    pub fn check_token(
        &self,
        name: &str,
        hash: &[u8; 32],
        now_unix_ms: i64,
    ) -> Result<SnId, Rejection> {
        let name = name.to_owned();
        let Some(token) = self
            .tokens
            .get(&name)
            .filter(|token| bool::from(token.hash.ct_eq(hash)))
        else {
            return Err(Rejection::TokenUnknown { name });
        };
        if token.spent {
            return Err(Rejection::TokenSpent { name });
        }
        if token.expires_unix_ms <= now_unix_ms {
            return Err(Rejection::TokenExpired { name });
        }
        Ok(token.snid)
    }

    fn create_token(
        &self,
        name: &str,
        snid: Option<SnId>,
        hash: &[u8; 32],
        expires_unix_ms: i64,
        created_by: &str,
        now_unix_ms: i64,
    ) -> Result<(Outcome, Vec<Change>), Rejection> {
        if let Some(node) = self.node_named(name) {
            return Err(Rejection::NameTaken {
                name: name.to_owned(),
                snid: node.snid,
            });
        }
        // An id whose token no node has used is still this name's: a second token does not burn a second id.
        let reserved = self
            .tokens
            .get(name)
            .filter(|token| !token.spent)
            .map(|token| token.snid);
        let snid = match snid.or(reserved) {
            Some(snid) if Some(snid) == reserved => snid,
            Some(snid) => self.free_snid(snid)?,
            None => self.next_snid()?,
        };
        let mut changes: Vec<Change> = self
            .tokens
            .iter()
            .filter(|(other, token)| {
                other.as_str() != name
                    && token.expires_unix_ms.saturating_add(TOKEN_MEMORY_MS) < now_unix_ms
            })
            .map(|(other, _)| Change::DropToken {
                name: other.clone(),
            })
            .collect();
        changes.push(Change::UseSnId { snid });
        changes.push(Change::PutToken {
            name: name.to_owned(),
            token: Token {
                hash: *hash,
                snid,
                expires_unix_ms,
                created_by: created_by.to_owned(),
                spent: false,
            },
        });
        Ok((Outcome::TokenCreated { snid }, changes))
    }

    fn join(
        &self,
        name: &str,
        hash: &[u8; 32],
        certified: SnId,
        addresses: &[IpAddr],
        [secret, next_secret]: [&NodeSecret; 2],
        now_unix_ms: i64,
    ) -> Result<(Outcome, Vec<Change>), Rejection> {
        let snid = self.check_token(name, hash, now_unix_ms)?;
        if snid != certified {
            return Err(Rejection::SnIdMoved {
                name: name.to_owned(),
                snid,
            });
        }
        let addresses = self.usable_addresses(addresses)?;
        let mut token = self.tokens[name].clone();
        token.spent = true;
        let mut secrets = BTreeMap::from([(self.epochs.active, secret.clone())]);
        if let Some(next) = self.epochs.next {
            secrets.insert(next, next_secret.clone());
        }
        let node = Node {
            name: name.to_owned(),
            snid,
            addresses,
            secrets,
            joined_unix_ms: now_unix_ms,
            verifies_epoch: 0,
            sends_epoch: 0,
        };
        let changes = vec![
            Change::PutToken {
                name: name.to_owned(),
                token,
            },
            Change::PutNode(node),
            Change::NodeMapVersion(self.node_map_version + 1),
        ];
        Ok((Outcome::Joined { snid }, changes))
    }

    fn set_token_snid(&self, name: &str, snid: SnId) -> Result<(Outcome, Vec<Change>), Rejection> {
        if let Some(node) = self.node_named(name) {
            if node.snid == snid {
                return Ok((Outcome::SnIdSet { snid }, Vec::new()));
            }
            return Err(Rejection::AlreadyJoined {
                name: name.to_owned(),
                snid: node.snid,
            });
        }
        let mut token = match self.tokens.get(name) {
            Some(token) if !token.spent => token.clone(),
            _ => {
                return Err(Rejection::NoSuchName {
                    name: name.to_owned(),
                });
            }
        };
        if token.snid == snid {
            return Ok((Outcome::SnIdSet { snid }, Vec::new()));
        }
        token.snid = self.free_snid(snid)?;
        let changes = vec![
            Change::UseSnId { snid },
            Change::PutToken {
                name: name.to_owned(),
                token,
            },
        ];
        Ok((Outcome::SnIdSet { snid }, changes))
    }

    fn remove_node(&self, name: &str) -> Result<(Outcome, Vec<Change>), Rejection> {
        let node = self.node_named(name).ok_or_else(|| Rejection::NoSuchNode {
            name: name.to_owned(),
        })?;
        let (snid, node_map_version) = (node.snid, self.node_map_version + 1);
        let changes = vec![
            // The spent one: the name may come again, with a new id.
            Change::DropToken {
                name: name.to_owned(),
            },
            Change::DropNode { snid },
            Change::NodeMapVersion(node_map_version),
        ];
        let removed = Outcome::Removed {
            snid,
            node_map_version,
        };
        Ok((removed, changes))
    }

    fn rotate_keys(
        &self,
        secrets: &BTreeMap<SnId, NodeSecret>,
        force: bool,
    ) -> Result<(Outcome, Vec<Change>), Rejection> {
        let active = self.epochs.active;
        match self.epochs.next {
            Some(epoch) if force => {
                return Ok((Outcome::Rotating { epoch }, self.activate(epoch)));
            }
            Some(epoch) => {
                let names = self.names_of(|node| node.verifies_epoch < epoch);
                return Err(Rejection::RotationUnderWay { epoch, names });
            }
            None => {}
        }
        let names = self.lagging();
        if !force && !names.is_empty() {
            let epoch = active;
            return Err(Rejection::KeysInUse { epoch, names });
        }
        let epoch = active
            .checked_add(1)
            .ok_or(Rejection::EpochsExhausted(active))?;
        let mut changes = Vec::with_capacity(self.nodes.len() + 2);
        for node in self.nodes.values() {
            let secret = secrets.get(&node.snid).ok_or(Rejection::NodesChanged)?;
            let mut node = node.clone();
            node.secrets.retain(|&old, _| old == active);
            node.secrets.insert(epoch, secret.clone());
            changes.push(Change::PutNode(node));
        }
        let next = Some(epoch);
        changes.push(Change::KeyEpochs(KeyEpochs { active, next }));
        changes.push(Change::NodeMapVersion(self.node_map_version + 1));
        Ok((Outcome::Rotating { epoch }, changes))
    }

    fn names_of(&self, is: impl Fn(&Node) -> bool) -> Vec<String> {
        let nodes = self.nodes.values().filter(|node| is(node));
        nodes.map(|node| node.name.clone()).collect()
    }

    /// The nodes because of which keys older than those in use are still sent with: those that do not verify the newer
    /// ones, or else those that have not heard yet that all others do.
    fn lagging(&self) -> Vec<String> {
        let epoch = self.epochs.active;
        let lags = |node: &Node, at: u32| node.has_older_than(epoch) && at < epoch;
        let deaf = self.names_of(|node| lags(node, node.verifies_epoch));
        if deaf.is_empty() {
            self.names_of(|node| lags(node, node.sends_epoch))
        } else {
            deaf
        }
    }

    fn keys_taken(&self, snid: SnId, verifies: u32, sends: u32) -> Vec<Change> {
        let Some(node) = self.nodes.get(&snid) else {
            return Vec::new();
        };
        // Nobody has what nobody has made; and a module that is loaded anew gets back what it had.
        let newest = self.epochs.next.unwrap_or(self.epochs.active);
        let mut changed = node.clone();
        changed.verifies_epoch = verifies.min(newest).max(node.verifies_epoch);
        changed.sends_epoch = sends.min(self.epochs.active).max(node.sends_epoch);
        if changed == *node {
            return Vec::new();
        }
        // If it comes late, then the others may send to it with the keys in use from now on.
        let late = changed.takes(self.epochs.active) != node.takes(self.epochs.active);
        let map = late.then(|| Change::NodeMapVersion(self.node_map_version + 1));
        [Change::PutNode(changed)].into_iter().chain(map).collect()
    }

    fn activate(&self, epoch: u32) -> Vec<Change> {
        let epochs = KeyEpochs {
            active: epoch,
            next: None,
        };
        vec![
            Change::KeyEpochs(epochs),
            Change::NodeMapVersion(self.node_map_version + 1),
        ]
    }

    fn add_policy(
        &self,
        record: &PolicyRecord,
        cluster: Uuid,
    ) -> Result<(Outcome, Vec<Change>), Rejection> {
        if cluster != self.cluster.uuid {
            return Err(Rejection::ForeignCluster {
                offered: cluster,
                own: self.cluster.uuid,
            });
        }
        let newest = self.newest_policy();
        if record.version <= newest {
            return Err(Rejection::VersionNotRising {
                offered: record.version,
                newest,
            });
        }
        Ok((
            Outcome::PolicyAdded,
            vec![Change::PutPolicy(record.clone())],
        ))
    }

    fn usable_addresses(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Rejection> {
        let unique: BTreeSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        if unique.is_empty() || unique.len() > MAX_ADDRESSES {
            return Err(Rejection::AddressCount {
                count: unique.len(),
            });
        }
        for &address in &unique {
            // A link-local address may be another node's on another link.
            let no_host = match address {
                IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224,
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            if address.is_unspecified()
                || address.is_multicast()
                || address.is_loopback()
                || no_host
            {
                return Err(Rejection::AddressUnusable { address });
            }
            if let Some(owner) = self
                .addresses
                .get(&address)
                .and_then(|snid| self.nodes.get(snid))
            {
                return Err(Rejection::AddressTaken {
                    address,
                    owner: owner.name.clone(),
                });
            }
        }
        Ok(unique.into_iter().collect())
    }

    fn free_snid(&self, snid: SnId) -> Result<SnId, Rejection> {
        if !(1..=MAX_SNID).contains(&snid) {
            return Err(Rejection::SnIdRange { snid });
        }
        if self.used_snids.contains(&snid) {
            return Err(Rejection::SnIdUsed { snid });
        }
        Ok(snid)
    }

    fn next_snid(&self) -> Result<SnId, Rejection> {
        let above = self.used_snids.last().copied().unwrap_or(0) + 1;
        if above <= MAX_SNID {
            return Ok(above);
        }
        (1..=MAX_SNID)
            .find(|snid| !self.used_snids.contains(snid))
            .ok_or(Rejection::SnIdsExhausted)
    }

    /// Carries a change out. Total: what [`State::decide`] has found, or what was stored, always fits.
    pub fn absorb(&mut self, change: Change) {
        match change {
            Change::PutToken { name, token } => {
                self.tokens.insert(name, token);
            }
            Change::DropToken { name } => {
                self.tokens.remove(&name);
            }
            Change::UseSnId { snid } => {
                self.used_snids.insert(snid);
            }
            Change::PutNode(node) => {
                self.forget_node(node.snid);
                self.used_snids.insert(node.snid);
                self.names.insert(node.name.clone(), node.snid);
                self.addresses
                    .extend(node.addresses.iter().map(|&address| (address, node.snid)));
                self.nodes.insert(node.snid, node);
            }
            Change::DropNode { snid } => self.forget_node(snid),
            Change::KeyEpochs(epochs) => self.epochs = epochs,
            Change::NodeMapVersion(version) => self.node_map_version = version,
            Change::PutPolicy(record) => {
                self.policies.insert(record.version, record);
            }
        }
    }

    fn forget_node(&mut self, snid: SnId) {
        if let Some(old) = self.nodes.remove(&snid) {
            self.names.remove(&old.name);
            for address in &old.addresses {
                self.addresses.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000;
    const LATER: i64 = 2_000_000;

    fn state() -> State {
        let uuid = Uuid::from_u128(7);
        State::new(Cluster {
            name: "test".into(),
            uuid,
            anchor_der: vec![1],
        })
    }

    fn run(state: &mut State, command: Command) -> Result<Outcome, Rejection> {
        let (outcome, changes) = state.decide(&command)?;
        changes.into_iter().for_each(|change| state.absorb(change));
        Ok(outcome)
    }

    fn create(name: &str, snid: Option<SnId>, hash: u8) -> Command {
        Command::CreateToken {
            name: name.into(),
            snid,
            hash: [hash; 32],
            expires_unix_ms: LATER,
            created_by: "anna".into(),
            now_unix_ms: NOW,
        }
    }

    fn join(name: &str, hash: u8, snid: SnId, address: &str, now: i64) -> Command {
        Command::Join {
            name: name.into(),
            hash: [hash; 32],
            snid,
            addresses: vec![address.parse().unwrap()],
            secret: NodeSecret::new([hash; 16]),
            next_secret: NodeSecret::new([!hash; 16]),
            now_unix_ms: now,
        }
    }

    fn policy(version: u64, cluster: u128) -> Command {
        Command::AddPolicy {
            record: PolicyRecord {
                version,
                enforcing: true,
                label: String::new(),
                comment: String::new(),
                applied_by: "anna".into(),
                applied_unix_ms: NOW,
                rules: 1,
                image_bytes: 1,
                source_sha256: [0; 32],
            },
            cluster: Uuid::from_u128(cluster),
        }
    }

    #[test]
    fn token_is_good_once_for_its_name_in_time() {
        let mut state = state();
        assert_eq!(
            run(&mut state, create("munster", None, 1)),
            Ok(Outcome::TokenCreated { snid: 1 })
        );
        let unknown = Err(Rejection::TokenUnknown {
            name: "colby".into(),
        });
        assert_eq!(
            run(&mut state, join("colby", 1, 1, "192.0.2.1", NOW)),
            unknown
        );
        let unknown = Err(Rejection::TokenUnknown {
            name: "munster".into(),
        });
        assert_eq!(
            run(&mut state, join("munster", 2, 1, "192.0.2.1", NOW)),
            unknown
        );
        let late = Err(Rejection::TokenExpired {
            name: "munster".into(),
        });
        assert_eq!(
            run(&mut state, join("munster", 1, 1, "192.0.2.1", LATER)),
            late
        );
        assert_eq!(
            run(&mut state, join("munster", 1, 1, "192.0.2.1", LATER - 1)),
            Ok(Outcome::Joined { snid: 1 })
        );
        let spent = Err(Rejection::TokenSpent {
            name: "munster".into(),
        });
        assert_eq!(
            run(&mut state, join("munster", 1, 1, "192.0.2.2", NOW)),
            spent
        );
        let taken = Err(Rejection::NameTaken {
            name: "munster".into(),
            snid: 1,
        });
        assert_eq!(run(&mut state, create("munster", None, 3)), taken);
    }

    #[test]
    fn refused_join_leaves_the_token_unspent() {
        let mut state = state();
        run(&mut state, create("a", None, 1)).unwrap();
        run(&mut state, join("a", 1, 1, "192.0.2.1", NOW)).unwrap();
        run(&mut state, create("b", None, 2)).unwrap();
        let before = state.clone();
        for bad in [
            "192.0.2.1",
            "127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::ffff:192.0.2.1",
        ] {
            let refused = run(&mut state, join("b", 2, 2, bad, NOW)).unwrap_err();
            let expected = matches!(
                refused,
                Rejection::AddressTaken { .. } | Rejection::AddressUnusable { .. }
            );
            assert!(expected, "{bad}: {refused}");
        }
        assert_eq!(state, before);
        assert_eq!(
            run(&mut state, join("b", 2, 2, "192.0.2.2", NOW)),
            Ok(Outcome::Joined { snid: 2 })
        );
    }

    #[test]
    fn snids_are_chosen_upwards_and_never_reused() {
        let mut state = state();
        assert_eq!(
            run(&mut state, create("a", Some(10), 1)),
            Ok(Outcome::TokenCreated { snid: 10 })
        );
        assert_eq!(
            run(&mut state, create("b", Some(10), 1)),
            Err(Rejection::SnIdUsed { snid: 10 })
        );
        assert_eq!(
            run(&mut state, create("b", None, 2)),
            Ok(Outcome::TokenCreated { snid: 11 })
        );
        assert_eq!(
            run(&mut state, create("b", None, 3)),
            Ok(Outcome::TokenCreated { snid: 11 }),
            "kept for its name"
        );
        assert_eq!(
            run(&mut state, create("b", Some(12), 4)),
            Ok(Outcome::TokenCreated { snid: 12 })
        );
        assert_eq!(
            run(&mut state, create("c", Some(11), 4)),
            Err(Rejection::SnIdUsed { snid: 11 })
        );
        assert_eq!(
            run(&mut state, create("c", Some(0), 4)),
            Err(Rejection::SnIdRange { snid: 0 })
        );
        assert_eq!(
            run(&mut state, create("c", Some(65_536), 4)),
            Err(Rejection::SnIdRange { snid: 65_536 })
        );
        assert_eq!(
            run(&mut state, create("c", Some(65_535), 4)),
            Ok(Outcome::TokenCreated { snid: 65_535 })
        );
        assert_eq!(
            run(&mut state, create("d", None, 5)),
            Ok(Outcome::TokenCreated { snid: 1 }),
            "below, where free"
        );
    }

    #[test]
    fn id_can_be_set_until_the_node_joins() {
        let mut state = state();
        let set = |snid| Command::SetTokenSnId {
            name: "a".into(),
            snid,
        };
        assert_eq!(
            run(&mut state, set(5)),
            Err(Rejection::NoSuchName { name: "a".into() })
        );
        run(&mut state, create("a", None, 1)).unwrap();
        assert_eq!(run(&mut state, set(5)), Ok(Outcome::SnIdSet { snid: 5 }));
        assert_eq!(
            run(&mut state, set(1)),
            Err(Rejection::SnIdUsed { snid: 1 })
        );
        assert_eq!(
            run(&mut state, join("a", 1, 5, "192.0.2.1", NOW)),
            Ok(Outcome::Joined { snid: 5 })
        );
        assert_eq!(run(&mut state, set(5)), Ok(Outcome::SnIdSet { snid: 5 }));
        assert_eq!(
            run(&mut state, set(6)),
            Err(Rejection::AlreadyJoined {
                name: "a".into(),
                snid: 5
            })
        );
    }

    #[test]
    fn join_for_an_id_that_was_changed_meanwhile_leaves_the_token_unspent() {
        let mut state = state();
        run(&mut state, create("a", None, 1)).unwrap();
        let set = Command::SetTokenSnId {
            name: "a".into(),
            snid: 5,
        };
        run(&mut state, set).unwrap();
        let moved = Rejection::SnIdMoved {
            name: "a".into(),
            snid: 5,
        };
        assert_eq!(
            run(&mut state, join("a", 1, 1, "192.0.2.1", NOW)),
            Err(moved)
        );
        assert_eq!(
            run(&mut state, join("a", 1, 5, "192.0.2.1", NOW)),
            Ok(Outcome::Joined { snid: 5 })
        );
    }

    #[test]
    fn expelled_node_leaves_its_name_and_addresses_and_not_its_id() {
        let mut state = state();
        let remove = || Command::RemoveNode { name: "a".into() };
        let unknown = Err(Rejection::NoSuchNode { name: "a".into() });
        assert_eq!(run(&mut state, remove()), unknown);
        run(&mut state, create("a", None, 1)).unwrap();
        assert_eq!(run(&mut state, remove()), unknown, "a token is no node");
        run(&mut state, join("a", 1, 1, "192.0.2.1", NOW)).unwrap();
        let removed = Outcome::Removed {
            snid: 1,
            node_map_version: 2,
        };
        assert_eq!(run(&mut state, remove()), Ok(removed));
        assert_eq!((state.node_map_version(), state.nodes().len()), (2, 0));
        assert_eq!(run(&mut state, remove()), unknown);
        assert_eq!(
            run(&mut state, create("b", Some(1), 2)),
            Err(Rejection::SnIdUsed { snid: 1 })
        );
        assert_eq!(
            run(&mut state, create("a", None, 3)),
            Ok(Outcome::TokenCreated { snid: 2 })
        );
        assert_eq!(
            run(&mut state, join("a", 3, 2, "192.0.2.1", NOW)),
            Ok(Outcome::Joined { snid: 2 })
        );
    }

    /// A state with nodes of these names, ids from 1.
    fn members(names: &[&str]) -> State {
        let mut state = state();
        for (snid, name) in (1u8..).zip(names) {
            run(&mut state, create(name, None, snid)).unwrap();
            let address = format!("192.0.2.{snid}");
            run(&mut state, join(name, snid, snid.into(), &address, NOW)).unwrap();
        }
        state
    }

    fn rotate(state: &mut State, force: bool) -> Result<Outcome, Rejection> {
        let secret = |epoch: u32, snid: u32| NodeSecret::new([(epoch * 16 + snid) as u8; 16]);
        let secrets = state.nodes.keys();
        let epoch = state.epochs.active + 1;
        let secrets = secrets.map(|&snid| (snid, secret(epoch, snid))).collect();
        run(state, Command::RotateKeys { secrets, force })
    }

    fn taken(state: &mut State, snid: SnId, verifies: u32, sends: u32) -> u64 {
        let before = state.node_map_version;
        let command = Command::KeysTaken {
            snid,
            verifies,
            sends,
        };
        assert_eq!(run(state, command), Ok(Outcome::Noted));
        state.node_map_version - before
    }

    fn epochs(active: u32, next: Option<u32>) -> KeyEpochs {
        KeyEpochs { active, next }
    }

    #[test]
    fn keys_are_handed_out_then_used_then_retired_by_the_next_change() {
        let mut state = members(&["a", "b"]);
        let secrets = |state: &State, snid| -> Vec<u32> {
            state.nodes[&snid].secrets.keys().copied().collect()
        };
        assert_eq!(
            rotate(&mut state, false),
            Ok(Outcome::Rotating { epoch: 2 })
        );
        assert_eq!(state.epochs, epochs(1, Some(2)));
        assert_eq!(secrets(&state, 1), [1, 2]);
        assert!(state.nodes[&1].takes(1) && !state.nodes[&1].takes(2));
        // Only one has them so far.
        assert_eq!(taken(&mut state, 1, 2, 1), 0, "nobody need be told");
        let names = vec!["b".to_owned()];
        let under_way = Rejection::RotationUnderWay { epoch: 2, names };
        assert_eq!(rotate(&mut state, false), Err(under_way));
        // Who joins meanwhile has both.
        run(&mut state, create("c", None, 3)).unwrap();
        run(&mut state, join("c", 3, 3, "192.0.2.3", NOW)).unwrap();
        assert_eq!(secrets(&state, 3), [1, 2]);
        assert_eq!(taken(&mut state, 3, 2, 1), 0);

        let activate = |epoch| Command::ActivateKeys { epoch };
        run(&mut state, activate(3)).unwrap();
        assert_eq!(state.epochs, epochs(1, Some(2)), "of another change");
        run(&mut state, activate(2)).unwrap();
        assert_eq!(state.epochs, epochs(2, None));
        assert!(state.nodes[&1].takes(2) && !state.nodes[&2].takes(2));
        // The third change would retire what b verifies with.
        let names = vec!["b".to_owned()];
        let in_use = Rejection::KeysInUse { epoch: 2, names };
        assert_eq!(rotate(&mut state, false), Err(in_use));
        assert_eq!(taken(&mut state, 2, 2, 2), 1, "the others are told");
        // They have not heard of it.
        let names = vec!["a".to_owned(), "c".to_owned()];
        let in_use = Rejection::KeysInUse { epoch: 2, names };
        assert_eq!(rotate(&mut state, false), Err(in_use));
        for snid in [1, 3] {
            assert_eq!(taken(&mut state, snid, 2, 2), 0);
        }
        assert_eq!(
            rotate(&mut state, false),
            Ok(Outcome::Rotating { epoch: 3 })
        );
        assert_eq!(secrets(&state, 2), [2, 3]);
    }

    #[test]
    fn way_out_of_a_change_with_a_node_that_is_away_for_good() {
        // It is expelled.
        let mut state = members(&["a", "b"]);
        rotate(&mut state, false).unwrap();
        run(&mut state, Command::ActivateKeys { epoch: 2 }).unwrap();
        taken(&mut state, 1, 2, 1);
        let refused = rotate(&mut state, false).unwrap_err().to_string();
        assert!(
            refused.contains(": b; ")
                && refused.contains("dsictl node remove")
                && refused.contains("--force"),
            "{refused}"
        );
        let remove = Command::RemoveNode { name: "b".into() };
        run(&mut state, remove).unwrap();
        taken(&mut state, 1, 2, 2);
        assert_eq!(
            rotate(&mut state, false),
            Ok(Outcome::Rotating { epoch: 3 })
        );

        // It is waited for no longer, then cut off until it is back.
        let mut state = members(&["a", "b"]);
        rotate(&mut state, false).unwrap();
        taken(&mut state, 1, 2, 1);
        let refused = rotate(&mut state, false).unwrap_err().to_string();
        assert!(
            refused.contains("yet: b; ") && refused.contains("--force"),
            "{refused}"
        );
        assert_eq!(rotate(&mut state, true), Ok(Outcome::Rotating { epoch: 2 }));
        assert_eq!(state.epochs, epochs(2, None));
        assert!(state.nodes[&2].takes(1) && !state.nodes[&2].takes(2));
        assert_eq!(rotate(&mut state, true), Ok(Outcome::Rotating { epoch: 3 }));
        assert!(
            state.nodes[&2].takes(2),
            "there is nothing else to send with"
        );
        run(&mut state, Command::ActivateKeys { epoch: 3 }).unwrap();
        assert_eq!(taken(&mut state, 2, 3, 3), 1);
        assert!(state.nodes[&2].takes(3));
    }

    #[test]
    fn claims_about_keys_are_bounded_and_never_fall() {
        let mut state = members(&["a"]);
        assert_eq!(taken(&mut state, 1, 9, 9), 0);
        let known = |state: &State| (state.nodes[&1].verifies_epoch, state.nodes[&1].sends_epoch);
        assert_eq!(known(&state), (1, 1));
        taken(&mut state, 1, 0, 0);
        assert_eq!(known(&state), (1, 1));
        assert_eq!(taken(&mut state, 7, 1, 1), 0, "nobody's");
    }

    #[test]
    fn policy_version_only_rises_and_only_for_this_cluster() {
        let mut state = state();
        assert_eq!(
            run(&mut state, policy(0, 7)),
            Err(Rejection::VersionNotRising {
                offered: 0,
                newest: 0
            })
        );
        assert_eq!(run(&mut state, policy(3, 7)), Ok(Outcome::PolicyAdded));
        for offered in [1, 3] {
            assert_eq!(
                run(&mut state, policy(offered, 7)),
                Err(Rejection::VersionNotRising { offered, newest: 3 })
            );
        }
        let foreign = Rejection::ForeignCluster {
            offered: Uuid::from_u128(8),
            own: Uuid::from_u128(7),
        };
        assert_eq!(run(&mut state, policy(4, 8)), Err(foreign));
        assert_eq!(run(&mut state, policy(4, 7)), Ok(Outcome::PolicyAdded));
        assert_eq!(state.newest_policy(), 4);
    }

    #[test]
    fn old_tokens_are_forgotten_but_their_ids_are_not_given_out_again() {
        let mut state = state();
        run(&mut state, create("a", None, 1)).unwrap();
        let late = Command::CreateToken {
            name: "b".into(),
            snid: None,
            hash: [2; 32],
            expires_unix_ms: LATER + 2 * TOKEN_MEMORY_MS,
            created_by: "anna".into(),
            now_unix_ms: LATER + TOKEN_MEMORY_MS + 1,
        };
        assert_eq!(run(&mut state, late), Ok(Outcome::TokenCreated { snid: 2 }));
        assert_eq!(state.token("a"), None);
        assert_eq!(
            run(&mut state, create("c", Some(1), 3)),
            Err(Rejection::SnIdUsed { snid: 1 })
        );
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let address = (0u8..4).prop_map(|host| format!("192.0.2.{}", host + 1));
        prop_oneof![
            (name.clone(), prop::option::of(0u32..5), 0u8..3)
                .prop_map(|(name, snid, hash)| create(name, snid, hash)),
            (
                name.clone(),
                0u8..3,
                address,
                prop::sample::select(vec![NOW, LATER])
            )
                .prop_map(|(name, hash, address, now)| join(name, hash, 0, &address, now)),
            name.clone()
                .prop_map(|name| Command::RemoveNode { name: name.into() }),
            any::<bool>().prop_map(|force| Command::RotateKeys {
                secrets: (1..12)
                    .map(|snid| (snid, NodeSecret::new([1; 16])))
                    .collect(),
                force
            }),
            (0u32..5, 0u32..5, 0u32..5).prop_map(|(snid, verifies, sends)| Command::KeysTaken {
                snid,
                verifies,
                sends
            }),
            (1u32..6).prop_map(|epoch| Command::ActivateKeys { epoch }),
            (name, 0u32..6).prop_map(|(name, snid)| Command::SetTokenSnId {
                name: name.into(),
                snid
            }),
            (0u64..5, 7u128..9).prop_map(|(version, cluster)| policy(version, cluster)),
        ]
    }

    proptest! {
        #[test]
        fn invariants_hold_after_any_commands(commands in prop::collection::vec(any_command(), 0..60)) {
            let mut state = state();
            let mut ever_joined: BTreeMap<SnId, String> = BTreeMap::new();
            for mut command in commands {
                // As a server does, which makes the certificate for the id that it finds.
                if let Command::Join { name, snid, .. } = &mut command {
                    *snid = state.token(name).map_or(0, |token| token.snid);
                }
                let before = state.clone();
                match run(&mut state, command) {
                    Err(_) => prop_assert_eq!(&state, &before, "a rejected command changes nothing"),
                    Ok(Outcome::Joined { snid }) => {
                        let name = state.nodes()[&snid].name.clone();
                        prop_assert!(ever_joined.insert(snid, name).is_none(), "an id is given once");
                    }
                    Ok(_) => {}
                }
                prop_assert!(state.newest_policy() >= before.newest_policy());
                let KeyEpochs { active, next } = state.epochs;
                prop_assert!(active >= before.epochs.active);
                prop_assert!(next.is_none_or(|next| next == active + 1));
                for node in state.nodes.values() {
                    let newest = next.unwrap_or(active);
                    prop_assert!(node.secrets.len() <= 2, "two epochs are valid");
                    prop_assert!(node.secrets.contains_key(&active) && node.secrets.contains_key(&newest));
                    prop_assert!(node.verifies_epoch <= newest && node.sends_epoch <= active);
                    prop_assert!(node.secrets.keys().any(|epoch| node.takes(*epoch)), "all can send to it");
                }
                let mut addresses = BTreeSet::new();
                for (snid, node) in state.nodes() {
                    prop_assert!(state.used_snids.contains(snid));
                    prop_assert_eq!(&ever_joined[snid], &node.name);
                    prop_assert!(node.addresses.iter().all(|address| addresses.insert(*address)));
                }
                prop_assert!(state.tokens.values().all(|token| state.used_snids.contains(&token.snid)));
            }
        }
    }
}
