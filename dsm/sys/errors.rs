// SPDX-License-Identifier: GPL-2.0

//! Error numbers that the kernel's crate has no name for before 7.3. All others come from
//! `kernel::prelude`.

use kernel::bindings;
use kernel::error::Error;

/// `ENODATA`: there is no such attribute.
pub(crate) fn no_data() -> Error {
    of(bindings::ENODATA)
}

/// `EBADMSG`: it cannot be read.
pub(crate) fn bad_message() -> Error {
    of(bindings::EBADMSG)
}

/// `ENOPROTOOPT`: there is no such option.
pub(crate) fn no_such_option() -> Error {
    of(bindings::ENOPROTOOPT)
}

/// `EOPNOTSUPP`: it has no such operation.
pub(crate) fn not_supported() -> Error {
    of(bindings::EOPNOTSUPP)
}

/// `ECONNREFUSED`: nobody is there.
pub(crate) fn connection_refused() -> Error {
    of(bindings::ECONNREFUSED)
}

/// The kernel's number, which is small and positive.
fn of(number: u32) -> Error {
    Error::from_errno(-(number as i32))
}
