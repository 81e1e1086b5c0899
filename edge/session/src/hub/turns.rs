//! Queues of instances that take turns: an instance that asks for much waits for itself.

use std::collections::{BTreeMap, VecDeque};

/// What waits, first in first out for each instance, and whose turn is next. The caller bounds
/// what one instance may have waiting.
pub(super) struct Turns<T> {
    queues: BTreeMap<String, VecDeque<T>>,
    /// Instances with something waiting, in the order of their turns.
    order: VecDeque<String>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> Turns<T> {
    /// How many things of an instance wait.
    pub(super) fn waiting(&self, instance: &str) -> usize {
        self.queues.get(instance).map_or(0, VecDeque::len)
    }

    /// Puts something behind what waits of its instance.
    pub(super) fn push(&mut self, instance: &str, item: T) {
        if let Some(queue) = self.queues.get_mut(instance) {
            return queue.push_back(item);
        }
        self.order.push_back(instance.to_owned());
        self.queues.insert(instance.to_owned(), [item].into());
    }

    /// The next thing of the instance whose turn it is, among those that `may`.
    pub(super) fn pop(&mut self, mut may: impl FnMut(&str) -> bool) -> Option<T> {
        let at = self.order.iter().position(|instance| may(instance))?;
        let instance = self.order.remove(at)?;
        let queue = self.queues.get_mut(&instance)?;
        let item = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&instance);
        } else {
            self.order.push_back(instance);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_take_turns_and_keep_their_own_order() {
        let mut turns = Turns::default();
        for (instance, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            turns.push(instance, item);
        }
        assert_eq!((turns.waiting("a"), turns.waiting("d")), (3, 0));
        assert_eq!(turns.pop(|i| i != "a"), Some(4));
        let all = std::iter::from_fn(|| turns.pop(|_| true));
        assert_eq!(all.collect::<Vec<_>>(), [1, 5, 6, 2, 3]);
        assert_eq!((turns.waiting("a"), turns.order.len()), (0, 0));
        turns.push("a", 7);
        assert_eq!((turns.pop(|_| false), turns.pop(|_| true)), (None, Some(7)));
    }
}
