//! The disk of a region with embedded logs is lost, and its archive is a bucket of S3.

use gb6_tests_harness::engines::{Engine, Kind};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_begins_again_from_a_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("s3");
    let s3 = Engine::start(Kind::S3, &place, &[]).await.unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "gb6").unwrap();
    let (endpoint, secret) = (s3.address(), secret.display());
    let blobs = format!(
        "s3://gb6/region?endpoint={endpoint}&allow_http=true&access_key=gb6&secret_file={secret}"
    );
    gb6_tests_cluster::lost_disk("lost-disk-s3", &blobs).await;
}
