//! An event as it is published: JSON, made of a record of the log (`docs/events.md`).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use gb6_core_model::hash::stream_epoch;
use gb6_core_model::{Channel, InstanceId, ShardId};
use gb6_core_ports::SinkEvent;
use gb6_core_wire::record::{BodyError, ContentType, Kind, Record};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::bodies::RecordKeys;

/// The version of the schema.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Event<'r> {
    v: u32,
    #[serde(rename = "type")]
    what: &'static str,
    instance: &'r str,
    channel: &'r str,
    epoch: String,
    /// Unix ms.
    time: i64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    target: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'r str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'r BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'r RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    encrypted: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The event that a record makes; `None` for one that is nobody's business outside.
///
/// # Errors
/// Its body can not be read: damaged, or sealed with a key that is gone.
pub(super) fn event_of(
    shard: ShardId,
    mut record: Record,
    keys: &RecordKeys,
) -> Result<Option<SinkEvent>, BodyError> {
    let what = match record.kind() {
        Kind::Message | Kind::Import => "message",
        Kind::Tombstone => "erase",
        Kind::Trim => "trim",
        _ => return Ok(None),
    };
    // The server's own channels are no room of anybody's.
    let known = Channel::parse(&record.channel);
    if !known.is_ok_and(|channel| !channel.is_system()) {
        return Ok(None);
    }
    let is_message = what == "message";
    let erased = record.flags & gb6_core_wire::record::flags::ERASED != 0;
    if is_message && !erased {
        keys.open(&mut record)?;
    }
    let instance = InstanceId::from(record.instance.as_str());
    let text = std::str::from_utf8(&record.body).ok();
    let json = text
        .filter(|_| record.content_type() != ContentType::Bytes)
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let origin = record.origin.as_ref();
    let event = Event {
        v: SCHEMA,
        what,
        instance: &record.instance,
        channel: &record.channel,
        epoch: stream_epoch(&instance, &record.channel, record.generation),
        time: record.time,
        offset: record.offset,
        target: record.target_offset,
        user: origin.map_or("", |origin| &origin.user),
        client: origin.map_or("", |origin| &origin.client),
        id: std::str::from_utf8(&record.client_id).unwrap_or_default(),
        tags: &record.tags,
        data: json.filter(|_| is_message && !erased),
        b64data: (is_message && !erased && json.is_none()).then(|| BASE64.encode(&record.body)),
        encrypted: record.content_type() == ContentType::EndToEnd,
        erased,
    };
    // Strings, numbers and JSON that was parsed: it can always be written.
    let value = serde_json::to_vec(&event).unwrap_or_default();
    Ok(Some(SinkEvent {
        shard,
        position: record.position,
        key: format!("{}/{}", record.instance, record.channel),
        value: Bytes::from(value),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::record::{Origin, flags};

    fn record(body: &'static str) -> Record {
        Record {
            kind: Kind::Message as i32,
            instance: "demo".into(),
            channel: "room:1".into(),
            offset: 7,
            position: 42,
            time: 1_700_000_000_000,
            origin: Some(Origin {
                user: "al\"ice".into(),
                client: "c1".into(),
                ..Origin::default()
            }),
            client_id: Bytes::from_static(b"m-1"),
            content_type: ContentType::Json as i32,
            body: Bytes::from_static(body.as_bytes()),
            ..Record::default()
        }
    }

    fn text(record: Record) -> String {
        let event = event_of(ShardId(3), record, &RecordKeys::default());
        let event = event.expect("readable").expect("an event");
        assert_eq!((event.shard.0, event.position), (3, 42));
        assert_eq!(event.key, "demo/room:1");
        String::from_utf8(event.value.to_vec()).expect("UTF-8")
    }

    #[test]
    fn golden() {
        let epoch = stream_epoch(&InstanceId::from("demo"), "room:1", 0);
        let head = format!(
            r#"{{"v":1,"type":"message","instance":"demo","channel":"room:1","epoch":"{epoch}","time":1700000000000,"offset":7"#
        );
        let from = r#""user":"al\"ice","client":"c1","id":"m-1""#;
        assert_eq!(
            text(record(r#"{"a":[1, 2]}"#)),
            format!(r#"{head},{from},"data":{{"a":[1, 2]}}}}"#)
        );
        let mut bytes = record("\u{7f}raw");
        bytes.content_type = ContentType::Bytes as i32;
        bytes.tags.insert("k".into(), "v".into());
        assert_eq!(
            text(bytes),
            format!(r#"{head},{from},"tags":{{"k":"v"}},"b64data":"f3Jhdw=="}}"#)
        );
        let mut sealed = record("opaque");
        sealed.content_type = ContentType::EndToEnd as i32;
        assert!(text(sealed).ends_with(r#","b64data":"b3BhcXVl","encrypted":true}"#));
        let mut gone = record("{}");
        gone.flags = flags::ERASED;
        assert!(text(gone).ends_with(r#","erased":true}"#));
        let mut erase = record("");
        erase.kind = Kind::Tombstone as i32;
        erase.offset = 0;
        erase.target_offset = 5;
        let text = text(erase);
        assert!(
            text.contains(r#""type":"erase""#) && text.contains(r#""target":5"#),
            "{text}"
        );
        assert!(!text.contains("data"), "{text}");
    }

    #[test]
    fn what_is_nobodys_business_makes_no_event() {
        let keys = RecordKeys::default();
        for kind in [
            Kind::Acquire,
            Kind::Session,
            Kind::Checkpoint,
            Kind::Control,
        ] {
            let mut record = record("{}");
            record.kind = kind as i32;
            assert_eq!(event_of(ShardId(3), record, &keys).expect("readable"), None);
        }
        for channel in ["!revocations", "$!x", ""] {
            let mut record = record("{}");
            record.channel = channel.into();
            assert_eq!(event_of(ShardId(3), record, &keys).expect("readable"), None);
        }
        let mut sealed = record("{}");
        sealed.key_id = 9;
        assert!(
            event_of(ShardId(3), sealed, &keys).is_err(),
            "its key is gone"
        );
    }
}
