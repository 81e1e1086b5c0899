//! How a connection ends: what its client and the operator are told, and who learns that the session
//! is gone.

use gb6_core_model::Disconnect;
use gb6_core_wire::client::close_frame;

use super::connection::{Connection, End};

impl Connection {
    /// Queues the close frame behind what waits and stops taking anything else.
    pub(super) fn begin_close(&mut self, now_ms: u64, code: u16, reason: &str) {
        if self.end != End::Open {
            return;
        }
        self.batch.push(close_frame(code, reason));
        self.ended(now_ms, code, reason, self.shared.config.close_timeout);
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
        self.batch.close(why.code() as u16, why.text());
        self.ended(
            now_ms,
            why.code() as u16,
            why.text(),
            self.shared.config.slow_close_timeout,
        );
    }

    fn ended(&mut self, now_ms: u64, code: u16, reason: &str, patience: std::time::Duration) {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.end = End::Closing {
            until: now_ms.saturating_add(patience),
            answered: false,
        };
        self.log_end(code, reason);
        self.leave(code);
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

    /// Ends the session for everybody else. Done once.
    pub(super) fn leave(&mut self, code: u16) {
        self.handle.outbox.end();
        let known = self.shared.leave(self.place, self.handle.session);
        if !known {
            return;
        }
        for inbox in self.asked.drain(..) {
            inbox.session_closed(self.handle.session);
        }
        self.unproven = None;
        self.shared
            .metrics
            .sessions
            .with(&[self.dialect.name()])
            .dec();
        self.shared.metrics.closed.with(&[&code.to_string()]).inc();
    }
}
