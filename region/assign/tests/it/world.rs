//! Several nodes in virtual time: a store that all share, clocks that run at their own rates, drivers
//! that take their time, and everything that can happen to a process.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::{NodeId, ShardEpoch};
use gb6_region_assign::{
    Action, Assigner, Config, Expected, Input, ShardRecord, Written, first_epoch, next_epoch,
    shard_key,
};

/// A small generator of random numbers (SplitMix64): the same seed, the same run.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.range(0, n) == 0
    }
}

/// The store: linearizable, with revisions.
#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) entries: BTreeMap<String, (Option<Vec<u8>>, u64)>,
    pub(crate) revision: u64,
}

impl Store {
    pub(crate) fn put(&mut self, key: &str, value: Option<Vec<u8>>, expected: Expected) -> Written {
        let there = self.entries.get(key).filter(|(value, _)| value.is_some());
        let fits = match (expected, there) {
            (Expected::Absent, None) => true,
            (Expected::Revision(revision), Some((_, at))) => revision == *at,
            _ => false,
        };
        if !fits {
            return Written::NotAsExpected;
        }
        self.revision += 1;
        self.entries.insert(key.to_owned(), (value, self.revision));
        Written::Done(self.revision)
    }

    pub(crate) fn get(&self, key: &str) -> Option<(Vec<u8>, u64)> {
        let (value, revision) = self.entries.get(key)?;
        Some((value.clone()?, *revision))
    }

    fn changes(&self, after: u64) -> Vec<(String, Option<Vec<u8>>, u64)> {
        let newer = self.entries.iter().filter(|(_, (_, at))| *at > after);
        let mut changes: Vec<_> = newer
            .map(|(key, (value, at))| (key.clone(), value.clone(), *at))
            .collect();
        changes.sort_by_key(|(_, _, at)| *at);
        changes
    }
}

/// What a driver does with a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    /// Recovers, until then (real time).
    Starting(u64),
    Serving,
    Paused,
}

/// The log of a shard as a node that serves or follows it hears it.
struct Hearing {
    /// When that began, or it last answered.
    last: u64,
    answered: bool,
    /// What the machine was told: whether it answers, whether it was read to its end.
    told: Option<bool>,
    caught_up: bool,
    /// Not read to its end before.
    ready_at: u64,
}

/// After how long a log that does not answer is said not to be kept up with, and not to be reached.
const BEHIND_MS: u64 = 1_500;
const UNHEARD_MS: u64 = 3_000;

/// What happens later at a node, if it still lives then.
enum Later {
    Outcome(String, Written),
    Tell(Input),
    Reread(String),
    Look {
        begun_ms: u64,
    },
    /// The store does it only now: the request was on its way.
    Apply {
        key: String,
        value: Option<Vec<u8>>,
        expected: Expected,
        loses_answer: bool,
    },
}

/// One process.
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) machine: Assigner,
    life: u64,
    /// Thousandths of the real rate.
    rate: u64,
    offset: u64,
    later: Vec<(u64, Later)>,
    read_up_to: u64,
    /// Keys that it was told of.
    known: BTreeSet<String>,
    next_look: u64,
    /// The process stands still until then.
    pub(crate) paused_until: u64,
    /// The store can not be reached until then.
    pub(crate) cut_until: u64,
    /// No log can be reached until then.
    pub(crate) log_cut_until: u64,
    pub(crate) log_lost: bool,
    hears: BTreeMap<u32, Hearing>,
    /// What it serves: assignment epoch, shard epoch.
    pub(crate) serves: BTreeMap<u32, (u64, u64, Doing)>,
    pub(crate) follows: BTreeSet<u32>,
    pub(crate) drained: bool,
    pub(crate) replaced: bool,
}

impl Node {
    pub(crate) fn clock(&self, now: u64) -> u64 {
        self.offset + now * self.rate / 1_000
    }

    /// No log answers it until then.
    pub(crate) fn lose_log(&mut self, until: u64) {
        self.log_cut_until = until;
        self.log_lost = true;
    }

    /// Whether the log of a shard answers it. After a cut they come back one by one.
    fn reaches_log(&self, now: u64, shard: u32) -> bool {
        let comes_back = u64::from(shard) * 613 + self.life * 389;
        self.log_cut_until == 0 || now >= self.log_cut_until + comes_back % 1_500
    }

