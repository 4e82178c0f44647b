// SPDX-License-Identifier: GPL-2.0

//! Text in a buffer of fixed size, for places that cannot allocate. What does not fit is cut off;
//! never more is written, and never half a character.

use core::fmt;

/// At most `N` bytes of text.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// The text of a value.
    pub(crate) fn of(value: &dyn fmt::Display) -> Self {
        let mut text = Self::new();
        // Being full is no error here.
        let _ = fmt::write(&mut text, format_args!("{value}"));
        text
    }

    /// What has been written.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// What has been written.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut fits = text.len().min(N - self.len);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        let end = self.len + fits;
        if let (Some(to), Some(from)) = (
            self.bytes.get_mut(self.len..end),
            text.as_bytes().get(..fits),
        ) {
            to.copy_from_slice(from);
            self.len = end;
        }
        if fits == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}
