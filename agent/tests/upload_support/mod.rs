//! A destination and a proxy on loopback that do as they are told, and a private CA.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auditail::config::{DestinationConfig, Secret, TokenSource};
use auditail::manifest::{Encoding, Kind, Manifest};
use auditail::types::{ChunkId, Digest, FileId, Fingerprint, Span, StreamId};
use auditail::upload::Delivery;
use auditail::upload::http::HttpDestination;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The token of every test.
pub(crate) const TOKEN: &str = "t0ken-s3cret";

/// What a server does with a request.
pub(crate) enum Answer {
    /// Reads the body and answers.
    Reply(u16, Vec<(&'static str, String)>, String),
    /// Answers before it reads the body.
    Early(u16),
    /// Reads the body and says nothing.
    Hang,
    /// Drops the connection without reading the body.
    ResetBefore,
    /// Drops the connection with the body half read.
    ResetWithin,
    /// Reads the body and drops the connection.
    ResetAfter,
}

/// An answer without headers and text.
pub(crate) fn status(status: u16) -> Answer {
    Answer::Reply(status, Vec::new(), String::new())
}

/// A request as it arrived.
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

struct State {
    script: Mutex<VecDeque<Answer>>,
    seen: Mutex<Vec<Seen>>,
    /// Connections that have ended.
    ended: watch::Sender<usize>,
    hang_up: watch::Sender<()>,
}

/// A server that answers from a script, and with 200 once that is over.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    tls: bool,
    state: Arc<State>,
}

impl Server {
    pub(crate) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        Self::start_with(script, None).await
    }

    pub(crate) async fn start_with(script: impl IntoIterator<Item = Answer>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(script.into_iter().collect()),
            seen: Mutex::default(),
            ended: watch::Sender::new(0),
            hang_up: watch::Sender::new(()),
        });
        let (encrypted, shared) = (tls.is_some(), state.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                serve(stream, connection, &state).await;
                            }
                        }
                        None => serve(stream, connection, &state).await,
                    }
                    state.ended.send_modify(|ended| *ended += 1);
                });
            }
        });
        Self { addr, tls: encrypted, state }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}/v1/audit", self.addr.port())
    }

    pub(crate) fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.state.seen.lock().unwrap()
    }

    /// Closes the connections there are.
    pub(crate) fn hang_up(&self) {
        self.state.hang_up.send_replace(());
    }

    /// Waits until a connection has ended.
    pub(crate) async fn ended(&self) {
        let mut ended = self.state.ended.subscribe();
        within(ended.wait_for(|ended| *ended > 0)).await.unwrap();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, connection: usize, state: &Arc<State>) {
    let mut hang_up = state.hang_up.subscribe();
    let service = service_fn(|request| answer(request, connection, state.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        // Errors are what the script asks for.
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        _ = hang_up.changed() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (parts, mut body) = request.into_parts();
    let step = state.script.lock().unwrap().pop_front().unwrap_or_else(|| status(200));
    let mut seen = Seen { connection, version: parts.version, headers: parts.headers, body: Vec::new() };
    match &step {
        Answer::ResetBefore => {}
        Answer::ResetWithin => drop(body.frame().await),
        Answer::Early(_) => drop(tokio::spawn(body.collect())),
        Answer::Reply(..) | Answer::Hang | Answer::ResetAfter => {
            seen.body = body.collect().await.map_err(|_| "the client went away")?.to_bytes().to_vec();
        }
    }
    state.seen.lock().unwrap().push(seen);
    let (code, headers, text) = match step {
        Answer::Reply(code, headers, text) => (code, headers, text),
        Answer::Early(code) => (code, Vec::new(), String::new()),
        Answer::Hang => return std::future::pending().await,
        Answer::ResetBefore | Answer::ResetWithin | Answer::ResetAfter => return Err("reset"),
    };
    let mut response = Response::builder().status(code);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(text)).unwrap())
}

/// Authority and `Proxy-Authorization` of one CONNECT.
pub(crate) type Asked = (String, Option<String>);

/// A proxy for CONNECT. Notes what it was asked and by whom.
pub(crate) struct Connector {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Connector {
    /// Answers every CONNECT with `status`, and opens the tunnel where that is a success.
    pub(crate) async fn start(status: u16, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let seen = Arc::new(Mutex::default());
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                relay(stream, status, &seen).await;
                            }
                        }
                        None => relay(stream, status, &seen).await,
                    }
                });
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

async fn relay<S>(stream: S, status: u16, seen: &Mutex<Vec<Asked>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        let target = request.uri().to_string();
        let credentials = request.headers().get("proxy-authorization").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push((target.clone(), credentials));
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let (Ok(upgraded), Ok(mut upstream)) = (upgrade.await, TcpStream::connect(target).await) {
                // Either side may hang up as it likes.
                copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream).await.ok();
            }
        });
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .ok();
}

/// A private certificate authority and its files.
pub(crate) struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    /// The authority's certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A client certificate and its key.
    pub(crate) fn identity(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["agent".to_owned()]).unwrap();
        let paths = (self.directory.path().join("client.pem"), self.directory.path().join("client.key"));
        std::fs::write(&paths.0, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// TLS for a server called `localhost` that offers `protocols`, and may ask clients for a certificate of this
    /// authority.
    pub(crate) fn server(&self, protocols: &[&str], clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if clients {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// What `work` comes to, provided it ends in the time that only a failing test takes.
pub(crate) async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), work).await.unwrap()
}

/// A configuration for `url` whose time-outs only a failing test meets.
pub(crate) fn config(url: &str) -> DestinationConfig {
    DestinationConfig {
        url: url.parse().unwrap(),
        token: Some(TokenSource::Literal(Secret(TOKEN.into()))),
        ca_file: None,
        client_identity: None,
        proxy: None,
        no_proxy: String::new(),
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        retry_initial: Duration::from_millis(1),
        retry_max: Duration::from_millis(1),
        unauthorized_retry: Duration::from_millis(1),
    }
}

/// A destination as configured.
pub(crate) fn destination(config: &DestinationConfig) -> HttpDestination {
    HttpDestination::new(config, "auditail/test").unwrap()
}

/// A chunk whose body is `pieces`.
pub(crate) fn delivery(pieces: &[&[u8]]) -> Delivery {
    let manifest = Manifest {
        id: ChunkId([7; 16]),
        kind: Kind::Lines,
        cluster_id: "cluster".into(),
        service_id: String::new(),
        node_id: "node".into(),
        stream: StreamId([1; 16]),
        source: "/var/log/audit.log".into(),
        path: "/var/log/audit.log".into(),
        file: FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"{}\n") },
        span: Span::new(0, 3),
        sequence: 1,
        previous: Digest::ZERO,
        digest: Digest::ZERO,
        content_bytes: 3,
        events: 1,
        malformed: 0,
        first_audit_id: None,
        last_audit_id: None,
        part_of: None,
    };
    let body = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    Delivery { manifest, encoding: Encoding::Gzip, body }
}
