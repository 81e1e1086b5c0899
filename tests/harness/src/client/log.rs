//! Reading all that a room holds, in pages from its end to its beginning.

use std::time::{Duration, Instant};

use gb6_core_model::codes::ErrorCode;

use super::{ClientError, Session, plain_data};
use crate::history::{Publication, Recorder, What, fingerprint};

/// How long pages that are refused for now are asked for again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// What a room holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LogContent {
    /// The oldest kept offset; 1 for an empty room.
    pub first: u64,
    /// The newest offset; 0 for an empty room.
    pub top: u64,
    /// Every publication, oldest first.
    pub publications: Vec<Publication>,
}

/// Reads a whole room and records every page as the client `name`, then that the log was read.
/// `trimmed` says that retention may have removed its beginning.
///
/// # Errors
/// A page can not be had, or not within half a minute.
pub async fn read_log(
    session: &Session,
    name: &str,
    room: &str,
    trimmed: bool,
    recorder: &Recorder,
) -> Result<LogContent, ClientError> {
    let mut content = LogContent {
        first: 1,
        ..LogContent::default()
    };
    let begun = Instant::now();
    let mut since: Option<u64> = None;
    let mut epoch = String::new();
    loop {
        let position = since.map(|offset| (offset, epoch.as_str()));
        let page = match session.history(room, -1, position, true).await {
            Ok(page) => page,
            // Below the oldest kept offset.
            Err(e) if since.is_some() && e.code() == ErrorCode::UnrecoverablePosition.code() => {
                break;
            }
            // Its shard is on its way to another owner: again, as clients do.
            Err(ClientError::Reply {
                temporary: true, ..
            }) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(e) => return Err(e),
        };
        epoch = page.epoch.clone();
        let publications: Vec<Publication> = page.publications.iter().map(publication).collect();
        recorder.record(
            name,
            What::Page {
                room: room.to_owned(),
                since,
                reverse: true,
                top: page.offset,
                epoch: page.epoch,
                publications: publications.clone(),
            },
        );
        if since.is_none() {
            content.top = publications.first().map_or(page.offset, |p| p.offset);
        }
        let Some(oldest) = publications.last().map(|p| p.offset) else {
            break;
        };
        content.first = oldest;
        content.publications.extend(publications);
        if oldest <= 1 {
            break;
        }
        since = Some(oldest);
    }
    content.publications.reverse();
    recorder.record(
        name,
        What::Log {
            room: room.to_owned(),
            first: content.first,
            top: content.top,
            trimmed,
        },
    );
    Ok(content)
}

/// A publication as histories have it.
pub(super) fn publication(wire: &gb6_core_wire::client::Publication) -> Publication {
    Publication {
        offset: wire.offset,
        id: wire.tags.get("id").cloned(),
        user: wire
            .info
            .as_ref()
            .map(|i| i.user.clone())
            .unwrap_or_default(),
        data: fingerprint(&plain_data(&wire.data)),
    }
}
