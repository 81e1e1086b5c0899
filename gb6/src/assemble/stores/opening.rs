//! From the table `stores` to a region's engines and record keys.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use gb6_core_model::NodeId;
use gb6_core_model::snapshot::Snapshot;
use gb6_region_node::RecordKeys;
use tokio::sync::watch;

use super::{Engines, Opened, Place, Storage};
use crate::assemble::node::NodeParts;
use crate::assemble::record_keys::{Cover, KeyFile, SharedKeys, follow, kept_keys};
use crate::assemble::sealing::{RECORD_KEYS, load_sealer};
use crate::config::StoresTable;

/// What engines are opened for.
#[derive(Debug)]
pub(in crate::assemble) struct Opening<'a> {
    pub(in crate::assemble) table: &'a StoresTable,
    pub(in crate::assemble) data_dir: &'a Path,
    pub(in crate::assemble) node: &'a NodeId,
    pub(in crate::assemble) region: String,
    pub(in crate::assemble) shards: u32,
}

/// Everything that a region keeps its things in.
pub(in crate::assemble) struct Ready {
    pub(in crate::assemble) opened: Opened,
    pub(in crate::assemble) record_keys: RecordKeys,
    /// The placement, each one when there are keys for all instances in it.
    pub(in crate::assemble) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(in crate::assemble) storage: Storage,
    pub(in crate::assemble) parts: NodeParts,
}

impl Opening<'_> {
    /// Opens the engines, and the record keys where the table says that they are.
    ///
    /// # Errors
    /// An engine can not be reached or is not as it must be; a record key can not be had.
    pub(in crate::assemble) async fn open(
        self,
        storage: Storage,
        mut parts: NodeParts,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> anyhow::Result<Ready> {
        let engines = Engines::of(self.table)?;
        let Self {
            table,
            data_dir,
            node,
            region,
            shards,
        } = self;
        let node = node.clone();
        let key_file = table.record_key_file.clone();
        let dir = data_dir.to_owned();
        let runtime = tokio::runtime::Handle::current();
        // Their clients are waited for, which no thread of the runtime may be.
        let opening = tokio::task::spawn_blocking(move || {
            let place = Place {
                region: &region,
                node: node.as_str(),
                shards,
            };
            let opened = engines.open(place, &storage, &mut parts, &runtime)?;
            let has_logs = || Ok(storage.has_logs() || opened.has_archived(shards)?);
            let keeper: Box<dyn Cover> = match &opened.map {
                None => Box::new(KeyFile::open(&dir, &node, has_logs)?),
                Some(map) => {
                    let sealer = load_sealer(Path::new(&key_file), RECORD_KEYS)?;
                    let before = kept_keys(&dir)?;
                    let map = map.clone();
                    Box::new(SharedKeys::open(map, &region, sealer, before, has_logs)?)
                }
            };
            Ok::<_, anyhow::Error>((opened, keeper, storage, parts))
        });
        let opening = opening.await.context("opening the engines failed")?;
        let (opened, keeper, storage, parts) = opening?;
        let record_keys = keeper.keys();
        let snapshot = follow(keeper, snapshot).await?;
        Ok(Ready {
            opened,
            record_keys,
            snapshot,
            storage,
            parts,
        })
    }
}
