//! What a shard is given: frames, commands and time, which follow from a seed alone and not from
//! anything that the shard answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::{Instance, Namespace, Region, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, Slot};
use gb6_core_ports::contract::Random;
use gb6_core_wire::mesh::{OwnerFrame, Person, Publish, RemoveHistory, Renew, RoomRef};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_shard::Admin;

use crate::owner::REGION;

/// Edges that are attached.
pub(crate) const EDGES: u64 = 3;
/// Steps before the last ones.
const STEPS: u64 = 1_500;
/// The instance whose bodies are sealed with a key, and whose writes end and begin again.
pub(crate) const SEALED: &str = "other";

/// One thing that happens.
#[derive(Clone)]
pub(crate) enum Step {
    /// An edge sends something.
    Frame(u64, Box<OwnerFrame>),
    /// An operator, a mover or retention asks for something.
    Admin(Admin),
    /// So many ms pass.
    Tick(u64),
    /// A batch goes to the log.
    Commit,
    /// The log is sealed at least as far as so many thousandths of its positions.
    Seal(u64),
    /// The bodies of erased messages are taken out of the log.
    Rewrite,
    /// The machine's state is saved.
    Checkpoint,
    /// Another node takes the shard over.
    Takeover,
}

impl Step {
    pub(crate) fn frame(edge: u64, frame: OwnerFrame) -> Self {
        Self::Frame(edge, Box::new(frame))
    }
}

/// Two instances; rooms that keep a number of messages, that keep them for a time, and all of them.
pub(crate) fn snapshot() -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    let region = Region {
        shards: 1,
        owners: vec![NodeId::from("r1")],
        ..Region::default()
    };
    snapshot.regions.insert(REGION.to_owned(), region);
    let all = Namespace::default();
    let newest = Namespace {
        history_size: 20,
        ..all.clone()
    };
    let brief = Namespace {
        history_ttl_ms: 8_000,
        ..all.clone()
    };
    let namespaces = [("all", all), ("newest", newest), ("brief", brief)];
    for name in ["demo", SEALED] {
        let instance = Instance {
            region: REGION.into(),
            epoch: InstanceEpoch(1),
            slots: vec![Slot(1), Slot(2)],
            namespaces: namespaces.clone().map(|(n, r)| (n.to_owned(), r)).into(),
            subscriptions_max: 1,
            ..Instance::default()
        };
        snapshot.instances.insert(InstanceId::from(name), instance);
    }
    Arc::new(snapshot)
}

/// Every room that is written to.
pub(crate) fn rooms() -> Vec<RoomRef> {
    let names = ["demo", SEALED].map(|instance| {
        let channels = ["all:1", "all:2", "newest:1", "brief:1", "newest:2"];
        channels.map(|channel| RoomRef {
            instance: instance.to_owned(),
            channel: channel.to_owned(),
        })
    });
    names.concat()
}

/// A room that comes from another shard.
pub(crate) fn imported() -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: "all:imported".into(),
    }
}

/// The input of `seed`.
pub(crate) fn steps(seed: u64) -> Vec<Step> {
    let mut input = Input {
        random: Random::new(seed),
        numbers: BTreeMap::new(),
        published: Vec::new(),
        sealed_epoch: 1,
        steps: Vec::new(),
    };
    for step in 0..STEPS {
        input.gates(step);
        if step == STEPS / 2 {
            input.takeover();
        }
        input.step();
    }
    // What retention needs: two checkpoints, with something between them.
    input.end();
    input.steps
}

struct Input {
    random: Random,
    /// (Edge, session, room) → the newest number.
    numbers: BTreeMap<(u64, u64, RoomRef), u64>,
    published: Vec<(u64, Publish)>,
    /// The epoch by which edges route what goes to the sealed instance.
    sealed_epoch: u64,
    steps: Vec<Step>,
}

impl Input {
    fn step(&mut self) {
        match self.random.below(100) {
            0..55 => self.publish(),
            55..63 => self.resend(),
            63..69 => self.repeat(),
            69..74 => self.time_passes(),
            74..87 => self.steps.push(Step::Commit),
            87..93 => {
                let (room, offset) = (self.room(), self.random.below(80) + 1);
                self.steps.push(Step::Admin(Admin::Erase { room, offset }));
            }
            93 => {
                let (room, first) = (self.room(), self.random.below(30));
                let wanted = RemoveHistory {
                    request: self.random.below(1_000_000),
                    instance_epoch: self.epoch(&room),
                    room,
                    first,
                };
                self.frame(OwnerFrame::RemoveHistory(wanted));
            }
            94 => {
                let (room, first) = (self.room(), self.random.below(30) + 1);
                self.steps.push(Step::Admin(Admin::Trim { room, first }));
            }
            95 => {
                let room = self.room();
                self.frame(OwnerFrame::Uninterest(room));
            }
            96 => {
                let room = self.room();
                self.frame(OwnerFrame::Interest(room));
            }
            97 => {
                let part = self.random.below(1_000);
                self.steps.push(Step::Seal(part));
            }
            98 => self.steps.push(Step::Rewrite),
            _ => self.steps.push(Step::Checkpoint),
        }
    }

