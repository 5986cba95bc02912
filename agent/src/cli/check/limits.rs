//! What the machine grants against what the configuration may need.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use indicatif::HumanBytes;
use rustix::process::{Resource, getrlimit};

use super::memory::Memory;
use super::report::Check;
use crate::config::LimitsConfig;
use crate::limits::{OPEN_FILES_PER_SOURCE_MAX, RING_BUFFER_BYTES, RING_BUFFERS};

const MEMORY: &str = "limits.memory";
const FILES: &str = "limits.files";
const LOCKED_MEMORY: &str = "limits.locked_memory";
const REQUESTS: &str = "limits.requests";
const LISTEN: &str = "observe.listen";

/// Files that are open besides logs and connections: standard streams, event loop, watches, lock, metrics.
const FILES_BESIDES: usize = 64;

/// Compares limits with needs.
pub(super) fn check(limits: &LimitsConfig, memory: &Memory, logs: usize, uring: bool) -> Vec<Check> {
    let granted = cgroup_limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"));
    let (in_flight, pool) = (limits.in_flight, HumanBytes(limits.body_pool_bytes as u64));
    vec![
        check_memory(memory, granted),
        files(getrlimit(Resource::Nofile).current, logs, in_flight, uring),
        locked_memory(getrlimit(Resource::Memlock).current, uring),
        Check::ok(
            REQUESTS,
            format!("{in_flight} in flight at most; {pool} for chunk bodies; {} framing threads", limits.workers),
        ),
    ]
}

fn check_memory(memory: &Memory, granted: Option<u64>) -> Check {
    let (ordinary, max) = (HumanBytes(memory.ordinary_bytes as u64), HumanBytes(memory.bytes_max() as u64));
    let needed = format!("up to {ordinary}, {max} while events of source.max_event_bytes pass");
    match granted {
        None => Check::ok(MEMORY, format!("{needed}; no cgroup limit is known")),
        Some(granted) if granted >= memory.bytes_max() as u64 => {
            Check::ok(MEMORY, format!("{needed}; the cgroup grants {}", HumanBytes(granted)))
        }
        Some(granted) => Check::warn(
            MEMORY,
            format!("{needed}; the cgroup grants only {}", HumanBytes(granted)),
            "raise the memory limit, or lower limits.body_pool, limits.workers or source.max_event_bytes",
        ),
    }
}

/// The lowest memory limit that holds for this process: its cgroup's, or that of one above it. In a container the
/// root of the mounted hierarchy is the container's own.
fn cgroup_limit(root: &Path, membership: &Path) -> Option<u64> {
    let membership = fs::read_to_string(membership).unwrap_or_default();
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(mount.join(group).join(file)).unwrap_or_default();
            limits.extend(text.trim().parse::<u64>().ok());
        }
    }
    // Version 1 writes "no limit" as the largest multiple of a page.
    limits.into_iter().min().filter(|bytes| *bytes < 1 << 60)
}

fn files(granted: Option<u64>, logs: usize, in_flight: usize, uring: bool) -> Check {
    // Reading through a ring takes a second handle of every file.
    let handles = if uring { 2 } else { 1 };
    let needed = (logs.max(1) * OPEN_FILES_PER_SOURCE_MAX * handles + in_flight + FILES_BESIDES) as u64;
    match granted {
        Some(granted) if granted < needed => Check::warn(
            FILES,
            format!("up to {needed} open files, and RLIMIT_NOFILE is {granted}"),
            format!("raise it (ulimit -n) to {needed}; that many are open after long outages only"),
        ),
        Some(granted) => Check::ok(FILES, format!("up to {needed} open files; RLIMIT_NOFILE is {granted}")),
        None => Check::ok(FILES, format!("up to {needed} open files; no limit")),
    }
}

/// Whether the buffers can be registered has been tried out by now, with the privileges there are.
fn locked_memory(granted: Option<u64>, uring: bool) -> Check {
    let needed = (RING_BUFFERS * RING_BUFFER_BYTES) as u64;
    let limit = granted.map_or("no limit".to_owned(), |bytes| format!("RLIMIT_MEMLOCK is {}", HumanBytes(bytes)));
    let found = if uring {
        format!("{} registered with io_uring; {limit}", HumanBytes(needed))
    } else {
        format!("none is needed without io_uring; {limit}")
    };
    Check::ok(LOCKED_MEMORY, found)
}

/// Whether metrics can be served; where an agent runs, its port is taken.
pub(super) fn listen(address: SocketAddr, agent_runs: bool) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(LISTEN, format!("{address}: free")),
        Err(error) if agent_runs => {
            Check::ok(LISTEN, format!("{address}: {error}, as it should be: an agent is running"))
        }
        Err(error) => {
            let remedy = "give observe.listen another address, or off; find out who has it (ss -ltnp)";
            Check::fail(LISTEN, format!("{address}: cannot be listened on: {error}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Status;

    fn limit(membership: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(root.path().join("membership"), membership).unwrap();
        cgroup_limit(root.path(), &root.path().join("membership"))
    }

    // Fails if a limit is not found where either version of cgroups keeps it, or a group's own hides a lower one above.
    #[test]
    fn the_lowest_limit_on_the_way_up_holds() {
        let nested = [("a/memory.max", "500\n"), ("a/b/memory.max", "max\n"), ("memory.max", "900\n")];
        assert_eq!(limit("0::/a/b\n", &nested), Some(500));
        assert_eq!(limit("0::/\n", &[("memory.max", "70\n")]), Some(70));
        assert_eq!(limit("0::/\n", &[("memory.max", "max\n")]), None);
        let first = "4:memory:/kube\n1:cpu:/kube\n";
        assert_eq!(limit(first, &[("memory/kube/memory.limit_in_bytes", "800\n")]), Some(800));
        assert_eq!(limit(first, &[("memory/memory.limit_in_bytes", "9223372036854771712\n")]), None);
        assert_eq!(limit("", &[]), None);
    }

    // Fails if a limit below the need passes without a warning.
    #[test]
    fn limits_below_the_need_warn() {
        let memory = Memory { ordinary_bytes: 60, large_events_bytes: 40, parts: Vec::new() };
        assert_eq!(check_memory(&memory, Some(99)).status, Status::Warn);
        assert_eq!(check_memory(&memory, Some(100)).status, Status::Ok);
        assert_eq!(check_memory(&memory, None).status, Status::Ok);
        assert_eq!(files(Some(256), 1, 4, true).status, Status::Warn);
        assert_eq!(files(Some(256), 1, 4, false).status, Status::Ok);
        assert_eq!(files(Some(1024), 8, 4, false).status, Status::Warn);
    }

    // Fails if a taken port passes, or is held against the agent that has taken it.
    #[test]
    fn a_taken_port_fails_unless_an_agent_runs() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(listen(address, false).status, Status::Fail);
        assert_eq!(listen(address, true).status, Status::Ok);
        assert_eq!(listen("127.0.0.1:0".parse().unwrap(), false).status, Status::Ok);
    }
}
