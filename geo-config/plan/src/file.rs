//! The snapshot file as it is written: one structure for each kind of table. Every key and its
//! default is described here; what the tables mean together is checked in `resolve`.

use std::collections::BTreeMap;
use std::fmt;

use gb6_core_model::Role;
use gb6_core_model::limits;
use gb6_core_model::snapshot::{Anonymous, Assigned, ChannelKind, CommandRate, RecoveryMode, Who};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use crate::key_file::{KeyFile, PublicKeyFile, SecretText};
use crate::proxy_file::ProxiesFile;
use crate::slots::SLOTS_DEFAULT;
use crate::units::{Bytes, Millis};
use crate::webhooks_file::WebhooksFile;

/// A snapshot file to start from, with every key and its default.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The shortest that statuses of users can be kept, in ms.
pub(crate) const USER_STATUS_TTL_MS_MIN: u64 = 60_000;

/// Commands a second of one connection, where the file does not say.
pub(crate) const COMMAND_RATE_DEFAULT: CommandRate = CommandRate {
    per_second: 1_000,
    burst: 5_000,
};

/// The tables of instances alone, as they stand in the file of `gb6 dev`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub(crate) struct InstancesFile {
    /// Instances by id.
    #[serde(default)]
    pub(crate) instances: BTreeMap<Spanned<String>, Spanned<InstanceFile>>,
}

/// The whole file.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    /// Instances by id.
    #[serde(default)]
    pub instances: BTreeMap<Spanned<String>, Spanned<InstanceFile>>,
    /// Regions by name.
    #[serde(default)]
    pub regions: BTreeMap<Spanned<String>, Spanned<RegionFile>>,
    /// Nodes by id.
    #[serde(default)]
    pub nodes: BTreeMap<Spanned<String>, Spanned<NodeFile>>,
}

/// `[instances.NAME]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceFile {
    /// The region that owns its rooms. Needed, except in the file of `gb6 dev`, which has one.
    #[serde(default)]
    pub region: Option<Spanned<String>>,
    /// Host names that belong to it, besides those whose first label is its name. Default none.
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    /// How many slots it has (chosen by [`choose_slots`](crate::choose_slots)), or the list of
    /// them. Default 8.
    #[serde(default)]
    pub slots: Option<Spanned<SlotsFile>>,
    /// The instance epoch: raised when its rooms move to another region. Default 1.
    #[serde(default)]
    pub epoch: Option<Spanned<u64>>,
    /// Origins from which browsers may connect besides the listener's own. Default none.
    #[serde(default)]
    pub allowed_origins: Vec<Spanned<String>>,
    /// Commands of one connection: `{ per_second, burst }` or `"unlimited"`. Default 1,000 a
    /// second, burst 5,000.
    #[serde(default)]
    pub command_rate: Option<Spanned<CommandRateFile>>,
    /// Commands of all connections of one user, over all edges together; as `command_rate`.
    /// Default unlimited.
    #[serde(default)]
    pub user_command_rate: Option<Spanned<CommandRateFile>>,
    /// Commands of all connections of the instance, over all edges together. Default unlimited.
    #[serde(default)]
    pub instance_command_rate: Option<Spanned<CommandRateFile>>,
    /// Subscriptions of one session. Default 1,024.
    #[serde(default)]
    pub subscriptions_max: Option<Spanned<u64>>,
    /// Connections at each edge; 0, the default: any number.
    #[serde(default)]
    pub connections_max: Option<Spanned<u64>>,
    /// Keys that its tokens may be signed with, and those of its server API.
    #[serde(default)]
    pub keys: Vec<Spanned<KeyFile>>,
    /// In short: a secret, at least 32 bytes, that tokens may be signed with by HS256, and by HS384
    /// and HS512 where it has 48 and 64 bytes. Default none.
    #[serde(default)]
    pub hmac_secret: Option<SecretText>,
    /// The same, in a file.
    #[serde(default)]
    pub hmac_secret_file: Option<Spanned<String>>,
    /// In short: public keys that tokens may be signed with. Default none.
    #[serde(default)]
    pub public_keys: Vec<Spanned<PublicKeyFile>>,
    /// Where further public keys are fetched from: `https`, or `http` to this machine. Default none.
    #[serde(default)]
    pub jwks_url: Option<Spanned<String>>,
    /// Keys of the server API, two at most: `gb6_<instance>_<random>`. Default none.
    #[serde(default)]
    pub api_keys: Vec<SecretText>,
    /// The same, each in a file.
    #[serde(default)]
    pub api_key_files: Vec<Spanned<String>>,
    /// What the claim `aud` of a token must name. Default: it is not looked at.
    #[serde(default)]
    pub token_audience: Option<Spanned<String>>,
    /// What the claim `iss` of a token must be. Default: it is not looked at.
    #[serde(default)]
    pub token_issuer: Option<Spanned<String>>,
    /// Namespaces by name.
    #[serde(default)]
    pub namespaces: BTreeMap<Spanned<String>, Spanned<NamespaceFile>>,
    /// The rules of channels outside every namespace. Default: there are no such channels.
    #[serde(default)]
    pub defaults: Option<Spanned<NamespaceFile>>,
    /// Connections without a token. Default: none.
    #[serde(default)]
    pub anonymous: Option<Spanned<Anonymous>>,
    /// Whether every connection of a user is subscribed to `#user`. Default false.
    #[serde(default)]
    pub personal_channel: Option<Spanned<bool>>,
    /// How long statuses of users are kept. Default: there are none.
    #[serde(default)]
    pub user_status_ttl: Option<Spanned<Millis>>,
    /// Where ends of sessions and subscriptions are told. Default: nowhere.
    #[serde(default)]
    pub webhooks: Option<Spanned<WebhooksFile>>,
    /// The application's backends that are asked. Default none.
    #[serde(default)]
    pub proxies: Option<Spanned<ProxiesFile>>,
}

