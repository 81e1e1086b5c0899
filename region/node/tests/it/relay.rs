//! The relay between edges, driven by hand.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use gb6_core_mesh::{Endpoint, FrameReceiver, FrameSender, QueueLimits};
use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{
    FromRelay, Purpose, RELAY_TARGETS_MAX, RelayAnswer, RelayAnswered, RelayAsk, RelayAsked,
    RelayEdges, RelayFrame, RelayOpen, RelayOutcome, RelayRequest, StreamOpen, ToRelay,
};

use crate::edge::{Machine, PATIENCE};

/// An edge's end of a relay stream.
struct Peer {
    endpoint: Endpoint,
    sender: FrameSender<ToRelay>,
    receiver: FrameReceiver<FromRelay>,
    /// The edges that the relay says it reaches.
    edges: BTreeSet<String>,
}

impl Peer {
    async fn new(machine: &mut Machine, name: &str) -> Self {
        let endpoint = machine.bind(name, Role::Edge);
        Self::open(endpoint).await
    }

    async fn open(endpoint: Endpoint) -> Self {
        let link = endpoint.dial(&NodeId::from("r1"), None).await;
        let link = link.expect("a link");
        let open = StreamOpen {
            purpose: Some(Purpose::Relay(RelayOpen {})),
        };
        let stream = link.open(open).await.expect("a stream");
        let (sender, receiver) = stream.split(QueueLimits::default());
        Self {
            endpoint,
            sender,
            receiver,
            edges: BTreeSet::new(),
        }
    }

    async fn send(&self, frame: RelayRequest) {
        let frame = ToRelay { frame: Some(frame) };
        let sent = self.sender.send(frame.class(), frame);
        let sent = tokio::time::timeout(PATIENCE, sent).await;
        sent.expect("room in time").expect("an open stream");
    }

    async fn ask(&self, request: u64, to: &[&str], question: &'static str) {
        self.send(RelayRequest::Ask(RelayAsk {
            request,
            to: to.iter().map(|name| (*name).to_owned()).collect(),
            within_ms: 2_000,
            question: Bytes::from_static(question.as_bytes()),
        }))
        .await;
    }

    async fn answer(&self, to: &str, request: u64, answer: &'static str) {
        self.send(RelayRequest::Answer(RelayAnswer {
            to: to.to_owned(),
            request,
            outcome: RelayOutcome::Answered.into(),
            answer: Bytes::from_static(answer.as_bytes()),
        }))
        .await;
    }

    /// The next frame that is not about who is reached; `None` at the end of the stream.
    async fn next(&mut self) -> Option<RelayFrame> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.receiver.recv()).await;
            match frame.expect("a frame in time").ok().flatten()?.frame? {
                RelayFrame::Edges(RelayEdges { up, down }) => {
                    self.edges.extend(up);
                    for name in down {
                        self.edges.remove(&name);
                    }
                }
                other => return Some(other),
            }
        }
    }

    async fn asked(&mut self) -> RelayAsked {
        match self.next().await {
            Some(RelayFrame::Asked(asked)) => asked,
            other => panic!("unexpected {other:?}"),
        }
    }

    async fn answered(&mut self) -> RelayAnswered {
        match self.next().await {
            Some(RelayFrame::Answered(answered)) => answered,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Waits until exactly these edges are reached.
    async fn reaches(&mut self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let began = Instant::now();
        while self.edges != wanted {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.edges);
            let frame = tokio::time::timeout(PATIENCE, self.receiver.recv()).await;
            let frame = frame.expect("in time").ok().flatten().and_then(|f| f.frame);
            let Some(RelayFrame::Edges(RelayEdges { up, down })) = frame else {
                panic!("unexpected {frame:?}");
            };
            self.edges.extend(up);
            for name in down {
                self.edges.remove(&name);
            }
        }
    }
}

