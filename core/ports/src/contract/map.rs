//! The contract of `MapStore`: of many who change one record one wins, and nobody misses a change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::map::{Expect, MAP_KEY_MAX, MAP_VALUE_MAX, MapEntry, MapPage, MapStore};

/// Opens the same store once more, as another node would.
pub type Open<'a> = &'a (dyn Fn() -> Box<dyn MapStore> + Sync);

/// How long a change may take to be seen by who waits for it. An engine needs about 50 ms; a machine that
/// runs other tests meanwhile gets more.
const SEEN_WITHIN: Duration = Duration::from_millis(1_500);

/// Runs the suite on a store in which nobody has written yet.
pub fn all(open: Open<'_>) {
    let map = open();
    records_are_as_they_were_written(&*map);
    writes_are_made_only_where_they_are_expected(&*map);
    deletions_are_changes(&*map);
    lists_are_of_one_prefix(&*map);
    changes_come_once_and_in_order(&*map);
    bounds_hold(&*map);
    a_change_elsewhere_wakes_who_waits(&*map, &*open());
    one_of_many_makes_a_record(open);
    no_increment_is_lost(open);
    followers_miss_nothing(open);
}

fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Conflict { .. })),
        "{result:?}"
    );
}

fn too_large<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::TooLarge { .. })),
        "{result:?}"
    );
}

fn changes(map: &dyn MapStore, prefix: &str, after: u64, limit: usize) -> MapPage {
    map.changes(prefix, after, limit, Duration::ZERO)
        .expect("changes")
}

fn revision(map: &dyn MapStore) -> u64 {
    map.list("none/", 1).expect("a list").revision
}

fn records_are_as_they_were_written(map: &dyn MapStore) {
    assert_eq!(map.get("a/1").expect("a get"), None);
    let before = revision(map);
    let first = map.put("a/1", b"one", Expect::Any).expect("a put");
    assert!(first > before, "{first} after {before}");
    let entry = MapEntry {
        key: "a/1".into(),
        value: Some(b"one".to_vec()),
        revision: first,
    };
    assert_eq!(map.get("a/1").expect("a get"), Some(entry));
    // Whatever bytes, none at all too.
    for value in [&[0, 255, 39, 92][..], b""] {
        let next = map.put("a/1", value, Expect::Any).expect("a put");
        let got = map.get("a/1").expect("a get").expect("a record");
        assert_eq!((got.value.as_deref(), got.revision), (Some(value), next));
    }
    // What is written again is a change even where it is the same.
    let again = map.put("a/1", b"", Expect::Any).expect("a put");
    assert_eq!(revision(map), again);
}

fn writes_are_made_only_where_they_are_expected(map: &dyn MapStore) {
    conflict(map.put("b/1", b"x", Expect::Revision(1)));
    assert_eq!(map.get("b/1").expect("a get"), None);
    let first = map.put("b/1", b"1", Expect::Absent).expect("the first");
    conflict(map.put("b/1", b"x", Expect::Absent));
    let second = map.put("b/1", b"2", Expect::Revision(first)).expect("then");
    conflict(map.put("b/1", b"x", Expect::Revision(first)));
    conflict(map.put("b/1", b"x", Expect::Revision(second + 1)));
    conflict(map.delete("b/1", Expect::Revision(first)));
    conflict(map.delete("b/1", Expect::Absent));
    let got = map.get("b/1").expect("a get").expect("a record");
    assert_eq!(
        (got.value.as_deref(), got.revision),
        (Some(&b"2"[..]), second)
    );
    // What failed is no change.
    assert_eq!(revision(map), second);
    map.delete("b/1", Expect::Revision(second))
        .expect("a delete");
    assert_eq!(map.get("b/1").expect("a get"), None);
    conflict(map.put("b/1", b"x", Expect::Revision(second)));
    conflict(map.delete("b/1", Expect::Revision(second)));
    let third = map.put("b/1", b"3", Expect::Absent).expect("made anew");
    assert!(third > second + 1, "{third}: the deletion was a change");
}

fn deletions_are_changes(map: &dyn MapStore) {
    let begin = map.put("c/1", b"1", Expect::Any).expect("a put");
    map.delete("c/1", Expect::Any).expect("a delete");
    let page = changes(map, "c/", begin, 10);
    assert_eq!(page.entries.len(), 1, "{page:?}");
    assert_eq!(page.entries[0].value, None);
    assert_eq!(page.revision, page.entries[0].revision);
    // Of what is not there nothing is deleted, and nobody is told.
    map.delete("c/1", Expect::Any).expect("none is no error");
    map.delete("c/2", Expect::Any).expect("none is no error");
    map.delete("c/2", Expect::Absent).expect("as expected");
    assert_eq!(changes(map, "c/", page.revision, 10).entries, []);
    assert_eq!(map.list("c/", 10).expect("a list").entries, []);
}

