// SPDX-License-Identifier: GPL-2.0

//! Which label does this packet leave with? Asked by the LOCAL_OUT hook, last in line.
//!
//! Process context for most datagrams, softirq for most of TCP; RCU is held, may not sleep. A
//! policy has no say: labels tell who sends, from the first key on.

use super::socket::{egress, Way};
use super::{carry_out, is_open, refuse, Question};
use crate::counters::{self, Event};
use crate::engine::{header6, Class, Label, Peer, Reason, ScId};
use crate::state::sockets::{self, Socket};
use crate::state::{self, nodes, policy, tasks};
use crate::sys::net::{words_of, words_of6, Departure, LabelWords, Packet, SockRef, TCP};
use crate::sys::prf::KernelPrf;
use crate::sys::ptrmap::Held;

const HOOK: &str = "local_out";

/// See above. Without a socket, it is the kernel that speaks.
#[inline]
pub(crate) fn departure(
    sock: Option<SockRef<'_>>,
    packet: &Packet<'_>,
    held: &Held<'_>,
) -> Departure {
    let generation = state::generation();
    if let (true, Some(sock)) = (packet.is_raw(), sock) {
        return raw(sock, packet, generation, held);
    }
    let socket = sock.and_then(|sock| sockets::get(sock, held));
    let scid = match sock {
        None => ScId::KERNEL,
        Some(sock) => {
            let owner = sockets::owner_of(socket);
            if owner.is_exempt() {
                return Departure::Bare;
            }
            if socket.is_none() && sockets::is_lost(sock) {
                if let Some(drop) = refused(Reason::NoMemory, owner, packet, generation) {
                    return drop;
                }
            }
            if packet.is_routed() {
                if let Some(drop) = refused(Reason::SourceRoute, owner, packet, generation) {
                    return drop;
                }
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

/// What a raw or ICMP socket sends says whose it is, whatever its header says otherwise. What it
/// may send to is only known here: the header may name another destination than the call.
#[inline(never)]
fn raw(sock: SockRef<'_>, packet: &Packet<'_>, generation: u64, held: &Held<'_>) -> Departure {
    let owner = sockets::owner(sock, held);
    let scid = match tasks::current(held) {
        ScId::KERNEL => owner,
        scid => scid,
    };
    if scid.is_exempt() || owner.is_exempt() {
        return Departure::Bare;
    }
    if scid != ScId::DEFAULT && !is_open(generation) {
        // A part of a packet has no label of its own: it could become a part of another zone's.
        let fault = match packet {
            _ if packet.is_fragment() => Some(Reason::NoLabel),
            _ if packet.is_routed() => Some(Reason::SourceRoute),
            _ => None,
        };
        if let Some(drop) = fault.and_then(|reason| refused(reason, scid, packet, generation)) {
            return drop;
        }
        let outside = packet.to_group() || nodes::with(packet.daddr(), |node| node.is_none());
        let way = if packet.to_group() {
            Way::Group
        } else {
            Way::Datagram
        };
        if outside
            && policy::with(|policy, _| egress(policy, scid, way, &packet.flow(), HOOK)).is_err()
        {
            counters::add(Event::OutRefused);
            return Departure::Drop;
        }
    }
    match make(packet, scid) {
        Some(words) if !packet.is_fragment() => Departure::Label(words),
        _ => Departure::Bare,
    }
}

/// What becomes of a packet that no rule can excuse; `None` if it goes nevertheless.
#[cold]
fn refused(reason: Reason, scid: ScId, packet: &Packet<'_>, generation: u64) -> Option<Departure> {
    if is_open(generation) {
        return None;
    }
    let flow = packet.flow();
    let question = Question {
        class: Class::Network,
        permission: "send",
        hook: HOOK,
        source: Peer {
            scid,
            snid: nodes::own(),
        },
        target: Peer::OUTSIDE,
        flow: Some(&flow),
    };
    let verdict = policy::with(|policy, _| carry_out(refuse(policy, reason), &question));
    verdict.is_err().then(|| {
        counters::add(Event::OutRefused);
        Departure::Drop
    })
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
