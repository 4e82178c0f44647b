// SPDX-License-Identifier: GPL-2.0

//! From the socket table's keys back to sockets.

use super::net::HeldSock;
use super::ptrmap::Object;

/// Buckets of the socket table, a power of two.
pub(crate) const BUCKETS: usize = 1 << 15;

/// A reference on a socket of the socket table, to be asked for only once its entry is live: the
/// reference count is valid from then on.
pub(crate) fn hold(socket: &Object<'_>) -> Option<HeldSock> {
    // SAFETY: an object of the socket table is a socket, and by its type's promise not freed.
    unsafe { HeldSock::get(socket.key()) }
}
