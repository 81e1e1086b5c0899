//! The contract of `BlobStore`, promise by promise.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::blobs_shared;
use crate::blobs::{BLOB_KEY_PART_MAX, BLOB_PUT_MAX, BlobKey, BlobMeta, BlobStore, PutIf};
use crate::error::StoreError;
use crate::instance_blobs::ForInstance;

/// What a store answers over HTTP: the status, and the body.
pub type Answer = (u16, Vec<u8>);

/// A store, empty at first.
pub trait BlobFixture: Sync {
    /// Opens it as another process would: all see the same objects.
    fn open(&self) -> Arc<dyn BlobStore>;

    /// Changes a byte of what is stored under `key`, behind the store's back.
    fn damage(&self, key: &BlobKey);

    /// Bytes that a writer sends in three parts or more, where it makes parts at all.
    fn several_parts(&self) -> usize {
        100_000
    }

    /// Makes a request without credentials; asked only of stores that presign.
    fn request(&self, method: &str, url: &str, body: &[u8]) -> Answer {
        panic!("{method} {url} with {} bytes: no HTTP here", body.len());
    }

    /// Whether who answers such requests looks at what is signed in URLs, and until when they are valid.
    fn checks_urls(&self) -> bool {
        true
    }
}

/// Runs every promise, each on an empty store from `fresh`, and then all again on the objects of one
/// instance in such a store.
pub fn all<F: BlobFixture>(mut fresh: impl FnMut() -> F) {
    promises(&mut fresh);
    blobs_shared::instances_are_apart(&fresh());
    promises(&mut || Instance(fresh()));
}

/// Runs what is promised of URLs alone, on empty stores of a server that looks at them.
pub fn urls<F: BlobFixture>(mut fresh: impl FnMut() -> F) {
    assert!(fresh().checks_urls());
    blobs_shared::urls_work(&fresh());
    blobs_shared::urls_work(&Instance(fresh()));
}

fn promises<F: BlobFixture>(fresh: &mut impl FnMut() -> F) {
    what_was_put_is_read(&fresh());
    ranges_are_cut(&fresh());
    absent_means_absent(&fresh());
    parts_become_one_object(&fresh());
    what_is_given_up_was_never_there(&fresh());
    lists_are_ordered(&fresh());
    lists_are_long(&fresh());
    damage_is_found(&fresh());
    bounds_are_enforced(&fresh());
    blobs_shared::one_of_many_wins(&fresh());
    blobs_shared::readers_see_one_content(&fresh());
    blobs_shared::urls_work(&fresh());
}

/// The objects of one instance, as a store.
struct Instance<F>(F);

impl<F: BlobFixture> BlobFixture for Instance<F> {
    fn open(&self) -> Arc<dyn BlobStore> {
        Arc::new(ForInstance::new(self.0.open(), "acme").expect("an instance"))
    }

    fn damage(&self, key: &BlobKey) {
        let store = ForInstance::new(self.0.open(), "acme").expect("an instance");
        self.0.damage(&store.key_below(key));
    }

    fn several_parts(&self) -> usize {
        self.0.several_parts()
    }

    fn request(&self, method: &str, url: &str, body: &[u8]) -> Answer {
        self.0.request(method, url, body)
    }

    fn checks_urls(&self) -> bool {
        self.0.checks_urls()
    }
}

pub(super) fn key(text: &str) -> BlobKey {
    BlobKey::parse(text).expect("a key")
}

pub(super) fn put(store: &dyn BlobStore, at: &str, body: impl Into<Bytes>) -> BlobMeta {
    let body = body.into();
    let size = body.len() as u64;
    let meta = store.put(&key(at), body, PutIf::Always).expect("put");
    assert_eq!((meta.key.as_str(), meta.size), (at, size));
    assert!(!meta.tag.is_empty());
    meta
}

pub(super) fn get(store: &dyn BlobStore, at: &str) -> Option<Bytes> {
    store.get(&key(at), 1 << 30).expect("get")
}