    /// What it tells its machine of the logs that it follows or serves, every now and then.
    fn hear(&mut self, now: u64) -> Vec<Input> {
        let mut told = Vec::new();
        let (serves, follows) = (&self.serves, &self.follows);
        self.hears
            .retain(|shard, _| serves.contains_key(shard) || follows.contains(shard));
        let shards: BTreeSet<u32> = serves.keys().chain(follows).copied().collect();
        for shard in shards {
            let reached = self.reaches_log(now, shard);
            let follows = self.follows.contains(&shard);
            let hearing = self.hears.entry(shard).or_insert(Hearing {
                last: now,
                answered: false,
                told: None,
                caught_up: false,
                ready_at: now,
            });
            if reached {
                (hearing.last, hearing.answered) = (now, true);
            }
            if now % 200 >= 10 {
                continue;
            }
            let silence = now - hearing.last;
            let caught_up = hearing.answered && silence < BEHIND_MS && now >= hearing.ready_at;
            if follows && std::mem::replace(&mut hearing.caught_up, caught_up) != caught_up {
                told.push(Input::CaughtUp { shard, caught_up });
            }
            let heard = match silence < UNHEARD_MS {
                true if !hearing.answered => continue,
                heard => heard,
            };
            if !follows && !heard {
                told.push(Input::Unable { shard });
            }
            if hearing.told.replace(heard) != Some(heard) {
                told.push(Input::Heard { shard, heard });
            }
        }
        told
    }

