//! Connections that do nothing, each subscribed to one room: what one costs in memory.

use std::time::Duration;

use anyhow::{Result, bail};

use super::figures::{CpuShare, IdleFigures, cpu_shares, idle_memory};
use super::{SETUP_AT_ONCE, run_name};
use crate::clock::{now_ns, ns};
use crate::codec::Event;
use crate::process::raise_file_limit;
use crate::subject::Subject;
use crate::swarm::Swarm;

/// How long memory may take to come to rest beyond the settling time.
const REST: Duration = Duration::from_secs(12);

/// Idle connections.
#[derive(Clone, Debug)]
pub(crate) struct IdlePlan {
    /// Connections.
    pub(crate) connections: usize,
    /// Rooms: connection `n` is subscribed to room `n` modulo this.
    pub(crate) rooms: usize,
    /// How long they are left alone before memory is read; processor time is measured meanwhile.
    pub(crate) settle: Duration,
}

/// Opens the connections and measures.
///
/// # Errors
/// Connections fail, or the server's processes are not known.
pub(crate) fn run(subject: &Subject, plan: &IdlePlan) -> Result<IdleFigures> {
    if subject.watched.is_empty() {
        bail!("the server's process is not known: name it with --server-pid");
    }
    raise_file_limit(plan.connections)?;
    let run = run_name();
    let rooms = plan.rooms.max(1);
    let before = subject.memory()?;
    let cpu_before = subject.cpu()?;
    let mut swarm = Swarm::new(subject.target.clone())?;
    let start = now_ns();
    swarm.open_all(
        plan.connections,
        SETUP_AT_ONCE,
        &mut |n| subject.codec(&run, n),
        &|n| vec![subject.room(&run, n % rooms)],
        &mut |_, _, _| (),
    )?;
    let took = now_ns() - start;
    let cpu_open = subject.cpu()?;

    let mut lost = None;
    let mut rest = |swarm: &mut Swarm, until: u64| -> Result<()> {
        loop {
            let left = until.saturating_sub(now_ns());
            if left == 0 {
                return Ok(());
            }
            let wait = Duration::from_nanos(left).min(Duration::from_millis(200));
            swarm.turn(wait, &mut |_, _, event| {
                if let Event::SubscriptionLost { code, message } = event {
                    lost.get_or_insert(format!("{code} {message}"));
                }
            })?;
        }
    };
    // What follows the last subscribe (presence, joins) is not idleness yet.
    rest(&mut swarm, now_ns() + 500_000_000)?;
    let (idle, cpu_idle) = (now_ns(), subject.cpu()?);
    rest(&mut swarm, idle + ns(plan.settle))?;
    let cpu_settled = subject.cpu()?;
    let seconds = (now_ns() - idle) as f64 / 1e9;
    // Allocators give back late: until a second changes nothing any more.
    let deadline = now_ns() + ns(REST.min(plan.settle * 4));
    let mut after = subject.memory()?;
    while now_ns() < deadline {
        rest(&mut swarm, now_ns() + 1_000_000_000)?;
        let now = subject.memory()?;
        let calm = after
            .iter()
            .zip(&now)
            .all(|(a, b)| a.resident.abs_diff(b.resident) < a.resident / 200);
        after = now;
        if calm {
            break;
        }
    }
    if let Some(why) = lost {
        bail!("a subscription ended: {why}");
    }
    let count = plan.connections.max(1);
    let memory = idle_memory(&subject.watched, &before, &after, count);
    let cpu: Vec<CpuShare> = cpu_shares(
        &subject.watched,
        &cpu_idle,
        &cpu_settled,
        (count as f64 * seconds) as u64,
        seconds,
    );
    Ok(IdleFigures {
        side: subject.name.clone(),
        connections: plan.connections,
        rooms,
        memory,
        cpu,
        connect_us: took as f64 / 1000.0 / count as f64,
        connect_cpu: cpu_shares(
            &subject.watched,
            &cpu_before,
            &cpu_open,
            count as u64,
            took as f64 / 1e9,
        ),
        closed: swarm.closed,
    })
}
