//! What this edge answers to other edges, and to itself.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gb6_core_model::{Channel, Glob, InstanceId};
use gb6_core_wire::mesh::{
    AnswerKind, ChannelsThere, ChannelsWanted, ConnectionsThere, Done, EdgeAnswer, EdgeQuestion,
    QuestionKind, SubscribeUser, UserAction, UserCommand,
};
use gb6_edge_session::{CloseReason, Overrides, RecoverSince, ServerCommand, SubscriptionGrant};

use crate::people::Ordered;
use crate::shared::Shared;

/// An answer, at once or when others have said what it takes.
pub(super) enum Answering {
    /// It is there.
    Now(EdgeAnswer),
    /// It comes; none where nobody can give it any more.
    Later(BoxFuture<'static, Option<EdgeAnswer>>),
}

/// Carries a question out; `None`: its kind is of a later version, or it makes no sense. It does not
/// wait: questions of one edge are carried out in their order, on the task that reads them.
pub(super) fn answer(shared: &Arc<Shared>, question: &EdgeQuestion) -> Option<Answering> {
    let done = || Answering::Now(of_kind(AnswerKind::Done(Done {})));
    Some(match question.kind.as_ref()? {
        QuestionKind::Emulation(emulation) => {
            shared.emulated(&emulation.session, emulation.data.clone());
            // Whether there is such a session is nobody's business.
            done()
        }
        QuestionKind::User(command) => {
            let ordered = ordered(command)?;
            let (instance, user) = (&command.instance, &command.user);
            report_to_home_of(shared, instance, user);
            shared.people.command(instance, user, ordered);
            done()
        }
        QuestionKind::Channels(wanted) => channels(shared, wanted)?,
        QuestionKind::Connections(wanted) => {
            report_to_home_of(shared, &wanted.instance, &wanted.user);
            let answer = shared.people.describe(&wanted.instance, &wanted.user);
            Answering::Later(Box::pin(async move {
                let connections = answer.await.ok()?;
                let there = ConnectionsThere { connections };
                Some(of_kind(AnswerKind::Connections(there)))
            }))
        }
    })
}

/// An edge is asked about a user whom it does not have when the owner of the user's shard has not heard
/// from it. It is attached to that shard from now on, and so will not be asked in vain again.
fn report_to_home_of(shared: &Arc<Shared>, instance: &str, user: &str) {
    let instance = InstanceId::from(instance);
    if shared.snapshot.load().instances.contains_key(&instance) {
        shared.home(&instance, user);
    }
}

fn of_kind(kind: AnswerKind) -> EdgeAnswer {
    EdgeAnswer { kind: Some(kind) }
}

fn channels(shared: &Arc<Shared>, wanted: &ChannelsWanted) -> Option<Answering> {
    let pattern = match wanted.pattern.is_empty() {
        true => None,
        false => Some(Glob::parse(&wanted.pattern).ok()?),
    };
    let found = shared
        .shards
        .count(&wanted.instance, pattern, wanted.sums_only);
    let (clients, users) = shared.people.count(&wanted.instance);
    let version = shared.config.session.version.clone();
    let uptime_s = shared.clock.now_ms() / 1000;
    Some(Answering::Later(Box::pin(async move {
        let found = found.await.ok()?;
        Some(of_kind(AnswerKind::Channels(ChannelsThere {
            channels: found.channels,
            more: found.more,
            channels_sum: found.channels_sum,
            subscriptions: found.subscriptions,
            clients: clients as u64,
            users: users as u64,
            version,
            uptime_s,
        })))
    })))
}

/// A command as sessions have it; `None`: it makes no sense.
fn ordered(command: &UserCommand) -> Option<Ordered> {
    let what = match command.action.as_ref()? {
        UserAction::Subscribe(subscribe) => subscription(subscribe)?,
        UserAction::Unsubscribe(channel) => ServerCommand::Unsubscribe {
            channel: Channel::parse(channel).ok()?,
        },
        UserAction::Disconnect(end) => {
            ServerCommand::Disconnect(CloseReason::custom(end.code, &end.reason).ok()?)
        }
        UserAction::Refresh(refresh) => ServerCommand::Refresh {
            expired: refresh.expired,
            expires_unix_ms: refresh.expires_unix_ms,
            info: refresh.info.clone(),
        },
    };
    Some(Ordered {
        client: command.client.clone(),
        session: command.session.clone(),
        whitelist: command.whitelist.clone(),
        command: what,
    })
}

fn subscription(wanted: &SubscribeUser) -> Option<ServerCommand> {
    Some(ServerCommand::Subscribe {
        channel: Channel::parse(&wanted.channel).ok()?,
        grant: Box::new(SubscriptionGrant {
            info: wanted.info.clone(),
            data: wanted.data.clone(),
            overrides: Overrides {
                presence: wanted.presence,
                join_leave: wanted.join_leave,
                force_push_join_leave: wanted.force_push_join_leave,
                force_recovery: wanted.force_recovery,
                force_positioning: wanted.force_positioning,
            },
            expires_unix_ms: wanted.expires_unix_ms,
        }),
        recover_since: wanted.since_offset.map(|offset| RecoverSince {
            offset,
            epoch: wanted.since_epoch.clone(),
        }),
    })
}
