//! `gb6 ctl org`, `instance`, `key` and `audit`: the customers in a directory. Every change is one transaction
//! with its entry in the audit.

mod audit;
mod instance;
mod key;
mod org;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use gb6_core_model::InstanceId;
use gb6_core_obs::Metrics;
use gb6_core_ports::Directory;
use gb6_core_ports::directory::{
    Actor, Change, DirectoryError, Freshness, Instance, Key, Kind, OrgId, PAGE_MAX, Record, Ref,
    State, Stored,
};
use gb6_geo_config_plan::{DirectoryKey, DirectoryKeyUse, Millis, Problems, UnitError};
use gb6_region_stores_sql::SqlDirectory;
use serde::Serialize;

pub(crate) use audit::AuditCommand;
pub(crate) use instance::InstanceCommand;
pub(crate) use key::KeyCommand;
pub(crate) use org::OrgCommand;

use super::exit::{Failure, print};
use crate::assemble::Databases;
use crate::config::{GeoFile, Overrides, StoreUri, load};

/// How often a change is tried again when somebody else changed the record meanwhile.
const TRIES: u32 = 8;
/// Largest file of settings or of a key in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Least and greatest age of what a standby may answer: they are compared with the primary twice a second.
const STALE_MIN: Millis = Millis(1_000);
const STALE_MAX: Millis = Millis(86_400_000);

/// Where the directory is, and how answers look.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The database of customers: sqlite:PATH or postgres://USER@HOST:PORT/DATABASE; several as geo has them, in
    /// the same order
    #[arg(
        long,
        env = "GB6_DIRECTORY",
        value_name = "URI",
        value_delimiter = ' ',
        hide_env_values = true,
        required_unless_present = "config"
    )]
    directory: Vec<String>,
    /// The file with the key that seals secrets
    #[arg(
        long,
        env = "GB6_DIRECTORY_KEY_FILE",
        value_name = "FILE",
        required_unless_present = "config"
    )]
    directory_key_file: Option<PathBuf>,
    /// The configuration file of geo, whose `stores.directory` it is; goes before the other two
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// How old what is read may be.
#[derive(Args, Debug)]
pub(crate) struct Stale {
    /// Let a standby answer that has everything older than this, as in 30s (PostgreSQL: `reads=` in the URI names
    /// them); where none has, the primary does [default: what is true now]
    #[arg(long, value_name = "TIME", value_parser = stale)]
    stale: Option<Duration>,
}

fn stale(text: &str) -> Result<Duration, String> {
    let time: Millis = text.parse().map_err(|e: UnitError| e.to_string())?;
    match (STALE_MIN..=STALE_MAX).contains(&time) {
        true => Ok(Duration::from_millis(time.0)),
        false => Err(format!("write {STALE_MIN} to {STALE_MAX}")),
    }
}

