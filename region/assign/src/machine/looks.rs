//! What a look at the store, or at one record of it, tells the machine.

use crate::interface::Action;
use crate::records::{Key, NodeRecord, RecordError, ShardRecord};

use super::Assigner;

/// The longest time between two looks that counts as looking.
const LOOK_MAX_MS: u64 = 500;

impl Assigner {
    /// Everything that has changed since the look before.
    pub(super) fn looked(
        &mut self,
        begun_ms: u64,
        entries: Vec<(String, Option<Vec<u8>>, u64)>,
    ) -> Result<(), RecordError> {
        // Time in which nobody looked is nobody's silence.
        let step = match self.looked_at {
            Some(at) => begun_ms.saturating_sub(at).min(LOOK_MAX_MS),
            None => 0,
        };
        self.looked_at = self.looked_at.max(Some(begun_ms));
        self.view.looked_for(step);
        self.looked_ms += step;
        self.same_ms += step;
        let mut result = Ok(());
        for (key, value, revision) in entries {
            if let Err(error) = self.record(&key, value.as_deref(), revision) {
                result = Err(error);
            }
        }
        let takers = self.view.takers(self.config.lease_ms);
        if takers != self.takers {
            self.takers = takers;
            self.same_ms = 0;
        }
        let able = self.able_of(&self.takers);
        if able != self.able {
            self.able = able;
            self.same_ms = 0;
        }
        result
    }

    /// The store went back. Whoever has looked since may have taken this node for dead, and what this
    /// node was told to own may have been forgotten.
    pub(super) fn restored(&mut self) {
        self.view.restored();
        self.looked_at = None;
        self.fresh_until = 0;
        self.unsettled.clear();
        for change in self.in_flight.values_mut() {
            change.outdated = true;
        }
    }

    /// A record as it is.
    pub(super) fn record(
        &mut self,
        key: &str,
        value: Option<&[u8]>,
        revision: u64,
    ) -> Result<(), RecordError> {
        // Time is counted from where the last look began, a record written after that.
        let begun = self.looked_at.unwrap_or(self.now_ms);
        self.view.look_ms = self.now_ms.saturating_sub(begun).min(LOOK_MAX_MS);
        match Key::parse(&self.config.region, key) {
            None => {}
            Some(Key::Node(name)) => {
                let record = value.map(|v| NodeRecord::decode(key, v)).transpose()?;
                let ours = name == self.config.node;
                let other = record
                    .as_ref()
                    .is_some_and(|r| r.incarnation != self.config.incarnation);
                let seen = self.view.nodes.get(&name);
                let newer = seen.is_none_or(|seen| revision > seen.revision && !seen.outdated);
                // It was written over what this life has said.
                if ours && other && self.beat > 0 && self.has_said() && newer {
                    self.replaced();
                }
                self.view.node(&name, record, revision);
            }
            Some(Key::Shard(shard)) if shard < self.config.shards => {
                match value.map(|v| ShardRecord::decode(key, v)).transpose() {
                    Ok(record) => self.view.shard(shard, record, revision),
                    Err(error) => {
                        self.view.unreadable.insert(shard);
                        return Err(error);
                    }
                }
            }
            Some(Key::Shard(_)) => {}
        }
        Ok(())
    }

    /// Whether the store has a record of this life, as far as is known.
    pub(super) fn has_said(&self) -> bool {
        let seen = self.view.nodes.get(&self.config.node);
        let record = seen.and_then(|seen| seen.record.as_ref());
        record.is_some_and(|record| record.incarnation == self.config.incarnation)
    }

    fn replaced(&mut self) {
        if !self.ended {
            self.ended = true;
            self.fresh_until = 0;
            self.mine.clear();
            self.actions.clear();
            self.actions.push_back(Action::Replaced);
        }
    }
}
