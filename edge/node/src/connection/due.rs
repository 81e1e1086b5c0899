//! What a connection does by time alone: the session's deadlines, pings, writes that do not get on,
//! and the end that is waited for.

use gb6_core_model::Disconnect;

use super::carrier::Carrier;
use super::driver::{Connection, End};
use super::framing::Framing;

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// What is due by time alone.
    pub(super) fn tick(&mut self, now_ms: u64) {
        match self.end {
            End::Open => {
                if self.session.deadline().is_some_and(|at| at <= now_ms) {
                    self.input(now_ms, |s, cx, out| s.tick(cx, out));
                }
                if let Some(ping) = &mut self.frame_ping {
                    match ping.due(now_ms, self.shared.config.session.pong_timeout_ms) {
                        Ok(None) => {}
                        Ok(Some(frame)) => self.batch.push(frame),
                        Err(why) => self.input(now_ms, |s, cx, out| s.shutdown(cx, why, out)),
                    }
                }
                if self.waiting.is_some() && self.end == End::Open {
                    self.release_waiting(now_ms);
                }
                let stalled = self.write_deadline().is_some_and(|at| at <= now_ms);
                if stalled && self.end == End::Open {
                    self.give_up(now_ms, Disconnect::WriteError);
                }
            }
            End::Closing { until, verdict, .. } if until <= now_ms => {
                self.end = End::Cut { verdict };
            }
            End::Closing { .. } | End::Cut { .. } => {}
        }
    }

    fn write_deadline(&self) -> Option<u64> {
        let patience = u64::try_from(self.shared.config.write_timeout.as_millis()).ok()?;
        Some(self.stalled_since?.saturating_add(patience))
    }

    /// Has the wheel wake this task when something is due.
    pub(super) fn arm(&mut self, now_ms: u64) {
        let next = match self.end {
            End::Open => [
                self.session.deadline(),
                self.frame_ping.as_ref().map(|p| p.deadline()),
                self.write_deadline(),
                self.waiting.as_ref().and_then(|w| w.deadline()),
            ]
            .into_iter()
            .flatten()
            .min(),
            End::Closing { until, .. } => Some(until),
            End::Cut { .. } => None,
        };
        let Some(next) = next else { return };
        // The entry for `timer_at` has fired once that time is behind us.
        if self.timer_at <= now_ms || next < self.timer_at {
            self.timer_at = self.shared.wheel.add(next, self.handle.clone());
        }
    }
}
