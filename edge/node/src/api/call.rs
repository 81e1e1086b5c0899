//! One call of a method: whose it is, and what it asks of the shards.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::snapshot::{ChannelKind, Namespace, Snapshot};
use gb6_core_model::{Channel, ErrorCode, InstanceEpoch, InstanceId, hash, limits};
use gb6_core_wire::client::json_depth_within;
use gb6_core_wire::mesh::{Person, RoomRef};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{Answer, PublishAnswer, PublishQuery, Request, Version};

use super::error::ApiError;
use super::schema::{Content, PublishResult};
use super::session::ApiSession;
use crate::shared::Shared;

/// Tags of one publication.
const TAGS_MAX: usize = 32;
/// Bytes of their names and values together.
const TAGS_BYTES_MAX: usize = 4 * 1024;
/// Longest epoch of versions in bytes.
const VERSION_EPOCH_BYTES_MAX: usize = 64;

/// A call under way.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) instance: InstanceId,
    /// The placement as it was when the call came.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) session: Arc<ApiSession>,
    /// The publisher of what the API publishes: it is nobody's connection.
    pub(super) nobody: Arc<Person>,
}

impl Call {
    /// A channel that the API may touch, with its rules.
    pub(super) fn channel(&self, name: &str) -> Result<(Channel, &Namespace), ApiError> {
        let channel = Channel::parse(name).map_err(|e| ApiError::bad(e.to_string()))?;
        if name.starts_with('!') {
            return Err(ApiError::bad(
                "names that begin with ! are the server's own",
            ));
        }
        let rules = self.snapshot.namespace(&self.instance, &channel);
        let rules = rules.map_err(|code| match code {
            ErrorCode::UnknownChannel => {
                let namespace = channel.namespace().unwrap_or_default();
                let why = match namespace.is_empty() {
                    true => "the name stands in no namespace".to_owned(),
                    false => format!("there is no namespace {namespace}"),
                };
                ApiError::with(code, why)
            }
            code => code.into(),
        })?;
        Ok((channel, rules))
    }

    /// Asks the shard of a channel.
    pub(super) async fn ask(
        &self,
        channel: &Channel,
        request: Request,
    ) -> Result<Answer, ApiError> {
        let room = RoomRef {
            instance: self.instance.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
        };
        Ok(self.session.ask(&self.shared, room, request).await?)
    }

    /// What is answered to a publish: with an offset of 0 no epoch either, as nothing was kept.
    pub(super) fn published(&self, channel: &Channel, answer: &PublishAnswer) -> PublishResult {
        PublishResult {
            offset: answer.offset,
            epoch: match answer.offset {
                0 => String::new(),
                _ => self.epoch(channel, answer.generation),
            },
        }
    }

    /// The stream epoch of a channel.
    pub(super) fn epoch(&self, channel: &Channel, generation: u32) -> String {
        hash::stream_epoch(&self.instance, channel.as_str(), generation)
    }

    /// The instance epoch by which the call is routed.
    pub(super) fn instance_epoch(&self) -> InstanceEpoch {
        let instance = self.snapshot.instances.get(&self.instance);
        instance.map_or_else(Default::default, |i| i.epoch)
    }

    fn version(&self, number: u64, epoch: String) -> Result<Option<Version>, ApiError> {
        if epoch.len() > VERSION_EPOCH_BYTES_MAX {
            let most = VERSION_EPOCH_BYTES_MAX;
            return Err(ApiError::bad(format!(
                "version_epoch has {} bytes, at most {most} are possible",
                epoch.len()
            )));
        }
        Ok((number > 0).then_some(Version { number, epoch }))
    }

    /// A publish with this content, to be written to any channel.
    pub(super) fn message(&self, content: Content) -> Result<PublishQuery, ApiError> {
        let (data, content_type) = match (content.b64data, content.data) {
            (Some(text), _) if !text.is_empty() => {
                let bytes = STANDARD.decode(text);
                let bytes = bytes.map_err(|_| ApiError::bad("b64data is no base 64"))?;
                (Bytes::from(bytes), ContentType::Unspecified)
            }
            (_, Some(data)) => {
                let text = String::from(Box::<str>::from(data));
                (Bytes::from(text), ContentType::Json)
            }
            _ => return Err(ApiError::bad("data or b64data is needed")),
        };
        if data.is_empty() {
            return Err(ApiError::bad("the data is empty"));
        }
        let json = content_type == ContentType::Json;
        if json && !json_depth_within(&data, limits::JSON_DEPTH_MAX) {
            let most = limits::JSON_DEPTH_MAX;
            return Err(ApiError::bad(format!(
                "the data nests deeper than {most} levels"
            )));
        }
        let tags = content.tags.iter().map(|(k, v)| k.len() + v.len());
        if content.tags.len() > TAGS_MAX || tags.sum::<usize>() > TAGS_BYTES_MAX {
            return Err(ApiError::bad(format!(
                "at most {TAGS_MAX} tags with {TAGS_BYTES_MAX} bytes"
            )));
        }
        let id = content.idempotency_key.unwrap_or_default();
        if id.len() > limits::MESSAGE_ID_BYTES_MAX {
            let most = limits::MESSAGE_ID_BYTES_MAX;
            return Err(ApiError::bad(format!(
                "idempotency_key has {} bytes, at most {most} are possible",
                id.len()
            )));
        }
        let version = self.version(content.version, content.version_epoch)?;
        Ok(PublishQuery {
            instance_epoch: self.instance_epoch(),
            from: Arc::clone(&self.nobody),
            id: Bytes::from(id),
            data,
            content_type,
            tags: content.tags,
            traceparent: String::new(),
            version,
            after: None,
            // Each channel says whether it keeps other publications.
            signal: content.skip_history,
            unkept: false,
        })
    }

    /// Publishes to one channel.
    pub(super) async fn publish(
        &self,
        name: &str,
        mut query: PublishQuery,
    ) -> Result<(Channel, PublishAnswer), ApiError> {
        let (channel, rules) = self.channel(name)?;
        let signal = rules.kind == ChannelKind::Signal;
        query.unkept = query.signal && !signal;
        query.signal |= signal;
        if query.signal && (!query.id.is_empty() || query.version.is_some()) {
            let why = match signal {
                true => "a channel of kind = \"signal\" remembers neither ids nor versions",
                false => {
                    "with skip_history nothing is remembered: leave idempotency_key and version out"
                }
            };
            return Err(ApiError::with(ErrorCode::NotAvailable, why));
        }
        let (bytes, most) = (query.data.len(), rules.max_message_bytes);
        if bytes > most {
            return Err(ApiError::bad(format!(
                "the data has {bytes} bytes, at most {most} are possible in {name}"
            )));
        }
        match self
            .ask(&channel, Request::Publish(Box::new(query)))
            .await?
        {
            Answer::Published(published) => Ok((channel, published)),
            _ => Err(ErrorCode::Internal.into()),
        }
    }
}
