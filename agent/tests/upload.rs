//! The HTTP destination against real sockets: answers, broken connections, time-outs, TLS, proxies, secrets.
#![allow(clippy::unwrap_used)] // The exception for tests does not reach their helper functions.

mod upload_support;

use std::time::Duration;

use auditail::config::{DestinationConfig, Proxy, Secret, TokenSource};
use auditail::upload::deliver::{Verdict, deliver};
use auditail::upload::http::{HttpDestination, Probe};
use auditail::upload::retry::RetryPolicy;
use auditail::upload::{Destination, Outcome};
use hyper::{StatusCode, Version};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use upload_support::{Answer, Authority, Connector, Server, TOKEN, config, delivery, destination, status, within};

const SHORT: Duration = Duration::from_millis(150);

/// The reason of an attempt that is to be made again.
fn retried(outcome: Outcome) -> String {
    match outcome {
        Outcome::Retry { reason, .. } => reason,
        other => panic!("{other:?} is not to be retried"),
    }
}

/// The reason of an attempt that the operator must look at.
fn for_the_operator(outcome: Outcome) -> String {
    match outcome {
        Outcome::Unauthorized { reason } => reason,
        other => panic!("{other:?} is not for the operator"),
    }
}

fn proxy(url: &str) -> Option<Proxy> {
    Some(Proxy { url: url.parse().unwrap(), credentials: Some(("Aladdin".into(), Secret("open sesame".into()))) })
}

