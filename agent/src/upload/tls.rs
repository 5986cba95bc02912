//! TLS of the client side: rustls with ring, the system's roots, a further CA file, a client certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::UploadSetupError;

/// The system's root certificates and those of `ca_file` (PEM). Having none at all is an error: no server could
/// be trusted. `SSL_CERT_FILE` and `SSL_CERT_DIR` name the system's where they are not in the usual place.
pub fn roots(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, UploadSetupError> {
    let mut roots = RootCertStore::empty();
    // Some certificates of a system are often unusable (expired forms, odd encodings): the rest serve.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        for certificate in certificates("ca_file", path)? {
            roots.add(certificate).map_err(|error| problem("ca_file", path, error))?;
        }
    }
    if roots.is_empty() {
        return Err(UploadSetupError::new("ca_file", "not set, and this system has no root certificates"));
    }
    Ok(Arc::new(roots))
}

/// TLS 1.2 and 1.3 with `roots`; `identity` is the certificate chain and its key (PEM) for mutual TLS. The
/// application protocols (ALPN) are left to the caller.
pub fn client_config(
    roots: Arc<RootCertStore>,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, UploadSetupError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| UploadSetupError::new("url", error.to_string()))?
        .with_root_certificates(roots);
    let Some((chain, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = certificates("client_cert_file", chain)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| problem("client_key_file", key, error))?;
    builder.with_client_auth_cert(certificates, private).map_err(|error| problem("client_key_file", key, error))
}

/// The certificates in a PEM file; at least one.
fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, UploadSetupError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| problem(setting, path, error))?;
    if certificates.is_empty() {
        return Err(problem(setting, path, "holds no PEM certificate"));
    }
    Ok(certificates)
}

fn problem(setting: &'static str, path: &Path, problem: impl std::fmt::Display) -> UploadSetupError {
    UploadSetupError::new(setting, format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a bad PEM file is taken in silence, or if the error does not name the setting and the file.
    #[test]
    fn a_bad_file_is_named_with_its_setting() {
        let directory = tempfile::tempdir().unwrap();
        let good = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, content: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let cert = write("cert.pem", good.cert.pem());
        let key = write("key.pem", good.signing_key.serialize_pem());
        let other_key = write("other.pem", other.signing_key.serialize_pem());
        let text = write("text.pem", "not PEM".to_owned());

        let store = roots(Some(&cert)).unwrap();
        let config = |chain: &PathBuf, key: &PathBuf| client_config(store.clone(), Some(&(chain.clone(), key.clone())));
        assert!(config(&cert, &key).is_ok());
        let gone = directory.path().join("gone.pem");
        for (setting, path, error) in [
            ("ca_file", &text, roots(Some(&text)).unwrap_err()),
            ("ca_file", &gone, roots(Some(&gone)).unwrap_err()),
            ("client_cert_file", &text, config(&text, &key).unwrap_err()),
            ("client_key_file", &text, config(&cert, &text).unwrap_err()),
            ("client_key_file", &other_key, config(&cert, &other_key).unwrap_err()),
        ] {
            assert_eq!(error.setting, setting);
            assert!(error.problem.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
