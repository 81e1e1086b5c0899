//! Scripts that Redis runs in one step. Sent by their hash, and whole where it does not know them, such
//! as after a restart.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind};

use crate::connect::Connection;

/// One script.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// Runs it. Of a cluster, `keys` must lie in one slot.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        mut connection: Connection,
        keys: &[Vec<u8>],
        args: &[impl redis::ToRedisArgs],
    ) -> RedisResult<T> {
        let command = |name: &str, script: &str| -> Cmd {
            let mut command = redis::cmd(name);
            command.arg(script).arg(keys.len());
            for key in keys {
                command.arg(key);
            }
            for arg in args {
                command.arg(arg);
            }
            command
        };
        match command("EVALSHA", &self.hash)
            .query_async(&mut connection)
            .await
        {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                command("EVAL", self.text)
                    .query_async(&mut connection)
                    .await
            }
            done => done,
        }
    }
}
