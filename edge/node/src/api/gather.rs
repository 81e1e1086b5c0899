//! What is asked of all edges: `channels` and `info`; and `connections`, which is asked of those that
//! may have the user. Edges that do not answer in time are named.

use std::collections::BTreeMap;
use std::time::Duration;

use gb6_core_model::Glob;
use gb6_core_wire::mesh::{
    AnswerKind, ChannelsThere, ChannelsWanted, ConnectionsWanted, EdgeQuestion, QuestionKind,
};

use super::call::Call;
use super::error::ApiError;
use super::schema::{
    ChannelInfo, ChannelsRequest, ChannelsResult, ConnectionInfo, ConnectionsRequest,
    ConnectionsResult, InfoRequest, InfoResult, NodeInfo,
};
use super::whereabouts;
use crate::relay::Gathered;

/// How long the edges may take.
const WITHIN: Duration = Duration::from_secs(2);

/// The channels that have subscribers.
pub(super) async fn channels(
    call: &Call,
    request: ChannelsRequest,
) -> Result<ChannelsResult, ApiError> {
    let pattern = request.pattern.unwrap_or_default();
    if let Err(why) = Glob::parse(&pattern) {
        return Err(ApiError::bad(format!("pattern: {why}")));
    }
    let (nodes, unanswered) = there(call, pattern, false).await;
    let more = nodes.iter().any(|(_, there)| there.more);
    let mut channels: BTreeMap<String, ChannelInfo> = BTreeMap::new();
    for one in nodes.into_iter().flat_map(|(_, there)| there.channels) {
        let channel = channels.entry(one.channel).or_default();
        channel.num_clients = channel.num_clients.saturating_add(one.clients);
    }
    Ok(ChannelsResult {
        channels,
        more,
        unanswered,
    })
}

/// What every edge serves of the instance.
pub(super) async fn info(call: &Call, _: InfoRequest) -> Result<InfoResult, ApiError> {
    let (nodes, unanswered) = there(call, String::new(), true).await;
    let node = |(name, there): (String, ChannelsThere)| NodeInfo {
        uid: name.clone(),
        name,
        version: there.version,
        num_clients: there.clients,
        num_users: there.users,
        num_subs: there.subscriptions,
        num_channels: there.channels_sum,
        uptime: there.uptime_s,
    };
    Ok(InfoResult {
        nodes: nodes.into_iter().map(node).collect(),
        unanswered,
    })
}

/// A user's connections.
pub(super) async fn connections(
    call: &Call,
    request: ConnectionsRequest,
) -> Result<ConnectionsResult, ApiError> {
    let user = request.user.unwrap_or_default();
    if user.is_empty() {
        return Err(ApiError::bad("user is needed"));
    }
    if request.expression.is_some_and(|e| !e.is_empty()) {
        return Err(ApiError::bad("expressions are not offered: leave it empty"));
    }
    let question = QuestionKind::Connections(ConnectionsWanted {
        instance: call.instance.as_str().to_owned(),
        user: user.clone(),
    });
    let question = EdgeQuestion {
        kind: Some(question),
    };
    let gathered = whereabouts::ask(call, &user, question, WITHIN).await;
    let unanswered = unanswered(&gathered);
    let mut connections = BTreeMap::new();
    for answer in gathered.answers.into_values() {
        let Some(AnswerKind::Connections(there)) = answer.kind else {
            continue;
        };
        for one in there.connections {
            let info = ConnectionInfo {
                transport: one.transport,
                protocol: one.protocol,
                user: user.clone(),
                app_name: one.app_name,
                app_version: one.app_version,
            };
            connections.insert(one.client, info);
        }
    }
    Ok(ConnectionsResult {
        connections,
        unanswered,
    })
}

/// What each edge has of the instance, and who did not answer.
async fn there(
    call: &Call,
    pattern: String,
    sums_only: bool,
) -> (Vec<(String, ChannelsThere)>, Vec<String>) {
    let question = QuestionKind::Channels(ChannelsWanted {
        instance: call.instance.as_str().to_owned(),
        pattern,
        sums_only,
    });
    let gathered = ask(call, question).await;
    let unanswered = unanswered(&gathered);
    let nodes = gathered.answers.into_iter();
    let nodes = nodes.filter_map(|(name, answer)| match answer.kind {
        Some(AnswerKind::Channels(there)) => Some((name.as_str().to_owned(), there)),
        _ => None,
    });
    (nodes.collect(), unanswered)
}

async fn ask(call: &Call, question: QuestionKind) -> Gathered {
    let question = EdgeQuestion {
        kind: Some(question),
    };
    let relays = &call.shared.relays;
    relays.ask_all(&call.shared, question, WITHIN).await
}

fn unanswered(gathered: &Gathered) -> Vec<String> {
    let failed = gathered.failed.keys();
    failed.map(|name| name.as_str().to_owned()).collect()
}
