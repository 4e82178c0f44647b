//! The other nodes, as a server tells of them: checked once, here, and typed from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

use dsi_proto::v1;
use zeroize::Zeroize as _;

/// Largest id of a node.
const MAX_SNID: u32 = 65_535;

/// What a server says of the other nodes makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeersFault {
    /// The map is another node's.
    #[error("the server sent the node map of node {found} to this node, {own}")]
    OtherNode {
        /// Whose map it is.
        found: u32,
        /// This node.
        own: u32,
    },
    /// An id is none, or comes twice.
    #[error("the node map names SnID {0}, which is not valid or there twice")]
    SnId(u32),
    /// An address is none, or two nodes have it.
    #[error("the node map names the address `{0}`, which is not valid or there twice")]
    Address(String),
    /// A key is not one.
    #[error("the key for node {0} does not have 16 bytes")]
    Key(u32),
    /// The receive secret is none.
    #[error("the receive secret does not have 16 bytes")]
    Secret,
    /// The epoch is none.
    #[error("the key epoch is 0")]
    Epoch,
}

/// The node map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMap {
    /// Rises with each change.
    pub version: u64,
    /// Each node's addresses.
    pub nodes: BTreeMap<u32, Vec<IpAddr>>,
}

impl NodeMap {
    /// Checks a server's map, which should be for the node `own`.
    pub fn read(map: &v1::NodeMap, own: u32) -> Result<Self, PeersFault> {
        if map.self_snid != own {
            return Err(PeersFault::OtherNode {
                found: map.self_snid,
                own,
            });
        }
        let mut nodes = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for node in &map.nodes {
            let mut addresses = Vec::with_capacity(node.addresses.len());
            for text in &node.addresses {
                let fault = || PeersFault::Address(text.chars().take(64).collect());
                let address: IpAddr = text.parse().map_err(|_| fault())?;
                if !seen.insert(address) {
                    return Err(fault());
                }
                addresses.push(address);
            }
            if !(1..=MAX_SNID).contains(&node.snid) || nodes.insert(node.snid, addresses).is_some()
            {
                return Err(PeersFault::SnId(node.snid));
            }
        }
        Ok(Self {
            version: map.version,
            nodes,
        })
    }
}

/// A key. Wiped when it is dropped, and in a place of its own, so that moving it leaves no copy.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8; 16]>);

impl Secret {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(Box::new(bytes.try_into().ok()?)))
    }
}

impl Deref for Secret {
    type Target = [u8; 16];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.as_mut().zeroize();
    }
}

/// This node's label keys of one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The epoch.
    pub epoch: u32,
    /// With which this node verifies.
    pub secret: Secret,
    /// With which it sends, by receiver.
    pub send: BTreeMap<u32, Secret>,
    /// Whether to stamp with this epoch from now on.
    pub active: bool,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Keys(epoch {}, {} to send with)",
            self.epoch,
            self.send.len()
        )
    }
}

impl Keys {
    /// Checks a server's keys.
    pub fn read(keys: &v1::Keys) -> Result<Self, PeersFault> {
        if keys.epoch == 0 {
            return Err(PeersFault::Epoch);
        }
        let secret = Secret::read(&keys.receive_secret).ok_or(PeersFault::Secret)?;
        let send = keys
            .send
            .iter()
            .map(|pair| {
                let key = Secret::read(&pair.key);
                Ok((pair.snid, key.ok_or(PeersFault::Key(pair.snid))?))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            epoch: keys.epoch,
            secret,
            send,
            active: keys.active,
        })
    }
}

/// Everything about the other nodes that the kernel has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Who they are.
    pub map: NodeMap,
    /// The keys of each valid epoch, the older one first; none before the server has sent them.
    pub keys: Vec<Keys>,
}

/// What of a server's peers the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Version of the node map.
    pub node_map_version: u64,
    /// Newest epoch whose labels it verifies; 0 if none.
    pub newest_epoch: u32,
    /// Oldest epoch with which it sends to anybody; 0 if none.
    pub oldest_epoch: u32,
}

