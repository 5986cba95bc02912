//! The manifest as HTTP headers: one header a fact, every value visible ASCII. The grammar is in `docs/protocol.md`.

use std::fmt::Display;
use std::str::FromStr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::{Kind, Manifest, PROTOCOL_VERSION, PartOf};
use crate::limits::MANIFEST_AUDIT_ID_BYTES_MAX;
use crate::types::Digest;

/// Header of a request without content that only asks whether the token is accepted; its value is `1`.
pub const PROBE: HeaderName = HeaderName::from_static("auditail-probe");

const PROTOCOL: HeaderName = HeaderName::from_static("auditail-protocol");
const ID: HeaderName = HeaderName::from_static("idempotency-key");
const KIND: HeaderName = HeaderName::from_static("auditail-kind");
const CLUSTER: HeaderName = HeaderName::from_static("auditail-cluster");
const SERVICE: HeaderName = HeaderName::from_static("auditail-service");
const NODE: HeaderName = HeaderName::from_static("auditail-node");
const STREAM: HeaderName = HeaderName::from_static("auditail-stream");
const SOURCE: HeaderName = HeaderName::from_static("auditail-source");
const PATH: HeaderName = HeaderName::from_static("auditail-path");
const FILE: HeaderName = HeaderName::from_static("auditail-file");
const RANGE: HeaderName = HeaderName::from_static("auditail-range");
const SEQUENCE: HeaderName = HeaderName::from_static("auditail-sequence");
const PREVIOUS: HeaderName = HeaderName::from_static("auditail-previous-digest");
const DIGEST: HeaderName = HeaderName::from_static("auditail-digest");
const CONTENT_BYTES: HeaderName = HeaderName::from_static("auditail-content-bytes");
const EVENTS: HeaderName = HeaderName::from_static("auditail-events");
const MALFORMED: HeaderName = HeaderName::from_static("auditail-malformed");
const FIRST_AUDIT_ID: HeaderName = HeaderName::from_static("auditail-first-audit-id");
const LAST_AUDIT_ID: HeaderName = HeaderName::from_static("auditail-last-audit-id");
const PART_OF: HeaderName = HeaderName::from_static("auditail-part-of");
const PART_OF_RANGE: HeaderName = HeaderName::from_static("auditail-part-of-range");
const PART_OF_DIGEST: HeaderName = HeaderName::from_static("auditail-part-of-digest");

/// Bytes of a cluster, service or node id, decoded.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes of a path, decoded: Linux's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a number, an id or a file identity as written; the longest, a file identity, has 101.
const TOKEN_BYTES_MAX: usize = 128;
/// Everything else than visible ASCII is escaped, and the escape character itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
/// What stands before the hexadecimal digits of a digest, so that another hash can be told apart some day.
const DIGEST_PREFIX: &str = "blake3=";

/// Headers that are no manifest. To a receiver every one of them is a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {header}: {problem}")]
pub struct HeaderError {
    /// The header at fault.
    pub header: HeaderName,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Manifest {
    /// Sets the manifest's headers. Those of the request itself (authorization, content type, encoding and length)
    /// are the sender's.
    pub fn append_headers(&self, headers: &mut HeaderMap) {
        set(headers, PROTOCOL, PROTOCOL_VERSION);
        set(headers, ID, self.id);
        set(headers, KIND, kind_text(self.kind));
        set_text(headers, CLUSTER, &self.cluster_id);
        set_text(headers, SERVICE, &self.service_id);
        set_text(headers, NODE, &self.node_id);
        set(headers, STREAM, self.stream);
        set_text(headers, SOURCE, &self.source);
        set_text(headers, PATH, &self.path);
        set(headers, FILE, self.file);
        set(headers, RANGE, self.span);
        set(headers, SEQUENCE, self.sequence);
        set_digest(headers, PREVIOUS, self.previous);
        set_digest(headers, DIGEST, self.digest);
        set(headers, CONTENT_BYTES, self.content_bytes);
        set(headers, EVENTS, self.events);
        set(headers, MALFORMED, self.malformed);
        if let Some(id) = &self.first_audit_id {
            set_text(headers, FIRST_AUDIT_ID, id);
        }
        if let Some(id) = &self.last_audit_id {
            set_text(headers, LAST_AUDIT_ID, id);
        }
        if let Some(part) = &self.part_of {
            set(headers, PART_OF, part.id);
            set(headers, PART_OF_RANGE, part.span);
            set_digest(headers, PART_OF_DIGEST, part.digest);
        }
    }

    /// Reads a manifest back. Headers that are none of the manifest's are ignored.
    ///
    /// # Errors
    /// A header that is missing, repeated, too long or not in its written form, another protocol version, a sequence
    /// of 0, or a part outside of what it is a part of.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, HeaderError> {
        if parse::<u32>(headers, PROTOCOL)? != PROTOCOL_VERSION {
            return Err(HeaderError { header: PROTOCOL, problem: "another version of the protocol" });
        }
        let manifest = Self {
            id: parse(headers, ID)?,
            kind: kind(headers)?,
            cluster_id: text(headers, CLUSTER, NAME_BYTES_MAX)?,
            service_id: text(headers, SERVICE, NAME_BYTES_MAX)?,
            node_id: text(headers, NODE, NAME_BYTES_MAX)?,
            stream: parse(headers, STREAM)?,
            source: text(headers, SOURCE, PATH_BYTES_MAX)?,
            path: text(headers, PATH, PATH_BYTES_MAX)?,
            file: parse(headers, FILE)?,
            span: parse(headers, RANGE)?,
            sequence: parse(headers, SEQUENCE)?,
            previous: digest(headers, PREVIOUS)?,
            digest: digest(headers, DIGEST)?,
            content_bytes: parse(headers, CONTENT_BYTES)?,
            events: parse(headers, EVENTS)?,
            malformed: parse(headers, MALFORMED)?,
            first_audit_id: optional_text(headers, FIRST_AUDIT_ID)?,
            last_audit_id: optional_text(headers, LAST_AUDIT_ID)?,
            part_of: part_of(headers)?,
        };
        if manifest.sequence == 0 {
            return Err(HeaderError { header: SEQUENCE, problem: "sequences count from 1" });
        }
        match &manifest.part_of {
            Some(part) if manifest.span.start < part.span.start || manifest.span.end > part.span.end => {
                Err(HeaderError { header: PART_OF_RANGE, problem: "does not hold the part's range" })
            }
            _ => Ok(manifest),
        }
    }
}

