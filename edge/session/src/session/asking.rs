//! Publications about which the application's backend is asked before they are written.
//!
//! While it is asked what the client wants of the same channel waits behind, so that publications
//! are written in the order in which they came; other channels go on.

use bytes::Bytes;
use gb6_core_model::{Allow, Channel, ErrorCode, limits};

use super::Closes;
use super::decision::{Decision, Replacement};
use super::live::{Asked, Live};
use super::proofs::What;
use super::reply::Turn;
use super::rooms::Written;

/// A publication about which the backend is asked.
pub(super) struct Publishing {
    /// What is to be written.
    pub(super) written: Written,
    /// What the reply is made from.
    pub(super) asked: Asked,
}

impl Live {
    /// Has the backend asked about a publication.
    pub(super) fn ask_about(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: Channel,
        mut publishing: Publishing,
    ) -> Result<(), ErrorCode> {
        // Overflow policy: the newest is refused, by an error that says to try again.
        if self.being_asked() >= turn.cx.config.asking_max {
            return Err(ErrorCode::TooManyRequests);
        }
        // It would hold the frame that it came in, which may be many times as large.
        publishing.written.data = Bytes::copy_from_slice(&publishing.written.data);
        let data = publishing.written.data.clone();
        let what = What::Publish(Box::new(publishing));
        let request = self.under_way(id, channel.clone(), what);
        turn.ask_publish(request, channel, data);
        Ok(())
    }

    /// The backend has decided about a publication.
    pub(super) fn decided(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        decision: Decision<Option<Replacement>>,
    ) -> Result<(), super::CloseReason> {
        let is_it = |what: &What| matches!(what, What::Publish(_));
        let Some((id, channel, what, behind)) = self.take_under_way(request, is_it) else {
            return Ok(());
        };
        let What::Publish(publishing) = what else {
            return Ok(());
        };
        match decision {
            Decision::Disconnect(why) => return Err(why),
            Decision::Error(error) => turn.refuse(id, error),
            Decision::Allow(replacement) => {
                let done = self.allowed(turn, id, &channel, *publishing, replacement);
                if let Err(code) = done {
                    turn.fail(id, code);
                }
            }
        }
        let goes_on: Closes = self.go_on(turn, &channel, behind);
        Ok(goes_on?)
    }

    fn allowed(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        publishing: Publishing,
        replacement: Option<Replacement>,
    ) -> Result<(), ErrorCode> {
        let Publishing { mut written, asked } = publishing;
        if let Some(Replacement { data, content_type }) = replacement {
            // What the backend makes of it is bounded by the room's rules; that it broke them is
            // not the client's doing.
            if data.is_empty() || data.len() > limits::PUBLISH_BYTES_MAX {
                return Err(ErrorCode::Internal);
            }
            written.data = data;
            written.content_type = content_type;
        }
        // The rules may have changed while the backend was asked.
        let snapshot = turn.cx.snapshot;
        let (_, rules) = self
            .asker()
            .may(snapshot, channel.as_str(), Allow::Publish)?;
        if written.data.len() > rules.max_message_bytes {
            return Err(ErrorCode::Internal);
        }
        self.written(turn, id, channel, rules, written, asked);
        Ok(())
    }
}
