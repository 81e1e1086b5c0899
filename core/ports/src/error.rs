//! What can go wrong with a store, told apart by what the caller should do next.

use gb6_core_model::{Position, ShardEpoch};

/// An error of a port. `Clone`, because one failed sync answers every write that waited for it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else owns the shard. Stop serving it; never repeat the write under this fence.
    #[error("fenced: epoch {held} was held, the log is at epoch {current}")]
    Fenced {
        /// The epoch of the caller.
        held: ShardEpoch,
        /// The highest epoch known in the log.
        current: ShardEpoch,
    },
    /// The write does not fit what is there: a programming error or a lost race. Read again.
    #[error("conflict: {what}")]
    Conflict {
        /// What did not fit what.
        what: String,
    },
    /// The log takes no more writes.
    #[error("the log is sealed at position {at}")]
    Sealed {
        /// Its end.
        at: Position,
    },
    /// The position is no longer kept.
    #[error("the log begins at position {first}: what lies before was trimmed")]
    Trimmed {
        /// The first kept position.
        first: Position,
    },
    /// Nobody knows whether the write happened. Never repeat it blindly: acquire again and read
    /// what is there.
    #[error("outcome unknown: {cause}")]
    OutcomeUnknown {
        /// What happened.
        cause: String,
    },
    /// Nothing was written; it may work later.
    #[error("unavailable: {cause}")]
    Unavailable {
        /// What is missing.
        cause: String,
    },
    /// The log's writer has ended: this handle never writes again. Nothing was written; open the
    /// log again.
    #[error("the log is closed: its writer has ended, and it must be opened again")]
    Closed,
    /// Nothing was written: too much is waiting already. Slow down and repeat.
    #[error("backpressure: {waiting} bytes wait, the bound is {limit}")]
    Backpressure {
        /// Bytes that wait.
        waiting: u64,
        /// The bound in bytes.
        limit: u64,
    },
    /// Nothing was written: no space is left. It works again when there is; no restart is needed.
    #[error("storage full: {path}: free some space, writing resumes by itself")]
    StorageFull {
        /// Where.
        path: String,
    },
    /// Stored bytes are damaged. Never skipped in silence: an operator decides.
    #[error("corrupt: {segment} at byte {byte} (position {position}): {detail}")]
    Corrupt {
        /// The file.
        segment: String,
        /// The byte offset in it.
        byte: u64,
        /// The position expected there.
        position: Position,
        /// What is wrong.
        detail: String,
    },
    /// This engine can not do that, or was not compiled in.
    #[error("unsupported: {feature}")]
    Unsupported {
        /// What is not supported, or the feature to turn on.
        feature: &'static str,
    },
    /// The batch exceeds what the engine takes at once ([`crate::LogCaps`]).
    #[error("batch too large: {size} over the bound of {limit}")]
    TooLarge {
        /// Its size, in the unit of the bound.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// Another process has the data directory open.
    #[error("{path} is in use{}: stop that process or choose another data directory", holder_text(.holder))]
    Locked {
        /// The lock file.
        path: String,
        /// The process that holds it, where it said so.
        holder: Option<u32>,
    },
    /// The data was written by a newer version of this program.
    #[error(
        "{path} has format version {found}, this program reads up to {supported}: use a newer gb6"
    )]
    Format {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
        /// The newest that is understood.
        supported: u32,
    },
    /// The operating system refused.
    #[error("{operation} {path}: {detail}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the system answered.
        detail: String,
    },
}

fn holder_text(holder: &Option<u32>) -> String {
    match holder {
        Some(pid) => format!(" by process {pid}"),
        None => String::new(),
    }
}

impl StoreError {
    /// Whether the same call may simply be made again later: nothing was written, and what stood
    /// in the way passes by itself. Never true for [`StoreError::OutcomeUnknown`].
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable { .. }
                | StoreError::Backpressure { .. }
                | StoreError::StorageFull { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_outcomes_are_never_retryable() {
        let unknown = StoreError::OutcomeUnknown { cause: "x".into() };
        assert!(!unknown.retryable());
        assert!(!StoreError::Closed.retryable());
        let full = StoreError::StorageFull { path: "x".into() };
        assert!(full.retryable());
    }

    #[test]
    fn a_lock_names_its_holder() {
        let e = StoreError::Locked {
            path: "d/LOCK".into(),
            holder: Some(42),
        };
        assert!(e.to_string().contains("process 42"), "{e}");
    }
}
