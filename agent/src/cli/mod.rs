//! The command line.

pub mod receive;
pub mod verify;