impl Peers {
    /// What a kernel has that has taken them all.
    pub fn taken(&self) -> Taken {
        let active = self.keys.iter().find(|keys| keys.active);
        // As the kernel chooses: the active epoch's key, or else the newest.
        let epoch_to = |snid: &u32| {
            let mut having = self.keys.iter().filter(|keys| keys.send.contains_key(snid));
            active
                .filter(|keys| keys.send.contains_key(snid))
                .or_else(|| having.next_back())
                .map(|keys| keys.epoch)
        };
        let to_others = self.map.nodes.keys().filter_map(epoch_to);
        let to_itself = active.map(|keys| keys.epoch);
        Taken {
            node_map_version: self.map.version,
            newest_epoch: self.keys.iter().map(|keys| keys.epoch).max().unwrap_or(0),
            oldest_epoch: to_others.chain(to_itself).min().unwrap_or(0),
        }
    }
}

/// What a server has sent, as it is kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredPeers {
    /// The node map.
    #[prost(message, optional, tag = "1")]
    pub map: Option<v1::NodeMap>,
    /// The keys, by epoch; of two at most.
    #[prost(message, repeated, tag = "2")]
    pub keys: Vec<v1::Keys>,
}

impl StoredPeers {
    /// Takes a server's keys of one epoch in; the two newest epochs are kept, and one of them is active.
    pub fn take_keys(&mut self, keys: v1::Keys) {
        if keys.active {
            self.keys.iter_mut().for_each(|known| known.active = false);
        }
        for old in self.keys.extract_if(.., |known| known.epoch == keys.epoch) {
            wipe(old);
        }
        self.keys.push(keys);
        self.keys.sort_by_key(|known| known.epoch);
        while self.keys.len() > 2 {
            wipe(self.keys.remove(0));
        }
    }

    /// Checks what was stored.
    pub fn read(&self, own: u32) -> Result<Option<Peers>, PeersFault> {
        let Some(map) = &self.map else {
            return Ok(None);
        };
        Ok(Some(Peers {
            map: NodeMap::read(map, own)?,
            keys: self.keys.iter().map(Keys::read).collect::<Result<_, _>>()?,
        }))
    }
}

impl Drop for StoredPeers {
    fn drop(&mut self) {
        self.keys.drain(..).for_each(wipe);
    }
}

