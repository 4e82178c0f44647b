// SPDX-License-Identifier: GPL-2.0

//! May this established TCP connection go on? Asked of each one after a change that may forbid it,
//! before the command that made the change is answered. No packet that is now forbidden is
//! delivered in any case; who waits for one learns by this that none will come.
//!
//! Process context, no locks held; sleeps. In permissive mode every connection goes on.

use super::arrival::{flow, reach};
use super::{decide, refuse};
use crate::engine::outside::Address;
use crate::engine::{Peer, Policy, Reason, Remote, ScId, SocketPermission};
use crate::state::sockets::{self, Socket};
use crate::state::{self, nodes, policy};
use crate::sys::net::{HeldSock, TCP};
use crate::sys::ptrmap;
use crate::sys::revoke::{self, Established, Sweep};
use crate::sys::task::TaskRef;
use kernel::prelude::*;

/// Ends the connections that may not go on as things now are.
pub(crate) fn connections() {
    // Whoever was asked before the change has let its packet through by now, and bound its peer.
    ptrmap::wait_for_readers();
    let generation = state::generation();
    let mut sweep = Sweep::begin();
    sockets::for_each_connected(generation, |sock| {
        if !may_go_on(&sock, generation, None) {
            sweep.abort(sock);
        }
    });
    tell(sweep);
}

/// Ends the connections that a process alone holds, and may not use as the ScID that it now has.
pub(crate) fn connections_of(task: TaskRef<'_>, scid: ScId) {
    let generation = state::generation();
    let mut sweep = Sweep::begin();
    revoke::for_each_socket(task, |sock| {
        if !may_go_on(&sock, generation, Some(scid)) {
            sweep.abort(sock);
        }
    });
    tell(sweep);
}

fn tell(sweep: Sweep) {
    let ended = sweep.end();
    if ended > 0 {
        pr_notice!("{ended} connections are no longer permitted and were aborted\n");
    }
}

/// Whether the connection of a socket may go on, used by this ScID or else by those that last
/// used it.
fn may_go_on(sock: &HeldSock, generation: u64, user: Option<ScId>) -> bool {
    ptrmap::read(|held| {
        let (Some(flow), Some(socket)) =
            (revoke::established(sock), sockets::get(sock.sock(), held))
        else {
            return true;
        };
        let owner = socket.owner();
        if owner.is_exempt() {
            return true;
        }
        policy::with(|policy, _| {
            let scid = socket.scid(policy, generation, TCP, flow.port);
            let (sender, receiver) = match user {
                Some(user) => (Some(user), Some(user)),
                None => socket.users(),
            };
            may_use(policy, sender, scid, SocketPermission::Send)
                && may_use(policy, receiver, scid, SocketPermission::Receive)
                && peer_may(policy, socket, &flow, [scid, owner])
        })
    })
}

/// Whether who used a socket may do so again. A process may be waiting in a call that was let in.
fn may_use(
    policy: Option<&Policy<'_>>,
    user: Option<ScId>,
    scid: ScId,
    permission: SocketPermission,
) -> bool {
    let Some(user) = user else {
        return true;
    };
    let decision = decide(policy, user, |policy| {
        policy.socket(user, nodes::own(), scid, permission)
    });
    decision.permit
}

/// Whether the peer of a connection may reach its socket.
fn peer_may(
    policy: Option<&Policy<'_>>,
    socket: &Socket,
    at: &Established,
    targets: [ScId; 2],
) -> bool {
    let node = nodes::with(at.remote, |node| node.map(|node| node.snid()));
    let source = match (socket.peer(), node) {
        (Some(peer), Some(snid)) if snid == peer.snid => peer,
        // The node is expelled, or has another address.
        (Some(_), _) => return refuse(policy, Reason::UnknownNode).permit,
        // From behind NAT a node is outside.
        (None, Some(_)) if nodes::is_unmapped(at.local) => Peer::OUTSIDE,
        // It has shown no label yet; its next packet is asked for one.
        (None, Some(_)) => return true,
        (None, None) => Peer::OUTSIDE,
    };
    let role = socket.role();
    let remote = Remote {
        address: Address::of(at.remote),
        port: at.remote_port,
        own_port: at.port,
    };
    reach(policy, source, targets, |policy, target| {
        flow(policy, role, source, target, &remote)
    })
    .permit
}
