//! Chunk: closing chunks, deciding their identity, and reporting what is lost in chunks of their own.

use tokio::time::Instant;

use super::delivery::Outgoing;
use super::framing::give_up;
use super::source::{Again, LostRange, Source};
use super::{Mode, Pipeline, report};
use crate::chunk::{CloseReason, OpenChunk, Purpose};
use crate::compress::{BodyBuilder, Compressor, worst_case_pages};
use crate::disk::Disk;
use crate::ledger::{Entry, FileKey, Part, Proposal, State, Tally};
use crate::manifest::{Kind, Manifest, PartOf};
use crate::record::{Loss, LossReason};
use crate::types::{ChunkId, Digest, Span};
use crate::upload::{Delivery, Destination};

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// Closes the open chunk of a source if it has reached one of its limits.
    pub(super) fn close_if_full(&mut self, index: usize, now: Instant) {
        let amount = self.config.chunk.offload_amount_bytes;
        let body_max = (self.config.limits.body_pool_bytes / 2) as u64;
        let source = &self.sources[index];
        let Some(open) = &source.open else { return };
        let amount = source.learned_bytes_max.map_or(amount, |learned| learned.min(amount));
        let reason = match open.purpose {
            Purpose::Again { span, .. } if open.span.end >= span.end => CloseReason::Decided,
            Purpose::Again { part_bytes: Some(bytes), .. } if open.span.len() >= bytes => CloseReason::Decided,
            Purpose::Again { .. } => return,
            Purpose::Next if open.span.len() >= amount => CloseReason::Amount,
            Purpose::Next if open.body.body_bytes() >= body_max => CloseReason::BodyLimit,
            Purpose::Next => return,
        };
        self.close(index, reason, now);
    }

    /// Closes the open chunk of a source that is due, once everything that was there has gone through framing.
    pub(super) fn close_if_due(&mut self, index: usize, now: Instant) {
        let stopping = self.stop_by.is_some();
        let source = &mut self.sources[index];
        let in_work = source.reading || !source.ready.is_empty() || !source.framing.is_empty();
        let all_read = stopping || source.queue.is_empty() || source.drained || source.is_stuck();
        if !source.due || in_work || !all_read || !source.again.is_empty() && !stopping {
            return;
        }
        source.due = false;
        if stopping && source.open.as_ref().is_some_and(|open| open.purpose != Purpose::Next) {
            // A range that was decided is sent whole or not at all; the next start reads it again.
            source.open = None;
        } else if source.open.is_some() {
            let reason = match (stopping, &self.mode) {
                (true, _) => CloseReason::Shutdown,
                (false, Mode::Once(_)) if source.queue.is_empty() => CloseReason::FileEnd,
                (false, _) => CloseReason::Age,
            };
            self.close(index, reason, now);
        }
        let source = &mut self.sources[index];
        source.due = stopping && !source.is_settled();
        source.oldest_unsent = None;
    }

    /// Closes the open chunk: fixes its identity and puts it where it waits for that to be durable.
    pub(super) fn close(&mut self, index: usize, reason: CloseReason, now: Instant) {
        let source = &mut self.sources[index];
        let Some(open) = source.open.take() else { return };
        let since = source.oldest_unsent.take().unwrap_or(now);
        source.due &= reason != CloseReason::Age;
        report::closed(reason, open.span.len(), open.body.body_bytes(), now.duration_since(since));
        match open.purpose {
            Purpose::Next => self.decide_next(index, open, since, now),
            Purpose::Again { sequence, part_bytes: None, .. } => self.resend(index, sequence, open),
            Purpose::Again { sequence, part_bytes: Some(_), .. } => self.decide_part(index, sequence, open, now),
        }
    }

    fn decide_next(&mut self, index: usize, open: OpenChunk, since: Instant, now: Instant) {
        let source = &mut self.sources[index];
        let proposal =
            Proposal { kind: Kind::Lines, file: open.file, span: open.span, tally: open.tally(), loss: None };
        let entry = source.ledger.decide(self.stream, &source.name, proposal).clone();
        source.unconfirmed.insert(entry.sequence, since);
        let generation = self.state.changed_now(now);
        let manifest = self.manifest(index, &entry, None, Some(&open));
        self.send(index, entry.sequence, manifest, open, generation);
    }

    /// A range that had been decided has been read again: what was sent, or was to be sent, is sent again.
    fn resend(&mut self, index: usize, sequence: u64, open: OpenChunk) {
        let Some(entry) = self.sources[index].ledger.entry(sequence).cloned() else { return };
        let part = entry.parts.iter().flatten().find(|part| part.span == open.span).cloned();
        let decided = part.as_ref().map_or(entry.tally.digest, |part| part.tally.digest);
        if decided != open.tally().digest {
            let source = &self.sources[index];
            tracing::error!(
                source = source.name, file = source.path_of(open.file), span = %open.span,
                "the file does not hold what it held when this range was first sent; it is sent as it is now"
            );
        }
        let manifest = self.manifest(index, &entry, part.as_ref(), Some(&open));
        self.send(index, sequence, manifest, open, 0);
    }

    fn decide_part(&mut self, index: usize, sequence: u64, open: OpenChunk, now: Instant) {
        let source = &mut self.sources[index];
        let part = source.ledger.decide_part(self.stream, &source.name, sequence, open.span, open.tally());
        let Some((part, entry)) = part.zip(source.ledger.entry(sequence).cloned()) else { return };
        let generation = self.state.changed_now(now);
        let manifest = self.manifest(index, &entry, Some(&part), Some(&open));
        self.send(index, sequence, manifest, open, generation);
    }

    fn send(&mut self, index: usize, sequence: u64, manifest: Manifest, open: OpenChunk, generation: u64) {
        let encoding = self.config.chunk.encoding;
        let (oldest_event_us, indivisible) = (open.oldest_event_us, open.is_indivisible());
        let delivery = Delivery { manifest, encoding, body: open.body.finish() };
        self.outbox.push_back(Outgoing { source: index, sequence, delivery, generation, oldest_event_us, indivisible });
    }

    fn manifest(&self, index: usize, entry: &Entry, part: Option<&Part>, open: Option<&OpenChunk>) -> Manifest {
        let source = &self.sources[index];
        let tally = open.map_or_else(|| part.map_or(entry.tally, |part| part.tally), OpenChunk::tally);
        let loss = part.map_or(entry.loss.is_some(), |part| part.loss.is_some());
        Manifest {
            id: part.map_or(entry.id, |part| part.id),
            kind: if loss { Kind::Loss } else { Kind::Lines },
            cluster_id: self.config.cluster_id.clone(),
            service_id: self.config.service_id.clone(),
            node_id: self.config.node_id.clone(),
            stream: self.stream,
            source: source.name.clone(),
            path: source.path_of(entry.file),
            file: source.id_of(entry.file),
            span: part.map_or(entry.span, |part| part.span),
            sequence: entry.sequence,
            previous: entry.previous,
            digest: tally.digest,
            content_bytes: tally.content_bytes,
            events: tally.events,
            malformed: tally.malformed,
            first_audit_id: open.and_then(|open| open.first_audit_id.clone()),
            last_audit_id: open.and_then(|open| open.last_audit_id.clone()),
            part_of: part.map(|_| PartOf { id: entry.id, span: entry.span, digest: entry.tally.digest }),
        }
    }

    /// Makes a chunk of each range that is lost.
    pub(super) fn report_losses(&mut self, index: usize, now: Instant) {
        // In the chain a loss stands behind everything that was read before it.
        let source = &self.sources[index];
        if source.lost.is_empty() || !source.framing.is_empty() || !source.ready.is_empty() {
            return;
        }
        if source.open.as_ref().is_some_and(|open| open.purpose == Purpose::Next) {
            self.close(index, CloseReason::FileEnd, now);
        }
        for range in std::mem::take(&mut self.sources[index].lost) {
            let loss = self.sources[index].loss_record(&range);
            report::lost(&loss);
            let proposal = Proposal {
                kind: Kind::Loss,
                file: range.file,
                span: range.span,
                tally: loss_tally(&loss),
                loss: Some(loss.clone()),
            };
            let source = &mut self.sources[index];
            let entry = source.ledger.decide(self.stream, &source.name, proposal).clone();
            let generation = self.state.changed_now(now);
            self.send_loss(index, &entry, None, &loss, generation);
        }
    }

    /// A range that had been decided cannot be read any more.
    pub(super) fn give_up_decided(
        &mut self,
        index: usize,
        file: FileKey,
        sequence: u64,
        span: Span,
        reason: LossReason,
        now: Instant,
    ) {
        // What was read of it stays unsent: the record stands for the whole range, but for parts that were decided.
        let source = &mut self.sources[index];
        let span = Span::new(source.ledger.parts_end(sequence, span), span.end);
        source.open.take_if(|open| matches!(open.purpose, Purpose::Again { sequence: of, .. } if of == sequence));
        source
            .ready
            .retain(|(_, purpose, _)| !matches!(purpose, Purpose::Again { sequence: of, .. } if *of == sequence));
        let loss = source.loss_record(&LostRange { file, span, end_known: true, reason });
        report::lost(&loss);
        let part = source.ledger.abandon(sequence, span, loss_tally(&loss), loss.clone());
        let Some((part, entry)) = part.zip(source.ledger.entry(sequence).cloned()) else { return };
        let generation = self.state.changed_now(now);
        self.send_loss(index, &entry, Some(&part), &loss, generation);
    }

    /// Queues the loss records of the checkpoint that have no receipt.
    pub(super) fn resend_losses(&mut self, index: usize) {
        for entry in self.sources[index].ledger.entries.clone() {
            let parts = entry.parts.iter().flatten().filter(|part| part.state == State::Open);
            for (part, loss) in parts.filter_map(|part| Some((part, part.loss.as_ref()?))) {
                self.send_loss(index, &entry, Some(part), loss, 0);
            }
            if let (Some(loss), State::Open) = (&entry.loss, entry.state) {
                self.send_loss(index, &entry, None, loss, 0);
            }
        }
    }

    fn send_loss(&mut self, index: usize, entry: &Entry, part: Option<&Part>, loss: &Loss, generation: u64) {
        let content = loss.to_line();
        let encoding = self.config.chunk.encoding;
        // A loss record is rare and small: one page, outside of the pool if need be.
        let Some(mut pages) = self.pool.reserve(worst_case_pages(content.len())).or_else(|| self.pool.reserve(0))
        else {
            return;
        };
        let compressed = Compressor::new(encoding, self.config.chunk.level)
            .and_then(|mut compressor| compressor.segment(&content, &mut pages));
        let segment = match compressed {
            Ok(segment) => segment,
            Err(error) => give_up(&error),
        };
        let mut body = BodyBuilder::new(encoding);
        body.push(segment);
        let delivery = Delivery { manifest: self.manifest(index, entry, part, None), encoding, body: body.finish() };
        self.outbox.push_back(Outgoing {
            source: index,
            sequence: entry.sequence,
            delivery,
            generation,
            oldest_event_us: None,
            indivisible: true,
        });
    }
}

