//! Requests of a connection that is held still: they wait, in order, until what is revoked is known.

use std::collections::VecDeque;

use gb6_core_model::ErrorCode;

use crate::request::{HubRequest, Request};

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
pub struct HeldRequests {
    requests: VecDeque<(u64, HubRequest)>,
    bytes: usize,
}

/// What becomes of a request that has waited for too long.
#[derive(Debug)]
pub enum GivenUp {
    /// It leaves a room, which it may all the same: hand it on.
    Hand(HubRequest),
    /// Answer it with this error.
    Fail {
        /// The request's token.
        token: u64,
        /// 1002: it was not done, and may be tried again.
        code: ErrorCode,
    },
}

impl HeldRequests {
    /// Whether a request must wait: while its connection is `held`, and behind others that wait. Who
    /// leaves a room may do so at any time, unless the request to enter it may wait.
    pub fn must_wait(waiting: Option<&Self>, held: bool, request: &HubRequest) -> bool {
        waiting.is_some() || (held && !leaves(request))
    }

    /// When the first is given up, in ms.
    pub fn deadline(&self) -> Option<u64> {
        self.requests.front().map(|(until, _)| *until)
    }

    /// Lets a request wait, behind the others.
    ///
    /// # Errors
    /// 1002: too many wait.
    pub fn push(&mut self, now_ms: u64, request: HubRequest) -> Result<(), ErrorCode> {
        let bytes = bytes_of(&request);
        let full = self.requests.len() >= REQUESTS_MAX || self.bytes + bytes > BYTES_MAX;
        if full && !leaves(&request) {
            return Err(ErrorCode::OwnerMoving);
        }
        self.bytes += bytes;
        self.requests.push_back((now_ms + WAIT_MS, request));
        Ok(())
    }

    /// Takes out the first if it has waited for too long.
    pub fn give_up(&mut self, now_ms: u64) -> Option<GivenUp> {
        if self.deadline()? > now_ms {
            return None;
        }
        let (_, request) = self.requests.pop_front()?;
        self.bytes -= bytes_of(&request);
        Some(match leaves(&request) {
            true => GivenUp::Hand(request),
            false => GivenUp::Fail {
                token: request.token,
                code: ErrorCode::OwnerMoving,
            },
        })
    }

    /// All of them, in their order: the connection is held no longer.
    pub fn release(self) -> impl Iterator<Item = HubRequest> {
        self.requests.into_iter().map(|(_, request)| request)
    }
}

fn leaves(request: &HubRequest) -> bool {
    request.request.leaves()
}

fn bytes_of(request: &HubRequest) -> usize {
    match &request.request {
        Request::Publish(publish) => publish.data.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::HistoryQuery;
    use gb6_core_model::SessionId;
    use gb6_core_wire::mesh::RoomRef;

    fn request(token: u64, request: Request) -> HubRequest {
        HubRequest {
            token,
            session: SessionId(1),
            room: RoomRef::default(),
            request,
        }
    }

    fn read(token: u64) -> HubRequest {
        let query = HistoryQuery {
            since: None,
            reverse: false,
            limit: 1,
            bytes: 1,
        };
        request(token, Request::History(query))
    }

    #[test]
    fn they_keep_their_order_and_are_given_up_in_time() {
        let leave = |token| request(token, Request::Unsubscribe);
        assert!(HeldRequests::must_wait(None, true, &read(1)));
        assert!(!HeldRequests::must_wait(None, true, &leave(1)));
        assert!(!HeldRequests::must_wait(None, false, &read(1)));
        let mut held = HeldRequests::default();
        held.push(10, read(1)).unwrap();
        assert!(HeldRequests::must_wait(Some(&held), false, &leave(2)));
        held.push(20, leave(2)).unwrap();
        held.push(20, read(3)).unwrap();
        let first = held.deadline().unwrap();
        assert!(held.give_up(first - 1).is_none());
        let failed = held.give_up(first);
        assert!(matches!(failed, Some(GivenUp::Fail { token: 1, code }) if code.code() == 1002));
        assert!(held.give_up(first).is_none());
        let left = held.give_up(first + 10);
        assert!(matches!(left, Some(GivenUp::Hand(request)) if request.token == 2));
        let rest: Vec<u64> = held.release().map(|request| request.token).collect();
        assert_eq!(rest, [3]);
    }

    #[test]
    fn too_many_are_refused_but_for_those_that_leave() {
        let mut held = HeldRequests::default();
        for token in 0..REQUESTS_MAX as u64 {
            held.push(0, read(token)).unwrap();
        }
        assert_eq!(held.push(0, read(0)), Err(ErrorCode::OwnerMoving));
        assert_eq!(held.push(0, request(0, Request::Unsubscribe)), Ok(()));
    }
}
