//! Publishes that are acknowledged: so many in flight, or so many a second.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::figures::{PublishFigures, cpu_shares};
use super::{DRAIN, SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::{Codec, Event};
use crate::histogram::Histogram;
use crate::payload::{Payload, Stamp};
use crate::process::Watched;
use crate::subject::Subject;
use crate::swarm::{Swarm, Target};

/// Publishes that may be unanswered at all.
const UNANSWERED_MAX: usize = 1 << 16;
/// Without any answer for so long the server stands still.
const STALL: Duration = Duration::from_secs(10);
/// Reasons of refusal that are told apart.
const REASONS_MAX: usize = 16;

/// How hard to press.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pressure {
    /// The next as soon as one is answered, so many unanswered at any time.
    InFlight(usize),
    /// So many a second, on time whatever happens.
    PerSecond(f64),
}

/// A publish load.
#[derive(Clone, Debug)]
pub(crate) struct PublishPlan {
    /// Connections.
    pub(crate) connections: usize,
    /// Rooms: connection `n` publishes to room `n` modulo this.
    pub(crate) rooms: usize,
    /// How hard.
    pub(crate) pressure: Pressure,
    /// Bytes of the data.
    pub(crate) size: usize,
    /// How long to measure.
    pub(crate) duration: Duration,
    /// How long to go on before.
    pub(crate) warm_up: Duration,
}

/// The connections of a publish load and what they have unanswered.
pub(crate) struct Publisher {
    swarm: Swarm,
    rooms: Vec<String>,
    connections: usize,
    payload: Payload,
    /// When each unanswered publish was sent, or should have been; 0: answered.
    sent: Vec<u64>,
    next: u64,
    pub(crate) unanswered: usize,
    pub(crate) acked: u64,
    pub(crate) latency: Histogram,
    failed: BTreeMap<String, u64>,
    last_answer: u64,
}

impl Publisher {
    /// Opens the connections.
    ///
    /// # Errors
    /// One fails.
    pub(crate) fn open(
        target: &Target,
        codec: &mut dyn FnMut(usize) -> Codec,
        connections: usize,
        rooms: Vec<String>,
        size: usize,
    ) -> Result<Self> {
        let mut swarm = Swarm::new(target.clone())?;
        let connections = connections.max(1);
        swarm.open_all(
            connections,
            SETUP_AT_ONCE,
            codec,
            &|_| Vec::new(),
            &mut |_, _, _| (),
        )?;
        Ok(Publisher {
            swarm,
            rooms,
            connections,
            payload: Payload::new(size, 1),
            sent: vec![0; UNANSWERED_MAX],
            next: 0,
            unanswered: 0,
            acked: 0,
            latency: Histogram::default(),
            failed: BTreeMap::new(),
            last_answer: now_ns(),
        })
    }

    /// Forgets what was measured so far.
    pub(crate) fn clear(&mut self) {
        self.latency.clear();
        self.acked = 0;
        self.failed.clear();
    }

    /// Whether another publish may go out.
    pub(crate) fn has_room(&self) -> bool {
        self.sent[self.next as usize % UNANSWERED_MAX] == 0
    }

    /// Publishes to the next room over the next connection, as if at `at`.
    pub(crate) fn publish(&mut self, at: u64) {
        let connection = self.next as usize % self.connections;
        let room = &self.rooms[connection % self.rooms.len()];
        let stamp = Stamp {
            number: self.next,
            sent_ns: at,
        };
        let data = self.payload.stamped(stamp);
        let tag = self.next as u32;
        self.swarm
            .send(connection, |codec, out| codec.publish(tag, room, data, out));
        self.sent[self.next as usize % UNANSWERED_MAX] = at.max(1);
        if self.unanswered == 0 {
            self.last_answer = now_ns();
        }
        self.unanswered += 1;
        self.next += 1;
    }

