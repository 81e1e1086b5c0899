//! What the directory keeps: ids, records and what makes them valid.

use std::fmt;
use std::sync::Arc;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::KeyAlgorithm;

/// How deep the tree of one customer's organizations may be; the root is level 1.
pub const DEPTH_MAX: usize = 10;
/// Longest name, slug, subject or label in bytes.
pub const TEXT_MAX: usize = 256;
/// Longest settings in bytes.
pub const SETTINGS_MAX: usize = 64 * 1024;
/// Longest key or secret in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Why a record can not be kept; the text is for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

fn invalid<T>(reason: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(reason.into()))
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// What its ids begin with.
            pub const PREFIX: &'static str = $prefix;

            /// Reads an id: the prefix, then a ULID of 26 characters in upper case.
            ///
            /// # Errors
            /// Where it is none.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                match text.strip_prefix(Self::PREFIX).is_some_and(is_ulid) {
                    true => Ok(Self(Arc::from(text))),
                    false => invalid(format!(
                        "{text:?} is no id: {} and a ULID of 26 characters", Self::PREFIX
                    )),
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

ulid_id!(
    /// An organization. That of a tree's root is the customer's.
    OrgId,
    "org_"
);
ulid_id!(
    /// A person, bot or service that belongs to an organization.
    PersonId,
    "usr_"
);
ulid_id!(
    /// That somebody has a role at a node of the tree.
    BindingId,
    "rol_"
);

/// 26 characters of Crockford's base 32, at most 128 bits.
fn is_ulid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 26
        && bytes[0] <= b'7'
        && bytes
            .iter()
            .all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(b)))
}

/// An enumeration with names, which are part of what is stored.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$each])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name, as it is stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one of this name.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named!(
    /// The kinds of records.
    Kind {
        /// [`Organization`].
        Organization = "organization",
        /// [`Instance`].
        Instance = "instance",
        /// [`Key`].
        Key = "key",
        /// [`Person`].
        Person = "person",
        /// [`Membership`].
        Membership = "membership",
        /// [`RoleBinding`].
        RoleBinding = "role_binding",
    }
);

named!(
    /// Whether something is in use.
    State {
        /// It is.
        Active = "active",
        /// It is kept, and refused wherever it is used.
        Suspended = "suspended",
    }
);

named!(
    /// What an organization is to its parent.
    OrgKind {
        /// The customer: the root of its tree.
        Root = "root",
        /// Sells to customers of its own.
        Reseller = "reseller",
        /// A customer of a reseller.
        Customer = "customer",
        /// A part of the organization above.
        Unit = "unit",
    }
);

named!(
    /// What a key verifies.
    KeyPurpose {
        /// Tokens of clients.
        Client = "client",
        /// Requests to the server API.
        Api = "api",
        /// Tokens of LiveKit's protocol.
        Livekit = "livekit",
        /// Nothing: it is a secret that the instance's settings name, such as that of its webhooks.
        Secret = "secret",
    }
);

named!(
    /// What somebody may do at a node and everything below it.
    Role {
        /// Everything.
        Owner = "owner",
        /// Everything but billing and other owners.
        Admin = "admin",
        /// Plans, usage and invoices.
        BillingAdmin = "billing_admin",
        /// Reads the audit and the settings.
        SecurityAuditor = "security_auditor",
        /// Runs the infrastructure, without content.
        Operator = "operator",
        /// Keeps order in rooms.
        Moderator = "moderator",
        /// Takes part.
        Member = "member",
        /// Takes part where invited.
        Guest = "guest",
        /// A program that takes part.
        Bot = "bot",
    }
);

/// Secret bytes. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A node of a customer's tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Organization {
    /// Its id.
    pub id: OrgId,
    /// The one above; `None`: it is the customer.
    pub parent: Option<OrgId>,
    /// Its name in addresses, unique below its parent: `[a-z0-9-]`, 1 to 63 characters.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// What it is.
    pub kind: OrgKind,
    /// Whether it is in use.
    pub state: State,
    /// Policy, quotas and labels: a JSON object, kept as it was given.
    pub settings: String,
}

/// An isolated environment of a customer. Its id is unique among all customers, and never becomes another's,
/// not even when it is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub org: OrgId,
    /// The region that it is to live in.
    pub region: String,
    /// Where its data must stay; empty: anywhere.
    pub residency: String,
    /// Whether it is in use.
    pub state: State,
    /// A JSON object, kept as it was given.
    pub settings: String,
}

/// A key of an instance. Its id is unique in the instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// Whose it is.
    pub instance: InstanceId,
    /// Its id: printable ASCII without spaces and `/`, up to 128 bytes.
    pub id: String,
    /// What it verifies.
    pub purpose: KeyPurpose,
    /// By which algorithm; it means nothing to keys of the server API.
    pub algorithm: KeyAlgorithm,
    /// The public key, as text.
    pub public_key: Option<String>,
    /// The secret, sealed where it is stored.
    pub secret: Option<Secret>,
    /// Whether it is in use.
    pub state: State,
}

/// An identity of an organization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// Its id.
    pub id: PersonId,
    /// Whose it is.
    pub org: OrgId,
    /// Who it is outside, such as an address or an issuer's subject: unique in the organization.
    pub subject: String,
    /// Its name for people.
    pub name: String,
    /// Whether it is in use.
    pub state: State,
}

/// That a person takes part in an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// In which instance.
    pub instance: InstanceId,
    /// Who.
    pub person: PersonId,
    /// Whether it is in use.
    pub state: State,
}

/// Where a role holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Node {
    /// In an organization and everything below it.
    Organization(OrgId),
    /// In an instance.
    Instance(InstanceId),
}

