//! Is a line one JSON object, and what does an event say about itself?

use std::borrow::Cow;
use std::fmt;
use std::time::UNIX_EPOCH;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use simd_json::{Buffers, INPUT_PADDING, Node, Tape};

use crate::limits::TAPE_LINE_BYTES_MAX;

/// Scratch is kept for lines up to this many bytes; what a longer line needed is freed behind it.
const SCRATCH_LINE_BYTES_KEPT: usize = 128 * 1024;

/// Checks lines; keeps the memory it needs from one line to the next.
pub(super) struct Checker {
    scratch: Vec<u8>,
    buffers: Buffers,
    /// Empty between calls, so that nothing in it refers to `scratch`; kept for its allocation.
    tape: Tape<'static>,
}

impl Checker {
    /// A checker without any scratch yet.
    pub(super) fn new() -> Self {
        Self { scratch: Vec::new(), buffers: Buffers::new(0), tape: Tape(Vec::new()) }
    }

    /// Whether `line` is one JSON object (RFC 8259) in UTF-8, white space around it allowed.
    pub(super) fn is_object(&mut self, line: &[u8]) -> bool {
        if line.iter().find(|byte| !is_space(**byte)) != Some(&b'{') {
            return false;
        }
        let seen_by_simd = line.len() <= TAPE_LINE_BYTES_MAX && self.has_object_tape(line);
        // simd-json stores numbers and nesting and refuses what it cannot store: the second opinion stores nothing.
        seen_by_simd || is_json(line)
    }

    fn has_object_tape(&mut self, line: &[u8]) -> bool {
        self.scratch.clear();
        self.scratch.extend_from_slice(line);
        self.scratch.resize(line.len() + INPUT_PADDING, b' ');
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.scratch, line.len(), &mut self.buffers, &mut tape);
        let is_object = parsed.is_ok() && matches!(tape.0.first(), Some(Node::Object { .. }));
        self.tape = tape.reset();
        if line.len() > SCRATCH_LINE_BYTES_KEPT {
            *self = Self::new();
        }
        is_object
    }
}

/// White space between JSON tokens, without the newline that ends a line.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Whether `line` is one JSON value in UTF-8. Needs a byte of memory per level of nesting.
pub(super) fn is_json(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Looks for the end of the JSON value at the start of `bytes`, whatever is behind it. Returns its length if it is
/// whole, and how many bytes had to be looked at to know.
pub(super) fn leading_value(bytes: &[u8]) -> (Option<usize>, usize) {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => {
            let end = values.byte_offset();
            // Ignored strings are not checked for UTF-8.
            (std::str::from_utf8(&bytes[..end]).is_ok().then_some(end), end)
        }
        // A line has one newline at its end, so the column counts bytes; behind the newline it is no use.
        Some(Err(error)) if !error.is_eof() && error.line() == 1 => (None, error.column()),
        _ => (None, bytes.len()),
    }
}

/// What an event says about itself, as far as it concerns the agent. Members of another type count as absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) api_version: Option<Cow<'a, str>>,
    pub(super) audit_id: Option<Cow<'a, str>>,
    pub(super) stage_timestamp: Option<Cow<'a, str>>,
}

impl<'a> Head<'a> {
    /// Reads the top-level members of one JSON object. Where a member is repeated the last one counts.
    pub(super) fn of(event: &'a [u8]) -> Self {
        serde_json::Deserializer::from_slice(event).deserialize_map(HeadVisitor).unwrap_or_default()
    }

