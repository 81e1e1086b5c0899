//! Shares of the limits of instances whose home shard this node owns, for the edges that ask.

use std::sync::Arc;
use std::time::Instant;

use gb6_core_mesh::{FrameReceiver, FrameSender};
use gb6_core_model::limits::LIMITS_ENTRIES_MAX;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_obs::Counter;
use gb6_core_ports::{LimitKey, RateLimiter, Want};
use gb6_core_wire::mesh::{Class, LimitShared, LimitWanted, LimitsShared, LimitsWanted, ShardRef};
use tokio::sync::watch;

use crate::accept::Shards;

/// What answers the edges.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) limiter: Arc<dyn RateLimiter>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The clock of the shares begins here.
    pub(crate) began: Instant,
    /// Shares that were given.
    pub(crate) given: Counter,
    /// Questions that could not be answered.
    pub(crate) unanswered: Counter,
}

impl Limits {
    /// Answers one edge until its stream ends. It is asked one question at a time: further ones
    /// stay in the stream.
    pub(crate) async fn serve(
        self,
        edge: NodeId,
        shards: Shards,
        sender: FrameSender<LimitsShared>,
        mut receiver: FrameReceiver<LimitsWanted>,
    ) {
        while let Ok(Some(question)) = receiver.recv().await {
            let wanted = self.ours(question.limits, &shards);
            let (limits, holder) = (self.clone(), edge.clone());
            // An engine may block.
            let answer = tokio::task::spawn_blocking(move || limits.answer(&holder, wanted)).await;
            let Ok(answer) = answer else { return };
            if !answer.limits.is_empty() && sender.send(Class::Control, answer).await.is_err() {
                return;
            }
        }
    }

    /// Those limits that are shared out here: of instances whose home shard is one of `shards`.
    fn ours(&self, wanted: Vec<LimitWanted>, shards: &Shards) -> Vec<LimitWanted> {
        let snapshot = self.snapshot.borrow().clone();
        let ours = |limit: &LimitWanted| {
            let home = snapshot.home(&InstanceId::from(limit.instance.as_str()));
            home.is_some_and(|home| {
                shards.contains(&ShardRef {
                    region: home.region,
                    shard: home.shard.0,
                })
            })
        };
        let wanted = wanted.into_iter().take(LIMITS_ENTRIES_MAX);
        wanted.filter(ours).collect()
    }

    fn answer(&self, edge: &NodeId, wanted: Vec<LimitWanted>) -> LimitsShared {
        let wants: Vec<Want> = wanted
            .iter()
            .map(|limit| Want {
                key: LimitKey {
                    instance: InstanceId::from(limit.instance.as_str()),
                    user: (!limit.user.is_empty()).then(|| limit.user.clone()),
                },
                demand: limit.demand,
            })
            .collect();
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let shares = match self.limiter.lease(edge.as_str(), &wants, now) {
            Ok(shares) => shares,
            Err(error) => {
                // Every edge asks every second: the engine says it once, and the counter how often.
                self.unanswered.inc();
                tracing::debug!(%error, node = %edge, "limits can not be shared out now");
                return LimitsShared::default();
            }
        };
        self.given.inc_by(shares.len() as u64);
        let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        let limits = wanted.into_iter().zip(shares);
        LimitsShared {
            limits: limits
                .map(|(limit, share)| LimitShared {
                    instance: limit.instance,
                    user: limit.user,
                    parts: share.parts,
                    valid_ms: ms(share.valid_ms),
                    renew_ms: ms(share.renew_ms),
                })
                .collect(),
        }
    }
}
