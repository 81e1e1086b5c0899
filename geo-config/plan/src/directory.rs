//! Instances of a directory, laid over those of the snapshot file.
//!
//! What is wrong with one costs nobody else anything: its last good settings stay in force, and its keys are
//! those of the directory all the same, so that a key that was revoked is gone whatever else is wrong. Where two
//! want the same host name or key set, who has it keeps it. Only what the operator has to decide, an instance
//! that stands in the file too or a region that is gone under an instance, leaves all as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Instance, Key, KeyAlgorithm, KeyUse, Snapshot};

use crate::problem::{Problem, Problems};
use crate::resolve::{read_key, read_settings_text};

/// What a key of the directory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectoryKeyUse {
    /// It verifies tokens of clients.
    Client,
    /// It is a key of the server API.
    Api,
    /// It is a secret that the settings name, where a file would name a file: `secret_file = "ID"`.
    Named,
}

/// A key of an instance, as a directory has it. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct DirectoryKey {
    /// Its id, unique in the instance.
    pub id: String,
    /// What it is for.
    pub usage: DirectoryKeyUse,
    /// The algorithm of a key for tokens.
    pub algorithm: KeyAlgorithm,
    /// The secret as text; `None`: there is a public key.
    pub secret: Option<String>,
    /// The public key as text.
    pub public_key: Option<String>,
}

impl fmt::Debug for DirectoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryKey")
            .field("id", &self.id)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// An instance that is in use, as a directory has it. `Debug` shows neither settings nor secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct DirectoryInstance {
    /// Its id.
    pub id: InstanceId,
    /// The region that owns its rooms.
    pub region: String,
    /// A JSON object with the keys of a file's `[instances.NAME]`, without region and keys.
    pub settings: String,
    /// The keys that are in use, or why they can not be read.
    pub keys: Result<Vec<DirectoryKey>, String>,
}

impl fmt::Debug for DirectoryInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryInstance")
            .field("id", &self.id)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A snapshot with the instances of a directory in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Laid {
    /// The snapshot, of revision 0.
    pub snapshot: Snapshot,
    /// What is wrong with instances of the directory; each says which. They are in the snapshot as far as
    /// they can be.
    pub problems: Vec<Problem>,
}

/// Lays instances of a directory over snapshots of a file. It remembers what it made of each, so that one that
/// has not changed costs little.
#[derive(Debug, Default)]
pub struct DirectoryPlan {
    known: BTreeMap<InstanceId, (DirectoryInstance, Read)>,
}

/// What an instance by itself comes to.
#[derive(Clone, Debug)]
struct Read {
    /// `None`: its settings have a mistake.
    settings: Option<Instance>,
    /// `None`: they can not be read.
    keys: Option<Vec<Key>>,
    problems: Vec<Problem>,
}

impl DirectoryPlan {
    /// The snapshot of the file, `base`, with the instances of `directory` in it. `last` is what is in force.
    ///
    /// # Errors
    /// What the operator has to decide; `last` should stay in force.
    pub fn lay(
        &mut self,
        base: &Snapshot,
        directory: &[DirectoryInstance],
        last: Option<&Snapshot>,
    ) -> Result<Laid, Problems> {
        let ids: BTreeSet<&InstanceId> = directory.iter().map(|one| &one.id).collect();
        self.known.retain(|id, _| ids.contains(id));
        let twice = ids.iter().filter(|id| base.instances.contains_key(**id));
        let mut refused: Vec<Problem> = twice.map(|id| in_both(id)).collect();
        let in_force = |id: &InstanceId| last.and_then(|last| last.instances.get(id));
        let mut problems = Vec::new();
        let mut wanted = Vec::new();
        for one in directory {
            let read = self.read(one);
            problems.extend(read.problems.iter().cloned());
            let Some(instance) = one.placed(&read, base, in_force(&one.id), &mut problems) else {
                continue;
            };
            match base.regions.contains_key(&instance.region) {
                true => wanted.push((&one.id, instance)),
                false => refused.push(region_gone(&instance.region, &one.id)),
            }
        }
        if !refused.is_empty() {
            return Err(Problems(refused));
        }
        let mut snapshot = base.clone();
        snapshot.revision = 0;
        let mut taken = Taken::default();
        for (id, instance) in &base.instances {
            taken.hosts(id, instance);
            taken.key_set(id, instance);
        }
        // Who has a name keeps it, whatever else it asks for: the file's instances, then those with what is in
        // force of theirs.
        for (id, instance) in &wanted {
            if let Some(last) = in_force(id) {
                taken.keep(id, instance, last);
            }
        }
        for (id, mut instance) in wanted {
            taken.claim(id, &mut instance, &mut problems);
            snapshot.instances.insert(id.clone(), instance);
        }
        problems.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Laid { snapshot, problems })
    }

    fn read(&mut self, one: &DirectoryInstance) -> Read {
        if let Some((known, read)) = self.known.get(&one.id)
            && known == one
        {
            return read.clone();
        }
        let read = one.read();
        self.known
            .insert(one.id.clone(), (one.clone(), read.clone()));
        read
    }
}

