//! What the application's backend says of a connection in place of a token: the same claims, by the
//! same rules.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::{Capability, InstanceId, limits};
use gb6_core_wire::client::json_depth_within;
use gb6_edge_session::Claims;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Refusal;
use super::claims::{USER_BYTES_MAX, caps, subscriptions};
use super::grant::{RawGrant, end, json_of};

/// Most bytes of `meta`: it is kept as long as the connection.
pub(super) const META_BYTES_MAX: usize = 16 * 1024;

/// The result of a connect proxy. `null` is as good as absent, and unknown fields are passed over.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    user: Option<String>,
    /// Unix seconds; 0: never.
    #[serde(default)]
    expire_at: Option<i64>,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    #[serde(default)]
    b64info: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    b64data: Option<String>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    subs: Option<BTreeMap<String, Option<RawGrant>>>,
    #[serde(default)]
    caps: Option<Vec<Capability>>,
    #[serde(default)]
    meta: Option<Box<RawValue>>,
}

/// The claims in the result of a connect proxy of `instance`, at `unix_ms`.
///
/// # Errors
/// [`Refusal::Expired`]: it says that the connection is over already. Any other: it makes no sense.
pub(crate) fn claims_of_backend(
    instance: InstanceId,
    result: &RawValue,
    unix_ms: i64,
) -> Result<Claims, Refusal> {
    let raw: Raw = object(result.get().as_bytes()).ok_or(Refusal::Claims)?;
    let user = raw.user.unwrap_or_default();
    if user.len() > USER_BYTES_MAX {
        return Err(Refusal::Claims);
    }
    Ok(Claims {
        instance,
        user,
        info: json_of(raw.info, raw.b64info)?,
        caps: caps(raw.caps)?,
        expires_unix_ms: end(raw.expire_at, None, unix_ms)?,
        subscriptions: subscriptions(
            raw.channels.unwrap_or_default(),
            raw.subs.unwrap_or_default(),
            unix_ms,
        )?,
        data: json_of(raw.data, raw.b64data)?,
        meta: meta(raw.meta)?,
        client_refreshes: false,
    })
}

/// What a JSON object says; `None`: it is none, or says something else. Arrays, of which serde would
/// take the fields in their order, are none.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<T> {
    let begins = text.trim_ascii_start().starts_with(b"{");
    begins.then(|| serde_json::from_slice(text).ok())?
}

/// What only the application's backend is shown; empty: there is none.
pub(super) fn meta(meta: Option<Box<RawValue>>) -> Result<Bytes, Refusal> {
    let Some(meta) = meta else {
        return Ok(Bytes::new());
    };
    let text = meta.get().as_bytes();
    match text.len() <= META_BYTES_MAX && json_depth_within(text, limits::JSON_DEPTH_MAX) {
        true => Ok(Bytes::copy_from_slice(text)),
        false => Err(Refusal::Claims),
    }
}