    /// Microseconds since the epoch at which the event reached its stage (`stageTimestamp`, RFC 3339 in UTC).
    pub(super) fn stage_us(&self) -> Option<u64> {
        let time = humantime::parse_rfc3339(self.stage_timestamp.as_deref()?).ok()?;
        time.duration_since(UNIX_EPOCH).ok()?.as_micros().try_into().ok()
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head<'de>, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key_seed(Text)? {
            match key.as_deref() {
                Some("apiVersion") => head.api_version = map.next_value_seed(Text)?,
                Some("auditID") => head.audit_id = map.next_value_seed(Text)?,
                Some("stageTimestamp") => head.stage_timestamp = map.next_value_seed(Text)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(head)
    }
}

/// Reads a string, borrowed unless it has escapes; any other value is skipped and counts as absent.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Fails if the check takes another value for an object, or refuses one because of its form.
    #[test]
    fn only_objects_are_objects() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let mut checker = Checker::new();
        for object in [
            "{}",
            " {\"a\":1}\r\n",
            "{\"n\":1e999}",
            "{\"n\":123456789012345678901234567890}",
            &deep,
            "{\"a\":1,\"a\":2}",
        ] {
            assert!(checker.is_object(object.as_bytes()), "{object:.80}");
        }
        for other in [
            "",
            "\n",
            "[]",
            "\"{}\"",
            "{}{}",
            "{} x",
            "{",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":01}",
            "\u{feff}{}",
        ] {
            assert!(!checker.is_object(other.as_bytes()), "{other}");
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":\"\xed\xa0\x80\"}", b"{}\0", b"\0{}", b"{\0}"] {
            assert!(!checker.is_object(bytes), "{bytes:?}");
        }
    }

    // Fails if memory that a large line needed is kept, or a line too long for the tape is copied at all.
    #[test]
    fn scratch_of_large_lines_is_freed() {
        let line = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8)).into_bytes();
        let mut checker = Checker::new();
        assert!(checker.is_object(&line(1000)));
        let kept = checker.scratch.capacity();
        assert!(checker.is_object(&line(TAPE_LINE_BYTES_MAX + 1)));
        assert_eq!(checker.scratch.capacity(), kept);
        assert!(checker.is_object(&line(TAPE_LINE_BYTES_MAX)));
        assert_eq!(checker.scratch.capacity(), 0);
    }

    // Fails if members are taken from nested objects, cut at escapes, or lost behind one of an unexpected type.
    #[test]
    fn the_head_of_an_event_is_read_from_its_top_level() {
        let event = br#"{"requestObject":{"auditID":"no"},"auditID":"a\u00e9\n\"b","apiVersion":["x",{"y":1}],"stageTimestamp":"2026-11-21T02:17:46.037123Z"}"#;
        let head = Head::of(event);
        assert_eq!((head.audit_id.as_deref(), head.api_version.as_deref()), (Some("aé\n\"b"), None));
        assert_eq!(head.stage_us(), Some(1_795_227_466_037_123));
        for (value, id) in
            [("1", None), ("-1", None), ("1.5", None), ("null", None), ("true", None), ("\"x\"", Some("x"))]
        {
            assert_eq!(Head::of(format!("{{\"auditID\":{value}}}").as_bytes()).audit_id.as_deref(), id, "{value}");
        }
        assert_eq!(Head::of(b"{\"stageTimestamp\":\"yesterday\"}").stage_us(), None);
    }

    // Fails if the end of an object is found elsewhere than at its brace, or a broken one costs a look at all the rest.
    #[test]
    fn a_leading_object_ends_at_its_brace() {
        assert_eq!(leading_value(br#"{"a":"}\"{"}{"b":1}"#), (Some(12), 12));
        let torn = format!("{{\"a\":\"b{{\"kind\":1}}{}\n", " ".repeat(1000));
        let (end, looked_at) = leading_value(torn.as_bytes());
        assert!(end.is_none() && looked_at < 15, "{looked_at}");
        assert_eq!(leading_value(b"{\"a\":\n"), (None, 6));
        assert_eq!(leading_value(b"{\"a\":\"\xff\"}").0, None);
    }

    /// JSON text of some depth, with a byte changed, removed or repeated now and then.
    fn damaged_json() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?",
            "\"([a-zé]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,8}\"",
        ];
        let value = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                proptest::collection::vec(inner, 0..4).prop_map(|items| {
                    let members: Vec<_> = items.iter().map(|item| format!("\"k\": {item}")).collect();
                    format!("{{{}}}", members.join(" ,"))
                }),
            ]
        });
        let damage = proptest::option::of((any::<prop::sample::Index>(), any::<u8>(), 0..3u8));
        (value, damage).prop_map(|(value, damage)| {
            let mut bytes = format!("{{\"v\":{value}}}").into_bytes();
            if let Some((index, byte, how)) = damage {
                let at = index.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        // Fails if simd-json accepts what the strict parser does not: then a long line and a short one would be
        // judged by different rules.
        #[test]
        fn both_parsers_agree(line in damaged_json()) {
            let mut checker = Checker::new();
            prop_assert_eq!(checker.is_object(&line), is_json(&line) && line.trim_ascii_start().starts_with(b"{"));
        }
    }
}
