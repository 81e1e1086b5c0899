//! Questions of an owner to its log whether it still owns the shard. Each is a batch without records: when
//! Kafka has it as durably as any other, and everything before it was read, no acquisition that ended
//! before the question is unknown. A broker that no longer leads the partition, and does not know, can not
//! take it; its word about the partition's end would prove nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_ports::{Fence, StoreError};

use crate::frame::FrameHeader;

/// Most questions of one handle at once: each has a thread that waits.
const CONFIRMS_MAX: usize = 64;

/// A question that waits for its answer.
pub(crate) struct Confirm {
    pub(crate) fence: Fence,
    pub(crate) header: FrameHeader,
    pub(crate) message: Bytes,
    /// Where Kafka says that it lies.
    pub(crate) offset: Option<u64>,
    /// Why it did not get there.
    pub(crate) failed: Option<StoreError>,
}

/// Those of one handle, by token.
#[derive(Default)]
pub(crate) struct Confirms(BTreeMap<u64, Confirm>);

impl Confirms {
    /// Whether there is room for another.
    ///
    /// # Errors
    /// `Unavailable`: there is none.
    pub(crate) fn check_room(&self) -> Result<(), StoreError> {
        // overflow: refused; whoever asks may ask again.
        if self.0.len() < CONFIRMS_MAX {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            cause: format!("{CONFIRMS_MAX} questions to this shard's log wait already"),
        })
    }

    pub(crate) fn add(&mut self, token: u64, confirm: Confirm) {
        self.0.insert(token, confirm);
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget(&mut self, token: u64) {
        self.0.remove(&token);
    }

    pub(crate) fn get(&self, token: u64) -> Option<&Confirm> {
        self.0.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut Confirm> {
        self.0.get_mut(&token)
    }

    /// The one at `offset`.
    pub(crate) fn at(&self, offset: u64) -> Option<&Confirm> {
        self.0
            .values()
            .find(|confirm| confirm.offset == Some(offset))
    }

    /// Whether one lies behind `offset`.
    pub(crate) fn any_behind(&self, offset: u64) -> bool {
        let is_behind = |confirm: &Confirm| confirm.offset.is_some_and(|at| at > offset);
        self.0.values().any(is_behind)
    }
}
