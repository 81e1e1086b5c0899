//! The connection that follows channels: it makes Redis agree with what this node wants to follow, asks
//! every second whether it is still there, and begins again where it is not.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Notify;

use super::{Follower, Shared};
use crate::connect::{Connection, Use};
use crate::link::told;

/// How long Redis may take to confirm a part of what is followed, and to answer a question.
const ANSWER: Duration = Duration::from_secs(2);
/// How often it is asked whether it is there.
const PING: Duration = Duration::from_secs(1);
/// Channels that are told at once.
const PART: usize = 512;
/// Of a cluster, whose channels are told one by one: how many wait for their answers.
const AT_ONCE: usize = 64;
/// Between attempts to connect, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Names of channels.
type Names = Vec<Arc<[u8]>>;

/// Follows what is wanted, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let (mut pause, mut silent) = (PAUSES[0], false);
    loop {
        let ended = Arc::new(Notify::new());
        let pushes = pushes(shared.clone(), ended.clone());
        let how = Use {
            answer: ANSWER,
            retries: 3,
            pushes: Some(Arc::new(pushes)),
        };
        match Connection::open(&shared.config, &how).await {
            Ok(connection) => {
                shared.all_changed();
                shared.metrics.up.set(1);
                let mut settled = false;
                let error = serve(&shared, connection, &ended, &mut settled).await;
                shared.metrics.up.set(0);
                shared.metrics.breaks.inc();
                shared.none_live();
                if settled {
                    (pause, silent) = (PAUSES[0], false);
                }
                if !silent {
                    silent = true;
                    tracing::warn!(redis = %shared.config, purpose = shared.purpose, why = error, "the channels of other nodes are lost: they are followed again when Redis is back");
                }
            }
            Err(error) => {
                if !silent {
                    silent = true;
                    tracing::warn!(redis = %shared.config, purpose = shared.purpose, why = told(&error), "the channels of other nodes can not be followed: it is tried again until they are");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Keeps a connection until it fails, and says why it did. `settled`: it agreed once with what is wanted,
/// and not only answered.
async fn serve(
    shared: &Shared,
    mut connection: Connection,
    ended: &Notify,
    settled: &mut bool,
) -> String {
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            () = ended.notified() => return "the connection has ended".to_owned(),
            () = shared.wake.notified() => {
                let done = settle(shared, &mut connection).await;
                *settled |= done.is_ok();
                done
            }
            _ = ping.tick() => connection.ping().await,
        };
        if let Err(error) = done {
            return told(&error);
        }
    }
}

/// Takes what the connection is told unasked.
fn pushes(
    shared: Arc<Shared>,
    ended: Arc<Notify>,
) -> impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync + 'static {
    move |push| {
        match (push.kind, push.data.as_slice()) {
            (
                PushKind::Message | PushKind::SMessage,
                [Value::BulkString(channel), Value::BulkString(message)],
            ) => shared.received(channel, message),
            // Its slot has moved to another node of the cluster, or it was given up and is wanted
            // again already.
            (PushKind::Unsubscribe | PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                shared.ended(channel)
            }
            (PushKind::Disconnection, _) => ended.notify_one(),
            _ => {}
        }
        Ok(())
    }
}

/// Tells Redis what has changed, until nothing has.
async fn settle(shared: &Shared, connection: &mut Connection) -> RedisResult<()> {
    loop {
        let (follow, unfollow) = shared.changes();
        if follow.is_empty() && unfollow.is_empty() {
            return Ok(());
        }
        tell(connection, &unfollow, false).await?;
        tell(connection, &follow, true).await?;
        for follower in shared.now_live(&follow) {
            follower.live();
        }
    }
}

async fn tell(connection: &Connection, names: &[Arc<[u8]>], follow: bool) -> RedisResult<()> {
    if names.is_empty() {
        return Ok(());
    }
    match connection {
        Connection::Single(connection) => {
            let names: Vec<&[u8]> = names.iter().map(AsRef::as_ref).collect();
            let mut connection = connection.clone();
            match follow {
                true => connection.subscribe(&names).await,
                false => connection.unsubscribe(&names).await,
            }
        }
        Connection::Cluster(connection) => {
            let told = stream::iter(names.to_vec()).map(|name| {
                let mut connection = connection.clone();
                async move {
                    match follow {
                        true => connection.ssubscribe(&name[..]).await,
                        false => connection.sunsubscribe(&name[..]).await,
                    }
                }
            });
            let mut told = told.buffer_unordered(AT_ONCE);
            while told.try_next().await?.is_some() {}
            Ok(())
        }
    }
}

impl Shared {
    /// A new connection knows nothing.
    fn all_changed(&self) {
        let mut followed = self.followed.lock();
        followed.changed = followed.channels.keys().cloned().collect();
        drop(followed);
        self.wake.notify_one();
    }

    /// Nothing comes any more.
    fn none_live(&self) {
        let mut followed = self.followed.lock();
        for channel in followed.channels.values_mut() {
            channel.live = false;
        }
        let all = followed.channels.len() as i64;
        self.metrics.pending.set(all);
        self.metrics.followed.set(0);
    }

    /// Redis sends a channel no more.
    fn ended(&self, channel: &[u8]) {
        let mut followed = self.followed.lock();
        let name = followed.channels.get_key_value(channel);
        let Some(name) = name.map(|(name, _)| name.clone()) else {
            return;
        };
        if let Some(channel) = followed.channels.get_mut(&name) {
            channel.live = false;
        }
        followed.changed.insert(name);
        drop(followed);
        self.wake.notify_one();
    }

    /// A part of what has changed: to be followed, and to be followed no more.
    fn changes(&self) -> (Names, Names) {
        let mut followed = self.followed.lock();
        let part: Names = followed.changed.iter().take(PART).cloned().collect();
        for name in &part {
            followed.changed.remove(name);
        }
        self.metrics.pending.set(followed.changed.len() as i64);
        part.into_iter()
            .partition(|name| followed.channels.contains_key(name))
    }

    /// Redis has confirmed these: those who are to be told so.
    fn now_live(&self, names: &[Arc<[u8]>]) -> Vec<Arc<dyn Follower>> {
        let mut followed = self.followed.lock();
        let mut told = Vec::with_capacity(names.len());
        for name in names {
            // What has changed meanwhile is told next.
            let changed = followed.changed.contains(name);
            let channel = followed.channels.get_mut(name);
            if let Some(channel) = channel.filter(|_| !changed) {
                channel.live = true;
                told.push(channel.follower.clone());
            }
        }
        let all = followed.channels.len();
        let pending = followed.changed.len().min(all);
        self.metrics.pending.set(pending as i64);
        self.metrics.followed.set((all - pending) as i64);
        told
    }
}
