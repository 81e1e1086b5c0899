//! Settings and keys of one instance of a directory, by the rules of a file. Its region and its keys stand
//! beside the settings, and secrets are not among them: they are not sealed there.

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Instance, Key, KeyUse};
use toml::Spanned;

use super::Resolver;
use super::keys::{API_KEYS_MAX, CLIENT_KEYS_MAX};
use crate::directory::DirectoryKey;
use crate::file::{InstanceFile, SnapshotFile};
use crate::key_file::KeyFile;
use crate::problem::{Problem, Problems};
use crate::toml_text::parse_toml;

/// Something that was not written by a person, and so stands nowhere.
fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// Reads the settings of `instance`, a text with the keys of `[instances.NAME]`; it has no keys then.
/// `named` answers for the secrets that the settings name.
///
/// # Errors
/// Everything that is wrong with them.
pub(crate) fn read_settings_text(
    text: &str,
    instance: &InstanceId,
    region: &str,
    mut named: impl FnMut(&str) -> Result<String, String>,
) -> Result<Instance, Problems> {
    let mut written: InstanceFile = parse_toml(text).map_err(|found| within(instance, found))?;
    let file = SnapshotFile::default();
    let mut r = Resolver::new(text, &file, Some(region));
    r.names_keys = true;
    r.belongs_elsewhere(instance, &written);
    written.region = None;
    let name = unwritten(instance.to_string());
    let resolved = r.instance(&name, &written, &mut named);
    r.unless_wrong(resolved)
}

/// The same of a text that is all of an instance's.
fn within(instance: &InstanceId, mut found: Problems) -> Problems {
    for problem in &mut found.0 {
        problem.path = match problem.path.as_str() {
            "" => format!("instances.{instance}"),
            key => format!("instances.{instance}.{key}"),
        };
    }
    found
}

impl Resolver<'_> {
    /// What a file has in this table and a directory elsewhere.
    fn belongs_elsewhere(&mut self, instance: &InstanceId, written: &InstanceFile) {
        let path = |key: &str| format!("instances.{instance}.{key}");
        if let Some(region) = &written.region {
            self.wrong(
                region,
                &path("region"),
                "the region does not stand in the settings: it is chosen when the instance is added",
            );
        }
        let first = |start: Option<usize>| start.map(|at| Spanned::new(at..at, ()));
        for (key, at) in [
            ("keys", written.keys.first().map(|k| k.span().start)),
            (
                "hmac_secret",
                written.hmac_secret.as_ref().map(|s| s.0.span().start),
            ),
            (
                "hmac_secret_file",
                written.hmac_secret_file.as_ref().map(|s| s.span().start),
            ),
            (
                "public_keys",
                written.public_keys.first().map(|k| k.span().start),
            ),
            (
                "api_keys",
                written.api_keys.first().map(|k| k.0.span().start),
            ),
            (
                "api_key_files",
                written.api_key_files.first().map(|k| k.span().start),
            ),
        ] {
            if let Some(at) = first(at) {
                let message = "keys do not stand in the settings, which are not sealed".to_owned();
                let help = format!("add it with: gb6 ctl key add {instance}");
                self.wrong_with(&at, &path(key), message, help);
            }
        }
        let webhooks = written.webhooks.as_ref().map(Spanned::get_ref);
        if let Some(secret) = webhooks.and_then(|w| w.secret.as_ref()) {
            let message =
                "a secret does not stand in the settings, which are not sealed".to_owned();
            let help = format!(
                "add it with: gb6 ctl key add {instance} --use secret --id hooks, and name it with \
                 secret_file = \"hooks\""
            );
            self.wrong_with(&secret.0, &path("webhooks.secret"), message, help);
        }
    }
}

/// A key of `instance` as a snapshot has it.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read_key(
    instance: &InstanceId,
    key: &DirectoryKey,
    usage: KeyUse,
) -> Result<Key, Problems> {
    let file = SnapshotFile::default();
    let mut r = Resolver::new("", &file, None);
    let algorithm = match usage {
        KeyUse::Client => Some(unwritten(key.algorithm.name().to_owned())),
        KeyUse::Api => None,
    };
    let written = KeyFile {
        id: unwritten(key.id.clone()),
        usage,
        algorithm,
        secret: key.secret.clone().map(unwritten),
        secret_file: None,
        public_key: key.public_key.clone().map(unwritten),
        public_key_file: None,
    };
    let path = format!("instances.{instance}.keys.{}", key.id);
    let nothing = |_: &str| Err("a directory has no files".to_owned());
    let read = r.key(instance.as_str(), &path, &unwritten(written), &mut {
        nothing
    });
    match r.unless_wrong(read)? {
        Some(key) => Ok(key),
        None => Err(Problems(vec![Problem::new(path, "it is no key")])),
    }
}

/// Leaves out the keys, the last ones by id, that are more than an instance may have.
pub(crate) fn too_many_keys(instance: &InstanceId, keys: &mut Vec<Key>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (usage, max, what) in [
        (KeyUse::Client, CLIENT_KEYS_MAX, "keys of tokens"),
        (KeyUse::Api, API_KEYS_MAX, "keys of the server API"),
    ] {
        let mut count = 0;
        keys.retain(|key| {
            count += usize::from(key.usage == usage);
            key.usage != usage || count <= max
        });
        if count > max {
            let message = format!("an instance has at most {max} {what}, these are {count}");
            let problem = Problem::new(format!("instances.{instance}.keys"), message);
            problems.push(
                problem.help("the last ones by id are left out: revoke those that are not used"),
            );
        }
    }
    problems
}
