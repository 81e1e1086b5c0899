//! What one connection is given and spared, by what its connect command says of the client.

use gb6_core_wire::client::{ConnectRequest, Dialect};
use serde::Deserialize;

/// Names of SDKs that find a channel by its number in Protobuf. The one for JavaScript compares
/// 64-bit numbers as objects, which are never the same, and drops what it was sent (5.8.0 in Node);
/// applications may give it any name, so that only those that are known are trusted.
const COMPACT_IN_PROTOBUF: [&str; 6] = ["csharp", "dart", "go", "java", "python", "swift"];

/// The options of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Options {
    /// Publications of this connection are not delivered to itself.
    pub(super) exclude_own: bool,
    /// Numbers may stand for the names of channels, where they are asked for.
    pub(super) compact: bool,
}

impl Options {
    /// Those of a connection that begins with this command.
    pub(super) fn of(connect: &ConnectRequest, dialect: Dialect) -> Self {
        let known = COMPACT_IN_PROTOBUF.contains(&connect.name.as_str());
        Self {
            exclude_own: asked(&connect.data).exclude_own,
            compact: dialect == Dialect::Json || known,
        }
    }
}

/// What a client asks of GB6 itself in the data of its connect command, which every SDK lets an
/// application set: `{"gb6": {"exclude_own": true}}` beside whatever else stands there.
#[derive(Deserialize, Default)]
struct Asked {
    #[serde(default)]
    exclude_own: bool,
}

/// What `data` ask for; the application's own data, whatever they are, ask for nothing.
fn asked(data: &[u8]) -> Asked {
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        gb6: Asked,
    }
    serde_json::from_slice(data).map_or_else(|_| Asked::default(), |data: Data| data.gb6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for() {
        let of = |data: &str| asked(data.as_bytes()).exclude_own;
        assert!(of(r#"{"gb6":{"exclude_own":true}}"#));
        assert!(of(
            r#"{"app":[1,{"gb6":1}],"gb6":{"exclude_own":true,"later":1}}"#
        ));
        for data in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"gb6":{}}"#,
            r#"{"gb6":null}"#,
            r#"{"gb6":{"exclude_own":false}}"#,
            r#"{"gb6":{"exclude_own":1}}"#,
            r#"{"app":{"gb6":{"exclude_own":true}}}"#,
            "\u{1}binary",
        ] {
            assert!(!of(data), "{data}");
        }
    }

    #[test]
    fn numbers_where_the_sdk_finds_channels_by_them() {
        let compact = |name: &str, dialect| {
            let connect = ConnectRequest {
                name: name.into(),
                ..ConnectRequest::default()
            };
            Options::of(&connect, dialect).compact
        };
        for name in ["", "js", "an app", "python"] {
            assert!(compact(name, Dialect::Json));
            assert_eq!(compact(name, Dialect::Protobuf), name == "python");
        }
    }
}
