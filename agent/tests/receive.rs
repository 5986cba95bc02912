//! The reference receiver over real sockets.

mod receive_support;

use std::fs;
use std::time::Duration;

use auditail::manifest::headers::PROBE;
use auditail::receive::TlsFiles;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use receive_support::{Running, chain, exchange, files, gzip, tls_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

// Fails if a chunk is acknowledged without being stored, or stored twice.
#[tokio::test]
async fn a_chunk_is_stored_once() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let chunk = &chain(1)[0];
    assert!(receiver.send(chunk).await.is(200, "stored"));
    let stored = files(root.path());
    assert_eq!(stored.len(), 2, "a body and a manifest");
    assert!(stored.iter().any(|file| fs::read(file).unwrap() == chunk.body));
    assert!(receiver.send(chunk).await.is(200, "duplicate"));
    assert_eq!(files(root.path()), stored);
    receiver.stop().await;
}

// Fails if what contradicts the archive or itself is stored, or is answered with another code than documented.
#[tokio::test]
async fn contradictions_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let chunks = chain(2);
    let mut two_members = chunks[0].clone();
    two_members.body = [gzip(b"{}\n"), gzip(b"{}\n")].concat();
    let cases = [
        (422, chunks[0].but(|manifest| manifest.digest.0[0] ^= 1)),
        (422, chunks[0].but(|manifest| manifest.content_bytes += 1)),
        (422, chunks[0].but(|manifest| manifest.content_bytes -= 1)),
        (422, chunks[0].but(|manifest| manifest.events += 1)),
        (422, chunks[0].holding(b"{}\n{}")),
        (422, two_members),
        (409, chunks[0].but(|manifest| manifest.previous.0[0] ^= 1)),
    ];
    for (code, chunk) in cases {
        let answer = receiver.send(&chunk).await;
        assert!(answer.is(code, "refused"), "{answer:?}");
    }
    assert_eq!(files(root.path()).len(), 0);
    assert!(receiver.send(&chunks[0]).await.is(200, "stored"));
    let other_content = chunks[0].holding(b"{\"other\":1}\n");
    assert!(receiver.send(&other_content).await.is(409, "refused"));
    assert!(receiver.send(&chunks[1].but(|manifest| manifest.previous.0[0] ^= 1)).await.is(409, "refused"));
    assert!(receiver.send(&chunks[1]).await.is(200, "stored"));
    receiver.stop().await;
}

// Fails if somebody without the token gets anything but 401, or a probe stores something.
#[tokio::test]
async fn the_token_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let chunk = &chain(1)[0];
    for shown in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic correct-horse"), Some("correct-horse")] {
        let mut headers = chunk.headers();
        headers.remove(AUTHORIZATION);
        headers.extend(shown.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
        headers.insert(PROBE, HeaderValue::from_static("1"));
        assert_eq!(receiver.post(headers.clone(), Vec::new()).await.code, 401);
        headers.remove(PROBE);
        let answer = receiver.post(headers, chunk.body.clone()).await;
        assert_eq!((answer.code, answer.headers.contains_key(WWW_AUTHENTICATE)), (401, true));
    }
    let mut probe = HeaderMap::new();
    probe.insert(AUTHORIZATION, HeaderValue::from_static("bearer correct-horse"));
    probe.insert(PROBE, HeaderValue::from_static("1"));
    assert_eq!(receiver.post(probe, Vec::new()).await.code, 204);
    assert_eq!(files(root.path()).len(), 0);
    receiver.stop().await;
}

// Fails if requests that are no chunks are answered with another code than documented.
#[tokio::test]
async fn requests_that_are_no_chunks_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let chunk = &chain(1)[0];
    let without = |name: &str| {
        let mut headers = chunk.headers();
        headers.remove(name);
        headers
    };
    let mut brotli = chunk.headers();
    brotli.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
    let cases = [(400, without("idempotency-key")), (400, without("auditail-range")), (415, brotli)];
    for (code, headers) in cases {
        assert_eq!(receiver.post(headers, chunk.body.clone()).await.code, code);
    }
    assert_eq!(receiver.post(without("content-encoding"), chunk.body.clone()).await.code, 415);
    assert_eq!(files(root.path()).len(), 0);
    receiver.stop().await;
}

// Fails if a body beyond the limit is stored, or if its sender is cut off before it can read the answer: the agent
// splits chunks on 413 only.
#[tokio::test]
async fn large_bodies_are_answered_413() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |options| options.body_bytes_max = 1000).await;
    let mut chunk = chain(1)[0].clone();
    chunk.body = vec![0; 8 << 20];
    assert!(receiver.send(&chunk).await.is(413, "refused"));
    // The same without Content-Length.
    let mut stream = TcpStream::connect(receiver.addr).await.unwrap();
    let mut head = String::from("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n");
    for (name, value) in &chunk.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    stream.write_all(format!("{head}\r\n{:x}\r\n", 4000).as_bytes()).await.unwrap();
    stream.write_all(&[0; 4000]).await.unwrap();
    stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(files(root.path()).len(), 0);
    drop(stream);
    receiver.stop().await;
}

