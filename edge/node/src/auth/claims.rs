//! The claims of tokens and the rules that they must keep. Everything in a token is bounded by its
//! own size; what costs more than its bytes has bounds here.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::caps::{Match, PATTERNS_MAX};
use gb6_core_model::hash::digest128;
use gb6_core_model::{Capability, Caps, Channel, InstanceId, limits};
use gb6_edge_session::{Claims, SubscriptionClaims, SubscriptionGrant, TokenRef};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Refusal;
use super::backend::meta;
use super::grant::{RawGrant, RawOverrides, end, json_of, or_default};
use super::keys::InstanceKeys;

/// Longest user id in bytes: it is repeated in every message of the user.
pub(super) const USER_BYTES_MAX: usize = 255;
/// Longest `jti` in bytes: revocations name tokens by it.
pub(crate) const TOKEN_ID_BYTES_MAX: usize = 255;
/// Names and patterns in `caps` at most: commands are compared with each.
const CAPABILITY_NAMES_MAX: usize = 1024;
/// Channels in `channels` and `subs` together at most.
const GRANTS_MAX: usize = limits::SUBSCRIPTIONS_MAX;

/// The claims as they stand in the token. `null` is as good as absent, and unknown ones are passed over.
#[derive(Deserialize)]
pub(super) struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    sub: String,
    /// RFC 7519 section 4.1.4: seconds, possibly with a fraction.
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
    #[serde(default)]
    iss: Option<serde_json::Value>,
    /// When the connection or subscription expires, instead of `exp`; 0: never.
    #[serde(default)]
    expire_at: Option<i64>,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    #[serde(default)]
    b64info: Option<String>,
    // Of connection tokens.
    #[serde(default)]
    caps: Option<Vec<Capability>>,
    #[serde(default, deserialize_with = "or_default")]
    channels: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    subs: BTreeMap<String, Option<RawGrant>>,
    #[serde(default)]
    meta: Option<Box<RawValue>>,
    // Of subscription tokens: only they name a channel.
    #[serde(default)]
    channel: Option<serde_json::Value>,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    b64data: Option<String>,
    #[serde(default, rename = "override", deserialize_with = "or_default")]
    overrides: RawOverrides,
}

/// The claim `aud`: one name or several (RFC 7519 section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Audience::One(name) => name == audience,
            Audience::Several(names) => names.iter().any(|name| name == audience),
        }
    }
}

/// The key under which the token with this `jti` is remembered.
pub(crate) fn id_of_jti(jti: &str) -> [u8; 16] {
    digest128(&[b"jti", jti.as_bytes()])
}

/// The key under which a token without a `jti` is remembered.
pub(crate) fn id_of_text(token: &str) -> [u8; 16] {
    digest128(&[b"token", token.as_bytes()])
}

impl Raw {
    /// By what the token, whose text is `token`, can be taken back.
    pub(super) fn token(&self, token: &str) -> Result<TokenRef, Refusal> {
        Ok(TokenRef {
            id: match self.jti.as_deref() {
                None | Some("") => id_of_text(token),
                Some(jti) if jti.len() <= TOKEN_ID_BYTES_MAX => id_of_jti(jti),
                Some(_) => return Err(Refusal::Claims),
            },
            issued_unix_ms: self.iat.map(millis).transpose()?,
        })
    }

    /// The claims of a connection token whose signature is good, at `unix_ms`.
    pub(super) fn connection(
        self,
        instance: InstanceId,
        keys: &InstanceKeys,
        unix_ms: i64,
    ) -> Result<Claims, Refusal> {
        if self.channel.is_some() {
            return Err(Refusal::Claims);
        }
        let exp = self.valid(keys, unix_ms)?;
        let expires_unix_ms = end(self.expire_at, exp, unix_ms)?;
        Ok(Claims {
            instance,
            user: self.sub,
            info: json_of(self.info, self.b64info)?,
            caps: caps(self.caps)?,
            expires_unix_ms,
            subscriptions: subscriptions(self.channels, self.subs, unix_ms)?,
            data: Bytes::new(),
            meta: meta(self.meta)?,
            client_refreshes: true,
        })
    }

