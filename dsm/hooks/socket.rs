// SPDX-License-Identifier: GPL-2.0

//! What may a process do with a socket? Corresponds to `security_socket_*()`. Also keeps the
//! state beside sockets: made with them, inherited by accepted ones, gone with them.
//!
//! System calls: process context, may sleep, no lock held. Clone and free: any context. Without a
//! policy everything goes ahead, on an enrolled node only what the management does.

use super::{carry_out, decide, is_open, refuse, Grant, Question, Refused, Verdict};
use crate::counters::{self, Event};
use crate::engine::{Class, Decision, Flow, Peer, Policy, Reason, Remote, ScId, SocketPermission};
use crate::state::recent::{self, Handshake};
use crate::state::sockets::{self, Role, Socket};
use crate::state::{self, nodes, policy, tasks};
use crate::sys::net::{Cloned, Destination, Family, Sleeper, SockRef, SockView, TCP, UDP};
use crate::sys::ptrmap::{self, Context, Held};
use crate::sys::task::TaskRef;
use core::net::IpAddr;
use kernel::prelude::*;

const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const AF_ALG: i32 = 38;
const SOCK_STREAM: i32 = 1;
const SOCK_DGRAM: i32 = 2;
const IPPROTO_ICMP: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_UDP: i32 = 17;
const IPPROTO_MPTCP: i32 = 262;

type Answer = core::result::Result<Grant, Refused>;

fn peer(scid: ScId) -> Peer {
    Peer {
        scid,
        snid: nodes::own(),
    }
}

/// Asks whether a process may do something with a socket.
fn access(
    policy: Option<&Policy<'_>>,
    subject: ScId,
    target: ScId,
    permission: SocketPermission,
    hook: &'static str,
    flow: Option<&Flow>,
) -> Answer {
    let own = nodes::own();
    let decision = decide(policy, subject, |policy| {
        policy.socket(subject, own, target, permission)
    });
    carry_out(
        decision,
        &Question {
            class: Class::Socket,
            permission: permission.name(),
            hook,
            source: peer(subject),
            target: peer(target),
            flow,
        },
    )
}

/// How a zone talks to machines that are no nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a connection.
    Connection,
    /// By a datagram.
    Datagram,
    /// By a datagram to a multicast or broadcast address.
    Group,
}

impl Way {
    fn of(view: &SockView<'_>) -> Self {
        if view.protocol() == TCP {
            Self::Connection
        } else if view.to_group() {
            Self::Group
        } else {
            Self::Datagram
        }
    }
}

/// Whether a zone may talk to the machine that a flow goes to, as to one that is no node.
pub(super) fn may_leave(
    policy: Option<&Policy<'_>>,
    subject: ScId,
    way: Way,
    flow: &Flow,
) -> Decision {
    let source = peer(subject);
    let remote = Remote::receiver_of(flow);
    decide(policy, subject, |policy| match way {
        Way::Connection => policy.network_connect(source, Peer::OUTSIDE, &remote),
        Way::Datagram => policy.network_datagram(source, Peer::OUTSIDE, &remote),
        Way::Group => policy.network_multicast(source, Peer::OUTSIDE, &remote),
    })
}

/// Carries out the decision on that.
pub(super) fn told_egress(
    decision: Decision,
    subject: ScId,
    way: Way,
    flow: &Flow,
    hook: &'static str,
) -> Answer {
    carry_out(
        decision,
        &Question {
            class: Class::Network,
            permission: match way {
                Way::Connection => "connect",
                Way::Datagram => "send",
                Way::Group => "multicast",
            },
            hook,
            source: peer(subject),
            target: Peer::OUTSIDE,
            flow: Some(flow),
        },
    )
}

/// Asks whether a zone may talk to the machine that a flow goes to, which is no node.
pub(super) fn egress(
    policy: Option<&Policy<'_>>,
    subject: ScId,
    way: Way,
    flow: &Flow,
    hook: &'static str,
) -> Answer {
    told_egress(may_leave(policy, subject, way, flow), subject, way, flow, hook)
}

