//! `gb6 ctl key`: the keys of instances. A secret is shown once, when it is made.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_core_model::{InstanceId, PublicKey, VerifyingJwk};
use gb6_core_ports::directory::{
    CHANGES_MAX, Change, DirectoryError, Key, KeyPurpose, Kind, OrgId, Record, Ref, Secret, State,
};
use gb6_geo_config_plan::{
    API_KEYS_MAX, CLIENT_KEYS_MAX, check_directory_key, settings_as_toml, settings_from_toml,
};
use serde::Serialize;

use super::{
    By, Desk, Place, Stale, as_placed, in_use, instance_id, org_id, random_hex, read_file,
};
use crate::cli::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum KeyCommand {
    /// Add a key to an instance, and print its secret, which can not be read again
    Add {
        /// Whose it is
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        /// What it is for: client (tokens), api (the server API), secret (named by settings)
        #[arg(long = "use", value_name = "USE", default_value = "client", value_parser = purpose)]
        purpose: KeyPurpose,
        /// Its id [default: INSTANCE. and a random part]
        #[arg(long)]
        id: Option<String>,
        /// How tokens are signed [default: HS256, or the usual one of the public key]
        #[arg(long, value_parser = algorithm)]
        algorithm: Option<KeyAlgorithm>,
        /// A file with a public key (PEM, or a JSON Web Key) that tokens are verified with; -: standard input
        #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
        public_key: Option<PathBuf>,
        /// A file with a secret that is there already; -: standard input [default: one is made]
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
    /// Show the keys of an instance, without their secrets
    List {
        /// Whose
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        #[command(flatten)]
        stale: Stale,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a key: what it verifies is refused within seconds, and its secret is gone
    Revoke {
        /// Whose it is
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        /// Its id
        id: String,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
    /// Write all keys again, so that all are sealed with the first key of the key file
    Reseal {
        /// Those of this customer alone
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        customer: Option<OrgId>,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
}

fn purpose(text: &str) -> Result<KeyPurpose, String> {
    let known = [KeyPurpose::Client, KeyPurpose::Api, KeyPurpose::Secret];
    let found = KeyPurpose::parse(text).filter(|purpose| known.contains(purpose));
    found.ok_or_else(|| format!("`{text}` is no use of a key: write client, api or secret"))
}

fn algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    KeyAlgorithm::parse(text).ok_or_else(|| {
        let known: Vec<&str> = KeyAlgorithm::ALL.iter().map(|a| a.name()).collect();
        format!("`{text}` is none: there are {}", known.join(", "))
    })
}

impl KeyCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            KeyCommand::Add {
                instance,
                purpose,
                id,
                algorithm,
                public_key,
                secret_file,
                by,
                place,
            } => {
                let id = match id {
                    Some(id) => id,
                    None => format!("{instance}.{}", random_hex::<6>()?),
                };
                let (secret, public_key) = match (secret_file, public_key) {
                    (_, Some(path)) => (None, Some(read_file(&path)?)),
                    (Some(path), None) => {
                        let text = read_file(&path)?;
                        (Some(text.trim_end_matches(['\r', '\n']).to_owned()), None)
                    }
                    (None, None) => (Some(new_secret(&instance, purpose, algorithm)?), None),
                };
                let key = Key {
                    instance,
                    id,
                    purpose,
                    algorithm: match (algorithm, &public_key) {
                        (Some(algorithm), _) => algorithm,
                        (None, Some(text)) => usual(text),
                        (None, None) => KeyAlgorithm::HS256,
                    },
                    public_key,
                    secret: secret.map(|text| Secret(text.into_bytes())),
                    state: State::Active,
                };
                check(&key)?;
                place.with(|desk| add(desk, &key, &by))
            }
            KeyCommand::List {
                instance,
                stale,
                place,
            } => place.read(&stale, |desk| list(desk, &instance)),
            KeyCommand::Revoke {
                instance,
                id,
                by,
                place,
            } => place.with(|desk| revoke(desk, &instance, &id, &by)),
            KeyCommand::Reseal {
                customer,
                by,
                place,
            } => place.with(|desk| reseal(desk, customer.as_ref(), &by)),
        }
    }
}

