//! Reading through io_uring into registered buffers. The only module that knows tokio-uring, which is hardly
//! maintained; everything above it works the same on pread.

use std::fs::File;
use std::io;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufPool};

use crate::limits::{RING_BUFFER_BYTES, RING_BUFFERS};

/// Entries of the submission queue: the buffers bound the reads in flight, closing files takes a few more.
const RING_ENTRIES: u32 = 16;

/// The event loop of the ring thread: with io_uring or without.
pub enum Runtime {
    /// tokio on top of an io_uring.
    Uring(tokio_uring::Runtime),
    /// tokio alone.
    Plain(tokio::runtime::Runtime, tokio::task::LocalSet),
}

impl Runtime {
    /// A runtime with an io_uring.
    ///
    /// # Errors
    /// Where the kernel refuses one: ENOSYS before 5.1, EPERM under a container runtime's default seccomp profile or
    /// `kernel.io_uring_disabled`, ENOMEM when the locked-memory limit is too low.
    pub fn with_uring() -> io::Result<Self> {
        let mut ring = tokio_uring::uring_builder();
        ring.dontfork();
        tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES).uring_builder(&ring)).map(Self::Uring)
    }

    /// A runtime without one.
    ///
    /// # Errors
    /// Where the process is out of file descriptors.
    pub fn plain() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self::Plain(runtime, tokio::task::LocalSet::new()))
    }

    /// Runs a future to its end on this thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Plain(runtime, local) => local.block_on(runtime, future),
        }
    }
}

/// A pool of read buffers registered with the runtime's ring.
#[derive(Clone)]
pub struct Ring {
    buffers: FixedBufPool<Vec<u8>>,
}

/// An open file that can be read through the ring.
pub struct RingFile(tokio_uring::fs::File);

impl RingFile {
    /// A second handle to an open file, for reads.
    ///
    /// # Errors
    /// Where the process is out of file descriptors.
    pub fn new(file: &File) -> io::Result<Self> {
        file.try_clone().map(|clone| Self(tokio_uring::fs::File::from_std(clone)))
    }
}

impl Ring {
    /// Registers the read buffers with the ring of the current [`Runtime::Uring`].
    ///
    /// # Errors
    /// ENOMEM when the locked-memory limit is too low.
    pub fn register() -> io::Result<Self> {
        let buffers = FixedBufPool::new((0..RING_BUFFERS).map(|_| Vec::with_capacity(RING_BUFFER_BYTES)));
        buffers.register()?;
        Ok(Self { buffers })
    }

    /// A free buffer, if there is one. Nobody waits for one: a buffer comes back when the read that has it is polled, and
    /// who waits may be in the way of that.
    pub fn buffer(&self) -> Option<FixedBuf> {
        self.buffers.try_next(RING_BUFFER_BYTES)
    }
}

impl RingFile {
    /// Reads at most `max` bytes at `offset` through `buffer` and appends them to `into`.
    pub async fn read_at(
        &self,
        buffer: FixedBuf,
        offset: u64,
        max: usize,
        mut into: Vec<u8>,
    ) -> (Vec<u8>, io::Result<usize>) {
        let (result, slice) = self.0.read_fixed_at(buffer.slice(..max.min(RING_BUFFER_BYTES)), offset).await;
        if let Ok(read) = result {
            // The bytes are in the cache of this core: the copy that makes the block a plain buffer, which may move to
            // another thread, costs little.
            into.extend_from_slice(&slice[..read]);
        }
        (into, result)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    // Fails if a read through the ring gives other bytes than are in the file, or forgets to give its buffer back.
    #[test]
    fn reads_what_is_there() {
        let Ok(runtime) = Runtime::with_uring() else {
            println!("skipped: this kernel refuses io_uring");
            return;
        };
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
        file.write_all(&content).unwrap();
        runtime.block_on(async {
            let (ring, ring_file) = (Ring::register().unwrap(), RingFile::new(&file).unwrap());
            let mut bytes = Vec::new();
            loop {
                let buffer = ring.buffer().unwrap();
                let (grown, read) = ring_file.read_at(buffer, bytes.len() as u64, usize::MAX, bytes).await;
                bytes = grown;
                if read.unwrap() == 0 {
                    break;
                }
            }
            assert!(bytes == content);
        });
    }
}
