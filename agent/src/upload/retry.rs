//! What an answer means and how long to wait before the next attempt. Pure: time and chance are arguments.
//!
//! | answer | outcome | why |
//! |---|---|---|
//! | 2xx | delivered | the status is the receipt, whatever the body says |
//! | 413 | too large | the chunk is split |
//! | 400, 409, 422 | refused | the destination has read this chunk and will not take it |
//! | 408, 425, 429, 5xx | retry | it may pass; `Retry-After` is honoured |
//! | 401, 403, 407, 3xx, any other | operator | every chunk would meet it: a wrong token, address or encoding |
//!
//! 409 means what the delivery protocol says: other content is stored under this id, or at this place of the chain.
//!
//! The last row is retried slowly and loudly ([`Outcome::Unauthorized`]). Setting chunks aside there would empty
//! a cluster's whole audit log into a directory because of one typing error in a URL. Redirects are not followed:
//! they would carry the token and the audit log to a host nobody configured.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, LOCATION, RETRY_AFTER};

use super::Outcome;
use crate::config::DestinationConfig;
use crate::limits::{REASON_TEXT_BYTES_MAX, RETRY_AFTER_SECONDS_MAX};

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Ceiling of the first back-off.
    pub initial: Duration,
    /// Ceiling of every later one.
    pub max: Duration,
    /// Pause after an answer that the operator must act on.
    pub unauthorized: Duration,
}

impl From<&DestinationConfig> for RetryPolicy {
    fn from(config: &DestinationConfig) -> Self {
        Self { initial: config.retry_initial, max: config.retry_max, unauthorized: config.unauthorized_retry }
    }
}

/// Exponential back-off with full jitter: a pause is drawn evenly from nothing up to a ceiling that doubles, so
/// that agents that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    doublings: u32,
}

impl Backoff {
    /// Starts with the ceiling `initial`, which doubles up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, doublings: 0 }
    }

    /// The next pause; `random` is drawn evenly from `[0, 1)`.
    pub fn next(&mut self, random: f64) -> Duration {
        let factor = 1u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let ceiling = self.initial.saturating_mul(factor).min(self.max);
        self.doublings = self.doublings.saturating_add(1);
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * random).unwrap_or(ceiling)
    }

    /// Starts over with the first ceiling.
    pub fn reset(&mut self) {
        self.doublings = 0;
    }
}

/// How long to wait after `outcome`; `None` where there is nothing to retry.
pub fn pause(outcome: &Outcome, backoff: &mut Backoff, policy: &RetryPolicy, random: f64) -> Option<Duration> {
    match outcome {
        Outcome::Delivered | Outcome::TooLarge | Outcome::Refused { .. } => None,
        Outcome::Unauthorized { .. } => {
            // The destination answered: what kept us from it before is over.
            backoff.reset();
            Some(policy.unauthorized)
        }
        Outcome::Retry { after, .. } => Some(backoff.next(random).max(after.unwrap_or_default())),
    }
}

/// What an answer means for the chunk. `text` is the start of its body, quoted in the reason.
pub fn classify(status: StatusCode, headers: &HeaderMap, text: &str, now: SystemTime) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        413 => Outcome::TooLarge,
        400 | 409 | 422 => Outcome::Refused { reason: quote(status, text) },
        408 | 425 | 429 | 500..=599 => Outcome::Retry { reason: quote(status, text), after: retry_after(headers, now) },
        300..=399 => Outcome::Unauthorized { reason: redirect(status, headers) },
        _ => Outcome::Unauthorized { reason: quote(status, text) },
    }
}

/// What `Retry-After` asks for, in either form (RFC 9110, 10.2.3), at most an hour. A date that has passed asks
/// for no pause; a value that is neither form is not there.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(Duration::from_secs(RETRY_AFTER_SECONDS_MAX)))
}

/// `503 Service Unavailable: the start of the answer's text`.
fn quote(status: StatusCode, text: &str) -> String {
    let text = excerpt(text);
    if text.is_empty() { status.to_string() } else { format!("{status}: {text}") }
}

/// Names where a redirect leads, without the query, which may hold a secret.
fn redirect(status: StatusCode, headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let target = excerpt(location.split(['?', '#']).next().unwrap_or_default());
    format!("{status}: redirect to {target:?} not followed; set destination.url to where chunks are taken")
}

