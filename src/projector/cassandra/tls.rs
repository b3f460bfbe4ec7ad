//! TLS to the nodes.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use super::config::ConfigError;
use crate::projector::tls;

/// What connections trust: the authorities in a PEM file, and nothing else.
///
/// # Errors
/// [`ConfigError`] if the file cannot be read or has no certificate.
pub(super) fn client_config(ca_file: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    let broken = |rule: String| ConfigError { key: "tls_ca_file", rule: format!("{}: {rule}", ca_file.display()) };
    let roots = tls::authorities(ca_file).map_err(broken)?;
    let config = ClientConfig::builder_with_provider(tls::provider())
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
