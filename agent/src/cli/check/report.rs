//! What `auditail check` has found, as values. The serialised form is documented in docs/check.md.

use serde::Serialize;

use super::checkpoint::CheckpointView;
use super::memory::Memory;
use crate::config::EffectiveSetting;

/// How a check came out. Orders by how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// The agent works; somebody should know something.
    Warn,
    /// The agent would not start, not read or not deliver.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at; the same for all logs. Never changes its meaning.
    pub check: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found. Holds no secret and no audit content.
    pub found: String,
    /// What to do about it; none where all is well.
    pub remedy: Option<String>,
}

impl Check {
    /// All is well.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), remedy: None }
    }

    /// The agent works; somebody should know.
    pub(super) fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// The agent would not work.
    pub(super) fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// One setting as it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SettingView {
    /// Dotted key.
    pub key: &'static str,
    /// Its value, secrets hidden; empty where there is none.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
}

/// Everything `auditail check` has to say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Release of the binary.
    pub version: &'static str,
    /// The worst status of all checks.
    pub status: Status,
    /// Every setting.
    pub settings: Vec<SettingView>,
    /// Every check.
    pub checks: Vec<Check>,
    /// What the agent remembers; none where it cannot be read or there is nothing yet.
    pub checkpoint: Option<CheckpointView>,
    /// What memory the configuration comes to.
    pub memory: Memory,
}

impl Report {
    pub(super) fn new(
        settings: &[EffectiveSetting],
        checks: Vec<Check>,
        checkpoint: Option<CheckpointView>,
        memory: Memory,
    ) -> Self {
        let view = |setting: &EffectiveSetting| SettingView {
            key: setting.key,
            value: setting.value.clone(),
            origin: setting.origin.to_string(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            status: checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok),
            settings: settings.iter().map(view).collect(),
            checks,
            checkpoint,
            memory,
        }
    }

    /// How many checks came out so.
    pub(super) fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }
}
