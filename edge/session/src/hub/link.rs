//! The link to the shard's owner: attaching, and what is said again after every break.

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::{
    Attach, Attached, OwnerFrame, Presence, PresenceSet, Refused, RefusedReason, SessionEnded,
};

use prost::Message as _;

use super::interest::Interest;
use super::room::Follow;
use super::{Detach, Hub, HubOut, never_zero};

impl<S: Clone> Hub<S> {
    /// The streams to an owner are open: the hub attaches. `fresh` is a new random number every
    /// time: the hub's incarnation where it has none or its lease has ended. `revision`: of the
    /// snapshot that the owner was found by.
    pub fn link_up(
        &mut self,
        now_ms: u64,
        fresh: Incarnation,
        revision: u64,
        out: &mut impl HubOut<S>,
    ) {
        self.now = now_ms;
        self.link_down(now_ms, out);
        if self.lease.may_have_ended(now_ms) {
            self.lease_ended(out);
        }
        let incarnation = self.lease.asked(now_ms, never_zero(fresh));
        out.to_owner(OwnerFrame::Attach(Attach {
            edge_incarnation: incarnation.0,
            revision,
            shard_epoch: self.lease.shard_epoch(),
        }));
    }

    /// What waited for the shard stream has been sent, after [`HubOut::owner_full`] was true: goes
    /// on with what was held back.
    pub fn owner_drained(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        if self.lease.is_attached() {
            self.let_all_out(out);
            self.let_interest_out(out);
            self.start_queries(now_ms, out);
        }
    }

    /// A stream has ended: both are closed, no frame of them comes any more.
    pub fn link_down(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        self.lease.down();
        self.users_link_down(now_ms);
        self.sessions_link_down();
        self.publishes_link_down(out);
        self.reads.link_down();
        self.queries_link_down(out);
        self.interests.link_down();
        self.prefixes_link_down();
        self.ahead_bytes = 0;
        self.ready_bytes = 0;
        self.fills_paused.clear();
        for id in 0..self.rooms.bound() {
            if let Some(room) = self.rooms.get_mut(id) {
                room.follow = Follow::Asking;
                room.interest = Interest::Untold;
                room.seen = 0;
                room.probe = None;
                if let Some(backfill) = &mut room.backfill {
                    backfill.read = None;
                    backfill.resting = false;
                }
            }
        }
    }

    /// Asks the driver to close the link, and takes it for closed.
    pub(super) fn drop_link(&mut self, now: u64, why: Detach, out: &mut impl HubOut<S>) {
        self.link_down(now, out);
        out.detach(why);
    }

    pub(super) fn refused(&mut self, now: u64, frame: Refused, out: &mut impl HubOut<S>) {
        let lease_ended = frame.reason() == RefusedReason::LeaseEnded;
        self.drop_link(now, Detach::Refused(frame), out);
        if lease_ended {
            self.lease_ended(out);
        }
    }

    /// The owner accepted: says everything that it must know, publishes first.
    pub(super) fn attached(&mut self, now: u64, frame: Attached, out: &mut impl HubOut<S>) {
        if let Err(why) = self.lease.attached(now, &frame) {
            match why {
                Detach::StaleOwner => self.counters.stale_owners += 1,
                _ => self.counters.stray_frames += 1,
            }
            self.drop_link(now, why, out);
            return;
        }
        self.tick_ops(now, out);
        self.resend_publishes(out);
        self.want_all(out);
        self.ask_for_prefixes(out);
        self.tell_all_present(out);
        self.start_queries(now, out);
        for session in self.numbers.untold(self.lease.sequence()) {
            out.to_owner(OwnerFrame::SessionEnded(SessionEnded {
                session: session.0,
            }));
        }
        self.start_reads(now, out);
        self.tell_all_users();
        self.report_users(now, out);
        self.tell_all_sessions();
        self.report_sessions(now, out);
    }

    /// Everybody that is present here, in parts that fit into frames.
    fn tell_all_present(&self, out: &mut impl HubOut<S>) {
        let mut part = PresenceSet::default();
        let mut bytes = 0;
        for (_, room) in self.rooms.iter() {
            let people = room
                .subscribers
                .iter()
                .filter_map(|s| s.presence.as_deref());
            for person in people {
                let entry = Presence {
                    room: (*room.key).clone(),
                    person: person.clone(),
                };
                // With the field's key and length before it.
                let cost = entry.encoded_len() + 8;
                let full = part.entries.len() >= self.config.presence_part
                    || bytes + cost > self.config.presence_part_bytes;
                if full && !part.entries.is_empty() {
                    out.to_owner(OwnerFrame::PresenceSet(std::mem::take(&mut part)));
                    bytes = 0;
                }
                bytes += cost;
                part.entries.push(entry);
            }
        }
        part.last = true;
        out.to_owner(OwnerFrame::PresenceSet(part));
    }
}
