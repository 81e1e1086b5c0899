//! Which engine a port has: one word or one URI, or a list of URIs. They may carry a password and are never
//! shown whole.

use std::fmt;

use serde::{Deserialize, Serialize, de};

use super::key::Value;

/// An engine as the configuration names it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoreUri(pub(crate) String);

impl StoreUri {
    /// What stands before the first `:`, or all of it.
    pub(crate) fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// The same without what is secret in it.
    pub(crate) fn masked(&self) -> Self {
        Self(self.to_string())
    }
}

impl From<&str> for StoreUri {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Without its password, and without the values of parameters that are named like secrets. A password
/// ends at the last `@`, whatever else is in it.
impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_str();
        if let Some((scheme, behind)) = rest.split_once("://") {
            write!(f, "{scheme}://")?;
            rest = behind;
        }
        if let Some((who, behind)) = rest.rsplit_once('@') {
            let user = who.split(':').next().unwrap_or_default();
            write!(f, "{user}:***@")?;
            rest = behind;
        }
        let Some((place, query)) = rest.split_once('?') else {
            return f.write_str(rest);
        };
        f.write_str(place)?;
        for (n, pair) in query.split('&').enumerate() {
            f.write_str(if n == 0 { "?" } else { "&" })?;
            match pair.split_once('=') {
                Some((name, _)) if is_secret(name) => write!(f, "{name}=***")?,
                _ => f.write_str(pair)?,
            }
        }
        Ok(())
    }
}

/// Whether a parameter of this name is a secret: the name of a file is none.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file")
        && ["password", "secret", "key", "token"]
            .iter()
            .any(|word| name.contains(word))
}

impl fmt::Debug for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Value for StoreUri {
    const KIND: &'static str = "engine";

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.0.clone())
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        Ok(toml::Value::String(text.to_owned()))
    }
}

/// Several databases; a file may write one alone without brackets.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct StoreUris(pub(crate) Vec<StoreUri>);

impl StoreUris {
    /// The same without what is secret in them.
    pub(crate) fn masked(&self) -> Self {
        Self(self.0.iter().map(StoreUri::masked).collect())
    }
}

impl<'de> Deserialize<'de> for StoreUris {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> de::Visitor<'de> for OneOrMore {
            type Value = StoreUris;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the URI of a database, or a list of them")
            }

            fn visit_str<E: de::Error>(self, uri: &str) -> Result<StoreUris, E> {
                Ok(StoreUris(vec![uri.into()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<StoreUris, A::Error> {
                let mut uris = Vec::new();
                while let Some(uri) = list.next_element()? {
                    uris.push(uri);
                }
                Ok(StoreUris(uris))
            }
        }
        d.deserialize_any(OneOrMore)
    }
}

impl Value for StoreUris {
    // A URI may name several hosts, with commas between them.
    const KIND: &'static str = "engines, separated by spaces";

    fn to_toml(&self) -> toml::Value {
        toml::Value::Array(self.0.iter().map(Value::to_toml).collect())
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        let uris = text.split_whitespace().map(StoreUri::from).collect();
        Ok(Self(uris).to_toml())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (given, shown) in [
            ("embedded", "embedded"),
            ("sqlite:/var/lib/map.db", "sqlite:/var/lib/map.db"),
            ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
            (
                "postgres://gb6:hunter2@h1:5432,h2:5432/gb6?sslmode=require",
                "postgres://gb6:***@h1:5432,h2:5432/gb6?sslmode=require",
            ),
            (
                "postgres://gb6:p@s?s/w@rd@h1/gb6",
                "postgres://gb6:***@h1/gb6",
            ),
            (
                "s3://media/eu?access_key=AKIA&secret_access_key=x&secret_file=/run/s&path_style=true",
                "s3://media/eu?access_key=***&secret_access_key=***&secret_file=/run/s&path_style=true",
            ),
            ("kafka://k:9092?password=a", "kafka://k:9092?password=***"),
        ] {
            let uri = StoreUri::from(given);
            assert_eq!(uri.to_string(), shown);
            assert_eq!(format!("{uri:?}"), format!("{shown:?}"));
        }
        let several = StoreUris(vec!["postgres://a:b@h1,h2/gb6".into(), "sqlite:x".into()]);
        assert!(!format!("{several:?}{:?}", several.masked().to_toml()).contains(":b@"));
        assert_eq!(StoreUri::from("redis://h").scheme(), "redis");
        assert_eq!(StoreUri::from("embedded").scheme(), "embedded");
    }

    #[test]
    fn a_list_of_databases_may_be_one() {
        #[derive(Deserialize)]
        struct File {
            directory: StoreUris,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.directory);
        let one = StoreUris(vec!["sqlite:x".into()]);
        assert_eq!(read("directory = \"sqlite:x\"").unwrap(), one);
        assert_eq!(read("directory = [\"sqlite:x\"]").unwrap(), one);
        let said = read("directory = 5").unwrap_err().to_string();
        assert!(
            said.contains("the URI of a database, or a list of them"),
            "{said}"
        );
        // Hosts of one URI have commas between them.
        let two = StoreUris::from_text(" postgres://h1,h2/a  sqlite:x ").unwrap();
        let want = StoreUris(vec!["postgres://h1,h2/a".into(), "sqlite:x".into()]);
        assert_eq!(two, want.to_toml());
    }
}
