//! Turns blocks of an audit log into the content that is delivered: events as they are, everything else wrapped.
//!
//! What a line becomes depends on its bytes and its offset alone, never on how the file was cut into blocks: the same
//! range framed again after a restart gives the same content. [`crate::record::restore`] turns content back into the
//! bytes of the file.

mod json;
mod salvage;

use std::ops::Range;

use json::{Checker, Head};
pub use salvage::leading_nuls;
use salvage::{Part, salvage};

use crate::limits::MANIFEST_AUDIT_ID_BYTES_MAX;
use crate::record::{self, Piece, Reason};

/// What a block consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Whole lines. The last one has no newline only where the file ends there and will not grow any more.
    Lines,
    /// A piece of one line longer than `max_event_bytes`.
    Piece(Piece),
}

/// What is delivered for a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes of the block.
    AsRead,
    /// These bytes: lines, each with its newline.
    Rewritten(Vec<u8>),
}

impl Content {
    /// The bytes to deliver, given the block they were made from.
    pub fn bytes<'a>(&'a self, block: &'a [u8]) -> &'a [u8] {
        match self {
            Self::AsRead => block,
            Self::Rewritten(bytes) => bytes,
        }
    }
}

/// What one event says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its auditID, cut at [`MANIFEST_AUDIT_ID_BYTES_MAX`] bytes. Clients choose it freely.
    pub audit_id: Option<String>,
    /// Its `stageTimestamp` in microseconds since the epoch.
    pub stage_us: Option<u64>,
}

/// A block, framed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// What is delivered.
    pub content: Content,
    /// Events in it.
    pub events: u64,
    /// Malformed records in it.
    pub malformed: u64,
    /// Bytes of the file that these records wrap.
    pub malformed_bytes: u64,
    /// The first event of the block.
    pub first: Option<Mark>,
    /// The last event of the block; lines are only almost in the order of their timestamps.
    pub last: Option<Mark>,
}

/// Frames blocks; keeps the memory it needs from one block to the next.
pub struct Framer {
    checker: Checker,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// A framer without any scratch memory yet.
    pub fn new() -> Self {
        Self { checker: Checker::new() }
    }

    /// Frames the bytes of a file from offset `start` on.
    pub fn frame(&mut self, bytes: &[u8], start: u64, shape: Shape) -> Framed {
        let mut out = Output::new(bytes, start);
        match shape {
            Shape::Lines => self.lines(&mut out),
            Shape::Piece(piece) => frame_piece(&mut out, piece),
        }
        out.finish()
    }

    fn lines(&mut self, out: &mut Output<'_>) {
        let mut from = 0;
        for newline in memchr::memchr_iter(b'\n', out.block) {
            self.line(out, from..newline + 1);
            from = newline + 1;
        }
        if from < out.block.len() {
            self.line(out, from..out.block.len());
        }
    }

    fn line(&mut self, out: &mut Output<'_>, range: Range<usize>) {
        let line = &out.block[range.clone()];
        if !record::is_malformed_record(line) && self.checker.is_object(line) {
            return out.event(range);
        }
        let is_terminated = line.ends_with(b"\n");
        for (part, kind) in salvage(line, true) {
            let ends_file = part.end == line.len() && !is_terminated;
            let part = range.start + part.start..range.start + part.end;
            match kind {
                Part::Event => out.event(part),
                Part::Wrapped(Reason::NotJson | Reason::Torn | Reason::InvalidUtf8) if ends_file => {
                    out.wrapped(part, Reason::Unterminated, None);
                }
                Part::Wrapped(reason) => out.wrapped(part, reason, None),
            }
        }
    }
}

/// Wraps a piece of a long line. Only in the last one there can be an event: behind a hole or a torn event.
fn frame_piece(out: &mut Output<'_>, piece: Piece) {
    let block = out.block;
    let whole = || vec![(0..block.len(), Part::Wrapped(Reason::TooLong))];
    let parts = if piece.last { salvage(block, piece.first) } else { whole() };
    for (part, kind) in parts {
        match kind {
            Part::Event => out.event(part),
            Part::Wrapped(reason @ (Reason::Nul | Reason::Glued)) => out.wrapped(part, reason, Some(piece)),
            Part::Wrapped(_) if leading_nuls(&block[part.clone()]) == part.len() => {
                out.wrapped(part, Reason::Nul, Some(piece));
            }
            Part::Wrapped(_) => out.wrapped(part, Reason::TooLong, Some(piece)),
        }
    }
}

/// The content as it comes about: nothing is copied before the first byte that is not delivered as it is.
struct Output<'a> {
    block: &'a [u8],
    start: u64,
    /// What stands for the first `done` bytes of the block, once something had to be rewritten.
    rewritten: Option<Vec<u8>>,
    done: usize,
    events: u64,
    malformed: u64,
    malformed_bytes: u64,
    first: Option<Range<usize>>,
    last: Option<Range<usize>>,
}

impl<'a> Output<'a> {
    fn new(block: &'a [u8], start: u64) -> Self {
        let (events, malformed, malformed_bytes) = (0, 0, 0);
        Self { block, start, rewritten: None, done: 0, events, malformed, malformed_bytes, first: None, last: None }
    }

    fn event(&mut self, range: Range<usize>) {
        self.events += 1;
        if !self.block[range.clone()].ends_with(b"\n") {
            self.rewrite_from(range.end, range.end).push(b'\n');
        }
        self.first.get_or_insert_with(|| range.clone());
        self.last = Some(range);
    }

    fn wrapped(&mut self, range: Range<usize>, reason: Reason, piece: Option<Piece>) {
        self.malformed += 1;
        self.malformed_bytes += range.len() as u64;
        let (start, bytes) = (self.start + range.start as u64, &self.block[range.clone()]);
        record::wrap(self.rewrite_from(range.start, range.end), reason, start, bytes, piece);
    }

    /// Copies what is delivered as it is up to `from`. The caller appends what stands for the bytes up to `to`.
    fn rewrite_from(&mut self, from: usize, to: usize) -> &mut Vec<u8> {
        let rewritten = self.rewritten.get_or_insert_with(|| Vec::with_capacity(self.block.len() + 256));
        rewritten.extend_from_slice(&self.block[self.done..from]);
        self.done = to;
        rewritten
    }

    fn finish(mut self) -> Framed {
        let content = match self.rewritten.take() {
            None => Content::AsRead,
            Some(mut bytes) => {
                bytes.extend_from_slice(&self.block[self.done..]);
                Content::Rewritten(bytes)
            }
        };
        let mark = |range: Range<usize>| Mark::of(&self.block[range]);
        let (events, malformed, malformed_bytes) = (self.events, self.malformed, self.malformed_bytes);
        Framed { content, events, malformed, malformed_bytes, first: self.first.map(mark), last: self.last.map(mark) }
    }
}

impl Mark {
    fn of(event: &[u8]) -> Self {
        let head = Head::of(event);
        let cut = |id: &str| id[..id.floor_char_boundary(MANIFEST_AUDIT_ID_BYTES_MAX)].to_owned();
        Self { audit_id: head.audit_id.as_deref().map(cut), stage_us: head.stage_us() }
    }
}

#[cfg(test)]
mod tests;
