//! What the worlds of hubs and shards have alike: people publish and subscribe at hubs, hubs have links
//! to the owners of shards, and in the end the logs are held against what everybody was told.
//!
//! A world of its own ([`nodes`](crate::nodes), [`moving`](crate::moving)) says what its shards are and what
//! happens to them: it is a [`Setting`], and the [`World`] around it has the rest.

pub(crate) mod check;
mod edges;
mod people;
mod world;

use std::fmt::Debug;

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{EdgeFrame, HistoryRequest, OwnerFrame};
use gb6_edge_session::PublishAnswer;
use gb6_region_shard::LinkId;

pub(crate) use edges::Path;
pub(crate) use people::{Pending, Publisher, Subscriber};
pub(crate) use world::{World, instance, snapshot};

/// Wall-clock time at the start of every run, Unix ms.
pub(crate) const UNIX_START_MS: i64 = 1_700_000_000_000;

/// What happens in every world.
#[derive(Clone, Debug)]
pub(crate) enum Traffic {
    /// A frame of an edge comes to the owner.
    ToOwner(LinkId, Box<OwnerFrame>),
    /// A frame of the owner comes to the edge.
    ToEdge(LinkId, Box<EdgeFrame>),
    /// The edge learns that its link is gone.
    EdgeDown(LinkId),
    /// The owner learns that its link is gone.
    OwnerDown(LinkId),
    Dial {
        edge: usize,
        shard: usize,
    },
    EdgeTick(usize),
    PublisherStep(usize),
    Subscribe(usize),
}

/// What a world is about, and how it differs from others.
pub(crate) trait Setting: Sized {
    /// Things that happen.
    type Event: Clone + Debug + From<Traffic>;
    /// Whom a link of a shard leads to.
    type Owner: Copy;

    /// How long a publisher waits before it looks again what it has to do, in ms: least and most.
    const STEP_MS: (u64, u64);
    /// How long an edge waits before it dials again, in ms, where nobody was there: least and most.
    const DIAL_AGAIN_MS: (u64, u64);
    /// One of so many lost answers is asked for again under the same id, and when, in ms: least and most.
    const ASKED_AGAIN: (u64, u64, u64);

    /// The shard that a publisher's edge takes for the right one, and the instance epoch that it says.
    fn route(world: &World<Self>, publisher: usize) -> (usize, u64);

    /// Whom an edge that dials finds; `None`: nobody.
    fn dialled(world: &World<Self>, edge: usize, shard: usize) -> Option<Self::Owner>;

    /// A hub's question for history, on its way.
    fn asks(link: LinkId, path: &Path<Self::Owner>, request: HistoryRequest) -> Self::Event;

    /// A frame of an edge comes to whoever owns the shard, or does not any more.
    fn owner_frame(world: &mut World<Self>, link: LinkId, frame: OwnerFrame);

    /// An owner learns that a link is gone.
    fn owner_down(world: &mut World<Self>, link: LinkId);

    /// An edge has closed its end of a link: the owner will learn of it, and the edge dials again.
    fn edge_closed(world: &mut World<Self>, link: LinkId);

    /// Whether a publisher may lose an answer and ask again.
    fn loses_answers(_world: &World<Self>, _publisher: usize) -> bool {
        true
    }

    /// A publish is acknowledged.
    fn acknowledged(world: &mut World<Self>, pending: &Pending, answer: &PublishAnswer);

    /// A publish is refused. Whether that says that it was not written; panics where the code should not
    /// come.
    fn refused(world: &mut World<Self>, pending: &Pending, code: ErrorCode) -> bool;

    /// Somebody has been told that a room has this offset.
    fn told(_world: &mut World<Self>, _room: usize, _offset: u64) {}
}
