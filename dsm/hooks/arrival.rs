// SPDX-License-Identifier: GPL-2.0

//! May this packet be delivered to this socket? Corresponds to `security_sock_rcv_skb()`.
//!
//! Softirq, under the RCU read lock of the IP layer; may not sleep; no socket lock is held for
//! sure. Without a policy everything is delivered, on an enrolled node only what is for the
//! management.

use super::{as_unmapped, carry_out, decide, is_open, note_unmapped, refuse, Question, Verdict};
use crate::counters::{self, Event};
use crate::engine::{
    header6, label, Class, Decision, Label, Peer, Policy, Reason, Remote, ScId, Start,
};
use crate::state::recent::{self, Handshake};
use crate::state::sockets::{self, Proof, Role, Socket};
use crate::state::{self, nodes, policy};
use crate::sys::net::{Ends, Incoming, LabelWords, Packet, SockRef, TCP, UDP};
use crate::sys::prf::KernelPrf;
use crate::sys::ptrmap::Held;

const HOOK: &str = "socket_sock_rcv_skb";

/// Whether a segment of a connection, without label or any other option, is known to be let in.
#[inline(always)]
pub(crate) fn is_believed(sock: SockRef<'_>, held: &Held<'_>) -> bool {
    sockets::get(sock, held).is_some_and(|socket| socket.believes(socket.era(state::generation())))
}

/// Whether a datagram over IPv4, with a label and no other option, is like the last one that the socket
/// was let have.
#[inline(always)]
pub(crate) fn is_known_datagram(
    sock: SockRef<'_>,
    ends: Ends,
    label: LabelWords,
    held: &Held<'_>,
) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let words = words_of(socket.era(state::generation()), ends, label);
        socket.arrived.is(&words)
    })
}

/// The same of any lately.
#[inline(always)]
pub(crate) fn is_recent_datagram(
    sock: SockRef<'_>,
    ends: Ends,
    label: LabelWords,
    held: &Held<'_>,
) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let words = words_of(socket.era(state::generation()), ends, label);
        recent::has_arrived(socket.id(), ends.ports, words)
    })
}

/// See above.
#[inline]
pub(crate) fn arrival(
    sock: SockRef<'_>,
    packet: &Packet<'_>,
    held: &Held<'_>,
    incoming: &Incoming<'_>,
) -> Verdict {
    let generation = state::generation();
    if packet.is_raw() {
        return raw(sock, packet, generation, held);
    }
    let socket = sockets::get(sock, held);
    // As of this flow: whoever begins another one meanwhile makes the verdict worthless.
    let era = socket.map_or(generation, |socket| socket.era(generation));
    if socket.is_some_and(|socket| is_known(socket, era, packet)) {
        counters::add(match socket {
            _ if packet.has_options() => Event::InLabelled,
            Some(socket) if socket.is_bound() => Event::InBare,
            _ => Event::InUnlabelled,
        });
        return Ok(());
    }
    if is_open(generation) {
        return Ok(());
    }
    let verdict = judge(sock, socket, packet, [generation, era], incoming);
    if verdict.is_err() && packet.opens() && is_rejecting() {
        incoming.reject();
    }
    verdict
}

/// Whether refused packets are answered. Who sent them learns that they were refused, not why.
#[cold]
fn is_rejecting() -> bool {
    policy::with(|policy, _| policy.is_some_and(|policy| policy.meta().reject()))
}

/// What a process' raw or ICMP socket receives is judged as datagrams from the sender to the
/// socket's owner; the default zone's sees all, as a packet socket of its does.
#[inline(never)]
fn raw(sock: SockRef<'_>, packet: &Packet<'_>, generation: u64, held: &Held<'_>) -> Verdict {
    let owner = sockets::owner(sock, held);
    if owner.is_some_and(|owner| owner.0 <= ScId::DEFAULT.0) || is_open(generation) {
        return Ok(());
    }
    let shown = sender(packet, None, || None);
    let (source, fault) = (shown.peer, shown.fault);
    let remote = Remote::sender_of(&packet.flow());
    policy::with(|policy, _| {
        let target = Peer {
            scid: owner.unwrap_or(ScId::DEFAULT),
            snid: nodes::own(),
        };
        let decision = match (fault, policy) {
            _ if owner.is_none() => refuse(policy, Reason::NoMemory),
            (Some(reason), _) => refuse(policy, reason),
            (None, _) if source.scid == ScId::KERNEL && packet.is_icmp_reply() => Decision::PERMIT,
            (None, Some(policy)) if source != Peer::OUTSIDE => {
                let hosting = policy.hosting(source.snid, source.scid);
                if hosting.is_refusal() {
                    hosting
                } else {
                    datagram(policy, packet, source, target, &remote)
                }
            }
            _ => decide(policy, target.scid, |policy| {
                datagram(policy, packet, source, target, &remote)
            }),
        };
        let (decision, source) = shown.told_as(decision);
        told(decision, packet, source, target)
    })
}

