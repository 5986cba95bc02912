//! Chunks that were set aside are sent again, under the manifests and ids they had.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::display::Display;
use crate::pipeline::aside::{ASIDE, AsideRecord, aside_body};
use crate::upload::deliver::{Verdict, deliver};
use crate::upload::retry::RetryPolicy;
use crate::upload::{Delivery, Destination};

/// What became of chunks that were set aside.
#[derive(Debug, Default)]
pub(super) struct Resent {
    /// Chunks delivered and removed.
    pub delivered: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of log in them.
    pub bytes: u64,
    /// Chunks that are still there.
    pub left: u64,
}

/// Sends chunks in the order of their chains. One that is refused again, or cannot be read, stays where it is.
pub(super) async fn resend<T: Destination>(
    manifests: &[PathBuf],
    destination: &T,
    policy: &RetryPolicy,
    display: &Display,
    resent: &mut Resent,
) {
    let mut chunks = Vec::new();
    for path in manifests {
        match load(path) {
            Ok(record) => chunks.push((path, record)),
            Err(error) => display.say(format_args!("{}: {error}", path.display())),
        }
    }
    resent.left = manifests.len() as u64;
    chunks.sort_by_key(|(_, AsideRecord { manifest, .. })| {
        (manifest.stream, manifest.source.clone(), manifest.sequence, manifest.span)
    });
    let mut rng = fastrand::Rng::new();
    for (path, AsideRecord { manifest, encoding, .. }) in chunks {
        let body = match fs::read(body_path(path, &manifest.id.to_string(), encoding)) {
            Ok(body) => vec![Bytes::from(body)],
            Err(error) => {
                display.say(format_args!("{}: cannot read the body beside it: {error}", path.display()));
                continue;
            }
        };
        let delivery = Delivery { manifest, encoding, body };
        let reason = match deliver(destination, &delivery, policy, &mut rng, &mut |_| ()).await {
            Verdict::Delivered => {
                resent.delivered += 1;
                resent.events += delivery.manifest.events;
                resent.bytes += delivery.manifest.span.len();
                resent.left -= 1;
                remove(path, &delivery, display);
                continue;
            }
            Verdict::TooLarge => "larger than the destination takes (413)".to_owned(),
            Verdict::Refused { reason } => reason,
        };
        display.say(format_args!("{}: refused again: {reason}", path.display()));
    }
}

/// How many chunks of these sources are kept aside in a state directory.
///
/// # Errors
/// Where that cannot be found out.
pub(super) fn kept(state_directory: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<u64> {
    let entries = match fs::read_dir(state_directory.join(ASIDE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            count += u64::from(is_ours(&load(&path)?.manifest.source));
        }
    }
    Ok(count)
}

fn load(path: &Path) -> io::Result<AsideRecord> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

fn body_path(manifest: &Path, stem: &str, encoding: crate::manifest::Encoding) -> PathBuf {
    let body = aside_body(stem, encoding);
    body.file_name().map_or_else(PathBuf::new, |name| manifest.with_file_name(name))
}

/// The manifest goes first: a body without one is what a crash leaves, and stands for nothing.
fn remove(path: &Path, delivery: &Delivery, display: &Display) {
    let body = body_path(path, &delivery.manifest.id.to_string(), delivery.encoding);
    for file in [path, &body] {
        if let Err(error) = fs::remove_file(file) {
            display.say(format_args!("{}: delivered, but cannot be removed: {error}", file.display()));
        }
    }
}
