//! What TLS to a database is made of, whichever it is.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The cryptography, by name: whichever others a dependency brings, this one is used. scylla brings it along.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The authorities in a PEM file.
///
/// # Errors
/// Why it cannot be read, or that it has none.
pub(super) fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    not_empty(roots)
}

/// The authorities that the system trusts.
///
/// # Errors
/// That there is none.
pub(super) fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Some that do not parse are usual; what counts is that there are others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    not_empty(roots)
}

fn not_empty(roots: RootCertStore) -> Result<RootCertStore, String> {
    if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(roots) }
}
