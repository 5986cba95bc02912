//! `auditail verify` on archives that the receiver wrote, and on the same archives damaged.

#[allow(dead_code)] // Each test file uses a part of it.
mod receive_support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use auditail::manifest::{Kind, PartOf};
use auditail::receive::verify::report::{Report, What};
use auditail::receive::verify::verify;
use auditail::types::{ChunkId, Span};
use futures_util::future::join_all;
use receive_support::{Chunk, Running, chain, digest, files};

/// Sends all chunks at once, the last first.
async fn archive_of(root: &Path, chunks: &[Chunk]) {
    let receiver = Running::start(root, |_| ()).await;
    let answers = join_all(chunks.iter().rev().map(|chunk| receiver.send(chunk))).await;
    for answer in answers {
        assert!(answer.is(200, "stored"), "{answer:?}");
    }
    receiver.stop().await;
}

fn whats(report: &Report) -> Vec<What> {
    report.problems.iter().map(|problem| problem.what).collect()
}

// Fails if uploads at once and out of order lose something, or if what was delivered is not what is extracted.
#[tokio::test]
async fn concurrent_uploads_make_a_complete_archive() {
    let root = tempfile::tempdir().unwrap();
    let archive = root.path().join("archive");
    let chunks = chain(30);
    archive_of(&archive, &chunks).await;
    let extract = root.path().join("extract");
    let report = verify(&archive, Some(&extract)).unwrap();
    assert!(report.complete && report.notes.is_empty(), "{report}");
    assert_eq!((report.totals.chunks, report.totals.events), (30, (1..=30).sum()));
    let delivered: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.content.clone()).collect();
    assert_eq!(fs::read(extract).unwrap(), delivered);
    assert!(report.to_string().contains("complete: nothing missing"));
}

// Fails if some damage to some file of an archive goes unnoticed, or another file is named.
#[tokio::test]
async fn every_damaged_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    archive_of(root.path(), &chain(4)).await;
    for file in files(root.path()) {
        let sound = fs::read(&file).unwrap();
        let relative = file.strip_prefix(root.path()).unwrap().to_str().unwrap();
        let stem = &relative[..relative.find(".ndjson").or(relative.find(".json")).unwrap()];
        let named = |what: What| {
            let report = verify(root.path(), None).unwrap();
            let problem = report.problems.iter().find(|problem| problem.what == what);
            assert_eq!(problem.map(|problem| problem.at.as_str()), Some(stem), "{report}");
        };
        if relative.ends_with(".json") {
            fs::write(&file, &sound[..sound.len() / 2]).unwrap();
            named(What::DamagedManifest);
            let text = String::from_utf8(sound.clone()).unwrap();
            fs::write(&file, text.replacen("\"events\": ", "\"events\": 1", 1)).unwrap();
            named(What::FalseManifest);
            fs::write(&file, text.replacen("\"node_id\": \"", "\"node_id\": \"x", 1)).unwrap();
            named(What::Misplaced);
        } else {
            let mut altered = sound.clone();
            altered[sound.len() / 2] ^= 0x10;
            fs::write(&file, &altered).unwrap();
            let report = verify(root.path(), None).unwrap();
            let named_at: BTreeSet<_> = report.problems.iter().map(|problem| problem.at.as_str()).collect();
            assert_eq!(named_at, BTreeSet::from([stem]), "{report}");
            fs::write(&file, &sound[..sound.len() - 1]).unwrap();
            named(What::DamagedBody);
            fs::remove_file(&file).unwrap();
            named(What::MissingBody);
            assert_eq!(verify(root.path(), None).unwrap().totals.chunks, 3, "a chunk without body does not count");
        }
        fs::write(&file, &sound).unwrap();
    }
    assert!(verify(root.path(), None).unwrap().complete);
}

// Fails if a chunk that is gone altogether, or only its manifest, goes unnoticed.
#[tokio::test]
async fn missing_chunks_are_found() {
    let root = tempfile::tempdir().unwrap();
    archive_of(root.path(), &chain(3)).await;
    let second: Vec<_> = files(root.path())
        .into_iter()
        .filter(|file| file.display().to_string().contains("/00000000000000000002-"))
        .collect();
    fs::remove_file(second.iter().find(|file| file.extension().unwrap() == "json").unwrap()).unwrap();
    let report = verify(root.path(), None).unwrap();
    assert_eq!(whats(&report), [What::SequenceGap, What::RangeGap]);
    assert_eq!(report.notes[0].what, What::LeftOver);
    fs::remove_file(second.iter().find(|file| file.extension().unwrap() != "json").unwrap()).unwrap();
    let report = verify(root.path(), None).unwrap();
    assert_eq!((whats(&report), report.notes.len()), (vec![What::SequenceGap, What::RangeGap], 0));
    assert_eq!(whats(&verify(&root.path().join(".incoming"), None).unwrap()), [What::Empty]);
}

// Fails if the parts of a split chunk are not accepted as the chunk, or if a missing part is.
#[tokio::test]
async fn a_split_chunk_counts_as_one() {
    let root = tempfile::tempdir().unwrap();
    let mut chunks = chain(4);
    let whole = chunks.remove(2);
    let part_of = Some(PartOf { id: whole.manifest.id, span: whole.manifest.span, digest: whole.manifest.digest });
    let line = whole.content.len() / 3;
    let (start, end) = (whole.manifest.span.start, whole.manifest.span.end);
    let middle = start + line as u64;
    let part = |id: u8, content: &[u8], start, end, events| {
        whole.holding(content).but(|manifest| {
            manifest.id = ChunkId([id; 16]);
            manifest.span = Span::new(start, end);
            manifest.events = events;
            manifest.part_of = part_of;
        })
    };
    // The ids sort the other way round: only the ranges give the order.
    chunks.push(part(101, &whole.content[..line], start, middle, 1));
    chunks.push(part(100, &whole.content[line..], middle, end, 2));
    archive_of(root.path(), &chunks).await;
    let report = verify(root.path(), None).unwrap();
    assert!(report.complete, "{report}");
    assert_eq!((report.totals.chunks, report.totals.events), (5, 10));
    for file in files(root.path()).into_iter().filter(|file| file.display().to_string().contains(&"65".repeat(16))) {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(whats(&verify(root.path(), None).unwrap()), [What::IncompleteParts, What::RangeGap]);
}

// Fails if a declared loss breaks the chain, passes for complete, or is extracted as if it had been logged.
#[tokio::test]
async fn a_loss_is_listed() {
    let root = tempfile::tempdir().unwrap();
    let archive = root.path().join("archive");
    let mut chunks = chain(2);
    let start = chunks[0].manifest.span.end;
    let record = format!("{{\"kind\":\"Loss\",\"reason\":\"removed\",\"span\":[{start},null]}}\n");
    chunks[1] = chunks[1].holding(record.as_bytes()).but(|manifest| {
        manifest.kind = Kind::Loss;
        manifest.events = 0;
        manifest.span = Span::new(start, start);
    });
    archive_of(&archive, &chunks).await;
    let extract = root.path().join("extract");
    let report = verify(&archive, Some(&extract)).unwrap();
    assert_eq!(whats(&report), [What::Loss]);
    assert_eq!(
        (report.losses[0].start, report.losses[0].end, report.losses[0].reason.as_str()),
        (start, None, "removed")
    );
    assert_eq!(digest(&fs::read(extract).unwrap()), chunks[0].manifest.digest);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["complete"], &json["losses"][0]["reason"]), (&false.into(), &"removed".into()));
}
