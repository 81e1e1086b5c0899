//! Commands about rooms, besides subscribing, and the replies made from the hubs' answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_model::{Allow, Channel, ErrorCode, hash, limits};
use gb6_core_wire::client::{
    ClientInfo, Dialect, HistoryRequest, HistoryResult, PresenceResult, PresenceStatsResult,
    Publication, PublishRequest, PublishResult, UnsubscribeResult,
};
use gb6_core_wire::record::ContentType;

use super::asking::Publishing;
use super::live::{Asked, HistoryAsked, Live, Pending};
use super::message_id;
use super::reply::{Turn, fitting};
use super::rpc;
use super::types::count;
use crate::hub::cost;
use crate::request::{Answer, HistoryAnswer, HistoryQuery, PresenceAnswer, PublishQuery, Request};

impl Live {
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &PublishRequest,
    ) -> Result<(), ErrorCode> {
        // Map channels are not offered.
        if request.r#type != 0 || !request.key.is_empty() || request.removed {
            return Err(ErrorCode::NotAvailable);
        }
        let content_type = match turn.dialect {
            Dialect::Json => ContentType::Json,
            Dialect::Protobuf => ContentType::Unspecified,
        };
        let message = Message {
            id: MessageId::InData,
            data: request.data.clone(),
            content_type,
        };
        self.write(turn, id, &request.channel, message, |_| Asked::Publish)
    }

    /// Writes a message, or first has the backend asked about it: `asked` says what the reply is made
    /// from.
    pub(super) fn write(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &str,
        message: Message,
        asked: impl FnOnce(Channel) -> Asked,
    ) -> Result<(), ErrorCode> {
        let snapshot = turn.cx.snapshot;
        let (channel, rules) = self.asker().may(snapshot, channel, Allow::Publish)?;
        if message.data.is_empty() || message.data.len() > rules.max_message_bytes {
            return Err(ErrorCode::BadRequest);
        }
        let signal = rules.kind == ChannelKind::Signal;
        // The durable publish, with an id or without.
        if signal && matches!(message.id, MessageId::Given(_)) {
            return Err(ErrorCode::NotAvailable);
        }
        let (id_text, shown) = match (message.id, &rules.dedupe_field) {
            (MessageId::Given(given), _) => (given, true),
            // Subscribers see it in the data. Of signals no id is remembered.
            (MessageId::InData, Some(field)) if !signal => {
                (message_id::in_data(&message.data, field)?, false)
            }
            (MessageId::InData, _) => (None, false),
        };
        let written = Written {
            id: id_text,
            id_shown: shown,
            data: message.data,
            content_type: message.content_type,
        };
        let asked = asked(channel.clone());
        if rules.publish_proxy {
            return self.ask_about(turn, id, channel, Publishing { written, asked });
        }
        self.written(turn, id, &channel, rules, written, asked);
        Ok(())
    }

    /// Hands what is to be written to the hub.
    pub(super) fn written(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        rules: &Namespace,
        written: Written,
        asked: Asked,
    ) {
        let instance = turn.cx.snapshot.instances.get(self.instance());
        let tags = written.id.iter().filter(|_| written.id_shown);
        let tags = tags.map(|id| ("id".to_owned(), id.clone())).collect();
        let query = PublishQuery {
            instance_epoch: instance.map_or_else(Default::default, |i| i.epoch),
            from: Arc::clone(self.person_in(channel)),
            tags,
            id: written.id.map_or_else(Bytes::new, Bytes::from),
            data: written.data,
            content_type: written.content_type,
            traceparent: String::new(),
            version: None,
            after: None,
            signal: rules.kind == ChannelKind::Signal,
            unkept: false,
        };
        let request = Request::Publish(Box::new(query));
        let request = self.request(turn, id, channel, asked, request);
        turn.hub(request);
    }

    pub(super) fn presence(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &str,
        entries: bool,
    ) -> Result<(), ErrorCode> {
        let (channel, _) = self
            .asker()
            .may(turn.cx.snapshot, channel, Allow::Presence)?;
        let asked = match entries {
            true => Asked::Presence,
            false => Asked::PresenceStats,
        };
        if entries {
            self.may_wait(turn.cx.config.bulk_waiting_max)?;
        }
        let request = self.request(turn, id, &channel, asked, Request::Presence { entries });
        // Numbers alone are as small as any reply.
        if entries {
            self.bulk(turn, request);
        } else {
            turn.hub(request);
        }
        Ok(())
    }

    pub(super) fn history(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &HistoryRequest,
    ) -> Result<(), ErrorCode> {
        let name = &request.channel;
        let (channel, _) = self.asker().may(turn.cx.snapshot, name, Allow::History)?;
        let since = request.since.as_ref();
        if request.reverse && since.is_some_and(|s| s.offset == 0) {
            return Err(ErrorCode::BadRequest);
        }
        let cap = limits::HISTORY_PAGE_MAX as u32;
        let limit = u32::try_from(request.limit).map_or(cap, |n| n.min(cap));
        if limit > 0 {
            self.may_wait(turn.cx.config.bulk_waiting_max)?;
        }
        let query = HistoryQuery {
            since: since.map(|s| s.offset),
            reverse: request.reverse,
            limit,
            bytes: limits::HISTORY_PAGE_BYTES_MAX as u64,
        };
        let asked = Asked::History(Box::new(HistoryAsked {
            channel: channel.clone(),
            epoch: since.map(|s| s.epoch.clone()).unwrap_or_default(),
        }));
        let request = self.request(turn, id, &channel, asked, Request::History(query));
        if limit > 0 {
            self.bulk(turn, request);
        } else {
            turn.hub(request);
        }
        Ok(())
    }

    /// Makes the reply to a command from a hub's answer.
    pub(super) fn reply(
        &mut self,
        turn: &mut Turn<'_>,
        pending: Pending,
        answer: Answer,
    ) -> Result<(), ErrorCode> {
        let Pending { token, id, what } = pending;
        match (what, answer) {
            (Asked::Subscribe(what), answer) => {
                self.subscribed(turn, id, token, *what, answer)?;
            }
            (Asked::Ended(ended), _) => {
                self.ended(turn, &ended.0, ended.1);
                if id != 0 {
                    return Err(ErrorCode::TokenExpired);
                }
            }
            // Whatever became of it, the session has no subscription any more.
            (Asked::Unsubscribe, _) => turn.answer(id, UnsubscribeResult {}),
            (Asked::Introduced | Asked::Nothing, _) => {}
            (_, Answer::Failed(code)) => return Err(code),
            (Asked::Publish, Answer::Published(_)) => {
                count(&turn.cx.counters.published);
                turn.answer(id, PublishResult {});
            }
            (Asked::RpcPublish(channel), Answer::Published(published)) => {
                count(&turn.cx.counters.published);
                self.rpc_published(turn, id, &channel, published);
            }
            (Asked::RpcTrace(offset), Answer::Traced(traced)) => {
                self.rpc_traced(turn, id, offset, traced);
            }
            (Asked::RpcStatus, Answer::UserStatus(_)) => rpc::done(turn, id),
            (Asked::Presence, Answer::Presence(who)) => turn.answer(id, presence_result(&who)),
            (Asked::PresenceStats, Answer::Presence(who)) => turn.answer(
                id,
                PresenceStatsResult {
                    num_clients: who.clients,
                    num_users: who.users,
                },
            ),
            (Asked::History(asked), Answer::History(page)) => {
                let epoch = self.epoch(&asked.channel, page.generation);
                let wrong = !asked.epoch.is_empty() && asked.epoch != epoch;
                if wrong || page.error.is_some() {
                    return Err(ErrorCode::UnrecoverablePosition);
                }
                count(&turn.cx.counters.history_pages);
                turn.answer(id, history_result(&page, epoch));
            }
            // An answer to another question: the driver mixed tokens up.
            _ => return Err(ErrorCode::Internal),
        }
        Ok(())
    }

    /// The stream epoch of a channel of this session's instance.
    pub(super) fn epoch(&self, channel: &Channel, generation: u32) -> String {
        hash::stream_epoch(self.instance(), channel.as_str(), generation)
    }
}