fn wipe(mut keys: v1::Keys) {
    keys.receive_secret.zeroize();
    keys.send.iter_mut().for_each(|pair| pair.key.zeroize());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(snid: u32, addresses: &[&str]) -> v1::Node {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        v1::Node {
            snid,
            addresses,
            ..v1::Node::default()
        }
    }

    fn map(nodes: Vec<v1::Node>) -> v1::NodeMap {
        v1::NodeMap {
            version: 3,
            nodes,
            self_snid: 1,
        }
    }

    #[test]
    fn sound_map_is_read() {
        let read = NodeMap::read(
            &map(vec![node(1, &["192.0.2.1", "2001:db8::1"]), node(2, &[])]),
            1,
        )
        .unwrap();
        assert_eq!(read.nodes[&1].len(), 2);
        assert_eq!(read.version, 3);
    }

    #[test]
    fn unsound_maps_are_refused() {
        assert_eq!(
            NodeMap::read(&map(vec![]), 2),
            Err(PeersFault::OtherNode { found: 1, own: 2 })
        );
        for snid in [0, 65_536] {
            assert_eq!(
                NodeMap::read(&map(vec![node(snid, &[])]), 1),
                Err(PeersFault::SnId(snid))
            );
        }
        assert_eq!(
            NodeMap::read(&map(vec![node(5, &[]), node(5, &[])]), 1),
            Err(PeersFault::SnId(5))
        );
        let twice = map(vec![node(1, &["192.0.2.1"]), node(2, &["192.0.2.1"])]);
        assert_eq!(
            NodeMap::read(&twice, 1),
            Err(PeersFault::Address("192.0.2.1".into()))
        );
        assert_eq!(
            NodeMap::read(&map(vec![node(1, &["x"])]), 1),
            Err(PeersFault::Address("x".into()))
        );
    }

    #[test]
    fn keys_of_the_two_newest_epochs_are_kept_and_one_is_active() {
        let mut stored = StoredPeers::default();
        let keys = |epoch, active| v1::Keys {
            epoch,
            active,
            ..v1::Keys::default()
        };
        let known = |stored: &StoredPeers| -> Vec<(u32, bool)> {
            let known = stored.keys.iter();
            known.map(|keys| (keys.epoch, keys.active)).collect()
        };
        stored.take_keys(keys(1, true));
        stored.take_keys(keys(2, false));
        assert_eq!(known(&stored), [(1, true), (2, false)]);
        stored.take_keys(keys(2, true));
        stored.take_keys(keys(1, false));
        assert_eq!(known(&stored), [(1, false), (2, true)]);
        // Away for two changes.
        stored.take_keys(keys(4, true));
        stored.take_keys(keys(3, false));
        assert_eq!(known(&stored), [(3, false), (4, true)]);
    }

    #[test]
    fn oldest_epoch_is_that_of_the_peer_that_lags_most() {
        let keys = |epoch, active, receivers: &[u32]| Keys {
            epoch,
            secret: Secret::read(&[0; 16]).unwrap(),
            send: receivers
                .iter()
                .map(|snid| (*snid, Secret::read(&[0; 16]).unwrap()))
                .collect(),
            active,
        };
        let nodes = vec![node(1, &[]), node(2, &[]), node(3, &[])];
        let mut peers = Peers {
            map: NodeMap::read(&map(nodes), 1).unwrap(),
            keys: vec![],
        };
        let mut epochs = |keys: Vec<Keys>| {
            peers.keys = keys;
            let taken = peers.taken();
            (taken.newest_epoch, taken.oldest_epoch)
        };
        assert_eq!(epochs(vec![]), (0, 0));
        assert_eq!(epochs(vec![keys(4, true, &[2, 3])]), (4, 4));
        // Handed out, and not in use.
        let handed_out = vec![keys(4, true, &[2, 3]), keys(5, false, &[])];
        assert_eq!(epochs(handed_out), (5, 4));
        // In use; node 3 is away.
        let away = vec![keys(4, false, &[2, 3]), keys(5, true, &[2])];
        assert_eq!(epochs(away), (5, 4));
        let back = vec![keys(4, false, &[2, 3]), keys(5, true, &[2, 3])];
        assert_eq!(epochs(back), (5, 5));
        // Alone.
        assert_eq!(epochs(vec![keys(5, true, &[])]), (5, 5));
    }

    #[test]
    fn unsound_keys_are_refused_and_sound_ones_not_shown() {
        let good = v1::Keys {
            epoch: 1,
            receive_secret: vec![0xab; 16],
            send: vec![v1::PairKey {
                snid: 2,
                key: vec![0xcd; 16],
            }],
            active: true,
        };
        let read = Keys::read(&good).unwrap();
        assert_eq!(format!("{read:?}"), "Keys(epoch 1, 1 to send with)");
        assert_eq!(
            Keys::read(&v1::Keys {
                epoch: 0,
                ..good.clone()
            }),
            Err(PeersFault::Epoch)
        );
        assert_eq!(
            Keys::read(&v1::Keys {
                receive_secret: vec![1],
                ..good.clone()
            }),
            Err(PeersFault::Secret)
        );
        let send = vec![v1::PairKey {
            snid: 2,
            key: vec![0; 15],
        }];
        assert_eq!(
            Keys::read(&v1::Keys { send, ..good }),
            Err(PeersFault::Key(2))
        );
    }
}
