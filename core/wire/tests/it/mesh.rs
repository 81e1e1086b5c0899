//! Frames of the mesh: golden bytes, and hostile ones.

use bytes::Bytes;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::client_golden::{hex, to_hex};

const DELIVER: &str = "2a33 0a0e 0a0464656d6f 1206726f6f6d3a31 1221 0806 1880d095ffbc31 \
    220b 0a05616c696365 12026331 2a077b2261223a317d 3001";

fn deliver() -> ToEdge {
    let room = RoomRef {
        instance: "demo".into(),
        channel: "room:1".into(),
    };
    let publication = Publication {
        offset: 6,
        time: 1_700_000_000_000,
        from: Some(Person {
            user: "alice".into(),
            client: "c1".into(),
            ..Default::default()
        }),
        data: Bytes::from_static(br#"{"a":1}"#),
        content_type: ContentType::Json.into(),
        ..Default::default()
    };
    ToEdge {
        frame: Some(EdgeFrame::Deliver(Deliver { room, publication })),
    }
}

/// If this fails, nodes of two versions can not talk to each other any more.
#[test]
fn golden_deliver() {
    assert_eq!(to_hex(&deliver().encode_to_vec()), to_hex(&hex(DELIVER)));
    assert_eq!(ToEdge::decode(&*hex(DELIVER)), Ok(deliver()));
}

/// The first frame; a peer of before wishes for nothing.
#[test]
fn golden_hello() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: Vec::new(),
        node: "r1".into(),
        roles: vec!["region".into()],
        incarnation: 7,
        retry_ms: 250,
    };
    let bytes = hex("0801 1001 22027231 2a06726567696f6e 310700000000000000 38fa01");
    assert_eq!(to_hex(&hello.encode_to_vec()), to_hex(&bytes));
    let before = Hello::decode(&bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(
        before,
        Hello {
            retry_ms: 0,
            ..hello
        }
    );
}

/// The stream's purpose, a question and its answer.
#[test]
fn golden_limits() {
    let open = StreamOpen {
        purpose: Some(Purpose::Limits(LimitsOpen {})),
    };
    assert_eq!(to_hex(&open.encode_to_vec()), "2a00");
    let wanted = LimitsWanted {
        limits: vec![LimitWanted {
            instance: "demo".into(),
            user: "alice".into(),
            demand: 1_500,
        }],
    };
    let bytes = hex("0a10 0a0464656d6f 1205616c696365 18dc0b");
    assert_eq!(to_hex(&wanted.encode_to_vec()), to_hex(&bytes));
    assert_eq!(LimitsWanted::decode(&*bytes), Ok(wanted));
    let shared = LimitsShared {
        limits: vec![LimitShared {
            instance: "demo".into(),
            user: String::new(),
            parts: 500_000,
            valid_ms: 30_000,
            renew_ms: 1_000,
        }],
    };
    let bytes = hex("0a11 0a0464656d6f 18a0c21e 20b0ea01 28e807");
    assert_eq!(to_hex(&shared.encode_to_vec()), to_hex(&bytes));
    assert_eq!(LimitsShared::decode(&*bytes), Ok(shared));
}

const ERASED: &str = "5a14 0a0e 0a0464656d6f 1206726f6f6d3a31 1006 1802";

#[test]
fn golden_erased() {
    let erased = ToEdge {
        frame: Some(EdgeFrame::Erased(Erased {
            room: RoomRef {
                instance: "demo".into(),
                channel: "room:1".into(),
            },
            offset: 6,
            erasures: 2,
        })),
    };
    assert_eq!(to_hex(&erased.encode_to_vec()), to_hex(&hex(ERASED)));
    assert_eq!(ToEdge::decode(&*hex(ERASED)), Ok(erased.clone()));
    // It stays behind the publication that it erases.
    assert_eq!(erased.class(), deliver().class());
}

const SIGNAL: &str = "7a2c 0807 120e 0a0464656d6f 1206726f6f6d3a31 1803 220b 0a05616c696365 12026331 \
    2a077b2261223a317d 3001";

