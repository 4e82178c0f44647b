// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! From questions to decisions. Every question that a hook can ask is one method of [`Policy`] here; mode, default and
//! the precedence of deny over grant are applied in one place, `settle`. A decision knows no errno and logs nothing.
//!
//! ScID 0 is the kernel's, never 'unknown': whoever finds no state for a socket or task has to ask for ScID 2.

use super::ids::{ScId, SnId};
use super::outside::Remote;
use super::policy::{
    Finding, NetworkPermission, Policy, ProcessPermission, SocketPermission, SystemPermission,
    Tuple,
};
use super::reason::{Mode, Reason};

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a decision that nobody carries out protects nothing"]
pub struct Decision {
    /// Whether it goes ahead.
    pub permit: bool,
    /// Whether it is told to the audit. In permissive mode also of what goes ahead.
    pub audit: bool,
    /// Rule that decided; 0 if none did.
    pub rule: u32,
    /// Why it was, or in permissive mode would have been, refused.
    pub reason: Reason,
}

impl Decision {
    /// Goes ahead, and no rule had to say so.
    pub const PERMIT: Self = Self {
        permit: true,
        audit: false,
        rule: 0,
        reason: Reason::None,
    };

    /// A refusal in enforcing mode or on a closed node.
    #[inline]
    pub const fn refused(reason: Reason, rule: u32) -> Self {
        Self {
            permit: false,
            audit: true,
            rule,
            reason,
        }
    }

    /// Whether it was, or would have been, refused.
    #[inline]
    pub const fn is_refusal(&self) -> bool {
        !matches!(self.reason, Reason::None)
    }
}

/// A zone on a node, one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its zone, or outside.
    pub scid: ScId,
    /// Its node; none for outside.
    pub snid: SnId,
}

impl Peer {
    /// A machine or protocol without labels.
    pub const OUTSIDE: Self = Self {
        scid: ScId::OUTSIDE,
        snid: SnId::NONE,
    };
}

/// The answer to an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whether the exec goes ahead.
    pub decision: Decision,
    /// ScID of the process afterwards, if it does.
    pub scid: ScId,
}

/// The answer while no policy is installed: an enrolled node (`closed`) refuses all but the management and the kernel.
#[inline]
pub const fn without_policy(closed: bool, subject: ScId) -> Decision {
    if closed && !subject.is_exempt() {
        Decision::refused(Reason::NoPolicy, 0)
    } else {
        Decision::PERMIT
    }
}

/// What a process may do to another one while no policy is installed: on an enrolled node zones are apart. The default
/// zone, without which no node starts, may end and trace what runs, and talk to the management but not look into it.
pub fn process_without_policy(
    closed: bool,
    subject: ScId,
    target: ScId,
    permission: ProcessPermission,
) -> Decision {
    let into_management =
        target == ScId::MANAGEMENT && matches!(permission, ProcessPermission::Trace);
    if !closed
        || subject.is_exempt()
        || subject == target
        || target == ScId::KERNEL
        || (subject == ScId::DEFAULT
            && !into_management
            && (target == ScId::MANAGEMENT
                || matches!(
                    permission,
                    ProcessPermission::Signal | ProcessPermission::Trace
                )))
    {
        Decision::PERMIT
    } else {
        Decision::refused(Reason::NoPolicy, 0)
    }
}

/// What of the machine a process may use while no policy is installed: on an enrolled node only the zones that
/// administrators made are refused.
pub fn system_without_policy(closed: bool, subject: ScId) -> Decision {
    if closed && !subject.is_exempt() && subject != ScId::DEFAULT {
        Decision::refused(Reason::NoPolicy, 0)
    } else {
        Decision::PERMIT
    }
}

