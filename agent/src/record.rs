//! Lines that the agent writes itself into delivered content. `docs/records.md` describes both formats.
//!
//! A malformed record wraps bytes of an audit log that are not an event. Together with the events around them these
//! records reproduce the file: [`restore`] is the definition of how. A loss record stands for bytes that could not
//! be read any more.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::types::{FileId, Span};

/// How every malformed record begins, to the byte. A line of an audit log that begins like this is wrapped itself,
/// so the prefix alone tells records from events.
const MALFORMED_PREFIX: &[u8] = b"{\"kind\":\"MalformedLine\",\"apiVersion\":\"auditail/v1\",";

/// NUL bytes one record may stand for when it is unwrapped: a hostile record must not choose how much is allocated.
const UNWRAPPED_NUL_BYTES_MAX: u64 = 1 << 30;

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing but white space.
    Blank,
    /// A run of NUL bytes: the hole that a writer leaves behind copytruncate.
    Nul,
    /// A UTF-8 byte order mark.
    ByteOrderMark,
    /// A part of a line that has an event besides it: an event cut by a crash or a full disk.
    Torn,
    /// No bytes: the two events around the record had no newline between them.
    Glued,
    /// Not JSON.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// Not UTF-8.
    InvalidUtf8,
    /// A piece of a line longer than `max_event_bytes`.
    TooLong,
    /// The end of a file, without a newline, that will not grow any more.
    Unterminated,
    /// A line that begins as a malformed record does.
    Reserved,
}

impl Reason {
    /// The name used in records, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Nul => "nul",
            Self::ByteOrderMark => "byte_order_mark",
            Self::Torn => "torn",
            Self::Glued => "glued",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLong => "too_long",
            Self::Unterminated => "unterminated",
            Self::Reserved => "reserved",
        }
    }
}

/// Where a piece stands in a line that is longer than `max_event_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The line begins with this piece.
    pub first: bool,
    /// The line ends with this piece.
    pub last: bool,
}

/// A malformed record, unwrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Why the bytes were wrapped.
    pub reason: Reason,
    /// Where in the file they are.
    pub span: Span,
    /// Set for a piece of a long line.
    pub piece: Option<Piece>,
    /// The bytes as they are in the file.
    pub bytes: Vec<u8>,
}

/// Content that this version's agent did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record that is not as documented.
    #[error("not a record of auditail/v1")]
    Invalid,
    /// Events and records that leave a gap in the span they should cover, or overlap.
    #[error("lines do not tile their span: at byte {at} of the file")]
    Misplaced {
        /// Offset in the file up to which they do.
        at: u64,
    },
}

/// Whether a line is a malformed record and not an event.
pub fn is_malformed_record(line: &[u8]) -> bool {
    line.starts_with(MALFORMED_PREFIX)
}

/// Appends the record that wraps `bytes`, which are at offset `start` of their file. Never longer than twice the
/// bytes and 256 more.
pub fn wrap(out: &mut Vec<u8>, reason: Reason, start: u64, bytes: &[u8], piece: Option<Piece>) {
    let end = start + bytes.len() as u64;
    let mut head = format!("\"reason\":\"{}\",\"span\":[{start},{end}],", reason.as_str());
    if let Some(Piece { first, last }) = piece {
        // Writing to a string cannot fail.
        let _ = write!(head, "\"piece\":{{\"first\":{first},\"last\":{last}}},");
    }
    out.extend_from_slice(MALFORMED_PREFIX);
    out.extend_from_slice(head.as_bytes());
    push_payload(out, bytes);
    out.extend_from_slice(b"}\n");
}

