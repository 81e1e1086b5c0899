//! The edge's lease at the shard's owner, by this side's monotonic clock.
//!
//! The owner's lease begins when it hears from us, which is after we spoke: so the lease lasts at
//! least until the sending of the last renewal that was acknowledged, plus its length. Behind that
//! moment it may have ended, and what was sent under it must not be sent again.

use std::collections::VecDeque;

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::{Attached, OwnerFrame, Renew};

use super::{Detach, Hub, HubOut};

/// Renewals without an answer that are remembered: far more than a lease has.
const RENEWALS_MAX: usize = 16;
/// Renewals without an answer beyond which none is sent before it is due: each must be remembered
/// until it is answered.
const RENEWALS_EARLY_MAX: usize = 8;

/// How the hub stands with the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Link {
    /// No streams.
    #[default]
    Down,
    /// Attach was sent, at this time.
    Asked(u64),
    /// The owner accepted.
    Attached,
}

/// Attachment, incarnation and lease.
#[derive(Default)]
pub(super) struct Lease {
    link: Link,
    incarnation: Option<Incarnation>,
    shard_epoch: u64,
    owner_incarnation: u64,
    lease_ms: u64,
    credit: u32,
    credit_bytes: u64,
    /// When the last acknowledged renewal (or attachment) was sent; `None`: no lease.
    held_since: Option<u64>,
    next_renewal: u64,
    sequence: u64,
    unanswered: VecDeque<(u64, u64)>,
}

impl Lease {
    pub(super) fn is_attached(&self) -> bool {
        self.link == Link::Attached
    }

    /// The life of the owner that accepted last.
    pub(super) fn owner_incarnation(&self) -> u64 {
        self.owner_incarnation
    }

    /// Whether the owner may know this life of the hub.
    pub(super) fn has_incarnation(&self) -> bool {
        self.incarnation.is_some()
    }

    pub(super) fn shard_epoch(&self) -> u64 {
        self.shard_epoch
    }

    /// Publishes and bytes of one instance that may be unanswered.
    pub(super) fn credit(&self) -> (u32, u64) {
        (self.credit, self.credit_bytes)
    }

    /// The number of the latest renewal sent.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Attach is being sent: under the incarnation it returns.
    pub(super) fn asked(&mut self, now: u64, fresh: Incarnation) -> Incarnation {
        self.link = Link::Asked(now);
        *self.incarnation.get_or_insert(fresh)
    }

    pub(super) fn down(&mut self) {
        self.link = Link::Down;
        self.unanswered.clear();
    }

    /// The owner accepted; `false`: nobody asked it, or it is older than one seen before.
    pub(super) fn attached(&mut self, now: u64, frame: &Attached) -> Result<(), Detach> {
        let Link::Asked(at) = self.link else {
            return Err(Detach::Violation);
        };
        if frame.shard_epoch < self.shard_epoch {
            return Err(Detach::StaleOwner);
        }
        self.link = Link::Attached;
        self.shard_epoch = frame.shard_epoch;
        self.owner_incarnation = frame.owner_incarnation;
        self.lease_ms = u64::from(frame.lease_ms.max(1));
        // Without any credit nothing could ever be published.
        self.credit = frame.credit.max(1);
        self.credit_bytes = frame.credit_bytes;
        self.held_since = Some(at);
        self.next_renewal = now + self.lease_ms / 3;
        Ok(())
    }

    /// The incarnation has ended.
    pub(super) fn end(&mut self) {
        self.incarnation = None;
        self.held_since = None;
    }

    /// Whether the lease may have ended by now.
    pub(super) fn may_have_ended(&self, now: u64) -> bool {
        self.held_since
            .is_some_and(|since| now >= since + self.lease_ms)
    }

    /// The renewal that is due.
    fn due(&mut self, now: u64) -> Option<Renew> {
        if !self.is_attached() || now < self.next_renewal {
            return None;
        }
        Some(self.renew(now))
    }

