//! Who a session is to others, everywhere and in single channels, and what they see of it changed
//! while it lasts.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::Channel;
use gb6_core_wire::mesh::Person;

use super::live::{Asked, Live};
use super::reply::Turn;
use super::subscription::VERIFYING;
use crate::request::Request;

impl Live {
    /// Who the session is in a channel.
    pub(super) fn person_in(&self, channel: &Channel) -> &Arc<Person> {
        let at = self.find(channel).ok();
        at.map_or(self.person(), |at| self.person_at(at))
    }

    fn person_at(&self, at: usize) -> &Arc<Person> {
        let terms = self.subscriptions[at].terms.as_ref();
        let own = terms.and_then(|t| t.person.as_ref());
        own.unwrap_or(self.person())
    }

    /// Others see this of the connection in one channel from here on.
    pub(super) fn introduce_in(&mut self, turn: &mut Turn<'_>, at: usize, info: Bytes) {
        let known = {
            let terms = self.subscriptions[at].terms.as_ref();
            let before = terms.and_then(|t| t.person.as_ref());
            before.is_some_and(|p| p.chan_info == info)
        };
        let person = Person {
            chan_info: info,
            ..Person::clone(self.person())
        };
        let terms = self.subscriptions[at].terms.get_or_insert_default();
        terms.person = Some(Arc::new(person));
        if !known {
            self.tell_person(turn, at);
        }
    }

    /// Others see this of the connection from here on, in every channel. Their own infos stay.
    pub(super) fn introduce(&mut self, turn: &mut Turn<'_>, info: Bytes) {
        if self.person().conn_info == info {
            return;
        }
        self.set_person(Arc::new(Person {
            conn_info: info.clone(),
            ..Person::clone(self.person())
        }));
        for at in 0..self.subscriptions.len() {
            let terms = self.subscriptions[at].terms.as_mut();
            if let Some(own) = terms.and_then(|t| t.person.as_mut()) {
                *own = Arc::new(Person {
                    conn_info: info.clone(),
                    ..Person::clone(own)
                });
            }
            self.tell_person(turn, at);
        }
    }

    /// Whether others are being told who the connection is by now.
    pub(super) fn is_introducing(&self) -> bool {
        self.pending_any(|what| matches!(what, Asked::Introduced))
    }

    /// Tells the room of a subscription who the session is in it.
    fn tell_person(&mut self, turn: &mut Turn<'_>, at: usize) {
        let subscription = &self.subscriptions[at];
        // What has not been asked for yet will say it, and in many rooms at once nobody is present.
        if subscription.pending == VERIFYING || subscription.following().is_some() {
            return;
        }
        let (pending, channel) = (subscription.pending, subscription.channel.clone());
        let person = self.person_at(at).clone();
        if pending != 0 && self.rename_waiting(pending, &person) {
            return;
        }
        let introduce = Request::Introduce(person);
        let request = self.request(turn, 0, &channel, Asked::Introduced, introduce);
        turn.hub(request);
    }
}
