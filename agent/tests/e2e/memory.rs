//! Memory stays bounded while the destination is down, and everything is caught up with afterwards.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use auditail_bench::compare::compare;
use auditail_bench::faults::FaultProxy;
use auditail_bench::generate::Generator;

use crate::support::{Site, until};

/// The promise: resident memory of the agent with the default configuration.
const RESIDENT_KB_MAX: u64 = 64 * 1024;

/// Bytes of log that gather while the destination is down.
const LOG_BYTES: usize = 300_000_000;

/// So few free pages of the pool are too few for another block.
const POOL_PAGES_LEFT: f64 = 32.0;

// Fails if a destination that is down makes the agent hold more than its limits allow, or costs an event.
#[test]
fn a_destination_that_is_down_costs_no_memory() {
    let site = Site::new();
    let receiver = site.receive(&[]);
    let mut proxy = FaultProxy::start(receiver.address, []).unwrap();
    proxy.down();
    let serials = write(&site);
    let agent = site.run(proxy.address(), &["chunk.offload_amount: 50MB", "chunk.offload_after: 5s"]);
    // As much as it takes in: then the pool for compressed chunks is used up, and nothing more is read.
    let mut read = -1.0;
    until("a standstill", || {
        let retries = agent.metric("auditail_upload_retries_total");
        agent.wait_metric("auditail_upload_retries_total", retries + 10.0);
        let before = std::mem::replace(&mut read, agent.metric("auditail_read_bytes_total"));
        (before == read && agent.metric("auditail_pool_pages_available") < POOL_PAGES_LEFT).then_some(())
    });
    let held = resident_kb(agent.id());
    proxy.up().unwrap();
    agent.wait_metric("auditail_delivered_events_total", serials.len() as f64);
    site.wait_events(serials.len() as u64);
    let most = resident_kb(agent.id());
    agent.stop();
    assert!(read < LOG_BYTES as f64, "all of it was taken in: the log is too small for this test");
    assert!(held < RESIDENT_KB_MAX && most < RESIDENT_KB_MAX, "{held} kB while down, {most} kB at most");

    let verified = site.verify();
    assert!(verified.ok, "{:#}", verified.report);
    let compared = compare(&serials, verified.content.as_slice()).unwrap();
    assert!(compared.is_exact() && compared.in_order, "{compared:?}");
    assert!(verified.content == fs::read(site.log()).unwrap());
}

/// Writes a large log.
fn write(site: &Site) -> Vec<u64> {
    let mut file = BufWriter::new(File::create(site.log()).unwrap());
    let mut generator = Generator::new(3);
    let (mut line, mut written) = (Vec::new(), 0);
    while written < LOG_BYTES {
        line.clear();
        generator.next_line(1_795_000_000_000_000, &mut line);
        file.write_all(&line).unwrap();
        written += line.len();
    }
    file.flush().unwrap();
    (0..generator.next_serial()).collect()
}

/// The most memory a process has had resident.
fn resident_kb(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
