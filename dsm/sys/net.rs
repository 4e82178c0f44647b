// SPDX-License-Identifier: GPL-2.0

//! Sockets and packets as plain values.

use super::bindings;
use super::ptrmap::Held;
use crate::engine::{Flow, Start};
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use kernel::error::to_result;
use kernel::prelude::*;

/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP protocol number of UDP.
pub(crate) const UDP: u8 = 17;
const UDP_LITE: u8 = 136;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// An IPv4 address in host order as an address of either family.
#[inline(always)]
fn v4(address: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(address))
}

/// A socket that is not freed while the value lives.
#[derive(Clone, Copy)]
pub(crate) struct SockRef<'a>(*const bindings::sock, PhantomData<&'a ()>);

impl SockRef<'_> {
    /// # Safety
    ///
    /// The socket is not freed while the value lives.
    #[inline(always)]
    pub(super) unsafe fn from_raw(sk: *const bindings::sock) -> Self {
        Self(sk, PhantomData)
    }

    /// Where the sequence numbers of its connection's peer start, once they are known.
    ///
    /// # Safety
    ///
    /// It is a TCP socket, and locked.
    pub(super) unsafe fn peer_start(self) -> Option<u32> {
        let mut start = 0;
        // SAFETY: by the caller's promise; the socket is not freed meanwhile, by the type's.
        unsafe { bindings::dsm_peer_start(self.0, &mut start) }.then_some(start)
    }

    /// What its state is found by.
    #[inline(always)]
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }

    /// Notes that there is no state of a clone.
    ///
    /// # Safety
    ///
    /// Nobody else sees the clone yet.
    unsafe fn lose(self) {
        // SAFETY: by the caller's promise; the socket is not freed meanwhile, by the type's.
        unsafe { bindings::dsm_sock_lose(self.0.cast_mut()) };
    }

    /// Whether it is a clone that no state could be made of.
    #[cold]
    pub(crate) fn is_lost(self) -> bool {
        // SAFETY: the socket is not freed meanwhile, by the type's promise.
        unsafe { bindings::dsm_sock_lost(self.0) }
    }

    /// Makes room for a label in its packets of a family. Process context; sleeps.
    pub(crate) fn reserve(self, family: Family, _sleeper: Sleeper) -> Result {
        // SAFETY: the socket is not freed meanwhile, by the type's promise.
        to_result(unsafe { bindings::dsm_reserve(self.0, family as u32) })
    }

    /// Takes the room for labels back. Process context; sleeps.
    pub(crate) fn unreserve(self, _sleeper: Sleeper) {
        // SAFETY: the socket is not freed meanwhile, by the type's promise.
        unsafe { bindings::dsm_unreserve(self.0.cast_mut()) };
    }

    /// The same for a socket that the hook's caller has locked.
    ///
    /// # Safety
    ///
    /// It is an IPv4 or IPv6 TCP socket, and locked.
    pub(super) unsafe fn reserve_locked(self, _sleeper: Sleeper) -> Result {
        // SAFETY: by the caller's promise; the socket is not freed meanwhile, by the type's.
        to_result(unsafe { bindings::dsm_reserve_locked(self.0.cast_mut()) })
    }
}

/// A clone that is being made of a socket.
pub(crate) struct Cloned<'a>(SockRef<'a>);

impl<'a> Cloned<'a> {
    /// # Safety
    ///
    /// As for [`SockRef`], and nobody else sees the clone while the value lives.
    pub(super) unsafe fn from_raw(sk: *mut bindings::sock) -> Self {
        // SAFETY: by the caller's promise.
        Self(unsafe { SockRef::from_raw(sk) })
    }

    /// As a socket.
    pub(crate) fn sock(&self) -> SockRef<'a> {
        self.0
    }

    /// Notes that there is no state of it: nothing may pass through it, ever.
    pub(crate) fn lose(&self) {
        // SAFETY: by the type's promise.
        unsafe { self.0.lose() };
    }
}

/// Counts a hook that sleeps, so that the module stays while it does. To be made before it first
/// sleeps, under RCU.
pub(crate) struct Sleeper(());

