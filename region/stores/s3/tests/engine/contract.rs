//! The contract, and what is left on the server.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use gb6_core_ports::contract::blobs::{BlobFixture, all};
use gb6_core_ports::{BlobKey, PutIf};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::server::{Bucket, Place};

#[test]
fn the_contract_holds() {
    let place = Place::of_environment();
    all(|| Bucket::new(&place));
}

fn key(text: &str) -> BlobKey {
    BlobKey::parse(text).expect("a key")
}

/// Everything that lies below the bucket's part, also what is not an object of ours.
fn everything(bucket: &Bucket) -> Vec<String> {
    let prefix = Path::from(bucket.prefix.as_str());
    let bare = bucket.bare();
    let found = bare.list(Some(&prefix)).try_collect::<Vec<_>>();
    let found = bucket.runtime.block_on(found).expect("list");
    let strip = |path: &Path| path.as_ref().replace(&bucket.prefix, "");
    found.iter().map(|meta| strip(&meta.location)).collect()
}

/// Uploads that were begun and not ended.
fn uploads(bucket: &Bucket) -> usize {
    let url = format!("{}/{}?uploads", bucket.place.endpoint, bucket.place.bucket);
    let (status, answer) = bucket.request("GET", &url, b"");
    assert_eq!(status, 200);
    let answer = String::from_utf8(answer).expect("text");
    answer.matches(&bucket.prefix).count()
}

#[test]
fn nothing_is_left_of_what_was_given_up_replaced_or_deleted() {
    let bucket = Bucket::new(&Place::of_environment());
    let store = bucket.open();
    let large = Bytes::from(vec![5; bucket.several_parts()]);
    let mut writer = store.writer(&key("given-up")).expect("a writer");
    writer.write(large.clone()).expect("write");
    assert_eq!(uploads(&bucket), 1);
    drop(writer);
    let begun = Instant::now();
    while uploads(&bucket) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "parts are left");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(everything(&bucket), Vec::<String>::new());
    let write = || {
        let mut writer = store.writer(&key("large")).expect("a writer");
        writer.write(large.clone()).expect("write");
        writer.finish().expect("finish");
    };
    write();
    let first = everything(&bucket);
    assert_eq!(first.len(), 2, "the object and its sum: {first:?}");
    write();
    let second = everything(&bucket);
    assert_eq!(second.len(), 2, "{second:?}");
    assert_ne!(first, second, "another sum");
    assert_eq!(store.list("", None, 10).expect("list").len(), 1);
    store.delete(&key("large")).expect("delete");
    assert_eq!(everything(&bucket), Vec::<String>::new());
}

/// What is stored is the body as it is, for whoever reads it with other tools.
#[test]
fn bodies_are_stored_as_they_are_and_the_prefix_holds() {
    let bucket = Bucket::new(&Place::of_environment());
    let store = bucket.open();
    let body = Bytes::from_static(b"as it is");
    store
        .put(&key("a/b"), body.clone(), PutIf::Absent)
        .expect("put");
    let bare = bucket.bare();
    let path = bucket.path(&key("a/b"));
    let found = bucket.runtime.block_on(async {
        let found = bare.get_opts(&path, object_store::GetOptions::default());
        found.await.expect("there").bytes().await.expect("bytes")
    });
    assert_eq!(found, body);
    let other = Bucket::new(&bucket.place);
    assert_eq!(other.open().list("", None, 10).expect("list"), []);
    assert_eq!(other.open().get(&key("a/b"), 100).expect("get"), None);
}
