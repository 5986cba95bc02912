//! The whole pipeline in one process: real files in a temporary directory, a destination that does as it is told.
#![allow(clippy::unwrap_used)] // The exception for tests does not reach their helper functions.

mod pipeline_support;

use std::fs;
use std::time::Duration;

use auditail::manifest::Kind;
use auditail::upload::Outcome;
use pipeline_support::{Agent, Node, VIRTUAL, event, gzip};

/// Longer than a look, shorter than a rescan. Real time, because processor time is measured in it.
const QUIET: Duration = Duration::from_millis(1500);

// Fails if a file that has been read to its end is read over and over while the file behind it is still empty, or if
// what is written to that one then waits for the next rescan.
#[test]
fn an_empty_new_log_costs_nothing_and_delays_nothing() {
    Node::new("").run(async |node| {
        node.append("audit.log", &event(1));
        let agent = Agent::start(node);
        agent.delivered(1).await;
        node.rename("audit.log", "audit-2026-11-21T02-17-46.037.log");
        node.append("audit.log", b"");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let turns = agent.cpu_time();
        tokio::time::sleep(QUIET).await;
        let spent = agent.cpu_time() - turns;
        assert!(spent < QUIET / 4, "idle, and {spent:?} of processor time in {QUIET:?}");
        node.append("audit.log", &event(2));
        agent.delivered(2).await;
        agent.stop().await;
    });
}

// Fails if a backup that was delivered as it was is delivered again once it is compressed and its open file closed.
#[test]
fn a_delivered_backup_is_not_delivered_again_as_gz() {
    Node::new(VIRTUAL).run_in_virtual_time(async |node| {
        node.append("audit.log", &event(1));
        let agent = Agent::start(node);
        agent.delivered(1).await;
        let backup = "audit-2026-11-21T02-17-46.037.log";
        node.rename("audit.log", backup);
        node.append("audit.log", &event(2));
        agent.delivered(2).await;
        fs::write(node.path(&format!("{backup}.gz")), gzip(&event(1))).unwrap();
        fs::remove_file(node.path(backup)).unwrap();
        // Longer than finished files are kept open.
        tokio::time::sleep(Duration::from_secs(13)).await;
        node.append("audit.log", &event(3));
        agent.delivered(3).await;
        agent.stop().await;
    });
}

// Fails if parts of a chunk that is too large do not become smaller, wherever in it the large event stands, or if a
// line that cannot be divided is divided for ever.
#[test]
fn a_chunk_that_is_too_large_is_divided_to_its_end() {
    let large = |n| padded(n, 3000);
    let torn = || [&b"{\"torn\":"[..], &large(9)].concat();
    for lines in [
        vec![event(1), large(2)],
        vec![large(1), event(2)],
        vec![event(1), event(2), large(3), event(4)],
        vec![event(1), torn()],
    ] {
        Node::new("").run(async |node| {
            node.append("audit.log", &lines.concat());
            let agent = Agent::start_with(node, |delivery| match delivery.manifest.span.len() {
                0..2000 => Outcome::Delivered,
                _ => Outcome::TooLarge,
            });
            agent.covered(lines.concat().len() as u64).await;
            agent.stop().await;
        });
    }
}

// Fails if a range of a decided chunk is given up because its file may not be read for a while.
#[test]
fn a_log_that_may_not_be_listed_is_not_lost() {
    Node::new(VIRTUAL).run_in_virtual_time(async |node| {
        node.append("audit-2026-11-21T02-17-46.037.log", &event(1));
        node.append("audit.log", &event(2));
        let agent = Agent::start_with(node, |_| Outcome::Retry { reason: "down".into(), after: None });
        agent.attempted().await;
        agent.kill();
        // As when the volume is mounted late.
        fs::rename(node.log_directory(), node.log_directory().with_extension("away")).unwrap();
        let agent = Agent::start(node);
        tokio::time::sleep(Duration::from_secs(3)).await;
        fs::rename(node.log_directory().with_extension("away"), node.log_directory()).unwrap();
        agent.delivered(2).await;
        assert!(agent.seen().iter().all(|manifest| manifest.kind == Kind::Lines), "a loss was reported");
        agent.stop().await;
    });
}

// Fails if bytes that were known to be in a log when it was emptied are not reported lost.
#[test]
fn what_an_emptied_log_held_unread_is_reported() {
    Node::new("").run(async |node| {
        // The unfinished line is seen together with the event, and waits.
        node.append("audit.log", &[&event(1)[..], b"{\"half"].concat());
        let agent = Agent::start(node);
        agent.delivered(1).await;
        fs::write(node.path("audit.log"), event(2)).unwrap();
        agent.delivered(2).await;
        agent.covered(event(1).len() as u64 * 2 + 6).await;
        let lost: Vec<_> =
            agent.seen().iter().filter(|manifest| manifest.kind == Kind::Loss).map(|m| m.span.len()).collect();
        assert_eq!(lost, [6]);
        agent.stop().await;
    });
}

/// An event with so much behind it on its line.
fn padded(n: u64, padding: usize) -> Vec<u8> {
    let mut line = event(n);
    line.pop();
    line.resize(line.len() + padding, b' ');
    line.push(b'\n');
    line
}
