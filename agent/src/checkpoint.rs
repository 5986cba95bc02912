//! The written form of the agent's state: `STATE_DIRECTORY/checkpoint`. Pure.
//!
//! Line one: `auditail checkpoint VERSION blake3=HEX`; behind it one JSON document, indented so that a person can
//! read it, whose BLAKE3 digest line one holds. What is done about a file that does not decode is decided by the
//! caller; [`Error`] has one variant for each decision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::types::StreamId;

/// Version this build writes and reads.
pub const VERSION: u32 = 1;

const MAGIC: &str = "auditail checkpoint ";

/// Everything the agent remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Cluster this state belongs to.
    pub cluster_id: String,
    /// Stream of this state directory.
    pub stream: StreamId,
    /// Ledgers by the path of the live file.
    pub sources: BTreeMap<String, Ledger>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Torn, altered, or not a checkpoint.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
    /// Written by a later release; it is intact, only not for us.
    #[error(
        "the checkpoint has version {0}, this release reads {VERSION}: run the release that wrote it, or a later one"
    )]
    Newer(u32),
}

/// The bytes of the checkpoint file.
pub fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    // A map with string keys, strings and numbers: serialising cannot fail.
    let body = serde_json::to_vec_pretty(checkpoint).unwrap_or_default();
    let mut out = format!("{MAGIC}{VERSION} blake3={}\n", blake3::hash(&body).to_hex()).into_bytes();
    out.extend_from_slice(&body);
    out.push(b'\n');
    out
}

/// Reads a checkpoint file.
///
/// # Errors
/// [`Error::Newer`] where the header is sound and of a later version, else [`Error::Damaged`].
pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let damaged = |what: &str| Error::Damaged(what.to_owned());
    let line_end = memchr::memchr(b'\n', bytes).ok_or_else(|| damaged("its first line is missing or cut"))?;
    let header = std::str::from_utf8(&bytes[..line_end]).map_err(|_| damaged("its first line is not text"))?;
    let (version, digest) = header
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_once(" blake3="))
        .ok_or_else(|| damaged("its first line is not that of a checkpoint"))?;
    let version: u32 = version.parse().map_err(|_| damaged("its version is not a number"))?;
    match version {
        VERSION => {}
        // The digest does not cover the version.
        0 => return Err(damaged("there is no version 0")),
        newer => return Err(Error::Newer(newer)),
    }
    let body = bytes[line_end + 1..].strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing"))?;
    if blake3::hash(body).to_hex().as_str() != digest {
        return Err(damaged("its digest does not match its content"));
    }
    serde_json::from_slice(body).map_err(|error| damaged(&format!("its content does not parse: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Checkpoint {
        let sources = BTreeMap::from([("/var/log/kubernetes/audit.log".to_owned(), Ledger::default())]);
        Checkpoint { cluster_id: "c1".into(), stream: StreamId([7; 16]), sources }
    }

    // Fails if a written checkpoint cannot be read back.
    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
    }

    // Fails if a cut checkpoint is taken for a whole one.
    #[test]
    fn every_cut_is_noticed() {
        let bytes = encode(&sample());
        for len in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..len]), Err(Error::Damaged(_))), "cut at {len}");
        }
    }

    // Fails if a downgrade would take a newer state for damage and start over.
    #[test]
    fn a_newer_version_is_not_damage() {
        let text = String::from_utf8(encode(&sample())).unwrap().replacen("checkpoint 1 ", "checkpoint 2 ", 1);
        assert_eq!(decode(text.as_bytes()), Err(Error::Newer(2)));
    }

    // Fails if a version that never was is read as if it were ours.
    #[test]
    fn version_zero_is_damage() {
        let text = String::from_utf8(encode(&sample())).unwrap().replace("checkpoint 1", "checkpoint 0");
        assert!(matches!(decode(text.as_bytes()), Err(Error::Damaged(_))));
    }

    proptest! {
        // Fails if a flipped byte goes unnoticed or arbitrary bytes panic the decoder.
        #[test]
        fn a_flipped_byte_is_noticed(at in 0..400usize, to: u8) {
            let mut bytes = encode(&sample());
            let at = at % bytes.len();
            let from = std::mem::replace(&mut bytes[at], to);
            prop_assert!(from == to || decode(&bytes).is_err());
        }
    }
}
