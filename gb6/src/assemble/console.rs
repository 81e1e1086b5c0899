//! The console's files, embedded by the build. A binary that was built without Node has none, and
//! says how to get them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use gb6_edge_node::{Asset, AssetSource};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../console/dist"]
#[allow_missing = true]
struct Dist;

/// Shown instead of a console that was not built.
const MISSING: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>GB6</title>\
    <p>GB6 runs. Its console is not in this binary: run <code>scripts/console.sh</code> (it needs \
    Node 20.19 or a newer 20, or 22.12 or newer), then build again.</p></html>";

/// Whether the binary has the console in it.
pub(super) fn is_built() -> bool {
    Dist::get("index.html").is_some()
}

/// The files, for the edge.
pub(super) fn assets() -> AssetSource {
    Arc::new(|path| {
        let path = if path.is_empty() { "index.html" } else { path };
        let Some(file) = Dist::get(path) else {
            return (path == "index.html").then(missing);
        };
        let digest = file.metadata.sha256_hash();
        Some(Asset {
            bytes: match file.data {
                Cow::Borrowed(data) => Bytes::from_static(data),
                Cow::Owned(data) => Bytes::from(data),
            },
            content_type: content_type(path).to_owned(),
            etag: digest.iter().take(12).map(|b| format!("{b:02x}")).collect(),
            // The bundler puts a hash into the names of what it writes there.
            immutable: path.starts_with("assets/"),
        })
    })
}

fn missing() -> Asset {
    Asset {
        bytes: Bytes::from_static(MISSING.as_bytes()),
        content_type: content_type("index.html").to_owned(),
        etag: "missing".into(),
        immutable: false,
    }
}

/// The media type by the name's end: those that a bundler writes.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_first_page() {
        let assets = assets();
        let page = assets("").unwrap();
        assert_eq!(page.content_type, "text/html; charset=utf-8");
        assert!(!page.immutable && !page.bytes.is_empty());
        assert_eq!(assets("no/such/file"), None);
        for path in Dist::iter() {
            let asset = assets(&path).unwrap();
            assert_ne!(asset.content_type, "application/octet-stream", "{path}");
        }
    }
}
