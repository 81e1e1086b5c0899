//! Answers that are lost, servers that are silent, wrong or not there, and what a check says of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_ports::contract::blobs::BlobFixture;
use gb6_core_ports::{BlobKey, BlobStore, Check, PutIf, StoreError};
use gb6_region_stores_s3::check;

use crate::proxy::{Fault, Proxy};
use crate::server::{Bucket, Place};

fn key(text: &str) -> BlobKey {
    BlobKey::parse(text).expect("a key")
}

/// A store behind a proxy, the same store without it, and the proxy.
fn behind_proxy(options: &str) -> (Bucket, Arc<dyn BlobStore>, Arc<dyn BlobStore>, Proxy) {
    let place = Place::of_environment();
    let proxy = Proxy::new(&place.endpoint);
    let mut bucket = Bucket::new(&place);
    let direct = bucket.open();
    bucket.place.endpoint = proxy.endpoint.clone();
    let store = bucket.open_with(options);
    bucket.place = place;
    (bucket, store, direct, proxy)
}

#[test]
fn a_put_whose_answer_is_lost_is_read_back() {
    let (_bucket, store, direct, proxy) = behind_proxy("&deadline_ms=3000");
    // How many answers are lost: one, so that the next attempt is told that something is there; all,
    // so that only reading back is left.
    for (n, lost) in [1, 2, usize::MAX].into_iter().enumerate() {
        let at = key(&format!("ours-{n}"));
        proxy.set(Fault::AnswersLost("PUT ", lost));
        let ours = store.put(&at, Bytes::from_static(b"ours"), PutIf::Absent);
        let ours = ours.expect("it was done, and that can be seen");
        proxy.set(Fault::None);
        assert_eq!(direct.head(&at).expect("head"), Some(ours));
        // What somebody else has put is not taken for ours.
        let at = key(&format!("theirs-{n}"));
        direct
            .put(&at, Bytes::from_static(b"ours"), PutIf::Absent)
            .expect("put");
        proxy.set(Fault::AnswersLost("PUT ", lost));
        let error = store
            .put(&at, Bytes::from_static(b"ours"), PutIf::Absent)
            .expect_err("it is theirs");
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        proxy.set(Fault::AnswersLost("PUT ", lost));
        store
            .put(&at, Bytes::from_static(b"replaced"), PutIf::Always)
            .expect("put");
        proxy.set(Fault::None);
        let found = direct.get(&at, 100).expect("get").expect("there");
        assert_eq!(found, "replaced");
    }
}

#[test]
fn a_large_object_whose_last_answer_is_lost_is_read_back() {
    let (bucket, store, direct, proxy) = behind_proxy("&deadline_ms=3000");
    let large = Bytes::from(vec![9; bucket.several_parts()]);
    for lost in [1, usize::MAX] {
        let at = key(&format!("large-{lost}"));
        let mut writer = store.writer(&at).expect("a writer");
        writer.write(large.clone()).expect("write");
        proxy.set(Fault::AnswersLost("POST ", lost));
        let meta = writer.finish().expect("it was done");
        proxy.set(Fault::None);
        assert_eq!(direct.head(&at).expect("head"), Some(meta));
        let found = direct.get(&at, 1 << 30).expect("get").expect("there");
        assert_eq!(found, large);
    }
    // A lost answer to a part.
    let at = key("parts");
    let mut writer = store.writer(&at).expect("a writer");
    proxy.set(Fault::AnswersLost("PUT ", 2));
    writer.write(large.clone()).expect("write");
    writer.finish().expect("finish");
    let found = direct.get(&at, 1 << 30).expect("get").expect("there");
    assert_eq!(found, large);
}

