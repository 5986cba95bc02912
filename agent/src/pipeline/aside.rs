//! Chunks that the destination refused for good: kept in `STATE_DIRECTORY/aside/` with their manifests, to be sent again
//! with `auditail ship` once the cause is mended.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::manifest::{Encoding, Manifest};
use crate::upload::Delivery;

/// Folder of the state directory in which refused chunks are kept.
pub const ASIDE: &str = "aside";

/// Pause between attempts to set a chunk aside, when there is no room for it.
const ASIDE_RETRY: Duration = Duration::from_secs(30);

/// What is kept beside the body of a chunk that was set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AsideRecord {
    /// The manifest under which it was sent, and under which `ship` sends it again.
    pub manifest: Manifest,
    /// How the body is compressed.
    pub encoding: Encoding,
    /// What the destination said.
    pub reason: String,
}

/// Keeps a refused chunk in the state directory. Waits while there is no room: giving up would lose it.
pub(super) async fn set_aside<D: Disk>(disk: &Rc<D>, delivery: &Delivery, reason: &str, bytes_max: u64) {
    let mut failures = 0u32;
    loop {
        let Err(error) = try_set_aside(disk, delivery, reason, bytes_max).await else { return };
        failures += 1;
        if failures.is_power_of_two() {
            tracing::error!(chunk = %delivery.manifest.id, %error, reason, "cannot set a refused chunk aside; delivery of its log waits");
        }
        tokio::time::sleep(ASIDE_RETRY).await;
    }
}

async fn try_set_aside<D: Disk>(
    disk: &Rc<D>,
    delivery: &Delivery,
    reason: &str,
    bytes_max: u64,
) -> std::io::Result<()> {
    let Delivery { manifest, encoding, body } = delivery;
    let stem = manifest.id.to_string();
    let kept: u64 = disk
        .list_state(ASIDE.as_ref())?
        .iter()
        .filter(|(name, _)| !name.starts_with(&stem))
        .map(|(_, bytes)| bytes)
        .sum();
    if kept + delivery.body_bytes() > bytes_max {
        return Err(std::io::Error::other(format!(
            "{kept} bytes are kept in {ASIDE}/ already and limits.aside is {bytes_max}: ship or remove them, or raise the limit"
        )));
    }
    let record = AsideRecord { manifest: manifest.clone(), encoding: *encoding, reason: reason.to_owned() };
    let record = serde_json::to_vec_pretty(&record).map_err(std::io::Error::other)?;
    // The manifest is written last: a body without one is the trace of a crash, and the chunk is then still undelivered.
    disk.replace_state(aside_body(&stem, *encoding), body.clone()).await?;
    disk.replace_state(PathBuf::from(ASIDE).join(format!("{stem}.json")), vec![Bytes::from(record)]).await
}

/// Name of a set-aside body within the state directory.
pub fn aside_body(stem: &str, encoding: Encoding) -> PathBuf {
    PathBuf::from(ASIDE).join(format!("{stem}.ndjson.{}", encoding.extension()))
}
