//! Finds the events in a line that is not one.
//!
//! Such lines come about when the writer crashes or the disk fills up in the middle of an event, and the next event
//! follows on the same line; or when a log is truncated under a writer that goes on at its old offset behind a hole of
//! NUL bytes. Everything here is a function of the line's bytes alone.

use std::ops::Range;

use memchr::memmem;

use super::json::{Head, is_json, is_space, leading_value};
use crate::limits::SALVAGE_ATTEMPTS_MAX;
use crate::record::{Reason, is_malformed_record};

/// How kube-apiserver begins every event. The audit backend writes the keys in a fixed order, without white space.
const EVENT_START: &[u8] = b"{\"kind\":\"Event\"";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes that may be looked at for one line, as a multiple of its length; the attempt that reaches the limit ends.
const WORK_PER_BYTE: usize = 4;

/// What a stretch of a malformed line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An event, with the white space and newline behind it where there are any.
    Event,
    /// Anything else.
    Wrapped(Reason),
}

/// Length of the run of NUL bytes at the start of `bytes`.
pub fn leading_nuls(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len())
}

/// Takes a line apart that is not an event as a whole. The parts are in order, without gaps; empty only where one
/// marks the missing newline between two events.
///
/// `from_start` is false for the end of a line whose beginning is not there: then an object at the front may be a
/// part of something larger.
pub(super) fn salvage(line: &[u8], from_start: bool) -> Vec<(Range<usize>, Part)> {
    let mut parts = Vec::new();
    let mut at = leading_nuls(line);
    if at > 0 {
        parts.push((0..at, Part::Wrapped(Reason::Nul)));
    }
    if line[at..].starts_with(BYTE_ORDER_MARK) {
        parts.push((at..at + BYTE_ORDER_MARK.len(), Part::Wrapped(Reason::ByteOrderMark)));
        at += BYTE_ORDER_MARK.len();
    }
    let mut search = Search::new(line);
    let mut found = false;
    // An object behind NULs or a mark begins there, whatever was before them.
    let mut begins_here = from_start || at > 0;
    while let Some(event) = search.next(at, begins_here) {
        if event.start > at {
            parts.push((at..event.start, Part::Wrapped(reason_besides_event(&line[at..event.start]))));
        } else if found {
            parts.push((at..at, Part::Wrapped(Reason::Glued)));
        }
        at = event.end;
        parts.push((event, Part::Event));
        (found, begins_here) = (true, true);
    }
    if at < line.len() {
        let rest = &line[at..];
        let reason = if found { reason_besides_event(rest) } else { reason_of_rest(rest) };
        parts.push((at..line.len(), Part::Wrapped(reason)));
    }
    parts
}

fn reason_besides_event(bytes: &[u8]) -> Reason {
    if leading_nuls(bytes) == bytes.len() { Reason::Nul } else { Reason::Torn }
}

fn reason_of_rest(rest: &[u8]) -> Reason {
    let text = rest.strip_suffix(b"\n").unwrap_or(rest);
    if text.iter().copied().all(is_space) {
        Reason::Blank
    } else if is_malformed_record(rest) {
        Reason::Reserved
    } else if std::str::from_utf8(rest).is_err() {
        Reason::InvalidUtf8
    } else if is_json(rest) {
        Reason::NotAnObject
    } else {
        Reason::NotJson
    }
}

/// The search for events in one line, with what it may still cost.
struct Search<'a> {
    line: &'a [u8],
    marker: memmem::Finder<'static>,
    attempts_left: usize,
    work_left: usize,
}

impl<'a> Search<'a> {
    fn new(line: &'a [u8]) -> Self {
        let work_left = line.len().saturating_mul(WORK_PER_BYTE);
        Self { line, marker: memmem::Finder::new(EVENT_START), attempts_left: SALVAGE_ATTEMPTS_MAX, work_left }
    }

    /// The next event at `from` or behind it, with the white space behind it. `begins_here` says that an object at
    /// `from`, of any kind, stands on its own.
    fn next(&mut self, from: usize, begins_here: bool) -> Option<Range<usize>> {
        let mut behind = from;
        if begins_here {
            let start = from + self.line[from..].iter().take_while(|&&byte| is_space(byte)).count();
            if let Some(end) = self.object_end(start) {
                return Some(from..self.end_of_line(end));
            }
            behind = self.line.len().min(start + 1);
        }
        while !self.is_spent() {
            let start = behind + self.marker.find(&self.line[behind..])?;
            let end = self.object_end(start);
            if let Some(end) = end.filter(|&end| self.stands_alone(start..end)) {
                return Some(start..self.end_of_line(end));
            }
            behind = start + 1;
        }
        None
    }

