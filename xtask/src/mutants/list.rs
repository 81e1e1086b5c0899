//! The mutants: which line is changed to what, and which test must notice.
//!
//! Each is a mistake that somebody could make and that would cost a message, double one, reorder
//! one, or hide that something is missing. They are grouped by the program that catches them.

/// One mistake.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// What the mistake does.
    pub(crate) about: &'static str,
    /// From the workspace's root.
    pub(crate) file: &'static str,
    /// Stands in the file exactly once.
    pub(crate) old: &'static str,
    pub(crate) new: &'static str,
    /// The package of the test that must fail; the test stands in its `tests/it`.
    pub(crate) package: &'static str,
    /// Its whole name.
    pub(crate) test: &'static str,
    pub(crate) env: &'static [(&'static str, &'static str)],
}

const SHARD: &str = "gb6-region-shard";
const REGION: &str = "gb6-region-node";
const STORE: &str = "gb6-region-stores-embedded";
const ARCHIVE: &str = "gb6-region-archive";
const EDGE: &str = "gb6-edge-session";
const SIMULATION: &str = "gb6-tests-simulation";
const EVERYTHING: &str = "everything_that_can_go_wrong";
const SEEDS: &[(&str, &str)] = &[("GB6_SEEDS", "60")];
const IN_CONTACT: &str = "crowds::edges_in_contact_apply_revocations_in_time_and_drain_in_time";
const STORM: &str = "crowds::a_storm_of_many_is_let_in_at_the_pace_and_all_are_back_in_time";
const CROWDS: &[(&str, &str)] = &[("GB6_CROWDS", "20")];

/// Every mutant.
pub(crate) fn all() -> Vec<Mutant> {
    [
        shard(),
        webhooks(),
        store(),
        archive(),
        edge(),
        simulation(),
        super::nodes::nodes(),
    ]
    .concat()
}

fn shard() -> Vec<Mutant> {
    let by = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: SHARD,
        test,
        env: &[],
    };
    let model = "publish_model::nothing_is_lost_doubled_or_reordered";
    vec![
        by(
            "presence-lease-never-ends",
            "people of a dead edge stay present for ever",
            "region/shard/src/edges.rs",
            ".filter(|(_, e)| e.lease_until <= now)",
            ".filter(|(_, e)| e.lease_until == 0 && now > 0)",
            "presence::a_dead_edges_people_are_gone_with_its_lease",
        ),
        by(
            "history-skips-what-is-gone",
            "a page from below the first kept offset begins at it, without error 112",
            "region/shard/src/history.rs",
            "if below && request.limit > 0 {",
            "if below && request.limit == u32::MAX {",
            "history::below_the_first_kept_offset_is_said_not_skipped",
        ),
        by(
            "seal-ignored",
            "a sealed instance is still written here",
            "region/shard/src/commit.rs",
            "(Kind::Seal | Kind::Open, _) => self.ownership.fold(record),",
            "(Kind::Open, _) => self.ownership.fold(record),",
            "history::an_instance_moves_with_its_offsets_and_ids",
        ),
        by(
            "end-written-twice",
            "an edge's report of an end that is in the log is written again",
            "region/shard/src/sessions.rs",
            "if known.written.contains(&end.number) {",
            "if known.written.contains(&end.number) && end.number == 0 {",
            "sessions::every_end_is_in_the_log_once",
        ),
        by(
            "end-forgotten-with-a-full-disk",
            "ends that a full disk did not take are dropped",
            "region/shard/src/sessions.rs",
            "self.sessions.queue.push_front(entry);",
            "drop(entry);",
            "sessions::every_end_is_in_the_log_once",
        ),
        by(
            "id-of-the-open-batch-unknown",
            "two publishes with one id in one batch are both written",
            "region/shard/src/batch.rs",
            "forming.ids.insert(id, forming.records.len());",
            "let _ = id;",
            "publish_model::a_duplicate_in_the_open_batch_waits_for_its_commit",
        ),
        by(
            "credit-not-counted",
            "an edge may have any number of publishes unanswered",
            "region/shard/src/machine.rs",
            "*count += 1;",
            "*count = 1;",
            "publish_model::publishes_beyond_the_credit_end_the_link",
        ),
        by(
            "ids-age-while-nobody-serves",
            "a pause of the owner shortens the dedupe window",
            "region/shard/src/machine.rs",
            "self.served_ms += step.min(STEP_MS_MAX);",
            "self.served_ms += step;",
            "publish_model::an_id_survives_a_pause_of_its_owner",
        ),
        by(
            "head-stays-after-a-full-disk",
            "what a full disk refused leaves a hole in the offsets",
            "region/shard/src/commit.rs",
            "room.open_head = room.head;\n            room.trimming = false;",
            "room.trimming = false;",
            model,
        ),
        by(
            "number-of-unknown-outcome-taken-for-new",
            "a resend whose first outcome is unknown is written behind later ones",
            "region/shard/src/batch.rs",
            "if known == Known::Unknown {",
            "if known == Known::Unknown && self.serving.is_none() {",
            "publish_model::a_number_that_was_passed_over_is_never_written",
        ),
        by(
            "numbers-not-in-checkpoint",
            "after a restart from a checkpoint an edge's resends are written again",
            "region/shard/src/checkpoint.rs",
            "entry.highest = saved.highest;",
            "entry.highest = 0;",
            model,
        ),
        by(
            "ids-not-in-checkpoint",
            "after a restart from a checkpoint a client's retry is written again",
            "region/shard/src/checkpoint.rs",
            "self.dedupe.insert(&ids.instance, key, written, served_ms);",
            "let _ = (key, written, served_ms);",
            model,
        ),
        by(
            "acknowledged-when-formed",
            "a batch that was never written is acknowledged all the same",
            "region/shard/src/commit.rs",
            "let Some(batch) = self.in_flight.take() else {\n            return;\n        };\n        for ix in",
            "if failure == AppendFailure::StorageFull {\n            return self.committed(now_ms, SyncStats::default());\n        }\n        let Some(batch) = self.in_flight.take() else {\n            return;\n        };\n        for ix in",
            model,
        ),
        by(
            "prefix-shows-lists-of-users",
            "whoever follows a prefix is told what is for certain users only",
            "region/shard/src/prefixes.rs",
            "if self.0.is_empty() || !prefix::may_be_followed(&room.channel) {",
            "if self.0.is_empty() {",
            "prefixes::an_edge_is_sent_each_publication_once_whatever_it_follows_it_for",
        ),
    ]
}