impl Sleeper {
    /// Counts one more.
    pub(crate) fn enter() -> Self {
        // SAFETY: any context.
        unsafe { bindings::dsm_sleeper_enter() };
        Self(())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: entered when the value was made.
        unsafe { bindings::dsm_sleeper_leave() };
    }
}

/// The socket that a system call is on; `None` if it has none any more.
///
/// # Safety
///
/// The socket is that of a hook, which runs as long as the value lives.
pub(super) unsafe fn sock_of<'a>(socket: *const bindings::socket) -> Option<SockRef<'a>> {
    // SAFETY: by the caller's promise.
    let sk = unsafe { bindings::dsm_sock(socket) };
    // SAFETY: as above.
    (!sk.is_null()).then(|| unsafe { SockRef::from_raw(sk) })
}

/// The other end of the AF_UNIX connection that a system call is on.
///
/// # Safety
///
/// The socket is that of a hook that is running, in process context.
pub(super) unsafe fn unix_peer(socket: *const bindings::socket) -> Option<HeldSock> {
    // SAFETY: by the caller's promise.
    let peer = unsafe { bindings::dsm_unix_peer(socket) };
    // SAFETY: the shim gives its reference away.
    (!peer.is_null()).then(|| unsafe { HeldSock::from_raw(peer) })
}

/// Whether a socket of a call is one that takes the permission for what cannot be labelled.
///
/// # Safety
///
/// The socket is that of a hook that is running.
pub(super) unsafe fn is_unmediated(socket: *const bindings::socket) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { bindings::dsm_sock_unmediated(socket) }
}

/// Whether it is one for ICMP's questions and answers.
///
/// # Safety
///
/// As [`is_unmediated`].
pub(super) unsafe fn is_ping(socket: *const bindings::socket) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { bindings::dsm_sock_pings(socket) }
}

/// A reference on a socket.
pub(crate) struct HeldSock(*mut bindings::sock);

impl HeldSock {
    /// A reference on the socket that an entry was made for; `None` if it is being freed.
    ///
    /// # Safety
    ///
    /// The socket has not been freed: its entry's bucket is locked, and freeing it takes the
    /// entry out first. Its reference count is valid.
    pub(super) unsafe fn get(key: usize) -> Option<Self> {
        // SAFETY: by the caller's promise.
        let sk = unsafe { bindings::dsm_sock_get(key as *const bindings::sock) };
        (!sk.is_null()).then_some(Self(sk))
    }

    /// Takes a reference over.
    ///
    /// # Safety
    ///
    /// The caller has a reference on the socket, and gives it away.
    pub(super) unsafe fn from_raw(sk: *mut bindings::sock) -> Self {
        Self(sk)
    }

    /// Gives the reference away.
    pub(super) fn into_raw(self) -> *mut bindings::sock {
        core::mem::ManuallyDrop::new(self).0
    }

    /// For the shim.
    pub(super) fn as_raw(&self) -> *const bindings::sock {
        self.0
    }

    /// The socket, as long as the reference is held.
    pub(crate) fn sock(&self) -> SockRef<'_> {
        // SAFETY: a reference is held.
        unsafe { SockRef::from_raw(self.0) }
    }

    /// Takes the room for labels back. Process context; sleeps.
    pub(crate) fn unreserve(&self) {
        // SAFETY: a reference is held.
        unsafe { bindings::dsm_unreserve(self.0) };
    }
}

impl Drop for HeldSock {
    fn drop(&mut self) {
        // SAFETY: the reference is this value's own.
        unsafe { bindings::dsm_sock_put(self.0) };
    }
}

/// Where a message or connection goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nowhere yet.
    None,
    /// To an address; one of IPv4 that is written as IPv6 is one of IPv4 here.
    Ip(IpAddr),
}

/// Which of a socket's packets.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Family {
    /// IPv4.
    V4 = bindings::DSM_FAMILY_IPV4 as u8,
    /// IPv6.
    V6 = bindings::DSM_FAMILY_IPV6 as u8,
}

impl Family {
    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An IPv6 address from its halves.
#[inline(always)]
fn v6([high, low]: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(
        u128::from(high) << 64 | u128::from(low),
    ))
}

/// A TCP or UDP socket in a system call.
pub(crate) struct SockView<'a> {
    raw: bindings::dsm_sock,
    hook: PhantomData<&'a ()>,
}