// Fails if a header of ours is missing, the body is altered or sent in HTTP chunks, or each chunk takes a new connection.
#[tokio::test]
async fn chunks_share_a_connection_and_arrive_as_they_are() {
    let server = Server::start([]).await;
    let destination = destination(&config(&server.url()));
    let large = vec![b'x'; 3 << 20];
    for _ in 0..3 {
        assert_eq!(destination.send(&delivery(&[b"one", b"", &large, b"two"])).await, Outcome::Delivered);
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in seen.iter() {
        assert_eq!((request.connection, request.version), (0, Version::HTTP_11));
        assert_eq!(request.body, [b"one", large.as_slice(), b"two"].concat());
        let header = |name| request.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-length"), Some((large.len() + 6).to_string().as_str()));
        assert_eq!(header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
        assert_eq!(header("content-type"), Some("application/x-ndjson"));
        assert_eq!(header("content-encoding"), Some("gzip"));
        assert_eq!(header("user-agent"), Some("auditail/test"));
        assert_eq!(header("idempotency-key"), Some("07070707070707070707070707070707"));
        assert_eq!(header("transfer-encoding"), None);
    }
}

// Fails if an answer's status, text or Retry-After does not reach the classification.
#[tokio::test]
async fn answers_become_outcomes() {
    let after = |value: String| vec![("retry-after", value)];
    let soon = std::time::SystemTime::now() + Duration::from_secs(30);
    let server = Server::start([
        Answer::Reply(429, after("2".into()), "slow down".into()),
        Answer::Reply(503, after(httpdate::fmt_http_date(soon)), String::new()),
        status(413),
        Answer::Reply(400, Vec::new(), "bad digest".into()),
        Answer::Reply(307, vec![("location", "/elsewhere".into())], String::new()),
        status(404),
    ])
    .await;
    let destination = destination(&config(&server.url()));
    let chunk = delivery(&[b"body"]);
    let reason = "429 Too Many Requests: slow down".to_owned();
    assert_eq!(destination.send(&chunk).await, Outcome::Retry { reason, after: Some(Duration::from_secs(2)) });
    let Outcome::Retry { after: Some(after), .. } = destination.send(&chunk).await else { panic!("503 is retried") };
    assert!(after <= Duration::from_secs(30), "{after:?}");
    assert_eq!(destination.send(&chunk).await, Outcome::TooLarge);
    assert_eq!(destination.send(&chunk).await, Outcome::Refused { reason: "400 Bad Request: bad digest".into() });
    assert!(for_the_operator(destination.send(&chunk).await).contains("/elsewhere"));
    assert!(for_the_operator(destination.send(&chunk).await).starts_with("404"));
    assert_eq!(server.seen().last().unwrap().connection, 0, "an answer's body was not read to its end");
}

// Fails if an answer is lost because it comes while the body is still being sent.
#[tokio::test]
async fn an_early_answer_counts() {
    let server = Server::start([Answer::Early(413)]).await;
    let large = vec![b'x'; 16 << 20];
    assert_eq!(destination(&config(&server.url())).send(&delivery(&[&large])).await, Outcome::TooLarge);
}

// Fails if a request may take longer than its time-out, or if a hanging server blocks the next request.
#[tokio::test]
async fn a_hanging_server_is_given_up_on() {
    let server = Server::start([Answer::Hang]).await;
    let mut config = config(&server.url());
    config.request_timeout = SHORT;
    let hanging = destination(&config);
    assert!(retried(within(hanging.send(&delivery(&[b"body"]))).await).contains("no answer within"));
    assert_eq!(hanging.send(&delivery(&[b"body"])).await, Outcome::Delivered);
}

// Fails if TLS or the proxy may take longer than the connect time-out, or if the socket of such an attempt stays open.
#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up_on() {
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let authority = Authority::new();
    let mut tls = config(&format!("https://{address}/"));
    tls.ca_file = Some(authority.ca_file());
    let mut tunnel = config("http://localhost:9/");
    tunnel.proxy = proxy(&format!("http://{address}"));
    for mut config in [tls, tunnel] {
        config.connect_timeout = SHORT;
        let destination = destination(&config);
        assert!(retried(within(destination.send(&delivery(&[b"body"]))).await).contains("no connection within"));
        let (mut stream, _) = silent.accept().await.unwrap();
        let mut said = Vec::new();
        within(stream.read_to_end(&mut said)).await.unwrap();
        assert!(!said.is_empty());
    }
}

// Fails if a broken connection ends delivery, or if the chunk is not sent again under its id.
#[tokio::test]
async fn broken_connections_are_retried() {
    let server = Server::start([Answer::ResetBefore, Answer::ResetWithin, Answer::ResetAfter, status(503)]).await;
    let config = config(&server.url());
    let mut attempts = Vec::new();
    let verdict = deliver(
        &destination(&config),
        &delivery(&[&vec![b'x'; 1 << 20]]),
        &RetryPolicy::from(&config),
        &mut fastrand::Rng::with_seed(1),
        &mut |report| attempts.push(report.attempt),
    )
    .await;
    assert_eq!((verdict, attempts), (Verdict::Delivered, vec![1, 2, 3, 4, 5]));
    let ids: Vec<_> = server.seen().iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    assert!(ids.len() == 5 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

// Fails if a destination that is not there is not retried, or its reason does not say so.
#[tokio::test]
async fn a_refused_connection_is_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(&format!("http://{}/", listener.local_addr().unwrap()));
    drop(listener);
    let destination = destination(&config);
    assert!(retried(destination.send(&delivery(&[b"body"])).await).contains("refused"));
    assert!(matches!(destination.probe().await.answer, Probe::Unreachable { .. }));
}

// Fails if a connection that the server closed while it was idle costs an attempt.
#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let (server, other) = (Server::start([]).await, Server::start([]).await);
    let destination = destination(&config(&server.url()));
    assert_eq!(destination.send(&delivery(&[b"1"])).await, Outcome::Delivered);
    server.hang_up();
    server.ended().await;
    // A round trip elsewhere: behind it, our side has been told of the end, which came before it.
    assert_eq!(upload_support::destination(&config(&other.url())).send(&delivery(&[b"-"])).await, Outcome::Delivered);
    assert_eq!(destination.send(&delivery(&[b"2"])).await, Outcome::Delivered);
    assert_eq!(server.seen()[1].connection, 1);
}

// Fails if idle connections are kept for ever.
#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::start([]).await;
    let mut config = config(&server.url());
    config.idle_timeout = SHORT;
    let destination = destination(&config);
    assert_eq!(destination.send(&delivery(&[b"body"])).await, Outcome::Delivered);
    server.ended().await;
}

