//! Tasks that are runs of cargo.

use std::path::PathBuf;
use std::process::Command;

use crate::{Failure, root, tidy};

/// All tests. The binary is built first: the end-to-end tests start it.
pub(crate) fn test() -> Result<(), Failure> {
    cargo(&["build", "--package", "auditail", "--bin", "auditail"])?;
    cargo(&["test", "--workspace"])
}

/// What has to pass before a change is merged; the quick checks first.
pub(crate) fn ci() -> Result<(), Failure> {
    cargo(&["fmt", "--all", "--check"])?;
    tidy::run(root())?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    test()
}

/// Builds the agent as it is shipped; gives the binary's path.
pub(crate) fn build_release() -> Result<PathBuf, Failure> {
    cargo(&["build", "--release", "--package", "auditail", "--bin", "auditail"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release").join("auditail"))
}

/// Runs the cargo that runs this task, in the workspace's directory.
fn cargo(arguments: &[&str]) -> Result<(), Failure> {
    cargo_with(arguments, &[])
}

/// The same, with variables in its environment.
pub(crate) fn cargo_with(arguments: &[&str], variables: &[(&'static str, String)]) -> Result<(), Failure> {
    let line = format!("cargo {}", arguments.join(" "));
    println!("$ {line}");
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let variables = variables.iter().map(|(name, value)| (name, value));
    let status = Command::new(program).args(arguments).envs(variables).current_dir(root()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}").into()) }
}