fn counted(machine: &Machine, outcome: &str) -> f64 {
    let name = format!("gb6_region_relay_frames_total{{outcome=\"{outcome}\"}} ");
    let text = machine.metrics.text();
    text.lines()
        .filter_map(|line| line.strip_prefix(&name))
        .filter_map(|value| value.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_learn_of_each_other_and_questions_arrive_with_the_senders_own_name() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut one = Peer::new(&mut machine, "e1").await;
    one.reaches(&["e1"]).await;
    let mut two = Peer::new(&mut machine, "e2").await;
    two.reaches(&["e1", "e2"]).await;
    one.reaches(&["e1", "e2"]).await;

    one.ask(7, &["e2"], "how many").await;
    let asked = two.asked().await;
    assert_eq!((asked.from.as_str(), asked.request), ("e1", 7));
    assert_eq!(asked.within_ms, 2_000);
    assert_eq!(asked.question, "how many");
    two.answer("e1", 7, "three").await;
    let answered = one.answered().await;
    assert_eq!((answered.from.as_str(), answered.request), ("e2", 7));
    assert_eq!(answered.outcome(), RelayOutcome::Answered);
    assert_eq!(answered.answer, "three");

    // Several at once, an edge that nobody knows among them.
    let mut three = Peer::new(&mut machine, "e3").await;
    one.reaches(&["e1", "e2", "e3"]).await;
    one.ask(8, &["e3", "gone", "e2"], "and now").await;
    let unknown = one.answered().await;
    assert_eq!((unknown.from.as_str(), unknown.request), ("gone", 8));
    assert_eq!(unknown.outcome(), RelayOutcome::Unknown);
    assert_eq!(three.asked().await.question, "and now");
    assert_eq!(two.asked().await.question, "and now");

    // Whoever goes is no longer reached.
    drop((three.sender, three.receiver, three.endpoint));
    one.reaches(&["e1", "e2"]).await;
    two.answer("e3", 8, "too late").await;
    two.answer("nobody", 8, "never asked").await;
    one.ask(9, &["e3"], "still there").await;
    assert_eq!(one.answered().await.outcome(), RelayOutcome::Unknown);
    // The answers to nobody came by another stream than the question: wait for both.
    let began = Instant::now();
    while counted(&machine, "dropped") < 2.0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    assert_eq!(counted(&machine, "unknown"), 2.0);
    assert_eq!(counted(&machine, "asked"), 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_stream_of_an_edge_counts() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut one = Peer::new(&mut machine, "e1").await;
    let mut two = Peer::new(&mut machine, "e2").await;
    two.reaches(&["e1", "e2"]).await;
    let mut again = Peer::open(two.endpoint.clone()).await;
    again.reaches(&["e1", "e2"]).await;
    // The old one ends, and nobody is told that the edge went.
    assert_eq!(two.next().await, None);
    one.ask(1, &["e2"], "which").await;
    assert_eq!(again.asked().await.question, "which");
    one.reaches(&["e1", "e2"]).await;
    // What is still said by the old one is not heard.
    let stale = ToRelay {
        frame: Some(RelayRequest::Answer(RelayAnswer {
            to: "e1".to_owned(),
            request: 1,
            outcome: RelayOutcome::Answered.into(),
            answer: Bytes::from_static(b"the old one"),
        })),
    };
    let _ = two.sender.try_send(stale.class(), stale);
    again.answer("e1", 1, "the new one").await;
    assert_eq!(one.answered().await.answer, "the new one");
}

/// Whoever does not read is refused questions, and costs the others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_does_not_read_is_refused_for_and_the_others_go_on() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut one = Peer::new(&mut machine, "e1").await;
    let silent = Peer::new(&mut machine, "e2").await;
    let mut three = Peer::new(&mut machine, "e3").await;
    one.reaches(&["e1", "e2", "e3"]).await;
    // More bytes than its queue and the link hold together.
    const QUESTION: usize = 512 * 1024;
    let question = Bytes::from(vec![b'x'; QUESTION]);
    let mut full = 0;
    for request in 1..=64 {
        one.send(RelayRequest::Ask(RelayAsk {
            request,
            to: vec!["e2".to_owned()],
            within_ms: 1_000,
            question: question.clone(),
        }))
        .await;
        // The next question is behind it on the same stream: its answer says that it was handled.
        one.ask(1_000 + request, &["gone"], "").await;
        loop {
            let answered = one.answered().await;
            if answered.request == 1_000 + request {
                break;
            }
            assert_eq!(answered.outcome(), RelayOutcome::Full);
            full += 1;
        }
    }
    assert!(full > 32, "{full} were refused");
    assert_eq!(counted(&machine, "full"), f64::from(full));
    one.ask(2_000, &["e3"], "are you there").await;
    assert_eq!(three.asked().await.question, "are you there");
    three.answer("e1", 2_000, "yes").await;
    assert_eq!(one.answered().await.answer, "yes");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_to_too_many_ends_the_stream() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut one = Peer::new(&mut machine, "e1").await;
    let mut two = Peer::new(&mut machine, "e2").await;
    two.reaches(&["e1", "e2"]).await;
    let to = vec!["e2"; RELAY_TARGETS_MAX + 1];
    one.ask(1, &to, "everybody").await;
    assert_eq!(one.next().await, None);
    // Nobody was asked, and the others learn that the edge is gone.
    two.reaches(&["e2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_edges_may_relay() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut edge = Peer::new(&mut machine, "e1").await;
    for (name, role) in [("g1", Role::Geo), ("r2", Role::Region)] {
        let endpoint = machine.bind(name, role);
        let mut other = Peer::open(endpoint).await;
        let ask = ToRelay {
            frame: Some(RelayRequest::Ask(RelayAsk {
                request: 1,
                to: vec!["e1".to_owned()],
                ..RelayAsk::default()
            })),
        };
        let _ = other.sender.try_send(ask.class(), ask);
        assert_eq!(other.next().await, None, "{role:?}");
        assert!(other.edges.is_empty(), "{role:?}");
    }
    edge.reaches(&["e1"]).await;
    edge.ask(1, &["e1"], "to oneself").await;
    assert_eq!(edge.asked().await.question, "to oneself");
    // Nothing else was passed on, and what was asked behind it has been handled: so it is counted.
    edge.ask(2, &["gone"], "").await;
    assert_eq!(edge.answered().await.request, 2);
    assert_eq!(counted(&machine, "asked"), 1.0);
}