    /// The claims of a subscription token whose signature is good, at `unix_ms`.
    pub(super) fn subscription(
        self,
        instance: InstanceId,
        keys: &InstanceKeys,
        token: &TokenRef,
        unix_ms: i64,
    ) -> Result<SubscriptionClaims, Refusal> {
        let exp = self.valid(keys, unix_ms)?;
        let Some(serde_json::Value::String(channel)) = self.channel else {
            return Err(Refusal::Claims);
        };
        check_channel(&channel)?;
        let grant = RawGrant {
            info: self.info,
            b64info: self.b64info,
            data: self.data,
            b64data: self.b64data,
            overrides: self.overrides,
            expire_at: self.expire_at,
        };
        Ok(SubscriptionClaims {
            instance,
            user: self.sub,
            channel,
            client: self.client.filter(|client| !client.is_empty()),
            grant: grant.check(exp, unix_ms)?,
            token: *token,
        })
    }

    /// The rules that tokens of both kinds keep; when the token itself ends, Unix ms.
    fn valid(&self, keys: &InstanceKeys, unix_ms: i64) -> Result<Option<i64>, Refusal> {
        if self.sub.len() > USER_BYTES_MAX {
            return Err(Refusal::Claims);
        }
        if let Some(audience) = &keys.audience
            && !self.aud.as_ref().is_some_and(|aud| aud.names(audience))
        {
            return Err(Refusal::Audience);
        }
        if let Some(issuer) = &keys.issuer
            && self.iss.as_ref().and_then(|iss| iss.as_str()) != Some(issuer)
        {
            return Err(Refusal::Issuer);
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
        Ok(exp)
    }
}

pub(super) fn caps(caps: Option<Vec<Capability>>) -> Result<Caps, Refusal> {
    let list = caps.iter().flatten();
    let names: usize = list.clone().map(|c| c.channels.len()).sum();
    let patterns: usize = list
        .filter(|c| matches!(c.matching, Match::Regex(_)))
        .map(|c| c.channels.len())
        .sum();
    if names > CAPABILITY_NAMES_MAX || patterns > PATTERNS_MAX {
        return Err(Refusal::Claims);
    }
    Ok(Caps(caps))
}

/// The server-side subscriptions; what `subs` says of a channel counts before `channels`.
pub(super) fn subscriptions(
    channels: Vec<String>,
    subs: BTreeMap<String, Option<RawGrant>>,
    unix_ms: i64,
) -> Result<BTreeMap<String, SubscriptionGrant>, Refusal> {
    if channels.len() + subs.len() > GRANTS_MAX {
        return Err(Refusal::Claims);
    }
    let mut all = BTreeMap::new();
    for channel in channels {
        check_channel(&channel)?;
        all.insert(channel, SubscriptionGrant::default());
    }
    for (channel, raw) in subs {
        check_channel(&channel)?;
        // One whose time is over is no subscription any more; the others are.
        match raw.unwrap_or_default().check(None, unix_ms) {
            Ok(grant) => all.insert(channel, grant),
            Err(Refusal::Expired) => all.remove(&channel),
            Err(refusal) => return Err(refusal),
        };
    }
    Ok(all)
}

fn check_channel(name: &str) -> Result<(), Refusal> {
    Channel::parse(name)
        .map(|_| ())
        .map_err(|_| Refusal::Claims)
}

/// A NumericDate in ms; refused where it is no time.
pub(super) fn millis(seconds: f64) -> Result<i64, Refusal> {
    if !seconds.is_finite() || seconds.abs() > 1e12 {
        return Err(Refusal::Claims);
    }
    Ok((seconds * 1000.0) as i64)
}
