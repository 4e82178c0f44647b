// SPDX-License-Identifier: GPL-2.0

//! May a process touch what labels are kept in: a socket's IP options and IPv6 extension headers, a
//! file's attribute?
//! Corresponds to `security_socket_setsockopt()`, `security_socket_getsockopt()`,
//! `security_inode_setxattr()` and `security_inode_removexattr()`.
//!
//! Process context, may sleep. With or without a policy: these guard the labels themselves.

use super::{Refused, Verdict};
use crate::engine::{xattr, ScId};
use crate::state::tasks;
use crate::sys::net::{Family, SockView};
use crate::sys::{ptrmap, task};
use kernel::prelude::*;

const SOL_IP: i32 = 0;
const IP_OPTIONS: i32 = 4;
const IP_RECVOPTS: i32 = 6;
const IP_RETOPTS: i32 = 7;

const SOL_IPV6: i32 = 41;
const IPV6_2292HOPOPTS: i32 = 3;
const IPV6_2292DSTOPTS: i32 = 4;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_RECVHOPOPTS: i32 = 53;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDRDSTOPTS: i32 = 55;
const IPV6_RECVRTHDR: i32 = 56;
const IPV6_RTHDR: i32 = 57;
const IPV6_RECVDSTOPTS: i32 = 58;
const IPV6_DSTOPTS: i32 = 59;

/// May the process set the option? Not the IP options of a socket that holds room for labels, nor,
/// if it is of an administrator's zone, any that show or set them.
pub(crate) fn set(view: &SockView<'_>, level: i32, name: i32) -> Verdict {
    let replaces = match (level, name) {
        (SOL_IP, IP_OPTIONS) => view.reserved(Family::V4),
        (SOL_IP, IP_RECVOPTS | IP_RETOPTS) => false,
        (
            SOL_IPV6,
            IPV6_2292PKTOPTIONS | IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_RTHDR | IPV6_DSTOPTS,
        ) => view.reserved(Family::V6),
        (
            SOL_IPV6,
            IPV6_2292HOPOPTS | IPV6_2292DSTOPTS | IPV6_2292RTHDR | IPV6_RECVHOPOPTS
            | IPV6_RECVRTHDR | IPV6_RECVDSTOPTS,
        ) => false,
        _ => return Ok(()),
    };
    if is_of_zone() || replaces {
        Err(Refused)
    } else {
        Ok(())
    }
}

/// The same of a socket for ICMP's questions and answers, which holds no room for labels.
pub(crate) fn set_bare(level: i32, name: i32) -> Verdict {
    match (level, name) {
        (SOL_IP, IP_OPTIONS | IP_RECVOPTS | IP_RETOPTS) if is_of_zone() => Err(Refused),
        _ => Ok(()),
    }
}

/// Whether the process is of an administrator's zone.
fn is_of_zone() -> bool {
    ptrmap::read(tasks::current).0 > ScId::DEFAULT.0
}

/// Whether asking for the option receives data: TCP_ZEROCOPY_RECEIVE.
pub(crate) fn receives(level: i32, name: i32) -> bool {
    const IPPROTO_TCP: i32 = 6;
    const TCP_ZEROCOPY_RECEIVE: i32 = 35;
    level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE
}

/// May the process see the option? A socket's room for labels is not its options.
pub(crate) fn get(view: &SockView<'_>, level: i32, name: i32) -> Verdict {
    let shows = match (level, name) {
        (SOL_IP, IP_OPTIONS) => view.reserved(Family::V4),
        (SOL_IPV6, IPV6_DSTOPTS) => view.reserved(Family::V6),
        _ => false,
    };
    if shows {
        Err(Refused)
    } else {
        Ok(())
    }
}

/// Whether a file's attribute is its label, which is guarded here and nowhere else.
pub(crate) fn is_label(name: &CStr) -> bool {
    name.to_bytes() == xattr::NAME.as_bytes()
}

/// May the process change this attribute of a file? The label's takes CAP_MAC_ADMIN, and with it
/// the permission `label` (see `machine`).
pub(crate) fn attribute(name: &CStr) -> Verdict {
    if is_label(name) && !task::may_label() {
        Err(Refused)
    } else {
        Ok(())
    }
}
