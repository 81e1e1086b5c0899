//! The placement snapshot: everything that a node must know to work without the control plane.
//! geo-config reads and validates it; every node keeps the last good one on disk.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::caps::Capability;
use crate::channel::Channel;
use crate::codes::ErrorCode;
use crate::hash;
use crate::ids::{InstanceEpoch, InstanceId, NodeId, Role, ShardId, Slot};
use crate::limits;
use crate::webhooks::Webhooks;

pub use crate::proxies::{OnFailure, Proxies, Proxy, ProxyKind};

/// One revision of the whole configuration that nodes share.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Raised by every change; a node never goes back.
    pub revision: u64,
    /// Instances by id.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Regions by name.
    pub regions: BTreeMap<String, Region>,
    /// Nodes by id, with where the mesh reaches them.
    pub nodes: BTreeMap<NodeId, Node>,
}

/// One instance: where it lives, its keys, its namespaces.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instance {
    /// The region that owns its rooms.
    pub region: String,
    /// Host names that belong to it, in lower case, besides those whose first label is its name. A
    /// host name belongs to one instance.
    pub hosts: Vec<String>,
    /// Raised when its rooms move.
    pub epoch: InstanceEpoch,
    /// The slots that its rooms hash to.
    pub slots: Vec<Slot>,
    /// Keys that its tokens may be signed with, and those of its server API; empty on nodes that
    /// verify none.
    pub keys: Vec<Key>,
    /// Where further keys of its tokens are fetched from: the URL, `https` or of this machine, of a
    /// JSON Web Key Set (RFC 7517 section 5). `None`: there are no others.
    pub jwks_url: Option<String>,
    /// What the claim `aud` of its tokens must name; `None`: it is not looked at.
    pub token_audience: Option<String>,
    /// What the claim `iss` of its tokens must be; `None`: it is not looked at.
    pub token_issuer: Option<String>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// The rules of channels outside every namespace; `None`: there are no such channels.
    pub defaults: Option<Namespace>,
    /// Connections without a token.
    pub anonymous: Anonymous,
    /// Whether every connection of a user is subscribed to the user's channel `#user`, by the rules
    /// of `defaults`.
    pub personal_channel: bool,
    /// How long statuses of users are kept, in ms; 0: there are none.
    pub user_status_ttl_ms: u64,
    /// Origins from which browsers may connect, besides the listener's own: `https://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Commands a second and burst of one connection; `None`: no limit.
    pub command_rate: Option<CommandRate>,
    /// The same of all connections of one user, over all edges together.
    pub user_command_rate: Option<CommandRate>,
    /// The same of all connections of the instance, over all edges together.
    pub instance_command_rate: Option<CommandRate>,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Connected sessions at one edge; `None`: any number.
    pub connections_max: Option<usize>,
    /// Where ends of sessions and subscriptions are told; `None`: nowhere.
    pub webhooks: Option<Webhooks>,
    /// The application's backends that are asked; empty on nodes that verify no tokens.
    pub proxies: Proxies,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            region: String::new(),
            hosts: Vec::new(),
            epoch: InstanceEpoch(1),
            slots: Vec::new(),
            keys: Vec::new(),
            jwks_url: None,
            token_audience: None,
            token_issuer: None,
            namespaces: BTreeMap::new(),
            defaults: None,
            anonymous: Anonymous::default(),
            personal_channel: false,
            user_status_ttl_ms: 0,
            allowed_origins: Vec::new(),
            command_rate: None,
            user_command_rate: None,
            instance_command_rate: None,
            subscriptions_max: limits::SUBSCRIPTIONS_MAX,
            connections_max: None,
            webhooks: None,
            proxies: Proxies::default(),
        }
    }
}

/// Connections without a token: whether there are any, and what they may do.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Anonymous {
    /// Whether a connection needs no token.
    pub allow: bool,
    /// What such a connection may do, besides what a namespace allows `anyone`.
    pub caps: Vec<Capability>,
}

