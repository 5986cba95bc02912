//! `auditail ship` with the real binary, a real receiver and, in between, a proxy that fails on request.

mod ship_support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use auditail_bench::faults::{Fault, FaultProxy, Seen};
use ship_support::{Receiver, Ship, corpus, gzip, rotation_run};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

// Fails if a line of a real log is altered, lost, doubled or put out of order, in either encoding, or if shipping the
// same again sends anything.
#[test]
fn corpora_arrive_byte_for_byte() {
    let root = tempfile::tempdir().unwrap();
    for encoding in ["gzip", "zstd"] {
        let receiver = Receiver::start(&root.path().join(encoding));
        let ship = Ship::new(root.path().join(format!("state-{encoding}")), receiver.url());
        let files = ["corpus-metadata", "corpus-mixed", "corpus-large-events"].map(|name| {
            let path = root.path().join(format!("{name}.log"));
            fs::write(&path, corpus(name)).unwrap();
            path
        });
        let run = || ship.command(&files).env("AUDITAIL_CHUNK_ENCODING", encoding).output().unwrap();
        let first = Ship::ended(&run(), 0);
        assert!(first.contains("events 48461,") && first.contains("already delivered 0,"), "{first}");
        let again = Ship::ended(&run(), 0);
        assert!(again.contains("events 0,") && again.contains("already delivered 3,"), "{again}");
        let archive = receiver.verified();
        assert_eq!(archive.report.totals.events, 48_461);
        for file in &files {
            assert!(archive.content(file) == fs::read(file).unwrap(), "{}", file.display());
        }
    }
}

