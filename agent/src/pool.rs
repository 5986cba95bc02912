//! Memory for compressed bodies, allocated once.
//!
//! The pool is a lock-free free list. What is taken comes back by itself when it is dropped, on whichever thread
//! that happens. Nothing here waits: an empty pool says so, and the pipeline reads no further until something is back.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits::PAGE_BYTES;

/// A bounded lock-free list of free items.
#[derive(Debug)]
struct FreeList<T> {
    give: Sender<T>,
    take: Receiver<T>,
    capacity: usize,
}

impl<T> FreeList<T> {
    fn new(capacity: usize, mut make: impl FnMut() -> T) -> Self {
        let (give, take) = bounded(capacity);
        // The channel has room for exactly `capacity` items and both its ends live as long as the list, so neither
        // here nor when an item comes back can giving fail.
        (0..capacity).for_each(|_| drop(give.try_send(make())));
        Self { give, take, capacity }
    }

    fn take(&self) -> Option<T> {
        self.take.try_recv().ok()
    }

    fn give(&self, item: T) {
        drop(self.give.try_send(item));
    }
}

/// The pages in which compressed chunk bodies live: open, waiting and in flight. Clones share the pages.
#[derive(Clone, Debug)]
pub struct PagePool(Arc<Pages>);

#[derive(Debug)]
struct Pages {
    free: FreeList<BytesMut>,
    overflow: AtomicU64,
}

impl PagePool {
    /// A pool of `pages` pages of [`PAGE_BYTES`] bytes. They are cut from one zeroed allocation, which is large enough to
    /// come from the kernel as it is: pages never needed are never resident. (Zeroed one by one, the allocator writes
    /// to each of them.)
    pub fn new(pages: usize) -> Self {
        let mut memory = BytesMut::zeroed(pages * PAGE_BYTES);
        let free = FreeList::new(pages, || memory.split_to(PAGE_BYTES));
        Self(Arc::new(Pages { free, overflow: AtomicU64::new(0) }))
    }

    /// Sets `pages` pages aside, or none at all: `None` where fewer are free.
    pub fn reserve(&self, pages: usize) -> Option<Reservation> {
        if self.available() < pages {
            return None;
        }
        // Where another thread was faster, what was taken so far goes back when `taken` is dropped.
        let taken: Vec<Page> = std::iter::from_fn(|| self.take()).take(pages).collect();
        (taken.len() == pages).then(|| Reservation { pool: self.clone(), pages: taken })
    }

    /// Free pages, those in reservations not among them.
    pub fn available(&self) -> usize {
        self.0.free.take.len()
    }

    /// Pages in the pool, free or not.
    pub fn capacity(&self) -> usize {
        self.0.free.capacity
    }

    /// Pages allocated since the start because a reservation was too small and the pool empty. Such a page is freed
    /// after use.
    pub fn overflow_count(&self) -> u64 {
        self.0.overflow.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<Page> {
        let bytes = self.0.free.take()?;
        Some(Page { bytes, len: 0, home: Some(self.clone()) })
    }

    fn overflow(&self) -> Page {
        self.0.overflow.fetch_add(1, Ordering::Relaxed);
        Page { bytes: BytesMut::zeroed(PAGE_BYTES), len: 0, home: None }
    }
}

/// Pages set aside for one block before it is handed to a worker. Dropping it gives back what was not taken.
#[derive(Debug)]
pub struct Reservation {
    pool: PagePool,
    pages: Vec<Page>,
}

impl Reservation {
    /// The next page. When the reservation is used up (malformed input can grow), any free page of the pool, and when
    /// there is none a page outside of it.
    pub fn take(&mut self) -> Page {
        self.pages.pop().unwrap_or_else(|| self.pool.take().unwrap_or_else(|| self.pool.overflow()))
    }

    /// Pages left.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no page is left.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

/// [`PAGE_BYTES`] bytes of memory, filled from the front; derefs to the filled part.
#[derive(Debug)]
pub struct Page {
    bytes: BytesMut,
    len: usize,
    /// Where the page goes when it is dropped; none for one that was allocated beyond the pool.
    home: Option<PagePool>,
}

impl Page {
    /// Appends as much of `bytes` as fits and returns how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.spare());
        self.spare_mut()[..taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// Bytes that still fit.
    pub fn spare(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// The part not filled yet, with bytes of earlier uses. [`Page::advance`] makes what was written to it count.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Counts the first `written` bytes of the spare part as filled; more than there is fills the page.
    pub fn advance(&mut self, written: usize) {
        self.len += written.min(self.spare());
    }

    /// The filled part as shared bytes. The page goes back to its pool when the last clone is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(pool) = &self.home {
            pool.0.free.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a page in flight is given out again, or does not come back when the last clone of its bytes is gone.
    #[test]
    fn a_page_returns_when_its_last_clone_is_dropped() {
        let pool = PagePool::new(2);
        let mut reservation = pool.reserve(1).unwrap();
        let mut page = reservation.take();
        assert_eq!(page.push(b"body"), 4);
        let bytes = page.freeze();
        let clone = bytes.clone();
        drop((bytes, reservation));
        assert_eq!((pool.available(), &clone[..]), (1, &b"body"[..]));
        drop(clone);
        assert_eq!(pool.available(), 2);
    }

    // Fails if a reservation is granted in part, or keeps what it did not use.
    #[test]
    fn a_reservation_is_all_or_nothing_and_gives_back_the_rest() {
        let pool = PagePool::new(3);
        let mut first = pool.reserve(2).unwrap();
        assert!(pool.reserve(2).is_none());
        assert_eq!(pool.available(), 1);
        let used = first.take();
        drop(first);
        assert_eq!(pool.available(), 2);
        drop(used);
        assert_eq!((pool.available(), pool.overflow_count()), (3, 0));
    }

    // Fails if an exhausted reservation panics, goes uncounted, or makes the pool grow for good.
    #[test]
    fn a_page_beyond_the_pool_is_counted_and_freed() {
        let pool = PagePool::new(1);
        let mut reservation = pool.reserve(1).unwrap();
        let pages = [reservation.take(), reservation.take(), reservation.take()];
        assert_eq!(pool.overflow_count(), 2);
        drop(pages);
        assert_eq!((pool.available(), pool.capacity()), (1, 1));
    }

    // Fails if a page takes more than it has room for, or starts its next life with a length.
    #[test]
    fn a_page_is_filled_to_its_end_and_reused_empty() {
        let pool = PagePool::new(1);
        let mut page = pool.reserve(1).unwrap().take();
        page.advance(PAGE_BYTES - 3);
        assert_eq!(page.push(b"12345"), 3);
        assert_eq!((page.len(), page.spare(), page.push(b"x")), (PAGE_BYTES, 0, 0));
        drop(page);
        assert!(pool.reserve(1).unwrap().take().is_empty());
    }
}
