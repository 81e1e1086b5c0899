//! A shard that is served: what its owner takes, writes and answers.

use std::sync::Arc;

use gb6_core_ports::memory::MemoryLog;
use gb6_core_ports::{Commit, Fence, ShardLog, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_assign::Input;
use gb6_region_shard::{AppendFailure, Output, Shard, SyncStats};

use super::faults::Peer;
use super::log::{Ask, Asker};
use super::owner::{Incoming, Order, Owner, Stage, Trouble};
use super::replay::Replay;
use super::world::{Event, NodesWorld};

/// A shard that is served.
pub(crate) struct Serving {
    pub(crate) fence: Fence,
    pub(super) replay: Replay,
    pub(super) log: MemoryLog,
    pub(super) in_flight: Option<(u64, Arc<Vec<Record>>)>,
    /// What waits until the log has said whether this is still the owner.
    pub(super) confirming: Option<(u64, u64, Vec<Incoming>)>,
}

impl Serving {
    /// The shard's machine.
    pub(crate) fn shard(&self) -> &Shard {
        &self.replay.shard
    }
}

impl NodesWorld {
    pub(super) fn appended(
        &mut self,
        asker: Asker,
        request: u64,
        answer: Result<Commit, StoreError>,
    ) {
        let now = self.now;
        let Some(process) = self.process(asker.node) else {
            return;
        };
        let clock = process.clock(now);
        let Some(owner) = self.owner(asker) else {
            return;
        };
        let Some(serving) = owner.serving_mut() else {
            return;
        };
        if serving.in_flight.as_ref().map(|(r, _)| *r) != Some(request) {
            return;
        }
        let Some((_, batch)) = serving.in_flight.take() else {
            return;
        };
        match answer {
            Ok(commit) => {
                for record in batch.iter() {
                    serving.replay.note(record);
                }
                serving.replay.next = commit.next;
                let stats = SyncStats {
                    sync_us: 1,
                    records: commit.shared,
                };
                serving.replay.shard.committed(clock, stats);
                owner.trouble = Trouble::default();
            }
            Err(error) => {
                let fenced = matches!(error, StoreError::Fenced { .. });
                let failure = match fenced {
                    true => AppendFailure::Fenced,
                    false => AppendFailure::OutcomeUnknown,
                };
                serving.replay.shard.failed(clock, failure);
                if !fenced {
                    owner.trouble.failed(clock);
                }
            }
        }
        self.pump(asker);
    }

    pub(super) fn confirmed(&mut self, asker: Asker, request: u64, answer: Result<(), StoreError>) {
        let Some(owner) = self.owner(asker) else {
            return;
        };
        let Some(serving) = owner.serving_mut() else {
            return;
        };
        if serving.confirming.as_ref().map(|(r, ..)| *r) != Some(request) {
            return;
        }
        let Some((_, asked_at, incoming)) = serving.confirming.take() else {
            return;
        };
        match answer {
            Ok(()) => {
                owner.proved_at = Some(asked_at);
                self.own.counts.confirmed += 1;
                self.take(asker, incoming);
                self.take_incoming(asker);
            }
            Err(error) => {
                serving.replay.shard.stop_serving();
                self.own.counts.deposed += u64::from(matches!(error, StoreError::Fenced { .. }));
                self.pump(asker);
            }
        }
    }

    /// Takes what has come, or asks the log first whether this is still the owner: an answer must not be
    /// older than what another owner has answered. For what asks nothing of the kind an answer of half a
    /// lease ago is enough.
    pub(super) fn take_incoming(&mut self, asker: Asker) {
        let now = self.now;
        let Some(process) = self.process(asker.node) else {
            return;
        };
        let sure = process.is_sure(now, asker.shard);
        let (clock, proof_ms) = (process.clock(now), process.lease_ms / 2);
        let Some(owner) = self.owner(asker) else {
            return;
        };
        let Stage::Serves(serving) = &mut owner.stage else {
            return;
        };
        if owner.order == Order::Stop || serving.confirming.is_some() || owner.inbox.is_empty() {
            return self.pump(asker);
        }
        let incoming = std::mem::take(&mut owner.inbox);
        let proved = owner.proved_at.is_some_and(|at| clock < at + proof_ms);
        if sure || (proved && !incoming.iter().any(Incoming::asks)) {
            return self.take(asker, incoming);
        }
        let fence = serving.fence.clone();
        let request = self.ask_log(asker, Ask::Confirm(fence));
        if let Some(serving) = self.owner(asker).and_then(Owner::serving_mut) {
            serving.confirming = Some((request, clock, incoming));
        }
    }

    fn take(&mut self, asker: Asker, incoming: Vec<Incoming>) {
        let now = self.now;
        let Some(process) = self.process(asker.node) else {
            return;
        };
        let clock = process.clock(now);
        let Some(serving) = self.owner(asker).and_then(Owner::serving_mut) else {
            return;
        };
        let shard = &mut serving.replay.shard;
        for incoming in incoming {
            match incoming {
                Incoming::Frame(link, frame) => shard.frame(clock, link, *frame),
                Incoming::Closed(link) => shard.link_closed(link),
                Incoming::Asked(link, request) => shard.history(clock, link, request),
            }
        }
        self.pump(asker);
    }

    /// Does what there is to do: batches, answers, orders.
    pub(super) fn pump(&mut self, asker: Asker) {
        let now = self.now;
        let Some(process) = self.process(asker.node) else {
            return;
        };
        let (clock, unix) = (process.clock(now), process.unix(now));
        let Some(owner) = self.owner(asker) else {
            return;
        };
        let Stage::Serves(serving) = &mut owner.stage else {
            return;
        };
        let idle = serving.in_flight.is_none();
        let mut paused = false;
        let mut appends = None;
        match owner.order {
            Order::Pause if idle && !owner.told_paused => {
                owner.told_paused = true;
                paused = true;
            }
            Order::Serve if idle && serving.replay.shard.wants_batch() => {
                let batch = serving.replay.shard.next_batch(clock, unix);
                appends = batch.map(|batch| (serving.fence.clone(), batch.records));
            }
            _ => {}
        }
        let stopped = owner.order == Order::Stop && idle;
        if let Some((fence, records)) = appends {
            let request = self.ask_log(asker, Ask::Append(fence, records.clone()));
            if let Some(serving) = self.owner(asker).and_then(Owner::serving_mut) {
                serving.in_flight = Some((request, records));
            }
        }
        let serves = self.flush(asker);
        if paused {
            let shard = asker.shard as u32;
            self.news(asker.node, Input::Paused { shard });
        }
        if stopped {
            self.owner_ends(asker, true);
        } else if !serves {
            self.owner_fails(asker);
        }
    }

    /// Carries out what the machine has said; whether it still serves.
    pub(super) fn flush(&mut self, asker: Asker) -> bool {
        let Some(serving) = self.owner(asker).and_then(Owner::serving_mut) else {
            return false;
        };
        let mut outputs = Vec::new();
        while let Some(output) = serving.replay.shard.poll_output() {
            outputs.push(match output {
                Output::Read(read) => Output::Page {
                    link: read.link,
                    page: serving.replay.page(&serving.log, &read),
                },
                other => other,
            });
        }
        let serves = serving.replay.shard.is_serving();
        for output in outputs {
            if let Some(Output::Page { link, page }) = self.owner_says(output) {
                self.soon(1, 5, Event::ReaderHears(link, page));
            }
        }
        serves
    }

    /// Saves a checkpoint of a shard that is served.
    pub(crate) fn checkpoint(&mut self, asker: Asker) {
        if let Some(serving) = self.owner(asker).and_then(|owner| owner.serving()) {
            let (position, state) = serving.replay.shard.checkpoint();
            let saved = serving.log.save_checkpoint(position, &state);
            assert!(saved.is_ok(), "{saved:?}");
        }
    }

    /// Time passes in a shard's machine.
    pub(crate) fn owner_tick(&mut self, node: usize, shard: usize) {
        let now = self.now;
        let saves = self.rng.one_in(12) && !self.is_cut(node, Peer::Log);
        let Some(asker) = self.asker(node, shard) else {
            return;
        };
        let Some(process) = self.process(node) else {
            return;
        };
        let (clock, unix) = (process.clock(now), process.unix(now));
        if let Some(serving) = self.owner(asker).and_then(Owner::serving_mut) {
            serving.replay.shard.tick(clock, unix);
            if saves {
                self.checkpoint(asker);
            }
            self.pump(asker);
        }
    }
}