// Fails if a directory's compressed backups are not read, its live file not taken last, a .gz that is still being made
// taken for complete, or a file that is no log sent.
#[test]
fn a_directory_is_delivered_as_one_history() {
    let root = tempfile::tempdir().unwrap();
    let logs = root.path().join("logs");
    let history = rotation_run(&logs);
    fs::write(logs.join("audit-2026-11-21T02-18-30.000.log"), "{\"last\":\"backup\"}").unwrap();
    fs::write(logs.join("audit-2026-11-21T02-18-30.000.log.gz"), "half").unwrap();
    fs::write(logs.join("notes.txt"), "not a log").unwrap();
    let receiver = Receiver::start(&root.path().join("archive"));
    let ship = Ship::new(root.path().join("state"), receiver.url());
    let output = ship.command(&[&logs]).output().unwrap();
    let summary = Ship::ended(&output, 0);
    assert!(summary.starts_with("files 10,") && summary.contains("events 6023,"), "{summary}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("notes.txt: left out") && said.contains("log.gz: left out"), "{said}");
    let archive = receiver.verified();
    for (path, content) in &history {
        assert!(archive.content(path) == *content, "{}", path.display());
    }
    // An unterminated end is delivered as the event it is, its newline added.
    assert_eq!(archive.content(&logs.join("audit-2026-11-21T02-18-30.000.log")), b"{\"last\":\"backup\"}\n");
}

// Fails if more files than are taken up at once are not all delivered, or pattern characters in names matter.
#[test]
fn many_files_with_odd_names() {
    let root = tempfile::tempdir().unwrap();
    let logs = root.path().join("[l]ogs*");
    fs::create_dir(&logs).unwrap();
    let files: Vec<_> = (0..50).map(|n| logs.join(format!("audit?[{n}].log"))).collect();
    for (n, file) in files.iter().enumerate() {
        fs::write(file, format!("{{\"n\":{n}}}\n").repeat(n)).unwrap();
    }
    let receiver = Receiver::start(&root.path().join("archive"));
    let ship = Ship::new(root.path().join("state"), receiver.url());
    let summary = Ship::ended(&ship.command(&[&logs]).output().unwrap(), 0);
    assert!(summary.starts_with("files 50, events 1225,") && summary.contains("incomplete 0,"), "{summary}");
    let archive = receiver.verified();
    for file in &files[1..] {
        assert!(archive.content(file) == fs::read(file).unwrap(), "{}", file.display());
    }
}

// Fails if anything delivered before a kill is sent under another id after it, or the rest is not sent: the archive
// would hold lines twice, or not at all.
#[test]
fn killed_in_the_middle_and_resumed() {
    let root = tempfile::tempdir().unwrap();
    let logs = root.path().join("logs");
    let history = rotation_run(&logs);
    let receiver = Receiver::start(&root.path().join("archive"));
    // Some arrive, some arrive without a receipt, one never arrives; then nothing goes any more.
    let scripts = [
        vec![],
        vec![Fault::LoseAnswer, Fault::Hang, Fault::LoseAnswer],
        vec![Fault::Pass, Fault::LoseAnswer, Fault::Pass, Fault::Hang, Fault::LoseAnswer, Fault::Pass],
        vec![Fault::Pass; 30],
    ];
    for (round, script) in scripts.into_iter().enumerate() {
        let proxy = FaultProxy::start(receiver.address, script).unwrap();
        proxy.otherwise(Fault::Hang);
        let ship = Ship::new(root.path().join("state"), format!("http://{}/", proxy.address()));
        let mut child = ship.command(&[&logs]).env("AUDITAIL_CHUNK_OFFLOAD_AMOUNT", "300kB").spawn().unwrap();
        let all_in_flight_hang = |seen: &[Seen]| seen.iter().filter(|seen| seen.fault == Fault::Hang).count() >= 4;
        assert!(proxy.wait_until(PATIENCE, all_in_flight_hang), "round {round}: {} requests", proxy.requests());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let proxy = FaultProxy::start(receiver.address, []).unwrap();
    let ship = Ship::new(root.path().join("state"), format!("http://{}/", proxy.address()));
    Ship::ended(&ship.command(&[&logs]).output().unwrap(), 0);
    let sent = proxy.seen().len();
    let archive = receiver.verified();
    assert_eq!(archive.report.totals.events, 6_022);
    assert!(sent < archive.report.totals.chunks as usize, "{sent} of {} chunks", archive.report.totals.chunks);
    for (path, content) in &history {
        assert!(archive.content(path) == *content, "{}", path.display());
    }
}

// Fails if an interruption is taken for success, does not say how to go on, or waits for a destination that is down.
#[test]
fn interrupted_and_resumed() {
    let root = tempfile::tempdir().unwrap();
    let logs = root.path().join("logs");
    let history = rotation_run(&logs);
    let receiver = Receiver::start(&root.path().join("archive"));
    let proxy = FaultProxy::start(receiver.address, []).unwrap();
    proxy.otherwise(Fault::answer(503));
    let ship = Ship::new(root.path().join("state"), format!("http://{}/", proxy.address()));
    let mut command = ship.command(&[&logs]);
    let child = command.env("AUDITAIL_SHUTDOWN_GRACE", "100ms").stderr(Stdio::piped()).spawn().unwrap();
    assert!(proxy.wait_until(PATIENCE, |seen| seen.len() >= 3));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    Ship::ended(&output, 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("delivery failed, trying again"), "{said}");
    assert!(said.contains("interrupted: the same command again delivers the rest"), "{said}");
    proxy.heal();
    Ship::ended(&ship.command(&[&logs]).output().unwrap(), 0);
    let archive = receiver.verified();
    for (path, content) in &history {
        assert!(archive.content(path) == *content, "{}", path.display());
    }
}

// Fails if the missing end of a damaged .gz passes for delivered, takes what could be read with it, or is not delivered
// once there is a whole copy.
#[test]
fn a_truncated_gz_is_a_reported_loss() {
    let root = tempfile::tempdir().unwrap();
    let line = "{\"kind\":\"Event\",\"n\":1}\n";
    let lines = line.repeat(100_000);
    let whole = gzip(lines.as_bytes());
    let path = root.path().join("audit-2026-11-21T02-17-46.037.log.gz");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let receiver = Receiver::start(&root.path().join("archive"));
    let ship = Ship::new(root.path().join("state"), receiver.url());
    let run = || ship.command(&[&path]).output().unwrap();
    for _ in 0..2 {
        let summary = Ship::ended(&run(), 1);
        assert!(summary.contains("incomplete 1,") && summary.contains("lost 1;"), "{summary}");
    }
    let archive = receiver.received();
    let [loss, same] = &archive.report.losses[..] else { panic!("{:?}", archive.report.losses) };
    assert_eq!((loss.end, loss.reason.as_str(), loss.start), (None, "corrupt_gzip", same.start));
    let cut = usize::try_from(loss.start).unwrap();
    assert!(cut > lines.len() / 4, "{cut}");
    assert!(archive.content(&path).starts_with(&lines.as_bytes()[..cut / line.len() * line.len()]));
    fs::write(&path, whole).unwrap();
    let summary = Ship::ended(&run(), 0);
    assert!(summary.contains(&format!("bytes {},", lines.len() - cut)), "{summary}");
    let rest = &lines.as_bytes()[cut.next_multiple_of(line.len())..];
    assert!(receiver.received().content(&path).ends_with(rest));
    assert!(Ship::ended(&run(), 0).contains("already delivered 1,"));
}

// Fails if a refused chunk passes for delivered, cannot be sent again, is removed before it is delivered, or is missing
// in the chain afterwards.
#[test]
fn a_refused_chunk_is_kept_and_shipped_later() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("audit.log");
    fs::write(&path, corpus("corpus-metadata")).unwrap();
    let receiver = Receiver::start(&root.path().join("archive"));
    let proxy = FaultProxy::start(receiver.address, [Fault::Pass, Fault::answer(422)]).unwrap();
    let state = root.path().join("state");
    let ship = Ship::new(state.clone(), format!("http://{}/", proxy.address()));
    let run = |argument: &Path| {
        let mut command = ship.command(&[argument]);
        command.env("AUDITAIL_CHUNK_OFFLOAD_AMOUNT", "3MB").output().unwrap()
    };
    let output = run(&path);
    let summary = Ship::ended(&output, 1);
    assert!(summary.contains("set aside 1,"), "{summary}");
    let aside = state.join("aside");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("auditail ship {}", aside.display())), "{said}");
    // As long as it is there, not everything is delivered.
    assert!(Ship::ended(&run(&path), 1).contains("already delivered 1,"));
    proxy.then([Fault::answer(422)]);
    Ship::ended(&run(&aside), 1);
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 2, "a body and a manifest");
    assert!(Ship::ended(&run(&aside), 0).starts_with("aside: chunks 1,"));
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
    let archive = receiver.verified();
    assert!(archive.content(&path) == fs::read(&path).unwrap());
    Ship::ended(&run(&path), 0);
}

// Fails if something is sent although an argument is wrong, if a wrong argument goes unnamed, or if a state directory
// in use is shared.
#[test]
fn nothing_is_sent_when_something_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    let proxy = FaultProxy::start("127.0.0.1:9".parse().unwrap(), []).unwrap();
    let url = format!("http://{}/", proxy.address());
    let good = root.path().join("audit.log");
    fs::write(&good, "{}\n").unwrap();
    let ship = Ship::new(root.path().join("state"), url);
    let bad = [root.path().join("one"), root.path().join("two")];
    let output = ship.command(&[&good, &bad[0], &bad[1]]).output().unwrap();
    Ship::ended(&output, 64);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(bad.iter().all(|path| said.contains(path.to_str().unwrap())), "{said}");
    let lock =
        fs::create_dir(root.path().join("state")).and_then(|()| fs::File::create(root.path().join("state/lock")));
    let mut lock = lock.unwrap();
    lock.lock().unwrap();
    lock.write_all(b"1\n").unwrap();
    Ship::ended(&ship.command(&[&good]).output().unwrap(), 1);
    assert_eq!(proxy.requests(), 0);
}
