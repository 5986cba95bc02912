//! `auditail verify`: the offline check of an archive as a command.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::receive::verify::report::Report;
use crate::receive::verify::verify;

/// Check a received archive offline: chain, digests, gaps, duplicates, counts.
///
/// Exit code 0 when nothing is missing, altered or duplicated, else 1; 64 when the options cannot work. Chunks removed from
/// the end of a chain leave no gap: compare the last sequence number with the agent's own (`auditail check`).
///
/// Example: `auditail verify /srv/audit --extract audit.log`
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// Folder of the archive, as given to `auditail receive --dir`.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Write the delivered content of every chain here, in order, to compare it with what was logged.
    #[arg(long, value_name = "FILE")]
    pub extract: Option<PathBuf>,
}

/// Form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table for people.
    Text,
    /// One JSON object.
    Json,
}

/// Checks an archive and prints the result on standard output.
pub fn run(args: VerifyArgs) -> ExitCode {
    let report = match verify(&args.dir, args.extract.as_deref()) {
        Ok(report) => report,
        Err(error) => {
            // With standard error closed, the exit code has to do.
            let _ = writeln!(io::stderr(), "auditail verify: {}: {error}", args.dir.display());
            return ExitCode::FAILURE;
        }
    };
    let printed = print(&report, args.output, &mut io::stdout().lock());
    // A result that nobody could read is no success.
    if report.complete && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(report: &Report, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Text => write!(out, "{report}")?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, report)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
