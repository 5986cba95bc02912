//! What memory a configuration comes to. Pure.
//!
//! The data path has fixed pools; the rest is estimated on the high side. With ordinary events (shorter than a block)
//! the agent stays below [`Memory::ordinary_bytes`]. Events of `source.max_event_bytes` may add
//! [`Memory::large_events_bytes`] while they pass, in the worst case: one on its way in every log at once.

use serde::Serialize;

use crate::config::Config;
use crate::limits::{BLOCK_BYTES, PAGE_BYTES, RING_BUFFER_BYTES, RING_BUFFERS, TAPE_LINE_BYTES_MAX};
use crate::manifest::Encoding;

/// Code, event loop, metrics, root certificates, what is known of the files, and the checkpoint while it is written.
const PROCESS_BYTES: usize = 20 << 20;

/// Send and receive buffers of one request, TLS included.
const REQUEST_BYTES: usize = 512 << 10;

/// A framing thread's stack in use, and its scratch for lines that are not large.
const THREAD_BYTES: usize = 2 << 20;

/// Bytes that checking a line takes for each of its bytes, at most.
const TAPE_FACTOR: usize = 17;

/// A buffer that grows beyond its pooled size is doubled; while it is copied, there are the old one and the new.
const GROWTH_FACTOR: usize = 3;

/// Bytes that a wrapped malformed line takes for each of its bytes, at most.
const WRAP_FACTOR: usize = 2;

/// A bound on memory, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// Enough while no event is longer than a block (512 KiB).
    pub ordinary_bytes: usize,
    /// What events of `source.max_event_bytes` may need besides.
    pub large_events_bytes: usize,
    /// What the first figure is made of.
    pub parts: Vec<Part>,
}

/// A part of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// What it is for.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
}

impl Memory {
    /// Both figures together.
    pub(super) fn bytes_max(&self) -> usize {
        self.ordinary_bytes + self.large_events_bytes
    }
}

/// What memory the agent needs at most for so many logs.
pub(super) fn estimate(config: &Config, logs: usize, uring: bool) -> Memory {
    let limits = &config.limits;
    let (logs, threads) = (logs.max(1), limits.workers.max(1));
    let compressor = match config.chunk.encoding {
        Encoding::Gzip => 512 << 10,
        // Tables for the highest level; the window is that of a block.
        Encoding::Zstd => 8 << 20,
    };
    // As many as the pipeline allocates, and one that each log may be reading into.
    let blocks = crate::limits::blocks(limits.workers) + logs;
    let parts = vec![
        Part { what: "chunk bodies", bytes: limits.body_pool_bytes / PAGE_BYTES * PAGE_BYTES },
        Part { what: "blocks", bytes: blocks * BLOCK_BYTES },
        Part { what: "ring buffers", bytes: if uring { RING_BUFFERS * RING_BUFFER_BYTES } else { 0 } },
        Part { what: "framing threads", bytes: threads * (THREAD_BYTES + compressor) },
        Part { what: "requests", bytes: limits.in_flight * REQUEST_BYTES },
        Part { what: "process", bytes: PROCESS_BYTES },
    ];
    let line = config.source.max_event_bytes;
    let reading = logs * line * GROWTH_FACTOR;
    // There is no more in framing than the body pool has pages for, or one line. A thread either checks or wraps.
    let in_framing = limits.body_pool_bytes.max(line);
    let scratch = (in_framing * WRAP_FACTOR).max(threads * TAPE_LINE_BYTES_MAX * TAPE_FACTOR);
    let large_events_bytes = reading + in_framing + scratch;
    Memory { ordinary_bytes: parts.iter().map(|part| part.bytes).sum(), large_events_bytes, parts }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::{Inputs, resolve};

    fn config(file: &str) -> Config {
        let env = |name: &str| match name {
            "LOG_FILE" => Some(OsString::from("/log")),
            "OUTPOST_HOST" => Some(OsString::from("https://host")),
            _ => None,
        };
        let inputs =
            Inputs { flags: &[], file: Some(("test.yaml", file)), env: &env, host_name: "node", processors: 2 };
        resolve(&inputs).unwrap().config
    }

    // Fails if the defaults leave the budget the agent promises, or a setting that costs memory is not counted.
    #[test]
    fn every_setting_that_costs_memory_counts() {
        let default = estimate(&config(""), 1, true);
        assert!(default.ordinary_bytes <= 64 << 20, "{default:?}");
        assert_eq!(default.ordinary_bytes, default.parts.iter().map(|part| part.bytes).sum::<usize>());
        assert!(estimate(&config(""), 1, false).bytes_max() < default.bytes_max());
        assert!(estimate(&config(""), 3, true).bytes_max() > default.bytes_max());
        for dearer in [
            "limits: {body_pool: 48MiB}",
            "limits: {workers: 4}",
            "limits: {in_flight: 8}",
            "source: {max_event_bytes: 17MiB}",
            "chunk: {encoding: zstd}",
        ] {
            assert!(estimate(&config(dearer), 1, true).bytes_max() > default.bytes_max(), "{dearer}");
        }
    }
}
