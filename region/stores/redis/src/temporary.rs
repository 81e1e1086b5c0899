//! The port `Temporary`: each value is a key of Redis with its time to live.

use std::time::Duration;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::temporary::{TEMPORARY_TTL_MAX, admit};
use gb6_core_ports::{StoreError, Temporary, TemporaryKey};
use redis::Cmd;
use tokio::runtime::Handle;

use crate::config::Config;
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

    fn ask<T: redis::FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        self.link
            .call(async |mut connection| command.query_async(&mut connection).await)
    }

    fn command(&self, name: &str, key: &TemporaryKey) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(self.keys.temporary(key));
        command
    }
}

impl Temporary for RedisTemporary {
    fn put(&self, key: &TemporaryKey, value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        admit(key, value)?;
        if ttl.is_zero() {
            return self.delete(key);
        }
        // Shorter than a millisecond is a millisecond.
        let ms = ttl.min(TEMPORARY_TTL_MAX).as_millis().max(1);
        let mut command = self.command("SET", key);
        command.arg(value).arg("PX").arg(ms.to_string());
        self.ask(command)
    }

    fn get(&self, key: &TemporaryKey) -> Result<Option<Vec<u8>>, StoreError> {
        admit(key, &[])?;
        self.ask(self.command("GET", key)).map_err(read)
    }

    fn take(&self, key: &TemporaryKey) -> Result<Option<Vec<u8>>, StoreError> {
        admit(key, &[])?;
        self.ask(self.command("GETDEL", key))
    }

    fn delete(&self, key: &TemporaryKey) -> Result<(), StoreError> {
        admit(key, &[])?;
        self.ask::<u64>(self.command("DEL", key)).map(drop)
    }
}

/// A question that was lost has changed nothing.
pub(crate) fn read(error: StoreError) -> StoreError {
    match error {
        StoreError::OutcomeUnknown { cause } => StoreError::Unavailable { cause },
        error => error,
    }
}
