//! The relay's part of the fake owner: it passes what edges ask each other, and shows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_mesh::{FrameSender, QueueLimits, Stream};
use gb6_core_wire::mesh::{
    FromRelay, RelayAnswered, RelayAsked, RelayEdges, RelayFrame, RelayOutcome, RelayRequest,
    ToRelay,
};
use parking_lot::Mutex;

/// Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Relay {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    edges: BTreeMap<String, FrameSender<FromRelay>>,
    /// Questions are kept from the edges while this is set.
    mute: bool,
    /// Questions that were passed on, or kept.
    asked: u64,
}

impl Relay {
    /// From now on questions reach nobody; `false`: they do again.
    pub(crate) fn mute(&self, mute: bool) {
        self.state.lock().mute = mute;
    }

    /// Edges that are attached.
    pub(crate) fn edges(&self) -> usize {
        self.state.lock().edges.len()
    }

    /// Questions that came.
    pub(crate) fn asked(&self) -> u64 {
        self.state.lock().asked
    }

    /// Ends every stream.
    pub(crate) fn drop_streams(&self) {
        self.state.lock().edges.clear();
    }

    /// Serves one edge.
    pub(crate) async fn serve(self, stream: Stream) {
        let from = stream.link().peer().node.as_str().to_owned();
        let (to, mut frames) = stream.split::<FromRelay, ToRelay>(QueueLimits::default());
        {
            let mut state = self.state.lock();
            state.edges.insert(from.clone(), to);
            let up: Vec<String> = state.edges.keys().cloned().collect();
            for edge in state.edges.values() {
                let (up, down) = (up.clone(), Vec::new());
                send(edge, RelayFrame::Edges(RelayEdges { up, down }));
            }
        }
        while let Ok(Some(frame)) = frames.recv().await {
            let mut state = self.state.lock();
            match frame.frame {
                Some(RelayRequest::Ask(ask)) => {
                    for to in &ask.to {
                        state.asked += 1;
                        match state.edges.get(to) {
                            _ if state.mute => {}
                            Some(edge) => send(
                                edge,
                                RelayFrame::Asked(RelayAsked {
                                    from: from.clone(),
                                    request: ask.request,
                                    within_ms: ask.within_ms,
                                    question: ask.question.clone(),
                                }),
                            ),
                            None => send(
                                &state.edges[&from],
                                RelayFrame::Answered(RelayAnswered {
                                    from: to.clone(),
                                    request: ask.request,
                                    outcome: RelayOutcome::Unknown.into(),
                                    answer: Default::default(),
                                }),
                            ),
                        }
                    }
                }
                Some(RelayRequest::Answer(answer)) => {
                    if let Some(edge) = state.edges.get(&answer.to) {
                        send(
                            edge,
                            RelayFrame::Answered(RelayAnswered {
                                from: from.clone(),
                                request: answer.request,
                                outcome: answer.outcome,
                                answer: answer.answer,
                            }),
                        );
                    }
                }
                None => {}
            }
        }
    }
}

fn send(to: &FrameSender<FromRelay>, frame: RelayFrame) {
    let frame = FromRelay { frame: Some(frame) };
    // An edge that is gone needs nothing.
    let _ = to.try_send(frame.class(), frame);
}
