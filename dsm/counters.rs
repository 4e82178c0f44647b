// SPDX-License-Identifier: GPL-2.0

//! What has happened since the module was loaded, by kind. One counter per CPU; adding takes no
//! lock, reading sums up.
#![forbid(unsafe_code)]

use crate::engine::Reason;
use crate::sys::count;

/// Something that is counted. What the C side counts comes first, some of it counted here, too.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Event {
    /// A packet with a verified label came in.
    InLabelled = count::IN_LABELLED,
    /// A TCP segment without a label came in, of a flow whose peer is known.
    InBare = count::IN_BARE,
    /// A TCP segment left without a label: the peer has its flow's.
    OutBare = count::OUT_BARE,
    /// A packet left without a label because there is no key for its node.
    OutNoKey = count::C_END,
    /// A packet without a label came in.
    InUnlabelled,
    /// A packet that the kernel made came in, under ScID 0.
    InKernel,
    /// A socket older than the module was taken over.
    Adopted,
    /// The state of a socket could not be kept.
    Lost,
    /// A packet was kept from leaving, for a reason that is counted, too.
    OutRefused,
    /// A socket was not made because there were too many.
    Full,
    /// A line of the log was held back: too many before it, or the same one lately.
    LineHeld,
    /// An event likewise.
    EventHeld,
    /// The peer of a TCP flow has proved itself for all of it.
    FlowBound,
    /// A segment of no connection was left to TCP, which answers it by a reset.
    InStray,
    /// A packet between nodes, one end of which has an address that is no node's, counted as outside.
    Unmapped,
    /// One for each reason: refused.
    Refused,
}

const REFUSED: u32 = Event::Refused as u32;
const REASONS: u32 = Reason::ALL.len() as u32;

const NAMES: [&str; REFUSED as usize] = [
    "out-labelled",
    "out-inserted",
    "out-no-room",
    "out-deceiving",
    "flows-aborted",
    "rejected",
    "in-labelled",
    "in-bare",
    "out-bare",
    "out-no-key",
    "in-unlabelled",
    "in-kernel",
    "socket-adopted",
    "socket-lost",
    "out-refused",
    "sockets-full",
    "log-held",
    "events-held",
    "flow-bound",
    "in-stray",
    "unmapped",
];

/// It has happened once more.
#[inline(always)]
pub(crate) fn add(event: Event) {
    count::add(event as u32);
}

/// Something was refused for a reason, or in permissive mode would have been.
pub(crate) fn add_refusal(reason: Reason, enforced: bool) {
    const { assert!(REFUSED + 2 * REASONS <= count::MOST) };
    let kind = if enforced { 0 } else { REASONS };
    count::add(REFUSED + kind + reason.number());
}

/// Prefix and rest of a counter's name; `None` after the last one.
pub(crate) fn name(index: u32) -> Option<(&'static str, &'static str)> {
    if let Some(name) = NAMES.get(index as usize) {
        return Some(("", name));
    }
    let index = index.checked_sub(REFUSED)?;
    let (prefix, reason) = if index < REASONS {
        ("refused-", index)
    } else {
        ("would-refuse-", index - REASONS)
    };
    Some((prefix, Reason::from_number(reason)?.name()))
}

/// How often it has happened, on all CPUs.
pub(crate) fn value(index: u32) -> u64 {
    count::sum(index)
}
