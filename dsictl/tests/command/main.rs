// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Tests of the built command: alone, and against a server.

mod cli;
mod common;
mod foresight;
mod server;
