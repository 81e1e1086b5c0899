//! The keys that records are encrypted with: one for each instance, made when a region first
//! serves it. Destroying an instance's key makes its messages unreadable wherever they lie.

mod file;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gb6_core_model::snapshot::Snapshot;
use gb6_region_node::RecordKeys;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

pub(super) use file::{KeyFile, kept_keys};
pub(super) use shared::{SharedKeys, check_keys};

/// How soon keeping a key is tried again where it failed, as on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// Keys of one instance, by their ids.
type Keys = BTreeMap<u32, [u8; 32]>;

/// Who makes and keeps a region's keys.
pub(super) trait Cover: Send + 'static {
    /// The keys: those that are made later appear in it.
    fn keys(&self) -> RecordKeys;

    /// Makes the keys that are missing for the instances that the node serves. A key is used only when
    /// it is kept. Blocks.
    ///
    /// # Errors
    /// A key can not be kept; nothing has changed.
    fn cover(&mut self, snapshot: &Snapshot) -> anyhow::Result<()>;
}

/// The placement, as `snapshots` has it, but each one only when there are keys for all that it
/// names: a region that knows an instance never writes its messages in the clear.
///
/// # Errors
/// The keys for the present one can not be kept.
pub(super) async fn follow(
    mut keeper: Box<dyn Cover>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> anyhow::Result<watch::Receiver<Arc<Snapshot>>> {
    let first = snapshots.borrow_and_update().clone();
    let newest = Arc::clone(&first);
    let covering = tokio::task::spawn_blocking(move || keeper.cover(&newest).map(|()| keeper));
    let mut keeper = covering.await.context("making the record keys failed")??;
    let (send, covered) = watch::channel(first);
    let cover = move |snapshot: &Snapshot| keeper.cover(snapshot);
    tokio::spawn(pass_on(cover, snapshots, send));
    Ok(covered)
}

/// Passes on each placement that `cover` has taken. It is tried again where it fails or panics.
async fn pass_on(
    cover: impl FnMut(&Snapshot) -> anyhow::Result<()> + Send + 'static,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    covered: watch::Sender<Arc<Snapshot>>,
) {
    let cover = Arc::new(Mutex::new(cover));
    while snapshots.changed().await.is_ok() {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let (newest, cover) = (Arc::clone(&snapshot), Arc::clone(&cover));
            let work = tokio::task::spawn_blocking(move || (*cover.lock())(&newest));
            let result = match work.await {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => return,
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(()) => {
                    covered.send_replace(snapshot);
                    break;
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        revision = snapshot.revision,
                        "the key of a new instance can not be kept, so this region stays with the \
                         placement that it has: make room on its disk, or see to it that its `stores.map` \
                         can be reached"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn random_key() -> anyhow::Result<[u8; 32]> {
    let mut key = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(key)
}

fn encode_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pair = |n| u8::from_str_radix(text.get(n..n + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

fn decode(text: &str) -> Option<[u8; 32]> {
    decode_bytes(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_placement_goes_on_after_a_panic() {
        let of = |revision| {
            Arc::new(Snapshot {
                revision,
                ..Snapshot::default()
            })
        };
        let (send, snapshots) = watch::channel(of(1));
        let (covers, mut covered) = watch::channel(of(1));
        let mut panics = true;
        let cover = move |_: &Snapshot| {
            assert!(!std::mem::take(&mut panics), "a defect");
            Ok(())
        };
        tokio::spawn(pass_on(cover, snapshots, covers));
        send.send_replace(of(2));
        let waited = tokio::time::timeout(Duration::from_secs(30), covered.changed());
        waited.await.unwrap().unwrap();
        assert_eq!(covered.borrow().revision, 2);
    }
}
