//! Certificates that the process makes itself. ECDSA P-256 and valid for less than 14 days, because
//! browsers accept no others by their hash (W3C WebTransport, section 6.9).

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Certificates are valid from so long before they were made, for clocks that differ.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How certificates are made, and when the next one is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelfMade {
    /// Host names and addresses that they are for.
    pub names: Vec<String>,
    /// How long each is valid; at most 14 days for browsers.
    pub valid: Duration,
    /// After how long the next one takes its place.
    pub renewed_after: Duration,
}

impl SelfMade {
    /// Certificates for this machine and `listening`, valid 13 days and renewed after 10.
    pub fn new(listening: &[IpAddr]) -> Self {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
        for ip in listening.iter().filter(|ip| !ip.is_unspecified()) {
            let name = ip.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self {
            names,
            valid: 13 * DAY,
            renewed_after: 10 * DAY,
        }
    }

    /// A new certificate and its key.
    pub(super) fn make(
        &self,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "gb6");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch - BACKDATED;
        params.not_after = params.not_before + self.valid;
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((certificate, key.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn browsers_can_pin_them() {
        let made = SelfMade::new(&["192.0.2.7".parse().unwrap(), "0.0.0.0".parse().unwrap()]);
        let now = SystemTime::now();
        let (der, _) = made.make(now).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let validity = certificate.validity();
        let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400;
        assert_eq!(days, 13);
        assert!(validity.is_valid());
        let key = certificate.public_key();
        assert_eq!(
            key.algorithm.algorithm.to_id_string(),
            "1.2.840.10045.2.1",
            "elliptic curve"
        );
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 4, "{names:?}");
        // The next one is there before it ends, with time for whoever holds its hash.
        assert!(made.renewed_after + 2 * DAY < made.valid);
    }
}
