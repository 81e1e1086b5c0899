//! History requests, retention, seals and imports.

use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::mesh::{EdgeFrame, Erased, HistoryRequest, OwnerFrame};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_shard::{Admin, AdminOutcome, LinkId, Output, SyncStats};
use prost::Message;

use crate::world::{World, publish, room, rules};

fn filled(rules: Namespace, messages: u64) -> (World, LinkId) {
    let mut world = World::new(rules);
    let link = world.attach(10);
    for n in 1..=messages {
        world.frame(link, OwnerFrame::Publish(publish(room(1), n, 1, n)));
        if n % 7 == 0 {
            world.commit();
        }
    }
    while world.commit() > 0 {}
    (world, link)
}

/// (low, high) of the read, or the error of the page.
fn ask(world: &mut World, link: LinkId, request: HistoryRequest) -> Result<(u64, u64), u32> {
    world.others.clear();
    let now = world.now_ms;
    world.shard.history(
        now,
        link,
        HistoryRequest {
            room: room(1),
            bytes: 1000,
            ..request
        },
    );
    world.drain();
    match world.others.pop() {
        Some(Output::Read(read)) => Ok((read.low, read.high)),
        Some(Output::Page { page, .. }) if page.error == 0 => Ok((0, 0)),
        Some(Output::Page { page, .. }) => Err(page.error),
        other => panic!("unexpected {other:?}"),
    }
}

fn since(since: u64, limit: u32, reverse: bool) -> HistoryRequest {
    HistoryRequest {
        since,
        limit,
        reverse,
        ..HistoryRequest::default()
    }
}

fn from_end(limit: u32, reverse: bool) -> HistoryRequest {
    HistoryRequest {
        from_end: true,
        limit,
        reverse,
        ..HistoryRequest::default()
    }
}

#[test]
fn ranges() {
    let (mut w, l) = filled(rules(), 20);
    assert_eq!(ask(&mut w, l, since(0, 5, false)), Ok((1, 5)));
    assert_eq!(ask(&mut w, l, since(18, 5, false)), Ok((19, 20)));
    assert_eq!(ask(&mut w, l, since(20, 5, false)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, since(99, 5, false)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, since(5, 3, true)), Ok((2, 4)));
    assert_eq!(ask(&mut w, l, since(1, 3, true)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, from_end(5, false)), Ok((1, 5)));
    assert_eq!(ask(&mut w, l, from_end(5, true)), Ok((16, 20)));
    assert_eq!(ask(&mut w, l, from_end(0, false)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, since(u64::MAX, u32::MAX, false)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, since(u64::MAX, u32::MAX, true)), Ok((1, 20)));
}

