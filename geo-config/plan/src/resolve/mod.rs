//! Checks a snapshot file as a whole and turns it into a [`Snapshot`]. Everything that is wrong is
//! reported at once, each with its line.

mod address;
mod api_keys;
mod directory;
mod instance;
mod keys;
mod place;
mod proxies;
mod webhooks;

pub use keys::{API_KEYS_MAX, CLIENT_KEYS_MAX};

pub(crate) use directory::{read_key, read_settings_text, too_many_keys};

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::snapshot::{Instance, Snapshot};
use gb6_core_model::{InstanceId, NodeId};
use toml::Spanned;

use crate::file::{InstancesFile, SnapshotFile};
use crate::problem::{Problem, Problems};
use crate::toml_text::{nearest, parse_toml, parse_toml_only};

/// Shortest secret of an HMAC key for HS256 in bytes: as long as the hash (RFC 7518 section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// The table of instances in a text.
pub const INSTANCES_TABLE: &str = "instances";

/// Reads the text of a snapshot file. `secret_of` is asked for the content of each `secret_file`
/// by the path that the file gives, and answers with what went wrong in words. The snapshot gets
/// `revision`.
pub fn read_snapshot(
    text: &str,
    revision: u64,
    mut secret_of: impl FnMut(&str) -> Result<String, String>,
) -> Result<Snapshot, Problems> {
    let file: SnapshotFile = parse_toml(text)?;
    let mut r = Resolver::new(text, &file, None);
    let mut snapshot = Snapshot {
        revision,
        ..Snapshot::default()
    };
    for (name, node) in &file.nodes {
        let node = r.node(name, node.get_ref());
        snapshot
            .nodes
            .insert(NodeId::from(name.get_ref().as_str()), node);
    }
    for (name, region) in &file.regions {
        let region = r.region(name, region.get_ref());
        snapshot.regions.insert(name.get_ref().clone(), region);
    }
    snapshot.instances = r.instances(&mut secret_of);
    r.unless_wrong(snapshot)
}

/// Reads the [`INSTANCES_TABLE`] of a text whose other tables are somebody else's: instances by the
/// rules of a snapshot file, but all in the one region `home`, which need not be named.
///
/// # Errors
/// Everything that is wrong with them.
pub fn read_instances(
    text: &str,
    home: &str,
    mut secret_of: impl FnMut(&str) -> Result<String, String>,
) -> Result<BTreeMap<InstanceId, Instance>, Problems> {
    let InstancesFile { instances } = parse_toml_only(text, &[INSTANCES_TABLE])?;
    let file = SnapshotFile {
        instances,
        ..SnapshotFile::default()
    };
    let mut r = Resolver::new(text, &file, Some(home));
    let instances = r.instances(&mut secret_of);
    r.unless_wrong(instances)
}

struct Resolver<'a> {
    text: &'a str,
    file: &'a SnapshotFile,
    /// The region of every instance, where there is only one.
    home: Option<&'a str>,
    /// `secret_file` and its like name keys of a directory: what is no such name may be the secret itself,
    /// and is not repeated. Else they name files.
    names_keys: bool,
    problems: Vec<Problem>,
    /// Instance and id of every key that was seen.
    key_ids: BTreeSet<(String, String)>,
    /// Which instance has which host name.
    hosts: BTreeMap<String, String>,
}

impl<'a> Resolver<'a> {
    fn new(text: &'a str, file: &'a SnapshotFile, home: Option<&'a str>) -> Self {
        Self {
            text,
            file,
            home,
            names_keys: false,
            problems: Vec::new(),
            key_ids: BTreeSet::new(),
            hosts: BTreeMap::new(),
        }
    }

    fn instances(
        &mut self,
        secret_of: &mut impl FnMut(&str) -> Result<String, String>,
    ) -> BTreeMap<InstanceId, Instance> {
        let mut instances = BTreeMap::new();
        for (name, instance) in &self.file.instances {
            let id = InstanceId::from(name.get_ref().as_str());
            instances.insert(id, self.instance(name, instance.get_ref(), secret_of));
        }
        self.shared_jwks();
        instances
    }

    /// `value`, if nothing is wrong; else all that is, by line.
    fn unless_wrong<T>(self, value: T) -> Result<T, Problems> {
        let mut problems = self.problems;
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
        Err(Problems(problems))
    }
}

impl Resolver<'_> {
    fn wrong<T>(&mut self, at: &Spanned<T>, path: &str, message: impl Into<String>) {
        let problem = Problem::new(path, message).at(self.text, at.span().start);
        self.problems.push(problem);
    }

    fn wrong_with<T>(&mut self, at: &Spanned<T>, path: &str, message: String, help: String) {
        let problem = Problem::new(path, message).at(self.text, at.span().start);
        self.problems.push(problem.help(help));
    }

    /// What `from` names could not be read.
    fn unread(&mut self, from: &Spanned<String>, path: &str, why: &str) {
        let message = match self.names_keys {
            true => why.to_owned(),
            false => format!("{}: {why}", from.get_ref()),
        };
        self.wrong(from, path, message);
    }

    /// Whether `name` stands among `known`; if not, that is a problem.
    fn refers<'k>(
        &mut self,
        name: &Spanned<String>,
        path: &str,
        what: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> bool {
        let wanted = name.get_ref().as_str();
        if known.clone().any(|k| k == wanted) {
            return true;
        }
        let help = match nearest(wanted, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add [{what}s.{wanted}]"),
        };
        self.wrong_with(name, path, format!("there is no {what} `{wanted}`"), help);
        false
    }

    fn within<T>(&mut self, at: &Spanned<T>, path: &str, n: u64, min: u64, max: u64) -> bool {
        let fits = (min..=max).contains(&n);
        if !fits {
            self.wrong(at, path, format!("{n} is out of range: {min} to {max}"));
        }
        fits
    }

    fn label(&mut self, name: &Spanned<String>, path: &str, what: &str) {
        // Instances, nodes and regions share one grammar: that of a DNS label.
        if !InstanceId::is_valid(name.get_ref()) {
            self.wrong(
                name,
                path,
                format!(
                    "the name of a {what} has 1 to 63 characters of a-z, 0-9 and -, a letter first"
                ),
            );
        }
    }
}

fn names<V>(tables: &BTreeMap<Spanned<String>, V>) -> Vec<&str> {
    tables.keys().map(|name| name.get_ref().as_str()).collect()
}