/// Bytes in which a part that is missing, doubled or misplaced shows.
pub(super) fn pattern(size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size + 8);
    let mut n = 0u64;
    while bytes.len() < size {
        bytes.extend_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        n += 1;
    }
    bytes.truncate(size);
    bytes.into()
}

fn what_was_put_is_read(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let long = format!(
        "{0}/{0}/{1}",
        "k".repeat(BLOB_KEY_PART_MAX),
        "l".repeat(110)
    );
    // A key may be the beginning of another, and hold every byte that keys may hold.
    let bodies = [
        ("a", Bytes::new()),
        ("a/b", Bytes::from_static(b"x")),
        ("a/b/c", pattern(70_000)),
        (
            "eu/shards/3/seg/00000000000000000001-0.seg",
            pattern(3_000_000),
        ),
        ("A=z_9-.x/y.", pattern(10)),
        (&long, pattern(100)),
    ];
    for (at, body) in &bodies {
        assert_eq!(get(&*store, at), None, "{at}");
        assert_eq!(store.head(&key(at)).expect("head"), None, "{at}");
        let meta = put(&*store, at, body.clone());
        for handle in [store.clone(), fixture.open()] {
            assert_eq!(get(&*handle, at).as_ref(), Some(body), "{at}");
            assert_eq!(handle.head(&key(at)).expect("head").as_ref(), Some(&meta));
        }
    }
    let listed = store.list("kkk", None, 10).expect("list");
    assert_eq!(keys(&listed), [long.as_str()]);
    for (at, body) in &bodies {
        assert_eq!(get(&*store, at).as_ref(), Some(body), "{at}");
        store.delete(&key(at)).expect("delete");
        store.delete(&key(at)).expect("there is nothing to delete");
        assert_eq!(get(&*fixture.open(), at), None, "{at}");
        assert_eq!(store.head(&key(at)).expect("head"), None, "{at}");
    }
}

fn ranges_are_cut(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let range = |at: &str, range: Range<u64>| store.get_range(&key(at), range).expect("a range");
    let body = pattern(100_000);
    put(&*store, "ranges/some", body.clone());
    put(&*store, "ranges/empty", "");
    for (from, to) in [
        (0, 1),
        (0, 100_000),
        (99_999, 100_000),
        (500, 70_000),
        (99_000, 200_000),
        (100_000, 100_001),
        (500_000, 600_000),
        (99_000, 99_000 + BLOB_PUT_MAX),
        (7, 7),
    ] {
        let expected = body.slice(from.min(100_000) as usize..to.min(100_000) as usize);
        assert_eq!(
            range("ranges/some", from..to),
            Some(expected),
            "{from}..{to}"
        );
    }
    assert_eq!(range("ranges/empty", 0..10), Some(Bytes::new()));
    assert_eq!(range("ranges/empty", 0..0), Some(Bytes::new()));
    assert_eq!(range("ranges/none", 0..10), None);
    assert_eq!(range("ranges/none", 3..3), None);
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = range("ranges/some", 9..3);
    assert_eq!(backwards, Some(Bytes::new()));
}

