//! Who owns which shard, in regions whose nodes decide that among themselves: a stream to each node of
//! such a region tells it, and it is laid over the placement's `owners`, by which everything else goes.
//!
//! When no node can be reached the last that was told stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_mesh::{Backoff, Dialer, FrameReceiver, FrameSender, OpenError, QueueLimits};
use gb6_core_model::snapshot::{Assigned, Snapshot};
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{OwnersNow, OwnersOpen, Purpose, StreamOpen};
use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::shared::Shared;

/// Waits between two streams to one node; the link below has waits of its own.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(2),
    settled: Duration::from_secs(5),
};
/// What nodes have said and is not taken over yet.
const TOLD_MAX: usize = 64;
/// An edge says nothing on the stream.
const QUEUE: QueueLimits = QueueLimits {
    frames: 1,
    bytes: 1024,
};

/// What a node of a region said.
type Told = (String, OwnersNow);

/// The owners that were told, with the assignment epoch of each.
#[derive(Default)]
struct Known(BTreeMap<String, BTreeMap<u32, (u64, NodeId)>>);

impl Known {
    /// Takes what a node of a region said; whether anything is new.
    fn take(&mut self, region: String, now: OwnersNow) -> bool {
        let known = self.0.entry(region).or_default();
        let mut news = false;
        for owner in now.shards {
            // One epoch has one owner, but where the nodes' records were lost and began again: then who
            // speaks last is right, and whoever is not the owner refuses.
            let newer = known.get(&owner.shard).is_none_or(|(epoch, node)| {
                owner.epoch > *epoch || (owner.epoch == *epoch && owner.node != node.as_str())
            });
            if newer && NodeId::is_valid(&owner.node) {
                known.insert(owner.shard, (owner.epoch, NodeId::from(owner.node)));
                news = true;
            }
        }
        news
    }

    /// A placement with the owners that are known. One that the placement does not know as a node of
    /// the region can not be reached, and is passed over.
    fn laid_over(&self, placement: &Arc<Snapshot>) -> Arc<Snapshot> {
        let mut laid = placement.clone();
        for (name, known) in &self.0 {
            let decides = |snapshot: &Snapshot| {
                let region = snapshot.regions.get(name);
                region.is_some_and(|region| region.assigned == Assigned::Region)
            };
            if !decides(placement) {
                continue;
            }
            for (shard, (_, owner)) in known {
                let of_region = placement.nodes.get(owner).is_some_and(|node| {
                    node.roles.contains(&Role::Region) && node.region.as_deref() == Some(name)
                });
                let shard = *shard as usize;
                let placed = &laid.regions.get(name).map(|region| &region.owners);
                let differs = placed
                    .and_then(|owners| owners.get(shard))
                    .is_some_and(|placed| placed != owner);
                if !(of_region && differs) {
                    continue;
                }
                let region = Arc::make_mut(&mut laid).regions.get_mut(name);
                if let Some(placed) = region.and_then(|region| region.owners.get_mut(shard)) {
                    *placed = owner.clone();
                }
            }
        }
        laid
    }
}

/// Follows the placement and the owners until `stop` says so, and gives on the one with the other.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut placements: watch::Receiver<Arc<Snapshot>>,
    laid: watch::Sender<Arc<Snapshot>>,
    mut stop: watch::Receiver<bool>,
) {
    // overflow: streams wait, and with them the nodes, which then tell only the newest.
    let (tell, mut told) = mpsc::channel(TOLD_MAX);
    let mut known = Known::default();
    let mut followed: BTreeMap<(String, NodeId), Task> = BTreeMap::new();
    let mut more = true;
    let mut placement = placements.borrow_and_update().clone();
    // It may have changed since the edge began.
    laid.send_replace(placement.clone());
    loop {
        let wanted = told_by(&placement);
        followed.retain(|name, _| wanted.contains(name));
        for name in wanted {
            followed.entry(name.clone()).or_insert_with(|| {
                let (region, node) = name;
                let following = follow(shared.clone(), region, node, tell.clone());
                Task(tokio::spawn(following).abort_handle())
            });
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = placements.changed(), if more => {
                // Without a sender the last placement stays.
                more = changed.is_ok();
                placement = placements.borrow_and_update().clone();
                laid.send_replace(known.laid_over(&placement));
            }
            Some((region, now)) = told.recv() => {
                let mut news = known.take(region, now);
                while let Ok((region, now)) = told.try_recv() {
                    news |= known.take(region, now);
                }
                if news {
                    let over = known.laid_over(&placement);
                    laid.send_if_modified(|before| {
                        let differs = **before != *over;
                        if differs {
                            *before = over;
                        }
                        differs
                    });
                }
            }
        }
    }
}

