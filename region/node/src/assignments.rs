//! The thread that looks after assignments: feeds the machine that decides what this node owns, and
//! begins and ends its shards and standbys.
//!
//! It is a thread and not a task, so that a node whose processors are all busy is not taken for dead
//! before it has to be.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::health::Component;
use gb6_core_obs::metrics::{Metrics, Registration};
use gb6_core_ports::{MapStore, StoreError};
use gb6_core_wire::mesh::ShardRef;
use gb6_region_assign::{Action, Assigner, Config, Gauges, Input as Told, node_key, prefix};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::keeper::{Assignment, Keeper, NodeParts, Order, Ownership};
use crate::lease::NodeLease;
use crate::metrics::{ShardNumbers, export};
use crate::news::{News, NewsBox};
use crate::region::{RegionEnd, inbox};
use crate::standby::Follower;
use crate::store::{Change, Store};
use crate::table::{Owners, ShardTable};

/// How often the machine is told that time has passed, at least.
const TICK: Duration = Duration::from_millis(20);
/// How often it is looked whether shards can be served.
const TROUBLE_LOOK: Duration = Duration::from_millis(200);
/// How often a standby that got no thread is begun again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);
/// How long a node that ends waits for what gives up its shards.
const GIVE_UP: Duration = Duration::from_secs(3);

/// What assignments are looked after with.
pub(crate) struct Setup {
    pub(crate) node: Arc<NodeParts>,
    pub(crate) map: Arc<dyn MapStore>,
    pub(crate) region: String,
    pub(crate) shards: u32,
    pub(crate) incarnation: u64,
    pub(crate) mesh: Option<String>,
    pub(crate) table: Arc<ShardTable>,
    pub(crate) runtime: Handle,
}

/// The assignments of a node while it runs.
#[derive(Debug)]
pub(crate) struct Assignments {
    news: Arc<NewsBox>,
    stop: Arc<AtomicBool>,
    end: watch::Receiver<Option<RegionEnd>>,
    _metrics: Registration,
}

impl std::fmt::Debug for NewsBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewsBox").finish_non_exhaustive()
    }
}

impl Drop for Assignments {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Assignments {
    /// Begins to take part.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(setup: Setup) -> Result<Self, StoreError> {
        let Setup {
            node,
            map,
            region,
            shards,
            incarnation,
            mesh,
            table,
            runtime,
        } = setup;
        let config = Config {
            mesh,
            beat_ms: millis(node.config.assign_beat),
            lease_ms: millis(node.config.assign_lease),
            margin_ms: millis(node.config.assign_lease) / 7,
            ..Config::new(&region, shards, node.config.node.clone(), incarnation)
        };
        let news = Arc::new(NewsBox::default());
        let stop = Arc::new(AtomicBool::new(false));
        let lease = Arc::new(NodeLease::by(
            node.config.clock.clone(),
            node.config.assign_lease,
        ));
        let component = node.deps.health.register("assignments");
        component.not_ready("the store of assignments has not been reached");
        let store = Store::start(
            map,
            prefix(&region),
            (news.clone(), lease.clone()),
            stop.clone(),
            (&node.deps.metrics, &node.panics),
        )?;
        let gauges = Arc::new(Mutex::new(Gauges::default()));
        let registration = show(&node.deps.metrics, gauges.clone(), news.clone());
        let (ended, end) = watch::channel(None);
        table.own(Owners {
            region: region.clone(),
            ..Owners::default()
        });
        let looking = Looking {
            own_key: node_key(&region, &node.config.node),
            machine: Assigner::new(config),
            node,
            region,
            news: news.clone(),
            stop: stop.clone(),
            lease,
            store,
            table,
            runtime,
            component,
            keepers: HashMap::new(),
            followers: HashMap::new(),
            followed_heard: HashMap::new(),
            caught_up: HashMap::new(),
            logs_looked_at_ms: 0,
            not_followed: BTreeSet::new(),
            followed_at: Instant::now(),
            owners_told: 0,
            complete: false,
            gauges,
            ended,
        };
        let spawned = std::thread::Builder::new()
            .name("assign".into())
            .spawn(move || looking.run());
        spawned.map_err(|error| StoreError::Io {
            operation: "start the thread",
            path: "assign".into(),
            detail: error.to_string(),
        })?;
        Ok(Self {
            news,
            stop,
            end,
            _metrics: registration,
        })
    }

