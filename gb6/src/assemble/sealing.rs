//! Files of sealing keys: what is secret in an engine is sealed with them.

use std::path::Path;

use anyhow::{Context, anyhow};
use gb6_core_ports::Sealer;

/// The keys in a file, 64 hexadecimal digits on a line each: the first seals, all open. `what` says what it
/// is for, behind "it is to hold the key that seals".
///
/// # Errors
/// The file can not be read, or holds something else.
pub(crate) fn load_sealer(path: &Path, what: &str) -> anyhow::Result<Sealer> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{shown} can not be read: it is to hold the key that seals {what}; make one with `openssl \
             rand -hex 32 > {shown}`"
        )
    })?;
    Sealer::parse(&text).map_err(|why| anyhow!("{shown}: {why}"))
}

/// What a region's key file seals.
pub(super) const RECORD_KEYS: &str = "record keys, the same on every node of the region";
