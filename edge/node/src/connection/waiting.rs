//! What a connection that is held still asks of shards, and what becomes of it.

use gb6_core_model::ErrorCode;
use gb6_edge_session::{Answer, GivenUp, HeldRequests, HubRequest};

use super::carrier::Carrier;
use super::driver::Connection;
use super::framing::Framing;

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Lets a request wait where it must; gives it back where it need not.
    pub(super) fn wait_while_held(
        &mut self,
        request: HubRequest,
    ) -> Result<Option<HubRequest>, ErrorCode> {
        let held = self.handle.is_held();
        if !HeldRequests::must_wait(self.waiting.as_deref(), held, &request) {
            return Ok(Some(request));
        }
        let now_ms = self.shared.clock.now_ms();
        let waiting = self.waiting.get_or_insert_default();
        waiting.push(now_ms, request).map(|()| None)
    }

    /// Hands on what waited, if it need not any more, and gives up what has waited for too long.
    pub(super) fn release_waiting(&mut self, now_ms: u64) {
        if self.handle.is_held() {
            while let Some(given_up) = self.waiting.as_mut().and_then(|w| w.give_up(now_ms)) {
                match given_up {
                    GivenUp::Hand(request) => self.hand_or_fail(now_ms, request),
                    GivenUp::Fail { token, code } => self.fail(now_ms, token, code),
                }
            }
            return;
        }
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        for request in waiting.release() {
            self.hand_or_fail(now_ms, request);
        }
    }

    fn hand_or_fail(&mut self, now_ms: u64, request: HubRequest) {
        let token = request.token;
        let snapshot = self.shared.snapshot.load_full();
        if let Err(code) = self.hand(&snapshot, request) {
            self.fail(now_ms, token, code);
        }
    }

    fn fail(&mut self, now_ms: u64, token: u64, code: ErrorCode) {
        self.input(now_ms, |session, cx, out| {
            session.complete(cx, token, Answer::Failed(code), out);
        });
    }
}
