//! `publish` and `broadcast`.

use futures_util::{StreamExt as _, stream};

use super::call::Call;
use super::error::ApiError;
use super::schema::{
    BroadcastRequest, BroadcastResult, PublishRequest, PublishResponse, PublishResult,
};

/// Channels of one broadcast.
const CHANNELS_MAX: usize = 10_000;
/// Publishes of one broadcast that are under way at once.
const AT_ONCE: usize = 256;

/// Publishes to one channel.
pub(super) async fn publish(
    call: &Call,
    request: PublishRequest,
) -> Result<PublishResult, ApiError> {
    let (channel, content) = request.split();
    let message = call.message(content)?;
    let (channel, published) = call.publish(&channel, message).await?;
    Ok(call.published(&channel, &published))
}

/// Publishes to several channels. One that fails does not keep the others.
pub(super) async fn broadcast(
    call: &Call,
    request: BroadcastRequest,
) -> Result<BroadcastResult, ApiError> {
    let (channels, content) = request.split();
    if channels.is_empty() {
        return Err(ApiError::bad("channels is empty"));
    }
    if channels.len() > CHANNELS_MAX {
        let why = format!(
            "{} channels, at most {CHANNELS_MAX} are possible at once",
            channels.len()
        );
        return Err(ApiError::bad(why));
    }
    let message = call.message(content)?;
    let one = |channel: String| {
        let message = message.clone();
        async move {
            match call.publish(&channel, message).await {
                Ok((channel, published)) => PublishResponse {
                    result: Some(call.published(&channel, &published)),
                    error: None,
                },
                Err(error) => PublishResponse {
                    result: None,
                    error: Some(error.body()),
                },
            }
        }
    };
    let responses = stream::iter(channels).map(one).buffered(AT_ONCE);
    Ok(BroadcastResult {
        responses: responses.collect().await,
    })
}
