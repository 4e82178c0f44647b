// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Any bytes as a policy image handed to the kernel: refused, or a policy that answers every question.
#![no_main]

use dsi_engine::image::Image;
use dsi_engine::{Peer, ScId, SnId, SocketPermission};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::validate(bytes) else {
        return;
    };
    let policy = image.policy();
    for scid in [0, 1, 2, 10, 20, u32::MAX].map(ScId) {
        for node in [0, 1, 65535].map(SnId::from_u16) {
            let peer = Peer { scid, snid: node };
            let other = Peer {
                scid: ScId(10),
                snid: SnId::from_u16(1),
            };
            let _ = policy.network_datagram(peer, other);
            let _ = policy.network_datagram(other, peer);
            let _ = policy.network_connect(peer, other);
            let _ = policy.hosting(node, scid);
            for permission in SocketPermission::ALL {
                let _ = policy.socket(scid, node, other.scid, *permission);
            }
        }
        let _ = policy.transition(ScId(2), scid);
    }
    for port in [0, 1, 8800, u16::MAX] {
        let _ = policy.socket_label(17, port);
    }
});
