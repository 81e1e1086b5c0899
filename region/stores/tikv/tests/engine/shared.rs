//! Several nodes on one index: of two that write at once one is told so, and damage is healed.

use std::sync::Barrier;
use std::thread;

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::rooms::room;
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use gb6_region_stores_tikv::TikvRooms;
use tikv_client::{CheckLevel, TransactionClient, TransactionOptions};
use tokio::runtime::Runtime;

use crate::engine::{address, config, entry, prefix};

const SHARD: ShardId = ShardId(7);

/// A key of the region `eu`, of one kind: names end with 00 01.
pub(crate) fn key_of(prefix: &str, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    key.extend_from_slice(b"\x00\x01eu\x00\x01");
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// Where a cluster is to be split, as its double takes it: the first keys of the parts behind the first.
pub(crate) fn split_at(keys: &[Vec<u8>]) -> String {
    let hex = |key: &Vec<u8>| key.iter().map(|b| format!("{b:02x}")).collect::<String>();
    keys.iter().map(hex).collect::<Vec<_>>().join(",")
}

/// The key of the state of a shard.
fn state_key(prefix: &str, shard: ShardId) -> Vec<u8> {
    key_of(prefix, b'a', &shard.0.to_be_bytes())
}

/// Runs `work` with a client of its own.
fn with_client<T>(address: String, work: impl AsyncFnOnce(&TransactionClient) -> T) -> T {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let client = TransactionClient::new(vec![address]).await.unwrap();
        work(&client).await
    })
}

fn options() -> TransactionOptions {
    TransactionOptions::new_optimistic().drop_check(CheckLevel::None)
}

/// Writes the state of a shard as somebody else might.
pub(crate) fn write_state(address: String, prefix: &str, shard: ShardId, value: Vec<u8>) {
    with_client(address, async |client| {
        let mut transaction = client.begin_with_options(options()).await.unwrap();
        let key = state_key(prefix, shard);
        transaction.put(key, value).await.unwrap();
        transaction.commit().await.unwrap();
    });
}

/// All keys under a prefix, with their values.
pub(crate) fn all_keys(prefix: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    with_client(address(), async |client| {
        let mut transaction = client.begin_with_options(options()).await.unwrap();
        let (low, mut high) = (prefix.as_bytes().to_vec(), prefix.as_bytes().to_vec());
        high.push(1);
        let pairs = transaction.scan(low..high, 100_000).await.unwrap();
        pairs.map(|pair| (pair.0.into(), pair.1)).collect()
    })
}

fn node(prefix: &str) -> TikvRooms {
    let config = config(&address(), prefix, "&gc=off");
    TikvRooms::open(config, "eu", &Metrics::bare()).unwrap()
}

#[test]
fn of_two_nodes_that_write_at_once_one_is_told_so() {
    let prefix = prefix();
    let nodes = [node(&prefix), node(&prefix)];
    let mut conflicts = 0;
    // What a node wrote last another one may replace. They do not begin at the same position, so that who
    // comes later does not follow.
    nodes[0].put(SHARD, &[], 0, 1).unwrap();
    for round in 1..=25 {
        let barrier = Barrier::new(nodes.len());
        let answers: Vec<Result<(), StoreError>> = thread::scope(|scope| {
            let writers = nodes.iter().enumerate().map(|(n, node)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let from = node.applied(SHARD).unwrap();
                    let name = format!("node:{n}");
                    let entries = (from..=round).map(|at| entry(&name, at + 1, at));
                    let entries: Vec<RoomEntry> = entries.collect();
                    barrier.wait();
                    node.put(SHARD, &entries, from, round + 1)
                })
            });
            let writers: Vec<_> = writers.collect();
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        let written = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(written, 1, "round {round}: {answers:?}");
        let (mut there, mut told) = (0, 0);
        for (n, answer) in answers.iter().enumerate() {
            let room = room("demo", &format!("node:{n}"));
            let found = nodes[1 - n].forward(SHARD, &room, round + 1, 9).unwrap();
            match answer {
                Ok(()) => {
                    assert_eq!(found, [(round + 1, round)]);
                    assert_eq!(nodes[n].applied(SHARD).unwrap(), round + 1);
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
                    assert_eq!(found, [], "what was refused is not there");
                    told += 1;
                }
            }
            there += found.len();
        }
        assert_eq!((there, told), (1, 1));
        conflicts += told;
    }
    assert_eq!(conflicts, 25);
}

