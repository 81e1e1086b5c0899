//! On a server that looks at signatures: URLs, and wrong secrets. (The rest of the contract it can not
//! pass: an object of it can not have the name of another's directory.)

use bytes::Bytes;
use gb6_core_ports::contract::blobs::{BlobFixture, urls};
use gb6_core_ports::{BlobKey, PutIf, StoreError};
use gb6_region_stores_s3::check;

use crate::server::Bucket;
use crate::signing_server::SigningServer;

#[test]
fn urls_are_worth_what_was_signed() {
    let server = SigningServer::new();
    let place = server.place("right");
    urls(|| Bucket::new(&place));
}

#[test]
fn a_wrong_secret_is_refused_and_not_told() {
    let server = SigningServer::new();
    let good = Bucket::new(&server.place("right"));
    let at = BlobKey::parse("a").expect("a key");
    let body = Bytes::from_static(b"kept");
    good.open()
        .put(&at, body.clone(), PutIf::Absent)
        .expect("put");
    let mut bad = Bucket::new(&server.place("wrong-and-secret"));
    bad.prefix.clone_from(&good.prefix);
    let store = bad.open();
    let errors = [
        store
            .put(&at, body.clone(), PutIf::Always)
            .expect_err("put"),
        store
            .put(&at, body.clone(), PutIf::Absent)
            .expect_err("put"),
        store.get(&at, 100).expect_err("get"),
        store.head(&at).expect_err("head"),
        store.list("", None, 10).expect_err("list"),
        store.delete(&at).expect_err("delete"),
    ];
    for error in errors {
        // It is refused at once and for certain: nothing was written.
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("SignatureDoesNotMatch") || text.contains("403"),
            "{text}"
        );
        assert!(!text.contains("wrong-and-secret"), "{text}");
    }
    let config = bad.config("");
    assert!(!format!("{config} {config:?}").contains("wrong-and-secret"));
    let checks = check(&config, bad.runtime.handle().clone());
    let put = checks
        .last()
        .expect("a check")
        .found
        .clone()
        .expect_err("refused");
    assert!(put.contains("secret"), "{put}");
    let found = good.open().get(&at, 100).expect("get");
    assert_eq!(found, Some(body));
}

#[test]
fn a_secret_that_can_not_be_read_is_named_by_its_file() {
    let server = SigningServer::new();
    for secret in ["", " \n"] {
        let bucket = Bucket::new(&server.place(secret));
        let checks = check(&bucket.config(""), bucket.runtime.handle().clone());
        let error = checks
            .last()
            .expect("a check")
            .found
            .clone()
            .expect_err("empty");
        assert!(error.contains("there is no secret in"), "{error}");
    }
}
