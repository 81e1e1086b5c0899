//! A server of S3 that looks at signatures, in this process: s3s over a directory.

use std::net::SocketAddr;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::server::Place;

const BUCKET: &str = "signed";

/// The server; it ends when it is dropped.
pub(crate) struct SigningServer {
    address: SocketAddr,
    _dir: TempDir,
    _runtime: Runtime,
}

impl SigningServer {
    /// Knows the key `test` with the secret `right`.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("a bucket");
        let mut service = S3ServiceBuilder::new(FileSystem::new(dir.path()).expect("a store"));
        service.set_auth(SimpleAuth::from_single("test", "right"));
        let service = service.build();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(async move {
                    // A client that goes away is none of ours.
                    let _ = serving.await;
                });
            }
        });
        Self {
            address,
            _dir: dir,
            _runtime: runtime,
        }
    }

    /// Where it is, for whoever asks with this secret.
    pub(crate) fn place(&self, secret: &str) -> Place {
        Place {
            endpoint: format!("http://{}", self.address),
            bucket: BUCKET.to_owned(),
            secret: secret.to_owned(),
            checks_urls: true,
        }
    }
}
