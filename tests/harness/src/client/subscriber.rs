//! A client that stays subscribed: it reconnects, recovers from its last offset, pages what can not
//! be recovered, and records everything it gets.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gb6_core_wire::client::{Command, Push as WirePush, SubscribeRequest, SubscribeResult};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::log::publication;
use super::{ClientError, Push, Session, Target};
use crate::history::{Recorder, What};

/// Between attempts to connect: from a tenth of it up to all of it, by chance.
const BACKOFF: Duration = Duration::from_millis(300);

/// What a subscriber does.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    /// Its name in the history.
    pub name: String,
    /// The instance that its token belongs to.
    pub instance: String,
    /// The user that its token names.
    pub user: String,
    /// Where to connect; the next one after every failure.
    pub targets: Vec<Target>,
    /// The channels.
    pub rooms: Vec<String>,
    /// For its jitter.
    pub seed: u64,
}

type Positions = BTreeMap<String, (u64, String)>;

/// A subscriber at work.
pub struct Subscriber {
    stop: watch::Sender<bool>,
    positions: watch::Receiver<Positions>,
    task: JoinHandle<Result<(), String>>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    /// Starts it.
    pub fn start(options: SubscriberOptions, recorder: Recorder) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (seen, positions) = watch::channel(Positions::new());
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
            positions: Positions::new(),
            seen,
            fills: JoinSet::new(),
            turn: 0,
        };
        Subscriber {
            stop,
            positions,
            task: tokio::spawn(run.run(stopped)),
        }
    }

    /// Waits until it is subscribed to every room.
    ///
    /// # Errors
    /// It takes too long, or it has ended.
    pub async fn until_subscribed(&self, rooms: usize, patience: Duration) -> Result<(), String> {
        let what = format!("subscribed to {rooms} rooms");
        self.until(&what, patience, |p| p.len() >= rooms).await
    }

    /// Waits until it has everything of a room up to `offset`.
    ///
    /// # Errors
    /// It takes too long, or it has ended.
    pub async fn until_at(
        &self,
        room: &str,
        offset: u64,
        patience: Duration,
    ) -> Result<(), String> {
        let what = format!("{offset} of {room}");
        self.until(&what, patience, |p| {
            p.get(room).is_some_and(|(o, _)| *o >= offset)
        })
        .await
    }

    async fn until(
        &self,
        what: &str,
        patience: Duration,
        is_there: impl FnMut(&Positions) -> bool,
    ) -> Result<(), String> {
        let mut positions = self.positions.clone();
        let waited = tokio::time::timeout(patience, positions.wait_for(is_there)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(format!("the subscriber has ended; it waited for {what}")),
            Err(_) => Err(format!(
                "no {what} within {patience:?}; positions are {:?}",
                self.positions.borrow()
            )),
        }
    }

    /// Ends it, after it has read the pages that it lacked. It then takes itself to be up to date:
    /// wait for that first.
    ///
    /// # Errors
    /// It could not go on earlier.
    pub async fn stop(mut self) -> Result<(), String> {
        self.stop.send_replace(true);
        match (&mut self.task).await {
            Ok(result) => result,
            Err(e) => Err(format!("the subscriber's task failed: {e}")),
        }
    }
}

struct Run {
    options: SubscriberOptions,
    recorder: Recorder,
    positions: Positions,
    seen: watch::Sender<Positions>,
    /// Pages that are being read.
    fills: JoinSet<Result<(), String>>,
    turn: usize,
    random: StdRng,
}

impl Run {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Result<(), String> {
        while !*stopped.borrow() {
            let target = self.options.targets[self.turn % self.options.targets.len()].clone();
            let connected = tokio::select! {
                connected = Session::connect(&target) => connected,
                _ = stopped.wait_for(|s| *s) => break,
            };
            if let Ok((session, pushes)) = connected {
                self.record(What::Connected);
                tokio::select! {
                    lost = self.live(&session, pushes) => lost?,
                    _ = stopped.wait_for(|s| *s) => break,
                }
                self.record(What::Lost);
            }
            self.turn += 1;
            let part = self.random.random_range(0.1..1.0);
            tokio::time::sleep(BACKOFF.mul_f64(part)).await;
        }
        while let Some(filled) = self.fills.join_next().await {
            filled.map_err(|e| e.to_string())??;
        }
        for room in self.positions.keys() {
            self.record(What::Settled { room: room.clone() });
        }
        Ok(())
    }

    fn record(&self, what: What) {
        self.recorder.record(&self.options.name, what);
    }

    fn request(&self, room: &str) -> Command {
        let position = self.positions.get(room);
        let subscribe = SubscribeRequest {
            channel: room.to_owned(),
            positioned: true,
            recoverable: true,
            recover: position.is_some(),
            offset: position.map_or(0, |p| p.0),
            epoch: position.map_or(String::new(), |p| p.1.clone()),
            ..SubscribeRequest::default()
        };
        Command {
            subscribe: Some(Box::new(subscribe)),
            ..Command::default()
        }
    }

