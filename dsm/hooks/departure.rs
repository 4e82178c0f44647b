// SPDX-License-Identifier: GPL-2.0

//! Which label does this packet leave with? Asked by the LOCAL_OUT hook, last in line.
//!
//! Process context for most datagrams, softirq for most of TCP; RCU is held, may not sleep. A
//! policy has no say: labels tell who sends, from the first key on.

use super::socket::{egress, may_leave, told_egress, Way};
use super::{as_unmapped, carry_out, decide, is_open, note_unmapped, refuse, Question};
use crate::counters::{self, Event};
use crate::engine::{
    header6, Class, Label, Peer, Policy, Reason, ScId, SocketPermission, Start,
};
use crate::state::sockets::{self, Socket};
use crate::state::{self, nodes, policy, recent, tasks};
use crate::sys::net::{
    words_of, words_of6, Departure, Ends, LabelWords, Packet, SockRef, SockView, TCP, UDP,
};
use crate::sys::prf::KernelPrf;
use crate::sys::ptrmap::Held;
use crate::sys::task::TaskRef;

const HOOK: &str = "local_out";

/// See above. Without a socket, it is the kernel that speaks.
#[inline]
pub(crate) fn departure(
    sock: Option<SockRef<'_>>,
    packet: &Packet<'_>,
    held: &Held<'_>,
    peer_start: impl FnOnce(SockRef<'_>) -> Option<u32>,
) -> Departure {
    let generation = state::generation();
    if let (true, Some(sock)) = (packet.is_raw(), sock) {
        return raw(sock, packet, generation, held);
    }
    let socket = sock.and_then(|sock| sockets::get(sock, held));
    // What is remembered of this flow's labels carries it.
    let era = socket.map_or(generation, |socket| socket.era_of_labels(generation));
    let scid = match sock {
        None => ScId::KERNEL,
        Some(sock) => {
            let owner = sockets::owner_of(socket);
            if owner.is_exempt() {
                return Departure::Bare;
            }
            if socket.is_none() && sock.is_lost() {
                if let Some(drop) = refused(Reason::NoMemory, owner, packet, generation) {
                    return drop;
                }
            }
            if packet.is_routed() {
                if let Some(drop) = refused(Reason::SourceRoute, owner, packet, generation) {
                    return drop;
                }
            }
            if socket.is_some_and(|socket| is_told(socket, packet)) {
                counters::add(Event::OutBare);
                return Departure::Bare;
            }
            match speaker(packet, owner, socket, held) {
                Some(ScId::MANAGEMENT) => return Departure::Bare,
                Some(scid) => scid,
                None => match refused(Reason::NoPermission, owner, packet, generation) {
                    Some(drop) => return drop,
                    None => owner,
                },
            }
        }
    };
    let make = || {
        let start = start(socket, packet, || sock.and_then(peer_start))?;
        if nodes::is_unmapped(packet.saddr()) {
            return Err(Unlabelled::Unmapped);
        }
        make(packet, scid, start)
    };
    // The label of a SYN is good for that one.
    let memory = socket.filter(|_| !packet.is_syn());
    if !packet.is_ipv4() {
        return departure6([memory, socket], packet, scid, [generation, era], make);
    }
    let ends = packet.ends();
    let key = key(era, ends, scid);
    if let Some(words) = memory.and_then(|socket| socket.departed.behind(&key)) {
        return Departure::Label(words);
    }
    let datagram = packet.protocol() == UDP;
    if datagram {
        if let Some(words) = recent::label(ends.ports, key) {
            return Departure::Label(words);
        }
    }
    let [x, y, z] = match make() {
        Ok(words) => words,
        Err(why) => return unlabelled(why, socket, packet, scid, generation),
    };
    if datagram {
        recent::note_label(ends.ports, key, [x, y, z]);
    }
    if let Some(socket) = memory {
        let [era, addrs, ports_scid] = key;
        socket.departed.set([era, addrs, ports_scid, x, y, z]);
    }
    Departure::Label([x, y, z])
}

/// The label of a process' datagram over IPv4 without options, if it is its socket's last one.
#[inline(always)]
pub(crate) fn known_label(
    sock: SockRef<'_>,
    task: TaskRef<'_>,
    ends: Ends,
    held: &Held<'_>,
) -> Option<LabelWords> {
    let socket = sockets::get(sock, held)?;
    socket
        .departed
        .behind(&datagram_key(socket, task, ends, held)?)
}

/// The same, if it has been made lately.
#[inline(always)]
pub(crate) fn recent_label(
    sock: SockRef<'_>,
    task: TaskRef<'_>,
    ends: Ends,
    held: &Held<'_>,
) -> Option<LabelWords> {
    let socket = sockets::get(sock, held)?;
    // The table is of all sockets: another one may have sent to there from the same port.
    if socket.owner().is_exempt() {
        return None;
    }
    recent::label(ends.ports, datagram_key(socket, task, ends, held)?)
}

/// What the label of a process' datagram depends on. It has no two kinds of them.
#[inline(always)]
fn datagram_key(
    socket: &Socket,
    task: TaskRef<'_>,
    ends: Ends,
    held: &Held<'_>,
) -> Option<[u64; 3]> {
    let scid = socket.speaker(|| tasks::scid(task, held), |_| false)?;
    Some(key(socket.era(state::generation()), ends, scid))
}

/// What a label depends on.
#[inline(always)]
fn key(era: u64, ends: Ends, scid: ScId) -> [u64; 3] {
    [
        era,
        ends.addrs,
        u64::from(ends.ports) << 32 | u64::from(scid.0),
    ]
}

/// The same for an IPv6 packet. Other extension headers than the label's may not be such that a
/// receiver would refuse or misread the label, nor send the packet elsewhere than it says.
#[inline(always)]
fn departure6(
    [memory, socket]: [Option<&Socket>; 2],
    packet: &Packet<'_>,
    scid: ScId,
    [generation, era]: [u64; 2],
    make: impl FnOnce() -> core::result::Result<LabelWords, Unlabelled>,
) -> Departure {
    let (first, extensions) = packet.extensions();
    if !extensions.is_empty() && !nodes::own().is_none() {
        match header6::survey(first, extensions, packet.protocol()) {
            Ok(survey) if survey.label.is_none() && !survey.routed => {}
            _ => return Departure::Drop,
        }
    }
    let [s0, s1, d0, d1] = packet.addrs6();
    let era = era | sockets::V6;
    let ports_scid = u64::from(packet.ports()) << 32 | u64::from(scid.0);
    if let Some([g, p, a, b, c, d, x, y, z]) = memory.and_then(|socket| socket.departed.get()) {
        let differs = (g ^ era) | (p ^ ports_scid);
        if differs | (a ^ s0) | (b ^ s1) | (c ^ d0) | (d ^ d1) == 0 {
            return Departure::Label([x, y, z]);
        }
    }
    let [x, y, z] = match make() {
        Ok(words) => words,
        Err(why) => return unlabelled(why, socket, packet, scid, generation),
    };
    if let Some(socket) = memory {
        socket
            .departed
            .set([era, ports_scid, s0, s1, d0, d1, x, y, z]);
    }
    Departure::Label([x, y, z])
}

/// What a raw or ICMP socket sends says whose it is, whatever its header says otherwise. What it
/// may send to is only known here: the header may name another destination than the call.
#[inline(never)]
fn raw(sock: SockRef<'_>, packet: &Packet<'_>, generation: u64, held: &Held<'_>) -> Departure {
    // They are never cloned, so whose they are is known.
    let owner = sockets::owner(sock, held).unwrap_or(ScId::DEFAULT);
    let scid = match sockets::other_speaker(sock, tasks::current(held), held) {
        Some(scid) => scid,
        None => match refused(Reason::NoPermission, owner, packet, generation) {
            Some(drop) => return drop,
            None => owner,
        },
    };
    if scid.is_exempt() {
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
    match make(packet, scid, None) {
        Ok(words) if !packet.is_fragment() => Departure::Label(words),
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

/// Who speaks through a socket: for a stream its owner, for datagrams the process that sends. `None` if
/// nobody knows.
#[inline(always)]
fn speaker(
    packet: &Packet<'_>,
    owner: ScId,
    socket: Option<&Socket>,
    held: &Held<'_>,
) -> Option<ScId> {
    // What a tunnel makes of a packet goes in the name of who sent that.
    if !packet.is_sent() {
        return Some(owner);
    }
    let running = || tasks::current(held);
    match socket {
        Some(socket) => socket.speaker(running, |scid| may_lend(scid, socket, packet)),
        // Older than the hooks: nothing is known of it.
        None => Some(match running() {
            ScId::KERNEL => owner,
            scid => scid,
        }),
    }
}

/// Whether a zone may send through a socket of another one, of those that several zones have sent through:
/// what the call to send was asked.
#[cold]
fn may_lend(scid: ScId, socket: &Socket, packet: &Packet<'_>) -> bool {
    let port = (packet.ports() >> 16) as u16;
    policy::with(|policy, _| {
        let target = socket.scid(policy, state::generation(), UDP, port);
        decide(policy, scid, |policy| {
            policy.socket(scid, nodes::own(), target, SocketPermission::Send)
        })
        .permit
    })
}

/// Whether a segment of a connection goes without its label, if nothing is special about it: its
/// receiver has it already.
#[inline]
pub(crate) fn is_bare(sock: SockRef<'_>, held: &Held<'_>) -> bool {
    sockets::get(sock, held).is_some_and(Socket::is_bare) && policy::handshake()
}

/// Whether a segment's receiver has its flow's label already. One that had to be sent again carries
/// it: the receiver may have lost what it knew.
#[inline(always)]
fn is_told(socket: &Socket, packet: &Packet<'_>) -> bool {
    packet.protocol() == TCP && socket.is_bare() && policy::handshake() && !packet.is_again()
}

/// What the label of a segment covers beside addresses and ports; `None` for one that covers no
/// more, such as the kernel's own.
fn start(
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    peer_start: impl FnOnce() -> Option<u32>,
) -> core::result::Result<Option<Start>, Unlabelled> {
    let (TCP, Some(socket)) = (packet.protocol(), socket) else {
        return Ok(None);
    };
    let handshake = policy::handshake();
    if let Some(start) = packet.answer() {
        return Ok(handshake.then_some(start));
    }
    if packet.is_first() {
        socket.opens(packet.seq(), handshake);
        return Ok(handshake.then_some(Start {
            sender: packet.seq(),
            receiver: None,
        }));
    }
    let by_start = handshake && !socket.labels_each();
    match socket.starts_or(peer_start) {
        Some([ours, theirs]) => Ok(by_start.then_some(Start {
            sender: ours,
            receiver: Some(theirs),
        })),
        None if by_start && socket.our_start().is_some() => Err(Unlabelled::NoStart),
        None => Ok(None),
    }
}

/// Why a packet gets no label.
enum Unlabelled {
    /// It goes to no node, this one is none, or there is no key.
    NoKey,
    /// It is no part of the connection that its socket is opening. A label over addresses and ports alone
    /// could be copied onto the opening of another one.
    NoStart,
    /// Its own address is no node's, as behind NAT: whoever gets it could not verify the label.
    Unmapped,
}

/// A label for the packet.
fn make(
    packet: &Packet<'_>,
    scid: ScId,
    start: Option<Start>,
) -> core::result::Result<LabelWords, Unlabelled> {
    let own = nodes::own();
    if own.is_none() {
        return Err(Unlabelled::NoKey);
    }
    nodes::with(packet.daddr(), |node| {
        let node = node.ok_or(Unlabelled::NoKey)?;
        let Some((epoch, key)) = node.tx() else {
            counters::add(Event::OutNoKey);
            return Err(Unlabelled::NoKey);
        };
        let label = Label::sealed::<KernelPrf>(epoch, own, scid, &packet.flow(), start, key);
        Ok(if packet.is_ipv4() {
            words_of(&label.encode())
        } else {
            words_of6(&header6::encode(&label, packet.protocol()))
        })
    })
}

/// What becomes of a packet that gets no label. One from behind NAT comes from outside, for the node
/// that it goes to, so what opens a flow is asked what is asked of what goes outside.
#[inline(always)]
fn unlabelled(
    why: Unlabelled,
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    scid: ScId,
    generation: u64,
) -> Departure {
    match (why, socket) {
        (Unlabelled::NoKey, Some(socket))
            if packet.is_sent() && !is_asked(socket, packet, scid, generation) =>
        {
            overtaken(packet, scid, generation)
        }
        (Unlabelled::NoKey | Unlabelled::NoStart, _) => Departure::Bare,
        (Unlabelled::Unmapped, _) => unmapped(packet, scid, generation),
    }
}

/// Whether a datagram goes where its sender was let send to through its socket, under the policy in force.
#[inline(always)]
fn is_asked(socket: &Socket, packet: &Packet<'_>, scid: ScId, generation: u64) -> bool {
    let era = socket.era(generation);
    let to = u64::from(packet.dport().to_be()) << 32 | u64::from(scid.0);
    if packet.is_ipv4() {
        let word = packet.call_word();
        let last = socket.sent.get().is_some_and(|[asked, at, call]| {
            (asked ^ era) | (at ^ to) | ((call ^ word) & !SockView::ROOM) == 0
        });
        last || recent::has_sent(socket.id(), [era, to, word])
    } else {
        let [_, _, d0, d1] = packet.addrs6();
        socket.sent.get().is_some_and(|[asked, at, _, a, b]| {
            (asked ^ (era | sockets::V6)) | (at ^ to) | (a ^ d0) | (b ^ d1) == 0
        })
    }
}

/// A datagram to outside that nobody may have asked about under this policy: one call may send a thousand
/// (sendmmsg), of which the kernel asks about the first, and a datagram that was begun before (UDP_CORK)
/// goes out without a call to send. Or its socket has sent elsewhere meanwhile.
#[cold]
fn overtaken(packet: &Packet<'_>, scid: ScId, generation: u64) -> Departure {
    // Nothing is remembered of what is tolerated, which was told when it was asked about.
    let tolerates = |policy: &Policy<'_>| !policy.meta().enforcing();
    if scid.is_exempt()
        || is_open(generation)
        || policy::with(|policy, _| policy.is_some_and(tolerates))
    {
        return Departure::Bare;
    }
    let flow = packet.asked();
    if nodes::with(flow.daddr, |node| node.is_some()) {
        return Departure::Bare;
    }
    let way = if packet.leaves_to_group() {
        Way::Group
    } else {
        Way::Datagram
    };
    if policy::with(|policy, _| egress(policy, scid, way, &flow, HOOK)).is_ok() {
        return Departure::Bare;
    }
    counters::add(Event::OutRefused);
    Departure::Refuse
}

#[cold]
fn unmapped(packet: &Packet<'_>, scid: ScId, generation: u64) -> Departure {
    // What goes outside in any case was asked about when it was sent.
    if scid.is_exempt() || is_open(generation) || nodes::is_unmapped(packet.daddr()) {
        return Departure::Bare;
    }
    note_unmapped(packet.saddr(), packet.daddr());
    let way = match packet.protocol() {
        TCP if packet.is_first() => Way::Connection,
        TCP => return Departure::Bare,
        _ => Way::Datagram,
    };
    let flow = packet.flow();
    let verdict = policy::with(|policy, _| {
        let decision = as_unmapped(may_leave(policy, scid, way, &flow), Reason::UnknownNode);
        told_egress(decision, scid, way, &flow, HOOK)
    });
    if verdict.is_ok() {
        return Departure::Bare;
    }
    counters::add(Event::OutRefused);
    Departure::Refuse
}
