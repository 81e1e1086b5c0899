//! Mutants of a region on several nodes: who owns a shard, and what is asked before it is relied on.

use super::list::Mutant;

const ASSIGN: &str = "gb6-region-assign";
const MACHINE: &str = "region/assign/src/machine.rs";
const CLAIMS: &str = "region/assign/src/machine/claims.rs";
const LOOKS: &str = "region/assign/src/machine/looks.rs";
const OWNER: &str = "region/assign/src/owner.rs";
const CHANGES: &str = "region/assign/src/machine/changes.rs";
const VIEW: &str = "region/assign/src/view.rs";
const REGION: &str = "gb6-region-node";
const SIMULATION: &str = "gb6-tests-simulation";
const WHATEVER: &str =
    "nodes::whatever_happens_nothing_acknowledged_is_lost_and_every_shard_has_an_owner_again";
const IN_ORDER: &str = "nodes::moves_by_hand_drains_and_joins_cost_nobody_an_answer";
const CHAOS: &str = "chaos::whatever_happens_no_epoch_has_two_owners_and_all_is_well_again";

/// All of them.
pub(super) fn nodes() -> Vec<Mutant> {
    let assign = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: ASSIGN,
        test,
        env: &[("GB6_SEEDS", "100")],
    };
    let simulated = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: SIMULATION,
        test,
        env: &[("GB6_NODES", "24")],
    };
    let region = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: REGION,
        test,
        env: &[],
    };
    vec![
        assign(
            "nodes-epoch-not-raised",
            "whoever claims a shard owns it under the epoch of the one before",
            CLAIMS,
            "epoch: record.epoch + 1,",
            "epoch: record.epoch.max(1),",
            CHAOS,
        ),
        assign(
            "nodes-heard-again-is-sure",
            "a node that was silent relies on its shards as soon as it beats again",
            MACHINE,
            "gives || self.is_unsure(shard)",
            "gives",
            CHAOS,
        ),
        assign(
            "nodes-given-away-is-sure",
            "a node relies on a shard while the change that gives it away is under way",
            MACHINE,
            "gives || self.is_unsure(shard)",
            "self.is_unsure(shard)",
            "alone::an_owner_does_not_rely_on_what_it_is_giving_away",
        ),
        assign(
            "nodes-claim-by-what-is-ahead",
            "a node claims a shard whose owner it has yet to hear of",
            CLAIMS,
            "seen.is_some_and(|seen| seen.revision > self.view.revision)",
            "seen.is_some_and(|seen| seen.revision == u64::MAX)",
            "alone::nobody_claims_a_shard_of_an_owner_that_it_has_yet_to_hear_of",
        ),
        assign(
            "nodes-silence-from-the-begin-of-a-look",
            "the silence of a node is counted from before its last beat",
            LOOKS,
            "self.view.look_ms = self.now_ms.saturating_sub(begun).min(LOOK_MAX_MS);",
            "self.view.look_ms = begun.min(0);",
            "alone::the_silence_of_a_node_is_counted_from_the_end_of_the_look_that_told_its_last_beat",
        ),
        assign(
            "nodes-late-change-is-forgotten",
            "a change that was not found made is taken for one that never will be",
            MACHINE,
            "unsettled || seen.revision <= self.sure_after",
            "unsettled && seen.revision <= self.sure_after",
            "alone::a_hand_over_that_may_still_be_written_is_made_impossible_before_the_shard_is_relied_on",
        ),
        assign(
            "nodes-unable-keeps-its-shards",
            "a node that does not reach the log keeps its shards",
            OWNER,
            "&& self.keeps_up(&standby, shard)",
            "&& self.keeps_up(&standby, shard) && self.draining",
            "rest::a_node_that_can_not_serve_a_shard_gives_it_to_the_standby_that_can",
        ),
        assign(
            "nodes-lower-revisions-are-old-news",
            "what a store tells that went back is passed over",
            LOOKS,
            "self.view.restored();",
            "",
            "rest::a_store_that_went_back_is_told_again_who_owns_what",
        ),
        assign(
            "nodes-last-beat-is-not-known",
            "who comes back just before its lease has ended is waited for a second time",
            VIEW,
            "last.filter(|last| Some(*last) == replaced)",
            "last.filter(|last| Some(*last) == replaced && replaced.is_none())",
            "rest::a_node_that_dies_and_comes_back_is_waited_for_no_longer_than_one_that_stays_away",
        ),
        simulated(
            "nodes-relies-past-its-lease",
            "a node answers from a shard that others have taken, without asking the log",
            CHANGES,
            "let relies = self.config.lease_ms.saturating_sub(self.config.margin_ms);",
            "let relies = self.config.lease_ms + 3 * self.config.margin_ms;",
            WHATEVER,
        ),
        simulated(
            "nodes-epoch-not-raised-by-hand-over",
            "whoever is given a shard owns it under the epoch of the one before",
            OWNER,
            "epoch: record.epoch + 1,",
            "epoch: record.epoch,",
            WHATEVER,
        ),
        simulated(
            "nodes-handed-over-unread",
            "a shard is handed over to a node that has not caught up with it",
            OWNER,
            "self.view.is_ready(target, shard, lease)",
            "self.view.taker(target, lease).is_some()",
            IN_ORDER,
        ),
        region(
            "nodes-standby-off-by-one",
            "a takeover goes on one record behind what the standby has read",
            "region/node/src/recovery.rs",
            "from: followed.next,",
            "from: followed.next + 1,",
            "nodes::owners::a_shard_is_moved_by_hand_to_its_standby_which_reads_what_it_has_not_seen",
        ),
        region(
            "nodes-no-confirm-before-reads",
            "a node that can not know whether it still owns a shard answers all the same",
            "region/node/src/worker.rs",
            "&& let Err(error) = self.confirm().await",
            "&& let (Err(error), true) = (self.confirm().await, inputs.is_empty())",
            "nodes::lost::a_node_that_is_cut_off_from_records_and_log_serves_nothing_to_anybody",
        ),
    ]
}
