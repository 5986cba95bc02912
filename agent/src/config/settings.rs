//! Every setting there is, in one table: its key, its environment names, its default and what it means.
//! Reading the file and the environment, `auditail check` and `docs/configuration.md` all follow this table.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Dotted key: the path in the configuration file.
    pub key: &'static str,
    /// Its own name in the environment: `AUDITAIL_` and the key in capitals, dots written as underscores.
    pub own_name: &'static str,
    /// Names other collectors and tools use for it, first match wins.
    pub aliases: &'static [Alias],
    /// What holds where nothing is given.
    pub default: Fallback,
    /// What a value looks like.
    pub kind: Kind,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// A name in the environment that is not our own.
#[derive(Debug)]
pub struct Alias {
    /// Name of the variable.
    pub name: &'static str,
    /// How its value is written there.
    pub form: AliasForm,
}

/// How a value under a foreign name differs from our own form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasForm {
    /// Not at all.
    Same,
    /// Seconds may stand without a unit.
    Seconds,
    /// `https://` may be left out.
    HttpsHost,
    /// `http://` may be left out.
    HttpHost,
    /// One element; commas in it are not separators.
    Single,
}

impl AliasForm {
    /// The value in our own form.
    pub fn adapt(self, text: &str) -> String {
        let bare_host = !text.contains("://");
        match self {
            Self::Seconds if text.bytes().all(|byte| byte.is_ascii_digit()) => format!("{text}s"),
            Self::HttpsHost if bare_host => format!("https://{text}"),
            Self::HttpHost if bare_host => format!("http://{text}"),
            _ => text.to_owned(),
        }
    }
}

/// What holds where nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This, written as in the file.
    Value(&'static str),
    /// The name of the host.
    HostName,
    /// The number of processors, at most two.
    Processors,
    /// Nothing: the setting has no effect.
    Unset,
    /// Nothing: the configuration is refused.
    Required,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// An absolute path.
    Path,
    /// A list of absolute paths or glob patterns.
    PathList,
    /// A URL.
    Url,
    /// A URL that may hold credentials, which are never shown.
    ProxyUrl,
    /// A size in bytes.
    Size,
    /// A duration.
    Duration,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An address and port to listen on, or `off`.
    Listen,
}

impl Kind {
    /// Whether the setting takes a list.
    pub fn is_list(self) -> bool {
        self == Self::PathList
    }

    /// A value of this kind as it may be shown.
    pub fn redacted(self, text: &str) -> String {
        match self {
            Self::Secret => "(hidden)".to_owned(),
            Self::ProxyUrl => match text.rsplit_once('@') {
                Some((before, host)) => {
                    let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
                    format!("{scheme}(hidden)@{host}")
                }
                None => text.to_owned(),
            },
            _ => text.to_owned(),
        }
    }

    /// The kind in words, for documentation.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Secret => "text, never shown".to_owned(),
            Self::Path => "path".to_owned(),
            Self::PathList => "list of paths or globs".to_owned(),
            Self::Url => "URL".to_owned(),
            Self::ProxyUrl => "URL, may hold credentials".to_owned(),
            Self::Size => "size".to_owned(),
            Self::Duration => "duration".to_owned(),
            Self::Number => "whole number".to_owned(),
            Self::Switch => "`true`, `false`".to_owned(),
            Self::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Self::Listen => "`ADDRESS:PORT` or `off`".to_owned(),
        }
    }
}

/// The setting with this key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Whether settings live below this key.
pub fn is_section(key: &str) -> bool {
    sections().any(|section| section == key)
}

/// First parts of the keys that have several; repeated as often as there are settings in them.
fn sections() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter_map(|setting| setting.key.split_once('.')).map(|(section, _)| section)
}

/// The key or section most like `given`, where one is alike enough to be meant.
pub fn nearest(given: &str) -> Option<&'static str> {
    /// Below this similarity (Jaro-Winkler, 0 to 1) a guess confuses more than it helps.
    const SIMILARITY_MIN: f64 = 0.8;
    let last_part = |key: &str| key.rsplit('.').next().map(str::to_owned);
    // A key put into the wrong section shares its last part with the right one.
    if let Some(moved) = SETTINGS.iter().find(|setting| last_part(setting.key) == last_part(given)) {
        return Some(moved.key);
    }
    let known = SETTINGS.iter().map(|setting| setting.key).chain(sections());
    let scored = known.map(|key| (strsim::jaro_winkler(given, key), key));
    scored.filter(|(score, _)| *score >= SIMILARITY_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key)
}

/// A name that takes values in our own form.
const fn same(name: &'static str) -> Alias {
    Alias { name, form: AliasForm::Same }
}

/// A name that takes values in another form.
const fn alias(name: &'static str, form: AliasForm) -> Alias {
    Alias { name, form }
}

