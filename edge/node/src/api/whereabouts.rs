//! Which edges a user is asked for: those that the owner of the user's shard knows to have sessions of
//! it, where every edge has told that owner whom it has; else all.

use std::collections::BTreeSet;
use std::time::Duration;

use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{EdgeQuestion, RoomRef, edges_sum};
use gb6_edge_session::{Answer, Request};

use super::call::Call;
use crate::people::home_of;
use crate::relay::Gathered;

/// How long the owner may take to say it. All edges are asked then, which takes longer and is as right.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks the edges of a user; empty: anonymous people, who may be at any.
pub(super) async fn ask(
    call: &Call,
    user: &str,
    question: EdgeQuestion,
    within: Duration,
) -> Gathered {
    let relays = &call.shared.relays;
    let asked = &call.shared.metrics.api_user_questions;
    match edges_of(call, user).await {
        Some(edges) => {
            asked.with(&["some"]).inc();
            relays.ask_some(&call.shared, edges, question, within).await
        }
        None => {
            asked.with(&["all"]).inc();
            relays.ask_all(&call.shared, question, within).await
        }
    }
}

/// The edges with sessions of a user; `None`: that is not known.
async fn edges_of(call: &Call, user: &str) -> Option<BTreeSet<NodeId>> {
    let shared = &call.shared;
    let room = RoomRef {
        instance: call.instance.as_str().to_owned(),
        channel: home_of(user)?.as_str().to_owned(),
    };
    // What another edge tells by another placement may be told to another shard.
    let revision = shared.snapshot.load().revision;
    let session = shared.api.of(shared, &call.instance);
    let asked = session.ask(shared, room, Request::EdgesOf { revision });
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    let Answer::EdgesOf(there) = answer else {
        return None;
    };
    // Behind the answer: an edge that has come meanwhile counts as one that has told nothing.
    let reached = shared.relays.reached();
    let told = usize::try_from(there.reported).ok() == Some(reached.len())
        && there.reported_sum == edges_sum(reached.iter().map(NodeId::as_str));
    let edges = there.edges.iter();
    told.then(|| edges.map(|name| NodeId::from(name.as_str())).collect())
}
