//! Configuration from the outside: what an operator writes, what comes out, and what is said about mistakes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use auditail::config::settings::{Fallback, Kind, SETTINGS, Setting};
use auditail::config::*;

/// Configuration from a file's text, environment variables and options.
fn resolved(file: Option<&str>, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Loaded, Problems> {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    resolve(&Inputs {
        flags: &flags,
        file: file.map(|text| ("f.yaml", text)),
        env: &|name| env.get(name).map(OsString::from),
        host_name: "node-1",
        processors: 8,
    })
}

/// What is said about a file that has everything it needs, and `extra`.
fn complaints(extra: &str) -> Vec<String> {
    let text = format!("destination.url: https://h/\nsource.paths: /a\n{extra}");
    match resolved(Some(&text), &[], &[]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

const MINIMAL: [(&str, &str); 2] = [("LOG_FILE", "/logs/audit.log"), ("OUTPOST_HOST", "host.example")];

// Fails if a default changes, or one is not a valid value of its setting.
#[test]
fn defaults() {
    let config = resolved(None, &MINIMAL, &[]).unwrap().config;
    assert_eq!(config.cluster_id, "default_cluster");
    assert_eq!((config.service_id.as_str(), config.node_id.as_str()), ("", "node-1"));
    assert_eq!(config.state_directory.to_str(), Some("/var/lib/auditail"));
    assert_eq!(config.source.max_event_bytes, 16 << 20);
    assert_eq!(config.chunk.offload_amount_bytes, 50_000_000);
    assert_eq!(config.chunk.offload_after, Duration::from_secs(60));
    assert_eq!(config.chunk.level, 2);
    assert_eq!(config.destination.url, "https://host.example/");
    assert_eq!(config.destination.retry_initial, Duration::from_millis(500));
    assert_eq!((config.limits.body_pool_bytes, config.limits.in_flight, config.limits.workers), (24 << 20, 4, 2));
    assert_eq!(config.observe.listen, Some(([0, 0, 0, 0], 9464).into()));
}

// Fails if a variable of the Red Canary container stops working as it is written there.
#[test]
fn the_red_canary_environment_works_as_it_is() {
    let env = [
        ("CLUSTER_ID", "c1"),
        ("SERVICE_ID", "s1"),
        ("OUTPOST_TOKEN", "t0ken\n"),
        ("OUTPOST_HOST", "https://cwp-ingest.redcanary.io/"),
        ("LOG_FILE", "/logs/audit,1.log"),
        ("STATE_DIRECTORY", "/state"),
        ("HTTP_PROXY", "https://user:p%40ss@proxy:8443"),
        ("OFFLOAD_AMOUNT", "25000000"),
        ("OFFLOAD_AFTER", "30"),
    ];
    let loaded = resolved(None, &env, &[]).unwrap();
    let config = &loaded.config;
    assert_eq!((config.cluster_id.as_str(), config.service_id.as_str()), ("c1", "s1"));
    assert_eq!(config.destination.token, Some(TokenSource::Literal(Secret("t0ken".to_owned()))));
    assert_eq!(config.destination.url, "https://cwp-ingest.redcanary.io/");
    assert_eq!(config.source.paths, ["/logs/audit,1.log"]);
    assert_eq!(config.state_directory.to_str(), Some("/state"));
    let proxy = config.destination.proxy.clone().unwrap();
    assert_eq!(proxy.url, "https://proxy:8443/");
    assert_eq!(proxy.credentials, Some(("user".to_owned(), Secret("p@ss".to_owned()))));
    assert_eq!(config.chunk.offload_amount_bytes, 25_000_000);
    assert_eq!(config.chunk.offload_after, Duration::from_secs(30));
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("t0ken") && !shown.contains("p@ss") && !shown.contains("p%40ss"));
}

// Fails if the order of precedence changes, an empty variable counts as set, or the origin shown is not the true one.
#[test]
fn precedence_and_origins() {
    let file = "cluster_id: file\nsource.paths: [/file]\nnode_id: file\nservice_id: file\ndestination.url: https://h/";
    let env = [
        ("AUDITAIL_CLUSTER_ID", "own"),
        ("CLUSTER_ID", "foreign"),
        ("SERVICE_ID", ""),
        ("AUDITAIL_SOURCE_PATHS", "/a, /b"),
        ("NODE_NAME", "foreign"),
        ("AUDITAIL_DESTINATION_URL", "https://env/"),
    ];
    let loaded = resolved(Some(file), &env, &[("destination.url", "https://flag/")]).unwrap();
    let row = |key: &str| {
        let row = loaded.effective.iter().find(|row| row.key == key).unwrap();
        format!("{} from {}", row.value, row.origin)
    };
    assert_eq!(row("cluster_id"), "own from environment AUDITAIL_CLUSTER_ID");
    assert_eq!(row("source.paths"), "/a, /b from environment AUDITAIL_SOURCE_PATHS");
    assert_eq!(row("node_id"), "foreign from environment NODE_NAME");
    assert_eq!(row("service_id"), "file from f.yaml:4");
    assert_eq!(row("destination.url"), "https://flag/ from command line");
    assert_eq!(row("chunk.level"), "2 from default");
    assert_eq!(row("destination.token"), " from not set");
    assert_eq!(loaded.config.source.paths, ["/a", "/b"]);
    assert_eq!(loaded.config.cluster_id, "own");
}

// Fails if one problem hides another, or a place is not the one where the operator has to look.
#[test]
fn all_problems_are_reported_at_once() {
    let file = "cluster_id: a\nchunk:\n  level: ten\n  offload_after: 60\nbogus: 1\nlimits: {in_flight: 0}\n";
    let env = [("OFFLOAD_AMOUNT", "lots"), ("OUTPOST_TOKEN", "sek rit")];
    let problems = resolved(Some(file), &env, &[("state_directory", "here")]).unwrap_err().to_string();
    let expected = [
        "f.yaml: destination.url: is missing; give it here, or in OUTPOST_HOST",
        "f.yaml: source.paths: is missing; give it here, or in LOG_FILE",
        "f.yaml:3: chunk.level: \"ten\" is not a whole number; use 1 to 9",
        "f.yaml:4: chunk.offload_after: \"60\" is not a duration; write a duration such as 500ms, 60s or 1h30m",
        "f.yaml:5: bogus: is not a setting; remove it",
        "f.yaml:6: limits.in_flight: 0 is too little; use 1 to 64",
        "environment OFFLOAD_AMOUNT: chunk.offload_amount: \"lots\" is not a size; \
         write a size such as 50MB, 24MiB or 50_000_000 (bytes)",
        "environment OUTPOST_TOKEN: destination.token: is empty or holds blanks or other characters no token has; \
         copy the token again",
        "command line: state_directory: \"here\" is not an absolute path; write the path from / on",
    ];
    assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
}

// Fails if settings behind the place where the file cannot be read any further are reported as missing, or one setting
// is reported for two reasons, or a place is named that is not there.
#[test]
fn what_is_missing_is_said_once_and_where_it_belongs() {
    let problems = |file| resolved(file, &[], &[]).unwrap_err().to_string();
    for (unreadable, says) in
        [("source:\n\tpaths: /a", "is not YAML"), ("[/a]", "no settings"), ("cluster_id: &x a\nnode_id: *x", "aliases")]
    {
        let found = problems(Some(unreadable));
        assert!(found.lines().count() == 1 && found.contains(says), "{found}");
    }
    let empty = problems(Some("source.paths: /a\ndestination:\n  url:\n"));
    assert_eq!(empty, "f.yaml:3: destination.url: has no value; give it one, or remove the line to use the default");
    assert_eq!(
        problems(None),
        "configuration: destination.url: is missing; give it in the file given with --config, or in OUTPOST_HOST\n\
         configuration: source.paths: is missing; give it in the file given with --config, or in LOG_FILE"
    );
}

// Fails if settings that contradict each other pass, or ones that fit are refused.
#[test]
fn settings_are_checked_against_each_other() {
    let cases = [
        ("limits.body_pool: 8MiB", "f.yaml:3: limits.body_pool: 8MiB is too little; give at least 21MiB"),
        ("source.max_event_bytes: 64MiB", "default: limits.body_pool: 24MiB is too little; give at least 75MiB"),
        ("destination.client_cert_file: /c", "f.yaml:3: destination.client_cert_file: is given without destination.cl"),
        ("destination.client_key_file: /k", "f.yaml:3: destination.client_key_file: is given without destination.cl"),
        ("destination: {token: a, token_file: /t}", "f.yaml:3: destination.token_file: is given as well as destin"),
        ("destination.retry_initial: 2m", "f.yaml:3: destination.retry_initial: is longer than destination.retry_max"),
        ("destination.retry_max: 10ms", "f.yaml:3: destination.retry_max: is shorter than destination.retry_initial"),
        ("chunk.level: 10", "f.yaml:3: chunk.level: 10 is too much; use 1 to 9"),
        ("chunk: {level: 20, encoding: zstd}", "f.yaml:3: chunk.level: 20 is too much; use 1 to 19"),
        ("source.max_event_bytes: 1KiB", "f.yaml:3: source.max_event_bytes: 1KiB is too little; use 512KiB to 64MiB"),
        ("shutdown_grace: 25h", "f.yaml:3: shutdown_grace: 25h is too much; use 0s to 1d"),
        ("source.paths: []", "f.yaml:3: source.paths: is already on line 2; keep one of them"),
    ];
    for (extra, expected) in cases {
        let found = complaints(extra);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{extra}: {found:?}");
    }
    for good in ["chunk: {level: 19, encoding: zstd}", "observe.listen: off", "shutdown_grace: 0s"] {
        assert_eq!(complaints(good), [""; 0], "{good}");
    }
}

// Fails if a token would be sent in plain text to another machine without being told to.
#[test]
fn a_token_in_plain_text_needs_consent() {
    let with = |url: &str, allow: &str| {
        let flags = [("source.paths", "/a"), ("destination.url", url), ("destination.allow_plaintext_token", allow)];
        resolved(None, &[("OUTPOST_TOKEN", "t")], &flags).map(|_| ()).map_err(|problems| problems.to_string())
    };
    let refused = with("http://h/", "false").unwrap_err();
    assert!(refused.starts_with("command line: destination.url: would send the token over plain http"), "{refused}");
    assert_eq!(with("http://h/", "true"), Ok(()));
    assert_eq!(with("http://127.0.0.1:1/", "false"), Ok(()));
    assert_eq!(with("https://h/", "false"), Ok(()));
}

// Fails if a word the table offers is not understood, or a list in the table and the parser part ways.
#[test]
fn every_word_of_the_table_is_understood() {
    for setting in SETTINGS {
        let Kind::Word(words) = setting.kind else { continue };
        for word in words {
            assert_eq!(complaints(&format!("{}: {word}", setting.key)), [""; 0]);
        }
        assert_eq!(complaints(&format!("{}: bogus", setting.key)).len(), 1);
    }
}

// Fails if a missing or unreadable file is taken for an empty one.
#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let missing = load(Some("/nonexistent/f.yaml".as_ref()), &[], |_| None).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/f.yaml: cannot be read"), "{missing}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yaml");
    std::fs::write(&path, "source.paths: /a\ndestination.url: https://h/\n").unwrap();
    let config = load(Some(&path), &[], |_| None).unwrap().config;
    assert_eq!(config.source.paths, ["/a"]);
    assert!(!config.node_id.is_empty() && config.limits.workers >= 1);
}

proptest::proptest! {
    // Fails if any value of any setting makes the agent panic, or a problem shows a secret.
    #[test]
    fn any_value_is_taken_or_refused(at in 0..SETTINGS.len(), value in "[0-9a-zA-Z:/@%._\\[\\]*, -]{0,40}|\\PC{0,40}") {
        let setting = &SETTINGS[at];
        let secret = format!("s3kr1t {value}");
        let given = if setting.kind == Kind::Secret { &secret } else { &value };
        let shown = match resolved(None, &MINIMAL, &[(setting.key, given)]) {
            Ok(loaded) => format!("{loaded:?}"),
            Err(problems) => format!("{problems}{problems:?}"),
        };
        proptest::prop_assert!(!shown.contains("s3kr1t"));
    }
}

/// The row of the table in `docs/configuration.md` that describes a setting.
fn documented_row(setting: &Setting) -> String {
    let default = match setting.default {
        Fallback::Value(text) => format!("`{text}`"),
        Fallback::HostName => "host name".to_owned(),
        Fallback::Processors => "processors, at most 2".to_owned(),
        Fallback::Unset => "none".to_owned(),
        Fallback::Required => "required".to_owned(),
    };
    let names: String = setting.aliases.iter().map(|alias| format!("<br>`{}`", alias.name)).collect();
    let Setting { key, own_name, kind, help, .. } = setting;
    format!("| `{key}` | {default} | {} | `{own_name}`{names} | {help} |", kind.describe())
}

// Fails if a setting is added, removed or changed without its documentation.
#[test]
fn the_documentation_lists_every_setting() {
    let documentation = include_str!("../../docs/configuration.md");
    let documented: Vec<_> = documentation.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = SETTINGS.iter().map(documented_row).collect();
    assert_eq!(documented, expected, "the table should read:\n{}", expected.join("\n"));
}

// Fails if the example an operator copies is not a valid configuration.
#[test]
fn the_example_is_valid() {
    let loaded = resolved(Some(include_str!("../../docs/example.yaml")), &[], &[]).unwrap();
    assert_eq!(loaded.config.destination.token, Some(TokenSource::File("/etc/auditail/token".into())));
}

// Fails if the agent says that it runs, or writes a checkpoint, with a certificate that it cannot load, or if the exit code
// does not tell a supervisor that starting again will not help.
#[test]
fn a_destination_that_cannot_be_set_up_ends_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_auditail"))
        .arg("run")
        .env_clear()
        .envs(MINIMAL)
        .env("AUDITAIL_DESTINATION_CA_FILE", "/nonexistent/ca.crt")
        .env("AUDITAIL_OBSERVE_LISTEN", "off")
        .env("STATE_DIRECTORY", directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(64), "{said}");
    assert!(said.starts_with("auditail run: destination.ca_file: /nonexistent/ca.crt: "), "{said}");
    assert!(!directory.path().join("checkpoint").exists());
}
