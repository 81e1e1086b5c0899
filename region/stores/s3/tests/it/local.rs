//! The contract of `BlobStore` on a local directory, and what is the directory's own.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::blobs::{BlobFixture, all};
use gb6_core_ports::{BlobKey, BlobStore, PutIf, StoreError};
use gb6_region_stores_s3::{Config, check, open};
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct Directory {
    dir: TempDir,
    runtime: Runtime,
    metrics: Metrics,
}

impl Directory {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
            metrics: Metrics::bare(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    fn config(&self) -> Config {
        Config::parse(&format!("file:{}", self.path().display())).expect("a URI")
    }
}

impl BlobFixture for Directory {
    fn open(&self) -> Arc<dyn BlobStore> {
        open(&self.config(), self.runtime.handle().clone(), &self.metrics).expect("open")
    }

    fn damage(&self, key: &BlobKey) {
        let path = self.path().join(format!("{key}+"));
        let file = fs::OpenOptions::new().read(true).write(true).open(path);
        let file = file.expect("the object's file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1234).expect("read");
        file.write_all_at(&[byte[0] ^ 0x40], 1234).expect("write");
    }
}

#[test]
fn the_contract_holds() {
    all(Directory::new);
}

fn key(text: &str) -> BlobKey {
    BlobKey::parse(text).expect("a key")
}

/// All files below `path`, but for directories.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("list") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn nothing_is_left_of_what_failed_or_was_deleted() {
    let fixture = Directory::new();
    let store = fixture.open();
    let mut writer = store.writer(&key("a/b")).expect("a writer");
    writer.write(Bytes::from(vec![1; 100_000])).expect("write");
    assert_eq!(files(&fixture.path()).len(), 1, "it is being written");
    // Another process opens the directory meanwhile, and leaves it alone.
    drop(fixture.open());
    assert_eq!(files(&fixture.path()).len(), 1);
    drop(writer);
    assert_eq!(files(&fixture.path()), Vec::<PathBuf>::new());
    store
        .put(&key("a/b/c"), Bytes::new(), PutIf::Absent)
        .expect("put");
    store
        .put(&key("a/b/c"), Bytes::new(), PutIf::Absent)
        .expect_err("there");
    assert_eq!(files(&fixture.path()).len(), 1);
    store.delete(&key("a/b/c")).expect("delete");
    assert!(!fixture.path().join("a").exists(), "empty directories go");
}

/// Directories that empty go while others are put into them.
#[test]
fn puts_and_deletes_in_one_directory_do_not_fail() {
    let fixture = Directory::new();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = fixture.open();
            scope.spawn(move || {
                let at = key(&format!("x/y/z/{n}"));
                for _ in 0..60 {
                    let body = Bytes::from(vec![n; 10]);
                    store.put(&at, body.clone(), PutIf::Absent).expect("put");
                    assert_eq!(store.get(&at, 10).expect("get"), Some(body));
                    store.delete(&at).expect("delete");
                }
            });
        }
    });
}

/// A process that was stopped while it had the directories to itself keeps others from putting for a moment.
#[test]
fn a_delete_that_does_not_go_on_fails_puts_in_time() {
    let fixture = Directory::new();
    let store = fixture.open();
    let put = || store.put(&key("a/b"), Bytes::new(), PutIf::Absent);
    let stopped = fs::File::open(fixture.path()).expect("the directory");
    stopped.lock().expect("as a delete locks it");
    let refused = put().expect_err("it is locked");
    assert!(matches!(refused, StoreError::Unavailable { .. }));
    assert!(refused.to_string().contains("is locked"), "{refused}");
    assert_eq!(files(&fixture.path()), Vec::<PathBuf>::new());
    drop(stopped);
    put().expect("the directory is free");
}

#[test]
fn files_that_are_cut_or_strange_are_told_and_not_taken() {
    let fixture = Directory::new();
    let store = fixture.open();
    store
        .put(&key("a/cut"), Bytes::from(vec![7; 5000]), PutIf::Always)
        .expect("put");
    let path = fixture.path().join("a/cut+");
    let whole = fs::read(&path).expect("read");
    for len in [0, 10, 39, 40, 2000, whole.len() - 1] {
        fs::write(&path, &whole[..len]).expect("write");
        let error = store.get(&key("a/cut"), 1 << 20).expect_err("cut");
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{len}: {error}"
        );
        assert!(store.head(&key("a/cut")).expect("head").is_some());
    }
    fs::write(fixture.path().join("README"), "not ours").expect("write");
    fs::write(fixture.path().join("a/b c+"), "no key").expect("write");
    fs::create_dir_all(fixture.path().join("lost+found")).expect("make");
    let listed = store.list("", None, 10).expect("list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(store.get(&key("README"), 100).expect("get"), None);
}

#[test]
fn a_check_says_what_is_good_and_what_is_wrong() {
    let fixture = Directory::new();
    let handle = fixture.runtime.handle();
    let checks = check(&fixture.config(), handle.clone());
    assert_eq!(checks.len(), 5);
    for one in &checks {
        assert!(one.is_good(), "{one:?}");
    }
    assert_eq!(files(&fixture.path()), Vec::<PathBuf>::new());
    // A file where the directory should be.
    let path = fixture.dir.path().join("file");
    fs::write(&path, "x").expect("write");
    let config = Config::parse(&format!("file:{}", path.display())).expect("a URI");
    let checks = check(&config, handle.clone());
    let error = checks[0].found.clone().expect_err("no directory");
    assert!(error.contains(&path.display().to_string()), "{error}");
    // A directory that may not be written, where permissions hold for this user at all.
    let path = fixture.path();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).expect("chmod");
    let refused = fs::write(path.join("probe"), "x").is_err();
    let checks = check(&fixture.config(), handle.clone());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(
        !refused || checks.iter().any(|one| !one.is_good()),
        "{checks:?}"
    );
}

#[test]
fn what_is_done_is_counted() {
    let fixture = Directory::new();
    let store = fixture.open();
    store
        .put(&key("a"), Bytes::from_static(b"12345"), PutIf::Absent)
        .expect("put");
    store
        .put(&key("a"), Bytes::from_static(b"1"), PutIf::Absent)
        .expect_err("there");
    store.get(&key("a"), 100).expect("get");
    store.get_range(&key("a"), 0..2).expect("get");
    let mut writer = store.writer(&key("b")).expect("a writer");
    writer.write(Bytes::from_static(b"123")).expect("write");
    writer.finish().expect("finish");
    drop(store.writer(&key("b")).expect("a writer"));
    let text = fixture.metrics.text();
    for line in [
        "gb6_blob_operations_total{operation=\"put\",outcome=\"ok\",store=\"file\"} 1",
        "gb6_blob_operations_total{operation=\"put\",outcome=\"conflict\",store=\"file\"} 1",
        "gb6_blob_operations_total{operation=\"write\",outcome=\"ok\",store=\"file\"} 1",
        "gb6_blob_operations_total{operation=\"write\",outcome=\"given_up\",store=\"file\"} 1",
        "gb6_blob_bytes_total{direction=\"read\",store=\"file\"} 7",
        "gb6_blob_bytes_total{direction=\"written\",store=\"file\"} 8",
        "gb6_blob_operation_seconds_count{operation=\"get\",store=\"file\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
