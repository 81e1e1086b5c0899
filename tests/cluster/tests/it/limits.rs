//! Clients that read too slowly, or trickle: they are cut off, and cost nobody else anything.

use std::time::{Duration, Instant};

use gb6_core_wire::client::{Command, ConnectRequest, Dialect, SubscribeRequest};
use gb6_tests_harness::client::{Incoming, Session, Subscriber, SubscriberOptions, Target, Wire};
use gb6_tests_harness::history::Recorder;
use gb6_tests_harness::process::{DevOptions, DevServer, Metrics, Scratch};

use gb6_tests_cluster::load::LONG;

/// Clients that never read.
const SLOW: usize = 20;
/// What they may cost together while they are cut off: 1 MiB for each, and what the server keeps
/// of its log anyway.
const GROWN_MIB_MAX: u64 = 40;
/// The disconnect code of a slow client.
const SLOW_CODE: u16 = 3008;
/// What a connection ends with that was cut without a word.
const CUT: u16 = 1006;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_disconnected_and_memory_stays_flat() {
    const ROOM: &str = "room:slow";
    let scratch = Scratch::new("slow").unwrap();
    let server = DevServer::start(DevOptions::new(&scratch.path().join("data")))
        .await
        .unwrap();
    let target =
        |user: &str| Target::new(&server.ready.ws, &server.ready.tokens[user], Dialect::Json);
    let recorder = Recorder::new();
    let reader = Subscriber::start(
        SubscriberOptions {
            name: "reader".into(),
            instance: "demo".into(),
            user: "bob".into(),
            targets: vec![target("bob")],
            rooms: vec![ROOM.into()],
            seed: 1,
        },
        recorder.clone(),
    );
    reader.until_subscribed(1, LONG).await.unwrap();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(subscribed(&server, ROOM).await);
    }
    let (writer, _pushes) = Session::connect(&target("alice")).await.unwrap();
    let data = format!("\"{}\"", "x".repeat(60_000));
    let publish = async |count: u64| {
        let mut top = 0;
        for _ in 0..count {
            top = writer.room_publish(ROOM, None, &data).await.unwrap().offset;
        }
        top
    };
    publish(20).await;
    let before = server.process.resident_bytes().unwrap();
    let mut most = before;
    // Until everybody is out: the kernel's buffers come first, and then 1 MiB each.
    let start = Instant::now();
    let closed = async || {
        let metrics = Metrics::read(server.address).await.unwrap();
        metrics.sum("gb6_edge_slow_total", &[]).unwrap_or(0.0) as usize
    };
    while closed().await < SLOW {
        publish(20).await;
        most = most.max(server.process.resident_bytes().unwrap());
        assert!(
            start.elapsed() < LONG,
            "only {} slow clients are gone",
            closed().await
        );
    }
    let top = publish(200).await;
    most = most.max(server.process.resident_bytes().unwrap());
    let grown = (most - before) >> 20;
    assert!(
        grown < GROWN_MIB_MAX,
        "{grown} MiB more, with {SLOW} slow clients of 1 MiB each"
    );
    // Who reads has everything.
    reader.until_at(ROOM, top, LONG).await.unwrap();
    drop(reader);
    // Nobody who took no byte for a minute is told anything but that it was too slow.
    for mut wire in slow {
        let code = wire.until_closed(LONG).await.unwrap().0;
        assert!([SLOW_CODE, CUT].contains(&code), "{code}");
    }
    // Who begins to read as soon as it was cut off finds the code behind what it was sent. Only
    // this machine being busy for the second in which the server offers it would hide it.
    let mut codes = Vec::new();
    while !codes.contains(&SLOW_CODE) {
        assert!(codes.len() < 5, "nobody was told why: {codes:?}");
        let mut wire = subscribed(&server, ROOM).await;
        let gone = closed().await + 1;
        while closed().await < gone {
            publish(1).await;
            assert!(start.elapsed() < 2 * LONG, "it is not cut off");
        }
        codes.push(wire.until_closed(LONG).await.unwrap().0);
    }
}

/// A client that is subscribed to `room` and has read the answers, and nothing since.
async fn subscribed(server: &DevServer, room: &str) -> Wire {
    let mut wire = Wire::open(&server.ready.ws, Dialect::Json, LONG)
        .await
        .unwrap();
    let connect = ConnectRequest {
        token: server.ready.tokens["bob"].clone(),
        ..Default::default()
    };
    let subscribe = SubscribeRequest {
        channel: room.into(),
        ..Default::default()
    };
    let commands = [
        Command {
            id: 1,
            connect: Some(Box::new(connect)),
            ..Default::default()
        },
        Command {
            id: 2,
            subscribe: Some(Box::new(subscribe)),
            ..Default::default()
        },
    ];
    wire.send(&commands).await.unwrap();
    let mut answers = 0;
    while answers < 2 {
        match wire.next_within(LONG).await.unwrap() {
            Incoming::Replies(replies) => answers += replies.iter().filter(|r| r.id > 0).count(),
            Incoming::Closed { code, reason } => panic!("{code} {reason}"),
        }
    }
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_a_second_region_is_refused_with_the_pid() {
    let scratch = Scratch::new("drain").unwrap();
    let data = scratch.path().join("data");
    let mut server = DevServer::start(DevOptions::new(&data)).await.unwrap();
    let second = DevServer::start(DevOptions::new(&data))
        .await
        .map(|_| ())
        .unwrap_err();
    let words = second.to_string();
    assert!(words.contains(&server.process.pid().to_string()), "{words}");

    let token = &server.ready.tokens["alice"];
    let target = Target::new(&server.ready.ws, token, Dialect::Json);
    let mut wire = Wire::open(&target.url, target.dialect, LONG).await.unwrap();
    let connect = ConnectRequest {
        token: token.clone(),
        ..Default::default()
    };
    let connect = Command {
        id: 1,
        connect: Some(Box::new(connect)),
        ..Default::default()
    };
    wire.send(&[connect]).await.unwrap();
    wire.next_within(LONG).await.unwrap();
    server.process.terminate();
    let (code, reason) = wire.until_closed(LONG).await.unwrap();
    assert!(
        (3000..3500).contains(&code) && !reason.is_empty(),
        "{code} {reason}"
    );
    let status = server.process.wait(Duration::from_secs(15)).await.unwrap();
    assert!(status.success(), "{status}");
}
