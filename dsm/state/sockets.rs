// SPDX-License-Identifier: GPL-2.0

//! What is known of each TCP and UDP socket: whose it is, what it is to the policy, and what was
//! decided last. A socket without an entry is older than the module and of the default zone.

use crate::counters::{self, Event};
use crate::engine::{Peer, Policy, ScId, SnId};
use crate::sys::net::{Family, HeldSock, SockRef};
use crate::sys::params;
use crate::sys::ptrmap::{self, Context, Held, PtrMap};
use crate::sys::seqcell::SeqCell;
use crate::sys::sockets as live;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, AtomicUsize, Ordering};
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
    // Rises with each flow that it has had.
    era: AtomicU64,
    // Whether a reference may be taken: not while a clone is being made.
    live: AtomicBool,
    // The last generation in which it was asked whether its connection may go on.
    swept: AtomicU64,
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

/// Whose the sockets are that are neither TCP nor UDP, and not the default zone's.
static OTHERS: PtrMap<ScId, 12> = PtrMap::new();

/// Sockets whose entry could not be made where nobody can be told: what they are is not known, and
/// nothing passes through them. Zero is a free place.
static LOST: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
/// How many there are in [`LOST`].
static LOST_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Set once there was no place: every socket without an entry may then be one of them.
static LOST_MANY: AtomicBool = AtomicBool::new(false);

/// Makes the table.
pub(crate) fn init() -> Result {
    OTHERS.init()?;
    SOCKETS.init().inspect_err(|_| OTHERS.destroy())
}

/// Frees the table; no hook runs any more.
pub(crate) fn exit() {
    SOCKETS.destroy();
    OTHERS.destroy();
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

/// Whether a socket has no entry because there was no memory for it.
pub(crate) fn is_lost(sock: SockRef<'_>) -> bool {
    LOST_MANY.load(Ordering::Relaxed)
        || (LOST_COUNT.load(Ordering::Relaxed) != 0
            && LOST
                .iter()
                .any(|key| key.load(Ordering::Relaxed) == sock.key()))
}

#[cold]
fn lose(sock: SockRef<'_>) {
    let place = LOST.iter().find(|place| {
        place
            .compare_exchange(0, sock.key(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    });
    match place {
        Some(_) => {
            LOST_COUNT.fetch_add(1, Ordering::Relaxed);
        }
        None => LOST_MANY.store(true, Ordering::Relaxed),
    }
}

#[cold]
fn forget_lost(sock: SockRef<'_>) {
    for place in &LOST {
        if place
            .compare_exchange(sock.key(), 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            LOST_COUNT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Set from when there is no room until there is some again, so that each time is told once.
static FULL: AtomicBool = AtomicBool::new(false);

/// Whether there may be one more, for all but the kernel and the management.
fn room(owner: ScId) -> Result {
    let most = u64::from(params::sockets());
    let count = SOCKETS.count() + OTHERS.count();
    if count < most || owner.is_exempt() {
        if FULL.load(Ordering::Relaxed) && count < most - most / 8 {
            FULL.store(false, Ordering::Relaxed);
        }
        return Ok(());
    }
    counters::add(Event::Full);
    if !FULL.swap(true, Ordering::Relaxed) {
        pr_warn!("there are {count} sockets, and state is kept of {most} at most: no further ones are made\n");
    }
    Err(ENOMEM)
}

/// Makes the entry of a new socket.
pub(crate) fn insert(sock: SockRef<'_>, owner: ScId, context: Context) -> Result {
    room(owner)?;
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
        .inspect_err(|_| lose(child))
}

/// A socket is no more.
pub(crate) fn forget(sock: SockRef<'_>) {
    SOCKETS.remove(sock.key());
    if OTHERS.count() != 0 {
        OTHERS.remove(sock.key());
    }
    if LOST_COUNT.load(Ordering::Relaxed) != 0 {
        forget_lost(sock);
    }
}

/// Notes whose a socket is that nothing else has to be known of. Most are the default zone's, and
/// need no entry.
pub(crate) fn own(sock: SockRef<'_>, owner: ScId, context: Context) -> Result {
    if owner == ScId::DEFAULT {
        return Ok(());
    }
    room(owner)?;
    OTHERS.insert(sock.key(), owner, context)
}

/// Whose a socket is, of whatever kind.
pub(crate) fn owner(sock: SockRef<'_>, held: &Held<'_>) -> ScId {
    match get(sock, held) {
        Some(socket) => socket.owner(),
        None => OTHERS
            .get(sock.key(), held)
            .copied()
            .unwrap_or(ScId::DEFAULT),
    }
}

/// Whose a socket is.
#[inline(always)]
pub(crate) fn owner_of(socket: Option<&Socket>) -> ScId {
    socket.map_or(ScId::DEFAULT, Socket::owner)
}

/// Calls `f` with each socket that may have a connection and that has not been asked for it in
/// this generation or a later one. Process context; `f` may sleep.
pub(crate) fn for_each_connected(generation: u64, mut f: impl FnMut(HeldSock)) {
    for index in 0..1_usize << live::BITS {
        while let Some(sock) = next_connected(index, generation) {
            f(sock);
        }
        if index % 64 == 0 {
            ptrmap::resched();
        }
    }
}

fn next_connected(index: usize, generation: u64) -> Option<HeldSock> {
    let mut found = None;
    SOCKETS.with_bucket(index, |object, socket| {
        if found.is_none()
            && socket.live.load(Ordering::Acquire)
            && (socket.role() != Role::Unknown || socket.peer().is_some())
            && socket.swept.fetch_max(generation, Ordering::Relaxed) < generation
        {
            found = live::hold(object);
        }
    });
    found
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
            era: AtomicU64::new(0),
            live: AtomicBool::new(live),
            swept: AtomicU64::new(0),
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

    /// It connects, or waits for connections; its old flow, if any, is over, and what is remembered
    /// of it is worth nothing.
    pub(crate) fn begin(&self, role: Role) {
        self.era.fetch_add(1 << 48, Ordering::Relaxed);
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

    /// A generation as this socket's cells remember it: another one in each of its flows. To be read
    /// before anything that is decided on.
    #[inline(always)]
    pub(crate) fn era(&self, generation: u64) -> u64 {
        generation ^ (self.era.load(Ordering::Relaxed) & !V6)
    }

    /// Whether room for labels of a family has to be asked for; says so once.
    pub(crate) fn to_reserve(&self, family: Family) -> bool {
        let bit = family as u8;
        self.reserved.load(Ordering::Relaxed) & bit == 0
            && self.reserved.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether the flow's peer has shown a label.
    pub(crate) fn is_bound(&self) -> bool {
        self.peer.load(Ordering::Relaxed) != 0
    }

    /// The label that the flow's peer has shown.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let word = self.peer.load(Ordering::Relaxed);
        (word != 0).then_some(Peer {
            scid: ScId((word >> 32) as u32),
            snid: SnId::from_u16(word as u16),
        })
    }

    /// The ScIDs of the processes that last sent and received through it.
    pub(crate) fn users(&self) -> (Option<ScId>, Option<ScId>) {
        // The other half of either word is a port.
        let sent = self.sent.get().map(|[_, subject, _]| ScId(subject as u32));
        let received = self.received.get();
        (
            sent,
            received.map(|[_, subject]| ScId((subject >> 32) as u32)),
        )
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