/// Whether packets to there go outside. `None` if they go nowhere yet.
fn goes_outside(destination: Destination) -> Option<bool> {
    match destination {
        Destination::None => None,
        Destination::Ip(address) => Some(nodes::with(address, |node| node.is_none())),
    }
}

/// May the process make such a socket? One whose traffic cannot be labelled or checked takes a
/// permission of its own from zones that administrators made.
pub(crate) fn create(family: i32, kind: i32, protocol: i32, kern: bool) -> Verdict {
    if kern || is_open(state::generation()) {
        return Ok(());
    }
    let permission = match (family, kind, protocol) {
        (AF_UNIX | AF_NETLINK | AF_ALG, _, _) => return Ok(()),
        (AF_INET | AF_INET6, SOCK_STREAM, 0 | IPPROTO_TCP | IPPROTO_MPTCP)
        | (AF_INET | AF_INET6, SOCK_DGRAM, 0 | IPPROTO_UDP)
        | (AF_INET, SOCK_DGRAM, IPPROTO_ICMP) => SocketPermission::Create,
        _ => SocketPermission::CreateUnmediated,
    };
    let subject = ptrmap::read(tasks::current);
    if permission == SocketPermission::CreateUnmediated && subject == ScId::DEFAULT {
        return Ok(());
    }
    policy::with(|policy, _| {
        access(policy, subject, subject, permission, "socket_create", None).map(drop)
    })
}

/// May the process go on using a socket that it takes a permission of its own to make? Asked with
/// each call: the policy may have withdrawn it since.
pub(crate) fn unmediated(hook: &'static str) -> Verdict {
    let subject = ptrmap::read(tasks::current);
    if subject.0 <= ScId::DEFAULT.0 || is_open(state::generation()) {
        return Ok(());
    }
    let permission = SocketPermission::CreateUnmediated;
    policy::with(|policy, _| access(policy, subject, subject, permission, hook, None).map(drop))
}

/// How a process may read the errors of a socket of IP's.
pub(crate) enum Errors {
    /// With what they quote.
    Whole,
    /// Without it.
    Bare,
}

/// How may the process read the errors of a socket that asks for ICMP's? Those quote what their senders
/// say that the socket sent, which nobody can check: it is data from whoever writes it. A zone that may make
/// sockets without labels could as well read the ICMP messages themselves. `more`: the call gets more of them
/// than can be taken away here.
pub(crate) fn errors(more: bool) -> core::result::Result<Errors, Refused> {
    let subject = ptrmap::read(tasks::current);
    if subject.0 <= ScId::DEFAULT.0 || is_open(state::generation()) {
        return Ok(Errors::Whole);
    }
    let permission = SocketPermission::CreateUnmediated;
    policy::with(|policy, _| {
        if more {
            access(policy, subject, subject, permission, "socket_recvmsg", None)?;
            return Ok(Errors::Whole);
        }
        let decision = decide(policy, subject, |policy| {
            policy.socket(subject, nodes::own(), subject, permission)
        });
        Ok(if decision.permit {
            Errors::Whole
        } else {
            Errors::Bare
        })
    })
}

/// The process was let send, and is about to, through a socket that is neither TCP nor UDP, nor AF_UNIX.
pub(crate) fn sends_other(sock: SockRef<'_>) {
    ptrmap::read(|held| sockets::other_sends_for(sock, tasks::current(held), held));
}

/// A socket has been made that is neither TCP nor UDP.
pub(crate) fn created_other(sock: SockRef<'_>, kern: bool) -> Result {
    let _inside = ptrmap::read(|_| Sleeper::enter());
    let owner = if kern {
        ScId::KERNEL
    } else {
        ptrmap::read(tasks::current)
    };
    sockets::own(sock, owner, Context::Process)
}

/// A socket has been made; the kernel's own are its own.
pub(crate) fn created(sock: SockRef<'_>, kern: bool) -> Result {
    // Memory may have to be waited for.
    let _inside = ptrmap::read(|_| Sleeper::enter());
    let owner = if kern {
        ScId::KERNEL
    } else {
        ptrmap::read(tasks::current)
    };
    sockets::insert(sock, owner, Context::Process)
}

