//! `auditail receive`: the reference receiver as a command.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Secret;
use crate::receive::{BODY_BYTES_MAX_DEFAULT, Options, Receiver, SetupError, TlsFiles};

/// Where the token is when no file is named.
const TOKEN_VARIABLE: &str = "AUDITAIL_RECEIVE_TOKEN";
/// Threads for checking and writing chunks.
const DISK_THREADS: usize = 8;
/// Exit code for options that cannot work (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Receive chunks and store them: checked, deduplicated and synced before they are acknowledged.
///
/// The token that senders must show is read from --token-file, else from the environment variable
/// AUDITAIL_RECEIVE_TOKEN. The protocol is described in docs/protocol.md.
#[derive(Clone, Debug, clap::Args)]
pub struct ReceiveArgs {
    /// Address to listen on; port 0 takes a free one, and the line printed on start names it.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Folder of the archive; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// File that holds the bearer token.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate chain (PEM): serve TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates (PEM) of which one must have signed a sender's certificate: mutual TLS.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
    /// Largest compressed body; a larger one is answered 413, and the agent splits it.
    #[arg(long, value_name = "SIZE", default_value_t = BODY_BYTES_MAX_DEFAULT, value_parser = parse_bytes)]
    pub body_limit: u64,
}

/// Runs the receiver until SIGTERM or SIGINT. Exit code 0, 1 where the machine does not let it run, 64 where the
/// options cannot work.
pub fn run(args: ReceiveArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed, the exit code has to do.
            let _ = writeln!(io::stderr(), "auditail receive: {error}");
            match error {
                SetupError::Options(_) => ExitCode::from(EXIT_USAGE),
                SetupError::Io { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn start(args: ReceiveArgs) -> Result<(), SetupError> {
    let options = options(args, std::env::var(TOKEN_VARIABLE).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(DISK_THREADS).build();
    runtime.map_err(failed("starting the event loop"))?.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), SetupError> {
    // Before anybody is told that we listen: who is told may stop us.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("SIGINT"))?;
    let receiver = Receiver::bind(options).await?;
    // Standard output may be closed; then nobody wants to know.
    let mut out = io::stdout();
    let _ = writeln!(out, "listening on {}", receiver.local_addr()).and_then(|()| out.flush());
    receiver
        .serve(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        })
        .await;
    Ok(())
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> SetupError {
    move |error| SetupError::Io { what: what.to_owned(), error }
}

fn options(args: ReceiveArgs, variable: Option<String>) -> Result<Options, SetupError> {
    let token = match &args.token_file {
        Some(file) => Some(token(&file.display().to_string(), read(file)?)?),
        None => variable.map(|text| token(TOKEN_VARIABLE, text)).transpose()?,
    };
    if token.is_none() && args.client_ca.is_none() && !args.listen.ip().is_loopback() {
        let remedy = format!("give --token-file, {TOKEN_VARIABLE} or --client-ca");
        return Err(SetupError::Options(format!("anybody could send to {}: {remedy}", args.listen)));
    }
    let tls = args.tls_cert.zip(args.tls_key);
    Ok(Options {
        token,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: args.client_ca }),
        body_bytes_max: args.body_limit,
        ..Options::new(args.listen, args.dir)
    })
}

fn read(file: &Path) -> Result<String, SetupError> {
    std::fs::read_to_string(file).map_err(|error| SetupError::Options(format!("{}: {error}", file.display())))
}

/// A token is one word of visible ASCII, as it must fit into a header.
fn token(origin: &str, text: String) -> Result<Secret, SetupError> {
    let word = text.trim();
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SetupError::Options(format!("{origin}: holds no token (one word of visible ASCII)")));
    }
    Ok(Secret(word.to_owned()))
}

/// Reads `64MB`, `64MiB`, `64_000_000`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("a size is a number and kB, MB, GB, KiB, MiB or GiB".into()),
    };
    let number: u64 = number.replace('_', "").parse().map_err(|_| "a size starts with a number".to_owned())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(|| "out of range".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ReceiveArgs,
    }

    fn parse(more: &[&str]) -> Result<ReceiveArgs, clap::Error> {
        let fixed = ["receive", "--dir", "/archive"];
        Command::try_parse_from(fixed.iter().chain(more)).map(|command| command.args)
    }

    // Fails if an open receiver can be put on the network by leaving something out.
    #[test]
    fn an_open_receiver_stays_on_the_machine() {
        let args = |listen: &str| parse(&["--listen", listen]).unwrap();
        assert!(options(args("127.0.0.1:0"), None).is_ok());
        assert!(matches!(options(args("0.0.0.0:0"), None), Err(SetupError::Options(_))));
        assert!(matches!(options(args("0.0.0.0:0"), Some(" \n".into())), Err(SetupError::Options(_))));
        let token = options(args("0.0.0.0:0"), Some("word\n".into())).unwrap().token;
        assert_eq!(token, Some(Secret("word".into())));
    }

    // Fails if a key without certificate, or a client CA without TLS, is silently ignored.
    #[test]
    fn tls_options_come_together() {
        assert!(parse(&["--listen", "127.0.0.1:0", "--tls-key", "k"]).is_err());
        assert!(parse(&["--listen", "127.0.0.1:0", "--client-ca", "c"]).is_err());
        assert!(parse(&["--listen", "127.0.0.1:0", "--tls-cert", "c", "--tls-key", "k"]).is_ok());
    }

    // Fails if a unit is misread: a limit a thousand times off.
    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("64MB", 64_000_000), ("1MiB", 1 << 20), ("64_000", 64_000), ("2kB", 2_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for text in ["", "MB", "0", "5 MB", "-1", "99999999999GB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
