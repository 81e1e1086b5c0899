//! Where a hub's outputs go: to sessions at once, to the owner when the hub has finished.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::{Answer, Detach, HubOut, Notice};

use crate::connection::handle::{Event, SessionHandle};
use crate::connection::instance::InstanceTag;
use crate::shared::Shared;

/// Frames that wait for the shard stream from which on the hub holds publishes and interest back,
/// where they have their own bounds and timeouts; it goes on below half of it.
const FULL_FRAMES: usize = 8 * 1024;
/// The same in bytes of publishes.
const FULL_BYTES: usize = 8 * 1024 * 1024;
/// Frames that may wait at most: only comings and goings of people come this far, while the owner
/// does not read. A new attachment says in one set what they amount to.
pub(super) const OVERFLOW_FRAMES: usize = 64 * 1024;

/// What a hub wants sent, and whether it wants its link closed.
#[derive(Default)]
pub(super) struct Outputs {
    /// Frames for the shard stream, in order.
    // overflow: first the hub holds back what it can; then the link is dropped and the hub
    // attaches again.
    to_owner: VecDeque<OwnerFrame>,
    /// Bytes of publishes among them.
    to_owner_bytes: usize,
    /// Whether the hub holds back.
    full: bool,
    /// Whether the link is to be dropped, because more than the bound would wait.
    overflowed: bool,
    /// Requests for the catch-up stream; bounded by the reads that a hub has under way.
    pub(super) to_history: VecDeque<HistoryRequest>,
    /// Why the link is to be closed.
    pub(super) detach: Option<Detach>,
    /// Frames handed to sessions since the last look.
    pub(super) handed: usize,
    /// The instance of the room whose frames are being handed out.
    instance: InstanceTag,
    /// With the pace of all hubs; `None`: each has its own alone.
    shared: Option<Arc<Shared>>,
}

impl HubOut<Arc<SessionHandle>> for Outputs {
    fn of_room(&mut self, room: &RoomRef) {
        self.instance = InstanceTag::of(&room.instance);
    }

    fn deliver(&mut self, to: &Arc<SessionHandle>, frame: Bytes) {
        if !to.is_of(self.instance) {
            return;
        }
        self.handed += 1;
        // A session that overflowed or ended says so to the hub itself.
        let _ = to.outbox.push(frame);
    }

    fn backlog(&self, to: &Arc<SessionHandle>) -> usize {
        to.outbox.backlog()
    }

    fn complete(&mut self, to: &Arc<SessionHandle>, token: u64, answer: Answer) {
        self.handed += 1;
        let _ = to.outbox.event(Event::Complete(token, Box::new(answer)));
    }

    fn notice(&mut self, to: &Arc<SessionHandle>, notice: Notice) {
        let _ = to.outbox.event(Event::Notice(Box::new(notice)));
    }

    fn may_evict(&mut self) -> bool {
        let shared = self.shared.as_ref();
        shared.is_none_or(|s| s.evictions.take(s.clock.now_ms()))
    }

    fn channel_number(&mut self, instance: &str) -> i64 {
        let shared = self.shared.as_ref();
        shared.map_or(0, |shared| shared.channel_numbers.next(instance))
    }

    fn to_owner(&mut self, frame: OwnerFrame) {
        if self.to_owner.len() >= OVERFLOW_FRAMES {
            self.overflowed = true;
        }
        if !self.overflowed {
            self.to_owner_bytes += publish_bytes(&frame);
            self.to_owner.push_back(frame);
            self.full |= self.to_owner.len() >= FULL_FRAMES || self.to_owner_bytes >= FULL_BYTES;
        }
    }

    fn owner_full(&self) -> bool {
        self.full
    }

    fn to_history(&mut self, request: HistoryRequest) {
        self.to_history.push_back(request);
    }

    fn detach(&mut self, why: Detach) {
        // What was meant for the link that ends must not go to the next one.
        self.clear();
        self.detach = Some(why);
    }
}

