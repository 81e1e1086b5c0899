//! The shards that this node serves now, those that are on their way to it, and who owns the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{OwnersNow, ShardOwner, ShardRef};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use crate::worker::Input;

/// How long a stream waits for a shard that is on its way here.
const HOLD_MAX: Duration = Duration::from_secs(3);

/// The shards of a node.
pub(crate) struct ShardTable {
    served: RwLock<HashMap<ShardRef, mpsc::Sender<Input>>>,
    expected: RwLock<BTreeSet<u32>>,
    /// Told when a shard comes, or no longer will.
    changed: watch::Sender<()>,
    owners: watch::Sender<Arc<Owners>>,
}

/// Who owns the shards of the region, where its nodes decide that.
#[derive(Default)]
pub(crate) struct Owners {
    /// The region; empty: the placement decides.
    pub(crate) region: String,
    /// With the assignment epochs.
    pub(crate) shards: BTreeMap<u32, (u64, NodeId)>,
}

impl Owners {
    /// As edges are told.
    pub(crate) fn now(&self) -> OwnersNow {
        let shards = self.shards.iter();
        OwnersNow {
            shards: shards
                .map(|(shard, (epoch, node))| ShardOwner {
                    shard: *shard,
                    epoch: *epoch,
                    node: node.as_str().to_owned(),
                })
                .collect(),
        }
    }
}

impl Default for ShardTable {
    fn default() -> Self {
        Self {
            served: RwLock::default(),
            expected: RwLock::default(),
            changed: watch::channel(()).0,
            owners: watch::channel(Arc::default()).0,
        }
    }
}

impl ShardTable {
    /// The inbox of a shard that is served here.
    pub(crate) fn get(&self, shard: &ShardRef) -> Option<mpsc::Sender<Input>> {
        self.served.read().get(shard).cloned()
    }

    /// Whether a shard is served here.
    pub(crate) fn contains(&self, shard: &ShardRef) -> bool {
        self.served.read().contains_key(shard)
    }

    pub(crate) fn insert(&self, shard: ShardRef, inbox: mpsc::Sender<Input>) {
        self.served.write().insert(shard, inbox);
        self.changed.send_replace(());
    }

    pub(crate) fn remove(&self, shard: &ShardRef) {
        self.served.write().remove(shard);
    }

    /// These are on their way here.
    pub(crate) fn expect(&self, shards: BTreeSet<u32>) {
        if *self.expected.read() != shards {
            *self.expected.write() = shards;
            self.changed.send_replace(());
        }
    }

    /// Others own these.
    pub(crate) fn own(&self, owners: Owners) {
        self.owners.send_replace(Arc::new(owners));
    }

    pub(crate) fn owners(&self) -> watch::Receiver<Arc<Owners>> {
        self.owners.subscribe()
    }

    /// The node that owns a shard; empty: it is not known.
    pub(crate) fn owner(&self, shard: &ShardRef) -> String {
        let owners = self.owners.borrow();
        let owner = owners.shards.get(&shard.shard);
        match owner {
            Some((_, owner)) if owners.region == shard.region => owner.as_str().to_owned(),
            _ => String::new(),
        }
    }

    /// Whether a shard is on its way here.
    pub(crate) fn is_expected(&self, shard: &ShardRef) -> bool {
        self.expected.read().contains(&shard.shard) && self.owners.borrow().region == shard.region
    }

    /// The inbox of a shard that is on its way here, once it has come; `None`: it does not come, or
    /// takes too long.
    pub(crate) async fn come(&self, shard: &ShardRef) -> Option<mpsc::Sender<Input>> {
        let mut changed = self.changed.subscribe();
        let waits = async {
            loop {
                if let Some(inbox) = self.get(shard) {
                    return Some(inbox);
                }
                if !self.is_expected(shard) || changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(HOLD_MAX, waits).await.ok().flatten()
    }
}
