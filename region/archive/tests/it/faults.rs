//! Two owners that contend for an archive over a store whose calls fail: whatever happens, what is
//! archived is what was committed, nothing acknowledged is lost, and who lost the shard changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{fence, message};
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::retention::erase;
use gb6_core_ports::{BlobStore, Fence, Retain, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::{Archive, Live};

use crate::faulty::{Faults, FaultyBlobs};
use crate::tail_log::archive;

/// An owner: its fence, its archive, and the store as it sees it.
struct Owner {
    fence: Fence,
    archive: Archive,
    blobs: FaultyBlobs,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Left {
    Kept,
    Erased,
    Dropped,
}

/// What is known to whoever sees everything.
struct World {
    objects: MemoryBlobs,
    /// Every committed record.
    log: Vec<Record>,
    /// What may be left of each: more than one possibility after a change of which nobody knows.
    left: Vec<BTreeSet<Left>>,
    owners: [Option<Owner>; 2],
    epoch: u64,
    /// The highest epoch that began with an answer.
    begun: u64,
    /// The archive's end and beginning as acknowledged, and how far a trim was tried.
    next: u64,
    first: u64,
    first_tried: u64,
    checkpoint: Option<u64>,
    consumer: Option<u64>,
}

fn body(position: u64) -> Vec<u8> {
    format!("<body of {position:08}>").repeat(3).into_bytes()
}

fn state_at(position: u64) -> Vec<u8> {
    format!("state at {position}").repeat(40).into_bytes()
}

impl World {
    fn new() -> Self {
        Self {
            objects: MemoryBlobs::new(),
            log: Vec::new(),
            left: Vec::new(),
            owners: [None, None],
            epoch: 0,
            begun: 0,
            next: 0,
            first: 0,
            first_tried: 0,
            checkpoint: None,
            consumer: None,
        }
    }

    /// Another life of an owner, under the next epoch.
    fn rise(&mut self, who: usize, faults: Faults) {
        self.epoch += 1;
        let blobs = FaultyBlobs::new(self.objects.clone(), faults);
        let fence = fence(self.epoch);
        let opened = archive(Arc::new(blobs.clone()));
        self.owners[who] = opened.ok().map(|archive| Owner {
            fence: fence.clone(),
            archive,
            blobs,
        });
        if let Some(owner) = &self.owners[who]
            && owner.archive.begin(&fence).is_ok()
        {
            self.begun = self.epoch;
        }
    }

    /// Records are committed under the newest epoch.
    fn commit(&mut self, count: u64) {
        for _ in 0..count {
            let position = self.log.len() as u64;
            let mut record = message(position, &format!("room:{}", position % 3), position, 0);
            record.body = body(position).into();
            record.shard_epoch = self.epoch;
            record.owner_incarnation = fence(self.epoch).owner_incarnation.0;
            self.log.push(record);
            self.left.push(BTreeSet::from([Left::Kept]));
        }
    }

    /// Whoever is answered must not have lost the archive.
    fn acknowledged(&self, owner: &Owner, what: &str) {
        let epoch = owner.fence.shard_epoch.0;
        assert!(
            epoch >= self.begun,
            "{what} by {epoch} after {}",
            self.begun
        );
    }

    fn seal(&mut self, who: usize, most: u64, merge: bool) -> Result<(), StoreError> {
        let Some(owner) = self.owners[who].take() else {
            return Ok(());
        };
        let sealed = (|| {
            owner.archive.refresh()?;
            let about = if merge { 60 * most } else { 0 };
            let mut sealer = owner.archive.sealer(&owner.fence, about)?;
            let from = sealer.next();
            let to = (from + most).min(self.log.len() as u64);
            for position in from..to {
                sealer.push(&self.log[position as usize])?;
            }
            let range = sealer.finish(Bytes::from(to.to_string()))?;
            assert_eq!(range.next, to);
            Ok((from, to))
        })();
        if let Ok((from, to)) = sealed
            && from < to
        {
            self.acknowledged(&owner, "a seal");
            self.next = self.next.max(to);
        }
        self.owners[who] = Some(owner);
        sealed.map(|_| ())
    }

    fn rewrite(
        &mut self,
        who: usize,
        position: u64,
        what: Left,
        modulus: u64,
    ) -> Result<(), StoreError> {
        let Some(owner) = self.owners[who].take() else {
            return Ok(());
        };
        let mut touched = BTreeSet::new();
        let segment = owner.archive.segment_of(position);
        let outcome = match segment {
            None => Ok(0),
            Some(segment) => owner.archive.rewrite(&owner.fence, segment, &mut |record| {
                if record.position % modulus != position % modulus {
                    return Retain::Keep;
                }
                touched.insert(record.position);
                match what {
                    Left::Kept => Retain::Keep,
                    Left::Erased => Retain::Erase,
                    Left::Dropped => Retain::Drop,
                }
            }),
        };
        for position in touched {
            let left = &mut self.left[position as usize];
            if outcome.is_ok() {
                left.remove(&Left::Kept);
                if what == Left::Dropped {
                    left.clear();
                }
            }
            left.insert(what);
        }
        if outcome.is_ok() && segment.is_some() {
            self.acknowledged(&owner, "a rewrite");
        }
        self.owners[who] = Some(owner);
        outcome.map(|_| ())
    }

    fn trim(&mut self, who: usize, to: u64) -> Result<(), StoreError> {
        let Some(owner) = self.owners[who].take() else {
            return Ok(());
        };
        self.first_tried = self.first_tried.max(to);
        let before = self.first;
        let outcome = owner.archive.trim(&owner.fence, to, Live::default());
        if let Ok(first) = outcome
            && first > before
        {
            self.first = self.first.max(first);
        }
        self.owners[who] = Some(owner);
        outcome.map(|_| ())
    }

    fn checkpoint(&mut self, who: usize, position: u64) -> Result<(), StoreError> {
        let Some(owner) = self.owners[who].take() else {
            return Ok(());
        };
        let state = state_at(position);
        let saved = owner
            .archive
            .save_checkpoint(&owner.fence, position, &state);
        if saved.is_ok() {
            self.acknowledged(&owner, "a checkpoint");
            self.checkpoint = self.checkpoint.max(Some(position));
        }
        self.owners[who] = Some(owner);
        saved
    }

    fn consume(&mut self, who: usize, position: u64) -> Result<(), StoreError> {
        let Some(owner) = self.owners[who].take() else {
            return Ok(());
        };
        let stored = owner
            .archive
            .register_consumer(&owner.fence, "search", 0)
            .and_then(|_| owner.archive.set_consumer(&owner.fence, "search", position));
        // Of one that lost the shard without knowing nothing is kept.
        if stored.is_ok() && owner.fence.shard_epoch.0 == self.epoch {
            self.consumer = self.consumer.max(Some(position));
        }
        self.owners[who] = Some(owner);
        stored
    }

    /// Looks at everything as somebody does who comes later, and reads without faults.
    fn look(&self, context: &str) {
        let archive = archive(Arc::new(self.objects.clone())).expect(context);
        let range = archive.range();
        assert!(
            range.next >= self.next,
            "{context}: {range:?}, {}",
            self.next
        );
        assert!(range.next <= self.log.len() as u64, "{context}");
        let furthest = self.first_tried.max(self.first);
        assert!(
            (self.first..=furthest).contains(&range.first) || range.first == range.next,
            "{context}: {range:?}, {} to {furthest}",
            self.first
        );
        let resume = archive.resume();
        if range.next > 0 {
            assert_eq!(resume, range.next.to_string().as_bytes(), "{context}");
        }
        let mut found = BTreeMap::new();
        let mut from = range.first;
        while from < range.next {
            let page = archive.read(from, 5, 1 << 20).expect(context);
            assert!(page.next > from, "{context}: no progress at {from}");
            from = page.next;
            found.extend(page.records.into_iter().map(|r| (r.position, r)));
        }
        for position in range.first..range.next {
            let committed = &self.log[position as usize];
            let mut erased = committed.clone();
            erase(&mut erased);
            let left = match found.get(&position) {
                None => Left::Dropped,
                Some(record) if record == committed => Left::Kept,
                Some(record) if *record == erased => Left::Erased,
                Some(record) => panic!("{context}: {record:?} at {position}"),
            };
            let allowed = &self.left[position as usize];
            assert!(
                allowed.contains(&left),
                "{context}: {position} is {left:?}, not {allowed:?}"
            );
        }
        let all: Vec<u64> = (range.first..range.next).collect();
        for (position, record) in all.iter().zip(archive.read_at(&all).expect(context)) {
            assert_eq!(record.as_ref(), found.get(position), "{context}");
        }
        archive.plan_retention(&|_, _| 5, u64::MAX).expect(context);
        let newest = archive.load_checkpoint_before(u64::MAX, u64::MAX);
        let newest = newest.expect(context);
        if let Some((position, state)) = &newest {
            assert_eq!(*state, state_at(*position), "{context}");
        }
        assert!(
            newest.map(|(position, _)| position) >= self.checkpoint,
            "{context}"
        );
        let consumers = archive.consumers(Live::default()).expect(context);
        let position = consumers.first().map(|c| c.position);
        assert!(
            position >= self.consumer,
            "{context}: {position:?}, {:?}",
            self.consumer
        );
    }

    /// In the end an owner without faults begins, and removes what the others left.
    fn end(&mut self, context: &str) {
        for owner in self.owners.iter().flatten() {
            owner.blobs.settle();
        }
        self.rise(0, Faults::Never);
        self.commit(1);
        self.seal(0, u64::MAX / 100, false).expect(context);
        self.look(context);
        let archive = archive(Arc::new(self.objects.clone())).expect(context);
        let count = |folder: &str| {
            let prefix = format!("test/shards/3/{folder}/");
            self.objects
                .list(&prefix, None, 10_000)
                .expect("a list")
                .len()
        };
        let segments: BTreeSet<u64> = (archive.range().first..archive.range().next)
            .filter_map(|p| archive.segment_of(p))
            .collect();
        assert_eq!(count("seg"), 2 * segments.len(), "{context}");
        assert!(count("ckpt") <= 3, "{context}");
        assert!(count("manifest") <= 8, "{context}");
        let gone = |position: &u64| !self.left[*position as usize].contains(&Left::Kept);
        let gone = (0..archive.range().next).filter(gone);
        let all = self.objects.list("", None, 10_000).expect("a list");
        let all: Vec<Bytes> = all
            .iter()
            .filter_map(|m| self.objects.get(&m.key, u64::MAX).expect("an object"))
            .collect();
        for position in gone {
            let body = body(position);
            let there = all.iter().any(|o| o.windows(body.len()).any(|w| w == body));
            assert!(!there, "{context}: the body of {position} is still there");
        }
    }
}

/// A random life of an archive.
fn live(seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    let mut world = World::new();
    let one_in = [4, 12, 40][seed as usize % 3];
    let mut answered = 0;
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let who = random.below(2) as usize;
        let end = world.log.len() as u64;
        let outcome = match random.below(20) {
            0 | 1 => {
                let faults = Faults::Chance(Random::new(seed * 1000 + step as u64), one_in);
                world.rise(who, faults);
                Ok(())
            }
            2 => {
                // A death: what was on its way comes through.
                if let Some(owner) = world.owners[who].take() {
                    owner.blobs.settle();
                }
                Ok(())
            }
            3..=7 => {
                world.commit(random.below(30));
                world.seal(who, 1 + random.below(60), random.below(2) == 0)
            }
            8 | 9 => world.seal(who, 1 + random.below(10), true),
            10..=12 => {
                let what = [Left::Erased, Left::Dropped, Left::Kept][random.below(3) as usize];
                world.rewrite(who, random.below(end + 1), what, 1 + random.below(4))
            }
            13 => world.trim(who, random.below(end + 1)),
            // A machine's state is never of an earlier position than the one before.
            14..=16 => {
                let last = world.checkpoint.unwrap_or(0);
                world.checkpoint(who, last + random.below(end + 1 - last))
            }
            _ => world.consume(who, random.below(end + 1)),
        };
        answered += u64::from(outcome.is_ok());
        if step % 3 == 0 {
            world.look(&context);
        }
    }
    assert!(answered > 0);
    world.end(&format!("seed {seed}, the end"));
}

#[test]
fn nothing_is_lost_or_changed_by_who_lost_the_shard_whatever_fails() {
    for seed in 0..60 {
        live(seed, 60);
    }
}

/// Does everything once, and stops at the first error.
fn everything(world: &mut World, who: usize) -> Result<(), StoreError> {
    world.commit(40);
    world.seal(who, 15, false)?;
    world.seal(who, 10, true)?;
    world.checkpoint(who, 12)?;
    world.consume(who, 20)?;
    world.rewrite(who, 3, Left::Erased, 2)?;
    world.rewrite(who, 4, Left::Dropped, 2)?;
    world.seal(who, 9, true)?;
    world.checkpoint(who, 20)?;
    world.checkpoint(who, 25)?;
    world.consume(who, 30)?;
    world.trim(who, 18)
}

#[test]
fn an_owner_may_die_at_every_call() {
    let mut calls = 0;
    loop {
        let mut ended = false;
        for done in [false, true] {
            let mut world = World::new();
            world.rise(0, Faults::Never);
            world.commit(5);
            world.seal(0, 5, false).expect("a seal");
            world.rise(1, Faults::Crash { calls, done });
            let outcome = everything(&mut world, 1);
            let died = world.owners[1].as_ref().is_none_or(|o| o.blobs.is_dead());
            assert!(died || outcome.is_ok(), "call {calls}: {outcome:?}");
            let context = format!("death at call {calls}, done {done}");
            world.look(&context);
            // The next one does all of it, from where this one was.
            world.rise(0, Faults::Never);
            everything(&mut world, 0).expect(&context);
            world.end(&context);
            ended = !died;
        }
        if ended {
            break;
        }
        calls += 1;
    }
    assert!(calls > 60, "only {calls} calls");
}
