//! The `auditail` binary.
fn main() {}
