//! Links between edges and regions: two streams each way, in order, with delay, stalls and breaks.

use gb6_region_shard::LinkId;

use crate::rng::Rng;

/// One attachment of an edge to a region.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) link: LinkId,
    pub(crate) edge: usize,
    pub(crate) region: usize,
    /// The region's life that it was dialled to.
    pub(crate) region_life: u64,
    /// The edge's life that dialled.
    pub(crate) edge_life: u64,
    pub(crate) open_at_edge: bool,
    pub(crate) open_at_region: bool,
    /// Nothing arrives before: the path is silent.
    pub(crate) stalled_until: u64,
    /// When the newest frame of each stream arrives: streams keep their order.
    last: [u64; 4],
}

/// The streams of a wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    ToOwner = 0,
    ToEdge = 1,
    Ask = 2,
    Page = 3,
}

impl Wire {
    pub(crate) fn new(link: LinkId, edge: (usize, u64), region: (usize, u64)) -> Self {
        Self {
            link,
            edge: edge.0,
            region: region.0,
            region_life: region.1,
            edge_life: edge.1,
            open_at_edge: true,
            open_at_region: true,
            stalled_until: 0,
            last: [0; 4],
        }
    }

    /// When something that is sent now arrives.
    pub(crate) fn arrival(&mut self, now: u64, stream: Stream, rng: &mut Rng) -> u64 {
        let slow = if rng.one_in(50) { 40 } else { 4 };
        let at = (now + rng.range(0, slow)).max(self.stalled_until);
        let last = &mut self.last[stream as usize];
        *last = at.max(*last);
        *last
    }
}
