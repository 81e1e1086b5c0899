//! The part of `BlobStore`'s contract about those who share a store: writers of one key, readers beside
//! a writer, instances, and whoever was given a URL.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::blobs::{BlobFixture, get, key, pattern, put};
use crate::blobs::{BlobStore, PRESIGN_MAX, Presigned, PutIf};
use crate::error::StoreError;
use crate::instance_blobs::ForInstance;

pub(super) fn one_of_many_wins(fixture: &impl BlobFixture) {
    const WRITERS: usize = 8;
    let stores: Vec<_> = (0..WRITERS).map(|_| fixture.open()).collect();
    for round in 0..12 {
        let at = key(&format!("manifest/{round:020}"));
        let start = Barrier::new(WRITERS);
        let results: Vec<_> = thread::scope(|scope| {
            let put = |n: usize| {
                let (start, at, store) = (&start, &at, &stores[n]);
                scope.spawn(move || {
                    start.wait();
                    store.put(at, pattern(100 + n), PutIf::Absent)
                })
            };
            let running: Vec<_> = (0..WRITERS).map(put).collect();
            running
                .into_iter()
                .map(|t| t.join().expect("a writer"))
                .collect()
        });
        let winners: Vec<usize> = (0..WRITERS).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        for result in &results {
            assert!(
                matches!(result, Ok(_) | Err(StoreError::Conflict { .. })),
                "{result:?}"
            );
        }
        let won = stores[0].get(&at, 1000).expect("get").expect("there");
        assert_eq!(won, pattern(100 + winners[0]), "round {round}");
    }
}

/// Objects are whole, and what is gone is gone, while they are written again and again.
pub(super) fn readers_see_one_content(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let other = fixture.open();
    let at = key("rewritten");
    let body = |n: u8| Bytes::from(vec![n; 150_000 + usize::from(n) * 1_000]);
    let write = |n: u8| match n % 3 {
        0 => {
            let mut writer = store.writer(&at).expect("a writer");
            writer.write(body(n)).expect("write");
            writer.finish().expect("finish");
        }
        _ => {
            put(&*store, at.as_str(), body(n));
        }
    };
    write(1);
    let ended = AtomicBool::new(false);
    // overflow: it is sent to once.
    let (begun, begins) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        let (ended, at, body) = (&ended, &at, &body);
        scope.spawn(move || {
            let mut newest = 0;
            let mut read = || {
                let seen = get(&*other, at.as_str()).expect("there");
                let n = seen[0];
                assert_eq!(seen, body(n), "a mixture");
                assert!(n >= newest, "{n} after {newest}");
                newest = n;
            };
            read();
            begun.send(()).expect("somebody waits");
            while !ended.load(Ordering::Acquire) {
                read();
            }
        });
        begins.recv().expect("the reader reads");
        // Also where a write fails: the reader must not go on for ever.
        let _end = OnDrop(ended);
        for n in 2..30 {
            write(n);
            assert_eq!(get(&*store, at.as_str()).expect("there")[0], n);
        }
    });
}

