//! From the text of every setting to one [`Config`], with the checks that concern several settings.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::{self, Complaint, complain};
use super::problem::{Origin, Problems};
use super::units::{DURATION_FORM, SIZE_FORM, format_duration, format_size, parse_duration, parse_size};
use super::yaml::Given;
use super::*;
use crate::limits::{BLOCK_BYTES, PAGE_BYTES, SOURCES_MAX};

/// Longest duration of any setting: longer ones are mistakes, and far below what clocks overflow at.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// Shortest duration where zero would mean "never stop trying".
const DURATION_MIN: Duration = Duration::from_millis(1);

/// Largest `source.max_event_bytes`; etcd takes no object beyond a few MiB, so no audit event comes near.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest size of any other setting, in bytes: larger ones are mistakes.
const SIZE_MAX: u64 = 1 << 40;

/// Largest `limits.in_flight` and `limits.workers`.
const CONCURRENCY_MAX: usize = 64;

/// Builds the configuration from the values that hold. Every problem is noted; `None` or a noted problem means that
/// there is no configuration. `missing` is where problems of settings nobody gave are reported.
pub(super) fn build(
    values: &BTreeMap<&'static str, Given>,
    missing: Origin,
    problems: &mut Problems,
) -> Option<Config> {
    let mut builder = Builder { values, missing, problems };
    let cluster_id = builder.required("cluster_id", parse::name);
    let service_id = builder.optional("service_id", parse::identifier).unwrap_or_default();
    let node_id = builder.required("node_id", parse::name);
    let state_directory = builder.required("state_directory", parse::path);
    let shutdown_grace = builder.duration("shutdown_grace", Duration::ZERO);
    let source = builder.source();
    let chunk = builder.chunk();
    let destination = builder.destination();
    let limits = builder.limits(source.as_ref());
    let observe = builder.observe();
    Some(Config {
        cluster_id: cluster_id?,
        service_id,
        node_id: node_id?,
        state_directory: state_directory?,
        source: source?,
        chunk: chunk?,
        destination: destination?,
        limits: limits?,
        observe: observe?,
        shutdown_grace: shutdown_grace?,
    })
}

/// Bytes of the smallest body pool that lets the pipeline go on whatever the log holds: one line of
/// `max_event_bytes` being closed while `in_flight` chunks of one block each are being sent, none of it compressible.
pub fn body_pool_bytes_min(in_flight: usize, max_event_bytes: usize) -> usize {
    // Wrapped and deflated without gain, a block grows by less than an eighth.
    let pages = |bytes: usize| (bytes + bytes / 8).div_ceil(PAGE_BYTES);
    (in_flight * pages(BLOCK_BYTES) + pages(max_event_bytes.max(BLOCK_BYTES))) * PAGE_BYTES
}

/// Takes values one by one, noting what is wrong with them.
struct Builder<'a> {
    values: &'a BTreeMap<&'static str, Given>,
    missing: Origin,
    problems: &'a mut Problems,
}

