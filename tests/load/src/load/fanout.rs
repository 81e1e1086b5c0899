//! One publisher, one room, many subscribers: as fast as a window of unfinished publications
//! allows, or at a pace.

use std::time::Duration;

use anyhow::{Result, bail};

use super::figures::{FanoutFigures, cpu_shares};
use super::{DRAIN, LATE, SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::Event;
use crate::histogram::Histogram;
use crate::payload::{self, Payload, Stamp};
use crate::process::{Watched, raise_file_limit};
use crate::subject::Subject;
use crate::swarm::Swarm;

/// Without any delivery for so long the server stands still.
const STALL: Duration = Duration::from_secs(10);
/// Publications of one run at most: each one's deliveries are counted.
const PUBLICATIONS_MAX: usize = 1 << 22;

/// How hard to press.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pressure {
    /// So many publications that have not reached every subscriber, at any time.
    InFlight(usize),
    /// So many deliveries a second, in publications on time whatever happens.
    DeliveriesPerSecond(f64),
}

/// A fan-out load.
#[derive(Clone, Debug)]
pub(crate) struct FanoutPlan {
    /// Subscribers.
    pub(crate) subscribers: usize,
    /// How hard.
    pub(crate) pressure: Pressure,
    /// Bytes of the data.
    pub(crate) size: usize,
    /// How long to measure.
    pub(crate) duration: Duration,
    /// How long to go on before.
    pub(crate) warm_up: Duration,
}

/// What subscribers have got.
struct Received {
    subscribers: u32,
    /// Deliveries of each publication.
    counts: Vec<u32>,
    finished: usize,
    delivered: u64,
    latency: Histogram,
    to_last: Histogram,
    last: u64,
}

impl Received {
    fn take(&mut self, now: u64, data: &[u8]) {
        let Some(Stamp { number, sent_ns }) = payload::read(data) else {
            return;
        };
        let Some(count) = self.counts.get_mut(number as usize) else {
            return;
        };
        *count += 1;
        self.delivered += 1;
        self.last = now;
        let took = now.saturating_sub(sent_ns);
        self.latency.record(took);
        if *count == self.subscribers {
            self.finished += 1;
            self.to_last.record(took);
        }
    }

    fn unfinished(&self) -> usize {
        self.counts.len() - self.finished
    }

    /// Deliveries that are still to come.
    fn missing(&self) -> u64 {
        let subscribers = self.subscribers;
        let missing = |count: &u32| u64::from(subscribers.saturating_sub(*count));
        self.counts.iter().map(missing).sum()
    }
}

