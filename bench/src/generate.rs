//! A seeded stream of audit events in the shape kube-apiserver writes them (audit.k8s.io/v1, one JSON object a line).
//!
//! Key order, escapes, timestamps, levels and the distribution of sizes follow logs of a real kube-apiserver 1.36
//! under mixed load: half of the lines are below 1.4 kB, one in a hundred is above 13 kB, the mean is 3 kB, and
//! gzip makes a ninth of them. Every auditID ends in a serial number, so that what arrives can be counted exactly.

use crate::event::{ACTORS, Frame, Request};
use crate::json::Json;
use crate::object::{App, pick, suffix, uuid, uuid_ending_in};
use crate::utc::SECOND_US;

pub use crate::event::parse_serial;

/// Deployments of the made-up cluster.
const APPS: usize = 200;
/// One event in this many carries a large body.
const LARGE_EVERY: u32 = 4_000;
/// Smallest body counted as large, in bytes.
const LARGE_BYTES_MIN: usize = 64 * 1024;
/// What a request is about; the weights make the distribution of sizes.
#[derive(Clone, Copy)]
enum Call {
    Get,
    List,
    Watch,
    Lease,
    Secret,
    Bind,
    PodStatus,
    ConfigMap,
    Pod,
    ReplicaSet,
    Deployment,
}

/// Calls by their share of a hundred.
const MIX: [(Call, u32); 11] = [
    (Call::Get, 16),
    (Call::List, 6),
    (Call::Watch, 4),
    (Call::Lease, 7),
    (Call::Secret, 13),
    (Call::Bind, 16),
    (Call::PodStatus, 8),
    (Call::ConfigMap, 7),
    (Call::Pod, 9),
    (Call::ReplicaSet, 8),
    (Call::Deployment, 6),
];

/// Makes audit events, the same ones for the same seed and times.
#[derive(Clone, Debug)]
pub struct Generator {
    rng: fastrand::Rng,
    apps: Vec<App>,
    serial: u64,
    version: u64,
    large_bytes_max: usize,
}

impl Generator {
    /// A generator whose first serial number is 0 and whose largest bodies have about 1 MiB.
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Any fixed past will do: creation times only have to be plausible.
        let apps = (0..APPS).map(|_| App::new(&mut rng, 1_790_000_000)).collect();
        Self { rng, apps, serial: 0, version: 10_000, large_bytes_max: 1024 * 1024 }
    }

    /// Continues with another serial number, so that several generators can feed one receiver.
    pub fn starting_at(self, serial: u64) -> Self {
        Self { serial, ..self }
    }

    /// Bounds the rare large bodies to `bytes`; below 64 KiB there are none.
    pub fn with_large_bytes_max(self, bytes: usize) -> Self {
        Self { large_bytes_max: bytes, ..self }
    }

    /// Serial number the next event gets.
    pub fn next_serial(&self) -> u64 {
        self.serial
    }

    /// Appends one event and its newline to `out`. `now_us` is its `stageTimestamp`, in microseconds since the epoch.
    pub fn next_line(&mut self, now_us: u64, out: &mut Vec<u8>) {
        let app = self.rng.usize(..self.apps.len());
        let actor = pick(&mut self.rng, &ACTORS);
        self.version += self.rng.u64(1..4);
        let audit_id = uuid_ending_in(&mut self.rng, self.serial);
        self.serial += 1;
        let received_us = now_us.saturating_sub(self.rng.u64(200..SECOND_US / 12));
        let large = self.large_bytes_max > LARGE_BYTES_MIN && self.rng.u32(..LARGE_EVERY) == 0;
        let large_bytes = if large { self.rng.usize(LARGE_BYTES_MIN..self.large_bytes_max) } else { 0 };
        let call = if large { Call::ConfigMap } else { self.pick_call() };

        let version = self.version.to_string();
        let credential_id = format!("JTI={}", uuid(&mut self.rng));
        let Self { rng, apps, .. } = self;
        let app = &apps[app];
        let mut write = |request: &Request<'_>| {
            let frame = Frame {
                audit_id: &audit_id,
                actor: &actor,
                credential_id: &credential_id,
                version: &version,
                namespace: app.namespace,
                received_us,
                now_us,
            };
            frame.write(request, out);
        };
        match call {
            Call::Get | Call::List | Call::Watch | Call::Lease | Call::Secret => write(&plain(call, rng, app)),
            Call::Bind | Call::PodStatus => small_write(call, rng, app, write),
            Call::ConfigMap => config_map(rng, app, large_bytes, &version, write),
            Call::Pod | Call::ReplicaSet | Call::Deployment => workload(call, rng, app, &version, write),
        }
        out.push(b'\n');
    }

    fn pick_call(&mut self) -> Call {
        let mut ticket = self.rng.u32(..100);
        for (call, share) in MIX {
            match ticket.checked_sub(share) {
                Some(rest) => ticket = rest,
                None => return call,
            }
        }
        Call::Get
    }
}

