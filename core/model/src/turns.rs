//! Queues of instances that take turns: an instance that asks for much waits for itself. Edges and
//! regions put what may wait for long into one.

use std::collections::{BTreeMap, VecDeque};

/// What waits, first in first out for each instance, and whose turn is next. The caller bounds
/// what one instance may have waiting.
#[derive(Clone, Debug)]
pub struct Turns<T> {
    queues: BTreeMap<String, VecDeque<T>>,
    /// Instances with something waiting, in the order of their turns.
    order: VecDeque<String>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            order: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Turns<T> {
    /// How many things wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many things of an instance wait.
    pub fn waiting(&self, instance: &str) -> usize {
        self.queues.get(instance).map_or(0, VecDeque::len)
    }

    /// Puts something behind what waits of its instance.
    pub fn push(&mut self, instance: &str, item: T) {
        self.len += 1;
        if let Some(queue) = self.queues.get_mut(instance) {
            return queue.push_back(item);
        }
        self.order.push_back(instance.to_owned());
        self.queues.insert(instance.to_owned(), [item].into());
    }

    /// The thing whose turn is next.
    pub fn peek(&self) -> Option<&T> {
        self.queues.get(self.order.front()?)?.front()
    }

    /// Everything that waits, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queues.values().flatten()
    }

    /// Drops what `stays` says false of. Nobody's turn changes.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        let mut len = 0;
        self.queues.retain(|_, queue| {
            queue.retain(&mut stays);
            len += queue.len();
            !queue.is_empty()
        });
        self.len = len;
        let queues = &self.queues;
        self.order.retain(|instance| queues.contains_key(instance));
    }

    /// The next thing of the instance whose turn it is, among those that `may`.
    pub fn pop(&mut self, mut may: impl FnMut(&str) -> bool) -> Option<T> {
        let at = self.order.iter().position(|instance| may(instance))?;
        let instance = self.order.remove(at)?;
        let queue = self.queues.get_mut(&instance)?;
        let item = queue.pop_front();
        self.len -= usize::from(item.is_some());
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
        assert!(turns.is_empty() && turns.peek().is_none());
    }

    #[test]
    fn what_is_dropped_leaves_the_turns_of_the_rest() {
        let mut turns = Turns::default();
        for (instance, item) in [("a", 1), ("b", 2), ("b", 3), ("c", 4), ("a", 5)] {
            turns.push(instance, item);
        }
        turns.retain(|item| ![1, 2, 5].contains(item));
        assert_eq!(
            (turns.len(), turns.waiting("a"), turns.peek()),
            (2, 0, Some(&3))
        );
        let mut left: Vec<i32> = turns.iter().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [3, 4]);
        turns.push("a", 6);
        let all = std::iter::from_fn(|| turns.pop(|_| true));
        assert_eq!(all.collect::<Vec<_>>(), [3, 4, 6]);
    }
}