#[test]
fn a_silent_server_costs_no_more_than_the_deadline() {
    let (_bucket, store, direct, proxy) = behind_proxy("&deadline_ms=3000");
    let at = key("there");
    direct
        .put(&at, Bytes::from_static(b"there"), PutIf::Always)
        .expect("put");
    proxy.set(Fault::Silent);
    let timed = |what: &str, run: &dyn Fn() -> StoreError| {
        let begun = Instant::now();
        let before = proxy.seen();
        let error = run();
        // The deadline, a third of it to read back, and what a slow machine needs.
        assert!(begun.elapsed() < Duration::from_secs(6), "{what}: {error}");
        assert!(proxy.seen() - before >= 2, "{what} is tried again");
        error
    };
    for (what, run) in [
        (
            "get",
            &(|| store.get(&at, 1 << 30).expect_err("silent")) as &dyn Fn() -> StoreError,
        ),
        ("get_range", &|| {
            store.get_range(&at, 0..1000).expect_err("silent")
        }),
        ("head", &|| store.head(&at).expect_err("silent")),
        ("list", &|| store.list("", None, 10).expect_err("silent")),
        ("delete", &|| store.delete(&at).expect_err("silent")),
    ] {
        let error = timed(what, run);
        assert!(
            matches!(error, StoreError::Unavailable { .. }),
            "{what}: {error}"
        );
        assert!(error.retryable());
    }
    for when in [PutIf::Always, PutIf::Absent] {
        let put = || store.put(&at, Bytes::from_static(b"new"), when.clone());
        let error = timed("put", &|| put().expect_err("silent"));
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
    }
    // It answers again, without anything being opened again.
    proxy.set(Fault::None);
    assert_eq!(store.get(&at, 100).expect("get").expect("there"), "there");
}

#[test]
fn a_server_that_is_not_there_is_named_and_nothing_was_written() {
    let mut bucket = Bucket::new(&Place::of_environment());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    bucket.place.endpoint = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let store = bucket.open_with("&deadline_ms=1000");
    for when in [PutIf::Always, PutIf::Absent] {
        let error = store
            .put(&key("a"), Bytes::from_static(b"x"), when)
            .expect_err("not there");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&bucket.place.endpoint), "{text}");
        assert!(text.contains("refused"), "{text}");
        assert!(!text.contains(&bucket.place.secret), "{text}");
    }
    let checks = check(&bucket.config(""), bucket.runtime.handle().clone());
    assert_eq!(checks.len(), 1);
    bad(&checks, "clock", "does not answer");
}

fn bad(checks: &[Check], what: &str, said: &str) {
    let one = checks.iter().find(|one| one.what.contains(what));
    let one = one.unwrap_or_else(|| panic!("{what} is not among {checks:?}"));
    let error = one.found.clone().expect_err(what);
    assert!(error.contains(said), "{error}");
}

#[test]
fn a_check_says_what_is_good_and_what_is_wrong() {
    let place = Place::of_environment();
    let mut bucket = Bucket::new(&place);
    let handle = bucket.runtime.handle().clone();
    let checks = check(&bucket.config(""), handle.clone());
    assert_eq!(checks.len(), 7, "{checks:?}");
    for one in &checks {
        assert!(one.is_good(), "{one:?}");
    }
    assert_eq!(bucket.open().list("", None, 10).expect("list"), []);
    let proxy = Proxy::new(&place.endpoint);
    bucket.place.endpoint = proxy.endpoint.clone();
    proxy.set(Fault::ConditionsIgnored);
    let checks = check(&bucket.config(""), handle.clone());
    bad(&checks, "only where nothing is", "If-None-Match");
    proxy.set(Fault::MetadataDropped);
    let checks = check(&bucket.config(""), handle.clone());
    bad(&checks, "metadata", "drops x-amz-meta");
    proxy.set(Fault::Clock);
    let checks = check(&bucket.config(""), handle.clone());
    bad(&checks, "clock", "set the clock");
    proxy.set(Fault::None);
    bucket.place.bucket = "there-is-none".to_owned();
    let checks = check(&bucket.config(""), handle);
    bad(&checks, "put", "make the bucket");
    let store = bucket.open();
    let error = store.get(&key("a"), 10).expect_err("no bucket");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = store.list("", None, 10).expect_err("no bucket");
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
}
