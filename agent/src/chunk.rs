//! Segments, in order, to chunks. Pure.

use crate::compress::Segment;
use crate::frame::Framed;
use crate::ledger::{FileKey, Tally};
use crate::types::{Digest, Span};

/// Why a chunk was closed; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// `chunk.offload_amount` raw bytes.
    Amount,
    /// `chunk.offload_after`.
    Age,
    /// Its compressed body has its share of the pool.
    BodyLimit,
    /// The pool has no room for another block.
    Memory,
    /// The next bytes belong to another file, or do not follow.
    FileEnd,
    /// The agent is stopping, or `ship` has reached the end.
    Shutdown,
    /// The range was fixed earlier.
    Decided,
}

impl CloseReason {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amount => "amount",
            Self::Age => "age",
            Self::BodyLimit => "body_limit",
            Self::Memory => "memory",
            Self::FileEnd => "file_end",
            Self::Shutdown => "shutdown",
            Self::Decided => "decided",
        }
    }
}

/// What a chunk is being built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The next chunk of the chain: its end is open.
    Next,
    /// A range that has been decided: the whole chunk, or part of a chunk that is being split.
    Again {
        /// Sequence number of the decided chunk.
        sequence: u64,
        /// The range that is read again.
        span: Span,
        /// Where set, the range is cut into parts of about so many raw bytes; else it stays whole.
        part_bytes: Option<u64>,
    },
}

/// A chunk that takes further segments.
#[derive(Debug)]
pub struct OpenChunk {
    /// File of the range.
    pub file: FileKey,
    /// Range so far.
    pub span: Span,
    /// What it is for.
    pub purpose: Purpose,
    /// Compressed bytes so far.
    pub body_bytes: u64,
    /// auditID of the first event.
    pub first_audit_id: Option<String>,
    /// auditID of the last event.
    pub last_audit_id: Option<String>,
    /// `stageTimestamp` of the first event that has one, in microseconds since the epoch.
    pub oldest_event_us: Option<i64>,
    /// Segments so far.
    pub segments: Vec<Segment>,
    content: blake3::Hasher,
    content_bytes: u64,
    events: u64,
    malformed: u64,
}

impl OpenChunk {
    /// An empty chunk that begins at `start`.
    pub fn new(file: FileKey, start: u64, purpose: Purpose) -> Self {
        Self {
            file,
            span: Span::new(start, start),
            purpose,
            body_bytes: 0,
            first_audit_id: None,
            last_audit_id: None,
            oldest_event_us: None,
            segments: Vec::new(),
            content: blake3::Hasher::new(),
            content_bytes: 0,
            events: 0,
            malformed: 0,
        }
    }

    /// Whether a segment continues this chunk.
    pub fn continues_with(&self, file: FileKey, span: Span, purpose: Purpose) -> bool {
        self.file == file && self.span.end == span.start && self.purpose == purpose
    }

    /// Appends a segment whose content is `content`.
    pub fn append(&mut self, span: Span, framed: &mut Framed, content: &[u8], segment: Segment) {
        self.span.end = span.end;
        self.content.update(content);
        self.content_bytes += content.len() as u64;
        self.body_bytes += segment.body_bytes;
        self.events += framed.events;
        self.malformed += framed.malformed;
        self.segments.push(segment);
        if self.first_audit_id.is_none() {
            self.first_audit_id = framed.first_audit_id.take();
        }
        if framed.last_audit_id.is_some() {
            self.last_audit_id = framed.last_audit_id.take();
        }
        self.oldest_event_us = self.oldest_event_us.or(framed.first_event_us);
    }

    /// What the content has come to.
    pub fn tally(&self) -> Tally {
        Tally {
            digest: Digest(*self.content.finalize().as_bytes()),
            content_bytes: self.content_bytes,
            events: self.events,
            malformed: self.malformed,
        }
    }
}