    /// Ends when this node takes part no longer, and says why.
    pub(crate) fn end(&self) -> watch::Receiver<Option<RegionEnd>> {
        self.end.clone()
    }

    /// Gives everything away, for as long as `patience`; gives up what is left.
    pub(crate) async fn drain(self, patience: Duration) {
        self.news.push(News::Drain);
        let is_over = |wait: Duration, mut end: watch::Receiver<Option<RegionEnd>>| async move {
            let ended = end.wait_for(Option::is_some);
            tokio::time::timeout(wait, ended).await.is_ok()
        };
        if !is_over(patience, self.end.clone()).await {
            tracing::warn!(
                ?patience,
                "not all shards were handed over in time: the rest is given up, and taken by others"
            );
            self.news.push(News::GiveUp);
            if !is_over(GIVE_UP, self.end.clone()).await {
                tracing::warn!(
                    "the store of assignments was not told that this node has gone: others find out when its lease has ended"
                );
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A shard that is served, or ends to be.
struct Kept {
    orders: watch::Sender<Order>,
    assignment: Arc<Assignment>,
    served: bool,
    leaving: bool,
    /// Its log has not let it be served for long.
    in_trouble: bool,
    /// It is recovered for long.
    is_slow: bool,
    /// Whether its log answers, as the machine was told.
    heard: Option<bool>,
    _metrics: Registration,
}

/// What the thread has.
struct Looking {
    own_key: String,
    machine: Assigner,
    node: Arc<NodeParts>,
    region: String,
    news: Arc<NewsBox>,
    stop: Arc<AtomicBool>,
    lease: Arc<NodeLease>,
    store: Store,
    table: Arc<ShardTable>,
    runtime: Handle,
    component: Component,
    keepers: HashMap<u32, Kept>,
    followers: HashMap<u32, Follower>,
    /// Whether the logs of followers answer, as the machine was told.
    followed_heard: HashMap<u32, bool>,
    /// Followers that have read their logs to the end, and when they last said so.
    caught_up: HashMap<u32, Instant>,
    /// By the node's clock.
    logs_looked_at_ms: u64,
    /// Those that are to be followed and got no thread.
    not_followed: BTreeSet<u32>,
    /// When it was last tried.
    followed_at: Instant,
    owners_told: u64,
    /// Every shard of the region has had an owner since this node began.
    complete: bool,
    gauges: Arc<Mutex<Gauges>>,
    ended: watch::Sender<Option<RegionEnd>>,
}

impl Looking {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) && self.ended.borrow().is_none() {
            let turn = AssertUnwindSafe(|| self.turn());
            if std::panic::catch_unwind(turn).is_err() {
                // A defect of ours, which the panic itself reported. Nobody renews the lease: others
                // take the shards.
                self.node.panics.count("assignments");
                tracing::error!(node = %self.node.config.node, "what looks after assignments panicked: this node serves nothing any more. Restart it");
                self.component
                    .failed("what looks after assignments panicked");
                self.lease.set(0);
                self.end(RegionEnd::Panicked);
            }
        }
    }

    fn turn(&mut self) {
        let news = self.news.take(TICK);
        for news in news {
            self.hear(news);
            self.act();
        }
        self.machine.tick(self.lease.now_ms());
        self.look_after_logs();
        self.act();
        self.follow_again();
        self.publish();
    }

    /// Serves nothing any more.
    fn end(&mut self, end: RegionEnd) {
        let shards: Vec<u32> = self.keepers.keys().copied().collect();
        for shard in shards {
            self.table.remove(&self.shard(shard));
            self.order(shard, Order::Leave(None));
        }
        self.followers.clear();
        self.not_followed.clear();
        self.ended.send_replace(Some(end));
    }

    fn hear(&mut self, news: News) {
        let told = match news {
            News::Looked {
                begun_ms,
                revision,
                changes,
            } => {
                let changes = changes.into_iter();
                Told::Looked {
                    begun_ms,
                    revision,
                    changes: changes.map(|e| (e.key, e.value, e.revision)).collect(),
                }
            }
            News::Restored => Told::Restored,
            News::Read { key, record } => Told::Read { key, record },
            News::Written { key, outcome } => Told::Written { key, outcome },
            News::Serving { shard, epoch } => {
                let mut epoch = epoch;
                if let Some(kept) = self.keepers.get_mut(&shard) {
                    kept.served = true;
                    // It may have been raised meanwhile.
                    epoch = kept.assignment.epoch();
                }
                Told::Serving { shard, epoch }
            }
            News::EpochsUsedUp {
                shard,
                epoch,
                highest,
            } => Told::EpochsUsedUp {
                shard,
                epoch,
                highest,
            },
            News::Paused { shard } => Told::Paused { shard },
            News::Left { shard } => {
                self.keepers.remove(&shard);
                Told::Left { shard }
            }
            News::CaughtUp { shard, caught_up } => {
                match caught_up {
                    true => drop(self.caught_up.insert(shard, Instant::now())),
                    false => drop(self.caught_up.remove(&shard)),
                }
                Told::CaughtUp { shard, caught_up }
            }
            News::Drain => Told::Drain,
            News::GiveUp => Told::GiveUp,
        };
        self.tell(told);
    }

    /// Tells the machine what can not be served, and which followers no longer say that they keep up.
    fn look_after_logs(&mut self) {
        let now_ms = self.lease.now_ms();
        if now_ms < self.logs_looked_at_ms + millis(TROUBLE_LOOK) {
            return;
        }
        self.logs_looked_at_ms = now_ms;
        let (mut unable, mut slow) = (Vec::new(), Vec::new());
        let mut heard = Vec::new();
        for (shard, kept) in &mut self.keepers {
            let answers = kept.assignment.log_answers().filter(|_| !kept.leaving);
            let in_trouble = answers == Some(false);
            if in_trouble && !kept.in_trouble {
                tracing::warn!(
                    region = self.region,
                    shard,
                    "the log of a shard has not answered for some seconds: its standby is given the shard, where it reaches the log"
                );
            }
            if let Some(answers) = answers
                && kept.heard.replace(answers) != Some(answers)
            {
                heard.push((*shard, answers));
            }
            // Attempts that read something and fail are trouble in between only.
            kept.in_trouble = answers.map_or(kept.in_trouble, |answers| !answers);
            if in_trouble {
                unable.push(*shard);
            }
            let is_slow = kept.assignment.is_slow() && !kept.leaving;
            if is_slow && !kept.is_slow {
                tracing::info!(
                    region = self.region,
                    shard,
                    "a shard has been read for some seconds and is not served yet: its standby is given the shard, where it has kept up"
                );
            }
            kept.is_slow = is_slow;
            if is_slow {
                slow.push(*shard);
            }
        }
        for (shard, follower) in &self.followers {
            if let Some(answers) = follower.log_answers()
                && self.followed_heard.insert(*shard, answers) != Some(answers)
            {
                heard.push((*shard, answers));
            }
        }
        for shard in unable {
            self.tell(Told::Unable { shard });
        }
        for shard in slow {
            self.tell(Told::Slow { shard });
        }
        for (shard, heard) in heard {
            self.tell(Told::Heard { shard, heard });
        }
        let config = &self.node.config;
        let silent = config.assign_lease + 2 * config.standby_look;
        let heard = std::mem::take(&mut self.caught_up);
        let (heard, lapsed) = heard.into_iter().partition(|(_, at)| at.elapsed() < silent);
        self.caught_up = heard;
        let lapsed: HashMap<u32, Instant> = lapsed;
        for shard in lapsed.into_keys() {
            let caught_up = false;
            self.tell(Told::CaughtUp { shard, caught_up });
        }
    }

    fn tell(&mut self, told: Told) {
        if let Err(error) = self.machine.input(self.lease.now_ms(), told) {
            tracing::error!(%error, "what it is about is left alone");
        }
    }

    fn act(&mut self) {
        // A change that gives a shard away must not be made before the shard knows of it.
        self.doubt();
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Put {
                    key,
                    value,
                    expected,
                } => self.change(Change {
                    key,
                    value: Some(value),
                    expected,
                }),
                Action::Delete { key, expected } => self.change(Change {
                    key,
                    value: None,
                    expected,
                }),
                Action::Own { shard, epoch } => self.own(shard, epoch),
                Action::Pause { shard } => self.order(shard, Order::Pause),
                Action::Resume { shard } => self.order(shard, Order::Serve),
                Action::Leave { shard, owner } => {
                    self.table.remove(&self.shard(shard));
                    if let Some(kept) = self.keepers.get_mut(&shard) {
                        kept.leaving = true;
                        kept.assignment.doubt(true);
                    }
                    tracing::info!(
                        region = self.region,
                        shard,
                        owner = owner.as_ref().map_or("nobody", |o| o.as_str()),
                        "the shard is given away"
                    );
                    self.order(
                        shard,
                        match owner {
                            Some(owner) => Order::Leave(Some(owner)),
                            // Nobody waits for it: what is known is saved.
                            None => Order::Stop,
                        },
                    );
                }
                Action::Follow { shard } => self.follow(shard),
                Action::Unfollow { shard } => {
                    self.not_followed.remove(&shard);
                    self.followed_heard.remove(&shard);
                    drop(self.followers.remove(&shard));
                }
                Action::Replaced => {
                    tracing::error!(node = %self.node.config.node, "another process runs under this node's name and has taken its place: this one serves nothing any more. Stop one of them, or give it a name of its own");
                    self.component
                        .failed("another process runs under this node's name");
                    self.end(RegionEnd::Replaced);
                }
                Action::Drained => {
                    self.ended.send_replace(Some(RegionEnd::Drained));
                }
            }
        }
    }