/// Sets a value that is visible ASCII by construction; were it not, the receiver would miss the header and say so.
fn set(headers: &mut HeaderMap, name: HeaderName, value: impl Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(name, value);
    }
}

fn set_text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    set(headers, name, utf8_percent_encode(value, ESCAPED));
}

fn set_digest(headers: &mut HeaderMap, name: HeaderName, value: Digest) {
    set(headers, name, format_args!("{DIGEST_PREFIX}{value}"));
}

fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Lines => "lines",
        Kind::Loss => "loss",
    }
}

/// The one value of a header, at most `max` bytes as written.
fn value<'a>(headers: &'a HeaderMap, name: &HeaderName, max: usize) -> Result<Option<&'a str>, HeaderError> {
    let bad = |problem| HeaderError { header: name.clone(), problem };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad("given more than once"));
    }
    if value.len() > max {
        return Err(bad("too long"));
    }
    value.to_str().map(Some).map_err(|_| bad("not visible ASCII"))
}

fn required<'a>(headers: &'a HeaderMap, name: &HeaderName, max: usize) -> Result<&'a str, HeaderError> {
    value(headers, name, max)?.ok_or_else(|| HeaderError { header: name.clone(), problem: "missing" })
}

fn parse<T: FromStr>(headers: &HeaderMap, name: HeaderName) -> Result<T, HeaderError> {
    let text = required(headers, &name, TOKEN_BYTES_MAX)?;
    text.parse().map_err(|_| HeaderError { header: name, problem: "not in its written form" })
}

fn digest(headers: &HeaderMap, name: HeaderName) -> Result<Digest, HeaderError> {
    let hex = required(headers, &name, TOKEN_BYTES_MAX)?.strip_prefix(DIGEST_PREFIX);
    hex.and_then(|hex| hex.parse().ok()).ok_or(HeaderError { header: name, problem: "not blake3=<64 digits>" })
}

fn kind(headers: &HeaderMap) -> Result<Kind, HeaderError> {
    match required(headers, &KIND, TOKEN_BYTES_MAX)? {
        "lines" => Ok(Kind::Lines),
        "loss" => Ok(Kind::Loss),
        _ => Err(HeaderError { header: KIND, problem: "neither lines nor loss" }),
    }
}

fn text(headers: &HeaderMap, name: HeaderName, max: usize) -> Result<String, HeaderError> {
    let escaped = required(headers, &name, max.saturating_mul(3))?;
    unescape(escaped, name, max)
}

