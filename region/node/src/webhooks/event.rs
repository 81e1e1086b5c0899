//! What a receiver is sent: events as JSON, made of the log's records of sessions.

use std::collections::BTreeSet;

use gb6_core_model::{Position, WebhookEvent};
use gb6_core_wire::record::{BodyError, Record, SessionBody, SessionBodyError, SessionEvent};
use serde::Serialize;

use crate::bodies::RecordKeys;

/// One event, as it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Event {
    /// The same in every repetition.
    pub(super) id: String,
    /// What happened.
    #[serde(rename = "type", serialize_with = "name")]
    pub(super) what: WebhookEvent,
    pub(super) instance: String,
    /// Empty: an anonymous person.
    pub(super) user: String,
    /// The connection's client id.
    pub(super) client: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) channel: String,
    pub(super) code: u32,
    pub(super) reason: String,
    /// Unix ms.
    pub(super) time: i64,
    /// Where its record lies.
    #[serde(skip)]
    pub(super) position: Position,
}

fn name<S: serde::Serializer>(event: &WebhookEvent, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(event.name())
}

/// Why a record of a session makes no event.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoEvent {
    /// Its key is gone, or it is damaged.
    #[error(transparent)]
    Sealed(#[from] BodyError),
    /// Its body is none.
    #[error(transparent)]
    Body(#[from] SessionBodyError),
    /// It is of a kind that a newer version tells, or says of nobody.
    #[error("it tells nothing that is known here")]
    Unknown,
}

impl Event {
    /// The event that `record` tells.
    pub(super) fn of(mut record: Record, keys: &RecordKeys) -> Result<Self, NoEvent> {
        keys.open(&mut record)?;
        let body = SessionBody::parse(&record.body)?;
        let what = match body.event() {
            SessionEvent::Disconnect => WebhookEvent::Disconnect,
            SessionEvent::Unsubscribe => WebhookEvent::Unsubscribe,
            SessionEvent::Unspecified => return Err(NoEvent::Unknown),
        };
        let id = body.event_id(&record).ok_or(NoEvent::Unknown)?;
        let origin = record.origin.ok_or(NoEvent::Unknown)?;
        Ok(Self {
            id,
            what,
            instance: record.instance,
            user: origin.user,
            client: origin.client,
            channel: body.channel,
            code: body.code,
            reason: body.reason,
            time: record.time,
            position: record.position,
        })
    }
}

/// The body of a request that tells those of `events` that are wanted; `None` where none is.
pub(super) fn request_body<'e>(
    events: impl Iterator<Item = &'e Event>,
    wanted: &BTreeSet<WebhookEvent>,
) -> Option<(Vec<u8>, usize)> {
    #[derive(Serialize)]
    struct Body<'e> {
        events: Vec<&'e Event>,
    }
    let events: Vec<_> = events.filter(|e| wanted.contains(&e.what)).collect();
    let count = events.len();
    let body = serde_json::to_vec(&Body { events });
    (count > 0).then(|| (body.unwrap_or_default(), count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::record::{Kind, Origin};
    use prost::Message as _;

    fn record(body: &SessionBody) -> Record {
        Record {
            kind: Kind::Session.into(),
            instance: "demo".into(),
            channel: "#al\"ice".into(),
            position: 9,
            time: 1_700_000_000_123,
            origin: Some(Origin {
                user: "al\"ice".into(),
                client: "c-1".into(),
                edge_incarnation: 0xab,
                session: 7,
                number: 3,
                ..Origin::default()
            }),
            body: body.encode_to_vec().into(),
            ..Record::default()
        }
    }

    #[test]
    fn golden() {
        let keys = RecordKeys::default();
        let left = record(&SessionBody {
            event: SessionEvent::Unsubscribe.into(),
            channel: "room:1".into(),
            code: 2000,
            reason: "bye".into(),
            ..SessionBody::default()
        });
        let ended = record(&SessionBody {
            event: SessionEvent::Disconnect.into(),
            code: 3000,
            ..SessionBody::default()
        });
        let events = [left, ended].map(|record| Event::of(record, &keys).unwrap());
        let all = WebhookEvent::ALL.iter().copied().collect();
        let (body, count) = request_body(events.iter(), &all).unwrap();
        assert_eq!(count, 2);
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"events\":[{\"id\":\"00000000000000ab-7-u3\",\"type\":\"unsubscribe\",\
             \"instance\":\"demo\",\"user\":\"al\\\"ice\",\"client\":\"c-1\",\"channel\":\"room:1\",\
             \"code\":2000,\"reason\":\"bye\",\"time\":1700000000123},\
             {\"id\":\"00000000000000ab-7-d\",\"type\":\"disconnect\",\"instance\":\"demo\",\
             \"user\":\"al\\\"ice\",\"client\":\"c-1\",\"code\":3000,\"reason\":\"\",\
             \"time\":1700000000123}]}"
        );
        let ends = BTreeSet::from([WebhookEvent::Disconnect]);
        assert_eq!(request_body(events.iter(), &ends).unwrap().1, 1);
        assert_eq!(request_body(events[..1].iter(), &ends), None);
    }

    #[test]
    fn what_can_not_be_told_is_an_error_and_no_event() {
        let keys = RecordKeys::default();
        let unknown = SessionBody {
            event: 99,
            ..SessionBody::default()
        };
        assert!(matches!(
            Event::of(record(&unknown), &keys),
            Err(NoEvent::Unknown)
        ));
        let ended = SessionBody {
            event: SessionEvent::Disconnect.into(),
            ..SessionBody::default()
        };
        let nobody = Record {
            origin: None,
            ..record(&ended)
        };
        assert!(matches!(Event::of(nobody, &keys), Err(NoEvent::Unknown)));
        let destroyed = Record {
            key_id: 3,
            ..record(&ended)
        };
        assert!(matches!(
            Event::of(destroyed, &keys),
            Err(NoEvent::Sealed(_))
        ));
        let damaged = Record {
            body: vec![0xff; 9].into(),
            ..record(&ended)
        };
        assert!(matches!(Event::of(damaged, &keys), Err(NoEvent::Body(_))));
    }
}