fn lists_are_of_one_prefix(map: &dyn MapStore) {
    for key in ["d/a", "d/b", "d", "d0", "d.", "d/~", "dd/a", "D/a"] {
        map.put(key, key.as_bytes(), Expect::Any).expect("a put");
    }
    let page = map.list("d/", 3).expect("a list");
    let keys: Vec<&str> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(keys, ["d/a", "d/b", "d/~"]);
    assert!(page.entries.iter().all(|e| e.value.is_some()));
    assert_eq!(page.revision, revision(map));
    too_large(map.list("d/", 2));
    assert_eq!(map.list("d_", 1).expect("none").entries, [], "no wildcard");
    assert_eq!(map.list("d%", 1).expect("none").entries, [], "no wildcard");
    assert!(map.list("", 1_000).expect("all").entries.len() >= 8);
}

fn changes_come_once_and_in_order(map: &dyn MapStore) {
    let begin = revision(map);
    for key in ["e/1", "e/2", "f/1", "e/3", "e/1"] {
        map.put(key, key.as_bytes(), Expect::Any).expect("a put");
    }
    map.delete("e/2", Expect::Any).expect("a delete");
    let page = changes(map, "e/", begin, 10);
    let got: Vec<(&str, bool)> = page
        .entries
        .iter()
        .map(|e| (e.key.as_str(), e.value.is_some()))
        .collect();
    assert_eq!(got, [("e/3", true), ("e/1", true), ("e/2", false)]);
    assert!(page.entries.is_sorted_by_key(|e| e.revision));
    assert_eq!(page.revision, revision(map));
    // By pages the same.
    let (mut after, mut by_pages) = (begin, Vec::new());
    loop {
        let page = changes(map, "e/", after, 1);
        let Some(entry) = page.entries.first() else {
            break;
        };
        assert_eq!(page.entries.len(), 1);
        by_pages.push(entry.clone());
        assert!(page.revision >= entry.revision && page.revision > after);
        after = page.revision;
    }
    assert_eq!(by_pages, page.entries);
    // Changes of others move the revision on, so that nobody looks through them twice.
    let later = map.put("f/2", b"", Expect::Any).expect("a put");
    let empty = changes(map, "e/", page.revision, 10);
    assert_eq!((empty.entries, empty.revision), (vec![], later));
    // Who asks for everything is told of everything.
    let all = changes(map, "e/", 0, 10);
    assert_eq!(all.entries, page.entries);
}

fn bounds_hold(map: &dyn MapStore) {
    let longest = "k".repeat(MAP_KEY_MAX);
    let largest = vec![7; MAP_VALUE_MAX];
    map.put(&longest, &largest, Expect::Any)
        .expect("the bounds");
    let got = map.get(&longest).expect("a get").expect("a record");
    assert_eq!(got.value, Some(largest.clone()));
    let before = revision(map);
    too_large(map.put(&format!("{longest}k"), b"", Expect::Any));
    too_large(map.put("k", &[&largest[..], b"7"].concat(), Expect::Any));
    for bad in ["", "a b", "ä", "a\0", "a\n"] {
        conflict(map.put(bad, b"", Expect::Any));
        conflict(map.get(bad));
        conflict(map.delete(bad, Expect::Any));
    }
    too_large(map.list(&format!("{longest}k"), 1));
    conflict(map.changes("a b", 0, 1, Duration::ZERO));
    assert_eq!(revision(map), before);
}

fn a_change_elsewhere_wakes_who_waits(here: &dyn MapStore, there: &dyn MapStore) {
    let begin = revision(here);
    let asked = Instant::now();
    let wait = Duration::from_millis(120);
    let empty = here.changes("g/", begin, 10, wait).expect("none");
    assert_eq!(empty.entries, []);
    assert!(asked.elapsed() >= wait, "{:?}", asked.elapsed());
    std::thread::scope(|s| {
        let waiter = s.spawn(|| {
            let page = here.changes("g/", begin, 10, Duration::from_secs(20));
            (page.expect("a change"), Instant::now())
        });
        // The order is not what is tested: the change is seen whether it or the waiter comes first.
        std::thread::sleep(Duration::from_millis(60));
        there.put("h/1", b"", Expect::Any).expect("another's");
        let revision = there.put("g/1", b"", Expect::Any).expect("a put");
        let written = Instant::now();
        let (page, seen) = waiter.join().expect("a waiter");
        assert_eq!(page.entries.len(), 1, "{page:?}");
        assert_eq!(page.entries[0].revision, revision);
        let late = seen.saturating_duration_since(written);
        assert!(late < SEEN_WITHIN, "seen after {late:?}");
    });
}

