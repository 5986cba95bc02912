//! `auditail check`: the configuration that holds, what the environment allows, and what would go wrong.
//!
//! Small functions look at one thing each and give a `Check`; `render` turns them into text. Nothing is changed
//! and nobody is disturbed: it may run beside the agent at any time.

mod checkpoint;
mod destination;
mod limits;
mod memory;
mod render;
mod report;
mod rungs;
mod sources;
mod state;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::Failure;
use super::verify::Output;
use crate::config::{self, Loaded, Problems};
use crate::disk::real::RealDisk;
use report::{Report, Status};

/// Show the configuration, what the environment allows, and what would go wrong.
///
/// Give it the options, user and environment that `run` has. It sends no audit data, changes nothing and may be run
/// beside the agent at any time. docs/check.md explains every line.
///
/// Exit code 0 when nothing failed (there may be warnings), 1 when something did, 64 when the configuration cannot work.
///
/// Example: `auditail check --config /etc/auditail/auditail.yaml`
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Configuration file (YAML); without it the environment is all there is.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Runs the checks and prints the result on standard output.
///
/// # Errors
/// Exit code 64 where the configuration cannot work, 1 where not even an event loop can be started.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let loaded = match config::load(args.config.as_deref(), &[], |name| std::env::var_os(name)) {
        Ok(loaded) => loaded,
        Err(problems) => {
            if args.output == Output::Json {
                // The exit code and standard error tell the same to whoever cannot be reached here.
                let _ = print_json(&Refused::new(&problems));
            }
            return Err(Failure::usage(problems));
        }
    };
    let report = inspect(&loaded)?;
    let printed = match args.output {
        Output::Text => print(&render::text(&report)),
        Output::Json => print_json(&report),
    };
    // A result that nobody could read is no success.
    Ok(if report.status < Status::Fail && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn inspect(Loaded { config, effective }: &Loaded) -> Result<Report, Failure> {
    let (runtime, ring, read) = rungs::read(config.source.read)?;
    runtime.block_on(async {
        let disk = RealDisk::new(config.state_directory.clone(), None);
        let (logs, mut source_checks) = sources::find(&disk, &config.source.paths);
        for log in &logs {
            source_checks.extend(sources::check(&disk, log).await);
        }
        let memory = memory::estimate(config, logs.len(), ring.is_some());
        let state = state::check(&disk, &config.state_directory, config.limits.aside_bytes);
        let (checkpoint_check, checkpoint) = checkpoint::check(&disk, &config.state_directory, &config.cluster_id);
        let mut checks = vec![read, rungs::watch(&disk, &config.source, &logs)];
        checks.extend(source_checks);
        checks.extend(state.checks);
        checks.push(checkpoint_check);
        checks.extend(destination::check(&config.destination).await);
        checks.extend(limits::check(&config.limits, &memory, logs.len(), ring.is_some()));
        checks.extend(config.observe.listen.map(|address| limits::listen(address, state.agent_runs)));
        Ok(Report::new(effective, checks, checkpoint, memory))
    })
}

/// A configuration that cannot work, as JSON.
#[derive(Serialize)]
struct Refused {
    version: &'static str,
    status: &'static str,
    problems: Vec<RefusedProblem>,
}

#[derive(Serialize)]
struct RefusedProblem {
    origin: String,
    key: String,
    what: String,
    remedy: String,
}

impl Refused {
    fn new(problems: &Problems) -> Self {
        let problems = problems.0.iter().map(|problem| RefusedProblem {
            origin: problem.origin.to_string(),
            key: problem.key.clone(),
            what: problem.what.clone(),
            remedy: problem.remedy.clone(),
        });
        Self { version: env!("CARGO_PKG_VERSION"), status: "refused", problems: problems.collect() }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn print_json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    print(&format!("{text}\n"))
}
