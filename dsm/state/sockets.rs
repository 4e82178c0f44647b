// SPDX-License-Identifier: GPL-2.0

//! What is known of each TCP and UDP socket: whose it is, what it is to the policy, and what was
//! decided last. A socket without an entry is older than the module and of the default zone.

use crate::engine::{Peer, Policy, ScId};
use crate::sys::net::{Family, HeldSock, SockRef};
use crate::sys::ptrmap::{self, Context, Held, PtrMap};
use crate::sys::seqcell::SeqCell;
use crate::sys::sockets as live;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};
use kernel::prelude::*;

/// Which side of its TCP connections a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Not known: a UDP socket, or one older than the module.
    Unknown,
    /// It connects.
    Active,
    /// It waits for connections, or came of one that does.
    Passive,
}

/// Added to the generation in what is remembered of IPv6, so that it never looks like what is of
/// IPv4, which takes fewer words.
pub(crate) const V6: u64 = 1 << 63;

/// The state beside a socket.
pub(crate) struct Socket {
    owner: AtomicU32,
    role: AtomicU32,
    // The label that the flow's peer has shown: ScID << 32 | SnID; 0 before the first.
    peer: AtomicU64,
    // Whether a reference may be taken: not while a clone is being made.
    live: AtomicBool,
    // The families that room for labels has been asked for, successfully or not.
    reserved: AtomicU8,
    label: SeqCell<2>,
    /// Remembers the last message that was let through.
    pub(crate) sent: SeqCell<5>,
    /// Remembers the last call to receive that was let through.
    pub(crate) received: SeqCell<2>,
    /// Remembers the last label that was made.
    pub(crate) departed: SeqCell<9>,
    /// Remembers the last packet that was let in.
    pub(crate) arrived: SeqCell<9>,
}

static SOCKETS: PtrMap<Socket, { live::BITS }> = PtrMap::new();

/// Set once an entry could not be made where nobody can be told: sockets without one may then be
/// somebody else's than the default zone's.
static LOST: AtomicBool = AtomicBool::new(false);

/// Makes the table.
pub(crate) fn init() -> Result {
    SOCKETS.init()
}

/// Frees the table; no hook runs any more.
pub(crate) fn exit() {
    SOCKETS.destroy();
}

/// How many sockets have an entry.
pub(crate) fn count() -> u64 {
    SOCKETS.count()
}

/// The entry of a socket.
#[inline(always)]
pub(crate) fn get<'a>(sock: SockRef<'_>, held: &'a Held<'_>) -> Option<&'a Socket> {
    SOCKETS.get(sock.key(), held)
}

/// Whether a socket without an entry can be told from one whose entry was lost.
pub(crate) fn any_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Makes the entry of a new socket.
pub(crate) fn insert(sock: SockRef<'_>, owner: ScId, context: Context) -> Result {
    SOCKETS.insert(sock.key(), Socket::new(owner, true), context)
}

/// A socket is being cloned from another one, whose owner's it is. Softirq.
pub(crate) fn clone(parent: SockRef<'_>, child: SockRef<'_>) -> Result {
    let new = ptrmap::read(|held| {
        let parent = get(parent, held);
        let new = Socket::new(owner_of(parent), false);
        // IPv6 hands a listener's own room down.
        let reserved = parent.map_or(0, |parent| parent.reserved.load(Ordering::Relaxed));
        new.reserved.store(reserved, Ordering::Relaxed);
        new
    });
    SOCKETS
        .insert(child.key(), new, Context::Atomic)
        .inspect_err(|_| LOST.store(true, Ordering::Relaxed))
}

/// A socket is no more.
pub(crate) fn forget(sock: SockRef<'_>) {
    SOCKETS.remove(sock.key());
}

/// Whose a socket is.
#[inline(always)]
pub(crate) fn owner_of(socket: Option<&Socket>) -> ScId {
    socket.map_or(ScId::DEFAULT, Socket::owner)
}

