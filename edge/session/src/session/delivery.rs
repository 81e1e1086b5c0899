//! What a subscribe command asks to be delivered, and in which form.

use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::client::{self, Dialect, SubscribeRequest, TagsFilter, subscribe_flags};

use super::options::Options;
use crate::request::Delivery;

/// What the client asks to be delivered, as far as the namespace allows it: what is not granted is
/// not answered. Error 107 for a filter where there are none, one that is malformed, and one together
/// with deltas.
pub(super) fn delivery(
    dialect: Dialect,
    request: &SubscribeRequest,
    rules: &Namespace,
    options: Options,
) -> Result<Delivery, ErrorCode> {
    let mut filter = None;
    if !request.tf.is_empty() {
        if !rules.tags_filter || !request.delta.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let node = client::decode_filter(dialect, &request.tf);
        let node = node.map_err(|_| ErrorCode::BadRequest)?;
        let checked = node.as_ref().map(TagsFilter::new).transpose();
        filter = checked.map_err(|_| ErrorCode::BadRequest)?.map(Arc::new);
    }
    Ok(Delivery {
        compact: options.compact && request.flag & subscribe_flags::COMPACTION != 0,
        delta: rules.delta && request.delta == "fossil",
        filter,
        ..Delivery::default()
    })
}
