//! Every goal in one run: ours, the floors and the peers by turns, so that a ratio compares figures
//! of the same minutes on the same machine.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{AllArgs, Part};
use crate::codec::Method;
use crate::floor::append::{self, AppendPlan};
use crate::load::fairness::FairnessPlan;
use crate::load::fanout::FanoutPlan;
use crate::load::figures::{
    AppendFigures, FanoutFigures, IdleFigures, PublishFigures, StormMemory, cpu_ns,
};
use crate::load::idle::IdlePlan;
use crate::load::publish::PublishPlan;
use crate::load::reconnect::ReconnectPlan;
use crate::load::{fairness, fanout, idle, publish, reconnect};
use crate::process::Pinning;
use crate::report::{self, Bound, Row, median};
use crate::run::{fairness_load, usual_in_flight};
use crate::secure::{self, Carrier, SecurePlan};
use crate::subject::{self, Subject, Workspace};

/// No measurement begins later than this after the start.
const BUDGET: Duration = Duration::from_secs(13 * 60);
const BUDGET_QUICK: Duration = Duration::from_secs(150);
/// Clients of the memory and reconnect goals.
const CLIENTS: usize = 10_000;
/// The goal of an idle connection, in bytes.
const IDLE_BYTES: f64 = 7_400.0;
/// The goal of a client in a reconnect storm, in bytes of the edge's peak: four times that of an idle
/// one. It has its session and its subscription as that one, the handshake's buffers, and what it
/// missed (here ten publications of 200 bytes, some 3 kB with what is around them) once in its queue
/// and once in its socket.
const STORM_BYTES: f64 = 4.0 * IDLE_BYTES;
/// The goal of a region in the storm, in bytes beyond those before: it knows no clients, but reads a
/// page of at most 512 KiB for each of the 100 rooms.
const STORM_REGION_BYTES: u64 = 64 * 1024 * 1024;

/// The goal of an idle WebSocket over TLS, in bytes.
const TLS_BYTES: f64 = 20_000.0;
/// The goal of an idle QUIC connection, in bytes beyond 1.1 times that of a bare server.
const QUIC_BYTES_MORE: f64 = 3_000.0;

struct All<'a> {
    args: &'a AllArgs,
    workspace: Workspace,
    rounds: usize,
    duration: Duration,
    warm_up: Duration,
    start: Instant,
    rows: Vec<Row>,
    runs: Vec<Value>,
}

/// Measures everything that was asked for.
///
/// # Errors
/// A part could not be measured. What could is printed and written all the same.
pub(crate) fn run(args: &AllArgs) -> Result<()> {
    let pinning = if args.no_pin {
        Pinning::Off
    } else {
        Pinning::auto()
    };
    pinning.as_load()?;
    let workspace = Workspace::new(&args.out, args.gb6.clone(), pinning)?;
    let mut all = All {
        args,
        workspace,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        duration: Duration::from_millis(if args.quick { 1500 } else { 4000 }),
        warm_up: Duration::from_millis(if args.quick { 500 } else { 1000 }),
        start: Instant::now(),
        rows: Vec::new(),
        runs: Vec::new(),
    };
    let parts: &[Part] = if args.only.is_empty() {
        &Part::ALL
    } else {
        &args.only
    };
    let mut failed = Vec::new();
    for part in parts {
        let result = match part {
            Part::Publish => all.publish(),
            Part::Fanout => all.fanout(),
            Part::Idle => all.idle(),
            Part::Reconnect => all.reconnect(),
            Part::Fairness => all.fairness(),
            Part::Secure => all.secure(),
        };
        if let Err(error) = result {
            say(&format!("{part:?} could not be measured: {error:#}"));
            let name = format!("{part:?}").to_lowercase();
            all.rows.push(Row::plain(
                &name,
                "",
                "could not be measured".to_owned(),
                None,
            ));
            failed.push(name);
        }
    }
    let plan = json!({
        "quick": args.quick,
        "rounds": all.rounds,
        "seconds": all.duration.as_secs_f64(),
        "a_processor_for_each_side": pinning == Pinning::Split,
    });
    let path = report::write(&args.out, &all.rows, &all.runs, &plan)?;
    let mut output = std::io::stdout();
    writeln!(
        output,
        "{}\nResults and single runs: {}",
        report::table(&all.rows),
        path.display()
    )
    .context("printing the table")?;
    if !failed.is_empty() {
        bail!("could not be measured: {}", failed.join(", "));
    }
    Ok(())
}

