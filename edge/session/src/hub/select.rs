//! Which publications of its room a subscriber is handed, where it does not want all of them:
//! filters by tags, each evaluated once for all who have an equal one, and one's own.

use std::sync::Arc;

use gb6_core_wire::client::TagsFilter;
use gb6_core_wire::mesh::{Person, Publication};

use super::room::Room;

/// Filter nodes that may be evaluated for each publication of a room; a subscriber that would
/// bring more is answered 106.
const ROOM_NODES_MAX: usize = 16 * 1024;

/// What makes a subscriber unlike those that are handed everything whole.
pub(super) struct Special {
    /// The place of its filter.
    pub(super) filter: Option<usize>,
    /// Who it is, where it is not handed its own publications.
    pub(super) own: Option<Arc<Person>>,
    /// With deltas: it was handed everything behind this delivery.
    pub(super) delta: Option<u64>,
}

impl Special {
    /// Whether the subscriber is handed this publication.
    pub(super) fn wants(&self, publication: &Publication, filters: Option<&Filters>) -> bool {
        let filtered = self
            .filter
            .is_some_and(|at| !filters.is_some_and(|f| f.passes(at)));
        let own = self.own.as_ref().is_some_and(|own| {
            let from = publication.from.as_ref();
            from.is_some_and(|from| from.client == own.client)
        });
        !(filtered || own)
    }
}

/// The filters of a room's subscribers, equal ones once.
#[derive(Default)]
pub(super) struct Filters {
    /// Free places are used again.
    list: Vec<Option<Entry>>,
    nodes: usize,
    bytes: usize,
}

struct Entry {
    filter: Arc<TagsFilter>,
    subscribers: usize,
    /// Whether the publication that was looked at last passes.
    passes: bool,
}

impl Filters {
    /// One more subscriber has this filter: its place. `None`: too much would have to be evaluated
    /// for each publication, or kept.
    // overflow: the subscriber is refused.
    pub(super) fn add(&mut self, filter: Arc<TagsFilter>, bytes: usize) -> Option<usize> {
        let entries = self.list.iter_mut().enumerate();
        let mut found = entries.filter_map(|(at, entry)| Some((at, entry.as_mut()?)));
        if let Some((at, entry)) = found.find(|(_, entry)| entry.filter == filter) {
            entry.subscribers += 1;
            return Some(at);
        }
        if self.nodes + filter.nodes() > ROOM_NODES_MAX || filter.bytes() > bytes {
            return None;
        }
        self.nodes += filter.nodes();
        self.bytes += filter.bytes();
        let entry = Some(Entry {
            filter,
            subscribers: 1,
            passes: false,
        });
        match self.list.iter().position(Option::is_none) {
            Some(at) => {
                self.list[at] = entry;
                Some(at)
            }
            None => {
                self.list.push(entry);
                Some(self.list.len() - 1)
            }
        }
    }

    /// A subscriber with the filter at this place is gone.
    pub(super) fn remove(&mut self, at: usize) {
        let Some(place) = self.list.get_mut(at) else {
            return;
        };
        if let Some(entry) = place {
            entry.subscribers -= 1;
            if entry.subscribers == 0 {
                self.nodes -= entry.filter.nodes();
                self.bytes -= entry.filter.bytes();
                *place = None;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes == 0
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Evaluates every filter for this publication.
    pub(super) fn look_at(&mut self, publication: &Publication) {
        for entry in self.list.iter_mut().flatten() {
            entry.passes = entry.filter.passes(&publication.tags);
        }
    }

    fn passes(&self, at: usize) -> bool {
        let entry = self.list.get(at).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.passes)
    }
}

impl<S> Room<S> {
    /// Bytes of the filters of this room's subscribers.
    pub(super) fn filter_bytes(&self) -> usize {
        self.filters.as_ref().map_or(0, |filters| filters.bytes())
    }

    /// A subscriber that was not handed everything whole is gone.
    pub(super) fn forget_special(&mut self, special: &Special) {
        if let (Some(at), Some(filters)) = (special.filter, &mut self.filters) {
            filters.remove(at);
            if filters.is_empty() {
                self.filters = None;
            }
        }
        if special.delta.is_some() {
            self.deltas -= 1;
            if self.deltas == 0 {
                self.base = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::client::FilterNode;

    fn filter(val: &str, nodes: usize) -> Arc<TagsFilter> {
        let leaf = FilterNode {
            key: "t".into(),
            cmp: "eq".into(),
            val: val.into(),
            ..FilterNode::default()
        };
        let node = FilterNode {
            op: "or".into(),
            nodes: vec![leaf; nodes - 1],
            ..FilterNode::default()
        };
        Arc::new(TagsFilter::new(&node).expect("a filter"))
    }

    fn tagged(value: &str) -> Publication {
        Publication {
            tags: [("t".to_owned(), value.to_owned())].into(),
            ..Publication::default()
        }
    }

    #[test]
    fn equal_filters_are_one_and_places_are_used_again() {
        let mut filters = Filters::default();
        let add = |f: &mut Filters, val| f.add(filter(val, 2), 1000);
        assert_eq!(add(&mut filters, "a"), Some(0));
        assert_eq!(add(&mut filters, "b"), Some(1));
        assert_eq!(add(&mut filters, "a"), Some(0));
        filters.look_at(&tagged("a"));
        assert!(filters.passes(0) && !filters.passes(1) && !filters.passes(2));
        filters.remove(0);
        filters.look_at(&tagged("b"));
        assert!(!filters.passes(0) && filters.passes(1));
        filters.remove(0);
        assert_eq!(add(&mut filters, "c"), Some(0));
        filters.remove(0);
        filters.remove(1);
        assert!(filters.is_empty() && filters.bytes() == 0);
    }

    #[test]
    fn a_room_evaluates_a_bounded_number_of_nodes() {
        let mut filters = Filters::default();
        let most = ROOM_NODES_MAX / 256;
        for n in 0..most {
            assert_eq!(
                filters.add(filter(&n.to_string(), 256), usize::MAX),
                Some(n)
            );
        }
        assert_eq!(filters.add(filter("x", 2), usize::MAX), None);
        assert_eq!(filters.add(filter("0", 256), usize::MAX), Some(0));
        filters.remove(1);
        assert_eq!(filters.add(filter("x", 2), usize::MAX), Some(1));
        assert_eq!(filters.add(filter("y", 2), 10), None, "nor too many bytes");
    }
}
