//! What a node does about a store that shows it less than there was: records that somebody removed beside
//! it, as by a statement in its database, and looks that do not come back.

use gb6_core_model::NodeId;
use gb6_region_assign::{
    Action, Assigner, Config, Expected, Input, ShardRecord, Written, node_key, shard_key,
};

/// Tells the machine something; the change of a record that it makes then.
fn change(machine: &mut Assigner, now: u64, key: &str, input: Input) -> Option<Expected> {
    machine.input(now, input).expect("good records");
    let mut changed = None;
    while let Some(action) = machine.poll_action() {
        if let Action::Put {
            key: put, expected, ..
        } = action
            && put == key
        {
            changed = Some(expected);
        }
    }
    changed
}

fn looked(begun_ms: u64, revision: u64, changes: Vec<(String, Option<Vec<u8>>, u64)>) -> Input {
    Input::Looked {
        begun_ms,
        revision,
        changes,
    }
}

fn written(key: &str, outcome: Written) -> Input {
    let key = key.to_owned();
    Input::Written { key, outcome }
}

#[test]
fn a_node_whose_record_somebody_removed_writes_it_again_and_goes_on() {
    let mut a = Assigner::new(Config::new("eu", 1, NodeId::from("a"), 1));
    let key = node_key("eu", &"a".into());
    let put = change(&mut a, 0, &key, looked(0, 0, Vec::new()));
    assert_eq!(put, Some(Expected::Absent));
    change(&mut a, 0, &key, written(&key, Written::Done(1)));
    let put = change(&mut a, 400, &key, looked(400, 1, Vec::new()));
    assert_eq!(put, Some(Expected::Revision(1)));
    // Nobody has changed anything since: the store's revision is 1.
    change(&mut a, 401, &key, written(&key, Written::NotAsExpected));
    let gone = Input::Read {
        key: key.clone(),
        record: None,
    };
    change(&mut a, 402, &key, gone);
    let put = change(&mut a, 800, &key, looked(800, 1, Vec::new()));
    assert_eq!(put, Some(Expected::Absent), "it is written again");
    change(&mut a, 800, &key, written(&key, Written::Done(2)));
    let fresh = a.fresh_until();
    assert!(fresh > 800);
    for n in 1..10 {
        let now = 800 + n * 400;
        let put = change(&mut a, now, &key, looked(now, n + 1, Vec::new()));
        assert_eq!(put, Some(Expected::Revision(n + 1)), "and again");
        change(&mut a, now, &key, written(&key, Written::Done(n + 2)));
    }
    assert!(a.fresh_until() > fresh);
}

#[test]
fn a_list_without_a_shard_says_so_at_the_revision_at_which_the_shard_was_changed() {
    let mut a = Assigner::new(Config::new("eu", 1, NodeId::from("a"), 1));
    let key = shard_key("eu", 0);
    let record = ShardRecord {
        node: Some("a".into()),
        incarnation: 1,
        epoch: 3,
        ..ShardRecord::unowned()
    };
    let there = vec![(key.clone(), Some(record.encode()), 7)];
    change(&mut a, 0, &key, looked(0, 7, there.clone()));
    assert_eq!(a.owners().count(), 1);
    let put = change(
        &mut a,
        100,
        &key,
        looked(100, 7, vec![(key.clone(), None, 7)]),
    );
    assert_eq!(put, Some(Expected::Absent), "its owner says so again");
    // What is told late of the time before does not bring it back.
    change(&mut a, 110, &key, looked(110, 7, there));
    let outcome = written(&key, Written::Failed);
    change(&mut a, 120, &key, outcome);
    let put = change(&mut a, 600, &key, looked(600, 7, Vec::new()));
    assert_eq!(put, Some(Expected::Absent));
}

#[test]
fn a_node_that_does_not_see_what_others_write_is_not_heard_by_them() {
    let mut a = Assigner::new(Config::new("eu", 1, NodeId::from("a"), 1));
    let key = node_key("eu", &"a".into());
    let put = change(&mut a, 0, &key, looked(0, 0, Vec::new()));
    assert_eq!(put, Some(Expected::Absent));
    change(&mut a, 0, &key, written(&key, Written::Done(1)));
    let (mut beats, mut last) = (1, 0);
    // Its changes are made, and no look comes back.
    for now in (0..20_000).step_by(20) {
        a.tick(now);
        while let Some(action) = a.poll_action() {
            if matches!(action, Action::Put { .. }) {
                beats += 1;
                last = now;
                change(&mut a, now, &key, written(&key, Written::Done(beats)));
            }
        }
    }
    let lease = Config::new("eu", 1, NodeId::from("a"), 1).lease_ms;
    assert!((lease..3 * lease).contains(&last), "the last at {last}");
    assert!(a.fresh_until() < 20_000, "it relies on nothing");
    let put = change(&mut a, 20_000, &key, looked(20_000, beats, Vec::new()));
    assert_eq!(put, Some(Expected::Revision(beats)), "it is back");
}
