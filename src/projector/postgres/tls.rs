//! TLS to the server, as far as `sslmode` asks for it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::config::{Check, PostgresConfigError};
use crate::projector::tls;

/// Makes connections secure as far as `check` asks for. Reads the certificates of `file`, or those of the system.
pub(super) fn connector(check: Check, file: Option<&Path>) -> Result<MakeRustlsConnect, PostgresConfigError> {
    let provider = tls::provider();
    let from = file.map_or_else(|| "the system".to_owned(), |path| path.display().to_string());
    let wrong = |reason: String| PostgresConfigError::RootCertificate { from: from.clone(), reason };
    let verifier: Arc<dyn ServerCertVerifier> = if check == Check::Nothing {
        Arc::new(Loose { strict: None, provider: Arc::clone(&provider) })
    } else {
        let roots = file.map_or_else(tls::system_authorities, tls::authorities).map_err(&wrong)?;
        let roots = Arc::new(roots);
        let strict = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let strict = strict.map_err(|error| wrong(error.to_string()))?;
        if check == Check::AuthorityAndHost {
            strict
        } else {
            Arc::new(Loose { strict: Some(strict), provider: Arc::clone(&provider) })
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Checks less than a browser would, as an operator asked for with `sslmode`: with `strict` all but the host's name,
/// without it nothing. Either way the server must have the key of the certificate that it shows.
#[derive(Debug)]
struct Loose {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Loose {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(strict) = &self.strict else {
            return Ok(ServerCertVerified::assertion());
        };
        match strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, once the signatures and the times are right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
