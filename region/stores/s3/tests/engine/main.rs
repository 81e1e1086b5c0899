//! `BlobStore` on real servers that speak S3.

mod contract;
mod faults;
mod proxy;
mod server;