/// Requests whose event carries no body.
fn plain<'a>(call: Call, rng: &mut fastrand::Rng, app: &'a App) -> Request<'a> {
    const CODES: [&str; 8] = ["200", "200", "200", "200", "200", "200", "404", "403"];
    let named = Request { name: &app.name, code: pick(rng, &CODES), ..Request::default() };
    match call {
        Call::List => Request { name: "", verb: "list", query: "?limit=500&resourceVersion=0", code: "200", ..named },
        Call::Watch => Request {
            name: "",
            verb: "watch",
            code: "200",
            stage: pick(rng, &["ResponseStarted", "ResponseComplete"]),
            query: "?allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&watch=true",
            ..named
        },
        Call::Lease => Request {
            level: "Metadata",
            verb: "update",
            root: "/apis/coordination.k8s.io/v1",
            resource: "leases",
            code: "200",
            ..named
        },
        Call::Secret => Request { level: "Metadata", resource: "secrets", ..named },
        _ => Request { root: "/apis/apps/v1", resource: "deployments", ..named },
    }
}

/// Bindings and status patches: short bodies, written by machines.
fn small_write(call: Call, rng: &mut fastrand::Rng, app: &App, write: impl FnOnce(&Request<'_>)) {
    let name = format!("{}-{}", app.replica_set(), suffix(rng, 5));
    let (uid, node) = (uuid(rng), format!("node-{}", rng.u8(1..60)));
    let binding = |j: &mut Json<'_>| {
        j.text("kind", &["Binding"]);
        j.text("apiVersion", &["v1"]);
        j.object("metadata", |j| {
            j.text("name", &[&name]);
            j.text("namespace", &[app.namespace]);
            j.text("uid", &[&uid]);
        });
        j.object("target", |j| {
            j.text("kind", &["Node"]);
            j.text("name", &[&node]);
        });
    };
    let bound =
        |j: &mut Json<'_>| j.raw("kind", r#""Status","apiVersion":"v1","metadata":{},"status":"Success","code":201"#);
    let status = |j: &mut Json<'_>| {
        j.object("metadata", |j| j.text("uid", &[&uid]));
        j.object("status", |j| {
            j.raw("$setElementOrder/conditions", CONDITION_ORDER);
            j.raw("conditions", CONDITIONS);
            j.text("hostIP", &["10.0.3.19"]);
            j.text("phase", &["Running"]);
        });
    };
    let common = Request { name: &name, ..Request::default() };
    match call {
        Call::Bind => write(&Request {
            level: "RequestResponse",
            verb: "create",
            subresource: "binding",
            code: "201",
            request: Some(&binding),
            response: Some(&bound),
            ..common
        }),
        _ => write(&Request { verb: "patch", subresource: "status", request: Some(&status), ..common }),
    }
}

/// A config map with one to six entries of text that is awkward to carry, or with one large entry.
fn config_map(rng: &mut fastrand::Rng, app: &App, large_bytes: usize, version: &str, write: impl FnOnce(&Request<'_>)) {
    let entries: Vec<(&str, usize)> = match large_bytes {
        0 => (0..rng.usize(1..7)).map(|_| (pick(rng, &CONTENTS), rng.usize(1..5))).collect(),
        // The text is in the request and in the response.
        bytes => vec![(CONTENTS[0], bytes / (2 * CONTENTS[0].len()))],
    };
    let name = format!("{}-{}", app.name, suffix(rng, 5));
    let key = suffix(rng, 900);
    let data = |j: &mut Json<'_>| {
        j.object("data", |j| {
            j.text("ca.crt", &["-----BEGIN CERTIFICATE-----\n", &key, "\n-----END CERTIFICATE-----\n"]);
            for (at, (text, times)) in entries.iter().enumerate() {
                j.text(&format!("k{at}.conf"), &vec![*text; *times]);
            }
        });
    };
    let request = |j: &mut Json<'_>| {
        app.heading(j, "ConfigMap", "v1", &name, None);
        data(j);
    };
    let response = |j: &mut Json<'_>| {
        app.heading(j, "ConfigMap", "v1", &name, Some(version));
        data(j);
    };
    write(&Request {
        level: "RequestResponse",
        verb: "create",
        resource: "configmaps",
        name: &name,
        code: "201",
        request: Some(&request),
        response: Some(&response),
        ..Request::default()
    });
}

