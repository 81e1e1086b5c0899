//! Paused processes: what comes for one waits, and is handled in the order in which it came, before
//! anything newer, however the pause ends. A process that went on in another order would have heard
//! what no link brings.

use std::collections::{BTreeMap, VecDeque};

use crate::geo::Node;

/// Who is paused, and what waits for them. `E`: what may come.
pub(crate) struct Pauses<E> {
    /// Until when a process is paused.
    until: BTreeMap<Node, u64>,
    held: BTreeMap<Node, VecDeque<E>>,
    /// What was held for processes that go on: to be handled before anything else.
    ready: VecDeque<E>,
}

impl<E> Default for Pauses<E> {
    fn default() -> Self {
        Self {
            until: BTreeMap::new(),
            held: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }
}

impl<E> Pauses<E> {
    /// Pauses a process; one that is paused already never goes on earlier for it.
    pub(crate) fn pause(&mut self, node: Node, until: u64) {
        let known = self.until.entry(node).or_default();
        *known = until.max(*known);
    }

    /// Whether what comes for a process now has to wait: also at the very end of its pause, behind
    /// what waits already.
    pub(crate) fn holds(&self, now: u64, node: Node) -> bool {
        let paused = self.until.get(&node).is_some_and(|until| *until > now);
        paused || self.held.contains_key(&node)
    }

    /// Something waits. `Some`: it is the first, and [`Pauses::wake`] is to be called then.
    pub(crate) fn hold(&mut self, node: Node, event: E) -> Option<u64> {
        let held = self.held.entry(node).or_default();
        held.push_back(event);
        let first = held.len() == 1;
        first.then(|| self.until.get(&node).copied().unwrap_or(0))
    }

    /// The process goes on, if its pause has ended. `Some`: it ends later, call again then.
    pub(crate) fn wake(&mut self, now: u64, node: Node) -> Option<u64> {
        if !self.held.contains_key(&node) {
            return None;
        }
        let until = self.until.get(&node).copied().filter(|until| *until > now);
        if until.is_none() {
            self.end(node);
        }
        until
    }

    /// Ends a pause early.
    pub(crate) fn end(&mut self, node: Node) {
        self.until.remove(&node);
        self.ready
            .extend(self.held.remove(&node).unwrap_or_default());
    }

    /// What is to be handled before anything that comes now or later.
    pub(crate) fn next(&mut self) -> Option<E> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: Node = Node::Edge(0);
    const OTHER: Node = Node::Region(0);

    fn ready(pauses: &mut Pauses<u32>) -> Vec<u32> {
        std::iter::from_fn(|| pauses.next()).collect()
    }

    #[test]
    fn what_waits_comes_in_order_and_first() {
        let mut pauses = Pauses::default();
        pauses.pause(EDGE, 100);
        assert!(pauses.holds(50, EDGE) && !pauses.holds(50, OTHER));
        assert_eq!(pauses.hold(EDGE, 1), Some(100));
        assert_eq!(pauses.hold(EDGE, 2), None);
        // What was planned for this very moment long ago.
        assert!(pauses.holds(100, EDGE));
        assert_eq!(pauses.hold(EDGE, 3), None);
        assert_eq!(pauses.wake(100, EDGE), None);
        assert!(!pauses.holds(100, EDGE));
        assert_eq!(ready(&mut pauses), [1, 2, 3]);
    }

    #[test]
    fn a_second_pause_never_shortens_the_first() {
        let mut pauses = Pauses::default();
        pauses.pause(EDGE, 100);
        assert_eq!(pauses.hold(EDGE, 1), Some(100));
        pauses.pause(EDGE, 70);
        assert!(pauses.holds(80, EDGE));
        pauses.pause(EDGE, 300);
        assert_eq!(pauses.wake(100, EDGE), Some(300));
        assert_eq!(pauses.hold(EDGE, 2), None);
        assert_eq!(pauses.wake(300, EDGE), None);
        assert_eq!(ready(&mut pauses), [1, 2]);
    }

    #[test]
    fn a_pause_that_ends_early_lets_out_what_waits() {
        let mut pauses = Pauses::default();
        pauses.pause(EDGE, 100);
        pauses.hold(EDGE, 1);
        pauses.hold(EDGE, 2);
        pauses.end(EDGE);
        assert!(!pauses.holds(20, EDGE));
        assert_eq!(ready(&mut pauses), [1, 2]);
        assert_eq!(pauses.wake(100, EDGE), None, "nothing waits any more");
    }
}
