// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The two identifiers that every decision is about. Plain numbers with names; they carry no authority by themselves.

use core::fmt;

/// Security context identifier: the zone that a process, a socket or a binary belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScId(pub u32);

impl ScId {
    /// The kernel's own packets and threads; on a binary, 'no label'.
    pub const KERNEL: Self = Self(0);
    /// The managers and tools of DSI itself. A policy can neither grant it anything nor cut it off.
    pub const MANAGEMENT: Self = Self(1);
    /// What every process is that nobody labelled.
    pub const DEFAULT: Self = Self(2);
    /// A peer without a label: a machine that is not a node of the cluster, or a protocol without labels.
    pub const OUTSIDE: Self = Self(0xFFFF_FFFF);

    /// Whether a policy may name this ScID for a process or socket: the default zone or an administrator's own.
    #[inline]
    pub const fn is_zone(self) -> bool {
        self.0 >= Self::DEFAULT.0 && self.0 != Self::OUTSIDE.0
    }

    /// Whether the policy leaves this ScID alone: the kernel and the management.
    #[inline]
    pub const fn is_exempt(self) -> bool {
        self.0 <= Self::MANAGEMENT.0
    }
}

impl fmt::Display for ScId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Security node identifier: 1 to 65,535. Zero is 'not enrolled' for a node and 'any node' in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnId(u16);

impl SnId {
    /// No node: not enrolled, a peer outside, or 'any' in a rule.
    pub const NONE: Self = Self(0);
    /// The largest SnID.
    pub const MAX: u32 = 0xFFFF;

    /// A node's id, or `None` for a number that no node can have.
    #[inline]
    pub const fn node(value: u32) -> Option<Self> {
        if value >= 1 && value <= Self::MAX {
            // The cast loses nothing: the range was checked.
            Some(Self(value as u16))
        } else {
            None
        }
    }

    /// From the 16 bits that an image entry holds; zero means none.
    #[inline]
    pub const fn from_u16(value: u16) -> Self {
        Self(value)
    }

    /// The number, 0 for none.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Whether it stands for no node in particular.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for SnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
