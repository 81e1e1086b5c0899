//! What others see of a subscriber, changed while it is there.

use std::sync::Arc;

use gb6_core_wire::mesh::{OwnerFrame, Person, Presence};

use super::room::Member;
use super::{Asked, Hub, HubOut};
use crate::request::Answer;

impl<S: Clone> Hub<S> {
    /// Others are to see something else of a subscriber.
    pub(super) fn introduce(
        &mut self,
        asked: Asked<S>,
        person: &Arc<Person>,
        out: &mut impl HubOut<S>,
    ) {
        if let Some(id) = self.rooms.find(&asked.room)
            && let Some(member) = self.members.get(&(asked.session, id)).copied()
            && let Some(room) = self.rooms.get_mut(id)
        {
            let (presence, live) = match member {
                Member::Live(place) => {
                    let subscriber = room.subscribers.get_mut(place as usize);
                    (subscriber.map(|s| &mut s.presence), true)
                }
                Member::Joining(op) => {
                    let joiner = room.joiners.get_mut(&op);
                    (joiner.map(|j| &mut j.subscriber.presence), false)
                }
                Member::Ending(_) => (None, false),
            };
            if let Some(Some(presence)) = presence {
                *presence = person.clone();
                if live && self.lease.is_attached() {
                    out.to_owner(OwnerFrame::Present(Presence {
                        room: (*room.key).clone(),
                        person: (**person).clone(),
                    }));
                }
            }
        }
        out.complete(&asked.handle, asked.token, Answer::Introduced);
    }
}
