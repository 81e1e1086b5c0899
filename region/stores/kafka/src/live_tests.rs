//! The live part against chance: several owners over one partition, whose messages arrive late, twice,
//! out of order, never, or without anybody being told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::Incarnation;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log as contract;
use parking_lot::Mutex;

use super::*;
use crate::frame;
use crate::kept::read_message;
use crate::staging::UNDER_WAY_MAX;
use crate::tail::Verdict;

#[path = "gathering_tests.rs"]
mod gathering;

const SHARD: ShardId = ShardId(3);
const PATIENCE: Duration = Duration::from_secs(1);

/// What was answered to batch `id`.
type Answers = Arc<Mutex<Vec<(u64, Result<Commit, StoreError>)>>>;

struct Owner {
    live: Live,
    fence: Fence,
    answers: Answers,
    acquired: Arc<Mutex<Option<Result<Acquired, StoreError>>>>,
    /// What its client has not brought to Kafka: what it was asked to do, in order.
    flying: Vec<Outgoing>,
    /// What Kafka took, and the owner has not been told.
    untold: Vec<(u64, u64)>,
    /// Questions whether it owns the shard, with what was asked about and how long the partition was then.
    asked: Vec<(u64, Fence, usize)>,
}

impl Owner {
    fn new(id: u64) -> Self {
        Self {
            live: live(Tail::default()),
            fence: fence(0, id),
            answers: Answers::default(),
            acquired: Arc::default(),
            flying: Vec::new(),
            untold: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn give_answers(&mut self) {
        while let Some(answer) = self.live.answer() {
            answer.give();
        }
    }
}

fn live(tail: Tail) -> Live {
    Live::new("gb6.test.log", SHARD, tail, PATIENCE, 1 << 20)
}

fn fence(epoch: u64, incarnation: u64) -> Fence {
    Fence {
        shard_epoch: ShardEpoch(epoch),
        owner_incarnation: Incarnation(incarnation),
        ..contract::fence(1)
    }
}

fn batch(first: Position, count: u64, id: u64) -> Vec<Record> {
    let mut records = contract::messages(first, "room:a", count);
    for record in &mut records {
        record.data_version = id;
    }
    records
}

struct World {
    random: Random,
    now: Instant,
    partition: Vec<Bytes>,
    /// Messages of which nobody is told any more, and which may still arrive.
    ghosts: Vec<Bytes>,
    owners: Vec<Owner>,
    /// Batches that a client said it had not sent, and may have.
    lied_about: BTreeSet<u64>,
    /// Incarnations and batches so far.
    ids: u64,
    /// Questions that were answered with yes.
    confirmed: usize,
    /// Messages of several batches.
    shared: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: Instant::now(),
            partition: Vec::new(),
            ghosts: Vec::new(),
            owners: (0..3).map(Owner::new).collect(),
            lied_about: BTreeSet::new(),
            ids: 100,
            confirmed: 0,
            shared: 0,
        }
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn step(&mut self) {
        let who = self.random.below(self.owners.len() as u64) as usize;
        match self.random.below(26) {
            0 if self.chance(3) || !self.owners.iter().any(|o| o.live.is_owner()) => {
                self.acquire(who)
            }
            1 => {
                self.now += Duration::from_millis(self.random.below(200));
                let now = self.now;
                self.owners[who].live.expire(now);
            }
            2 => {
                if let Some(ghost) = self.ghosts.pop() {
                    self.partition.push(ghost);
                }
            }
            // Hardly ever by one that knows of a newer owner.
            3..8 if self.owners[who].live.is_owner() || self.chance(20) => self.append(who),
            8..13 => self.arrive(who),
            13..18 => self.tell(who),
            18..20 => self.ask(who),
            _ => self.read(who),
        }
        self.send(who);
        self.owners[who].give_answers();
        self.check_confirmed(who);
    }

    fn ask(&mut self, who: usize) {
        let length = self.partition.len();
        let owner = &mut self.owners[who];
        let fence = owner.fence.clone();
        if let Ok(out) = owner.live.confirm(&fence) {
            owner.asked.push((out.token, fence, length));
            owner.flying.push(out);
        }
    }

    /// Who is told that it owns the shard did so when it asked, whatever it has read since.
    fn check_confirmed(&mut self, who: usize) {
        let owner = &mut self.owners[who];
        for (token, fence, length) in std::mem::take(&mut owner.asked) {
            match owner.live.confirmed(token) {
                None => {
                    owner.asked.push((token, fence, length));
                    continue;
                }
                Some(Err(_)) => {}
                Some(Ok(())) => {
                    self.confirmed += 1;
                    let tail = tail_of(&self.partition[..length]);
                    assert!(
                        tail.owned_by(fence.shard_epoch, fence.owner_incarnation),
                        "{tail:?} is not of {fence:?}"
                    );
                }
            }
            owner.live.forget_confirm(token);
        }
    }

    fn acquire(&mut self, who: usize) {
        self.ids += 1;
        let epoch = self.owners[who].live.tail().epoch.0 + self.random.below(3);
        let owner = &mut self.owners[who];
        owner.fence = fence(epoch, self.ids);
        let slot = owner.acquired.clone();
        *slot.lock() = None;
        let done = Completion::new(move |answer| *slot.lock() = Some(answer));
        // What the client has of the ownership before goes on without anybody who waits for it.
        let fence = owner.fence.clone();
        let out = owner
            .live
            .acquire(fence, Acquire::default(), self.now, PATIENCE, done);
        owner.flying.extend(out);
    }

    fn append(&mut self, who: usize) {
        self.ids += 1;
        let (id, count) = (self.ids, 1 + self.random.below(3));
        let owner = &mut self.owners[who];
        let answers = owner.answers.clone();
        let done = Completion::new(move |answer| answers.lock().push((id, answer)));
        let fence = owner.fence.clone();
        let records = batch(owner.live.staging.next, count, id);
        let given = Given::new(&fence, records);
        owner.live.append(&fence, given, self.now, done);
    }

    /// Its driver hands over what can be, sooner or later.
    fn send(&mut self, who: usize) {
        while self.owners[who].live.has_outgoing() && !self.chance(3) {
            let out = self.owners[who].live.outgoing().expect("it has");
            self.shared += usize::from(ids_of(&out.message).len() > 1);
            self.owners[who].flying.push(out);
        }
    }

    /// Something that a client was given reaches Kafka, or does not.
    fn arrive(&mut self, who: usize) {
        let flying = self.owners[who].flying.len() as u64;
        if flying == 0 {
            return;
        }
        // Mostly in order.
        let at = if self.chance(20) {
            self.random.below(flying) as usize
        } else {
            0
        };
        let Outgoing { token, message } = self.owners[who].flying.remove(at);
        match self.random.below(60) {
            0 => {
                let refused = StoreError::Unavailable { cause: "x".into() };
                self.owners[who].live.failed(token, &refused);
                // A client that says so wrongly costs no acknowledged message.
                if self.chance(2) {
                    self.lied_about.extend(ids_of(&message));
                    self.ghosts.push(message);
                }
            }
            1 => {
                // Given up, and yet it arrives.
                let unknown = StoreError::OutcomeUnknown { cause: "x".into() };
                self.owners[who].live.failed(token, &unknown);
                self.ghosts.push(message);
            }
            fate => {
                if fate == 2 {
                    self.ghosts.push(message.clone());
                }
                self.owners[who]
                    .untold
                    .push((token, self.partition.len() as u64));
                self.partition.push(message);
            }
        }
    }

    fn tell(&mut self, who: usize) {
        let now = self.now;
        let owner = &mut self.owners[who];
        if !owner.untold.is_empty() {
            let (token, offset) = owner.untold.remove(0);
            owner.live.delivered(token, offset, now).expect("whole");
        }
    }

    fn read(&mut self, who: usize) {
        let count = 1 + self.random.below(4) as usize;
        let owner = &mut self.owners[who];
        let from = owner.live.tail().offset as usize;
        for offset in from..self.partition.len().min(from + count) {
            let message = self.partition[offset].clone();
            owner
                .live
                .seen(offset as u64, message, self.now)
                .expect("whole");
        }
    }
}

/// What is known behind all of a partition.
fn tail_of(partition: &[Bytes]) -> Tail {
    let mut tail = Tail::default();
    for (offset, message) in (0..).zip(partition) {
        let (header, served_ms) = read_message(SHARD, message).expect("whole");
        tail.take(offset, &header, served_ms);
    }
    tail
}

/// The batches that a message holds.
fn ids_of(message: &Bytes) -> BTreeSet<u64> {
    let (header, _) = read_message(SHARD, message).expect("whole");
    let records = frame::records(&header, message, header.first, 0);
    let ids = records.expect("whole").into_iter().map(|r| r.data_version);
    ids.filter(|id| *id > 0).collect()
}

/// What the partition holds for whoever reads it from `tail` on.
fn records_of(partition: &[Bytes], mut tail: Tail) -> Vec<Record> {
    let mut records = Vec::new();
    for (offset, message) in partition.iter().enumerate().skip(tail.offset as usize) {
        let (header, served_ms) = read_message(SHARD, message).expect("whole");
        let verdict = tail.take(offset as u64, &header, served_ms);
        if let Verdict::Acquired(first) | Verdict::Committed(first) = verdict {
            let read = frame::records(&header, message, first, tail.served_ms);
            records.extend(read.expect("whole"));
        }
    }
    records
}

/// How many batches were acknowledged and refused, questions answered with yes, and messages shared.
fn run(seed: u64, steps: usize) -> [usize; 4] {
    let mut world = World::new(seed);
    let mut points = Vec::new();
    for _ in 0..steps {
        world.step();
        let tails = world.owners.iter().map(|owner| owner.live.tail());
        points.extend(tails);
    }
    // Some of them will do.
    points.dedup();
    let every = points.len() / 20 + 1;
    world.partition.append(&mut world.ghosts);
    let all = records_of(&world.partition, Tail::default());
    for (position, record) in all.iter().enumerate() {
        assert_eq!(
            record.position, position as u64,
            "seed {seed}: positions follow"
        );
    }
    for tail in points.into_iter().step_by(every) {
        let from = records_of(&world.partition, tail);
        assert_eq!(
            from,
            all[tail.next as usize..],
            "seed {seed}: from {tail:?}"
        );
    }
    let mut found: BTreeMap<u64, Vec<Position>> = BTreeMap::new();
    for record in all.iter().filter(|r| r.data_version > 0) {
        found
            .entry(record.data_version)
            .or_default()
            .push(record.position);
    }
    let (mut acknowledged, mut refused) = (0, 0);
    for owner in &world.owners {
        let mut told = BTreeSet::new();
        for (id, answer) in owner.answers.lock().iter() {
            assert!(told.insert(*id), "seed {seed}: {id} was answered twice");
            let at = found.get(id);
            match answer {
                Ok(commit) => {
                    acknowledged += 1;
                    let positions: Vec<Position> = (commit.first..commit.next).collect();
                    assert_eq!(at, Some(&positions), "seed {seed}: {id} was acknowledged");
                }
                Err(StoreError::OutcomeUnknown { .. }) => {
                    assert!(
                        at.is_none_or(|at| at.len() <= 3),
                        "seed {seed}: {id} doubled"
                    );
                }
                Err(_) if world.lied_about.contains(id) => {}
                Err(error) => {
                    refused += 1;
                    assert_eq!(at, None, "seed {seed}: {id} was refused: {error}");
                }
            }
        }
    }
    [acknowledged, refused, world.confirmed, world.shared]
}

#[test]
fn what_is_acknowledged_counts_for_every_reader_and_what_is_refused_for_none() {
    let mut happened = [0; 4];
    for seed in 0..1500 {
        for (all, one) in happened.iter_mut().zip(run(seed, 250)) {
            *all += one;
        }
    }
    let [acknowledged, refused, confirmed, shared] = happened;
    assert!(
        acknowledged > 5000 && refused > 2000 && confirmed > 1000 && shared > 1000,
        "{happened:?}"
    );
}

fn owner_of(epoch: u64) -> Owner {
    let mut owner = Owner::new(epoch);
    owner.fence = fence(epoch, epoch);
    owner
}

/// Acquires with `owner`, whose message lies at `offset`.
fn acquire(owner: &mut Owner, served_ms: u64, offset: u64) -> (Bytes, Acquired) {
    let slot = owner.acquired.clone();
    let done = Completion::new(move |answer| *slot.lock() = Some(answer));
    let how = Acquire { time: 7, served_ms };
    let fence = owner.fence.clone();
    let now = Instant::now();
    let out = owner
        .live
        .acquire(fence, how, now, PATIENCE, done)
        .expect("sent");
    owner.live.delivered(out.token, offset, now).expect("whole");
    owner.give_answers();
    let acquired = owner.acquired.lock().take().expect("answered");
    (out.message, acquired.expect("acquired"))
}

#[test]
fn an_owner_that_writes_alone_reads_nothing_and_one_that_does_not_waits() {
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let answers = owner.answers.clone();
    let now = Instant::now();
    let append = |owner: &mut Owner, first, id| {
        let answers = answers.clone();
        let done = Completion::new(move |answer| answers.lock().push((id, answer)));
        give(owner, batch(first, 2, id), done);
        owner.live.outgoing().expect("sent")
    };
    let first = append(&mut owner, 1, 1);
    owner.live.delivered(first.token, 1, now).expect("whole");
    owner.give_answers();
    assert_eq!(answers.lock().len(), 1, "nothing lies between");
    assert!(!owner.live.waits_for_others());
    let second = append(&mut owner, 3, 2);
    owner.live.delivered(second.token, 4, now).expect("whole");
    owner.give_answers();
    assert_eq!(answers.lock().len(), 1, "two messages lie between");
    assert!(owner.live.waits_for_others());
    // A deposed owner's, and somebody else's altogether.
    let zombie = frame::encode_batch(&fence(0, 9), 3, &batch(3, 1, 9));
    owner.live.seen(2, zombie, now).expect("passed over");
    owner
        .live
        .seen(3, Bytes::from_static(b"hello"), now)
        .expect("passed over");
    owner.give_answers();
    assert_eq!(answers.lock().len(), 2);
    assert!(answers.lock().iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(
        (owner.live.counts.passed_over, owner.live.counts.foreign),
        (1, 1)
    );
    // A newer acquisition lies between.
    let third = append(&mut owner, 5, 3);
    owner.live.delivered(third.token, 6, now).expect("whole");
    let (newer, _) = acquire(&mut owner_of(2), 0, 0);
    owner.live.seen(5, newer, now).expect("whole");
    owner.give_answers();
    let last = answers.lock().pop();
    assert!(
        matches!(last, Some((3, Err(StoreError::Fenced { .. })))),
        "{last:?}"
    );
    assert!(!owner.live.is_owner());
}

fn give(owner: &mut Owner, records: Vec<Record>, done: Completion<Commit>) {
    let fence = owner.fence.clone();
    let given = Given::new(&fence, records);
    owner.live.append(&fence, given, Instant::now(), done);
}

/// Gives `owner` a batch, whose answer comes under `id`.
fn append_to(owner: &mut Owner, records: Vec<Record>, id: u64) {
    let answers = owner.answers.clone();
    let done = Completion::new(move |answer| answers.lock().push((id, answer)));
    give(owner, records, done);
}

/// Gives `owner` one record at `first`, whose answer comes under `id`.
fn append_one(owner: &mut Owner, first: Position, id: u64) -> Outgoing {
    append_to(owner, batch(first, 1, id), id);
    owner.live.outgoing().expect("sent")
}

#[test]
fn a_batch_is_not_acknowledged_for_another_of_its_size_in_its_place() {
    let refused = StoreError::Unavailable { cause: "x".into() };
    let now = Instant::now();
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let first = append_one(&mut owner, 1, 1);
    owner.live.failed(first.token, &refused);
    let second = append_one(&mut owner, 1, 2);
    assert_eq!(first.message.len(), second.message.len());
    // The refused one was sent after all.
    owner.live.delivered(second.token, 2, now).expect("whole");
    owner.live.seen(1, first.message, now).expect("whole");
    owner.live.seen(2, second.message, now).expect("whole");
    owner.give_answers();
    let answers = owner.answers.lock().clone();
    assert_eq!(answers[0], (1, Err(refused.clone())));
    assert!(
        matches!(answers[1], (2, Err(StoreError::OutcomeUnknown { .. }))),
        "{answers:?}"
    );
    assert!(!owner.live.is_owner(), "it acquires again");
    // And where nothing waits.
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let first = append_one(&mut owner, 1, 1);
    owner.live.failed(first.token, &refused);
    owner.live.seen(1, first.message, now).expect("whole");
    assert!(!owner.live.is_owner(), "it acquires again");
}

#[test]
fn what_waits_where_the_archive_went_ahead_may_have_counted() {
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    append_one(&mut owner, 1, 1);
    let tail = Tail {
        offset: 3,
        next: 3,
        epoch: ShardEpoch(2),
        incarnation: Incarnation(2),
        served_ms: 0,
    };
    owner.live.archived(tail, None);
    owner.give_answers();
    let answers = owner.answers.lock().clone();
    assert!(
        matches!(answers[..], [(1, Err(StoreError::OutcomeUnknown { .. }))]),
        "{answers:?}"
    );
    let error = owner.live.check(&owner.fence).expect_err("deposed");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

#[test]
fn a_batch_without_records_hides_no_refusal() {
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let first = append_one(&mut owner, 1, 1);
    let refused = StoreError::Unavailable { cause: "x".into() };
    owner.live.failed(first.token, &refused);
    append_to(&mut owner, Vec::new(), 8);
    owner.live.outgoing().expect("sent");
    // Given before its giver could know.
    append_to(&mut owner, batch(2, 1, 9), 9);
    assert!(owner.live.outgoing().is_none());
    owner.give_answers();
    assert_eq!(owner.answers.lock().last(), Some(&(9, Err(refused))));
}

#[test]
fn a_question_is_answered_by_its_own_batch_alone_and_costs_no_ownership() {
    let now = Instant::now();
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let fence = owner.fence.clone();
    let lost = owner.live.confirm(&fence).expect("sent");
    let unknown = StoreError::OutcomeUnknown { cause: "x".into() };
    owner.live.failed(lost.token, &unknown);
    let error = owner.live.confirmed(lost.token).expect("answered");
    assert!(
        matches!(error, Err(StoreError::Unavailable { .. })),
        "{error:?}"
    );
    owner.live.forget_confirm(lost.token);
    // It arrives all the same, and looks like the next one.
    let asked = owner.live.confirm(&fence).expect("sent");
    assert_eq!(asked.message, lost.message);
    owner.live.seen(1, lost.message, now).expect("whole");
    assert_eq!(owner.live.confirmed(asked.token), None);
    owner.live.delivered(asked.token, 3, now).expect("whole");
    assert_eq!(owner.live.confirmed(asked.token), None);
    assert!(owner.live.waits_for_others(), "what lies between is read");
    let stranger = Bytes::from_static(b"hello");
    owner.live.seen(2, stranger, now).expect("passed over");
    assert_eq!(owner.live.confirmed(asked.token), Some(Ok(())));
    owner.live.forget_confirm(asked.token);
    // What is written goes on.
    let batch = append_one(&mut owner, 1, 1);
    owner.live.delivered(batch.token, 4, now).expect("whole");
    owner.give_answers();
    assert!(matches!(owner.answers.lock()[..], [(1, Ok(_))]));
    // Behind another's acquisition.
    let asked = owner.live.confirm(&fence).expect("sent");
    owner.live.delivered(asked.token, 6, now).expect("whole");
    let (newer, _) = acquire(&mut owner_of(2), 0, 0);
    owner.live.seen(5, newer, now).expect("whole");
    let error = owner.live.confirmed(asked.token).expect("answered");
    assert!(matches!(error, Err(StoreError::Fenced { .. })), "{error:?}");
    owner.live.forget_confirm(asked.token);
    // No more at once than there may be.
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let error = (0..100).find_map(|_| owner.live.confirm(&owner.fence.clone()).err());
    assert!(
        matches!(error, Some(StoreError::Unavailable { .. })),
        "{error:?}"
    );
}

#[test]
fn the_served_time_never_goes_back() {
    let mut first = owner_of(1);
    let (message, acquired) = acquire(&mut first, 500, 0);
    assert_eq!((acquired.record.served_ms, acquired.record.time), (500, 7));
    let mut second = owner_of(2);
    second
        .live
        .seen(0, message.clone(), Instant::now())
        .expect("whole");
    let (behind, acquired) = acquire(&mut second, 0, 1);
    assert_eq!(
        (acquired.record.served_ms, acquired.record.position),
        (500, 1)
    );
    let all = records_of(&[message, behind], Tail::default());
    assert_eq!(all[1], acquired.record, "as everybody reads it");
}

#[test]
fn damage_ends_the_log_and_is_never_passed_over() {
    let mut owner = owner_of(1);
    let (message, _) = acquire(&mut owner, 0, 0);
    let mut damaged = message.to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let mut newer = message.to_vec();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[8..]);
    newer[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut other = fence(2, 2);
    other.shard = ShardId(4);
    let elsewhere = frame::encode_batch(&other, 1, &batch(1, 1, 1)).to_vec();
    for (bytes, is_format) in [(damaged, false), (newer, true), (elsewhere, false)] {
        let mut reader = live(Tail::default());
        let error = reader
            .seen(0, bytes.into(), Instant::now())
            .expect_err("damaged");
        assert_eq!(
            matches!(error, StoreError::Format { .. }),
            is_format,
            "{error}"
        );
        assert_eq!(reader.check_whole(), Err(error.clone()));
        let again = reader.seen(0, message.clone(), Instant::now());
        assert_eq!(again, Err(error), "nothing behind it is read");
    }
}

#[test]
fn what_is_archived_is_forgotten_and_the_rest_is_found() {
    let mut owner = owner_of(1);
    acquire(&mut owner, 0, 0);
    let now = Instant::now();
    let mut tails = Vec::new();
    for n in 0..40_u64 {
        let records = vec![contract::message(1 + n, "room:a", n, 40_000)];
        let done = Completion::new(|answer: Result<Commit, StoreError>| {
            answer.expect("committed");
        });
        give(&mut owner, records, done);
        let out = owner.live.outgoing().expect("sent");
        tails.push(owner.live.end());
        owner.live.delivered(out.token, 1 + n, now).expect("whole");
        owner.give_answers();
    }
    for position in 0..41 {
        let (from, until) = owner
            .live
            .kept()
            .find(position, owner.live.tail())
            .expect("it is there");
        assert!(from.next <= position && from.offset < until, "{position}");
    }
    assert_eq!(owner.live.kept().find(41, owner.live.tail()), None);
    let before = owner.live.kept().live_bytes();
    let (tail, bytes) = tails[20];
    owner.live.archived(tail, Some(bytes));
    assert_eq!(owner.live.kept().begin(), tail);
    assert!(owner.live.kept().live_bytes() * 2 < before + 100_000);
    assert!(
        owner.live.kept().cached(20).is_none(),
        "what is archived is read there"
    );
    let cached = owner.live.kept().cached(21).expect("in memory");
    assert_eq!(cached.count(), 20);
    assert_eq!(
        owner
            .live
            .kept()
            .find(21, owner.live.tail())
            .expect("there")
            .0,
        tail
    );
    // One that is behind the archive goes on there.
    let mut reader = live(Tail::default());
    reader.archived(tail, None);
    assert_eq!(
        (
            reader.tail(),
            reader.kept().begin(),
            reader.kept().live_bytes()
        ),
        (tail, tail, 0)
    );
}