/// The nodes that tell who owns what, with their regions.
fn told_by(placement: &Snapshot) -> BTreeSet<(String, NodeId)> {
    let nodes = placement.nodes.iter().filter_map(|(name, node)| {
        let region = node.region.as_ref()?;
        let decides = placement.regions.get(region)?.assigned == Assigned::Region;
        let tells = decides && node.roles.contains(&Role::Region);
        tells.then(|| (region.clone(), name.clone()))
    });
    nodes.collect()
}

/// A task that ends with its handle.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow(shared: Arc<Shared>, region: String, node: NodeId, tell: mpsc::Sender<Told>) {
    let dialer = shared.shards.dialer(&shared, &node);
    let mut failures = 0;
    loop {
        let begin = Instant::now();
        if let Err(error) = listen(&dialer, &region, &tell).await {
            tracing::debug!(%node, %error, "owners stream not opened");
        }
        failures = match begin.elapsed() >= BACKOFF.settled {
            true => 1,
            false => failures + 1,
        };
        let wait = rand::rng().random_range(0.0..=1.0);
        tokio::time::sleep(BACKOFF.bound(failures).mul_f64(wait)).await;
    }
}

/// Opens a stream once there is a link, and listens until it ends.
async fn listen(dialer: &Dialer, region: &str, tell: &mpsc::Sender<Told>) -> Result<(), OpenError> {
    let mut links = dialer.links();
    let link = match links.wait_for(Option::is_some).await {
        Ok(link) => link.clone(),
        Err(_) => None,
    };
    let Some(link) = link else { return Ok(()) };
    let open = OwnersOpen {
        region: region.to_owned(),
    };
    let open = StreamOpen {
        purpose: Some(Purpose::Owners(open)),
    };
    let stream = link.open(open).await?;
    let (_says, mut hears): (FrameSender<OwnersOpen>, FrameReceiver<OwnersNow>) =
        stream.split(QUEUE);
    while let Ok(Some(now)) = hears.recv().await {
        if tell.send((region.to_owned(), now)).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::{Node, Region};
    use gb6_core_wire::mesh::ShardOwner;

    fn placement() -> Arc<Snapshot> {
        let node = |region: &str| Node {
            roles: vec![Role::Region],
            mesh: None,
            region: Some(region.into()),
        };
        let region = |assigned, owners: [&str; 2]| Region {
            shards: 2,
            slots: BTreeMap::new(),
            owners: owners.map(NodeId::from).to_vec(),
            assigned,
        };
        Arc::new(Snapshot {
            revision: 1,
            nodes: BTreeMap::from([
                ("a".into(), node("eu")),
                ("b".into(), node("eu")),
                ("c".into(), node("us")),
            ]),
            regions: BTreeMap::from([
                ("eu".into(), region(Assigned::Region, ["a", "b"])),
                ("us".into(), region(Assigned::Placement, ["c", "c"])),
            ]),
            ..Snapshot::default()
        })
    }

    fn now(shard: u32, epoch: u64, node: &str) -> OwnersNow {
        let node = node.to_owned();
        OwnersNow {
            shards: vec![ShardOwner { shard, epoch, node }],
        }
    }

    #[test]
    fn the_highest_epoch_is_laid_over_the_placement() {
        let placement = placement();
        let mut known = Known::default();
        assert!(known.take("eu".into(), now(0, 5, "b")));
        assert!(!known.take("eu".into(), now(0, 4, "a")), "old news");
        assert!(!known.take("eu".into(), now(0, 5, "b")), "no news");
        let owners = |known: &Known| known.laid_over(&placement).regions["eu"].owners.clone();
        assert_eq!(owners(&known), ["b", "b"].map(NodeId::from));
        assert!(known.take("eu".into(), now(1, 9, "a")));
        assert_eq!(owners(&known), ["b", "a"].map(NodeId::from));
        // Records that were lost and began again.
        assert!(known.take("eu".into(), now(1, 9, "b")));
        assert_eq!(owners(&known), ["b", "b"].map(NodeId::from));
    }

    #[test]
    fn what_the_placement_does_not_allow_is_passed_over() {
        let placement = placement();
        let mut known = Known::default();
        known.take("eu".into(), now(0, 1, "c"));
        known.take("eu".into(), now(1, 1, "nobody"));
        known.take("eu".into(), now(7, 1, "a"));
        known.take("us".into(), now(0, 1, "a"));
        assert!(!known.take("eu".into(), now(0, 2, "No Node")));
        let laid = known.laid_over(&placement);
        assert!(Arc::ptr_eq(&laid, &placement), "{laid:?}");
    }

    #[test]
    fn only_nodes_of_regions_that_decide_themselves_are_asked() {
        let asked = told_by(&placement());
        let eu = |node: &str| ("eu".to_owned(), NodeId::from(node));
        assert!(asked.iter().eq(&[eu("a"), eu("b")]));
    }
}
