//! What is said about a chunk: the delivery protocol's headers, and the JSON stored beside a body.
//! The wire format is described in `docs/protocol.md`.

pub mod headers;

use serde::{Deserialize, Serialize};

use crate::types::{ChunkId, Digest, FileId, Span, StreamId};

/// Version of the delivery protocol, sent with every request.
pub const PROTOCOL_VERSION: u32 = 1;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// One RFC 1952 member.
    Gzip,
    /// RFC 8878 frames, one per segment.
    Zstd,
}

impl Encoding {
    /// The `Content-Encoding` value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The extension of a file that holds a body.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Zstd => "zst",
        }
    }
}

/// What the body of a chunk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The lines of the span: events as written, malformed lines wrapped.
    Lines,
    /// One loss record that stands for the span, which could not be delivered.
    Loss,
}

/// A chunk that came out of splitting a larger one after the destination answered 413.
///
/// The parts of one chunk share its sequence number. Their spans tile `span`, and their contents, put together in
/// the order of their spans, have the digest `digest`, which the next chunk of the chain names as its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOf {
    /// Id of the chunk that was split.
    pub id: ChunkId,
    /// Its span.
    pub span: Span,
    /// Its digest.
    pub digest: Digest,
}

/// Everything a receiver is told about a chunk besides its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Idempotency key.
    pub id: ChunkId,
    /// Lines or loss.
    pub kind: Kind,
    /// Cluster the audit log belongs to, as configured.
    pub cluster_id: String,
    /// Service id, as configured; empty where none is.
    pub service_id: String,
    /// Node the agent runs on.
    pub node_id: String,
    /// Stream that `sequence` counts in.
    pub stream: StreamId,
    /// Path of the live file: names the source within the stream.
    pub source: String,
    /// Path the bytes were read from (a rotated file keeps its source).
    pub path: String,
    /// Identity of the file the bytes were read from.
    pub file: FileId,
    /// Bytes of the file this chunk stands for.
    pub span: Span,
    /// Position in the chain of this source: 1, 2, 3 …
    pub sequence: u64,
    /// Digest of the content of chunk `sequence - 1`; [`Digest::ZERO`] for the first.
    pub previous: Digest,
    /// Digest of this chunk's content (the decompressed body).
    pub digest: Digest,
    /// Decompressed bytes of the body.
    pub content_bytes: u64,
    /// Events in the body: lines that are one JSON object each, as written.
    pub events: u64,
    /// Records in the body that wrap malformed bytes.
    pub malformed: u64,
    /// auditID of the first event, cut at 256 bytes; none where no event has one.
    pub first_audit_id: Option<String>,
    /// auditID of the last event.
    pub last_audit_id: Option<String>,
    /// Set when this is a part of a chunk the destination found too large.
    pub part_of: Option<PartOf>,
}