    fn shard(&self, shard: u32) -> ShardRef {
        ShardRef {
            region: self.region.clone(),
            shard,
        }
    }

    fn change(&mut self, change: Change) {
        let key = change.key.clone();
        if !self.store.change(key == self.own_key, change) {
            self.news.push(News::Written {
                key,
                outcome: gb6_region_assign::Written::Failed,
            });
        }
    }

    fn order(&mut self, shard: u32, order: Order) {
        if let Some(kept) = self.keepers.get(&shard) {
            kept.orders.send_replace(order);
        }
    }

    /// Begins to serve a shard, or goes on under a higher assignment epoch.
    fn own(&mut self, shard: u32, epoch: u64) {
        let known = self.keepers.get(&shard).filter(|kept| !kept.leaving);
        if let Some(kept) = known {
            kept.assignment.raise(epoch);
            if kept.served {
                self.tell(Told::Serving { shard, epoch });
            }
            return;
        }
        let reference = self.shard(shard);
        self.not_followed.remove(&shard);
        self.followed_heard.remove(&shard);
        tracing::info!(
            region = self.region,
            shard,
            assignment = epoch,
            "the shard is this node's"
        );
        let assignment = Assignment::new(shard, epoch, self.lease.clone(), self.news.clone());
        let numbers = Arc::new(Mutex::new(ShardNumbers::default()));
        let deps = &self.node.deps;
        let registration = export(&deps.metrics, shard, numbers.clone());
        let component = deps
            .health
            .register(&format!("shard {}/{}", self.region, ShardId(shard)));
        let (orders, ordered) = watch::channel(Order::Serve);
        let (sender, inputs) = inbox();
        let keeper = Keeper {
            shard: reference.clone(),
            component,
            numbers,
            node: self.node.clone(),
            ownership: Ownership::Assigned(assignment.clone()),
            standby: Mutex::new(self.followers.remove(&shard)),
        };
        // It ends by an order, and says so.
        drop(self.runtime.spawn(keeper.run(inputs, ordered)));
        self.table.insert(reference, sender);
        let kept = Kept {
            orders,
            assignment,
            served: false,
            leaving: false,
            in_trouble: false,
            is_slow: false,
            heard: None,
            _metrics: registration,
        };
        self.keepers.insert(shard, kept);
    }