impl<'a> SockView<'a> {
    /// `None` if the socket is no TCP or UDP socket.
    ///
    /// # Safety
    ///
    /// The arguments are those of a socket hook, which runs as long as the value lives; `msg` and
    /// `address` may be null.
    #[inline(always)]
    pub(super) unsafe fn from_raw(
        socket: *const bindings::socket,
        (msg, size): (*const bindings::msghdr, i32),
        (address, len): (*const bindings::sockaddr, i32),
        _held: &Held<'_>,
    ) -> Option<Self> {
        let mut raw = bindings::dsm_sock::default();
        // SAFETY: by the caller's promise; the RCU read lock is held.
        unsafe { bindings::dsm_sock_of(socket, msg, size, address, len, &mut raw) }.then_some(
            Self {
                raw,
                hook: PhantomData,
            },
        )
    }

    /// The socket.
    #[inline(always)]
    pub(crate) fn sock(&self) -> SockRef<'a> {
        // SAFETY: a socket hook's socket lives as long as the hook runs.
        unsafe { SockRef::from_raw(self.raw.sk) }
    }

    /// IP protocol number.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        self.raw.protocol
    }

    /// Local port, 0 if none yet.
    #[inline(always)]
    pub(crate) fn local_port(&self) -> u16 {
        self.raw.sport
    }

    /// Port of the address that the call is about.
    pub(crate) fn remote_port(&self) -> u16 {
        self.raw.dport
    }

    /// Where the call goes.
    #[inline(always)]
    pub(crate) fn destination(&self) -> Destination {
        match u32::from(self.raw.destination) {
            bindings::DSM_DEST_IPV4 => Destination::Ip(v4(self.raw.daddr)),
            bindings::DSM_DEST_IPV6 => Destination::Ip(v6(self.raw.daddr6)),
            _ => Destination::None,
        }
    }

    /// Whether there is room for a label in its packets of a family.
    #[inline(always)]
    pub(crate) fn reserved(&self, family: Family) -> bool {
        self.raw.reserved & family as u8 != 0
    }

    /// Whether the call goes to an IPv6 address; then that counts beside [`Self::word`].
    #[inline(always)]
    pub(crate) fn words6(&self) -> Option<[u64; 2]> {
        (u32::from(self.raw.destination) == bindings::DSM_DEST_IPV6).then_some(self.raw.daddr6)
    }

    /// Whether the message needs room reserved for its label.
    #[inline(always)]
    pub(crate) fn is_large(&self) -> bool {
        self.raw.large
    }

    /// Whether it is one TCP connection's, or a listener.
    #[inline(always)]
    pub(crate) fn is_stream(&self) -> bool {
        self.raw.stream
    }

    /// Whether there is room for a label in its packets of any family.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        self.raw.reserved != 0
    }

    /// Whether it is neither connected nor listening.
    pub(crate) fn is_closed(&self) -> bool {
        self.raw.closed
    }

    /// Whether the message opens the connection.
    #[inline(always)]
    pub(crate) fn opening(&self) -> bool {
        self.raw.opening
    }

    /// Whether the call goes to a multicast or broadcast address.
    #[inline(always)]
    pub(crate) fn to_group(&self) -> bool {
        self.raw.group
    }

    /// Whether the call has an address of no family: to connect there is to disconnect.
    pub(crate) fn is_unspec(&self) -> bool {
        self.raw.unspec
    }

    /// Set in [`Self::word`] for what [`Self::is_large`].
    pub(crate) const LARGE: u64 = bindings::DSM_WORD_LARGE as u64;

    /// All in [`Self::word`] that has to do with room for labels, and not with where the call goes.
    pub(crate) const ROOM: u64 = Self::LARGE | (Self::LARGE - 1);

    /// The call as one word of addresses, to compare it with another one.
    #[inline(always)]
    pub(crate) fn word(&self) -> u64 {
        self.raw.word
    }

    fn source(&self) -> IpAddr {
        if self.words6().is_none() {
            return v4(self.raw.saddr);
        }
        let mut address = [0; 16];
        // SAFETY: the socket lives while its hook runs, and there is room for 16 bytes.
        unsafe { bindings::dsm_sock_source6(self.raw.sk, address.as_mut_ptr()) };
        IpAddr::from(address)
    }

    /// Its ends.
    pub(crate) fn flow(&self) -> Flow {
        Flow {
            protocol: self.raw.protocol,
            saddr: self.source(),
            daddr: match self.destination() {
                Destination::Ip(address) => address,
                Destination::None => v4(0),
            },
            sport: self.raw.sport,
            dport: self.raw.dport,
        }
    }
}

