// SPDX-License-Identifier: GPL-2.0

//! Which label does this packet leave with? Asked by the LOCAL_OUT hook, last in line.
//!
//! Process context for most datagrams, softirq for most of TCP; RCU is held, may not sleep. A
//! policy has no say: labels tell who sends, from the first key on.

use crate::counters::{self, Event};
use crate::engine::{header6, Label, ScId};
use crate::state::sockets::{self, Socket};
use crate::state::{self, nodes, tasks};
use crate::sys::net::{words_of, words_of6, Departure, LabelWords, Packet, SockRef, TCP};
use crate::sys::prf::KernelPrf;
use crate::sys::ptrmap::Held;

/// See above. Without a socket, it is the kernel that speaks.
#[inline]
pub(crate) fn departure(
    sock: Option<SockRef<'_>>,
    packet: &Packet<'_>,
    held: &Held<'_>,
) -> Departure {
    let generation = state::generation();
    let socket = sock.and_then(|sock| sockets::get(sock, held));
    let scid = match sock {
        None => ScId::KERNEL,
        Some(_) => {
            let owner = sockets::owner_of(socket);
            if owner.is_exempt() {
                return Departure::Bare;
            }
            match speaker(packet, owner, held) {
                Some(scid) => scid,
                None => return Departure::Bare,
            }
        }
    };
    if !packet.is_ipv4() {
        return departure6(socket, packet, scid, generation);
    }
    let key = [
        generation,
        packet.addrs(),
        u64::from(packet.ports()) << 32 | u64::from(scid.0),
    ];
    let [generation, addrs, ports_scid] = key;
    if let Some([g, a, p, x, y, z]) = socket.and_then(|socket| socket.departed.get()) {
        // In registers: a comparison of arrays is a call.
        if (g ^ generation) | (a ^ addrs) | (p ^ ports_scid) == 0 {
            return Departure::Label([x, y, z]);
        }
    }
    let Some([x, y, z]) = make(packet, scid) else {
        return Departure::Bare;
    };
    if let Some(socket) = socket {
        socket
            .departed
            .set([generation, addrs, ports_scid, x, y, z]);
    }
    Departure::Label([x, y, z])
}

/// The same for an IPv6 packet. Other extension headers than the label's may not be such that a
/// receiver would refuse or misread the label, nor send the packet elsewhere than it says.
#[inline(always)]
fn departure6(
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    scid: ScId,
    generation: u64,
) -> Departure {
    let (first, extensions) = packet.extensions();
    if !extensions.is_empty() && !nodes::own().is_none() {
        match header6::survey(first, extensions, packet.protocol()) {
            Ok(survey) if survey.label.is_none() && !survey.routed => {}
            _ => return Departure::Drop,
        }
    }
    let [s0, s1, d0, d1] = packet.addrs6();
    let generation = generation | sockets::V6;
    let ports_scid = u64::from(packet.ports()) << 32 | u64::from(scid.0);
    if let Some([g, p, a, b, c, d, x, y, z]) = socket.and_then(|socket| socket.departed.get()) {
        let differs = (g ^ generation) | (p ^ ports_scid);
        if differs | (a ^ s0) | (b ^ s1) | (c ^ d0) | (d ^ d1) == 0 {
            return Departure::Label([x, y, z]);
        }
    }
    let Some([x, y, z]) = make(packet, scid) else {
        return Departure::Bare;
    };
    if let Some(socket) = socket {
        socket
            .departed
            .set([generation, ports_scid, s0, s1, d0, d1, x, y, z]);
    }
    Departure::Label([x, y, z])
}

/// Who speaks through a socket: for a stream its owner, for datagrams the process that sends.
/// `None`: the management, which goes unlabelled.
#[inline(always)]
fn speaker(packet: &Packet<'_>, owner: ScId, held: &Held<'_>) -> Option<ScId> {
    if packet.protocol() == TCP {
        return Some(owner);
    }
    match tasks::current(held) {
        ScId::KERNEL => Some(owner),
        ScId::MANAGEMENT => None,
        scid => Some(scid),
    }
}

/// A label for the packet; `None` if it goes to no node, or to one without a key.
fn make(packet: &Packet<'_>, scid: ScId) -> Option<LabelWords> {
    let own = nodes::own();
    if own.is_none() {
        return None;
    }
    nodes::with(packet.daddr(), |node| {
        let Some((epoch, key)) = node?.tx() else {
            counters::add(Event::OutNoKey);
            return None;
        };
        let label = Label::sealed::<KernelPrf>(epoch, own, scid, &packet.flow(), key);
        Some(if packet.is_ipv4() {
            words_of(&label.encode())
        } else {
            words_of6(&header6::encode(&label, packet.protocol()))
        })
    })
}
