//! `cargo xtask demo`: an audit log is written and rotated as kube-apiserver does, the agent delivers it to the
//! reference receiver and is killed on the way, and what arrived is counted against what was written.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use auditail_bench::compare::{Comparison, compare};
use auditail_bench::drive::Drive;
use auditail_bench::generate::Generator;
use auditail_bench::writer::{Compress, LogWriter, Options, Rotation, Tally};

use crate::options::numbers;
use crate::process::Process;
use crate::{Failure, cargo, scrape};

/// Bytes at which the demo's log is rotated: small, so that it is rotated often.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    seconds: u64,
    rate: u64,
    seed: u64,
}

impl Settings {
    /// Parses `--seconds N --rate N --seed N`, also written `--seconds=N`.
    pub(crate) fn parse(options: &[String]) -> Result<Self, Failure> {
        let (mut seconds, mut rate, mut seed) = (None, None, None);
        numbers(
            "demo",
            options,
            &mut [("--seconds", 2, &mut seconds), ("--rate", 1, &mut rate), ("--seed", 0, &mut seed)],
        )?;
        Ok(Self { seconds: seconds.unwrap_or(20), rate: rate.unwrap_or(2_000), seed: seed.unwrap_or(1) })
    }
}

/// Runs the demo; a failure unless every event arrived exactly once.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    println!("Building the agent as it is shipped; the first time takes some minutes.");
    let binary = cargo::build_release()?;
    let directory = std::env::temp_dir().join(format!("auditail-demo-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let kept = |failure: Failure| Failure::from(format!("{failure}\nits files are kept in {}", directory.display()));

    let (tally, comparison) = play(settings, &binary, &directory).map_err(kept)?;
    print!("\n{}", table(&tally, &comparison));
    if !comparison.is_exact() {
        return Err(kept("not every event arrived exactly once".into()));
    }
    fs::remove_dir_all(&directory)?;
    Ok(())
}

fn play(settings: &Settings, binary: &Path, directory: &Path) -> Result<(Tally, Comparison), Failure> {
    let stage = Stage::set(binary, directory)?;
    let mut receiver = stage.start_receiver()?;
    let mut agent = stage.start_agent()?;
    let Settings { seconds, rate, seed } = *settings;
    println!("Writing {rate} events a second for {seconds} s to {}", stage.log.display());
    let options = Options {
        path: stage.log.clone(),
        bytes_max: FILE_BYTES_MAX,
        backups_max: 0,
        rotation: Rotation::Stamped(Compress::Background),
    };
    let drive = Drive::start(LogWriter::open(options)?, Generator::new(seed), rate)?;

    let mut progress = Progress::start();
    for second in 1..=seconds {
        progress.wait_until(second);
        receiver.check_running()?;
        agent.check_running()?;
        progress.show(second, &drive, stage.delivered());
        if second == seconds / 2 {
            progress.say("The agent is killed (SIGKILL) and started again.");
            progress.restart();
            agent.kill()?;
            agent = stage.start_agent()?;
        }
    }
    let tally = drive.stop()?;
    progress.say("The writer has stopped. The agent catches up and is asked to end (SIGTERM).");
    stage.wait_for_agent();
    agent.terminate(PATIENCE)?;
    receiver.terminate(PATIENCE)?;
    let arrived = stage.verify()?;
    let comparison = compare(&tally.serials, BufReader::new(File::open(arrived)?))?;
    Ok((tally, comparison))
}

/// Where everything is.
struct Stage<'a> {
    binary: &'a Path,
    directory: &'a Path,
    log: PathBuf,
    archive: PathBuf,
    token: String,
    metrics: SocketAddr,
}

impl<'a> Stage<'a> {
    fn set(binary: &'a Path, directory: &'a Path) -> Result<Self, Failure> {
        // The receiver listens on loopback for some seconds: the token is here to be used, not to protect.
        let token = format!("demo-{}", std::process::id());
        let token_file = directory.join("token");
        fs::write(&token_file, &token)?;
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
        // A port that is free now; the agent takes it in a moment.
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = directory.join("log").join("audit.log");
        Ok(Self { binary, directory, log, archive: directory.join("archive"), token, metrics })
    }

    /// Starts the receiver and writes the agent's configuration, which needs its address.
    fn start_receiver(&self) -> Result<Process, Failure> {
        let mut command = self.command("receive");
        command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(&self.archive);
        command.env("AUDITAIL_RECEIVE_TOKEN", &self.token);
        let log = self.directory.join("receive.log");
        let (process, address) =
            Process::start_and_wait("auditail receive", &mut command, &log, "listening on ", PATIENCE)?;
        fs::write(self.configuration_file(), self.configuration(address.trim()))?;
        Ok(process)
    }

    fn start_agent(&self) -> Result<Process, Failure> {
        let mut command = self.command("run");
        command.arg("--config").arg(self.configuration_file());
        Process::start("auditail run", &mut command, &self.directory.join("run.log"))
    }