/// Addresses and ports of an IPv4 packet, as they stand in its headers: to compare, not to read.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Of source and destination.
    pub(crate) addrs: u64,
    /// Of source and destination.
    pub(crate) ports: u32,
}

/// A TCP or UDP packet, valid while its hook runs.
pub(crate) struct Packet<'a> {
    raw: &'a bindings::dsm_packet,
    ipv4: bool,
}

/// Three words for a label's 20 bytes, or the 24 of its IPv6 header.
pub(crate) type LabelWords = [u64; 3];

impl<'a> Packet<'a> {
    /// # Safety
    ///
    /// The shim filled `raw` in, and the packet it is about lives as long as the value.
    #[inline(always)]
    pub(super) unsafe fn from_raw(raw: &'a bindings::dsm_packet, ipv4: bool) -> Self {
        Self { raw, ipv4 }
    }

    /// Whether it is an IPv4 packet; only those have [`Self::options`].
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.ipv4
    }

    /// Source and destination port as one word.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        self.raw.ports
    }

    /// Source and destination address of an IPv4 packet as one word.
    pub(crate) fn addrs(&self) -> u64 {
        self.raw.addrs
    }

    /// Addresses and ports as they stand in the packet's headers.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            addrs: self.raw.addrs.to_be(),
            ports: self.raw.ports.to_be(),
        }
    }

    /// Source and destination address of an IPv6 packet, each as two words.
    #[inline(always)]
    pub(crate) fn addrs6(&self) -> [u64; 4] {
        let Some(addresses) = self
            .headers6()
            .and_then(|(fixed, _)| fixed.last_chunk::<32>())
        else {
            return [0; 4];
        };
        let word = |at: usize| {
            let bytes = addresses.get(at..).and_then(|tail| tail.first_chunk::<8>());
            u64::from_be_bytes(bytes.copied().unwrap_or_default())
        };
        [word(0), word(8), word(16), word(24)]
    }

    /// The fixed header of an IPv6 packet, and its extension headers.
    #[inline(always)]
    fn headers6(&self) -> Option<(&'a [u8; 40], &'a [u8])> {
        if self.ipv4 {
            return None;
        }
        self.bytes().split_first_chunk::<40>()
    }

    /// An IPv6 packet's extension headers, behind the number of the first one.
    #[inline(always)]
    pub(crate) fn extensions(&self) -> (u8, &'a [u8]) {
        match self.headers6() {
            Some(([_, _, _, _, _, _, first, ..], area)) => (*first, area),
            None => (0, &[]),
        }
    }

    /// Whether its header has options or extensions, such as a label.
    #[inline(always)]
    pub(crate) fn has_options(&self) -> bool {
        if self.ipv4 {
            self.raw.options_len != 0
        } else {
            usize::from(self.raw.options_len) > 40
        }
    }

    /// Source address.
    pub(crate) fn saddr(&self) -> IpAddr {
        if self.ipv4 {
            return v4((self.raw.addrs >> 32) as u32);
        }
        let [high, low, _, _] = self.addrs6();
        v6([high, low])
    }

    /// Destination address.
    pub(crate) fn daddr(&self) -> IpAddr {
        if self.ipv4 {
            return v4(self.raw.addrs as u32);
        }
        let [_, _, high, low] = self.addrs6();
        v6([high, low])
    }

    /// Destination port.
    pub(crate) fn dport(&self) -> u16 {
        self.raw.ports as u16
    }

    /// IP protocol number.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        self.raw.protocol
    }

    /// Whether it is a TCP segment of the first two of a handshake.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.raw.tcp_flags & SYN != 0
    }

    /// Whether it is the first segment of a connection.
    #[inline(always)]
    pub(crate) fn is_first(&self) -> bool {
        self.raw.tcp_flags & (SYN | ACK) == SYN
    }

    /// On the way out, whether it is sent again after a time-out.
    #[inline(always)]
    pub(crate) fn is_again(&self) -> bool {
        self.raw.again
    }

    /// A segment's sequence number.
    pub(crate) fn seq(&self) -> u32 {
        self.raw.seq
    }

    /// On the way in, what a segment acknowledges.
    pub(crate) fn ack(&self) -> u32 {
        self.raw.ack
    }

    /// On the way out, of an answer to a SYN in a listener's name: where the numbers start.
    pub(crate) fn answer(&self) -> Option<Start> {
        self.raw.answer.then_some(Start {
            sender: self.raw.seq,
            receiver: Some(self.raw.peer_start),
        })
    }

    /// A reset or acknowledgement without payload, such as the kernel sends for itself.
    pub(crate) fn is_kernel_reply(&self) -> bool {
        const FIN: u8 = 1;
        const RST: u8 = 4;
        self.raw.protocol == TCP
            && self.raw.empty
            && self.raw.tcp_flags & (RST | ACK) != 0
            && self.raw.tcp_flags & (SYN | FIN) == 0
    }

    /// Whether it is a datagram, or opens a connection: its sender waits for an answer that would
    /// never come.
    pub(crate) fn opens(&self) -> bool {
        match self.raw.protocol {
            TCP => self.raw.listening && self.is_first(),
            protocol => matches!(protocol, UDP | UDP_LITE),
        }
    }

    /// Whether the receiving socket waits for connections.
    pub(crate) fn is_listening(&self) -> bool {
        self.raw.listening
    }

    /// Whether it is a raw or ICMP socket's.
    #[inline(always)]
    pub(crate) fn is_raw(&self) -> bool {
        self.raw.raw
    }

    /// Whether it goes to a multicast or broadcast address.
    #[inline(always)]
    pub(crate) fn to_group(&self) -> bool {
        self.raw.group
    }

    /// Whether it is a part of a packet.
    pub(crate) fn is_fragment(&self) -> bool {
        self.raw.fragment
    }

    /// Whether it has a source route, so that its destination is a way station only.
    #[inline(always)]
    pub(crate) fn is_routed(&self) -> bool {
        self.raw.routed
    }

    /// An ICMP packet such as the kernel sends of itself: an answer to a request, or an error.
    pub(crate) fn is_icmp_reply(&self) -> bool {
        const ICMP: u8 = 1;
        self.raw.protocol == ICMP && matches!(self.raw.icmp_type, 0 | 3 | 4 | 11 | 12 | 14)
    }

    /// The addresses and ports.
    pub(crate) fn flow(&self) -> Flow {
        Flow {
            protocol: self.raw.protocol,
            saddr: self.saddr(),
            daddr: self.daddr(),
            sport: (self.raw.ports >> 16) as u16,
            dport: self.raw.ports as u16,
        }
    }

    /// Whether it is, on its way out, a datagram as its socket's sender made it, and not what a tunnel makes
    /// of another packet.
    pub(crate) fn is_sent(&self) -> bool {
        !self.raw.skb.is_null()
    }

    /// What a call to send it over IPv4 is remembered by, as [`SockView::word`].
    pub(crate) fn call_word(&self) -> u64 {
        let address = (self.raw.addrs as u32).to_be();
        let port = u64::from((self.raw.ports >> 16) as u16);
        u64::from(address) << 32 | port << 16 | u64::from(bindings::DSM_DEST_IPV4) << 3
    }

    /// Whether it, on its way out, goes to many.
    #[cold]
    pub(crate) fn leaves_to_group(&self) -> bool {
        // SAFETY: the packet lives by the promise of `from_raw`.
        unsafe { bindings::dsm_leaves_to_group(self.raw.skb) }
    }

    /// Who it is from and to, on its way out, as its sender addressed it: before this node translated that.
    #[cold]
    pub(crate) fn asked(&self) -> Flow {
        let (mut address, mut port) = ([0; 16], 0);
        // SAFETY: the packet lives by the promise of `from_raw`; there is room for 16 bytes.
        let len =
            unsafe { bindings::dsm_before_nat(self.raw.skb, address.as_mut_ptr(), &mut port) };
        let [a, b, c, d, ..] = address;
        let daddr = match len {
            4 => IpAddr::from([a, b, c, d]),
            16 => IpAddr::from(address),
            _ => return self.flow(),
        };
        Flow {
            daddr,
            dport: port,
            ..self.flow()
        }
    }

    /// The options of its IPv4 header.
    #[inline(always)]
    pub(crate) fn options(&self) -> &'a [u8] {
        if !self.ipv4 {
            return &[];
        }
        self.bytes()
    }

    #[inline(always)]
    fn bytes(&self) -> &'a [u8] {
        // SAFETY: the shim points at the header's options, or for IPv6 at all headers, which are
        // in the packet's linear part and as long as it says.
        unsafe { core::slice::from_raw_parts(self.raw.options, usize::from(self.raw.options_len)) }
    }

    /// An IPv6 packet's extension headers as words, if it has a label's header alone; all zero if
    /// it has none. As for [`Self::label_words`].
    #[inline(always)]
    pub(crate) fn header_words(&self) -> Option<LabelWords> {
        match self.extensions() {
            (_, []) => Some([0; 3]),
            (_, area) => Some(words_of6(area.try_into().ok()?)),
        }
    }

    /// The option as words, if the packet has exactly one, of a label's length; all zero if it
    /// has none. To compare a packet with an earlier one without reading it.
    #[inline(always)]
    pub(crate) fn label_words(&self) -> Option<LabelWords> {
        match self.options() {
            [] => Some([0; 3]),
            options => Some(words_of(options.try_into().ok()?)),
        }
    }
}