/// A secret by chance, as long as its use needs it.
fn new_secret(
    instance: &InstanceId,
    purpose: KeyPurpose,
    algorithm: Option<KeyAlgorithm>,
) -> anyhow::Result<String> {
    Ok(match (purpose, algorithm) {
        (KeyPurpose::Api, _) => format!("gb6_{instance}_{}", random_hex::<32>()?),
        (KeyPurpose::Client, Some(KeyAlgorithm::HS384 | KeyAlgorithm::HS512)) => {
            random_hex::<64>()?
        }
        _ => random_hex::<32>()?,
    })
}

/// The algorithm that a public key names, or is usual for it.
fn usual(public_key: &str) -> KeyAlgorithm {
    let named = VerifyingJwk::parse(public_key)
        .ok()
        .and_then(|jwk| jwk.algorithm);
    let usual = || Some(PublicKey::parse(public_key).ok()?.algorithms()[0]);
    // What is no key at all is refused by its own words.
    named.or_else(usual).unwrap_or(KeyAlgorithm::ES256)
}

/// Whether a snapshot could have it.
fn check(key: &Key) -> Result<(), Failure> {
    let usage = |why: String| Err(Failure::Usage(anyhow!(why)));
    if key.purpose == KeyPurpose::Secret && key.public_key.is_some() {
        return usage("--use secret needs a secret: leave --public-key out".to_owned());
    }
    if let Err(error) = Record::Key(key.clone()).check() {
        return usage(error.0);
    }
    match as_placed(key).map(|placed| check_directory_key(&key.instance, &placed)) {
        Some(Err(problems)) => usage(problems.to_string()),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    instance: &'a str,
    key: &'a str,
    #[serde(rename = "use")]
    purpose: &'static str,
    algorithm: Option<&'static str>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<&'a str>,
    /// Only of one that is made now.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(key: &'a Key) -> Self {
        Self {
            instance: key.instance.as_str(),
            key: &key.id,
            purpose: key.purpose.as_str(),
            algorithm: (key.purpose == KeyPurpose::Client).then(|| key.algorithm.name()),
            state: key.state.as_str(),
            public_key: key.public_key.as_deref(),
            secret: None,
        }
    }
}

fn add(desk: &Desk<'_>, key: &Key, by: &By) -> Result<String, Failure> {
    let (root, ..) = desk.instance(&key.instance)?;
    let there = desk.keys(&root, &key.instance)?;
    let alike = there
        .iter()
        .filter(|(_, other)| other.purpose == key.purpose && other.state == State::Active);
    let max = match key.purpose {
        KeyPurpose::Client => CLIENT_KEYS_MAX,
        KeyPurpose::Api => API_KEYS_MAX,
        _ => usize::MAX,
    };
    if alike.count() >= max {
        let why = anyhow!(
            "{} has {max} keys of this use already, as many as an instance may have: look with `gb6 ctl key \
             list {0}`, and revoke one that is not used any more",
            key.instance
        );
        return Err(why.into());
    }
    let change = Change::Create(Record::Key(key.clone()));
    desk.apply(&root, &by.actor()?, &[change])?;
    let secret = key.secret.as_ref();
    let secret = secret.and_then(|secret| std::str::from_utf8(&secret.0).ok());
    let shown = Shown {
        secret,
        ..Shown::of(key)
    };
    if secret.is_some() {
        eprintln!("The secret is shown this once: it can not be read again.");
    }
    desk.say(&shown, || {
        let mut out = format!("key     {}\n", key.id);
        if let Some(secret) = secret {
            // Writing to a string can not fail.
            let _ = writeln!(out, "secret  {secret}");
        }
        out
    })
}

fn list(desk: &Desk<'_>, id: &InstanceId) -> Result<String, Failure> {
    let (root, ..) = desk.instance(id)?;
    let keys = desk.keys(&root, id)?;
    let shown: Vec<Shown<'_>> = keys.iter().map(|(_, key)| Shown::of(key)).collect();
    desk.say(&shown, || {
        let mut out = format!(
            "{:<36} {:<8} {:<10} {:<9} kind\n",
            "key", "use", "algorithm", "state"
        );
        for one in &shown {
            let kind = match one.public_key {
                Some(_) => "public key",
                None => "secret",
            };
            let algorithm = one.algorithm.unwrap_or("-");
            // Writing to a string can not fail.
            let _ = writeln!(
                out,
                "{:<36} {:<8} {algorithm:<10} {:<9} {kind}",
                one.key, one.purpose, one.state
            );
        }
        out
    })
}

