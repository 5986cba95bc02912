use proptest::prelude::*;

use super::*;
use crate::record::{is_malformed_record, restore, unwrap};
use crate::types::Span;

const EVENT: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"first","stageTimestamp":"1970-01-01T00:00:01.000001Z"}"#;

fn frame(bytes: &[u8], start: u64, shape: Shape) -> Framed {
    Framer::new().frame(bytes, start, shape)
}

fn span_of(bytes: &[u8], start: u64) -> Span {
    Span::new(start, start + bytes.len() as u64)
}

/// The reasons and bytes of all records in `content`.
fn records(content: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let lines = content.split_inclusive(|&byte| byte == b'\n').filter(|line| is_malformed_record(line));
    lines.map(|line| unwrap(line).unwrap()).map(|record| (record.reason, record.bytes)).collect()
}

// Fails if clean lines are copied or changed, or the counts or marks are wrong.
#[test]
fn clean_lines_are_delivered_as_read() {
    let block = format!("{EVENT}\r\n{{}}\n{{\"auditID\":\"last\"}}  \n");
    let framed = frame(block.as_bytes(), 0, Shape::Lines);
    let first = Mark { audit_id: Some("first".into()), stage_us: Some(1_000_001) };
    let last = Mark { audit_id: Some("last".into()), stage_us: None };
    let (content, first, last) = (Content::AsRead, Some(first), Some(last));
    assert_eq!(framed, Framed { content, events: 3, malformed: 0, malformed_bytes: 0, first, last });
}

// Fails if a bad line disturbs the lines around it, or its span is not that of its bytes.
#[test]
fn a_malformed_line_is_wrapped_between_events() {
    let block = format!("{EVENT}\nnot json\n{EVENT}\n");
    let framed = frame(block.as_bytes(), 1000, Shape::Lines);
    let start = 1000 + EVENT.len() + 1;
    let record = format!(
        r#"{{"kind":"MalformedLine","apiVersion":"auditail/v1","reason":"not_json","span":[{start},{}],"text":"not json\n"}}"#,
        start + 9
    );
    assert_eq!(framed.content, Content::Rewritten(format!("{EVENT}\n{record}\n{EVENT}\n").into_bytes()));
    assert_eq!((framed.events, framed.malformed, framed.malformed_bytes), (2, 1, 9));
}

// Fails if a line of the log can pass for a record of the agent: then unwrapping would not give the file's bytes.
#[test]
fn a_line_that_looks_like_a_record_is_wrapped() {
    let mut record = Vec::new();
    record::wrap(&mut record, Reason::Blank, 0, b"\n", None);
    let framed = frame(&record, 50, Shape::Lines);
    let content = framed.content.bytes(&record);
    assert_eq!(records(content), [(Reason::Reserved, record.clone())]);
    assert_eq!(restore(content, span_of(&record, 50)).unwrap(), record);
}

// Fails if the end of a file that lacks its newline is lost, or a half event there passes for a whole one.
#[test]
fn the_unterminated_end_of_a_file_is_delivered() {
    let framed = frame(EVENT.as_bytes(), 0, Shape::Lines);
    assert_eq!(
        (framed.content, framed.events, framed.malformed),
        (Content::Rewritten(format!("{EVENT}\n").into()), 1, 0)
    );
    for (end, reason) in
        [(&EVENT.as_bytes()[..50], Reason::Unterminated), (b"\xff", Reason::Unterminated), (b"\0", Reason::Nul)]
    {
        let block = [EVENT.as_bytes(), b"\n", end].concat();
        let framed = frame(&block, 0, Shape::Lines);
        assert_eq!((framed.events, records(framed.content.bytes(&block))), (1, vec![(reason, end.to_vec())]));
        let block = [EVENT.as_bytes(), end].concat();
        let framed = frame(&block, 0, Shape::Lines);
        assert_eq!((framed.events, records(framed.content.bytes(&block))), (1, vec![(reason, end.to_vec())]));
    }
}