#[test]
fn an_edge_gets_no_more_than_a_page_whatever_it_asks_for() {
    let (mut w, l) = filled(rules(), 700);
    assert_eq!(ask(&mut w, l, since(10, u32::MAX, false)), Ok((11, 310)));
    assert_eq!(ask(&mut w, l, from_end(u32::MAX, true)), Ok((401, 700)));
    let greedy = HistoryRequest {
        room: room(1),
        limit: u32::MAX,
        bytes: u64::MAX,
        ..HistoryRequest::default()
    };
    w.shard.history(w.now_ms, l, greedy);
    w.drain();
    match w.others.pop() {
        Some(Output::Read(read)) => assert_eq!(read.bytes, 512 * 1024),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn below_the_first_kept_offset_is_said_not_skipped() {
    let keep = Namespace {
        history_size: 10,
        ..rules()
    };
    let (mut w, l) = filled(keep, 100);
    assert_eq!(ask(&mut w, l, since(5, 5, false)), Err(112));
    assert_eq!(ask(&mut w, l, since(89, 5, false)), Err(112));
    assert_eq!(ask(&mut w, l, since(90, 5, false)), Ok((91, 95)));
    assert_eq!(ask(&mut w, l, since(0, 0, false)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, from_end(300, true)), Ok((91, 100)));
    // Backwards too: what is gone was there, but before the first of all there was nothing.
    assert_eq!(ask(&mut w, l, since(93, 5, true)), Ok((91, 92)));
    assert_eq!(ask(&mut w, l, since(92, 5, true)), Ok((91, 91)));
    assert_eq!(ask(&mut w, l, since(91, 5, true)), Err(112));
    assert_eq!(ask(&mut w, l, since(2, 5, true)), Err(112));
    assert_eq!(ask(&mut w, l, since(1, 5, true)), Ok((0, 0)));
    assert_eq!(ask(&mut w, l, since(91, 0, true)), Ok((0, 0)));
    let trims = w.log.iter().filter(|r| r.kind() == Kind::Trim).count();
    assert!(
        (1..10).contains(&trims),
        "{trims} trim records for 100 messages"
    );
}

#[test]
fn age_trims_too() {
    let keep = Namespace {
        history_ttl_ms: 16_000,
        ..rules()
    };
    let (mut w, link) = filled(keep, 20);
    w.tick(8_000);
    let link2 = w.attach(11);
    w.frame(link2, OwnerFrame::Publish(publish(room(1), 1, 9, 1)));
    w.commit();
    for _ in 0..10 {
        w.tick(1_000);
        while w.commit() > 0 {}
    }
    assert_eq!(w.shard.first_offset(&room(1)), 21);
    w.checkpoint = Some(w.shard.checkpoint());
    w.start();
    assert_eq!(w.shard.first_offset(&room(1)), 21, "kept across a restart");
    for _ in 0..10 {
        w.tick(1_000);
        while w.commit() > 0 {}
    }
    assert_eq!(
        w.shard.first_offset(&room(1)),
        22,
        "an empty room keeps its top"
    );
    assert_eq!(w.shard.top_offset(&room(1)), 21);
    // Nothing is kept: a reader from any offset learns that there was something.
    let l = w.attach(12);
    assert_eq!(ask(&mut w, l, since(30, 5, true)), Err(112));
    assert_eq!(ask(&mut w, l, since(21, 5, true)), Err(112));
    let _ = link;
}

/// A newer version wrote the log that is imported.
#[test]
fn an_imported_record_keeps_fields_that_are_not_known_here() {
    let (from, _) = filled(rules(), 3);
    let moved = from.log.iter().filter(|r| r.takes_offset());
    // As they are read: a field 2000, and one in the origin.
    let moved: Vec<Record> = moved
        .map(|record| {
            let mut record = record.clone();
            record.origin.get_or_insert_default().unknown = vec![0x80, 0x7d, 5];
            let bytes = [&[0x80, 0x7d, 7][..], &record.encode_to_vec()].concat();
            Record::decode(&*bytes).expect("a record")
        })
        .collect();
    let mut to = World::new(rules());
    let outcome = admin(&mut to, Admin::Import(moved));
    assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    let imported: Vec<_> = to.log.iter().filter(|r| r.takes_offset()).collect();
    assert_eq!(imported.len(), 3);
    for record in imported {
        let written = Record::decode(&*record.encode_to_vec()).expect("a record");
        assert_eq!(written.unknown, [0x80, 0x7d, 7]);
        let origin = written.origin.expect("an origin");
        assert_eq!(origin.unknown, [0x80, 0x7d, 5]);
    }
}

fn admin(world: &mut World, command: Admin) -> AdminOutcome {
    world.shard.admin(7, command);
    while world.commit() > 0 {}
    world.drain();
    let at = world
        .others
        .iter()
        .position(|o| matches!(o, Output::AdminDone { token: 7, .. }))
        .expect("the command ended");
    match world.others.remove(at) {
        Output::AdminDone { outcome, .. } => outcome,
        _ => unreachable!(),
    }
}

#[test]
fn an_instance_moves_with_its_offsets_and_ids() {
    let (mut a, link) = filled(rules(), 10);
    let mut p = publish(room(1), 11, 2, 1);
    p.id = "moved".into();
    a.frame(link, OwnerFrame::Publish(p.clone()));
    a.commit();
    let seal = Admin::Seal {
        instance: "demo".into(),
        epoch: 2,
        slots: Vec::new(),
    };
    assert!(matches!(admin(&mut a, seal), AdminOutcome::Done(_)));
    a.frame(link, OwnerFrame::Publish(publish(room(1), 12, 1, 99)));
    assert_eq!(a.commit(), 0);
    let refused = a
        .take_sent(link)
        .into_iter()
        .any(|f| matches!(f, EdgeFrame::Published(p) if p.request == 12 && p.error == 1002));
    assert!(refused, "a sealed instance is moving");
    let mut other = publish(room(1), 13, 1, 1);
    other.room.instance = "other".into();
    a.frame(link, OwnerFrame::Publish(other));
    assert_eq!(a.commit(), 1, "the others go on");

    let mut b = World::new(rules());
    let moved: Vec<_> = a
        .log
        .iter()
        .filter(|r| r.instance == "demo" && r.takes_offset())
        .cloned()
        .collect();
    let (first, second) = moved.split_at(4);
    for part in [first, second] {
        let outcome = admin(&mut b, Admin::Import(part.to_vec()));
        assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    }
    let again = admin(&mut b, Admin::Import(second.to_vec()));
    assert!(
        matches!(again, AdminOutcome::Refused(_)),
        "nothing is doubled"
    );
    let open = Admin::Open {
        instance: "demo".into(),
        epoch: 3,
        slots: Vec::new(),
    };
    assert!(matches!(admin(&mut b, open), AdminOutcome::Done(_)));
    let link = b.attach(20);
    p.request = 1;
    p.instance_epoch = 3;
    b.frame(link, OwnerFrame::Publish(p));
    let mut next = publish(room(1), 2, 3, 1);
    next.instance_epoch = 3;
    b.frame(link, OwnerFrame::Publish(next));
    b.commit();
    let answers: Vec<(u64, u64, bool)> = b
        .take_sent(link)
        .into_iter()
        .filter_map(|f| match f {
            EdgeFrame::Published(p) => Some((p.request, p.offset, p.duplicate)),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [(1, 11, true), (2, 12, false)]);
}

#[test]
fn erasing_names_the_message_and_refuses_what_is_not_kept() {
    let (mut w, _) = filled(rules(), 5);
    let erase = |offset| Admin::Erase {
        room: room(1),
        offset,
    };
    assert!(matches!(admin(&mut w, erase(6)), AdminOutcome::Refused(_)));
    let trim = Admin::Trim {
        room: room(9),
        first: 1,
    };
    w.shard.admin(1, trim);
    assert!(matches!(admin(&mut w, erase(3)), AdminOutcome::Done(_)));
    assert!(
        w.others
            .iter()
            .any(|o| matches!(o, Output::Erased { offset: 3, .. }))
    );
    assert_eq!(w.shard.erasures().count(), 1);
    let trim = Admin::Trim {
        room: room(1),
        first: 5,
    };
    assert!(matches!(admin(&mut w, trim), AdminOutcome::Done(_)));
    assert_eq!(
        w.shard.erasures().count(),
        0,
        "what is trimmed need not be erased"
    );
}

#[test]
fn edges_that_want_the_room_are_told_of_an_erasure_when_it_is_durable() {
    let (mut w, _) = filled(rules(), 6);
    let (wants, other) = (w.attach(11), w.attach(12));
    w.frame(wants, OwnerFrame::Interest(room(1)));
    w.frame(other, OwnerFrame::Interest(room(2)));
    let erase = |offset| Admin::Erase {
        room: room(1),
        offset,
    };
    let count = |frames: Vec<EdgeFrame>| {
        frames.into_iter().find_map(|f| match f {
            EdgeFrame::Interested(i) => Some(i.erasures),
            _ => None,
        })
    };
    assert_eq!(count(w.take_sent(wants)), Some(0));
    w.take_sent(other);
    w.shard.admin(1, erase(3));
    let batch = w.shard.next_batch(w.now_ms, w.unix()).expect("a batch");
    w.drain();
    assert!(w.take_sent(wants).is_empty(), "it may yet fail");
    w.log.extend(batch.records.iter().cloned());
    w.shard.committed(w.now_ms, SyncStats::default());
    w.drain();
    w.shard.admin(2, erase(5));
    w.shard.admin(3, erase(1));
    while w.commit() > 0 {}
    let erased = |offset, erasures| {
        EdgeFrame::Erased(Erased {
            room: room(1),
            offset,
            erasures,
        })
    };
    let told = [(3, 1), (5, 2), (1, 3)].map(|(offset, n)| erased(offset, n));
    assert_eq!(w.take_sent(wants), told);
    assert!(w.take_sent(other).is_empty());
    // One that was not there learns how many there were.
    let late = w.attach(13);
    w.frame(late, OwnerFrame::Interest(room(1)));
    assert_eq!(count(w.take_sent(late)), Some(3));
}
