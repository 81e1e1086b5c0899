//! One machine, told by hand what others do.

use gb6_core_model::NodeId;
use gb6_region_assign::{
    Action, Assigner, Config, Expected, Input, NodeRecord, ShardRecord, Written, node_key,
    shard_key,
};

type Change = (String, Option<Vec<u8>>, u64);

/// A machine of node `a` in a region of one shard or two, and the store's revision.
struct Alone {
    machine: Assigner,
    now: u64,
    revision: u64,
}

impl Alone {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(shards: u32) -> Self {
        let config = Config::new("eu", shards, NodeId::from("a"), 1);
        Self {
            machine: Assigner::new(config),
            now: 0,
            revision: 0,
        }
    }

    fn node(&mut self, name: &str, incarnation: u64, ready: &[u32]) -> Change {
        let mut record = NodeRecord::new(incarnation, None);
        record.ready = ready.to_vec();
        self.revision += 1;
        let key = node_key("eu", &name.into());
        (key, Some(record.encode()), self.revision)
    }

    fn shard(&mut self, record: &ShardRecord) -> Change {
        self.numbered(0, record)
    }

    fn numbered(&mut self, shard: u32, record: &ShardRecord) -> Change {
        self.revision += 1;
        (shard_key("eu", shard), Some(record.encode()), self.revision)
    }

    /// 100 ms pass, and a look tells these changes; what the machine does, its beats made.
    fn look(&mut self, changes: Vec<Change>) -> Vec<Action> {
        self.now += 100;
        self.slow_look(0, changes)
    }

    /// A look that is begun now and takes so long.
    fn slow_look(&mut self, ms: u64, changes: Vec<Change>) -> Vec<Action> {
        let begun_ms = self.now;
        self.now += ms;
        let looked = Input::Looked {
            begun_ms,
            revision: self.revision,
            changes,
        };
        self.tell(looked)
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        self.machine.input(self.now, input).expect("good records");
        let mut actions = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Put { key, .. } if key == node_key("eu", &"a".into()) => {
                    self.revision += 1;
                    let outcome = Written::Done(self.revision);
                    let written = Input::Written { key, outcome };
                    self.machine.input(self.now, written).expect("good records");
                }
                action => actions.push(action),
            }
        }
        actions
    }
}

fn owned_by(node: &str, incarnation: u64, epoch: u64) -> ShardRecord {
    ShardRecord {
        node: Some(node.into()),
        incarnation,
        epoch,
        ..ShardRecord::unowned()
    }
}

fn expected(actions: &[Action]) -> Option<Expected> {
    actions.iter().find_map(|action| match action {
        Action::Put { expected, .. } => Some(*expected),
        _ => None,
    })
}

#[test]
fn nobody_claims_a_shard_of_an_owner_that_it_has_yet_to_hear_of() {
    let mut a = Alone::new();
    let (node, shard) = (a.node("b", 1, &[]), a.shard(&owned_by("b", 1, 1)));
    assert_eq!(a.look(vec![node, shard]), []);
    let claimed = loop {
        if let Some(expected) = expected(&a.look(Vec::new())) {
            break expected;
        }
        assert!(a.now < 3_000, "b is dead by now");
    };
    assert!(a.now >= 1_500, "and not before");
    assert_eq!(claimed, Expected::Revision(2));
    // It was not dead: another life of it has taken the shard over, and beats.
    let key = shard_key("eu", 0);
    let outcome = Written::NotAsExpected;
    assert_eq!(
        a.tell(Input::Written {
            key: key.clone(),
            outcome
        }),
        []
    );
    let node = a.node("b", 2, &[]);
    let (_, value, revision) = a.shard(&owned_by("b", 2, 2));
    let record = Some((value.clone().expect("a record"), revision));
    let read = a.tell(Input::Read {
        key: key.clone(),
        record,
    });
    assert_eq!(read, [], "the record is ahead of what it knows of b");
    assert_eq!(a.look(vec![node, (key, value, revision)]), []);
}

#[test]
fn the_silence_of_a_node_is_counted_from_the_end_of_the_look_that_told_its_last_beat() {
    let mut a = Alone::new();
    let (node, shard) = (a.node("b", 1, &[]), a.shard(&owned_by("b", 1, 1)));
    a.look(vec![node, shard]);
    // It may have been written just before the look ended.
    let beat = a.node("b", 1, &[]);
    assert_eq!(a.slow_look(400, vec![beat]), []);
    let beaten = a.now;
    while expected(&a.look(Vec::new())).is_none() {
        assert!(a.now < beaten + 3_000, "b is dead by now");
    }
    assert!(a.now >= beaten + 1_500, "{} ms", a.now - beaten);
    assert!(a.now <= beaten + 1_700, "{} ms", a.now - beaten);
}

