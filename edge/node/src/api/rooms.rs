//! What is asked about one channel: its history, and who is present.

use gb6_core_model::snapshot::ChannelKind;
use gb6_core_model::{ErrorCode, limits};
use gb6_edge_session::{Answer, HistoryQuery, PresenceAnswer, Request};

use super::call::Call;
use super::error::ApiError;
use super::schema::{
    ChannelRequest, ClientInfo, Done, HistoryRequest, HistoryResult, PresenceResult,
    PresenceStatsResult, Publication,
};

/// A page of history.
pub(super) async fn history(
    call: &Call,
    request: HistoryRequest,
) -> Result<HistoryResult, ApiError> {
    let (channel, rules) = call.channel(&request.channel)?;
    if rules.kind == ChannelKind::Signal {
        let why = format!("signals such as {channel} have no history");
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    let reverse = request.reverse.unwrap_or(false);
    let since = request
        .since
        .map(|s| (s.offset.unwrap_or(0), s.epoch.unwrap_or_default()));
    if reverse && since.as_ref().is_some_and(|(offset, _)| *offset == 0) {
        return Err(ApiError::bad("there is nothing before offset 0"));
    }
    let cap = limits::HISTORY_PAGE_MAX as u32;
    let query = HistoryQuery {
        since: since.as_ref().map(|(offset, _)| *offset),
        reverse,
        limit: u32::try_from(request.limit.unwrap_or(0)).map_or(cap, |n| n.min(cap)),
        bytes: limits::HISTORY_PAGE_BYTES_MAX as u64,
    };
    let Answer::History(page) = call.ask(&channel, Request::History(query)).await? else {
        return Err(ErrorCode::Internal.into());
    };
    let epoch = call.epoch(&channel, page.generation);
    if let Some((_, wanted)) = &since
        && !wanted.is_empty()
        && *wanted != epoch
    {
        let why = format!("the stream epoch is {epoch} now");
        return Err(ApiError::with(ErrorCode::UnrecoverablePosition, why));
    }
    if let Some(code) = page.error {
        let why = format!(
            "the oldest publication that is kept has offset {}",
            page.first
        );
        return Err(ApiError::with(code, why));
    }
    Ok(HistoryResult {
        publications: page.publications.iter().map(Publication::from).collect(),
        offset: page.top,
        epoch,
    })
}

/// Moves the first kept offset behind the newest: nothing that was published before is shown any
/// more, and the stream goes on under its epoch.
pub(super) async fn history_remove(call: &Call, request: ChannelRequest) -> Result<Done, ApiError> {
    let (channel, rules) = call.channel(&request.channel)?;
    if rules.kind == ChannelKind::Signal {
        let why = format!("signals such as {channel} have no history");
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    let instance_epoch = call.instance_epoch();
    let removal = Request::RemoveHistory {
        instance_epoch,
        first: None,
    };
    match call.ask(&channel, removal).await? {
        Answer::HistoryRemoved => Ok(Done {}),
        _ => Err(ErrorCode::Internal.into()),
    }
}

/// Who is present.
pub(super) async fn presence(
    call: &Call,
    request: ChannelRequest,
) -> Result<PresenceResult, ApiError> {
    let who = present(call, &request.channel, true).await?;
    let entry = |p: &_| {
        (
            gb6_core_wire::mesh::Person::clone(p).client,
            ClientInfo::from(p),
        )
    };
    Ok(PresenceResult {
        presence: who.entries.iter().map(entry).collect(),
    })
}

/// How many are present.
pub(super) async fn presence_stats(
    call: &Call,
    request: ChannelRequest,
) -> Result<PresenceStatsResult, ApiError> {
    let who = present(call, &request.channel, false).await?;
    Ok(PresenceStatsResult {
        num_clients: who.clients,
        num_users: who.users,
    })
}

async fn present(call: &Call, name: &str, entries: bool) -> Result<PresenceAnswer, ApiError> {
    let (channel, rules) = call.channel(name)?;
    if !rules.presence {
        let why =
            format!("presence is not kept in {channel}: set presence = true in its namespace");
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    match call.ask(&channel, Request::Presence { entries }).await? {
        Answer::Presence(who) => Ok(*who),
        _ => Err(ErrorCode::Internal.into()),
    }
}