    /// Sends, waits at most `wait` and takes the answers.
    ///
    /// # Errors
    /// A connection has ended or the server stands still.
    pub(crate) fn turn(&mut self, wait: Duration) -> Result<()> {
        let Publisher {
            swarm,
            sent,
            unanswered,
            acked,
            latency,
            failed,
            last_answer,
            ..
        } = self;
        let mut ended = None;
        swarm.turn(wait, &mut |_, now, event| {
            let (tag, failure) = match event {
                Event::Acked { tag } => (tag, None),
                Event::Failed { tag, code, message } => (tag, Some(format!("{code} {message}"))),
                Event::Closed { why } => {
                    ended.get_or_insert(why);
                    return;
                }
                _ => return,
            };
            let slot = &mut sent[tag as usize % UNANSWERED_MAX];
            let at = std::mem::take(slot);
            if at == 0 {
                return;
            }
            *unanswered -= 1;
            *last_answer = now;
            match failure {
                None => {
                    *acked += 1;
                    latency.record(now.saturating_sub(at));
                }
                Some(why) if failed.len() < REASONS_MAX || failed.contains_key(&why) => {
                    *failed.entry(why).or_default() += 1;
                }
                Some(_) => *failed.entry("another reason".to_owned()).or_default() += 1,
            }
        })?;
        if let Some(why) = ended {
            bail!("a publishing connection has ended: {why}");
        }
        if self.unanswered > 0 && now_ns() > self.last_answer + ns(STALL) {
            bail!(
                "{} publishes are unanswered and no answer has come for {} s",
                self.unanswered,
                STALL.as_secs()
            );
        }
        Ok(())
    }

    /// Waits for what is unanswered.
    ///
    /// # Errors
    /// As [`Publisher::turn`].
    pub(crate) fn drain(&mut self) -> Result<()> {
        let deadline = now_ns() + ns(DRAIN);
        while self.unanswered > 0 && now_ns() < deadline {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }
}

/// Puts `subject` under the load.
///
/// # Errors
/// Connections fail, or the server stands still.
pub(crate) fn run(subject: &Subject, plan: &PublishPlan) -> Result<PublishFigures> {
    let run = run_name();
    let rooms = (0..plan.rooms.max(1))
        .map(|n| subject.room(&run, n))
        .collect();
    let mut codec = |n| subject.codec(&run, n);
    let mut publisher = Publisher::open(
        &subject.target,
        &mut codec,
        plan.connections,
        rooms,
        plan.size,
    )?;
    measure(subject, plan, &mut publisher)
}

/// The load over connections that are open.
///
/// # Errors
/// As [`run`].
pub(crate) fn measure(
    subject: &Subject,
    plan: &PublishPlan,
    publisher: &mut Publisher,
) -> Result<PublishFigures> {
    let me = Watched::process("load", std::process::id());
    let start = now_ns();
    let warm = start + ns(plan.warm_up);
    let end = warm + ns(plan.duration);
    let mut began = None;
    let mut due = start;
    loop {
        let now = now_ns();
        if now >= end {
            break;
        }
        if began.is_none() && now >= warm {
            publisher.clear();
            began = Some((now, subject.cpu()?, me.cpu_ns()?));
        }
        let wait = match plan.pressure {
            Pressure::InFlight(count) => {
                while publisher.unanswered < count && publisher.has_room() {
                    publisher.publish(now_ns());
                }
                Duration::from_nanos((end - now).min(100_000_000))
            }
            Pressure::PerSecond(rate) => {
                let step = (1e9 / rate.max(1e-3)) as u64;
                while due <= now && publisher.has_room() {
                    publisher.publish(due);
                    due += step.max(1);
                }
                Duration::from_nanos(due.min(end).saturating_sub(now))
            }
        };
        publisher.turn(wait)?;
    }
    let (from, cpu, mine) = began.unwrap_or((start, subject.cpu()?, me.cpu_ns()?));
    let now = now_ns();
    let seconds = (now - from) as f64 / 1e9;
    let (acked, after) = (publisher.acked, subject.cpu()?);
    let load_cores = (me.cpu_ns()? - mine) as f64 / 1e9 / seconds;
    publisher.drain()?;
    Ok(PublishFigures {
        side: subject.name.clone(),
        in_flight: match plan.pressure {
            Pressure::InFlight(count) => count,
            Pressure::PerSecond(_) => 0,
        },
        acked,
        per_s: acked as f64 / seconds,
        latency: publisher.latency.summary(),
        cpu: cpu_shares(&subject.watched, &cpu, &after, acked, seconds),
        load_cores,
        failed: publisher.failed.clone(),
        unanswered: publisher.unanswered as u64,
        closed: publisher.swarm.closed,
    })
}
