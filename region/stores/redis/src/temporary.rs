//! The port `Temporary`: each value is a key of Redis with its time to live. The keys of an instance are
//! spread over a cluster, so a call sends a command for each.

use std::time::Duration;

use futures_util::future::try_join_all;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::temporary::{TEMPORARY_TTL_MAX, admit};
use gb6_core_ports::{StoreError, Temporary, TemporaryKey};
use redis::{Cmd, Value};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::connect::Connection;
use crate::keys::Keys;
use crate::link::Link;

/// Values in one Redis.
pub struct RedisTemporary {
    link: Link,
    keys: Keys,
}

impl std::fmt::Debug for RedisTemporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTemporary").finish_non_exhaustive()
    }
}

impl RedisTemporary {
    /// Begins to connect; it answers at once. `region` keeps apart those that share a Redis.
    pub fn open(config: &Config, region: &str, runtime: &Handle, metrics: &Metrics) -> Self {
        Self {
            link: Link::open(config, "temporary", 2, runtime, metrics),
            keys: Keys::new(&config.prefix, region),
        }
    }

    /// Whether calls are answered now.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// Sends commands without waiting between them, and waits for all answers. Of a cluster each goes
    /// to its own slot.
    fn ask<T: redis::FromRedisValue>(&self, commands: Vec<Cmd>) -> Result<Vec<T>, StoreError> {
        self.link.call(|connection: Connection| {
            try_join_all(commands.into_iter().map(move |command| {
                let mut connection = connection.clone();
                async move { command.query_async(&mut connection).await }
            }))
        })
    }

    fn command(&self, name: &str, key: &TemporaryKey) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(self.keys.temporary(key));
        command
    }
}

impl Temporary for RedisTemporary {
    fn put(&self, values: &[(TemporaryKey, Vec<u8>)], ttl: Duration) -> Result<(), StoreError> {
        admit(values.iter().map(|(key, value)| (key, &value[..])))?;
        // Shorter than a millisecond is a millisecond.
        let ms = ttl.min(TEMPORARY_TTL_MAX).as_millis().max(1).to_string();
        let command = |(key, value): &(TemporaryKey, Vec<u8>)| {
            if ttl.is_zero() {
                return self.command("DEL", key);
            }
            let mut command = self.command("SET", key);
            command.arg(&value[..]).arg("PX").arg(&ms);
            command
        };
        self.ask::<Value>(values.iter().map(command).collect())
            .map(drop)
    }

    fn get(&self, keys: &[TemporaryKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        admit(keys.iter().map(|key| (key, &[][..])))?;
        let commands = keys.iter().map(|key| self.command("GET", key));
        self.ask(commands.collect()).map_err(read)
    }

    fn delete(&self, keys: &[TemporaryKey]) -> Result<(), StoreError> {
        admit(keys.iter().map(|key| (key, &[][..])))?;
        let commands = keys.iter().map(|key| self.command("DEL", key));
        self.ask::<Value>(commands.collect()).map(drop)
    }
}

/// A question that was lost has changed nothing.
pub(crate) fn read(error: StoreError) -> StoreError {
    match error {
        StoreError::OutcomeUnknown { cause } => StoreError::Unavailable { cause },
        error => error,
    }
}
