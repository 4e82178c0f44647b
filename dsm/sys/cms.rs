// SPDX-License-Identifier: GPL-2.0

//! The policy signers' keyring and the check of a signature against it.

use super::bindings;
use kernel::{error::to_result, prelude::*};

/// The keyring, while it exists.
///
/// # Invariants
///
/// There is at most one, and it has been set up.
pub(crate) struct Keyring(());

impl Keyring {
    /// Makes it, empty. For the module's init.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: process context; init calls it once, and drop takes it back.
        to_result(unsafe { bindings::dsm_cms_init() })?;
        // INVARIANT: just set up.
        Ok(Self(()))
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        // SAFETY: by the invariant; commands are gone by now.
        unsafe { bindings::dsm_cms_exit() };
    }
}

/// Takes the anchor from a file.
pub(crate) fn read_anchor(path: &CStr) -> Result {
    // SAFETY: a terminated string; without a keyring the kernel's key code refuses.
    to_result(unsafe { bindings::dsm_cms_read_anchor(path.as_char_ptr()) })
}

/// Takes the anchor, an X.509 certificate in DER; `EEXIST` if there is another one.
pub(crate) fn set_anchor(der: &[u8]) -> Result {
    // SAFETY: the slice is valid for its length.
    to_result(unsafe { bindings::dsm_cms_set_anchor(der.as_ptr(), der.len()) })
}

/// Whether there is an anchor.
pub(crate) fn has_anchor() -> bool {
    // SAFETY: reads one word.
    unsafe { bindings::dsm_cms_has_anchor() }
}

/// Verifies a detached CMS signature over an image.
pub(crate) fn verify(image: &[u8], signature: &[u8]) -> Result {
    // SAFETY: both slices are valid for their lengths.
    to_result(unsafe {
        bindings::dsm_cms_verify(
            image.as_ptr(),
            image.len(),
            signature.as_ptr(),
            signature.len(),
        )
    })
}
