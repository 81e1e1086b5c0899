//! Flags and environment variables for every key of a role's file.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::key::{Key, Value};
use super::roles::RoleFile;

/// What flags and variables say about the keys of `F`.
#[derive(Clone, Debug)]
pub(crate) struct Overrides<F> {
    /// By the key's path: where it was said, and the text.
    pub(crate) given: BTreeMap<String, Given>,
    file: PhantomData<F>,
}

/// One override.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    /// `--http` or `GB6_HTTP`.
    pub(crate) source: String,
    /// The text.
    pub(crate) text: String,
}

impl<F> Default for Overrides<F> {
    fn default() -> Self {
        Self {
            given: BTreeMap::new(),
            file: PhantomData,
        }
    }
}

fn keys<F: RoleFile>() -> impl Iterator<Item = Key> {
    F::sections("", "").into_iter().flat_map(|s| s.keys)
}

impl<F: RoleFile> FromArgMatches for Overrides<F> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in keys::<F>() {
            let path = key.path();
            let Some(text) = matches.get_one::<String>(&path) else {
                continue;
            };
            let source = match matches.value_source(&path) {
                Some(ValueSource::EnvVariable) => key.variable(),
                _ => format!("--{}", key.flag()),
            };
            let text = text.clone();
            self.given.insert(path, Given { source, text });
        }
        Ok(())
    }
}

impl<F: RoleFile> Args for Overrides<F> {
    fn augment_args(command: Command) -> Command {
        keys::<F>().fold(command, |command, key| {
            let help: Vec<&str> = key.doc.lines().map(str::trim).collect();
            let switch = key.kind == <bool as Value>::KIND;
            command.arg(
                Arg::new(key.path())
                    // `--tls` alone says what `--tls true` says.
                    .num_args(if switch { 0..=1 } else { 1..=1 })
                    .default_missing_value("true")
                    .long(key.flag())
                    .env(key.variable())
                    .hide_env_values(true)
                    .value_name(key.kind.to_uppercase())
                    .help(format!("{} [default: {}]", help.join(" "), key.default))
                    .help_heading("Keys of the configuration file"),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
