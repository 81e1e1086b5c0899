//! The owner's other work: what lies in Kafka is moved to the archive and deleted there, in time or
//! because somebody asks; and what of the archive only an owner may change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::Position;
use gb6_core_ports::{Fence, Retain, StoreError};
use gb6_core_wire::record::Record;
use parking_lot::Mutex;

use crate::chores::Chore;
use crate::reading::Reader;
use crate::shared::Shared;

/// How often it is looked whether something is to be moved.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How often a handle that does not own the shard asks what others have archived, beyond which it keeps
/// no more of the live part than twice what an owner does.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a broker may take to say where a partition goes on.
const PROBE: Duration = Duration::from_millis(500);
/// Pause before that is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Records read at once.
const PAGE_RECORDS: usize = 4096;
/// Bytes of these.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why something is sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There is enough of it, or it has lain there for long.
    Due,
    /// A segment of its own is asked for.
    Asked,
}

/// See the module.
pub(crate) struct Sealer {
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    /// Held while something is moved.
    moving: Mutex<Moving>,
    pace: Mutex<Pace>,
}

/// When the owner's other work was done, and is to be.
struct Pace {
    /// Nothing had to be moved.
    since: Instant,
    not_before: Instant,
    /// The last attempt failed, and was told.
    failing: bool,
}

#[derive(Default)]
struct Moving {
    /// The offset before which Kafka was told to delete.
    deleted: u64,
    /// The ownership under which the archive was begun.
    begun: Option<Fence>,
}

impl Sealer {
    pub(crate) fn new(shared: Arc<Shared>, reader: Arc<Reader>) -> Self {
        Self {
            shared,
            reader,
            moving: Mutex::default(),
            pace: Mutex::new(Pace {
                since: Instant::now(),
                not_before: Instant::now(),
                failing: false,
            }),
        }
    }

    /// The ownership of this handle.
    pub(crate) fn fence(&self) -> Result<Fence, StoreError> {
        self.shared.live(|live| live.fence())
    }

    /// Moves everything that is committed now to the archive.
    fn seal(&self, fence: &Fence, why: Why) -> Result<(), StoreError> {
        let mut moving = self.moving.lock();
        if moving.begun.as_ref() != Some(fence) {
            // Owners before this one change nothing there from now on, and what they did is known.
            self.shared.archive.begin(fence)?;
            self.shared.adopt(None)?;
            moving.begun = Some(fence.clone());
        }
        let sealed = self.move_to_archive(fence, why);
        if matches!(sealed, Err(StoreError::Conflict { .. })) {
            // It is not as it was known: what is there now is read.
            self.shared.refresh()?;
        }
        sealed?;
        self.delete(&mut moving)
    }

    fn move_to_archive(&self, fence: &Fence, why: Why) -> Result<(), StoreError> {
        let shared = &self.shared;
        let (tail, bytes) = shared.live(|live| live.end());
        let unarchived = shared.unarchived();
        let about_bytes = match why {
            Why::Due => unarchived.bytes,
            // What is asked for by position is not to become part of something larger.
            Why::Asked => 0,
        };
        let mut sealer = shared.archive.sealer(fence, about_bytes)?;
        if sealer.next() < shared.live_from() {
            return Err(StoreError::Conflict {
                what: "the archive ends before what is known to be archived".into(),
            });
        }
        if sealer.next() >= tail.next {
            return shared.adopt(None);
        }
        while sealer.next() < tail.next {
            // What is uploaded so far is forgotten: the next owner, or this one when it is opened again,
            // begins anew.
            if shared.is_stopped() {
                return Err(StoreError::Closed);
            }
            let from = sealer.next();
            let page = self.reader.read(from, PAGE_RECORDS, PAGE_BYTES)?;
            for record in page.records.iter().take_while(|r| r.position < tail.next) {
                sealer.push(record)?;
            }
            if sealer.next() == from {
                return Err(StoreError::Unavailable {
                    cause: format!("position {from} can not be read to be archived"),
                });
            }
        }
        sealer.finish(tail.encode().into())?;
        let metrics = &shared.cluster.told.metrics;
        metrics.archived_bytes.inc_by(unarchived.bytes);
        shared.adopt(Some(bytes))
    }

    /// Deletes from Kafka what the archive has.
    fn delete(&self, moving: &mut Moving) -> Result<(), StoreError> {
        let shared = &self.shared;
        let offset = shared.live(|live| live.kept().begin().offset);
        if offset > moving.deleted {
            shared.cluster.delete_before(shared.shard, offset)?;
            moving.deleted = offset;
        }
        Ok(())
    }

    /// As [`gb6_core_ports::ShardLog::seal_around`].
    pub(crate) fn seal_around(
        &self,
        fence: &Fence,
        position: Position,
    ) -> Result<Option<u64>, StoreError> {
        self.shared.look(fence)?;
        if position >= self.shared.unarchived().next {
            return Ok(None);
        }
        if position >= self.shared.live_from() {
            self.seal(fence, Why::Asked)?;
        }
        Ok(self.shared.archive.segment_of(position))
    }

    /// As [`gb6_core_ports::ShardLog::trim`].
    pub(crate) fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        self.shared.look(fence)?;
        let unarchived = self.shared.unarchived();
        let first = self.shared.archive.trim(fence, to, unarchived)?;
        self.shared
            .change(|live| live.first = live.first.max(first));
        Ok(first)
    }

    /// As [`gb6_core_ports::ShardLog::rewrite`].
    pub(crate) fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.shared.look(fence)?;
        // What is to be erased must be gone from Kafka too, where it was not deleted before; others may
        // have archived it.
        self.shared.adopt(None)?;
        self.delete(&mut self.moving.lock())?;
        self.shared.archive.rewrite(fence, segment, retain)
    }

    /// As [`gb6_core_ports::ShardLog::save_checkpoint`].
    pub(crate) fn save_checkpoint(
        &self,
        position: Position,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let fence = self.fence()?;
        self.shared.archive.save_checkpoint(&fence, position, state)
    }

    /// Moves what is due, if this handle owns the shard; learns what was moved, if not.
    fn look(&self, since: &mut Instant) -> Result<(), StoreError> {
        let config = &self.shared.cluster.config;
        let bytes = self.shared.unarchived().bytes;
        let Ok(fence) = self.fence() else {
            let many = bytes > 2 * config.live_bytes_max && since.elapsed() > AGAIN;
            if many || since.elapsed() > REFRESH {
                *since = Instant::now();
                self.shared.refresh()?;
            }
            return Ok(());
        };
        if bytes == 0 {
            *since = Instant::now();
            return self.delete(&mut self.moving.lock());
        }
        if bytes >= config.live_bytes_max || since.elapsed() >= config.archive_after {
            self.seal(&fence, Why::Due)?;
            *since = Instant::now();
        }
        Ok(())
    }
}

impl Chore for Sealer {
    fn work(&self) -> Duration {
        let shared = &self.shared;
        if shared.find_place(PROBE) {
            return PAUSE;
        }
        self.reader.forget_unused();
        let mut pace = self.pace.lock();
        if Instant::now() < pace.not_before {
            return LOOK;
        }
        let looked = self.look(&mut pace.since);
        if shared.is_stopped() {
            return LOOK;
        }
        if let Err(error) = &looked {
            pace.not_before = Instant::now() + AGAIN;
            shared.cluster.told.metrics.archive_failures.inc();
            if !pace.failing {
                tracing::warn!(topic = shared.topic, shard = %shared.shard, %error, "what is committed can not be archived now, and is kept in Kafka; it is tried again");
            }
        }
        pace.failing = looked.is_err();
        LOOK
    }
}
