//! What the agent is told: from a YAML file and the environment to one checked [`Config`].
//!
//! [`settings`] is the table of everything that can be set; [`yaml`] reads the file, [`mod@resolve`] decides which value
//! holds, `build` makes the typed configuration. All problems are found before any is reported ([`problem`]).

mod build;
mod parse;
pub mod problem;
pub mod resolve;
pub mod settings;
pub mod units;
pub mod yaml;

pub use build::body_pool_bytes_min;
pub(crate) use parse::{is_loopback, token};
pub use problem::{Origin, Problem, Problems};
pub use resolve::{EffectiveSetting, Inputs, Loaded, load, resolve};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::manifest::Encoding;

/// The whole configuration, checked. Only `main` and the pipeline see all of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cluster_id`: which cluster the audit log belongs to.
    pub cluster_id: String,
    /// `service_id`: identifier the destination's operator gave out; empty where none is used.
    pub service_id: String,
    /// `node_id`: name of the node; defaults to the host name.
    pub node_id: String,
    /// `state_directory`: where the checkpoint lives.
    pub state_directory: PathBuf,
    /// `source.*`
    pub source: SourceConfig,
    /// `chunk.*`
    pub chunk: ChunkConfig,
    /// `destination.*`
    pub destination: DestinationConfig,
    /// `limits.*`
    pub limits: LimitsConfig,
    /// `observe.*`
    pub observe: ObserveConfig,
    /// `shutdown_grace`: how long SIGTERM waits for the open chunk to be delivered.
    pub shutdown_grace: Duration,
}

/// Where audit logs are and how they are read.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// `source.paths`: live files or glob patterns of live files.
    pub paths: Vec<String>,
    /// `source.start_at`: where a first start without a checkpoint begins.
    pub start_at: StartAt,
    /// `source.read`: how log data is read.
    pub read: ReadRung,
    /// `source.watch`: how writes are noticed.
    pub watch: WatchRung,
    /// `source.poll_interval`: how often the polling rung looks.
    pub poll_interval: Duration,
    /// `source.rescan_interval`: the slow look at the directory that backs up lost wake-ups.
    pub rescan_interval: Duration,
    /// `source.max_event_bytes`: a longer line is delivered in marked pieces.
    pub max_event_bytes: usize,
}

/// Where a first start begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With the oldest rotated file there is.
    Beginning,
    /// With what is written from now on.
    End,
}

/// How log data is read: `auto` takes the best rung that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRung {
    /// io_uring where it works, else pread.
    Auto,
    /// io_uring or refuse to start.
    Uring,
    /// pread.
    Pread,
}

/// How writes are noticed: `auto` takes the best rung that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchRung {
    /// inotify where it works, else poll.
    Auto,
    /// inotify or refuse to start.
    Inotify,
    /// Polling.
    Poll,
}

/// When a chunk is closed and how it is compressed.
#[derive(Clone, Copy, Debug)]
pub struct ChunkConfig {
    /// `chunk.offload_amount`: raw bytes after which a chunk is closed.
    pub offload_amount_bytes: u64,
    /// `chunk.offload_after`: age after which a chunk is closed.
    pub offload_after: Duration,
    /// `chunk.encoding`
    pub encoding: Encoding,
    /// `chunk.level`: compression level of the encoding.
    pub level: u32,
}

/// Where chunks go.
#[derive(Clone, Debug)]
pub struct DestinationConfig {
    /// `destination.url`: chunks are POSTed here.
    pub url: hyper::Uri,
    /// `destination.token` or `destination.token_file`
    pub token: Option<TokenSource>,
    /// `destination.ca_file`: PEM certificates trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `destination.client_cert_file` and `destination.client_key_file`: PEM, for mutual TLS.
    pub client_identity: Option<(PathBuf, PathBuf)>,
    /// `destination.proxy`: proxy for every request, with credentials if it wants them.
    pub proxy: Option<Proxy>,
    /// `destination.no_proxy`: hosts reached without the proxy (NO_PROXY syntax).
    pub no_proxy: String,
    /// `destination.connect_timeout`
    pub connect_timeout: Duration,
    /// `destination.request_timeout`: from the first byte sent to the end of the answer.
    pub request_timeout: Duration,
    /// `destination.idle_timeout`: after which a kept-alive connection is closed.
    pub idle_timeout: Duration,
    /// `destination.retry_initial`: first back-off.
    pub retry_initial: Duration,
    /// `destination.retry_max`: longest back-off.
    pub retry_max: Duration,
    /// `destination.unauthorized_retry`: pause after 401 or 403.
    pub unauthorized_retry: Duration,
}

/// A secret: its `Debug` form shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where the bearer token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// Given in the environment or the file.
    Literal(Secret),
    /// Read from a file, again whenever the file changes.
    File(PathBuf),
}

/// A proxy and what it wants to know.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `http://host:port` or `https://host:port`, without credentials.
    pub url: hyper::Uri,
    /// User name and password for `Proxy-Authorization: Basic`.
    pub credentials: Option<(String, Secret)>,
}

/// Bounds the operator may set.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// `limits.body_pool`: bytes for compressed chunk bodies, open, waiting and in flight.
    pub body_pool_bytes: usize,
    /// `limits.in_flight`: requests at once.
    pub in_flight: usize,
    /// `limits.workers`: framing threads; 0 frames on the ring thread.
    pub workers: usize,
    /// `limits.aside`: bytes of refused chunks kept in the state directory.
    pub aside_bytes: u64,
}

/// What the agent tells about itself.
#[derive(Clone, Debug)]
pub struct ObserveConfig {
    /// `observe.listen`: address of `/metrics`, `/healthz` and `/readyz`; `None` when switched off.
    pub listen: Option<SocketAddr>,
    /// `observe.log_format`
    pub log_format: LogFormat,
    /// `observe.log_level`
    pub log_level: tracing::Level,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
