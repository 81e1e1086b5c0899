//! Whether every shard has an owner that serves it, for how long one had none, and whether the region is
//! at rest.

use std::collections::BTreeMap;

use gb6_core_model::NodeId;
use gb6_core_ports::{MapStore, ShardLog};
use gb6_region_assign::{ShardRecord, shard_key};

use super::world::NodesWorld;
use super::{Course, SHARDS};

/// The longest time without an owner in which nothing goes wrong but hand-overs, in ms: finishing what
/// is in flight, the record's change on its way, the look that tells it, acquiring.
const HANDED_OVER_MS: u64 = 200;
/// The longest time without an owner after a death, in ms: what the work promises for 99 of 100.
const DEATH_MS: u64 = 3_000;
/// The same when nothing goes wrong any more, after anything did: what was sent to a log before is given
/// up after 3 s, its shard is tried again after 2 s at most, and may be given to a standby then; a node
/// that died is taken for dead after its lease of 1.5 s by a clock that is 5 % slow, and all who may
/// claim one of its shards wait for each other.
const AGAIN_MS: u64 = 3_000 + 2_000 + 1_575 + 4 * 300 + 1_000;
/// What a map whose answers take long adds to that: four looks and two changes.
const SLOW_MAP: u64 = 12;

/// Since when shards have no owner that serves.
#[derive(Default)]
pub(crate) struct Service {
    unserved_since: [Option<u64>; SHARDS],
    /// The longest time so far.
    pub(crate) longest_ms: u64,
    began: bool,
}

impl NodesWorld {
    /// The process that serves a shard: it is the owner by the log.
    pub(crate) fn server(&self, shard: usize) -> Option<usize> {
        let log = self.own.logs[shard].open();
        self.own.processes.iter().position(|process| {
            let serving = process.owners.get(&shard).and_then(|o| o.serving());
            process.up && serving.is_some_and(|serving| log.confirm(&serving.fence).is_ok())
        })
    }

    /// From when on every shard must have an owner, and how long one may have none.
    fn promised(&self) -> (u64, u64) {
        match self.own.plan.course {
            Course::Anything => {
                let again = AGAIN_MS + SLOW_MAP * self.own.map_ms;
                (
                    self.own.calm_at + again,
                    HANDED_OVER_MS + SLOW_MAP * self.own.map_ms,
                )
            }
            Course::Deaths => (0, DEATH_MS),
            Course::Orderly => (0, HANDED_OVER_MS),
        }
    }

    pub(crate) fn look_at_service(&mut self) {
        let (from, longest) = self.promised();
        let now = self.now;
        let unserved: Vec<bool> = (0..SHARDS).map(|s| self.server(s).is_none()).collect();
        // The first owners are found by their own time.
        self.own.service.began |= unserved.iter().all(|unserved| !unserved);
        if !self.own.service.began {
            assert!(now < 5_000, "a region that starts has no owners");
            return;
        }
        let counts = now >= from || self.is_calm();
        for (shard, unserved) in unserved.into_iter().enumerate() {
            let since = &mut self.own.service.unserved_since[shard];
            if !unserved || !counts {
                *since = None;
                continue;
            }
            let without = now - *since.get_or_insert(now);
            self.own.service.longest_ms = self.own.service.longest_ms.max(without);
            let begun = since.unwrap_or(now).max(from);
            assert!(
                now <= begun + longest,
                "shard {shard} has had no owner for {without} ms"
            );
        }
    }

    /// Shards by the node that serves them; of nodes that serve none too.
    fn counts(&self) -> BTreeMap<NodeId, usize> {
        let names = self.own.processes.iter().filter(|process| process.up);
        let mut counts: BTreeMap<_, _> = names.map(|process| (process.name.clone(), 0)).collect();
        for node in (0..SHARDS).filter_map(|shard| self.server(shard)) {
            *counts
                .entry(self.own.processes[node].name.clone())
                .or_default() += 1;
        }
        counts
    }

    pub(crate) fn record(&self, shard: usize) -> Option<(ShardRecord, u64)> {
        let key = shard_key("eu", shard as u32);
        let entry = self.own.map.get(&key).ok().flatten()?;
        let value = entry.value?;
        match ShardRecord::decode(&key, &value) {
            Ok(record) => Some((record, entry.revision)),
            Err(error) => panic!("{error}"),
        }
    }

    /// What keeps the run from being at rest; empty: nothing.
    pub(crate) fn unrest(&self) -> String {
        let waits = self.who_waits(|shard, room| {
            let process = &self.own.processes[self.server(shard)?];
            let serving = process.owners.get(&shard)?.serving()?;
            Some(serving.shard().top_offset(room))
        });
        if !waits.is_empty() {
            return waits;
        }
        let counts = self.counts();
        let least = counts.values().min().copied().unwrap_or(0);
        let most = counts.values().max().copied().unwrap_or(0);
        if counts.len() < super::FOUNDERS.len() || most > least + 1 {
            return format!("nodes have {counts:?}");
        }
        for shard in 0..SHARDS {
            let Some((record, _)) = self.record(shard) else {
                return format!("shard {shard} has no record");
            };
            let owner = self
                .server(shard)
                .map(|n| self.own.processes[n].name.clone());
            let others = record.standby.is_some() && record.standby != record.node;
            if record.node != owner || !others || record.wanted.is_some() {
                return format!("shard {shard} is not at rest: {record:?}");
            }
        }
        String::new()
    }
}