/// One line of at most [`REASON_TEXT_BYTES_MAX`] bytes, without control characters.
fn excerpt(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).take(REASON_TEXT_BYTES_MAX).collect();
    line.truncate(line.floor_char_boundary(REASON_TEXT_BYTES_MAX));
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn classified(status: u16) -> Outcome {
        classify(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), "", now())
    }

    fn asked(value: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        retry_after(&headers, now())
    }

    // Fails if a status moves to another row of the table above.
    #[test]
    fn every_status_has_its_row() {
        for status in 100..1000 {
            let right = match (status, classified(status)) {
                (200..=299, outcome) => outcome == Outcome::Delivered,
                (413, outcome) => outcome == Outcome::TooLarge,
                (400 | 409 | 422, outcome) => matches!(outcome, Outcome::Refused { .. }),
                (408 | 425 | 429 | 500..=599, outcome) => matches!(outcome, Outcome::Retry { after: None, .. }),
                (_, outcome) => matches!(outcome, Outcome::Unauthorized { .. }),
            };
            assert!(right, "{status}: {:?}", classified(status));
        }
    }

    // Fails if one form of Retry-After is not read, or if a far date could stop delivery for days.
    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let date = |seconds| httpdate::fmt_http_date(now() + Duration::from_secs(seconds));
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(asked(&date(90)), Some(Duration::from_secs(90)));
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("18446744073709551615"), hour);
        assert_eq!(asked(&date(1_000_000)), hour);
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-3"), None);
    }

    // Fails if an answer could put lines, terminal codes or an unbounded text into our log.
    #[test]
    fn reasons_are_one_short_line() {
        let text = format!("\u{1b}[31mno\r\n{}", "é".repeat(500));
        let Outcome::Refused { reason } = classify(StatusCode::BAD_REQUEST, &HeaderMap::new(), &text, now()) else {
            panic!("400 is refused");
        };
        assert!(reason.starts_with("400 Bad Request: [31mnoé"), "{reason}");
        assert!(reason.len() <= "400 Bad Request: ".len() + REASON_TEXT_BYTES_MAX, "{}", reason.len());
        assert!(!reason.chars().any(char::is_control));
    }

    // Fails if the target's query, which may hold a signature, gets into the reason.
    #[test]
    fn a_redirect_names_its_target_without_the_query() {
        let headers = HeaderMap::from_iter([(LOCATION, "https://login.example/a?token=s3cret".parse().unwrap())]);
        let Outcome::Unauthorized { reason } = classify(StatusCode::FOUND, &headers, "", now()) else {
            panic!("a redirect is for the operator");
        };
        assert!(reason.contains("https://login.example/a") && !reason.contains("s3cret"), "{reason}");
    }

    // Fails if the ceiling does not double, is not capped, or overflows after many attempts.
    #[test]
    fn back_off_doubles_up_to_its_ceiling() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        let pauses: Vec<u128> = (0..10).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
        assert!((0..10_000).all(|_| backoff.next(1.0) == MAX));
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).next(1.0), Duration::MAX);
        backoff.reset();
        assert_eq!(backoff.next(1.0), INITIAL);
    }

    // Fails if jitter is not full: then agents that failed together retry together.
    #[test]
    fn jitter_spans_everything_below_the_ceiling() {
        let mut backoff = Backoff::new(MAX, MAX);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25), MAX / 4);
    }

    // Fails if a Retry-After shortens or is shortened by the back-off, or if a final outcome is retried.
    #[test]
    fn the_longer_of_back_off_and_retry_after_wins() {
        let policy = RetryPolicy { initial: INITIAL, max: MAX, unauthorized: Duration::from_secs(300) };
        let mut backoff = Backoff::new(INITIAL, MAX);
        let retry = |after| Outcome::Retry { reason: String::new(), after };
        let long = Duration::from_secs(9);
        assert_eq!(pause(&retry(Some(long)), &mut backoff, &policy, 1.0), Some(long));
        assert_eq!(pause(&retry(Some(Duration::ZERO)), &mut backoff, &policy, 1.0), Some(INITIAL * 2));
        let operator = Outcome::Unauthorized { reason: String::new() };
        assert_eq!(pause(&operator, &mut backoff, &policy, 1.0), Some(policy.unauthorized));
        assert_eq!(pause(&retry(None), &mut backoff, &policy, 1.0), Some(INITIAL));
        for outcome in [Outcome::Delivered, Outcome::TooLarge, Outcome::Refused { reason: String::new() }] {
            assert_eq!(pause(&outcome, &mut backoff, &policy, 1.0), None);
        }
    }
}