/// Somebody asks a listener for a connection, which will take a socket. Softirq.
#[inline]
pub(crate) fn requested(listener: SockRef<'_>) -> Result {
    sockets::may_accept(listener)
}

/// A socket has been cloned from a listener. Softirq.
pub(crate) fn cloned(parent: SockRef<'_>, child: &Cloned<'_>) {
    if sockets::clone(parent, child.sock()).is_err() {
        lose(child);
    }
}

/// The same for a socket that is neither TCP nor UDP.
pub(crate) fn cloned_other(parent: SockRef<'_>, child: &Cloned<'_>) {
    let owner = ptrmap::read(|held| sockets::owner(parent, held)).ok_or(ENOMEM);
    let kept = owner.and_then(|owner| sockets::own(child.sock(), owner, Context::Atomic));
    if kept.is_err() {
        lose(child);
    }
}

/// Whose a clone is could not be kept, so that it is refused everything.
#[cold]
fn lose(child: &Cloned<'_>) {
    child.lose();
    counters::add(Event::Lost);
}

/// A clone has become the passive side of a connection from an address, by this handshake. Softirq.
/// `reserve` makes room for labels, if each packet is to have one, and in a `part` of another socket,
/// which has nobody to ask for it before a large message.
pub(crate) fn connection(
    child: SockRef<'_>,
    from: Option<IpAddr>,
    part: bool,
    of: &Handshake,
    reserve: impl FnOnce() -> bool,
) {
    let handshake = policy::handshake();
    ptrmap::read(|held| {
        let Some(socket) = sockets::get(child, held) else {
            return;
        };
        let wanted = from.filter(|from| {
            (part || !handshake)
                && !state::is_closing()
                && !socket.owner().is_exempt()
                && is_labelling(Destination::Ip(*from))
        });
        let reserved = wanted.filter(|_| reserve()).map(Family::of);
        let [theirs, ours] = of.starts;
        socket.complete(reserved, [ours, theirs], handshake);
        if let Some((peer, proof)) = of.shown() {
            if socket.bind_peer(peer) && socket.heard(proof, false, handshake) {
                counters::add(Event::FlowBound);
            }
        }
    });
}

/// Whether packets to there are labelled.
fn is_labelling(destination: Destination) -> bool {
    !nodes::own().is_none() && goes_outside(destination) == Some(false)
}

/// A kernel-made socket is a part of a process' one; a part connects, unless it is seen to wait
/// for connections. `reserve` makes room for labels. Sleeps.
pub(crate) fn adopt_part(
    whole: SockRef<'_>,
    part: SockRef<'_>,
    reserve: impl FnOnce(Sleeper) -> Result,
) -> Result {
    let (owner, is_known) = ptrmap::read(|held| {
        let owner = sockets::owner(whole, held).ok_or(ENOMEM)?;
        Ok::<_, Error>((owner, sockets::get(part, held).is_some()))
    })?;
    if !is_known {
        // It was made before its making could be seen: hooks come, and go, one after the other.
        let _inside = ptrmap::read(|_| Sleeper::enter());
        sockets::insert(part, owner, Context::Process)?;
    }
    let sleeper = ptrmap::read(|held| {
        let Some(part) = sockets::get(part, held) else {
            return Err(ENOMEM);
        };
        part.give_to(owner);
        part.begin(Role::Active);
        let wanted = !owner.is_exempt()
            && !nodes::own().is_none()
            && !state::is_closing()
            && (part.to_reserve(Family::V4) | part.to_reserve(Family::V6));
        Ok(wanted.then(Sleeper::enter))
    })?;
    match sleeper {
        Some(sleeper) => reserve(sleeper),
        None => Ok(()),
    }
}

