//! `auditail check`
use std::process::ExitCode;

use super::Failure;

/// Show the configuration, what the environment allows, and what would go wrong.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {}

/// Runs the checks.
///
/// # Errors
/// Exit code 64 where the configuration cannot work.
pub fn run(_args: &CheckArgs) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