/// `slots = 8` or `slots = [17, 4711]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotsFile {
    /// So many, chosen by rule.
    Count(u64),
    /// Exactly these.
    List(Vec<u64>),
}

impl Default for SlotsFile {
    fn default() -> Self {
        SlotsFile::Count(u64::from(SLOTS_DEFAULT))
    }
}

impl<'de> Deserialize<'de> for SlotsFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = SlotsFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of slots, or a list of slots")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<SlotsFile, E> {
                u64::try_from(n)
                    .map(SlotsFile::Count)
                    .map_err(|_| E::custom("a number of slots is never negative"))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<SlotsFile, A::Error> {
                let mut list = Vec::new();
                while let Some(slot) = seq.next_element()? {
                    list.push(slot);
                }
                Ok(SlotsFile::List(list))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// `command_rate = "unlimited"` or `{ per_second = 1000, burst = 5000 }`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum CommandRateFile {
    /// No limit.
    Unlimited,
    /// A token bucket.
    Limited(CommandRate),
}

impl<'de> Deserialize<'de> for CommandRateFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = CommandRateFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"unlimited\" or { per_second = …, burst = … }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CommandRateFile, E> {
                match text {
                    "unlimited" => Ok(CommandRateFile::Unlimited),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<CommandRateFile, A::Error> {
                CommandRate::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(CommandRateFile::Limited)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// `[instances.NAME.namespaces.NAME]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceFile {
    /// What its channels are: `stream`, the default, or `signal`: without offsets and history.
    pub kind: ChannelKind,
    /// Publications kept for each room; 0, the default: all.
    pub history_size: u64,
    /// How long publications are kept; 0, the default: for ever.
    pub history_ttl: Millis,
    /// Whether presence is kept and may be asked for. Default false.
    pub presence: bool,
    /// Whether a subscriber may ask for join and leave pushes. Default false.
    pub join_leave: bool,
    /// Whether every subscriber gets join and leave pushes. Default false.
    pub force_join_leave: bool,
    /// Members above which join and leave pushes stop. Default 200.
    pub join_leave_max: Option<Spanned<u64>>,
    /// Whether every subscription can be recovered. Default true.
    pub force_recovery: bool,
    /// Whether every subscription is told its position. Default true.
    pub force_positioning: bool,
    /// What a recovering subscriber gets: `stream`, the default, everything after its position;
    /// `cache`, the newest publication alone.
    pub recovery_mode: RecoveryMode,
    /// Whether a subscriber may ask for differences between publications. Default false.
    pub delta: bool,
    /// Whether a subscriber may choose publications by their tags. Default false.
    pub tags_filter: bool,
    /// How long clients that can should gather publishes. Default 0: not at all.
    pub publish_debounce: Millis,
    /// The field of the JSON data that is a publication's message id. Default none.
    pub dedupe_field: Option<Spanned<String>>,
    /// Who may subscribe: `member`, the default, `token`, `anyone` or `nobody`.
    pub allow_subscribe: Who,
    /// Who may publish.
    pub allow_publish: Who,
    /// Who may ask for presence.
    pub allow_presence: Who,
    /// Who may ask for history.
    pub allow_history: Who,
    /// Who may follow prefixes, channels whose names end in `*`. Default `nobody`: then such a name is
    /// a channel like any other.
    pub allow_prefix: Who,
    /// Largest data of one publication. Default and most: 64 KiB.
    pub max_message_bytes: Option<Spanned<Bytes>>,
    /// Whether the publish proxy is asked about publications of clients. Default false.
    pub publish_proxy: Option<Spanned<bool>>,
    /// Of signals, whether a channel `NAME:USER` tells of that user's status. Default false.
    pub user_status: Option<Spanned<bool>>,
}

impl Default for NamespaceFile {
    fn default() -> Self {
        let rules = gb6_core_model::snapshot::Namespace::default();
        Self {
            kind: rules.kind,
            history_size: rules.history_size,
            history_ttl: Millis(rules.history_ttl_ms),
            presence: rules.presence,
            join_leave: rules.join_leave,
            force_join_leave: rules.force_join_leave,
            join_leave_max: None,
            force_recovery: rules.force_recovery,
            force_positioning: rules.force_positioning,
            recovery_mode: rules.recovery_mode,
            delta: rules.delta,
            tags_filter: rules.tags_filter,
            publish_debounce: Millis(u64::from(rules.publish_debounce_ms)),
            dedupe_field: None,
            allow_subscribe: rules.allow_subscribe,
            allow_publish: rules.allow_publish,
            allow_presence: rules.allow_presence,
            allow_history: rules.allow_history,
            allow_prefix: rules.allow_prefix,
            max_message_bytes: None,
            publish_proxy: None,
            user_status: None,
        }
    }
}

/// Most members up to which a room may send join and leave pushes: each join costs as many pushes.
pub(crate) const JOIN_LEAVE_MAX_MAX: u64 = 10_000;
/// Most subscriptions of one session that a file may allow.
pub(crate) const SUBSCRIPTIONS_MAX_MAX: u64 = 65_536;
/// Most connections at one edge that a file may name.
pub(crate) const CONNECTIONS_MAX_MAX: u64 = 100_000_000;
/// Most bytes of one publication that a file may allow: client frames are cut for it.
pub(crate) const MESSAGE_BYTES_MAX: u64 = limits::PUBLISH_BYTES_MAX as u64;
/// Longest time for which clients may be told to gather publishes, in ms: people wait for it.
pub(crate) const PUBLISH_DEBOUNCE_MAX: u64 = 60_000;
/// Longest name of the field that is a publication's message id, in bytes.
pub(crate) const DEDUPE_FIELD_BYTES_MAX: usize = 64;
/// Most shards of one region.
pub(crate) const SHARDS_MAX: u64 = 1_024;

/// `[regions.NAME]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionFile {
    /// How many shards it has, 1 to 1,024. Slot `s` belongs to shard `s % shards` unless `slots`
    /// says otherwise.
    pub shards: Spanned<u64>,
    /// The nodes that own its shards, dealt out in turn: shard `n` belongs to
    /// `owners[n % len]`. So a list of one owns all, and a list as long as `shards` names each.
    ///
    /// Needed, unless `assigned = "region"`.
    #[serde(default)]
    pub owners: Option<Spanned<Vec<Spanned<String>>>>,
    /// Who decides which node owns which shard: `placement`, as `owners` says (the default), or
    /// `region`, the nodes that belong to it among themselves.
    #[serde(default)]
    pub assigned: Assigned,
    /// Slots placed on another shard than the rule's: `{ "4711" = 2 }`. Default none.
    #[serde(default)]
    pub slots: BTreeMap<Spanned<String>, Spanned<u64>>,
}

/// `[nodes.NAME]`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// What it does: `edge`, `region`, `geo`.
    pub roles: Spanned<Vec<Role>>,
    /// `host:port` of its mesh listener; edges dial and need none.
    #[serde(default)]
    pub mesh: Option<Spanned<String>>,
    /// The region that it belongs to; needed by the role `region`.
    #[serde(default)]
    pub region: Option<Spanned<String>>,
}