#[test]
fn golden_signal() {
    let EdgeFrame::Deliver(deliver) = deliver().frame.unwrap() else {
        panic!("a publication");
    };
    let signal = |unkept| ToOwner {
        frame: Some(OwnerFrame::Signal(SignalPublish {
            request: 7,
            room: deliver.room.clone(),
            instance_epoch: 3,
            from: deliver.publication.from.clone().unwrap(),
            data: deliver.publication.data.clone(),
            content_type: ContentType::Json.into(),
            unkept,
            ..SignalPublish::default()
        })),
    };
    // Past a stream, which is said behind all the rest.
    let of_stream = format!("{} 4001", SIGNAL.replace("7a2c", "7a2e"));
    for (unkept, golden) in [(false, SIGNAL), (true, &of_stream)] {
        let signal = signal(unkept);
        assert_eq!(to_hex(&signal.encode_to_vec()), to_hex(&hex(golden)));
        assert_eq!(ToOwner::decode(&*hex(golden)), Ok(signal));
    }
    // To an edge it is a publication under another number.
    let told = ToEdge {
        frame: Some(EdgeFrame::Signal(deliver)),
    };
    let golden = hex(DELIVER);
    assert_eq!(told.encode_to_vec()[1..], golden[1..]);
    assert_eq!((told.encode_to_vec()[0], told.class()), (0x7a, Class::Live));
}

const ASK: &str = "0a25 0807 1202 6532 18c413 221a 0a18 0a06 736573736b31 120e \
    7b2273656e64223a7b7d7d0a 6162";

fn emulation() -> EdgeQuestion {
    EdgeQuestion {
        kind: Some(QuestionKind::Emulation(Emulation {
            session: "sessk1".into(),
            data: Bytes::from_static(b"{\"send\":{}}\nab"),
        })),
    }
}

#[test]
fn golden_relayed_question() {
    let ask = ToRelay {
        frame: Some(RelayRequest::Ask(RelayAsk {
            request: 7,
            to: vec!["e2".into()],
            within_ms: 2500,
            question: emulation().encode_to_vec().into(),
        })),
    };
    assert_eq!(to_hex(&ask.encode_to_vec()), to_hex(&hex(ASK)));
    assert_eq!(ToRelay::decode(&*hex(ASK)), Ok(ask.clone()));
    let asked = FromRelay {
        frame: Some(RelayFrame::Asked(RelayAsked {
            from: "e1".into(),
            request: 7,
            within_ms: 2500,
            question: emulation().encode_to_vec().into(),
        })),
    };
    // The same but for who is named: `from` and `request` stand where `request` and `to` stood.
    assert_eq!(asked.class(), ask.class());
    assert_eq!(
        to_hex(&asked.encode_to_vec()),
        to_hex(&hex(
            "1225 0a02 6531 1007 18c413 221a 0a18 0a06 736573736b31 120e \
             7b2273656e64223a7b7d7d0a 6162"
        ))
    );
}