/// A socket that is older than the module is the default zone's from its first call on. Sleeps.
fn adopt(view: &SockView<'_>) {
    if ptrmap::read(|held| sockets::get(view.sock(), held).is_some()) || view.sock().is_lost() {
        return;
    }
    let _inside = ptrmap::read(|_| Sleeper::enter());
    // Without memory it stays without entry, which says the same.
    if sockets::insert(view.sock(), ScId::DEFAULT, Context::Process).is_ok() {
        counters::add(Event::Adopted);
    }
}

/// Has room for labels made, if packets are to be labelled and may need it; that of a stream which
/// needs no labels any more is given back.
fn make_room(view: &SockView<'_>) {
    let Destination::Ip(address) = view.destination() else {
        return;
    };
    let family = Family::of(address);
    let each = view.is_stream() && !policy::handshake();
    if view.is_stream() && !each && is_bare(view) {
        give_back(view);
        return;
    }
    if (each || view.is_large()) && !view.reserved(family) && is_labelling(view.destination()) {
        reserve(view, family);
    }
}

/// Whether a stream's segments leave without labels.
fn is_bare(view: &SockView<'_>) -> bool {
    ptrmap::read(|held| sockets::get(view.sock(), held).is_some_and(Socket::is_bare))
}

/// Takes the room for labels back. Sleeps.
fn give_back(view: &SockView<'_>) {
    let sleeper = ptrmap::read(|held| {
        let socket = sockets::get(view.sock(), held)?;
        (!state::is_closing() && socket.to_unreserve()).then(Sleeper::enter)
    });
    if let Some(sleeper) = sleeper {
        view.sock().unreserve(sleeper);
    }
}

/// Makes room for labels in a socket's packets, if it has not been tried. Without memory for it
/// the labels are inserted. Sleeps.
fn reserve(view: &SockView<'_>, family: Family) {
    let sleeper = ptrmap::read(|held| {
        let socket = sockets::get(view.sock(), held)?;
        (!socket.owner().is_exempt() && !state::is_closing() && socket.to_reserve(family))
            .then(Sleeper::enter)
    });
    if let Some(sleeper) = sleeper {
        if view.sock().reserve(family, sleeper).is_err() {
            kernel::pr_warn_once!("no memory to reserve room for labels; they are inserted\n");
        }
    }
}

/// A call of a process on a socket.
struct Call<'a> {
    view: &'a SockView<'a>,
    hook: &'static str,
    generation: u64,
    subject: ScId,
    socket: Option<&'a Socket>,
}

impl Call<'_> {
    /// Whose the socket is could not be kept.
    #[cold]
    fn refuse(
        &self,
        policy: Option<&Policy<'_>>,
        permission: SocketPermission,
        flow: &Flow,
    ) -> Answer {
        carry_out(
            refuse(policy, Reason::NoMemory),
            &Question {
                class: Class::Socket,
                permission: permission.name(),
                hook: self.hook,
                source: peer(self.subject),
                target: peer(ScId::DEFAULT),
                flow: Some(flow),
            },
        )
    }

    /// Asks for a permission on the socket that it is on a port; for `egress_too`, also whether
    /// the call's destination may be outside.
    fn ask(&self, permission: SocketPermission, port: u16, egress_too: bool) -> Answer {
        if is_open(self.generation) {
            return Ok(Grant::ByRight);
        }
        let view = self.view;
        let flow = view.flow();
        policy::with(|policy, _| {
            if self.socket.is_none() && view.sock().is_lost() {
                return self.refuse(policy, permission, &flow);
            }
            let target = match self.socket {
                Some(socket) => socket.scid(policy, self.generation, view.protocol(), port),
                None => sockets::scid_of_port(policy, ScId::DEFAULT, view.protocol(), port),
            };
            let on_socket = access(
                policy,
                self.subject,
                target,
                permission,
                self.hook,
                Some(&flow),
            )?;
            if !egress_too || goes_outside(view.destination()) != Some(true) {
                return Ok(on_socket);
            }
            let outside = egress(policy, self.subject, Way::of(view), &flow, self.hook)?;
            Ok(if on_socket == Grant::ByRight {
                outside
            } else {
                on_socket
            })
        })
    }
}

