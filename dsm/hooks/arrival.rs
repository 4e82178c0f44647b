// SPDX-License-Identifier: GPL-2.0

//! May this packet be delivered to this socket? Corresponds to `security_sock_rcv_skb()`.
//!
//! Softirq, under the RCU read lock of the IP layer; may not sleep; no socket lock is held for
//! sure. Without a policy everything is delivered, on an enrolled node only what is for the
//! management.

use super::{carry_out, decide, is_open, refuse, Question, Verdict};
use crate::counters::{self, Event};
use crate::engine::{header6, label, Class, Decision, Peer, Policy, Reason, Remote, ScId};
use crate::state::sockets::{self, Role, Socket};
use crate::state::{self, nodes, policy};
use crate::sys::net::{Packet, SockRef, TCP};
use crate::sys::prf::KernelPrf;
use crate::sys::ptrmap::Held;

const HOOK: &str = "socket_sock_rcv_skb";

/// See above. `reject` answers the packet with 'administratively prohibited'.
#[inline]
pub(crate) fn arrival(
    sock: SockRef<'_>,
    packet: &Packet<'_>,
    held: &Held<'_>,
    reject: impl FnOnce(),
) -> Verdict {
    let generation = state::generation();
    if packet.is_raw() {
        return raw(sock, packet, generation, held);
    }
    let socket = sockets::get(sock, held);
    // As of this flow: whoever begins another one meanwhile makes the verdict worthless.
    let era = socket.map_or(generation, |socket| socket.era(generation));
    if socket.is_some_and(|socket| is_known(socket, era, packet)) {
        counters::add(if !packet.has_options() {
            Event::InUnlabelled
        } else {
            Event::InLabelled
        });
        return Ok(());
    }
    if is_open(generation) {
        return Ok(());
    }
    let verdict = judge(sock, socket, packet, [generation, era]);
    if verdict.is_err() && packet.opens() && is_rejecting() {
        reject();
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
    if owner.0 <= ScId::DEFAULT.0 || is_open(generation) {
        return Ok(());
    }
    let (source, fault) = sender(packet);
    let remote = Remote::sender_of(&packet.flow());
    policy::with(|policy, _| {
        let target = Peer {
            scid: owner,
            snid: nodes::own(),
        };
        let decision = match (fault, policy) {
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
            _ => decide(policy, owner, |policy| {
                datagram(policy, packet, source, target, &remote)
            }),
        };
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

/// Whether such a packet was the last one that the socket was let have.
#[inline(always)]
fn is_known(socket: &Socket, generation: u64, packet: &Packet<'_>) -> bool {
    if packet.is_ipv4() {
        words(generation, packet).is_some_and(|words| socket.arrived.is(&words))
    } else {
        words6(generation, packet).is_some_and(|words| socket.arrived.is(&words))
    }
}

fn remember(socket: &Socket, generation: u64, packet: &Packet<'_>) {
    if packet.is_ipv4() {
        if let Some(words) = words(generation, packet) {
            socket.arrived.set(words);
        }
    } else if let Some(words) = words6(generation, packet) {
        socket.arrived.set(words);
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
    let [a, b, c] = packet.label_words()?;
    Some([
        generation,
        packet.addrs(),
        u64::from(packet.ports()) << 32 | c,
        a,
        b,
    ])
}

/// Who sent it, or why that cannot be believed; the claim is told in both cases.
fn sender(packet: &Packet<'_>) -> (Peer, Option<Reason>) {
    let label = if packet.is_ipv4() {
        label::find(packet.options())
    } else {
        let (first, extensions) = packet.extensions();
        header6::find(first, extensions, packet.protocol())
    };
    let label = match label {
        Ok(Some(label)) => label,
        Ok(None) => return (Peer::OUTSIDE, None),
        Err(_) => return (Peer::OUTSIDE, Some(Reason::BadLabel)),
    };
    let claim = Peer {
        scid: label.scid,
        snid: label.snid,
    };
    let fault = nodes::with(packet.saddr(), |node| {
        let Some(node) = node else {
            return Some(Reason::UnknownNode);
        };
        if node.snid() != label.snid {
            return Some(Reason::WrongSource);
        }
        let Some(key) = node.rx(label.epoch) else {
            return Some(Reason::UnknownEpoch);
        };
        if label.verify::<KernelPrf>(&packet.flow(), key) {
            None
        } else {
            Some(Reason::BadMac)
        }
    });
    (claim, fault)
}

#[inline(never)]
fn judge(
    sock: SockRef<'_>,
    socket: Option<&Socket>,
    packet: &Packet<'_>,
    [generation, era]: [u64; 2],
) -> Verdict {
    let lost = socket.is_none() && sockets::is_lost(sock);
    let owner = sockets::owner_of(socket);
    if owner.is_exempt() {
        return Ok(());
    }
    let (source, fault) = sender(packet);
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
            counters::add(if source == Peer::OUTSIDE {
                Event::InUnlabelled
            } else {
                Event::InLabelled
            });
            if let Some(socket) = socket {
                remember(socket, era, packet);
            }
            return Ok(());
        }
        let target = Peer {
            scid,
            snid: nodes::own(),
        };
        told(decision, packet, source, target)
    })
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