/// Sets what it holds when it goes.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Instances whose names are beginnings of each other see nothing of each other.
pub(super) fn instances_are_apart(fixture: &impl BlobFixture) {
    let whole = fixture.open();
    let names = ["a", "ab", "a-b", "b"];
    let stores: Vec<ForInstance> = names
        .iter()
        .map(|name| ForInstance::new(fixture.open(), name).expect("an instance"))
        .collect();
    for bad in ["", "a/b", "..", ".", "a b", "../b", ".x"] {
        let error = ForInstance::new(fixture.open(), bad).expect_err(bad);
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
    put(&*whole, "beside", "of nobody");
    for (name, store) in names.iter().zip(&stores) {
        put(store, "same", *name);
        put(store, &format!("own/{name}"), *name);
        let error = store
            .put(&key("same"), Bytes::from_static(b"x"), PutIf::Absent)
            .expect_err("there");
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
    for (n, (name, store)) in names.iter().zip(&stores).enumerate() {
        assert_eq!(get(store, "same").expect("there"), *name);
        let own = format!("own/{name}");
        let listed = store.list("", None, 100).expect("list");
        let keys: Vec<&str> = listed.iter().map(|meta| meta.key.as_str()).collect();
        assert_eq!(keys, [own.as_str(), "same"]);
        for out in ["../", "../b/", "instances/", "/", "."] {
            assert_eq!(store.list(out, None, 100).expect("list"), [], "{out}");
        }
        for (m, other) in names.iter().enumerate() {
            let of_other = key(&format!("own/{other}"));
            assert_eq!(store.head(&of_other).expect("head").is_some(), n == m);
            if n != m {
                assert_eq!(store.get(&of_other, 100).expect("get"), None);
                assert_eq!(store.get_range(&of_other, 0..9).expect("get"), None);
                store.delete(&of_other).expect("nothing to delete");
            }
        }
        for beside in ["beside", "instances/a/same", "instances/b/same"] {
            assert_eq!(get(store, beside), None);
            store.delete(&key(beside)).expect("nothing to delete");
        }
        store.delete(&key("same")).expect("delete");
        for (name, store) in names.iter().zip(&stores).skip(n + 1) {
            assert_eq!(get(store, "same").expect("there"), *name);
        }
    }
    assert_eq!(get(&*whole, "beside").expect("there"), "of nobody");
    for (name, store) in names.iter().zip(&stores) {
        assert_eq!(get(store, &format!("own/{name}")).expect("there"), *name);
    }
}

pub(super) fn urls_work(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let at = key("urls/file.bin");
    let minute = Duration::from_secs(60);
    let url = match store.presign(&at, Presigned::Get, minute) {
        Err(StoreError::Unsupported { .. }) => return,
        other => other.expect("a URL"),
    };
    for (valid, good) in [
        (PRESIGN_MAX, true),
        (Duration::from_secs(1), true),
        (PRESIGN_MAX + Duration::from_secs(1), false),
        (Duration::from_millis(999), false),
        (Duration::ZERO, false),
    ] {
        match store.presign(&at, Presigned::Get, valid) {
            Ok(_) => assert!(good, "{valid:?}"),
            Err(StoreError::Conflict { .. }) => assert!(!good, "{valid:?}"),
            Err(error) => panic!("{error}"),
        }
    }
    put(&*store, at.as_str(), pattern(10_000));
    put(&*store, "urls/other.bin", "of somebody else");
    assert_eq!(
        fixture.request("GET", &url, b""),
        (200, pattern(10_000).to_vec())
    );
    let to_put = store.presign(&at, Presigned::Put, minute).expect("a URL");
    let (status, answer) = fixture.request("PUT", &to_put, b"from outside");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(&*store, at.as_str()).expect("there"), "from outside");
    assert_eq!(store.head(&at).expect("head").expect("there").size, 12);
    if !fixture.checks_urls() {
        return;
    }
    let refused = |method: &str, url: &str, why: &str| {
        let (status, answer) = fixture.request(method, url, b"not allowed");
        assert!((400..500).contains(&status), "{why}: {status}");
        assert!(!answer.starts_with(b"of somebody"), "{why}");
    };
    refused(
        "GET",
        &url.replace("file.bin", "other.bin"),
        "another object",
    );
    refused("PUT", &url, "to write with a URL to read");
    refused("GET", &to_put, "to read with a URL to write");
    refused("DELETE", &to_put, "to delete");
    let bare = url.split('?').next().unwrap_or_default();
    refused("GET", bare, "without a signature");
    let longer = url.replace("X-Amz-Expires=60", "X-Amz-Expires=600");
    assert_ne!(longer, url);
    refused("GET", &longer, "for longer");
    assert_eq!(get(&*store, at.as_str()).expect("there"), "from outside");
    assert_eq!(
        get(&*store, "urls/other.bin").expect("there"),
        "of somebody else"
    );
    let short = store
        .presign(&at, Presigned::Get, Duration::from_secs(2))
        .expect("a URL");
    assert_eq!(fixture.request("GET", &short, b"").0, 200);
    // It ends by the server's clock, which this can only watch.
    let begun = Instant::now();
    while fixture.request("GET", &short, b"").0 == 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "never expires");
        thread::sleep(Duration::from_millis(100));
    }
    assert!((400..500).contains(&fixture.request("GET", &short, b"").0));
    assert_eq!(fixture.request("GET", &url, b"").0, 200);
}