/// The member that carries the wrapped bytes, in the most readable form that loses nothing.
fn push_payload(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() && bytes.iter().all(|&byte| byte == 0) {
        out.extend_from_slice(format!("\"nul_bytes\":{}", bytes.len()).as_bytes());
        return;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..)) => {
            out.extend_from_slice(b"\"text\":");
            push_json_string(out, text);
        }
        _ => {
            out.extend_from_slice(b"\"base64\":\"");
            // Encoded straight into the buffer: a piece may have megabytes.
            let from = out.len();
            out.resize(from + bytes.len().div_ceil(3) * 4, b'=');
            let written = BASE64.encode_slice(bytes, &mut out[from..]).unwrap_or_default();
            out.truncate(from + written);
            out.push(b'"');
        }
    }
}

/// Appends a JSON string. Only what JSON demands is escaped.
fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            0..b' ' => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        out.extend_from_slice(escape);
        if escape.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        }
        plain = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

/// The fields of a malformed record besides kind and version, which the prefix has told already.
#[derive(Deserialize)]
struct RawMalformed {
    reason: Reason,
    span: (u64, u64),
    piece: Option<Piece>,
    text: Option<String>,
    nul_bytes: Option<u64>,
    base64: Option<String>,
}

/// Reads a malformed record back: the inverse of [`wrap`].
pub fn unwrap(line: &[u8]) -> Result<Malformed, RecordError> {
    if !is_malformed_record(line) {
        return Err(RecordError::Invalid);
    }
    let raw: RawMalformed = serde_json::from_slice(line).map_err(|_| RecordError::Invalid)?;
    let bytes = match (raw.text, raw.nul_bytes, raw.base64) {
        (Some(text), None, None) => text.into_bytes(),
        (None, Some(count @ ..=UNWRAPPED_NUL_BYTES_MAX), None) => vec![0; count as usize],
        (None, None, Some(encoded)) => BASE64.decode(encoded).map_err(|_| RecordError::Invalid)?,
        _ => return Err(RecordError::Invalid),
    };
    let (start, end) = raw.span;
    if start.checked_add(bytes.len() as u64) != Some(end) {
        return Err(RecordError::Invalid);
    }
    Ok(Malformed { reason: raw.reason, span: Span { start, end }, piece: raw.piece, bytes })
}

/// The bytes of the file that `content` stands for: the lines of a chunk whose span is `span`.
///
/// Events are taken as they are and records unwrapped. The newline behind an event is one that the agent added if
/// a record says that it begins where the newline would stand, or if the span ends there.
pub fn restore(content: &[u8], span: Span) -> Result<Vec<u8>, RecordError> {
    let mut file = Vec::with_capacity(content.len());
    let mut after_event = false;
    for line in content.split_inclusive(|&byte| byte == b'\n') {
        if !is_malformed_record(line) {
            file.extend_from_slice(line);
            after_event = true;
            continue;
        }
        let record = unwrap(line)?;
        drop_added_newline(&mut file, span.start, record.span.start, after_event)?;
        file.extend_from_slice(&record.bytes);
        after_event = false;
    }
    drop_added_newline(&mut file, span.start, span.end, after_event)?;
    Ok(file)
}

/// Makes `file`, whose first byte is at offset `start`, end at offset `end`: as it does, or without the newline
/// added to its last event.
fn drop_added_newline(file: &mut Vec<u8>, start: u64, end: u64, after_event: bool) -> Result<(), RecordError> {
    let at = start.saturating_add(file.len() as u64);
    if after_event && at.checked_sub(1) == Some(end) {
        file.pop();
        return Ok(());
    }
    if at == end { Ok(()) } else { Err(RecordError::Misplaced { at }) }
}

/// Why bytes of an audit log cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The file was removed before it was read to its end.
    Removed,
    /// The file was cut before it was read to its end.
    Truncated,
    /// The file cannot be read.
    Unreadable,
    /// A compressed file is damaged from the start of the span on.
    CorruptGzip,
    /// The checkpoint is gone, so what had been delivered of the file is not known.
    StateLost,
}

impl LossReason {
    /// The name used in records, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
            Self::CorruptGzip => "corrupt_gzip",
            Self::StateLost => "state_lost",
        }
    }
}