// Fails if a piece is parsed before its line ends, an event behind a hole is lost, or a piece has no mark.
#[test]
fn pieces_of_a_long_line_are_marked() {
    let (middle, last) = (Piece { first: false, last: false }, Piece { first: false, last: true });
    let framed = frame(EVENT.as_bytes(), 7, Shape::Piece(middle));
    let record = unwrap(framed.content.bytes(&[])).unwrap();
    assert_eq!((record.reason, record.piece, record.bytes), (Reason::TooLong, Some(middle), EVENT.into()));
    let hole = frame(&[0; 100], 7, Shape::Piece(middle));
    assert_eq!(unwrap(hole.content.bytes(&[])).unwrap().reason, Reason::Nul);
    for front in [&b"of a torn event"[..], &[0; 100]] {
        let block = [front, EVENT.as_bytes(), b"\n"].concat();
        let framed = frame(&block, 7, Shape::Piece(last));
        let content = framed.content.bytes(&block);
        assert!(content.ends_with(format!("\n{EVENT}\n").as_bytes()));
        assert_eq!(
            (
                framed.events,
                framed.malformed,
                unwrap(content.split_inclusive(|b| *b == b'\n').next().unwrap()).unwrap().piece
            ),
            (1, 1, Some(last))
        );
    }
}

// Fails if a long auditID is cut inside a character, or an event's own escapes reach the manifest.
#[test]
fn an_audit_id_is_unescaped_and_cut() {
    let event = format!("{{\"auditID\":\"\\u0041{}\"}}\n", "é".repeat(200));
    let id = frame(event.as_bytes(), 0, Shape::Lines).first.unwrap().audit_id.unwrap();
    assert_eq!(id, format!("A{}", "é".repeat(127)));
}

/// Stretches of audit logs, good and bad.
fn stretch() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(format!("{EVENT}\n").into_bytes()),
        1 => Just(EVENT.as_bytes().to_vec()),
        1 => (1..EVENT.len()).prop_map(|cut| EVENT.as_bytes()[..cut].to_vec()),
        1 => (1..20usize).prop_map(|count| vec![0; count]),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"\xef\xbb\xbf".to_vec()),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    // Fails if any input panics, is not restored to the byte, is counted wrongly, or is framed differently when it
    // is cut into other blocks.
    #[test]
    fn any_bytes_are_restored_however_they_are_cut(
        stretches in proptest::collection::vec(stretch(), 0..12),
        start in 0..1u64 << 40,
    ) {
        let file = stretches.concat();
        let framed = frame(&file, start, Shape::Lines);
        let content = framed.content.bytes(&file);
        let restored = restore(content, span_of(&file, start)).unwrap();
        prop_assert!(restored == file, "{:?}", content);

        let lines: Vec<&[u8]> = content.split_inclusive(|&byte| byte == b'\n').collect();
        let wrapped: Vec<_> = lines.iter().filter(|line| is_malformed_record(line)).collect();
        prop_assert_eq!(framed.malformed, wrapped.len() as u64);
        prop_assert_eq!(framed.events, (lines.len() - wrapped.len()) as u64);
        let bytes: usize = wrapped.iter().map(|line| unwrap(line).unwrap().bytes.len()).sum();
        prop_assert_eq!(framed.malformed_bytes, bytes as u64);

        let (mut framer, mut at, mut by_line) = (Framer::new(), start, Vec::new());
        for line in file.split_inclusive(|&byte| byte == b'\n') {
            by_line.extend_from_slice(framer.frame(line, at, Shape::Lines).content.bytes(line));
            at += line.len() as u64;
        }
        prop_assert!(by_line == content);
    }

    // Fails if pieces lose bytes or panic.
    #[test]
    fn any_piece_is_restored(stretches in proptest::collection::vec(stretch(), 1..6), first: bool, last: bool) {
        let mut line: Vec<u8> = stretches.concat();
        line.retain(|&byte| byte != b'\n');
        let framed = frame(&line, 9, Shape::Piece(Piece { first, last }));
        prop_assert_eq!(restore(framed.content.bytes(&line), span_of(&line, 9)), Ok(line));
    }
}

// Fails if the example in docs/records.md is no longer what happens.
#[test]
fn the_documented_example_holds() {
    let block = b"{\"kind\":\"Ev{\"kind\":\"Event\",\"n\":1}{\"kind\":\"Event\",\"n\":2}\n";
    let documented = concat!(
        r#"{"kind":"MalformedLine","apiVersion":"auditail/v1","reason":"torn","span":[100,111],"text":"{\"kind\":\"Ev"}"#,
        "\n{\"kind\":\"Event\",\"n\":1}\n",
        r#"{"kind":"MalformedLine","apiVersion":"auditail/v1","reason":"glued","span":[133,133],"text":""}"#,
        "\n{\"kind\":\"Event\",\"n\":2}\n",
    );
    let framed = frame(block, 100, Shape::Lines);
    assert_eq!(framed.content, Content::Rewritten(documented.as_bytes().to_vec()));
    assert_eq!(restore(documented.as_bytes(), span_of(block, 100)).unwrap(), block);
}
