//! The same input and clock give the same history, byte for byte, on the embedded log and on Kafka.
//!
//! What is the same: every record that a log holds, what is made of it, what history answers, and
//! everything that the machine says meanwhile. What is not, and need not be: where segments begin and
//! end, and with them how early retention removes what is dead; figures of time and of bytes.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_ports::ShardLog;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::LogFixture;
use gb6_core_wire::mesh::HistoryPage;
use gb6_core_wire::record::{Kind, Record, flags};
use prost::Message;

use crate::engines::{Embedded, Kafka};
use crate::input::{imported, rooms, steps};
use crate::owner::{Owner, may_go, published, read_all};

/// An owner that has been given the whole input of `seed`.
fn run(engine: &dyn LogFixture, seed: u64) -> Owner<'_> {
    let mut owner = Owner::new(engine);
    for step in steps(seed) {
        owner.take(step);
    }
    owner
}

/// Position → encoded record, of all that a log holds; read in pages of many sizes, and one by one.
fn bytes(log: &dyn ShardLog, random: &mut Random) -> BTreeMap<u64, Vec<u8>> {
    let records = read_all(log, |_| {
        let (most, bytes) = (random.below(90) + 1, random.below(30_000) + 1);
        (most as usize, bytes as usize)
    });
    let encoded = |record: &Record| (record.position, record.encode_to_vec());
    let found: BTreeMap<u64, Vec<u8>> = records.iter().map(encoded).collect();
    assert_eq!(found.len(), records.len(), "no position twice");
    let mut positions: Vec<u64> = found.keys().copied().collect();
    for at in 0..positions.len() {
        positions.swap(at, random.below(at as u64 + 1) as usize);
    }
    for some in positions.chunks(50) {
        for (position, record) in some.iter().zip(log.read_at(some).expect("read")) {
            let record = record.expect("it was read before");
            assert_eq!(encoded(&record), (*position, found[position].clone()));
        }
    }
    found
}

fn same(one: &BTreeMap<u64, Vec<u8>>, other: &BTreeMap<u64, Vec<u8>>) {
    let read = |bytes: &Vec<u8>| Record::decode(&bytes[..]).expect("a record");
    let positions: BTreeSet<&u64> = one.keys().chain(other.keys()).collect();
    for position in positions {
        let (one, other) = (one.get(position), other.get(position));
        assert_eq!(one.map(read), other.map(read), "at {position}");
        assert_eq!(one, other, "at {position}: read alike, and encoded not");
    }
}

fn histories(owner: &mut Owner) -> Vec<HistoryPage> {
    let all = rooms().into_iter().chain([imported()]);
    all.flat_map(|room| owner.history(&room)).collect()
}

/// That the input is worth something: everything that it is to have is in the log.
fn is_varied(records: &[Record]) {
    let count = |is: &dyn Fn(&Record) -> bool| records.iter().filter(|r| is(r)).count();
    for (kind, least) in [
        (Kind::Message, 500),
        (Kind::Acquire, 2),
        (Kind::Tombstone, 10),
        (Kind::Trim, 10),
        (Kind::Seal, 1),
        (Kind::Open, 1),
        (Kind::Import, 8),
    ] {
        let found = count(&|r| r.kind() == kind);
        assert!(found >= least, "{found} records of {kind:?}");
    }
    assert!(count(&|r| r.compression != 0) > 10, "compressed ones");
    assert!(count(&|r| r.key_id != 0) > 50, "sealed ones");
    assert!(count(&|r| r.flags & flags::ERASED != 0) > 5, "erased ones");
}

fn identical(seed: u64) {
    let (embedded, kafka) = (Embedded::new(), Kafka::new(seed));
    let (mut one, mut other) = (run(&embedded, seed), run(&kafka, seed));
    for (at, (one, other)) in one.said.iter().zip(&other.said).enumerate() {
        assert_eq!(one, other, "what was said, at {at}");
    }
    assert_eq!(one.said.len(), other.said.len());
    assert!(kafka.archived() > 3, "parts of it lie in the archive");

    let random = &mut Random::new(seed);
    let whole = bytes(&*one.log, random);
    // What the machine gave, without the bodies of what was erased.
    let given = one
        .given
        .iter()
        .map(|(at, record)| (*at, record.encode_to_vec()));
    same(&given.collect(), &whole);
    same(&whole, &bytes(&*other.log, random));
    // As a process reads it that was not there.
    same(&whole, &bytes(&*embedded.open(), random));
    same(&whole, &bytes(&*kafka.open(), random));
    let next = one.log.range().expect("range").next;
    assert_eq!(next, other.log.range().expect("range").next);
    assert!(whole.keys().copied().eq(0..next), "nothing is missing");

    let records = read_all(&*one.log, |_| (500, 1 << 20));
    is_varied(&records);
    let shown = |log: &dyn ShardLog| -> Vec<_> {
        let records = read_all(log, |_| (500, 1 << 20)).into_iter();
        let messages = records.filter(Record::takes_offset);
        messages.map(published).collect()
    };
    assert_eq!(shown(&*one.log), shown(&*other.log));
    let told = histories(&mut one);
    assert_eq!(told, histories(&mut other));
    let filled = told.iter().filter(|page| !page.publications.is_empty());
    assert!(filled.count() > 40, "history has something to tell");

    // Each gives back the space that it finds worth while; what is alive stays in both.
    let first = one.first_kept();
    assert_eq!(first, other.first_kept());
    for owner in [&mut one, &mut other] {
        owner.retain();
        let left = bytes(&*owner.log, random);
        assert!(left.len() < whole.len(), "something went");
        for record in records.iter().filter(|record| !may_go(&first, record)) {
            let position = record.position;
            assert_eq!(left.get(&position), whole.get(&position), "{position}");
        }
        let unchanged = |(position, bytes)| whole.get(position) == Some(bytes);
        assert!(left.iter().all(unchanged), "and nothing is changed");
        assert_eq!(histories(owner), told);
    }
}

#[test]
fn the_embedded_log_and_kafka_give_the_same_history() {
    for seed in 1..=3 {
        identical(seed);
    }
}
