//! From a file, variables and flags to one checked structure.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gb6_geo_config_plan::{Problem, Problems, parse_toml_without};

use super::key::Key;
use super::overrides::Overrides;
use super::roles::RoleFile;

/// Largest configuration file in bytes: that of a snapshot file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file can not be read.
    #[error("the configuration {path} can not be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{}", InFile { path, problems })]
    File {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Problems,
    },
    /// A flag or variable has no good value.
    #[error("{origin}: {why}")]
    Override {
        /// Which one.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// The values do not go together.
    #[error("{}", problems.join("\n"))]
    Values {
        /// What is wrong, each with its key.
        problems: Vec<String>,
    },
}

impl ConfigError {
    /// Why a file can not be read, without its name; for the others, all of it.
    pub(super) fn reason(&self) -> String {
        match self {
            ConfigError::Read { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

/// Problems of a file, each with its path.
struct InFile<'a> {
    path: &'a Path,
    problems: &'a Problems,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.0.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            write!(f, "{newline}{}: {problem}", self.path.display())?;
        }
        Ok(())
    }
}

/// The configuration of a role: the defaults, over them `file`, over it `overrides`, checked.
///
/// # Errors
/// Whatever is wrong, said with the file and line, flag or variable that it came from.
pub(crate) fn load<F: RoleFile>(
    file: Option<&Path>,
    overrides: &Overrides<F>,
) -> Result<F, ConfigError> {
    let written = match file {
        None => F::default(),
        Some(path) => {
            let text = read_text(path)?;
            parse_role::<F>(&text).map_err(|problems| ConfigError::File {
                path: path.to_path_buf(),
                problems,
            })?
        }
    };
    layer(&written, file, overrides)
}

/// The text of a configuration file.
///
/// # Errors
/// It can not be read, or is too large for one.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let mut text = String::new();
        let mut file = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1);
        file.read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(text)
    };
    read().map_err(|source| ConfigError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// What `file` has written with `overrides` over it, checked.
pub(super) fn layer<F: RoleFile>(
    written: &F,
    file: Option<&Path>,
    overrides: &Overrides<F>,
) -> Result<F, ConfigError> {
    let config = apply(written, overrides)?;
    let problems = config.problems();
    if problems.is_empty() {
        return Ok(config);
    }
    let shown = |(key, why): (&'static str, String)| {
        let source = overrides.given.get(key).map(|given| given.source.clone());
        match (source, file) {
            (Some(source), _) => format!("{source}: {why}"),
            (None, Some(path)) => format!("{}: {key}: {why}", path.display()),
            (None, None) => format!("{key}: {why}"),
        }
    };
    Err(ConfigError::Values {
        problems: problems.into_iter().map(shown).collect(),
    })
}

/// Reads the text of a role's file.
pub(crate) fn parse_role<F: RoleFile>(text: &str) -> Result<F, Problems> {
    parse_toml_without(text, F::OTHER_TABLES)
}

fn apply<F: RoleFile>(written: &F, overrides: &Overrides<F>) -> Result<F, ConfigError> {
    let broken = |e: &dyn fmt::Display| ConfigError::Values {
        problems: vec![Problem::new("", e.to_string()).to_string()],
    };
    let mut table = toml::Table::try_from(written).map_err(|e| broken(&e))?;
    let keys: Vec<Key> = F::sections("", "")
        .into_iter()
        .flat_map(|s| s.keys)
        .collect();
    for key in &keys {
        let Some(given) = overrides.given.get(&key.path()) else {
            continue;
        };
        let value = (key.from_text)(&given.text).map_err(|why| ConfigError::Override {
            origin: given.source.clone(),
            why,
        })?;
        let section = match key.section {
            "" => &mut table,
            section => match table.get_mut(section).and_then(toml::Value::as_table_mut) {
                Some(section) => section,
                None => continue,
            },
        };
        section.insert(key.name.to_owned(), value);
    }
    let name = table.get("name").and_then(toml::Value::as_str);
    if let Some(name) = name.map(str::to_owned) {
        for (_, value) in table.iter_mut() {
            name_it(value, &name);
        }
    }
    table.try_into().map_err(|e| broken(&e))
}

/// Puts the node's name where a text says `{name}`.
fn name_it(value: &mut toml::Value, name: &str) {
    match value {
        toml::Value::String(text) => *text = text.replace("{name}", name),
        toml::Value::Array(items) => items.iter_mut().for_each(|item| name_it(item, name)),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, item)| name_it(item, name)),
        _ => {}
    }
}
