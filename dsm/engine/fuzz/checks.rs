// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! What must hold for any bytes, one function a boundary that bytes of others cross. The fuzz targets call them, and
//! `tests/fuzz.rs` does with the committed corpus, so that every `cargo test` replays what fuzzing has found.

use dsi_engine::header6;
use dsi_engine::image::Image;
use dsi_engine::label::{find, locate, OPTION_LEN};
use dsi_engine::outside::Address;
use dsi_engine::{
    xattr, NetworkPermission, Peer, ProcessPermission, Remote, ScId, SnId, SocketPermission,
    SystemPermission,
};
use std::net::IpAddr;

/// The options area of a packet from a stranger: an answer, never a panic, and a label that is read is the one that
/// stands there.
pub fn label(area: &[u8]) {
    if let Ok(Some(label)) = find(area) {
        let at = locate(area)
            .expect("found, so well-formed")
            .expect("found, so there");
        assert_eq!(area[at..at + OPTION_LEN], label.encode());
    }
}

/// The extension headers of an IPv6 packet from a stranger, behind what the fixed header says of the first one and whose
/// the transport header is: as for [`label`], and what is read stands right before the transport header.
pub fn header6(bytes: &[u8]) {
    let [first, protocol, area @ ..] = bytes else {
        return;
    };
    if let Ok(Some(label)) = header6::find(*first, area, *protocol) {
        let header = header6::encode(&label, *protocol);
        assert_eq!(area[area.len() - header6::HEADER_LEN..], header);
    }
}

/// A policy image handed to the kernel: refused, or a policy that answers every question, the same each time.
pub fn image(bytes: &[u8]) {
    let Ok(image) = Image::validate(bytes) else {
        return;
    };
    let policy = image.policy();
    let other = Peer {
        scid: ScId(10),
        snid: SnId::from_u16(1),
    };
    let remotes = ["192.0.2.1", "2001:db8::1"].map(|address| Remote {
        address: Address::of(address.parse::<IpAddr>().expect("an address")),
        port: 443,
        own_port: 8800,
    });
    for scid in [0, 1, 2, 10, 20, 30, u32::MAX].map(ScId) {
        for node in [0, 1, 65535].map(SnId::from_u16) {
            let peer = Peer { scid, snid: node };
            let ends = [
                (peer, other),
                (other, peer),
                (peer, Peer::OUTSIDE),
                (Peer::OUTSIDE, peer),
            ];
            for (a, b) in ends {
                for remote in &remotes {
                    let decision = policy.network_datagram(a, b, remote);
                    assert_eq!(decision, policy.network_datagram(a, b, remote));
                    let _ = policy.network_connect(a, b, remote);
                    let _ = policy.network_multicast(a, b, remote);
                }
            }
            let _ = policy.hosting(node, scid);
            for permission in SocketPermission::ALL {
                let _ = policy.socket(scid, node, other.scid, *permission);
            }
            for permission in ProcessPermission::ALL {
                let _ = policy.process(scid, node, other.scid, *permission);
            }
            for permission in SystemPermission::ALL {
                let _ = policy.system(scid, node, *permission);
            }
        }
        let _ = policy.transition(ScId(2), scid);
        let _ = policy.transition(scid, ScId(10));
    }
    for protocol in [6, 17] {
        for port in [0, 1, 8800, u16::MAX] {
            let _ = policy.socket_label(protocol, port);
        }
    }
    for permission in NetworkPermission::ALL {
        assert_eq!(
            NetworkPermission::from_name(permission.name()),
            Some(*permission)
        );
    }
}

/// The value of a binary's attribute: refused, or the one spelling of a ScID.
pub fn xattr(value: &[u8]) {
    if let Ok(scid) = xattr::parse(value) {
        assert_eq!(value, scid.0.to_string().as_bytes());
        assert_ne!(scid, ScId::OUTSIDE);
    }
}