fn loss_tally(loss: &Loss) -> Tally {
    let content = loss.to_line();
    Tally {
        digest: Digest(*blake3::hash(&content).as_bytes()),
        content_bytes: content.len() as u64,
        events: 0,
        malformed: 0,
    }
}

impl<D: Disk> Source<D> {
    fn loss_record(&self, range: &LostRange) -> Loss {
        Loss {
            reason: range.reason,
            source: self.name.clone(),
            path: self.path_of(range.file),
            file: self.id_of(range.file),
            start: range.span.start,
            end: range.end_known.then_some(range.span.end),
        }
    }

    /// The checkpoint was damaged: says so in the stream, once a file is known.
    pub(super) fn note_state_lost(&mut self) {
        if self.state_lost
            && let Some(&file) = self.ledger.files.keys().next()
        {
            self.lost.push(LostRange { file, span: Span::new(0, 0), end_known: false, reason: LossReason::StateLost });
            self.state_lost = false;
        }
    }

    /// Records that the destination needs a chunk, or a part of one, in smaller parts.
    pub(super) fn split(&mut self, sequence: u64, id: ChunkId, span: Span) {
        let half = (span.len() / 2).max(1);
        self.ledger.split(sequence, id);
        self.learned_bytes_max =
            Some(self.learned_bytes_max.map_or(half, |known| known.min(half)).max(LEARNED_BYTES_MIN));
        let Some(file) = self.ledger.entry(sequence).map(|entry| entry.file) else { return };
        self.again.push_back(Again::new(file, sequence, span, Some(half)));
    }
}

/// However small the bodies are that a destination takes, chunks are not planned smaller than this; larger events than
/// it takes would else make every chunk tiny.
const LEARNED_BYTES_MIN: u64 = 64 * 1024;