/// The decision on a datagram.
fn datagram(
    policy: &Policy<'_>,
    packet: &Packet<'_>,
    source: Peer,
    target: Peer,
    remote: &Remote,
) -> Decision {
    if packet.to_group() && source == Peer::OUTSIDE {
        policy.network_multicast(source, target, remote)
    } else {
        policy.network_datagram(source, target, remote)
    }
}

/// Carries out the decision on a packet.
fn told(decision: Decision, packet: &Packet<'_>, source: Peer, target: Peer) -> Verdict {
    carry_out(
        decision,
        &Question {
            class: Class::Network,
            permission: match packet.protocol() {
                TCP if !packet.is_raw() => "connect",
                _ if packet.to_group() => "multicast",
                _ => "send",
            },
            hook: HOOK,
            source,
            target,
            flow: Some(&packet.flow()),
        },
    )
    .map(drop)
}

/// Whether such a packet was the last one that the socket was let have. Those of a handshake are
/// each looked at: their labels cover what is not compared here.
#[inline(always)]
fn is_known(socket: &Socket, generation: u64, packet: &Packet<'_>) -> bool {
    if packet.is_listening() || packet.is_syn() {
        false
    } else if packet.is_ipv4() {
        words(generation, packet).is_some_and(|words| {
            socket.arrived.is(&words)
                || packet.protocol() == UDP
                    && recent::has_arrived(socket.id(), packet.ends().ports, words)
        })
    } else {
        words6(generation, packet).is_some_and(|words| {
            socket.arrived.is(&words)
                || packet.protocol() == UDP
                    && recent::has_arrived6(socket.id(), packet.ports(), words)
        })
    }
}

fn remember(socket: &Socket, generation: u64, packet: &Packet<'_>) {
    if packet.is_listening() || packet.is_syn() {
        return;
    }
    let datagram = packet.protocol() == UDP;
    if packet.is_ipv4() {
        if let Some(words) = words(generation, packet) {
            socket.arrived.set(words);
            if datagram {
                recent::note_arrived(socket.id(), packet.ends().ports, words);
            }
        }
    } else if let Some(words) = words6(generation, packet) {
        socket.arrived.set(words);
        if datagram {
            recent::note_arrived6(socket.id(), packet.ports(), words);
        }
    }
}

/// As [`words`], of an IPv6 packet.
#[inline(always)]
fn words6(generation: u64, packet: &Packet<'_>) -> Option<[u64; 9]> {
    let [a, b, c] = packet.header_words()?;
    let [s0, s1, d0, d1] = packet.addrs6();
    let (first, extensions) = packet.extensions();
    let shape = u64::from(first) << 8 | extensions.len() as u64;
    Some([
        generation | sockets::V6,
        u64::from(packet.ports()) << 32 | shape,
        s0,
        s1,
        d0,
        d1,
        a,
        b,
        c,
    ])
}

/// What is the same for packets that get the same verdict, in one socket and generation.
#[inline(always)]
fn words(generation: u64, packet: &Packet<'_>) -> Option<[u64; 5]> {
    let label = packet.label_words()?;
    Some(words_of(generation, packet.ends(), label))
}

#[inline(always)]
fn words_of(generation: u64, ends: Ends, [a, b, c]: LabelWords) -> [u64; 5] {
    [
        generation,
        ends.addrs,
        u64::from(ends.ports) << 32 | c,
        a,
        b,
    ]
}

