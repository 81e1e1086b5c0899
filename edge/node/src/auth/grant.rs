//! What a token gives a subscription: info, data, rules that are otherwise, an end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::limits;
use gb6_core_wire::client::json_depth_within;
use gb6_edge_session::{Overrides, SubscriptionGrant};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Refusal;

/// A claim in which `null` counts as absent: what servers in Go or PHP write where they have nothing
/// to say.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One entry of the claim `subs`, or the like claims of a subscription token.
#[derive(Default, Deserialize)]
pub(super) struct RawGrant {
    #[serde(default)]
    pub(super) info: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) b64info: Option<String>,
    #[serde(default)]
    pub(super) data: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) b64data: Option<String>,
    #[serde(default, rename = "override", deserialize_with = "or_default")]
    pub(super) overrides: RawOverrides,
    #[serde(default)]
    pub(super) expire_at: Option<i64>,
}

/// The claim `override`.
#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct RawOverrides {
    #[serde(default)]
    presence: Option<Value>,
    #[serde(default)]
    join_leave: Option<Value>,
    #[serde(default)]
    force_push_join_leave: Option<Value>,
    #[serde(default)]
    force_recovery: Option<Value>,
    #[serde(default)]
    force_positioning: Option<Value>,
}

/// A boolean as the claim writes it.
#[derive(Clone, Copy, Deserialize)]
struct Value {
    value: bool,
}

impl From<RawOverrides> for Overrides {
    fn from(raw: RawOverrides) -> Self {
        let value = |v: Option<Value>| v.map(|v| v.value);
        Overrides {
            presence: value(raw.presence),
            join_leave: value(raw.join_leave),
            force_push_join_leave: value(raw.force_push_join_leave),
            force_recovery: value(raw.force_recovery),
            force_positioning: value(raw.force_positioning),
        }
    }
}

impl RawGrant {
    /// What it gives; `expires_unix_ms` where it names no end of its own.
    pub(super) fn check(
        self,
        expires_unix_ms: Option<i64>,
        unix_ms: i64,
    ) -> Result<SubscriptionGrant, Refusal> {
        Ok(SubscriptionGrant {
            info: json_of(self.info, self.b64info)?,
            data: json_of(self.data, self.b64data)?,
            overrides: self.overrides.into(),
            expires_unix_ms: end(self.expire_at, expires_unix_ms, unix_ms)?,
        })
    }
}

/// When something ends that may name its own end in Unix seconds, 0 for never. One that has ended
/// is expired.
pub(super) fn end(
    expire_at: Option<i64>,
    otherwise: Option<i64>,
    unix_ms: i64,
) -> Result<Option<i64>, Refusal> {
    let end = match expire_at {
        None => otherwise,
        Some(0) => None,
        Some(at) => Some(at.saturating_mul(1000)),
    };
    match end {
        Some(at) if at <= unix_ms => Err(Refusal::Expired),
        end => Ok(end),
    }
}

/// JSON to show to clients, that was given as it is or in base 64; empty: none was, and base 64 of
/// nothing is none. What is nested deeper than clients can read is refused.
pub(super) fn json_of(json: Option<Box<RawValue>>, b64: Option<String>) -> Result<Bytes, Refusal> {
    let data = match (json, b64.filter(|text| !text.is_empty())) {
        (_, Some(b64)) => from_base64(&b64)?,
        (Some(json), None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, None) => return Ok(Bytes::new()),
    };
    if !data.is_empty() && !json_depth_within(&data, limits::JSON_DEPTH_MAX) {
        return Err(Refusal::Claims);
    }
    Ok(data)
}

/// Info that was given in base 64: as it is where it is JSON, else wrapped so that JSON clients
/// can be shown it.
fn from_base64(b64: &str) -> Result<Bytes, Refusal> {
    let data = STANDARD.decode(b64).map_err(|_| Refusal::Claims)?;
    if data.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(&data).is_ok() {
        return Ok(Bytes::from(data));
    }
    Ok(Bytes::from(format!(
        "{{\"b64\":\"{}\"}}",
        STANDARD.encode(&data)
    )))
}
