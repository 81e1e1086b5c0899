//! TLS of the mesh: 1.3 only, certificates required both ways, one private authority, no
//! resumption (so that a certificate is checked on every connection), ALPN `gb6-mesh/1`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use gb6_core_wire::mesh::ALPN;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::hmac;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::{IdentityError, NodeIdentity};

/// Installs the process's crypto provider (ring). Call it first in `main` and in every test that
/// uses TLS; later calls do nothing.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only where another one was installed before, which then serves.
        let _ = default_provider().install_default();
    });
}

/// Why the mesh's TLS files are not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read, or holds no PEM of the kind.
    #[error("can not read the {what} in {}: {reason}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Text holds no PEM of the kind.
    #[error("no {what} in the given PEM: {reason}")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The certificate names no node.
    #[error("the node certificate is not usable: {0}")]
    Identity(#[from] IdentityError),
    /// The certificate and key do not fit, or the authority is none.
    #[error("the mesh certificates are not usable: {0}")]
    Unusable(String),
}

/// A node's certificate, its key, and the authority that it trusts.
#[derive(Clone)]
pub struct MeshTls {
    identity: NodeIdentity,
    recognition: hmac::Key,
    client: Arc<QuicClientConfig>,
    server: Arc<QuicServerConfig>,
}

impl std::fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshTls")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl MeshTls {
    /// From PEM files: the authority's certificate, the node's certificate and its key.
    ///
    /// # Errors
    /// A file can not be read, or what they hold does not fit together.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let file =
            |what: &'static str, path: &Path, error: &dyn std::fmt::Display| TlsError::File {
                what,
                path: path.to_path_buf(),
                reason: error.to_string(),
            };
        let certificates = |what: &'static str, path: &Path| {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| file(what, path, &e))
        };
        let ca = certificates("authority's certificate", ca)?;
        let chain = certificates("node's certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file("node's key", key, &e))?;
        Self::new(ca, chain, key)
    }

    /// From PEM text: the authority's certificate, the node's certificate and its key.
    ///
    /// # Errors
    /// What they hold is no PEM of its kind, or does not fit together.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, TlsError> {
        let certificates = |what: &'static str, pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| TlsError::Pem {
                    what,
                    reason: e.to_string(),
                })
        };
        let ca = certificates("authority's certificate", ca)?;
        let chain = certificates("node's certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| TlsError::Pem {
            what: "node's key",
            reason: e.to_string(),
        })?;
        Self::new(ca, chain, key)
    }

    fn new(
        ca: Vec<CertificateDer<'static>>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let unusable = |e: &dyn std::fmt::Display| TlsError::Unusable(e.to_string());
        let identity =
            NodeIdentity::from_certificate(chain.first().ok_or(IdentityError::NoCertificate)?)?;
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate).map_err(|e| unusable(&e))?;
        }
        if roots.is_empty() {
            return Err(unusable(&"the authority's file holds no certificate"));
        }
        let roots = Arc::new(roots);
        // From the node's private key, so that it outlives the process and nobody else has it.
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
        let recognition = hmac::sign(&secret, b"gb6-mesh: connections of an earlier process");
        let recognition = hmac::Key::new(hmac::HMAC_SHA256, recognition.as_ref());
        let provider = provider();
        let versions = &[&rustls::version::TLS13];

        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|e| unusable(&e))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|e| unusable(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|e| unusable(&e))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| unusable(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|e| unusable(&e))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        Ok(Self {
            identity,
            recognition,
            client: Arc::new(QuicClientConfig::try_from(client).map_err(|e| unusable(&e))?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(|e| unusable(&e))?),
        })
    }

    /// The node and roles of the certificate.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// The key by which a node knows its connections again after a restart, only to say that they
    /// are gone (stateless reset, RFC 9000 section 10.3): peers need not wait for a time limit.
    pub(crate) fn recognition(&self) -> &hmac::Key {
        &self.recognition
    }

    /// The TLS settings of a dialler.
    pub fn client_config(&self) -> Arc<QuicClientConfig> {
        Arc::clone(&self.client)
    }

    /// The TLS settings of a listener.
    pub fn server_config(&self) -> Arc<QuicServerConfig> {
        Arc::clone(&self.server)
    }
}

/// The installed provider, else ring: nothing here panics where `main` forgot to install one.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(default_provider()))
}
