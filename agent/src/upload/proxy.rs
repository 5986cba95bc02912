//! The way to the destination: a connection of our own, or a tunnel through a proxy.
//!
//! Proxies are asked with `CONNECT` (RFC 9110, 9.3.6) also for `http://` destinations, so that a proxy never sees
//! a request and needs no other rules. The proxy may itself be reached over TLS.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use tower_service::Service;

use super::UploadSetupError;
use crate::config::{Proxy, Secret};
use crate::limits::KEEP_ALIVE_SECONDS;

/// An error of any library.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// A byte stream to the destination, before TLS.
pub trait Io: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Io for T {}

impl Connection for Box<dyn Io> {
    fn connected(&self) -> Connected {
        // A tunnel is as good as a connection: the client must not switch to the proxy's request form.
        Connected::new()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The proxy answered, and does not let us through.
    #[error("the proxy answered CONNECT with {0}")]
    ProxyRefused(StatusCode),
    /// The proxy cannot be reached, or broke the tunnel off.
    #[error("no tunnel through the proxy")]
    Tunnel(#[source] BoxError),
    /// The destination cannot be reached.
    #[error(transparent)]
    Direct(BoxError),
}

/// Connects to a destination, through the proxy where one applies.
#[derive(Clone, Debug)]
pub struct Route {
    tcp: HttpConnector,
    proxy: Option<Arc<Hop>>,
}

/// A proxy ready to be asked.
struct Hop {
    url: Uri,
    connector: HttpsConnector<HttpConnector>,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hop").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Whether requests to `destination` go through `proxy`. `no_proxy` lists, separated by commas, addresses, networks
/// (`10.0.0.0/8`), names (each also stands for what is below it; a leading dot is allowed), or `*`.
pub fn applies(proxy: &Proxy, no_proxy: &str, destination: &Uri) -> bool {
    Matcher::builder().all(proxy.url.to_string()).no(no_proxy).build().intercept(destination).is_some()
}

impl Route {
    /// A connection of our own. `connect_timeout` is shared out among the addresses of a name.
    pub fn direct(connect_timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        // The scheme is the concern of the TLS connector around this one.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(KEEP_ALIVE_SECONDS)));
        tcp.set_connect_timeout(Some(connect_timeout));
        Self { tcp, proxy: None }
    }

    /// A tunnel through `proxy`; `tls` is for proxies reached over TLS.
    pub fn through(self, proxy: &Proxy, tls: ClientConfig) -> Result<Self, UploadSetupError> {
        if !matches!(proxy.url.scheme_str(), Some("http" | "https")) || proxy.url.host().is_none() {
            return Err(UploadSetupError::new("proxy", "must be http://HOST:PORT or https://HOST:PORT"));
        }
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(self.tcp.clone());
        let authorization = proxy.credentials.as_ref().map(|(user, password)| basic(user, password)).transpose()?;
        Ok(Self { proxy: Some(Arc::new(Hop { url: proxy.url.clone(), connector, authorization })), ..self })
    }
}

/// `Basic` credentials (RFC 7617).
fn basic(user: &str, Secret(password): &Secret) -> Result<HeaderValue, UploadSetupError> {
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
        .map_err(|_| UploadSetupError::new("proxy", "the credentials cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Service<Uri> for Route {
    type Response = Box<dyn Io>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Box<dyn Io>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        match self.proxy.clone() {
            Some(hop) => Box::pin(async move { hop.tunnel(&destination).await }),
            None => {
                let connecting = self.tcp.call(destination);
                Box::pin(async move {
                    let stream = connecting.await.map_err(|error| ConnectError::Direct(error.into()))?;
                    Ok(Box::new(stream) as Box<dyn Io>)
                })
            }
        }
    }
}

impl Hop {
    async fn tunnel(&self, destination: &Uri) -> Result<Box<dyn Io>, ConnectError> {
        let failed = |error: hyper::Error| ConnectError::Tunnel(error.into());
        let stream = self.connector.clone().call(self.url.clone()).await.map_err(ConnectError::Tunnel)?;
        let (mut requests, connection) = http1::handshake(stream).await.map_err(failed)?;
        // Ends with the tunnel, or when `requests` is dropped; its errors come out of the request as well.
        tokio::spawn(connection.with_upgrades());
        let request = self.request(destination).map_err(|error| ConnectError::Tunnel(error.into()))?;
        let answer = requests.send_request(request).await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(ConnectError::ProxyRefused(answer.status()));
        }
        Ok(Box::new(hyper::upgrade::on(answer).await.map_err(failed)?))
    }

    fn request(&self, destination: &Uri) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let port = destination.port_u16().unwrap_or(if destination.scheme_str() == Some("http") { 80 } else { 443 });
        let authority = format!("{}:{port}", destination.host().unwrap_or_default());
        let mut request = Request::connect(&authority).header(HOST, &authority).body(Empty::new())?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &'static str) -> Proxy {
        Proxy { url: Uri::from_static(url), credentials: Some(("user".into(), Secret("s3cret".into()))) }
    }

    // Fails if a destination in the cluster's own network is sent through the proxy, or another past it.
    #[test]
    fn no_proxy_takes_names_networks_and_everything() {
        let proxy = proxy("http://proxy.example:3128");
        for (no_proxy, destination, through) in [
            ("", "https://collect.example/", true),
            ("collect.example", "https://collect.example/", false),
            (".example, other", "https://collect.example/", false),
            ("example", "https://notexample/", true),
            ("10.0.0.0/8,127.0.0.1", "http://10.1.2.3:8080/", false),
            ("10.0.0.0/8", "http://11.1.2.3:8080/", true),
            ("fd00::/8", "http://[fd00::1]:8080/", false),
            ("*", "https://collect.example/", false),
        ] {
            assert_eq!(applies(&proxy, no_proxy, &Uri::from_static(destination)), through, "{no_proxy} {destination}");
        }
    }

    // Fails if a destination without a port is asked for on another port than its scheme's.
    #[test]
    fn the_tunnel_leads_to_the_schemes_port() {
        let hop = Hop {
            url: Uri::from_static("http://proxy.example:3128"),
            connector: HttpsConnectorBuilder::new()
                .with_tls_config(
                    crate::upload::tls::client_config(Arc::new(rustls::RootCertStore::empty()), None).unwrap(),
                )
                .https_or_http()
                .enable_http1()
                .build(),
            authorization: Some(basic("Aladdin", &Secret("open sesame".into())).unwrap()),
        };
        for (destination, authority) in [
            ("https://collect.example/v1", "collect.example:443"),
            ("http://collect.example/v1", "collect.example:80"),
            ("https://[::1]:8443/v1", "[::1]:8443"),
        ] {
            let request = hop.request(&Uri::from_static(destination)).unwrap();
            assert_eq!(request.uri().to_string(), authority);
            assert_eq!(request.headers()[HOST], authority);
            // The example of RFC 7617, section 2.
            assert_eq!(request.headers()[PROXY_AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        }
        assert!(!format!("{hop:?}").contains("QWxhZGRpbjpvcGVuIHNlc2FtZQ"));
    }
}