fn optional_text(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>, HeaderError> {
    let max = MANIFEST_AUDIT_ID_BYTES_MAX;
    value(headers, &name, max * 3)?.map(|escaped| unescape(escaped, name, max)).transpose()
}

fn unescape(escaped: &str, name: HeaderName, max: usize) -> Result<String, HeaderError> {
    match percent_decode_str(escaped).decode_utf8() {
        Ok(text) if text.len() <= max => Ok(text.into_owned()),
        Ok(_) => Err(HeaderError { header: name, problem: "too long" }),
        Err(_) => Err(HeaderError { header: name, problem: "not UTF-8 when unescaped" }),
    }
}

fn part_of(headers: &HeaderMap) -> Result<Option<PartOf>, HeaderError> {
    if value(headers, &PART_OF, TOKEN_BYTES_MAX)?.is_none() {
        return Ok(None);
    }
    Ok(Some(PartOf {
        id: parse(headers, PART_OF)?,
        span: parse(headers, PART_OF_RANGE)?,
        digest: digest(headers, PART_OF_DIGEST)?,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{ChunkId, FileId, Fingerprint, PrefixHash, Span, StreamId};

    fn span() -> impl Strategy<Value = Span> {
        (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Span::new(a.min(b), a.max(b)))
    }

    fn file() -> impl Strategy<Value = FileId> {
        (any::<(u64, u64, u64, u16)>(), any::<[u8; 16]>()).prop_map(|((device, inode, birth_ns, len), hash)| FileId {
            device,
            inode,
            birth_ns,
            fingerprint: Fingerprint { len, hash: PrefixHash(hash) },
        })
    }

    prop_compose! {
        fn manifest()(
            texts in (".{0,60}", ".{0,60}", ".{0,60}", ".{0,200}", ".{0,200}"),
            ids in any::<([u8; 16], [u8; 16], [u8; 32], [u8; 32])>(),
            counts in (1u64.., any::<u64>(), any::<u64>(), any::<u64>()),
            audit_ids in (proptest::option::of(".{0,60}"), proptest::option::of(".{0,60}")),
            (file, span, loss) in (file(), span(), any::<bool>()),
            part in proptest::option::of(any::<([u8; 16], [u8; 32])>()),
        ) -> Manifest {
            Manifest {
                id: ChunkId(ids.0),
                kind: if loss { Kind::Loss } else { Kind::Lines },
                cluster_id: texts.0,
                service_id: texts.1,
                node_id: texts.2,
                stream: StreamId(ids.1),
                source: texts.3,
                path: texts.4,
                file,
                span,
                sequence: counts.0,
                previous: Digest(ids.2),
                digest: Digest(ids.3),
                content_bytes: counts.1,
                events: counts.2,
                malformed: counts.3,
                first_audit_id: audit_ids.0,
                last_audit_id: audit_ids.1,
                part_of: part.map(|(id, digest)| PartOf { id: ChunkId(id), span, digest: Digest(digest) }),
            }
        }
    }

    proptest! {
        // Fails if a field is not sent, or if some Unicode text is not visible ASCII on the wire.
        #[test]
        fn headers_round_trip(manifest in manifest()) {
            let mut headers = HeaderMap::new();
            manifest.append_headers(&mut headers);
            for value in headers.values() {
                prop_assert!(value.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
            }
            prop_assert_eq!(Manifest::from_headers(&headers), Ok(manifest));
        }

        // Fails if some value of some header makes reading panic.
        #[test]
        fn hostile_values_are_errors_at_worst(manifest in manifest(), at in any::<prop::sample::Index>(),
                                              value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut headers = HeaderMap::new();
            manifest.append_headers(&mut headers);
            let name = at.get(&headers.keys().cloned().collect::<Vec<_>>()).clone();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(name, value);
            }
            if let Ok(read) = Manifest::from_headers(&headers) {
                let mut again = HeaderMap::new();
                read.append_headers(&mut again);
                prop_assert_eq!(Manifest::from_headers(&again), Ok(read));
            }
        }
    }

    fn sample() -> (Manifest, HeaderMap) {
        let file = FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"first\n") };
        let manifest = Manifest {
            id: ChunkId([1; 16]),
            kind: Kind::Lines,
            cluster_id: "c".into(),
            service_id: String::new(),
            node_id: "n".into(),
            stream: StreamId([2; 16]),
            source: "/var/log/audit.log".into(),
            path: "/var/log/audit.log".into(),
            file,
            span: Span::new(10, 20),
            sequence: 1,
            previous: Digest::ZERO,
            digest: Digest([3; 32]),
            content_bytes: 10,
            events: 1,
            malformed: 0,
            first_audit_id: None,
            last_audit_id: None,
            part_of: Some(PartOf { id: ChunkId([4; 16]), span: Span::new(0, 30), digest: Digest([5; 32]) }),
        };
        let mut headers = HeaderMap::new();
        manifest.append_headers(&mut headers);
        (manifest, headers)
    }

    // Fails if a header stops being required, or if the error names another one.
    #[test]
    fn every_missing_header_is_named() {
        let (manifest, headers) = sample();
        for name in headers.keys().filter(|name| **name != PART_OF) {
            let mut less = headers.clone();
            less.remove(name);
            let error = Manifest::from_headers(&less).expect_err("a header is missing");
            assert_eq!((&error.header, error.problem), (name, "missing"));
        }
        assert_eq!(Manifest::from_headers(&headers), Ok(manifest));
    }

    // Fails if values that parse but cannot be true, or that have no bound, are let in.
    #[test]
    fn impossible_values_are_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let cases = [
            (SEQUENCE, "0"),
            (PROTOCOL, "2"),
            (PART_OF_RANGE, "0-15"),
            (RANGE, "20-10"),
            (DIGEST, "sha256=00"),
            (CLUSTER, "%ff"),
            (NODE, &long),
        ];
        for (name, value) in cases {
            let (_, mut headers) = sample();
            headers.insert(name.clone(), HeaderValue::from_str(value).unwrap());
            assert_eq!(Manifest::from_headers(&headers).map_err(|error| error.header), Err(name));
        }
        let (_, mut headers) = sample();
        headers.append(ID, HeaderValue::from_static("00"));
        assert_eq!(Manifest::from_headers(&headers).map_err(|error| error.problem), Err("given more than once"));
    }
}
