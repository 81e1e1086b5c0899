//! Revocations at edges that are in contact, drains, and storms of many people: what has a bound in
//! virtual time. `GB6_SEED=n` runs one seed, `GB6_CROWDS=n` that many (default 60 and a tenth of it
//! of the large ones), from `GB6_SEED_FROM` (default 1) on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gb6_tests_simulation::{Outcome, Scenario, run};

use crate::number;

/// The longest time for which somebody of [`Scenario::in_contact`] may be away, in ms: blocked for
/// up to 6 s, refused for up to 4.5 s by a full door, twice, and the jitter of coming back.
const AWAY_MS: u64 = 20_000;
/// The same of [`Scenario::crowd`]: two edges let in 40 at once and as many each second, so that 120
/// are in when each has been told to come back (in up to 4.5 s) at most three times, also those whose
/// token was refused.
const STORM_MS: u64 = 15_000;

fn one(test: &str, scenario: &Scenario) -> Outcome {
    let seed = scenario.seed;
    match catch_unwind(AssertUnwindSafe(|| run(scenario))) {
        Ok(outcome) => outcome,
        Err(_) => panic!(
            "seed {seed} failed; repeat it with:\n  GB6_SEED={seed} cargo test -p gb6-tests-simulation --test it {test} -- --nocapture"
        ),
    }
}

/// The seeds of a test that runs `share` in a hundred of [`GB6_CROWDS`](self).
fn seeds(share: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("GB6_SEED") {
        return seed..seed + 1;
    }
    let from = number("GB6_SEED_FROM").unwrap_or(1);
    let count = number("GB6_CROWDS").unwrap_or(60) * share / 100;
    from..from + count.max(1)
}

#[test]
fn edges_in_contact_apply_revocations_in_time_and_drain_in_time() {
    let (mut revoked, mut cut, mut drained, mut refused, mut away) = (0, 0, 0, 0, 0);
    let (mut removed, mut anew) = (0, 0);
    let seeds = seeds(100);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = one("edges_in_contact", &Scenario::in_contact(seed));
        assert!(outcome.away_ms <= AWAY_MS, "seed {seed}: {outcome:?}");
        revoked += outcome.revoked;
        cut += outcome.cut;
        removed += outcome.removed;
        anew += outcome.anew;
        drained += outcome.drained;
        refused += outcome.refused;
        away = away.max(outcome.away_ms);
    }
    println!(
        "{count} seeds in contact, {revoked} revocations, {cut} connections cut off, {removed} removals from their log and {anew} records anew, {drained} drains, {refused} connects told to come back later, away for {away} ms at most"
    );
    if count >= 20 {
        assert!(revoked > 5 * count && cut > count && drained > count && refused > count);
        assert!(removed > count && anew > count / 10, "{removed} {anew}");
    }
}

#[test]
fn a_storm_of_many_is_let_in_at_the_pace_and_all_are_back_in_time() {
    let (mut refused, mut away) = (0, 0);
    let seeds = seeds(10);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let outcome = one("a_storm_of_many", &Scenario::crowd(seed));
        assert!(outcome.away_ms <= STORM_MS, "seed {seed}: {outcome:?}");
        refused += outcome.refused;
        away = away.max(outcome.away_ms);
    }
    println!(
        "{count} seeds of a crowd, {refused} connects told to come back later, away for {away} ms at most"
    );
    assert!(refused > 20 * count, "hardly anybody met a full door");
}