/// A token bucket for commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandRate {
    /// Commands a second.
    pub per_second: u32,
    /// Commands at once.
    pub burst: u32,
}

/// One key of the key table. A token's `kid` or `iss` names an instance only if it is a key id
/// that GB6 made (`<instance>.<random>`).
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The key's id.
    pub id: String,
    /// What it verifies.
    #[serde(rename = "use")]
    pub usage: KeyUse,
    /// The algorithm: taken from here, never from a token's header. API keys have none.
    #[serde(default)]
    pub algorithm: KeyAlgorithm,
    /// The secret, as text: of an HMAC key, or the API key itself. Empty for public keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// The public key, as text that [`PublicKey::parse`](crate::PublicKey::parse) reads. Empty for
    /// secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub public_key: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("usage", &self.usage)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// What a key verifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// Tokens of clients.
    #[default]
    Client,
    /// Requests to the server API: the secret itself is sent. It reads `gb6_<instance>_<random>`,
    /// so that it names its instance.
    Api,
}

/// How a key verifies signatures (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    RS256,
    /// RSA (PKCS #1 v1.5) with SHA-384.
    RS384,
    /// RSA (PKCS #1 v1.5) with SHA-512.
    RS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl KeyAlgorithm {
    /// Every algorithm.
    pub const ALL: &'static [KeyAlgorithm] = &[
        KeyAlgorithm::HS256,
        KeyAlgorithm::HS384,
        KeyAlgorithm::HS512,
        KeyAlgorithm::RS256,
        KeyAlgorithm::RS384,
        KeyAlgorithm::RS512,
        KeyAlgorithm::ES256,
        KeyAlgorithm::ES384,
        KeyAlgorithm::EdDSA,
    ];

    /// The algorithm with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }

    /// Its name, as the header `alg` of a token has it.
    pub fn name(self) -> &'static str {
        match self {
            KeyAlgorithm::HS256 => "HS256",
            KeyAlgorithm::HS384 => "HS384",
            KeyAlgorithm::HS512 => "HS512",
            KeyAlgorithm::RS256 => "RS256",
            KeyAlgorithm::RS384 => "RS384",
            KeyAlgorithm::RS512 => "RS512",
            KeyAlgorithm::ES256 => "ES256",
            KeyAlgorithm::ES384 => "ES384",
            KeyAlgorithm::EdDSA => "EdDSA",
        }
    }

    /// Whether it signs with a shared secret.
    pub fn is_symmetric(self) -> bool {
        matches!(
            self,
            KeyAlgorithm::HS256 | KeyAlgorithm::HS384 | KeyAlgorithm::HS512
        )
    }
}

/// What a namespace's channels are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// A durable ordered stream.
    #[default]
    Stream,
    /// Signals: delivered at most once to who is there, and kept nowhere.
    Signal,
}

/// What a recovering subscriber gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryMode {
    /// Every publication after its position.
    #[default]
    Stream,
    /// The newest publication alone.
    Cache,
}

/// Who may do a thing in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// A connection whose token's `caps` cover it or, without `caps`, any signed-in user.
    Member,
    /// Who subscribes with a token for this very channel.
    Token,
    /// Every connection, also an anonymous one.
    Anyone,
    /// Nobody.
    Nobody,
}

