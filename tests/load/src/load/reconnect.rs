//! A reconnect storm: clients with positions lose their connections, miss publications, and come
//! back all at once while more is published. Every offset of every client is checked.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::figures::{ReconnectFigures, StormMemory, cpu_shares};
use super::publish::Publisher;
use super::{SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::{Event, Position};
use crate::histogram::Histogram;
use crate::payload::Random;
use crate::process::raise_file_limit;
use crate::subject::{Speech, Subject};
use crate::swarm::Swarm;

/// Until all clients must be back.
const BACK: Duration = Duration::from_secs(90);
/// Until everything that was published must have arrived.
const ARRIVE: Duration = Duration::from_secs(20);
/// Publishes unanswered at a time outside the storm.
const IN_FLIGHT: usize = 64;
/// A client whose attempt failed waits up to this before the next, doubled by each failure up to
/// the second value: what SDKs do.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// A reconnect storm.
#[derive(Clone, Debug)]
pub(crate) struct ReconnectPlan {
    /// Clients.
    pub(crate) clients: usize,
    /// Rooms: client `n` is subscribed to room `n` modulo this.
    pub(crate) rooms: usize,
    /// Publications for each room while the clients are away.
    pub(crate) missed: usize,
    /// Publications for each room and second in the storm.
    pub(crate) storm_rate: f64,
    /// Bytes of the data.
    pub(crate) size: usize,
}

#[derive(Clone, Default)]
struct Client {
    /// Its connection now.
    connection: Option<usize>,
    epoch: String,
    /// The last offset that it has.
    last: u64,
    first_attempt: u64,
    failures: u32,
    /// When to try again.
    again: Option<u64>,
    back: bool,
}

struct Storm {
    clients: Vec<Client>,
    /// The client of each connection.
    owner: Vec<usize>,
    lost: u64,
    doubled: u64,
    unrecovered: usize,
    retries: u64,
    back: usize,
    latency: Histogram,
    first_failure: Option<String>,
    /// Connections whose session has begun: they are to subscribe.
    ready: Vec<usize>,
    /// Connections that are of no use any more.
    stale: Vec<usize>,
    random: Random,
}

impl Storm {
    fn see(&mut self, connection: usize, now: u64, event: Event<'_>) {
        let Some(client) = self
            .owner
            .get(connection)
            .and_then(|n| self.clients.get_mut(*n))
        else {
            return;
        };
        if client.connection != Some(connection) {
            return;
        }
        match event {
            Event::Ready => self.ready.push(connection),
            Event::Delivered { offset, .. } => {
                if offset <= client.last {
                    self.doubled += 1;
                } else {
                    self.lost += offset - client.last - 1;
                    client.last = offset;
                }
            }
            Event::Subscribed {
                position,
                recovered,
            } => {
                if client.first_attempt > 0 && !recovered {
                    // It knows that it missed something, and pages it from history.
                    self.unrecovered += 1;
                    client.last = position.offset;
                } else if client.first_attempt == 0 {
                    client.last = client.last.max(position.offset);
                }
                client.epoch = position.epoch;
                if client.first_attempt > 0 && !client.back {
                    client.back = true;
                    self.back += 1;
                    self.latency.record(now - client.first_attempt);
                }
            }
            Event::SubscriptionLost { code, message } => {
                client.connection = None;
                self.stale.push(connection);
                let why = format!("the subscription ended: {code} {message}");
                self.failed(connection, now, why);
            }
            Event::Closed { why } => {
                client.connection = None;
                self.failed(connection, now, why);
            }
            Event::Acked { .. } | Event::Failed { .. } => (),
        }
    }

    fn failed(&mut self, connection: usize, now: u64, why: String) {
        let client = &mut self.clients[self.owner[connection]];
        self.first_failure.get_or_insert(why);
        self.retries += 1;
        if client.back {
            client.back = false;
            self.back -= 1;
        }
        let most = ns(BACKOFF.0)
            .saturating_mul(1 << client.failures.min(16))
            .min(ns(BACKOFF.1));
        client.failures += 1;
        client.again = Some(now + self.random.next() % most.max(1));
    }
}

/// Makes the storm.
///
/// # Errors
/// The clients can not be connected in the first place, or publishing stands still.
pub(crate) fn run(subject: &Subject, plan: &ReconnectPlan) -> Result<ReconnectFigures> {
    if !matches!(subject.speech, Speech::Gb6(..)) {
        bail!("only GB6 has positions to recover from: leave --peer out");
    }
    raise_file_limit(plan.clients + plan.rooms)?;
    let run = run_name();
    let rooms: Vec<String> = (0..plan.rooms.max(1))
        .map(|n| subject.room(&run, n))
        .collect();
    let mut swarm = Swarm::new(subject.target.clone())?;
    let mut storm = Storm {
        clients: vec![Client::default(); plan.clients],
        owner: (0..plan.clients).collect(),
        lost: 0,
        doubled: 0,
        unrecovered: 0,
        retries: 0,
        back: 0,
        latency: Histogram::default(),
        first_failure: None,
        ready: Vec::new(),
        stale: Vec::new(),
        random: Random::new(now_ns()),
    };
    for (n, client) in storm.clients.iter_mut().enumerate() {
        client.connection = Some(n);
    }
    swarm.open_all(
        plan.clients,
        SETUP_AT_ONCE,
        &mut |n| subject.codec(&run, n),
        &|n| Some(rooms[n % rooms.len()].clone()),
        &mut |number, now, event| storm.see(number, now, event),
    )?;
    storm.ready.clear();
    let mut publisher = Publisher::open(
        &subject.target,
        &mut |n| subject.codec(&format!("{run}-p"), plan.clients + n),
        rooms.len(),
        rooms.clone(),
        plan.size,
    )?;

    // Everybody has a position that is not the beginning.
    publish(&mut publisher, 2 * rooms.len())?;
    arrive(&mut swarm, &mut storm, &mut publisher)?;
    if let Some(why) = &storm.first_failure {
        bail!("before the storm a connection failed: {why}");
    }
    let (lost, doubled) = (storm.lost, storm.doubled);
    if lost + doubled > 0 {
        bail!("before the storm {lost} deliveries were lost and {doubled} doubled");
    }
    swarm.cut_all();
    publish(&mut publisher, plan.missed * rooms.len())?;

    for watched in &subject.watched {
        watched.reset_peak();
    }
    let (memory, cpu) = (subject.memory()?, subject.cpu()?);
    let start = now_ns();
    for client in &mut storm.clients {
        client.connection = None;
        client.first_attempt = start;
        client.again = Some(start);
    }
    let step = (1e9 / (plan.storm_rate * rooms.len() as f64).max(1e-3)) as u64;
    let mut due = start;
    let mut waiting = true;
    while storm.back < plan.clients && now_ns() < start + ns(BACK) {
        if waiting {
            attempts(subject, &run, &mut swarm, &mut storm)?;
        }
        turn(&mut swarm, &mut storm, &rooms)?;
        while due <= now_ns() && publisher.has_room() {
            publisher.publish(now_ns());
            due += step.max(1);
        }
        publisher.turn(Duration::ZERO)?;
        waiting = storm.clients.iter().any(|client| client.again.is_some());
    }
    let took = now_ns() - start;
    let after = subject.cpu()?;
    publisher.drain()?;
    arrive(&mut swarm, &mut storm, &mut publisher)?;
    let peak = subject.memory()?;

    // What a client has not, though another of its room or the publisher knows it.
    let tops = tops(&storm, rooms.len());
    for (n, client) in storm.clients.iter().enumerate() {
        storm.lost += tops[n % rooms.len()].saturating_sub(client.last);
    }
    storm.lost += publisher.acked.saturating_sub(tops.iter().sum());
    let watched = &subject.watched;
    Ok(ReconnectFigures {
        side: subject.name.clone(),
        clients: plan.clients,
        rooms: rooms.len(),
        missed_each: plan.missed as u64,
        back: storm.back,
        unrecovered: storm.unrecovered,
        all_back_s: took as f64 / 1e9,
        latency: storm.latency.summary(),
        retries: storm.retries,
        acked: publisher.acked,
        lost: storm.lost,
        doubled: storm.doubled,
        memory: watched
            .iter()
            .zip(memory.iter().zip(&peak))
            .map(|(who, (before, peak))| StormMemory {
                name: who.name.clone(),
                before: *before,
                peak: peak.peak.max(peak.resident),
            })
            .collect(),
        cpu: cpu_shares(
            watched,
            &cpu,
            &after,
            plan.clients as u64,
            took as f64 / 1e9,
        ),
        first_failure: storm.first_failure,
    })
}

/// The latest offset that anybody has of each room.
fn tops(storm: &Storm, rooms: usize) -> Vec<u64> {
    let mut tops = vec![0; rooms];
    for (n, client) in storm.clients.iter().enumerate() {
        tops[n % rooms] = client.last.max(tops[n % rooms]);
    }
    tops
}

fn publish(publisher: &mut Publisher, count: usize) -> Result<()> {
    for _ in 0..count {
        while publisher.unanswered >= IN_FLIGHT {
            publisher.turn(Duration::from_millis(10))?;
        }
        publisher.publish(now_ns());
    }
    publisher.drain()?;
    if publisher.unanswered > 0 {
        bail!("{} publishes were not answered", publisher.unanswered);
    }
    Ok(())
}

/// Waits until every client has what was acknowledged, or nothing more comes in time.
fn arrive(swarm: &mut Swarm, storm: &mut Storm, publisher: &mut Publisher) -> Result<()> {
    let deadline = now_ns() + ns(ARRIVE);
    let rooms = publisher.rooms();
    while now_ns() < deadline {
        let tops = tops(storm, rooms);
        let behind = storm
            .clients
            .iter()
            .enumerate()
            .any(|(n, client)| client.last < tops[n % rooms]);
        if !behind && tops.iter().sum::<u64>() >= publisher.acked {
            return Ok(());
        }
        let until = now_ns() + 20_000_000;
        while now_ns() < until {
            swarm.turn(Duration::from_millis(5), &mut |number, now, event| {
                storm.see(number, now, event);
            })?;
        }
        publisher.turn(Duration::ZERO)?;
    }
    Ok(())
}

/// Begins the connections that are due, all of them at once.
fn attempts(subject: &Subject, run: &str, swarm: &mut Swarm, storm: &mut Storm) -> Result<()> {
    let now = now_ns();
    for n in 0..storm.clients.len() {
        if storm.clients[n].again.is_none_or(|at| at > now) {
            continue;
        }
        let connection = swarm
            .open(subject.codec(run, n))
            .with_context(|| format!("connecting client {n} again"))?;
        storm.owner.resize(connection + 1, 0);
        storm.owner[connection] = n;
        let client = &mut storm.clients[n];
        client.connection = Some(connection);
        client.again = None;
    }
    Ok(())
}

fn turn(swarm: &mut Swarm, storm: &mut Storm, rooms: &[String]) -> Result<()> {
    swarm.turn(Duration::from_millis(2), &mut |number, now, event| {
        storm.see(number, now, event);
    })?;
    for connection in storm.stale.drain(..) {
        swarm.cut(connection);
    }
    for connection in std::mem::take(&mut storm.ready) {
        let n = storm.owner[connection];
        let client = &storm.clients[n];
        let since = Position {
            epoch: client.epoch.clone(),
            offset: client.last,
        };
        swarm.send(connection, |codec, out| {
            codec.subscribe(&rooms[n % rooms.len()], Some(&since), out);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm() -> Storm {
        let client = Client {
            connection: Some(0),
            last: 4,
            first_attempt: 1,
            ..Client::default()
        };
        Storm {
            clients: vec![client],
            owner: vec![0],
            lost: 0,
            doubled: 0,
            unrecovered: 0,
            retries: 0,
            back: 0,
            latency: Histogram::default(),
            first_failure: None,
            ready: Vec::new(),
            stale: Vec::new(),
            random: Random::new(1),
        }
    }

    fn delivered(offset: u64) -> Event<'static> {
        Event::Delivered { offset, data: b"" }
    }

    fn subscribed(offset: u64, recovered: bool) -> Event<'static> {
        let position = Position {
            epoch: "E".into(),
            offset,
        };
        Event::Subscribed {
            position,
            recovered,
        }
    }

    #[test]
    fn a_clean_recovery_loses_nothing() {
        let mut storm = storm();
        for event in [
            delivered(5),
            delivered(6),
            subscribed(6, true),
            delivered(7),
        ] {
            storm.see(0, 10, event);
        }
        assert_eq!((storm.lost, storm.doubled, storm.unrecovered), (0, 0, 0));
        assert_eq!((storm.back, storm.clients[0].last), (1, 7));
    }

    #[test]
    fn gaps_and_repeats_are_counted() {
        let mut storm = storm();
        for event in [
            subscribed(4, true),
            delivered(6),
            delivered(6),
            delivered(9),
        ] {
            storm.see(0, 10, event);
        }
        assert_eq!((storm.lost, storm.doubled), (3, 1));
    }

    #[test]
    fn a_refused_recovery_is_no_loss_but_is_told() {
        let mut storm = storm();
        storm.see(0, 10, subscribed(40, false));
        storm.see(0, 11, delivered(41));
        assert_eq!((storm.lost, storm.unrecovered, storm.back), (0, 1, 1));
    }

    #[test]
    fn a_failed_attempt_is_repeated_and_its_late_events_do_not_count() {
        let mut storm = storm();
        let why = "the server closed the connection".to_owned();
        storm.see(0, 10, Event::Closed { why });
        assert_eq!(storm.retries, 1);
        assert!(storm.clients[0].again.is_some_and(|at| at >= 10));
        storm.see(0, 11, delivered(9));
        assert_eq!(storm.lost, 0);
    }

    #[test]
    fn who_was_back_and_falls_away_is_not_back() {
        let mut storm = storm();
        storm.see(0, 10, subscribed(4, true));
        let why = String::new();
        storm.see(0, 11, Event::Closed { why });
        assert_eq!(storm.back, 0);
    }
}
