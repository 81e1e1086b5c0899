//! Opening a directory that is archived: as it is, or, where it is empty, from its archive.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::StoreError;
use gb6_region_archive::Archive;
use gb6_region_archive::checkpoint::damage;

use super::Archiving;
use super::marker::{Marker, MarkerFile};
use super::overlay::{Behind, Overlay};
use super::witness;
use crate::log::{CONSUMERS_FILE, checkpoint_name, segment_seq};
use crate::vfs::{Named, Vfs, replace_file};

/// A directory that was opened.
pub(crate) struct Opened<V: Vfs> {
    pub(crate) vfs: Overlay<V>,
    pub(crate) marker: Arc<MarkerFile<V>>,
    /// It held no log: before this one is owned, the archive must be.
    pub(crate) empty: bool,
    /// The position where a log that was restored goes on.
    pub(crate) restored: Option<Position>,
}

/// Opens the directory `local`, of which `archive` has a copy.
pub(crate) fn open<V: Vfs>(
    local: V,
    archive: &Arc<Archive>,
    archiving: &Archiving,
) -> Result<Opened<V>, StoreError> {
    let names = local.list().named(&local, "list", "")?;
    let empty = !names.iter().any(|name| segment_seq(name).is_some());
    let marker_file = Arc::new(MarkerFile::new(local.clone()));
    let marker = marker_file.load()?;
    match archive.refresh() {
        Ok(_) => {}
        // A log that is whole on the disk is served whether or not its archive can be reached.
        Err(e) if !empty && marker.before == 0 => {
            tracing::warn!(error = %e, "the archive of the log can not be read: it is tried again");
        }
        Err(e) => return Err(e),
    }
    if !empty {
        let (epoch, _) = archive.owner();
        if !marker.knows(archive.owner()) {
            return Err(StoreError::Conflict {
                what: format!(
                    "node {} has gone on from the archive of the log in {} with epoch {epoch}: stop that \
                     node, or move this directory away and start without it",
                    archive.node(),
                    local.path("")
                ),
            });
        }
        let behind = Behind::new(archive.clone(), &marker, marker_file.clone());
        return Ok(Opened {
            vfs: Overlay::new(local, behind),
            marker: marker_file,
            empty,
            restored: None,
        });
    }
    let restored = archive.range().next > 0;
    if restored && archive.node() != archiving.node && !archiving.take_over {
        return Err(StoreError::Conflict {
            what: format!(
                "{} holds no log, and the archive is of node {}: start that node, or, if it is gone for \
                 ever, allow this one to take its archives over",
                local.path(""),
                archive.node()
            ),
        });
    }
    let marker = match restored {
        true => {
            witness::ask(archive, archiving)?;
            // Whatever its owner did meanwhile.
            archive.refresh()?;
            restore(&local, archive)?
        }
        false => Marker {
            owners: vec![archive.owner()],
            ..Marker::default()
        },
    };
    let marker = marker_file.change(|_| marker)?;
    let behind = Behind::new(archive.clone(), &marker, marker_file.clone());
    Ok(Opened {
        vfs: Overlay::new(local, behind),
        marker: marker_file,
        empty,
        restored: restored.then(|| archive.range().next),
    })
}

/// Writes what a log needs beside its segments into an empty directory, and answers how it belongs to its
/// archive. A start that ends in between begins it again.
fn restore<V: Vfs>(local: &V, archive: &Arc<Archive>) -> Result<Marker, StoreError> {
    let owner = archive.owner();
    let (range, segments) = (archive.range(), archive.segments());
    let Some(last) = segments.last() else {
        return Err(StoreError::Corrupt {
            segment: local.path(""),
            byte: 0,
            position: range.next,
            detail:
                "the archive ends at this position and holds no segment: restore it from a copy"
                    .into(),
        });
    };
    let marker = Marker {
        before: last.header.seq + 1,
        removed: 0,
        owners: vec![owner],
    };
    for position in archive.checkpoints() {
        let name = checkpoint_name(position);
        match archive.checkpoint_bytes(position) {
            Ok(Some(bytes)) if damage(&bytes, position).is_none() => {
                replace_file(local, &name, &bytes)?;
            }
            // The other one leads to the same.
            Ok(_) | Err(StoreError::Corrupt { .. }) => {
                tracing::warn!(
                    position,
                    "a checkpoint in the archive is damaged and passed over"
                );
            }
            Err(e) => return Err(e),
        }
    }
    let consumers = archive.consumer_list()?;
    let consumers = consumers.not_ahead_of(range.next);
    replace_file(local, CONSUMERS_FILE, consumers.encode().as_bytes())?;
    Ok(marker)
}