impl DirectoryInstance {
    fn read(&self) -> Read {
        let mut problems = Vec::new();
        let path = format!("instances.{}", self.id);
        let keys = match &self.keys {
            Ok(keys) => keys,
            Err(why) => {
                let problem = Problem::new(format!("{path}.keys"), why.clone());
                let help = "what is in force stays, also keys that were revoked meanwhile";
                return Read {
                    settings: None,
                    keys: None,
                    problems: vec![problem.help(help)],
                };
            }
        };
        let named = |id: &str| named_secret(keys, id);
        let settings = settings_as_toml(&self.settings)
            .map_err(|why| Problems(vec![Problem::new(&path, why)]))
            .and_then(|text| read_settings_text(&text, &self.id, &self.region, named));
        let settings = match settings {
            Ok(settings) => Some(settings),
            Err(found) => {
                problems.extend(found.0.into_iter().map(nowhere));
                None
            }
        };
        let mut good = Vec::new();
        for key in keys {
            match check_directory_key(&self.id, key) {
                Ok(key) => good.extend(key),
                Err(found) => problems.extend(found.0),
            }
        }
        problems.extend(crate::resolve::too_many_keys(&self.id, &mut good));
        Read {
            settings,
            keys: Some(good),
            problems,
        }
    }

    /// What is to be in force of it; `None`: nothing can be.
    fn placed(
        &self,
        read: &Read,
        base: &Snapshot,
        last: Option<&Instance>,
        problems: &mut Vec<Problem>,
    ) -> Option<Instance> {
        let home = |instance: &Instance| base.regions.contains_key(&instance.region);
        let mut settings = read.settings.clone();
        if let Some(new) = settings.as_ref()
            && !home(new)
            && last.is_none_or(|last| last.region != new.region)
        {
            problems.push(Problem::new(
                format!("instances.{}.region", self.id),
                format!("there is no region `{}`", new.region),
            ));
            settings = None;
        }
        let mut instance = settings.or_else(|| last.cloned())?;
        if let Some(keys) = &read.keys {
            instance.keys.clone_from(keys);
        }
        Some(instance)
    }
}

/// What instances have that no two may have.
#[derive(Default)]
struct Taken {
    hosts: BTreeMap<String, InstanceId>,
    key_sets: BTreeMap<String, Vec<(InstanceId, Option<String>)>>,
}

impl Taken {
    fn hosts(&mut self, id: &InstanceId, instance: &Instance) {
        for host in &instance.hosts {
            self.hosts.entry(host.clone()).or_insert_with(|| id.clone());
        }
    }

    fn key_set(&mut self, id: &InstanceId, instance: &Instance) {
        if let Some(url) = &instance.jwks_url {
            let audience = instance.token_audience.clone();
            let known = self.key_sets.entry(url.clone()).or_default();
            known.push((id.clone(), audience));
        }
    }

    /// Takes what an instance has and still wants.
    fn keep(&mut self, id: &InstanceId, wanted: &Instance, last: &Instance) {
        for host in wanted
            .hosts
            .iter()
            .filter(|&host| last.hosts.contains(host))
        {
            self.hosts.entry(host.clone()).or_insert_with(|| id.clone());
        }
        if wanted.jwks_url == last.jwks_url
            && wanted.token_audience == last.token_audience
            && self.fetches_the_same(id, wanted).is_none()
        {
            self.key_set(id, wanted);
        }
    }