    fn follow(&mut self, shard: u32) {
        let reference = self.shard(shard);
        match Follower::start(&self.node, reference, self.news.clone()) {
            Ok(follower) => {
                self.not_followed.remove(&shard);
                drop(self.followers.insert(shard, follower));
            }
            Err(error) => {
                if self.not_followed.insert(shard) {
                    tracing::error!(region = self.region, shard, %error, "the shard has no standby until it can be followed: it is tried again");
                }
            }
        }
    }

    /// Tries again to follow what got no thread.
    fn follow_again(&mut self) {
        if self.not_followed.is_empty() || self.followed_at.elapsed() < FOLLOW_AGAIN {
            return;
        }
        self.followed_at = Instant::now();
        for shard in self.not_followed.clone() {
            self.follow(shard);
        }
    }

    /// Tells the shards how far the node can rely on owning them.
    fn doubt(&self) {
        self.lease.set(self.machine.fresh_until());
        for (shard, kept) in &self.keepers {
            if !kept.leaving {
                kept.assignment.doubt(self.machine.is_doubtful(*shard));
            }
        }
    }

    /// Tells everybody what has changed, and the edges who owns what.
    fn publish(&mut self) {
        self.doubt();
        let expected = self.followers.keys().copied();
        let expected: BTreeSet<u32> = expected
            .filter(|shard| self.machine.is_expected(*shard))
            .collect();
        self.table.expect(expected);
        if self.owners_told != self.machine.owners_changed() {
            self.owners_told = self.machine.owners_changed();
            let owners = self.machine.owners();
            self.table.own(Owners {
                region: self.region.clone(),
                shards: owners
                    .map(|(shard, epoch, node)| (shard, (epoch, node.clone())))
                    .collect(),
            });
        }
        let gauges = self.machine.gauges();
        // Once all are owned the node is ready to own what it is given; what it owns says so itself.
        if !self.complete && self.owners_told > 0 {
            self.complete = gauges.unowned == 0;
            match self.complete {
                true => self.component.ready(),
                false => self.component.not_ready(format!(
                    "{} shards of the region have no owner that is heard",
                    gauges.unowned
                )),
            }
        }
        *self.gauges.lock() = gauges;
    }
}

/// Shows what is known of the region's assignments.
fn show(metrics: &Metrics, gauges: Arc<Mutex<Gauges>>, news: Arc<NewsBox>) -> Registration {
    metrics.collect(move |out| {
        let g = *gauges.lock();
        for (name, help, value) in [
            (
                "gb6_region_nodes",
                "Nodes of the region that are heard and take shards, this one included.",
                g.nodes,
            ),
            (
                "gb6_region_shards_owned",
                "Shards that this node owns.",
                g.owned,
            ),
            (
                "gb6_region_shards_followed",
                "Shards that this node follows as their standby.",
                g.followed,
            ),
            (
                "gb6_region_shards_unowned",
                "Shards of the region without an owner that is heard.",
                g.unowned,
            ),
            (
                "gb6_region_shards_moving",
                "Shards of the region that are being handed over.",
                g.moving,
            ),
            (
                "gb6_region_nodes_cut_off",
                "Nodes of the region that say that none of the logs which they own or follow answers them.",
                g.cut_off,
            ),
            (
                "gb6_region_assignment_news",
                "What the thread that looks after assignments has been told and has not looked at.",
                news.len(),
            ),
        ] {
            out.gauge(name, help, &[], value as f64);
        }
    })
}