fn absent_means_absent(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let at = key("manifest/00000000000000000001");
    let absent = |body: &'static str| store.put(&at, Bytes::from(body), PutIf::Absent);
    let first = absent("first").expect("nothing is there");
    // Not even the same content again: it is somebody else's.
    for body in ["second", "first"] {
        let error = absent(body).expect_err("something is there");
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
    assert_eq!(get(&*store, at.as_str()).expect("there"), "first");
    assert_eq!(store.head(&at).expect("head"), Some(first.clone()));
    let second = put(&*store, at.as_str(), "other");
    assert_ne!(first.tag, second.tag, "other content, of the same size");
    assert_eq!(get(&*store, at.as_str()).expect("there"), "other");
    store.delete(&at).expect("delete");
    let third = absent("third").expect("nothing is there any more");
    assert_ne!(third.tag, second.tag);
    assert_eq!(get(&*fixture.open(), at.as_str()).expect("there"), "third");
}

fn parts_become_one_object(fixture: &impl BlobFixture) {
    let store = fixture.open();
    let large = pattern(fixture.several_parts());
    let at = key("streams/large");
    for step in [large.len(), large.len() / 7 + 1] {
        let before = put(&*store, at.as_str(), "what was there before");
        let mut writer = store.writer(&at).expect("a writer");
        let mut rest = large.clone();
        while !rest.is_empty() {
            writer
                .write(rest.split_to(step.min(rest.len())))
                .expect("write");
            writer.write(Bytes::new()).expect("nothing");
        }
        // Until it is finished, what was there before is there.
        assert_eq!(store.head(&at).expect("head"), Some(before));
        let meta = writer.finish().expect("finish");
        assert_eq!((meta.size, &meta.key), (large.len() as u64, &at));
        assert_eq!(store.head(&at).expect("head"), Some(meta.clone()));
        assert_eq!(store.list("streams/", None, 10).expect("list"), [meta]);
        assert_eq!(get(&*fixture.open(), at.as_str()).expect("there"), large);
        let middle = large.len() as u64 / 2;
        let part = store.get_range(&at, middle..middle + 99).expect("range");
        let middle = middle as usize;
        assert_eq!(part.expect("there"), large.slice(middle..middle + 99));
    }
    for body in ["", "small"] {
        let at = key("streams/small");
        let mut writer = store.writer(&at).expect("a writer");
        if !body.is_empty() {
            writer.write(body.into()).expect("write");
        }
        assert_eq!(writer.finish().expect("finish").size, body.len() as u64);
        assert_eq!(get(&*store, at.as_str()).expect("there"), body);
    }
    let size = large.len() as u64;
    match store.get(&at, size - 1) {
        Err(StoreError::TooLarge { size: told, limit }) => {
            assert_eq!((told, limit), (size, size - 1));
        }
        other => panic!("{other:?}"),
    }
    store.delete(&at).expect("delete");
    assert_eq!(store.head(&at).expect("head"), None);
    // What came in parts is replaced, and removed, by what did not.
    put(&*store, at.as_str(), "whole");
    assert_eq!(get(&*store, at.as_str()).expect("there"), "whole");
}

fn what_is_given_up_was_never_there(fixture: &impl BlobFixture) {
    let store = fixture.open();
    put(&*store, "kept", "as it was");
    for at in ["never", "kept", "never/below"] {
        let mut writer = store.writer(&key(at)).expect("a writer");
        writer
            .write(pattern(fixture.several_parts()))
            .expect("write");
        drop(writer);
        drop(store.writer(&key(at)).expect("a writer"));
    }
    assert_eq!(get(&*store, "never"), None);
    assert_eq!(get(&*store, "kept").expect("there"), "as it was");
    let listed = store.list("", None, 10).expect("list");
    assert_eq!(keys(&listed), ["kept"]);
}

fn keys(listed: &[BlobMeta]) -> Vec<&str> {
    listed.iter().map(|meta| meta.key.as_str()).collect()
}

fn lists_are_ordered(fixture: &impl BlobFixture) {
    let store = fixture.open();
    assert_eq!(store.list("", None, 10).expect("an empty store"), []);
    let mut expected = vec![
        "A", "a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a/b0", "a0", "a=b", "a_b", "b/c/d/e",
        "b/c/d0", "z",
    ];
    for (n, at) in expected.iter().enumerate() {
        put(&*store, at, pattern(n));
    }
    store.delete(&key("z")).expect("delete");
    expected.pop();
    expected.sort_unstable();
    let between = ["0", "a/a", "a/b/b", "b", "b/c/d", "zz"];
    let afters: Vec<&str> = expected.iter().copied().chain(between).collect();
    for prefix in [
        "", "a", "a/", "a/b", "a/b/", "b", "b/c/d", "b/c/d/e", "b/c/d/e/", "zz", "../", "a//", ".",
        "/", "ü", "a/b\0",
    ] {
        let matching = |after: &str| {
            let fits = |at: &&&str| at.starts_with(prefix) && **at > after;
            expected.iter().filter(fits).copied().collect::<Vec<_>>()
        };
        let all = store.list(prefix, None, 1000).expect("list");
        assert_eq!(keys(&all), matching(""), "{prefix}");
        for after in &afters {
            let listed = store.list(prefix, Some(&key(after)), 1000).expect("list");
            assert_eq!(keys(&listed), matching(after), "{prefix} after {after}");
        }
        for limit in 0..4 {
            let mut pages: Vec<BlobMeta> = Vec::new();
            loop {
                let after = pages.last().map(|meta| meta.key.clone());
                let page = store.list(prefix, after.as_ref(), limit).expect("list");
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                pages.extend(page);
            }
            let whole = if limit == 0 { &[] } else { &all[..] };
            assert_eq!(pages, whole, "{prefix} by {limit}");
        }
    }
    for meta in store.list("", None, 1000).expect("list") {
        let found = store.head(&meta.key).expect("head");
        assert_eq!(found, Some(meta), "lists and heads agree");
    }
}

/// More than servers give at once.
fn lists_are_long(fixture: &impl BlobFixture) {
    const COUNT: usize = 1030;
    let store = fixture.open();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for n in (thread..COUNT).step_by(6) {
                    put(&**store, &format!("many/{n:05}"), "x");
                }
            });
        }
    });
    let listed = store.list("many/", None, COUNT + 10).expect("list");
    let expected: Vec<String> = (0..COUNT).map(|n| format!("many/{n:05}")).collect();
    assert_eq!(keys(&listed), expected);
    let after = Some(key("many/00004"));
    let listed = store.list("many/", after.as_ref(), 1010).expect("list");
    assert_eq!(keys(&listed), expected[5..1015]);
}

