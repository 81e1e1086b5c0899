//! Counters that live in the mesh and in the logs, on `/metrics`.

use std::sync::Arc;

use gb6_core_mesh::snapshot::SnapshotStats;
use gb6_core_mesh::{FailureReason, MeshStats};
use gb6_core_obs::{Metrics, Registration};

/// The links of an endpoint; `node` tells two endpoints of one process apart.
pub(super) fn mesh(metrics: &Metrics, node: &str, stats: &Arc<MeshStats>) -> Registration {
    let (stats, node) = (Arc::clone(stats), node.to_owned());
    metrics.collect(move |out| {
        let labels = [("node", node.as_str())];
        let up = stats.links_up.get();
        let down = stats.links_down.get();
        out.gauge(
            "gb6_mesh_links",
            "Mesh links that are up.",
            &labels,
            up.saturating_sub(down) as f64,
        );
        for (name, help, counter) in [
            (
                "gb6_mesh_links_up_total",
                "Mesh links that came up.",
                &stats.links_up,
            ),
            (
                "gb6_mesh_links_down_total",
                "Mesh links that ended.",
                &stats.links_down,
            ),
            (
                "gb6_mesh_streams_opened_total",
                "Streams that this node opened.",
                &stats.streams_opened,
            ),
            (
                "gb6_mesh_streams_accepted_total",
                "Streams that peers opened.",
                &stats.streams_accepted,
            ),
            (
                "gb6_mesh_streams_refused_total",
                "Streams refused because their first frame was late or said no known purpose.",
                &stats.streams_refused,
            ),
            (
                "gb6_mesh_frames_out_total",
                "Frames queued for sending.",
                &stats.frames_out,
            ),
            (
                "gb6_mesh_bytes_out_total",
                "Bytes of frames queued for sending.",
                &stats.bytes_out,
            ),
            (
                "gb6_mesh_frames_in_total",
                "Frames received.",
                &stats.frames_in,
            ),
            (
                "gb6_mesh_bytes_in_total",
                "Bytes received on streams.",
                &stats.bytes_in,
            ),
            (
                "gb6_mesh_frames_bad_total",
                "Received frames that broke the framing or were too large.",
                &stats.frames_bad,
            ),
            (
                "gb6_mesh_queue_full_total",
                "Frames that found their queue full.",
                &stats.queue_full,
            ),
            (
                "gb6_mesh_datagrams_out_total",
                "Datagrams sent.",
                &stats.datagrams_out,
            ),
            (
                "gb6_mesh_datagrams_in_total",
                "Datagrams received.",
                &stats.datagrams_in,
            ),
            (
                "gb6_mesh_datagrams_dropped_total",
                "Datagrams dropped because the receiver's queue was full.",
                &stats.datagrams_dropped,
            ),
        ] {
            out.counter(name, help, &labels, counter.get());
        }
        for reason in FailureReason::ALL {
            let labels = [("node", node.as_str()), ("reason", reason.as_str())];
            out.counter(
                "gb6_mesh_dial_failures_total",
                "Dials that failed, by reason.",
                &labels,
                stats.dial_failures(reason),
            );
            out.counter(
                "gb6_mesh_accept_failures_total",
                "Incoming connections that failed, by reason.",
                &labels,
                stats.accept_failures(reason),
            );
        }
    })
}

/// The placement snapshot that a node works by.
pub(super) fn snapshot(metrics: &Metrics, stats: &Arc<SnapshotStats>) -> Registration {
    let stats = Arc::clone(stats);
    metrics.collect(move |out| {
        out.gauge(
            "gb6_snapshot_revision",
            "Revision of the placement snapshot in use.",
            &[],
            stats.revision() as f64,
        );
        out.gauge(
            "gb6_snapshot_following",
            "Whether geo is being followed now (1), or the kept snapshot serves (0).",
            &[],
            f64::from(u8::from(stats.following())),
        );
        for (name, help, counter) in [
            (
                "gb6_snapshot_taken_total",
                "Snapshots taken over from geo.",
                &stats.taken,
            ),
            (
                "gb6_snapshot_refused_total",
                "Snapshots from geo that could not be worked by.",
                &stats.refused,
            ),
            (
                "gb6_snapshot_not_kept_total",
                "Snapshots that could not be kept on disk.",
                &stats.not_kept,
            ),
            (
                "gb6_snapshot_interrupted_total",
                "Times that geo was lost or not reached.",
                &stats.interrupted,
            ),
        ] {
            out.counter(name, help, &[], counter.get());
        }
    })
}
