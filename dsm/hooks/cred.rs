// SPDX-License-Identifier: GPL-2.0

//! In whose name does a process act? Corresponds to `security_prepare_creds()`,
//! `security_transfer_creds()`, `security_cred_free()` and `security_uring_override_creds()`.
//!
//! The kernel lends a process credentials that are not its own: an overlay's mounter's while it looks
//! into the layers, those that were registered with a ring. Credentials belong to the zone that made
//! them, copies of lent ones to the zone that lent them. Process context; making them may sleep.

use super::{carry_out, is_open, refuse, Question, Verdict};
use crate::engine::{Class, Peer, Reason, ScId};
use crate::state::owners::CREDS;
use crate::state::{self, nodes, policy, tasks};
use crate::sys::net::Sleeper;
use crate::sys::ptrmap::{self, Context, Held};
use crate::sys::task::{self, CredRef};
use kernel::prelude::*;

/// Whose credentials are; what is not known is held against whoever acts.
fn owner(cred: CredRef<'_>, held: &Held<'_>) -> ScId {
    let current = tasks::current(held);
    if cred.is_own() {
        current
    } else {
        CREDS.get(cred.key(), held).unwrap_or(current)
    }
}

/// In whose name the kernel asks for a capability of these credentials. Those of somebody else, such as
/// the opener of a file, are asked about in the name of whoever acts: they are not lent to him.
pub(super) fn actor(cred: CredRef<'_>, held: &Held<'_>) -> ScId {
    let current = tasks::current(held);
    if !current.is_exempt() && cred.is_lent() {
        owner(cred, held)
    } else {
        current
    }
}

/// The running process makes credentials out of others.
pub(crate) fn prepared(new: CredRef<'_>, old: CredRef<'_>) -> Result {
    let Some(owner) = ptrmap::read(|held| maker(old, held)) else {
        return Ok(());
    };
    // Memory may have to be waited for.
    let _inside = ptrmap::read(|_| Sleeper::enter());
    CREDS.try_set(new.key(), owner, Context::Process)
}

/// The same, where it cannot fail.
pub(crate) fn transferred(new: CredRef<'_>, old: CredRef<'_>) {
    if let Some(owner) = ptrmap::read(|held| maker(old, held)) {
        CREDS.set(new.key(), owner);
    }
}

/// Whose credentials become that are made out of these; `None` for the kernel's own, and where there
/// is nothing to keep.
fn maker(old: CredRef<'_>, held: &Held<'_>) -> Option<ScId> {
    task::current()?;
    Some(owner(old, held)).filter(|owner| *owner != ScId::DEFAULT)
}

/// The credentials are no more. Any context.
#[inline]
pub(crate) fn ended(cred: CredRef<'_>) {
    CREDS.forget(cred.key());
}

/// May the process act with credentials that were registered with its ring? Not with another zone's.
pub(crate) fn borrow(cred: CredRef<'_>) -> Verdict {
    if is_open(state::generation()) {
        return Ok(());
    }
    let (current, owner) = ptrmap::read(|held| (tasks::current(held), owner(cred, held)));
    if current.is_exempt() || owner == current {
        return Ok(());
    }
    let own = nodes::own();
    let peer = |scid| Peer { scid, snid: own };
    carry_out(
        policy::with(|policy, _| refuse(policy, Reason::NoPermission)),
        &Question {
            class: Class::Process,
            permission: "use_credentials",
            hook: "uring_override_creds",
            source: peer(current),
            target: peer(owner),
            flow: None,
        },
    )
    .map(drop)
}
