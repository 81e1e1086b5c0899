//! The console's files: where they come from is the assembling program's business.

use std::sync::Arc;

use bytes::Bytes;

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asset {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: String,
    /// An opaque tag that changes with the bytes, without quotes.
    pub etag: String,
    /// Whether the name changes with the bytes, so that a browser may keep the file for ever.
    pub immutable: bool,
}

/// Gives the file at a path without its leading `/`; the empty path asks for the first page.
pub type AssetSource = Arc<dyn Fn(&str) -> Option<Asset> + Send + Sync>;

/// No files at all.
pub fn no_assets() -> AssetSource {
    Arc::new(|_| None)
}
