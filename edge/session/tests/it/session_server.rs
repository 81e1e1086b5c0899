//! What the application's server does to a session, and what ends one that only makes mistakes.

use bytes::Bytes;
use gb6_core_model::snapshot::CommandRate;
use gb6_core_model::{Channel, ErrorCode};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Action, Answer, CloseReason, RecoverSince, Request, ServerCommand, SubscriptionGrant,
};

use crate::session_rooms::{recents, subscribed};
use crate::session_rules::{Desk, UNIX};

impl Desk {
    fn server(&mut self, command: ServerCommand) -> Result<(), ErrorCode> {
        let mut done = Ok(());
        self.with(|s, cx, out| done = s.command(cx, command, out));
        done
    }

    fn begin(&mut self, channel: &str, since: Option<RecoverSince>) -> Result<(), ErrorCode> {
        self.server(ServerCommand::Subscribe {
            channel: Channel::parse(channel).unwrap(),
            grant: Box::new(SubscriptionGrant {
                data: Bytes::from_static(b"{\"d\":1}"),
                ..SubscriptionGrant::default()
            }),
            recover_since: since,
        })
    }

    fn finish(&mut self, channel: &str) {
        let channel = Channel::parse(channel).unwrap();
        assert_eq!(self.server(ServerCommand::Unsubscribe { channel }), Ok(()));
    }
}

