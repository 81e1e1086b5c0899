//! Between the machine and its driver: how a node takes part, what it is told, what is to be done.

use gb6_core_model::{NodeId, ShardEpoch};

/// How a node takes part. Times are in ms of its monotonic clock.
#[derive(Clone, Debug)]
pub struct Config {
    /// The region.
    pub region: String,
    /// Its shards, numbered from 0.
    pub shards: u32,
    /// This node.
    pub node: NodeId,
    /// This life of it; never 0.
    pub incarnation: u64,
    /// `host:port` of its mesh listener.
    pub mesh: Option<String>,
    /// How often it rewrites its record.
    pub beat_ms: u64,
    /// After so long without a change of its record a node is taken for dead.
    pub lease_ms: u64,
    /// By so much earlier a node stops relying on its lease: clocks run at rates that differ by up to
    /// 5 %.
    pub margin_ms: u64,
    /// Between two nodes that may claim the same shard.
    pub stagger_ms: u64,
    /// How long a node that starts looks who else is there before it claims what nobody has had.
    pub settle_ms: u64,
    /// How long the nodes must have been the same before shards are moved to have alike.
    pub balance_ms: u64,
    /// How long a hand-over may keep a shard from being served.
    pub pause_max_ms: u64,
}

impl Config {
    /// The defaults.
    pub fn new(region: &str, shards: u32, node: NodeId, incarnation: u64) -> Self {
        Self {
            region: region.to_owned(),
            shards,
            node,
            incarnation,
            mesh: None,
            beat_ms: 300,
            lease_ms: 1_500,
            margin_ms: 200,
            stagger_ms: 300,
            settle_ms: 600,
            balance_ms: 3_000,
            pause_max_ms: 2_000,
        }
    }
}

/// What a record must be for a change to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It does not exist.
    Absent,
    /// It exists, last changed at this revision.
    Revision(u64),
}

/// How a change ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It was made, at this revision.
    Done(u64),
    /// The record was not as expected. The driver reads it, and tells [`Input::Read`].
    NotAsExpected,
    /// Nothing was written: it may work later.
    Failed,
    /// Nobody knows. The driver reads the record until it can, and tells [`Input::Read`].
    Unknown,
}

/// What the machine is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Everything that changed since the last look, which may be nothing. The first look tells
    /// everything there is; each is begun when the one before was told.
    Looked {
        /// When the look was begun: what is told is at least as new.
        begun_ms: u64,
        /// All changes up to this revision have been told.
        revision: u64,
        /// Key, value (`None`: it was removed), revision.
        changes: Vec<(String, Option<Vec<u8>>, u64)>,
    },
    /// The store went back to what it was earlier: revisions that it tells from now on may be below
    /// those that it has told. The next look tells everything there is.
    Restored,
    /// A record that was read after a change of it had failed; `None`: there is none.
    Read {
        /// Its key.
        key: String,
        /// Its value and revision.
        record: Option<(Vec<u8>, u64)>,
    },
    /// A change ended.
    Written {
        /// Of which record.
        key: String,
        /// How.
        outcome: Written,
    },
    /// A shard is served under this assignment epoch.
    Serving {
        /// The shard.
        shard: u32,
        /// The assignment epoch.
        epoch: u64,
    },
    /// The log's epochs are above those of this assignment.
    EpochsUsedUp {
        /// The shard.
        shard: u32,
        /// The assignment epoch.
        epoch: u64,
        /// The log's highest.
        highest: ShardEpoch,
    },
    /// Nothing of a shard is in flight any more, after [`Action::Pause`].
    Paused {
        /// The shard.
        shard: u32,
    },
    /// A shard is no longer served, after [`Action::Leave`].
    Left {
        /// The shard.
        shard: u32,
    },
    /// A followed shard has been read to its end, or no longer is.
    CaughtUp {
        /// The shard.
        shard: u32,
        /// Whether it is.
        caught_up: bool,
    },
    /// A shard that this node owns can not be served: its log has not answered for a while. Told again
    /// for as long as that lasts.
    Unable {
        /// The shard.
        shard: u32,
    },
    /// A shard that this node owns is not served yet, for a while, though its log answers: it is being
    /// read. Told again for as long as that lasts.
    Slow {
        /// The shard.
        shard: u32,
    },
    /// Whether the log of an owned or followed shard has answered of late. Told when that is known, and
    /// when it changes; an owned one that answers can be served again.
    Heard {
        /// The shard.
        shard: u32,
        /// Whether it has.
        heard: bool,
    },
    /// The node is to give everything away.
    Drain,
    /// What could not be given away is to be given up: nobody takes it, or it takes too long.
    GiveUp,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write a record if it is as expected; [`Input::Written`] tells how it ended.
    Put {
        /// Its key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// What it must be.
        expected: Expected,
    },
    /// Remove a record if it is as expected; [`Input::Written`] tells how it ended.
    Delete {
        /// Its key.
        key: String,
        /// What it must be.
        expected: Expected,
    },
    /// Own a shard under this assignment epoch. Told again where the epoch was raised.
    Own {
        /// The shard.
        shard: u32,
        /// The assignment epoch.
        epoch: u64,
    },
    /// Finish what is in flight, take nothing new, and tell [`Input::Paused`].
    Pause {
        /// The shard.
        shard: u32,
    },
    /// Go on: the hand-over did not come to pass.
    Resume {
        /// The shard.
        shard: u32,
    },
    /// Stop serving a shard, tell its edges who owns it, and tell [`Input::Left`].
    Leave {
        /// The shard.
        shard: u32,
        /// Its owner, where there is one.
        owner: Option<NodeId>,
    },
    /// Follow the log of a shard, to take it over.
    Follow {
        /// The shard.
        shard: u32,
    },
    /// No longer.
    Unfollow {
        /// The shard.
        shard: u32,
    },
    /// Another process runs under this node's name and has taken its place: serve nothing, stop.
    Replaced,
    /// Everything is given away, and the node's record is gone.
    Drained,
}

/// What is known of a region, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Nodes that are heard and take shards, this one included.
    pub nodes: usize,
    /// Shards that this node owns.
    pub owned: usize,
    /// Shards that it follows.
    pub followed: usize,
    /// Shards of the region without an owner that is heard.
    pub unowned: usize,
    /// Shards that are being handed over, in the region.
    pub moving: usize,
    /// Nodes among [`Gauges::nodes`] that say that they do not reach the log.
    pub cut_off: usize,
}
