//! The inbox: publishes that wait for the next batch, drained round-robin by instance, so that a
//! flooding instance waits for itself.

use std::collections::HashMap;

use gb6_core_model::Turns;
use gb6_core_wire::mesh::Publish;

use crate::machine::LinkId;

/// A publish with the link that it came on.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) link: LinkId,
    pub(crate) edge: usize,
    pub(crate) publish: Publish,
}

/// Publishes by instance. Bounded by the credit of each (edge, instance).
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    turns: Turns<Waiting>,
    /// Publishes that went out lately, by instance; halved every [`SHARES_SPAN`]. Bounded by it.
    shares: HashMap<String, u32>,
    /// The sum of `shares`.
    lately: u32,
    /// Whether an instance waits that had less than half of an equal share when it came.
    light: bool,
}

/// Publishes over which shares are counted, before older ones weigh less.
const SHARES_SPAN: u32 = 4096;

impl Inbox {
    pub(crate) fn push(&mut self, waiting: Waiting) {
        let instance = waiting.publish.room.instance.clone();
        if self.turns.waiting(&instance) == 0 {
            let equal = self.lately / u32::try_from(self.shares.len().max(1)).unwrap_or(u32::MAX);
            let share = self.shares.get(&instance).copied().unwrap_or(0);
            self.light |= share < equal / 2;
        }
        self.turns.push(&instance, waiting);
    }

    /// The publish that [`Inbox::pop`] would give.
    pub(crate) fn peek(&self) -> Option<&Waiting> {
        self.turns.peek()
    }

    /// Whether an instance waits that had less than half of an equal share lately.
    pub(crate) fn has_light(&self) -> bool {
        self.light
    }

    fn count(&mut self, instance: &str) {
        match self.shares.get_mut(instance) {
            Some(share) => *share += 1,
            None => drop(self.shares.insert(instance.to_owned(), 1)),
        }
        self.lately += 1;
        if self.lately >= SHARES_SPAN {
            self.lately = 0;
            let lately = &mut self.lately;
            self.shares.retain(|_, share| {
                *share /= 2;
                *lately += *share;
                *share > 0
            });
        }
    }

    /// Every publish that waits, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.turns.iter()
    }

    /// The next publish: one of each instance in turn.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.turns.pop(|_| true)?;
        self.count(&waiting.publish.room.instance);
        self.light &= !self.turns.is_empty();
        Some(waiting)
    }

    /// Drops what came on a link that is gone: its edge sends it again.
    pub(crate) fn purge(&mut self, link: LinkId) {
        self.turns.retain(|waiting| waiting.link != link);
        self.light &= !self.turns.is_empty();
    }

    pub(crate) fn len(&self) -> usize {
        self.turns.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::mesh::RoomRef;

    fn publish(instance: &str, number: u64, link: u64) -> Waiting {
        Waiting {
            link: LinkId(link),
            edge: 0,
            publish: Publish {
                room: RoomRef {
                    instance: instance.into(),
                    channel: "room:1".into(),
                },
                number,
                ..Publish::default()
            },
        }
    }

    #[test]
    fn instances_take_turns() {
        let mut inbox = Inbox::default();
        for n in 1..=100 {
            inbox.push(publish("flood", n, 1));
        }
        inbox.push(publish("quiet", 1, 1));
        inbox.push(publish("quiet", 2, 1));
        let order: Vec<(String, u64)> = std::iter::from_fn(|| inbox.pop())
            .map(|w| (w.publish.room.instance, w.publish.number))
            .take(4)
            .collect();
        let want = [("flood", 1), ("quiet", 1), ("flood", 2), ("quiet", 2)];
        assert_eq!(order, want.map(|(i, n)| (i.to_owned(), n)));
        assert_eq!(inbox.len(), 98);
    }

    #[test]
    fn who_had_less_than_its_share_is_light() {
        let mut inbox = Inbox::default();
        let publish_many = |inbox: &mut Inbox, flood: u64, quiet: u64| {
            for n in 0..flood {
                inbox.push(publish("flood", n, 1));
            }
            for n in 0..quiet {
                inbox.push(publish("quiet", n, 1));
            }
            let light = inbox.has_light();
            while inbox.pop().is_some() {}
            light
        };
        assert!(!publish_many(&mut inbox, 100, 0), "alone nobody is light");
        assert!(publish_many(&mut inbox, 1000, 10), "it was never seen");
        assert!(!publish_many(&mut inbox, 10, 0), "only the flood waits");
        assert!(publish_many(&mut inbox, 10, 1), "the quiet one waits too");
        for _ in 0..100 {
            publish_many(&mut inbox, 100, 80);
        }
        assert!(!publish_many(&mut inbox, 10, 8), "both have their share");
        for _ in 0..400 {
            publish_many(&mut inbox, 100, 0);
        }
        assert!(
            !publish_many(&mut inbox, 10, 0),
            "the quiet one is forgotten"
        );
        assert_eq!(inbox.shares.len(), 1);
    }

    #[test]
    fn a_lost_link_takes_its_publishes_along() {
        let mut inbox = Inbox::default();
        inbox.push(publish("a", 1, 1));
        inbox.push(publish("b", 2, 2));
        inbox.push(publish("b", 3, 1));
        inbox.purge(LinkId(1));
        assert_eq!(inbox.len(), 1);
        assert_eq!(inbox.pop().map(|w| w.publish.number), Some(2));
        assert!(inbox.is_empty() && inbox.pop().is_none());
    }
}
