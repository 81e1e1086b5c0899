//! How a connection ends: what its client and the operator are told, and who learns that the session
//! is gone.

use std::time::Duration;

use gb6_core_model::Disconnect;
use gb6_edge_session::CloseReason;

use super::carrier::Carrier;
use super::driver::{Connection, End};
use super::framing::{Farewell, Framing, Verdict};

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Queues the verdict behind what waits and stops taking anything else.
    pub(super) fn begin_close(&mut self, now_ms: u64, verdict: Verdict) {
        if self.end != End::Open {
            return;
        }
        self.tell(verdict);
        let patience = self.shared.config.close_timeout;
        self.ended(now_ms, verdict, verdict.reason, patience);
    }

    /// The client reads too slowly: its queue is full.
    pub(super) fn slow(&mut self, now_ms: u64) {
        if self.end == End::Open {
            self.shared.metrics.slow.inc();
            self.give_up(now_ms, Disconnect::Slow);
        }
    }

    /// The client does not take what waits for it: drops that and tries to say why, which it sees
    /// if it reads within a moment.
    pub(super) fn give_up(&mut self, now_ms: u64, why: Disconnect) {
        self.input(now_ms, |s, cx, out| {
            s.shutdown(cx, why, out);
            out.clear();
        });
        self.batch.keep_half_written();
        self.tell(why.into());
        let (verdict, patience) = (Verdict::from(why), self.shared.config.slow_close_timeout);
        self.ended(now_ms, verdict, verdict.reason, patience);
    }

    /// [`Connection::begin_close`] for a reason that may be the application's own.
    pub(super) fn begin_close_for(&mut self, now_ms: u64, why: &CloseReason) {
        if let Some(ours) = why.standard() {
            return self.begin_close(now_ms, ours.into());
        }
        if self.end == End::Open {
            let code = u16::try_from(why.code()).unwrap_or(u16::MAX);
            let reconnect = why.reconnect();
            self.tell(Farewell {
                code,
                reason: why.text(),
                reconnect,
            });
            // What is logged of it leaves the application's words out; who hears of the end gets them.
            let verdict = Verdict {
                code,
                reason: "ended by the application",
                reconnect,
            };
            let patience = self.shared.config.close_timeout;
            self.ended(now_ms, verdict, why.text(), patience);
        }
    }

    fn tell(&mut self, verdict: Farewell<'_>) {
        self.batch.push(self.framing.verdict(self.dialect, verdict));
    }

    /// `told` is the reason for those who hear of the end.
    fn ended(&mut self, now_ms: u64, verdict: Verdict, told: &str, patience: Duration) {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.end = End::Closing {
            until: now_ms.saturating_add(patience),
            answered: !F::ANSWERS_CLOSE,
            verdict,
        };
        self.log_end(verdict.code, verdict.reason);
        self.leave(verdict.code, told);
    }

    /// Says why a session ended: at level info, as often as is good, where its client broke the
    /// protocol or was refused.
    fn log_end(&self, code: u16, reason: &str) {
        let session = self.handle.session.0;
        let refused = matches!(code, 1002 | 1007 | 1009 | 3013 | 3500..=3999);
        if refused && self.shared.may_log() {
            let fault = self.session.fault().map(tracing::field::display);
            tracing::info!(session, code, reason, fault, "session refused");
        } else {
            tracing::debug!(session, code, reason, "session closed");
        }
    }

    /// The client has answered the close frame, or began the end itself.
    pub(super) fn answered(&mut self) {
        if let End::Closing { answered, .. } = &mut self.end {
            *answered = true;
        }
    }
}

impl<C, F: Framing> Connection<C, F> {
    /// Ends the session for everybody else. Done once.
    pub(super) fn leave(&mut self, code: u16, reason: &str) {
        self.handle.outbox.end();
        let known = self.shared.leave(self.place, self.handle.session);
        if !known {
            return;
        }
        for inbox in self.asked.drain(..) {
            inbox.session_closed(self.handle.session);
        }
        if let Some(instance) = self.reported.take() {
            let session = self.handle.session;
            self.shared.session_gone(&instance, session, code, reason);
        }
        self.unproven = None;
        self.counted = None;
        if let Some(listed) = self.listed.take() {
            self.shared.people.leave(&listed, self.handle.session);
        }
        self.shared
            .metrics
            .sessions
            .with(&[self.transport.name(), self.dialect.name()])
            .dec();
        self.shared.metrics.closed.with(&[&code.to_string()]).inc();
    }
}
