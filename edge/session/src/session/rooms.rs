//! Commands about rooms, and the replies made from the hubs' answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Allow, Channel, ErrorCode, Offset, hash, limits};
use gb6_core_wire::client::{
    ClientInfo, Dialect, HistoryRequest, HistoryResult, PresenceResult, PresenceStatsResult,
    Publication, PublishRequest, PublishResult, SubscribeRequest, SubscribeResult,
    UnsubscribeRequest, UnsubscribeResult, subscribe_flags,
};
use gb6_core_wire::record::ContentType;

use super::live::{Asked, Features, HistoryAsked, Live, Pending, RecoveryBudget, Subscription};
use super::reply::{Turn, fitting};
use super::types::count;
use crate::hub::cost;
use crate::request::{
    Answer, HistoryAnswer, HistoryQuery, PresenceAnswer, PublishQuery, RecoverFrom, Request,
    SubscribeAnswer, SubscribeQuery,
};

impl Live {
    pub(super) fn subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &SubscribeRequest,
    ) -> Result<(), ErrorCode> {
        let snapshot = turn.cx.snapshot;
        let asker = self.asker();
        let (channel, rules) = asker.may(snapshot, &request.channel, Allow::Subscribe)?;
        // Map and shared-poll subscriptions are not offered, nor are filters by tags.
        if request.r#type != 0 {
            return Err(ErrorCode::NotAvailable);
        }
        if !request.tf.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let Err(at) = self.find(&channel) else {
            return Err(ErrorCode::AlreadySubscribed);
        };
        let instance = snapshot.instances.get(self.instance());
        let most = instance.map_or(limits::SUBSCRIPTIONS_MAX, |i| i.subscriptions_max);
        if self.subscriptions.len() >= most {
            return Err(ErrorCode::LimitExceeded);
        }
        let recoverable = rules.force_recovery || request.recoverable || request.recover;
        let features = Features {
            positioned: rules.force_positioning || request.positioned || recoverable,
            recoverable,
            was_recovering: request.recover,
            or_fail: request.flag & subscribe_flags::REJECT_UNRECOVERED != 0,
        };
        let join_leave = rules.force_join_leave || (rules.join_leave && request.join_leave);
        // Joins and leaves are told from presence, so either needs it.
        let present = rules.presence || rules.join_leave || rules.force_join_leave;
        let recover = request.recover.then(|| RecoverFrom {
            offset: request.offset,
            epoch: request.epoch.clone(),
            publications_max: 0,
            bytes_max: 0,
            or_fail: features.or_fail,
        });
        let bulk = recover.is_some();
        let query = Request::Subscribe(Box::new(SubscribeQuery {
            dialect: turn.dialect,
            join_leave,
            presence: present.then(|| Arc::clone(self.person())),
            recover,
        }));
        let asked = Asked::Subscribe {
            channel: channel.clone(),
            features,
        };
        let request = self.request(turn, id, &channel, asked, query);
        if self.subscriptions.is_empty() {
            self.subscriptions.reserve_exact(1);
        }
        let pending = request.token;
        self.subscriptions
            .insert(at, Subscription { channel, pending });
        if bulk {
            self.bulk(turn, request);
        } else {
            turn.hub(request);
        }
        Ok(())
    }

    /// Always succeeds, whatever the name.
    pub(super) fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &UnsubscribeRequest,
    ) {
        let channel = Channel::parse(&request.channel).ok();
        let found = channel.and_then(|c| Some((self.find(&c).ok()?, c)));
        let Some((at, channel)) = found else {
            return turn.answer(id, UnsubscribeResult {});
        };
        let pending = self.subscriptions.remove(at).pending;
        if pending != 0 && self.withdraw(pending) {
            if let Some(subscribe) = self.settle(pending) {
                turn.fail(subscribe.id, ErrorCode::Internal);
            }
            return turn.answer(id, UnsubscribeResult {});
        }
        // Answered behind everything that the room still sends.
        let request = self.request(turn, id, &channel, Asked::Unsubscribe, Request::Unsubscribe);
        turn.hub(request);
    }

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
            id: None,
            data: request.data.clone(),
            content_type,
        };
        self.write(turn, id, &request.channel, message, |_| Asked::Publish)
    }

    /// Writes a message: `asked` says what the reply is made from.
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
        let instance = snapshot.instances.get(self.instance());
        let tags = message.id.iter().map(|id| ("id".to_owned(), id.clone()));
        let query = PublishQuery {
            instance_epoch: instance.map_or_else(Default::default, |i| i.epoch),
            from: Arc::clone(self.person()),
            tags: tags.collect(),
            id: message.id.map_or_else(Bytes::new, Bytes::from),
            data: message.data,
            content_type: message.content_type,
            traceparent: String::new(),
        };
        let asked = asked(channel.clone());
        let request = Request::Publish(Box::new(query));
        let request = self.request(turn, id, &channel, asked, request);
        turn.hub(request);
        Ok(())
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
            (Asked::Subscribe { channel, features }, answer) => {
                self.subscribed(turn, id, token, &channel, features, answer)?;
            }
            // Whatever became of it, the session has no subscription any more.
            (Asked::Unsubscribe, _) => turn.answer(id, UnsubscribeResult {}),
            (Asked::Nothing, _) => {}
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

    fn subscribed(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        token: u64,
        channel: &Channel,
        features: Features,
        answer: Answer,
    ) -> Result<(), ErrorCode> {
        // Another one under the same name, asked for since, is not meant.
        let ours = self
            .find(channel)
            .ok()
            .filter(|at| self.subscriptions[*at].pending == token);
        let mut answer = match answer {
            Answer::Subscribed(answer) => answer,
            failed => {
                if let Some(at) = ours {
                    self.subscriptions.remove(at);
                }
                return Err(match failed {
                    Answer::Failed(code) => code,
                    _ => ErrorCode::Internal,
                });
            }
        };
        if !self.spend(&answer) {
            // Others used the budget up meanwhile. The subscription stands behind what it was
            // given; the client is told so and reads the rest by history.
            let last = answer.publications.last();
            answer.offset = last.map_or(answer.offset, |p| p.publication.offset);
            answer.publications.clear();
            answer.recovered = false;
            if features.or_fail {
                count(&turn.cx.counters.not_recovered);
                if let Some(at) = ours {
                    self.subscriptions.remove(at);
                    let leave = Request::Unsubscribe;
                    let request = self.request(turn, id, channel, Asked::Nothing, leave);
                    turn.hub(request);
                }
                return Err(ErrorCode::UnrecoverablePosition);
            }
        }
        if let Some(at) = ours {
            self.subscriptions[at].pending = 0;
        }
        let counters = turn.cx.counters;
        count(&counters.subscribed);
        if features.was_recovering {
            self.recovered_at = turn.cx.now_ms;
            count(match answer.recovered {
                true => &counters.recovered,
                false => &counters.not_recovered,
            });
        }
        turn.answer(id, subscribe_result(&answer, features));
        Ok(())
    }

    /// Takes what was recovered off the budget; `false`, and nothing is taken, if it is too much.
    fn spend(&mut self, answer: &SubscribeAnswer) -> bool {
        let bytes: usize = answer.publications.iter().map(|p| p.cost).sum();
        let left = &mut self.recovery;
        let less = |left: u32, by: usize| left.checked_sub(u32::try_from(by).ok()?);
        let publications = less(left.publications, answer.publications.len());
        let (Some(publications), Some(bytes)) = (publications, less(left.bytes, bytes)) else {
            return false;
        };
        *left = RecoveryBudget {
            publications,
            bytes,
        };
        true
    }

    /// The stream epoch of a channel of this session's instance.
    pub(super) fn epoch(&self, channel: &Channel, generation: u32) -> String {
        hash::stream_epoch(self.instance(), channel.as_str(), generation)
    }
}

/// A message to be written.
pub(super) struct Message {
    /// The client's id for it.
    pub(super) id: Option<String>,
    pub(super) data: Bytes,
    pub(super) content_type: ContentType,
}

fn subscribe_result(answer: &SubscribeAnswer, features: Features) -> SubscribeResult {
    let position: Option<(Offset, String)> = features
        .positioned
        .then(|| (answer.offset, answer.epoch.to_string()));
    let (offset, epoch) = position.unwrap_or_default();
    let publications = answer.publications.iter();
    SubscribeResult {
        recoverable: features.recoverable,
        positioned: features.positioned,
        epoch,
        offset,
        publications: publications
            .map(|recent| Publication::from(&recent.publication))
            .collect(),
        recovered: answer.recovered,
        was_recovering: features.was_recovering,
        ..SubscribeResult::default()
    }
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
