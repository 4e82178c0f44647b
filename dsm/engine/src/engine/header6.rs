// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The label in an IPv6 packet: a destination options header of 24 bytes, right before the transport header.
//!
//! ```text
//! next header, 2 (length), PadN 1 0, 30, 18, then what an IPv4 label has behind its type and length
//! ```
//! The kernel's fragments have it before their fragment header. A label stands nowhere else: an option 30 in any other place, shape or number makes the packet's label malformed.

use super::label::{self, Label, LabelError};

/// Bytes of the header.
pub const HEADER_LEN: usize = 24;
/// Type of the option: skipped by who does not know it, does not change on the way, experimental (RFC 4727).
pub const OPTION_TYPE: u8 = 0x1E;
/// Bytes of the option's data.
pub const DATA_LEN: u8 = 18;
/// Where in the header the option starts, behind padding that puts its numbers on their natural boundaries.
const OPTION_AT: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const PAD1: u8 = 0;
const PADN: u8 = 1;

/// What stands between the fixed header and the transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Where the label's header starts, stamped or placeholder.
    pub label: Option<usize>,
    /// Whether there is a routing header: the packet goes another way than its destination tells.
    pub routed: bool,
}

/// The bytes of a label's header, in front of a transport header of this protocol.
#[inline]
pub fn encode(label: &Label, protocol: u8) -> [u8; HEADER_LEN] {
    let [_, _, a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9] =
        label.encode();
    [
        protocol,
        2,
        PADN,
        0,
        OPTION_TYPE,
        DATA_LEN,
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        b0,
        b1,
        b2,
        b3,
        b4,
        b5,
        b6,
        b7,
        b8,
        b9,
    ]
}

/// Reads the extension headers of a packet: `first` is what the fixed header says that comes next, `area` all up to
/// the transport header, `protocol` whose that is. Each header takes 8 bytes at least, so the length of `area` bounds
/// the work.
#[inline]
pub fn survey(first: u8, area: &[u8], protocol: u8) -> Result<Survey, LabelError> {
    let mut found = Survey::default();
    let mut kind = first;
    let mut offset: usize = 0;
    while offset < area.len() {
        let Some([next, units]) = area
            .get(offset..)
            .and_then(|tail| tail.first_chunk::<2>())
            .copied()
        else {
            return Err(LabelError::Truncated { offset });
        };
        let len = match kind {
            HOP_BY_HOP | DESTINATION => 8 * (units as usize + 1),
            ROUTING => {
                found.routed = true;
                8 * (units as usize + 1)
            }
            FRAGMENT => 8,
            AUTHENTICATION => 4 * (units as usize + 2),
            other => return Err(LabelError::Header { found: other }),
        };
        let end = offset.wrapping_add(len);
        let Some(header) = area.get(offset..end) else {
            return Err(LabelError::Truncated { offset });
        };
        if (kind == HOP_BY_HOP || kind == DESTINATION) && labels(header, offset)? {
            if found.label.is_some() {
                return Err(LabelError::Duplicate { offset });
            }
            if kind != DESTINATION || end != area.len() || next != protocol {
                return Err(LabelError::Place { offset });
            }
            found.label = Some(offset);
        }
        kind = next;
        offset = end;
    }
    if kind != protocol {
        return Err(LabelError::Header { found: kind });
    }
    Ok(found)
}

/// Whether a header of options is a label's; an error if it has a label's option and another shape.
#[inline]
fn labels(header: &[u8], at: usize) -> Result<bool, LabelError> {
    if let Some([_, 2, PADN, 0, OPTION_TYPE, DATA_LEN, ..]) = header.first_chunk::<HEADER_LEN>() {
        return Ok(true);
    }
    let mut offset: usize = 2;
    while let Some(kind) = header.get(offset).copied() {
        if kind == PAD1 {
            offset = offset.wrapping_add(1);
            continue;
        }
        if kind == OPTION_TYPE {
            return Err(LabelError::Place {
                offset: at.wrapping_add(offset),
            });
        }
        let next = match header.get(offset.wrapping_add(1)) {
            Some(len) => offset.wrapping_add(2).wrapping_add(*len as usize),
            None => usize::MAX,
        };
        if next > header.len() {
            return Err(LabelError::Truncated {
                offset: at.wrapping_add(offset),
            });
        }
        offset = next;
    }
    Ok(false)
}

/// Finds and reads the label among a packet's extension headers, as for [`survey`]; `None` if there is none.
#[inline]
pub fn find(first: u8, area: &[u8], protocol: u8) -> Result<Option<Label>, LabelError> {
    let Some(offset) = survey(first, area, protocol)?.label else {
        return Ok(None);
    };
    let data = area
        .get(offset.wrapping_add(OPTION_AT + 2)..)
        .and_then(|tail| tail.first_chunk::<{ label::DATA_LEN }>());
    match data {
        Some(data) => Label::read(data).map(Some),
        None => Err(LabelError::Truncated { offset }),
    }
}