#[test]
fn an_owner_does_not_rely_on_what_it_is_giving_away() {
    let mut a = Alone::new();
    a.look(Vec::new());
    let mut record = owned_by("a", 1, 1);
    record.standby = Some("b".into());
    record.wanted = Some("b".into());
    let (node, shard) = (a.node("b", 7, &[0]), a.shard(&record));
    let own = a.look(vec![node, shard]);
    assert_eq!(own, [Action::Own { shard: 0, epoch: 1 }]);
    assert!(!a.machine.is_doubtful(0));
    let pause = a.tell(Input::Serving { shard: 0, epoch: 1 });
    assert_eq!(pause, [Action::Pause { shard: 0 }]);
    assert!(!a.machine.is_doubtful(0), "it is still its owner");
    let given = a.tell(Input::Paused { shard: 0 });
    let [
        Action::Put {
            key,
            value,
            expected,
        },
    ] = given.as_slice()
    else {
        panic!("{given:?}");
    };
    assert_eq!(*expected, Expected::Revision(a.revision));
    let record = ShardRecord::decode(key, value).expect("a record");
    assert!(
        record.is_of(&"b".into(), 7) && record.epoch == 2,
        "{record:?}"
    );
    assert!(a.machine.is_doubtful(0), "b may have it already");
    // The store does not answer: it serves again, and asks the log.
    a.now += 2_000;
    a.machine.tick(a.now);
    let resumed = a.tell(Input::Drain);
    assert!(
        resumed.contains(&Action::Resume { shard: 0 }),
        "{resumed:?}"
    );
    assert!(a.machine.is_doubtful(0));
}

#[test]
fn a_hand_over_that_may_still_be_written_is_made_impossible_before_the_shard_is_relied_on() {
    let mut a = Alone::new();
    a.look(Vec::new());
    let mut record = owned_by("a", 1, 1);
    record.standby = Some("b".into());
    record.wanted = Some("b".into());
    let (node, shard) = (a.node("b", 7, &[0]), a.shard(&record));
    let revision = a.revision;
    a.look(vec![node, shard]);
    a.tell(Input::Serving { shard: 0, epoch: 1 });
    let given = a.tell(Input::Paused { shard: 0 });
    assert_eq!(expected(&given), Some(Expected::Revision(revision)));
    let key = shard_key("eu", 0);
    let outcome = Written::Unknown;
    let written = Input::Written {
        key: key.clone(),
        outcome,
    };
    assert_eq!(a.tell(written), []);
    // The store has not made it, yet.
    let read = Input::Read {
        key: key.clone(),
        record: Some((record.encode(), revision)),
    };
    let again = a.tell(read);
    let [
        Action::Put {
            value, expected, ..
        },
    ] = again.as_slice()
    else {
        panic!("{again:?}");
    };
    assert_eq!(
        *expected,
        Expected::Revision(revision),
        "of both one is made"
    );
    let same = ShardRecord::decode(&key, value).expect("a record");
    assert_eq!(same, record, "it stays where it is");
    assert!(a.machine.is_doubtful(0));
    a.revision += 1;
    let outcome = Written::Done(a.revision);
    let again = a.tell(Input::Written { key, outcome });
    assert!(
        matches!(again.as_slice(), [Action::Put { .. }]),
        "{again:?}"
    );
}

/// What `a` does in the time after it was given a shard whose log refuses it, while it hears that of
/// another one or does not: when it gives the shard to `b`, which keeps up with it.
fn gives_on_after(hears_another: bool, served: bool) -> Option<u64> {
    let mut a = Alone::of(2);
    a.look(Vec::new());
    let mut record = owned_by("a", 1, 1);
    record.standby = Some("b".into());
    let mut followed = owned_by("b", 7, 1);
    followed.standby = Some("a".into());
    let (node, shard) = (a.node("b", 7, &[0]), a.shard(&record));
    let other = a.numbered(1, &followed);
    a.look(vec![node, shard, other]);
    if served {
        a.tell(Input::Serving { shard: 0, epoch: 1 });
    }
    let heard = hears_another;
    a.tell(Input::Heard { shard: 1, heard });
    let given = a.now;
    while a.now < given + 70_000 {
        let beat = a.node("b", 7, &[0]);
        let mut done = a.look(vec![beat]);
        done.extend(a.tell(Input::Unable { shard: 0 }));
        let gives = |action: &Action| match action {
            Action::Put { key, value, .. } => {
                let record = ShardRecord::decode(key, value).expect("a record");
                record.is_of(&"b".into(), 7)
            }
            _ => false,
        };
        if done.iter().any(gives) {
            return Some(a.now - given);
        }
    }
    None
}

#[test]
fn a_shard_whose_log_refuses_whoever_comes_is_not_passed_round() {
    let late = gives_on_after(true, false).expect("it is given on");
    assert!((60_000..61_000).contains(&late), "{late} ms");
    for (hears_another, served) in [(true, true), (false, false), (false, true)] {
        let after = gives_on_after(hears_another, served);
        let soon = after.is_some_and(|ms| (2_900..3_500).contains(&ms));
        assert!(soon, "{hears_another} {served}: {after:?}");
    }
}