/// A message that may be written, as it is.
pub(super) struct Written {
    /// Its message id, if it has one.
    pub(super) id: Option<String>,
    /// Whether subscribers are told that beside the data.
    pub(super) id_shown: bool,
    pub(super) data: Bytes,
    pub(super) content_type: ContentType,
}

/// A message to be written.
pub(super) struct Message {
    /// The client's id for it.
    pub(super) id: MessageId,
    pub(super) data: Bytes,
    pub(super) content_type: ContentType,
}

/// Where a message's id stands.
pub(super) enum MessageId {
    /// Beside it, if it has one.
    Given(Option<String>),
    /// In its data, where the namespace names a field for it.
    InData,
}

fn history_result(page: &HistoryAnswer, epoch: String) -> HistoryResult {
    let fit = fitting(page.publications.iter().map(cost::publication));
    let publications = page.publications.iter().take(fit);
    HistoryResult {
        publications: publications.map(Publication::from).collect(),
        epoch,
        offset: page.top,
    }
}

fn presence_result(who: &PresenceAnswer) -> PresenceResult {
    let fit = fitting(who.entries.iter().map(cost::entry));
    let people: BTreeMap<String, ClientInfo> = who
        .entries
        .iter()
        .take(fit)
        .map(|p| (p.client.clone(), ClientInfo::from(p)))
        .collect();
    PresenceResult { presence: people }
}
