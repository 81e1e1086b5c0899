//! One connection with answers matched to commands: no reconnection, no memory of positions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_wire::client::{
    Command, ConnectRequest, ConnectResult, HistoryRequest, HistoryResult, PresenceRequest,
    PresenceResult, PresenceStatsRequest, PresenceStatsResult, PublishRequest, Push as WirePush,
    RefreshRequest, RefreshResult, Reply, RpcRequest, StreamPosition, SubscribeRequest,
    SubscribeResult, UnsubscribeRequest,
};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::carrier::Carrier;
use super::socket_task::Run;
use super::{ANSWER, ClientError, Incoming, Target};

/// Pushes that may wait for the test.
const PUSHES: usize = 1024;
/// Commands that may wait to be written.
const COMMANDS: usize = 1024;

/// What the server says without being asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Push {
    /// A push of the protocol.
    Push(Box<WirePush>),
    /// The answer to a `subscribe`: it stands among the pushes, because the order matters.
    Subscribed(String, Box<SubscribeResult>),
    /// The connection has ended; nothing follows.
    Closed(ClientError),
}

/// The answer to `room.publish`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Published {
    /// The message's offset.
    pub offset: u64,
    /// The stream epoch.
    pub epoch: String,
    /// The record's time, Unix ms.
    pub time: u64,
    /// Whether the id was known already.
    #[serde(default)]
    pub duplicate: bool,
}

pub(super) enum Waiting {
    Call(oneshot::Sender<Result<Reply, ClientError>>),
    Subscribe(String, oneshot::Sender<Result<Reply, ClientError>>),
}

#[derive(Default)]
pub(super) struct Calls {
    pub(super) waiting: HashMap<u32, Waiting>,
    pub(super) last: u32,
    pub(super) ended: Option<ClientError>,
}

/// A connection. Dropping it closes the socket without a word, as a crash does.
pub struct Session {
    calls: Arc<Mutex<Calls>>,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
    /// What the server said when the session began.
    pub begun: ConnectResult,
    /// How long calls wait.
    pub patience: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Connects. The receiver gets every push in order; unread, it holds the connection up as a
    /// slow client does.
    ///
    /// # Errors
    /// There is no connection, or the server refuses the session.
    pub async fn connect(target: &Target) -> Result<(Self, mpsc::Receiver<Push>), ClientError> {
        let mut wire = Carrier::open(target, ANSWER).await?;
        let connect = Command {
            id: 1,
            connect: Some(Box::new(ConnectRequest {
                token: target.token.clone(),
                name: "gb6-test".into(),
                ..ConnectRequest::default()
            })),
            ..Command::default()
        };
        wire.send(&[connect]).await?;
        let (begun, rest) = loop {
            match wire.next_within(ANSWER).await? {
                Incoming::Closed { code, reason } => {
                    return Err(ClientError::Closed { code, reason });
                }
                Incoming::Replies(replies) => {
                    let mut replies = replies.into_iter();
                    if let Some(reply) = replies.by_ref().find(|r| r.id == 1) {
                        break (reply, replies.collect::<Vec<_>>());
                    }
                }
            }
        };
        let begun = checked(begun, "connect")?;
        let begun = begun
            .connect
            .clone()
            .ok_or_else(|| unexpected("connect", &begun))?;
        // overflow: reading from the socket waits, as it does in a client that is busy.
        let (pushes, received) = mpsc::channel(PUSHES);
        // overflow: the caller waits.
        let (commands, queued) = mpsc::channel(COMMANDS);
        let calls = Arc::new(Mutex::new(Calls {
            last: 1,
            ..Calls::default()
        }));
        let run = Run {
            wire,
            calls: Arc::clone(&calls),
            commands: queued,
            pushes,
            silence: match begun.ping {
                0 => None,
                seconds => Some(Duration::from_secs(u64::from(seconds) + 10)),
            },
        };
        let session = Session {
            calls,
            commands,
            task: tokio::spawn(run.run(rest)),
            begun: *begun,
            patience: ANSWER,
        };
        Ok((session, received))
    }

    /// Sends a command, of which only the id is set here, and waits for the reply.
    ///
    /// # Errors
    /// An error reply, no answer in time, or the end of the connection.
    pub async fn call(&self, command: Command) -> Result<Reply, ClientError> {
        let what = command.method().name();
        let answer = self.send(command).await?;
        self.answer(what, answer).await
    }

