//! The command line.

pub mod check;
pub mod receive;
pub mod run;
pub mod setup;
pub mod ship;
pub mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code for a configuration or options that cannot work (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Collects Kubernetes audit logs and delivers all of them.
///
/// Start with `auditail check --config FILE`: it shows what `run` would do on this machine, and what would go wrong.
/// `auditail COMMAND --help` describes a command.
///
/// Exit code 0 when all is well, 1 when something is not, 64 when options or configuration cannot work; every problem is
/// on standard error.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do. The help of a command is the documentation of its arguments.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "documentation here would take the place of that help")]
pub enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Ship(ship::ShipArgs),
    Receive(receive::ReceiveArgs),
    Verify(verify::VerifyArgs),
}

/// Parses the command line and does what it says. Options that do not parse end the process with exit code 64.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; where nothing can be printed the exit code has to do.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(args) => finish("run", run::run(&args)),
        Command::Check(args) => finish("check", check::run(&args)),
        Command::Ship(args) => finish("ship", ship::run(&args)),
        Command::Receive(args) => receive::run(args),
        Command::Verify(args) => verify::run(args),
    }
}

/// Why a command could not do its work, as told on standard error.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// One problem a line.
    pub message: String,
}

impl Failure {
    /// The configuration or the options cannot work: exit code 64.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self { code: EXIT_USAGE, message: message.to_string() }
    }

    /// The machine does not let it run: exit code 1.
    pub fn machine(what: &str, error: impl std::fmt::Display) -> Self {
        Self { code: 1, message: format!("{what}: {error}") }
    }
}

fn finish(command: &str, result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        for line in failure.message.lines() {
            let _ = writeln!(std::io::stderr(), "auditail {command}: {line}");
        }
        ExitCode::from(failure.code)
    })
}