/// Runs `f` on a call of the running process.
#[inline(always)]
fn with_call<R>(view: &SockView<'_>, hook: &'static str, f: impl FnOnce(&Call<'_>) -> R) -> R {
    // Before anything that is decided on.
    let generation = state::generation();
    ptrmap::read(|held| {
        f(&Call {
            view,
            hook,
            generation,
            subject: tasks::current(held),
            socket: sockets::get(view.sock(), held),
        })
    })
}

/// May the process bind the socket to the address?
pub(crate) fn bind(view: &SockView<'_>) -> Verdict {
    with_call(view, "socket_bind", |call| {
        call.ask(SocketPermission::Bind, view.remote_port(), false)
            .map(drop)
    })
}

/// May the process connect the socket to the address? From here on the socket is the active side
/// of its flow.
pub(crate) fn connect(view: &SockView<'_>) -> Verdict {
    if view.destination() == Destination::None || view.is_unspec() {
        // It is being disconnected.
        return Ok(());
    }
    adopt(view);
    with_call(view, "socket_connect", |call| {
        call.ask(SocketPermission::Connect, view.local_port(), true)?;
        if let (Some(socket), true) = (call.socket, view.is_closed() && view.protocol() == TCP) {
            socket.begin(Role::Active);
        }
        Ok(())
    })?;
    make_room(view);
    Ok(())
}

/// May the process have the socket wait for connections?
pub(crate) fn listen(view: &SockView<'_>) -> Verdict {
    adopt(view);
    with_call(view, "socket_listen", |call| {
        call.ask(SocketPermission::Listen, view.local_port(), false)?;
        // Others are asked for it, too, and cannot.
        if let (Some(socket), true) = (call.socket, view.is_closed() && view.protocol() == TCP) {
            socket.begin(Role::Passive);
        }
        Ok(())
    })
}

/// May the process take a connection from the socket?
pub(crate) fn accept(view: &SockView<'_>) -> Verdict {
    with_call(view, "socket_accept", |call| {
        call.ask(SocketPermission::Accept, view.local_port(), false)
            .map(drop)
    })
}

/// Whether a process may receive through the socket is known, and it may.
#[inline(always)]
pub(crate) fn may_receive(
    sock: SockRef<'_>,
    task: TaskRef<'_>,
    port: u32,
    held: &Held<'_>,
) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let subject = tasks::scid(task, held);
        socket
            .received
            .is(&receive_words(state::generation(), subject, port))
    })
}

#[inline(always)]
fn receive_words(generation: u64, subject: ScId, port: u32) -> [u64; 2] {
    [generation, u64::from(subject.0) << 32 | u64::from(port)]
}

/// Whether a process may send on the TCP connection is known, and it may; nothing is left to do
/// before.
#[inline(always)]
pub(crate) fn may_stream(sock: SockRef<'_>, task: TaskRef<'_>, port: u32, held: &Held<'_>) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let subject = tasks::scid(task, held);
        let era = socket.era(state::generation());
        socket.is_bare()
            && !socket.may_hold_room()
            && socket.streamed.is(&receive_words(era, subject, port))
    })
}

/// Whether a process may send a datagram, which needs no room for its label, to an IPv4 address is
/// known, and it may; `word` is the call's (see [`SockView::word`]), the port as it stands in a header.
#[inline(always)]
pub(crate) fn may_send_datagram(
    sock: SockRef<'_>,
    task: TaskRef<'_>,
    word: u64,
    port: u32,
    held: &Held<'_>,
) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let subject = tasks::scid(task, held);
        let era = socket.era(state::generation());
        let words = send_words(era, subject, port, word);
        covers(socket.sent.get(), words, SockView::ROOM)
    })
}

/// The same of any that was let through lately.
#[inline(always)]
pub(crate) fn may_send_again(
    sock: SockRef<'_>,
    task: TaskRef<'_>,
    word: u64,
    port: u32,
    held: &Held<'_>,
) -> bool {
    sockets::get(sock, held).is_some_and(|socket| {
        let subject = tasks::scid(task, held);
        let era = socket.era(state::generation());
        recent::has_sent(socket.id(), send_words(era, subject, port, word))
    })
}

