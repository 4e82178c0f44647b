// SPDX-License-Identifier: GPL-2.0

//! May a process touch what labels are kept in: a socket's IP options, a file's attribute?
//! Corresponds to `security_socket_setsockopt()`, `security_socket_getsockopt()`,
//! `security_inode_setxattr()` and `security_inode_removexattr()`.
//!
//! Process context, may sleep. With or without a policy: these guard the labels themselves.

use super::{Refused, Verdict};
use crate::engine::{xattr, ScId};
use crate::state::tasks;
use crate::sys::net::SockView;
use crate::sys::{ptrmap, task};
use kernel::prelude::*;

const SOL_IP: i32 = 0;
const IP_OPTIONS: i32 = 4;
const IP_RECVOPTS: i32 = 6;
const IP_RETOPTS: i32 = 7;

/// May the process set the option? Not the IP options of a socket that holds room for labels, nor,
/// if it is of an administrator's zone, any that show or set them.
pub(crate) fn set(view: &SockView<'_>, level: i32, name: i32) -> Verdict {
    if level != SOL_IP || !matches!(name, IP_OPTIONS | IP_RECVOPTS | IP_RETOPTS) {
        return Ok(());
    }
    let labelled = ptrmap::read(tasks::current).0 > ScId::DEFAULT.0;
    if labelled || (name == IP_OPTIONS && view.reserved()) {
        Err(Refused)
    } else {
        Ok(())
    }
}

/// May the process see the option? A socket's room for labels is not its options.
pub(crate) fn get(view: &SockView<'_>, level: i32, name: i32) -> Verdict {
    if level == SOL_IP && name == IP_OPTIONS && view.reserved() {
        Err(Refused)
    } else {
        Ok(())
    }
}

/// May the process change this attribute of a file? The label's takes CAP_MAC_ADMIN.
pub(crate) fn attribute(name: &CStr) -> Verdict {
    if name.to_bytes() == xattr::NAME.as_bytes() && !task::may_label() {
        Err(Refused)
    } else {
        Ok(())
    }
}