// Fails if the receiver forgets over a restart what it has, or keeps what a crash left half done.
#[tokio::test]
async fn a_restart_keeps_the_index_and_cleans_up() {
    let root = tempfile::tempdir().unwrap();
    let chunks = chain(2);
    let receiver = Running::start(root.path(), |_| ()).await;
    assert!(receiver.send(&chunks[0]).await.is(200, "stored"));
    receiver.stop().await;
    let stored = files(root.path());
    let body = stored.iter().find(|file| file.extension().unwrap() == "gz").unwrap();
    let name = body.file_name().unwrap().to_str().unwrap().replace("0000001-", "0000002-");
    fs::write(body.with_file_name(name), b"half").unwrap();
    fs::write(root.path().join(".incoming/17"), b"half").unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    assert_eq!(files(root.path()), stored);
    assert!(receiver.send(&chunks[0]).await.is(200, "duplicate"));
    assert!(receiver.send(&chunks[1].but(|manifest| manifest.previous.0[0] ^= 1)).await.is(409, "refused"));
    assert!(receiver.send(&chunks[1]).await.is(200, "stored"));
    receiver.stop().await;
}

// Fails if an archive that cannot be written is answered as if the chunk were at fault, or does not recover.
#[tokio::test]
async fn a_fault_of_the_archive_asks_to_come_back() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let incoming = root.path().join(".incoming");
    fs::remove_dir(&incoming).unwrap();
    let chunk = &chain(1)[0];
    let answer = receiver.send(chunk).await;
    assert!(answer.is(503, "retry") && answer.headers.contains_key(RETRY_AFTER), "{answer:?}");
    fs::create_dir(&incoming).unwrap();
    assert!(receiver.send(chunk).await.is(200, "stored"));
    receiver.stop().await;
}

// Fails if a connection can be held open by saying nothing, half a request, or half a body.
#[tokio::test]
async fn slow_senders_are_let_go() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |options| {
        options.timeouts.headers = Duration::from_millis(100);
        options.timeouts.body_idle = Duration::from_millis(100);
    })
    .await;
    let mut half_body = String::from("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n");
    for (name, value) in &chain(1)[0].headers() {
        half_body += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    half_body += "\r\nhalf";
    for (said, answer) in [("", ""), ("P", ""), ("POST / HT", ""), (&half_body, "HTTP/1.1 408")] {
        let mut stream = TcpStream::connect(receiver.addr).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await;
        end.expect("the connection is closed in time").unwrap();
        assert!(String::from_utf8(heard).unwrap().starts_with(answer));
    }
    assert_eq!(files(root.path()).len(), 0);
    receiver.stop().await;
}

// Fails if ending the receiver cuts off a request that is under way.
#[tokio::test]
async fn requests_under_way_finish_before_the_end() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Running::start(root.path(), |_| ()).await;
    let chunk = &chain(1)[0];
    let mut stream = TcpStream::connect(receiver.addr).await.unwrap();
    let mut head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", chunk.body.len());
    for (name, value) in &chunk.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    stream.write_all(format!("{head}expect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    // The interim answer shows that the request is under way.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"));
    let end = receiver.ask_to_stop();
    stream.write_all(&chunk.body).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("stored"), "{heard}");
    end.await.unwrap();
    assert_eq!(files(root.path()).len(), 2);
}

// Fails if TLS serves only one HTTP version, or if mutual TLS lets somebody in without a certificate of the CA.
#[tokio::test]
async fn tls_and_mutual_tls() {
    let root = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let leaf = |issuer: &Issuer<'_, &KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, issuer).unwrap(), key)
    };
    let (server, server_key) = leaf(&issuer);
    let file = |name: &str, text: String| {
        let path = root.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let mut tls = TlsFiles {
        certificate: file("server.pem", server.pem()),
        key: file("server.key", server_key.serialize_pem()),
        client_ca: None,
    };
    let post = async |receiver: &Running, identity, alpn: &[u8]| {
        let connector = tls_client(ca.der(), identity, alpn);
        let stream = TcpStream::connect(receiver.addr).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.map_err(|e| e.to_string())?;
        let chunk = chain(1)[0].clone();
        let answer = exchange(TokioIo::new(stream), chunk.headers(), chunk.body, alpn == b"h2").await;
        answer.map(|answer| answer.code).map_err(|error| error.to_string())
    };
    let receiver = Running::start(&root.path().join("archive"), |options| options.tls = Some(tls.clone())).await;
    assert_eq!(post(&receiver, None, b"http/1.1").await, Ok(200));
    assert_eq!(post(&receiver, None, b"h2").await, Ok(200));
    receiver.stop().await;

    tls.client_ca = Some(file("ca.pem", ca.pem()));
    let receiver = Running::start(&root.path().join("archive"), |options| options.tls = Some(tls)).await;
    let (client, client_key) = leaf(&issuer);
    let identity = Some((client.der().to_vec(), client_key.serialize_der()));
    assert_eq!(post(&receiver, identity, b"h2").await, Ok(200));
    assert!(post(&receiver, None, b"http/1.1").await.is_err());
    let stranger_key = KeyPair::generate().unwrap();
    let (stranger, key) = leaf(&Issuer::from_params(&params, &stranger_key));
    let identity = Some((stranger.der().to_vec(), key.serialize_der()));
    assert!(post(&receiver, identity, b"http/1.1").await.is_err());
    receiver.stop().await;
}