    /// Sends a command without waiting for its reply, which [`Session::answer`] takes: for many
    /// commands in flight.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(
        &self,
        mut command: Command,
    ) -> Result<oneshot::Receiver<Result<Reply, ClientError>>, ClientError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = self.calls.lock();
            if let Some(error) = &calls.ended {
                return Err(error.clone());
            }
            calls.last += 1;
            command.id = calls.last;
            let waiting = match &command.subscribe {
                Some(subscribe) => Waiting::Subscribe(subscribe.channel.clone(), answer),
                None => Waiting::Call(answer),
            };
            calls.waiting.insert(command.id, waiting);
        }
        if self.commands.send(command).await.is_err() {
            return Err(self.ended());
        }
        Ok(answered)
    }

    /// Waits for the reply to a command that was sent.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn answer(
        &self,
        what: &str,
        answer: oneshot::Receiver<Result<Reply, ClientError>>,
    ) -> Result<Reply, ClientError> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(reply)) => checked(reply?, what),
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(ClientError::Late {
                what: what.to_owned(),
                patience: self.patience,
            }),
        }
    }

    /// Why the connection has ended.
    fn ended(&self) -> ClientError {
        let ended = self.calls.lock().ended.clone();
        ended.unwrap_or(ClientError::Closed {
            code: 1006,
            reason: "the connection has ended".into(),
        })
    }

    /// Subscribes. The result stands among the pushes too, before the room's first publication.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn subscribe(
        &self,
        subscribe: SubscribeRequest,
    ) -> Result<SubscribeResult, ClientError> {
        let reply = self
            .call(Command {
                subscribe: Some(Box::new(subscribe)),
                ..Command::default()
            })
            .await?;
        let result = reply.subscribe.clone();
        Ok(*result.ok_or_else(|| unexpected("subscribe", &reply))?)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn unsubscribe(&self, channel: &str) -> Result<(), ClientError> {
        let reply = self
            .call(Command {
                unsubscribe: Some(UnsubscribeRequest {
                    channel: channel.to_owned(),
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.unsubscribe;
        result
            .map(|_| ())
            .ok_or_else(|| unexpected("unsubscribe", &reply))
    }

    /// Publishes without an id.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn publish(&self, channel: &str, data: Bytes) -> Result<(), ClientError> {
        let reply = self
            .call(Command {
                publish: Some(PublishRequest {
                    channel: channel.to_owned(),
                    data,
                    ..PublishRequest::default()
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.publish;
        result
            .map(|_| ())
            .ok_or_else(|| unexpected("publish", &reply))
    }

    /// Calls a method.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn rpc(&self, method: &str, data: Bytes) -> Result<Bytes, ClientError> {
        let reply = self
            .call(Command {
                rpc: Some(RpcRequest {
                    method: method.to_owned(),
                    data,
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.rpc.clone();
        result
            .map(|r| r.data)
            .ok_or_else(|| unexpected("rpc", &reply))
    }

    /// `room.publish`: `data` is JSON.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn room_publish(
        &self,
        room: &str,
        id: Option<&str>,
        data: &str,
    ) -> Result<Published, ClientError> {
        let request = room_publish_data(room, id, data);
        let answer = self.rpc("room.publish", request).await?;
        serde_json::from_slice(&answer).map_err(|e| ClientError::Answer {
            what: "room.publish".into(),
            answer: format!("{} ({e})", String::from_utf8_lossy(&answer)),
        })
    }

    /// A page of history.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn history(
        &self,
        channel: &str,
        limit: i32,
        since: Option<(u64, &str)>,
        reverse: bool,
    ) -> Result<HistoryResult, ClientError> {
        let reply = self
            .call(Command {
                history: Some(HistoryRequest {
                    channel: channel.to_owned(),
                    limit,
                    since: since.map(|(offset, epoch)| StreamPosition {
                        offset,
                        epoch: epoch.to_owned(),
                    }),
                    reverse,
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.history.clone();
        result.ok_or_else(|| unexpected("history", &reply))
    }

    /// Who is in a channel.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn presence(&self, channel: &str) -> Result<PresenceResult, ClientError> {
        let reply = self
            .call(Command {
                presence: Some(PresenceRequest {
                    channel: channel.to_owned(),
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.presence.clone();
        result.ok_or_else(|| unexpected("presence", &reply))
    }

    /// How many are in a channel.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn presence_stats(&self, channel: &str) -> Result<PresenceStatsResult, ClientError> {
        let reply = self
            .call(Command {
                presence_stats: Some(PresenceStatsRequest {
                    channel: channel.to_owned(),
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.presence_stats;
        result.ok_or_else(|| unexpected("presence_stats", &reply))
    }

    /// Brings a fresh token.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn refresh(&self, token: &str) -> Result<RefreshResult, ClientError> {
        let reply = self
            .call(Command {
                refresh: Some(RefreshRequest {
                    token: token.to_owned(),
                }),
                ..Command::default()
            })
            .await?;
        let result = reply.refresh.clone();
        result.ok_or_else(|| unexpected("refresh", &reply))
    }
}

/// The argument of `room.publish`.
pub(super) fn room_publish_data(room: &str, id: Option<&str>, data: &str) -> Bytes {
    let quote = |text: &str| serde_json::Value::String(text.to_owned()).to_string();
    let id = id.map_or(String::new(), |id| format!("\"id\":{},", quote(id)));
    Bytes::from(format!("{{\"room\":{},{id}\"data\":{data}}}", quote(room)))
}

fn checked(reply: Reply, what: &str) -> Result<Reply, ClientError> {
    match &reply.error {
        None => Ok(reply),
        Some(error) if error.message.is_empty() || error.code == 0 => Err(unexpected(what, &reply)),
        Some(error) => Err(ClientError::Reply {
            code: error.code,
            message: error.message.clone(),
            temporary: error.temporary,
        }),
    }
}

fn unexpected(what: &str, reply: &Reply) -> ClientError {
    ClientError::Answer {
        what: what.to_owned(),
        answer: format!("{reply:?}"),
    }
}