/// Writes the table compactly: key, own name, aliases, default, kind, help.
macro_rules! settings {
    ($($key:literal $own:literal $aliases:tt $default:expr, $kind:expr, $help:literal;)*) => {
        /// Every setting.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            own_name: $own,
            aliases: &$aliases,
            default: $default,
            kind: $kind,
            help: $help,
        }),*];
    };
}

use AliasForm::{HttpHost, HttpsHost, Seconds, Single};
use Fallback::{HostName, Processors, Required, Unset, Value};

settings! {
    "cluster_id" "AUDITAIL_CLUSTER_ID" [same("CLUSTER_ID")]
        Value("default_cluster"), Kind::Text, "Which cluster the audit log belongs to.";
    "service_id" "AUDITAIL_SERVICE_ID" [same("SERVICE_ID")]
        Unset, Kind::Text, "Identifier given out by whoever runs the destination.";
    "node_id" "AUDITAIL_NODE_ID" [same("NODE_NAME")]
        HostName, Kind::Text, "Name of the node.";
    "state_directory" "AUDITAIL_STATE_DIRECTORY" [same("STATE_DIRECTORY")]
        Value("/var/lib/auditail"), Kind::Path, "Where the checkpoint and chunks set aside live; must survive a restart.";
    "shutdown_grace" "AUDITAIL_SHUTDOWN_GRACE" []
        Value("20s"), Kind::Duration, "How long SIGTERM waits for the open chunk to be delivered.";

    "source.paths" "AUDITAIL_SOURCE_PATHS" [alias("LOG_FILE", Single)]
        Required, Kind::PathList, "Live audit logs; rotated siblings are found beside them.";
    "source.start_at" "AUDITAIL_SOURCE_START_AT" []
        Value("beginning"), Kind::Word(&["beginning", "end"]),
        "Where a first start begins: with the oldest rotated file, or with what is written from then on.";
    "source.read" "AUDITAIL_SOURCE_READ" []
        Value("auto"), Kind::Word(&["auto", "uring", "pread"]),
        "How logs are read; `auto` takes io_uring where it works, else pread.";
    "source.watch" "AUDITAIL_SOURCE_WATCH" []
        Value("auto"), Kind::Word(&["auto", "inotify", "poll"]),
        "How writes are noticed; `auto` takes inotify where it works, else polling.";
    "source.poll_interval" "AUDITAIL_SOURCE_POLL_INTERVAL" []
        Value("1s"), Kind::Duration, "How often polling looks at the files.";
    "source.rescan_interval" "AUDITAIL_SOURCE_RESCAN_INTERVAL" []
        Value("60s"), Kind::Duration, "How often directories are looked at even when nothing was noticed.";
    "source.max_event_bytes" "AUDITAIL_SOURCE_MAX_EVENT_BYTES" []
        Value("16MiB"), Kind::Size, "A longer line is delivered in marked pieces; 512KiB to 64MiB.";

    "chunk.offload_amount" "AUDITAIL_CHUNK_OFFLOAD_AMOUNT" [same("OFFLOAD_AMOUNT")]
        Value("50_000_000"), Kind::Size, "Uncompressed bytes after which a chunk is closed.";
    "chunk.offload_after" "AUDITAIL_CHUNK_OFFLOAD_AFTER" [alias("OFFLOAD_AFTER", Seconds)]
        Value("60s"), Kind::Duration, "Age after which a chunk is closed.";
    "chunk.encoding" "AUDITAIL_CHUNK_ENCODING" []
        Value("gzip"), Kind::Word(&["gzip", "zstd"]), "How chunks are compressed.";
    "chunk.level" "AUDITAIL_CHUNK_LEVEL" []
        Value("2"), Kind::Number, "Compression level: 1 to 9 for gzip, 1 to 19 for zstd.";

    "destination.url" "AUDITAIL_DESTINATION_URL" [alias("OUTPOST_HOST", HttpsHost)]
        Required, Kind::Url, "Chunks are POSTed here.";
    "destination.token" "AUDITAIL_DESTINATION_TOKEN" [same("OUTPOST_TOKEN")]
        Unset, Kind::Secret, "Bearer token; better kept in a file.";
    "destination.token_file" "AUDITAIL_DESTINATION_TOKEN_FILE" []
        Unset, Kind::Path, "File that holds the bearer token; read again when it changes.";
    "destination.allow_plaintext_token" "AUDITAIL_DESTINATION_ALLOW_PLAINTEXT_TOKEN" []
        Value("false"), Kind::Switch, "Send the token over plain http to another host.";
    "destination.ca_file" "AUDITAIL_DESTINATION_CA_FILE" []
        Unset, Kind::Path, "PEM certificates trusted besides the system's.";
    "destination.client_cert_file" "AUDITAIL_DESTINATION_CLIENT_CERT_FILE" []
        Unset, Kind::Path, "PEM certificate chain for mutual TLS.";
    "destination.client_key_file" "AUDITAIL_DESTINATION_CLIENT_KEY_FILE" []
        Unset, Kind::Path, "PEM private key for mutual TLS.";
    "destination.proxy" "AUDITAIL_DESTINATION_PROXY"
        [alias("HTTPS_PROXY", HttpHost), alias("https_proxy", HttpHost), alias("HTTP_PROXY", HttpHost)]
        Unset, Kind::ProxyUrl, "Proxy for every request; credentials are percent-encoded.";
    "destination.no_proxy" "AUDITAIL_DESTINATION_NO_PROXY" [same("NO_PROXY"), same("no_proxy")]
        Unset, Kind::Text, "Hosts reached without the proxy, separated by commas.";
    "destination.connect_timeout" "AUDITAIL_DESTINATION_CONNECT_TIMEOUT" []
        Value("10s"), Kind::Duration, "Longest wait for a connection, TLS and proxy included.";
    "destination.request_timeout" "AUDITAIL_DESTINATION_REQUEST_TIMEOUT" []
        Value("60s"), Kind::Duration, "Longest request, from the first byte sent to the end of the answer.";
    "destination.idle_timeout" "AUDITAIL_DESTINATION_IDLE_TIMEOUT" []
        Value("90s"), Kind::Duration, "After which an unused connection is closed.";
    "destination.retry_initial" "AUDITAIL_DESTINATION_RETRY_INITIAL" []
        Value("500ms"), Kind::Duration, "First pause before a retry; doubles, with jitter.";
    "destination.retry_max" "AUDITAIL_DESTINATION_RETRY_MAX" []
        Value("60s"), Kind::Duration, "Longest pause before a retry.";
    "destination.unauthorized_retry" "AUDITAIL_DESTINATION_UNAUTHORIZED_RETRY" []
        Value("60s"), Kind::Duration, "Pause after the destination refused the token (401, 403).";

    "limits.body_pool" "AUDITAIL_LIMITS_BODY_POOL" []
        Value("24MiB"), Kind::Size, "Memory for compressed chunks, allocated at start.";
    "limits.in_flight" "AUDITAIL_LIMITS_IN_FLIGHT" []
        Value("4"), Kind::Number, "Requests at once; 1 to 64.";
    "limits.workers" "AUDITAIL_LIMITS_WORKERS" []
        Processors, Kind::Number, "Framing threads; 0 to 64, 0 frames on the reading thread.";
    "limits.aside" "AUDITAIL_LIMITS_ASIDE" []
        Value("256MiB"), Kind::Size, "Disk space for chunks the destination refused for good.";

    "observe.listen" "AUDITAIL_OBSERVE_LISTEN" []
        Value("0.0.0.0:9464"), Kind::Listen, "Where `/metrics`, `/healthz` and `/readyz` are served.";
    "observe.log_format" "AUDITAIL_OBSERVE_LOG_FORMAT" []
        Value("json"), Kind::Word(&["json", "text"]), "How log lines are written.";
    "observe.log_level" "AUDITAIL_OBSERVE_LOG_LEVEL" []
        Value("info"), Kind::Word(&["error", "warn", "info", "debug", "trace"]), "Least level that is logged.";
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if an own name departs from its key, or one environment name means two settings.
    #[test]
    fn environment_names_follow_the_keys_and_are_unique() {
        let mut names = Vec::new();
        for setting in SETTINGS {
            assert_eq!(setting.own_name, format!("AUDITAIL_{}", setting.key.replace('.', "_").to_uppercase()));
            names.push(setting.own_name);
            names.extend(setting.aliases.iter().map(|alias| alias.name));
        }
        let total = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), total);
    }

    // Fails if a typing mistake or a key in the wrong section is no longer recognised, or anything is guessed.
    #[test]
    fn the_nearest_key_is_found() {
        assert_eq!(nearest("chunk.ofload_after"), Some("chunk.offload_after"));
        assert_eq!(nearest("offload_after"), Some("chunk.offload_after"));
        assert_eq!(nearest("clusterid"), Some("cluster_id"));
        assert_eq!(nearest("zzz"), None);
    }

    // Fails if a table or message shows a secret.
    #[test]
    fn secrets_are_redacted() {
        assert_eq!(Kind::Secret.redacted("abc"), "(hidden)");
        assert_eq!(Kind::ProxyUrl.redacted("http://u:p@w@proxy:3128"), "http://(hidden)@proxy:3128");
        assert_eq!(Kind::ProxyUrl.redacted("u:p@proxy:3128"), "(hidden)@proxy:3128");
        assert_eq!(Kind::ProxyUrl.redacted("http://proxy:3128"), "http://proxy:3128");
    }
}