    /// Ends and begins the writes of the sealed instance, and takes in a room of another shard.
    fn gates(&mut self, step: u64) {
        let (instance, slots) = (SEALED.to_owned(), Vec::new());
        if step == STEPS / 4 {
            self.steps.push(Step::Admin(Admin::Seal {
                instance,
                epoch: 2,
                slots,
            }));
        } else if step == STEPS / 4 + 60 {
            self.sealed_epoch = 3;
            self.steps.push(Step::Admin(Admin::Open {
                instance,
                epoch: 3,
                slots,
            }));
        } else if step == STEPS / 3 {
            let records = (0..8).map(|n| Record {
                kind: Kind::Message.into(),
                instance: "demo".into(),
                instance_epoch: 1,
                channel: imported().channel,
                offset: 101 + n,
                time: 1_600_000_000_000 + n as i64,
                client_id: format!("before-{n}").into(),
                body: format!("of another shard: {n}").into(),
                ..Record::default()
            });
            self.steps
                .push(Step::Admin(Admin::Import(records.collect())));
        }
    }

    /// Something waits when another node takes over; afterwards edges send again what they sent last.
    fn takeover(&mut self) {
        self.publish_to(rooms()[0].clone());
        self.steps.push(Step::Takeover);
        let last = self.published.len().saturating_sub(40);
        for (edge, publish) in self.published[last..].iter().cloned() {
            self.steps
                .push(Step::frame(edge, OwnerFrame::Publish(publish)));
        }
        self.steps.push(Step::Commit);
    }

    fn end(&mut self) {
        for _ in 0..2 {
            self.publish_to(rooms()[0].clone());
            // Several batches may wait: commands that end a batch, and trims that follow from it.
            self.steps.extend([const { Step::Commit }; 8]);
            self.steps.extend([Step::Rewrite, Step::Checkpoint]);
        }
    }

    fn room(&mut self) -> RoomRef {
        let rooms = rooms();
        rooms[self.random.below(rooms.len() as u64) as usize].clone()
    }

    fn epoch(&self, room: &RoomRef) -> u64 {
        match room.instance == SEALED {
            true => self.sealed_epoch,
            false => 1,
        }
    }

    fn frame(&mut self, frame: OwnerFrame) {
        let edge = self.random.below(EDGES);
        self.steps.push(Step::frame(edge, frame));
    }

    fn publish(&mut self) {
        let room = self.room();
        self.publish_to(room);
    }

    fn publish_to(&mut self, room: RoomRef) {
        let random = &mut self.random;
        let (edge, session) = (random.below(EDGES), random.below(4) + 1);
        let number = self.numbers.entry((edge, session, room.clone()));
        let number = number.and_modify(|n| *n += 1).or_insert(1);
        let mut publish = Publish {
            request: random.below(1 << 40),
            instance_epoch: if room.instance == SEALED {
                self.sealed_epoch
            } else {
                1
            },
            room,
            session,
            number: *number,
            settled_below: number.saturating_sub(30),
            data: body(random),
            ..Publish::default()
        };
        // Some are the server API's: nobody's.
        if random.below(8) > 0 {
            publish.from = Person {
                user: format!("user-{}", random.below(5)),
                client: format!("client-{edge}-{session}"),
                ..Person::default()
            };
        }
        if random.below(3) == 0 {
            publish.id = format!("id-{}", random.below(200)).into();
        }
        if random.below(6) == 0 {
            publish.version = random.below(50) + 1;
            publish.version_epoch = format!("v{}", random.below(2));
        }
        if random.below(4) == 0 {
            let value = random.below(9).to_string();
            publish.tags = BTreeMap::from([("kind".into(), "a".into()), ("n".into(), value)]);
        }
        self.published.push((edge, publish.clone()));
        self.steps
            .push(Step::frame(edge, OwnerFrame::Publish(publish)));
    }

    fn earlier(&mut self) -> Option<(u64, Publish)> {
        let back = self.random.below(60) as usize + 1;
        let at = self.published.len().checked_sub(back)?;
        self.published.get(at).cloned()
    }

    /// An edge sends the same again.
    fn resend(&mut self) {
        if let Some((edge, publish)) = self.earlier() {
            self.steps
                .push(Step::frame(edge, OwnerFrame::Publish(publish)));
        }
    }

    /// A client sends the same again, over another session.
    fn repeat(&mut self) {
        let Some((edge, mut publish)) = self.earlier() else {
            return;
        };
        publish.session += 10;
        let key = (edge, publish.session, publish.room.clone());
        let number = self.numbers.entry(key).and_modify(|n| *n += 1);
        publish.number = *number.or_insert(1);
        publish.settled_below = 0;
        self.steps
            .push(Step::frame(edge, OwnerFrame::Publish(publish)));
    }

    fn time_passes(&mut self) {
        let ms = self.random.below(700);
        self.steps.push(Step::Tick(ms));
        for edge in 0..EDGES {
            let renew = Renew {
                sequence: self.steps.len() as u64,
            };
            self.steps.push(Step::frame(edge, OwnerFrame::Renew(renew)));
        }
    }
}

/// Empty, short, long, and such that it can be compressed or not.
fn body(random: &mut Random) -> Bytes {
    match random.below(10) {
        0 => Bytes::new(),
        1 => "all work and no play ".repeat(60).into(),
        2 => {
            let size = 600 + random.below(2_000);
            let bytes = (0..size).map(|_| random.below(256) as u8);
            bytes.collect::<Vec<u8>>().into()
        }
        _ => format!("{{\"n\":{}}}", random.below(1 << 50)).into(),
    }
}