#[test]
fn golden_questions_about_people() {
    let command = |action| EdgeQuestion {
        kind: Some(QuestionKind::User(Box::new(UserCommand {
            instance: "demo".into(),
            user: "u".into(),
            client: "c".into(),
            session: "s".into(),
            whitelist: vec!["k".into()],
            action: Some(action),
        }))),
    };
    let to = "0a0464656d6f 120175 1a0163 220173 2a016b";
    let subscribe = SubscribeUser {
        channel: "room:1".into(),
        info: Bytes::from_static(b"1"),
        data: Bytes::from_static(b"2"),
        expires_unix_ms: Some(3),
        presence: Some(false),
        join_leave: Some(true),
        since_offset: Some(0),
        since_epoch: "e".into(),
        ..SubscribeUser::default()
    };
    let end = DisconnectUser {
        code: 4000,
        reason: "r".into(),
    };
    let refresh = RefreshUser {
        expired: true,
        expires_unix_ms: Some(0),
        info: Some(Bytes::new()),
    };
    for (action, golden) in [
        (
            UserAction::Subscribe(subscribe),
            format!("122d {to} 3219 0a06726f6f6d3a31 120131 1a0132 2003 2800 3001 5000 5a0165"),
        ),
        (
            UserAction::Unsubscribe("room:1".into()),
            format!("121a {to} 3a06726f6f6d3a31"),
        ),
        (
            UserAction::Disconnect(end),
            format!("121a {to} 4206 08a01f 120172"),
        ),
        (
            UserAction::Refresh(refresh),
            format!("121a {to} 4a06 0801 1000 1a00"),
        ),
    ] {
        let question = command(action);
        let golden = hex(&golden);
        assert_eq!(to_hex(&question.encode_to_vec()), to_hex(&golden));
        assert_eq!(EdgeQuestion::decode(&*golden), Ok(question.clone()));
        // Whoever knows a session's id can send commands to it.
        assert!(!format!("{question:?}").contains("\"s\""));
    }
    let channels = EdgeQuestion {
        kind: Some(QuestionKind::Channels(ChannelsWanted {
            instance: "demo".into(),
            pattern: "*".into(),
            sums_only: true,
        })),
    };
    let golden = hex("1a0b 0a0464656d6f 12012a 1801");
    assert_eq!(to_hex(&channels.encode_to_vec()), to_hex(&golden));
    let there = EdgeAnswer {
        kind: Some(AnswerKind::Channels(ChannelsThere {
            channels: vec![ChannelThere {
                channel: "room:1".into(),
                clients: 2,
            }],
            more: true,
            channels_sum: 3,
            subscriptions: 4,
            clients: 5,
            users: 6,
            version: "v".into(),
            uptime_s: 7,
        })),
    };
    let golden = hex("121b 0a0a 0a06726f6f6d3a31 1002 1001 1803 2004 2805 3006 3a0176 4007");
    assert_eq!(to_hex(&there.encode_to_vec()), to_hex(&golden));
}

#[test]
fn golden_relayed_answer() {
    let done = EdgeAnswer {
        kind: Some(AnswerKind::Done(Done {})),
    };
    let answered = FromRelay {
        frame: Some(RelayFrame::Answered(RelayAnswered {
            from: "e2".into(),
            request: 7,
            outcome: RelayOutcome::Answered.into(),
            answer: done.encode_to_vec().into(),
        })),
    };
    let golden = hex("1a0c 0a02 6532 1007 1801 2202 0a00");
    assert_eq!(to_hex(&answered.encode_to_vec()), to_hex(&golden));
    assert_eq!(answered.class(), Class::Acknowledgement);
    let edges = FromRelay {
        frame: Some(RelayFrame::Edges(RelayEdges {
            up: vec!["e1".into(), "e2".into()],
            down: vec!["e3".into()],
        })),
    };
    let golden = hex("0a0c 0a02 6531 0a02 6532 1202 6533");
    assert_eq!(to_hex(&edges.encode_to_vec()), to_hex(&golden));
    // Who is reached must not wait behind what they are asked.
    assert_eq!(edges.class(), Class::Control);
}

#[test]
fn a_question_of_a_later_version_is_seen_as_none() {
    let later = EdgeQuestion::decode(&*hex("ea06056c61746572")).unwrap();
    assert_eq!(later.kind, None);
}

const REMOVE_HISTORY: &str = "a20114 0807 120e 0a0464656d6f 1206726f6f6d3a31 1803";
const REMOVE_HISTORY_BELOW: &str = "a20116 0807 120e 0a0464656d6f 1206726f6f6d3a31 1803 2008";
const HISTORY_REMOVED: &str = "a20114 0807 120e 0a0464656d6f 1206726f6f6d3a31 1809";

