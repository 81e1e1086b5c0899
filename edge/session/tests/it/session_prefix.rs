//! Prefixes through a session: who may follow which, what is not granted, and how they end.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::{Namespace, Region, Who};
use gb6_core_model::{
    Allow, Caps, Channel, Disconnect, ErrorCode, NodeId, Slot, Unsubscribed, limits,
};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Answer, Claims, Following, HubRequest, Notice, Request, ServerCommand, SubscriptionGrant,
};

use crate::session_rooms::subscribed;
use crate::session_rules::{Desk, claims};

/// An instance in two shards, in whose namespace `room` prefixes are for `who`.
fn desk(who: Who, claims: Claims) -> Desk {
    let mut desk = Desk::live_with(Dialect::Json, claims);
    let eu = Region {
        shards: 4,
        slots: BTreeMap::new(),
        owners: vec![NodeId::from("r1"); 4],
        ..Default::default()
    };
    desk.snapshot.regions.insert("eu".to_owned(), eu);
    let demo = desk.snapshot.instances.values_mut().next().unwrap();
    demo.slots = vec![Slot(1), Slot(5), Slot(2)];
    demo.subscriptions_max = 100;
    let rules = demo.namespaces.get_mut("room").unwrap();
    *rules = Namespace {
        allow_prefix: who,
        delta: true,
        tags_filter: true,
        ..rules.clone()
    };
    desk
}

fn may(allow: Allow, pattern: &str) -> Claims {
    let caps = format!(
        r#"[{{"channels":["{pattern}"],"match":"wildcard","allow":["{}"]}}]"#,
        match allow {
            Allow::Subscribe => "sub",
            _ => "hst",
        }
    );
    Claims {
        caps: Caps(Some(serde_json::from_str(&caps).unwrap())),
        ..claims()
    }
}

fn nobody() -> Claims {
    Claims {
        user: String::new(),
        ..claims()
    }
}

