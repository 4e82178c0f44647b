// SPDX-License-Identifier: GPL-2.0

//! May a process talk to another zone over AF_UNIX or netlink, or take a socket of another zone's?
//! Corresponds to `security_unix_stream_connect()`, `security_unix_may_send()`,
//! `security_sock_rcv_skb()` of netlink and `security_file_receive()`.
//!
//! Process context, that of who sends; some under spinlocks, so nothing here sleeps. Without a policy
//! everything goes ahead, on an enrolled node only what stays within a zone, and the management's.

use super::{is_open, process, Refused, Verdict};
use crate::engine::{ProcessPermission, ScId};
use crate::state::{self, sockets, tasks};
use crate::sys::net::SockRef;
use crate::sys::ptrmap::{self, Context};

/// Asks whether the running process may do something to the owner of a socket, which is not known
/// where it could not be kept.
fn ask(target: Option<ScId>, permission: ProcessPermission, hook: &'static str) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let subject = ptrmap::read(tasks::current);
    match target {
        Some(target) => process::access((subject, target), permission, hook),
        None => process::lost(subject, permission, hook),
    }
}

/// May the process connect to a socket that waits for connections? The other end of the connection
/// is then whose that one is.
pub(crate) fn connect(listener: SockRef<'_>, end: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(listener, held));
    ask(owner, ProcessPermission::UnixConnect, "unix_stream_connect")?;
    let owner = owner.unwrap_or(ScId::DEFAULT);
    sockets::own(end, owner, Context::Atomic).map_err(|_| Refused)
}

/// Whether all sockets of this kind are the default zone's.
#[inline]
pub(crate) fn is_within_zone() -> bool {
    !sockets::are_others()
}

/// May the process go on sending over a connection to a peer? One of the two zones may connect to the
/// other. A socket that the process has from somebody else is whoever's it was: what is inherited or
/// handed over has been asked about there.
pub(crate) fn go_on(own: SockRef<'_>, peer: SockRef<'_>, hook: &'static str) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let (subject, own, peer) = ptrmap::read(|held| {
        (
            tasks::current(held),
            sockets::owner(own, held),
            sockets::owner(peer, held),
        )
    });
    match (own, peer) {
        (Some(own), Some(peer)) if subject == own && peer != own => {
            process::either((subject, peer), ProcessPermission::UnixConnect, hook)
        }
        _ => Ok(()),
    }
}

/// May the process send datagrams to a socket?
pub(crate) fn send(to: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(to, held));
    ask(owner, ProcessPermission::UnixSend, "unix_may_send")
}

/// May the process send a message to a netlink socket, which is not the kernel's?
pub(crate) fn message(to: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(to, held));
    ask(owner, ProcessPermission::UnixSend, "socket_sock_rcv_skb")
}

/// May the process have a socket that another one hands to it, or that it takes from another one?
pub(crate) fn take(sock: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(sock, held));
    ask(owner, ProcessPermission::UseFd, "file_receive")
}
