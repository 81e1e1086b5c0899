//! Which servers of customers a node may reach, as its file says.

use anyhow::Context;
use gb6_core_outbound::{OutboundConfig, Range, Reach};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// What `[outbound]` says.
///
/// # Errors
/// A range is none, or the authorities can not be read.
pub(super) fn outbound(allow: &[String], ca: &str) -> anyhow::Result<OutboundConfig> {
    let opened = allow.iter().map(|range| range.parse::<Range>());
    let authorities = match ca {
        "" => Vec::new(),
        file => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .with_context(|| format!("outbound.ca: {file} can not be read"))?,
    };
    anyhow::ensure!(
        ca.is_empty() || !authorities.is_empty(),
        "outbound.ca: there is no certificate (PEM) in {ca}"
    );
    Ok(OutboundConfig {
        reach: Reach {
            opened: opened.collect::<Result<_, _>>()?,
        },
        authorities,
        ..OutboundConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_authorities() {
        let config = outbound(&["10.0.0.0/8".to_owned(), "::1".to_owned()], "").unwrap();
        assert!(config.reach.is_opened("10.1.2.3".parse().unwrap()));
        assert!(!config.reach.is_opened("127.0.0.1".parse().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let named = file.display().to_string();
        assert!(
            outbound(&[], &named)
                .unwrap_err()
                .to_string()
                .contains(&named)
        );
        std::fs::write(&file, "nothing").unwrap();
        let empty = outbound(&[], &named).unwrap_err().to_string();
        assert!(empty.contains("no certificate"), "{empty}");
        let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        std::fs::write(&file, made.cert.pem()).unwrap();
        assert_eq!(outbound(&[], &named).unwrap().authorities.len(), 1);
    }
}
