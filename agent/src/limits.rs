//! Every fixed limit of the agent in one place. Sizes and durations carry their unit in the name.
//!
//! What an operator may change is in [`crate::config`]; what stands here is not configurable, because
//! another value would not help anyone and would have to be tested.

/// Bytes one read hands to one framing job at most, when no line is longer.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// Bytes of one registered io_uring read buffer.
pub const RING_BUFFER_BYTES: usize = 256 * 1024;

/// Registered io_uring read buffers (one per read in flight).
pub const RING_BUFFERS: usize = 4;

/// Bytes of one page of the body pool, in which compressed chunk bodies live.
pub const PAGE_BYTES: usize = 64 * 1024;

/// Blocks that exist at most, for so many framing threads: one in work and one waiting for each, and two being read.
pub fn blocks(workers: usize) -> usize {
    workers * 2 + 2
}

/// Lines longer than this are checked with a streaming parser instead of a simd-json tape, whose memory
/// can reach sixteen times the line.
pub const TAPE_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a file's first line that its fingerprint covers.
pub const FINGERPRINT_BYTES_MAX: usize = 1024;

/// Attempts to find an event behind a torn one in one line; what is left after them is delivered wrapped.
pub const SALVAGE_ATTEMPTS_MAX: usize = 64;

/// Bytes of an auditID carried in a manifest; clients choose auditIDs freely.
pub const MANIFEST_AUDIT_ID_BYTES_MAX: usize = 256;

/// Files of one source (live and rotated) that are tracked.
pub const FILES_PER_SOURCE_MAX: usize = 4096;

/// Files of one source that are held open.
pub const OPEN_FILES_PER_SOURCE_MAX: usize = 128;

/// Sources (live paths) one agent follows.
pub const SOURCES_MAX: usize = 64;

/// Files that `ship` has under way at once.
pub const ONCE_FILES_MAX: usize = 8;

/// Bytes of an HTTP response body that are read.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an answer's text that are quoted in a reason.
pub const REASON_TEXT_BYTES_MAX: usize = 200;

/// Longest `Retry-After` that is honoured, in seconds.
pub const RETRY_AFTER_SECONDS_MAX: u64 = 3600;

/// Bytes of a token file; a longer one is not a bearer token.
pub const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Seconds between TCP keep-alives, and between HTTP/2 pings while a request waits: a connection that died silently
/// is noticed.
pub const KEEP_ALIVE_SECONDS: u64 = 15;

/// Bytes of the checkpoint file that are read back.
pub const CHECKPOINT_BYTES_MAX: u64 = 64 * 1024 * 1024;
