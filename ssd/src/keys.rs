//! The label keys that a node is given: its own receive secret, and a key for each other node that it may send to.
//!
//! A pair key is made from the receiver's secret and the sender's id, so that the servers keep one secret a node.

use std::hash::Hasher as _;

use dsi_engine::SnId as EngineSnId;
use dsi_engine::label::{Prf, pair_key};
use dsi_proto::v1;
use siphasher::sip::SipHasher24;

use crate::state::{SnId, State};

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
        let mut hasher = SipHasher24::new_with_key(key);
        words
            .iter()
            .for_each(|word| hasher.write(&word.to_le_bytes()));
        hasher.finish()
    }

    fn siphash_u64x6(key: &[u8; 16], words: [u64; 6]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(key);
        words
            .iter()
            .for_each(|word| hasher.write(&word.to_le_bytes()));
        hasher.finish()
    }
}

/// The keys of a node for the current epoch; none if it is no member.
pub fn keys_of(state: &State, snid: SnId) -> Option<v1::Keys> {
    let epoch = state.key_epoch();
    let own = state.nodes().get(&snid)?.secrets.get(&epoch)?;
    let sender = EngineSnId::node(snid)?;
    let send = state
        .nodes()
        .values()
        // The kernel derives the key to itself from its own secret.
        .filter(|receiver| receiver.snid != snid)
        .filter_map(|receiver| {
            let secret = receiver.secrets.get(&epoch)?;
            let key = pair_key::<SipHash>(secret.as_bytes(), sender).to_vec();
            Some(v1::PairKey {
                snid: receiver.snid,
                key,
            })
        })
        .collect();
    Some(v1::Keys {
        epoch,
        receive_secret: own.as_bytes().to_vec(),
        send,
        active: true,
    })
}
