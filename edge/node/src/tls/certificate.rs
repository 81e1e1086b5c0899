//! A certificate with its key, checked before it is used.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest;
use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::self_made::SelfMade;

/// Largest PEM file in bytes: a long chain has some ten thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the certificate of the listeners comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CertificateSource {
    /// Files in PEM, read again when they change.
    Files {
        /// The certificate, and behind it those that lead to the authority.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made by this process, for development: clients must be told to trust it.
    SelfMade(SelfMade),
}

/// Why a certificate can not be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can not be read.
    #[error("can not read the {what} in {}: {source}", path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no PEM of its kind.
    #[error("no {what} in {}: {reason}", path.display())]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key is not the certificate's, or of a kind that is not supported.
    #[error("the certificate and its key can not be used together: {0}")]
    Unusable(#[from] rustls::Error),
    /// The certificate can not be read.
    #[error("the certificate is none: {0}")]
    Malformed(String),
    /// It is not valid now.
    #[error(
        "the certificate is valid from {from} to {until} (Unix seconds), which is not now: renew it, or set the clock"
    )]
    NotNow {
        /// Since when.
        from: i64,
        /// Until when.
        until: i64,
    },
    /// None can be made.
    #[error("no certificate can be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate that may be shown to clients.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// The chain and the key.
    pub(crate) key: Arc<CertifiedKey>,
    /// SHA-256 of the certificate itself, as clients pin it.
    pub(crate) sha256: [u8; 32],
    /// Until when it is valid, in Unix seconds.
    pub(crate) expires_unix_s: i64,
}

impl Certificate {
    /// The certificate of `source`, usable at `now`.
    pub(crate) fn load(
        source: &CertificateSource,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        match source {
            CertificateSource::SelfMade(made) => {
                let (certificate, key) = made.make(now)?;
                Self::check(vec![certificate], key, now)
            }
            CertificateSource::Files { certificate, key } => {
                let pem = |what, path: &Path, reason: String| CertificateError::Pem {
                    what,
                    path: path.to_path_buf(),
                    reason,
                };
                let text = read("certificate", certificate)?;
                let chain = CertificateDer::pem_slice_iter(&text)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| pem("certificate", certificate, e.to_string()))?;
                if chain.is_empty() {
                    let reason = "it holds no CERTIFICATE block".to_owned();
                    return Err(pem("certificate", certificate, reason));
                }
                let text = read("private key", key)?;
                let private = PrivateKeyDer::from_pem_slice(&text)
                    .map_err(|e| pem("private key", key, e.to_string()))?;
                Self::check(chain, private, now)
            }
        }
    }

    fn check(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let leaf = chain.first().map(|c| c.as_ref()).unwrap_or_default();
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|e| CertificateError::Malformed(e.to_string()))?;
        let validity = parsed.validity();
        let (from, until) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let now = unix_s(now);
        if now < from || now >= until {
            return Err(CertificateError::NotNow { from, until });
        }
        let digest = digest::digest(&digest::SHA256, leaf);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest.as_ref());
        Ok(Self {
            key: Arc::new(CertifiedKey::from_der(chain, key, &default_provider())?),
            sha256,
            expires_unix_s: until,
        })
    }
}

pub(super) fn unix_s(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |source| CertificateError::Read {
        what,
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let words = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, words)));
    }
    Ok(bytes)
}

/// What shows that a file was changed or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Seen {
    /// How the files of `source` look now; a missing one is `None`.
    pub(super) fn of(source: &CertificateSource) -> [Option<Seen>; 2] {
        match source {
            CertificateSource::SelfMade(_) => [None; 2],
            CertificateSource::Files { certificate, key } => {
                [certificate, key].map(|path| std::fs::metadata(path).ok().map(Seen::from))
            }
        }
    }
}

impl From<Metadata> for Seen {
    fn from(metadata: Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        }
    }
}