/// A pod, replica set or deployment, as sent and as stored.
fn workload(call: Call, rng: &mut fastrand::Rng, app: &App, version: &str, write: impl FnOnce(&Request<'_>)) {
    let (kind, api, root, resource, verb, name) = match call {
        Call::Pod => ("Pod", "v1", "/api/v1", "pods", "create", format!("{}-{}", app.replica_set(), suffix(rng, 5))),
        Call::ReplicaSet => ("ReplicaSet", "apps/v1", "/apis/apps/v1", "replicasets", "update", app.replica_set()),
        _ => ("Deployment", "apps/v1", "/apis/apps/v1", "deployments", "update", app.name.clone()),
    };
    // Digests and hashes are what keeps real bodies from compressing even better.
    let (image, message) = (format!("{:032x}{:032x}", rng.u128(..), rng.u128(..)), suffix(rng, 80));
    let body = |j: &mut Json<'_>, version: Option<&str>| {
        app.heading(j, kind, api, &name, version);
        if kind == "Pod" {
            app.pod_spec(j)
        } else {
            app.workload_spec(j)
        }
        j.object("status", |j| {
            j.text("imageID", &["registry.example.com/app@sha256:", &image]);
            j.text("message", &[&message]);
        });
    };
    // Creating sends a new object; updating sends the stored one back, bookkeeping and all.
    let sent = (verb == "update").then_some(version);
    write(&Request {
        level: "RequestResponse",
        verb,
        root,
        resource,
        name: &name,
        code: if verb == "create" { "201" } else { "200" },
        request: Some(&|j| body(j, sent)),
        response: Some(&|j| body(j, Some(version))),
        ..Request::default()
    });
}

const CONDITION_ORDER: &str = r#"[{"type":"Initialized"},{"type":"Ready"},{"type":"ContainersReady"}]"#;
const CONDITIONS: &str = r#"[{"lastProbeTime":null,"lastTransitionTime":"2026-11-21T02:09:13Z","status":"True","type":"Initialized"},{"lastProbeTime":null,"lastTransitionTime":"2026-11-21T02:09:14Z","status":"True","type":"Ready"}]"#;

/// Texts in config maps. The first one repeats well; each of the others once broke a collector somewhere.
const CONTENTS: [&str; 5] = [
    "-----BEGIN CERTIFICATE-----\nMIIBQUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoQUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=\n",
    "<script>alert('x & y');</script> <!-- html -->\n",
    "requestReceivedTimestamp\":\"x\",\"auditID\":\"fake\"}\n{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"}\n",
    "💩💩💩💩💩💩💩💩💩💩 \\u0041 \\n literal\n",
    "{\"level\":\"info\",\"msg\":\"nested \\\"quotes\\\" and \\\\ backslashes\",\"path\":\"C:\\\\temp\\\\x\"}\n",
];

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const NOW_US: u64 = 1_795_226_953_969_811;

    fn lines(generator: &mut Generator, count: usize) -> Vec<Vec<u8>> {
        (0..count as u64)
            .map(|at| {
                let mut line = Vec::new();
                generator.next_line(NOW_US + at * 1_003, &mut line);
                line
            })
            .collect()
    }

    // Fails if a line has lost its serial, or shares it with another.
    #[test]
    fn every_line_carries_its_own_serial() {
        let mut generator = Generator::new(1).starting_at(40);
        for (serial, line) in (40..).zip(lines(&mut generator, 3_000)) {
            assert_eq!(parse_serial(&line), Some(serial));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(line.last(), Some(&b'\n'));
        }
        assert_eq!(generator.next_serial(), 3_040);
    }

    // Fails if the stream depends on anything but seed and times: a failed test could not be replayed.
    #[test]
    fn a_seed_fixes_the_stream() {
        assert_eq!(lines(&mut Generator::new(7), 200), lines(&mut Generator::new(7), 200));
        assert_ne!(lines(&mut Generator::new(7), 200), lines(&mut Generator::new(8), 200));
    }

    // Fails if the mix drifts away from what a real server writes; measured there: median 1,395 bytes,
    // 99th percentile 13,073, mean 3,004, gzip ratio 9.9.
    #[test]
    fn sizes_and_redundancy_are_those_of_a_real_log() {
        let lines = lines(&mut Generator::new(3).with_large_bytes_max(0), 8_000);
        let mut sizes: Vec<usize> = lines.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        let total: usize = sizes.iter().sum();
        let (median, high, mean) = (sizes[4_000], sizes[7_920], total / 8_000);
        assert!((1_000..1_800).contains(&median), "median {median}");
        assert!((10_000..16_000).contains(&high), "99th percentile {high}");
        assert!((2_500..3_500).contains(&mean), "mean {mean}");

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        lines.iter().for_each(|line| gzip.write_all(line).unwrap());
        let ratio = total as f64 / gzip.finish().unwrap().len() as f64;
        assert!((8.0..11.0).contains(&ratio), "gzip ratio {ratio}");
    }

    // Fails if large events disappear or outgrow their bound.
    #[test]
    fn a_few_events_are_large() {
        let longest = |generator: Generator| lines(&mut generator.clone(), 12_000).iter().map(Vec::len).max().unwrap();
        assert!((LARGE_BYTES_MIN..1_200_000).contains(&longest(Generator::new(6))));
        assert!(longest(Generator::new(6).with_large_bytes_max(0)) < LARGE_BYTES_MIN);
    }
}