    /// Whether it believes that nobody else may own its shards, without asking the log.
    fn relies(&self, now: u64, shard: u32) -> bool {
        self.clock(now) < self.machine.fresh_until() && !self.machine.is_doubtful(shard)
    }
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) shards: u32,
    /// The highest shard epoch in each log.
    pub(crate) logs: BTreeMap<u32, u64>,
    /// Whoever was told to own a shard under an epoch.
    owners: BTreeMap<(u32, u64), u64>,
    pub(crate) lives: u64,
    /// Shards that began to be served.
    pub(crate) begun: Vec<(u64, u32, NodeId)>,
    /// Changes of shards' records that were made.
    pub(crate) assigned: u64,
    /// How long the store takes to make a change, beside some milliseconds.
    pub(crate) put_ms: u64,
    /// Until then the store is read as ever, and takes nothing: its disk is full.
    pub(crate) full_until: u64,
    /// How long a look takes at most until the store answers, and again until that is told.
    pub(crate) look_ms: u64,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, shards: u32) -> Self {
        let mut world = Self {
            now: 1_000,
            rng: Rng(seed),
            store: Store::default(),
            nodes: Vec::new(),
            shards,
            logs: BTreeMap::new(),
            owners: BTreeMap::new(),
            lives: 0,
            begun: Vec::new(),
            assigned: 0,
            put_ms: 0,
            full_until: 0,
            look_ms: 20,
        };
        for n in 0..nodes {
            world.start(&format!("r{n}"));
        }
        world
    }

    /// Starts a process; one of this name that runs is left behind, as another process of that name.
    pub(crate) fn start(&mut self, name: &str) {
        self.lives += 1;
        let config = Config::new("eu", self.shards, NodeId::from(name), self.lives);
        let node = Node {
            name: NodeId::from(name),
            machine: Assigner::new(config),
            life: self.lives,
            rate: self.rng.range(950, 1_051),
            offset: self.rng.range(0, 1_000_000),
            later: Vec::new(),
            read_up_to: 0,
            known: BTreeSet::new(),
            next_look: self.now + self.rng.range(0, 100),
            paused_until: 0,
            cut_until: 0,
            log_cut_until: 0,
            log_lost: false,
            hears: BTreeMap::new(),
            serves: BTreeMap::new(),
            follows: BTreeSet::new(),
            drained: false,
            replaced: false,
        };
        self.nodes.push(node);
    }

    /// The index of the newest process of this name.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.nodes
            .iter()
            .rposition(|node| node.name.as_str() == name)
    }

    pub(crate) fn kill(&mut self, name: &str) {
        self.nodes.retain(|node| node.name.as_str() != name);
    }

    /// Tells a process something.
    pub(crate) fn tell(&mut self, name: &str, input: Input) {
        let at = self.now;
        if let Some(index) = self.index(name) {
            self.nodes[index].later.push((at, Later::Tell(input)));
        }
    }

    /// What a person does with a shard's record.
    pub(crate) fn edit(&mut self, shard: u32, edit: impl Fn(&ShardRecord) -> ShardRecord) {
        let key = shard_key("eu", shard);
        let (value, revision) = self.store.get(&key).expect("an assigned shard");
        let record = ShardRecord::decode(&key, &value).expect("a record");
        let edited = edit(&record).encode();
        let done = self
            .store
            .put(&key, Some(edited), Expected::Revision(revision));
        assert!(matches!(done, Written::Done(_)));
    }

    pub(crate) fn record(&self, shard: u32) -> Option<ShardRecord> {
        let key = shard_key("eu", shard);
        let (value, _) = self.store.get(&key)?;
        Some(ShardRecord::decode(&key, &value).expect("a record"))
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now += 10;
            for index in 0..self.nodes.len() {
                if self.now >= self.nodes[index].paused_until && !self.nodes[index].replaced {
                    self.step(index);
                }
            }
        }
    }

    fn step(&mut self, index: usize) {
        let now = self.now;
        let cut = now < self.nodes[index].cut_until;
        let clock = self.nodes[index].clock(now);
        if now >= self.nodes[index].next_look {
            self.nodes[index].next_look = u64::MAX;
            let at = now + self.rng.range(0, self.look_ms);
            self.nodes[index]
                .later
                .push((at, Later::Look { begun_ms: clock }));
        }
        for input in self.nodes[index].hear(now) {
            self.input(index, input);
        }
        let later = std::mem::take(&mut self.nodes[index].later);
        let (due, later): (Vec<_>, Vec<_>) = later.into_iter().partition(|(at, _)| *at <= now);
        self.nodes[index].later = later;
        for (_, what) in due {
            self.due(index, what, cut);
        }
        self.nodes[index].machine.tick(clock);
        while let Some(action) = self.nodes[index].machine.poll_action() {
            self.act(index, action);
        }
        let starting: Vec<u32> = self.nodes[index]
            .serves
            .iter()
            .filter(|(_, (_, _, doing))| matches!(doing, Doing::Starting(at) if *at <= now))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in starting {
            self.acquire(index, shard);
        }
    }

    fn input(&mut self, index: usize, input: Input) {
        let clock = self.nodes[index].clock(self.now);
        self.nodes[index]
            .machine
            .input(clock, input)
            .expect("records are good");
    }

    fn due(&mut self, index: usize, what: Later, cut: bool) {
        match what {
            Later::Tell(input) => {
                if matches!(input, Input::Looked { .. }) {
                    self.nodes[index].next_look = self.now + self.rng.range(0, 100);
                }
                self.input(index, input);
            }
            Later::Outcome(key, outcome) => {
                let reread = matches!(outcome, Written::NotAsExpected | Written::Unknown);
                self.input(
                    index,
                    Input::Written {
                        key: key.clone(),
                        outcome,
                    },
                );
                if reread {
                    let at = self.now + self.rng.range(1, 60);
                    self.nodes[index].later.push((at, Later::Reread(key)));
                }
            }
            Later::Look { .. } if cut => self.nodes[index].next_look = self.now + 100,
            Later::Look { begun_ms } => {
                let mut lost = Vec::new();
                // As the driver: a store whose revision is below what it told before went back.
                if self.store.revision < self.nodes[index].read_up_to {
                    let gone: Vec<_> = self.nodes[index]
                        .known
                        .iter()
                        .filter(|key| !self.store.entries.contains_key(*key))
                        .map(|key| (key.clone(), None, self.store.revision))
                        .collect();
                    self.input(index, Input::Restored);
                    self.nodes[index].read_up_to = 0;
                    lost = gone;
                }
                let mut changes = self.store.changes(self.nodes[index].read_up_to);
                changes.extend(lost);
                let keys = changes.iter().map(|(key, _, _)| key.clone());
                self.nodes[index].known.extend(keys);
                self.nodes[index].read_up_to = self.store.revision;
                let at = self.now + self.rng.range(0, self.look_ms);
                let revision = self.store.revision;
                let looked = Input::Looked {
                    begun_ms,
                    revision,
                    changes,
                };
                self.nodes[index].later.push((at, Later::Tell(looked)));
            }
            Later::Reread(key) if cut => {
                let at = self.now + 100;
                self.nodes[index].later.push((at, Later::Reread(key)));
            }
            Later::Reread(key) => {
                let record = self.store.get(&key);
                self.input(index, Input::Read { key, record });
            }
            Later::Apply {
                key,
                value,
                expected,
                loses_answer,
            } => {
                let at = self.now + self.put_ms + self.rng.range(0, 15);
                let outcome = if cut || self.now < self.full_until {
                    Written::Failed
                } else {
                    let outcome = self.store.put(&key, value, expected);
                    if matches!(outcome, Written::Done(_)) && key.contains("/shards/") {
                        self.assigned += 1;
                    }
                    if loses_answer {
                        Written::Unknown
                    } else {
                        outcome
                    }
                };
                self.nodes[index]
                    .later
                    .push((at, Later::Outcome(key, outcome)));
            }
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let now = self.now;
        let soon = now + self.rng.range(1, 30);
        let loses_answer = now < self.nodes[index].cut_until + 2_000 && self.rng.one_in(8);
        let life = self.nodes[index].life;
        let node = &mut self.nodes[index];
        match action {
            Action::Put {
                key,
                value,
                expected,
            } => {
                let value = Some(value);
                node.later.push((
                    soon,
                    Later::Apply {
                        key,
                        value,
                        expected,
                        loses_answer,
                    },
                ));
            }
            Action::Delete { key, expected } => {
                node.later.push((
                    soon,
                    Later::Apply {
                        key,
                        value: None,
                        expected,
                        loses_answer,
                    },
                ));
            }
            Action::Own { shard, epoch } => {
                let before = self.owners.insert((shard, epoch), life);
                assert!(
                    before.is_none_or(|before| before == life),
                    "shard {shard} has two owners under epoch {epoch}"
                );
                if let Some((known, _, Doing::Serving)) = node.serves.get_mut(&shard) {
                    // It was told anew who owns what it serves.
                    *known = epoch;
                    node.later
                        .push((now, Later::Tell(Input::Serving { shard, epoch })));
                    return;
                }
                let quick = node.follows.remove(&shard);
                node.hears.remove(&shard);
                let takes = if quick { 40 } else { 300 };
                let at = now + self.rng.range(5, takes);
                node.serves.insert(shard, (epoch, 0, Doing::Starting(at)));
            }
            Action::Pause { shard } => {
                node.serves.get_mut(&shard).expect("a served shard").2 = Doing::Paused;
                node.later
                    .push((soon, Later::Tell(Input::Paused { shard })));
            }
            Action::Resume { shard } => {
                let serves = node.serves.get_mut(&shard).expect("a paused shard");
                assert_eq!(serves.2, Doing::Paused);
                serves.2 = Doing::Serving;
            }
            Action::Leave { shard, .. } => {
                node.serves.remove(&shard);
                node.later.push((soon, Later::Tell(Input::Left { shard })));
            }
            Action::Follow { shard } => {
                assert!(node.follows.insert(shard));
                let hearing = Hearing {
                    last: now,
                    answered: false,
                    told: None,
                    caught_up: false,
                    ready_at: now + self.rng.range(20, 300),
                };
                node.hears.insert(shard, hearing);
            }
            Action::Unfollow { shard } => assert!(node.follows.remove(&shard)),
            Action::Replaced => {
                node.replaced = true;
                node.serves.clear();
            }
            Action::Drained => node.drained = true,
        }
    }

    /// Acquires in the log what it was told to own.
    fn acquire(&mut self, index: usize, shard: u32) {
        if !self.nodes[index].reaches_log(self.now, shard) {
            let node = &mut self.nodes[index];
            node.serves.get_mut(&shard).expect("it is there").2 = Doing::Starting(self.now + 100);
            return;
        }
        let highest = self.logs.get(&shard).copied().unwrap_or(0);
        let (epoch, _, _) = self.nodes[index].serves[&shard];
        let Some(next) = next_epoch(epoch, ShardEpoch(highest)) else {
            // Of a newer assignment, or of a store that is gone: whoever is the owner raises it.
            self.nodes[index]
                .serves
                .get_mut(&shard)
                .expect("it is there")
                .2 = Doing::Starting(self.now + 50);
            let highest = ShardEpoch(highest);
            return self.input(
                index,
                Input::EpochsUsedUp {
                    shard,
                    epoch,
                    highest,
                },
            );
        };
        self.logs.insert(shard, next.0);
        let now = self.now;
        // Nobody may go on serving reads without a look at the log.
        for other in &self.nodes {
            let serves = other.serves.get(&shard);
            let stale = serves.is_some_and(|(_, _, doing)| *doing == Doing::Serving);
            assert!(
                other.life == self.nodes[index].life || !stale || !other.relies(now, shard),
                "at {now} {} begins to serve shard {shard} while {} relies on owning it",
                self.nodes[index].name,
                other.name
            );
        }
        let node = &mut self.nodes[index];
        node.serves.insert(shard, (epoch, next.0, Doing::Serving));
        self.begun.push((now, shard, node.name.clone()));
        self.input(index, Input::Serving { shard, epoch });
    }

    /// The node that serves a shard: alive, with the log's newest epoch.
    pub(crate) fn server(&self, shard: u32) -> Option<&NodeId> {
        let newest = self.logs.get(&shard)?;
        assert!(*newest >= first_epoch(1).0);
        let serves = |node: &&Node| {
            let serves = node.serves.get(&shard);
            let good = |(_, epoch, doing): &(u64, u64, Doing)| {
                epoch == newest && *doing != Doing::Starting(0)
            };
            self.now >= node.paused_until && serves.is_some_and(good)
        };
        self.nodes.iter().find(serves).map(|node| &node.name)
    }

    pub(crate) fn unserved(&self) -> Vec<u32> {
        (0..self.shards)
            .filter(|shard| self.server(*shard).is_none())
            .collect()
    }

    /// How many shards each node serves, by name.
    pub(crate) fn counts(&self) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<NodeId, usize> = self
            .nodes
            .iter()
            .map(|node| (node.name.clone(), 0))
            .collect();
        for shard in 0..self.shards {
            if let Some(name) = self.server(shard) {
                *counts.get_mut(name).expect("a node") += 1;
            }
        }
        counts
    }
}
