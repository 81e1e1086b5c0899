//! A sealed object that is read by parts, through a cache that all shards of a node share.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_ports::{BlobKey, BlobStore, StoreError};
use parking_lot::Mutex;

use crate::lru::Lru;
use crate::metrics::Metrics;
use crate::read_at::{ReadAt, carry};

/// Bytes that are read and kept together.
const BLOCK: u64 = 256 * 1024;

/// Blocks of objects by key and number. Objects never change under a key, so what is here stays true.
pub(crate) struct Blocks {
    kept: Mutex<Lru<(BlobKey, u64), Bytes>>,
    metrics: Metrics,
}

impl Blocks {
    pub(crate) fn new(bytes_max: usize, metrics: Metrics) -> Self {
        Self {
            kept: Mutex::new(Lru::new(bytes_max)),
            metrics,
        }
    }

    fn get(&self, key: &BlobKey, block: u64) -> Option<Bytes> {
        let found = self.kept.lock().get(&(key.clone(), block));
        match found {
            Some(_) => self.metrics.cache_hits.inc(),
            None => self.metrics.cache_misses.inc(),
        }
        found
    }

    fn put(&self, key: &BlobKey, block: u64, bytes: Bytes) {
        let mut kept = self.kept.lock();
        let weight = bytes.len();
        kept.put((key.clone(), block), bytes, weight);
        self.metrics.cache_bytes.set(kept.weight() as i64);
    }
}

/// An object as a segment's reader sees it.
pub(crate) struct Object {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) key: BlobKey,
    /// Its bytes as whoever named it says.
    pub(crate) len: u64,
    /// `None`: for who reads all of it once.
    pub(crate) blocks: Option<Arc<Blocks>>,
}

impl Object {
    /// Reads from the store: all of the range, or the error of an object that is not there or too short.
    fn fetch(&self, from: u64, to: u64) -> io::Result<Bytes> {
        let found = self.blobs.get_range(&self.key, from..to).map_err(carry)?;
        let Some(bytes) = found else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if bytes.len() as u64 == to - from {
            return Ok(bytes);
        }
        Err(carry(StoreError::Corrupt {
            segment: self.key.to_string(),
            byte: from + bytes.len() as u64,
            position: 0,
            detail: format!(
                "the object ends before byte {to} of the {} it had",
                self.len
            ),
        }))
    }

    /// The blocks from `first` up to `end`: those that are not kept are read together.
    fn blocks(&self, blocks: &Blocks, first: u64, end: u64) -> io::Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> =
            (first..end).map(|n| blocks.get(&self.key, n)).collect();
        let mut at = 0;
        while at < found.len() {
            if found[at].is_some() {
                at += 1;
                continue;
            }
            let missing = found[at..].iter().take_while(|b| b.is_none()).count();
            let from = (first + at as u64) * BLOCK;
            let to = (from + missing as u64 * BLOCK).min(self.len);
            let mut bytes = self.fetch(from, to)?;
            for slot in &mut found[at..at + missing] {
                let n = bytes.len().min(BLOCK as usize);
                // A copy: a block that is kept does not keep its neighbours' memory.
                let block = Bytes::copy_from_slice(&bytes.split_to(n));
                *slot = Some(block);
            }
            for (n, slot) in found[at..at + missing].iter().enumerate() {
                if let Some(block) = slot {
                    blocks.put(&self.key, first + (at + n) as u64, block.clone());
                }
            }
            at += missing;
        }
        Ok(found.into_iter().flatten().collect())
    }
}

impl ReadAt for Object {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let to = self.len.min(offset.saturating_add(buf.len() as u64));
        if offset >= to {
            return Ok(0);
        }
        let n = (to - offset) as usize;
        let Some(blocks) = &self.blocks else {
            buf[..n].copy_from_slice(&self.fetch(offset, to)?);
            return Ok(n);
        };
        let first = offset / BLOCK;
        let parts = self.blocks(blocks, first, to.div_ceil(BLOCK))?;
        let mut done = 0;
        for (number, part) in (first..).zip(parts) {
            let begin = (offset + done as u64 - number * BLOCK) as usize;
            let part = &part[begin.min(part.len())..];
            let take = part.len().min(n - done);
            buf[done..done + take].copy_from_slice(&part[..take]);
            done += take;
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
