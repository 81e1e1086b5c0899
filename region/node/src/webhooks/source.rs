//! The log on the side of a webhook: its consumer's position, and events from there on. Blocks.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::{ConsumerState, ShardLog, StoreError};
use gb6_core_wire::record::{Kind, Record};

use super::event::Event;
use super::feed::Next;
use crate::bodies::RecordKeys;

/// Records read from the log at once while catching up.
const PAGE_RECORDS: usize = 4096;
/// Bytes of these.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Events read at once: a few requests.
pub(super) const EVENTS_MAX: usize = 500;

/// The log of one shard, as the webhook of one instance reads it.
pub(super) struct Source {
    pub(super) log: Arc<dyn ShardLog>,
    pub(super) keys: Arc<RecordKeys>,
    pub(super) instance: String,
}

/// Where the consumer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// It had lapsed: retention did not wait for it, and events may be gone.
    pub(super) lapsed: bool,
}

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) events: Vec<Event>,
    /// Records of sessions that make no event.
    pub(super) skipped: u64,
    /// Everything before it is read.
    pub(super) to: Position,
}

/// The name of the consumer of an instance's webhook.
pub(super) fn consumer_name(instance: &str) -> String {
    format!("{CONSUMER_PREFIX}{instance}")
}

/// What the names of such consumers begin with.
pub(super) const CONSUMER_PREFIX: &str = "webhook.";

impl Source {
    /// Registers the consumer: where it was, or at the log's end if it is new.
    pub(super) fn register(&self) -> Result<Place, StoreError> {
        let stored = self.stored()?;
        let end = self.log.range()?.next;
        let position = stored.as_ref().map_or(end, |stored| stored.position);
        self.register_at(position, stored.is_some_and(|stored| stored.lapsed))
    }

    fn stored(&self) -> Result<Option<ConsumerState>, StoreError> {
        let name = consumer_name(&self.instance);
        let mut consumers = self.log.consumers()?.into_iter();
        Ok(consumers.find(|consumer| consumer.name == name))
    }

    /// Registers it at `position`, or where the log still begins.
    fn register_at(&self, position: Position, lapsed: bool) -> Result<Place, StoreError> {
        let from = position.max(self.log.range()?.first);
        let name = consumer_name(&self.instance);
        let position = self.log.register_consumer(&name, from)?.position;
        Ok(Place { position, lapsed })
    }

    /// Reads what [`Next`] names, from `from` on.
    pub(super) fn read(&self, from: Position, next: Next) -> Result<Read, StoreError> {
        match next {
            Next::Nothing(to) => Ok(Read {
                to,
                ..Read::default()
            }),
            Next::At(positions, to) => {
                let records = self.log.read_at(&positions)?;
                let mut read = Read {
                    to,
                    ..Read::default()
                };
                // One that is not there any more went with retention.
                for record in records.into_iter().flatten() {
                    self.take(record, &mut read);
                }
                Ok(read)
            }
            Next::Scan => self.scan(from),
        }
    }

    fn scan(&self, from: Position) -> Result<Read, StoreError> {
        let page = self.log.read(from, PAGE_RECORDS, PAGE_BYTES)?;
        let mut read = Read {
            to: page.next,
            ..Read::default()
        };
        for record in page.records {
            if record.kind != Kind::Session as i32 || record.instance != self.instance {
                continue;
            }
            if read.events.len() >= EVENTS_MAX {
                read.to = record.position;
                break;
            }
            self.take(record, &mut read);
        }
        Ok(read)
    }

    fn take(&self, record: Record, read: &mut Read) {
        // The tenant is part of every key: what is not the instance's own is told to nobody.
        if record.instance != self.instance {
            return;
        }
        let position = record.position;
        match Event::of(record, &self.keys) {
            Ok(event) => read.events.push(event),
            Err(error) => {
                read.skipped += 1;
                tracing::warn!(instance = %self.instance, position, %error, "an event is left out of the webhook");
            }
        }
    }
}
