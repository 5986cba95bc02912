//! One request: who sends it, what it says, whether its body bears that out, and the answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::Options;
use super::index::Decision;
use super::store::{Incoming, Store, StoreError};
use crate::manifest::headers::PROBE;
use crate::manifest::{Encoding, Manifest};

/// Bytes of a body gathered before they are written; with [`UPLOADS_MAX`] this bounds the receiver's memory.
const BATCH_BYTES: usize = 256 * 1024;
/// Bodies received at once; more wait.
const UPLOADS_MAX: usize = 64;
/// Bytes of an unwanted body that are read away, so that its sender gets to read the answer.
const DRAIN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Seconds a sender is asked to wait when the disk is full: somebody has to make room.
const RETRY_AFTER_FULL: u32 = 30;
/// Seconds a sender is asked to wait when anything else here fails.
const RETRY_AFTER_FAULT: u32 = 5;

/// What is said to a sender.
struct Answer {
    code: StatusCode,
    status: &'static str,
    reason: String,
    retry_after: Option<u32>,
}

impl Answer {
    fn done(code: StatusCode, status: &'static str) -> Self {
        Self { code, status, reason: String::new(), retry_after: None }
    }

    fn refused(code: StatusCode, reason: impl Into<String>) -> Self {
        Self { code, status: "refused", reason: reason.into(), retry_after: None }
    }

    fn later(code: StatusCode, reason: &str, seconds: u32) -> Self {
        Self { code, status: "retry", reason: reason.to_owned(), retry_after: Some(seconds) }
    }

    fn fault(error: &io::Error) -> Self {
        tracing::error!(%error, "a chunk could not be stored");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::later(StatusCode::INSUFFICIENT_STORAGE, "no room for the archive", RETRY_AFTER_FULL)
            }
            _ => Self::later(StatusCode::SERVICE_UNAVAILABLE, "the archive cannot be written", RETRY_AFTER_FAULT),
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        if self.code != StatusCode::NO_CONTENT {
            let mut json = serde_json::json!({ "status": self.status });
            if !self.reason.is_empty() {
                json["reason"] = self.reason.into();
            }
            *response.body_mut() = Full::from(json.to_string());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, scheme);
        }
        *response.status_mut() = self.code;
        response
    }
}

/// Answers requests; shared by all connections.
pub(super) struct Handler {
    store: Arc<Store>,
    token: Option<blake3::Hash>,
    body_bytes_max: u64,
    body_idle: Duration,
    body_total: Duration,
    uploads: Semaphore,
}

impl Handler {
    pub(super) fn new(options: &Options, store: Store) -> Self {
        Self {
            store: Arc::new(store),
            token: options.token.as_ref().map(|token| blake3::hash(token.0.as_bytes())),
            body_bytes_max: options.body_bytes_max,
            body_idle: options.timeouts.body_idle,
            body_total: options.timeouts.body_total,
            uploads: Semaphore::new(UPLOADS_MAX),
        }
    }

    /// Answers one request.
    pub(super) async fn handle(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let work = async {
            let answer = match self.admit(&head) {
                Ok(Some((manifest, encoding))) => match self.receive(&mut body, manifest, encoding).await {
                    Ok(answer) | Err(answer) => answer,
                },
                Ok(None) => Answer::done(StatusCode::NO_CONTENT, "accepted"),
                Err(answer) => answer,
            };
            // Closing with unread bytes would reset the connection, and the answer with it. Who is too slow is let go.
            if answer.code != StatusCode::REQUEST_TIMEOUT {
                self.drain(&mut body).await;
            }
            answer
        };
        let answer = tokio::time::timeout(self.body_total, work).await.unwrap_or_else(|_| too_slow());
        if answer.status == "refused" {
            tracing::warn!(code = answer.code.as_u16(), reason = %answer.reason, "refused a request");
        }
        answer.into_response()
    }