/// The rules of one namespace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Namespace {
    /// What its channels are.
    pub kind: ChannelKind,
    /// Publications kept for each room; 0: all.
    pub history_size: u64,
    /// How long publications are kept, in ms; 0: for ever.
    pub history_ttl_ms: u64,
    /// Whether presence is kept and may be asked for.
    pub presence: bool,
    /// Whether a subscriber may ask for join and leave pushes.
    pub join_leave: bool,
    /// Whether every subscriber gets join and leave pushes, asked for or not.
    pub force_join_leave: bool,
    /// Members above which join and leave pushes stop.
    pub join_leave_max: usize,
    /// Whether every subscription has a position that can be recovered from, asked for or not.
    pub force_recovery: bool,
    /// Whether every subscription is told its position, asked for or not.
    pub force_positioning: bool,
    /// What a recovering subscriber gets.
    pub recovery_mode: RecoveryMode,
    /// Whether a subscriber may ask for differences between publications instead of whole ones.
    pub delta: bool,
    /// Whether a subscriber may choose publications by their tags.
    pub tags_filter: bool,
    /// How long clients that can should gather publishes to one channel, in ms; 0: not at all.
    pub publish_debounce_ms: u32,
    /// The field of a publication's JSON data that is its message id; `None`: none is.
    pub dedupe_field: Option<String>,
    /// Who may subscribe.
    pub allow_subscribe: Who,
    /// Who may publish.
    pub allow_publish: Who,
    /// Who may ask for presence.
    pub allow_presence: Who,
    /// Who may ask for history.
    pub allow_history: Who,
    /// Who may follow prefixes of its channels' names; with [`Who::Nobody`] a name that ends in `*`
    /// is a channel like any other.
    pub allow_prefix: Who,
    /// Largest data of one publication in bytes.
    pub max_message_bytes: usize,
    /// Whether the instance's publish proxy is asked about publications of clients.
    pub publish_proxy: bool,
    /// Of signals, whether its channel `NAME:USER` tells of that user's status as it changes.
    pub user_status: bool,
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            kind: ChannelKind::Stream,
            history_size: 0,
            history_ttl_ms: 0,
            presence: false,
            join_leave: false,
            force_join_leave: false,
            join_leave_max: limits::JOIN_LEAVE_MEMBERS_MAX,
            force_recovery: true,
            force_positioning: true,
            recovery_mode: RecoveryMode::Stream,
            delta: false,
            tags_filter: false,
            publish_debounce_ms: 0,
            dedupe_field: None,
            allow_subscribe: Who::Member,
            allow_publish: Who::Member,
            allow_presence: Who::Member,
            allow_history: Who::Member,
            allow_prefix: Who::Nobody,
            max_message_bytes: limits::PUBLISH_BYTES_MAX,
            publish_proxy: false,
            user_status: false,
        }
    }
}

/// One region: its shards and who owns them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Shards of the region, numbered from 0; slot `s` belongs to shard `s % shards` unless
    /// `slots` says otherwise.
    pub shards: u32,
    /// Slots that were placed on another shard than the rule's.
    #[serde(default)]
    pub slots: BTreeMap<u16, ShardId>,
    /// The node that owns each shard, by shard number; where the region decides that itself, the node
    /// at which its owner is looked for first.
    pub owners: Vec<NodeId>,
    /// Who decides which node owns which shard.
    #[serde(default, skip_serializing_if = "Assigned::is_by_placement")]
    pub assigned: Assigned,
}

/// Who decides which node of a region owns which shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assigned {
    /// The placement: as `owners` says.
    #[default]
    Placement,
    /// The region's nodes among themselves; they tell the edges.
    Region,
}

impl Assigned {
    fn is_by_placement(&self) -> bool {
        *self == Assigned::Placement
    }
}

impl Region {
    /// The shard that a slot belongs to; `None` for a region without shards.
    pub fn shard_of(&self, slot: Slot) -> Option<ShardId> {
        match self.slots.get(&slot.0) {
            Some(shard) => Some(*shard),
            None if self.shards > 0 => Some(ShardId(u32::from(slot.0) % self.shards)),
            None => None,
        }
    }
}

/// One node: its roles and where the mesh reaches it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What it does.
    pub roles: Vec<Role>,
    /// `host:port` of its mesh listener; edges dial and have none.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The region that it belongs to, where it has the role `region`.
    #[serde(default)]
    pub region: Option<String>,
}

