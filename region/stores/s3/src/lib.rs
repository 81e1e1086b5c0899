//! The port `BlobStore` on a local directory and on S3.

#![forbid(unsafe_code)]