/// Puts `subject` under the load.
///
/// # Errors
/// Connections fail, or the server stands still.
pub(crate) fn run(subject: &Subject, plan: &FanoutPlan) -> Result<FanoutFigures> {
    raise_file_limit(plan.subscribers + 1)?;
    let run = run_name();
    let room = subject.room(&run, 0);
    let mut swarm = Swarm::new(subject.target.clone())?;
    let mut codec = |n| subject.codec(&run, n);
    let setup = now_ns();
    swarm.open_all(
        plan.subscribers,
        SETUP_AT_ONCE,
        &mut codec,
        &|_| vec![room.clone()],
        &mut |_, _, _| (),
    )?;
    let connect_us = (now_ns() - setup) as f64 / 1000.0 / plan.subscribers.max(1) as f64;
    let publisher = swarm.len();
    swarm.open_all(
        1,
        1,
        &mut |_| subject.codec(&run, publisher),
        &|_| Vec::new(),
        &mut |_, _, _| (),
    )?;

    let me = Watched::process("load", std::process::id());
    let mut received = Received {
        subscribers: plan.subscribers as u32,
        counts: Vec::new(),
        finished: 0,
        delivered: 0,
        latency: Histogram::default(),
        to_last: Histogram::default(),
        last: now_ns(),
    };
    let mut payload = Payload::new(plan.size, 1);
    let mut publish = |swarm: &mut Swarm, received: &mut Received, at: u64| {
        let number = received.counts.len() as u64;
        received.counts.push(0);
        let data = payload.stamped(Stamp {
            number,
            sent_ns: at,
        });
        swarm.send(publisher, |codec, out| {
            codec.publish(number as u32, &room, data, out);
        });
    };
    let start = now_ns();
    let warm = start + ns(plan.warm_up);
    let end = warm + ns(plan.duration);
    let mut began = None;
    let mut due = start;
    // The load, and then its drain: what is in flight at the end still costs the server.
    let mut failed = None;
    loop {
        let now = now_ns();
        let over = now >= end || received.counts.len() >= PUBLICATIONS_MAX;
        if over && (received.unfinished() == 0 || now >= end + ns(LATE)) {
            break;
        }
        if began.is_none() && now >= warm {
            received.latency.clear();
            received.to_last.clear();
            began = Some(Began {
                at: now,
                delivered: received.delivered,
                published: received.counts.len(),
                reads: swarm.reads,
                cpu: subject.cpu()?,
                mine: me.cpu_ns()?,
            });
        }
        let mut wait = Duration::from_millis(50);
        match plan.pressure {
            _ if over => wait = Duration::from_millis(1),
            Pressure::InFlight(count) => {
                while received.unfinished() < count {
                    publish(&mut swarm, &mut received, now_ns());
                }
            }
            Pressure::DeliveriesPerSecond(rate) => {
                let step = (plan.subscribers as f64 * 1e9 / rate.max(1e-3)) as u64;
                while due <= now {
                    publish(&mut swarm, &mut received, due);
                    due += step.max(1);
                }
                wait = wait.min(Duration::from_nanos(due - now));
            }
        }
        swarm.turn(wait, &mut |_, now, event| match event {
            Event::Delivered { data, .. } => received.take(now, data),
            Event::Failed { code, message, .. } => {
                failed.get_or_insert_with(|| format!("a publish was refused: {code} {message}"));
            }
            Event::SubscriptionLost { code, message } => {
                failed.get_or_insert_with(|| format!("a subscription ended: {code} {message}"));
            }
            _ => (),
        })?;
        if let Some(why) = &failed {
            bail!("{why}");
        }
        if received.unfinished() > 0 && now_ns() > received.last.max(start) + ns(STALL) {
            let why = swarm
                .first_close
                .as_deref()
                .unwrap_or("no connection has ended");
            bail!("no delivery has come for {} s; {why}", STALL.as_secs());
        }
    }
    let now = now_ns();
    let began = began.unwrap_or(Began {
        at: start,
        delivered: 0,
        published: 0,
        reads: 0,
        cpu: subject.cpu()?,
        mine: me.cpu_ns()?,
    });
    let seconds = (now - began.at) as f64 / 1e9;
    let delivered = received.delivered - began.delivered;
    let cpu = subject.cpu()?;
    let load_cores = (me.cpu_ns()? - began.mine) as f64 / 1e9 / seconds;
    let (latency, to_last) = (received.latency.summary(), received.to_last.summary());
    let reads = swarm.reads - began.reads;

    let before = received.missing();
    let deadline = now + ns(DRAIN);
    while received.missing() > 0 && now_ns() < deadline {
        swarm.turn(Duration::from_millis(50), &mut |_, now, event| {
            if let Event::Delivered { data, .. } = event {
                received.take(now, data);
            }
        })?;
    }
    Ok(FanoutFigures {
        side: subject.name.clone(),
        subscribers: plan.subscribers,
        in_flight: match plan.pressure {
            Pressure::InFlight(count) => count,
            Pressure::DeliveriesPerSecond(_) => 0,
        },
        publications_per_s: (received.counts.len() - began.published) as f64 / seconds,
        delivered,
        per_s: delivered as f64 / seconds,
        latency,
        to_last,
        cpu: cpu_shares(&subject.watched, &began.cpu, &cpu, delivered, seconds),
        load_cores,
        per_read: delivered as f64 / reads.max(1) as f64,
        late: before - received.missing(),
        lost: received.missing(),
        closed: swarm.closed,
        connect_us,
    })
}

/// What there was when measuring began.
struct Began {
    at: u64,
    delivered: u64,
    published: usize,
    reads: u64,
    cpu: Vec<u64>,
    mine: u64,
}
