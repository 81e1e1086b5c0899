//! One instance beside another that floods: what the flood does to the first one's latency. The
//! flood is held to so many cores of the server, whatever rate that takes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use gb6_core_wire::client::Dialect;

use super::figures::FairnessFigures;
use super::publish::{PublishPlan, Publisher, measure};
use super::run_name;
use crate::clock::now_ns;
use crate::codec::{Codec, Gb6};
use crate::process::{Pinning, Watched};
use crate::subject::{Speech, Subject, Tokens};

/// Connections and rooms of the flood.
const FLOOD_CONNECTIONS: usize = 16;
/// The rate at which a flood begins, in publishes a second.
const FIRST_RATE: f64 = 500.0;
/// By how much the flood's thread gives way to the load that is measured.
const FLOOD_NICE: i32 = 15;
/// How often the flood looks at what it costs.
const LOOK: Duration = Duration::from_millis(250);
/// The flood sends at most so often what is due.
const FLOOD_STEP: Duration = Duration::from_millis(1);
/// How long the flood takes to find its rate before anything is measured.
const FIND: Duration = Duration::from_secs(3);

/// A load beside a flood.
#[derive(Clone, Debug)]
pub(crate) struct FairnessPlan {
    /// The load that is measured.
    pub(crate) publish: PublishPlan,
    /// Cores of the server that the flood may keep busy.
    pub(crate) flood_cores: f64,
}

/// What the flood tells when it ends.
#[derive(Clone, Copy, Default)]
struct Flood {
    per_s: f64,
}

/// Measures without the flood and with it. `flood` signs the flooding instance in.
///
/// # Errors
/// Connections fail, or the server's processes are not known.
pub(crate) fn run(
    subject: &Subject,
    flood: &Tokens,
    plan: &FairnessPlan,
    pinning: Pinning,
) -> Result<FairnessFigures> {
    if subject.watched.is_empty() {
        bail!("the server's process is not known: name it with --server-pid");
    }
    let Speech::Gb6(_, method) = &subject.speech else {
        bail!("only GB6 has instances: leave --peer out");
    };
    let run = run_name();
    let rooms = (0..plan.publish.rooms.max(1))
        .map(|n| subject.room(&run, n))
        .collect();
    let mut publisher = Publisher::open(
        &subject.target,
        &mut |n| subject.codec(&run, n),
        plan.publish.connections,
        rooms,
        plan.publish.size,
    )?;
    let alone = measure(subject, &plan.publish, &mut publisher)?;
    let base: f64 = alone.cpu.iter().map(|share| share.cores).sum();

    let stop = AtomicBool::new(false);
    let told = Mutex::new(Flood::default());
    let open = || {
        let mut codec = |n: usize| {
            let tokens = flood.of(n, &subject.room_prefix);
            Codec::Gb6(Gb6::new(
                Dialect::Protobuf,
                tokens,
                *method,
                format!("{run}-f{n}"),
            ))
        };
        let rooms = (0..FLOOD_CONNECTIONS)
            .map(|n| subject.room(&format!("{run}-flood"), n))
            .collect();
        let size = plan.publish.size;
        Publisher::open(&subject.target, &mut codec, FLOOD_CONNECTIONS, rooms, size)
    };
    let watched = &subject.watched;
    let flooded = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            // The load that is measured shares the processor: it runs whenever its answers come.
            // Not every system lets a thread give way; then the latency has the flood's own turns in it.
            let _ = rustix::process::nice(FLOOD_NICE);
            let result = pinning
                .as_load()
                .and_then(|()| open())
                .and_then(|mut flooder| {
                    press(&mut flooder, watched, base + plan.flood_cores, &stop)
                });
            stop.store(true, Ordering::Relaxed);
            let per_s = result?;
            if let Ok(mut told) = told.lock() {
                told.per_s = per_s;
            }
            anyhow::Ok(())
        });
        let wait = now_ns() + crate::clock::ns(FIND);
        let mut measured = Ok(());
        while now_ns() < wait && !stop.load(Ordering::Relaxed) && measured.is_ok() {
            measured = publisher.turn(Duration::from_millis(50));
        }
        let measured = measured.and_then(|()| measure(subject, &plan.publish, &mut publisher));
        stop.store(true, Ordering::Relaxed);
        flood
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the flood has panicked")))?;
        measured
    })?;
    let per_s = told.lock().map_or(0.0, |told| told.per_s);
    let cores: f64 = flooded.cpu.iter().map(|share| share.cores).sum();
    Ok(FairnessFigures {
        ratio: flooded.latency.p99_us / alone.latency.p99_us.max(1e-9),
        flood_per_s: per_s,
        flood_cores: cores - base,
        alone,
        flooded,
    })
}

/// Floods until `stop` at the rate that keeps `watched` at `cores` in all; the mean rate.
fn press(
    flooder: &mut Publisher,
    watched: &[Watched],
    cores: f64,
    stop: &AtomicBool,
) -> Result<f64> {
    let total = || -> Result<u64> {
        let mut sum = 0;
        for who in watched {
            sum += who.cpu_ns()?;
        }
        Ok(sum)
    };
    let start = now_ns();
    let mut rate = FIRST_RATE;
    let (mut looked, mut used) = (start, total()?);
    let mut due = start;
    while !stop.load(Ordering::Relaxed) {
        let now = now_ns();
        if now >= looked + crate::clock::ns(LOOK) {
            let after = total()?;
            let busy = (after - used) as f64 / (now - looked) as f64;
            rate = next_rate(rate, busy, cores);
            (looked, used) = (now, after);
        }
        let step = (1e9 / rate) as u64;
        // After a pause it does not catch up with a burst: a rate is held, not a sum.
        due = due.max(now.saturating_sub(10_000_000));
        while due <= now && flooder.has_room() {
            flooder.publish(due);
            due += step.max(1);
        }
        // At thousands a second it wakes for several at a time: it must not crowd out the load that
        // is measured, which runs on the same processor.
        let wait = Duration::from_nanos(due.saturating_sub(now));
        flooder.turn(wait.clamp(FLOOD_STEP, Duration::from_millis(20)))?;
    }
    let seconds = (now_ns() - start) as f64 / 1e9;
    let mean = flooder.acked as f64 / seconds;
    flooder.drain()?;
    Ok(mean)
}

/// The rate that should bring the server from `busy` cores to `cores`.
fn next_rate(rate: f64, busy: f64, cores: f64) -> f64 {
    let factor = (cores / busy.max(0.01)).clamp(0.7, 1.4);
    (rate * factor).clamp(10.0, 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flood_finds_its_rate() {
        // A server that spends 40 us on each publish and is busy by 0.1 without the flood.
        let mut rate = FIRST_RATE;
        for _ in 0..40 {
            rate = next_rate(rate, 0.1 + rate * 40e-6, 0.6);
        }
        assert!((rate * 40e-6 - 0.5).abs() < 0.02, "{rate}");
    }

    #[test]
    fn a_rate_stays_within_bounds() {
        assert!(next_rate(1e6, 0.0, 1.0) <= 1e6);
        assert!(next_rate(10.0, 5.0, 0.1) >= 10.0);
    }
}
