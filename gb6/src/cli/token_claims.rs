//! The claims of the tokens that `gb6 token create` makes, and what signs them.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_core_model::{Allow, Capability, Channel};
use gb6_edge_node::auth::SigningKey;
use serde_json::{Map, Value, json};

use super::exit::Failure;

/// What a token may say besides who it is for and until when.
#[derive(Args, Debug, Default)]
pub(crate) struct ClaimArgs {
    /// Make a subscription token: for this channel alone
    #[arg(long, value_name = "NAME", value_parser = channel)]
    #[arg(conflicts_with_all = ["channels", "subs", "meta"])]
    channel: Option<String>,
    /// The only client id that may use the subscription token
    #[arg(long, value_name = "ID", requires = "channel")]
    client: Option<String>,
    /// Data that the client gets with its subscription
    #[arg(long, value_name = "JSON", value_parser = parse_json, requires = "channel")]
    data: Option<Value>,
    /// Channels that the server subscribes the connection to: names joined by commas, or
    /// {"NAME": {"info": …, "data": …, "override": …}}
    #[arg(long, value_name = "NAMES|JSON", value_parser = subs)]
    subs: Option<Value>,
    /// What other clients see of the connection, or of the subscription
    #[arg(long, value_name = "JSON", value_parser = parse_json)]
    info: Option<Value>,
    /// What no client sees
    #[arg(long, value_name = "JSON", value_parser = parse_json)]
    meta: Option<Value>,
    /// The token's id, by which it can be revoked
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// Whom the token is for: needed where the instance has a token_audience
    #[arg(long, value_name = "NAME")]
    aud: Option<String>,
    /// Who issues it: needed where the instance has a token_issuer
    #[arg(long, value_name = "NAME")]
    iss: Option<String>,
}

fn channel(text: &str) -> Result<String, String> {
    match Channel::parse(text) {
        Ok(channel) => Ok(channel.as_str().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))
}

/// The claim `subs` where it was given as JSON, else that of `channels`.
fn subs(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return parse_json(text);
    }
    let names = text.split(',').map(|name| channel(name.trim()));
    Ok(Value::from(names.collect::<Result<Vec<_>, _>>()?))
}

impl ClaimArgs {
    /// All claims of a token for `user` that is made at `now` and lasts `ttl` seconds.
    pub(super) fn claims(
        self,
        user: &str,
        now: i64,
        ttl: i64,
        caps: Option<Vec<Capability>>,
    ) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut say = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value);
            }
        };
        say("sub", Some(user.into()));
        say("iat", Some(now.into()));
        say("exp", Some(now.saturating_add(ttl).into()));
        say("caps", caps.map(|caps| json!(caps)));
        say("channel", self.channel.map(Value::from));
        say("client", self.client.map(Value::from));
        say("data", self.data);
        let named = self.subs.as_ref().is_some_and(Value::is_array);
        say(if named { "channels" } else { "subs" }, self.subs);
        say("info", self.info);
        say("meta", self.meta);
        say("jti", self.jti.map(Value::from));
        say("aud", self.aud.map(Value::from));
        say("iss", self.iss.map(Value::from));
        claims
    }
}

/// What the token allows; `None`: what any member may.
pub(super) fn capabilities(channels: Vec<String>, allow: Vec<Allow>) -> Option<Vec<Capability>> {
    if channels.is_empty() {
        return None;
    }
    let pattern = channels.iter().any(|c| c.contains('*'));
    let matching = if pattern {
        Match::Wildcard
    } else {
        Match::Exact
    };
    Some(vec![Capability {
        channels,
        matching,
        allow,
    }])
}

/// A private key in a file, in place of a key of the instance.
#[derive(Args, Debug, Default)]
pub(crate) struct PrivateKeyArgs {
    /// Sign with this private key (PKCS #8, PEM) instead of a secret; --key then is its id
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// The algorithm to sign by [default: the usual one of the private key]
    #[arg(long, value_name = "NAME", value_parser = algorithm, requires = "private_key")]
    algorithm: Option<KeyAlgorithm>,
}

fn algorithm(name: &str) -> Result<KeyAlgorithm, String> {
    let public = || KeyAlgorithm::ALL.iter().filter(|a| !a.is_symmetric());
    public().find(|a| a.name() == name).copied().ok_or_else(|| {
        let known: Vec<_> = public().map(|a| a.name()).collect();
        format!("known here: {}", known.join(", "))
    })
}

impl PrivateKeyArgs {
    /// The key, if one was named; `id` is what tokens call it.
    pub(super) fn key(&self, id: Option<&String>) -> Result<Option<SigningKey>, Failure> {
        let Some(file) = &self.private_key else {
            return Ok(None);
        };
        let pem = std::fs::read_to_string(file)
            .with_context(|| format!("{} can not be read", file.display()))?;
        let algorithm = self.algorithm.or_else(|| SigningKey::algorithm_of(&pem));
        let algorithm = algorithm.ok_or_else(|| {
            anyhow!(
                "{} is no private key that can sign: give RSA, P-256, P-384 or Ed25519 in PKCS #8, \
                 as of `openssl pkcs8 -topk8 -nocrypt`",
                file.display()
            )
        })?;
        let key = SigningKey::private(id.cloned(), algorithm, &pem)
            .with_context(|| file.display().to_string())?;
        Ok(Some(key))
    }
}
