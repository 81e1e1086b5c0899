//! TLS towards clients: where the certificate comes from and how it is renewed, the settings of
//! connections, and TLS over TCP as a carrier.

mod carrier;
mod certificate;
mod current;
mod self_made;
mod settings;

pub use certificate::{CertificateError, CertificateSource};
pub use self_made::SelfMade;

pub(crate) use current::Certificates;
pub(crate) use settings::{over_quic, over_tcp};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
pub(crate) const HANDSHAKE_RECORD: u8 = 22;