fn one_of_many_makes_a_record(open: Open<'_>) {
    for round in 0..5 {
        let key = format!("i/{round}");
        let winners = AtomicU64::new(0);
        std::thread::scope(|s| {
            for n in 0..8u8 {
                let (map, key, winners) = (open(), &key, &winners);
                s.spawn(move || match map.put(key, &[n], Expect::Absent) {
                    Ok(revision) => {
                        let got = map.get(key).expect("a get").expect("a record");
                        assert_eq!((got.value, got.revision), (Some(vec![n]), revision));
                        winners.fetch_add(1, Ordering::Relaxed);
                    }
                    other => conflict(other),
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
    }
}

fn no_increment_is_lost(open: Open<'_>) {
    const THREADS: u64 = 4;
    const EACH: u64 = 12;
    open()
        .put("j/n", &0u64.to_be_bytes(), Expect::Absent)
        .expect("a put");
    std::thread::scope(|s| {
        for _ in 0..THREADS {
            let map = open();
            s.spawn(move || {
                let mut left = EACH;
                while left > 0 {
                    let was = map.get("j/n").expect("a get").expect("a record");
                    let bytes = was.value.expect("a value").try_into().expect("8 bytes");
                    let next = (u64::from_be_bytes(bytes) + 1).to_be_bytes();
                    match map.put("j/n", &next, Expect::Revision(was.revision)) {
                        Ok(revision) => {
                            assert!(revision > was.revision);
                            left -= 1;
                        }
                        other => conflict(other),
                    }
                }
            });
        }
    });
    let end = open().get("j/n").expect("a get").expect("a record");
    assert_eq!(end.value, Some((THREADS * EACH).to_be_bytes().to_vec()));
}

/// Writers at once, and a follower who asks only after what it has been told: a store whose revisions do
/// not come in the order of its commits loses some of it.
fn followers_miss_nothing(open: Open<'_>) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 25;
    let begin = revision(&*open());
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let follower = s.spawn(|| {
            let map = open();
            let (mut after, mut seen) = (begin, BTreeMap::new());
            loop {
                let last = done.load(Ordering::Acquire);
                let wait = Duration::from_millis(20);
                let page = map.changes("l/", after, 3, wait).expect("changes");
                for entry in page.entries {
                    assert!(entry.revision > after, "{entry:?} after {after}");
                    after = entry.revision;
                    seen.insert(entry.key, entry.revision);
                }
                assert!(page.revision >= after);
                if last && page.revision == after {
                    let rest = map.changes("l/", after, 1, Duration::ZERO);
                    if rest.expect("changes").entries.is_empty() {
                        return seen;
                    }
                }
                after = page.revision;
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let map = open();
                s.spawn(move || {
                    (0..EACH)
                        .map(|n| {
                            let key = format!("l/{w}/{n}");
                            let revision = map.put(&key, b"", Expect::Any).expect("a put");
                            (key, revision)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let written: BTreeMap<String, u64> = writers
            .into_iter()
            .flat_map(|w| w.join().expect("a writer"))
            .collect();
        done.store(true, Ordering::Release);
        assert_eq!(follower.join().expect("a follower"), written);
    });
}

/// A store that remembers `kept` deletions says so to who asks after older ones, and to nobody else.
pub fn forgets_old_deletions(map: &dyn MapStore, kept: usize) {
    let mut revisions = vec![map.put("m/stays", b"", Expect::Any).expect("a put")];
    for n in 0..kept + 2 {
        let key = format!("m/{n}");
        map.put(&key, b"", Expect::Any).expect("a put");
        map.delete(&key, Expect::Any).expect("a delete");
        revisions.push(revision(map));
    }
    let ask = |after| map.changes("m/", after, 1_000, Duration::ZERO);
    // The first two deletions are forgotten.
    for after in &revisions[..2] {
        let asked = ask(*after);
        assert!(
            matches!(asked, Err(StoreError::Trimmed { .. })),
            "{asked:?}"
        );
    }
    let page = ask(revisions[2]).expect("what is remembered");
    assert_eq!(page.entries.len(), kept);
    assert!(page.entries.iter().all(|e| e.value.is_none()));
    let all = ask(0).expect("what there is");
    assert!(all.entries.iter().any(|e| e.key == "m/stays"));
    assert_eq!(all.entries.len(), kept + 1);
}