impl Builder<'_> {
    fn source(&mut self) -> Option<SourceConfig> {
        let paths = self.paths();
        let starts = [("beginning", StartAt::Beginning), ("end", StartAt::End)];
        let start_at = self.word("source.start_at", &starts);
        let reads = [("auto", ReadRung::Auto), ("uring", ReadRung::Uring), ("pread", ReadRung::Pread)];
        let read = self.word("source.read", &reads);
        let watches = [("auto", WatchRung::Auto), ("inotify", WatchRung::Inotify), ("poll", WatchRung::Poll)];
        let watch = self.word("source.watch", &watches);
        // Shorter intervals would keep a processor busy looking.
        let poll_interval = self.duration("source.poll_interval", Duration::from_millis(10));
        let rescan_interval = self.duration("source.rescan_interval", Duration::from_millis(100));
        let max_event_bytes = self.size("source.max_event_bytes", BLOCK_BYTES as u64..=EVENT_BYTES_MAX as u64);
        Some(SourceConfig {
            paths: paths?,
            start_at: start_at?,
            read: read?,
            watch: watch?,
            poll_interval: poll_interval?,
            rescan_interval: rescan_interval?,
            max_event_bytes: usize::try_from(max_event_bytes?).ok()?,
        })
    }

    fn paths(&mut self) -> Option<Vec<String>> {
        const KEY: &str = "source.paths";
        let Some(given) = self.values.get(KEY).filter(|given| !given.texts.is_empty()) else {
            self.is_missing(KEY);
            return None;
        };
        if given.texts.len() > SOURCES_MAX {
            let what = format!("lists {} paths", given.texts.len());
            self.problems.add(&given.origin, KEY, what, format!("list at most {SOURCES_MAX}"));
        }
        let parsed: Vec<_> = given.texts.iter().map(|text| self.note(KEY, parse::pattern(text))).collect();
        parsed.into_iter().collect()
    }

    fn chunk(&mut self) -> Option<ChunkConfig> {
        let offload_amount_bytes = self.size("chunk.offload_amount", 1..=SIZE_MAX);
        let offload_after = self.duration("chunk.offload_after", DURATION_MIN);
        let encoding = self.word("chunk.encoding", &[("gzip", Encoding::Gzip), ("zstd", Encoding::Zstd)]);
        // Where the encoding is wrong, only what no encoding allows is complained about.
        let level_max = if encoding == Some(Encoding::Gzip) { 9 } else { 19 };
        let level = self.number("chunk.level", 1..=level_max);
        Some(ChunkConfig {
            offload_amount_bytes: offload_amount_bytes?,
            offload_after: offload_after?,
            encoding: encoding?,
            level: u32::try_from(level?).ok()?,
        })
    }

    fn destination(&mut self) -> Option<DestinationConfig> {
        let url = self.required("destination.url", parse::destination_url);
        let token = self.token(url.as_ref());
        let ca_file = self.optional("destination.ca_file", parse::path);
        let client_identity = self.client_identity();
        let proxy = self.optional("destination.proxy", parse::proxy);
        let no_proxy = self.optional("destination.no_proxy", |text| Ok(text.to_owned())).unwrap_or_default();
        let connect_timeout = self.duration("destination.connect_timeout", DURATION_MIN);
        let request_timeout = self.duration("destination.request_timeout", DURATION_MIN);
        let idle_timeout = self.duration("destination.idle_timeout", DURATION_MIN);
        let (retry_initial, retry_max) = self.retry();
        let unauthorized_retry = self.duration("destination.unauthorized_retry", DURATION_MIN);
        Some(DestinationConfig {
            url: url?,
            token,
            ca_file,
            client_identity,
            proxy,
            no_proxy,
            connect_timeout: connect_timeout?,
            request_timeout: request_timeout?,
            idle_timeout: idle_timeout?,
            retry_initial: retry_initial?,
            retry_max: retry_max?,
            unauthorized_retry: unauthorized_retry?,
        })
    }

    /// One token at most, and none that anybody on the way could read.
    fn token(&mut self, url: Option<&hyper::Uri>) -> Option<TokenSource> {
        let literal = self.optional("destination.token", parse::token);
        let file = self.optional("destination.token_file", parse::path);
        let plaintext_allowed = self.required("destination.allow_plaintext_token", parse::switch);
        if self.is_given("destination.token") && self.is_given("destination.token_file") {
            let other = self.origin("destination.token");
            let what = format!("is given as well as destination.token ({other})");
            self.problem("destination.token_file", what, "keep one of them");
        }
        let has_token = literal.is_some() || file.is_some();
        let is_exposed = |url: &hyper::Uri| url.scheme_str() == Some("http") && !parse::is_loopback(url);
        if has_token && plaintext_allowed == Some(false) && url.is_some_and(is_exposed) {
            let remedy = "use https, or set destination.allow_plaintext_token: true";
            self.problem("destination.url", "would send the token over plain http to another host", remedy);
        }
        literal.map(TokenSource::Literal).or(file.map(TokenSource::File))
    }

    /// A certificate and its key go together.
    fn client_identity(&mut self) -> Option<(PathBuf, PathBuf)> {
        const CERT: &str = "destination.client_cert_file";
        const KEY: &str = "destination.client_key_file";
        let cert = self.optional(CERT, parse::path);
        let key = self.optional(KEY, parse::path);
        for (given, lacking) in [(CERT, KEY), (KEY, CERT)] {
            if self.is_given(given) && !self.is_given(lacking) {
                self.problem(given, format!("is given without {lacking}"), "give both or neither");
            }
        }
        cert.zip(key)
    }

    /// First and longest back-off.
    fn retry(&mut self) -> (Option<Duration>, Option<Duration>) {
        let initial = self.duration("destination.retry_initial", DURATION_MIN);
        let max = self.duration("destination.retry_max", DURATION_MIN);
        if initial.zip(max).is_some_and(|(initial, max)| initial > max) {
            let (first, second) = ("destination.retry_initial", "destination.retry_max");
            let remedy = "give a first pause that is no longer than the longest";
            match self.more_explicit(first, second) {
                key if key == first => self.problem(key, format!("is longer than {second}"), remedy),
                key => self.problem(key, format!("is shorter than {first}"), remedy),
            }
        }
        (initial, max)
    }

    fn limits(&mut self, source: Option<&SourceConfig>) -> Option<LimitsConfig> {
        let body_pool = self.size("limits.body_pool", 1..=SIZE_MAX);
        let in_flight = self.number("limits.in_flight", 1..=CONCURRENCY_MAX);
        let workers = self.number("limits.workers", 0..=CONCURRENCY_MAX);
        let aside = self.size("limits.aside", 0..=SIZE_MAX);
        if let (Some(body_pool), Some(in_flight), Some(source)) = (body_pool, in_flight, source) {
            let min = body_pool_bytes_min(in_flight, source.max_event_bytes) as u64;
            if body_pool < min {
                let what = format!("{} is too little", format_size(body_pool));
                let remedy = format!(
                    "give at least {}, which holds one line of source.max_event_bytes ({}) and {in_flight} requests \
                     (limits.in_flight), or lower these",
                    format_size(min.next_multiple_of(1 << 20)),
                    format_size(source.max_event_bytes as u64),
                );
                self.problem("limits.body_pool", what, remedy);
            }
        }
        Some(LimitsConfig {
            body_pool_bytes: usize::try_from(body_pool?).ok()?,
            in_flight: in_flight?,
            workers: workers?,
            aside_bytes: aside?,
        })
    }

    fn observe(&mut self) -> Option<ObserveConfig> {
        use tracing::Level;
        let listen = self.required("observe.listen", parse::listen);
        let log_format = self.word("observe.log_format", &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let log_level = self.word("observe.log_level", &levels);
        Some(ObserveConfig { listen: listen?, log_format: log_format?, log_level: log_level? })
    }
}

