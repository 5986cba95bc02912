//! `auditail receive`: the reference receiver as a command.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::EXIT_USAGE;
use crate::config::units::{SIZE_FORM, parse_size};
use crate::config::{self, Secret};
use crate::receive::{BODY_BYTES_MAX_DEFAULT, Options, Receiver, SetupError, TlsFiles};

/// Where the token is when no file is named.
const TOKEN_VARIABLE: &str = "AUDITAIL_RECEIVE_TOKEN";
/// Threads for checking and writing chunks.
const DISK_THREADS: usize = 8;

/// Receive chunks and store them: the reference receiver.
///
/// Every chunk is checked, deduplicated by its id and synced to disk before it is acknowledged. SIGTERM or SIGINT ends
/// it; requests under way are answered first. `auditail verify DIR` checks what it stored.
///
/// The token that senders must show is read at start from --token-file, else from the environment variable
/// AUDITAIL_RECEIVE_TOKEN. Without a token and without --client-ca it listens on loopback only.
///
/// Exit code 0 when it was told to stop, 1 when the machine does not let it run, 64 when the options cannot work.
///
/// Example: `auditail receive --listen 0.0.0.0:8443 --dir /srv/audit --tls-cert tls.crt --tls-key tls.key --token-file token`
#[derive(Clone, Debug, clap::Args)]
pub struct ReceiveArgs {
    /// IP address and port to listen on; port 0 takes a free one, and the line printed on start names it.
    #[arg(long, value_name = "IP:PORT")]
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
    /// Largest compressed body, such as 64MB, 64MiB or 64_000_000 (bytes); a larger one is answered 413, and the agent
    /// splits it.
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
        Some(file) => Some(token(&file.display().to_string(), &read(file)?)?),
        None => variable.map(|text| token(TOKEN_VARIABLE, &text)).transpose()?,
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
fn token(origin: &str, text: &str) -> Result<Secret, SetupError> {
    config::token(text.trim()).map_err(|complaint| SetupError::Options(format!("{origin}: {}", complaint.what)))
}

/// Reads `64MB`, `64MiB`, `64_000_000`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| SIZE_FORM.to_owned())
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

    // Fails if a limit that refuses every body is taken, or one without a unit or with one is refused.
    #[test]
    fn the_body_limit_is_a_size_above_zero() {
        let limit = |text| parse(&["--listen", "127.0.0.1:0", "--body-limit", text]).map(|args| args.body_limit);
        assert_eq!((limit("64MB").unwrap(), limit("64_000").unwrap()), (64_000_000, 64_000));
        assert!(limit("0").is_err() && limit("-1").is_err());
    }
}
