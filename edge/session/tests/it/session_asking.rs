//! Connections and publications about which the application's backend is asked.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::{OnFailure, Proxies, Proxy, Snapshot};
use gb6_core_wire::client::{self, Dialect};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Action, Answer, Claims, CloseReason, Decision, HubRequest, PublishAnswer, Replacement, Request,
};
use proptest::prelude::*;

use crate::session_rules::{Desk, UNIX, claims};

type Decided = Decision<Option<Replacement>>;

fn backend() -> Proxy {
    Proxy {
        url: "https://app.example/".into(),
        timeout_ms: 1000,
        headers: Vec::new(),
        static_headers: BTreeMap::new(),
        binary_encoding: false,
        include_meta: false,
        on_failure: OnFailure::Refuse,
    }
}

/// Both proxies; publications in `room:` are asked about.
fn ask(snapshot: &mut Snapshot) {
    let demo = snapshot.instances.get_mut("demo").unwrap();
    demo.proxies = Proxies {
        connect: Some(backend()),
        publish: Some(backend()),
    };
    demo.namespaces.get_mut("room").unwrap().publish_proxy = true;
}

fn opening() -> Desk {
    let mut desk = Desk::opening(Dialect::Json);
    ask(&mut desk.snapshot);
    desk
}

fn live() -> Desk {
    let mut desk = Desk::live();
    ask(&mut desk.snapshot);
    desk
}

fn error(code: u32, temporary: bool) -> client::Error {
    client::Error {
        code,
        message: "the application says no".into(),
        temporary,
    }
}

impl Desk {
    /// Takes what the backend is to be asked about publications.
    fn asked(&mut self) -> Vec<(u32, String, Bytes)> {
        let mut asked = Vec::new();
        self.actions.retain(|action| match action {
            Action::AskPublish {
                request,
                channel,
                data,
            } => {
                asked.push((*request, channel.as_str().to_owned(), data.clone()));
                false
            }
            _ => true,
        });
        asked
    }

    fn decide(&mut self, request: u32, decision: Decided) {
        self.with(|s, cx, out| s.publish_decided(cx, request, decision, out));
    }

    fn decide_connect(&mut self, decision: Decision<()>) {
        self.with(|s, cx, out| s.connect_decided(cx, 0, decision, out));
    }

    fn publish(&mut self, id: u32, channel: &str, data: &str) {
        self.text(&format!(
            r#"{{"id":{id},"publish":{{"channel":"{channel}","data":{data}}}}}"#
        ));
    }
}

fn data_of(request: &HubRequest) -> &[u8] {
    match &request.request {
        Request::Publish(query) => &query.data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_backend_says_who_a_connection_without_a_token_is() {
    let mut desk = opening();
    desk.text(
        r#"{"id":1,"connect":{"data":{"k":1},"name":"app","subs":{"room:1":{}}}}
{"id":2,"ping":{}}"#,
    );
    let Some(Action::AskConnect {
        request,
        client,
        connect,
    }) = desk.actions.pop()
    else {
        panic!("{:?}", desk.actions);
    };
    assert_eq!((request, client.as_str()), (0, "client-7"));
    assert_eq!(
        (&connect.data[..], connect.name.as_str()),
        (&b"{\"k\":1}"[..], "app")
    );
    assert!(desk.actions.is_empty(), "what comes behind it waits");
    let told = Claims {
        data: Bytes::from_static(b"{\"hello\":1}"),
        expires_unix_ms: Some(UNIX + 60_000),
        client_refreshes: false,
        ..claims()
    };
    desk.verified(request, Ok(told));
    let replies = desk.replies();
    let connected = replies[0].connect.as_ref().unwrap();
    assert_eq!(&connected.data[..], b"{\"hello\":1}");
    // It has no token that it could bring another of: it is not asked for one.
    assert!(!connected.expires && connected.ttl == 0);
    assert_eq!(replies[1].id, 2);
    // It ends like others, and comes back to be asked about again.
    desk.actions.clear();
    desk.tick_at(1_000 + 60_000 + 25_000);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3005));
}

