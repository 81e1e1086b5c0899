//! The disk of a region is lost, and its archive is a directory on another one.

use gb6_tests_harness::process::Scratch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_begins_again_from_a_directory() {
    let archive = Scratch::new("archive").unwrap();
    let blobs = format!("file:{}", archive.path().join("objects").display());
    gb6_tests_cluster::lost_disk("lost-disk", &blobs).await;
}
