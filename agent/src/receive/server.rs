//! The receiver's sockets: accepting, TLS, HTTP/1.1 and HTTP/2, and an orderly end.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::handler::Handler;
use super::store::Store;
use super::{Options, SetupError, Timeouts, tls};

/// Requests one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 32;
/// Bytes of a request's headers. A manifest has at most about 32 KiB: two escaped paths and some names.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// How often a silent HTTP/2 connection is asked whether somebody is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long requests may take to finish when the receiver ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed `accept`: without free file descriptors it fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A receiver bound to its address, its archive open.
pub struct Receiver {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    connections: Arc<Semaphore>,
    timeouts: Timeouts,
}

impl Receiver {
    /// Opens the archive (blocking: it reads every manifest) and binds the address.
    ///
    /// # Errors
    /// TLS files that cannot be used, an archive that cannot be opened, an address that cannot be bound.
    pub async fn bind(options: Options) -> Result<Self, SetupError> {
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let store = Store::open(&options.directory).map_err(failed(options.directory.display()))?;
        tracing::info!(chunks = store.len(), directory = %options.directory.display(), "archive open");
        let listener = TcpListener::bind(options.listen).await.map_err(failed(options.listen))?;
        Ok(Self {
            local_addr: listener.local_addr().map_err(failed(options.listen))?,
            listener,
            tls,
            handler: Arc::new(Handler::new(&options, store)),
            connections: Arc::new(Semaphore::new(options.connections_max)),
            timeouts: options.timeouts,
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` completes, then lets the requests that are under way finish.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let (ending, ended) = watch::channel(());
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                (stream, permit) = self.accept() => {
                    let connection = Connection {
                        tls: self.tls.clone(),
                        handler: Arc::clone(&self.handler),
                        timeouts: self.timeouts,
                        ended: ended.clone(),
                        _permit: permit,
                    };
                    tasks.spawn(connection.serve(stream));
                }
                Some(_) = tasks.join_next() => {}
            }
        }
        drop((self, ending));
        let finished = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, finished).await.is_err() {
            tracing::warn!(connections = tasks.len(), "closing connections whose requests did not finish");
        }
    }

    async fn accept(&self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            let permit = Arc::clone(&self.connections).acquire_owned().await;
            match (self.listener.accept().await, permit) {
                (Ok((stream, _)), Ok(permit)) => return (stream, permit),
                (Err(error), _) => tracing::error!(%error, "accepting a connection failed"),
                // The semaphore is never closed.
                (_, Err(_)) => {}
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn failed(what: impl Display) -> impl FnOnce(io::Error) -> SetupError {
    move |error| SetupError::Io { what: what.to_string(), error }
}

/// One connection and all it needs.
struct Connection {
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    timeouts: Timeouts,
    /// Its sender goes when the receiver ends.
    ended: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let Some(tls) = self.tls.take() else { return self.serve_http(TokioIo::new(stream)).await };
        match tokio::time::timeout(self.timeouts.headers, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(TokioIo::new(stream)).await,
            Ok(Err(error)) => tracing::warn!(%error, "TLS handshake failed"),
            Err(_) => tracing::warn!("TLS handshake took too long"),
        }
    }

    async fn serve_http(mut self, io: impl Read + Write + Unpin + Send + 'static) {
        let first_request = Arc::new(Notify::new());
        let service = service_fn(|request| {
            first_request.notify_one();
            let handler = Arc::clone(&self.handler);
            async move { Ok::<_, Infallible>(handler.handle(request).await) }
        });
        let builder = http(self.timeouts);
        let mut connection = pin!(builder.serve_connection(io, service));
        // While the protocol is not yet known, none of the protocols' own time-outs runs.
        let mut opened = pin!(tokio::time::timeout(self.timeouts.headers, first_request.notified()));
        let (mut is_open, mut is_ending) = (false, false);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                in_time = &mut opened, if !is_open => {
                    if in_time.is_err() {
                        tracing::debug!("no request in time");
                        return;
                    }
                    is_open = true;
                }
                // Only ever fails: nothing is sent, the sender is dropped.
                _ = self.ended.changed(), if !is_ending => {
                    connection.as_mut().graceful_shutdown();
                    is_ending = true;
                }
            }
        }
    }
}

fn http(timeouts: Timeouts) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL);
    builder
}
