//! What the agent tells about itself: log lines, metrics, and whether it is alive and ready.

pub mod http;
pub mod log;
pub mod metrics;
