//! Fan-out: beside the floor and the peer, and of both encodings; and what deltas are.

use anyhow::{Context, Result};
use gb6_core_wire::client::Dialect;

use super::{All, over, show_us};
use crate::codec::Method;
use crate::delta;
use crate::load::fanout::{self, FanoutPlan};
use crate::load::figures::{FanoutFigures, cpu_ns};
use crate::report::{Bound, Row};
use crate::run::usual_in_flight;
use crate::subject::{self, Subject};

/// The goal of a publication's delta and frame, in microseconds of processor time.
const DELTA_US: f64 = 10.0;
/// The goal of the bytes with deltas by those without.
const DELTA_BYTES: f64 = 0.2;
const DELTA_PUBLICATIONS: usize = 20_000;

impl All<'_> {
    pub(super) fn fanout(&mut self) -> Result<()> {
        let floor = subject::epoll_floor(&self.workspace)?;
        let edge = subject::mesh(&self.workspace, Method::Publish)?.subject;
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

    /// The same room with subscribers of either encoding, by turns.
    pub(super) fn protocols(&mut self) -> Result<()> {
        let mut edge = subject::mesh(&self.workspace, Method::Publish)?.subject;
        let subscribers = 1_000;
        let flood = fanout::Pressure::InFlight(usual_in_flight(subscribers));
        let paced = fanout::Pressure::DeliveriesPerSecond(20_000.0);
        // Paced, the cost is that of a write for each delivery, which is the same for both.
        for (name, pressure, bound, goal) in [
            ("1 to 1000", flood, 1.0, "<= 1 x JSON"),
            (
                "1 to 1000 at 20000/s",
                paced,
                1.05,
                "<= 1 x JSON, give or take 5 %",
            ),
        ] {
            let plan = FanoutPlan {
                subscribers,
                pressure,
                size: 200,
                duration: self.duration,
                warm_up: self.warm_up,
            };
            let (mut json, mut protobuf) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                for (dialect, side) in [
                    (Dialect::Json, &mut json),
                    (Dialect::Protobuf, &mut protobuf),
                ] {
                    edge.speak(dialect)?;
                    side.push(self.fanout_once(&edge, &plan)?);
                }
            }
            let cpu = |side: &[FanoutFigures]| over(side, |f| cpu_ns(&f.cpu, Some("edge")));
            let shown = |side: &[FanoutFigures], who: &str| {
                let rate = over(side, |f| f.per_s);
                let batch = over(side, |f| f.per_read);
                let cpu = show_us(cpu(side));
                format!("{who}{cpu}, {rate:.0}/s, {batch:.1} a read")
            };
            self.rows.push(Row::ratio(
                &format!("fan-out {name} in Protobuf, edge CPU per delivery"),
                goal,
                Bound::AtMost(bound),
                (cpu(&protobuf), shown(&protobuf, "")),
                (cpu(&json), shown(&json, "JSON ")),
            ));
            let missed: u64 = json
                .iter()
                .chain(&protobuf)
                .map(|f| f.late + f.lost + f.closed)
                .sum();
            self.rows.push(Row::plain(
                &format!("fan-out {name} in both, late, lost or cut off"),
                "none",
                missed.to_string(),
                Some(missed == 0),
            ));
        }
        Ok(())
    }

    /// Deltas of a state of which little changes.
    pub(super) fn delta(&mut self) -> Result<()> {
        self.check_budget()?;
        for figures in delta::run(DELTA_PUBLICATIONS) {
            self.keep("delta", &figures);
            self.rows.push(Row::plain(
                &format!(
                    "delta of a 2 kB state of which 3 fields change, {}, CPU and bytes",
                    figures.protocol
                ),
                "<= 10 us a publication, <= 20 % of the bytes",
                format!(
                    "{:.2} us, {:.1} %",
                    figures.cpu.mean_us,
                    100.0 * figures.bytes_ratio
                ),
                Some(figures.cpu.mean_us <= DELTA_US && figures.bytes_ratio <= DELTA_BYTES),
            ));
        }
        Ok(())
    }
}
