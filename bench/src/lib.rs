//! Audit logs and failing destinations for auditail's tests, demo and benchmarks.
//!
//! Nothing here depends on the agent, so that the agent is never measured with its own ruler.
//!
//! - [`generate`]: a seeded stream of audit events in the shape kube-apiserver writes,
//! - [`writer`] and [`backup`]: a log file that grows and rotates as kube-apiserver's does, or as others rotate it,
//! - [`drive`]: both together in a thread, at a given rate,
//! - [`compare`]: what was written against what arrived,
//! - [`faults`]: a proxy in front of a receiver that fails on request.

pub mod backup;
pub mod compare;
pub mod drive;
pub mod faults;
pub mod generate;
pub mod utc;
pub mod writer;

mod event;
mod json;
mod object;
