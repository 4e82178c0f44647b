// SPDX-License-Identifier: GPL-2.0

//! May a process talk to another zone over AF_UNIX, or take a socket of another zone's? Corresponds
//! to `security_unix_stream_connect()`, `security_unix_may_send()` and `security_file_receive()`.
//!
//! Process context; the first two under spinlocks, so nothing here sleeps. Without a policy
//! everything goes ahead, on an enrolled node only what stays within a zone, and the management's.

use super::{is_open, process, Refused, Verdict};
use crate::engine::{ProcessPermission, ScId};
use crate::state::{self, sockets, tasks};
use crate::sys::net::SockRef;
use crate::sys::ptrmap::{self, Context};

/// Asks whether the running process may do something to a zone.
fn ask(target: ScId, permission: ProcessPermission, hook: &'static str) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let subject = ptrmap::read(tasks::current);
    process::access((subject, target), permission, hook, false)
}

/// May the process connect to a socket that waits for connections? The other end of the connection
/// is then whose that one is.
pub(crate) fn connect(listener: SockRef<'_>, end: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(listener, held));
    ask(owner, ProcessPermission::UnixConnect, "unix_stream_connect")?;
    sockets::own(end, owner, Context::Atomic).map_err(|_| Refused)
}

/// May the process send datagrams to a socket?
pub(crate) fn send(to: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(to, held));
    ask(owner, ProcessPermission::UnixSend, "unix_may_send")
}

/// May the process have a socket that another one hands to it, or that it takes from another one?
pub(crate) fn take(sock: SockRef<'_>) -> Verdict {
    let owner = ptrmap::read(|held| sockets::owner(sock, held));
    ask(owner, ProcessPermission::UseFd, "file_receive")
}