#[test]
fn with_a_token_nobody_is_asked() {
    let mut desk = opening();
    desk.text(r#"{"id":1,"connect":{"token":"T"}}"#);
    assert!(matches!(desk.actions[..], [Action::Verify { .. }]));
    // And an answer to what was not asked changes nothing.
    desk.actions.clear();
    desk.with(|s, cx, out| s.connect_decided(cx, 9, Decision::Allow(()), out));
    assert!(desk.actions.is_empty() && !desk.session.is_closed());
}

#[test]
fn the_backend_may_refuse_a_connection_in_its_own_words() {
    let connect = r#"{"id":1,"connect":{}}"#;
    let mut desk = opening();
    desk.text(connect);
    desk.actions.clear();
    desk.decide_connect(Decision::Error(error(1234, false)));
    let said = desk.replies().remove(0).error.unwrap();
    assert_eq!(said, error(1234, false));
    desk.verified(0, Ok(claims()));
    desk.text(r#"{"id":2,"ping":{}}"#);
    assert!(
        desk.actions.is_empty(),
        "a refused connection stays refused"
    );

    let mut desk = opening();
    desk.text(connect);
    let why = CloseReason::custom(4501, "banned").unwrap();
    desk.decide_connect(Decision::Disconnect(why.clone()));
    assert!(matches!(desk.actions.last(), Some(Action::Close(w)) if *w == why));

    // Who reads no replies is disconnected.
    for (error, code) in [
        (error(1234, false), 3507),
        (error(1234, true), 3004),
        (ErrorCode::Internal.into(), 3004),
        (ErrorCode::TokenExpired.into(), 3005),
    ] {
        let mut desk = opening();
        desk.config.unidirectional = true;
        desk.text(connect);
        desk.decide_connect(Decision::Error(error));
        assert_eq!(desk.closed().map(|c| c.code()), Some(code));
    }
}

#[test]
fn without_an_opinion_the_instance_decides() {
    let connect = r#"{"id":1,"connect":{}}"#;
    let mut desk = opening();
    desk.text(connect);
    desk.decide_connect(Decision::Allow(()));
    assert_eq!(desk.closed().map(|c| c.code()), Some(3501));

    let mut desk = opening();
    let demo = desk.snapshot.instances.get_mut("demo").unwrap();
    demo.anonymous.allow = true;
    desk.text(connect);
    desk.decide_connect(Decision::Allow(()));
    let admitted =
        matches!(desk.actions.last(), Some(Action::Admit { claims, .. }) if claims.user.is_empty());
    assert!(admitted, "{:?}", desk.actions);
}

#[test]
fn the_backend_sees_a_publication_before_it_is_written() {
    let mut desk = live();
    desk.publish(2, "room:1", "{\"n\":1}");
    assert!(desk.requests().is_empty() && desk.replies().is_empty());
    let (request, channel, data) = desk.asked().remove(0);
    assert_eq!((channel.as_str(), &data[..]), ("room:1", &b"{\"n\":1}"[..]));
    desk.decide(request, Decision::Allow(None));
    assert_eq!(data_of(&desk.requests()[0]), b"{\"n\":1}");
    // Twice decided is once.
    desk.decide(request, Decision::Allow(None));
    assert!(desk.actions.is_empty());

    desk.publish(3, "room:1", "{\"n\":2}");
    let (request, ..) = desk.asked().remove(0);
    let replaced = |data: &'static str| {
        Decision::Allow(Some(Replacement {
            data: Bytes::from_static(data.as_bytes()),
            content_type: ContentType::Json,
        }))
    };
    desk.decide(request, replaced("{\"clean\":true}"));
    assert_eq!(data_of(&desk.requests()[0]), b"{\"clean\":true}");

    desk.publish(4, "room:1", "1");
    let (request, ..) = desk.asked().remove(0);
    desk.decide(request, Decision::Error(error(1999, false)));
    assert_eq!(desk.errors(), [(4, 1999)]);

    // A backend that makes too much, or nothing, of it breaks the room's rules, not the client.
    let demo = desk.snapshot.instances.get_mut("demo").unwrap();
    demo.namespaces.get_mut("room").unwrap().max_message_bytes = 10;
    for data in ["\"01234567890\"", ""] {
        desk.publish(5, "room:1", "1");
        let (request, ..) = desk.asked().remove(0);
        desk.decide(request, replaced(data));
        assert_eq!(desk.errors(), [(5, 100)]);
    }
    // The rules count again when it has decided.
    desk.publish(6, "room:1", "1");
    let (request, ..) = desk.asked().remove(0);
    let demo = desk.snapshot.instances.get_mut("demo").unwrap();
    let room = demo.namespaces.get_mut("room").unwrap();
    room.allow_publish = gb6_core_model::snapshot::Who::Nobody;
    desk.decide(request, Decision::Allow(None));
    assert_eq!(desk.errors(), [(6, 103)]);
    // And before: who may not publish asks nobody anything.
    desk.publish(7, "room:1", "1");
    assert_eq!(desk.errors(), [(7, 103)]);
    assert!(desk.actions.is_empty());
}

#[test]
fn a_durable_publish_is_asked_about_and_keeps_its_id() {
    let mut desk = live();
    desk.text(
        r#"{"id":2,"rpc":{"method":"room.publish","data":{"room":"1","id":"m1","data":{"n":1}}}}"#,
    );
    let (request, channel, _) = desk.asked().remove(0);
    assert_eq!(channel, "room:1");
    desk.decide(request, Decision::Allow(None));
    let hub = desk.requests().remove(0);
    let Request::Publish(query) = &hub.request else {
        panic!("{hub:?}");
    };
    assert_eq!(
        (&query.id[..], query.tags["id"].as_str()),
        (&b"m1"[..], "m1")
    );
    let published = PublishAnswer::default();
    desk.with(|s, cx, out| s.complete(cx, hub.token, Answer::Published(published), out));
    assert!(desk.replies()[0].rpc.is_some());
}

#[test]
fn a_backend_may_end_the_connection_of_a_publisher() {
    let mut desk = live();
    desk.publish(2, "room:1", "1");
    desk.publish(3, "room:1", "2");
    let (request, ..) = desk.asked().remove(0);
    let why = CloseReason::custom(4500, "spam").unwrap();
    desk.decide(request, Decision::Disconnect(why.clone()));
    assert!(matches!(&desk.actions[..], [Action::Close(w)] if *w == why));
    desk.decide(request, Decision::Allow(None));
    assert_eq!(desk.actions.len(), 1);
}

#[test]
fn as_many_are_asked_about_at_once_as_may_be() {
    let mut desk = live();
    desk.config.asking_max = 2;
    desk.config.verifying_waiting_max = 1;
    for (id, room) in (2..).zip(["room:1", "room:2", "room:3"]) {
        desk.publish(id, room, "1");
    }
    assert_eq!(desk.errors(), [(4, 111)]);
    desk.publish(5, "room:1", "2");
    desk.publish(6, "room:1", "3");
    assert_eq!(desk.errors(), [(6, 111)], "one may wait behind");
    let asked = desk.asked();
    assert_eq!(asked.len(), 2);
    desk.decide(asked[0].0, Decision::Allow(None));
    assert_eq!(desk.asked()[0].2, "2");
    desk.publish(7, "room:3", "1");
    assert_eq!(desk.errors(), [(7, 111)]);
    desk.decide(asked[1].0, Decision::Allow(None));
    desk.publish(8, "room:3", "1");
    assert_eq!(desk.asked()[0].1, "room:3");
}

const CHANNELS: [&str; 3] = ["room:1", "room:2", "bare:1"];

#[derive(Clone, Debug)]
enum Step {
    Publish(usize),
    History(usize),
    /// The backend decides about one that waits: allowed, refused.
    Decide(u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CHANNELS.len()).prop_map(Step::Publish),
        1 => (0..CHANNELS.len()).prop_map(Step::History),
        4 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(at, yes)| Step::Decide(at, yes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Commands about a channel are done in their order, at most one of each is asked about, and a
    /// channel never waits for another.
    #[test]
    fn commands_of_a_channel_keep_their_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut desk = live();
        // By channel: ids that have not been done, in their order.
        let mut owed: BTreeMap<&str, VecDeque<(u32, bool)>> = BTreeMap::new();
        let mut asking: Vec<(u32, String)> = Vec::new();
        let mut id = 1;
        for step in steps {
            // What is refused here was the first of its channel.
            let mut refused = None;
            match step {
                Step::Publish(at) | Step::History(at) => {
                    id += 1;
                    let (channel, publishes) = (CHANNELS[at], matches!(step, Step::Publish(_)));
                    match publishes {
                        true => desk.publish(id, channel, &id.to_string()),
                        false => desk.text(&format!(
                            r#"{{"id":{id},"history":{{"channel":"{channel}"}}}}"#
                        )),
                    }
                    owed.entry(channel).or_default().push_back((id, publishes));
                }
                Step::Decide(at, yes) if !asking.is_empty() => {
                    let (request, channel) = asking.remove(usize::from(at) % asking.len());
                    match yes {
                        true => desk.decide(request, Decision::Allow(None)),
                        false => {
                            let first = owed[channel.as_str()].front().map(|(id, _)| *id);
                            refused = first;
                            desk.decide(request, Decision::Error(error(1000, true)));
                        }
                    }
                }
                Step::Decide(..) => {}
            }
            for (id, code) in desk.errors() {
                prop_assert_eq!((Some(id), code), (refused, 1000));
                let queue = owed.values_mut().find(|q| q.front().map(|(id, _)| *id) == refused);
                queue.unwrap().pop_front();
            }
            for request in desk.requests() {
                let queue = owed.get_mut(request.room.channel.as_str()).unwrap();
                let (id, publishes) = queue.pop_front().unwrap();
                match publishes {
                    true => {
                        let sent = id.to_string();
                        prop_assert_eq!(data_of(&request), sent.as_bytes());
                    }
                    false => prop_assert!(matches!(request.request, Request::History(_))),
                }
                // The hub says at once that it has done it.
                let answer = match publishes {
                    true => Answer::Published(PublishAnswer::default()),
                    false => Answer::Failed(ErrorCode::Internal),
                };
                desk.with(|s, cx, out| s.complete(cx, request.token, answer, out));
                desk.replies();
            }
            for (request, channel, data) in desk.asked() {
                let first = owed[channel.as_str()].front().unwrap();
                let sent = first.0.to_string();
                prop_assert_eq!(&data[..], sent.as_bytes());
                prop_assert!(asking.iter().all(|(_, other)| *other != channel));
                asking.push((request, channel));
            }
            // Whatever is owed waits for a decision about its own channel.
            for (channel, queue) in &owed {
                let waits = asking.iter().any(|(_, asked)| asked == channel);
                prop_assert_eq!(waits, !queue.is_empty(), "{}", channel);
            }
            prop_assert!(desk.actions.is_empty(), "{:?}", desk.actions);
        }
    }
}
