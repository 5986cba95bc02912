//! `auditail ship`: existing files, once.

mod display;
mod plan;
mod resend;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use indicatif::{DecimalBytes, HumanCount};

use self::display::Display;
use self::plan::{LogFile, Plan};
use self::resend::{Resent, resend};
use super::{Failure, setup};
use crate::config::problem::Origin;
use crate::config::{self, Config, LogFormat};
use crate::disk::real::RealDisk;
use crate::disk::uring::Ring;
use crate::ledger::Ledger;
use crate::observe::{self, http::Health};
use crate::pipeline::aside::ASIDE;
use crate::pipeline::{Mode, Parts, Progress};
use crate::upload::http::HttpDestination;
use crate::upload::retry::RetryPolicy;
use crate::watch::Watcher;

/// How long an interruption waits for receipts that are under way, unless `shutdown_grace` is configured: somebody
/// waits, and whatever is missing is sent by the next run.
const GRACE: Duration = Duration::from_secs(3);

/// Deliver existing files once and end: audit logs, rotated ones, .gz, or all of a directory.
///
/// What has been delivered is remembered in a state directory: the same command after an interruption delivers the
/// rest. Given STATE_DIRECTORY/aside, or manifests in it, sends chunks again that the destination had refused.
///
/// A destination that is down is tried until it is up again; Ctrl-C ends the wait.
///
/// Exit code 0 when everything is delivered, 1 when something is not, 64 when the options cannot work.
///
/// Example: `auditail ship /var/log/kubernetes --to https://audit.example.com/v1/chunks --token-file token`
#[derive(Clone, Debug, clap::Args)]
pub struct ShipArgs {
    /// Files, directories of logs, or chunks that were set aside.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where to deliver to (destination.url).
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Configuration file (YAML), as for `run`; source.paths is not needed.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory to remember in what has been delivered; never that of a running agent.
    ///
    /// Default: `ship` in the configured state_directory; where none is configured, $XDG_STATE_HOME/auditail/ship or
    /// ~/.local/state/auditail/ship.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// File that holds the bearer token (destination.token_file).
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Ships.
///
/// # Errors
/// Exit code 64 where arguments or configuration cannot work, 1 where the machine does not let it run.
pub fn run(args: &ShipArgs) -> Result<ExitCode, Failure> {
    let plan = Plan::of(&args.files).map_err(|complaints| Failure::usage(complaints.join("\n")))?;
    let config = configure(args)?;
    let display = Display::new();
    observe::log::init_to(config.observe.log_format, config.observe.log_level, display.writer())
        .map_err(|error| Failure::machine("cannot start logging", error))?;
    let _lock = (!plan.files.is_empty()).then(|| setup::lock_state(&config.state_directory)).transpose()?;
    let (runtime, ring, _) = setup::start_runtime(config.source.read)?;
    runtime.block_on(ship(config, plan, ring, display))
}

/// The configuration, with what the options say and what suits a command that somebody waits for.
fn configure(args: &ShipArgs) -> Result<Config, Failure> {
    // What is read are the arguments; a path that could be followed has to be there all the same.
    let mut flags = vec![("source.paths", "/dev/null".to_owned())];
    flags.extend(args.to.iter().map(|url| ("destination.url", url.clone())));
    if let Some(file) = &args.token_file {
        flags.push(("destination.token_file", absolute(file)?.to_string_lossy().into_owned()));
    }
    let loaded = config::load(args.config.as_deref(), &flags, |name| std::env::var_os(name)).map_err(Failure::usage)?;
    let is_default =
        |key: &str| loaded.effective.iter().any(|setting| setting.key == key && setting.origin == Origin::Default);
    let mut config = loaded.config;
    config.state_directory = match &args.state {
        Some(directory) => absolute(directory)?,
        None if is_default("state_directory") => state_of_user()?,
        None => config.state_directory.join("ship"),
    };
    if is_default("observe.log_format") {
        config.observe.log_format = LogFormat::Text;
    }
    if is_default("shutdown_grace") {
        config.shutdown_grace = GRACE;
    }
    Ok(config)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Where a user keeps state (XDG Base Directory Specification: relative paths are ignored).
fn state_of_user() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let base = base.ok_or_else(|| Failure::usage("neither XDG_STATE_HOME nor HOME is set: give --state DIR"))?;
    Ok(base.join("auditail/ship"))
}

async fn ship(config: Config, plan: Plan, ring: Option<Ring>, mut display: Display) -> Result<ExitCode, Failure> {
    let signal = setup::stop_signal().map_err(|error| Failure::machine("cannot receive signals", error))?;
    let destination = setup::destination(&config.destination)?;
    let interrupted = Cell::new(false);
    let mut stop = pin!(async {
        signal.await;
        interrupted.set(true);
    });
    plan.left_out.iter().for_each(|line| display.say(format_args!("{line}")));
    let mut complete = true;
    if !plan.aside.is_empty() {
        complete &= ship_aside(&config, &destination, &plan.aside, &display, stop.as_mut()).await?;
    }
    if !plan.files.is_empty() && !interrupted.get() {
        complete &= ship_files(config, destination, &plan.files, ring, &mut display, stop, &interrupted).await?;
    }
    if interrupted.get() {
        display.say(format_args!("interrupted: the same command again delivers the rest"));
    }
    Ok(if complete && !interrupted.get() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends chunks again that were set aside; says whether all are delivered.
async fn ship_aside(
    config: &Config,
    destination: &HttpDestination,
    manifests: &[PathBuf],
    display: &Display,
    stop: impl Future<Output = ()>,
) -> Result<bool, Failure> {
    let policy = RetryPolicy::from(&config.destination);
    let mut resent = Resent::default();
    tokio::select! {
        () = stop => {}
        () = resend(manifests, destination, &policy, display, &mut resent) => {}
    }
    let Resent { delivered, events, bytes, left } = resent;
    print(format_args!("aside: chunks {delivered}, events {events}, bytes {bytes}, left {left}"));
    Ok(left == 0)
}

/// Delivers files; says whether all of them are delivered.
async fn ship_files(
    config: Config,
    destination: Rc<HttpDestination>,
    files: &[LogFile],
    ring: Option<Ring>,
    display: &mut Display,
    stop: Pin<&mut impl Future<Output = ()>>,
    interrupted: &Cell<bool>,
) -> Result<bool, Failure> {
    let (state, cluster) = (config.state_directory.clone(), config.cluster_id.clone());
    let disk = Rc::new(RealDisk::new(state.clone(), ring));
    let recovered = setup::recover(&disk, &cluster).await?;
    let before = recovered.checkpoint.sources.clone();
    let watcher = Watcher::poll(config.source.rescan_interval);
    let health = Health::new(config.source.rescan_interval);
    let mode = Mode::Once(files.iter().map(|file| file.path.clone()).collect());
    let parts = Parts { disk: disk.clone(), destination, watcher, health, recovered };
    let mut pipeline = setup::pipeline(config, mode, parts)?;
    let progress = pipeline.progress();
    let delivered = |file: &LogFile| {
        before.get(&file.source()).map_or(0, |ledger| ledger.files.values().map(|record| record.delivered).sum())
    };
    display.start(files.iter().map(delivered).sum(), files.iter().map(|file| file.bytes).sum());
    {
        let mut running = pin!(pipeline.run(stop));
        let mut ticks = tokio::time::interval(display.interval());
        // The first tick is at once.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = &mut running => break,
                _ = ticks.tick() => display.show(&progress),
            }
        }
    }
    display.end();
    let after = setup::recover(&disk, &cluster).await?.checkpoint.sources;
    conclude(files, &before, &after, &progress, &state, display, interrupted.get())
}

/// Tells what the run came to; says whether everything is delivered.
fn conclude(
    files: &[LogFile],
    before: &BTreeMap<String, Ledger>,
    after: &BTreeMap<String, Ledger>,
    progress: &Progress,
    state: &Path,
    display: &Display,
    interrupted: bool,
) -> Result<bool, Failure> {
    let (mut already, mut incomplete) = (0, 0);
    for file in files {
        let source = file.source();
        if !after.get(&source).is_some_and(is_complete) {
            incomplete += 1;
            if interrupted {
                continue;
            }
            display.say(format_args!("{source}: not delivered to its end"));
        } else if before.get(&source).is_some_and(is_complete)
            && before.get(&source).map(|ledger| ledger.committed) == after.get(&source).map(|ledger| ledger.committed)
        {
            already += 1;
            display.say(format_args!("{source}: already delivered"));
        }
    }
    let is_ours = |source: &str| files.iter().any(|file| file.source() == source);
    let aside =
        resend::kept(state, is_ours).map_err(|error| Failure::machine("cannot tell what has been set aside", error))?;
    let lost = progress.losses.get();
    let (events, bytes) = (progress.events_delivered.get(), progress.bytes_delivered.get());
    let seconds = display.elapsed().as_secs_f64();
    let rate = DecimalBytes((bytes as f64 / seconds) as u64);
    print(format_args!(
        "files {}, events {events}, bytes {bytes}, malformed {}, already delivered {already}, incomplete {incomplete}, \
         set aside {aside}, lost {lost}; {seconds:.1} s, {rate}/s",
        files.len(),
        progress.malformed_delivered.get(),
    ));
    if aside > 0 {
        let directory = state.join(ASIDE);
        let (aside, directory) = (HumanCount(aside), directory.display());
        display.say(format_args!(
            "{aside} chunks were refused and are kept: mend the cause, then: auditail ship {directory}"
        ));
    }
    if lost > 0 {
        display.say(format_args!(
            "{} ranges are lost; the log lines above and the loss records name them",
            HumanCount(lost)
        ));
    }
    Ok(incomplete == 0 && aside == 0 && lost == 0)
}

/// Whether all of a file is delivered, set aside or reported lost.
fn is_complete(ledger: &Ledger) -> bool {
    ledger.entries.is_empty() && !ledger.files.is_empty() && ledger.files.values().all(|record| record.complete)
}

fn print(line: std::fmt::Arguments<'_>) {
    // With standard output closed, the exit code has to do.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
