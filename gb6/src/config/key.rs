//! What a configuration key is: its name, its words, its default, and how a flag's or variable's
//! text becomes its value. The structures, the examples, the flags and the documentation all come
//! from one list of keys, so that they can not disagree.

use std::net::SocketAddr;

use gb6_geo_config_plan::{Bytes, Millis};

use super::address::MaybeAddress;

/// One key of a configuration file.
#[derive(Clone)]
pub(crate) struct Key {
    /// The table that it stands in; empty: the top of the file.
    pub(crate) section: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// What it is, with its unit; several lines.
    pub(crate) doc: &'static str,
    /// Its default.
    pub(crate) default: toml::Value,
    /// What kind of value it takes, for the help.
    pub(crate) kind: &'static str,
    /// Reads the text of a flag or variable.
    pub(crate) from_text: fn(&str) -> Result<toml::Value, String>,
}

impl Key {
    /// Where it stands: `mesh.listen`.
    pub(crate) fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// The flag that overrides it, without the dashes: `mesh-listen`.
    pub(crate) fn flag(&self) -> String {
        self.path().replace(['.', '_'], "-")
    }

    /// The environment variable that overrides it: `GB6_MESH_LISTEN`.
    pub(crate) fn variable(&self) -> String {
        format!("GB6_{}", self.path().replace('.', "_").to_uppercase())
    }
}

/// A table of a configuration file.
#[derive(Clone)]
pub(crate) struct Section {
    /// Its name; empty: the top of the file.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) doc: &'static str,
    /// Its keys.
    pub(crate) keys: Vec<Key>,
}

/// A structure whose keys are known.
pub(crate) trait Keys {
    /// Its own keys, and those of the tables in it.
    fn sections(name: &'static str, doc: &'static str) -> Vec<Section>;
}

/// A type that a key's value may have.
pub(crate) trait Value: Sized {
    /// What it is called in the help.
    const KIND: &'static str;
    /// The value as TOML.
    fn to_toml(&self) -> toml::Value;
    /// A flag's or variable's text as TOML, checked.
    fn from_text(text: &str) -> Result<toml::Value, String>;
}

macro_rules! from_str_value {
    ($($type:ty, $kind:literal, $example:literal;)+) => {$(
        impl Value for $type {
            const KIND: &'static str = $kind;
            fn to_toml(&self) -> toml::Value {
                toml::Value::String(self.to_string())
            }
            fn from_text(text: &str) -> Result<toml::Value, String> {
                text.parse::<$type>()
                    .map(|value| value.to_toml())
                    .map_err(|e| format!("`{text}` is no {} as in {}: {e}", $kind, $example))
            }
        }
    )+};
}

from_str_value! {
    SocketAddr, "address", "127.0.0.1:8080";
    MaybeAddress, "address", "127.0.0.1:8443";
    Millis, "duration", "10s";
    Bytes, "size", "64KiB";
}

impl Value for String {
    const KIND: &'static str = "text";

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        Ok(toml::Value::String(text.to_owned()))
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";

    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        match text {
            "true" | "1" | "yes" => Ok(toml::Value::Boolean(true)),
            "false" | "0" | "no" => Ok(toml::Value::Boolean(false)),
            other => Err(format!("`{other}` is neither true nor false")),
        }
    }
}

impl Value for u32 {
    const KIND: &'static str = "number";

    fn to_toml(&self) -> toml::Value {
        toml::Value::Integer(i64::from(*self))
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        text.parse::<u32>()
            .map(|n| n.to_toml())
            .map_err(|_| format!("`{text}` is no whole number"))
    }
}

impl Value for Vec<String> {
    const KIND: &'static str = "list, separated by commas";

    fn to_toml(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Value::to_toml).collect())
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        Ok(items.map(str::to_owned).collect::<Vec<_>>().to_toml())
    }
}

/// Defines a structure of configuration: fields with their documentation and default, then tables.
macro_rules! config {
    (
        $(#[doc = $about:literal])+
        pub(crate) struct $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)*
            $(@tables $($(#[doc = $table_doc:literal])+ $table:ident: $table_type:ty,)+)?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $($(#[doc = $doc])+ pub(crate) $key: $type,)*
            $($($(#[doc = $table_doc])+ pub(crate) $table: $table_type,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($key: $default,)*
                    $($($table: <$table_type>::default(),)+)?
                }
            }
        }

        impl $crate::config::key::Keys for $name {
            fn sections(
                name: &'static str,
                doc: &'static str,
            ) -> Vec<$crate::config::key::Section> {
                let keys = vec![$($crate::config::key::Key {
                    section: name,
                    name: stringify!($key),
                    doc: concat!($($doc, "\n",)+),
                    default: {
                        let default: $type = $default;
                        $crate::config::key::Value::to_toml(&default)
                    },
                    kind: <$type as $crate::config::key::Value>::KIND,
                    from_text: <$type as $crate::config::key::Value>::from_text,
                },)*];
                #[allow(unused_mut, reason = "a structure without tables adds nothing")]
                let mut sections = vec![$crate::config::key::Section { name, doc, keys }];
                $($(sections.extend(<$table_type as $crate::config::key::Keys>::sections(
                    stringify!($table),
                    concat!($($table_doc, "\n",)+),
                ));)+)?
                sections
            }
        }
    };
}

pub(crate) use config;
