//! A client that publishes message after message, each until it is acknowledged: over
//! reconnections, on any of its targets, always under the message's first id.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{ClientError, Session, Target};
use crate::history::{Message, Recorder, What, fingerprint};

/// Between attempts: from a tenth of it up to all of it, by chance.
const BACKOFF: Duration = Duration::from_millis(300);
/// How long one message may take before the publisher ends with an error.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(120);

/// What a publisher does.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Its name in the history and at the beginning of its ids.
    pub name: String,
    /// The instance that its token belongs to.
    pub instance: String,
    /// The user that its token names.
    pub user: String,
    /// Where to connect; the next one after every failure.
    pub targets: Vec<Target>,
    /// The channels, by turns.
    pub rooms: Vec<String>,
    /// Between an acknowledgement and the next message.
    pub pause: Duration,
    /// Bytes of filling in each message.
    pub filling: usize,
    /// For its jitter.
    pub seed: u64,
}

/// A publisher at work.
pub struct Publisher {
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<u64>,
    task: JoinHandle<Result<u64, String>>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    /// Starts publishing.
    pub fn start(options: PublisherOptions, recorder: Recorder) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (progress, acknowledged) = watch::channel(0);
        recorder.record(
            &options.name,
            What::Client {
                instance: options.instance.clone(),
                user: options.user.clone(),
            },
        );
        let run = Run {
            random: StdRng::seed_from_u64(options.seed),
            options,
            recorder,
            session: None,
            turn: 0,
        };
        Publisher {
            stop,
            acknowledged,
            task: tokio::spawn(run.run(stopped, progress)),
        }
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until so many messages are acknowledged.
    ///
    /// # Errors
    /// It takes too long, or the publisher has ended.
    pub async fn until_acknowledged(&self, count: u64, patience: Duration) -> Result<(), String> {
        let mut progress = self.acknowledged.clone();
        let waited = tokio::time::timeout(patience, progress.wait_for(|n| *n >= count)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the publisher has ended".into()),
            Err(_) => Err(format!(
                "{} of {count} messages are acknowledged after {patience:?}",
                self.acknowledged()
            )),
        }
    }

    /// Ends it after the message that it is at, and returns how many were acknowledged.
    ///
    /// # Errors
    /// A message was refused for good, or could not be sent for too long.
    pub async fn stop(mut self) -> Result<u64, String> {
        self.stop.send_replace(true);
        match (&mut self.task).await {
            Ok(result) => result,
            Err(e) => Err(format!("the publisher's task failed: {e}")),
        }
    }
}

struct Run {
    options: PublisherOptions,
    recorder: Recorder,
    session: Option<Session>,
    turn: usize,
    random: StdRng,
}

impl Run {
    async fn run(
        mut self,
        stopped: watch::Receiver<bool>,
        progress: watch::Sender<u64>,
    ) -> Result<u64, String> {
        let mut number = 0;
        while !*stopped.borrow() {
            tokio::time::timeout(MESSAGE_PATIENCE, self.message(number))
                .await
                .unwrap_or_else(|_| {
                    let name = &self.options.name;
                    Err(format!(
                        "{name}: message {number} took {MESSAGE_PATIENCE:?}"
                    ))
                })?;
            number += 1;
            progress.send_replace(number);
            if !self.options.pause.is_zero() {
                tokio::time::sleep(self.options.pause).await;
            }
        }
        Ok(number)
    }

    async fn message(&mut self, number: u64) -> Result<(), String> {
        let rooms = &self.options.rooms;
        let room = rooms[number as usize % rooms.len()].clone();
        let id = format!("{}-{number}", self.options.name);
        let filling = ".".repeat(self.options.filling);
        let data = format!("{{\"id\":\"{id}\",\"filling\":\"{filling}\"}}");
        let message = Message {
            room: room.clone(),
            id: Some(id.clone()),
            data: fingerprint(data.as_bytes()),
        };
        loop {
            let session = self.connected().await;
            self.recorder
                .record(&self.options.name, What::Sent(message.clone()));
            let error = match session.room_publish(&room, Some(&id), &data).await {
                Ok(published) => {
                    let what = What::Acknowledged {
                        message,
                        offset: Some(published.offset),
                        epoch: published.epoch,
                        duplicate: published.duplicate,
                    };
                    self.recorder.record(&self.options.name, what);
                    self.session = Some(session);
                    return Ok(());
                }
                Err(error) => error,
            };
            let failed = What::Failed {
                message: message.clone(),
                code: error.code(),
            };
            self.recorder.record(&self.options.name, failed);
            match error {
                ClientError::Reply {
                    temporary: true, ..
                } => self.session = Some(session),
                ClientError::Reply { .. } | ClientError::Answer { .. } | ClientError::Codec(_) => {
                    return Err(format!("{}: {id}: {error}", self.options.name));
                }
                // Gone or silent: another connection, perhaps to another edge.
                _ => {
                    self.recorder.record(&self.options.name, What::Lost);
                    self.turn += 1;
                }
            }
            self.back_off().await;
        }
    }

    async fn connected(&mut self) -> Session {
        loop {
            if let Some(session) = self.session.take() {
                return session;
            }
            let target = &self.options.targets[self.turn % self.options.targets.len()];
            match Session::connect(target).await {
                Ok((session, _pushes)) => {
                    self.recorder.record(&self.options.name, What::Connected);
                    return session;
                }
                Err(_) => {
                    self.turn += 1;
                    self.back_off().await;
                }
            }
        }
    }

    async fn back_off(&mut self) {
        let part = self.random.random_range(0.1..1.0);
        tokio::time::sleep(BACKOFF.mul_f64(part)).await;
    }
}
