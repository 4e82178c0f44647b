//! The label keys that a node is given: its own receive secret, and a key for each other node that it may send to.
//!
//! A pair key is made from the receiver's secret and the sender's id, so that the servers keep one secret a node.

use std::hash::Hasher as _;

use dsi_engine::SnId as EngineSnId;
use dsi_engine::label::{Prf, pair_key};
use dsi_proto::v1;
use siphasher::sip::SipHasher24;
use zeroize::Zeroizing;

use crate::state::{NodeSecret, SnId, State};

/// SipHash-2-4 over little-endian words, as the kernel's `siphash_1u64` and `siphash_3u64` compute it.
#[derive(Clone, Copy, Debug)]
pub struct SipHash;

impl Prf for SipHash {
    fn siphash_u64x1(key: &[u8; 16], word: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(&word.to_le_bytes());
        hasher.finish()
    }

    fn siphash_u64x3(key: &[u8; 16], words: [u64; 3]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x4(key: &[u8; 16], words: [u64; 4]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x6(key: &[u8; 16], words: [u64; 6]) -> u64 {
        sip(key, &words)
    }

    fn siphash_u64x7(key: &[u8; 16], words: [u64; 7]) -> u64 {
        sip(key, &words)
    }
}

fn sip(key: &[u8; 16], words: &[u64]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    words
        .iter()
        .for_each(|word| hasher.write(&word.to_le_bytes()));
    hasher.finish()
}

/// A receive secret, drawn at random.
///
/// # Errors
/// The system has no randomness.
pub fn draw() -> Result<NodeSecret, getrandom::Error> {
    let mut key = Zeroizing::new([0; 16]);
    getrandom::fill(key.as_mut())?;
    Ok(NodeSecret::new(*key))
}

/// The keys of a node for each valid epoch, the active one first; none if it is no member.
///
/// It sends to another node with the keys in use once that node is known to verify them, and with the former ones
/// until then: so a change of keys loses no packet, whoever is away meanwhile.
pub fn keys_of(state: &State, snid: SnId) -> Option<Vec<v1::Keys>> {
    let own = state.nodes().get(&snid)?;
    let sender = EngineSnId::node(snid)?;
    let active = state.key_epochs().active;
    let of_epoch = |(&epoch, secret): (&u32, &NodeSecret)| {
        let receivers = state.nodes().values().filter(|receiver| {
            // The kernel derives the key to itself from its own secret.
            receiver.snid != snid && (epoch < active || epoch == active && receiver.takes(epoch))
        });
        let send = receivers.filter_map(|receiver| {
            let secret = receiver.secrets.get(&epoch)?;
            let key = pair_key::<SipHash>(secret.as_bytes(), sender).to_vec();
            Some(v1::PairKey {
                snid: receiver.snid,
                key,
            })
        });
        v1::Keys {
            epoch,
            receive_secret: secret.as_bytes().to_vec(),
            send: send.collect(),
            active: epoch == active,
        }
    };
    let mut keys: Vec<_> = own.secrets.iter().map(of_epoch).collect();
    keys.sort_by_key(|keys| !keys.active);
    Some(keys)
}
