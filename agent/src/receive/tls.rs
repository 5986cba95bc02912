//! TLS of the receiver, from PEM files. The ring provider is named, so that no process-wide default is needed.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::{SetupError, TlsFiles};

/// Reads the files and makes what accepts TLS connections, HTTP/2 preferred.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| problem(&files.key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Options(error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| problem(file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| problem(file, error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| problem(&files.certificate, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|error| problem(file, error))?.collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(problem(file, "holds no certificate")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(problem(file, error)),
    }
}

fn problem(file: &Path, error: impl Display) -> SetupError {
    SetupError::Options(format!("{}: {error}", file.display()))
}
