//! The mesh's own certificate authority: makes `ca.pem` and `ca.key`, and certificates that carry
//! a node's name and roles. ECDSA P-256 throughout. Nothing is ever overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::identity::{MESH_DNS_NAME, NodeIdentity};

/// How long an authority's certificate is valid: ten years.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a node's certificate is valid: a year.
pub const NODE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates are valid from so long before they were made, for clocks that differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The authority's certificate within its directory.
pub const CA_CERTIFICATE_FILE: &str = "ca.pem";
/// The authority's key within its directory: whoever reads it can join the mesh as any node.
pub const CA_KEY_FILE: &str = "ca.key";

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Something is there already.
    #[error("{} exists already and is not overwritten: remove it first, or choose another place", .0.display())]
    Exists(PathBuf),
    /// A directory can not be made.
    #[error("can not make the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can not be written.
    #[error("can not write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the authority can not be read.
    #[error("can not read {}: {source}; make an authority with `gb6 cert ca DIR`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority's files are not a certificate and its key.
    #[error("{} is not usable as the mesh's authority: {reason}", path.display())]
    BadAuthority {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate can not be made.
    #[error("the certificate can not be made: {0}")]
    Generate(#[from] rcgen::Error),
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Where a certificate and its key were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuedFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

/// An authority that signs nodes' certificates.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, valid from about `now` for [`CA_VALIDITY`].
    ///
    /// # Errors
    /// No key can be made.
    pub fn create(now: SystemTime) -> Result<(Self, Issued), CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = name("GB6 mesh authority");
        // Signs nodes only, no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, CA_VALIDITY);
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        let issued = Issued {
            certificate_pem: certificate_pem.clone(),
            key_pem,
        };
        let issuer = Issuer::new(params, key);
        Ok((
            Self {
                certificate_pem,
                issuer,
            },
            issued,
        ))
    }

    /// The authority in the files of `dir`.
    ///
    /// # Errors
    /// They can not be read, or are no certificate and key.
    pub fn load(dir: &Path) -> Result<Self, CertError> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).map_err(|source| CertError::Read { path, source })
        };
        let bad = |e: rcgen::Error| CertError::BadAuthority {
            path: dir.to_path_buf(),
            reason: e.to_string(),
        };
        let certificate_pem = read(dir.join(CA_CERTIFICATE_FILE))?;
        let key = KeyPair::from_pem(&read(dir.join(CA_KEY_FILE))?).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(bad)?;
        Ok(Self {
            certificate_pem,
            issuer,
        })
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for `identity`, valid from about `from` for `validity`.
    ///
    /// # Errors
    /// No key can be made, or the authority's key can not sign.
    pub fn issue(
        &self,
        identity: &NodeIdentity,
        from: SystemTime,
        validity: Duration,
    ) -> Result<Issued, CertError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![
            MESH_DNS_NAME.to_owned(),
            format!("{}.{MESH_DNS_NAME}", identity.node),
        ])?;
        for uri in identity.to_uris() {
            params
                .subject_alt_names
                .push(SanType::URI(Ia5String::try_from(uri)?));
        }
        params.distinguished_name = name(identity.node.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node may dial and be dialled.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, from, validity);
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued {
            certificate_pem,
            key_pem: key.serialize_pem(),
        })
    }
}

/// Makes an authority in `dir` (made if absent): `ca.pem` and `ca.key`.
///
/// # Errors
/// One of the files exists, or can not be written.
pub fn create_ca(dir: &Path, now: SystemTime) -> Result<IssuedFiles, CertError> {
    let (_, issued) = Authority::create(now)?;
    let files = IssuedFiles {
        certificate: dir.join(CA_CERTIFICATE_FILE),
        key: dir.join(CA_KEY_FILE),
    };
    write_pair(dir, &files, &issued)?;
    Ok(files)
}

/// Makes a certificate for `identity` with the authority of `ca_dir`, as `<node>.pem` and
/// `<node>.key` in `out_dir` (made if absent), valid for [`NODE_VALIDITY`].
///
/// # Errors
/// The authority can not be read, one of the files exists, or can not be written.
pub fn create_node(
    ca_dir: &Path,
    out_dir: &Path,
    identity: &NodeIdentity,
    now: SystemTime,
) -> Result<IssuedFiles, CertError> {
    let authority = Authority::load(ca_dir)?;
    let issued = authority.issue(identity, now, NODE_VALIDITY)?;
    let files = IssuedFiles {
        certificate: out_dir.join(format!("{}.pem", identity.node)),
        key: out_dir.join(format!("{}.key", identity.node)),
    };
    write_pair(out_dir, &files, &issued)?;
    Ok(files)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, validity: Duration) {
    let since_epoch = from.duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = from - BACKDATED;
    params.not_after = from + validity;
}

/// Writes both or none of them.
fn write_pair(dir: &Path, files: &IssuedFiles, issued: &Issued) -> Result<(), CertError> {
    fs::create_dir_all(dir).map_err(|source| CertError::Directory {
        path: dir.to_path_buf(),
        source,
    })?;
    write_new(&files.key, &issued.key_pem, 0o600)?;
    write_new(&files.certificate, &issued.certificate_pem, 0o644).inspect_err(|_| {
        // Made by this call a moment ago; a key without its certificate helps nobody.
        let _ = fs::remove_file(&files.key);
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CertError::Exists(path.to_path_buf()),
        _ => CertError::Write {
            path: path.to_path_buf(),
            source,
        },
    };
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)
}
