//! The relay between edges: edges do not dial each other, so this node passes their questions and
//! answers on by node id, and tells each of them which others it reaches.
//!
//! It remembers nothing of a question. Who asks keeps the number and the deadline; who answers names
//! who asked. So a relay can end at any moment and nothing in it has to be cleaned up.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_mesh::{FrameReceiver, FrameSender, QueueLimits, Stream};
use gb6_core_model::NodeId;
use gb6_core_obs::metrics::{CounterFamily, Gauge, Label, Metrics};
use gb6_core_wire::mesh::{
    FromRelay, RELAY_TARGETS_MAX, RelayAnswer, RelayAnswered, RelayAsk, RelayAsked, RelayEdges,
    RelayFrame, RelayOutcome, RelayRequest, ToRelay,
};
use parking_lot::Mutex;

/// What may wait for one edge, in each class. Overflow: a question is refused, an answer dropped;
/// an edge that does not even take the names of the others is no longer reached.
const QUEUE: QueueLimits = QueueLimits {
    frames: 4096,
    bytes: 4 * 1024 * 1024,
};

/// What the relay counts.
#[derive(Clone)]
pub(crate) struct RelayMetrics {
    edges: Gauge,
    frames: CounterFamily,
}

impl RelayMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            edges: metrics.gauge(
                "gb6_region_relay_edges",
                "Edges that this node relays between.",
            ),
            frames: metrics.counter_family(
                "gb6_region_relay_frames_total",
                "Frames of edges for other edges, by what became of them: asked and answered were \
                 passed on, full and unknown refused, dropped answers found no room or nobody.",
                &[Label::new("outcome", 8)],
            ),
        }
    }

    fn count(&self, outcome: &'static str) {
        self.frames.with(&[outcome]).inc();
    }
}

/// The edges that this node relays between.
pub(crate) struct Relay {
    edges: Mutex<Edges>,
    metrics: RelayMetrics,
}

#[derive(Default)]
struct Edges {
    reached: BTreeMap<String, Reached>,
    streams: u64,
}

/// One edge's stream: its newest.
struct Reached {
    stream: u64,
    sender: FrameSender<FromRelay>,
}

impl Relay {
    pub(crate) fn new(metrics: RelayMetrics) -> Self {
        Self {
            edges: Mutex::default(),
            metrics,
        }
    }

    /// Serves the relay stream of the edge `from`, the node of its certificate, in a task.
    pub(crate) fn serve(self: &Arc<Self>, from: &NodeId, stream: Stream) {
        let (sender, receiver) = stream.split::<FromRelay, ToRelay>(QUEUE);
        let (relay, from) = (self.clone(), from.as_str().to_owned());
        tokio::spawn(async move {
            let stream = relay.join(&from, sender);
            relay.read(&from, stream, receiver).await;
            relay.leave(&from, stream);
        });
    }

    /// Enters an edge; an older stream of it ends.
    fn join(&self, node: &str, sender: FrameSender<FromRelay>) -> u64 {
        let mut edges = self.edges.lock();
        edges.streams += 1;
        let stream = edges.streams;
        // The edge itself is named too: its first frame always comes and says that it is reached.
        let mut up: Vec<String> = edges.reached.keys().cloned().collect();
        if !edges.reached.contains_key(node) {
            up.push(node.to_owned());
        }
        let known = edges
            .reached
            .insert(node.to_owned(), Reached { stream, sender });
        let all = RelayEdges {
            up,
            down: Vec::new(),
        };
        if let Some(own) = edges.reached.get(node) {
            // The queue is empty and takes one frame of any size.
            let _ = send(&own.sender, RelayFrame::Edges(all));
        }
        if known.is_none() {
            let change = RelayEdges {
                up: vec![node.to_owned()],
                down: Vec::new(),
            };
            edges.tell_others(node, change);
        }
        self.metrics.edges.set(edges.reached.len() as i64);
        stream
    }

