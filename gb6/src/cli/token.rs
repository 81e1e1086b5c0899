//! `gb6 token`: tokens for clients, signed with a key of their instance, and what one says.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use gb6_core_mesh::snapshot::SnapshotStore;
use gb6_core_model::Allow;
use gb6_core_model::snapshot::{Key, KeyUse, Snapshot};
use gb6_edge_node::auth::{SigningKey, sign_claims};
use gb6_geo_config_plan::Millis;

use super::config::read_snapshot_file;
use super::exit::{Failure, print};
use super::token_claims::{ClaimArgs, PrivateKeyArgs, capabilities};
use super::token_show::Show;
use crate::assemble::DevKeys;
use crate::config::{DevSetup, EdgeFile, GeoFile, Overrides, load};

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Print a connection token, or with --channel a subscription token
    Create(Box<Create>),
    /// Explain what a token says
    Show(Show),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The data directory of `gb6 dev` or of an edge, where the keys are
    #[arg(
        long,
        value_name = "DIR",
        env = "GB6_DATA_DIR",
        default_value = "gb6-data"
    )]
    data_dir: PathBuf,
    /// A file that leads to the keys, instead: of `gb6 dev`, of an edge, of geo, or the snapshot itself
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance that the token is for
    #[arg(long, default_value = "demo")]
    instance: String,
    /// Who it is for
    #[arg(long)]
    user: String,
    /// The channels that it allows, `*` standing for any characters; none: what any member may
    #[arg(
        long,
        value_name = "PATTERNS",
        value_delimiter = ',',
        requires = "allow"
    )]
    channels: Vec<String>,
    /// What it allows there: sub, pub, prs, hst
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = allow)]
    #[arg(requires = "channels")]
    allow: Vec<Allow>,
    /// How long it is valid, such as 1h or 30d
    #[arg(long, default_value = "1h")]
    ttl: Millis,
    /// The key to sign with [default: the instance's first with a secret]
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    #[command(flatten)]
    private: PrivateKeyArgs,
    #[command(flatten)]
    claims: ClaimArgs,
}

fn allow(text: &str) -> Result<Allow, String> {
    let known = "sub (subscribe), pub (publish), prs (presence) and hst (history)";
    Allow::parse(text).ok_or_else(|| format!("`{text}` is nothing to allow: there are {known}"))
}

impl TokenCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let now = i64::try_from(now.as_secs())?;
        match self {
            TokenCommand::Create(create) => create.run(now),
            TokenCommand::Show(show) => show.run(now),
        }
    }
}

impl Create {
    fn run(self, now: i64) -> Result<(), Failure> {
        if self.ttl.0 < 1000 {
            let why = anyhow!("--ttl {}: a token is valid for at least a second", self.ttl);
            return Err(Failure::Usage(why));
        }
        let key = match (self.private.key(self.key.as_ref())?, &self.config) {
            (Some(key), _) => key,
            (None, Some(file)) => SigningKey::shared(&choose(&snapshot_behind(file)?, &self)?)?,
            (None, None) => SigningKey::shared(&key_in_dir(&self)?)?,
        };
        let ttl = i64::try_from(self.ttl.0 / 1000)?;
        let caps = capabilities(self.channels, self.allow);
        let claims = self.claims.claims(&self.user, now, ttl, caps);
        print(&format!("{}\n", sign_claims(&key, &claims)?))
    }
}

fn key_in_dir(create: &Create) -> Result<Key, Failure> {
    let dir = &create.data_dir;
    if let Some(keys) = DevKeys::load(dir)? {
        let key = keys.token_key(&create.instance);
        let asked = |key: &Key| create.key.as_ref().is_none_or(|id| *id == key.id);
        if let Some(key) = key.clone().filter(asked) {
            return Ok(key);
        }
        let has = match &key {
            Some(key) => format!("the key {} of instance {}", key.id, create.instance),
            None => format!(
                "keys of {}",
                keys.instances().collect::<Vec<_>>().join(", ")
            ),
        };
        return Err(anyhow!(
            "{} is of gb6 dev and has {has}: for another key name its configuration with --config",
            dir.display()
        )
        .into());
    }
    match SnapshotStore::in_dir(dir).load()? {
        Some(snapshot) => Ok(choose(&snapshot, create)?),
        None => Err(anyhow!(
            "there are no keys in {}: start `gb6 dev` there first, or name another directory with \
             --data-dir, or a file with --config",
            dir.display()
        )
        .into()),
    }
}

/// The snapshot that `file` is, names, or whose node has kept it.
fn snapshot_behind(file: &Path) -> Result<Snapshot, Failure> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} can not be read", file.display()))?;
    let table: toml::Table = toml::from_str(&text)
        .with_context(|| format!("{} is no TOML", file.display()))
        .map_err(Failure::Usage)?;
    let placed = table.contains_key("regions") || table.contains_key("nodes");
    if table.contains_key("instances") && placed {
        return read_snapshot_file(file);
    }
    if table.contains_key("instances") {
        let setup = DevSetup::load(Some(file), &Overrides::default()).map_err(Failure::usage)?;
        return Ok(Snapshot {
            instances: setup.instances.unwrap_or_default(),
            ..Snapshot::default()
        });
    }
    if table.contains_key("snapshot") {
        let geo = load::<GeoFile>(Some(file), &Overrides::default()).map_err(Failure::usage)?;
        return read_snapshot_file(Path::new(&geo.snapshot));
    }
    let edge = load::<EdgeFile>(Some(file), &Overrides::default()).map_err(Failure::usage)?;
    let store = SnapshotStore::in_dir(Path::new(&edge.data_dir));
    let kept = store.load()?;
    Ok(kept.with_context(|| {
        format!(
            "edge {} has kept no snapshot in {} yet: start it once, or name the snapshot file",
            edge.name,
            store.path().display()
        )
    })?)
}

fn choose(snapshot: &Snapshot, create: &Create) -> anyhow::Result<Key> {
    let known = |names: Vec<&str>| match names.is_empty() {
        true => "there are none".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    let Some(instance) = snapshot.instances.get(create.instance.as_str()) else {
        let names = snapshot.instances.keys().map(|id| id.as_str()).collect();
        bail!("there is no instance {}; {}", create.instance, known(names));
    };
    let mut keys = instance
        .keys
        .iter()
        .filter(|key| key.usage == KeyUse::Client);
    let found = match &create.key {
        // Public keys only verify.
        None => keys.find(|key| !key.secret.is_empty()),
        Some(id) => keys.find(|key| key.id == *id),
    };
    found.cloned().with_context(|| {
        let names = instance.keys.iter().map(|key| key.id.as_str()).collect();
        let id = create.key.as_deref().unwrap_or("for tokens of clients");
        format!(
            "instance {} has no key {id}; {}",
            create.instance,
            known(names)
        )
    })
}