/// Who sent a packet, as far as it can be believed.
#[derive(Clone, Copy)]
struct Sender {
    /// Who it claims to be; outside without label.
    peer: Peer,
    /// Why that is not to be believed.
    fault: Option<Reason>,
    /// How it has shown it.
    proof: Proof,
    /// Who it claims to be by a label that cannot be verified, because an end of the packet has an
    /// address that is no node's. It is outside then.
    unmapped: Option<Peer>,
}

impl Sender {
    /// How a decision on it is told, and about whom.
    fn told_as(self, decision: Decision) -> (Decision, Peer) {
        match self.unmapped {
            Some(claim) if decision.is_refusal() => {
                (as_unmapped(decision, Reason::UnknownNode), claim)
            }
            _ => (decision, self.peer),
        }
    }
}

/// Who sent it. `handshake` tells where the sequence numbers of a segment for a listener start, if
/// its own do not tell.
fn sender(
    packet: &Packet<'_>,
    socket: Option<&Socket>,
    handshake: impl Fn() -> Option<Start>,
) -> Sender {
    let label = if packet.is_ipv4() {
        label::find(packet.options())
    } else {
        let (first, extensions) = packet.extensions();
        header6::find(first, extensions, packet.protocol())
    };
    let (peer, proof, fault) = match label {
        Ok(Some(label)) => {
            let claim = Peer {
                scid: label.scid,
                snid: label.snid,
            };
            if is_unmapped(packet) {
                return Sender {
                    peer: Peer::OUTSIDE,
                    fault: None,
                    proof: Proof::None,
                    unmapped: Some(claim),
                };
            }
            match verify(&label, packet, socket, handshake) {
                Ok(proof) => (claim, proof, None),
                Err(reason) => (claim, Proof::None, Some(reason)),
            }
        }
        Ok(None) => match bound(packet, socket) {
            Some(peer) => (peer, Proof::None, moved(packet, peer)),
            None => (Peer::OUTSIDE, Proof::None, None),
        },
        Err(_) => (Peer::OUTSIDE, Proof::None, Some(Reason::BadLabel)),
    };
    Sender {
        peer,
        fault,
        proof,
        unmapped: None,
    }
}

/// Whether the label of a packet was made for other addresses, or by nobody who is known: one of its
/// ends is no node's. No label is made for a group.
fn is_unmapped(packet: &Packet<'_>) -> bool {
    let unmapped = |own, peer| {
        let unmapped = nodes::is_unmapped(own);
        if unmapped {
            note_unmapped(own, peer);
        }
        unmapped
    };
    let (source, destination) = (packet.saddr(), packet.daddr());
    unmapped(source, destination) || !packet.to_group() && unmapped(destination, source)
}

/// The peer of the flow of a segment without label, if it has shown in the flow's handshake who it
/// is.
fn bound(packet: &Packet<'_>, socket: Option<&Socket>) -> Option<Peer> {
    if packet.protocol() != TCP || packet.is_raw() || packet.is_listening() {
        return None;
    }
    socket?.bare_peer(policy::handshake())
}

/// Whether the address of a flow's peer is another node's by now, or nobody's.
fn moved(packet: &Packet<'_>, peer: Peer) -> Option<Reason> {
    nodes::with(packet.saddr(), |node| match node {
        Some(node) if node.snid() == peer.snid => None,
        Some(_) => Some(Reason::WrongSource),
        None => Some(Reason::UnknownNode),
    })
}

/// What a label proves of its packet.
fn verify(
    label: &Label,
    packet: &Packet<'_>,
    socket: Option<&Socket>,
    handshake: impl Fn() -> Option<Start>,
) -> core::result::Result<Proof, Reason> {
    let start = if label.stream {
        Some(start(packet, socket)?)
    } else {
        None
    };
    nodes::with(packet.saddr(), |node| {
        let node = node.ok_or(Reason::UnknownNode)?;
        if node.snid() != label.snid {
            return Err(Reason::WrongSource);
        }
        let key = node.rx(label.epoch).ok_or(Reason::UnknownEpoch)?;
        let flow = packet.flow();
        let proves = |start| label.verify::<KernelPrf>(&flow, start, key);
        if proves(start) {
            return Ok(match start {
                None => Proof::Packet,
                Some(Start { receiver: None, .. }) => Proof::First,
                Some(_) => Proof::Stream,
            });
        }
        // Not the first one of its sender's behind the handshake.
        let listening = label.stream && packet.is_listening() && !packet.is_syn();
        match listening.then(&handshake).flatten() {
            Some(start) if proves(Some(start)) => Ok(Proof::Stream),
            _ => Err(Reason::BadMac),
        }
    })
}

