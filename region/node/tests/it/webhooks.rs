//! A region with a webhook: what edges report, and what its log holds when it starts, is told, and
//! again by the next one where it was not taken.

use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{WebhookEvent, Webhooks};
use gb6_core_outbound::Reach;
use gb6_core_ports::ShardLog;
use gb6_core_ports::contract::log as contract;
use gb6_core_wire::mesh::{OwnerFrame, SessionEnd, SessionHere, SessionsReport};
use gb6_core_wire::record::{Kind, Origin, Record, SessionBody, SessionEvent};
use prost::Message as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::edge::{Machine, PATIENCE};

pub(crate) const CONSUMER: &str = "webhook.demo";

/// Takes the next request, answers `status`, and gives its body.
pub(crate) async fn take(receiver: &TcpListener, status: &str) -> serde_json::Value {
    let (mut tcp, _) = tokio::time::timeout(PATIENCE, receiver.accept())
        .await
        .expect("a request in time")
        .expect("a connection");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let (_, length) = head.split_once("content-length: ").expect("a length");
    let length = length.lines().next().and_then(|l| l.parse().ok());
    let mut body = vec![0; length.expect("a number")];
    tcp.read_exact(&mut body).await.expect("a body");
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // Who asked may have ended meanwhile.
    let _ = tcp.write_all(answer.as_bytes()).await;
    serde_json::from_slice(&body).expect("JSON")
}

/// A machine whose instance has a webhook to `receiver`.
pub(crate) fn told_to(receiver: &TcpListener) -> Machine {
    let mut machine = Machine::new(Namespace::default());
    machine.config.outbound.reach = Reach::with_loopback();
    machine.config.webhook_retry_min = Duration::from_millis(5);
    machine.config.webhook_retry_max = Duration::from_millis(20);
    machine.webhooks = Some(Webhooks {
        url: format!("http://{}/", receiver.local_addr().expect("an address")),
        secret: "0123456789abcdef0123456789abcdef".into(),
        events: [WebhookEvent::Disconnect].into(),
        timeout_ms: 5_000,
    });
    machine
}

fn ended(position: u64, session: u64) -> Record {
    let body = SessionBody {
        event: SessionEvent::Disconnect.into(),
        code: 3000,
        ..SessionBody::default()
    };
    Record {
        kind: Kind::Session.into(),
        instance: "demo".into(),
        channel: "#alice".into(),
        position,
        origin: Some(Origin {
            user: "alice".into(),
            client: format!("c{session}"),
            edge_incarnation: 1,
            session,
            ..Origin::default()
        }),
        body: body.encode_to_vec().into(),
        ..Record::default()
    }
}

pub(crate) fn here(session: u64, user: &str) -> SessionHere {
    SessionHere {
        session,
        instance: "demo".into(),
        user: user.into(),
        client: format!("c{session}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_edge_reports_is_told_and_so_is_that_it_was_lost() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut machine = told_to(&receiver);
    machine.config.edge_lease = Duration::from_millis(1_500);
    let region = machine.start().await;
    let registered = || {
        let consumers = machine.storage.open().consumers();
        !consumers.expect("consumers").is_empty()
    };
    let began = Instant::now();
    while !registered() {
        assert!(began.elapsed() < PATIENCE, "it is not registered");
        tokio::task::yield_now().await;
    }
    let edge = machine.edge("e1").await;
    edge.send(OwnerFrame::Sessions(SessionsReport {
        process: 0xe1,
        here: vec![here(1, "alice"), here(2, "bob")],
        complete: true,
        elsewhere: Vec::new(),
        ended: vec![SessionEnd {
            number: 1,
            of: here(1, "alice"),
            instance_epoch: 1,
            event: SessionEvent::Disconnect.into(),
            code: 3001,
            reason: "shutdown".into(),
            ..SessionEnd::default()
        }],
    }));
    let told = take(&receiver, "204 No Content").await;
    let first = &told["events"][0];
    assert_eq!(first["id"], "00000000000000e1-1-d");
    assert_eq!(
        (&first["user"], &first["code"]),
        (&json!("alice"), &json!(3001))
    );
    assert_eq!(first["reason"], "shutdown");
    drop(edge);
    let told = take(&receiver, "204 No Content").await;
    assert_eq!(told["events"].as_array().map(Vec::len), Some(1));
    let lost = &told["events"][0];
    assert_eq!(lost["id"], "00000000000000e1-2-d");
    assert_eq!((&lost["user"], &lost["code"]), (&json!("bob"), &json!(0)));
    assert_eq!(lost["reason"], "edge lost");
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_holds_is_told_and_again_where_it_was_not_taken() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut machine = told_to(&receiver);
    // Written by the owner before, which told it to nobody.
    let log = machine.storage.open();
    contract::acquire(&log, &contract::fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    let batch = (1..=150).map(|n| ended(n, n)).collect();
    contract::append(&log, &contract::fence(1), batch).expect("committed");

    let region = machine.start().await;
    assert_eq!(take(&receiver, "503 No").await["events"][0]["client"], "c1");
    // The next life begins where nothing was taken; a drain waits for no answer.
    region.drain().await;
    let region = machine.start().await;
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 150 {
        let request = take(&receiver, "204 No Content").await;
        for event in request["events"].as_array().expect("events") {
            let id = event["id"].as_str().expect("an id").to_owned();
            if !seen.contains(&id) {
                seen.push(id);
            }
        }
    }
    let all = (1..=150).map(|n| format!("0000000000000001-{n}-d"));
    assert_eq!(seen, all.collect::<Vec<_>>());
    // Drained when the answer is here: its place is stored, and nothing is told again.
    let began = Instant::now();
    let told = "gb6_webhook_events_total{instance=\"demo\"}";
    while machine.metric(told) < 150.0 {
        assert!(began.elapsed() < PATIENCE, "the answer does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    region.drain().await;
    let stored = log.consumers().expect("consumers");
    assert!(stored[0].position > 150, "{stored:?}");
    let region = machine.start().await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), receiver.accept()).await;
    assert!(quiet.is_err(), "told again");
    region.drain().await;

    // Without a webhook the log waits for nobody.
    machine.webhooks = None;
    let region = machine.start().await;
    let began = Instant::now();
    while !log.consumers().expect("consumers").is_empty() {
        assert!(began.elapsed() < PATIENCE, "it is not forgotten");
        tokio::task::yield_now().await;
    }
    region.drain().await;
}
