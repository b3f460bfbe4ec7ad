//! TLS to the nodes.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::config::ConfigError;

/// What connections trust: the authorities in a PEM file, and nothing else.
///
/// # Errors
/// [`ConfigError`] if the file cannot be read or has no certificate.
pub(super) fn client_config(ca_file: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    let broken = |rule: String| ConfigError { key: "tls_ca_file", rule: format!("{}: {rule}", ca_file.display()) };
    let certificates = CertificateDer::pem_file_iter(ca_file).map_err(|error| broken(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| broken(error.to_string()))?;
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(broken("it has no certificate".to_owned()));
    }
    // The provider by name: whichever others a dependency brings, this one is used.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let folder = tempfile::TempDir::new().expect("made");
        let file = folder.path().join("ca.pem");
        let error = client_config(&file).expect_err("it is not there");
        assert!(error.to_string().contains("ca.pem"), "{error}");
        std::fs::write(&file, "not a certificate").expect("written");
        let error = client_config(&file).expect_err("it is empty");
        assert!(error.to_string().contains("no certificate"), "{error}");
    }
}
