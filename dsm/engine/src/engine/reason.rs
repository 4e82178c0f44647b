// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Numbers and names that reach the audit. The order is that of `proto/netlink/dsi.yaml` and, once released, is only
//! appended to; a host test compares the two.

/// Defines an enum whose discriminants count from zero and whose names are those of the netlink specification.
macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// All values in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that the netlink specification gives.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The number on the netlink wire.
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The value of a number from the netlink wire.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.number() == number)
            }
        }
    };
}

named_enum! {
    /// What a node does with a refusal.
    Mode {
        /// No policy installed, node not enrolled: all is allowed, nothing audited.
        NoPolicy = "no-policy",
        /// A policy is installed; refusals are audited and not carried out.
        Permissive = "permissive",
        /// A policy is installed and carried out.
        Enforcing = "enforcing",
        /// Enrolled, and no policy yet: all but the management is refused.
        Closed = "closed",
    }
}

named_enum! {
    /// Why something was, or would have been, refused.
    Reason {
        /// It was not.
        None = "none",
        /// No rule names it and the document's default is deny.
        NoPermission = "no-permission",
        /// A rule denies it.
        DeniedByRule = "denied-by-rule",
        /// A label was needed and there is none.
        NoLabel = "no-label",
        /// The option is malformed, doubled, or of an unknown version.
        BadLabel = "bad-label",
        /// The message authentication code does not verify.
        BadMac = "bad-mac",
        /// The label's SnID is not the node of the packet's source address.
        WrongSource = "wrong-source",
        /// An end of the packet has an address that is no node's by the node map, as behind NAT.
        UnknownNode = "unknown-node",
        /// No key of the label's epoch.
        UnknownEpoch = "unknown-epoch",
        /// The node may not speak for this ScID.
        NotHosted = "not-hosted",
        /// No transition rule lets this parent run this binary.
        NoTransition = "no-transition",
        /// ScID 0 on something that the kernel does not send.
        KernelLabel = "kernel-label",
        /// The node is enrolled and has no policy.
        NoPolicy = "no-policy",
        /// The state that the decision needs could not be kept.
        NoMemory = "no-memory",
        /// The packet's label is not the one that its flow is bound to.
        NotBound = "not-bound",
        /// An exec that would change the ScID of a process that is traced, shares state, or has `no_new_privs`.
        UnsafeExec = "unsafe-exec",
        /// A packet of a zone has a source route: its destination is not where it ends.
        SourceRoute = "source-route",
    }
}

named_enum! {
    /// Kind of permission that was asked for.
    Class {
        /// A process on a socket.
        Socket = "socket",
        /// A zone on a node to a zone on a node.
        Network = "network",
        /// A process that executes a labelled binary.
        Transition = "transition",
        /// A process to another process.
        Process = "process",
        /// A process that uses a part of the machine.
        System = "system",
    }
}
