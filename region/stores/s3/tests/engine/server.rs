//! A bucket of the server that `GB6_TEST_S3` names, and stores in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::blobs::{Answer, BlobFixture};
use gb6_core_ports::{BlobKey, BlobStore};
use gb6_region_stores_s3::{Config, open};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutOptions};
use tempfile::NamedTempFile;
use tokio::runtime::{Builder, Runtime};

/// Where a server is and who asks it.
#[derive(Clone)]
pub(crate) struct Place {
    /// Such as `http://127.0.0.1:9000`.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) secret: String,
    /// Whether it looks at signatures, and at the time in URLs.
    pub(crate) checks_urls: bool,
}

impl Place {
    /// The server of `make test-engines`. It accepts every secret.
    pub(crate) fn of_environment() -> Self {
        let address = std::env::var("GB6_TEST_S3").expect(
            "GB6_TEST_S3 names no server: `make test-engines` starts one, and so does \
             `scripts/engine.sh start s3 DIR PORT`, which prints its address",
        );
        let (scheme, rest) = address.split_once("://").expect("http://HOST:PORT/BUCKET");
        let (host, bucket) = rest.split_once('/').unwrap_or((rest, ""));
        let bucket = bucket.trim_matches('/');
        Self {
            endpoint: format!("{scheme}://{host}"),
            bucket: if bucket.is_empty() { "gb6" } else { bucket }.to_owned(),
            secret: "right".to_owned(),
            checks_urls: false,
        }
    }
}

/// An empty part of a bucket, for one test.
pub(crate) struct Bucket {
    pub(crate) place: Place,
    pub(crate) prefix: String,
    pub(crate) runtime: Runtime,
    secret: NamedTempFile,
}

impl Bucket {
    pub(crate) fn new(place: &Place) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let secret = NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), format!("{}\n", place.secret)).expect("write");
        Self {
            place: place.clone(),
            prefix: format!("test/{}-{number}", now.as_nanos()),
            runtime: Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime"),
            secret,
        }
    }

    /// The URI of its store, with these options too.
    pub(crate) fn config(&self, options: &str) -> Config {
        let uri = format!(
            "s3://{}/{}?endpoint={}&allow_http=true&access_key=test&secret_file={}&part_bytes=5242880{options}",
            self.place.bucket,
            self.prefix,
            self.place.endpoint,
            self.secret.path().display(),
        );
        Config::parse(&uri).expect("a URI")
    }

    pub(crate) fn open_with(&self, options: &str) -> Arc<dyn BlobStore> {
        let runtime = self.runtime.handle().clone();
        open(&self.config(options), runtime, &Metrics::bare()).expect("open")
    }

    /// The server without our store.
    pub(crate) fn bare(&self) -> object_store::aws::AmazonS3 {
        // Where the store has installed one, this does nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        AmazonS3Builder::new()
            .with_endpoint(&self.place.endpoint)
            .with_allow_http(true)
            .with_bucket_name(&self.place.bucket)
            .with_access_key_id("test")
            .with_secret_access_key(&self.place.secret)
            .build()
            .expect("a client")
    }

    pub(crate) fn path(&self, key: &BlobKey) -> Path {
        Path::from(format!("{}/{key}", self.prefix))
    }
}

impl BlobFixture for Bucket {
    fn open(&self) -> Arc<dyn BlobStore> {
        self.open_with("")
    }

    fn damage(&self, key: &BlobKey) {
        let (bare, path) = (self.bare(), self.path(key));
        self.runtime.block_on(async {
            let found = bare.get(&path).await.expect("there");
            let options = PutOptions {
                attributes: found.attributes.clone(),
                ..PutOptions::default()
            };
            let mut bytes = BytesMut::from(&*found.bytes().await.expect("its bytes"));
            bytes[1234] ^= 0x40;
            let body = bytes.freeze().into();
            bare.put_opts(&path, body, options).await.expect("put");
        });
    }

    fn several_parts(&self) -> usize {
        11_000_000
    }

    fn request(&self, method: &str, url: &str, body: &[u8]) -> Answer {
        let _ = rustls::crypto::ring::default_provider().install_default();
        self.runtime.block_on(async {
            let client = reqwest::Client::new();
            let method = method.parse().expect("a method");
            let mut request = client.request(method, url);
            if !body.is_empty() {
                request = request.body(Bytes::copy_from_slice(body));
            }
            let answer = request.send().await.expect("an answer");
            let status = answer.status().as_u16();
            (status, answer.bytes().await.expect("its body").to_vec())
        })
    }

    fn checks_urls(&self) -> bool {
        self.place.checks_urls
    }
}
