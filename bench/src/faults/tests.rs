//! The proxy between a plain client and another proxy that answers everything with 200.

use std::io::{Read, Write};

use super::http::Head;
use super::*;

const LONG: Duration = Duration::from_secs(30);
const BODY: &[u8] = &[b'x'; 300_000];

/// A receiver and a proxy in front of it.
fn pair(script: impl IntoIterator<Item = Fault>) -> (FaultProxy, FaultProxy) {
    let receiver = FaultProxy::start(([127, 0, 0, 1], 1).into(), []).unwrap();
    receiver.otherwise(Fault::answer(200));
    let proxy = FaultProxy::start(receiver.address(), script).unwrap();
    (receiver, proxy)
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Sends a request and reads the head of the answer, which has no body here.
fn post(mut stream: &TcpStream, key: &str) -> io::Result<Head> {
    let length = BODY.len();
    write!(stream, "POST /events HTTP/1.1\r\nidempotency-key: {key}\r\ncontent-length: {length}\r\n\r\n")?;
    stream.write_all(BODY)?;
    Head::read(stream)
}

fn status(result: io::Result<Head>) -> u16 {
    result.unwrap().status().unwrap()
}

// Fails if a request on a kept-alive connection is mangled, miscounted, or begins in the body of the one before.
#[test]
fn requests_pass_one_after_the_other() {
    let (receiver, proxy) = pair([]);
    let client = connect(&proxy);
    for key in ["a", "b", "c"] {
        assert_eq!(status(post(&client, key)), 200);
    }
    assert_eq!((receiver.requests(), proxy.requests()), (3, 3));
    for (key, seen) in ["a", "b", "c"].into_iter().zip(receiver.seen()) {
        assert_eq!((seen.target.as_str(), seen.header("idempotency-key")), ("/events", Some(key)));
        assert_eq!(seen.body_bytes, BODY.len() as u64);
    }
}

// Fails if canned answers leak to the receiver, lack their Retry-After, or do not end when the script does.
#[test]
fn answers_come_from_the_script_until_it_ends() {
    let (receiver, proxy) = pair([Fault::retry_after_seconds(503, 7), Fault::retry_after_date(429, 784_111_777)]);
    let client = connect(&proxy);
    let retry_after = |head: Head| head.headers().iter().find(|(name, _)| name == "retry-after").unwrap().1.clone();
    let first = post(&client, "a").unwrap();
    assert_eq!((first.status().unwrap(), retry_after(first).as_str()), (503, "7"));
    let second = post(&client, "a").unwrap();
    assert_eq!((second.status().unwrap(), retry_after(second).as_str()), (429, "Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(receiver.requests(), 0);
    assert_eq!(status(post(&client, "a")), 200);
    assert_eq!(receiver.requests(), 1);
}

// Fails if a reset does not reach the client, or a request that must not arrive does, or the reverse.
#[test]
fn resets_are_resets() {
    for (fault, arrives) in [
        (Fault::Refuse, false),
        (Fault::ResetBeforeBody, false),
        (Fault::ResetInBody, false),
        (Fault::ResetAfterBody, false),
        (Fault::LoseAnswer, true),
    ] {
        let (receiver, proxy) = pair([fault.clone()]);
        let error = post(&connect(&proxy), "a").unwrap_err();
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{fault:?} gave {error}");
        assert_eq!(receiver.requests(), usize::from(arrives), "{fault:?}");
        assert_eq!(status(post(&connect(&proxy), "a")), 200, "{fault:?}");
        assert_eq!(proxy.seen()[0].status, arrives.then_some(200), "{fault:?}");
    }
}

// Fails if a hanging request is answered, reaches the receiver, or outlives the proxy.
#[test]
fn a_hanging_request_ends_with_the_proxy() {
    let (receiver, mut proxy) = pair([Fault::Hang]);
    let client = connect(&proxy);
    let waiting = std::thread::spawn(move || post(&client, "a"));
    assert!(proxy.wait_until(LONG, |seen| seen.len() == 1));
    assert!(!waiting.is_finished());
    proxy.down();
    assert!(waiting.join().unwrap().is_err());
    assert_eq!(receiver.requests(), 0);
}

// Fails if the delay is skipped, or the request is not passed on behind it.
#[test]
fn a_delayed_request_arrives_late() {
    let delay = Duration::from_millis(60);
    let (receiver, proxy) = pair([Fault::Delay(delay)]);
    let started = std::time::Instant::now();
    assert_eq!(status(post(&connect(&proxy), "a")), 200);
    assert!(started.elapsed() >= delay);
    assert_eq!(receiver.requests(), 1);
}

// Fails if the port stays open while the proxy is down, or is another one afterwards.
#[test]
fn a_proxy_that_is_down_refuses_connections() {
    let (_receiver, mut proxy) = pair([]);
    let before = connect(&proxy);
    assert_eq!(status(post(&before, "a")), 200);
    proxy.down();
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((&before).read(&mut [0]).unwrap_or(0), 0);
    proxy.up().unwrap();
    assert_eq!(status(post(&connect(&proxy), "b")), 200);
}

// Fails if a receiver that is gone hangs the client, or a new one is not used.
#[test]
fn a_receiver_can_be_replaced() {
    let (receiver, proxy) = pair([]);
    drop(receiver);
    let client = connect(&proxy);
    assert_eq!(status(post(&client, "a")), 502);
    let (receiver, _) = pair([]);
    proxy.redirect(receiver.address());
    assert_eq!(status(post(&client, "a")), 200);
}

// Fails if healing leaves a part of the script in force.
#[test]
fn healing_ends_every_fault() {
    let (_receiver, proxy) = pair([Fault::answer(500)]);
    proxy.then([Fault::answer(501)]);
    proxy.otherwise(Fault::answer(503));
    let client = connect(&proxy);
    assert_eq!(status(post(&client, "a")), 500);
    proxy.heal();
    assert_eq!(status(post(&client, "a")), 200);
}
