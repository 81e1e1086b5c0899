//! Commits that are seen, not believed.
//!
//! Of a prewrite and of a commit the client (0.4.0) forgets an error that it meets while it looks for the
//! part of the cluster that a key lies in: it makes a stream of the error (`stream::iter(Err(e))`, in
//! `transaction/requests.rs`), which has no items, sends nothing, and says that it is done. That is so
//! where the first attempt lost its connection and PD can not be asked either, or where PD does not know
//! at that moment where a part lies.
//!
//! It is so for each part of the cluster by itself. Where the primary key's part was not reached, the
//! transaction is rolled back when the lease of its locks has ended. Where only others were not, it
//! counts as committed, without them.

use std::collections::HashMap;

use tikv_client::{Timestamp, Transaction, TransactionClient};

use crate::error::Failure;
use crate::rooms::options;

/// What a transaction writes: keys with their values, without one where the key is removed. The first
/// is the primary key.
pub(crate) type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Keys that are looked at with one question; with the longest names their answer has 0.6 MB.
const LOOK_PAGE: usize = 1024;

/// Gives `writes` to a transaction that has none yet.
pub(crate) async fn fill(transaction: &mut Transaction, writes: &Writes) -> Result<(), Failure> {
    for (key, value) in writes {
        match value {
            Some(value) => transaction.put(key.clone(), value.clone()).await?,
            None => transaction.delete(key.clone()).await?,
        }
    }
    Ok(())
}

/// Commits what [`fill`] gave to the transaction, and looks, as of the commit's own timestamp, whether
/// all of it is there. It costs one question for the primary key and one to each part of the cluster for
/// each page of the others.
///
/// Of what was not committed other keys may be there all the same: the client, which believes that it
/// was, goes on to them.
///
/// Errors: those of [`look`]; else those of the client, after which it is not known.
pub(crate) async fn commit(
    client: &TransactionClient,
    transaction: &mut Transaction,
    writes: &Writes,
) -> Result<(), Failure> {
    match transaction.commit().await? {
        Some(at) => look(client, at, writes).await,
        None => Ok(()),
    }
}

/// Whether all of `writes` is there as of `at`. It waits while the primary key is locked, so that what it
/// says is final.
///
/// Errors: `NotMade` where the primary key does not hold what was written; `PartMade` where only others do not.
pub(crate) async fn look(
    client: &TransactionClient,
    at: Timestamp,
    writes: &Writes,
) -> Result<(), Failure> {
    let Some(((primary, value), others)) = writes.split_first() else {
        return Ok(());
    };
    // The primary key first: meanwhile the client commits the others, which would be found locked.
    let mut snapshot = client.snapshot(at.clone(), options());
    if snapshot.get(primary.clone()).await? != *value {
        return Err(Failure::NotMade);
    }
    for page in others.chunks(LOOK_PAGE) {
        let mut snapshot = client.snapshot(at.clone(), options());
        let pairs = snapshot.batch_get(page.iter().map(|(key, _)| key.clone()));
        let found = pairs.await?.map(|pair| (pair.0.into(), pair.1));
        if !is_whole(page, &found.collect()) {
            return Err(Failure::PartMade);
        }
    }
    Ok(())
}

/// Whether what was found is what was written.
fn is_whole(writes: &[(Vec<u8>, Option<Vec<u8>>)], found: &HashMap<Vec<u8>, Vec<u8>>) -> bool {
    writes
        .iter()
        .all(|(key, value)| found.get(key) == value.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_missing_old_or_left_is_noticed() {
        let found = |pairs: &[(&str, &str)]| -> HashMap<Vec<u8>, Vec<u8>> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let writes: Writes = vec![
            (b"a".to_vec(), Some(b"1".to_vec())),
            (b"b".to_vec(), Some(b"2".to_vec())),
            (b"c".to_vec(), None),
        ];
        assert!(is_whole(&writes, &found(&[("a", "1"), ("b", "2")])));
        assert!(!is_whole(&writes, &found(&[("a", "1")])), "not written");
        assert!(
            !is_whole(&writes, &found(&[("a", "1"), ("b", "")])),
            "as before"
        );
        let left = found(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(!is_whole(&writes, &left), "not removed");
    }
}
