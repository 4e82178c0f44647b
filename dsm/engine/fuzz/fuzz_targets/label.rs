// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Any bytes as the options area of a packet from a stranger: an answer, never a panic, and a label that is read is
//! the one that stands there.
#![no_main]

use dsi_engine::label::{find, locate, OPTION_LEN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|area: &[u8]| {
    if let Ok(Some(label)) = find(area) {
        let at = locate(area)
            .expect("found, so well-formed")
            .expect("found, so there");
        assert_eq!(area[at..at + OPTION_LEN], label.encode());
    }
});
