//! The last good set of each instance on disk: an edge that starts while the server of a set can not
//! be reached goes on with it.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gb6_core_model::InstanceId;
use serde::{Deserialize, Serialize};

use super::set::SET_BYTES_MAX;

/// What is kept of one set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Where it came from: a set of another address is not used.
    pub(super) url: String,
    /// When, Unix ms.
    pub(super) fetched_unix_ms: i64,
    /// The set as it came.
    pub(super) body: String,
}

/// The file of an instance. Its name has the grammar of a DNS label.
fn path(dir: &Path, instance: &InstanceId) -> PathBuf {
    dir.join(format!("{instance}.json"))
}

/// What is kept of the set of `instance`; `None`: nothing. Blocks on the disk.
///
/// # Errors
/// The file can not be read, or is damaged.
pub(super) fn load(dir: &Path, instance: &InstanceId) -> io::Result<Option<Kept>> {
    let file = match fs::File::open(path(dir, instance)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    // JSON in JSON: each byte may have become six.
    file.take(8 * SET_BYTES_MAX as u64)
        .read_to_string(&mut text)?;
    serde_json::from_str(&text).map(Some).map_err(Into::into)
}

/// Keeps a set: whole, or the one of before. Blocks on the disk.
///
/// # Errors
/// It can not be written.
pub(super) fn store(dir: &Path, instance: &InstanceId, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (whole, part) = (
        path(dir, instance),
        dir.join(format!("{instance}.json.new")),
    );
    let mut file = fs::File::create(&part)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_data()?;
    fs::rename(part, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let dir = std::env::temp_dir().join(format!("gb6-key-sets-{}", std::process::id()));
        let id = InstanceId::from("demo");
        assert_eq!(load(&dir, &id).unwrap(), None);
        let kept = Kept {
            url: "https://id.example/jwks".to_owned(),
            fetched_unix_ms: 7,
            body: "{\"keys\":[]}".to_owned(),
        };
        store(&dir, &id, &kept).unwrap();
        assert_eq!(load(&dir, &id).unwrap(), Some(kept));
        assert_eq!(load(&dir, &"acme".into()).unwrap(), None);
        fs::write(path(&dir, &id), "{").unwrap();
        assert!(load(&dir, &id).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
