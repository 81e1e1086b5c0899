//! What is measured: a server that runs already, or one that is started for the run.

mod child;
mod floor;
mod gb6;
mod mesh;
mod nats;
mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gb6_core_wire::client::Dialect;
use tempfile::TempDir;

pub(crate) use child::{Running, free_port, free_udp_port};
pub(crate) use gb6::{ReadyLine, dev, running, secure};
pub(crate) use mesh::{Mesh, mesh, mesh_of};
pub(crate) use nats::{jetstream, nats_websocket};
pub(crate) use token::Tokens;

#[cfg(test)]
pub(crate) use floor::target as floor_target;
pub(crate) use floor::{durable_floor, epoll_floor, secure_floor};

use crate::args::ROOM_PREFIX;
use crate::codec::{Codec, Echo, Gb6, Method, Nats};
use crate::process::{Memory, Pinning, Watched};
use crate::swarm::{Target, Transport};

/// How long a server may take until it is ready.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where servers are started: their binary, their files, their processors.
pub(crate) struct Workspace {
    dir: TempDir,
    /// The `gb6` binary.
    pub(crate) gb6: PathBuf,
    /// Where servers and load run.
    pub(crate) pinning: Pinning,
}

impl Workspace {
    /// A new directory below `parent`, which is made; all of it is removed in the end.
    ///
    /// # Errors
    /// The directory can not be made.
    pub(crate) fn new(parent: &Path, gb6: Option<PathBuf>, pinning: Pinning) -> Result<Self> {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("making the directory {}", parent.display()))?;
        let dir = tempfile::Builder::new()
            .prefix(".bench-")
            .tempdir_in(parent)
            .with_context(|| format!("making a directory in {}", parent.display()))?;
        let gb6 = match gb6 {
            Some(path) => path,
            None => std::env::current_exe().context("finding the program that runs")?,
        };
        Ok(Workspace { dir, gb6, pinning })
    }

    /// A fresh directory in it.
    ///
    /// # Errors
    /// It can not be made.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let mut nth = 0;
        loop {
            let path = self.dir.path().join(format!("{name}-{nth}"));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => nth += 1,
                Err(e) => {
                    return Err(e)
                        .with_context(|| format!("making the directory {}", path.display()));
                }
            }
        }
    }
}

/// The protocol of a subject.
pub(crate) enum Speech {
    /// GB6, signed in by these tokens.
    Gb6(Tokens, Method),
    /// NATS without acknowledgements.
    Nats,
    /// NATS with acknowledgements by JetStream.
    JetStream,
    /// The floor's.
    Echo,
    /// That of the bare server that syncs and acknowledges.
    EchoAcknowledged,
}

/// One server, ready to be measured.
pub(crate) struct Subject {
    /// Its name in reports.
    pub(crate) name: String,
    /// Where it is reached.
    pub(crate) target: Target,
    /// How it is spoken to.
    pub(crate) speech: Speech,
    /// The encoding of what is said, where there are two.
    dialect: Dialect,
    /// What the names of its rooms begin with.
    pub(crate) room_prefix: String,
    /// Its processes; empty where they are not known.
    pub(crate) watched: Vec<Watched>,
    /// What runs for it, ended when the subject goes. Fields are dropped in this order.
    _running: Vec<Running>,
}

impl Subject {
    /// A subject that this program keeps running.
    pub(crate) fn new(
        name: &str,
        target: Target,
        speech: Speech,
        watched: Vec<Watched>,
        running: Vec<Running>,
    ) -> Self {
        Subject {
            name: name.to_owned(),
            target,
            speech,
            dialect: Dialect::Protobuf,
            room_prefix: ROOM_PREFIX.to_owned(),
            watched,
            _running: running,
        }
    }

    /// Has connections that are opened from here on speak another encoding.
    ///
    /// # Errors
    /// The server has no other.
    pub(crate) fn speak(&mut self, dialect: Dialect) -> Result<()> {
        match (&self.speech, &mut self.target.transport) {
            (Speech::Gb6(..), Transport::WebSocket { subprotocol, .. }) => {
                *subprotocol = Some(dialect.subprotocol().to_owned());
                self.dialect = dialect;
                Ok(())
            }
            _ => bail!("only GB6 speaks two encodings: leave --protocol out"),
        }
    }

    /// The `n`th room of a run.
    pub(crate) fn room(&self, run: &str, n: usize) -> String {
        format!("{}bench-{run}-{n}", self.room_prefix)
    }

    /// The codec of connection `n` of a run named `run`.
    pub(crate) fn codec(&self, run: &str, n: usize) -> Codec {
        match &self.speech {
            Speech::Gb6(tokens, method) => Codec::Gb6(Gb6::new(
                self.dialect,
                tokens.of(n, &self.room_prefix),
                *method,
                format!("{run}-{n}"),
            )),
            Speech::Nats => Codec::Nats(Nats::plain()),
            Speech::JetStream => Codec::Nats(Nats::jetstream(n)),
            Speech::Echo => Codec::Echo(Echo::default()),
            Speech::EchoAcknowledged => Codec::Echo(Echo::acknowledged()),
        }
    }

    /// `error` with what may have been left out on the command line.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.speech {
            Speech::Gb6(Tokens::Nobody, _) => error.context(
                "without a token; if the server wants one, give --token or --hmac-secret (`gb6 token \
                 create` makes a token, `gb6 dev --ready-json` prints both)",
            ),
            _ => error,
        }
    }

    /// Processor time so far of each process, in nanoseconds.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) fn cpu(&self) -> Result<Vec<u64>> {
        self.watched.iter().map(Watched::cpu_ns).collect()
    }

    /// Memory of each process.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) fn memory(&self) -> Result<Vec<Memory>> {
        self.watched.iter().map(Watched::memory).collect()
    }
}
