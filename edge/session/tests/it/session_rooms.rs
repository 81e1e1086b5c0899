//! Rules of a session about rooms: requests to hubs, replies from answers, budgets and bulk.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::Region;
use gb6_core_model::{ErrorCode, InstanceId, NodeId, Slot, Unsubscribed, hash, limits};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::{Person, Publication};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, HistoryAnswer, HubRequest, Notice, PresenceAnswer, PublishAnswer, Recent, Request,
    StatusWanted, SubscribeAnswer, TraceAnswer,
};

use crate::session_rules::{Desk, claims};

fn epoch(channel: &str) -> String {
    hash::stream_epoch(&InstanceId::from("demo"), channel, 0)
}

pub(crate) fn recents(offsets: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<Arc<Recent>> {
    let recent = |offset| {
        let publication = Publication {
            offset,
            time: 5,
            data: Bytes::from(format!("\"{}\"", "x".repeat(bytes))),
            content_type: ContentType::Json.into(),
            ..Publication::default()
        };
        Arc::new(Recent::new(publication))
    };
    offsets.map(recent).collect()
}

pub(crate) fn subscribed(offset: u64, recovered: bool, publications: Vec<Arc<Recent>>) -> Answer {
    Answer::Subscribed(Box::new(SubscribeAnswer {
        epoch: Arc::from("abc"),
        offset,
        recovered,
        publications,
        number: 0,
    }))
}

fn history(publications: Vec<Publication>, top: u64) -> Answer {
    Answer::History(Box::new(HistoryAnswer {
        publications: publications.into(),
        top,
        first: 1,
        generation: 0,
        error: None,
    }))
}

impl Desk {
    pub(crate) fn complete(&mut self, token: u64, answer: Answer) {
        self.with(|s, cx, out| s.complete(cx, token, answer, out));
    }

    pub(crate) fn one(&mut self) -> HubRequest {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }

    pub(crate) fn ask(&mut self, command: &str) -> HubRequest {
        self.text(command);
        self.one()
    }

    pub(crate) fn subscribe(&mut self, channel: &str) -> u64 {
        let command = format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#);
        let token = self.ask(&command).token;
        self.complete(token, subscribed(3, false, Vec::new()));
        assert_eq!(self.replies().len(), 1);
        token
    }
}

#[test]
fn a_subscription_from_request_to_reply() {
    let mut desk = Desk::live();
    let request = desk.ask(r#"{"id":2,"subscribe":{"channel":"room:1","join_leave":true}}"#);
    assert_eq!(request.room.instance, "demo");
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    assert!(query.join_leave && query.recover.is_none());
    assert_eq!(query.presence.as_ref().unwrap().client, "client-7");
    desk.complete(request.token, subscribed(3, false, Vec::new()));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(result.positioned && result.recoverable && !result.was_recovering);
    assert_eq!((result.offset, result.epoch.as_str()), (3, "abc"));
    // Where nothing is forced and nothing asked for, no position is told, nobody is present.
    let request = desk.ask(r#"{"id":3,"subscribe":{"channel":"bare:1","join_leave":true}}"#);
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    assert!(!query.join_leave && query.presence.is_none());
    desk.complete(request.token, subscribed(3, false, Vec::new()));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(!result.positioned && !result.recoverable);
    assert_eq!((result.offset, result.epoch.as_str()), (0, ""));
    // A second one is an error, and so is one too many.
    desk.text(r#"{"id":4,"subscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors(), [(4, 105)]);
    desk.subscribe("room:3");
    desk.text(r#"{"id":6,"subscribe":{"channel":"room:4"}}"#);
    assert_eq!(desk.errors(), [(6, 106)]);
}

#[test]
fn a_subscription_that_fails_may_be_asked_for_again() {
    let mut desk = Desk::live();
    let request = desk.ask(r#"{"id":2,"subscribe":{"channel":"room:1"}}"#);
    desk.complete(request.token, Answer::Failed(ErrorCode::OwnerMoving));
    assert_eq!(desk.errors(), [(2, 1002)]);
    desk.subscribe("room:1");
}

#[test]
fn unsubscribe_always_succeeds_behind_what_the_room_still_sends() {
    let mut desk = Desk::live();
    for name in ["room:9", "not a name", ""] {
        desk.text(&format!(
            r#"{{"id":2,"unsubscribe":{{"channel":"{name}"}}}}"#
        ));
        assert!(desk.replies().remove(0).unsubscribe.is_some());
    }
    desk.subscribe("room:1");
    let leave = desk.ask(r#"{"id":3,"unsubscribe":{"channel":"room:1"}}"#);
    assert!(matches!(leave.request, Request::Unsubscribe));
    assert!(desk.replies().is_empty());
    // Asked for again before the answer: the old end does not touch the new beginning.
    let again = desk.ask(r#"{"id":4,"subscribe":{"channel":"room:1"}}"#);
    let notice = Notice::Unsubscribed {
        channel: gb6_core_model::Channel::parse("room:1").unwrap(),
        why: Unsubscribed::InsufficientState,
    };
    desk.with(|s, cx, out| s.notice(cx, notice, out));
    assert!(desk.replies().is_empty());
    desk.complete(leave.token, Answer::Failed(ErrorCode::OwnerMoving));
    assert!(desk.replies().remove(0).unsubscribe.is_some());
    desk.complete(again.token, subscribed(3, false, Vec::new()));
    assert!(desk.replies().remove(0).subscribe.is_some());
}

#[test]
fn an_end_from_the_hub_is_pushed_and_the_channel_is_free_again() {
    let mut desk = Desk::live();
    desk.subscribe("room:1");
    let notice = Notice::Unsubscribed {
        channel: gb6_core_model::Channel::parse("room:1").unwrap(),
        why: Unsubscribed::InsufficientState,
    };
    desk.with(|s, cx, out| s.notice(cx, notice.clone(), out));
    let push = desk.replies().remove(0).push.unwrap();
    let end = push.unsubscribe.unwrap();
    assert_eq!((push.channel.as_str(), end.code), ("room:1", 2500));
    assert_eq!(end.reason, "insufficient state");
    desk.with(|s, cx, out| s.notice(cx, notice, out));
    assert!(desk.replies().is_empty(), "once");
    desk.subscribe("room:1");
}

const RECOVER: &str =
    r#"{"id":2,"subscribe":{"channel":"room:1","recover":true,"offset":4,"epoch":"abc","flag":1}}"#;

#[test]
fn recovery_replies_and_its_budget_over_all_rooms() {
    let mut desk = Desk::live();
    let request = desk.ask(RECOVER);
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    let from = query.recover.clone().unwrap();
    assert_eq!(
        (from.offset, from.epoch.as_str(), from.or_fail),
        (4, "abc", false)
    );
    assert_eq!(from.publications_max, limits::RECOVERY_PUBLICATIONS_MAX);
    assert_eq!(from.bytes_max, limits::RECOVERY_BYTES_MAX);
    // Meanwhile another room recovers too.
    let other = desk.ask(
        &RECOVER
            .replace("room:1", "room:2")
            .replace("\"id\":2", "\"id\":3"),
    );
    desk.complete(request.token, subscribed(4, true, recents(5..=8, 100_000)));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(result.recovered && result.was_recovering);
    assert_eq!((result.offset, result.publications.len()), (4, 4));
    // Together they are over the budget: the second goes on at its top, without recovery.
    desk.complete(other.token, subscribed(4, true, recents(5..=6, 100_000)));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(!result.recovered && result.was_recovering);
    assert_eq!((result.offset, result.publications.len()), (6, 0));
    // The next one is told what is left.
    let request = desk.ask(&RECOVER.replace("room:1", "room:3"));
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    let from = query.recover.clone().unwrap();
    assert_eq!(from.publications_max, limits::RECOVERY_PUBLICATIONS_MAX - 4);
    let spent: usize = recents(5..=8, 100_000).iter().map(|r| r.cost).sum();
    assert_eq!(from.bytes_max, limits::RECOVERY_BYTES_MAX - spent);
}

#[test]
fn a_tab_that_stays_open_recovers_rooms_that_it_opens_later() {
    let mut desk = Desk::live();
    let ask = |desk: &mut Desk, room: &str| {
        let request = desk.ask(&RECOVER.replace("room:1", room));
        let Request::Subscribe(query) = &request.request else {
            panic!("{request:?}");
        };
        let bytes_max = query.recover.as_ref().unwrap().bytes_max;
        (request.token, bytes_max)
    };
    let (first, whole) = ask(&mut desk, "room:1");
    assert_eq!(whole, limits::RECOVERY_BYTES_MAX);
    desk.complete(first, subscribed(4, true, recents(5..=8, 100_000)));
    assert!(desk.replies().remove(0).subscribe.unwrap().recovered);
    // A moment later it is still the same attempt, whose subscribes may come one by one.
    desk.now += 4_999;
    let (second, left) = ask(&mut desk, "room:2");
    assert!(left < whole - 400_000);
    // As long as that one recovers, time alone does not make it another attempt.
    desk.now += 60_000;
    let (third, left) = ask(&mut desk, "room:3");
    assert!(left < whole - 400_000);
    desk.complete(second, subscribed(4, true, Vec::new()));
    desk.complete(third, subscribed(4, true, Vec::new()));
    desk.replies();
    desk.text(r#"{"id":9,"unsubscribe":{"channel":"room:3"}}"#);
    // Nor while the queue is long: the room waits, and is given the rest.
    desk.now += 60_000;
    desk.outbox = 65 * 1024;
    desk.text(&RECOVER.replace("room:1", "room:3"));
    desk.requests();
    desk.text(r#"{"id":9,"unsubscribe":{"channel":"room:3"}}"#);
    // Days later.
    desk.now += 200_000_000;
    desk.outbox = 0;
    desk.requests();
    let (_, left) = ask(&mut desk, "room:3");
    assert_eq!(left, whole);
}

#[test]
fn a_client_that_wants_an_error_instead_of_no_recovery_gets_it() {
    let mut desk = Desk::live();
    let request = desk.ask(&RECOVER.replace("\"flag\":1", "\"flag\":2"));
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    assert!(query.recover.clone().unwrap().or_fail);
    let other = desk.ask(
        &RECOVER
            .replace("\"flag\":1", "\"flag\":3")
            .replace("room:1", "room:2"),
    );
    desk.complete(request.token, subscribed(4, true, recents(5..=9, 100_000)));
    desk.replies();
    // Over the budget after all: the hub is told to end it.
    desk.complete(other.token, subscribed(4, true, recents(5..=9, 100_000)));
    assert_eq!(desk.errors(), [(2, 112)]);
    let leave = desk.one();
    assert!(matches!(leave.request, Request::Unsubscribe));
    desk.complete(leave.token, Answer::Unsubscribed);
    assert!(desk.replies().is_empty());
}

#[test]
fn bulk_waits_for_the_queue_to_drain_and_pages_come_one_at_a_time() {
    let mut desk = Desk::live();
    let page = r#"{"id":5,"history":{"channel":"room:1","limit":-1}}"#;
    desk.outbox = 65 * 1024;
    desk.text(page);
    desk.text(RECOVER);
    assert!(desk.requests().is_empty() && desk.session.wants_drain());
    desk.outbox = 64 * 1024;
    desk.with(|s, cx, out| s.drained(cx, out));
    let [first, recovery] = <[_; 2]>::try_from(desk.requests()).unwrap();
    let Request::History(query) = &first.request else {
        panic!("{first:?}");
    };
    assert!(matches!(recovery.request, Request::Subscribe(_)));
    assert_eq!((query.limit, query.since), (300, None));
    assert!(!desk.session.wants_drain(), "it waits for the answer");
    desk.text(page);
    desk.text(page);
    desk.text(page);
    assert_eq!(desk.errors(), [(5, 111)], "two may wait");
    // The position alone is not bulk.
    let position = desk.ask(r#"{"id":6,"history":{"channel":"room:1"}}"#);
    desk.complete(position.token, history(Vec::new(), 9));
    let result = desk.replies().remove(0).history.unwrap();
    assert_eq!((result.offset, result.epoch), (9, epoch("room:1")));
    desk.outbox = 0;
    desk.complete(first.token, Answer::Failed(ErrorCode::Internal));
    assert_eq!(desk.errors(), [(5, 100)]);
    assert!(matches!(desk.one().request, Request::History(_)));
}

/// Rooms of the demo instance in either of two shards.
fn two_shards(desk: &mut Desk) -> [Vec<String>; 2] {
    let demo = InstanceId::from("demo");
    let instance = desk.snapshot.instances.get_mut(&demo).unwrap();
    instance.slots = vec![Slot(2), Slot(3)];
    instance.subscriptions_max = 1_000;
    let region = Region {
        shards: 2,
        slots: Default::default(),
        owners: vec![NodeId::from("r1"), NodeId::from("r2")],
        ..Default::default()
    };
    desk.snapshot.regions.insert("eu".into(), region);
    let names = (0..200).map(|n| format!("room:{n}"));
    let (first, second) = names.partition(|name| {
        let (_, shard) = desk.snapshot.shard_of(&demo, name).unwrap();
        shard.0 == 0
    });
    [first, second]
}

fn recover(desk: &mut Desk, channel: &str) {
    desk.text(&format!(
        r#"{{"id":2,"subscribe":{{"channel":"{channel}","recover":true,"offset":4}}}}"#
    ));
}

#[test]
fn a_shard_that_does_not_answer_delays_recoveries_of_its_own_rooms_only() {
    let mut desk = Desk::live();
    let [dead, alive] = two_shards(&mut desk);
    // A page of the dead shard, then many of its rooms, then the others.
    desk.text(&format!(
        r#"{{"id":5,"history":{{"channel":"{}","limit":-1}}}}"#,
        dead[0]
    ));
    dead.iter().for_each(|room| recover(&mut desk, room));
    let begun = desk.requests();
    assert_eq!(begun.len(), 1 + 16, "as many of one shard as ever");
    let mut answered = 0;
    alive.iter().for_each(|room| recover(&mut desk, room));
    loop {
        let begun = desk.requests();
        assert!(begun.len() <= 16);
        if begun.is_empty() {
            break;
        }
        for request in begun {
            assert!(alive.contains(&request.room.channel));
            desk.complete(request.token, subscribed(4, true, Vec::new()));
            answered += 1;
        }
    }
    assert_eq!(answered, alive.len(), "none waited for the dead shard");
    // The dead one's time is over: its next ones are asked for.
    for request in begun {
        desk.complete(request.token, Answer::Failed(ErrorCode::OwnerMoving));
    }
    assert_eq!(desk.requests().len(), 16);
}

#[test]
fn a_large_page_waits_until_it_fits_beside_what_is_being_recovered() {
    let page = |bytes: usize| {
        let one = |offset| Publication {
            offset,
            data: Bytes::from(format!("\"{}\"", "x".repeat(bytes / 8))),
            content_type: 1,
            ..Publication::default()
        };
        history((1..=8).map(one).collect(), 8)
    };
    let ask = r#"{"id":5,"history":{"channel":"room:1","limit":-1}}"#;
    let mut desk = Desk::live();
    // A small one does not wait.
    desk.text(RECOVER);
    let recovery = desk.one().token;
    let token = desk.ask(ask).token;
    desk.complete(token, page(100_000));
    assert!(desk.replies().remove(0).history.is_some());
    let token = desk.ask(ask).token;
    desk.complete(token, page(500_000));
    assert!(desk.replies().is_empty() && !desk.session.wants_drain());
    desk.text(ask);
    assert!(desk.requests().is_empty(), "one page at a time");
    // Nothing is recovered any more, but the queue is long.
    desk.outbox = 500_000;
    desk.complete(recovery, subscribed(4, true, Vec::new()));
    assert_eq!(desk.errors(), [(2, 0)]);
    assert!(desk.session.wants_drain());
    desk.outbox = 64 * 1024;
    desk.with(|s, cx, out| s.drained(cx, out));
    let reply = desk.replies().remove(0);
    assert_eq!(
        (reply.id, reply.history.unwrap().publications.len()),
        (5, 8)
    );
    assert!(
        desk.session.wants_drain(),
        "the next page waits for the queue"
    );
    desk.outbox = 0;
    desk.with(|s, cx, out| s.drained(cx, out));
    assert!(matches!(desk.one().request, Request::History(_)));
    assert!(!desk.session.wants_drain());
}

#[test]
fn a_waiting_recovery_can_be_withdrawn() {
    let mut desk = Desk::live();
    desk.outbox = 65 * 1024;
    desk.text(RECOVER);
    desk.text(r#"{"id":3,"unsubscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors(), [(2, 100), (3, 0)]);
    assert!(desk.requests().is_empty() && !desk.session.wants_drain());
}

#[test]
fn history_replies() {
    let big = |offset| Publication {
        offset,
        data: Bytes::from(vec![0xff; 64 * 1024]),
        ..Publication::default()
    };
    let ask = |since: &str| {
        format!(r#"{{"id":5,"history":{{"channel":"room:1","limit":9,"since":{since}}}}}"#)
    };
    let mut desk = Desk::live();
    let request = desk.ask(&ask(r#"{"offset":7,"epoch":"other"}"#));
    let Request::History(query) = &request.request else {
        panic!("{request:?}");
    };
    assert_eq!(
        (query.limit, query.since, query.reverse),
        (9, Some(7), false)
    );
    desk.complete(request.token, history(Vec::new(), 9));
    assert_eq!(desk.errors(), [(5, 112)], "another epoch");
    let same = format!(r#"{{"offset":7,"epoch":"{}"}}"#, epoch("room:1"));
    let token = desk.ask(&ask(&same)).token;
    // Base 64 makes a page larger than its bytes: what does not fit is left to the next page.
    desk.complete(token, history((8..=20).map(big).collect(), 20));
    desk.actions.iter().for_each(|a| {
        if let gb6_edge_session::Action::Send(frame) = a {
            assert!(frame.len() <= limits::CLIENT_FRAME_OUT_BYTES_MAX);
        }
    });
    let result = desk.replies().remove(0).history.unwrap();
    assert_eq!((result.publications.len(), result.offset), (10, 20));
    let token = desk.ask(&ask(r#"{"offset":1}"#)).token;
    let Answer::History(mut trimmed) = history(Vec::new(), 20) else {
        panic!();
    };
    trimmed.error = Some(ErrorCode::UnrecoverablePosition);
    desk.complete(token, Answer::History(trimmed));
    assert_eq!(desk.errors(), [(5, 112)], "below the oldest kept");
}

#[test]
fn publishes_and_their_replies() {
    let done = |duplicate| {
        Answer::Published(PublishAnswer {
            offset: 12,
            generation: 0,
            time: 99,
            duplicate,
        })
    };
    let mut desk = Desk::live();
    let request = desk.ask(r#"{"id":4,"publish":{"channel":"room:1","data":{"a": 1}}}"#);
    let Request::Publish(query) = &request.request else {
        panic!("{request:?}");
    };
    assert_eq!(&query.data[..], b"{\"a\": 1}");
    assert_eq!(
        (query.content_type, query.instance_epoch.0),
        (ContentType::Json, 3)
    );
    assert!(query.id.is_empty() && query.tags.is_empty());
    assert_eq!(query.from.user, "alice");
    desk.complete(request.token, done(false));
    assert!(desk.replies().remove(0).publish.is_some());
    for (name, channel) in [("1", "room:1"), ("room:1", "room:1"), ("bare:1", "bare:1")] {
        let request = desk.ask(&format!(
            r#"{{"id":5,"rpc":{{"method":"room.publish","data":{{"room":"{name}","id":"m1","data":[1,2]}}}}}}"#
        ));
        assert_eq!(request.room.channel, channel);
        let Request::Publish(query) = &request.request else {
            panic!("{request:?}");
        };
        assert_eq!(
            (&query.id[..], &query.data[..]),
            (&b"m1"[..], &b"[1,2]"[..])
        );
        assert_eq!(query.tags.get("id").map(String::as_str), Some("m1"));
        desk.complete(request.token, done(true));
        let data = desk.replies().remove(0).rpc.unwrap().data;
        let want = format!(
            r#"{{"offset":12,"epoch":"{}","time":99,"duplicate":true}}"#,
            epoch(channel)
        );
        assert_eq!(data, want);
        // An answer comes once.
        desk.complete(request.token, done(true));
        assert!(desk.replies().is_empty());
    }
    let request = desk.ask(r#"{"id":4,"publish":{"channel":"room:1","data":1}}"#);
    desk.complete(request.token, Answer::Failed(ErrorCode::OutcomeUnknown));
    let error = desk.replies().remove(0).error.unwrap();
    assert!(error.temporary && error.code == 1003 && !error.message.is_empty());
}

#[test]
fn a_user_says_that_it_is_active_and_what_it_is() {
    let mut desk = Desk::live();
    for (data, said) in [
        (r#","data":{"state":"busy"}"#, "busy"),
        (r#","data":{}"#, ""),
        (r#","data":null"#, ""),
        ("", ""),
    ] {
        let request = desk.ask(&format!(
            r#"{{"id":4,"rpc":{{"method":"update_user_status"{data}}}}}"#
        ));
        assert_eq!(request.room.channel, "#alice");
        let Request::UserStatus {
            instance_epoch,
            wanted,
        } = request.request
        else {
            panic!("{request:?}");
        };
        let state = said.to_owned();
        assert_eq!(wanted, StatusWanted::Update { state });
        assert_eq!(instance_epoch, desk.snapshot.instances["demo"].epoch);
        desk.complete(request.token, Answer::UserStatus(Arc::default()));
        assert_eq!(desk.replies().remove(0).rpc.unwrap().data, "{}");
    }
    let refused = |desk: &mut Desk, data: &str| {
        desk.text(&format!(
            r#"{{"id":5,"rpc":{{"method":"update_user_status","data":{data}}}}}"#
        ));
        assert!(desk.requests().is_empty());
        desk.replies().remove(0).error.unwrap().code
    };
    let long = format!(r#"{{"state":"{}"}}"#, "x".repeat(257));
    for data in [long.as_str(), r#"{"state":1}"#, "5"] {
        assert_eq!(
            refused(&mut desk, data),
            ErrorCode::BadRequest.code(),
            "{data}"
        );
    }
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.user_status_ttl_ms = 0;
    assert_eq!(refused(&mut desk, "{}"), ErrorCode::NotAvailable.code());
}

#[test]
fn a_protobuf_session_publishes_bytes_and_calls_with_json() {
    let mut desk = Desk::live_with(Dialect::Protobuf, claims());
    // publish id 4, as the JS SDK sends it
    let publish = b"\x19\x08\x04\x3a\x15\x0a\x06room:1\x12\x0b{\"id\":\"m1\"}";
    desk.binary(publish);
    let request = desk.one();
    let Request::Publish(query) = &request.request else {
        panic!("{request:?}");
    };
    assert_eq!(query.content_type, ContentType::Unspecified);
    let data = br#"{"room":"1","data":{"b":2}}"#;
    let mut rpc = vec![0x0a, data.len() as u8];
    rpc.extend_from_slice(data);
    rpc.extend_from_slice(b"\x12\x0croom.publish");
    let mut frame = vec![rpc.len() as u8 + 4, 0x08, 0x05, 0x6a, rpc.len() as u8];
    frame.extend_from_slice(&rpc);
    desk.binary(&frame);
    let request = desk.one();
    let Request::Publish(query) = &request.request else {
        panic!("{request:?}");
    };
    assert_eq!(query.content_type, ContentType::Json);
    assert_eq!(&query.data[..], br#"{"b":2}"#);
    assert!(query.id.is_empty() && query.tags.is_empty());
}

#[test]
fn presence_statistics_and_traces() {
    let mut desk = Desk::live();
    let who = |n: usize, info: usize| {
        let person = |n| Person {
            user: "u".into(),
            client: format!("c{n}"),
            conn_info: Bytes::from(format!("\"{}\"", "i".repeat(info))),
            ..Person::default()
        };
        Answer::Presence(Box::new(PresenceAnswer {
            entries: (0..n).map(person).collect(),
            clients: 7,
            users: 4,
        }))
    };
    let token = desk
        .ask(r#"{"id":2,"presence":{"channel":"room:1"}}"#)
        .token;
    desk.complete(token, who(2, 1));
    let people = desk.replies().remove(0).presence.unwrap().presence;
    assert_eq!(people.keys().collect::<Vec<_>>(), ["c0", "c1"]);
    let token = desk
        .ask(r#"{"id":2,"presence":{"channel":"room:1"}}"#)
        .token;
    desk.complete(token, who(1_000, 2_000));
    let people = desk.replies().remove(0).presence.unwrap().presence;
    assert!((300..500).contains(&people.len()), "{} fit", people.len());
    let token = desk
        .ask(r#"{"id":2,"presence_stats":{"channel":"room:1"}}"#)
        .token;
    desk.complete(token, who(0, 0));
    let stats = desk.replies().remove(0).presence_stats.unwrap();
    assert_eq!((stats.num_clients, stats.num_users), (7, 4));
    let trace = r#"{"id":3,"rpc":{"method":"room.trace","data":{"room":"1","offset":5}}}"#;
    let request = desk.ask(trace);
    assert!(matches!(request.request, Request::Trace { offset: 5 }));
    let traced = TraceAnswer {
        shard: 2,
        shard_epoch: 9,
        sync_us: 310,
        batch: 4,
    };
    desk.complete(request.token, Answer::Traced(traced));
    assert_eq!(
        desk.replies().remove(0).rpc.unwrap().data,
        r#"{"edge":"e1","shard":2,"shard_epoch":9,"offset":5,"sync_us":310,"batch":4}"#
    );
}

#[test]
fn people_are_listed_only_as_the_queue_drains() {
    let mut desk = Desk::live();
    desk.config.in_flight_max = 100;
    let frame: Vec<String> = (2..1_002)
        .map(|id| format!(r#"{{"id":{id},"presence":{{"channel":"room:1"}}}}"#))
        .collect();
    desk.text(&frame.join("\n"));
    // One is asked, two wait, as the bench configures it: the others are refused.
    assert_eq!(
        desk.errors()
            .iter()
            .filter(|(_, code)| *code == 111)
            .count(),
        997
    );
    let person = |n| Person {
        user: "u".into(),
        client: format!("c{n}"),
        conn_info: Bytes::from(format!("\"{}\"", "i".repeat(500))),
        ..Person::default()
    };
    let people: Arc<[Person]> = (0..1_000).map(person).collect();
    let who = || {
        Answer::Presence(Box::new(PresenceAnswer {
            entries: people.clone(),
            clients: 1_000,
            users: 1,
        }))
    };
    let first = desk.one();
    // It came while something else filled the queue: it waits for its place.
    desk.outbox = 600_000;
    desk.complete(first.token, who());
    assert!(desk.replies().is_empty() && desk.session.wants_drain());
    desk.outbox = 0;
    for _ in 0..3 {
        desk.with(|s, cx, out| s.drained(cx, out));
        let replies = desk.replies();
        assert!(replies.len() <= 1, "never two at once");
        let next = desk.requests();
        assert!(next.len() <= 1);
        if let Some(next) = next.first() {
            desk.complete(next.token, who());
        }
    }
    assert!(desk.requests().is_empty() && !desk.session.wants_drain());
}

#[test]
fn two_thousand_small_messages_are_within_the_budget() {
    let mut desk = Desk::live();
    let token = desk.ask(RECOVER).token;
    let publications = recents(5..=2_004, 80);
    desk.complete(token, subscribed(4, true, publications));
    let Some(gb6_edge_session::Action::Send(frame)) = desk.actions.first() else {
        panic!("{:?}", desk.actions);
    };
    let bytes = frame.len();
    assert!((220_000..260_000).contains(&bytes), "{bytes}");
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(result.recovered && result.publications.len() == 2_000);
}

#[test]
fn requests_without_an_answer_are_bounded() {
    let mut desk = Desk::live();
    desk.config.in_flight_max = 2;
    let stats = r#"{"id":2,"presence_stats":{"channel":"room:1"}}"#;
    (0..3).for_each(|_| desk.text(stats));
    assert_eq!(desk.errors(), [(2, 111)]);
    let token = desk.requests()[0].token;
    desk.complete(token, Answer::Failed(ErrorCode::Internal));
    desk.replies();
    desk.text(stats);
    assert_eq!(desk.requests().len(), 1);
}

#[test]
fn replies_of_one_input_leave_in_one_frame() {
    let mut desk = Desk::live();
    let pings = [4, 5, 6].map(|id| format!(r#"{{"id":{id},"ping":{{}}}}"#));
    desk.text(&pings.join("\n"));
    assert_eq!(desk.actions.len(), 1);
    let ids: Vec<u32> = desk.replies().iter().map(|r| r.id).collect();
    assert_eq!(ids, [4, 5, 6]);
}

#[test]
fn a_namespace_may_name_the_field_of_the_data_that_is_the_message_id() {
    let publish =
        |data: &str| format!(r#"{{"id":2,"publish":{{"channel":"room:1","data":{data}}}}}"#);
    let mut desk = Desk::live();
    let id_of = |request: HubRequest| match request.request {
        Request::Publish(query) => (query.id, query.tags),
        other => panic!("{other:?}"),
    };
    // Without it a field is a field.
    let (id, _) = id_of(desk.ask(&publish(r#"{"key":"m1"}"#)));
    assert!(id.is_empty());
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.namespaces.get_mut("room").unwrap().dedupe_field = Some("key".into());
    let (id, tags) = id_of(desk.ask(&publish(r#"{"key":"m1"}"#)));
    assert_eq!((&id[..], tags.len()), (&b"m1"[..], 0));
    let (id, _) = id_of(desk.ask(&publish(r#"{"other":"m1"}"#)));
    assert!(id.is_empty());
    desk.text(&publish(r#"{"key":{}}"#));
    assert_eq!(desk.errors(), [(2, 107)]);
    // What has an id of its own keeps it.
    let rpc = r#"{"id":3,"rpc":{"method":"room.publish","data":{"room":"1","id":"own","data":{"key":"m1"}}}}"#;
    let (id, tags) = id_of(desk.ask(rpc));
    assert_eq!((&id[..], tags["id"].as_str()), (&b"own"[..], "own"));
    let rpc = r#"{"id":4,"rpc":{"method":"room.publish","data":{"room":"1","data":{"key":"m1"}}}}"#;
    assert!(id_of(desk.ask(rpc)).0.is_empty());
}
