//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.
//!
//! One request per connection, few connections, short deadlines: whoever can reach the port can keep it busy for
//! seconds at most, and never the pipeline.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How often histograms are maintained; between two times they keep every value they were given.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after the system refused to accept a connection, which it does while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What one client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections served at once; more wait in the system's queue.
    connections: usize,
    /// Until the request's headers must be there.
    header_timeout: Duration,
    /// Until the answer must have been taken.
    connection_timeout: Duration,
}

const LIMITS: Limits =
    Limits { connections: 16, header_timeout: Duration::from_secs(5), connection_timeout: Duration::from_secs(20) };

/// Whether the agent is alive and ready: written by the pipeline, read by the probes. Clones share one state.
#[derive(Clone, Debug)]
pub struct Health(Arc<State>);

#[derive(Debug)]
struct State {
    created: Instant,
    /// Milliseconds from `created` to the last sign of life.
    beat_ms: AtomicU64,
    stale_after: Duration,
    /// Why the agent is not ready; `None` when it is.
    unready: Mutex<Option<Cow<'static, str>>>,
}

impl Health {
    /// Alive, and not ready because it is starting. The pipeline counts as stuck when it has shown no sign of life
    /// for `stale_after`: several times its longest idle wait, `source.rescan_interval`.
    pub fn new(stale_after: Duration) -> Self {
        let unready = Mutex::new(Some(Cow::Borrowed("starting")));
        Self(Arc::new(State { created: Instant::now(), beat_ms: AtomicU64::new(0), stale_after, unready }))
    }

    /// A sign of life; cheap enough for every turn of the pipeline.
    pub fn beat(&self) {
        let since = self.0.created.elapsed().as_millis();
        self.0.beat_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The agent does its work.
    pub fn set_ready(&self) {
        self.set_unready_reason(None);
    }

    /// The agent does not do its work, for a reason the operator can act on. Holds neither token nor audit content.
    pub fn set_unready(&self, reason: impl Into<Cow<'static, str>>) {
        self.set_unready_reason(Some(reason.into()));
    }

    fn set_unready_reason(&self, reason: Option<Cow<'static, str>>) {
        *self.0.unready.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Answer of `/healthz`: fails when the pipeline is stuck, so that a restart may help.
    fn liveness(&self, now: Instant) -> Result<(), String> {
        let beat = self.0.created + Duration::from_millis(self.0.beat_ms.load(Ordering::Relaxed));
        let silent = now.saturating_duration_since(beat);
        if silent <= self.0.stale_after {
            return Ok(());
        }
        Err(format!("no sign of life for {} s", silent.as_secs()))
    }

    /// Answer of `/readyz`: fails while the agent cannot do its work, stuck included.
    fn readiness(&self, now: Instant) -> Result<(), String> {
        self.liveness(now)?;
        let unready = self.0.unready.lock().unwrap_or_else(PoisonError::into_inner);
        unready.as_ref().map_or(Ok(()), |reason| Err(reason.to_string()))
    }
}

/// Serves in the background of the current tokio runtime, for its life. Returns the address listened on, which is
/// of interest where the port asked for was 0.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn start(address: SocketAddr, metrics: PrometheusHandle, health: Health) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(keep_up(metrics.clone()));
    tokio::spawn(serve(listener, metrics, health, LIMITS));
    Ok(bound)
}

/// Keeps the memory of histograms bounded where nobody scrapes.
async fn keep_up(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

/// Accepts connections, never more at once than the limit.
async fn serve(listener: TcpListener, metrics: PrometheusHandle, health: Health, limits: Limits) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, health) = (metrics.clone(), health.clone());
                tokio::spawn(async move {
                    converse(stream, metrics, health, limits).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for metrics and probes");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn converse(stream: TcpStream, metrics: PrometheusHandle, health: Health, limits: Limits) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics, &health);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(limits.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection_timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for metrics or a probe failed"),
        Err(_) => tracing::debug!("a client did not take the answer in time"),
    }
}

fn answer(method: &Method, path: &str, metrics: &PrometheusHandle, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    }
    match path {
        "/metrics" => text(StatusCode::OK, metrics.render()),
        "/healthz" => probe(health.liveness(Instant::now())),
        "/readyz" => probe(health.readiness(Instant::now())),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn probe(result: Result<(), String>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// Plain text, in the version of the exposition format Prometheus wants to be told.
fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A server with the given limits and one metric.
    async fn served(health: &Health, limits: Limits) -> SocketAddr {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || metrics::counter!("auditail_test_total").increment(7));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, recorder.handle(), health.clone(), limits));
        address
    }

    /// Everything the server says to a request, until it closes the connection.
    async fn ask(address: SocketAddr, request_line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request_line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    // Fails if a path or method gets another answer than an operator's probe or Prometheus expects.
    #[tokio::test]
    async fn paths_and_methods() {
        let health = Health::new(HOUR);
        let address = served(&health, LIMITS).await;
        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("\nauditail_test_total 7\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(ask(address, "HEAD /metrics").await.ends_with("\r\n\r\n"));
        assert!(ask(address, "GET /healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(ask(address, "GET /else").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    }

    // Fails if readiness is claimed before it is there, or the reason does not reach the operator.
    #[tokio::test]
    async fn readiness_follows_the_pipeline() {
        let health = Health::new(HOUR);
        let address = served(&health, LIMITS).await;
        let starting = ask(address, "GET /readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503") && starting.ends_with("starting\n"), "{starting}");
        health.set_ready();
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        health.set_unready(format!("cannot read {}", "/a"));
        assert!(ask(address, "GET /readyz").await.ends_with("cannot read /a\n"));
    }

    // Fails if a stuck pipeline passes for alive, or an idle one for stuck.
    #[test]
    fn silence_beyond_the_bound_is_no_life() {
        let health = Health::new(Duration::from_secs(180));
        health.set_ready();
        health.beat();
        let now = Instant::now();
        assert_eq!(health.liveness(now + Duration::from_secs(179)), Ok(()));
        assert!(health.liveness(now + Duration::from_secs(181)).unwrap_err().contains("no sign of life for 18"));
        assert!(health.readiness(now + Duration::from_secs(181)).is_err());
    }

    // Fails if a sign of life does not count.
    #[test]
    fn a_beat_moves_the_bound() {
        let health = Health::new(Duration::ZERO);
        let later = health.0.created + HOUR;
        assert!(health.liveness(later).is_err());
        health.0.beat_ms.store(3_600_000, Ordering::Relaxed);
        assert_eq!(health.liveness(later), Ok(()));
    }

    // Fails if more connections than the limit are served at once, or a client that says nothing keeps its place.
    #[tokio::test]
    async fn a_silent_client_gives_way() {
        let limits = Limits { connections: 1, header_timeout: Duration::from_millis(100), ..LIMITS };
        let address = served(&Health::new(HOUR), limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        // With one place, this is answered only once the silent client has been sent away.
        assert!(ask(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let mut rest = Vec::new();
        let gone = silent.read_to_end(&mut rest).now_or_never();
        assert!(gone.is_some(), "the silent client is still connected");
    }

    // Fails if an address that is taken is not reported to the caller.
    #[tokio::test]
    async fn a_taken_address_is_an_error() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let start = |address| start(address, recorder.handle(), Health::new(HOUR));
        let bound = start(([127, 0, 0, 1], 0).into()).await.unwrap();
        assert!(ask(bound, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        assert_eq!(start(bound).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
