//! Audit-log generator and writer.
