//! Requests of a connection that is held still: they wait, in order, until what is revoked is known.

use std::collections::VecDeque;

use gb6_core_model::ErrorCode;
use gb6_edge_session::{Answer, HubRequest, Request};

use super::carrier::Carrier;
use super::driver::Connection;
use super::framing::Framing;

/// How long a request waits, in ms: less than SDKs wait for an answer, with what the shard may take
/// after it.
const WAIT_MS: u64 = 3_000;
/// Requests that wait at most.
const REQUESTS_MAX: usize = 1_024;
/// Bytes of publishes that wait at most.
const BYTES_MAX: usize = 256 * 1024;

/// The requests that wait, each with when it is given up.
// overflow: the newest is answered 1002, as is one that waited for too long. Unsubscribes always fit:
// there is one for each subscription at most.
#[derive(Default)]
pub(super) struct Waiting {
    requests: VecDeque<(u64, HubRequest)>,
    bytes: usize,
}

impl Waiting {
    /// When the first is given up, in ms.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.requests.front().map(|(until, _)| *until)
    }

    fn push(&mut self, now_ms: u64, request: HubRequest) -> Result<(), ErrorCode> {
        let bytes = bytes_of(&request);
        let full = self.requests.len() >= REQUESTS_MAX || self.bytes + bytes > BYTES_MAX;
        if full && !matches!(request.request, Request::Unsubscribe) {
            return Err(ErrorCode::OwnerMoving);
        }
        self.bytes += bytes;
        self.requests.push_back((now_ms + WAIT_MS, request));
        Ok(())
    }

    fn pop_due(&mut self, now_ms: u64) -> Option<HubRequest> {
        if self.deadline()? > now_ms {
            return None;
        }
        let (_, request) = self.requests.pop_front()?;
        self.bytes -= bytes_of(&request);
        Some(request)
    }
}

fn bytes_of(request: &HubRequest) -> usize {
    match &request.request {
        Request::Publish(publish) => publish.data.len(),
        _ => 0,
    }
}

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Lets a request wait where it must; gives it back where it need not. Who leaves a room may do so
    /// at any time, unless the request to enter it waits.
    pub(super) fn wait_while_held(
        &mut self,
        request: HubRequest,
    ) -> Result<Option<HubRequest>, ErrorCode> {
        let leaves = matches!(request.request, Request::Unsubscribe);
        if self.waiting.is_none() && (leaves || !self.handle.is_held()) {
            return Ok(Some(request));
        }
        let now_ms = self.shared.clock.now_ms();
        let waiting = self.waiting.get_or_insert_default();
        waiting.push(now_ms, request).map(|()| None)
    }

    /// Hands on what waited, if it need not any more, and gives up what has waited for too long.
    pub(super) fn release_waiting(&mut self, now_ms: u64) {
        if self.handle.is_held() {
            while let Some(request) = self.waiting.as_mut().and_then(|w| w.pop_due(now_ms)) {
                match request.request {
                    Request::Unsubscribe => self.hand_or_fail(now_ms, request),
                    _ => self.fail(now_ms, request.token, ErrorCode::OwnerMoving),
                }
            }
            return;
        }
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        for (_, request) in waiting.requests {
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