fn following(request: &HubRequest) -> Arc<Following> {
    match &request.request {
        Request::Follow(query) => query.following.clone(),
        Request::Unfollow(following) => following.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_asked_of_every_shard_and_told_that_nothing_is_recoverable() {
    let mut desk = desk(Who::Member, claims());
    let request = desk.ask(
        r#"{"id":2,"subscribe":{"channel":"room:lobby.*","recover":true,"offset":4,"recoverable":true,"positioned":true,"join_leave":true,"delta":"fossil","flag":1}}"#,
    );
    assert_eq!(request.room.channel, "room:lobby.*");
    assert_eq!(request.room.instance, "demo");
    let shards: Vec<(String, u32)> = following(&request)
        .shards()
        .iter()
        .map(|s| (s.region.clone(), s.shard))
        .collect();
    assert_eq!(shards, [("eu".to_owned(), 1), ("eu".to_owned(), 2)]);
    desk.complete(request.token, subscribed(0, false, Vec::new()));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert_eq!(result, Default::default());
    // It is there, and stands for channels without being one.
    desk.text(r#"{"id":3,"subscribe":{"channel":"room:lobby.*"}}"#);
    desk.text(r#"{"id":4,"publish":{"channel":"room:lobby.*","data":1}}"#);
    desk.text(r#"{"id":5,"history":{"channel":"room:lobby.*"}}"#);
    desk.text(r#"{"id":6,"presence":{"channel":"room:lobby.*"}}"#);
    assert_eq!(desk.errors(), [(3, 105), (4, 107), (5, 107), (6, 107)]);
    // Who wants what was missed or an error gets the error.
    desk.text(r#"{"id":7,"subscribe":{"channel":"room:abc*","recover":true,"flag":2}}"#);
    assert_eq!(desk.errors(), [(7, 112)]);
    let leave = desk.ask(r#"{"id":8,"unsubscribe":{"channel":"room:lobby.*"}}"#);
    assert!(Arc::ptr_eq(&following(&leave), &following(&request)));
    assert!(matches!(leave.request, Request::Unfollow(_)));
    desk.complete(leave.token, Answer::Unsubscribed);
    assert!(desk.replies().remove(0).unsubscribe.is_some());
}

#[test]
fn who_may_follow_what() {
    for (who, claims, channel, want) in [
        (Who::Member, claims(), "room:lob*", None),
        (Who::Member, nobody(), "room:lob*", Some(103)),
        (
            Who::Member,
            may(Allow::Subscribe, "room:*"),
            "room:lob*",
            None,
        ),
        (
            Who::Member,
            may(Allow::Subscribe, "room:lob*"),
            "room:lob*",
            None,
        ),
        (
            Who::Member,
            may(Allow::Subscribe, "room:lobby*"),
            "room:lob*",
            Some(103),
        ),
        (
            Who::Member,
            may(Allow::Subscribe, "room:lob"),
            "room:lob*",
            Some(103),
        ),
        (
            Who::Member,
            may(Allow::History, "room:*"),
            "room:lob*",
            Some(103),
        ),
        (Who::Token, claims(), "room:lob*", Some(103)),
        (Who::Anyone, nobody(), "room:lob*", None),
        (Who::Anyone, claims(), "room:*", Some(107)),
        (Who::Anyone, claims(), "room:lo*", Some(107)),
        (Who::Anyone, claims(), "room:l*b*", Some(107)),
        (Who::Anyone, claims(), "$room:lob*", Some(103)),
        (Who::Anyone, claims(), "room:lob#*", Some(103)),
        (Who::Anyone, claims(), "room:lob#alice*", Some(103)),
        (Who::Anyone, claims(), "!room:lob*", Some(103)),
        (Who::Anyone, claims(), "*", Some(102)),
        (Who::Anyone, claims(), "other:lob*", Some(102)),
    ] {
        let mut desk = desk(who, claims);
        desk.text(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#
        ));
        let errors: Vec<u32> = desk.errors().into_iter().map(|(_, code)| code).collect();
        assert_eq!(errors, Vec::from_iter(want), "{who:?} {channel}");
        let asked = desk.requests();
        assert_eq!(asked.len(), usize::from(want.is_none()));
        assert!(
            asked
                .iter()
                .all(|r| matches!(r.request, Request::Follow(_)))
        );
    }
    // Where there are no prefixes it is a channel like any other.
    let mut desk = desk(Who::Nobody, claims());
    let request = desk.ask(r#"{"id":2,"subscribe":{"channel":"room:*"}}"#);
    assert!(matches!(request.request, Request::Subscribe(_)));
    let request = desk.ask(r#"{"id":3,"publish":{"channel":"room:*","data":1}}"#);
    assert!(matches!(request.request, Request::Publish(_)));
}

#[test]
fn a_session_follows_so_many() {
    let mut desk = desk(Who::Member, claims());
    for n in 0..limits::PREFIXES_SESSION_MAX {
        let request = desk.ask(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"room:{n:03}*"}}}}"#
        ));
        desk.complete(request.token, subscribed(0, false, Vec::new()));
    }
    desk.replies();
    desk.text(r#"{"id":3,"subscribe":{"channel":"room:one-more*"}}"#);
    assert_eq!(desk.errors(), [(3, 106)]);
    desk.subscribe("room:a-channel");
}

#[test]
fn what_failed_is_left_everywhere() {
    let mut desk = desk(Who::Member, claims());
    let request = desk.ask(r#"{"id":2,"subscribe":{"channel":"room:lob*"}}"#);
    desk.complete(request.token, Answer::Failed(ErrorCode::OwnerMoving));
    assert_eq!(desk.errors(), [(2, 1002)]);
    let leave = desk.one();
    assert!(matches!(leave.request, Request::Unfollow(_)));
    assert!(Arc::ptr_eq(&following(&leave), &following(&request)));
    // And may be asked for again at once.
    let again = desk.ask(r#"{"id":3,"subscribe":{"channel":"room:lob*"}}"#);
    assert!(!Arc::ptr_eq(&following(&again), &following(&request)));
    desk.complete(leave.token, Answer::Unsubscribed);
    desk.complete(again.token, subscribed(0, false, Vec::new()));
    assert!(desk.replies().remove(0).subscribe.is_some());
    // Where the placement names no shards it can not begin.
    desk.snapshot.regions.clear();
    desk.text(r#"{"id":4,"subscribe":{"channel":"room:abc*"}}"#);
    assert_eq!(desk.errors(), [(4, 1002)]);
}

#[test]
fn a_cut_is_told_behind_what_the_other_shards_still_send() {
    let mut desk = desk(Who::Member, claims());
    let request = desk.ask(r#"{"id":2,"subscribe":{"channel":"room:lob*"}}"#);
    desk.complete(request.token, subscribed(0, false, Vec::new()));
    desk.replies();
    let cut = || Notice::Unsubscribed {
        channel: Channel::parse("room:lob*").unwrap(),
        why: Unsubscribed::InsufficientState,
    };
    desk.with(|s, cx, out| s.notice(cx, cut(), out));
    let leave = desk.one();
    assert!(matches!(leave.request, Request::Unfollow(_)));
    assert!(desk.replies().is_empty());
    desk.complete(leave.token, Answer::Unsubscribed);
    let push = desk.replies().remove(0).push.unwrap();
    assert_eq!(push.channel, "room:lob*");
    assert_eq!(push.unsubscribe.unwrap().code, 2500);
    // One that the server began can not be begun anew by its client.
    let command = ServerCommand::Subscribe {
        channel: Channel::parse("room:lob*").unwrap(),
        grant: Box::new(SubscriptionGrant::default()),
        recover_since: None,
    };
    desk.with(|s, cx, out| {
        s.command(cx, command, out).unwrap();
    });
    let request = desk.one();
    desk.complete(request.token, subscribed(0, false, Vec::new()));
    let push = desk.replies().remove(0).push.unwrap();
    let told = push.subscribe.unwrap();
    assert!(!told.recoverable && !told.positioned);
    desk.with(|s, cx, out| s.notice(cx, cut(), out));
    assert_eq!(desk.closed(), Some(Disconnect::InsufficientState));
}