    fn leave(&self, node: &str, stream: u64) {
        let mut edges = self.edges.lock();
        if edges.is(node, stream) {
            edges.drop_edge(node);
        }
        self.metrics.edges.set(edges.reached.len() as i64);
    }

    async fn read(&self, from: &str, stream: u64, mut receiver: FrameReceiver<ToRelay>) {
        loop {
            let frame = match receiver.recv().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(node = from, %error, "relay stream ended");
                    return;
                }
            };
            let mut edges = self.edges.lock();
            if !edges.is(from, stream) {
                return;
            }
            match frame.frame {
                Some(RelayRequest::Ask(ask)) if ask.to.len() > RELAY_TARGETS_MAX => {
                    tracing::warn!(
                        node = from,
                        targets = ask.to.len(),
                        "a question names more edges than it may: the stream is ended"
                    );
                    return;
                }
                Some(RelayRequest::Ask(ask)) => self.ask(&mut edges, from, &ask),
                Some(RelayRequest::Answer(answer)) => self.answer(&mut edges, from, answer),
                // Of a later version.
                None => self.metrics.count("stray"),
            }
        }
    }

    fn ask(&self, edges: &mut Edges, from: &str, ask: &RelayAsk) {
        for to in &ask.to {
            let asked = RelayFrame::Asked(RelayAsked {
                from: from.to_owned(),
                request: ask.request,
                within_ms: ask.within_ms,
                question: ask.question.clone(),
            });
            let (counted, refused) = match edges.reached.get(to) {
                None => ("unknown", RelayOutcome::Unknown),
                Some(edge) if send(&edge.sender, asked) => ("asked", RelayOutcome::Answered),
                Some(_) => ("full", RelayOutcome::Full),
            };
            self.metrics.count(counted);
            if refused != RelayOutcome::Answered {
                edges.answer(
                    from,
                    RelayAnswered {
                        from: to.clone(),
                        request: ask.request,
                        outcome: refused.into(),
                        answer: Default::default(),
                    },
                );
            }
        }
    }

    fn answer(&self, edges: &mut Edges, from: &str, answer: RelayAnswer) {
        let answered = RelayAnswered {
            from: from.to_owned(),
            request: answer.request,
            outcome: answer.outcome,
            answer: answer.answer,
        };
        let passed = edges.answer(&answer.to, answered);
        self.metrics
            .count(if passed { "answered" } else { "dropped" });
    }
}

impl Edges {
    /// Whether this is the stream by which the edge is reached.
    fn is(&self, node: &str, stream: u64) -> bool {
        self.reached.get(node).is_some_and(|e| e.stream == stream)
    }

    fn answer(&self, to: &str, answered: RelayAnswered) -> bool {
        let edge = self.reached.get(to);
        edge.is_some_and(|edge| send(&edge.sender, RelayFrame::Answered(answered)))
    }

    /// Forgets an edge and says so to the others.
    fn drop_edge(&mut self, node: &str) {
        self.reached.remove(node);
        let change = RelayEdges {
            up: Vec::new(),
            down: vec![node.to_owned()],
        };
        self.tell_others(node, change);
    }

    /// Tells everybody but `node`. Whoever does not take it is dropped: a wrong list would have it
    /// ask into the void. It opens another stream and gets the whole one.
    fn tell_others(&mut self, node: &str, change: RelayEdges) {
        let mut full = Vec::new();
        for (name, edge) in &self.reached {
            if name != node && !send(&edge.sender, RelayFrame::Edges(change.clone())) {
                full.push(name.clone());
            }
        }
        for name in full {
            tracing::warn!(
                node = name,
                "an edge does not read its relay stream: it is ended"
            );
            // Another round for each of them, fewer every time.
            self.drop_edge(&name);
        }
    }
}

/// Queues a frame; `false`: it did not fit, or the edge is gone.
fn send(to: &FrameSender<FromRelay>, frame: RelayFrame) -> bool {
    let frame = FromRelay { frame: Some(frame) };
    to.try_send(frame.class(), frame).is_ok()
}
