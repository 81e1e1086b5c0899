//! `gb6 token show`: what a token says, without its signature.

use std::fmt::Write as _;
use std::io::Read as _;

use anyhow::{Context, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_edge_node::auth::TOKEN_BYTES_MAX;
use gb6_geo_config_plan::Millis;
use serde_json::Value;

use super::exit::{Failure, print};

#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The token; `-`: it comes on standard input, which no other user of the machine can see
    #[arg(default_value = "-")]
    token: String,
}

impl Show {
    pub(super) fn run(self, now: i64) -> Result<(), Failure> {
        let token = match self.token.as_str() {
            "-" => {
                let mut text = String::new();
                std::io::stdin()
                    .take(2 * TOKEN_BYTES_MAX as u64)
                    .read_to_string(&mut text)
                    .context("standard input can not be read")?;
                text
            }
            _ => self.token,
        };
        print(&explain(token.trim(), now).map_err(Failure::Usage)?)
    }
}

/// What `token` says at `now`, Unix seconds, in lines.
fn explain(token: &str, now: i64) -> anyhow::Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err(anyhow!(
            "a token has three parts joined by dots, this has {}",
            parts.len()
        ));
    };
    let header = part(header).context("the header")?;
    let claims = part(payload).context("the claims")?;
    let mut out = String::new();
    let kind = match claims.get("channel") {
        Some(channel) => format!("subscription token for the channel {channel}"),
        None => "connection token".to_owned(),
    };
    let _ = writeln!(out, "kind       {kind}, {} bytes", token.len());
    let alg = header.get("alg").and_then(Value::as_str).unwrap_or("none");
    let known = match KeyAlgorithm::parse(alg) {
        Some(_) => "",
        None => ": no edge takes this",
    };
    let _ = writeln!(out, "algorithm  {alg}{known}");
    let key = match header.get("kid").and_then(Value::as_str) {
        Some(kid) => kid.to_owned(),
        None => "not named: each key that fits is tried".to_owned(),
    };
    let _ = writeln!(out, "key        {key}");
    let user = match claims.get("sub").and_then(Value::as_str) {
        None | Some("") => "nobody: anonymous".to_owned(),
        Some(user) => user.to_owned(),
    };
    let _ = writeln!(out, "user       {user}");
    for (name, claim, before, behind) in [
        ("issued", "iat", "in", "ago"),
        ("valid from", "nbf", "in", "ago"),
        ("expires", "exp", "in", "ago: no edge takes it any more"),
        ("connection", "expire_at", "ends in", "ago: it has ended"),
    ] {
        if let Some(at) = claims.get(claim).and_then(Value::as_f64) {
            let left = Millis(((at - now as f64).abs() * 1000.0) as u64);
            let words = match at as i64 {
                0 if claim == "expire_at" => "does not expire".to_owned(),
                at if at > now => format!("{before} {left}"),
                _ => format!("{left} {behind}"),
            };
            let _ = writeln!(out, "{name:<11}{words}");
        }
    }
    if claims.get("exp").is_none() {
        out.push_str("expires    never: only a revocation ends it\n");
    }
    let signed = if signature.is_empty() {
        "missing: nobody signed it"
    } else {
        "not looked at, and not shown"
    };
    let _ = writeln!(out, "signature  {signed}");
    let _ = writeln!(out, "claims     {}", serde_json::to_string_pretty(&claims)?);
    if token.len() > TOKEN_BYTES_MAX {
        let _ = writeln!(out, "Edges take at most {TOKEN_BYTES_MAX} bytes.");
    }
    Ok(out)
}

fn part(encoded: &str) -> anyhow::Result<Value> {
    let json = URL_SAFE_NO_PAD
        .decode(encoded)
        .context("it is no base64url without padding")?;
    let value: Value = serde_json::from_slice(&json).context("it is no JSON")?;
    anyhow::ensure!(value.is_object(), "it is no JSON object");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.c2VjcmV0LXNpZ25hdHVyZQ", part(header), part(claims))
    }

    #[test]
    fn a_token_is_explained_without_what_makes_it_valid() {
        let text = explain(
            &token(
                r#"{"alg":"ES256","kid":"demo.k1"}"#,
                r#"{"sub":"alice","iat":900,"exp":4600,"jti":"t1"}"#,
            ),
            1000,
        )
        .unwrap();
        for line in [
            "kind       connection token",
            "algorithm  ES256\n",
            "key        demo.k1\n",
            "user       alice\n",
            "expires    in 1h\n",
            "\"jti\": \"t1\"",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("c2VjcmV0LXNpZ25hdHVyZQ"), "{text}");
        let text = explain(
            &token(r#"{"alg":"none"}"#, r#"{"channel":"room:1","exp":1}"#),
            1000,
        )
        .unwrap();
        for line in [
            "subscription token for the channel \"room:1\"",
            "no edge takes this",
            "nobody: anonymous",
            "no edge takes it any more",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn what_is_no_token() {
        for bad in ["", "a", "a.b", "a.b.c.d", "a.b.c", "W10.W10.x"] {
            assert!(explain(bad, 0).is_err(), "{bad}");
        }
    }
}