/// Where the sequence numbers start that the label of a segment has to cover.
fn start(packet: &Packet<'_>, socket: Option<&Socket>) -> core::result::Result<Start, Reason> {
    if packet.protocol() != TCP || packet.is_raw() {
        return Err(Reason::BadLabel);
    }
    let (sender, receiver) = if packet.is_first() {
        (packet.seq(), None)
    } else if packet.is_listening() {
        // The last segment of the handshake, or the first one of data in its place.
        let before = |number: u32| number.wrapping_sub(1);
        (before(packet.seq()), Some(before(packet.ack())))
    } else if packet.is_syn() {
        let ours = socket.and_then(Socket::our_start);
        (packet.seq(), Some(ours.ok_or(Reason::NotBound)?))
    } else {
        let starts = socket.and_then(Socket::starts);
        let [ours, theirs] = starts.ok_or(Reason::NotBound)?;
        (theirs, Some(ours))
    };
    Ok(Start { sender, receiver })
}

#[inline(never)]
fn judge(
    sock: SockRef<'_>,
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    [generation, era]: [u64; 2],
    incoming: &Incoming<'_>,
) -> Verdict {
    let lost = socket.is_none() && sock.is_lost();
    let owner = sockets::owner_of(socket);
    if owner.is_exempt() {
        return Ok(());
    }
    let shown = sender(packet, socket, || incoming.handshake());
    let (source, fault) = (shown.peer, shown.fault);
    policy::with(|policy, _| {
        let scid = match socket {
            Some(socket) => socket.scid(policy, generation, packet.protocol(), packet.dport()),
            None => sockets::scid_of_port(policy, owner, packet.protocol(), packet.dport()),
        };
        let decision = if lost {
            refuse(policy, Reason::NoMemory)
        } else {
            weigh(policy, socket, packet, source, fault, [scid, owner])
        };
        if !decision.is_refusal() {
            if source.scid == ScId::KERNEL {
                counters::add(Event::InKernel);
                return Ok(());
            }
            counters::add(match (source, shown.proof) {
                (Peer::OUTSIDE, _) => Event::InUnlabelled,
                (_, Proof::None) => Event::InBare,
                _ => Event::InLabelled,
            });
            if packet.protocol() == TCP && packet.is_listening() && !packet.is_syn() {
                note_opened(packet, shown);
            }
            if let Some(socket) = socket {
                if packet.protocol() == TCP && source != Peer::OUTSIDE {
                    learn(socket, packet, shown.proof, [generation, era]);
                    if shown.proof == Proof::None && policy::handshake() {
                        socket.believe(era);
                    }
                }
                remember(socket, era, packet);
            }
            return Ok(());
        }
        if is_stray(packet, shown, incoming) {
            return Ok(());
        }
        let (decision, source) = shown.told_as(decision);
        let target = Peer {
            scid,
            snid: nodes::own(),
        };
        told(decision, packet, source, target)
    })
}

/// Notes who is behind the connection whose handshake a segment ends that is let in: its socket is made
/// of it, and may never receive another one.
fn note_opened(packet: &Packet<'_>, shown: Sender) {
    if shown.proof == Proof::None {
        return;
    }
    let addrs = if packet.is_ipv4() {
        [packet.addrs(), 0, 0, 0]
    } else {
        packet.addrs6()
    };
    // Where it is not the first one behind the SYN, the first one is on its way to the socket.
    let before = |number: u32| number.wrapping_sub(1);
    Handshake {
        addrs,
        ports: packet.ports(),
        starts: [before(packet.seq()), before(packet.ack())],
    }
    .note(shown.peer, shown.proof);
}

/// Notes what the flow's peer has shown by a packet that is let in.
fn learn(socket: &Socket, packet: &Packet<'_>, proof: Proof, [generation, era]: [u64; 2]) {
    if packet.is_listening() {
        return;
    }
    if socket.heard(proof, packet.is_syn(), policy::handshake()) {
        counters::add(Event::FlowBound);
    }
    if proof == Proof::Stream && packet.is_syn() {
        socket.claims(packet.seq());
    }
    if socket.era(generation) != era {
        // Another flow has begun.
        socket.unlearn();
    }
}

