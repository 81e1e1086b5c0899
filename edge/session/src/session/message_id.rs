//! The message id that a plain publish carries in its data, where the namespace names a field for
//! it (`dedupe_field`).

use std::borrow::Cow;
use std::fmt;

use gb6_core_model::{ErrorCode, limits};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The id in the field `field` of `data`; `None`: data is no JSON object, or has no such field, or
/// it is `null`.
///
/// # Errors
/// 107: the field is neither a string nor an integer, or has not 1 to 128 bytes. To write such a
/// message without its id would write it twice some day.
pub(super) fn in_data(data: &[u8], field: &str) -> Result<Option<String>, ErrorCode> {
    let mut json = serde_json::Deserializer::from_slice(data);
    let found = json.deserialize_map(Field(field));
    let (Ok(found), Ok(())) = (found, json.end()) else {
        return Ok(None);
    };
    let Some(value) = found.map(RawValue::get).filter(|v| *v != "null") else {
        return Ok(None);
    };
    let id = match value.as_bytes() {
        [b'"', ..] => serde_json::from_str::<Cow<'_, str>>(value).ok(),
        [b'-', digits @ ..] | digits if digits.iter().all(u8::is_ascii_digit) => {
            Some(Cow::Borrowed(value))
        }
        _ => None,
    };
    let fits = |id: &Cow<'_, str>| (1..=limits::MESSAGE_ID_BYTES_MAX).contains(&id.len());
    let id = id.filter(fits).ok_or(ErrorCode::BadRequest)?;
    Ok(Some(id.into_owned()))
}

/// Reads one field of an object; of several of the same name the last, as JSON parsers do.
struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == self.0 {
                found = Some(map.next_value::<&RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strings_or_integers() {
        let long = "x".repeat(129);
        for (data, want) in [
            (r#"{"id":"m1","text":"a"}"#.to_owned(), Ok(Some("m1"))),
            (r#"{"text":{"id":"inner"},"id":17}"#.into(), Ok(Some("17"))),
            (r#" {"id": -17 } "#.into(), Ok(Some("-17"))),
            (r#"{"id":"a\u00e4\"b"}"#.into(), Ok(Some("a\u{e4}\"b"))),
            (r#"{"\u0069d":"m1"}"#.into(), Ok(Some("m1"))),
            (r#"{"id":"m1","id":"m2"}"#.into(), Ok(Some("m2"))),
            (
                format!(r#"{{"id":"{}"}}"#, &long[..128]),
                Ok(Some(&long[..128])),
            ),
            (r#"{"text":"a"}"#.into(), Ok(None)),
            (r#"{"id":null}"#.into(), Ok(None)),
            (r#"["id","m1"]"#.into(), Ok(None)),
            (r#""id""#.into(), Ok(None)),
            ("\u{1}\u{2}".into(), Ok(None)),
            (String::new(), Ok(None)),
            (r#"{"id":"m1"} x"#.into(), Ok(None)),
            (r#"{"id":""}"#.into(), Err(ErrorCode::BadRequest)),
            (r#"{"id":1.5}"#.into(), Err(ErrorCode::BadRequest)),
            (r#"{"id":1e3}"#.into(), Err(ErrorCode::BadRequest)),
            (r#"{"id":true}"#.into(), Err(ErrorCode::BadRequest)),
            (r#"{"id":{"a":1}}"#.into(), Err(ErrorCode::BadRequest)),
            (format!(r#"{{"id":"{long}"}}"#), Err(ErrorCode::BadRequest)),
            (
                format!(r#"{{"id":{}}}"#, "1".repeat(129)),
                Err(ErrorCode::BadRequest),
            ),
        ] {
            let got = in_data(data.as_bytes(), "id");
            assert_eq!(
                got.as_ref().map(|id| id.as_deref()),
                want.as_ref().map(|id| *id),
                "{data}"
            );
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = format!(
            "{{\"a\":{}1{},\"id\":7}}",
            "[".repeat(30_000),
            "]".repeat(30_000)
        );
        assert_eq!(in_data(deep.as_bytes(), "id"), Ok(Some("7".into())));
    }
}
