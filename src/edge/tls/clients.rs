//! What a client has to show: the four demands that Go's server knows.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::config::ClientDemand;

/// A verifier for a demand and the CAs that sign for clients.
pub fn verifier(
    demand: ClientDemand,
    authorities: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| format!("http.tls.clientcas: {error}"))?;
    }
    let mandatory = match demand {
        ClientDemand::Request => false,
        ClientDemand::RequireAny => true,
        ClientDemand::VerifyIfGiven | ClientDemand::RequireAndVerify => {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let builder = match demand {
                ClientDemand::VerifyIfGiven => builder.allow_unauthenticated(),
                _ => builder,
            };
            let built = builder.build().map_err(|error| format!("http.tls.clientcas: {error}"))?;
            return Ok(built);
        }
    };
    let provider = Arc::clone(provider);
    Ok(Arc::new(Unchecked { mandatory, hints: roots.subjects(), provider, accepts: true }))
}

/// Lets nobody in.
pub fn nobody(provider: &Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
    let provider = Arc::clone(provider);
    Arc::new(Unchecked { mandatory: true, hints: Vec::new(), provider, accepts: false })
}

/// Takes any certificate, or none at all, whoever signed it; its owner must have its key.
#[derive(Debug)]
struct Unchecked {
    mandatory: bool,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
    accepts: bool,
}

impl ClientCertVerifier for Unchecked {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.accepts {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
