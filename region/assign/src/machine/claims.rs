//! Following what the records of shards say, and claiming those whose owner is gone.

use crate::balance::rank;
use crate::interface::Action;
use crate::owner::{Mine, Stage};
use crate::records::ShardRecord;

use super::Assigner;

/// How many changes of a shard's owner a store may have lost of which this node has not heard: their
/// epochs must not be given again.
const LOST_EPOCHS: u64 = 64;

impl Assigner {
    /// Follows what the record of one shard says, and claims it when it is this node's turn.
    pub(super) fn look_at(&mut self, shard: u32) {
        let (me, incarnation) = (self.config.node.clone(), self.config.incarnation);
        let record = match self.view.shards.get(&shard) {
            Some(seen) => seen.record.clone(),
            None => ShardRecord::unowned(),
        };
        let gone = self.view.shards.get(&shard).is_some_and(|seen| seen.gone);
        let other = !record.is_of(&me, incarnation);
        if let Some(mine) = self.mine.get(&shard)
            && !mine.is_leaving()
            && (gone || record.epoch < mine.epoch || other && record.epoch == mine.epoch)
        {
            // Every owner has a higher epoch than the one before: the store has lost what it was told.
            let told = ShardRecord {
                node: Some(me),
                incarnation,
                epoch: record.epoch.max(mine.epoch) + LOST_EPOCHS,
                ..record
            };
            return self.assign(shard, &told);
        }
        if record.is_of(&me, incarnation) {
            let known = self.mine.get(&shard).map(|mine| mine.epoch);
            let leaving = self.mine.get(&shard).is_some_and(Mine::is_leaving);
            if self.gives_up && known.is_none() {
                let given_up = ShardRecord {
                    node: None,
                    incarnation: 0,
                    wanted: None,
                    ..record
                };
                self.assign(shard, &given_up);
            } else if known != Some(record.epoch) && !leaving {
                // The driver goes on from what was followed.
                if self.following.remove(&shard) {
                    self.reach.forget(shard);
                }
                if self.caught_up.remove(&shard) {
                    self.beat_soon();
                }
                self.mine
                    .insert(shard, Mine::new(record.epoch, self.now_ms));
                self.act(Action::Own {
                    shard,
                    epoch: record.epoch,
                });
            }
            return;
        }
        if let Some(mine) = self.mine.get_mut(&shard)
            && !mine.is_leaving()
        {
            mine.stage = Stage::Leaving;
            self.act(Action::Leave {
                shard,
                owner: record.node.clone(),
            });
        }
        let follows = record.standby.as_ref() == Some(&me)
            && !self.draining
            && !self.mine.contains_key(&shard);
        if follows && self.following.insert(shard) {
            self.act(Action::Follow { shard });
        } else if !follows && self.following.remove(&shard) {
            self.reach.forget(shard);
            if self.caught_up.remove(&shard) {
                self.beat_soon();
            }
            self.act(Action::Unfollow { shard });
        }
        self.claim(shard, &record);
    }

    /// Claims a shard whose owner is gone, or that never had one, when it is this node's turn.
    fn claim(&mut self, shard: u32, record: &ShardRecord) {
        let takes = self.view.taker(&self.config.node, self.config.lease_ms);
        // Others must be able to see that the claimant lives. One that has not been heard by the
        // store for a lease is not one to take anything.
        let heard = takes.is_some_and(|record| record.incarnation == self.config.incarnation)
            && self.is_fresh();
        if self.draining || !heard || self.mine.contains_key(&shard) || self.is_changing(shard) {
            return;
        }
        if (self.is_unreached(shard) || self.is_cut_off()) && self.another_is_able() {
            return;
        }
        // A record that was read by itself may be of an owner of which this node has yet to hear.
        let seen = self.view.shards.get(&shard);
        if seen.is_some_and(|seen| seen.revision > self.view.revision) {
            return;
        }
        let free_for = match &record.node {
            // For how long it has been taken for dead.
            Some(owner) => {
                let silence = self.view.silence(owner, record.incarnation);
                match silence.checked_sub(self.config.lease_ms) {
                    Some(free_for) => free_for,
                    None => return,
                }
            }
            None => match self.looked_ms.checked_sub(self.config.settle_ms) {
                Some(free_for) => match self.view.free_for(shard, self.config.lease_ms) {
                    Some(age) => age.min(free_for),
                    None => return,
                },
                None => return,
            },
        };
        let standby = record.standby.as_ref();
        let heir = standby.filter(|name| self.is_able_taker(name));
        let turn = match heir {
            Some(heir) if *heir == self.config.node => 0,
            heir => {
                let after = u64::from(heir.is_some());
                let rank = rank(shard, &self.able, &self.config.node);
                (after + rank) * self.config.stagger_ms
            }
        };
        if free_for >= turn {
            let claimed = ShardRecord {
                node: Some(self.config.node.clone()),
                incarnation: self.config.incarnation,
                epoch: record.epoch + 1,
                standby: None,
                wanted: None,
                ..record.clone()
            };
            self.assign(shard, &claimed);
        }
    }
}
