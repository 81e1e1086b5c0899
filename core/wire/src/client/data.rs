//! The rule by which data shows in JSON: as it is when it is JSON that every SDK can parse, else
//! in base 64 as `{"b64":"…"}`. So JSON and Protobuf clients share rooms.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gb6_core_model::limits::JSON_DEPTH_MAX;
use serde::de::IgnoredAny;

use crate::record::ContentType;

/// How data shows in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JsonData {
    /// As it is.
    Raw,
    /// As `{"b64":"…"}`.
    Base64,
}

/// How `data` shows in JSON. [`ContentType::Json`] is trusted, since that was checked when the data
/// came in; anything else is JSON if it parses, whatever it is called, so that live and stored
/// publications always show the same.
pub fn json_data_kind(data: &[u8], content_type: ContentType) -> JsonData {
    let is_json = content_type == ContentType::Json
        || (json_depth_within(data, JSON_DEPTH_MAX)
            && std::str::from_utf8(data)
                .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()));
    if is_json {
        JsonData::Raw
    } else {
        JsonData::Base64
    }
}

/// The JSON value that stands for `data` in one line of a frame. Line breaks of pretty-printed JSON
/// are left out: they would end the line, and inside strings JSON has none.
pub fn json_value_of(data: &[u8], content_type: ContentType) -> Cow<'_, [u8]> {
    match json_data_kind(data, content_type) {
        JsonData::Raw if data.contains(&b'\n') || data.contains(&b'\r') => {
            let breaks = |b: &u8| matches!(b, b'\n' | b'\r');
            Cow::Owned(data.iter().copied().filter(|b| !breaks(b)).collect())
        }
        JsonData::Raw => Cow::Borrowed(data),
        JsonData::Base64 => {
            let mut text = String::with_capacity(data.len().div_ceil(3) * 4 + 10);
            text.push_str("{\"b64\":\"");
            STANDARD.encode_string(data, &mut text);
            text.push_str("\"}");
            Cow::Owned(text.into_bytes())
        }
    }
}

/// The JSON text that a subscription with deltas is given of `data`, inside a JSON string: that of
/// [`json_value_of`], and `null` for a publication without any (an erased one), so that there is
/// always a text to go on from.
pub fn json_text_of(data: &[u8], content_type: ContentType) -> Cow<'_, str> {
    let value = match data {
        [] => Cow::Borrowed(&b"null"[..]),
        data => json_value_of(data, content_type),
    };
    match value {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            // Called JSON and not even text: a defect of whoever wrote it.
            Err(_) => Cow::Owned(String::from_utf8_lossy(bytes).into_owned()),
        },
        Cow::Owned(bytes) => Cow::Owned(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
    }
}

/// Whether JSON text nests at most `max` deep: a scan without recursion, of any bytes.
pub fn json_depth_within(data: &[u8], max: usize) -> bool {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in data {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}
