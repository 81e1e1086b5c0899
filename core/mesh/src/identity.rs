//! A node's name and roles, as its certificate carries them: URI subject alternative names
//! `gb6:node:<id>` and one `gb6:role:<role>` each, beside the DNS names.

use gb6_core_model::{NodeId, Role};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The DNS name that every node's certificate carries and that every dialler verifies. Which node
/// it is stands in the URI names, checked after the handshake, so that the error can say who
/// answered.
pub const MESH_DNS_NAME: &str = "mesh.gb6.internal";

const NODE_URI: &str = "gb6:node:";
const ROLE_URI: &str = "gb6:role:";

/// Who a node is and what it may do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeIdentity {
    /// Its id.
    pub node: NodeId,
    /// Its roles, in order, each once.
    pub roles: Vec<Role>,
}

/// Why an identity is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// The name is not one of a node.
    #[error("`{0}` is no name of a node: use a-z, 0-9 and -, a letter first, at most 63")]
    Name(String),
    /// Without a role a node can do nothing.
    #[error("node {0} has no role: give it at least one of edge, region, geo")]
    NoRole(NodeId),
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The certificate can not be read.
    #[error("the certificate can not be read: {0}")]
    Unreadable(String),
    /// The certificate names no node.
    #[error("the certificate names no node (no URI `{NODE_URI}…`): make it with `gb6 cert node`")]
    NoNode,
    /// The certificate names more than one node.
    #[error("the certificate names more than one node: {0} and {1}")]
    TwoNodes(String, String),
}

impl NodeIdentity {
    /// The identity of `node` with `roles`.
    ///
    /// # Errors
    /// The name is not one of a node, or there is no role.
    pub fn new(
        node: impl Into<NodeId>,
        roles: impl IntoIterator<Item = Role>,
    ) -> Result<Self, IdentityError> {
        let node = node.into();
        if !NodeId::is_valid(node.as_str()) {
            return Err(IdentityError::Name(node.to_string()));
        }
        let mut roles: Vec<Role> = roles.into_iter().collect();
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            return Err(IdentityError::NoRole(node));
        }
        Ok(Self { node, roles })
    }

    /// Whether the node has `role`.
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The URI names that carry this identity in a certificate.
    pub fn to_uris(&self) -> Vec<String> {
        let mut uris = vec![format!("{NODE_URI}{}", self.node)];
        uris.extend(self.roles.iter().map(|role| format!("{ROLE_URI}{role}")));
        uris
    }

    /// The identity in a certificate that was already verified. Roles that this version does not
    /// know are passed over: they allow nothing here.
    ///
    /// # Errors
    /// The certificate can not be read, or names no node, two nodes, or no known role.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let unreadable = |e: &dyn std::fmt::Display| IdentityError::Unreadable(e.to_string());
        let (_, parsed) =
            X509Certificate::from_der(certificate.as_ref()).map_err(|e| unreadable(&e))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|e| unreadable(&e))?;
        let mut node: Option<&str> = None;
        let mut roles = Vec::new();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let GeneralName::URI(uri) = name else {
                continue;
            };
            if let Some(id) = uri.strip_prefix(NODE_URI) {
                if let Some(first) = node {
                    return Err(IdentityError::TwoNodes(first.into(), id.into()));
                }
                node = Some(id);
            } else if let Some(role) = uri.strip_prefix(ROLE_URI) {
                roles.extend(Role::parse(role));
            }
        }
        Self::new(node.ok_or(IdentityError::NoNode)?, roles)
    }
}
