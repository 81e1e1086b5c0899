//! The two streams of one shard: opening them at its owner, and sending on them.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{
    Dialer, FrameReceiver, FrameSender, Link, OpenError, QueueLimits, TrySendError,
};
use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{
    Class, EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, Purpose, Renew, ShardRef,
    StreamOpen, ToEdge, ToOwner,
};

use super::out::Outputs;

/// How long the owner may take to be reached before its address is looked up again.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the streams could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// There is no link to the owner.
    #[error("no link to {0}")]
    NoLink(NodeId),
    /// A stream was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The streams of one shard at its owner.
pub(super) struct Streams {
    /// Keeps the link dialled while the streams are in use.
    _dialer: Arc<Dialer>,
    /// The node that they lead to.
    pub(super) owner: NodeId,
    live_out: FrameSender<ToOwner>,
    pub(super) live_in: FrameReceiver<ToEdge>,
    history_out: FrameSender<HistoryRequest>,
    pub(super) history_in: FrameReceiver<HistoryPage>,
}

/// The streams are closed.
#[derive(Debug)]
pub(super) struct StreamClosed;

impl Streams {
    /// Opens both streams of `shard`.
    pub(super) async fn open(dialer: Arc<Dialer>, shard: ShardRef) -> Result<Self, AttachError> {
        let owner = dialer.node().clone();
        let link = reach(&dialer)
            .await
            .ok_or_else(|| AttachError::NoLink(owner.clone()))?;
        let purpose = |purpose| StreamOpen {
            purpose: Some(purpose),
        };
        let live = link.open(purpose(Purpose::Shard(shard.clone()))).await?;
        let history = link.open(purpose(Purpose::CatchUp(shard))).await?;
        let (live_out, live_in) = live.split(QueueLimits::default());
        let (history_out, history_in) = history.split(QueueLimits::default());
        Ok(Self {
            _dialer: dialer,
            owner,
            live_out,
            live_in,
            history_out,
            history_in,
        })
    }

    /// Sends what fits now. `Ok(true)`: everything did.
    pub(super) fn send(&self, out: &mut Outputs) -> Result<bool, StreamClosed> {
        while let Some(frame) = out.next_to_owner() {
            // One class, so that the order stays: a lane of a higher class would overtake.
            let frame = ToOwner { frame: Some(frame) };
            match self.live_out.try_send(Class::Control, frame) {
                Ok(()) => {}
                Err(TrySendError::Full(ToOwner { frame })) => {
                    if let Some(frame) = frame {
                        out.put_back(frame);
                    }
                    return Ok(false);
                }
                Err(TrySendError::TooLarge { bytes }) => {
                    tracing::error!(bytes, "a frame to the owner is too large; dropped");
                }
                Err(TrySendError::Closed) => return Err(StreamClosed),
            }
        }
        while let Some(request) = out.to_history.pop_front() {
            match self.history_out.try_send(Class::CatchUp, request) {
                Ok(()) | Err(TrySendError::TooLarge { .. }) => {}
                Err(TrySendError::Full(request)) => {
                    out.to_history.push_front(request);
                    return Ok(false);
                }
                Err(TrySendError::Closed) => return Err(StreamClosed),
            }
        }
        Ok(true)
    }

    /// Waits until the owner has taken everything that was sent: it answers a renewal of the lease
    /// behind the rest. What else comes meanwhile is for nobody any more.
    pub(super) async fn settle(&mut self) {
        let last = Renew { sequence: u64::MAX };
        let frame = ToOwner {
            frame: Some(OwnerFrame::Renew(last)),
        };
        if self.live_out.send(Class::Control, frame).await.is_err() {
            return;
        }
        while let Ok(Some(frame)) = self.live_in.recv().await {
            if matches!(frame.frame, Some(EdgeFrame::Renewed(renew)) if renew == last) {
                return;
            }
        }
    }
}

/// The link of a dialler, once there is one.
async fn reach(dialer: &Dialer) -> Option<Link> {
    let mut links = dialer.links();
    let found = tokio::time::timeout(REACH_TIMEOUT, links.wait_for(Option::is_some)).await;
    match found {
        Ok(Ok(link)) => link.clone(),
        _ => None,
    }
}