fn webhooks() -> Vec<Mutant> {
    let by = |name, about, old, new| Mutant {
        name,
        about,
        file: "region/node/src/webhooks/consumer.rs",
        old,
        new,
        package: REGION,
        test: "webhooks::what_the_log_holds_is_told_and_again_where_it_was_not_taken",
        env: &[],
    };
    vec![
        by(
            "webhook-refusal-taken-for-yes",
            "a webhook goes on though its receiver has not taken the events",
            "false => Err(Failure::Status(status.as_u16())),",
            "false => Ok(()),",
        ),
        by(
            "webhook-place-beyond-what-was-taken",
            "a webhook remembers what it has read, and not what was taken",
            "let waiting = self.pending.front().map(|event| event.position);",
            "let waiting: Option<Position> = None;",
        ),
    ]
}

fn store() -> Vec<Mutant> {
    let by = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: STORE,
        test,
        env: &[],
    };
    vec![
        by(
            "no-fence",
            "an owner that slept acknowledges although another has taken the shard",
            "region/stores/embedded/src/log/owner.rs",
            "Ok(false) => Err(self.fenced()),",
            "Ok(false) => Ok(()),",
            "contention::owners_that_contend_and_sleep_never_both_acknowledge",
        ),
        by(
            "old-tail-not-synced",
            "a new owner shows what only the system's memory holds",
            "region/stores/embedded/src/log/owner.rs",
            "make_durable(vfs, tail)?;",
            "let _ = tail;",
            "faults::after_a_failed_sync_only_an_acquisition_goes_on",
        ),
        by(
            "torn-tail-kept",
            "a write that a crash cut short is read as a batch",
            "region/archive/src/scan.rs",
            "if frame.checksum_holds(bytes) {",
            "if frame.count > 0 {",
            "recovery::a_torn_last_write_is_cut_at_any_byte",
        ),
        by(
            "damage-taken-for-a-torn-tail",
            "a damaged batch in the middle ends the log in silence",
            "region/archive/src/scan.rs",
            "if frame.first < expected || frame.bytes > FRAME_BYTES_MAX {",
            "if frame.first >= expected || frame.bytes > FRAME_BYTES_MAX {",
            "recovery::damage_before_the_last_batches_of_the_open_segment_is_reported_too",
        ),
        by(
            "sync-forgotten",
            "a batch is acknowledged before it is on the disk",
            "region/stores/embedded/src/log/owner.rs",
            "if let Err(e) = self.file.sync() {",
            "if let Err(e) = Ok::<(), io::Error>(()) {",
            "crash::acknowledged_records_survive_power_cuts",
        ),
        by(
            "late-result-taken-for-ours",
            "a segment that an ended ownership prepared is taken for the present one's",
            "region/stores/embedded/src/log/owner.rs",
            "if header.shard_epoch != self.fence.shard_epoch\n            || header.owner_incarnation != self.fence.owner_incarnation\n        {",
            "if header.owner_incarnation != self.fence.owner_incarnation {",
            "faults::a_segment_prepared_for_an_ended_ownership_never_takes_a_name",
        ),
        by(
            "batch-counted-in-the-segment-before",
            "retention takes a segment whose first batch lives",
            "region/stores/embedded/src/log/owner.rs",
            "let summary = std::mem::take(&mut self.summary);",
            "self.count_staged();\n        let summary = std::mem::take(&mut self.summary);",
            "contract::the_log_keeps_its_contract_on_a_simulated_disk",
        ),
        by(
            "two-fill-an-index-at-once",
            "entries that one wrote are overwritten by another, and offsets are missing",
            "region/stores/embedded/src/rooms.rs",
            "let _alone = writer.lock();",
            "let _alone = &writer;",
            "rooms::of_two_that_fill_a_shard_none_leaves_a_hole",
        ),
    ]
}

