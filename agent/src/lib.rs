//! auditail: collects Kubernetes audit logs on control-plane nodes and delivers all of them.
//!
//! The modules in the order in which they may depend on each other:
//! types <- pure modules <- io modules <- pipeline <- command line. `ARCHITECTURE.md` has the map.

// Types.
pub mod config;
pub mod limits;
pub mod manifest;
pub mod rung;
pub mod types;

// Pure: no clock, no file, no socket, no runtime.
pub mod checkpoint;
pub mod chunk;
pub mod compress;
pub mod frame;
pub mod ledger;
pub mod pool;
pub mod record;
pub mod source;

// Input and output.
pub mod disk;
pub mod observe;
pub mod receive;
pub mod upload;
pub mod watch;

// The whole.
pub mod cli;
pub mod pipeline;
