//! Connections that are kept: what accepting them costs, and their memory.

use std::time::Duration;

use anyhow::Result;

use super::storm::CLIENTS;
use super::{All, over};
use crate::codec::Method;
use crate::load::figures::cpu_ns;
use crate::load::idle::{self, IdlePlan};
use crate::report::{Bound, Row};
use crate::secure::{self, Carrier, SecureFigures, SecurePlan};
use crate::subject::{self, Subject, Workspace};

/// The goal of an idle connection, in bytes.
pub(super) const IDLE_BYTES: f64 = 7_400.0;
/// The goal of an idle WebSocket over TLS, in bytes.
const TLS_BYTES: f64 = 20_000.0;
/// The goal of an idle QUIC connection, in bytes beyond 1.1 times that of a bare server.
const QUIC_BYTES_MORE: f64 = 3_000.0;

impl All<'_> {
    pub(super) fn idle(&mut self) -> Result<()> {
        let plan = IdlePlan {
            connections: CLIENTS,
            rooms: 64,
            settle: self.duration.min(Duration::from_secs(3)),
        };
        let what = "idle connection subscribed to one room, resident";
        type Start<'s> = (&'s str, Option<f64>, fn(&Workspace) -> Result<Subject>);
        let sides: [Start<'_>; 3] = [
            ("edge", Some(IDLE_BYTES), |w| {
                Ok(subject::mesh(w, Method::Publish)?.subject)
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

    pub(super) fn secure(&mut self) -> Result<()> {
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
            let accept = |of: &[SecureFigures]| over(of, |f| cpu_ns(&f.accept_cpu, None) / 1000.0);
            let session = |f: &SecureFigures| {
                let session = f.session.as_ref();
                session.map_or(0.0, |session| cpu_ns(&session.cpu, None) / 1000.0)
            };
            let bytes = |of: &[SecureFigures]| {
                over(of, |f| f.memory.iter().map(|m| m.per_connection).sum())
            };
            let us = |us: f64, who: &str| (us, format!("{us:.0} us{who}"));
            self.rows.push(Row::ratio(
                &format!("{} connection accepted, CPU", carrier.name()),
                &format!("<= {accept_goal} x {floor}'s handshake"),
                Bound::AtMost(accept_goal),
                us(accept(&ours), ""),
                us(accept(&bare), &format!(" ({floor})")),
            ));
            self.rows.push(Row::plain(
                &format!(
                    "its session with a token and a subscription beside that, {}",
                    carrier.name()
                ),
                "",
                us(over(&ours, session), "").1,
                None,
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
}
