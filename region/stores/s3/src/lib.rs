//! The port `BlobStore` on a local directory and on S3 and what speaks like it: whole objects by name,
//! durable when a put returns, and checked against a checksum of ours when they are read.

#![forbid(unsafe_code)]

mod check;
mod config;
mod local;
mod metered;
#[cfg(feature = "aws")]
mod s3;
mod sum;

use std::sync::Arc;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{BlobStore, Check, StoreError};
use tokio::runtime::Handle;

pub use config::{Config, DirectoryConfig, S3Config};

/// Opens the store that `config` names. Calls of it block the calling thread; its requests run on
/// `runtime`, so that the calling thread must be none of its workers.
///
/// # Errors
/// A directory that can not be made or written; a file of a secret that can not be read; a store that
/// is not compiled in. That a server answers is not asked here: see [`check`].
pub fn open(
    config: &Config,
    runtime: Handle,
    metrics: &Metrics,
) -> Result<Arc<dyn BlobStore>, StoreError> {
    let store = open_bare(config, runtime)?;
    Ok(Arc::new(metered::Metered::new(
        store,
        config.kind(),
        metrics,
    )))
}

/// Looks whether the store that `config` names can do what is asked of it: it is reached, its clock is
/// right, and objects are put, put only where nothing is, read, listed and deleted. Leaves nothing
/// there.
pub fn check(config: &Config, runtime: Handle) -> Vec<Check> {
    let mut checks = Vec::new();
    #[cfg(feature = "aws")]
    if let Config::S3(s3) = config {
        checks.push(s3::clock(s3, &runtime));
        if !checks.iter().all(Check::is_good) {
            return checks;
        }
    }
    match open_bare(config, runtime.clone()) {
        Ok(store) => check::operations(&*store, &config.to_string(), &mut checks),
        Err(error) => checks.push(Check::bad(format!("{config}: open"), error.to_string())),
    }
    #[cfg(feature = "aws")]
    if let Config::S3(s3) = config
        && checks.iter().all(Check::is_good)
    {
        checks.push(s3::metadata(s3, &runtime));
    }
    checks
}

fn open_bare(config: &Config, runtime: Handle) -> Result<Arc<dyn BlobStore>, StoreError> {
    match config {
        Config::Directory(directory) => {
            drop(runtime);
            Ok(Arc::new(local::LocalStore::open(&directory.path)?))
        }
        #[cfg(feature = "aws")]
        Config::S3(config) => Ok(Arc::new(s3::S3Store::open(config, runtime)?)),
        #[cfg(not(feature = "aws"))]
        Config::S3(_) => Err(StoreError::Unsupported {
            feature: "objects on S3 are not compiled in: build with the feature `aws`",
        }),
    }
}
