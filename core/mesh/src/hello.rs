//! The first frame each way: which version is spoken, and whether the peer is who its certificate
//! says. Both kinds of links use these checks.

use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_wire::mesh::{Hello, VERSION, VERSION_MIN};

use crate::close::CloseCode;
use crate::identity::{IdentityError, NodeIdentity};
use crate::stats::FailureReason;

/// The longest spread of dials that a peer may ask for, in ms: publishes wait for the link meanwhile,
/// and are answered *outcome unknown* after 4 s.
const RETRY_MS_MAX: u32 = 2_000;

/// What this node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalNode {
    /// Its id and roles: those of its certificate.
    pub identity: NodeIdentity,
    /// This life of its process: random, never 0.
    pub incarnation: Incarnation,
    /// Optional features that it understands.
    pub features: Vec<String>,
    /// Lowest protocol version that it speaks.
    pub version_min: u32,
    /// Highest protocol version that it speaks.
    pub version_max: u32,
    /// Over how long peers that lose a link to it should spread their first dials, in ms: the more
    /// peers, the longer. 0: they dial at once.
    pub retry_ms: u32,
}

impl LocalNode {
    /// A node that speaks this code's versions and has no optional features.
    pub fn new(identity: NodeIdentity, incarnation: Incarnation) -> Self {
        Self {
            identity,
            incarnation,
            features: Vec::new(),
            version_min: VERSION_MIN,
            version_max: VERSION,
            retry_ms: 0,
        }
    }

    /// Its hello.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version_min: self.version_min,
            version_max: self.version_max,
            features: self.features.clone(),
            node: self.identity.node.to_string(),
            roles: self
                .identity
                .roles
                .iter()
                .map(|role| role.as_str().to_owned())
                .collect(),
            incarnation: self.incarnation.0,
            retry_ms: self.retry_ms,
        }
    }

    /// Who the peer is, if its hello fits `certified`, the identity in its certificate.
    pub(crate) fn check(
        &self,
        certified: &NodeIdentity,
        hello: &Hello,
    ) -> Result<PeerInfo, HelloError> {
        let version = self.version_max.min(hello.version_max);
        if version < self.version_min.max(hello.version_min) {
            return Err(HelloError::Version {
                ours: (self.version_min, self.version_max),
                theirs: (hello.version_min, hello.version_max),
            });
        }
        if hello.node != certified.node.as_str() {
            return Err(HelloError::Node {
                certificate: certified.node.clone(),
                hello: hello.node.clone(),
            });
        }
        if hello.incarnation == 0 {
            return Err(HelloError::NoIncarnation);
        }
        let mut roles = Vec::new();
        for name in &hello.roles {
            // A role that this version does not know allows nothing here.
            let Some(role) = Role::parse(name) else {
                continue;
            };
            if !certified.has_role(role) {
                return Err(HelloError::Role {
                    node: certified.node.clone(),
                    role,
                });
            }
            roles.push(role);
        }
        roles.sort_unstable();
        roles.dedup();
        Ok(PeerInfo {
            node: certified.node.clone(),
            roles,
            incarnation: Incarnation(hello.incarnation),
            version,
            retry_ms: hello.retry_ms.min(RETRY_MS_MAX),
            features: hello
                .features
                .iter()
                .filter(|feature| self.features.contains(feature))
                .cloned()
                .collect(),
        })
    }
}

/// Who is at the other end of a link, verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub node: NodeId,
    /// Its roles in this life: a subset of its certificate's.
    pub roles: Vec<Role>,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// The protocol version of this link.
    pub version: u32,
    /// Optional features that both sides understand.
    pub features: Vec<String>,
    /// Over how long the first dials of those who lose the link should be spread, in ms.
    pub retry_ms: u32,
}

impl PeerInfo {
    /// Whether the peer acts in `role`.
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// Why a peer is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// No version is spoken by both sides.
    #[error(
        "no common mesh version: this node speaks {}..={}, the peer {}..={}; upgrade the older one",
        ours.0, ours.1, theirs.0, theirs.1
    )]
    Version {
        /// Lowest and highest here.
        ours: (u32, u32),
        /// Lowest and highest there.
        theirs: (u32, u32),
    },
    /// The certificate names no node.
    #[error("the peer's identity is not usable: {0}")]
    Identity(#[from] IdentityError),
    /// The hello names another node than the certificate.
    #[error("the peer's certificate is for node {certificate}, but it calls itself `{hello}`")]
    Node {
        /// The node of the certificate.
        certificate: NodeId,
        /// The node of the hello.
        hello: String,
    },
    /// Another node answered than the one that was dialled.
    #[error("node {expected} was dialled, but {found} answered: check the addresses")]
    Unexpected {
        /// The node that was dialled.
        expected: NodeId,
        /// The node that answered.
        found: NodeId,
    },
    /// The peer claims a role that its certificate does not carry.
    #[error(
        "node {node} claims the role {role}, which its certificate does not carry: make it a \
         certificate with `gb6 cert node --role {role}`"
    )]
    Role {
        /// The peer.
        node: NodeId,
        /// The role.
        role: Role,
    },
    /// The peer gave no incarnation.
    #[error("the peer's hello names no incarnation")]
    NoIncarnation,
    /// The first stream carried no hello.
    #[error("the first stream carried no hello: {0}")]
    NotHello(String),
    /// The hello did not come in time.
    #[error("the peer sent no hello in time")]
    Timeout,
}

impl HelloError {
    /// The code with which the link is closed.
    pub(crate) fn close_code(&self) -> CloseCode {
        match self {
            HelloError::Version { .. } => CloseCode::Version,
            HelloError::Identity(_) | HelloError::Node { .. } => CloseCode::Identity,
            HelloError::Unexpected { .. } => CloseCode::WrongNode,
            HelloError::Role { .. } => CloseCode::Role,
            HelloError::NoIncarnation | HelloError::NotHello(_) => CloseCode::BadHello,
            HelloError::Timeout => CloseCode::HelloTimeout,
        }
    }

    /// The reason for the counters.
    pub(crate) fn reason(&self) -> FailureReason {
        match self {
            HelloError::Version { .. } => FailureReason::Version,
            HelloError::Identity(_) => FailureReason::Certificate,
            HelloError::Node { .. } | HelloError::Unexpected { .. } => FailureReason::Node,
            HelloError::Role { .. } => FailureReason::Role,
            HelloError::NoIncarnation | HelloError::NotHello(_) => FailureReason::BadHello,
            HelloError::Timeout => FailureReason::Timeout,
        }
    }
}