    /// Takes what comes until the connection is lost. An error is one that no retry mends.
    async fn live(
        &mut self,
        session: &Session,
        mut pushes: mpsc::Receiver<Push>,
    ) -> Result<(), String> {
        let mut answers = FuturesUnordered::new();
        let mut wanted: Vec<String> = self.options.rooms.clone();
        loop {
            for room in wanted.drain(..) {
                match session.send(self.request(&room)).await {
                    Ok(answer) => answers.push(session.answer("subscribe", answer)),
                    Err(_) => return Ok(()),
                }
            }
            tokio::select! {
                biased;
                push = pushes.recv() => match push {
                    None | Some(Push::Closed(_)) => return Ok(()),
                    Some(Push::Subscribed(room, result)) => self.subscribed(room, *result),
                    Some(Push::Push(push)) => {
                        if let Some(room) = self.push(*push)? {
                            wanted.push(room);
                        }
                    }
                },
                Some(answer) = answers.next() => match answer {
                    Ok(_) => {}
                    Err(ClientError::Reply { code, message, temporary: false }) => {
                        let name = &self.options.name;
                        return Err(format!("{name} may not subscribe: {code} {message}"));
                    }
                    // Temporary, or gone: connect again.
                    Err(_) => return Ok(()),
                },
                Some(filled) = self.fills.join_next() => filled.map_err(|e| e.to_string())??,
            }
        }
    }

    fn subscribed(&mut self, room: String, result: SubscribeResult) {
        self.record(What::Subscribed {
            room: room.clone(),
            offset: result.offset,
            epoch: result.epoch.clone(),
            recovered: result.was_recovering.then_some(result.recovered),
        });
        if let Some((had, _)) = self.positions.get(&room)
            && !result.recovered
            && result.offset > *had
        {
            let target = self.options.targets[self.turn % self.options.targets.len()].clone();
            let fill = Fill {
                name: self.options.name.clone(),
                room: room.clone(),
                from: *had,
                to: result.offset,
                target,
                recorder: self.recorder.clone(),
            };
            self.fills.spawn(fill.run());
        }
        self.positions
            .insert(room.clone(), (result.offset, result.epoch));
        for wire in &result.publications {
            self.received(&room, wire);
        }
        self.seen.send_replace(self.positions.clone());
    }

    fn received(&mut self, room: &str, wire: &gb6_core_wire::client::Publication) {
        self.record(What::Received {
            room: room.to_owned(),
            publication: publication(wire),
        });
        if let Some(position) = self.positions.get_mut(room) {
            position.0 = position.0.max(wire.offset);
        }
    }

    /// The room to subscribe to again, if the push asks for that.
    fn push(&mut self, push: WirePush) -> Result<Option<String>, String> {
        if let Some(wire) = &push.publication {
            self.received(&push.channel, wire);
            self.seen.send_replace(self.positions.clone());
        }
        match push.unsubscribe {
            Some(end) if end.code >= 2500 => Ok(Some(push.channel)),
            Some(end) => Err(format!(
                "{} was unsubscribed from {}: {} {}",
                self.options.name, push.channel, end.code, end.reason
            )),
            None => Ok(None),
        }
    }
}

/// Reads the pages between a lost position and the next one, over a connection of its own, which
/// is made again when it breaks.
struct Fill {
    name: String,
    room: String,
    from: u64,
    to: u64,
    target: Target,
    recorder: Recorder,
}

impl Fill {
    async fn run(mut self) -> Result<(), String> {
        const TRIES: u32 = 100;
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.pages().await {
                Ok(()) => return Ok(()),
                Err(
                    e @ ClientError::Reply {
                        temporary: false, ..
                    },
                ) => return Err(format!("{}: a page of {}: {e}", self.name, self.room)),
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(BACKOFF).await;
        }
        Err(format!("{}: no pages of {}: {last}", self.name, self.room))
    }

    async fn pages(&mut self) -> Result<(), ClientError> {
        let (session, _pushes) = Session::connect(&self.target).await?;
        while self.from < self.to {
            let page = session.history(&self.room, -1, Some((self.from, "")), false);
            let page = page.await?;
            let publications: Vec<_> = page.publications.iter().map(publication).collect();
            let last = publications.last().map(|p| p.offset);
            self.recorder.record(
                &self.name,
                What::Page {
                    room: self.room.clone(),
                    since: Some(self.from),
                    reverse: false,
                    top: page.offset,
                    epoch: page.epoch,
                    publications,
                },
            );
            match last {
                Some(last) => self.from = last,
                None => {
                    return Err(ClientError::Answer {
                        what: format!("history of {} after {}", self.room, self.from),
                        answer: "an empty page".into(),
                    });
                }
            }
        }
        Ok(())
    }
}
