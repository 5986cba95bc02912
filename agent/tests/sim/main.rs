//! Deterministic simulation: one seed gives a schedule of what happens to the log, the disk, the destination and the
//! agent; the real pipeline runs through it on a simulated disk, clock and destination, and what arrived is judged.
//!
//! `AUDITAIL_SIM_SEEDS` sets how many seeds are tried, `AUDITAIL_SIM_FIRST` where they begin, and `AUDITAIL_SIM_SEED` one to
//! be replayed with a trace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code outside of test functions"
)]

mod destination;
mod disk;
mod schedule;
mod world;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that once failed, and what they found.
const REGRESSIONS: [(u64, &str); 5] = [
    (973, "a removed backup that is held open was read behind the live file, whose unfinished line was cut for that"),
    (1214, "a file that could not be looked into after a restart was taken for younger than the file behind it"),
    (3395, "the copy of a file begun behind a hole, in the middle of its first line, was taken for new"),
    (5128, "a decided range was given up while the compressed form of its file could not be looked into"),
    (
        10029,
        "without birth times, a new backup with the name and the inode of a closed one was taken for that one, grown",
    ),
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a seed; a failure is told with the shortest schedule that fails too.
fn check(seed: u64) -> Result<world::Summary, String> {
    let schedule = schedule::from_seed(seed);
    let failure = match world::run(&schedule, false) {
        Ok(summary) => return Ok(summary),
        Err(failure) => failure,
    };
    let fails = |shorter: &schedule::Schedule| world::run(shorter, false).is_err();
    let shortest = schedule::minimise(&schedule, fails);
    let again = world::run(&shortest, false).err().unwrap_or_default();
    Err(format!("seed {seed}: {failure}\nshortest: {again}\n{:#?}\n{:?}", shortest.steps, shortest.settings))
}

// Fails if one of the faults that the simulation has found comes back.
#[test]
fn regressions() {
    for (seed, found) in REGRESSIONS {
        let failure = check(seed).err();
        assert!(failure.is_none(), "once: {found}\n{}", failure.unwrap_or_default());
    }
}

// Fails if any promise is broken in any of the seeds: see `world::judge`.
#[test]
fn seeds() {
    if let Some(seed) = number("AUDITAIL_SIM_SEED") {
        let failure = check(seed);
        let schedule = schedule::from_seed(seed);
        let fails = |shorter: &schedule::Schedule| world::run(shorter, false).is_err();
        let shortest = if failure.is_err() { schedule::minimise(&schedule, fails) } else { schedule };
        // The agent's own log lines belong to the trace.
        let _ = auditail::observe::log::init(auditail::config::LogFormat::Text, tracing::Level::DEBUG);
        println!("{:?}", world::run(&shortest, true));
        return assert!(failure.is_ok(), "{}", failure.err().unwrap_or_default());
    }
    let (first, count) = (number("AUDITAIL_SIM_FIRST").unwrap_or(0), number("AUDITAIL_SIM_SEEDS").unwrap_or(500));
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<world::Summary, String>> = std::thread::scope(|scope| {
        let work = || {
            let mut results = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count || results.iter().filter(|result: &&Result<_, _>| result.is_err()).count() >= 3
                {
                    return results;
                }
                results.push(check(seed));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (mut total, mut failures) = (world::Summary::default(), Vec::new());
    for result in results {
        match result {
            Ok(summary) => total.add(&summary),
            Err(failure) => failures.push(failure),
        }
    }
    println!("{total:?}");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n\n"));
    // A simulation in which nothing happens proves nothing.
    assert!(total.delivered > 0 && total.delivered + total.excused >= total.written, "{total:?}");
}
