// SPDX-License-Identifier: GPL-2.0

//! What was decided on datagrams lately, for sockets that talk with many peers in turn and remember
//! the last one only. Each line is found by a hash and holds all that its answer depends on; a line
//! that has been taken by another datagram is as if nothing had been remembered.

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
