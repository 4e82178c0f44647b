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
pub(crate) const V6: u64 = 1 << 46;

/// The state beside a socket.
pub(crate) struct Socket {
    // No other socket has ever had it.
    id: u64,
    owner: AtomicU32,
    role: AtomicU32,
    lent: Lent,
    // The label that the flow's peer has shown: ScID << 32 | SnID; 0 before the first.
    peer: AtomicU64,
    // Rises with each flow that it has had.
    era: AtomicU64,
    // What is known of a TCP flow: see `stream`.
    stream: AtomicU32,
    // Where its sequence numbers start: ours << 32 | the peer's, as far as `stream` says.
    starts: AtomicU64,
    // Whether a reference may be taken: not while a clone is being made.
    live: AtomicBool,
    // The last generation in which it was asked whether its connection may go on.
    swept: AtomicU64,
    // The families that room for labels has been asked for, successfully or not.
    reserved: AtomicU8,
    // The era in which a segment without label was let in last, under a policy of labels by handshake.
    believed: AtomicU64,
    label: SeqCell<2>,
    /// Remembers the last message that was let through.
    pub(crate) sent: SeqCell<5>,
    /// Remembers the last call to send on its connection that was let through.
    pub(crate) streamed: SeqCell<2>,
    /// Remembers the last call to receive that was let through.
    pub(crate) received: SeqCell<2>,
    /// Remembers the last label that was made.
    pub(crate) departed: SeqCell<9>,
    /// Remembers the last packet that was let in.
    pub(crate) arrived: SeqCell<9>,
}

/// What a packet shows of its sender, beside a label that verifies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing: it has no label.
    None,
    /// A label for addresses and ports.
    Packet,
    /// A label for where the sender's sequence numbers start, on the packet that says so.
    First,
    /// A label for where the sequence numbers of both start.
    Stream,
}

/// What is known of a TCP flow. Whether the peer's segments may come without labels depends on
/// `WHOLE`, and under a policy of labels on every packet on `LENIENT`; the rest says how ours go.
mod stream {
    /// Where our sequence numbers start.
    pub(super) const OURS: u32 = 1 << 0;
    /// Where the peer's start.
    pub(super) const THEIRS: u32 = 1 << 1;
    /// It was opened under a policy of labels by handshake.
    pub(super) const YOUNG: u32 = 1 << 2;
    /// The peer's label has been verified over both starts.
    pub(super) const WHOLE: u32 = 1 << 3;
    /// The peer has ours: it need not be shown any more.
    pub(super) const BARE: u32 = 1 << 4;
    /// The peer labels every packet, and expects the same.
    pub(super) const EACH: u32 = 1 << 5;
    /// The peer may not know yet that every packet is to carry a label.
    pub(super) const LENIENT: u32 = 1 << 6;
    /// Where the peer's start by its own account: TCP may see it otherwise yet.
    pub(super) const CLAIMED: u32 = 1 << 7;
}

static SOCKETS: PtrMap<Socket, { live::BUCKETS }> = PtrMap::new();

/// Whose the sockets are that are neither TCP nor UDP, and not the default zone's.
static OTHERS: PtrMap<Other, { 1 << 12 }> = PtrMap::new();

/// The state beside one of them.
struct Other {
    owner: ScId,
    lent: Lent,
}

/// Which other zones than its owner's have ever been let send through a socket.
struct Lent(AtomicU32);

impl Lent {
    /// None. The kernel borrows nothing.
    const NONE: u32 = ScId::KERNEL.0;
    /// More than one.
    const MANY: u32 = u32::MAX;

    const fn new() -> Self {
        Self(AtomicU32::new(Self::NONE))
    }

    /// A process of a zone was let send through the socket, and is about to.
    #[inline(always)]
    fn note(&self, owner: ScId, subject: ScId) {
        // A kernel thread sends for the owner.
        if subject != owner && subject != ScId::KERNEL && self.0.load(Ordering::Relaxed) != subject.0 {
            self.add(subject);
        }
    }