    /// Where the object that starts at `start` ends, if there is one.
    fn object_end(&mut self, start: usize) -> Option<usize> {
        if self.is_spent() || self.line.get(start) != Some(&b'{') || is_malformed_record(&self.line[start..]) {
            return None;
        }
        let (len, looked_at) = leading_value(&self.line[start..]);
        self.attempts_left -= 1;
        self.work_left = self.work_left.saturating_sub(looked_at);
        len.map(|len| start + len)
    }

    /// Whether an object found behind a fragment is an audit event and not a part of the fragment. Requests and
    /// responses hold objects of kind Event as well: those of the core API, which say so in their apiVersion. And
    /// what continues an enclosing object or array was inside of one.
    fn stands_alone(&mut self, object: Range<usize>) -> bool {
        let next = self.line[object.end..].iter().find(|byte| !is_space(**byte));
        if matches!(next, Some(b',' | b':' | b']' | b'}')) {
            return false;
        }
        self.work_left = self.work_left.saturating_sub(object.len());
        let version = Head::of(&self.line[object]).api_version;
        version.is_none_or(|version| version.starts_with("audit.k8s.io/"))
    }

    /// The end of the white space and the newline behind `end`.
    fn end_of_line(&self, end: usize) -> usize {
        let space = self.line[end..].iter().take_while(|&&byte| is_space(byte) || byte == b'\n').count();
        end + space
    }