    /// Another instance with the same keys whose tokens would be let in here too.
    fn fetches_the_same(&self, id: &InstanceId, instance: &Instance) -> Option<&InstanceId> {
        let audience = instance.token_audience.as_ref();
        let mut known = self.key_sets.get(instance.jwks_url.as_ref()?)?.iter();
        let same = known.find(|(other, theirs)| {
            other != id && (audience.is_none() || theirs.is_none() || theirs.as_ref() == audience)
        });
        same.map(|(other, _)| other)
    }

    /// Leaves out of an instance what another one has.
    fn claim(&mut self, id: &InstanceId, instance: &mut Instance, problems: &mut Vec<Problem>) {
        let path = |key: &str| format!("instances.{id}.{key}");
        instance.hosts.retain(|host| match self.hosts.get(host) {
            Some(other) if other != id => {
                let message = format!("`{host}` is a host of instance `{other}` already");
                problems.push(Problem::new(path("hosts"), message));
                false
            }
            _ => true,
        });
        self.hosts(id, instance);
        if let Some(other) = self.fetches_the_same(id, instance) {
            let message = format!(
                "`{other}` fetches the same keys, so a token of one would be let in at both"
            );
            let help = "give each its own `token_audience`";
            problems.push(Problem::new(path("jwks_url"), message).help(help));
            instance.jwks_url = None;
        }
        self.key_set(id, instance);
    }
}

fn in_both(id: &InstanceId) -> Problem {
    let message = "the instance is in the snapshot file and in the directory";
    let help = "take it out of the file, or remove it from the directory";
    Problem::new(format!("instances.{id}"), message).help(help)
}

fn region_gone(region: &str, id: &InstanceId) -> Problem {
    let message =
        format!("the region is not in the file, and instance `{id}` of the directory is in it");
    Problem::new(format!("regions.{region}"), message)
        .help("put it back, or remove the instance from the directory first")
}

/// A problem of a text that nobody has before them.
fn nowhere(mut problem: Problem) -> Problem {
    (problem.line, problem.column) = (None, None);
    problem
}

fn named_secret(keys: &[DirectoryKey], id: &str) -> Result<String, String> {
    let named = keys
        .iter()
        .find(|key| key.usage == DirectoryKeyUse::Named && key.id == id);
    named
        .and_then(|key| key.secret.clone())
        .ok_or_else(|| "the instance has no secret of this name".to_owned())
}

/// The key as a snapshot has it; `None`: it is a secret that settings name.
///
/// # Errors
/// Everything that is wrong with it; no secret stands there.
pub fn check_directory_key(
    instance: &InstanceId,
    key: &DirectoryKey,
) -> Result<Option<Key>, Problems> {
    let usage = match key.usage {
        DirectoryKeyUse::Named => return Ok(None),
        DirectoryKeyUse::Client => KeyUse::Client,
        DirectoryKeyUse::Api => KeyUse::Api,
    };
    read_key(instance, key, usage)
        .map(Some)
        .map_err(|found| Problems(found.0.into_iter().map(nowhere).collect()))
}

/// Reads an instance's settings as a person writes them, in TOML, with the keys of a file's
/// `[instances.NAME]`; answers them as a directory keeps them. `keys` are those of the instance.
///
/// # Errors
/// Everything that is wrong with them, each with its line.
pub fn settings_from_toml(
    text: &str,
    instance: &InstanceId,
    keys: &[DirectoryKey],
) -> Result<String, Problems> {
    // The region is looked for by whoever knows which there are.
    read_settings_text(text, instance, "", |id: &str| named_secret(keys, id))?;
    let table: toml::Table = crate::toml_text::parse_toml(text)?;
    serde_json::to_string(&table)
        .map_err(|e| Problems(vec![Problem::new("", format!("they can not be kept: {e}"))]))
}

/// Settings as a directory keeps them, in TOML.
///
/// # Errors
/// They are no JSON object, or have what TOML has not, such as null.
pub fn settings_as_toml(settings: &str) -> Result<String, String> {
    let table: toml::Table = serde_json::from_str(settings).map_err(|e| {
        // The text of settings is not repeated: somebody may have put a secret there.
        format!(
            "the settings are no JSON object with keys of `[instances.NAME]`, see line {}, column {}",
            e.line(),
            e.column()
        )
    })?;
    toml::to_string(&table).map_err(|e| format!("the settings can not be written as TOML: {e}"))
}
