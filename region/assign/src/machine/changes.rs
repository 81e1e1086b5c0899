//! Changes of records: each by compare-and-set, one of a record at a time, and how they end.

use gb6_core_model::NodeId;

use crate::interface::{Action, Expected, Written};
use crate::records::{Key, RecordError, ShardRecord, node_key, shard_key};

use super::Assigner;

/// A change that was begun.
pub(super) struct InFlight {
    /// What the record becomes; `None`: it is removed.
    value: Option<Vec<u8>>,
    /// The revision that was known then.
    known: Option<u64>,
    /// Its outcome must be read: nothing else is written meanwhile.
    unread: bool,
    /// The store went back since: its outcome says nothing, the looks tell what is there.
    pub(super) outdated: bool,
    /// The owner of a shard with it.
    pub(super) owner: Option<NodeId>,
}

impl Assigner {
    /// A record as it is behind a change of it that failed.
    pub(super) fn read(
        &mut self,
        key: &str,
        record: Option<(Vec<u8>, u64)>,
    ) -> Result<(), RecordError> {
        let Some(in_flight) = self.in_flight.get(key) else {
            return Ok(());
        };
        if !in_flight.unread {
            return Ok(());
        }
        let (known, outdated) = (in_flight.known, in_flight.outdated);
        self.in_flight.remove(key);
        if outdated {
            return Ok(());
        }
        let unchanged = record.as_ref().map(|(_, revision)| *revision) == known;
        if let (Some(known), true, Some(Key::Shard(shard))) =
            (known, unchanged, Key::parse(&self.config.region, key))
        {
            self.unsettled.insert(shard, known);
        }
        match record {
            Some((value, revision)) => self.record(key, Some(&value), revision),
            // It is gone; unless somebody wrote it after that was read, which the next look told. Whoever
            // writes it next may get the very next revision.
            None => match known {
                Some(known) if self.revision(key) == Some(known) => self.record(key, None, known),
                _ => Ok(()),
            },
        }
    }

    /// A change ended.
    pub(super) fn written(&mut self, key: String, outcome: Written) -> Result<(), RecordError> {
        let own = key == node_key(&self.config.region, &self.config.node);
        match outcome {
            Written::Done(revision) => {
                let Some(done) = self.in_flight.remove(&key) else {
                    return Ok(());
                };
                if done.outdated {
                    return Ok(());
                }
                let mut heard_again = false;
                if own && done.value.is_none() {
                    self.ended = true;
                    self.actions.push_back(Action::Drained);
                } else if own {
                    if self.now_ms >= self.fresh_until {
                        self.sure_after = revision;
                    }
                    // One that takes beats slowly takes those of all, and who is silent is dead. The last beats
                    // of others may have been taken two beats before this node's.
                    let lasts = self.config.lease_ms.saturating_sub(2 * self.config.beat_ms);
                    let lasted = self.now_ms >= self.beat_taken + lasts;
                    heard_again = self.beat_refused && lasted;
                    self.beat_taken = self.now_ms;
                    self.beat_refused = false;
                    let relies = self.config.lease_ms.saturating_sub(self.config.margin_ms);
                    self.fresh_until = self.fresh_until.max(self.beat_begun + relies);
                }
                let result = self.record(&key, done.value.as_deref(), revision);
                if heard_again {
                    self.view.heard_again(&self.config.node);
                }
                result
            }
            Written::NotAsExpected | Written::Unknown => {
                self.beat_refused |= own;
                if let Some(in_flight) = self.in_flight.get_mut(&key) {
                    in_flight.unread = true;
                }
                Ok(())
            }
            Written::Failed => {
                self.beat_refused |= own;
                self.in_flight.remove(&key);
                let again = self.now_ms + self.config.beat_ms / 2;
                self.not_before.insert(key, again);
                Ok(())
            }
        }
    }

    /// The revision at which a record was last changed, as far as is known; `None`: there is none.
    pub(super) fn revision(&self, key: &str) -> Option<u64> {
        match Key::parse(&self.config.region, key)? {
            Key::Node(name) => {
                let seen = self.view.nodes.get(&name)?;
                seen.record.as_ref().map(|_| seen.revision)
            }
            Key::Shard(shard) => {
                let seen = self.view.shards.get(&shard)?;
                (!seen.gone).then_some(seen.revision)
            }
        }
    }

    /// Begins a change of a record, unless one is under way.
    pub(super) fn change(&mut self, key: String, value: Option<Vec<u8>>, owner: Option<NodeId>) {
        let waits = self
            .not_before
            .get(&key)
            .is_some_and(|at| self.now_ms < *at);
        if waits || self.in_flight.contains_key(&key) {
            return;
        }
        self.not_before.remove(&key);
        let known = self.revision(&key);
        let expected = known.map_or(Expected::Absent, Expected::Revision);
        let in_flight = InFlight {
            value: value.clone(),
            known,
            unread: false,
            outdated: false,
            owner,
        };
        self.in_flight.insert(key.clone(), in_flight);
        self.actions.push_back(match value {
            Some(value) => Action::Put {
                key,
                value,
                expected,
            },
            None => Action::Delete { key, expected },
        });
    }

    /// Begins a change of a shard's record.
    pub(crate) fn assign(&mut self, shard: u32, record: &ShardRecord) {
        let key = shard_key(&self.config.region, shard);
        self.change(key, Some(record.encode()), record.node.clone());
    }

    /// Whether a change of a shard's record is under way.
    pub(crate) fn is_changing(&self, shard: u32) -> bool {
        let key = shard_key(&self.config.region, shard);
        self.in_flight.contains_key(&key)
    }
}