/// Where a channel lives: the answer of [`Snapshot::route`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Route {
    /// The region that owns it.
    pub region: String,
    /// The shard in that region.
    pub shard: ShardId,
    /// The node that owns the shard.
    pub owner: NodeId,
}

impl Snapshot {
    /// The rules of `channel` in `instance`: error 102 when its namespace is unknown, or when it
    /// stands outside every namespace and the instance has no rules for such channels.
    pub fn namespace(
        &self,
        instance: &InstanceId,
        channel: &Channel,
    ) -> Result<&Namespace, ErrorCode> {
        let instance = self.instances.get(instance).ok_or(ErrorCode::Internal)?;
        match channel.namespace() {
            Some(namespace) => instance.namespaces.get(namespace),
            None => instance.defaults.as_ref(),
        }
        .ok_or(ErrorCode::UnknownChannel)
    }

    /// Where `channel` of `instance` lives; `None` when the placement is incomplete.
    pub fn route(&self, instance: &InstanceId, channel: &str) -> Option<Route> {
        let (region, shard) = self.shard_of(instance, channel)?;
        let owners = &self.regions.get(region)?.owners;
        Some(Route {
            region: region.to_owned(),
            shard,
            owner: owners.get(shard.0 as usize)?.clone(),
        })
    }

    /// The region and shard of `channel` of `instance`; `None` when the placement is incomplete.
    pub fn shard_of(&self, instance: &InstanceId, channel: &str) -> Option<(&str, ShardId)> {
        let placed = self.instances.get(instance)?;
        let region = self.regions.get(&placed.region)?;
        let shard = region.shard_of(hash::slot_of(instance, channel, &placed.slots)?)?;
        region.owners.get(shard.0 as usize)?;
        Some((&placed.region, shard))
    }

    /// The region of `instance` and every shard that has rooms of it, ascending; `None` when the
    /// placement is incomplete.
    pub fn shards_of(&self, instance: &InstanceId) -> Option<(&str, Vec<ShardId>)> {
        let placed = self.instances.get(instance)?;
        let region = self.regions.get(&placed.region)?;
        let shard = |slot: &Slot| {
            let shard = region.shard_of(*slot)?;
            region.owners.get(shard.0 as usize)?;
            Some(shard)
        };
        let shards: Option<BTreeSet<ShardId>> = placed.slots.iter().map(shard).collect();
        let shards = shards.filter(|shards| !shards.is_empty())?;
        Some((&placed.region, shards.into_iter().collect()))
    }

    /// The instance that an API key names: what stands between `gb6_` and the last `_` of
    /// `gb6_<instance>_<random>`. It says nothing about whether the key is good.
    pub fn instance_of_api_key(key: &str) -> Option<&str> {
        let (instance, random) = key.strip_prefix("gb6_")?.rsplit_once('_')?;
        (!random.is_empty() && InstanceId::is_valid(instance)).then_some(instance)
    }

    /// The region and node of the shard that keeps what is the instance's as a whole, such as its
    /// limits; `None` when the placement is incomplete. It is the shard of the empty channel name,
    /// which no room has, so that another slot seldom moves it.
    pub fn home(&self, instance: &InstanceId) -> Option<Route> {
        self.route(instance, "")
    }

    /// What a node with these roles is given: an edge has the keys that tokens and requests are
    /// verified by, a region the addresses and secrets of webhooks, and nobody else either.
    pub fn for_roles(&self, roles: &[Role]) -> Self {
        let mut out = self.clone();
        for instance in out.instances.values_mut() {
            if !roles.contains(&Role::Edge) {
                instance.keys.clear();
                instance.jwks_url = None;
                instance.proxies = Proxies::default();
            }
            if !roles.contains(&Role::Region)
                && let Some(webhooks) = &mut instance.webhooks
            {
                webhooks.url.clear();
                webhooks.secret.clear();
            }
        }
        out
    }
}
