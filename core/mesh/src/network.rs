//! The nodes of one process: who can be dialled, and which paths are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use gb6_core_model::NodeId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::close::{CloseCell, CloseCode, Closed};
use crate::endpoint::{BindError, DialError, Endpoint};
use crate::hello::LocalNode;
use crate::link::Link;
use crate::memory::{Side, connect};
use crate::stats::{FailureReason, MeshStats};
use crate::transport::{LINK_BACKLOG, Timing};

/// The nodes of one process, which dial each other by id.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<NetworkState>>,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("MemoryNetwork")
            .field("nodes", &state.listeners.keys().collect::<Vec<_>>())
            .field("cuts", &state.cuts)
            .finish()
    }
}

#[derive(Default)]
struct NetworkState {
    listeners: BTreeMap<NodeId, Listener>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    links: Vec<Tracked>,
}

#[derive(Clone)]
struct Listener {
    local: Arc<LocalNode>,
    stats: Arc<MeshStats>,
    timing: Timing,
    accepted: mpsc::Sender<Link>,
}

/// A link, so that a cut finds it.
struct Tracked {
    /// The dialler's end, then the other.
    ends: [End; 2],
}

struct End {
    node: NodeId,
    ended: Weak<CloseCell>,
    stats: Arc<MeshStats>,
}

impl End {
    fn set(&self, reason: Closed) {
        if self.ended.upgrade().is_some_and(|ended| ended.set(reason)) {
            self.stats.links_down.add(1);
        }
    }
}

impl Tracked {
    fn between(&self) -> (NodeId, NodeId) {
        pair(&self.ends[0].node, &self.ends[1].node)
    }
}

fn pair(a: &NodeId, b: &NodeId) -> (NodeId, NodeId) {
    if a <= b {
        (a.clone(), b.clone())
    } else {
        (b.clone(), a.clone())
    }
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a node on the network: it can dial and be dialled until its endpoint is dropped or
    /// closed.
    ///
    /// # Errors
    /// A node with this id is on it already.
    pub fn bind(&self, local: LocalNode, timing: Timing) -> Result<Endpoint, BindError> {
        let node = local.identity.node.clone();
        // overflow: who dials waits, up to its time limit.
        let (accepted, links) = mpsc::channel(LINK_BACKLOG);
        let stats = Arc::<MeshStats>::default();
        let local = Arc::new(local);
        let listener = Listener {
            local: Arc::clone(&local),
            stats: Arc::clone(&stats),
            timing,
            accepted,
        };
        let mut state = self.state.lock();
        if state.listeners.contains_key(&node) {
            return Err(BindError::InUse(node));
        }
        state.listeners.insert(node, listener);
        drop(state);
        let endpoint = MemoryEndpoint {
            network: self.clone(),
            timing,
        };
        Ok(Endpoint::memory(local, stats, links, endpoint))
    }

    /// Cuts the path between two nodes: their links end with an error, new ones fail.
    pub fn cut(&self, a: &NodeId, b: &NodeId) {
        let between = pair(a, b);
        let mut state = self.state.lock();
        for link in state.links.iter().filter(|link| link.between() == between) {
            for end in &link.ends {
                end.set(Closed::Lost("the path was cut".into()));
            }
        }
        state.cuts.insert(between);
    }

    /// Heals the path between two nodes: they can dial each other again.
    pub fn heal(&self, a: &NodeId, b: &NodeId) {
        self.state.lock().cuts.remove(&pair(a, b));
    }

    fn listener(&self, from: &NodeId, to: &NodeId) -> Result<Listener, DialError> {
        let state = self.state.lock();
        let unreachable = |reason: &str| DialError::Unreachable {
            node: to.clone(),
            address: "memory".into(),
            reason: reason.into(),
        };
        if state.cuts.contains(&pair(from, to)) {
            return Err(unreachable("the path was cut"));
        }
        match state.listeners.get(to) {
            Some(listener) => Ok(listener.clone()),
            None => Err(unreachable("no such node is on the network")),
        }
    }
}

/// What an endpoint on a [`MemoryNetwork`] has beside the common parts.
#[derive(Debug)]
pub(crate) struct MemoryEndpoint {
    network: MemoryNetwork,
    timing: Timing,
}

impl MemoryEndpoint {
    pub(crate) async fn dial(
        &self,
        local: &LocalNode,
        stats: &Arc<MeshStats>,
        node: &NodeId,
    ) -> Result<Link, DialError> {
        let from = &local.identity.node;
        let listener = self.network.listener(from, node)?;
        let there = &listener.local;
        let seen_there = there
            .check(&local.identity, &local.hello())
            .map_err(|error| {
                listener.stats.accept_failed(error.reason());
                DialError::Refused {
                    node: node.clone(),
                    code: error.close_code(),
                    text: error.to_string(),
                }
            })?;
        let seen_here = local
            .check(&there.identity, &there.hello())
            .map_err(|error| DialError::Hello {
                node: node.clone(),
                source: error,
            })?;
        // A place in the peer's backlog first: a link that nobody accepts is none.
        let place = tokio::time::timeout(self.timing.handshake, listener.accepted.reserve())
            .await
            .map_err(|_| {
                listener.stats.accept_failed(FailureReason::Busy);
                DialError::Timeout {
                    node: node.clone(),
                    after: self.timing.handshake,
                }
            })?
            .map_err(|_| DialError::Unreachable {
                node: node.clone(),
                address: "memory".into(),
                reason: "its endpoint is closed".into(),
            })?;
        let dialler = Side {
            peer: seen_here,
            stats: Arc::clone(stats),
            timing: self.timing,
            ended: Arc::default(),
        };
        let accepter = Side {
            peer: seen_there,
            stats: Arc::clone(&listener.stats),
            timing: listener.timing,
            ended: Arc::default(),
        };
        let end = |side: &Side, node: &NodeId| End {
            node: node.clone(),
            ended: Arc::downgrade(&side.ended),
            stats: Arc::clone(&side.stats),
        };
        let tracked = Tracked {
            ends: [end(&dialler, from), end(&accepter, node)],
        };
        // A cut during the handshake must find the link or prevent it.
        let mut state = self.network.state.lock();
        if state.cuts.contains(&tracked.between()) {
            return Err(DialError::Unreachable {
                node: node.clone(),
                address: "memory".into(),
                reason: "the path was cut".into(),
            });
        }
        state
            .links
            .retain(|link| link.ends.iter().any(|end| end.ended.strong_count() > 0));
        state.links.push(tracked);
        drop(state);
        let (here, there) = connect(dialler, accepter);
        place.send(there);
        Ok(here)
    }

    /// Takes `node` off the network: it can not be dialled any more.
    pub(crate) fn unbind(&self, node: &NodeId) {
        self.network.state.lock().listeners.remove(node);
    }

    /// Takes `node` off the network and ends its links.
    pub(crate) fn close(&self, node: &NodeId, code: CloseCode, text: &str) {
        self.unbind(node);
        let state = self.network.state.lock();
        for Tracked { ends: [a, b] } in &state.links {
            for (end, other) in [(a, b), (b, a)] {
                if end.node == *node {
                    let text: Arc<str> = text.into();
                    end.set(Closed::Local {
                        code,
                        text: Arc::clone(&text),
                    });
                    other.set(Closed::Peer { code, text });
                }
            }
        }
    }
}
