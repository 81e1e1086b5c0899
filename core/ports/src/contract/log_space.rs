//! The part of `ShardLog`'s contract about space that is given back: trims, rewrites, and what is
//! planned.

use gb6_core_model::Position;
use gb6_core_wire::record::flags;

use super::log::{LogFixture, acquire, append, everything, fence, message, messages, positions};
use crate::error::StoreError;
use crate::log::Retain;

pub(super) fn trimming_waits_for_consumers(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    let mut ends = Vec::new();
    for n in 0..6 {
        append(&*log, &fence(1), messages(1 + n * 10, "room:a", 10)).expect("append");
        log.seal_around(&fence(1), n * 10 + 1).expect("seal");
        ends.push(11 + n * 10);
    }
    let state = log.register_consumer("search", 25).expect("register");
    assert_eq!((state.position, state.lapsed), (25, false));
    assert_eq!(
        log.register_consumer("search", 1).expect("again").position,
        25,
        "a registered one keeps its position"
    );
    assert_eq!(log.trim(&fence(1), 40).expect("trim"), 21);
    assert_eq!(log.range().expect("range").first, 21);
    match log.read(20, 10, 1000) {
        Err(StoreError::Trimmed { first: 21 }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(log.read_at(&[20, 21]).expect("read")[0], None);
    log.set_consumer("search", 45).expect("set");
    log.set_consumer("search", 5)
        .expect("going back is passed over");
    assert_eq!(log.consumers().expect("list")[0].position, 45);
    assert_eq!(log.trim(&fence(1), 1000).expect("trim"), 41);
    // Several at once: who is not known keeps nobody else from going on.
    log.register_consumer("other", 40).expect("register");
    let at_once = [("other", 44), ("nobody", 44), ("search", 46), ("other", 3)];
    let at_once = at_once.map(|(name, position)| (name.to_owned(), position));
    let refused = log.set_consumers(&at_once).expect("set");
    assert_eq!(refused, ["nobody"]);
    let stored = log.consumers().expect("list");
    let stored: Vec<_> = stored
        .iter()
        .map(|c| (c.name.as_str(), c.position))
        .collect();
    assert_eq!(stored, [("other", 44), ("search", 46)]);
    assert_eq!(log.set_consumers(&[]).expect("nothing"), [""; 0]);
    log.remove_consumer("other").expect("remove");
    log.remove_consumer("search").expect("remove");
    let error = log.set_consumer("search", 50).expect_err("not registered");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(log.trim(&fence(1), 1000).expect("trim"), 61);
    let error = log.trim(&fence(7), 1000).expect_err("not the owner");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert_eq!(log.range().expect("range").next, 61);
    // A name may be that of an instance, which has 63 characters, and what it consumes for.
    let long = format!("webhook.{}", "x".repeat(63));
    let state = log.register_consumer(&long, 61).expect("a long name");
    assert_eq!((state.name, state.position), (long, 61));
    append(&*log, &fence(1), messages(61, "room:a", 1)).expect("append goes on");
}

pub(super) fn rewriting_keeps_positions(fixture: &impl LogFixture) {
    let log = fixture.open();
    if !log.caps().rewrite {
        return;
    }
    acquire(&*log, &fence(1)).expect("acquire");
    append(&*log, &fence(1), messages(1, "room:a", 50)).expect("append");
    let before = everything(&*log);
    let segment = log.seal_around(&fence(1), 20).expect("seal").expect("kept");
    append(&*log, &fence(1), messages(51, "room:a", 10)).expect("append");
    let freed = log
        .rewrite(&fence(1), segment, &mut |r| match r.position % 3 {
            0 => Retain::Keep,
            1 => Retain::Drop,
            _ => Retain::Erase,
        })
        .expect("rewrite");
    assert!(freed > 0);
    for handle in [log.clone(), fixture.open()] {
        let after = everything(&*handle);
        let expected: Vec<Position> = (0..61).filter(|p| *p > 50 || p % 3 != 1).collect();
        assert_eq!(positions(&after), expected);
        for record in after.iter().filter(|r| r.position <= 50) {
            let old = &before[record.position as usize];
            if record.position % 3 == 0 {
                assert_eq!(record, old);
            } else {
                assert!(record.body.is_empty());
                assert_eq!(record.flags & flags::ERASED, flags::ERASED);
                assert_eq!((record.offset, record.time), (old.offset, old.time));
            }
        }
        let found = handle.read_at(&[1, 3, 52]).expect("read");
        assert!(found[0].is_none() && found[1].is_some() && found[2].is_some());
        assert_eq!(handle.range().expect("range").next, 61);
    }
    // Again: nothing is kept, and reading passes over the hole.
    log.rewrite(&fence(1), segment, &mut |_| Retain::Drop)
        .expect("rewrite");
    let mut after = positions(&everything(&*log));
    after.retain(|p| *p > 0);
    assert_eq!(after, (51..61).collect::<Vec<_>>());
    let error = log
        .rewrite(&fence(1), u64::MAX, &mut |_| Retain::Keep)
        .expect_err("no such segment");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let error = log
        .rewrite(&fence(2), segment, &mut |_| Retain::Keep)
        .expect_err("not the owner");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

pub(super) fn retention_is_planned(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    // Three segments: a dead one, a half dead one, a live one.
    let mut next = 1;
    for (room, count) in [("room:old", 30), ("room:half", 30), ("room:live", 30)] {
        append(&*log, &fence(1), messages(next, room, count)).expect("append");
        next += count;
        log.seal_around(&fence(1), next - 1).expect("seal");
    }
    append(&*log, &fence(1), messages(next, "room:live", 1)).expect("append");
    let kept = |_: &str, room: &str| match room {
        "room:old" => 31,
        "room:half" => 52,
        _ => 0,
    };
    let plan = log.plan_retention(&kept, 0).expect("plan");
    assert_eq!(
        (plan.trim_to, plan.rewrite.len()),
        (0, 0),
        "nothing is settled"
    );
    let plan = log.plan_retention(&kept, next).expect("plan");
    assert_eq!(plan.trim_to, 31);
    assert_eq!(plan.rewrite.len(), 1, "{plan:?}");
    let half = plan.rewrite[0];
    assert!(half.dead_bytes * 2 >= half.bytes && half.dead_bytes < half.bytes);
    log.register_consumer("archive", 5).expect("register");
    let plan = log.plan_retention(&kept, next).expect("plan");
    assert_eq!(plan.waits_for, ["archive"]);
    assert!(plan.rewrite.is_empty(), "the consumer has not seen it");
}

/// Wherever a segment ends by itself: each batch has one message of a room of its own, and of all
/// messages that one alone lives.
pub(super) fn what_lives_is_never_planned_away(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    let mut next = 1;
    let mut living = Vec::new();
    for n in 0..30 {
        let mut batch = vec![message(next, &format!("room:keep-{n}"), 1, 200)];
        batch.extend((next + 1..next + 10).map(|p| message(p, "room:old", p, 200)));
        append(&*log, &fence(1), batch).expect("append");
        living.push((next, format!("room:keep-{n}")));
        next += 10;
    }
    let last = next - 1;
    log.seal_around(&fence(1), last).expect("seal");
    append(&*log, &fence(1), messages(next, "room:old", 1)).expect("append");
    for (position, room) in &living {
        let kept = |_: &str, asked: &str| match asked == room {
            true => 1,
            false => u64::MAX,
        };
        let before = log.plan_retention(&kept, next).expect("plan");
        assert!(before.trim_to <= *position, "{room}: {before:?}");
        // The segment before it, as it is after a rewrite, says nothing of its neighbour.
        if log.caps().rewrite
            && let Some(segment) = log.seal_around(&fence(1), position - 1).expect("sealed")
        {
            log.rewrite(&fence(1), segment, &mut |_| Retain::Keep)
                .expect("rewrite");
        }
        let after = log.plan_retention(&kept, next).expect("plan");
        assert!(after.trim_to <= *position, "{room}: {after:?}");
    }
    let plan = log.plan_retention(&|_, _| u64::MAX, next).expect("plan");
    assert_eq!(plan.trim_to, next, "nothing lives");
}
