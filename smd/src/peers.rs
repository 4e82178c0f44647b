//! The other nodes, as a server tells of them: checked once, here, and typed from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use dsi_proto::v1;
use zeroize::{Zeroize as _, Zeroizing};

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

/// This node's label keys of one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The epoch.
    pub epoch: u32,
    /// With which this node verifies.
    pub secret: Zeroizing<[u8; 16]>,
    /// With which it sends, by receiver.
    pub send: BTreeMap<u32, Zeroizing<[u8; 16]>>,
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
        let array = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Zeroizing::new).ok();
        if keys.epoch == 0 {
            return Err(PeersFault::Epoch);
        }
        let secret = array(&keys.receive_secret).ok_or(PeersFault::Secret)?;
        let send = keys
            .send
            .iter()
            .map(|pair| {
                Ok((
                    pair.snid,
                    array(&pair.key).ok_or(PeersFault::Key(pair.snid))?,
                ))
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
    /// The keys; none before the server has sent them.
    pub keys: Option<Keys>,
}

/// What a server has sent, as it is kept on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredPeers {
    /// The node map.
    #[prost(message, optional, tag = "1")]
    pub map: Option<v1::NodeMap>,
    /// The keys.
    #[prost(message, optional, tag = "2")]
    pub keys: Option<v1::Keys>,
}

impl StoredPeers {
    /// Checks what was stored.
    pub fn read(&self, own: u32) -> Result<Option<Peers>, PeersFault> {
        let Some(map) = &self.map else {
            return Ok(None);
        };
        Ok(Some(Peers {
            map: NodeMap::read(map, own)?,
            keys: self.keys.as_ref().map(Keys::read).transpose()?,
        }))
    }
}

impl Drop for StoredPeers {
    fn drop(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.receive_secret.zeroize();
            keys.send.iter_mut().for_each(|pair| pair.key.zeroize());
        }
    }
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
