//! Taking what waits for a connection in its outbox: frames of hubs, in order with what others have
//! to tell the session.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_core_wire::mesh::ConnectionThere;
use gb6_edge_session::{ARRIVAL, App, TokenRef, id_of_user};

use super::carrier::Carrier;
use super::driver::{Connection, End};
use super::framing::Framing;
use super::handle::Event;
use super::outbox::{Phase, Taken};
use crate::people::{Ordered, Roll};
use crate::revocation::Revoked;
use crate::shards::ShardInbox;

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// The application's server wants something of some of its user's sessions.
    fn ordered(&mut self, now_ms: u64, ordered: &Ordered) {
        let client = self.session.client();
        if !client.is_some_and(|client| ordered.is_for(client, self.handle.secret)) {
            return;
        }
        let mut done = Ok(());
        self.input(now_ms, |s, cx, out| {
            done = s.command(cx, ordered.command.clone(), out);
        });
        let outcome = match done {
            Ok(()) => "done",
            Err(_) => "refused",
        };
        self.shared.metrics.api_commands.with(&[outcome]).inc();
    }

    /// Somebody asks what it is.
    fn describe(&self, roll: &Roll) {
        if let Some(client) = self.session.client() {
            let app = self.session.app();
            let said = |text: fn(&App) -> &str| app.map_or("", text).to_owned();
            roll.add(ConnectionThere {
                client: client.to_owned(),
                transport: self.transport.name().to_owned(),
                protocol: self.dialect.name().to_owned(),
                app_name: said(|app| &app.name),
                app_version: said(|app| &app.version),
            });
        }
    }

    /// What its instance has revoked and the key of its user, where it has them.
    fn revocations(&self) -> Option<(Arc<Revoked>, [u8; 16])> {
        let (instance, user) = self.session.identity()?;
        let revoked = self.shared.revocations.of(&self.shared, instance);
        Some((revoked, id_of_user(user)))
    }

    /// Whether one of its subscriptions is by a token that is revoked.
    fn has_revoked_token(&self) -> bool {
        let unix_ms = self.shared.clock.unix_ms();
        let revoked = self.revocations();
        revoked.is_some_and(|(revoked, user)| {
            let session = &self.session;
            session.has_revoked_token(|token| revoked.has_token(token, &user, unix_ms))
        })
    }

    /// Tokens were revoked, perhaps of its subscriptions.
    fn tokens_revoked(&mut self, now_ms: u64) {
        let unix_ms = self.shared.clock.unix_ms();
        if let Some((revoked, user)) = self.revocations() {
            let is_revoked = |token: &TokenRef| revoked.has_token(token, &user, unix_ms);
            self.input(now_ms, |s, cx, out| {
                s.tokens_revoked(cx, is_revoked, out);
            });
        }
    }

    /// Takes what waits in the outbox.
    pub(super) fn take(&mut self, now_ms: u64, taken: Taken<Event>) {
        let Taken {
            mut frames,
            events,
            phase,
        } = taken;
        let cut = events.iter().find_map(|(_, event)| match event {
            Event::Cut(why) => Some(*why),
            _ => None,
        });
        // What waits was delivered while it was not known, and may be of what is revoked.
        let late =
            |(_, event): &(usize, Event)| matches!(event, Event::TokensRevoked { late: true });
        let cut = cut.or_else(|| {
            let revoked = events.iter().any(late) && self.has_revoked_token();
            revoked.then_some(Disconnect::InsufficientState)
        });
        if let Some(why) = cut {
            return self.input(now_ms, |s, cx, out| s.shutdown(cx, why, out));
        }
        let mut taken = 0;
        for (before, event) in events {
            for frame in frames.drain(..before - taken) {
                match self.session.is_connected() {
                    true => self.framing.push(frame, &mut self.batch),
                    false => self.held.get_or_insert_default().push_back(frame),
                }
            }
            taken = before;
            let event = match event {
                Event::Lost(inbox) if self.has_asked(&inbox) => {
                    Event::Shutdown(Disconnect::InsufficientState)
                }
                event => event,
            };
            match event {
                Event::Verified(request, result) => self.verified(now_ms, request, *result),
                Event::Admitted(request, claims) => self.admitted(now_ms, request, *claims),
                Event::SubscriptionVerified(request, channel, result) => {
                    self.subscription_verified(now_ms, request, &channel, *result);
                }
                Event::Ordered(ordered) => self.ordered(now_ms, &ordered),
                Event::Describe(roll) => self.describe(&roll),
                Event::TokensRevoked { .. } => self.tokens_revoked(now_ms),
                Event::Complete(ARRIVAL, answer) => self.arrived(now_ms, &answer),
                event => self.input(now_ms, |s, cx, out| match event {
                    Event::ConnectDecided(request, decision) => {
                        s.connect_decided(cx, request, *decision, out);
                    }
                    Event::PublishDecided(request, decision) => {
                        s.publish_decided(cx, request, *decision, out);
                    }
                    Event::Complete(token, answer) => s.complete(cx, token, *answer, out),
                    Event::Notice(notice) => s.notice(cx, *notice, out),
                    Event::Shutdown(why) => s.shutdown(cx, why, out),
                    Event::Commands(kind, commands) => s.frame(cx, kind, commands, out),
                    Event::Lost(_)
                    | Event::Verified(..)
                    | Event::Admitted(..)
                    | Event::SubscriptionVerified(..)
                    | Event::Cut(_)
                    | Event::Ordered(_)
                    | Event::TokensRevoked { .. }
                    | Event::Describe(_) => {}
                }),
            }
            if self.end != End::Open {
                return;
            }
        }
        if self.end == End::Open {
            if self.session.is_connected() {
                self.framing.append(frames, &mut self.batch);
            } else if !frames.is_empty() {
                self.held.get_or_insert_default().extend(frames);
            }
            if phase == Phase::Slow {
                self.slow(now_ms);
            }
        }
    }

    /// While the connection is held still and nothing is taken: answers publishes that failed. That says
    /// nothing but that they may be tried again, and whoever waits for it can not go on without.
    pub(super) fn take_failures(&mut self, now_ms: u64) {
        let session = &self.session;
        let failed = self.handle.outbox.take_early(|event| {
            let token = event.fails();
            token.is_some_and(|token| session.is_publishing(token))
        });
        for event in failed {
            if let Event::Complete(token, answer) = event {
                self.input(now_ms, |s, cx, out| s.complete(cx, token, *answer, out));
            }
        }
    }

    /// Queues what was held back, once the connect is answered.
    pub(super) fn release(&mut self) {
        if self.session.is_connected()
            && let Some(held) = self.held.take()
        {
            self.framing.append(*held, &mut self.batch);
        }
    }

    /// Bytes that wait for the client.
    pub(super) fn waiting(&self) -> usize {
        let held = self.held.iter().flat_map(|held| held.iter());
        self.batch.left() + held.map(Bytes::len).sum::<usize>()
    }

    fn has_asked(&self, inbox: &Arc<ShardInbox>) -> bool {
        self.asked.iter().any(|asked| Arc::ptr_eq(asked, inbox))
    }
}