fn revoke(desk: &Desk<'_>, instance: &InstanceId, id: &str, by: &By) -> Result<String, Failure> {
    let (root, _, record) = desk.instance(instance)?;
    let keys = desk.keys(&root, instance)?;
    let found = keys.iter().find(|(_, key)| key.id == id);
    let Some((version, key)) = found else {
        let why = anyhow!("{instance} has no key {id}: look with `gb6 ctl key list {instance}`");
        return Err(why.into());
    };
    if key.purpose == KeyPurpose::Secret {
        let others = in_use(keys.iter().map(|(_, key)| key).filter(|key| key.id != id));
        let settings = settings_as_toml(&record.settings).unwrap_or_default();
        let now = settings_from_toml(&settings, instance, &in_use(keys.iter().map(|(_, k)| k)));
        if now.is_ok() && settings_from_toml(&settings, instance, &others).is_err() {
            let why = anyhow!(
                "the settings of {instance} name the secret {id}: change them first with `gb6 ctl instance \
                 set {instance}`"
            );
            return Err(why.into());
        }
    }
    let what = Ref::new(Kind::Key, format!("{instance}/{id}"));
    desk.apply(&root, &by.actor()?, &[Change::Delete(what, *version)])?;
    let revoked = serde_json::json!({ "instance": instance.as_str(), "key": id, "revoked": true });
    desk.say(&revoked, || format!("key {id} of {instance} is revoked\n"))
}

fn reseal(desk: &Desk<'_>, only: Option<&OrgId>, by: &By) -> Result<String, Failure> {
    let mut count = 0;
    for root in desk.customers(only)? {
        let keys = desk.all(&root, Kind::Key, None)?;
        let changes: Vec<Change> = keys
            .into_iter()
            .filter(|stored| matches!(&stored.record, Record::Key(key) if key.secret.is_some()))
            .map(|stored| Change::Update(stored.record, stored.version))
            .collect();
        for part in changes.chunks(CHANGES_MAX) {
            desk.apply(&root, &by.actor()?, part).map_err(|error| match error {
                DirectoryError::Conflict { .. } => anyhow!(
                    "a key of {root} was changed meanwhile, after {count} keys were sealed anew: run it again"
                ),
                error => error.into(),
            })?;
            count += part.len();
        }
    }
    let sealed = serde_json::json!({ "sealed": count });
    desk.say(&sealed, || {
        format!("{count} keys are sealed with the first key of the key file\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8037, appendix A.2.
    const ED25519: &str = "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\
                           \"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}";

    fn public(purpose: KeyPurpose, text: &str) -> Key {
        Key {
            instance: "acme".into(),
            id: "acme.k".into(),
            purpose,
            algorithm: usual(text),
            public_key: Some(text.to_owned()),
            secret: None,
            state: State::Active,
        }
    }

    fn said(key: &Key) -> String {
        match check(key) {
            Ok(()) => String::new(),
            Err(failure) => format!("{failure:?}"),
        }
    }

    #[test]
    fn public_keys_verify_tokens_and_nothing_else() {
        let good = public(KeyPurpose::Client, ED25519);
        assert_eq!(good.algorithm, KeyAlgorithm::EdDSA);
        assert_eq!(said(&good), "");
        let api = said(&public(KeyPurpose::Api, ED25519));
        assert!(api.contains("an API key is a secret"), "{api}");
        let named = said(&public(KeyPurpose::Secret, ED25519));
        assert!(named.contains("leave --public-key out"), "{named}");
        assert_ne!(said(&public(KeyPurpose::Client, "no key")), "");
    }

    #[test]
    fn secrets_that_are_made_are_good_ones() {
        let id = InstanceId::from("acme");
        for (purpose, algorithm) in [
            (KeyPurpose::Client, KeyAlgorithm::HS256),
            (KeyPurpose::Client, KeyAlgorithm::HS512),
            (KeyPurpose::Api, KeyAlgorithm::HS256),
            (KeyPurpose::Secret, KeyAlgorithm::HS256),
        ] {
            let secret = new_secret(&id, purpose, Some(algorithm)).unwrap();
            let key = Key {
                algorithm,
                public_key: None,
                secret: Some(Secret(secret.into_bytes())),
                ..public(purpose, "")
            };
            assert_eq!(said(&key), "");
        }
    }
}
