//! Who publishes and subscribes during a move, where their edges take the instance to be, and what they
//! may be told.

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::PublishAnswer;
use gb6_region_shard::LinkId;

use super::world::{Event, MoveWorld, Moving};
use super::{EDGES, EPOCHS, INSTANCES, ROOMS, SOURCE, TARGET};
use crate::publishing::{Path, Pending, Publisher, Setting, Subscriber, Traffic};

/// The rooms of all instances, in the order of their indices.
pub(crate) fn rooms() -> Vec<RoomRef> {
    let of = |instance: &&str| {
        ROOMS.map(|room| RoomRef {
            instance: (*instance).into(),
            channel: room.into(),
        })
    };
    INSTANCES.iter().flat_map(of).collect()
}

/// The index of an instance's room.
pub(crate) fn room(instance: usize, room: usize) -> usize {
    instance * ROOMS.len() + room
}

/// The instance of a room.
pub(crate) fn instance_of(room: usize) -> usize {
    room / ROOMS.len()
}

impl Setting for Moving {
    type Event = Event;
    type Owner = ();

    const STEP_MS: (u64, u64) = (8, 60);
    const DIAL_AGAIN_MS: (u64, u64) = (20, 80);
    // Perhaps after the move.
    const ASKED_AGAIN: (u64, u64, u64) = (10, 100, 1_500);

    fn route(world: &MoveWorld, publisher: usize) -> (usize, u64) {
        let p = &world.publishers[publisher];
        let early = world.own.early && world.own.early_publishers.contains(&publisher);
        let moved = world.own.placed[p.edge] || early;
        match instance_of(p.room) {
            0 if moved => (TARGET, EPOCHS.2),
            2 => (TARGET, EPOCHS.0),
            _ => (SOURCE, EPOCHS.0),
        }
    }

    fn dialled(world: &MoveWorld, _edge: usize, shard: usize) -> Option<()> {
        world.own.shards[shard].up.is_some().then_some(())
    }

    fn asks(link: LinkId, _path: &Path<()>, request: HistoryRequest) -> Event {
        Event::Ask(link, request)
    }

    fn owner_frame(world: &mut MoveWorld, link: LinkId, frame: OwnerFrame) {
        world.owner_frame(link, frame);
    }

    fn owner_down(world: &mut MoveWorld, link: LinkId) {
        world.owner_down(link);
    }

    fn edge_closed(world: &mut MoveWorld, link: LinkId) {
        let path = &world.paths[&link];
        let (edge, shard) = (path.edge, path.shard);
        world.soon(1, 400, Traffic::OwnerDown(link));
        world.soon(5, 60, Traffic::Dial { edge, shard });
    }

    fn loses_answers(world: &MoveWorld, publisher: usize) -> bool {
        instance_of(world.publishers[publisher].room) == 0
    }

    fn acknowledged(world: &mut MoveWorld, pending: &Pending, _answer: &PublishAnswer) {
        let p = &world.publishers[pending.publisher];
        let (edge, moves) = (p.edge, instance_of(p.room) == 0);
        let calm = world.sides[edge][pending.shard].calm_since <= pending.sent;
        if moves || !calm {
            return;
        }
        let (now, took) = (world.now, world.now - pending.sent);
        let own = &mut world.own;
        let over = own.opened_ms.is_some_and(|at| pending.sent > at + 300);
        if now < own.move_at {
            own.slowest_before = own.slowest_before.max(took);
        } else if !over {
            own.slowest_during = own.slowest_during.max(took);
            own.measured += 1;
        }
    }

    fn refused(world: &mut MoveWorld, pending: &Pending, code: ErrorCode) -> bool {
        let instance = instance_of(world.publishers[pending.publisher].room);
        let moving = code == ErrorCode::OwnerMoving;
        let unknown = code == ErrorCode::OutcomeUnknown;
        assert!(moving || unknown, "{code:?} to {}", pending.data);
        assert!(
            instance == 0 || !moving,
            "{} does not move, and is told so",
            INSTANCES[instance]
        );
        world.own.moving += u64::from(moving);
        moving
    }
}

impl MoveWorld {
    /// Everybody takes their places.
    pub(crate) fn fill(&mut self) {
        let publisher = |edge: usize, instance: usize, with_id: bool, window: usize| {
            let room = room(instance, (edge + window) % ROOMS.len());
            Publisher::new(edge, room, with_id, window)
        };
        for edge in 0..EDGES {
            self.publishers.push(publisher(edge, 0, true, 1));
            // Its edge knows where the instance goes to before it is open there.
            self.own.early_publishers.insert(self.publishers.len());
            self.publishers.push(publisher(edge, 0, true, 2));
            // Instance, with ids, at once.
            let others = [(0, true, 4), (0, false, 1), (1, true, 1), (1, false, 3)];
            for (instance, with_id, window) in others.into_iter().chain([(2, false, 2)]) {
                self.publishers
                    .push(publisher(edge, instance, with_id, window));
            }
            for n in 0..ROOMS.len() {
                for instance in [0, 1 + edge] {
                    let shard = if instance == 2 { TARGET } else { SOURCE };
                    let subscriber = Subscriber::new(edge, room(instance, n), shard);
                    self.subscribers.push(subscriber);
                }
            }
        }
    }

    /// An edge learns where the instance is: its subscribers go on there.
    pub(crate) fn placed(&mut self, edge: usize) {
        if std::mem::replace(&mut self.own.placed[edge], true) {
            return;
        }
        for at in 0..self.subscribers.len() {
            let s = &self.subscribers[at];
            if s.edge == edge && instance_of(s.room) == 0 {
                self.subscribe_at(at, TARGET);
            }
        }
    }
}