impl Outputs {
    /// Of a hub that shares its pace with the others of its edge.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Some(shared.clone()),
            ..Self::default()
        }
    }

    /// Frames that wait for the shard stream.
    pub(super) fn owner_queue(&self) -> usize {
        self.to_owner.len()
    }

    /// The next frame for the shard stream.
    pub(super) fn next_to_owner(&mut self) -> Option<OwnerFrame> {
        let frame = self.to_owner.pop_front()?;
        self.to_owner_bytes -= publish_bytes(&frame);
        Some(frame)
    }

    /// It did not fit into the stream: it stays the next one.
    pub(super) fn put_back(&mut self, frame: OwnerFrame) {
        self.to_owner_bytes += publish_bytes(&frame);
        self.to_owner.push_front(frame);
    }

    /// Whether so much has been sent that the hub may go on: to be told to it, once.
    pub(super) fn take_drained(&mut self) -> bool {
        let drained = self.full
            && self.to_owner.len() <= FULL_FRAMES / 2
            && self.to_owner_bytes <= FULL_BYTES / 2;
        self.full &= !drained;
        drained
    }

    /// Whether more than the bound would have waited for the shard stream.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The link is gone, and with it whatever was meant for it.
    pub(super) fn clear(&mut self) {
        self.to_owner.clear();
        self.to_owner_bytes = 0;
        self.full = false;
        self.overflowed = false;
        self.to_history.clear();
    }
}

fn publish_bytes(frame: &OwnerFrame) -> usize {
    match frame {
        OwnerFrame::Publish(publish) => publish.data.len(),
        OwnerFrame::Signal(signal) => signal.data.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::SessionId;
    use gb6_core_obs::Invariant;
    use gb6_core_obs::invariant::counted;
    use gb6_core_wire::mesh::{Presence, Publish};
    use std::task::Waker;

    fn publish(bytes: usize) -> OwnerFrame {
        OwnerFrame::Publish(Publish {
            data: Bytes::from(vec![b'1'; bytes]),
            ..Publish::default()
        })
    }

    fn room(instance: &str) -> RoomRef {
        RoomRef {
            instance: instance.into(),
            channel: "room:1".into(),
        }
    }

    fn session_of(instance: &str) -> Arc<SessionHandle> {
        let session = SessionHandle::new(SessionId(1), 0, None, 1000);
        session.belongs_to(InstanceTag::of(instance));
        Arc::new(session)
    }

    #[test]
    fn a_frame_of_another_instance_is_counted_and_never_handed_over() {
        let mut out = Outputs::default();
        let (ours, theirs) = (session_of("demo"), session_of("other"));
        let counted = counted();
        out.deliver(&ours, Bytes::from_static(b"of no room"));
        out.of_room(&room("demo"));
        out.deliver(&ours, Bytes::from_static(b"1"));
        out.deliver(&theirs, Bytes::from_static(b"1"));
        out.of_room(&room("other"));
        out.deliver(&ours, Bytes::from_static(b"2"));
        out.deliver(&theirs, Bytes::from_static(b"2"));
        assert_eq!(counted.of(Invariant::InstanceIsolation), 3);
        let got = |s: &SessionHandle| Vec::from(s.outbox.take(Waker::noop()).frames);
        assert_eq!(got(&ours), ["1"]);
        assert_eq!(got(&theirs), ["2"]);
    }

    #[test]
    #[should_panic(expected = "invariant instance_isolation violated")]
    fn a_frame_of_another_instance_panics_in_tests() {
        let mut out = Outputs::default();
        out.of_room(&room("demo"));
        out.deliver(&session_of("other"), Bytes::new());
    }

    #[test]
    fn it_is_full_by_frames_or_bytes_and_drained_at_half() {
        for (bytes, count) in [(0, FULL_FRAMES), (64 * 1024, 128)] {
            let mut out = Outputs::default();
            for n in 0..count {
                assert!(!out.owner_full(), "{n}");
                out.to_owner(publish(bytes));
            }
            assert!(out.owner_full() && !out.take_drained());
            for _ in 0..count / 2 {
                assert!(!out.take_drained());
                let first = out.next_to_owner().expect("a frame");
                out.put_back(first);
                out.next_to_owner();
            }
            assert!(out.take_drained() && !out.owner_full() && !out.take_drained());
            assert_eq!(out.owner_queue(), count / 2);
        }
    }

    #[test]
    fn beyond_the_bound_nothing_is_kept_and_the_link_is_to_go() {
        let mut out = Outputs::default();
        for _ in 0..OVERFLOW_FRAMES {
            out.to_owner(OwnerFrame::Absent(Presence::default()));
        }
        assert!(!out.overflowed());
        out.to_owner(OwnerFrame::Absent(Presence::default()));
        assert!(out.overflowed());
        assert_eq!(out.owner_queue(), OVERFLOW_FRAMES);
        out.clear();
        assert!(!out.overflowed() && !out.owner_full());
        assert_eq!(out.owner_queue(), 0);
    }
}