#[test]
fn golden_removal() {
    let room = RoomRef {
        instance: "demo".into(),
        channel: "room:1".into(),
    };
    let wanted = |first| ToOwner {
        frame: Some(OwnerFrame::RemoveHistory(RemoveHistory {
            request: 7,
            room: room.clone(),
            instance_epoch: 3,
            first,
        })),
    };
    for (wanted, golden) in [
        (wanted(0), REMOVE_HISTORY),
        (wanted(8), REMOVE_HISTORY_BELOW),
    ] {
        assert_eq!(to_hex(&wanted.encode_to_vec()), to_hex(&hex(golden)));
        assert_eq!(ToOwner::decode(&*hex(golden)), Ok(wanted));
    }
    let removed = |request| ToEdge {
        frame: Some(EdgeFrame::HistoryRemoved(HistoryRemoved {
            request,
            room: room.clone(),
            first: 9,
            error: 0,
        })),
    };
    let answer = removed(7);
    assert_eq!(
        to_hex(&answer.encode_to_vec()),
        to_hex(&hex(HISTORY_REMOVED))
    );
    assert_eq!(ToEdge::decode(&*hex(HISTORY_REMOVED)), Ok(answer.clone()));
    assert_eq!(answer.class(), Class::Acknowledgement);
    // As a notice it stays behind the publications that it is about.
    assert_eq!(removed(0).class(), deliver().class());
}

const USERS_HERE: &str = "8201 17 0a026531 120f 0a0464656d6f 1205616c696365 1801 1803";

#[test]
fn golden_users() {
    let here = ToOwner {
        frame: Some(OwnerFrame::UsersHere(UsersHere {
            node: "e1".into(),
            changes: vec![UserChange {
                instance: "demo".into(),
                user: "alice".into(),
                left: true,
            }],
            complete_by: 3,
        })),
    };
    assert_eq!(to_hex(&here.encode_to_vec()), to_hex(&hex(USERS_HERE)));
    let query = ToOwner {
        frame: Some(OwnerFrame::UserQuery(UserQuery {
            request: 7,
            instance: "demo".into(),
            user: "alice".into(),
            revision: 3,
        })),
    };
    let golden = hex("8a0111 0807 120464656d6f 1a05616c696365 2003");
    assert_eq!(to_hex(&query.encode_to_vec()), to_hex(&golden));
    let answer = ToEdge {
        frame: Some(EdgeFrame::UserAnswer(UserAnswer {
            request: 7,
            edges: vec!["e1".into()],
            reported: 2,
            reported_sum: edges_sum(["e1", "e2"]),
        })),
    };
    let bytes = answer.encode_to_vec();
    assert_eq!(ToEdge::decode(&*bytes), Ok(answer.clone()));
    assert_eq!(answer.class(), Class::Acknowledgement);
    // The same in any order, and another for other names.
    assert_eq!(edges_sum(["e1", "e2"]), edges_sum(["e2", "e1"]));
    assert_ne!(edges_sum(["e1", "e2"]), edges_sum(["e1", "e3"]));
    assert_eq!(edges_sum(["e1"]), 1_310_181_725_571_906_966);
}

#[test]
fn golden_user_status() {
    let query = ToOwner {
        frame: Some(OwnerFrame::UserStatus(UserStatusQuery {
            request: 7,
            room: RoomRef {
                instance: "demo".into(),
                channel: "#alice".into(),
            },
            instance_epoch: 3,
            action: UserStatusAction::Update.into(),
            state: "busy".into(),
        })),
    };
    let golden = hex("9a011c 0807 120e 0a0464656d6f 120623616c696365 1803 2002 2a0462757379");
    assert_eq!(to_hex(&query.encode_to_vec()), to_hex(&golden));
    let answer = ToEdge {
        frame: Some(EdgeFrame::UserStatusAnswer(UserStatusAnswer {
            request: 7,
            active: 1,
            online: 2,
            state: "busy".into(),
            error: 0,
        })),
    };
    let golden = hex("9a010c 0807 1001 1802 220462757379");
    assert_eq!(to_hex(&answer.encode_to_vec()), to_hex(&golden));
    assert_eq!(answer.class(), Class::Acknowledgement);
}