#[test]
fn the_server_subscribes_and_unsubscribes_by_push() {
    for dialect in Dialect::ALL {
        let mut desk = Desk::live_with(dialect, crate::session_rules::claims());
        // Also where nobody may subscribe by a command.
        let since = RecoverSince {
            offset: 4,
            epoch: "abc".into(),
        };
        assert_eq!(desk.begin("closed:1", Some(since)), Ok(()));
        let asked = desk.one();
        let Request::Subscribe(query) = &asked.request else {
            panic!("{asked:?}");
        };
        assert_eq!(query.recover.as_ref().unwrap().offset, 4);
        desk.complete(asked.token, subscribed(4, true, recents(5..=6, 1)));
        let pushes: Vec<_> = desk
            .replies()
            .into_iter()
            .map(|r| r.push.unwrap())
            .collect();
        assert!(pushes.iter().all(|p| p.channel == "closed:1"));
        let begun = pushes[0].subscribe.as_ref().unwrap();
        assert!(begun.positioned && begun.recoverable);
        assert_eq!((begun.offset, begun.epoch.as_str()), (4, "abc"));
        assert_eq!(begun.data, "{\"d\":1}");
        let live = pushes[1..].iter().filter_map(|p| p.publication.as_ref());
        assert_eq!(live.map(|p| p.offset).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(
            desk.begin("closed:1", None),
            Err(ErrorCode::AlreadySubscribed)
        );

        desk.finish("closed:1");
        let leave = desk.one();
        assert!(
            desk.replies().is_empty(),
            "behind what the room still sends"
        );
        desk.complete(leave.token, Answer::Unsubscribed);
        let push = desk.replies().remove(0).push.unwrap();
        assert_eq!(push.unsubscribe.unwrap().code, 2000);
        // Of one that is not there nothing is said.
        desk.finish("closed:1");
        assert!(desk.actions.is_empty());
    }
}

#[test]
fn the_server_ends_what_a_client_subscribed_to() {
    let mut desk = Desk::live();
    desk.subscribe("room:1");
    desk.finish("room:1");
    let leave = desk.one();
    desk.complete(leave.token, Answer::Unsubscribed);
    let push = desk.replies().remove(0).push.unwrap();
    assert_eq!(push.unsubscribe.unwrap().code, 2000);
    desk.subscribe("room:1");
    // One that has not begun is refused: waiting for its token, and for its turn.
    desk.text(r#"{"id":5,"subscribe":{"channel":"room:2","token":"T"}}"#);
    desk.actions.clear();
    desk.finish("room:2");
    assert_eq!(desk.errors(), [(5, 103)]);
    desk.outbox = 1_000_000;
    desk.config.commands_high_water_bytes = 2_000_000;
    desk.text(r#"{"id":6,"subscribe":{"channel":"room:2","recover":true}}"#);
    assert!(desk.requests().is_empty());
    desk.finish("room:2");
    assert_eq!(desk.errors(), [(6, 103)]);
    // One that is on its way begins and ends.
    desk.outbox = 0;
    let asked = desk.ask(r#"{"id":7,"subscribe":{"channel":"room:2"}}"#);
    desk.finish("room:2");
    let leave = desk.one();
    desk.complete(asked.token, subscribed(3, false, Vec::new()));
    desk.complete(leave.token, Answer::Unsubscribed);
    let replies = desk.replies();
    assert!(replies[0].subscribe.is_some());
    assert!(replies[1].push.as_ref().unwrap().unsubscribe.is_some());
}

#[test]
fn what_the_server_can_not_begin() {
    let mut desk = Desk::live();
    assert_eq!(
        desk.begin("nowhere:1", None),
        Err(ErrorCode::UnknownChannel)
    );
    assert_eq!(desk.begin("!users", None), Err(ErrorCode::PermissionDenied));
    for channel in ["room:1", "room:2", "room:3"] {
        assert_eq!(desk.begin(channel, None), Ok(()));
    }
    assert_eq!(desk.begin("room:4", None), Err(ErrorCode::LimitExceeded));
    // A hub that fails leaves nothing, and the client hears nothing.
    for request in desk.requests() {
        desk.complete(request.token, Answer::Failed(ErrorCode::OwnerMoving));
    }
    assert!(desk.actions.is_empty());
    assert_eq!(desk.begin("room:4", None), Ok(()));
    // One that was ended before it began was never told.
    let asked = desk.one();
    desk.text(r#"{"id":2,"unsubscribe":{"channel":"room:4"}}"#);
    desk.complete(asked.token, subscribed(3, false, Vec::new()));
    assert!(desk.replies().is_empty());
    // A session without a connect has nothing to begin anything for.
    let mut desk = Desk::opening(Dialect::Json);
    assert_eq!(desk.begin("room:1", None), Err(ErrorCode::Unauthorized));
    assert!(desk.actions.is_empty());
}

#[test]
fn the_server_ends_a_session_with_its_own_words() {
    for opening in [false, true] {
        let mut desk = match opening {
            true => Desk::opening(Dialect::Json),
            false => Desk::live(),
        };
        let why = CloseReason::custom(4501, "you were banned").unwrap();
        assert_eq!(desk.server(ServerCommand::Disconnect(why.clone())), Ok(()));
        assert!(matches!(desk.actions.last(), Some(Action::Close(w)) if *w == why));
        assert!(desk.session.is_closed());
        // Nothing changes it any more.
        assert_eq!(desk.begin("room:1", None), Ok(()));
        assert_eq!(desk.actions.len(), 1);
    }
    let mut desk = Desk::live();
    let why = CloseReason::custom(3503, "").unwrap();
    assert_eq!(desk.server(ServerCommand::Disconnect(why)), Ok(()));
    assert_eq!(desk.closed().map(|c| c.code()), Some(3503));
}

#[test]
fn the_server_refreshes_a_session() {
    let refresh = |expired, expires_unix_ms, info| ServerCommand::Refresh {
        expired,
        expires_unix_ms,
        info,
    };
    let mut desk = Desk::live();
    assert_eq!(
        desk.server(refresh(false, Some(UNIX + 1_500), None)),
        Ok(())
    );
    let push = desk.replies().remove(0).push.unwrap();
    let told = push.refresh.unwrap();
    assert_eq!(
        (push.channel.as_str(), told.expires, told.ttl),
        ("", true, 2)
    );
    let info = Some(Bytes::from_static(b"{\"n\":2}"));
    assert_eq!(desk.server(refresh(false, None, info)), Ok(()));
    assert!(
        !desk
            .replies()
            .remove(0)
            .push
            .unwrap()
            .refresh
            .unwrap()
            .expires
    );
    let asked = desk.ask(r#"{"id":2,"publish":{"channel":"room:1","data":1}}"#);
    let Request::Publish(query) = &asked.request else {
        panic!("{asked:?}");
    };
    assert_eq!(query.from.conn_info, "{\"n\":2}");
    assert_eq!(desk.server(refresh(true, None, None)), Ok(()));
    assert_eq!(desk.closed().map(|c| c.code()), Some(3005));
}

#[test]
fn a_client_that_only_makes_mistakes_is_sent_away() {
    let mut desk = Desk::live();
    desk.config.errors_max = CommandRate {
        per_second: 10,
        burst: 5,
    };
    let wrong = r#"{"id":2,"publish":{"channel":"nowhere:1","data":1}}"#;
    for _ in 0..5 {
        desk.text(wrong);
    }
    assert!(desk.closed().is_none());
    // After a while it may make some again.
    desk.now += 200;
    desk.text(wrong);
    desk.text(wrong);
    assert!(desk.closed().is_none());
    desk.text(wrong);
    let sent = desk.replies();
    assert!(sent.iter().all(|r| r.error.is_some()) && sent.len() == 8);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3509));
    // What is not its doing, and may be tried again, does not count.
    let mut desk = Desk::live();
    desk.config.errors_max.burst = 1;
    for _ in 0..20 {
        let asked = desk.ask(r#"{"id":2,"publish":{"channel":"room:1","data":1}}"#);
        desk.complete(asked.token, Answer::Failed(ErrorCode::OwnerMoving));
    }
    assert!(desk.closed().is_none());
}
