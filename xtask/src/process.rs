//! Child processes that never outlive the task that started them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::Failure;

/// A running program; killed when dropped. What it logs (stderr) goes to a file.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; several may log to the same file, one after the other.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let stdout = open_log(log)?.into();
        Self::spawn(name, command, log, stdout)
    }

    /// Starts a program and waits for a line on its standard output that starts with `prefix`; gives the line's rest.
    pub(crate) fn start_and_wait(
        name: &'static str,
        command: &mut Command,
        log: &Path,
        prefix: &'static str,
        limit: Duration,
    ) -> Result<(Self, String), Failure> {
        let mut process = Self::spawn(name, command, log, Stdio::piped())?;
        let stdout = process.child.stdout.take().ok_or("no standard output")?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            // Nobody waits any more when this fails.
            let _ = sender.send(find_line(&mut lines, prefix));
            // Reading on keeps the program from blocking on a full pipe.
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
        });
        match receiver.recv_timeout(limit) {
            Ok(Some(rest)) => Ok((process, rest)),
            _ => Err(process.failure(&format!("did not say {prefix:?}"))),
        }
    }

    fn spawn(name: &'static str, command: &mut Command, log: &Path, stdout: Stdio) -> Result<Self, Failure> {
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(open_log(log)?).spawn();
        let child = child.map_err(|error| format!("{name} does not start: {error}"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Whether the program is still running; a failure if it ended.
    pub(crate) fn check_running(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended too early ({status})"))),
        }
    }

    /// Ends the program at once, as `kill -9` does.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the program to end and waits until it does; a failure if its status is not 0.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<(), Failure> {
        // The standard library cannot send SIGTERM; every shell can, without a program besides it.
        let command = format!("kill -TERM {}", self.child.id());
        Command::new("sh").args(["-c", &command]).status()?;
        match wait(&mut self.child, limit)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failure(&format!("ended with {status}"))),
            None => Err(self.failure(&format!("did not end within {limit:?}"))),
        }
    }

    /// A failure of this program, with the end of its log.
    fn failure(&self, what: &str) -> Failure {
        const LINES: usize = 20;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
        format!("{} {what}; its log {} ends in\n  {end}", self.name, self.log.display()).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn find_line(lines: &mut BufReader<ChildStdout>, prefix: &str) -> Option<String> {
    lines.lines().map_while(Result::ok).find_map(|line| line.strip_prefix(prefix).map(str::to_owned))
}

/// Waits for a program to end; `None` if it does not within `limit`.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, Failure> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    loop {
        match child.try_wait()? {
            None if waited < limit => std::thread::sleep(INTERVAL),
            status => return Ok(status),
        }
        waited += INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A shell that runs a script, once it has said `ready…`.
    fn shell(script: &str, log: &Path) -> Result<(Process, String), Failure> {
        Process::start_and_wait("shell", Command::new("sh").args(["-c", script]), log, "ready", LONG)
    }

    // Fails if the line is missed, or the wrong one is taken.
    #[test]
    fn the_line_waited_for_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (mut process, rest) =
            shell("echo hello; echo ready 1.2; exec sleep 60", &directory.path().join("log")).unwrap();
        assert_eq!(rest, " 1.2");
        process.check_running().unwrap();
    }

    // Fails if an early end goes unnoticed, or its reason is not shown.
    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let Err(failure) = shell("echo out of luck >&2; exit 3", &directory.path().join("log")) else {
            panic!("a program that ended was taken for ready");
        };
        assert!(failure.to_string().contains("out of luck"), "{failure}");
    }

    // Fails if SIGTERM is not what is sent, or the exit status is not looked at.
    #[test]
    fn termination_is_asked_for_and_judged() {
        let directory = tempfile::tempdir().unwrap();
        for (status, good) in [(0, true), (1, false)] {
            let script = format!("trap 'exit {status}' TERM; echo ready; while :; do sleep 0.01; done");
            let (process, _) = shell(&script, &directory.path().join("log")).unwrap();
            assert_eq!(process.terminate(LONG).is_ok(), good);
        }
    }
}