    #[cold]
    fn add(&self, subject: ScId) {
        let alone = self.0.compare_exchange(
            Self::NONE,
            subject.0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if alone.is_err_and(|other| other != subject.0) {
            self.0.store(Self::MANY, Ordering::Relaxed);
        }
    }

    /// Who speaks through the socket, where this zone's process runs: its owner, as long as no other one
    /// may. `None`: neither, nor one of those. A packet that was queued to a filter in user space goes on
    /// in the filter's process, and nobody knows whose it is then. `may`: whether one of many may send.
    #[inline(always)]
    fn speaker(
        &self,
        owner: ScId,
        running: impl FnOnce() -> ScId,
        may: impl FnOnce(ScId) -> bool,
    ) -> Option<ScId> {
        let lent = self.0.load(Ordering::Relaxed);
        if lent == Self::NONE {
            return Some(owner);
        }
        match running() {
            ScId::KERNEL => Some(owner),
            scid if scid == owner || scid.0 == lent => Some(scid),
            scid if lent == Self::MANY && may(scid) => Some(scid),
            _ => None,
        }
    }
}

/// The last socket's number.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

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

/// Whether a socket of an owner may be asked to make a connection's.
#[inline]
pub(crate) fn may_accept(listener: SockRef<'_>) -> Result {
    if SOCKETS.count() + OTHERS.count() < u64::from(params::sockets()) {
        return Ok(());
    }
    room(ptrmap::read(|held| owner_of(get(listener, held))))
}

/// Makes the entry of a new socket.
pub(crate) fn insert(sock: SockRef<'_>, owner: ScId, context: Context) -> Result {
    room(owner)?;
    SOCKETS.insert(sock.key(), context, || Socket::new(owner, 0, true))
}

/// A socket is being cloned from another one, whose owner's it is. Softirq.
pub(crate) fn clone(parent: SockRef<'_>, child: SockRef<'_>) -> Result {
    let (owner, reserved) = ptrmap::read(|held| {
        let entry = get(parent, held);
        if entry.is_none() && parent.is_lost() {
            return Err(ENOMEM);
        }
        // IPv6 hands a listener's own room down.
        let reserved = entry.map_or(0, |parent| parent.reserved.load(Ordering::Relaxed));
        Ok((owner_of(entry), reserved))
    })?;
    room(owner)?;
    SOCKETS.insert(child.key(), Context::Atomic, || {
        Socket::new(owner, reserved, false)
    })
}

/// A socket is no more.
pub(crate) fn forget(sock: SockRef<'_>) {
    SOCKETS.remove(sock.key());
    if OTHERS.count() != 0 {
        OTHERS.remove(sock.key());
    }
}

/// Whether there are sockets, neither TCP nor UDP, of other zones than the default one.
#[inline]
pub(crate) fn are_others() -> bool {
    OTHERS.count() != 0
}

/// Notes whose a socket is that nothing else has to be known of. Most are the default zone's, and
/// need no entry.
pub(crate) fn own(sock: SockRef<'_>, owner: ScId, context: Context) -> Result {
    if owner == ScId::DEFAULT {
        return Ok(());
    }
    room(owner)?;
    OTHERS.insert(sock.key(), context, || Other {
        owner,
        lent: Lent::new(),
    })
}

/// A process of a zone was let send through a socket that is neither TCP nor UDP, and is about to.
pub(crate) fn other_sends_for(sock: SockRef<'_>, subject: ScId, held: &Held<'_>) {
    if let Some(other) = OTHERS.get(sock.key(), held) {
        other.lent.note(other.owner, subject);
    }
}

/// Who speaks through a socket that is neither TCP nor UDP, where a process of `running` runs; `None` if
/// nobody knows.
pub(crate) fn other_speaker(sock: SockRef<'_>, running: ScId, held: &Held<'_>) -> Option<ScId> {
    match OTHERS.get(sock.key(), held) {
        Some(other) => other.lent.speaker(other.owner, || running, |_| true),
        // The default zone's, of which nothing is kept.
        None if running == ScId::KERNEL => Some(ScId::DEFAULT),
        None => Some(running),
    }
}

/// Whose a socket is, of whatever kind; `None` if that could not be kept.
pub(crate) fn owner(sock: SockRef<'_>, held: &Held<'_>) -> Option<ScId> {
    match get(sock, held) {
        Some(socket) => Some(socket.owner()),
        None => match OTHERS.get(sock.key(), held) {
            Some(other) => Some(other.owner),
            None => (!sock.is_lost()).then_some(ScId::DEFAULT),
        },
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
    for index in 0..live::BUCKETS {
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
    for index in 0..live::BUCKETS {
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
    #[inline(always)]
    fn new(owner: ScId, reserved: u8, live: bool) -> Self {
        Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            owner: AtomicU32::new(owner.0),
            role: AtomicU32::new(Role::Unknown as u32),
            lent: Lent::new(),
            peer: AtomicU64::new(0),
            era: AtomicU64::new(0),
            stream: AtomicU32::new(0),
            starts: AtomicU64::new(0),
            live: AtomicBool::new(live),
            swept: AtomicU64::new(0),
            reserved: AtomicU8::new(reserved),
            believed: AtomicU64::new(0),
            label: SeqCell::new(),
            streamed: SeqCell::new(),
            sent: SeqCell::new(),
            received: SeqCell::new(),
            departed: SeqCell::new(),
            arrived: SeqCell::new(),
        }
    }

    /// A number that is no other socket's, nor was one's that is gone.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id
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

    /// A process of a zone was let send through it, and is about to.
    pub(crate) fn sends_for(&self, subject: ScId) {
        self.lent.note(self.owner(), subject);
    }

    /// Who speaks through it, for datagrams, where a process of a zone runs; `None` if nobody knows.
    /// `may`: whether one of many zones that it was lent to may still send.
    #[inline(always)]
    pub(crate) fn speaker(
        &self,
        running: impl FnOnce() -> ScId,
        may: impl FnOnce(ScId) -> bool,
    ) -> Option<ScId> {
        self.lent.speaker(self.owner(), running, may)
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
        self.stream.store(0, Ordering::Relaxed);
        self.peer.store(0, Ordering::Relaxed);
    }

    /// It sends the first packet of a connection, with this sequence number.
    pub(crate) fn opens(&self, ours: u32, handshake: bool) {
        if self.our_start() == Some(ours) {
            // Sent again.
            return;
        }
        // A call to connect may overtake the end of the connection before, behind the back of `begin`. What
        // another processor still learns of that one, it learns before the era has changed.
        self.start(ours, handshake);
        self.role.store(Role::Active as u32, Ordering::Relaxed);
        self.peer.store(0, Ordering::Relaxed);
    }

    /// A flow begins, with this sequence number of ours.
    fn start(&self, ours: u32, handshake: bool) {
        self.era.fetch_add(1 << 48, Ordering::Relaxed);
        self.believed.store(0, Ordering::Relaxed);
        self.starts.store(u64::from(ours) << 32, Ordering::Relaxed);
        let young = if handshake { stream::YOUNG } else { 0 };
        self.stream.store(stream::OURS | young, Ordering::Relaxed);
    }

    /// A clone is complete, and the passive side of a connection whose sequence numbers start here.
    pub(crate) fn complete(
        &self,
        reserved: Option<Family>,
        [ours, theirs]: [u32; 2],
        handshake: bool,
    ) {
        self.begin(Role::Passive);
        self.start(ours, handshake);
        self.learn_start(theirs, stream::THEIRS);
        let bit = reserved.map_or(0, |family| family as u8);
        self.reserved.fetch_or(bit, Ordering::Relaxed);
        self.live.store(true, Ordering::Release);
    }

    /// A generation as this socket's cells remember it: another one in each of its flows. To be read
    /// before anything that is decided on.
    #[inline(always)]
    pub(crate) fn era(&self, generation: u64) -> u64 {
        generation ^ self.era.load(Ordering::Relaxed)
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

    fn learn_start(&self, theirs: u32, how: u32) {
        // Another processor may learn the same. If it fails again, the next segment tells it once more.
        for _ in 0..2 {
            let before = self.starts.load(Ordering::Relaxed);
            let after = before & !u64::from(u32::MAX) | u64::from(theirs);
            if self
                .starts
                .compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                self.stream.fetch_or(how, Ordering::Release);
                return;
            }
        }
    }

    /// The peer's label says where its sequence numbers start. TCP may not have looked at the segment
    /// yet when the next one comes.
    pub(crate) fn claims(&self, theirs: u32) {
        if self.stream.load(Ordering::Relaxed) & (stream::THEIRS | stream::CLAIMED) == 0 {
            self.learn_start(theirs, stream::CLAIMED);
        }
    }

    /// Where our sequence numbers start.
    pub(crate) fn our_start(&self) -> Option<u32> {
        let known = self.stream.load(Ordering::Acquire);
        let ours = (self.starts.load(Ordering::Relaxed) >> 32) as u32;
        (known & stream::OURS != 0).then_some(ours)
    }

    /// Where the sequence numbers of the flow start: ours, and the peer's.
    pub(crate) fn starts(&self) -> Option<[u32; 2]> {
        let known = self.stream.load(Ordering::Acquire);
        let starts = self.starts.load(Ordering::Relaxed);
        let both = known & stream::OURS != 0 && known & (stream::THEIRS | stream::CLAIMED) != 0;
        both.then_some([(starts >> 32) as u32, starts as u32])
    }

    /// The same on the way out: what is not known yet of the peer is asked for.
    pub(crate) fn starts_or(&self, ask: impl FnOnce() -> Option<u32>) -> Option<[u32; 2]> {
        if self.stream.load(Ordering::Relaxed) & (stream::OURS | stream::THEIRS) == stream::OURS {
            if let Some(theirs) = ask() {
                self.learn_start(theirs, stream::THEIRS);
            }
        }
        // Else by what the peer's label has said: TCP forgets when it closes.
        self.starts()
    }

    /// Whether the flow's segments leave without labels.
    #[inline(always)]
    pub(crate) fn is_bare(&self) -> bool {
        self.stream.load(Ordering::Relaxed) & stream::BARE != 0
    }

    /// Whether the peer labels every packet.
    #[inline(always)]
    pub(crate) fn labels_each(&self) -> bool {
        self.stream.load(Ordering::Relaxed) & stream::EACH != 0
    }

    /// As [`Self::era`], another one also for each kind of label.
    #[inline(always)]
    pub(crate) fn era_of_labels(&self, generation: u64) -> u64 {
        self.era(generation) ^ u64::from(self.labels_each()) << 47
    }

    /// Whose a segment without label is, if the flow's peer may send one.
    pub(crate) fn bare_peer(&self, handshake: bool) -> Option<Peer> {
        let known = self.stream.load(Ordering::Relaxed);
        let lenient = handshake || known & stream::LENIENT != 0;
        self.peer()
            .filter(|_| known & stream::WHOLE != 0 && lenient)
    }

    /// The flow's peer, which is bound, has sent a packet that was let in. True if it has proved
    /// itself for the whole flow by it, and had not before.
    pub(crate) fn heard(&self, proof: Proof, syn: bool, handshake: bool) -> bool {
        use stream::{BARE, EACH, LENIENT, WHOLE, YOUNG};
        // Another processor may learn the same. If it fails again, the next packet with a label tells it.
        for _ in 0..2 {
            let before = self.stream.load(Ordering::Relaxed);
            let mut known = before;
            match proof {
                Proof::First => {}
                Proof::Stream => {
                    known = known & !EACH | WHOLE | LENIENT;
                    // It knows where ours start: it has our SYN's answer, and so our label.
                    if !syn && known & YOUNG != 0 && self.role() == Role::Passive {
                        known |= BARE;
                    }
                }
                Proof::Packet => known = known & !BARE | EACH,
                // It has ours, or it would not dare to.
                Proof::None if !syn && known & (WHOLE | YOUNG) == WHOLE | YOUNG => known |= BARE,
                Proof::None => {}
            }
            if !handshake && proof != Proof::None {
                known &= !(BARE | LENIENT);
            }
            if known == before {
                return false;
            }
            if self
                .stream
                .compare_exchange(before, known, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return known & !before & WHOLE != 0;
            }
        }
        false
    }

    /// What was learned of a flow that was over by then.
    #[cold]
    pub(crate) fn unlearn(&self) {
        self.stream.fetch_and(
            !(stream::WHOLE | stream::BARE | stream::LENIENT | stream::CLAIMED),
            Ordering::Relaxed,
        );
        self.peer.store(0, Ordering::Relaxed);
        self.believed.store(0, Ordering::Relaxed);
    }

    /// The flow's segments without label are let in, in this era.
    pub(crate) fn believe(&self, era: u64) {
        self.believed.store(era, Ordering::Relaxed);
    }

    /// Whether they are.
    #[inline(always)]
    pub(crate) fn believes(&self, era: u64) -> bool {
        self.believed.load(Ordering::Relaxed) == era
    }

    /// Whether it may hold room for labels.
    #[inline(always)]
    pub(crate) fn may_hold_room(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) != 0
    }

    /// Whether it may hold room for labels; says so once.
    pub(crate) fn to_unreserve(&self) -> bool {
        self.reserved.swap(0, Ordering::Relaxed) != 0
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