impl Policy<'_> {
    /// What the policy in force does with refusals.
    #[inline]
    pub fn mode(&self) -> Mode {
        if self.meta().enforcing() {
            Mode::Enforcing
        } else {
            Mode::Permissive
        }
    }

    /// The decision on something that no rule can excuse, such as a label that does not verify.
    #[inline]
    pub fn refuse(&self, reason: Reason) -> Decision {
        self.refuse_by(reason, 0)
    }

    #[inline]
    fn refuse_by(&self, reason: Reason, rule: u32) -> Decision {
        Decision {
            permit: !self.meta().enforcing(),
            audit: true,
            rule,
            reason,
        }
    }

    /// Deny beats grant, grant beats default; `implied` stands in for a default of allow.
    #[inline]
    fn settle(&self, finding: Finding, implied: bool) -> Decision {
        if finding.deny != 0 {
            self.refuse_by(Reason::DeniedByRule, finding.deny)
        } else if finding.grant != 0 {
            Decision {
                rule: finding.grant,
                ..Decision::PERMIT
            }
        } else if implied || self.meta().default_allow() {
            Decision::PERMIT
        } else {
            self.refuse_by(Reason::NoPermission, 0)
        }
    }

    /// May a process of ScID `subject` on this node do this with a socket of ScID `target`?
    ///
    /// Kernel and management may do anything; the default zone needs no rule for its own sockets.
    #[inline]
    pub fn socket(
        &self,
        subject: ScId,
        own_node: SnId,
        target: ScId,
        permission: SocketPermission,
    ) -> Decision {
        if subject.is_exempt() {
            return Decision::PERMIT;
        }
        let implied = subject == ScId::DEFAULT && target == ScId::DEFAULT;
        self.settle(
            self.find_socket(subject, own_node, target, permission),
            implied,
        )
    }

    /// What the network permissions say of a source and a target; if one of them is outside, also those for where it is.
    #[inline]
    fn find_between(
        &self,
        source: Peer,
        target: Peer,
        permission: NetworkPermission,
        remote: &Remote,
    ) -> Finding {
        let tuple = tuple(source, target);
        let mut finding = self.find_network(&tuple, permission);
        if source == Peer::OUTSIDE || target == Peer::OUTSIDE {
            self.find_outside(&tuple, remote, permission, &mut finding);
        }
        finding
    }

    /// May a datagram from `sender` be delivered to `receiver`?
    ///
    /// It may if the sender may send to the receiver, or the receiver may receive from the sender; a deny of either
    /// refuses it. Asked by the sender's node it is the question of egress: `receiver` is then [`Peer::OUTSIDE`].
    /// `remote` is where the end is that is outside; it matters only if one is.
    #[inline]
    pub fn network_datagram(&self, sender: Peer, receiver: Peer, remote: &Remote) -> Decision {
        if let Some(decision) = self.exempt_ends(sender, receiver) {
            return decision;
        }
        let forth = self.find_between(sender, receiver, NetworkPermission::Send, remote);
        if forth.grant != 0 && !self.has_network_denies() {
            return self.settle(forth, false);
        }
        let back = self.find_between(receiver, sender, NetworkPermission::Receive, remote);
        let first = |a: u32, b: u32| if a != 0 { a } else { b };
        let both = Finding {
            grant: first(forth.grant, back.grant),
            deny: first(forth.deny, back.deny),
        };
        self.settle(both, false)
    }

    /// May `initiator` have a TCP connection to `listener`? The packets of such a flow pass in both directions: the
    /// passive side asks with its peer as the initiator, the active side with itself. `remote` as for datagrams.
    #[inline]
    pub fn network_connect(&self, initiator: Peer, listener: Peer, remote: &Remote) -> Decision {
        if let Some(decision) = self.exempt_ends(initiator, listener) {
            return decision;
        }
        self.settle(
            self.find_between(initiator, listener, NetworkPermission::Connect, remote),
            false,
        )
    }

    /// May a datagram to a group or broadcast address leave its sender, or reach a member?
    ///
    /// No label fits a group, so one end is always [`Peer::OUTSIDE`]: the target for the sender's node, the source for
    /// a receiver's. `remote` is the group for the sender, and for a receiver the sender.
    pub fn network_multicast(&self, source: Peer, target: Peer, remote: &Remote) -> Decision {
        if source.scid.is_exempt() || target.scid.is_exempt() {
            return Decision::PERMIT;
        }
        self.settle(
            self.find_between(source, target, NetworkPermission::Multicast, remote),
            false,
        )
    }

    /// May a process of ScID `subject` on this node do this to a process of ScID `target` on the same node?
    ///
    /// A zone may to its own, unless a rule denies it. Nobody but the kernel and the management looks into the
    /// management; the default zone, where administrators log in, may otherwise talk to it, and no other zone may.
    pub fn process(
        &self,
        subject: ScId,
        own_node: SnId,
        target: ScId,
        permission: ProcessPermission,
    ) -> Decision {
        if subject.is_exempt() || target == ScId::KERNEL {
            return Decision::PERMIT;
        }
        if target == ScId::MANAGEMENT {
            return if subject == ScId::DEFAULT && permission != ProcessPermission::Trace {
                Decision::PERMIT
            } else {
                self.refuse(Reason::NoPermission)
            };
        }
        self.settle(
            self.find_process(subject, own_node, target, permission),
            subject == target,
        )
    }

    /// May a process of ScID `subject` on this node use this part of the machine, for which it has the capability?
    ///
    /// The default zone may, unless a rule denies it.
    pub fn system(&self, subject: ScId, own_node: SnId, permission: SystemPermission) -> Decision {
        if subject.is_exempt() {
            return Decision::PERMIT;
        }
        self.settle(
            self.find_system(subject, own_node, permission),
            subject == ScId::DEFAULT,
        )
    }

    /// The ends that no rule can name. The receiver's exemption is looked at first: no policy cuts off management.
    #[inline]
    fn exempt_ends(&self, sender: Peer, receiver: Peer) -> Option<Decision> {
        if receiver.scid.is_exempt() {
            return Some(Decision::PERMIT);
        }
        if sender.scid == ScId::KERNEL {
            return Some(self.refuse(Reason::KernelLabel));
        }
        if sender.scid == ScId::MANAGEMENT {
            return Some(self.refuse(Reason::NoPermission));
        }
        None
    }

    /// May a process of ScID `parent` execute a binary labelled `binary` (0: no label), and what is it afterwards?
    pub fn transition(&self, parent: ScId, binary: ScId) -> Transition {
        let unchanged = Transition {
            decision: Decision::PERMIT,
            scid: parent,
        };
        if binary == ScId::KERNEL || binary == parent || parent.is_exempt() {
            return unchanged;
        }
        match self.find_transition(parent, binary) {
            Some((scid, rule)) => Transition {
                decision: Decision {
                    rule,
                    ..Decision::PERMIT
                },
                scid,
            },
            None if self.meta().default_allow() => unchanged,
            None => Transition {
                decision: self.refuse(Reason::NoTransition),
                scid: parent,
            },
        }
    }

    /// May this node speak for this ScID? Any node may for a ScID that no hosting rule names.
    #[inline]
    pub fn hosting(&self, node: SnId, scid: ScId) -> Decision {
        if scid.is_exempt() || !self.has_hosting(SnId::NONE, scid) || self.has_hosting(node, scid) {
            Decision::PERMIT
        } else {
            self.refuse(Reason::NotHosted)
        }
    }
}

#[inline(always)]
fn tuple(source: Peer, target: Peer) -> Tuple {
    Tuple {
        source: source.scid,
        source_node: source.snid,
        target: target.scid,
        target_node: target.snid,
    }
}