fn archive() -> Vec<Mutant> {
    let by = |package, name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package,
        test,
        env: &[],
    };
    let whatever_fails = "faults::nothing_is_lost_or_changed_by_who_lost_the_shard_whatever_fails";
    vec![
        by(
            ARCHIVE,
            "archive-no-fence",
            "who lost the shard still changes its archive",
            "region/archive/src/archive.rs",
            "if theirs.epoch < ours.epoch || theirs == ours {",
            "if theirs.epoch < u64::MAX || theirs == ours {",
            whatever_fails,
        ),
        by(
            ARCHIVE,
            "archive-manifest-overwritten",
            "of two writers the second undoes what the first was answered",
            "region/archive/src/archive.rs",
            "put(key, bytes.clone(), PutIf::Absent)",
            "put(key, bytes.clone(), PutIf::Always)",
            whatever_fails,
        ),
        by(
            ARCHIVE,
            "archive-free-name-trusted",
            "who slept takes a removed manifest's name, and is answered",
            "region/archive/src/archive.rs",
            "if !self.blobs().list(&folder, Some(&key), 1)?.is_empty() {",
            "if self.blobs().list(&folder, Some(&key), 1)?.len() > 1 {",
            "changes::who_slept_while_manifests_were_removed_is_fenced",
        ),
        by(
            ARCHIVE,
            "archive-erased-body-left",
            "an erased body stays in the store",
            "region/archive/src/retention.rs",
            "self.delete(self.keys_of(&old)?.to_vec())?;",
            "let _ = self.keys_of(&old)?;",
            "changes::an_erased_body_is_gone_when_the_rewrite_returns",
        ),
        by(
            STORE,
            "archive-ahead-of-its-checkpoints",
            "a log that begins from its archive lacks what no checkpoint there covers",
            "region/archive/src/copies.rs",
            "let bound = copies.first.min(settled);",
            "let bound = copies.first;",
            "archived::rewrites_and_trims_are_followed",
        ),
        by(
            STORE,
            "archive-of-somebody-else-continued",
            "a directory that was replaced goes on archiving over its successor",
            "region/stores/embedded/src/archived/archiver.rs",
            "if last.0 >= fence.shard_epoch || !marker.knows(last) {",
            "if last.0 >= fence.shard_epoch {",
            "archived::who_was_replaced_is_fenced_and_does_not_start_again",
        ),
    ]
}

