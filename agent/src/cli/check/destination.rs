//! The destination: the way there, its certificates, the token, and whether the clocks agree.

use std::time::{Duration, SystemTime};

use super::render::duration;
use super::report::Check;
use crate::cli::run::USER_AGENT;
use crate::config::{DestinationConfig, TokenSource, is_loopback};
use crate::upload::http::{HttpDestination, Probe, Probed};
use crate::upload::proxy;
use crate::upload::token::Token;

const TOKEN: &str = "destination.token";
const PROXY: &str = "destination.proxy";
const TLS: &str = "destination.tls";
const PROBE: &str = "destination.probe";
const CLOCK: &str = "clock";

/// How long the answer to a probe may take, whatever chunks are allowed: somebody is waiting.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(15);

/// Clocks further apart than this are worth a warning: certificates and tokens depend on them.
const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(60);

/// Looks at everything on the way to the destination, and knocks.
pub(super) async fn check(config: &DestinationConfig) -> Vec<Check> {
    let mut config = config.clone();
    config.request_timeout = config.request_timeout.min(PROBE_TIMEOUT_MAX);
    let mut checks = vec![token(config.token.as_ref()), through_proxy(&config)];
    match HttpDestination::new(&config, USER_AGENT) {
        Ok(destination) => {
            checks.push(tls(&config));
            let asked = SystemTime::now();
            let Probed { answer, date } = destination.probe().await;
            checks.push(probe(&config, answer));
            checks.push(clock(asked, SystemTime::now(), date));
        }
        Err(error) => {
            checks.push(Check::fail(TLS, error.to_string(), "see that the file is mounted, readable and PEM"))
        }
    }
    checks
}

fn token(source: Option<&TokenSource>) -> Check {
    const REMEDY: &str = "see that the secret is mounted and holds one word";
    match source {
        None => Check::warn(
            TOKEN,
            "none configured: requests go without one",
            "set destination.token_file, unless the destination knows the agent by its client certificate",
        ),
        Some(TokenSource::Literal(_)) => Check::ok(TOKEN, "given in the configuration; better kept in a file"),
        Some(source @ TokenSource::File(path)) => {
            match Token::new(Some(source)).map_err(|error| error.to_string()).and_then(|token| token.current()) {
                Ok(_) => Check::ok(TOKEN, format!("{}: readable", path.display())),
                Err(reason) => Check::fail(TOKEN, reason, REMEDY),
            }
        }
    }
}

fn through_proxy(config: &DestinationConfig) -> Check {
    let found = match &config.proxy {
        None => "none".to_owned(),
        Some(proxy) if proxy::applies(proxy, &config.no_proxy, &config.url) => format!("{} is used", proxy.url),
        Some(proxy) => format!("{} is not used: destination.no_proxy exempts {}", proxy.url, config.url),
    };
    Check::ok(PROXY, found)
}

/// Certificates have been loaded by now.
fn tls(config: &DestinationConfig) -> Check {
    if config.url.scheme_str() == Some("http") {
        return match is_loopback(&config.url) {
            true => Check::ok(TLS, "not used: plain http to this machine"),
            false => Check::warn(TLS, "not used: the audit log can be read on the way", "use https"),
        };
    }
    let authority = match &config.ca_file {
        Some(path) => format!("trusts the system's roots and {}", path.display()),
        None => "trusts the system's roots".to_owned(),
    };
    let identity = match &config.client_identity {
        Some((certificate, _)) => format!("shows {}", certificate.display()),
        None => "shows no client certificate".to_owned(),
    };
    Check::ok(TLS, format!("{authority}; {identity}"))
}

fn probe(config: &DestinationConfig, answer: Probe) -> Check {
    let url = &config.url;
    match answer {
        Probe::Accepted => Check::ok(PROBE, format!("{url}: reached, and accepts us")),
        Probe::NoToken { .. } => Check::fail(
            PROBE,
            format!("{url}: not asked, as there is no token to show"),
            "mend destination.token first",
        ),
        Probe::Rejected { reason } => Check::fail(
            PROBE,
            format!("{url}: does not accept us: {reason}"),
            "correct the token (or the client certificate), or have the destination's operator admit it",
        ),
        Probe::Reached { status } => Check::warn(
            PROBE,
            format!("{url}: reached, and answers {status}; it knows no probes, so whether it accepts us is not known"),
            "see that the path of destination.url is right; the first chunk will tell",
        ),
        Probe::Unreachable { reason } => Check::fail(
            PROBE,
            format!("{url}: not reached: {reason}"),
            "see name resolution, network policy, firewall, proxy and certificates; nothing is lost meanwhile",
        ),
    }
}

/// Compares the time in the destination's answer with ours between question and answer. It tells whole seconds only.
fn clock(asked: SystemTime, answered: SystemTime, date: Option<SystemTime>) -> Check {
    let here = humantime::format_rfc3339_seconds(answered);
    let Some(date) = date else {
        return Check::ok(CLOCK, format!("{here}; the destination tells no time to compare with"));
    };
    let behind = date.duration_since(answered).unwrap_or_default();
    let ahead = asked.duration_since(date).unwrap_or_default();
    let (off, word) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
    if off <= CLOCK_OFFSET_MAX {
        return Check::ok(CLOCK, format!("{here}; agrees with the destination's"));
    }
    let found = format!("{here}; {} {word} the destination's", duration(off));
    Check::warn(
        CLOCK,
        found,
        "see that this node's clock is synchronised (chronyc tracking, timedatectl), or the other one's",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Status;

    // Fails if a clock that is off passes, or the time that an answer takes is taken for an offset.
    #[test]
    fn clocks_far_apart_are_noticed() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
        let (asked, answered) = (at(1000), at(1014));
        for (date, status, word) in [
            (at(1001), Status::Ok, "agrees"),
            (at(941), Status::Ok, "agrees"),
            (at(939), Status::Warn, "1m 1s ahead of"),
            (at(1074), Status::Ok, "agrees"),
            (at(1075), Status::Warn, "1m 1s behind"),
        ] {
            let check = clock(asked, answered, Some(date));
            assert_eq!(check.status, status, "{check:?}");
            assert!(check.found.contains(word), "{check:?}");
        }
        assert_eq!(clock(asked, answered, None).status, Status::Ok);
    }
}
