//! The real binary as receiver and as sender, and the real logs of `tests/data`.
#![allow(unreachable_pub)] // A module of a test binary: nothing in it is reachable from outside.
#![allow(clippy::unwrap_used)] // It fails the test that uses it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use auditail::manifest::{Encoding, Kind};
use auditail::receive::layout::{StoredManifest, body_extension};
use auditail::receive::verify::report::Report;
use auditail::receive::verify::verify;

const AUDITAIL: &str = env!("CARGO_BIN_EXE_auditail");

/// `auditail receive`, ended when it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    directory: PathBuf,
    child: Child,
}

impl Receiver {
    /// Starts a receiver on a free port.
    pub fn start(directory: &Path) -> Self {
        let mut command = Command::new(AUDITAIL);
        command.args(["receive", "--listen", "127.0.0.1:0", "--dir"]).arg(directory);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { address, directory: directory.to_owned(), child }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What has arrived, with the verdict of `verify`.
    pub fn received(&self) -> Archive {
        let report = verify(&self.directory, None).unwrap();
        Archive { report, contents: contents(&self.directory) }
    }

    /// What has arrived, which `verify` must find complete.
    pub fn verified(&self) -> Archive {
        let archive = self.received();
        assert!(archive.report.complete, "{}", archive.report);
        archive
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // One that has ended already needs no ending.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a receiver has got.
pub struct Archive {
    pub report: Report,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// What was delivered of a file, in order.
    pub fn content(&self, path: &Path) -> &[u8] {
        &self.contents[path.canonicalize().unwrap().to_str().unwrap()]
    }
}

/// The lines in an archive by source, in the order of their chains.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut chunks = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                let stored: StoredManifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                chunks.push((path, stored));
            }
        }
    }
    chunks.sort_by_key(|(_, stored)| (stored.manifest.sequence, stored.manifest.span.start));
    let mut contents = BTreeMap::<String, Vec<u8>>::new();
    for (path, StoredManifest { encoding, manifest, .. }) in chunks {
        if manifest.kind == Kind::Lines {
            let body = fs::read(path.with_extension(&body_extension(encoding)[1..])).unwrap();
            contents.entry(manifest.source).or_default().extend(decode(&body, encoding));
        }
    }
    contents
}

fn decode(body: &[u8], encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Gzip => gunzip(body),
        Encoding::Zstd => zstd::decode_all(body).unwrap(),
    }
}

/// `auditail ship` with a state directory and a destination.
pub struct Ship {
    state: PathBuf,
    url: String,
}

impl Ship {
    pub fn new(state: PathBuf, url: String) -> Self {
        Self { state, url }
    }

    /// The command, with nothing from the environment that would change what it does.
    pub fn command(&self, arguments: &[impl AsRef<Path>]) -> Command {
        let mut command = Command::new(AUDITAIL);
        command
            .env_clear()
            .env("AUDITAIL_DESTINATION_RETRY_INITIAL", "10ms")
            .env("AUDITAIL_DESTINATION_RETRY_MAX", "50ms");
        command.args(["ship", "--to", &self.url, "--state"]).arg(&self.state);
        command.args(arguments.iter().map(AsRef::as_ref)).stdout(Stdio::piped());
        command
    }

    /// The summary of a run that ended with this exit code.
    pub fn ended(output: &Output, code: i32) -> String {
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout.clone()).unwrap()
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audit").join(name)
}

/// A corpus, decompressed.
pub fn corpus(name: &str) -> Vec<u8> {
    zstd::decode_all(fs::File::open(data(&format!("{name}.jsonl.zst"))).unwrap()).unwrap()
}

/// Copies the log directory of a real server, its live file decompressed. Gives every file's content.
pub fn rotation_run(into: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fs::create_dir(into).unwrap();
    let mut history = Vec::new();
    for entry in fs::read_dir(data("rotation-run")).unwrap() {
        let from = entry.unwrap().path();
        let (bytes, name) = (fs::read(&from).unwrap(), from.file_name().unwrap().to_str().unwrap());
        if let Some(name) = name.strip_suffix(".zst") {
            let content = zstd::decode_all(&bytes[..]).unwrap();
            fs::write(into.join(name), &content).unwrap();
            history.push((into.join(name), content));
        } else {
            fs::write(into.join(name), &bytes).unwrap();
            history.push((into.join(name), gunzip(&bytes)));
        }
    }
    assert_eq!(history.len(), 9);
    history
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut content).unwrap();
    content
}

/// One gzip member.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
