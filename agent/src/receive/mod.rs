//! The reference receiver of the delivery protocol (`docs/protocol.md`), and the offline check of what it stored.

pub mod archive;
pub mod body;
mod handler;
pub mod index;
pub mod layout;
mod server;
pub mod store;
mod tls;
pub mod verify;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use server::Receiver;

use crate::config::Secret;

/// Bytes of a body accepted unless told otherwise. The agent's default chunk is 50 MB before compression.
pub const BODY_BYTES_MAX_DEFAULT: u64 = 64_000_000;

/// What a receiver is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The archive's folder.
    pub directory: PathBuf,
    /// Bearer token that senders must show; `None` asks for none.
    pub token: Option<Secret>,
    /// Serve TLS.
    pub tls: Option<TlsFiles>,
    /// Bytes of a compressed body; a larger one is answered 413.
    pub body_bytes_max: u64,
    /// Connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Patience with slow senders.
    pub timeouts: Timeouts,
}

impl Options {
    /// Options with the default limits and neither token nor TLS.
    pub fn new(listen: SocketAddr, directory: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            directory: directory.into(),
            token: None,
            tls: None,
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            connections_max: 256,
            timeouts: Timeouts::default(),
        }
    }
}

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain, the server's first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Senders must show a certificate signed by one of these.
    pub client_ca: Option<PathBuf>,
}

/// Patience with slow senders.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a TLS handshake, for the headers of a request, and for an HTTP/1.1 connection without one. Longer than the
    /// 90 s after which the agent closes an idle connection, so that it does not send into one just closed.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// For a whole body.
    pub body_total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(100),
            body_idle: Duration::from_secs(30),
            body_total: Duration::from_secs(300),
        }
    }
}

/// Why a receiver does not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The operator has to give something else.
    #[error("{0}")]
    Options(String),
    /// The machine does not let us.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        error: io::Error,
    },
}
