//! The reference receiver of the delivery protocol (`docs/protocol.md`), and the offline check of what it stored.

pub mod archive;
pub mod body;
pub mod index;
pub mod layout;
pub mod store;
