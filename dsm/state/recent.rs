// SPDX-License-Identifier: GPL-2.0

//! What was decided on datagrams lately, for sockets that talk with many peers in turn and remember
//! the last one only; and on the ends of handshakes, for the sockets that come of them. Each line is
//! found by a hash, or by the processor, and holds all that its answer depends on; a line that has been
//! taken by another packet is as if nothing had been remembered.

use super::sockets::Proof;
use crate::engine::{Peer, ScId, SnId};
use crate::sys::count;
use crate::sys::seqcell::SeqCell;

const BITS: u32 = 9;

/// Datagrams that were let in, by socket, generation, addresses, ports and label.
static ARRIVED: [SeqCell<10>; 1 << BITS] = [const { SeqCell::new() }; 1 << BITS];
/// Labels that were made, by generation, addresses, ports and ScID.
static DEPARTED: [SeqCell<6>; 1 << BITS] = [const { SeqCell::new() }; 1 << BITS];

/// Calls to send a datagram over IPv4 that were let through, by socket, generation, port, sender and
/// address, whatever room for a label they need.
static SENT: [SeqCell<4>; 1 << BITS] = [const { SeqCell::new() }; 1 << BITS];

/// Whether such a call was let through.
#[inline(always)]
pub(crate) fn has_sent(socket: u64, [g, subject, word]: [u64; 3]) -> bool {
    line(&SENT, (subject >> 32) as u32, word).is(&[socket, g, subject, word])
}

/// It was let through.
pub(crate) fn note_sent(socket: u64, [g, subject, word]: [u64; 3]) {
    line(&SENT, (subject >> 32) as u32, word).set([socket, g, subject, word]);
}

/// The line of ports and an address.
#[inline(always)]
fn line<const N: usize>(table: &[SeqCell<N>; 1 << BITS], ports: u32, address: u64) -> &SeqCell<N> {
    let mixed = (u64::from(ports) ^ address.rotate_left(23)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // The index is below the table's length.
    &table[(mixed >> (u64::BITS - BITS)) as usize]
}

/// Whether a datagram was let in to a socket, over IPv4.
#[inline(always)]
pub(crate) fn has_arrived(socket: u64, ports: u32, [g, addrs, p, a, b]: [u64; 5]) -> bool {
    line(&ARRIVED, ports, addrs).is(&[socket, g, addrs, p, a, b])
}

/// It was let in.
pub(crate) fn note_arrived(socket: u64, ports: u32, [g, addrs, p, a, b]: [u64; 5]) {
    line(&ARRIVED, ports, addrs).set([socket, g, addrs, p, a, b]);
}

/// As [`has_arrived`], over IPv6.
#[inline(always)]
pub(crate) fn has_arrived6(socket: u64, ports: u32, words: [u64; 9]) -> bool {
    let [g, p, s0, s1, d0, d1, a, b, c] = words;
    line(&ARRIVED, ports, s1).is(&[socket, g, p, s0, s1, d0, d1, a, b, c])
}

/// As [`note_arrived`], over IPv6.
pub(crate) fn note_arrived6(socket: u64, ports: u32, words: [u64; 9]) {
    let [g, p, s0, s1, d0, d1, a, b, c] = words;
    line(&ARRIVED, ports, s1).set([socket, g, p, s0, s1, d0, d1, a, b, c]);
}

/// The label of a datagram over IPv4 in a generation.
#[inline(always)]
pub(crate) fn label(ports: u32, key: [u64; 3]) -> Option<[u64; 3]> {
    let [_, addrs, _] = key;
    line(&DEPARTED, ports, addrs).behind(&key)
}

/// It was made.
pub(crate) fn note_label(ports: u32, [g, a, p]: [u64; 3], [x, y, z]: [u64; 3]) {
    line(&DEPARTED, ports, a).set([g, a, p, x, y, z]);
}

/// Who has ended a handshake by a labelled segment, by its addresses, ports and sequence numbers, on each
/// processor: in the same softirq the kernel makes the socket of the connection.
static OPENED: [SeqCell<7>; 1 << BITS] = [const { SeqCell::new() }; 1 << BITS];

/// A handshake: addresses and ports as its connecting end's packets have them, and where the sequence
/// numbers start, the connecting end's first.
pub(crate) struct Handshake {
    /// Source and destination; over IPv4 both in the first word.
    pub(crate) addrs: [u64; 4],
    /// Source and destination.
    pub(crate) ports: u32,
    /// The connecting end's, and ours.
    pub(crate) starts: [u32; 2],
}

impl Handshake {
    fn words(&self) -> [u64; 6] {
        let ([a, b, c, d], [theirs, ours]) = (self.addrs, self.starts);
        let starts = u64::from(theirs) << 32 | u64::from(ours);
        [a, b, c, d, u64::from(self.ports), starts]
    }

    /// The kernel runs on one processor from the segment that ends a handshake to the socket that it makes.
    fn line() -> &'static SeqCell<7> {
        // The index is below the table's length.
        &OPENED[count::processor() as usize & ((1 << BITS) - 1)]
    }

    /// Its connecting end has shown who it is, by the segment that ends it. Softirq.
    pub(crate) fn note(&self, peer: Peer, proof: Proof) {
        let [a, b, c, d, e, f] = self.words();
        let stream = u64::from(proof == Proof::Stream);
        let who = u64::from(peer.scid.0) << 32 | stream << 16 | u64::from(peer.snid.get());
        Self::line().set([a, b, c, d, e, f, who]);
    }

    /// Who its connecting end has shown to be, and how. Softirq, the same as [`Self::note`]'s.
    pub(crate) fn shown(&self) -> Option<(Peer, Proof)> {
        let [who] = Self::line().behind(&self.words())?;
        let peer = Peer {
            scid: ScId((who >> 32) as u32),
            snid: SnId::from_u16(who as u16),
        };
        let proof = if who >> 16 & 1 == 0 {
            Proof::Packet
        } else {
            Proof::Stream
        };
        Some((peer, proof))
    }
}