    /// Checks the archive; gives the file with everything that arrived, in order.
    fn verify(&self) -> Result<PathBuf, Failure> {
        let arrived = self.directory.join("arrived.ndjson");
        let output = self.command("verify").arg(&self.archive).arg("--extract").arg(&arrived).output()?;
        println!("\n$ auditail verify");
        String::from_utf8_lossy(&output.stdout).lines().for_each(|line| println!("  {line}"));
        if output.status.success() {
            return Ok(arrived);
        }
        Err(format!("auditail verify: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// A command whose settings come from here alone, whatever is set in the caller's environment.
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.binary);
        command.arg(subcommand).env_clear();
        command
    }

    fn configuration_file(&self) -> PathBuf {
        self.directory.join("auditail.yaml")
    }

    fn configuration(&self, receiver: &str) -> String {
        let path = |name: &str| self.directory.join(name).display().to_string();
        format!(
            "cluster_id: demo\n\
             node_id: demo-node\n\
             state_directory: {:?}\n\
             source:\n  paths: [{:?}]\n\
             chunk:\n  offload_amount: 2MB\n  offload_after: 1s\n\
             destination:\n  url: http://{receiver}/v1/chunks\n  token_file: {:?}\n\
             observe:\n  listen: {}\n",
            path("state"),
            self.log.display().to_string(),
            path("token"),
            self.metrics,
        )
    }

    /// Events the running agent has delivered since its start; `None` while it does not answer.
    fn delivered(&self) -> Option<u64> {
        // Counts are whole and far below 2^53.
        scrape::sum(&scrape::page(self.metrics)?, "auditail_delivered_events_total").map(|count| count as u64)
    }

    /// Waits until the agent says twice, a second apart, that nothing is left; gives up in the end, for the
    /// comparison will tell.
    fn wait_for_agent(&self) {
        let started = Instant::now();
        let mut idle = 0;
        while idle < 2 && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_secs(1));
            let lag = scrape::page(self.metrics).and_then(|page| scrape::sum(&page, "auditail_lag_bytes"));
            idle = if lag == Some(0.0) { idle + 1 } else { 0 };
        }
    }
}

/// One line a second: in place on a terminal, else one below the other.
struct Progress {
    started: Instant,
    in_place: bool,
    /// Delivered by agents that have been killed, and by the one that runs.
    before: u64,
    current: u64,
}

impl Progress {
    fn start() -> Self {
        Self { started: Instant::now(), in_place: std::io::stdout().is_terminal(), before: 0, current: 0 }
    }

    fn wait_until(&self, second: u64) {
        std::thread::sleep(Duration::from_secs(second).saturating_sub(self.started.elapsed()));
    }

    /// A new agent counts from zero.
    fn restart(&mut self) {
        self.before += std::mem::take(&mut self.current);
    }

    /// What was delivered just before a kill is not known here, so this is a little low after it.
    fn show(&mut self, second: u64, drive: &Drive, delivered: Option<u64>) {
        self.current = delivered.unwrap_or(self.current);
        let written = drive.lines();
        let line = progress_line(second, written, (self.before + self.current).min(written), drive.rotations());
        if self.in_place {
            print!("\r\x1b[K{line}");
            // A terminal that is gone needs no progress.
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    fn say(&self, text: &str) {
        println!("{}{text}", if self.in_place { "\n" } else { "" });
    }
}

fn progress_line(second: u64, written: u64, delivered: u64, rotations: u64) -> String {
    let behind = grouped(written - delivered);
    let (written, delivered) = (grouped(written), grouped(delivered));
    format!(
        "{second:>4} s  written {written:>9}  delivered {delivered:>9}  behind {behind:>7}  rotations {rotations:>4}"
    )
}

fn table(tally: &Tally, comparison: &Comparison) -> String {
    let Comparison { delivered, duplicated, foreign, .. } = *comparison;
    let rows = [
        ("written", comparison.written),
        ("delivered", delivered),
        ("lost", comparison.lost.len() as u64),
        ("duplicated", duplicated),
        ("never written", foreign),
        ("rotations", tally.rotations),
        ("kills", 1),
    ];
    rows.map(|(name, count)| format!("{name:<14}{:>12}\n", grouped(count))).concat()
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Settings, Failure> {
        Settings::parse(&words.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    // Fails if an option is ignored, or nonsense is taken for one.
    #[test]
    fn options_are_parsed_or_refused() {
        assert_eq!(parse("").unwrap(), Settings { seconds: 20, rate: 2_000, seed: 1 });
        assert_eq!(parse("--seconds=5 --rate 10 --seed 0").unwrap(), Settings { seconds: 5, rate: 10, seed: 0 });
        for wrong in ["--seconds", "--seconds 1", "--rate x", "--speed 5", "20"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    // Fails if the numbers shown are not those counted, or hard to read.
    #[test]
    fn the_table_says_what_was_counted() {
        let comparison = Comparison {
            written: 1_234_567,
            delivered: 1_234_565,
            lost: vec![1, 2],
            duplicated: 3,
            ..Default::default()
        };
        let text = table(&Tally { rotations: 30, ..Tally::default() }, &comparison);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["written", "1,234,567"]);
        assert_eq!(rows[2], ["lost", "2"]);
        assert_eq!(rows[3], ["duplicated", "3"]);
        assert_eq!(rows[5], ["rotations", "30"]);
        assert_eq!((grouped(0), grouped(999), grouped(1_000)), ("0".into(), "999".into(), "1,000".into()));
    }

    // Fails if the agent is not told where the log, the receiver, the token or the metrics are.
    #[test]
    fn the_configuration_names_everything() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage::set(Path::new("auditail"), directory.path()).unwrap();
        let text = stage.configuration("127.0.0.1:7");
        assert!(text.contains("\n  url: http://127.0.0.1:7/v1/chunks\n"), "{text}");
        assert!(text.contains(&format!("\n  paths: [{:?}]\n", stage.log)), "{text}");
        assert!(text.contains(&format!("\n  token_file: {:?}\n", directory.path().join("token"))), "{text}");
        assert!(text.ends_with(&format!("\n  listen: {}\n", stage.metrics)), "{text}");
    }
}