    /// Whether a renewal may be sent before it is due.
    pub(super) fn may_renew(&self) -> bool {
        self.unanswered.len() < RENEWALS_EARLY_MAX
    }

    /// A renewal, which is being sent now.
    pub(super) fn renew(&mut self, now: u64) -> Renew {
        self.sequence += 1;
        self.next_renewal = now + self.lease_ms / 3;
        if self.unanswered.len() == RENEWALS_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((self.sequence, now));
        Renew {
            sequence: self.sequence,
        }
    }

    /// A renewal was acknowledged.
    fn renewed(&mut self, sequence: u64) {
        while let Some((first, sent)) = self.unanswered.front().copied() {
            if first > sequence {
                return;
            }
            self.unanswered.pop_front();
            if first == sequence {
                self.held_since = self.held_since.max(Some(sent));
            }
        }
    }
}

impl<S: Clone> Hub<S> {
    pub(super) fn renewed(&mut self, sequence: u64, out: &mut impl HubOut<S>) {
        self.lease.renewed(sequence);
        self.numbers.told(sequence);
        self.users_heard(sequence, out);
    }

    /// Renews the lease, or gives it up when it may have ended.
    pub(super) fn tick_lease(&mut self, now: u64, out: &mut impl HubOut<S>) {
        if self.lease.may_have_ended(now) {
            let linked = self.lease.link != Link::Down;
            if linked {
                self.drop_link(now, Detach::LeaseEnded, out);
            }
            self.lease_ended(out);
            return;
        }
        if let Some(renew) = self.lease.due(now) {
            out.to_owner(OwnerFrame::Renew(renew));
        }
    }

    /// What was sent under the old incarnation is never sent again. The link is down.
    pub(super) fn lease_ended(&mut self, out: &mut impl HubOut<S>) {
        self.counters.leases_ended += 1;
        self.lease.end();
        self.give_up_sent(out);
        self.numbers.forget_told();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(epoch: u64) -> Attached {
        Attached {
            shard_epoch: epoch,
            owner_incarnation: 1,
            lease_ms: 9_000,
            credit: 0,
            credit_bytes: 10,
        }
    }

    #[test]
    fn the_lease_counts_from_the_sending_of_what_was_acknowledged() {
        let mut lease = Lease::default();
        assert_eq!(lease.asked(100, Incarnation(7)), Incarnation(7));
        assert_eq!(lease.attached(2_000, &attached(4)), Ok(()));
        assert_eq!(lease.credit(), (1, 10));
        assert!(!lease.may_have_ended(9_099) && lease.may_have_ended(9_100));
        assert_eq!(lease.due(4_999), None);
        assert_eq!(lease.due(5_000), Some(Renew { sequence: 1 }));
        assert_eq!(lease.due(8_000), Some(Renew { sequence: 2 }));
        lease.renewed(1);
        assert!(!lease.may_have_ended(13_999) && lease.may_have_ended(14_000));
        lease.renewed(2);
        assert!(lease.may_have_ended(17_000));
        // The link breaks: the same incarnation goes on while the lease lasts.
        lease.down();
        assert_eq!(lease.asked(16_000, Incarnation(8)), Incarnation(7));
        lease.end();
        assert_eq!(lease.asked(18_000, Incarnation(9)), Incarnation(9));
    }

    #[test]
    fn an_older_owner_and_one_that_nobody_asked_are_refused() {
        let mut lease = Lease::default();
        assert_eq!(lease.attached(0, &attached(1)), Err(Detach::Violation));
        lease.asked(0, Incarnation(7));
        assert_eq!(lease.attached(0, &attached(3)), Ok(()));
        lease.down();
        lease.asked(0, Incarnation(7));
        assert_eq!(lease.attached(0, &attached(2)), Err(Detach::StaleOwner));
        assert_eq!(lease.attached(0, &attached(3)), Ok(()));
        assert!(lease.is_attached());
    }
}
