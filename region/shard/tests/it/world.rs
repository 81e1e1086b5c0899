//! A shard with a perfect log, driven by hand: what the tests of this crate share.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::{Instance, Namespace, Region, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, Slot};
use gb6_core_wire::mesh::{Attach, EdgeFrame, OwnerFrame, Person, Publish, RoomRef, ShardRef};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_shard::{LinkId, Output, Shard, ShardConfig, SyncStats};

/// A namespace with presence and join/leave, and nothing trimmed.
pub(crate) fn rules() -> Namespace {
    Namespace {
        presence: true,
        join_leave: true,
        force_join_leave: true,
        ..Namespace::default()
    }
}

pub(crate) fn snapshot(rules: Namespace) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    let eu = Region {
        shards: 1,
        slots: BTreeMap::new(),
        owners: vec![NodeId::from("r1")],
        ..Default::default()
    };
    snapshot.regions.insert("eu".to_owned(), eu);
    for name in ["demo", "other"] {
        snapshot.instances.insert(
            InstanceId::from(name),
            Instance {
                region: "eu".into(),
                epoch: InstanceEpoch(1),
                slots: vec![Slot(1), Slot(2)],
                namespaces: BTreeMap::from([("room".to_owned(), rules.clone())]),
                subscriptions_max: 1,
                ..Instance::default()
            },
        );
    }
    Arc::new(snapshot)
}

pub(crate) fn room(n: u32) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: format!("room:{n}"),
    }
}

pub(crate) fn person(user: &str, client: &str) -> Person {
    Person {
        user: user.into(),
        client: client.into(),
        ..Person::default()
    }
}

/// The shard, its log, and everything that it sent.
pub(crate) struct World {
    pub(crate) shard: Shard,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) log: Vec<Record>,
    pub(crate) checkpoint: Option<(u64, bytes::Bytes)>,
    pub(crate) now_ms: u64,
    pub(crate) epoch: u64,
    next_link: u64,
    pub(crate) sent: Vec<(LinkId, EdgeFrame)>,
    pub(crate) closed: Vec<LinkId>,
    pub(crate) others: Vec<Output>,
}

impl World {
    pub(crate) fn new(rules: Namespace) -> Self {
        let snapshot = snapshot(rules);
        let mut world = Self {
            shard: Shard::new(config(), snapshot.clone()),
            snapshot,
            log: Vec::new(),
            checkpoint: None,
            now_ms: 1_000,
            epoch: 0,
            next_link: 1,
            sent: Vec::new(),
            closed: Vec::new(),
            others: Vec::new(),
        };
        world.start();
        world
    }

    /// Reads checkpoint and log, acquires, serves: a process that starts.
    pub(crate) fn start(&mut self) {
        self.shard = Shard::new(config(), self.snapshot.clone());
        let from = match &self.checkpoint {
            Some((_, bytes)) => self.shard.restore(bytes).expect("a good checkpoint"),
            None => 0,
        };
        for record in self.log.iter().filter(|r| r.position >= from) {
            self.shard.replay(record);
        }
        let (epoch, served_ms, _) = self.shard.log_state();
        assert_eq!(
            epoch, self.epoch,
            "the highest epoch is in the log or the checkpoint"
        );
        self.epoch += 1;
        let acquire = Record {
            kind: Kind::Acquire.into(),
            position: self.log.len() as u64,
            shard_epoch: self.epoch,
            owner_incarnation: 100 + self.epoch,
            served_ms,
            ..Record::default()
        };
        self.shard.replay(&acquire);
        self.log.push(acquire);
        let next = self.log.len() as u64;
        self.shard
            .serve(self.now_ms, self.epoch, 100 + self.epoch, next);
    }

    pub(crate) fn link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    pub(crate) fn attach(&mut self, edge_incarnation: u64) -> LinkId {
        self.attach_from(edge_incarnation, 0)
    }

    /// Attaches an edge that has been served under this epoch.
    pub(crate) fn attach_from(&mut self, edge_incarnation: u64, shard_epoch: u64) -> LinkId {
        let link = self.link();
        self.frame(
            link,
            OwnerFrame::Attach(Attach {
                edge_incarnation,
                revision: 1,
                shard_epoch,
            }),
        );
        link
    }

    pub(crate) fn frame(&mut self, link: LinkId, frame: OwnerFrame) {
        self.shard.frame(self.now_ms, link, frame);
        self.drain();
    }

    /// Forms a batch, if something waits, and makes it durable.
    pub(crate) fn commit(&mut self) -> usize {
        let batch = self.shard.next_batch(self.now_ms, self.unix());
        self.drain();
        let Some(batch) = batch else {
            return 0;
        };
        self.log.extend(batch.records.iter().cloned());
        self.shard.committed(self.now_ms, SyncStats::default());
        self.drain();
        batch.records.len()
    }

    pub(crate) fn unix(&self) -> i64 {
        1_700_000_000_000 + self.now_ms as i64
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.shard.tick(self.now_ms, self.unix());
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { link, frame } => self.sent.push((link, frame)),
                Output::Close { link } => self.closed.push(link),
                Output::Unfounded { offset, head } => {
                    panic!("offset {offset} was to be acknowledged above the durable {head}")
                }
                other => self.others.push(other),
            }
        }
    }

    /// What was sent on `link` since the last call, of any kind.
    pub(crate) fn take_sent(&mut self, link: LinkId) -> Vec<EdgeFrame> {
        let (mine, rest) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(l, _)| *l == link);
        self.sent = rest;
        let mine: Vec<(LinkId, EdgeFrame)> = mine;
        mine.into_iter().map(|(_, frame)| frame).collect()
    }
}

fn config() -> ShardConfig {
    ShardConfig::new(ShardRef {
        region: "eu".into(),
        shard: 0,
    })
}

pub(crate) fn publish(room: RoomRef, request: u64, session: u64, number: u64) -> Publish {
    Publish {
        request,
        room,
        instance_epoch: 1,
        session,
        number,
        settled_below: 0,
        from: person("u", "c"),
        data: bytes::Bytes::from(format!("{session}/{number}")),
        ..Publish::default()
    }
}
