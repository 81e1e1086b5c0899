//! `BlobStore` on real servers that speak S3.

mod authorization;
mod contract;
mod faults;
mod proxy;
mod server;
mod signing_server;