impl Node {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Node::Organization(id) => id.as_str(),
            Node::Instance(id) => id.as_str(),
        }
    }
}

/// That somebody has a role at a node. One has a role at a node once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleBinding {
    /// Its id.
    pub id: BindingId,
    /// Where.
    pub node: Node,
    /// Who.
    pub person: PersonId,
    /// What.
    pub role: Role,
}

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// See [`Organization`].
    Organization(Organization),
    /// See [`Instance`].
    Instance(Instance),
    /// See [`Key`].
    Key(Key),
    /// See [`Person`].
    Person(Person),
    /// See [`Membership`].
    Membership(Membership),
    /// See [`RoleBinding`].
    RoleBinding(RoleBinding),
}

/// Which record: its kind and its id. That of a key is `instance/key`, of a membership
/// `instance/person`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ref {
    /// Of which kind.
    pub kind: Kind,
    /// Which of them.
    pub id: String,
}

impl Ref {
    /// The record of this kind and id.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

impl Record {
    /// Which record it is.
    pub fn reference(&self) -> Ref {
        match self {
            Record::Organization(o) => Ref::new(Kind::Organization, o.id.as_str()),
            Record::Instance(i) => Ref::new(Kind::Instance, i.id.as_str()),
            Record::Key(k) => Ref::new(Kind::Key, format!("{}/{}", k.instance, k.id)),
            Record::Person(p) => Ref::new(Kind::Person, p.id.as_str()),
            Record::Membership(m) => {
                Ref::new(Kind::Membership, format!("{}/{}", m.instance, m.person))
            }
            Record::RoleBinding(b) => Ref::new(Kind::RoleBinding, b.id.as_str()),
        }
    }

    /// What it belongs to: an organization or an instance; `None` of a root.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Record::Organization(o) => o.parent.as_ref().map(OrgId::as_str),
            Record::Instance(i) => Some(i.org.as_str()),
            Record::Key(k) => Some(k.instance.as_str()),
            Record::Person(p) => Some(p.org.as_str()),
            Record::Membership(m) => Some(m.instance.as_str()),
            Record::RoleBinding(b) => Some(b.node.id()),
        }
    }

    /// Whether it may be kept, whatever else there is.
    ///
    /// # Errors
    /// What is wrong with it, and how it should be.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Record::Organization(o) => {
                slug("slug", &o.slug)?;
                text("name", &o.name)?;
                settings(&o.settings)?;
                match (o.kind, &o.parent) {
                    (OrgKind::Root, None) => Ok(()),
                    (OrgKind::Root, Some(_)) | (_, None) => {
                        invalid("an organization without a parent, and no other, is of kind root")
                    }
                    (_, Some(parent)) if *parent == o.id => {
                        invalid("an organization can not be its own parent")
                    }
                    _ => Ok(()),
                }
            }
            Record::Instance(i) => {
                if !InstanceId::is_valid(i.id.as_str()) {
                    return invalid(format!(
                        "{:?} is no instance: a letter, then up to 62 of [a-z0-9-]",
                        i.id
                    ));
                }
                slug("region", &i.region)?;
                short("residency", &i.residency)?;
                settings(&i.settings)
            }
            Record::Key(k) => {
                let fits = |b: u8| b.is_ascii_graphic() && b != b'/';
                if k.id.is_empty() || k.id.len() > 128 || !k.id.bytes().all(fits) {
                    return invalid("a key's id is 1 to 128 printable characters without `/`");
                }
                let secret = k.secret.as_ref().map_or(0, |s| s.0.len());
                let public = k.public_key.as_ref().map_or(0, String::len);
                if secret.max(public) > KEY_BYTES_MAX {
                    return invalid(format!("a key has at most {KEY_BYTES_MAX} bytes"));
                }
                if (secret == 0) == (public == 0) {
                    return invalid("a key has either a secret or a public key");
                }
                no_nul("public key", k.public_key.as_deref().unwrap_or_default())
            }
            Record::Person(p) => {
                text("subject", &p.subject)?;
                text("name", &p.name)
            }
            Record::Membership(_) | Record::RoleBinding(_) => Ok(()),
        }
    }
}

fn slug(what: &str, value: &str) -> Result<(), Invalid> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match (1..=63).contains(&value.len()) && value.bytes().all(fits) {
        true => Ok(()),
        false => invalid(format!("the {what} is 1 to 63 of [a-z0-9-], not {value:?}")),
    }
}

/// Text that must be there.
fn text(what: &str, value: &str) -> Result<(), Invalid> {
    if value.trim().is_empty() {
        return invalid(format!("the {what} is empty"));
    }
    short(what, value)
}

/// Text within its bound, without control characters.
pub(super) fn short(what: &str, value: &str) -> Result<(), Invalid> {
    if value.len() > TEXT_MAX {
        return invalid(format!("the {what} has more than {TEXT_MAX} bytes"));
    }
    match value.chars().any(char::is_control) {
        true => invalid(format!("the {what} has control characters")),
        false => Ok(()),
    }
}

fn no_nul(what: &str, value: &str) -> Result<(), Invalid> {
    match value.contains('\0') {
        true => invalid(format!("the {what} has a zero byte")),
        false => Ok(()),
    }
}

fn settings(value: &str) -> Result<(), Invalid> {
    if value.len() > SETTINGS_MAX {
        return invalid(format!("settings have at most {SETTINGS_MAX} bytes"));
    }
    no_nul("settings", value)?;
    match value.starts_with('{') && value.ends_with('}') {
        true => Ok(()),
        false => invalid("settings are a JSON object, at least {}"),
    }
}
