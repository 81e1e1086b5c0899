//! Serves the snapshot on mesh streams: the newest whenever a node has an older one. A node that
//! reads slowly is sent fewer revisions, never a queue of them.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_mesh::{CloseCode, Endpoint, Link, QueueLimits, Stream};
use gb6_core_model::Role;
use gb6_core_model::limits::MESH_FRAME_BYTES_MAX;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{Class, Purpose, SnapshotPush, SnapshotWanted};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Seen;
use crate::source::SourceError;

/// Streams of snapshots on one link: a node needs one, and has two for a moment when it changes
/// its mind.
const STREAMS_PER_LINK: usize = 4;
/// Bytes of a push besides the JSON.
const PUSH_OVERHEAD: usize = 32;
/// One push waits at most: the next is made only when the last has been taken.
const QUEUE: QueueLimits = QueueLimits {
    frames: 1,
    bytes: MESH_FRAME_BYTES_MAX,
};

/// A snapshot as it is sent.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) revision: u64,
    /// By whether the node has the role edge, and whether it has the role region: each is given
    /// the secrets that it works with.
    pushes: [[SnapshotPush; 2]; 2],
}

impl Published {
    pub(crate) fn new(snapshot: &Snapshot) -> Result<Self, SourceError> {
        let of = |roles: &[Role]| {
            let json = Bytes::from(serde_json::to_vec(&snapshot.for_roles(roles))?);
            let max = MESH_FRAME_BYTES_MAX - PUSH_OVERHEAD;
            if json.len() > max {
                let bytes = json.len();
                return Err(SourceError::TooLarge { bytes, max });
            }
            Ok(SnapshotPush {
                revision: snapshot.revision,
                json,
            })
        };
        Ok(Self {
            revision: snapshot.revision,
            pushes: [
                [of(&[])?, of(&[Role::Region])?],
                [of(&[Role::Edge])?, of(&[Role::Edge, Role::Region])?],
            ],
        })
    }

    fn for_roles(&self, roles: &[Role]) -> &SnapshotPush {
        let has = |role| usize::from(roles.contains(&role));
        &self.pushes[has(Role::Edge)][has(Role::Region)]
    }
}

/// Accepts links until the endpoint is closed.
pub(crate) async fn accept(
    endpoint: Endpoint,
    snapshots: watch::Receiver<Arc<Published>>,
    seen: Seen,
) {
    // Every link is an authenticated node of the mesh, so their number is that of the nodes; when
    // this task ends, all of theirs do.
    let mut links = JoinSet::new();
    while let Some(link) = endpoint.accept().await {
        links.spawn(serve_link(link, snapshots.clone(), seen.clone()));
        while links.try_join_next().is_some() {}
    }
}

async fn serve_link(link: Link, snapshots: watch::Receiver<Arc<Published>>, seen: Seen) {
    let mut streams = JoinSet::new();
    while let Ok((open, stream)) = link.accept_stream().await {
        while streams.try_join_next().is_some() {}
        let Some(Purpose::Snapshot(wanted)) = open.purpose else {
            link.close(CloseCode::Violation, "geo serves snapshots only");
            return;
        };
        // overflow: a node with more streams than it can need breaks the protocol; the link ends.
        if streams.len() >= STREAMS_PER_LINK {
            link.close(CloseCode::Violation, "too many streams of snapshots");
            return;
        }
        streams.spawn(serve_stream(
            stream,
            wanted,
            snapshots.clone(),
            seen.clone(),
        ));
    }
}

async fn serve_stream(
    stream: Stream,
    wanted: SnapshotWanted,
    mut snapshots: watch::Receiver<Arc<Published>>,
    seen: Seen,
) {
    let peer = stream.link().peer().clone();
    let (pushes, mut requests) = stream.split::<SnapshotPush, SnapshotWanted>(QUEUE);
    seen.followers.inc();
    let _leaving = Leaving(&seen);
    let mut have = wanted.have_revision;
    tracing::info!(node = %peer.node, have, "a node follows the snapshot");
    let newest = snapshots.borrow().revision;
    if have > newest {
        tracing::error!(
            node = %peer.node, have, newest,
            "a node has a newer snapshot than geo and will not go back: geo's data directory was \
             lost or is another mesh's; restore it, or remove the node's snapshot.json"
        );
    }
    loop {
        let newest = Arc::clone(&snapshots.borrow_and_update());
        if newest.revision > have {
            let push = newest.for_roles(&peer.roles).clone();
            if pushes.send(Class::Control, push).await.is_err() {
                return;
            }
            seen.pushes.inc();
            have = newest.revision;
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            // Nothing more is asked on this stream; that it ended is news.
            _ = requests.recv() => return,
        }
    }
}

/// Counts a follower out, however its task ends.
struct Leaving<'a>(&'a Seen);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.followers.dec();
    }
}