fn damage_is_found(fixture: &impl BlobFixture) {
    let store = fixture.open();
    put(&*store, "damaged", pattern(5_000));
    let mut writer = store.writer(&key("damaged-stream")).expect("a writer");
    writer
        .write(pattern(fixture.several_parts()))
        .expect("write");
    writer.finish().expect("finish");
    put(&*store, "sound", pattern(5_000));
    for at in ["damaged", "damaged-stream"] {
        get(&*store, at).expect("sound");
        fixture.damage(&key(at));
        let error = store.get(&key(at), 1 << 30).expect_err("damaged");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(at), "{error}");
        assert!(!error.retryable());
    }
    assert_eq!(get(&*store, "sound").expect("there"), pattern(5_000));
    let listed = store.list("", None, 10).expect("list");
    assert_eq!(keys(&listed), ["damaged", "damaged-stream", "sound"]);
    for at in ["damaged", "damaged-stream"] {
        put(&*store, at, "mended");
        assert_eq!(get(&*store, at).expect("there"), "mended");
    }
}

fn bounds_are_enforced(fixture: &impl BlobFixture) {
    let store = fixture.open();
    put(&*store, "bounds/some", pattern(1_000));
    let at = key("bounds/some");
    assert_eq!(
        store.get(&at, 1_000).expect("get").expect("there").len(),
        1_000
    );
    for limit in [999, 0] {
        match store.get(&at, limit) {
            Err(StoreError::TooLarge { size, limit: told }) => {
                assert_eq!((size, told), (1_000, limit));
            }
            other => panic!("{other:?}"),
        }
    }
    let at = key("bounds/large");
    for when in [PutIf::Always, PutIf::Absent] {
        // Never touched, so that it costs no memory.
        let body = Bytes::from(vec![0; BLOB_PUT_MAX as usize + 1]);
        let error = store.put(&at, body, when).expect_err("too large");
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }
    assert_eq!(store.head(&at).expect("head"), None);
    let error = store
        .get_range(&key("bounds/some"), 1..BLOB_PUT_MAX + 2)
        .expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}
