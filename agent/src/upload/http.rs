//! The real destination: `POST` over HTTP/1.1 or HTTP/2, with TLS, through a proxy if need be.
//!
//! Time: getting a connection (name, TCP, proxy, TLS) is bounded by `connect_timeout`, everything from then on by
//! `request_timeout`; so an attempt never takes longer than both. A kept-alive connection that the server has closed
//! meanwhile costs nothing: the client takes a new one when no byte of the request was sent.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};

use super::proxy::{self, ConnectError, Route};
use super::token::{Bearer, Token};
use super::{Delivery, Destination, Outcome, UploadSetupError, retry, tls};
use crate::config::DestinationConfig;
use crate::limits::{KEEP_ALIVE_SECONDS, RESPONSE_BYTES_MAX};

/// Header that marks a request without a chunk: the receiver checks the token and answers 204.
pub const PROBE_HEADER: &str = "auditail-probe";

/// What [`HttpDestination::probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Reached, and the token is accepted (204).
    Accepted,
    /// Not asked: the token cannot be read.
    NoToken {
        /// Why.
        reason: String,
    },
    /// Reached, and the token is not accepted (401, 403).
    Rejected {
        /// Why.
        reason: String,
    },
    /// Reached; whether the token is accepted is not known, because the destination knows no probes.
    Reached {
        /// What it answered.
        status: StatusCode,
    },
    /// Not reached.
    Unreachable {
        /// Why.
        reason: String,
    },
}

/// An answer to a probe, and what it says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What was found.
    pub answer: Probe,
    /// The destination's time, to the second, where it tells.
    pub date: Option<SystemTime>,
}

/// An HTTP destination and its connections.
#[derive(Debug)]
pub struct HttpDestination {
    client: Client<HttpsConnector<Route>, ChunkBody>,
    url: Uri,
    user_agent: HeaderValue,
    token: Token,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl HttpDestination {
    /// Prepares the destination; connects to nothing yet. Certificates are read here, once. `user_agent` is
    /// `auditail/VERSION`.
    pub fn new(config: &DestinationConfig, user_agent: &str) -> Result<Self, UploadSetupError> {
        let scheme = config.url.scheme_str();
        if !matches!(scheme, Some("http" | "https")) || config.url.host().is_none() {
            return Err(UploadSetupError::new("url", "must be http://HOST/… or https://HOST/…"));
        }
        Ok(Self {
            client: client(config, connector(config)?),
            url: config.url.clone(),
            user_agent: HeaderValue::from_str(user_agent)
                .map_err(|_| UploadSetupError::new("url", "the user agent cannot be sent"))?,
            token: Token::new(config.token.as_ref())?,
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
        })
    }

    /// Asks whether the destination is there and takes our token, without delivering anything: a `POST` with an
    /// empty body and the header `Auditail-Probe: 1`. A receiver that knows probes answers 204 when it accepts the
    /// token. Any other answer, 401 and 403 excepted, says only that the destination is reached.
    pub async fn probe(&self) -> Probed {
        let bearer = match self.token.current() {
            Ok(bearer) => bearer,
            Err(reason) => return Probed { answer: Probe::NoToken { reason }, date: None },
        };
        let mut headers = HeaderMap::new();
        headers.insert(PROBE_HEADER, HeaderValue::from_static("1"));
        let Answer { status, headers, .. } = match self.exchange(headers, Vec::new(), bearer.as_ref()).await {
            Ok(answer) => answer,
            Err(failure) => return Probed { answer: Probe::Unreachable { reason: failure.reason }, date: None },
        };
        let answer = match status {
            StatusCode::NO_CONTENT => Probe::Accepted,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Probe::Rejected { reason: status.to_string() },
            status => Probe::Reached { status },
        };
        let date = headers.get(DATE).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
        Probed { answer, date }
    }

    /// Makes one request and reads its answer within the time-outs.
    async fn exchange(&self, headers: HeaderMap, body: Vec<Bytes>, bearer: Option<&Bearer>) -> Result<Answer, Failure> {
        let body = ChunkBody::new(body);
        let mut request = Request::post(&self.url).body(body).map_err(|error| Failure::passing(error.to_string()))?;
        *request.headers_mut() = headers;
        let length = HeaderValue::from(request.body().left);
        request.headers_mut().insert(CONTENT_LENGTH, length);
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        if let Some(bearer) = bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.header());
        }
        let (response, deadline) = self.respond(request).await?;
        let (parts, body) = response.into_parts();
        let mut text = read_text(body, deadline).await;
        if let Some(bearer) = bearer {
            text = bearer.hide_in(&text);
        }
        Ok(Answer { status: parts.status, headers: parts.headers, text })
    }

    /// Sends a request. Gives the head of the answer, and the time until which its body may take.
    async fn respond(&self, mut request: Request<ChunkBody>) -> Result<(Response<Incoming>, Instant), Failure> {
        let mut connection = capture_connection(&mut request);
        let mut responding = pin!(self.client.request(request));
        // What waiting gives is a lock on the captured connection: it must not be held while the request goes on.
        let connected = pin!(async { drop(connection.wait_for_connection_metadata().await) });
        let first = timeout(self.connect_timeout, select(responding.as_mut(), connected))
            .await
            .map_err(|_| Failure::passing(format!("no connection within {:?}", self.connect_timeout)))?;
        let deadline = Instant::now() + self.request_timeout;
        let response = match first {
            Either::Left((response, _)) => response,
            Either::Right(_) => timeout_at(deadline, responding)
                .await
                .map_err(|_| Failure::passing(format!("no answer within {:?}", self.request_timeout)))?,
        };
        Ok((response?, deadline))
    }
}

