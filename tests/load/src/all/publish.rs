//! Durable publishes, and one instance beside another that floods.

use anyhow::Result;

use super::{All, over, show_us};
use crate::codec::Method;
use crate::floor::append::{self, AppendPlan};
use crate::load::fairness::{self, FairnessPlan};
use crate::load::figures::{AppendFigures, PublishFigures};
use crate::load::publish::{self, PublishPlan};
use crate::report::{Bound, Row};
use crate::run::fairness_load;
use crate::subject::{self, Subject};

impl All<'_> {
    pub(super) fn publish(&mut self) -> Result<()> {
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

    pub(super) fn fairness(&mut self) -> Result<()> {
        let mesh = subject::mesh(&self.workspace, Method::Publish)?;
        let plan = FairnessPlan {
            publish: fairness_load(500.0, self.duration),
            flood_cores: 0.5,
        };
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            self.check_budget()?;
            let figures =
                fairness::run(&mesh.subject, &mesh.second, &plan, self.workspace.pinning)?;
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
