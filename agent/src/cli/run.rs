//! `auditail run`: the agent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use super::{Failure, setup};
use crate::config::{self, Config};
use crate::disk::real::RealDisk;
use crate::disk::uring::Ring;
use crate::observe::{self, http::Health, metrics};
use crate::pipeline::discover::discover;
use crate::pipeline::{Ended, Mode, Parts};
use crate::rung::Rung;
use crate::watch::Watcher;

/// Follow the configured audit logs and deliver them, until SIGTERM or SIGINT.
///
/// The configuration is a YAML file; every setting can also be given in the environment (AUDITAIL_ and the key in
/// capitals, dots written as underscores), and goes before the file there. source.paths and destination.url are all that
/// has to be given. docs/configuration.md lists everything; `auditail check` shows what holds and where it came from.
///
/// A signal ends reading; what has been read is delivered, for at most shutdown_grace (20s). A second signal ends the agent at
/// once. Nothing is lost either way: the next start goes on where delivery ended.
///
/// Metrics and probes are served on observe.listen (0.0.0.0:9464): /metrics, /healthz, /readyz.
///
/// Exit code 0 after a signal, 1 when the machine does not let it run, or after a second signal, 64 when the configuration
/// cannot work.
///
/// Example: `auditail run --config /etc/auditail/auditail.yaml`
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration file (YAML); without it the environment is all there is.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What the agent calls itself to servers.
pub const USER_AGENT: &str = concat!("auditail/", env!("CARGO_PKG_VERSION"));

/// Runs the agent.
///
/// # Errors
/// Exit code 64 where the configuration cannot work, 1 where the machine does not let it run.
pub fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config =
        config::load(args.config.as_deref(), &[], |name| std::env::var_os(name)).map_err(Failure::usage)?.config;
    observe::log::init(config.observe.log_format, config.observe.log_level)
        .map_err(|error| Failure::machine("cannot start logging", error))?;
    let _lock = setup::lock_state(&config.state_directory)?;
    let (runtime, ring, read_rung) = setup::start_runtime(config.source.read)?;
    runtime.block_on(follow(config, ring, &read_rung))
}

async fn follow(config: Config, ring: Option<Ring>, read_rung: &Rung) -> Result<ExitCode, Failure> {
    let stop = setup::stop_signal().map_err(|error| Failure::machine("cannot receive signals", error))?;
    // Before anything is seen or written outside: what it is given may be wrong.
    let destination = setup::destination(&config.destination)?;
    let health = Health::new(config.source.rescan_interval * 3);
    if let Some(address) = config.observe.listen {
        let handle = metrics::install().map_err(|error| Failure::machine("cannot collect metrics", error))?;
        let what = format!("cannot listen on observe.listen {address}");
        let bound = observe::http::start(address, handle, health.clone()).await;
        let address = bound.map_err(|error| Failure::machine(&what, error))?;
        tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    }
    let disk = RealDisk::new(config.state_directory.clone(), ring);
    let directories = discover(&disk, &config.source.paths).directories;
    let (watcher, watch_rung) = Watcher::choose(config.source.watch, &directories, config.source.poll_interval)
        .map_err(|error| Failure::machine("source.watch is set to inotify, and it is not available", error))?;
    metrics::set_rung("read", &metrics::READ_RUNGS, read_rung.name);
    metrics::set_rung("watch", &metrics::WATCH_RUNGS, watch_rung.name);
    let recovered = setup::recover(&disk, &config.cluster_id).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), read = %read_rung, watch = %watch_rung, stream = %recovered.checkpoint.stream,
        first_start = recovered.first_start, paths = ?config.source.paths, destination = %config.destination.url, "auditail runs"
    );
    let parts = Parts { disk: Rc::new(disk), destination, watcher, health, recovered };
    let mut pipeline = setup::pipeline(config, Mode::Follow, parts)?;
    match pipeline.run(stop).await {
        Ended::Settled => tracing::info!("stopped; everything read is delivered"),
        Ended::GraceOver => {
            tracing::warn!(
                "stopped; the grace period was over before everything read was delivered: the next start delivers the rest"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
