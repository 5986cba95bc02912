//! Frame: handing blocks over as far as the body pool allows, and putting what comes back in order into chunks.

use tokio::time::Instant;

use super::framing::{Finished, Job};
use super::{Pipeline, report};
use crate::chunk::{CloseReason, OpenChunk, Purpose};
use crate::compress::worst_case_pages;
use crate::disk::Disk;
use crate::frame::{Content, Shape};
use crate::upload::Destination;

impl<D: Disk, T: Destination> Pipeline<D, T> {
    /// Hands the blocks that are ready to framing, as far as its channels hold them and the pool has pages for what they
    /// may become.
    pub(super) fn hand_to_framing(&mut self, index: usize, now: Instant) {
        while self.blocks_in_framing < self.buffer_count()
            && let Some((_, purpose, block)) = self.sources[index].ready.front()
        {
            let pages = worst_case_pages(block.bytes.len());
            let again = *purpose != Purpose::Next;
            let pages = match self.pool.reserve(pages) {
                Some(pages) => pages,
                None if !self.make_room(again, now) => return,
                // Nothing is under way that could give pages back, so the pool is too small for this very block:
                // pages outside of it are better than standing still.
                None => match self.pool.reserve(0) {
                    Some(pages) => pages,
                    None => return,
                },
            };
            let source = &mut self.sources[index];
            let Some((file, purpose, block)) = source.ready.pop_front() else { return };
            let ticket = source.framing.hand_out();
            self.blocks_in_framing += 1;
            self.framing.submit(Job { source: index, ticket, file, purpose, block, pages });
        }
    }

    /// The pool is used up. While chunks are on their way, waiting for them is right; else the largest open chunk is
    /// closed. Says whether there is nothing at all that could give pages back.
    fn make_room(&mut self, again: bool, now: Instant) -> bool {
        if self.blocks_in_framing > 0 || !self.outbox.is_empty() || !self.uploads.is_empty() {
            return false;
        }
        let open = self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.open.as_ref()?)));
        let largest = open
            .filter(|(_, open)| open.purpose == Purpose::Next)
            .max_by_key(|(_, open)| open.body.body_bytes())
            .map(|(index, _)| index);
        match largest {
            Some(index) => {
                self.close(index, CloseReason::Memory, now);
                false
            }
            None => again || self.sources.iter().all(|source| source.open.is_none()),
        }
    }

    /// Takes finished blocks, appends them to their chunks in order, and closes chunks that have become large enough.
    pub(super) fn collect_framed(&mut self, now: Instant) {
        while let Some(finished) = self.framing.try_next() {
            let index = finished.source;
            self.blocks_in_framing -= 1;
            let ticket = finished.ticket;
            self.sources[index].framing.put(ticket, finished);
            while let Some(finished) = self.sources[index].framing.take() {
                self.append(index, *finished, now);
            }
        }
    }

    fn append(&mut self, index: usize, mut finished: Finished, now: Instant) {
        let (file, purpose, span) = (finished.file, finished.purpose, finished.block.span);
        if let Purpose::Again { sequence, .. } = purpose
            && self.sources[index].ledger.is_given_up(sequence, span)
        {
            // It was in framing when the rest of its range turned out to be lost.
            return self.take_back(finished.block.bytes);
        }
        if self.sources[index].open.as_ref().is_some_and(|open| open.part_would_outgrow(span, purpose)) {
            self.close(index, CloseReason::Decided, now);
        }
        if self.sources[index].open.as_ref().is_some_and(|open| !open.continues_with(file, span, purpose)) {
            self.close(index, CloseReason::FileEnd, now);
        }
        let source = &mut self.sources[index];
        report::framed(&source.name, &finished.framed);
        self.progress.framed(finished.framed.events);
        let content = std::mem::replace(&mut finished.framed.content, Content::AsRead);
        let bytes = content.bytes(&finished.block.bytes);
        let unterminated = finished.block.shape == Shape::Lines && !finished.block.bytes.ends_with(b"\n");
        let encoding = self.config.chunk.encoding;
        let open = source.open.get_or_insert_with(|| OpenChunk::new(file, span.start, purpose, encoding));
        open.append(span, &mut finished.framed, bytes, finished.segment);
        self.take_back(finished.block.bytes);
        self.close_if_full(index, now);
        if unterminated && self.sources[index].open.as_ref().is_some_and(|open| open.purpose == Purpose::Next) {
            // That a newline was added to the last event shows in the chunk's span alone.
            self.close(index, CloseReason::FileEnd, now);
        }
    }
}