// Fails if a new token in the file is not used without a restart.
#[tokio::test]
async fn a_refused_token_is_read_again() {
    let server = Server::start([status(401), status(403)]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let mut config = config(&server.url());
    config.token = Some(TokenSource::File(path.clone()));
    let destination = destination(&config);
    assert!(for_the_operator(destination.send(&delivery(&[b"body"])).await).contains(path.to_str().unwrap()));
    std::fs::write(&path, "wrong\n").unwrap();
    let verdict = deliver(
        &destination,
        &delivery(&[b"body"]),
        &RetryPolicy::from(&config),
        &mut fastrand::Rng::with_seed(1),
        &mut |report| {
            if report.attempt == 2 {
                std::fs::write(&path, "right\n").unwrap();
            }
        },
    )
    .await;
    assert_eq!(verdict, Verdict::Delivered);
    let sent: Vec<_> = server.seen().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer wrong", "Bearer wrong", "Bearer right"]);
}

// Fails if a probe carries a chunk's headers, or mistakes one answer for another.
#[tokio::test]
async fn a_probe_tells_whether_the_token_is_accepted() {
    let server = Server::start([status(204), status(401), status(405)]).await;
    let destination = destination(&config(&server.url()));
    let probed = destination.probe().await;
    assert!(probed.date.is_some(), "hyper's servers tell the time");
    assert_eq!(probed.answer, Probe::Accepted);
    assert_eq!(destination.probe().await.answer, Probe::Rejected { reason: "401 Unauthorized".into() });
    assert_eq!(destination.probe().await.answer, Probe::Reached { status: StatusCode::METHOD_NOT_ALLOWED });
    let seen = server.seen();
    assert_eq!(seen[0].headers["auditail-probe"], "1");
    assert_eq!(seen[0].headers["content-length"], "0");
    assert!(!seen[0].headers.contains_key("idempotency-key"));
}

// Fails if the CA file is ignored, or if any certificate will do.
#[tokio::test]
async fn only_trusted_certificates_are_taken() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start_with([], Some(authority.server(&[], false))).await;
    let mut config = config(&server.url());
    config.ca_file = Some(authority.ca_file());
    assert_eq!(destination(&config).send(&delivery(&[b"body"])).await, Outcome::Delivered);
    config.ca_file = Some(stranger.ca_file());
    let reason = retried(destination(&config).send(&delivery(&[b"body"])).await);
    assert!(reason.contains("certificate"), "{reason}");
    // The certificate is right, the name is not.
    config.ca_file = Some(authority.ca_file());
    config.url = format!("https://127.0.0.1:{}/", server.addr.port()).parse().unwrap();
    let reason = retried(destination(&config).send(&delivery(&[b"body"])).await);
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(server.seen().len(), 1);
}

// Fails if the client certificate is not presented.
#[tokio::test]
async fn a_client_certificate_is_presented() {
    let authority = Authority::new();
    let server = Server::start_with([], Some(authority.server(&[], true))).await;
    let mut config = config(&server.url());
    config.ca_file = Some(authority.ca_file());
    retried(destination(&config).send(&delivery(&[b"body"])).await);
    config.client_identity = Some(authority.identity());
    assert_eq!(destination(&config).send(&delivery(&[b"body"])).await, Outcome::Delivered);
}

// Fails if HTTP/2 is not used where it is offered, or if requests in flight do not share its connection.
#[tokio::test]
async fn http2_is_used_where_it_is_offered() {
    let authority = Authority::new();
    let server = Server::start_with([], Some(authority.server(&["h2", "http/1.1"], false))).await;
    let mut config = config(&server.url());
    config.ca_file = Some(authority.ca_file());
    let destination = destination(&config);
    let large = vec![b'x'; 3 << 20];
    let chunk = delivery(&[b"one", &large]);
    assert_eq!(destination.send(&chunk).await, Outcome::Delivered);
    let (first, second) = tokio::join!(destination.send(&chunk), destination.send(&chunk));
    assert_eq!((first, second), (Outcome::Delivered, Outcome::Delivered));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in seen.iter() {
        assert_eq!((request.connection, request.version), (0, Version::HTTP_2));
        assert_eq!(request.headers["content-length"], (large.len() + 3).to_string());
        assert_eq!(request.body.len(), large.len() + 3);
    }
}

