//! A receiver in the test's own process, a small client, and chunks to send.
#![allow(unreachable_pub)] // A module of a test binary: nothing in it is reachable from outside.
#![allow(clippy::unwrap_used)] // It fails the test that uses it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auditail::manifest::{Encoding, Kind, Manifest};
use auditail::receive::{Options, Receiver};
use auditail::types::{ChunkId, Digest, FileId, Fingerprint, Span, StreamId};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderValue};
use hyper::rt::{Read, Write as HyperWrite};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The token of every receiver here.
pub const TOKEN: &str = "correct-horse";

/// A running receiver.
pub struct Running {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts a receiver on loopback that asks for [`TOKEN`].
    pub async fn start(directory: &Path, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("127.0.0.1:0".parse().unwrap(), directory);
        options.token = Some(auditail::config::Secret(TOKEN.into()));
        change(&mut options);
        let receiver = Receiver::bind(options).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let addr = receiver.local_addr();
        let task = tokio::spawn(receiver.serve(async {
            let _ = stopped.await;
        }));
        Self { addr, stop, task }
    }

    /// Asks the receiver to end.
    pub fn ask_to_stop(self) -> JoinHandle<()> {
        let _ = self.stop.send(());
        self.task
    }

    /// Ends the receiver and waits for it.
    pub async fn stop(self) {
        self.ask_to_stop().await.unwrap();
    }

    /// Sends a chunk with the right token over a connection of its own.
    pub async fn send(&self, chunk: &Chunk) -> Answer {
        self.post(chunk.headers(), chunk.body.clone()).await
    }

    /// Sends a request over a connection of its own.
    pub async fn post(&self, headers: HeaderMap, body: Vec<u8>) -> Answer {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        exchange(TokioIo::new(stream), headers, body, false).await.unwrap()
    }
}

/// What a receiver said.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// Whether the answer has this code and this word for status.
    pub fn is(&self, code: u16, status: &str) -> bool {
        self.code == code && self.text.contains(&format!("\"status\":\"{status}\""))
    }
}

/// One POST over an open connection.
pub async fn exchange(
    io: impl Read + HyperWrite + Unpin + Send + 'static,
    headers: HeaderMap,
    body: Vec<u8>,
    http2: bool,
) -> hyper::Result<Answer> {
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = if http2 { "https://localhost/chunks" } else { "/chunks" }.parse().unwrap();
    *request.headers_mut() = headers;
    let response = if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap();
    Ok(Answer { code: StatusCode::as_u16(&head.status), headers: head.headers, text })
}

/// A chunk as an agent would send it.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub manifest: Manifest,
    pub encoding: Encoding,
    pub content: Vec<u8>,
    pub body: Vec<u8>,
}

impl Chunk {
    /// The headers of the request, with the right token.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.manifest.append_headers(&mut headers);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(self.encoding.as_str()));
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap());
        headers
    }

    /// The chunk with its manifest changed.
    pub fn but(&self, change: impl FnOnce(&mut Manifest)) -> Self {
        let mut chunk = self.clone();
        change(&mut chunk.manifest);
        chunk
    }

    /// The chunk with another content, and everything that follows from it.
    pub fn holding(&self, content: &[u8]) -> Self {
        let mut chunk = self.clone();
        chunk.content = content.to_vec();
        chunk.body = match self.encoding {
            Encoding::Gzip => gzip(content),
            Encoding::Zstd => zstd::bulk::compress(content, 1).unwrap(),
        };
        chunk.manifest.digest = digest(content);
        chunk.manifest.content_bytes = content.len() as u64;
        chunk
    }
}

/// A chain of `count` chunks of one file, gzip and zstd in turn.
pub fn chain(count: u8) -> Vec<Chunk> {
    let mut previous = Digest::ZERO;
    let mut start = 0;
    (1..=count)
        .map(|sequence| {
            let content = format!("{{\"kind\":\"Event\",\"auditID\":\"{sequence}\"}}\n").repeat(usize::from(sequence));
            let manifest = Manifest {
                id: ChunkId([sequence; 16]),
                kind: Kind::Lines,
                cluster_id: "clüster/..".into(),
                service_id: "service".into(),
                node_id: "../node".into(),
                stream: StreamId([7; 16]),
                source: "/var/log/kubernetes/audit.log".into(),
                path: "/var/log/kubernetes/audit.log".into(),
                file: FileId { device: 1, inode: 2, birth_ns: 3, fingerprint: Fingerprint::of(b"{}\n") },
                span: Span::new(start, start + content.len() as u64),
                sequence: sequence.into(),
                previous,
                digest: Digest::ZERO,
                content_bytes: 0,
                events: sequence.into(),
                malformed: 0,
                first_audit_id: Some(sequence.to_string()),
                last_audit_id: Some(sequence.to_string()),
                part_of: None,
            };
            let encoding = if sequence % 2 == 1 { Encoding::Gzip } else { Encoding::Zstd };
            let empty = Chunk { manifest, encoding, content: Vec::new(), body: Vec::new() };
            let chunk = empty.holding(content.as_bytes());
            (previous, start) = (chunk.manifest.digest, chunk.manifest.span.end);
            chunk
        })
        .collect()
}

/// Digest of some content.
pub fn digest(content: &[u8]) -> Digest {
    Digest(*blake3::hash(content).as_bytes())
}

/// One gzip member.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Every file of an archive that belongs to a chunk.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != ".lock" {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A TLS client configuration: trusts `ca`, shows `identity`, offers one protocol.
pub fn tls_client(ca: &[u8], identity: Option<(Vec<u8>, Vec<u8>)>, alpn: &[u8]) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            builder.with_client_auth_cert(vec![certificate.into()], key.try_into().unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config).into()
}
