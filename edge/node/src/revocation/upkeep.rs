//! Keeping the log of an instance's revocations as small as what it says: doing what the follower of
//! the log wants removed and written anew.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::{ErrorCode, Offset};
use gb6_edge_session::{HistoryQuery, Request};
use tokio::time::Instant;

use super::Revoked;
use crate::shared::Shared;

/// For how long records are written anew before it is looked whether there is something new: that has
/// to be applied within a second.
const AT_ONCE: Duration = Duration::from_millis(250);

impl Revoked {
    /// Forgets what has expired, here and in the log, which begins at `first` and is known to its
    /// end. `true`: there is more to do as soon as what is new by then is applied.
    pub(super) async fn upkeep(
        &self,
        shared: &Arc<Shared>,
        first: Offset,
    ) -> Result<bool, ErrorCode> {
        let unix_ms = shared.clock.unix_ms();
        let spare = shared.config.revocations.records_spare;
        let (wanted, top) = {
            let mut follower = self.follower.write();
            let wanted = follower.upkeep(first, unix_ms, spare);
            (wanted, follower.applied())
        };
        if let Some(first) = wanted.remove_below {
            let removal = Request::RemoveHistory {
                instance_epoch: self.instance_epoch(shared),
                first: Some(first),
            };
            self.ask(shared, removal).await?;
            tracing::debug!(instance = %self.instance, first, "expired revocations left the log");
        }
        match wanted.write_anew_behind {
            Some(behind) => self.write_anew(shared, behind, top).await,
            None => Ok(false),
        }
    }

    /// Writes behind the record at `top` what a page of the log says and is needed. `true`:
    /// something was written.
    async fn write_anew(
        &self,
        shared: &Arc<Shared>,
        behind: Offset,
        top: Offset,
    ) -> Result<bool, ErrorCode> {
        let query = HistoryQuery {
            since: (behind > 0).then_some(behind),
            ..self.follower.read().query()
        };
        let page = self.read(shared, query).await?;
        if page.error.is_some() {
            // Another edge has removed it.
            return Ok(false);
        }
        let until = Instant::now() + AT_ONCE;
        let mut end = top;
        for publication in page.publications.iter() {
            let anew = self.follower.read().anew(publication);
            let Some(anew) = anew else {
                continue;
            };
            if Instant::now() >= until {
                break;
            }
            end = match self.write(shared, &anew, Some(end)).await {
                Ok(offset) => offset,
                // Something new comes first.
                Err(ErrorCode::UnrecoverablePosition) => break,
                Err(code) => return Err(code),
            };
        }
        Ok(end > top)
    }
}
