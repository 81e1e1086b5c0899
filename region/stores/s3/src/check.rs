//! Does a store do what is asked of it? Every operation is tried once, on an object of this check's own.

use bytes::Bytes;
use gb6_core_ports::{BlobKey, BlobStore, Check, PutIf, StoreError};

use crate::sum::Tag;

/// Where the objects of checks lie.
const PREFIX: &str = "gb6-check/";

const FIRST: &[u8] = b"written by gb6 to check this store; it can be deleted";

/// The key of an object of one check.
pub(crate) fn check_key() -> Result<BlobKey, StoreError> {
    Tag::new().and_then(|tag| BlobKey::parse(&format!("{PREFIX}{tag}")))
}

/// Tries every operation. What `store` is called in answers is `name`.
pub(crate) fn operations(store: &dyn BlobStore, name: &str, checks: &mut Vec<Check>) {
    let key = match check_key() {
        Ok(key) => key,
        Err(error) => return checks.push(Check::bad(format!("{name}: put"), error.to_string())),
    };
    let mut add = |what: &str, found: Result<&str, String>| {
        let good = found.is_ok();
        checks.push(Check {
            what: format!("{name}: {what}"),
            found: found.map(str::to_owned),
        });
        good
    };
    let body = Bytes::from_static(FIRST);
    let put = store.put(&key, body.clone(), PutIf::Absent);
    if !add(
        "put",
        put.map(|_| "allowed").map_err(|error| error.to_string()),
    ) {
        return;
    }
    let again = store.put(&key, Bytes::from_static(b"another"), PutIf::Absent);
    add("put only where nothing is", refused(again));
    let read = match store.get(&key, 1024) {
        Ok(Some(found)) if found == body => Ok("allowed, and checked against its checksum"),
        Ok(Some(_)) => Err("what was read is not what was written".to_owned()),
        Ok(None) => Err("what was written is not seen: is this a cache?".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    add("get", read);
    let listed = match store.list(key.as_str(), None, 2) {
        Ok(found) if found.len() == 1 && found[0].key == key => Ok("allowed"),
        Ok(_) => Err("what was written is not listed".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    add("list", listed);
    let deleted = match store.delete(&key).and_then(|()| store.head(&key)) {
        Ok(None) => Ok("allowed"),
        Ok(Some(_)) => Err("what was deleted is still there".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    add("delete", deleted);
}

fn refused<T>(again: Result<T, StoreError>) -> Result<&'static str, String> {
    match again {
        Err(StoreError::Conflict { .. }) => Ok("honoured"),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err(
            "a put with If-None-Match: * replaced what was there: with this server two owners of a shard \
             could both write its manifest; use one that honours conditional writes"
                .to_owned(),
        ),
    }
}
