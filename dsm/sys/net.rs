// SPDX-License-Identifier: GPL-2.0

//! Sockets and packets as plain values.

use super::bindings;
use super::ptrmap::Held;
use crate::engine::Flow;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr};
use kernel::error::to_result;
use kernel::prelude::*;

/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;

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

    /// What its state is found by.
    #[inline(always)]
    pub(crate) fn key(self) -> usize {
        self.0 as usize
    }

    /// Makes room for a label in its packets. Process context; sleeps.
    pub(crate) fn reserve(self, _sleeper: Sleeper) -> Result {
        // SAFETY: the socket is not freed meanwhile, by the type's promise.
        to_result(unsafe { bindings::dsm_reserve(self.0) })
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

/// A socket's local port, the one thing that receiving asks for.
pub(crate) struct Receiver<'a> {
    /// The socket.
    pub(crate) sock: SockRef<'a>,
    /// Its port, 0 if none yet.
    pub(crate) port: u16,
}

impl Receiver<'_> {
    /// `None` if the socket is no TCP or UDP socket.
    ///
    /// # Safety
    ///
    /// The socket is that of a hook, which runs as long as the value lives.
    #[inline(always)]
    pub(super) unsafe fn from_raw(socket: *const bindings::socket) -> Option<Self> {
        let mut port = 0;
        // SAFETY: by the caller's promise.
        let sk = unsafe { bindings::dsm_sock_port(socket, &mut port) };
        (!sk.is_null()).then(|| Self {
            // SAFETY: by the caller's promise.
            sock: unsafe { SockRef::from_raw(sk) },
            port,
        })
    }
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
    /// An IPv4 address.
    Ipv4(u32),
    /// An IPv6 address; there are no labels there.
    Ipv6,
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
            bindings::DSM_DEST_IPV4 => Destination::Ipv4(self.raw.daddr),
            bindings::DSM_DEST_IPV6 => Destination::Ipv6,
            _ => Destination::None,
        }
    }

    /// Whether there is room for a label in its packets.
    #[inline(always)]
    pub(crate) fn reserved(&self) -> bool {
        self.raw.reserved
    }

    /// Whether the message needs room reserved for its label.
    #[inline(always)]
    pub(crate) fn is_large(&self) -> bool {
        self.raw.large
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

    /// The call as one word of addresses, to compare it with another one.
    #[inline(always)]
    pub(crate) fn word(&self) -> u64 {
        u64::from(self.raw.daddr) << 32
            | u64::from(self.raw.sport) << 16
            | u64::from(self.raw.destination) << 2
            | u64::from(self.raw.large) << 1
            | u64::from(self.raw.reserved)
    }

    /// Its ends.
    pub(crate) fn flow(&self) -> Flow {
        Flow {
            protocol: self.raw.protocol,
            saddr: v4(self.raw.saddr),
            daddr: v4(self.raw.daddr),
            sport: self.raw.sport,
            dport: self.raw.dport,
        }
    }
}

/// A TCP or UDP packet, valid while its hook runs.
pub(crate) struct Packet<'a> {
    raw: &'a bindings::dsm_packet,
    ipv4: bool,
}

/// Three words for a label's 20 bytes.
pub(crate) type LabelWords = [u64; 3];

impl<'a> Packet<'a> {
    /// # Safety
    ///
    /// The shim filled `raw` in, and the packet it is about lives as long as the value.
    #[inline(always)]
    pub(super) unsafe fn from_raw(raw: &'a bindings::dsm_packet, ipv4: bool) -> Self {
        Self { raw, ipv4 }
    }

    /// Whether it is an IPv4 packet; only those have addresses, options and labels here.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.ipv4
    }

    /// Source and destination address as one word.
    #[inline(always)]
    pub(crate) fn addrs(&self) -> u64 {
        self.raw.addrs
    }

    /// Source and destination port as one word.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        self.raw.ports
    }

    /// Source address.
    pub(crate) fn saddr(&self) -> u32 {
        (self.raw.addrs >> 32) as u32
    }

    /// Destination address.
    pub(crate) fn daddr(&self) -> u32 {
        self.raw.addrs as u32
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

    /// A reset or acknowledgement without payload, such as the kernel sends for itself.
    pub(crate) fn is_kernel_reply(&self) -> bool {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        self.raw.protocol == TCP
            && self.raw.empty
            && self.raw.tcp_flags & (RST | ACK) != 0
            && self.raw.tcp_flags & (SYN | FIN) == 0
    }

    /// Whether the receiving socket waits for connections.
    pub(crate) fn is_listening(&self) -> bool {
        self.raw.listening
    }

    /// The addresses and ports.
    pub(crate) fn flow(&self) -> Flow {
        Flow {
            protocol: self.raw.protocol,
            saddr: v4(self.saddr()),
            daddr: v4(self.daddr()),
            sport: (self.raw.ports >> 16) as u16,
            dport: self.raw.ports as u16,
        }
    }

    /// The options of its IPv4 header.
    #[inline(always)]
    pub(crate) fn options(&self) -> &'a [u8] {
        if !self.ipv4 {
            return &[];
        }
        // SAFETY: the shim points at the header's options, which are in the packet's linear part
        // and as long as it says.
        unsafe { core::slice::from_raw_parts(self.raw.options, usize::from(self.raw.options_len)) }
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

/// What becomes of a packet on its way out.
pub(crate) enum Departure {
    /// It goes with this label.
    Label(LabelWords),
    /// It goes without label, and without room for one.
    Bare,
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
