//! Links between edges and regions: two streams each way, with delay, stalls and breaks. What comes
//! when is what the mesh's own links promise (`docs/decisions/0010-simulated-links.md`): frames of
//! one class stay in order, a lower class never overtakes a higher one, and the end of a stream comes
//! behind everything that was sent on it.

use gb6_core_wire::mesh::Class;
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
    /// When the newest frame of each class of each stream arrives.
    last: [Lanes; 4],
    /// How many frames were sent and handled in each class of each stream.
    sent: [[u64; 4]; 4],
    handled: [[u64; 4]; 4],
}

/// Which frame of a lane something is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    link: LinkId,
    stream: Stream,
    class: Class,
    number: u64,
}

/// The lanes of one stream in one direction: when the newest frame of each class arrives.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lanes([u64; 4]);

impl Lanes {
    /// When a frame arrives that would take until `at`: behind its own class and every higher one,
    /// which a full queue lets pass first.
    pub fn arrival(&mut self, class: Class, at: u64) -> u64 {
        let class = class as usize;
        let before = self.0[..=class].iter().copied().max().unwrap_or(0);
        self.0[class] = at.max(before);
        self.0[class]
    }

    /// When the end of the stream arrives: behind everything.
    pub fn end(&mut self, at: u64) -> u64 {
        self.arrival(Class::CatchUp, at)
    }
}

/// The streams of a wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    ToOwner = 0,
    ToEdge = 1,
    Ask = 2,
    Page = 3,
}

impl Place {
    pub(crate) fn link(&self) -> LinkId {
        self.link
    }
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
            last: Default::default(),
            sent: Default::default(),
            handled: Default::default(),
        }
    }

    /// When a frame that is sent now arrives, and its place.
    pub(crate) fn arrival(
        &mut self,
        now: u64,
        stream: Stream,
        class: Class,
        rng: &mut Rng,
    ) -> (u64, Place) {
        let slow = if rng.one_in(50) { 40 } else { 4 };
        let at = (now + rng.range(0, slow)).max(self.stalled_until);
        let sent = &mut self.sent[stream as usize][class as usize];
        *sent += 1;
        let place = Place {
            link: self.link,
            stream,
            class,
            number: *sent,
        };
        (self.last[stream as usize].arrival(class, at), place)
    }

    /// When the end of a stream arrives that is ended now.
    pub(crate) fn end(&mut self, now: u64, stream: Stream, rng: &mut Rng) -> (u64, Place) {
        self.arrival(now, stream, Class::CatchUp, rng)
    }

    /// A frame is handled: each one of a lane, in the order of their sending, whatever happened to
    /// the processes at both ends.
    pub(crate) fn handled(&mut self, place: Place) {
        let handled = &mut self.handled[place.stream as usize][place.class as usize];
        *handled += 1;
        assert_eq!(place.number, *handled, "{place:?} is out of order");
    }
}