/// Whether a segment of a node is for a connection that is no more, whose label was in a handshake
/// long ago: TCP tells its sender so. Nothing else comes of it.
#[cold]
fn is_stray(packet: &Packet<'_>, shown: Sender, incoming: &Incoming<'_>) -> bool {
    let unlabelled = shown.peer == Peer::OUTSIDE && shown.fault.is_none();
    let stray = packet.protocol() == TCP
        && packet.is_listening()
        && policy::handshake()
        && (unlabelled || shown.fault == Some(Reason::BadMac))
        && nodes::with(packet.saddr(), |node| node.is_some())
        && incoming.is_stray();
    if stray {
        counters::add(Event::InStray);
    }
    stray
}

/// The decision on a packet for a socket of one ScID, owned by a process of another or the same.
fn weigh(
    policy: Option<&Policy<'_>>,
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    source: Peer,
    fault: Option<Reason>,
    targets: [ScId; 2],
) -> Decision {
    if let Some(reason) = fault {
        return refuse(policy, reason);
    }
    if source.scid == ScId::KERNEL && packet.is_kernel_reply() {
        return Decision::PERMIT;
    }
    let remote = Remote::sender_of(&packet.flow());
    let decision = reach(policy, source, targets, |policy, target| {
        if packet.protocol() != TCP {
            return datagram(policy, packet, source, target, &remote);
        }
        let role = match socket {
            _ if packet.is_listening() => Role::Passive,
            Some(socket) => socket.role(),
            None => Role::Unknown,
        };
        flow(policy, role, source, target, &remote)
    });
    if decision.is_refusal() || packet.protocol() != TCP || packet.is_listening() {
        return decision;
    }
    let bound = match (socket, policy) {
        (Some(socket), Some(_)) if source == Peer::OUTSIDE => !socket.is_bound(),
        (Some(socket), Some(_)) => socket.bind_peer(source),
        _ => true,
    };
    if bound {
        decision
    } else {
        refuse(policy, Reason::NotBound)
    }
}

/// May a sender reach a socket of one ScID, owned by a process of another or the same? `ask` asks
/// the policy for each of the two.
pub(super) fn reach(
    policy: Option<&Policy<'_>>,
    source: Peer,
    [scid, owner]: [ScId; 2],
    ask: impl Fn(&Policy<'_>, Peer) -> Decision,
) -> Decision {
    // A proven label proves the node, not that the node runs the zone.
    if let (Some(policy), true) = (policy, source != Peer::OUTSIDE) {
        let hosting = policy.hosting(source.snid, source.scid);
        if hosting.is_refusal() {
            return hosting;
        }
    }
    let own = nodes::own();
    let one = |scid| {
        let target = Peer { scid, snid: own };
        decide(policy, scid, |policy| {
            let decision = ask(policy, target);
            match decision.reason {
                Reason::NoPermission if source == Peer::OUTSIDE => Decision {
                    reason: Reason::NoLabel,
                    ..decision
                },
                _ => decision,
            }
        })
    };
    let decision = one(scid);
    if decision.is_refusal() || owner == scid {
        decision
    } else {
        one(owner)
    }
}

/// The decision on a segment of a TCP flow: of the connection that it belongs to.
pub(super) fn flow(
    policy: &Policy<'_>,
    role: Role,
    source: Peer,
    target: Peer,
    remote: &Remote,
) -> Decision {
    match role {
        Role::Passive => policy.network_connect(source, target, remote),
        Role::Active => match source.scid {
            // As a listener they are exempt; what they send to a zone is not.
            ScId::KERNEL | ScId::MANAGEMENT => policy.network_connect(source, target, remote),
            _ => policy.network_connect(target, source, remote),
        },
        Role::Unknown => {
            let decision = policy.network_connect(source, target, remote);
            if !decision.is_refusal() || source.scid.is_exempt() {
                return decision;
            }
            let other = policy.network_connect(target, source, remote);
            if other.is_refusal() {
                decision
            } else {
                other
            }
        }
    }
}
