//! The claims of a connection token and the rules that they must keep.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::{Capability, Caps, InstanceId};
use gb6_core_wire::client::json_depth_within;
use gb6_edge_session::Claims;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Refusal;

/// Deepest JSON that `info` may hold, as everything that clients are shown.
const DEPTH_MAX: usize = gb6_core_model::limits::JSON_DEPTH_MAX;

/// The claims as they stand in the token. Unknown ones are passed over.
#[derive(Deserialize)]
pub(super) struct Raw {
    #[serde(default)]
    sub: String,
    /// RFC 7519 section 4.1.4: seconds, possibly with a fraction.
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    /// When the connection expires, instead of `exp`; 0: never.
    #[serde(default)]
    expire_at: Option<i64>,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    #[serde(default)]
    b64info: Option<String>,
    #[serde(default)]
    caps: Option<Vec<Capability>>,
    /// Only subscription tokens name a channel: one of those is no connection token.
    #[serde(default)]
    channel: Option<serde::de::IgnoredAny>,
}

impl Raw {
    /// The claims of a token whose signature is good, at `unix_ms`.
    pub(super) fn check(self, instance: InstanceId, unix_ms: i64) -> Result<Claims, Refusal> {
        if self.channel.is_some() {
            return Err(Refusal::Claims);
        }
        if let Some(nbf) = self.nbf
            && millis(nbf)? > unix_ms
        {
            return Err(Refusal::Claims);
        }
        let exp = self.exp.map(millis).transpose()?;
        if exp.is_some_and(|exp| exp <= unix_ms) {
            return Err(Refusal::Expired);
        }
        let expires_unix_ms = match self.expire_at {
            None => exp,
            Some(0) => None,
            Some(at) => Some(at.saturating_mul(1000)),
        };
        if expires_unix_ms.is_some_and(|at| at <= unix_ms) {
            return Err(Refusal::Expired);
        }
        let info = match (self.info, self.b64info) {
            (_, Some(b64)) => from_base64(&b64)?,
            (Some(json), None) => Bytes::copy_from_slice(json.get().as_bytes()),
            (None, None) => Bytes::new(),
        };
        if !info.is_empty() && !json_depth_within(&info, DEPTH_MAX) {
            return Err(Refusal::Claims);
        }
        Ok(Claims {
            instance,
            user: self.sub,
            info,
            caps: Caps(self.caps),
            expires_unix_ms,
            subscriptions: Default::default(),
        })
    }
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

/// A NumericDate in ms; refused where it is no time.
fn millis(seconds: f64) -> Result<i64, Refusal> {
    if !seconds.is_finite() || seconds.abs() > 1e12 {
        return Err(Refusal::Claims);
    }
    Ok((seconds * 1000.0) as i64)
}