/// Stands for bytes of an audit log that cannot be delivered. It is the only line of its chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// Path of the live file of the source.
    pub source: String,
    /// Path under which the file was last known.
    pub path: String,
    /// Identity of the file.
    pub file: FileId,
    /// Offset of the first byte that is missing.
    pub start: u64,
    /// Offset behind the last byte that is missing; `None` where it is not known how much there was.
    pub end: Option<u64>,
}

/// A loss record as JSON; kind and version are read loosely and checked.
#[derive(Deserialize)]
struct RawLoss {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    reason: LossReason,
    source: String,
    path: String,
    file: String,
    span: (u64, Option<u64>),
}

impl Loss {
    /// The record as one line with its newline.
    pub fn to_line(&self) -> Vec<u8> {
        let end = self.end.map_or_else(|| "null".to_owned(), |end| end.to_string());
        let mut out = b"{\"kind\":\"Loss\",\"apiVersion\":\"auditail/v1\",".to_vec();
        out.extend_from_slice(format!("\"reason\":\"{}\",\"source\":", self.reason.as_str()).as_bytes());
        push_json_string(&mut out, &self.source);
        out.extend_from_slice(b",\"path\":");
        push_json_string(&mut out, &self.path);
        out.extend_from_slice(format!(",\"file\":\"{}\",\"span\":[{},{end}]}}\n", self.file, self.start).as_bytes());
        out
    }

