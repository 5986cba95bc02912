//! Blocks are framed by several threads and finish in any order; segments have to be appended in the order of the
//! bytes. Pure.

use std::collections::VecDeque;

use super::framing::Finished;

/// Finished blocks, given back in the order in which they were handed out.
#[derive(Default)]
pub(super) struct InOrder {
    first: u64,
    slots: VecDeque<Option<Box<Finished>>>,
}

impl InOrder {
    /// Reserves the next place and returns its ticket.
    pub(super) fn hand_out(&mut self) -> u64 {
        self.slots.push_back(None);
        self.first + self.slots.len() as u64 - 1
    }

    /// Puts a finished block in its place.
    pub(super) fn put(&mut self, ticket: u64, finished: Box<Finished>) {
        let slot = ticket.checked_sub(self.first).and_then(|at| self.slots.get_mut(usize::try_from(at).ok()?));
        if let Some(slot) = slot {
            *slot = Some(finished);
        }
    }

    /// The next block in order, once it is finished.
    pub(super) fn take(&mut self) -> Option<Box<Finished>> {
        self.slots.front()?.as_ref()?;
        self.first += 1;
        self.slots.pop_front().flatten()
    }

    /// Whether no block is in framing.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