/// May the process receive through the socket?
pub(crate) fn receive(view: &SockView<'_>, hook: &'static str) -> Verdict {
    with_call(view, hook, |call| {
        let grant = call.ask(SocketPermission::Receive, view.local_port(), false)?;
        if let (Some(socket), Grant::ByRight) = (call.socket, grant) {
            socket.received.set(receive_words(
                call.generation,
                call.subject,
                view.local_port().into(),
            ));
        }
        Ok(())
    })
}

/// Whether the process may send through the socket to where the message goes is known, and it
/// may.
#[inline(always)]
pub(crate) fn may_send(view: &SockView<'_>, held: &Held<'_>) -> bool {
    sockets::get(view.sock(), held).is_some_and(|socket| {
        let subject = tasks::current(held);
        let era = socket.era(state::generation());
        let port = view.remote_port().to_be().into();
        let words = send_words(era, subject, port, view.word());
        let known = match view.words6() {
            None => covers(socket.sent.get(), words, SockView::LARGE),
            Some(address) => covers(
                socket.sent.get(),
                send_words6(words, address),
                SockView::LARGE,
            ),
        };
        known && !view.opening() && !(view.has_room() && view.is_stream() && socket.is_bare())
    })
}

/// Whether words of a call are those that are remembered, the third of them the call's own, in which the
/// remembered one may have `more`: room that was made for a large message does for a small one.
#[inline(always)]
fn covers<const N: usize>(found: Option<[u64; N]>, words: [u64; N], more: u64) -> bool {
    found.is_some_and(|found| {
        // Word by word in registers: a comparison of arrays is a call.
        let mut differs = 0;
        for (at, (a, b)) in found.iter().zip(words).enumerate() {
            let more = if at == 2 { a & more } else { 0 };
            differs |= (a ^ b) & !more;
        }
        differs == 0
    })
}

/// What the verdict on a message depends on, but for an IPv6 address.
#[inline(always)]
fn send_words(generation: u64, subject: ScId, port: u32, word: u64) -> [u64; 3] {
    [
        generation,
        u64::from(port) << 32 | u64::from(subject.0),
        word,
    ]
}

#[inline(always)]
fn send_words6([generation, subject, word]: [u64; 3], [a, b]: [u64; 2]) -> [u64; 5] {
    [generation | sockets::V6, subject, word, a, b]
}

/// May the process send through the socket, to where the message goes? Makes room for labels
/// before the first packet that needs it.
pub(crate) fn send(view: &SockView<'_>) -> Verdict {
    if view.opening() {
        connect(view)?;
    }
    adopt(view);
    with_call(view, "socket_sendmsg", |call| {
        let era = call.socket.map(|socket| socket.era(call.generation));
        // An accepted connection was let in by its peer's permission, not by ours.
        let passive = view.protocol() == TCP
            && call
                .socket
                .is_some_and(|socket| socket.role() == Role::Passive);
        let grant = call.ask(SocketPermission::Send, view.local_port(), !passive)?;
        if let Some(socket) = call.socket {
            socket.sends_for(call.subject);
        }
        if let (Some(socket), Some(era), Grant::ByRight) = (call.socket, era, grant) {
            if view.is_stream() && !view.opening() {
                let words = receive_words(era, call.subject, view.local_port().into());
                socket.streamed.set(words);
            }
            let port = view.remote_port().to_be().into();
            let words = send_words(era, call.subject, port, view.word());
            match view.words6() {
                None => {
                    socket.sent.set(words);
                    if view.protocol() == UDP {
                        let [era, subject, word] = words;
                        recent::note_sent(socket.id(), [era, subject, word & !SockView::ROOM]);
                    }
                }
                Some(address) => socket.sent.set(send_words6(words, address)),
            }
        }
        Ok(())
    })?;
    make_room(view);
    Ok(())
}
