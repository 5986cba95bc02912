//! The vocabulary of the pipeline: positions, identities and digests. No clock, file, socket or runtime.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A half-open byte range `[start, end)` of a file. For a compressed file, of its decompressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl Span {
    /// The range `[start, end)`; an end before the start is taken as empty.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Bytes in the range.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Text that is not the written form of the type it was parsed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {0}")]
pub struct Malformed(pub &'static str);

impl FromStr for Span {
    type Err = Malformed;

    /// Parses `START-END`.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = Malformed("byte range");
        let (start, end) = text.split_once('-').ok_or(bad)?;
        let (start, end) = (start.parse().map_err(|_| bad)?, end.parse().map_err(|_| bad)?);
        if end < start {
            return Err(bad);
        }
        Ok(Self { start, end })
    }
}

/// Declares a fixed-size byte string whose written form is lower-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let mut out = [0u8; $len];
                if text.len() != $len * 2 || !text.is_ascii() {
                    return Err(Malformed($what));
                }
                for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digit = |c: u8| match c {
                        b'0'..=b'9' => Ok(c - b'0'),
                        b'a'..=b'f' => Ok(c - b'a' + 10),
                        _ => Err(Malformed($what)),
                    };
                    *byte = digit(pair[0])? << 4 | digit(pair[1])?;
                }
                Ok(Self(out))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Identity of a chunk: the idempotency key under which it is sent, however often.
    ChunkId, 16, "chunk id"
);
hex_id!(
    /// Identity of one agent's state: made once with a new state directory. Sequence numbers and digest
    /// chains are only comparable within one stream.
    StreamId, 16, "stream id"
);
hex_id!(
    /// BLAKE3 digest of delivered content (the decompressed body of one chunk).
    Digest, 32, "digest"
);
hex_id!(
    /// First 16 bytes of the BLAKE3 digest of a file's first bytes.
    PrefixHash, 16, "fingerprint"
);

impl Digest {
    /// What the first chunk of a chain names as its predecessor.
    pub const ZERO: Self = Self([0; 32]);
}

/// Fingerprint of a file's content: its first line, or as much of it as was there and fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes covered, from the start of the file; 0 for an empty file.
    pub len: u16,
    /// Hash of those bytes.
    pub hash: PrefixHash,
}

impl Fingerprint {
    /// The fingerprint of a file that starts with `prefix`: up to and including the first newline, at most
    /// [`crate::limits::FINGERPRINT_BYTES_MAX`] bytes.
    pub fn of(prefix: &[u8]) -> Self {
        let limit = prefix.len().min(crate::limits::FINGERPRINT_BYTES_MAX);
        let len = memchr::memchr(b'\n', &prefix[..limit]).map_or(limit, |at| at + 1);
        Self::of_exactly(&prefix[..len])
    }

    /// Whether a file that starts with `prefix` could be the file this fingerprint was taken of.
    pub fn matches(&self, prefix: &[u8]) -> bool {
        let len = usize::from(self.len);
        prefix.len() >= len && Self::of_exactly(&prefix[..len]) == *self
    }

    /// Whether the fingerprint covers enough to tell two audit logs apart: a whole first line, or the limit.
    /// The caller knows whether the covered bytes ended in a newline.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn of_exactly(bytes: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        // The length is bounded by FINGERPRINT_BYTES_MAX, far below u16::MAX.
        Self { len: bytes.len() as u16, hash: PrefixHash(hash) }
    }
}

/// Identity of a file. Inodes are reused at once, so an inode alone says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev` of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since the epoch; 0 where the file system keeps none.
    pub birth_ns: u64,
    /// Content fingerprint.
    pub fingerprint: Fingerprint,
}

impl fmt::Display for FileId {
    /// `DEVICE:INODE:BIRTH_NS:LEN:HASH`, the form used in manifests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, birth_ns, fingerprint } = self;
        write!(f, "{device}:{inode}:{birth_ns}:{}:{}", fingerprint.len, fingerprint.hash)
    }
}

impl FromStr for FileId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = Malformed("file identity");
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(bad);
        let id = Self {
            device: next()?.parse().map_err(|_| bad)?,
            inode: next()?.parse().map_err(|_| bad)?,
            birth_ns: next()?.parse().map_err(|_| bad)?,
            fingerprint: Fingerprint { len: next()?.parse().map_err(|_| bad)?, hash: next()?.parse()? },
        };
        if parts.next().is_some() { Err(bad) } else { Ok(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if the written forms stop round-tripping: the checkpoint and the protocol rely on them.
    #[test]
    fn written_forms_round_trip() {
        let id = FileId {
            device: 66305,
            inode: 12,
            birth_ns: 1_700_000_000_123_456_789,
            fingerprint: Fingerprint::of(b"{\"kind\":\"Event\"}\nrest"),
        };
        assert_eq!(id.to_string().parse::<FileId>(), Ok(id));
        assert_eq!("5-17".parse::<Span>(), Ok(Span::new(5, 17)));
        assert!("17-5".parse::<Span>().is_err());
        assert!("zz".parse::<ChunkId>().is_err());
    }

    // Fails if the fingerprint covers bytes behind the first line: then growth would change identity.
    #[test]
    fn a_fingerprint_covers_the_first_line_only() {
        let short = Fingerprint::of(b"line one\n");
        assert_eq!(short, Fingerprint::of(b"line one\nline two\n"));
        assert!(short.matches(b"line one\nanything"));
        assert!(!short.matches(b"line two\nanything"));
        assert!(!short.matches(b"line"));
    }
}
