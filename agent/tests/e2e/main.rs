//! The real binary, end to end: `auditail run` follows a log that a writer appends to and rotates, `auditail receive`
//! stores what it is sent, directly or through a destination that fails, and `auditail verify` checks the archive.
//!
//! Each test is held to the same measure: what was written arrives byte for byte, in order, nothing lost and nothing
//! twice; where that is impossible, the loss is reported.
#![allow(unreachable_pub)] // Modules of a test binary: nothing in them is reachable from outside.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

mod content;
mod crash;
mod destination;
mod downtime;
mod lifecycle;
mod memory;
mod rotation;
mod state;
mod transport;
