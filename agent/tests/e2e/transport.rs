//! TLS, mutual TLS and a proxy between agent and receiver.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use auditail_bench::writer::{Compress, Rotation};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::site::Receiver;
use crate::support::{Log, Site, text};

const BURST: usize = 40;

/// Delivers a burst to a destination that these settings lead to.
fn delivers(site: &Site, receiver: &Receiver, settings: &[String]) {
    let mut log = Log::unbounded(&site.log(), Rotation::Stamped(Compress::Never));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let agent = site.run(receiver.address, &settings);
    log.write(BURST);
    site.wait_for(&log);
    agent.stop();
    site.assert_exact(&log);
}

/// A private authority: `ca.pem`, and for each name a certificate `NAME.pem` with its key `NAME.key`.
fn issue(site: &Site, names: &[&str]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(site.path("ca.pem"), issuer.pem()).unwrap();
    for name in names {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([(*name).to_owned()]).unwrap();
        fs::write(site.path(&format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(site.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Arguments of a receiver that serves TLS as `localhost`, and the agent's settings for it.
fn tls(site: &Site) -> ([String; 4], [String; 1]) {
    let path = |name: &str| text(&site.path(name)).to_owned();
    let args = ["--tls-cert".into(), path("localhost.pem"), "--tls-key".into(), path("localhost.key")];
    (args, [format!("destination.ca_file: {}", path("ca.pem"))])
}

// Fails if a private authority's certificate is not trusted although it is configured.
#[test]
fn tls_with_a_private_authority() {
    let site = Site::new();
    issue(&site, &["localhost"]);
    let (args, settings) = tls(&site);
    let receiver = site.receive(&args.each_ref().map(String::as_str));
    let url = format!("destination.url: https://localhost:{}/chunks", receiver.address.port());
    delivers(&site, &receiver, &[settings.as_slice(), &[url]].concat());
}

// Fails if the client certificate is not shown, or a server is trusted that nobody vouches for.
#[test]
fn mutual_tls() {
    let site = Site::new();
    issue(&site, &["localhost", "agent"]);
    let (args, settings) = tls(&site);
    let path = |name: &str| text(&site.path(name)).to_owned();
    let ca = path("ca.pem");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--client-ca", &ca]).collect();
    let receiver = site.receive(&args);
    let url = format!("destination.url: https://localhost:{}/chunks", receiver.address.port());

    let anonymous = [settings.as_slice(), &[url]].concat();
    fs::write(site.log(), "{}\n").unwrap();
    for settings in [&anonymous[1..], &anonymous[..]] {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut agent = site.run(receiver.address, &settings);
        agent.wait_metric("auditail_upload_retries_total", 2.0);
        agent.kill();
    }
    assert!(site.manifests().is_empty());
    fs::remove_dir_all(site.path("state")).unwrap();
    fs::remove_file(site.log()).unwrap();

    let identity = [
        format!("destination.client_cert_file: {}", path("agent.pem")),
        format!("destination.client_key_file: {}", path("agent.key")),
    ];
    delivers(&site, &receiver, &[anonymous.as_slice(), &identity].concat());
}

// Fails if requests go past the proxy, or its credentials are not shown, or show up in the log.
#[test]
fn through_a_proxy() {
    let site = Site::new();
    issue(&site, &["localhost"]);
    let (args, settings) = tls(&site);
    let receiver = site.receive(&args.each_ref().map(String::as_str));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let proxy = connect_proxy(receiver.address, asked.clone());
    let more = [
        format!("destination.url: https://localhost:{}/chunks", receiver.address.port()),
        format!("destination.proxy: http://user:p%40ss@{proxy}"),
    ];
    delivers(&site, &receiver, &[settings.as_slice(), &more].concat());
    let asked = asked.lock().unwrap().concat();
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1", receiver.address.port())), "{asked}");
    // user:p@ss
    assert!(asked.contains("Basic dXNlcjpwQHNz"), "{asked}");
}

/// A proxy that knows CONNECT, leads everything to one address and keeps the heads of requests.
fn connect_proxy(to: SocketAddr, asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let asked = asked.clone();
            // A connection that fails is the agent's to try again.
            std::thread::spawn(move || tunnel(client, to, &asked));
        }
    });
    address
}

fn tunnel(mut client: TcpStream, to: SocketAddr, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let head: Vec<String> = BufReader::new(client.try_clone()?)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| line + "\n")
        .collect();
    asked.lock().unwrap().extend(head);
    let mut server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client).map(drop)
}