#[test]
fn golden_prefixes() {
    // Fields 40 and 41 of a frame to the owner, 40 of one to the edge.
    const FOLLOW: &str = "c202150a0464656d6f120b726f6f6d3a6c6f6262792e1807";
    const UNFOLLOW: &str = "ca02130a0464656d6f120b726f6f6d3a6c6f6262792e";
    const FOLLOWED: &str = "c202040807106a";
    let key = |request| PrefixRef {
        instance: "demo".into(),
        prefix: "room:lobby.".into(),
        request,
    };
    for (frame, bytes) in [
        (OwnerFrame::FollowPrefix(key(7)), FOLLOW),
        (OwnerFrame::UnfollowPrefix(key(0)), UNFOLLOW),
    ] {
        let frame = ToOwner { frame: Some(frame) };
        assert_eq!(to_hex(&frame.encode_to_vec()), to_hex(&hex(bytes)));
        assert_eq!(ToOwner::decode(&*hex(bytes)), Ok(frame));
    }
    let followed = PrefixFollowed {
        request: 7,
        error: 106,
    };
    let followed = ToEdge {
        frame: Some(EdgeFrame::PrefixFollowed(followed)),
    };
    assert_eq!(to_hex(&followed.encode_to_vec()), to_hex(&hex(FOLLOWED)));
    assert_eq!(ToEdge::decode(&*hex(FOLLOWED)), Ok(followed.clone()));
    assert_eq!(followed.class(), Class::Control);
}

#[test]
fn golden_sessions() {
    let of = SessionHere {
        session: 7,
        instance: "demo".into(),
        user: "alice".into(),
        client: "c1".into(),
    };
    let report = ToOwner {
        frame: Some(OwnerFrame::Sessions(SessionsReport {
            process: 9,
            here: vec![of.clone()],
            complete: true,
            ended: vec![SessionEnd {
                number: 3,
                of,
                instance_epoch: 1,
                event: gb6_core_wire::record::SessionEvent::Disconnect.into(),
                channel: String::new(),
                code: 3001,
                reason: "shutdown".into(),
            }],
            elsewhere: vec![4, 300],
        })),
    };
    let golden = hex(
        "92014f 090900000000000000 1213 0807 120464656d6f 1a05616c696365 22026331 1801 \
         2228 0803 1213 0807 120464656d6f 1a05616c696365 22026331 1801 2001 30b917 3a0873687574646f776e \
         2a0304ac02",
    );
    assert_eq!(to_hex(&report.encode_to_vec()), to_hex(&golden));
    assert_eq!(ToOwner::decode(&*golden), Ok(report));
    let written = ToEdge {
        frame: Some(EdgeFrame::SessionsWritten(SessionsWritten {
            numbers: vec![3, 4],
            moved: vec![5],
        })),
    };
    let golden = hex("920107 0a020304 120105");
    assert_eq!(to_hex(&written.encode_to_vec()), to_hex(&golden));
    assert_eq!(written.class(), Class::Acknowledgement);
    // Of whom no channel can be is in the channel of nobody.
    assert_eq!(SessionEnd::home("alice"), "#alice");
    assert_eq!([SessionEnd::home(""), SessionEnd::home("a,b")], ["#", "#"]);
}

#[test]
fn a_frame_of_a_later_version_is_seen_as_none() {
    let later = ToEdge::decode(&*hex("ea06056c61746572")).unwrap();
    assert_eq!(later.frame, None);
    assert_eq!(later.class(), Class::Control);
    // People are many bytes, their refusal is few and must not wait behind them.
    for (error, class) in [(0, Class::CatchUp), (111, Class::Acknowledgement)] {
        let answer = PresenceAnswer {
            error,
            ..PresenceAnswer::default()
        };
        let answer = ToEdge {
            frame: Some(EdgeFrame::PresenceAnswer(answer)),
        };
        assert_eq!(answer.class(), class);
    }
}

proptest! {
    #[test]
    fn garbage_is_an_error_or_a_frame(bytes in vec(any::<u8>(), 0..300)) {
        gb6_core_wire::fuzz::mesh_frame(&bytes);
    }

    #[test]
    fn a_damaged_frame_is_an_error_or_a_frame(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = deliver().encode_to_vec();
        gb6_core_wire::fuzz::mesh_frame(&bytes[..cut.index(bytes.len())]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        gb6_core_wire::fuzz::mesh_frame(&bytes);
    }
}
