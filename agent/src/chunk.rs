//! Segments, in order, to chunks. Pure.

use crate::compress::{BodyBuilder, Segment};
use crate::frame::Framed;
use crate::ledger::{FileKey, Tally};
use crate::manifest::Encoding;
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
    /// The next bytes belong to another file, or do not follow, or `ship` has reached the end.
    FileEnd,
    /// The agent is stopping.
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
    /// auditID of the first event.
    pub first_audit_id: Option<String>,
    /// auditID of the last event.
    pub last_audit_id: Option<String>,
    /// `stageTimestamp` of the first event that has one, in microseconds since the epoch.
    pub oldest_event_us: Option<u64>,
    /// The compressed body so far.
    pub body: BodyBuilder,
    content: blake3::Hasher,
    events: u64,
    malformed: u64,
}

impl OpenChunk {
    /// An empty chunk that begins at `start`.
    pub fn new(file: FileKey, start: u64, purpose: Purpose, encoding: Encoding) -> Self {
        Self {
            file,
            span: Span::new(start, start),
            purpose,
            first_audit_id: None,
            last_audit_id: None,
            oldest_event_us: None,
            body: BodyBuilder::new(encoding),
            content: blake3::Hasher::new(),
            events: 0,
            malformed: 0,
        }
    }

    /// Whether a segment continues this chunk.
    pub fn continues_with(&self, file: FileKey, span: Span, purpose: Purpose) -> bool {
        self.file == file && self.span.end == span.start && self.purpose == purpose
    }

    /// Whether a segment would make a part larger than parts are to be: a chunk is only divided if parts end before.
    pub fn part_would_outgrow(&self, span: Span, purpose: Purpose) -> bool {
        let Purpose::Again { part_bytes: Some(bytes), .. } = purpose else { return false };
        self.purpose == purpose && self.span.len() + span.len() > bytes
    }

    /// Whether this is the whole of a range that was to be divided: then it cannot be.
    pub fn is_indivisible(&self) -> bool {
        matches!(self.purpose, Purpose::Again { span, part_bytes: Some(_), .. } if span == self.span)
    }

    /// Appends a segment whose content is `content`.
    pub fn append(&mut self, span: Span, framed: &mut Framed, content: &[u8], segment: Segment) {
        self.span.end = span.end;
        self.content.update(content);
        self.events += framed.events;
        self.malformed += framed.malformed;
        self.body.push(segment);
        if let Some(first) = framed.first.take() {
            self.oldest_event_us = self.oldest_event_us.or(first.stage_us);
            self.first_audit_id = self.first_audit_id.take().or(first.audit_id);
        }
        if let Some(last) = framed.last.take() {
            self.last_audit_id = last.audit_id.or(self.last_audit_id.take());
        }
    }

    /// What the content has come to.
    pub fn tally(&self) -> Tally {
        Tally {
            digest: Digest(*self.content.finalize().as_bytes()),
            content_bytes: self.body.content_bytes(),
            events: self.events,
            malformed: self.malformed,
        }
    }
}