fn edge() -> Vec<Mutant> {
    let by = |name, about, file, old, new, test| Mutant {
        name,
        about,
        file,
        old,
        new,
        package: EDGE,
        test,
        env: &[],
    };
    let model = "hub_model::a_hub_keeps_its_promises";
    let session = "session_prediction::a_session_says_what_the_model_says";
    vec![
        by(
            "arrival-proved-too-early",
            "a connect is answered before the owner has heard of its user",
            "edge/session/src/hub/users.rs",
            "stay.told = Some(self.lease.sequence() + 1);",
            "stay.told = Some(self.lease.sequence());",
            "hub_users::a_renewal_that_was_sent_before_proves_nothing",
        ),
        by(
            "end-not-said-again",
            "the end of a session that was on its way when a link broke is never written",
            "edge/session/src/hub/ends.rs",
            "waiting.sent = false;",
            "waiting.sent &= true;",
            "hub_ends::the_owner_hears_of_every_end_and_knows_who_is_here",
        ),
        by(
            "resume-one-too-late",
            "a client that comes back misses the first publication behind its position",
            "edge/session/src/hub/join.rs",
            "|start| room.ring.after(start)",
            "|start| room.ring.after(start + 1)",
            "hub_rules::recovery_table",
        ),
        by(
            "resume-one-too-early",
            "a client that comes back gets its last publication again",
            "edge/session/src/hub/join.rs",
            "|start| room.ring.after(start)",
            "|start| room.ring.after(start.saturating_sub(1))",
            model,
        ),
        by(
            "gap-not-filled",
            "after a break the edge goes on at the top and skips what came meanwhile",
            "edge/session/src/hub/live.rs",
            "self.start_filling(id, &mut room, top, None);",
            "room.stand_at(top, generation);\n                room.follow = Follow::Live;",
            model,
        ),
        by(
            "resent-in-another-order",
            "after a break the newest unanswered publish goes first",
            "edge/session/src/hub/publish.rs",
            "for (id, waiting) in &mut self.ops {",
            "for (id, waiting) in self.ops.iter_mut().rev() {",
            "hub_rules::publishes_wait_at_the_door_for_credit_and_keep_order_and_number_over_a_break",
        ),
        by(
            "resent-after-giving-up",
            "what was sent under an ended lease is sent again under the next",
            "edge/session/src/hub/lease.rs",
            "self.give_up_sent(out);",
            "let _ = out;",
            "hub_rules::an_ended_lease_is_a_new_incarnation_and_answers_what_was_sent",
        ),
        by(
            "stale-owner-believed",
            "an edge goes back to an owner that has been replaced",
            "edge/session/src/hub/lease.rs",
            "if frame.shard_epoch < self.shard_epoch {",
            "if frame.shard_epoch + 1_000 < self.shard_epoch {",
            "hub_rules::a_stale_owner_is_left",
        ),
        by(
            "one-subscription-too-many",
            "a session gets one subscription more than its instance allows",
            "edge/session/src/session/subscribe.rs",
            "if self.subscriptions.len() >= self.subscriptions_max(turn.cx) {",
            "if self.subscriptions.len() > self.subscriptions_max(turn.cx) {",
            session,
        ),
        by(
            "older-answer-ends-a-newer-subscribe",
            "the failure of a subscribe that was given up takes the next one along",
            "edge/session/src/session/subscribe.rs",
            ".filter(|at| self.subscriptions[*at].pending == token);",
            ".filter(|_| token > 0);",
            session,
        ),
        by(
            "private-room-open",
            "who is a member reads a private room without a token for it",
            "edge/session/src/session/permission.rs",
            "match allowed && (!channel.is_private() || proven()) {",
            "match allowed {",
            "session_permissions::each_rule_lets_in_whom_it_says",
        ),
        by(
            "token-for-another-room",
            "a subscription token opens every room to its user",
            "edge/session/src/session/proofs.rs",
            "&& claims.channel == channel.as_str()",
            "&& claims.channel.len() <= channel.as_str().len().max(255)",
            "session_tokens::a_token_that_is_not_for_this_session_and_channel_ends_it",
        ),
        by(
            "proxied-publications-reordered",
            "a publication overtakes one about which the backend is asked",
            "edge/session/src/session/proofs.rs",
            "!matches!(self.what, What::Refresh) && self.channel.as_str() == name",
            "matches!(self.what, What::Subscribe(_)) && self.channel.as_str() == name",
            "session_asking::commands_of_a_channel_keep_their_order",
        ),
        by(
            "gap-of-a-server-side-room-not-told",
            "a client goes on behind a gap in a room that the server gave it",
            "edge/session/src/session/subscribe.rs",
            "return Err(Disconnect::InsufficientState);",
            "return Ok(());",
            session,
        ),
        by(
            "prefix-tells-before-its-answer",
            "a publication of a prefix comes before the answer to its subscribe",
            "edge/session/src/hub/prefix.rs",
            "if !subscriber.following.is_open() {",
            "if subscriber.token == 0 {",
            "hub_prefix::it_begins_when_every_shard_follows_and_is_answered_first",
        ),
        by(
            "prefix-outlives-a-cut",
            "what a prefix missed while a link was cut is told to nobody",
            "edge/session/src/hub/prefix.rs",
            "if std::mem::take(&mut followed.confirmed) {",
            "if std::mem::take(&mut followed.confirmed) && followed.filters.is_some() {",
            "hub_prefix::a_cut_ends_it_at_a_pace_and_only_once",
        ),
        by(
            "revoked-token-keeps-its-subscription",
            "a subscription goes on whose token was revoked",
            "edge/session/src/session/proofs.rs",
            "terms.token = Some(token);",
            "terms.token = terms.token.filter(|held| *held == token);",
            "session_tokens::a_revoked_token_ends_the_subscription_that_is_by_it",
        ),
    ]
}