#[test]
fn what_another_node_wrote_last_is_written_again_and_then_believed_by_nobody_else() {
    let prefix = prefix();
    let (one, other) = (node(&prefix), node(&prefix));
    let entries: Vec<RoomEntry> = (0..9).map(|n| entry("a", n + 1, n)).collect();
    one.put(SHARD, &entries[..5], 0, 5).unwrap();
    one.put(SHARD, &entries[5..], 5, 9).unwrap();
    let applied = || (one.applied(SHARD).unwrap(), other.applied(SHARD).unwrap());
    assert_eq!(applied(), (9, 5), "it may have been made in part");
    let error = other.put(SHARD, &[], 9, 10).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    // Of the run that is there it leaves a part.
    other.put(SHARD, &entries[5..6], 5, 6).unwrap();
    assert_eq!(applied(), (5, 6));
    let error = one.put(SHARD, &[], 9, 10).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    other.put(SHARD, &entries[6..], 6, 9).unwrap();
    assert_eq!(applied(), (6, 9));
    let all: Vec<(u64, u64)> = (0..9).map(|n| (n + 1, n)).collect();
    for node in [&one, &other] {
        let found = node.forward(SHARD, &room("demo", "a"), 0, 99).unwrap();
        assert_eq!(found, all);
    }
    // A node that begins has seen nothing.
    assert_eq!(node(&prefix).applied(SHARD).unwrap(), 6);
}

#[test]
fn a_clear_on_another_node_is_noticed_by_whoever_writes_on() {
    let prefix = prefix();
    let (one, other) = (node(&prefix), node(&prefix));
    let a = room("demo", "a");
    one.put(SHARD, &[entry("a", 1, 0)], 0, 5).unwrap();
    assert_eq!(one.forward(SHARD, &a, 0, 9).unwrap(), [(1, 0)]);
    other.clear(SHARD).unwrap();
    // It guesses the generation that it saw last, and looks whether it is still the one.
    assert_eq!(one.forward(SHARD, &a, 0, 9).unwrap(), []);
    let error = one.put(SHARD, &[entry("a", 2, 5)], 5, 6).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    one.put(SHARD, &[entry("a", 2, 1)], 0, 6).unwrap();
    assert_eq!(other.forward(SHARD, &a, 0, 9).unwrap(), [(2, 1)]);
}

#[test]
fn a_damaged_state_is_begun_again() {
    let prefix = prefix();
    let metrics = Metrics::bare();
    let config = config(&address(), &prefix, "&gc=off");
    let store = TikvRooms::open(config, "eu", &metrics).unwrap();
    store.put(SHARD, &[entry("a", 1, 0)], 0, 5).unwrap();
    write_state(address(), &prefix, SHARD, vec![1, 2, 3]);
    let error = store.applied(SHARD).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(store.applied(SHARD).unwrap(), 0, "it is filled again");
    assert_eq!(store.forward(SHARD, &room("demo", "a"), 0, 9).unwrap(), []);
    store.put(SHARD, &[entry("a", 1, 0)], 0, 5).unwrap();
    let text = metrics.text();
    let counted = text.contains("gb6_tikv_indexes_begun_again_total 1");
    assert!(counted, "{text}");
}

#[test]
fn a_damaged_run_is_begun_again_and_names_no_room() {
    let prefix = prefix();
    let store = node(&prefix);
    store.put(SHARD, &[entry("secret", 1, 0)], 0, 5).unwrap();
    let run = all_keys(&prefix)
        .into_iter()
        .map(|(key, _)| key)
        .find(|key| key.windows(6).any(|w| w == b"secret"))
        .unwrap();
    with_client(address(), async |client| {
        let mut transaction = client.begin_with_options(options()).await.unwrap();
        transaction.put(run, vec![0x80]).await.unwrap();
        transaction.commit().await.unwrap();
    });
    let secret = room("demo", "secret");
    let error = store.reverse(SHARD, &secret, 9, 9).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(store.applied(SHARD).unwrap(), 0);
    assert_eq!(store.reverse(SHARD, &secret, 9, 9).unwrap(), []);
}

#[test]
fn an_index_that_was_removed_from_the_cluster_is_filled_again() {
    let prefix = prefix();
    let store = node(&prefix);
    store.put(SHARD, &[entry("a", 1, 0)], 0, 5).unwrap();
    // Only the state: the entries that are left must not come back.
    with_client(address(), async |client| {
        let mut transaction = client.begin_with_options(options()).await.unwrap();
        transaction.delete(state_key(&prefix, SHARD)).await.unwrap();
        transaction.commit().await.unwrap();
    });
    let error = store.put(SHARD, &[], 5, 6).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(store.applied(SHARD).unwrap(), 0);
    store.put(SHARD, &[entry("b", 1, 3)], 0, 5).unwrap();
    assert_eq!(store.forward(SHARD, &room("demo", "a"), 0, 9).unwrap(), []);
}

#[test]
fn no_key_is_written_by_every_write_to_a_room() {
    let prefix = prefix();
    let store = node(&prefix);
    for n in 0..20 {
        store.put(SHARD, &[entry("a", n + 1, n)], n, n + 1).unwrap();
    }
    // One key for each write, the state, and the mark of the instance.
    let keys = all_keys(&prefix);
    assert_eq!(keys.len(), 22, "{keys:?}");
}