// Fails if a request goes past the proxy, is shown to it, or comes without credentials; or if NO_PROXY is not heeded.
#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel() {
    let authority = Authority::new();
    let plain = Server::start([]).await;
    let encrypted = Server::start_with([], Some(authority.server(&["h2", "http/1.1"], false))).await;
    for tls in [None, Some(authority.server(&[], false))] {
        for server in [&plain, &encrypted] {
            let connector = Connector::start(200, tls.clone()).await;
            let mut config = config(&server.url());
            config.ca_file = Some(authority.ca_file());
            config.proxy = proxy(&connector.url);
            assert_eq!(destination(&config).send(&delivery(&[b"body"])).await, Outcome::Delivered);
            config.no_proxy = "example.com,localhost".into();
            assert_eq!(destination(&config).send(&delivery(&[b"body"])).await, Outcome::Delivered);
            let target = format!("localhost:{}", server.addr.port());
            assert_eq!(connector.seen(), [(target, Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned()))]);
        }
    }
    assert!(plain.seen().iter().all(|request| !request.headers.contains_key("proxy-authorization")));
    assert_eq!((plain.seen().len(), encrypted.seen().len()), (4, 4));
}

// Fails if a proxy's refusal is taken for the destination's opinion of the chunk, or is not told from an outage.
#[tokio::test]
async fn a_proxys_refusal_says_nothing_about_the_chunk() {
    for (status, operator) in [(407, true), (403, true), (400, false), (413, false), (502, false)] {
        let connector = Connector::start(status, None).await;
        let mut config = config("http://localhost:9/");
        config.proxy = proxy(&connector.url);
        let outcome = destination(&config).send(&delivery(&[b"body"])).await;
        let reason = if operator { for_the_operator(outcome) } else { retried(outcome) };
        assert!(reason.contains(&format!("the proxy answered CONNECT with {status}")), "{reason}");
    }
}

// Fails if the token or the proxy's password gets into a reason or a Debug form, even when an answer quotes it.
#[tokio::test]
async fn secrets_show_nowhere() {
    let quoting = |code| Answer::Reply(code, Vec::new(), format!("who is {TOKEN}?"));
    let server = Server::start([quoting(400), quoting(401), quoting(503), Answer::ResetAfter]).await;
    let direct = destination(&config(&server.url()));
    let mut shown = format!("{direct:?}");
    for _ in 0..4 {
        shown += &format!("{:?}", direct.send(&delivery(&[b"body"])).await);
    }
    for status in [407, 502] {
        let connector = Connector::start(status, None).await;
        let mut config = config(&server.url());
        config.proxy = proxy(&connector.url);
        let tunnelled = destination(&config);
        shown += &format!("{tunnelled:?} {:?}", tunnelled.send(&delivery(&[b"body"])).await);
    }
    assert!(shown.contains("who is (hidden)?") && shown.contains("407"), "{shown}");
    for secret in [TOKEN, "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

// Fails if a destination is set up that can never work, or if the error shows the secret it is about.
#[tokio::test]
async fn what_cannot_work_is_refused_at_setup() {
    let usable = config("http://localhost:9/");
    let relative = DestinationConfig { url: "/v1/audit".parse().unwrap(), ..usable.clone() };
    let scheme = DestinationConfig { url: "ftp://localhost/".parse().unwrap(), ..usable.clone() };
    let socks = DestinationConfig { proxy: proxy("socks5://localhost:9"), ..usable.clone() };
    let token = Some(TokenSource::Literal(Secret(format!("{TOKEN}\nX-Header: injected"))));
    let token = DestinationConfig { token, ..usable };
    for (config, setting) in [(relative, "url"), (scheme, "url"), (socks, "proxy"), (token, "token")] {
        let error = HttpDestination::new(&config, "auditail/test").unwrap_err();
        assert_eq!(error.setting, setting);
        assert!(!format!("{error} {error:?}").contains(TOKEN));
    }
}