/// A packet that a socket is about to receive, and what the kernel can do with it. Valid while its
/// hook runs.
pub(crate) struct Incoming<'a> {
    sk: *const bindings::sock,
    skb: *mut bindings::sk_buff,
    hook: PhantomData<&'a ()>,
}

impl Incoming<'_> {
    /// # Safety
    ///
    /// The arguments are those of the receive hook, which runs as long as the value lives, under the
    /// RCU read lock.
    #[inline(always)]
    pub(super) unsafe fn from_raw(sk: *const bindings::sock, skb: *mut bindings::sk_buff) -> Self {
        Self {
            sk,
            skb,
            hook: PhantomData,
        }
    }

    /// Answers it with 'administratively prohibited'.
    pub(crate) fn reject(&self) {
        // SAFETY: by the promise of `from_raw`.
        unsafe { bindings::dsm_reject(self.skb) };
    }

    /// Where the sequence numbers start of the handshake that a segment for a listener belongs to.
    pub(crate) fn handshake(&self) -> Option<Start> {
        let (mut sender, mut receiver) = (0, 0);
        // SAFETY: by the promise of `from_raw`; a listener is a TCP socket.
        unsafe { bindings::dsm_handshake_starts(self.sk, self.skb, &mut sender, &mut receiver) }
            .then_some(Start {
                sender,
                receiver: Some(receiver),
            })
    }

    /// Whether a segment for a listener belongs to nothing, and nothing but a reset comes of it.
    pub(crate) fn is_stray(&self) -> bool {
        // SAFETY: as above.
        unsafe { bindings::dsm_segment_stray(self.sk, self.skb) }
    }
}

/// A label's bytes as words.
#[inline(always)]
pub(crate) fn words_of(bytes: &[u8; 20]) -> LabelWords {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3] = *bytes;
    [
        u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        u64::from(u32::from_ne_bytes([c0, c1, c2, c3])),
    ]
}

/// A label's header as words.
#[inline(always)]
pub(crate) fn words_of6(bytes: &[u8; 24]) -> LabelWords {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3, c4, c5, c6, c7] =
        *bytes;
    [
        u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        u64::from_ne_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
    ]
}

/// What becomes of a packet on its way out.
pub(crate) enum Departure {
    /// It goes with this label.
    Label(LabelWords),
    /// It goes without label, and without room for one.
    Bare,
    /// It does not go.
    Drop,
    /// It does not go, and its sender learns so at once.
    Refuse,
}

/// The hook on packets that leave; dropping it takes it back.
pub(crate) struct Out(());

impl Out {
    /// Starts to label packets.
    pub(crate) fn register() -> Result<Self> {
        // SAFETY: process context, once.
        to_result(unsafe { bindings::dsm_out_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // SAFETY: registered by `register`.
        unsafe { bindings::dsm_out_unregister() };
    }
}
