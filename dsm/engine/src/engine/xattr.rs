// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The label of a binary: the value of its extended attribute. One ScID has exactly one spelling, so that a tool, a
//! package and the kernel can never differ about it.

use super::ids::ScId;
use core::fmt;

/// Name of the extended attribute.
pub const NAME: &str = "security.dsi";
/// Bytes of the longest valid value.
pub const MAX_LEN: usize = 10;

/// Why a value is not a ScID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrError {
    /// No byte at all.
    Empty,
    /// More bytes than any ScID has.
    TooLong {
        /// Bytes found.
        len: usize,
    },
    /// A byte that is not a decimal digit.
    NotADigit {
        /// Its place in the value.
        at: usize,
        /// What it is.
        byte: u8,
    },
    /// A zero before other digits.
    LeadingZero,
    /// A number above 4,294,967,294.
    OutOfRange,
}

impl fmt::Display for XattrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the value is empty; expected a decimal ScID"),
            Self::TooLong { len } => write!(
                f,
                "the value has {len} bytes; a ScID has at most {MAX_LEN} digits"
            ),
            Self::NotADigit { at, byte } => {
                write!(f, "byte {at} of the value is 0x{byte:02x}; expected decimal digits only, no newline")
            }
            Self::LeadingZero => {
                f.write_str("the value starts with a zero; expected a ScID without leading zeros")
            }
            Self::OutOfRange => {
                f.write_str("the value is larger than the largest ScID, 4294967294")
            }
        }
    }
}

/// The ScID that the attribute's value names; 0 is 'no label'.
pub fn parse(value: &[u8]) -> Result<ScId, XattrError> {
    if value.is_empty() {
        return Err(XattrError::Empty);
    }
    if value.len() > MAX_LEN {
        return Err(XattrError::TooLong { len: value.len() });
    }
    let mut number: u64 = 0;
    for (at, byte) in value.iter().copied().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(XattrError::NotADigit { at, byte });
        }
        // Ten digits stay far below 2^64.
        number = number.wrapping_mul(10).wrapping_add(digit as u64);
    }
    if value.len() > 1 && value.first() == Some(&b'0') {
        return Err(XattrError::LeadingZero);
    }
    match u32::try_from(number) {
        Ok(scid) if ScId(scid) != ScId::OUTSIDE => Ok(ScId(scid)),
        _ => Err(XattrError::OutOfRange),
    }
}
