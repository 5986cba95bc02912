//! Destinations that fail in every way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auditail_bench::faults::{Fault, FaultProxy};
use auditail_bench::writer::{Compress, Rotation};
use serde_json::Value;

use crate::support::site::Receiver;
use crate::support::{Agent, Log, PATIENCE, Site};

const BURST: usize = 60;

struct Behind {
    site: Site,
    proxy: FaultProxy,
    log: Log,
    _receiver: Receiver,
}

/// A log with a burst in it, and a destination that fails as scripted.
fn behind(script: impl IntoIterator<Item = Fault>) -> Behind {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let proxy = FaultProxy::start(receiver.address, script).unwrap();
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    log.write(BURST);
    Behind { site, proxy, log, _receiver: receiver }
}

impl Behind {
    fn run(&self, more: &[&str]) -> Agent {
        self.site.run(self.proxy.address(), more)
    }

    /// All of it arrives, also what is written from now on.
    fn assert_delivers(mut self, agent: Agent) -> Value {
        self.log.write(BURST);
        self.site.wait_for(&self.log);
        agent.stop();
        self.site.assert_exact(&self.log)
    }
}

// Fails if a connection that breaks somewhere costs a chunk, or sends it twice where the receiver had it.
#[test]
fn resetting_and_answers_lost() {
    let faults = [
        Fault::Refuse,
        Fault::ResetBeforeBody,
        Fault::LoseAnswer,
        Fault::ResetInBody,
        Fault::ResetAfterBody,
        Fault::LoseAnswer,
    ];
    let behind = behind(faults.clone());
    let agent = behind.run(&["chunk.offload_amount: 50kB"]);
    assert!(behind.proxy.wait_until(PATIENCE, |seen| seen.len() > faults.len()));
    agent.wait_metric("auditail_upload_retries_total", 1.0);
    behind.assert_delivers(agent);
}

// Fails if the agent gives up on a destination that cannot be reached, or does not come back to it.
#[test]
fn down_for_a_while() {
    let mut behind = behind([]);
    behind.proxy.down();
    let agent = behind.run(&[]);
    agent.wait_metric("auditail_upload_retries_total", 3.0);
    behind.log.write(BURST);
    behind.proxy.up().unwrap();
    behind.assert_delivers(agent);
}

// Fails if slow answers, of which the later overtake the earlier, lead to repeated requests or to a wrong order.
#[test]
fn slow() {
    let mut behind = behind((0..8).map(|n| Fault::Delay(Duration::from_millis(400 - 50 * n))));
    let agent = behind.run(&["chunk.offload_after: 20ms"]);
    for requests in 1..8 {
        assert!(behind.proxy.wait_until(PATIENCE, |seen| seen.len() >= requests));
        behind.log.write(5);
    }
    behind.site.wait_for(&behind.log);
    assert_eq!(agent.metric("auditail_upload_retries_total"), 0.0);
    behind.assert_delivers(agent);
}

// Fails if a request that is never answered is waited for longer than its time-out.
#[test]
fn hanging() {
    let behind = behind([Fault::Hang, Fault::Hang]);
    let agent = behind.run(&["destination.request_timeout: 300ms"]);
    assert!(behind.proxy.wait_until(PATIENCE, |seen| seen.len() > 2));
    behind.assert_delivers(agent);
}

// Fails if a pause that the destination asks for, in either form, is not kept to.
#[test]
fn asking_for_a_pause() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let date = now.as_secs() + 3;
    for (fault, until) in [
        (Fault::retry_after_seconds(429, 2), now + Duration::from_secs(2)),
        (Fault::retry_after_date(503, date), Duration::from_secs(date)),
    ] {
        let behind = behind([fault]);
        let agent = behind.run(&["limits.in_flight: 1", "chunk.offload_amount: 50MB"]);
        assert!(behind.proxy.wait_until(PATIENCE, |seen| seen.len() == 2));
        assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() >= until);
        behind.assert_delivers(agent);
    }
}

// Fails if 5xx answers without a pause end the delivery.
#[test]
fn failing_inside() {
    let behind = behind([500, 502, 503, 504, 429].map(Fault::answer));
    let agent = behind.run(&[]);
    behind.assert_delivers(agent);
}

// Fails if a chunk that is too large is not sent in parts, or the parts do not make up the whole.
#[test]
fn taking_small_bodies_only() {
    let site = Site::new();
    let receiver = site.receive(&["--body-limit", "8kB"]);
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    log.write(4 * BURST);
    let agent = site.run(receiver.address, &["chunk.offload_amount: 50MB"]);
    site.wait_for(&log);
    log.write(BURST);
    site.wait_for(&log);
    assert_eq!(agent.metric("auditail_aside_chunks_total"), 0.0);
    assert!(agent.metrics().contains("outcome=\"too_large\""));
    agent.stop();
    site.assert_exact(&log);
}

// Fails if a single event that is too large stops the delivery of the others, or vanishes.
#[test]
fn not_taking_one_large_event() {
    let site = Site::new();
    let receiver = site.receive(&["--body-limit", "40kB"]);
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    log.write(BURST);
    let mut rng = fastrand::Rng::with_seed(5);
    let noise: String = (0..200_000).map(|_| rng.alphanumeric()).collect();
    let large = format!("{{\"kind\":\"Event\",\"auditID\":\"large\",\"noise\":\"{noise}\"}}\n");
    let before = log.content.len();
    log.write_line(large.as_bytes());
    log.write(BURST);
    let agent = site.run(receiver.address, &["chunk.offload_amount: 50MB"]);
    site.wait_events(log.events() - 1);
    agent.wait_metric("auditail_aside_chunks_total", 1.0);
    agent.wait_line(&["\"ERROR\"", "refused a chunk for good", "413"]);
    agent.stop();
    let verified = site.verify();
    assert!(!verified.ok, "the chunk that was set aside is missing");
    let expected = [&log.content[..before], &log.content[before + large.len()..]].concat();
    assert!(verified.content == expected);
    assert_eq!(aside(&site).len(), 2, "{:?}", aside(&site));
}

// Fails if a chunk refused for good stops delivery, is not kept, or is not reported.
#[test]
fn refusing_a_chunk() {
    let mut behind = behind([Fault::answer(422)]);
    let agent = behind.run(&[]);
    agent.wait_metric("auditail_aside_chunks_total", 1.0);
    agent.wait_line(&["\"ERROR\"", "refused a chunk for good", "422"]);
    behind.log.write(BURST);
    agent.wait_metric("auditail_delivered_events_total", BURST as f64);
    agent.stop();
    assert!(!behind.site.verify().ok, "the chunk that was set aside is missing");
    assert_eq!(aside(&behind.site).len(), 2);
}

/// Names of the files in which refused chunks are kept.
fn aside(site: &Site) -> Vec<String> {
    let entries = std::fs::read_dir(site.path("state/aside")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

// Fails if a refused token is not asked for again, or a corrected token file is not read again.
#[test]
fn refusing_the_token_until_it_is_corrected() {
    let behind = behind([]);
    std::fs::write(behind.site.path("token"), "not-the-token").unwrap();
    let agent = behind.run(&[]);
    agent.wait_metric("auditail_unauthorized", 1.0);
    agent.wait_line(&["\"ERROR\"", "401"]);
    std::fs::write(behind.site.path("token"), crate::support::site::TOKEN).unwrap();
    behind.site.wait_for(&behind.log);
    assert!(
        !agent.lines().iter().any(|line| line.contains("not-the-token") || line.contains(crate::support::site::TOKEN))
    );
    behind.assert_delivers(agent);
}