/// Who changes something, and why.
#[derive(Args, Debug)]
pub(crate) struct By {
    /// Who does it, for the audit [default: the user that runs this, at this host]
    #[arg(long, env = "GB6_ACTOR", value_name = "NAME")]
    actor: Option<String>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl Place {
    /// Opens the directory, and prints what `ask` says of it.
    fn with(&self, ask: impl FnOnce(&Desk<'_>) -> Result<String, Failure>) -> Result<(), Failure> {
        self.open(false, Freshness::Current, ask)
    }

    /// As [`Place::with`], to read what may be stale.
    fn read(
        &self,
        stale: &Stale,
        ask: impl FnOnce(&Desk<'_>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let fresh = stale.stale.map_or(Freshness::Current, Freshness::Within);
        self.open(false, fresh, ask)
    }

    /// As [`Place::with`]; files that are missing are made where `make` says so.
    fn with_or_make(
        &self,
        make: bool,
        ask: impl FnOnce(&Desk<'_>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        self.open(make, Freshness::Current, ask)
    }

    fn open(
        &self,
        make: bool,
        fresh: Freshness,
        ask: impl FnOnce(&Desk<'_>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let databases = self.databases()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("a runtime for the databases' client")?;
        let directory = databases.open(make, runtime.handle().clone(), &Metrics::bare())?;
        print(&ask(&Desk {
            directory: &directory,
            fresh,
            json: self.json,
        })?)
    }

    fn databases(&self) -> Result<Databases, Failure> {
        if let Some(path) = &self.config {
            let file =
                load::<GeoFile>(Some(path), &Overrides::default()).map_err(Failure::usage)?;
            let databases = Databases::of(&file.stores).ok().flatten();
            return databases.ok_or_else(|| {
                let why = format!("{}: it names no stores.directory", path.display());
                Failure::Usage(anyhow!(why))
            });
        }
        let uris: Vec<StoreUri> = self.directory.iter().map(|uri| (&**uri).into()).collect();
        let key_file = self.directory_key_file.as_deref().unwrap_or(Path::new(""));
        Databases::parse(&uris, key_file)
            .map_err(|why| Failure::Usage(anyhow!("--directory: {why}")))
    }
}

impl By {
    fn actor(&self) -> anyhow::Result<Actor> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let actor = Actor {
            name: self.actor.clone().unwrap_or_else(user_at_host),
            at_ms: u64::try_from(now.as_millis())?,
            detail: match self.reason.as_str() {
                "" => "gb6 ctl".to_owned(),
                reason => format!("gb6 ctl: {reason}"),
            },
        };
        actor.check()?;
        Ok(actor)
    }
}

/// Who runs this process.
fn user_at_host() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    let user = names.iter().filter_map(|name| std::env::var(name).ok());
    let user = user.into_iter().find(|name| !name.is_empty());
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => user,
        host => format!("{user}@{host}"),
    }
}

/// An open directory.
struct Desk<'a> {
    directory: &'a SqlDirectory,
    /// How old what is only shown may be.
    fresh: Freshness,
    json: bool,
}

impl Desk<'_> {
    /// What is shown: `value` to programs, `text` to people.
    fn say(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<String, Failure> {
        match self.json {
            true => Ok(format!("{}\n", serde_json::to_string(value)?)),
            false => Ok(text()),
        }
    }

    /// Makes changes in one transaction; answers their versions.
    fn apply(
        &self,
        root: &OrgId,
        by: &Actor,
        changes: &[Change],
    ) -> Result<Vec<u64>, DirectoryError> {
        self.directory.apply(root, by, changes)
    }

    /// Reads a record, has it changed, and writes it, as often as others change it meanwhile.
    fn edit(
        &self,
        root: &OrgId,
        what: &Ref,
        by: &Actor,
        edit: impl Fn(Record) -> Result<Record, Failure>,
    ) -> Result<Stored, Failure> {
        for _ in 0..TRIES {
            let found = self.directory.get(root, what, Freshness::Current)?;
            let record = edit(found.record.clone())?;
            if record == found.record {
                return Ok(found);
            }
            let change = Change::Update(record.clone(), found.version);
            match self.apply(root, by, &[change]) {
                Ok(versions) => {
                    let version = versions.first().copied().unwrap_or_default();
                    return Ok(Stored { version, record });
                }
                Err(DirectoryError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(anyhow!("{what} changes all the time: try again in a while").into())
    }

    /// All records of a kind, those of one `owner` where it is given.
    fn all(&self, root: &OrgId, kind: Kind, owner: Option<&str>) -> anyhow::Result<Vec<Stored>> {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = self
                .directory
                .list(root, kind, owner, &after, PAGE_MAX, self.fresh)?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = last.record.reference().id;
            found.extend(page);
        }
    }

    /// All records of a kind, of all customers or of the one that is asked for, each with its customer.
    fn all_of(&self, only: Option<&OrgId>, kind: Kind) -> anyhow::Result<Vec<(OrgId, Stored)>> {
        let mut found = Vec::new();
        for root in self.customers(only)? {
            let records = self.all(&root, kind, None)?;
            found.extend(records.into_iter().map(|one| (root.clone(), one)));
        }
        Ok(found)
    }

    /// All customers, or the one that is asked for.
    fn customers(&self, only: Option<&OrgId>) -> anyhow::Result<Vec<OrgId>> {
        if let Some(only) = only {
            self.organization(only, only)?;
            return Ok(vec![only.clone()]);
        }
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.directory.roots(&after, PAGE_MAX)?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            last.as_str().clone_into(&mut after);
            found.extend(page);
        }
    }

    /// That an organization is there; says how to find it where it is not.
    fn organization(&self, root: &OrgId, org: &OrgId) -> anyhow::Result<()> {
        let what = Ref::new(Kind::Organization, org.as_str());
        match self.directory.get(root, &what, self.fresh) {
            Ok(_) => Ok(()),
            Err(DirectoryError::NotFound { .. }) if root == org => bail!(
                "there is no customer {org}: look with `gb6 ctl org list`; where it is an organization below \
                 a customer, name that one with --customer"
            ),
            Err(DirectoryError::NotFound { .. }) => {
                bail!("the customer {root} has no organization {org}: look with `gb6 ctl org list`")
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The customer of an instance, and its record.
    fn instance(&self, id: &InstanceId) -> anyhow::Result<(OrgId, u64, Instance)> {
        let missing = || anyhow!("there is no instance {id}: look with `gb6 ctl instance list`");
        let or_missing = |error| match error {
            DirectoryError::NotFound { .. } => missing(),
            error => error.into(),
        };
        let root = self.directory.root_of(id).map_err(or_missing)?;
        let what = Ref::new(Kind::Instance, id.as_str());
        let found = self.directory.get(&root, &what, self.fresh);
        let found = found.map_err(or_missing)?;
        match found.record {
            Record::Instance(instance) => Ok((root, found.version, instance)),
            _ => Err(missing()),
        }
    }

    /// The keys of an instance.
    fn keys(&self, root: &OrgId, id: &InstanceId) -> anyhow::Result<Vec<(u64, Key)>> {
        let stored = self.all(root, Kind::Key, Some(id.as_str()))?;
        let key = |stored: Stored| match stored.record {
            Record::Key(key) => Some((stored.version, key)),
            _ => None,
        };
        Ok(stored.into_iter().filter_map(key).collect())
    }
}

/// Keys in use, as settings are checked with them.
fn in_use<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Vec<DirectoryKey> {
    let keys = keys.into_iter().filter(|key| key.state == State::Active);
    keys.filter_map(as_placed).collect()
}

/// A key as the placement has it; `None`: it is not for tokens, the server API or settings.
fn as_placed(key: &Key) -> Option<DirectoryKey> {
    use gb6_core_ports::directory::KeyPurpose as Purpose;
    let secret = key.secret.as_ref();
    Some(DirectoryKey {
        id: key.id.clone(),
        usage: match key.purpose {
            Purpose::Client => DirectoryKeyUse::Client,
            Purpose::Api => DirectoryKeyUse::Api,
            Purpose::Secret => DirectoryKeyUse::Named,
            Purpose::Livekit => return None,
        },
        algorithm: key.algorithm,
        secret: secret.map(|s| String::from_utf8_lossy(&s.0).into_owned()),
        public_key: key.public_key.clone(),
    })
}

/// An instance's name.
fn instance_id(text: &str) -> Result<InstanceId, String> {
    match InstanceId::is_valid(text) {
        true => Ok(InstanceId::from(text)),
        false => Err(format!(
            "`{text}` is no name of an instance: a letter, then up to 62 of a-z, 0-9 and -"
        )),
    }
}

/// An organization's id.
fn org_id(text: &str) -> Result<OrgId, String> {
    OrgId::parse(text).map_err(|e| format!("{e}; `gb6 ctl org list` shows them"))
}

/// The text of a file, or of standard input where it is `-`.
fn read_file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text),
        false => std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)),
    };
    let shown = path.display();
    let read = read.map_err(|e| Failure::Usage(anyhow!("{shown} can not be read: {e}")))?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(Failure::Usage(anyhow!(
            "{shown} is larger than {FILE_BYTES_MAX} bytes"
        ))),
        false => Ok(text),
    }
}

/// Problems of a file, each with its name.
fn in_file(path: &Path, problems: &Problems) -> Failure {
    let lines = problems.0.iter();
    let lines: Vec<String> = lines.map(|p| format!("{}: {p}", path.display())).collect();
    Failure::Usage(anyhow!(lines.join("\n")))
}

/// Random bytes in hexadecimal digits.
fn random_hex<const N: usize>() -> anyhow::Result<String> {
    let bytes = random::<N>()?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow!("the system gives no random numbers"))?;
    Ok(bytes)
}
