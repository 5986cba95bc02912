//! A child process whose output is read as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::until;

/// The binary under test.
pub const AUDITAIL: &str = env!("CARGO_BIN_EXE_auditail");

/// A running child; killed when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `auditail` with these arguments and nothing in its environment but `environment`.
    pub fn start(name: &'static str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(AUDITAIL)
            .args(args)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::default();
        let readers =
            vec![collect(child.stdout.take().unwrap(), &lines), collect(child.stderr.take().unwrap(), &lines)];
        Self { name, child, lines, readers }
    }

    /// Lines printed so far, on both outputs.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line that contains all of `parts`.
    #[track_caller]
    pub fn wait_line(&self, parts: &[&str]) -> String {
        until(&format!("a line of {} with {parts:?}", self.name), || self.find(parts))
    }

    /// The first line that contains all of `parts`.
    pub fn find(&self, parts: &[&str]) -> Option<String> {
        self.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// Process id, for `/proc`.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by the name `kill` knows.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until the process has ended, and all it has printed is read.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = until(&format!("the end of {}", self.name), || self.child.try_wait().unwrap());
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Ends the process as a crash does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.wait().signal(), Some(9));
    }

    /// Exit code after SIGTERM.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- {}\n{}", self.name, self.lines().join("\n"));
        }
    }
}

fn collect(from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let into = into.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    })
}
