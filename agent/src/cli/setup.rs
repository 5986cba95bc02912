//! What `run`, `ship` and `check` have in common: from a configuration to the parts of a pipeline.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;

use super::Failure;
use super::run::USER_AGENT;
use crate::config::{Config, DestinationConfig, ReadRung};
use crate::disk::real::RealDisk;
use crate::disk::uring::{Ring, Runtime};
use crate::pipeline::state::{self, Recovered};
use crate::pipeline::{Mode, Parts, Pipeline};
use crate::rung::Rung;
use crate::upload::http::HttpDestination;

/// Name of the lock in the state directory.
const LOCK: &str = "lock";

/// The state directory, held so that no other agent uses it. Released by the kernel when the process ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

/// Makes the state directory if need be and takes its lock.
///
/// # Errors
/// Where it cannot be made or written, or another agent holds it.
pub fn lock_state(directory: &Path) -> Result<StateLock, Failure> {
    let shown = directory.display();
    let failed = |error: io::Error| Failure {
        code: 1,
        message: format!(
            "state_directory {shown} cannot be used: {error}; it has to be a directory that this user may write to"
        ),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mut file =
        File::options().create(true).truncate(false).write(true).open(directory.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            // Who holds it helps the operator; nothing depends on it, so that a full disk is no reason not to start.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(StateLock(file))
        }
        Err(TryLockError::WouldBlock) => Err(Failure {
            code: 1,
            message: format!(
                "state_directory {shown} is in use by another auditail; two agents must never share one: stop the other or configure another directory"
            ),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Who holds the state directory, as far as is known; `None` where nobody does or there is no lock yet.
///
/// Takes a shared lock for the instant of asking, so that two who ask do not take each other for an agent.
///
/// # Errors
/// Where the lock cannot be opened or asked for.
pub fn lock_holder(directory: &Path) -> io::Result<Option<String>> {
    /// Much longer than any process id.
    const HOLDER_BYTES_MAX: u64 = 20;
    let file = match File::open(directory.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
            let process = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
            Ok(Some(process.map_or("process unknown".to_owned(), |id| format!("process {id}"))))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The event loop, with the best way of reading that works or the one asked for, and the ring's buffers where there
/// is a ring.
///
/// # Errors
/// When io_uring was asked for and does not work, or the process is out of file descriptors.
pub fn start_runtime(wanted: ReadRung) -> Result<(Runtime, Option<Ring>, Rung), Failure> {
    let plain = |why: String| {
        let runtime = Runtime::plain().map_err(|error| Failure::machine("cannot start the event loop", error))?;
        Ok((runtime, None, Rung::below("pread", "uring", why)))
    };
    if wanted == ReadRung::Pread {
        return plain("source.read is set to pread".into());
    }
    let with_ring = Runtime::with_uring().and_then(|runtime| {
        let ring = runtime.block_on(async { Ring::register() })?;
        Ok((runtime, ring))
    });
    match with_ring {
        Ok((runtime, ring)) => Ok((runtime, Some(ring), Rung::best("uring"))),
        Err(error) if wanted == ReadRung::Auto => plain(format!("io_uring is not available: {error}")),
        Err(error) => Err(Failure::machine("source.read is set to uring, and io_uring is not available", error)),
    }
}

/// What is remembered in the state directory.
///
/// # Errors
/// Where it cannot be read, or is not ours to use.
pub async fn recover(disk: &RealDisk, cluster_id: &str) -> Result<Recovered, Failure> {
    state::recover(disk, cluster_id).await.map_err(|error| Failure { code: 1, message: error.to_string() })
}

/// The configured destination.
///
/// # Errors
/// Where it cannot be set up as configured.
pub fn destination(config: &DestinationConfig) -> Result<Rc<HttpDestination>, Failure> {
    HttpDestination::new(config, USER_AGENT).map(Rc::new).map_err(Failure::usage)
}

/// A pipeline from files to a destination.
///
/// # Errors
/// Where framing threads cannot be started.
pub fn pipeline(
    config: Config,
    mode: Mode,
    parts: Parts<RealDisk, HttpDestination>,
) -> Result<Pipeline<RealDisk, HttpDestination>, Failure> {
    Pipeline::new(config, mode, parts).map_err(|error| Failure::machine("cannot start framing threads", error))
}

/// Resolves at the first SIGTERM or SIGINT. A second one ends the process at once; that loses nothing, as any crash.
///
/// # Errors
/// Where signals cannot be received.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        tokio::task::spawn_local(async move {
            next().await;
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        });
    })
}