/// Single values.
impl Builder<'_> {
    /// A value that may be absent. `None` where it is, or where it is wrong and that has been noted.
    fn optional<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        let given = self.values.get(key)?;
        let parsed = match given.texts.as_slice() {
            [text] => parse(text),
            _ => complain("has several values", "give one"),
        };
        self.note(key, parsed)
    }

    /// A value that must be there. `None` where it is not, or is wrong, and that has been noted.
    fn required<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        if !self.is_given(key) {
            self.is_missing(key);
        }
        self.optional(key, parse)
    }

    /// Complains about a setting that nobody gave, unless a problem noted before explains it: one of this key, or one
    /// without a key, which ended the reading of the file.
    fn is_missing(&mut self, key: &'static str) {
        if self.problems.0.iter().any(|problem| problem.key.is_empty() || problem.key == key) {
            return;
        }
        let place = if self.missing == Origin::Unset { "in the file given with --config" } else { "here" };
        let aliases = settings::find(key).map_or(&[][..], |setting| setting.aliases);
        let names: String = aliases.iter().map(|alias| format!(", or in {}", alias.name)).collect();
        self.problem(key, "is missing", format!("give it {place}{names}"));
    }

    fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.required(key, |text| match parse_size(text) {
            Some(bytes) => within(bytes, &range, |bytes| format_size(*bytes)),
            None => complain(format!("{text:?} is not a size"), SIZE_FORM),
        })
    }

    fn duration(&mut self, key: &'static str, min: Duration) -> Option<Duration> {
        self.required(key, |text| match parse_duration(text) {
            Some(duration) => within(duration, &(min..=DURATION_MAX), |duration| format_duration(*duration)),
            None => complain(format!("{text:?} is not a duration"), DURATION_FORM),
        })
    }

    fn number(&mut self, key: &'static str, range: RangeInclusive<usize>) -> Option<usize> {
        self.required(key, |text| match text.parse() {
            Ok(number) => within(number, &range, usize::to_string),
            Err(_) => complain(format!("{text:?} is not a whole number"), between(&range, usize::to_string)),
        })
    }

    fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.required(key, |text| match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                complain(format!("{text:?} is not known here"), format!("use one of {}", known.join(", ")))
            }
        })
    }

    fn note<T>(&mut self, key: &'static str, parsed: Result<T, Complaint>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(Complaint { what, remedy }) => {
                self.problem(key, what, remedy);
                None
            }
        }
    }

    fn problem(&mut self, key: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let origin = self.origin(key);
        self.problems.add(&origin, key, what, remedy);
    }

    fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or_else(|| self.missing.clone(), |given| given.origin.clone())
    }

    /// Of two settings that do not fit together, the one somebody gave.
    fn more_explicit(&self, first: &'static str, second: &'static str) -> &'static str {
        if self.origin(first) == Origin::Default { second } else { first }
    }
}

/// The value, if it lies in the range; else a complaint that shows both.
fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, Complaint> {
    if range.contains(&value) {
        return Ok(value);
    }
    let side = if value < *range.start() { "little" } else { "much" };
    complain(format!("{} is too {side}", show(&value)), between(range, show))
}

/// A range in words.
fn between<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("use {} to {}", show(range.start()), show(range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if the default pool would be refused with the defaults, or the minimum stops following what it depends on.
    #[test]
    fn the_smallest_body_pool_follows_line_and_requests() {
        assert!(body_pool_bytes_min(4, 16 << 20) <= 24 << 20);
        assert!(body_pool_bytes_min(4, 64 << 20) > 64 << 20);
        assert_eq!(body_pool_bytes_min(5, 1 << 20) - body_pool_bytes_min(4, 1 << 20), 9 * PAGE_BYTES);
        assert_eq!(body_pool_bytes_min(1, 1), body_pool_bytes_min(1, BLOCK_BYTES));
    }
}