    /// Reads a loss record back.
    pub fn parse(line: &[u8]) -> Result<Self, RecordError> {
        let raw: RawLoss = serde_json::from_slice(line).map_err(|_| RecordError::Invalid)?;
        let file = raw.file.parse().map_err(|_| RecordError::Invalid)?;
        let (start, end) = raw.span;
        if raw.kind != "Loss" || raw.api_version != "auditail/v1" || end.is_some_and(|end| end < start) {
            return Err(RecordError::Invalid);
        }
        Ok(Self { reason: raw.reason, source: raw.source, path: raw.path, file, start, end })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Fingerprint;

    const REASONS: [Reason; 11] = [
        Reason::Blank,
        Reason::Nul,
        Reason::ByteOrderMark,
        Reason::Torn,
        Reason::Glued,
        Reason::NotJson,
        Reason::NotAnObject,
        Reason::InvalidUtf8,
        Reason::TooLong,
        Reason::Unterminated,
        Reason::Reserved,
    ];

    fn wrapped(reason: Reason, start: u64, bytes: &[u8], piece: Option<Piece>) -> Vec<u8> {
        let mut out = Vec::new();
        wrap(&mut out, reason, start, bytes, piece);
        out
    }

    // Fails if a documented form changes: receivers parse it.
    #[test]
    fn records_are_written_as_documented() {
        let head = "{\"kind\":\"MalformedLine\",\"apiVersion\":\"auditail/v1\",";
        let check =
            |record: Vec<u8>, tail: &str| assert_eq!(String::from_utf8(record).unwrap(), format!("{head}{tail}\n"));
        check(
            wrapped(Reason::NotJson, 7, b"a \"b\"\\\t\r\n", None),
            r#""reason":"not_json","span":[7,16],"text":"a \"b\"\\\t\r\n"}"#,
        );
        check(wrapped(Reason::Nul, 0, &[0; 4096], None), r#""reason":"nul","span":[0,4096],"nul_bytes":4096}"#);
        check(
            wrapped(Reason::TooLong, 1, b"\xff\n", Some(Piece { first: false, last: true })),
            r#""reason":"too_long","span":[1,3],"piece":{"first":false,"last":true},"base64":"/wo="}"#,
        );
        check(wrapped(Reason::Glued, 9, b"", None), r#""reason":"glued","span":[9,9],"text":""}"#);
    }

    // Fails if a reason's written name differs from the one it is read by.
    #[test]
    fn every_reason_reads_back_by_its_name() {
        for reason in REASONS {
            assert_eq!(unwrap(&wrapped(reason, 0, b"x", None)).unwrap().reason, reason);
        }
    }

    // Fails if a record whose payload contradicts its span, or chooses an allocation, is accepted.
    #[test]
    fn contradictory_records_are_refused() {
        let head = r#"{"kind":"MalformedLine","apiVersion":"auditail/v1","reason":"nul","#;
        for tail in [
            r#""span":[0,2],"text":"x"}"#,
            r#""span":[5,1],"nul_bytes":4}"#,
            r#""span":[0,1],"text":"x","nul_bytes":1}"#,
            r#""span":[0,1]}"#,
            r#""span":[0,18446744073709551615],"nul_bytes":18446744073709551615}"#,
            r#""span":[0,1],"base64":"*"}"#,
        ] {
            assert_eq!(unwrap(format!("{head}{tail}").as_bytes()), Err(RecordError::Invalid), "{tail}");
        }
        assert_eq!(unwrap(b"{\"kind\":\"Event\"}"), Err(RecordError::Invalid));
    }

    // Fails if the rules for added newlines change, or content with a gap is taken for complete.
    #[test]
    fn content_is_restored_by_position() {
        let fragment = wrapped(Reason::Torn, 105, b"{\"ki", None);
        let content = [b"{...}\n".as_slice(), &fragment, b"{ev}\n{last}\n"].concat();
        // The event at 100 ends at 105, where the fragment begins: its newline was added. So was that of the last.
        assert_eq!(restore(&content, Span::new(100, 120)).unwrap(), b"{...}{\"ki{ev}\n{last}");
        assert_eq!(restore(&content, Span::new(100, 121)).unwrap(), b"{...}{\"ki{ev}\n{last}\n");
        assert_eq!(restore(&content, Span::new(100, 122)), Err(RecordError::Misplaced { at: 121 }));
        assert_eq!(restore(&content, Span::new(98, 120)), Err(RecordError::Misplaced { at: 104 }));
    }

    // Fails if a loss record does not survive being written and read, or its form changes.
    #[test]
    fn a_loss_reads_back() {
        let file = FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"") };
        let mut loss = Loss {
            reason: LossReason::CorruptGzip,
            source: "/var/log/a \"b\"\u{1}.log".into(),
            path: "/var/log/ü.gz".into(),
            file,
            start: 10,
            end: None,
        };
        assert_eq!(Loss::parse(&loss.to_line()), Ok(loss.clone()));
        loss.end = Some(25);
        loss.source = "/s".into();
        loss.path = "/p".into();
        let line = format!(
            r#"{{"kind":"Loss","apiVersion":"auditail/v1","reason":"corrupt_gzip","source":"/s","path":"/p","file":"{file}","span":[10,25]}}"#
        );
        assert_eq!(String::from_utf8(loss.to_line()).unwrap(), format!("{line}\n"));
        assert_eq!(Loss::parse(line.as_bytes()), Ok(loss));
        assert_eq!(Loss::parse(line.replace("[10,25]", "[10,9]").as_bytes()), Err(RecordError::Invalid));
        assert_eq!(Loss::parse(line.replace("Loss", "Lost").as_bytes()), Err(RecordError::Invalid));
    }

    proptest! {
        // Fails if any bytes do not survive wrapping, break the line, or grow beyond the documented bound.
        #[test]
        fn any_bytes_survive_wrapping(
            bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), "\\PC{0,60}".prop_map(String::into_bytes)],
            start in 0..u64::MAX / 2,
            piece in proptest::option::of((any::<bool>(), any::<bool>())),
        ) {
            let piece = piece.map(|(first, last)| Piece { first, last });
            let line = wrapped(Reason::Torn, start, &bytes, piece);
            prop_assert_eq!(memchr::memchr(b'\n', &line), Some(line.len() - 1));
            prop_assert!(line.len() <= 2 * bytes.len() + 256);
            let span = Span::new(start, start + bytes.len() as u64);
            prop_assert_eq!(unwrap(&line), Ok(Malformed { reason: Reason::Torn, span, piece, bytes }));
        }
    }
}
