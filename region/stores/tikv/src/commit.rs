//! Commits that are seen, not believed.
//!
//! Of a prewrite and of a commit the client (0.4.0) forgets an error that it meets while it looks for the
//! part of the cluster that a key lies in: it makes a stream of the error (`stream::iter(Err(e))`, in
//! `transaction/requests.rs`), which has no items, sends nothing, and says that it is done. That is so
//! where the first attempt lost its connection and PD can not be asked either. What is left is locked,
//! and is rolled back when the lease of its locks has ended.

use tikv_client::{Transaction, TransactionClient};

use crate::error::Failure;
use crate::rooms::options;

/// Commits, and looks, as of the commit's own timestamp, whether it has been: `key`, the transaction's primary
/// one, must hold `value` then, which it did not before. It costs one question to one store.
///
/// The look waits while the key is locked, so that what it says is final. Of what was not committed other
/// keys may be there all the same: the client, which believes that it was, goes on to them.
///
/// Errors: `NotMade` where it was not committed; else those of the client, after which it is not known.
pub(crate) async fn commit(
    client: &TransactionClient,
    transaction: &mut Transaction,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), Failure> {
    let Some(at) = transaction.commit().await? else {
        return Ok(());
    };
    let found = client.snapshot(at, options()).get(key.to_vec()).await?;
    if found.as_deref() == value {
        Ok(())
    } else {
        Err(Failure::NotMade)
    }
}
