//! Real audit logs through framing and compression, and back to the byte. `data/audit/README.md` tells what they are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // A test fails by panicking.

use std::io::Read;
use std::path::{Path, PathBuf};

use auditail::compress::inflate::{GzipReader, State};
use auditail::compress::{BodyBuilder, Compressor, worst_case_pages};
use auditail::frame::{Content, Framer, Shape};
use auditail::limits::BLOCK_BYTES;
use auditail::manifest::Encoding;
use auditail::pool::PagePool;
use auditail::record::{is_malformed_record, restore, unwrap};
use auditail::types::Span;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audit").join(name)
}

fn corpus(name: &str) -> Vec<u8> {
    zstd::stream::decode_all(std::fs::File::open(data(name)).unwrap()).unwrap()
}

/// Cuts a log as the tail stage does: whole lines, as many as fit into a block, at least one.
fn blocks(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = log;
    std::iter::from_fn(move || {
        let limit = rest.len().min(BLOCK_BYTES);
        let in_block = memchr::memrchr(b'\n', &rest[..limit]);
        let newline = in_block.or_else(|| memchr::memchr(b'\n', rest));
        let block;
        (block, rest) = rest.split_at(newline.map_or(rest.len(), |at| at + 1));
        (!block.is_empty()).then_some(block)
    })
}

/// Sends a clean log of `lines` lines through framing and compression and checks that it comes out as it went in.
fn check(log: &[u8], lines: u64, encoding: Encoding) {
    let pool = PagePool::new(512);
    let (mut framer, mut compressor) = (Framer::new(), Compressor::new(encoding, 3).unwrap());
    let (mut body, mut start, mut events) = (BodyBuilder::new(encoding), 0, 0);
    for block in blocks(log) {
        let framed = framer.frame(block, start, Shape::Lines);
        assert_eq!((&framed.content, framed.malformed), (&Content::AsRead, 0), "block at {start}");
        for mark in [framed.first.unwrap(), framed.last.unwrap()] {
            assert!(mark.audit_id.is_some_and(|id| !id.is_empty()) && mark.stage_us.is_some(), "block at {start}");
        }
        let mut pages = pool.reserve(worst_case_pages(block.len())).expect("pages");
        body.push(compressor.segment(block, &mut pages).unwrap());
        start += block.len() as u64;
        events += framed.events;
    }
    assert_eq!((events, body.content_bytes(), pool.overflow_count()), (lines, log.len() as u64, 0));
    let body = body.finish().concat();
    let mut content = Vec::with_capacity(log.len());
    match encoding {
        Encoding::Gzip => flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut content).unwrap(),
        Encoding::Zstd => zstd::stream::read::Decoder::new(&body[..]).unwrap().read_to_end(&mut content).unwrap(),
    };
    assert!(content == log, "{encoding:?} body differs from the log");
}

// Fails if a real event is taken for malformed, or any byte changes on its way into a body.
#[test]
fn every_line_of_each_corpus_is_delivered_byte_for_byte() {
    for (name, lines, encoding) in [
        ("corpus-metadata.jsonl.zst", 28_000, Encoding::Gzip),
        ("corpus-mixed.jsonl.zst", 17_448, Encoding::Zstd),
        ("corpus-large-events.jsonl.zst", 3_013, Encoding::Gzip),
    ] {
        check(&corpus(name), lines, encoding);
    }
}

// Fails if a backup that the server compressed is not read to its end, or read differently than it was written.
#[test]
fn every_line_of_the_rotation_run_is_delivered_byte_for_byte() {
    let mut backups: Vec<PathBuf> = std::fs::read_dir(data("rotation-run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect();
    backups.sort();
    assert_eq!(backups.len(), 8);
    let mut log = Vec::new();
    for path in backups {
        let (file, mut reader, mut at) = (std::fs::read(&path).unwrap(), GzipReader::new(), 0);
        loop {
            let input = &file[at..file.len().min(at + 8192)];
            let progress = reader.push(input, &mut log, 100_000).unwrap();
            at += progress.consumed;
            if at == file.len() && progress.state != State::OutputFull {
                assert_eq!(progress.state, State::Complete, "{}", path.display());
                break;
            }
        }
    }
    log.extend(corpus("rotation-run/audit.log.zst"));
    assert_eq!(log.len(), 18_840_763);
    check(&log, 6_022, Encoding::Gzip);
}

// Fails if a crash of the server in the middle of a real event costs the event that follows on the same line.
#[test]
fn real_events_behind_torn_ones_are_salvaged() {
    let mixed = corpus("corpus-mixed.jsonl.zst");
    let lines: Vec<&[u8]> = mixed.split_inclusive(|&byte| byte == b'\n').collect();
    let (mut framer, mut torn) = (Framer::new(), 0);
    for (number, pair) in lines.windows(2).enumerate().step_by(7) {
        // Cuts at a page boundary where the event has one, elsewhere in others.
        let cut = if pair[0].len() > 4096 { 4096 } else { 1 + number % (pair[0].len() - 2) };
        let (fragment, event) = (&pair[0][..cut], pair[1]);
        let line = [fragment, event].concat();
        let framed = framer.frame(&line, 0, Shape::Lines);
        let content = framed.content.bytes(&line);
        let (record, rest) = content.split_at(memchr::memchr(b'\n', content).unwrap() + 1);
        assert!(unwrap(record).unwrap().bytes == fragment, "line {number} cut at {cut}");
        assert!(rest == event && framed.events == 1, "line {number} cut at {cut}");
        torn += 1;
    }
    assert_eq!(torn, lines.len().saturating_sub(1).div_ceil(7));
}

/// Frames every file below `folder` and checks that it can be restored; returns files, events and malformed records.
fn frame_all(folder: &Path) -> (u64, u64, u64) {
    let (mut files, mut events, mut malformed) = (0, 0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let counted = if path.is_dir() {
            frame_all(&path)
        } else {
            let file = std::fs::read(&path).unwrap();
            let framed = Framer::new().frame(&file, 0, Shape::Lines);
            let content = framed.content.bytes(&file);
            assert!(restore(content, Span::new(0, file.len() as u64)).unwrap() == file, "{}", path.display());
            let lines = content.split_inclusive(|&byte| byte == b'\n');
            let records = lines.filter(|line| is_malformed_record(line)).count() as u64;
            assert_eq!(framed.malformed, records, "{}", path.display());
            (1, framed.events, framed.malformed)
        };
        files += counted.0;
        events += counted.1;
        malformed += counted.2;
    }
    (files, events, malformed)
}

// Fails if a log of another shape cannot be restored from what is delivered.
#[test]
fn samples_of_other_shapes_are_restored() {
    let (files, events, malformed) = frame_all(&data("samples"));
    assert_eq!(files, 11);
    assert!(events > 0 && malformed > 0, "{events} events, {malformed} malformed");
}

// Fails if a sample of a third party cannot be restored from what is delivered.
#[test]
fn samples_of_third_parties_are_restored() {
    let Some(folder) = std::env::var_os("AUDITAIL_SAMPLES").map(PathBuf::from).filter(|folder| folder.is_dir()) else {
        println!("skipped: AUDITAIL_SAMPLES names no folder of samples");
        return;
    };
    let (files, events, malformed) = frame_all(&folder);
    assert!(files > 0, "no samples in {}", folder.display());
    println!("{files} files: {events} events, {malformed} malformed records");
}
