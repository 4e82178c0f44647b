// SPDX-License-Identifier: GPL-2.0

//! Tells of each refusal: a line in the kernel log and an event for those who listen, both within
//! limits, so that whoever is refused cannot flood either. Callable where packets are handled;
//! never sleeps, never decides, and never says more of a packet than addresses, ports and labels.

use crate::counters::{self, Event};
use crate::engine::{Class, Peer, Reason, ScId};
use crate::netlink::text::Text;
use crate::state::{nodes, policy};
use crate::sys::audit::{self as sys, Channel, Origin};
pub(crate) use crate::sys::audit::{current, Comm};
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;

/// Something that was, or in permissive mode would have been, refused.
pub(crate) struct Denial<'a> {
    /// Whether it was.
    pub(crate) enforced: bool,
    /// Why.
    pub(crate) reason: Reason,
    /// What kind of question it was.
    pub(crate) class: Class,
    /// Name of the permission that was asked for.
    pub(crate) permission: &'a str,
    /// Who acts: the process, or the sender of the packet.
    pub(crate) source: Peer,
    /// On what: the socket, the receiver, or the binary.
    pub(crate) target: Peer,
    /// IP protocol number, 0 if it is about no packet or socket.
    pub(crate) protocol: u8,
    /// Source address, unspecified if there is none.
    pub(crate) saddr: IpAddr,
    /// Destination address, likewise.
    pub(crate) daddr: IpAddr,
    /// Source port.
    pub(crate) sport: u16,
    /// Destination port.
    pub(crate) dport: u16,
    /// The process; 0 if it is not known, as in softirq.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) comm: Comm,
    /// Rule that decided, 0 if none did.
    pub(crate) rule: u32,
    /// Hook that asked.
    pub(crate) hook: &'a str,
    /// Number of the system call that needed a part of the machine; 0 if none did.
    pub(crate) call: u32,
    /// Whether those who listen can be told: it wakes them, and may signal a process group.
    pub(crate) heard: bool,
}

/// Serial number of the last event.
static LAST_ID: AtomicU64 = AtomicU64::new(0);
/// Lines not written since the last one that was.
static LINES_HELD: AtomicU64 = AtomicU64::new(0);
/// Events not sent since the last one that was.
static EVENTS_HELD: AtomicU64 = AtomicU64::new(0);

/// Sets up the limits.
pub(crate) fn init() {
    sys::init();
}

/// Tells of a refusal. Softirq and process context.
pub(crate) fn denial(denial: &Denial<'_>) {
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
    let version = policy::version();
    let source = proven(denial);
    let (origin, kind) = (origin(source), kind(denial, source));
    if sys::admit(Channel::Log, origin, kind) {
        let held = LINES_HELD.swap(0, Ordering::Relaxed);
        write_line(denial, version, held);
    } else {
        hold_line();
    }
    if !sys::listening() {
        return;
    }
    if !denial.heard || !sys::admit(Channel::Event, origin, kind) {
        hold_event();
        return;
    }
    let held = EVENTS_HELD.swap(0, Ordering::Relaxed);
    if !sys::send_denial(id, denial, version, held) {
        EVENTS_HELD.fetch_add(held + 1, Ordering::Relaxed);
    }
}

/// A refusal is told to nobody, because the same one was told lately; the next that is told says how
/// many were not. Any context.
pub(crate) fn withhold() {
    hold_line();
    if sys::listening() {
        hold_event();
    }
}

fn hold_line() {
    LINES_HELD.fetch_add(1, Ordering::Relaxed);
    counters::add(Event::LineHeld);
}

fn hold_event() {
    EVENTS_HELD.fetch_add(1, Ordering::Relaxed);
    counters::add(Event::EventHeld);
}

/// The time, in seconds. Any context but NMI.
pub(crate) fn seconds() -> u64 {
    sys::now() / 1_000_000_000
}

/// Tells that another policy is in force. Process context.
pub(crate) fn policy_changed() {
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
    sys::send_policy_changed(id, policy::mode().number(), policy::version());
}

/// Who acts, if that is proven: otherwise a forger who claims another name each time uses up what all
/// share.
fn proven(denial: &Denial<'_>) -> Peer {
    match denial.reason {
        Reason::BadMac
        | Reason::WrongSource
        | Reason::UnknownNode
        | Reason::UnknownEpoch
        | Reason::NoMemory => Peer::OUTSIDE,
        _ => denial.source,
    }
}

/// Whose budget it is told from. Who can make labels of one node can claim every ScID under them, but
/// no other node's. What is of this node, the kernel knows the ScID of.
fn origin(source: Peer) -> Origin {
    if source == Peer::OUTSIDE {
        Origin::Strangers
    } else if source.snid == nodes::own() {
        Origin::Own(source.scid)
    } else {
        Origin::Node(source.snid)
    }
}

/// Denials that differ in this have limits of their own.
fn kind(denial: &Denial<'_>, source: Peer) -> u32 {
    let mut kind = denial.reason.number() << 8 | denial.class.number();
    for part in [
        source.scid.0,
        source.snid.get(),
        denial.target.scid.0,
        denial.target.snid.get(),
        u32::from(denial.protocol),
        denial.permission.len() as u32,
    ] {
        kind = (kind ^ part).wrapping_mul(0x0100_0193).rotate_left(13);
    }
    kind
}

/// A ScID as the log shows it.
struct Zone(ScId);

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == ScId::OUTSIDE {
            f.write_str("outside")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// A process' name, which its owner chose: nothing in it may look like another field or line.
struct Name<'a>(&'a Comm);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take_while(|byte| **byte != 0) {
            if byte.is_ascii_graphic() && *byte != b'\\' && *byte != b'"' {
                write!(f, "{}", char::from(*byte))?;
            } else {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// What the packet or socket is, for the line.
struct Place<'a, 'b>(&'a Denial<'b>);

impl fmt::Display for Place<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denial {
            protocol,
            saddr,
            daddr,
            sport,
            dport,
            ..
        } = *self.0;
        match protocol {
            0 => return Ok(()),
            6 => write!(f, " tcp")?,
            17 => write!(f, " udp")?,
            other => write!(f, " ip-{other}")?,
        }
        if saddr.is_unspecified() && daddr.is_unspecified() && (sport, dport) == (0, 0) {
            return Ok(());
        }
        write!(
            f,
            " {} -> {}",
            SocketAddr::new(saddr, sport),
            SocketAddr::new(daddr, dport)
        )
    }
}

fn write_line(denial: &Denial<'_>, version: u64, held: u64) {
    let mut line = Text::<480>::new();
    // The buffer holds the longest line; a cut one would still be told.
    let _ = fmt::write(
        &mut line,
        format_args!(
            "{} sscid={} ssnid={} tscid={} tsnid={}{} perm={} reason={} hook={} pid={} comm={} rule={} policy={version}",
            if denial.enforced { "denied" } else { "would-deny" },
            Zone(denial.source.scid),
            denial.source.snid,
            Zone(denial.target.scid),
            denial.target.snid,
            Place(denial),
            denial.permission,
            denial.reason.name(),
            denial.hook,
            denial.pid,
            Name(&denial.comm),
            denial.rule,
        ),
    );
    if denial.call > 0 {
        let _ = fmt::write(&mut line, format_args!(" syscall={}", denial.call));
    }
    if held > 0 {
        let _ = fmt::write(&mut line, format_args!(" suppressed={held}"));
    }
    if denial.enforced {
        pr_warn!("{}\n", line.as_str());
    } else {
        pr_notice!("{}\n", line.as_str());
    }
}