fn say(text: &str) {
    // Progress is for people; without them nothing is missing.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn show_us(ns: f64) -> String {
    format!("{:.2} us", ns / 1000.0)
}

/// The median over rounds of one side.
fn over<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(figure))
}

/// Whether the memory of a reconnect storm kept its bounds; `None`: the edge was not watched.
fn storm_is_bounded(memory: &[StormMemory], clients: usize) -> Option<bool> {
    memory.iter().find(|m| m.name == "edge")?;
    let kept = memory.iter().all(|m| match m.name.as_str() {
        "edge" => m.peak as f64 <= STORM_BYTES * clients as f64,
        _ => m.peak <= m.before.resident + STORM_REGION_BYTES,
    });
    Some(kept)
}

impl All<'_> {
    /// Whether a measurement may still begin.
    fn check_budget(&self) -> Result<()> {
        let budget = if self.args.quick {
            BUDGET_QUICK
        } else {
            BUDGET
        };
        if self.start.elapsed() > budget {
            bail!("the time of {} s is over", budget.as_secs());
        }
        Ok(())
    }

    /// Keeps one run and shows it.
    fn keep(&mut self, kind: &str, figures: &(impl Serialize + std::fmt::Display)) {
        say(&format!(
            "[{:>4} s] {figures}",
            self.start.elapsed().as_secs()
        ));
        self.runs.push(json!({"kind": kind, "figures": figures}));
    }

    fn publish(&mut self) -> Result<()> {
        let dev = subject::dev(&self.workspace, Method::Publish)?;
        let peer = if self.args.no_peers {
            None
        } else {
            Some(subject::jetstream(&self.workspace)?)
        };
        let bare = subject::durable_floor(&self.workspace)?;
        let loads: &[usize] = if self.args.quick {
            &[1, 256]
        } else {
            &[1, 16, 256]
        };
        for in_flight in loads {
            let (mut floor, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            let mut least = Vec::new();
            for _ in 0..self.rounds {
                floor.push(self.append(*in_flight)?);
                least.push(self.publish_once(&bare, *in_flight)?);
                ours.push(self.publish_once(&dev, *in_flight)?);
                if let Some(peer) = &peer {
                    theirs.push(self.publish_once(peer, *in_flight)?);
                }
            }
            let p50 = |f: &PublishFigures| f.latency.p50_us * 1000.0;
            let rate = |f: &PublishFigures| f.per_s;
            let what = format!("durable publish, {in_flight} in flight");
            let ours_p50 = over(&ours, p50);
            let ours_rate = over(&ours, rate);
            let shown = format!("{ours_rate:.0}/s, p50 {}", show_us(ours_p50));
            let floor_p50 = over(&floor, |f: &AppendFigures| f.latency.p50_us * 1000.0);
            let floor_rate = over(&floor, |f: &AppendFigures| f.records_per_s);
            let floor_shown = format!("floor append {floor_rate:.0}/s, p50 {}", show_us(floor_p50));
            let their_rate = over(&theirs, rate);
            let their_shown = format!(
                "JetStream {their_rate:.0}/s, p50 {} (not synced)",
                show_us(over(&theirs, p50))
            );
            match in_flight {
                1 => {
                    self.rows.push(Row::ratio(
                        &what,
                        "p50 <= 2.5 x floor append",
                        Bound::AtMost(2.5),
                        (ours_p50, shown.clone()),
                        (floor_p50, floor_shown),
                    ));
                    if peer.is_some() {
                        let mut row = Row::plain(&what, "", shown, None);
                        row.reference = their_shown;
                        row.ratio = Some(ours_rate / their_rate.max(1e-9));
                        self.rows.push(row);
                    }
                }
                256 => {
                    let least_rate = over(&least, rate);
                    let least_shown = format!("floor publish {least_rate:.0}/s");
                    let mut row = Row::plain(&what, "", shown.clone(), None);
                    row.reference = least_shown.clone();
                    row.ratio = Some(ours_rate / least_rate.max(1e-9));
                    self.rows.push(row);
                    // What the goal below leaves to the protocol, the mesh and the log.
                    let mut row = Row::plain("the same of floor publish", "", least_shown, None);
                    row.reference = their_shown.clone();
                    row.ratio = peer.as_ref().map(|_| least_rate / their_rate.max(1e-9));
                    self.rows.push(row);
                    self.rows.push(Row::ratio(
                        &what,
                        "rate >= 2 x JetStream",
                        Bound::AtLeast(2.0),
                        (ours_rate, shown),
                        (their_rate, their_shown),
                    ));
                }
                _ => {
                    let mut row = Row::plain(&what, "", shown, None);
                    row.reference = their_shown;
                    row.ratio = peer.as_ref().map(|_| ours_rate / their_rate.max(1e-9));
                    self.rows.push(row);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, batch: usize) -> Result<AppendFigures> {
        self.check_budget()?;
        let plan = AppendPlan {
            size: 300,
            batch,
            duration: self.duration / 2,
            warm_up: self.warm_up / 2,
        };
        let dir = self.workspace.fresh("append")?;
        let pinning = self.workspace.pinning;
        let figures = std::thread::scope(|scope| {
            scope
                .spawn(|| pinning.as_server().and_then(|()| append::run(&dir, &plan)))
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the append floor has panicked")))
        })?;
        self.keep("append", &figures);
        Ok(figures)
    }

    fn publish_once(&mut self, subject: &Subject, in_flight: usize) -> Result<PublishFigures> {
        self.check_budget()?;
        let plan = PublishPlan {
            connections: 64,
            rooms: 64,
            pressure: publish::Pressure::InFlight(in_flight),
            size: 300,
            duration: self.duration,
            warm_up: self.warm_up,
        };
        let figures = publish::run(subject, &plan)?;
        self.keep("publish", &figures);
        Ok(figures)
    }

    fn fanout(&mut self) -> Result<()> {
        let floor = subject::epoll_floor(&self.workspace)?;
        let (edge, _) = subject::mesh(&self.workspace, Method::Publish)?;
        let peer = if self.args.no_peers {
            None
        } else {
            Some(subject::nats_websocket(&self.workspace)?)
        };
        // Subscribers, deliveries a second where it is paced, bounds by the floor and the peer.
        let flood = |subscribers| fanout::Pressure::InFlight(usual_in_flight(subscribers));
        let paced = fanout::Pressure::DeliveriesPerSecond(20_000.0);
        let mut shapes = vec![
            ("1 to 1000", 1_000, flood(1_000), Some((1.7, 0.7))),
            ("1 to 10000", 10_000, flood(10_000), Some((1.7, 0.55))),
            ("1 to 1000 at 20000/s", 1_000, paced, Some((1.6, 0.6))),
        ];
        if !self.args.quick {
            shapes.push(("1 to 10000 at 20000/s", 10_000, paced, None));
        }
        for (name, subscribers, pressure, bounds) in shapes {
            let plan = FanoutPlan {
                subscribers,
                pressure,
                size: 200,
                duration: self.duration,
                warm_up: self.warm_up,
            };
            let (mut least, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                least.push(self.fanout_once(&floor, &plan)?);
                ours.push(self.fanout_once(&edge, &plan)?);
                if let Some(peer) = &peer {
                    theirs.push(self.fanout_once(peer, &plan)?);
                }
            }
            self.fanout_rows(name, bounds, [&least, &ours, &theirs]);
        }
        Ok(())
    }

    fn fanout_rows(
        &mut self,
        name: &str,
        bounds: Option<(f64, f64)>,
        [least, ours, theirs]: [&[FanoutFigures]; 3],
    ) {
        let what = format!("fan-out {name}, edge CPU per delivery");
        let total = |f: &FanoutFigures| cpu_ns(&f.cpu, None);
        let edge = over(ours, |f| cpu_ns(&f.cpu, Some("edge")));
        let missed: u64 = ours.iter().map(|f| f.late + f.lost + f.closed).sum();
        let shown = format!("{}, {:.0}/s", show_us(edge), over(ours, |f| f.per_s));
        for (reference, side, bound) in [
            ("floor epoll", least, bounds.map(|b| b.0)),
            ("nats-ws", theirs, bounds.map(|b| b.1)),
        ] {
            if side.is_empty() {
                continue;
            }
            let other = over(side, total);
            let other_shown = format!("{reference} {}", show_us(other));
            let goal = bound.map_or_else(String::new, |b| format!("<= {b} x {reference}"));
            let mut row = Row::ratio(
                &what,
                &goal,
                Bound::AtMost(bound.unwrap_or(f64::INFINITY)),
                (edge, shown.clone()),
                (other, other_shown),
            );
            if bound.is_none() {
                row.met = None;
            }
            self.rows.push(row);
        }
        self.rows.push(Row::plain(
            &format!("fan-out {name}, late, lost or cut off"),
            "none",
            missed.to_string(),
            Some(missed == 0),
        ));
    }

    fn fanout_once(&mut self, subject: &Subject, plan: &FanoutPlan) -> Result<FanoutFigures> {
        self.check_budget()?;
        let figures = fanout::run(subject, plan).with_context(|| subject.name.clone())?;
        self.keep("fanout", &figures);
        Ok(figures)
    }

    fn idle(&mut self) -> Result<()> {
        let plan = IdlePlan {
            connections: CLIENTS,
            rooms: 64,
            settle: self.duration.min(Duration::from_secs(3)),
        };
        let what = "idle connection subscribed to one room, resident";
        type Start<'s> = (&'s str, Option<f64>, fn(&Workspace) -> Result<Subject>);
        let sides: [Start<'_>; 3] = [
            ("edge", Some(IDLE_BYTES), |w| {
                Ok(subject::mesh(w, Method::Publish)?.0)
            }),
            ("gb6", None, |w| subject::dev(w, Method::Publish)),
            ("nats-server", None, subject::nats_websocket),
        ];
        for (name, bound, start) in sides {
            if name == "nats-server" && (self.args.no_peers || self.args.quick) {
                continue;
            }
            self.check_budget()?;
            let subject = start(&self.workspace)?;
            let figures = idle::run(&subject, &plan)?;
            self.keep("idle", &figures);
            let bytes: f64 = figures
                .memory
                .iter()
                .filter(|memory| memory.name == name)
                .map(|memory| memory.per_connection)
                .sum();
            self.rows.push(Row::plain(
                &format!("{what} in {}", if name == "gb6" { "gb6 dev" } else { name }),
                &bound.map_or_else(String::new, |b| format!("<= {:.1} kB", b / 1000.0)),
                format!("{:.2} kB", bytes / 1000.0),
                bound.map(|bound| bytes <= bound && figures.closed == 0),
            ));
        }
        Ok(())
    }

    fn secure(&mut self) -> Result<()> {
        let plan = SecurePlan {
            connections: if self.args.quick { 2_000 } else { CLIENTS / 2 },
            rooms: 64,
            settle: self.duration.min(Duration::from_secs(3)),
        };
        for (carrier, floor, accept_goal) in [
            (Carrier::Tls, "bare tokio-rustls", 1.3),
            (Carrier::Quic, "bare quinn", 1.2),
        ] {
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                self.check_budget()?;
                let (subject, target) = subject::secure_floor(&self.workspace, carrier)?;
                let figures = secure::run(&subject, &target, &plan)?;
                self.keep("secure", &figures);
                bare.push(figures);
                drop(subject);
                let (subject, target) = subject::secure(&self.workspace, carrier)?;
                let figures = secure::run(&subject, &target, &plan)?;
                self.keep("secure", &figures);
                ours.push(figures);
            }
            let accept = |of: &[IdleFigures]| {
                median(of.iter().map(|f| cpu_ns(&f.connect_cpu, None) / 1000.0))
            };
            let bytes = |of: &[IdleFigures]| {
                median(
                    of.iter()
                        .map(|f| f.memory.iter().map(|m| m.per_connection).sum()),
                )
            };
            let us = |us: f64, who: &str| (us, format!("{us:.0} us{who}"));
            self.rows.push(Row::ratio(
                &format!("{} connection accepted and subscribed, CPU", carrier.name()),
                &format!("<= {accept_goal} x {floor}'s handshake"),
                Bound::AtMost(accept_goal),
                us(accept(&ours), ""),
                us(accept(&bare), &format!(" ({floor})")),
            ));
            let (own, least) = (bytes(&ours), bytes(&bare));
            let (goal, met) = match carrier {
                Carrier::Tls => ("<= 20 kB".to_owned(), own <= TLS_BYTES),
                Carrier::Quic => (
                    format!("<= 1.1 x {floor} + 3 kB"),
                    own <= 1.1 * least + QUIC_BYTES_MORE,
                ),
            };
            self.rows.push(Row::plain(
                &format!("idle {} connection in gb6 dev, resident", carrier.name()),
                &goal,
                format!("{:.2} kB ({floor} {:.2} kB)", own / 1000.0, least / 1000.0),
                Some(met && ours.iter().all(|f| f.closed == 0)),
            ));
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<()> {
        self.check_budget()?;
        let (edge, _) = subject::mesh(&self.workspace, Method::Publish)?;
        let plan = ReconnectPlan {
            clients: CLIENTS,
            rooms: 100,
            missed: 10,
            storm_rate: 1.0,
            size: 200,
        };
        let figures = reconnect::run(&edge, &plan)?;
        self.keep("reconnect", &figures);
        let peak: Vec<String> = figures
            .memory
            .iter()
            .map(|m| {
                let (before, peak) = (m.before.resident as f64 / 1e6, m.peak as f64 / 1e6);
                format!("{} {before:.0} MB, then {peak:.0} MB at most", m.name)
            })
            .collect();
        let whole = figures.back == plan.clients
            && figures.lost == 0
            && figures.doubled == 0
            && figures.unrecovered == 0;
        self.rows.push(Row::plain(
            "10000 clients reconnect at once",
            "all back, nothing lost",
            format!(
                "{} back in {:.2} s, lost {}, doubled {}, not recovered {}",
                figures.back,
                figures.all_back_s,
                figures.lost,
                figures.doubled,
                figures.unrecovered
            ),
            Some(whole),
        ));
        self.rows.push(Row::plain(
            "10000 clients reconnect at once, memory",
            &format!(
                "edge <= {:.1} kB a client, region + {} MiB",
                STORM_BYTES / 1000.0,
                STORM_REGION_BYTES >> 20
            ),
            peak.join(", "),
            storm_is_bounded(&figures.memory, plan.clients),
        ));
        Ok(())
    }

    fn fairness(&mut self) -> Result<()> {
        let (edge, flood) = subject::mesh(&self.workspace, Method::Publish)?;
        let plan = FairnessPlan {
            publish: fairness_load(500.0, self.duration),
            flood_cores: 0.5,
        };
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            self.check_budget()?;
            let figures = fairness::run(&edge, &flood, &plan, self.workspace.pinning)?;
            self.keep("fairness", &figures);
            rounds.push(figures);
        }
        let alone = over(&rounds, |f| f.alone.latency.p99_us * 1000.0);
        let flooded = over(&rounds, |f| f.flooded.latency.p99_us * 1000.0);
        let cores = over(&rounds, |f| f.flood_cores);
        self.rows.push(Row::ratio(
            "p99 beside an instance that floods",
            "<= 1.5 x alone",
            Bound::AtMost(1.5),
            (
                flooded,
                format!("{} beside {cores:.2} cores", show_us(flooded)),
            ),
            (alone, format!("alone {}", show_us(alone))),
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Memory;

    #[test]
    fn the_memory_of_a_storm_is_judged() {
        let memory = |name: &str, before: u64, peak: u64| StormMemory {
            name: name.to_owned(),
            before: Memory {
                resident: before << 20,
                peak: before << 20,
            },
            peak: peak << 20,
        };
        let judge = |edge, region| {
            let both = [memory("edge", 60, edge), memory("region", 80, region)];
            storm_is_bounded(&both, 10_000)
        };
        assert_eq!(judge(120, 90), Some(true));
        assert_eq!(judge(300, 90), Some(false), "more than 29.6 kB a client");
        assert_eq!(
            judge(120, 150),
            Some(false),
            "the region has grown by 70 MiB"
        );
        assert_eq!(storm_is_bounded(&[memory("gb6", 1, 2)], 1), None);
    }
}