    fn is_spent(&self) -> bool {
        self.attempts_left == 0 || self.work_left == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","requestObject":{"kind":"Event","apiVersion":"v1","message":"}{\"kind\":\"Event\""}}"#;

    const TORN: Part = Part::Wrapped(Reason::Torn);

    /// The parts of the line that consists of `pieces`: each stretch as it is, with its part.
    fn check(pieces: &[(&[u8], Part)]) {
        let line: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        let found = salvage(&line, true);
        let found: Vec<(&[u8], Part)> = found.into_iter().map(|(range, part)| (&line[range], part)).collect();
        assert_eq!(found, pieces, "{}", String::from_utf8_lossy(&line));
    }

    // Fails if an event behind a fragment is lost, wherever the fragment was cut.
    #[test]
    fn an_event_behind_a_fragment_is_found_at_every_cut() {
        let line = format!("{EVENT}\n");
        for cut in 1..EVENT.len() {
            check(&[(&EVENT.as_bytes()[..cut], TORN), (line.as_bytes(), Part::Event)]);
        }
    }

    // Fails if several fragments or events on one line are not told apart.
    #[test]
    fn several_fragments_and_events_are_told_apart() {
        let glued = Part::Wrapped(Reason::Glued);
        let line = format!("{EVENT} \r\n");
        let event = EVENT.as_bytes();
        check(&[
            (event, Part::Event),
            (b"", glued),
            (event, Part::Event),
            (b"", glued),
            (line.as_bytes(), Part::Event),
        ]);
        check(&[(&event[..40], TORN), (event, Part::Event), (&event[..90], TORN), (line.as_bytes(), Part::Event)]);
        check(&[(b"{\"a\":1}  ", Part::Event), (b"", glued), (b"{\"b\":2}", Part::Event), (b"tail\n", TORN)]);
        check(&[(event, Part::Event), (&event[..100], TORN)]);
    }

    // Fails if a hole or a byte order mark costs the event behind it, or is not marked as what it is.
    #[test]
    fn an_event_behind_nuls_or_a_mark_is_found() {
        let (nul, mark) = (Part::Wrapped(Reason::Nul), Part::Wrapped(Reason::ByteOrderMark));
        check(&[(&[0; 5000], nul), (b" {\"any\":1}\n", Part::Event)]);
        check(&[(BYTE_ORDER_MARK, mark), (b"{\"any\":1}\n", Part::Event)]);
        check(&[(&[0], nul), (BYTE_ORDER_MARK, mark), (b"{}", Part::Event)]);
        check(&[(&[0; 9], nul), (b"\n", Part::Wrapped(Reason::Blank))]);
        check(&[(&[0; 9], nul), (b"x", Part::Wrapped(Reason::NotJson))]);
        check(&[(EVENT.as_bytes(), Part::Event), (&[0; 9], nul), (EVENT.as_bytes(), Part::Event)]);
        check(&[(&[&EVENT.as_bytes()[..30], &[0; 9]].concat(), TORN), (EVENT.as_bytes(), Part::Event)]);
    }

    // Fails if a core Event in the body of a torn audit event is delivered as if it were an audit event.
    #[test]
    fn objects_inside_a_fragment_are_not_events() {
        let body = r#"{"kind":"Event","apiVersion":"v1"}"#;
        let forged = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1"}"#;
        for rest in [",\"resp", "}", "]", " ,"] {
            let torn = format!("{{\"kind\":\"Event\",\"a\":{{\"requestObject\":{forged}{rest}");
            check(&[(torn.as_bytes(), TORN), (EVENT.as_bytes(), Part::Event)]);
        }
        let torn = format!("{{\"kind\":\"Event\",\"requestObject\":{body}");
        check(&[(torn.as_bytes(), TORN), (EVENT.as_bytes(), Part::Event)]);
        check(&[(torn.as_bytes(), Part::Wrapped(Reason::NotJson))]);
    }

    // Fails if the front of a line's last piece is taken for an object of its own.
    #[test]
    fn an_object_at_the_front_of_a_piece_counts_only_behind_nuls() {
        let piece = b"{\"nested\":1}{\"kind\":\"Event\"}\n";
        let expected = [(0..12, TORN), (12..29, Part::Event)];
        assert_eq!(salvage(piece, false), expected);
        assert_eq!(salvage(b"\0{\"a\":1}", false), [(0..1, Part::Wrapped(Reason::Nul)), (1..8, Part::Event)]);
    }

    // Fails if a line is wrapped for another reason than documented.
    #[test]
    fn what_holds_no_event_is_wrapped_with_its_reason() {
        for (line, reason) in [
            (&b"\n"[..], Reason::Blank),
            (b" \t\r\n", Reason::Blank),
            (b"5\n", Reason::NotAnObject),
            (b"[{\"kind\":\"Event\"}]\n", Reason::NotAnObject),
            (b"{\"a\":\n", Reason::NotJson),
            (b"I1121 klog line\n", Reason::NotJson),
            (b"{\"a\":\"\xff\"}\n", Reason::InvalidUtf8),
            (b"{\"kind\":\"MalformedLine\",\"apiVersion\":\"auditail/v1\",\"a\":1}\n", Reason::Reserved),
        ] {
            check(&[(line, Part::Wrapped(reason))]);
        }
    }

    // Fails if the search is not bounded: then a hostile line stalls the pipeline.
    #[test]
    fn the_search_is_bounded() {
        // Every marker opens an object that never ends: unbounded, this looks at the square of the length.
        let endless = "{\"kind\":\"Event\",\"a\":".repeat(100_000);
        let mut search = Search::new(endless.as_bytes());
        assert_eq!(search.next(0, true), None);
        assert!(search.attempts_left >= SALVAGE_ATTEMPTS_MAX - WORK_PER_BYTE - 1);
        // Every attempt is cheap, but there are many: the event behind the last one allowed stays wrapped.
        let cheap = format!("{}{EVENT}", "{\"kind\":\"Event\"!".repeat(SALVAGE_ATTEMPTS_MAX));
        check(&[(cheap.as_bytes(), Part::Wrapped(Reason::NotJson))]);
    }

    proptest! {
        // Fails if parts overlap, leave gaps, or call something an event that is not one object.
        #[test]
        fn parts_tile_any_line(pieces in proptest::collection::vec(
            prop_oneof![
                Just(EVENT.as_bytes().to_vec()),
                (1..EVENT.len()).prop_map(|cut| EVENT.as_bytes()[..cut].to_vec()),
                (1..9usize).prop_map(|count| vec![0; count]),
                proptest::collection::vec(any::<u8>().prop_filter("ends a line", |byte| *byte != b'\n'), 0..9),
            ],
            0..6,
        ), from_start: bool) {
            let line = pieces.concat();
            let mut at = 0;
            for (range, part) in salvage(&line, from_start) {
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty() || part == Part::Wrapped(Reason::Glued));
                if part == Part::Event {
                    let event: serde_json::Value = serde_json::from_slice(&line[range.clone()]).unwrap();
                    prop_assert!(event.is_object());
                }
                at = range.end;
            }
            prop_assert_eq!(at, line.len());
        }
    }
}