fn simulation() -> Vec<Mutant> {
    let test = |test, env| {
        move |name, about, file, old, new| Mutant {
            name,
            about,
            file,
            old,
            new,
            package: SIMULATION,
            test,
            env,
        }
    };
    let by = test(EVERYTHING, SEEDS);
    let contact = test(IN_CONTACT, CROWDS);
    let storm = test(STORM, CROWDS);
    vec![
        by(
            "mesh-sync-forgotten",
            "as sync-forgotten, seen by clients of a whole mesh",
            "region/stores/embedded/src/log/owner.rs",
            "if let Err(e) = self.file.sync() {",
            "if let Err(e) = Ok::<(), io::Error>(()) {",
        ),
        by(
            "mesh-no-fence",
            "as no-fence, seen by clients of a whole mesh",
            "region/stores/embedded/src/log/owner.rs",
            "Ok(false) => Err(self.fenced()),",
            "Ok(false) => Ok(()),",
        ),
        by(
            "mesh-gap-not-filled",
            "as gap-not-filled, seen by clients of a whole mesh",
            "edge/session/src/hub/live.rs",
            "self.start_filling(id, &mut room, top, None);",
            "room.stand_at(top, generation);\n                room.follow = Follow::Live;",
        ),
        by(
            "mesh-presence-lease-never-ends",
            "as presence-lease-never-ends, seen by clients of a whole mesh",
            "region/shard/src/edges.rs",
            ".filter(|(_, e)| e.lease_until <= now)",
            ".filter(|(_, e)| e.lease_until == 0 && now > 0)",
        ),
        by(
            "mesh-edge-cut-off-goes-on",
            "an edge without a way to the log of revocations delivers and accepts as before",
            "edge/session/src/revocation/mod.rs",
            "self.losses += 1;\n        self.current = false;",
            "self.losses += 1;",
        ),
        by(
            "mesh-read-of-before-a-loss-believed",
            "what an edge read before it was cut off opens it again afterwards",
            "edge/session/src/revocation/mod.rs",
            "if self.current || self.losses != read.losses {",
            "if self.current {",
        ),
        by(
            "mesh-blocked-user-let-in",
            "a record that blocks a user does nothing",
            "edge/session/src/revocation/set.rs",
            "self.user(user).blocked = Some(end);",
            "let _ = (self.user(user), end);",
        ),
        by(
            "mesh-request-not-held",
            "an edge that does not know what is revoked accepts what its sessions send",
            "edge/session/src/held.rs",
            "waiting.is_some() || (held && !leaves(request))",
            "waiting.is_some() && held && !leaves(request)",
        ),
        contact(
            "mesh-log-of-revocations-not-looked-at",
            "an edge reads what is revoked when it begins, and hardly ever again",
            "edge/session/src/revocation/mod.rs",
            "pub const LOOK_MS: u64 = 1_000;",
            "pub const LOOK_MS: u64 = 600_000;",
        ),
        contact(
            "mesh-needed-revocation-removed",
            "what is still revoked leaves the log with what has expired",
            "edge/session/src/revocation/set.rs",
            "needed.chain(self.unread).min().unwrap_or(next)",
            "needed.chain(self.unread).max().unwrap_or(next)",
        ),
        contact(
            "mesh-drain-tells-too-late",
            "a draining edge ends before it has told everybody to go",
            "edge/session/src/pace.rs",
            "window.mul_f64(place as f64 / count.max(1) as f64)",
            "window.mul_f64((place + count) as f64 / count.max(1) as f64)",
        ),
        storm(
            "mesh-storm-without-a-pace",
            "everybody who comes back at once is let in at once",
            "edge/session/src/pace.rs",
            "self.next = turn + self.interval;",
            "self.next = turn;",
        ),
        storm(
            "mesh-storm-waits-without-bound",
            "nobody is told to come back later: all wait at the door",
            "edge/session/src/pace.rs",
            "if wait > ns(self.wait) {",
            "if wait > ns(self.wait) * 100 {",
        ),
    ]
}