/// Takes the room for labels back from all sockets. Process context; sleeps.
pub(crate) fn unreserve_all() {
    for index in 0..1_usize << live::BITS {
        while let Some(sock) = next_reserved(index) {
            sock.unreserve();
        }
    }
}

/// A socket of a bucket that may still hold room for labels; each is found once.
fn next_reserved(index: usize) -> Option<HeldSock> {
    let mut found = None;
    SOCKETS.with_bucket(index, |object, socket| {
        if found.is_none()
            && socket.live.load(Ordering::Acquire)
            && socket.reserved.swap(0, Ordering::Relaxed) != 0
        {
            found = live::hold(object);
        }
    });
    found
}

impl Socket {
    fn new(owner: ScId, live: bool) -> Self {
        Self {
            owner: AtomicU32::new(owner.0),
            role: AtomicU32::new(Role::Unknown as u32),
            peer: AtomicU64::new(0),
            live: AtomicBool::new(live),
            reserved: AtomicU8::new(0),
            label: SeqCell::new(),
            sent: SeqCell::new(),
            received: SeqCell::new(),
            departed: SeqCell::new(),
            arrived: SeqCell::new(),
        }
    }

    /// The ScID of the process that made it.
    #[inline(always)]
    pub(crate) fn owner(&self) -> ScId {
        ScId(self.owner.load(Ordering::Relaxed))
    }

    /// Makes it somebody else's: a part of another socket.
    pub(crate) fn give_to(&self, owner: ScId) {
        self.owner.store(owner.0, Ordering::Relaxed);
    }

    /// Which side it is.
    pub(crate) fn role(&self) -> Role {
        match self.role.load(Ordering::Relaxed) {
            r if r == Role::Active as u32 => Role::Active,
            r if r == Role::Passive as u32 => Role::Passive,
            _ => Role::Unknown,
        }
    }

    /// It connects, or waits for connections; its old flow, if any, is over.
    pub(crate) fn begin(&self, role: Role) {
        self.role.store(role as u32, Ordering::Relaxed);
        self.peer.store(0, Ordering::Relaxed);
    }

    /// A clone is complete, and the passive side of a connection.
    pub(crate) fn complete(&self, reserved: Option<Family>) {
        self.begin(Role::Passive);
        let bit = reserved.map_or(0, |family| family as u8);
        self.reserved.fetch_or(bit, Ordering::Relaxed);
        self.live.store(true, Ordering::Release);
    }

    /// Whether room for labels of a family has to be asked for; says so once.
    pub(crate) fn to_reserve(&self, family: Family) -> bool {
        let bit = family as u8;
        self.reserved.load(Ordering::Relaxed) & bit == 0
            && self.reserved.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Binds the flow to the label that its peer shows; false if it was bound to another one.
    pub(crate) fn bind_peer(&self, peer: Peer) -> bool {
        let word = u64::from(peer.scid.0) << 32 | u64::from(peer.snid.get());
        match self
            .peer
            .compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => true,
            Err(bound) => bound == word,
        }
    }

    /// The ScID that the policy gives to a port's socket, or its owner's.
    pub(crate) fn scid(
        &self,
        policy: Option<&Policy<'_>>,
        generation: u64,
        protocol: u8,
        port: u16,
    ) -> ScId {
        let key = u64::from(port) << 32;
        if let Some([seen, word]) = self.label.get() {
            if seen == generation && word & !0xFFFF_FFFF == key {
                return ScId(word as u32);
            }
        }
        let scid = scid_of_port(policy, self.owner(), protocol, port);
        self.label.set([generation, key | u64::from(scid.0)]);
        scid
    }
}

/// The ScID of a socket of an owner on a local port.
pub(crate) fn scid_of_port(
    policy: Option<&Policy<'_>>,
    owner: ScId,
    protocol: u8,
    port: u16,
) -> ScId {
    if port == 0 || owner.is_exempt() {
        return owner;
    }
    policy
        .and_then(|policy| policy.socket_label(protocol, port))
        .map_or(owner, |(scid, _rule)| scid)
}
