//! A reconnect storm: clients with positions lose their connections, miss publications, and come
//! back all at once while more is published. Every offset of every client is checked.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::figures::{ReconnectFigures, cpu_shares, peaks};
use super::publish::Publisher;
use super::storm::Storm;
use super::{SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::SUBSCRIPTIONS_MAX;
use crate::process::raise_file_limit;
use crate::subject::{Speech, Subject};
use crate::swarm::Swarm;

/// Until all clients must be back.
const BACK: Duration = Duration::from_secs(90);
/// Until everything that was published must have arrived.
const ARRIVE: Duration = Duration::from_secs(20);
/// Connections that publish, at most.
const PUBLISHERS_MAX: usize = 100;
/// Publishes unanswered at a time outside the storm.
const IN_FLIGHT: usize = 64;
/// A reconnect storm.
#[derive(Clone, Debug)]
pub(crate) struct ReconnectPlan {
    /// Clients.
    pub(crate) clients: usize,
    /// Rooms.
    pub(crate) rooms: usize,
    /// Rooms that each client is subscribed to, one behind the other.
    pub(crate) each: usize,
    /// Publications for each room while the clients are away.
    pub(crate) missed: usize,
    /// Publications for each room and second in the storm.
    pub(crate) storm_rate: f64,
    /// Bytes of the data.
    pub(crate) size: usize,
}

/// Makes the storm.
///
/// # Errors
/// The clients can not be connected in the first place, or publishing stands still.
pub(crate) fn run(subject: &Subject, plan: &ReconnectPlan) -> Result<ReconnectFigures> {
    if !matches!(subject.speech, Speech::Gb6(..)) {
        bail!("only GB6 has positions to recover from: leave --peer out");
    }
    let most = SUBSCRIPTIONS_MAX.min(plan.rooms);
    if !(1..=most).contains(&plan.each) {
        bail!(
            "each client is in 1 to {most} of the {} rooms, not in {}",
            plan.rooms,
            plan.each
        );
    }
    raise_file_limit(plan.clients + plan.rooms.min(PUBLISHERS_MAX))?;
    let run = run_name();
    let rooms: Vec<String> = (0..plan.rooms.max(1))
        .map(|n| subject.room(&run, n))
        .collect();
    let mut swarm = Swarm::new(subject.target.clone())?;
    let each = plan.each;
    let mut storm = Storm::new(plan.clients, each, rooms.len(), now_ns());
    swarm.open_all(
        plan.clients,
        SETUP_AT_ONCE,
        &mut |n| subject.codec(&run, n),
        &|n| {
            let rooms = &rooms;
            (0..each)
                .map(move |nth| rooms[(n * each + nth) % rooms.len()].clone())
                .collect()
        },
        &mut |number, now, event| storm.see(number, now, event),
    )?;
    storm.ready.clear();
    let mut publisher = Publisher::open(
        &subject.target,
        &mut |n| subject.codec(&format!("{run}-p"), plan.clients + n),
        rooms.len().min(PUBLISHERS_MAX),
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
    storm.begin(start);
    let step = (1e9 / (plan.storm_rate * rooms.len() as f64).max(1e-3)) as u64;
    let mut due = start;
    let mut waiting = true;
    while storm.back < plan.clients && now_ns() < start + ns(BACK) {
        if waiting {
            attempts(subject, &run, &mut swarm, &mut storm)?;
        }
        turn(&mut swarm, &mut storm, &rooms, each)?;
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

    storm.lost += storm.missing(publisher.acked);
    let watched = &subject.watched;
    Ok(ReconnectFigures {
        side: subject.name.clone(),
        clients: plan.clients,
        rooms: rooms.len(),
        each,
        missed_each: (plan.missed * each) as u64,
        back: storm.back,
        unrecovered: storm.unrecovered,
        all_back_s: took as f64 / 1e9,
        latency: storm.latency.summary(),
        retries: storm.retries,
        acked: publisher.acked,
        lost: storm.lost,
        doubled: storm.doubled,
        memory: peaks(watched, &memory, &peak),
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
    while now_ns() < deadline {
        if storm.missing(publisher.acked) == 0 {
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
        storm.attempt(n, connection);
    }
    Ok(())
}

fn turn(swarm: &mut Swarm, storm: &mut Storm, rooms: &[String], each: usize) -> Result<()> {
    swarm.turn(Duration::from_millis(2), &mut |number, now, event| {
        storm.see(number, now, event);
    })?;
    for connection in storm.stale.drain(..) {
        swarm.cut(connection);
    }
    for connection in std::mem::take(&mut storm.ready) {
        let n = storm.owner[connection];
        let client = &storm.clients[n];
        // All in one message, as SDKs send them.
        swarm.send(connection, |codec, out| {
            for nth in 0..each {
                let room = &rooms[storm.room(n, nth)];
                codec.subscribe(room, Some(&client.position(nth)), out);
            }
        });
    }
    Ok(())
}
