//! The body of a session's record: golden bytes, bounds, and the id of its event.

use gb6_core_wire::record::*;
use prost::Message as _;

use crate::client_golden::{hex, to_hex};

fn unsubscribe() -> SessionBody {
    SessionBody {
        event: SessionEvent::Unsubscribe.into(),
        channel: "room:1".into(),
        code: 2000,
        reason: "bye".into(),
        unknown: Vec::new(),
    }
}

fn record(session: u64, number: u64) -> Record {
    Record {
        kind: Kind::Session.into(),
        instance: "demo".into(),
        channel: "#alice".into(),
        origin: Some(Origin {
            user: "alice".into(),
            client: "c1".into(),
            edge_incarnation: 0xab,
            session,
            number,
            ..Origin::default()
        }),
        ..Record::default()
    }
}

#[test]
fn golden() {
    let bytes = "08021206726f6f6d3a3118d00f2203627965";
    assert_eq!(to_hex(&unsubscribe().encode_to_vec()), bytes);
    assert_eq!(SessionBody::parse(&hex(bytes)), Ok(unsubscribe()));
    assert!(!record(1, 1).takes_offset(), "clients never see it");
}

#[test]
fn what_a_newer_version_wrote_is_kept_and_what_is_no_body_is_refused() {
    let mut newer = unsubscribe().encode_to_vec();
    newer.extend(hex("a20601ff"));
    let read = SessionBody::parse(&newer).unwrap();
    assert_eq!(read.encode_to_vec(), newer);
    let unknown = SessionBody {
        event: 77,
        ..unsubscribe()
    };
    assert_eq!(unknown.event(), SessionEvent::Unspecified);
    let large = SessionBody {
        reason: "x".repeat(SESSION_BODY_BYTES_MAX),
        ..unsubscribe()
    };
    assert!(matches!(
        SessionBody::parse(&large.encode_to_vec()),
        Err(SessionBodyError::TooLarge { .. })
    ));
    assert!(matches!(
        SessionBody::parse(b"\xff\xff"),
        Err(SessionBodyError::Malformed(_))
    ));
}

#[test]
fn an_event_has_one_id() {
    let end = SessionBody {
        event: SessionEvent::Disconnect.into(),
        ..SessionBody::default()
    };
    let id = |body: &SessionBody, session, number| body.event_id(&record(session, number));
    assert_eq!(id(&end, 7, 3).as_deref(), Some("00000000000000ab-7-d"));
    assert_eq!(id(&end, 7, 3), id(&end, 7, 0), "a session ends once");
    assert_ne!(id(&end, 7, 3), id(&end, 8, 3));
    assert_ne!(id(&unsubscribe(), 7, 3), id(&unsubscribe(), 7, 4));
    assert_ne!(id(&unsubscribe(), 7, 3), id(&end, 7, 3));
    let nobody = Record {
        origin: None,
        ..record(7, 3)
    };
    assert_eq!(end.event_id(&nobody), None);
    let other = Record {
        kind: Kind::Message.into(),
        ..record(7, 3)
    };
    assert_eq!(end.event_id(&other), None);
}
