//! Development tasks: `cargo xtask help` lists them.

// Talking to the person at the terminal is what these tasks are for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cargo;
mod demo;
mod options;
mod process;
mod scrape;
mod sim;
mod tidy;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// A failed task; its text is all a person needs.
type Failure = Box<dyn Error + Send + Sync>;

const HELP: &str = "\
Usage: cargo xtask <TASK>

Tasks:
  demo   Write an audit log as kube-apiserver does, deliver it, kill the agent on the way, count what arrived
           --seconds N   how long to write (20)
           --rate N      events per second (2000)
           --seed N      which events (1)
  sim    Run the agent through simulated rotations, faults and crashes, each seed another schedule
           --seeds N     how many seeds (20000)
           --first N     where they begin (0)
           --seed N      one seed alone, with a trace of the shortest schedule that fails
  test   Run all tests: unit, integration and end to end
  ci     Check format, lints and house rules, then run all tests
  tidy   Check the house rules
  help   Show this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let Some((task, options)) = arguments.split_first() else {
        print!("{HELP}");
        return Err("no task given".into());
    };
    if options.iter().any(|option| option == "--help" || option == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    if !matches!(task.as_str(), "demo" | "sim")
        && let Some(option) = options.first()
    {
        return Err(format!("{task} takes no option {option:?}").into());
    }
    match task.as_str() {
        "demo" => demo::run(&demo::Settings::parse(options)?),
        "sim" => sim::run(options),
        "test" => cargo::test(),
        "ci" => cargo::ci(),
        "tidy" => tidy::run(root()),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("there is no task {other:?}; cargo xtask help lists them").into()),
    }
}

/// The workspace's directory.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
