//! Reading the JSON dialect: commands separated by newlines, keys in any order, unknown fields
//! passed over, data kept as the JSON text that the client wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use gb6_core_model::limits::{COMMAND_BYTES_MAX, JSON_DEPTH_MAX};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::data::json_depth_within;
use super::{
    CONNECT_HEADERS_MAX, CONNECT_SUBS_MAX, CodecError, Command, EmulationRequest, FilterNode,
    JsonProblem, Reply,
};

/// See [`super::decode_replies`].
pub(super) fn decode_replies(frame: &[u8]) -> Result<Vec<Reply>, CodecError> {
    let lines = frame.trim_ascii_end().split(|b| *b == b'\n').enumerate();
    lines
        .map(|(index, line)| {
            let text = std::str::from_utf8(line).map_err(|_| CodecError::NotUtf8 { index })?;
            parse(index, text)
        })
        .collect()
}

/// One line of a frame. See [`super::Commands`].
pub(super) fn decode_command(index: usize, line: &[u8]) -> Result<Command, CodecError> {
    let text = std::str::from_utf8(line).map_err(|_| CodecError::NotUtf8 { index })?;
    if text.trim_ascii().is_empty() {
        return Err(CodecError::BlankLine { index });
    }
    if line.len() > COMMAND_BYTES_MAX && !parse::<Probe>(index, text)?.is_connect() {
        return Err(CodecError::CommandTooLarge {
            index,
            bytes: line.len(),
            max: COMMAND_BYTES_MAX,
        });
    }
    let command: Command = parse(index, text)?;
    if !data_fields(&command).all(|data| json_depth_within(data, JSON_DEPTH_MAX)) {
        return Err(CodecError::TooDeep {
            index,
            max: JSON_DEPTH_MAX,
        });
    }
    Ok(command)
}

/// Tells, without keeping anything, whether a large command is a `connect`: only that one may be
/// as large as the frame.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    connect: Option<IgnoredAny>,
}

impl Probe {
    fn is_connect(&self) -> bool {
        self.connect.is_some()
    }
}

/// Every field of a command that holds the client's own JSON.
fn data_fields(command: &Command) -> impl Iterator<Item = &Bytes> {
    let connect = command.connect.iter().map(|c| &c.data);
    let subs = command.connect.iter().flat_map(|c| c.subs.values());
    let subscribe = command.subscribe.as_deref().into_iter().chain(subs);
    connect
        .chain(subscribe.flat_map(|s| [&s.data, &s.tf]))
        .chain(command.publish.iter().map(|p| &p.data))
        .chain(command.send.iter().map(|s| &s.data))
        .chain(command.rpc.iter().map(|r| &r.data))
}

/// See [`super::decode_emulation`].
pub(super) fn decode_emulation(body: &[u8]) -> Result<EmulationRequest, CodecError> {
    #[derive(Deserialize)]
    struct Request {
        session: String,
        node: String,
        data: String,
    }
    let text = std::str::from_utf8(body).map_err(|_| CodecError::NotUtf8 { index: 0 })?;
    let request: Request = parse(0, text)?;
    Ok(EmulationRequest {
        node: request.node,
        session: request.session,
        data: request.data.into(),
    })
}

/// See [`super::decode_filter`].
pub(super) fn decode_filter(tf: &[u8]) -> Result<Option<FilterNode>, CodecError> {
    let text = std::str::from_utf8(tf).map_err(|_| CodecError::NotUtf8 { index: 0 })?;
    parse(0, text)
}

/// serde_json's own bound on recursion (128) holds for everything typed; what is kept raw or passed
/// over is scanned without recursion.
/// One JSON value and nothing behind it.
pub(super) fn parse<T: DeserializeOwned>(index: usize, text: &str) -> Result<T, CodecError> {
    serde_json::from_str(text).map_err(|error| CodecError::Json {
        index,
        column: error.column(),
        problem: match error.classify() {
            serde_json::error::Category::Eof => JsonProblem::Eof,
            serde_json::error::Category::Data => JsonProblem::Field,
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                JsonProblem::Syntax
            }
        },
    })
}

/// A field in which `null` counts as absent.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A field that holds any JSON value, kept as its text.
pub(super) fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?;
    Ok(Bytes::copy_from_slice(value.get().as_bytes()))
}

/// As [`raw`], where `null` says that there is nothing.
pub(super) fn raw_or_absent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let value = raw(deserializer)?;
    Ok(if value == "null" { Bytes::new() } else { value })
}

/// The map `subs` of a `connect`.
pub(super) fn bounded_map<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_option(BoundedMap {
        max: CONNECT_SUBS_MAX,
        value: PhantomData,
    })
}

/// The map `headers` of a `connect`.
pub(super) fn bounded_names<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_option(BoundedMap {
        max: CONNECT_HEADERS_MAX,
        value: PhantomData,
    })
}

/// Reads a map, or `null` as an empty one, and stops at a bound.
struct BoundedMap<V> {
    max: usize,
    value: PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for BoundedMap<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {} entries", self.max)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = access.next_entry()? {
            map.insert(name, value);
            if map.len() > self.max {
                return Err(A::Error::invalid_length(map.len(), &self));
            }
        }
        Ok(map)
    }
}