impl Destination for HttpDestination {
    async fn send(&self, delivery: &Delivery) -> Outcome {
        let bearer = match self.token.current() {
            Ok(bearer) => bearer,
            Err(reason) => return Outcome::Unauthorized { reason },
        };
        let mut headers = HeaderMap::new();
        delivery.manifest.append_headers(&mut headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(delivery.encoding.as_str()));
        match self.exchange(headers, delivery.body.clone(), bearer.as_ref()).await {
            Ok(answer) => {
                if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    self.token.refused();
                }
                retry::classify(answer.status, &answer.headers, &answer.text, SystemTime::now())
            }
            Err(Failure { reason, operator: true }) => Outcome::Unauthorized { reason },
            Err(Failure { reason, operator: false }) => Outcome::Retry { reason, after: None },
        }
    }
}

/// The connector: TLS, with HTTP/2 where the server offers it, over the route.
fn connector(config: &DestinationConfig) -> Result<HttpsConnector<Route>, UploadSetupError> {
    let proxy = config.proxy.as_ref().filter(|proxy| proxy::applies(proxy, &config.no_proxy, &config.url));
    let encrypted = |url: &Uri| url.scheme_str() == Some("https");
    let roots = if encrypted(&config.url) || proxy.is_some_and(|proxy| encrypted(&proxy.url)) {
        tls::roots(config.ca_file.as_deref())?
    } else {
        // Nothing is encrypted: the system's roots need not be read and kept in memory.
        rustls::RootCertStore::empty().into()
    };
    let mut route = Route::direct(config.connect_timeout);
    if let Some(proxy) = proxy {
        // The client certificate is for the destination, not for the proxy.
        route = route.through(proxy, tls::client_config(roots.clone(), None)?)?;
    }
    let tls = tls::client_config(roots, config.client_identity.as_ref())?;
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions().wrap_connector(route))
}

fn client(config: &DestinationConfig, connector: HttpsConnector<Route>) -> Client<HttpsConnector<Route>, ChunkBody> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.idle_timeout)
        // An HTTP/2 connection outlives the requests on it. Without pings, one that died silently would be given
        // to every request until the kernel gave up on it.
        .http2_keep_alive_interval(Duration::from_secs(KEEP_ALIVE_SECONDS))
        .http2_keep_alive_timeout(config.connect_timeout)
        .build(connector)
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// The start of the body, without our token.
    text: String,
}

/// Why nothing came back.
struct Failure {
    reason: String,
    /// Whether the operator must act.
    operator: bool,
}

impl Failure {
    fn passing(reason: String) -> Self {
        Self { reason, operator: false }
    }
}

impl From<legacy::Error> for Failure {
    fn from(error: legacy::Error) -> Self {
        let refused = error.source().and_then(|source| source.downcast_ref::<ConnectError>());
        // A proxy's answer is about us, never about the chunk: whatever it is, the chunk stays.
        let operator =
            matches!(refused, Some(ConnectError::ProxyRefused(status)) if matches!(status.as_u16(), 401 | 403 | 407));
        Self { reason: chain(&error), operator }
    }
}

/// An error and its causes in one line: the libraries put what matters into the last of them.
fn chain(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.ends_with(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    reason
}

/// Reads at most [`RESPONSE_BYTES_MAX`] bytes of an answer, until `deadline`. Reading it to its end lets the
/// connection be used again; what cannot be read is left out, as the status alone decides.
async fn read_text(mut body: Incoming, deadline: Instant) -> String {
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(&data[..data.len().min(RESPONSE_BYTES_MAX - text.len())]);
        }
        if text.len() == RESPONSE_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The body of a request: the chunk's pieces as they are, with a length known beforehand.
#[derive(Debug)]
struct ChunkBody {
    pieces: std::vec::IntoIter<Bytes>,
    /// Bytes not yet handed over.
    left: u64,
}

impl ChunkBody {
    fn new(pieces: Vec<Bytes>) -> Self {
        Self { left: pieces.iter().map(|piece| piece.len() as u64).sum(), pieces: pieces.into_iter() }
    }
}

impl Body for ChunkBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