    /// Decides on the headers alone; `None` is a probe.
    fn admit(&self, head: &Parts) -> Result<Option<(Manifest, Encoding)>, Answer> {
        if head.method != Method::POST {
            return Err(Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "chunks are POSTed"));
        }
        if !self.authorized(&head.headers) {
            return Err(Answer::refused(StatusCode::UNAUTHORIZED, "missing or wrong bearer token"));
        }
        if head.headers.contains_key(PROBE) {
            return Ok(None);
        }
        let encoding = encoding(&head.headers)?;
        match Manifest::from_headers(&head.headers) {
            Ok(manifest) => Ok(Some((manifest, encoding))),
            Err(error) => Err(Answer::refused(StatusCode::BAD_REQUEST, error.to_string())),
        }
    }

    /// Compares hashes, in constant time: how long it takes says nothing about the token.
    fn authorized(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.token else { return true };
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
        shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && blake3::hash(token.trim_ascii()) == *expected
        })
    }

    /// Stores a chunk, or says why not.
    async fn receive(&self, body: &mut Body, manifest: Manifest, encoding: Encoding) -> Result<Answer, Answer> {
        if let Some(answer) = settled(self.store.decide(&manifest)) {
            return Ok(answer);
        }
        // Not before: a chunk that is stored must not be answered 413, lest it is sent again in parts.
        if hyper::body::Body::size_hint(body).lower() > self.body_bytes_max {
            return Err(self.too_large());
        }
        let _permit = self.uploads.acquire().await;
        let store = Arc::clone(&self.store);
        let incoming = blocking(move || store.incoming()).await?;
        let incoming = self.spool(body, incoming).await?;
        let store = Arc::clone(&self.store);
        let id = manifest.id;
        let decision = blocking(move || match store.commit(incoming, encoding, manifest) {
            Ok(decision) => Ok(Ok(decision)),
            Err(StoreError::Refused(reason)) => Ok(Err(reason)),
            Err(StoreError::Io(error)) => Err(error),
        });
        match decision.await? {
            Ok(decision) => Ok(settled(decision).unwrap_or_else(|| {
                tracing::debug!(%id, "stored a chunk");
                Answer::done(StatusCode::OK, "stored")
            })),
            Err(reason) => Err(Answer::refused(StatusCode::UNPROCESSABLE_ENTITY, reason)),
        }
    }

    /// Writes a body to the disk as it arrives.
    async fn spool(&self, body: &mut Body, mut incoming: Incoming) -> Result<Incoming, Answer> {
        let (mut batch, mut batch_bytes, mut body_bytes) = (Vec::new(), 0, 0);
        loop {
            let piece = self.next_piece(body).await?;
            let last = piece.is_none();
            if let Some(piece) = piece {
                body_bytes += piece.len() as u64;
                batch_bytes += piece.len();
                batch.push(piece);
            }
            if body_bytes > self.body_bytes_max {
                return Err(self.too_large());
            }
            if batch_bytes >= BATCH_BYTES || last {
                let pieces = std::mem::take(&mut batch);
                batch_bytes = 0;
                incoming =
                    blocking(move || pieces.iter().try_for_each(|piece| incoming.write(piece)).map(|()| incoming))
                        .await?;
            }
            if last {
                return Ok(incoming);
            }
        }
    }

    /// The next bytes of a body; `None` at its end.
    async fn next_piece(&self, body: &mut Body) -> Result<Option<Bytes>, Answer> {
        match tokio::time::timeout(self.body_idle, body.frame()).await {
            Ok(None) => Ok(None),
            // Trailers say nothing here.
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(Some(Err(error))) => Err(Answer::refused(StatusCode::BAD_REQUEST, error.to_string())),
            Err(_) => Err(too_slow()),
        }
    }

    async fn drain(&self, body: &mut Body) {
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX
            && let Ok(Some(piece)) = self.next_piece(body).await
        {
            drained += piece.len() as u64;
        }
    }

    fn too_large(&self) -> Answer {
        let reason = format!("bodies have at most {} bytes here", self.body_bytes_max);
        Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, reason)
    }
}

fn too_slow() -> Answer {
    Answer { status: "retry", ..Answer::refused(StatusCode::REQUEST_TIMEOUT, "the body came too slowly") }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Answer> {
    let value = headers.get(CONTENT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
    [Encoding::Gzip, Encoding::Zstd]
        .into_iter()
        .find(|encoding| value.eq_ignore_ascii_case(encoding.as_str().as_bytes()))
        .ok_or_else(|| Answer::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bodies are encoded with gzip or zstd"))
}

/// The answer to a chunk that needs no storing.
fn settled(decision: Decision) -> Option<Answer> {
    match decision {
        Decision::New => None,
        Decision::Duplicate => Some(Answer::done(StatusCode::OK, "duplicate")),
        Decision::Conflict(reason) => Some(Answer::refused(StatusCode::CONFLICT, reason)),
    }
}

/// Does disk work on another thread, to its end even if the sender goes away.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Answer> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| Answer::fault(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a full disk is answered so that the agent sets the chunk aside instead of keeping it for later.
    #[test]
    fn faults_of_ours_ask_to_come_back() {
        let cases = [
            (io::ErrorKind::StorageFull, StatusCode::INSUFFICIENT_STORAGE),
            (io::ErrorKind::QuotaExceeded, StatusCode::INSUFFICIENT_STORAGE),
            (io::ErrorKind::PermissionDenied, StatusCode::SERVICE_UNAVAILABLE),
        ];
        for (kind, code) in cases {
            let response = Answer::fault(&kind.into()).into_response();
            assert_eq!(response.status(), code);
            assert!(response.headers().contains_key(RETRY_AFTER));
        }
    }
}
