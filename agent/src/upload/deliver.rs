//! Delivering one chunk for good: attempts until the destination has it or will never take it.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::retry::{self, Backoff, RetryPolicy};
use super::{Delivery, Destination, Outcome};

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The destination has it.
    Delivered,
    /// The destination takes no body of this size: the chunk must be split.
    TooLarge,
    /// The destination will never take it: the chunk must be set aside.
    Refused {
        /// Why.
        reason: String,
    },
}

/// One attempt, for whoever counts.
#[derive(Clone, Copy, Debug)]
pub struct AttemptReport<'a> {
    /// 1 for the first attempt of this call.
    pub attempt: u64,
    /// What it came to.
    pub outcome: &'a Outcome,
    /// How long it took.
    pub elapsed: Duration,
    /// How long until the next; `None` after the last.
    pub pause: Option<Duration>,
}

/// Sends `delivery` until the destination has it, or answers that it never will take it; retries everything else
/// for ever. `events` is called after each attempt; failures are logged here, those that repeat ever more rarely.
/// Dropping the future between or in attempts is safe: the chunk is sent again under the same id.
pub async fn deliver<T: Destination>(
    destination: &T,
    delivery: &Delivery,
    policy: &RetryPolicy,
    rng: &mut fastrand::Rng,
    events: &mut impl FnMut(AttemptReport<'_>),
) -> Verdict {
    let mut backoff = Backoff::new(policy.initial, policy.max);
    let mut failures = Failures::default();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let started = Instant::now();
        let outcome = destination.send(delivery).await;
        let pause = retry::pause(&outcome, &mut backoff, policy, rng.f64());
        events(AttemptReport { attempt, outcome: &outcome, elapsed: started.elapsed(), pause });
        match outcome {
            Outcome::Delivered => {
                if attempt > 1 {
                    tracing::info!(chunk = %delivery.manifest.id, attempt, "delivered after failed attempts");
                }
                return Verdict::Delivered;
            }
            Outcome::TooLarge => return Verdict::TooLarge,
            Outcome::Refused { reason } => return Verdict::Refused { reason },
            Outcome::Unauthorized { .. } | Outcome::Retry { .. } => {
                if failures.worth_a_line(&outcome) {
                    log(delivery, attempt, &outcome, pause.unwrap_or_default());
                }
            }
        }
        sleep(pause.unwrap_or_default()).await;
    }
}

/// Decides which of many like failures are logged: the first of a kind, then the 2nd, 4th, 8th …
#[derive(Default)]
struct Failures {
    kind: Option<Discriminant<Outcome>>,
    count: u64,
}

impl Failures {
    fn worth_a_line(&mut self, outcome: &Outcome) -> bool {
        let kind = Some(discriminant(outcome));
        self.count = if self.kind == kind { self.count + 1 } else { 1 };
        self.kind = kind;
        self.count.is_power_of_two()
    }
}

fn log(delivery: &Delivery, attempt: u64, outcome: &Outcome, pause: Duration) {
    let chunk = delivery.manifest.id;
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Unauthorized { reason } => {
            tracing::error!(%chunk, attempt, pause_ms, reason, "the destination takes nothing from us as configured");
        }
        Outcome::Retry { reason, .. } => {
            tracing::warn!(%chunk, attempt, pause_ms, reason, "delivery failed, trying again")
        }
        Outcome::Delivered | Outcome::TooLarge | Outcome::Refused { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::manifest::{Encoding, Kind, Manifest};
    use crate::types::{ChunkId, Digest, FileId, Fingerprint, Span, StreamId};

    /// Answers from a list.
    struct Scripted(RefCell<std::vec::IntoIter<Outcome>>);

    impl Destination for Scripted {
        async fn send(&self, _: &Delivery) -> Outcome {
            self.0.borrow_mut().next().unwrap()
        }
    }

    fn delivery() -> Delivery {
        let manifest = Manifest {
            id: ChunkId([7; 16]),
            kind: Kind::Lines,
            cluster_id: "cluster".into(),
            service_id: String::new(),
            node_id: "node".into(),
            stream: StreamId([1; 16]),
            source: "/audit.log".into(),
            path: "/audit.log".into(),
            file: FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"{}\n") },
            span: Span::new(0, 3),
            sequence: 1,
            previous: Digest::ZERO,
            digest: Digest::ZERO,
            content_bytes: 3,
            events: 1,
            malformed: 0,
            first_audit_id: None,
            last_audit_id: None,
            part_of: None,
        };
        Delivery { manifest, encoding: Encoding::Gzip, body: Vec::new() }
    }

    fn retry() -> Outcome {
        Outcome::Retry { reason: "503".into(), after: None }
    }

    fn unauthorized() -> Outcome {
        Outcome::Unauthorized { reason: "401".into() }
    }

    async fn run(outcomes: Vec<Outcome>) -> (Verdict, Vec<(u64, bool)>) {
        let step = Duration::from_micros(1);
        let policy = RetryPolicy { initial: step, max: step, unauthorized: step };
        let mut seen = Vec::new();
        let verdict = deliver(
            &Scripted(RefCell::new(outcomes.into_iter())),
            &delivery(),
            &policy,
            &mut fastrand::Rng::with_seed(1),
            &mut |report| seen.push((report.attempt, report.pause.is_some())),
        )
        .await;
        (verdict, seen)
    }

    // Fails if a passing failure ends delivery, or if an attempt goes unreported.
    #[tokio::test]
    async fn what_may_pass_is_retried_until_it_does() {
        let (verdict, seen) = run(vec![retry(), unauthorized(), retry(), Outcome::Delivered]).await;
        assert_eq!(verdict, Verdict::Delivered);
        assert_eq!(seen, [(1, true), (2, true), (3, true), (4, false)]);
    }

    // Fails if a chunk that can never be delivered is sent again.
    #[tokio::test]
    async fn final_answers_end_it() {
        let reason = || "422".to_owned();
        assert_eq!(run(vec![retry(), Outcome::TooLarge]).await.0, Verdict::TooLarge);
        let (verdict, seen) = run(vec![Outcome::Refused { reason: reason() }]).await;
        assert_eq!((verdict, seen.len()), (Verdict::Refused { reason: reason() }, 1));
    }

    // Fails if an outage fills the log, or if a new kind of failure in it goes unlogged.
    #[test]
    fn repeated_failures_are_logged_ever_more_rarely() {
        let mut failures = Failures::default();
        let logged = (1..=100).filter(|_| failures.worth_a_line(&retry())).count();
        assert_eq!(logged, 7);
        assert!(failures.worth_a_line(&unauthorized()));
        assert!(failures.worth_a_line(&retry()));
    }
}
