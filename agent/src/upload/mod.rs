//! Delivering chunks. [`Destination`] is one of the two seams of the agent (the other is [`crate::disk::Disk`]).

pub mod deliver;
pub mod http;
pub mod proxy;
pub mod retry;
pub mod tls;
pub mod token;

use std::time::Duration;

use bytes::Bytes;

use crate::manifest::{Encoding, Manifest};

/// A chunk ready to be sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What is said about it.
    pub manifest: Manifest,
    /// How the body is compressed.
    pub encoding: Encoding,
    /// The body, in pieces that share the body pool's pages. Cloning is cheap.
    pub body: Vec<Bytes>,
}

impl Delivery {
    /// Bytes of the body.
    pub fn body_bytes(&self) -> u64 {
        self.body.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// What one attempt to deliver a chunk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination has it (2xx).
    Delivered,
    /// The destination takes no body of this size (413).
    TooLarge,
    /// The destination will never take this chunk (400, 422 and their like).
    Refused {
        /// Why, for the log and the set-aside manifest. Holds neither token nor audit content.
        reason: String,
    },
    /// The destination does not accept our credentials (401, 403), or takes no chunks of ours at this address
    /// (redirects, 404, 405, 415 and the like): retried slowly, the operator must act.
    Unauthorized {
        /// Why.
        reason: String,
    },
    /// Anything that may pass: no connection, time-out, 429, 5xx.
    Retry {
        /// Why.
        reason: String,
        /// What `Retry-After` asked for.
        after: Option<Duration>,
    },
}

/// Why a destination cannot be set up as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("destination.{setting}: {problem}")]
pub struct UploadSetupError {
    /// The setting at fault, without `destination.`.
    pub setting: &'static str,
    /// What is wrong. Holds no secret.
    pub problem: String,
}

impl UploadSetupError {
    /// A problem with `destination.<setting>`.
    fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}

/// Where chunks go.
#[allow(async_fn_in_trait)] // One thread runs the pipeline; no `Send` bound is wanted.
pub trait Destination: 'static {
    /// Makes one attempt. Never waits longer than the configured time-outs.
    async fn send(&self, delivery: &Delivery) -> Outcome;
}
