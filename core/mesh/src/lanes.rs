//! The bounded queue of one direction of a stream, with a lane for each class of frames. On QUIC a
//! writer task drains it; in memory the other side's receiver does.

use std::any::Any;
use std::collections::VecDeque;

use gb6_core_wire::mesh::Class;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Lanes, highest class first.
const LANES: usize = 4;

/// How much may wait in each lane of a stream. Lanes have bounds of their own, so that live
/// frames that pile up never keep a control frame out. Overflow policy: the frame is handed back
/// ([`crate::TrySendError::Full`]) and counted (`queue_full`); the sender decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Frames in one lane.
    pub frames: usize,
    /// Encoded bytes in one lane. An empty lane takes one frame of any size.
    pub bytes: usize,
}

impl Default for QueueLimits {
    /// 16,384 frames and 8 MiB in each lane: a third of a second at 50,000 frames/s.
    fn default() -> Self {
        Self {
            frames: 16 * 1024,
            bytes: 8 * 1024 * 1024,
        }
    }
}

struct Lane<M> {
    frames: VecDeque<(M, usize)>,
    bytes: usize,
}

struct State<M> {
    lanes: [Lane<M>; LANES],
    waiting: usize,
    limits: QueueLimits,
    finished: bool,
    refused: bool,
    /// Held until what was queued is taken.
    held: Option<Box<dyn Any + Send>>,
}

/// Why a frame was not queued.
pub(crate) enum PushError<M> {
    Full(M),
    Closed,
}

pub(crate) struct Lanes<M> {
    state: Mutex<State<M>>,
    /// Something can be taken, or nothing more will come. One consumer waits here.
    filled: Notify,
    /// Something was taken, or nothing more will be. Any number of producers wait here.
    pub(crate) drained: Notify,
}

impl<M> Lanes<M> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            state: Mutex::new(State {
                lanes: std::array::from_fn(|_| Lane {
                    frames: VecDeque::new(),
                    bytes: 0,
                }),
                waiting: 0,
                limits,
                finished: false,
                refused: false,
                held: None,
            }),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    pub(crate) fn set_limits(&self, limits: QueueLimits) {
        self.state.lock().limits = limits;
    }

    /// Queues `frame` of `len` encoded bytes in the lane of `class`, where the lane then holds at
    /// most the `share`th part of its bounds.
    pub(crate) fn push(
        &self,
        share: usize,
        class: Class,
        frame: M,
        len: usize,
    ) -> Result<(), PushError<M>> {
        let mut state = self.state.lock();
        if state.refused || state.finished {
            return Err(PushError::Closed);
        }
        let limits = state.limits;
        let lane = &mut state.lanes[class as usize];
        let (frames, bytes) = (limits.frames / share, limits.bytes / share);
        let fits = lane.frames.len() < frames && lane.bytes + len <= bytes;
        if !fits && !lane.frames.is_empty() {
            return Err(PushError::Full(frame));
        }
        lane.frames.push_back((frame, len));
        lane.bytes += len;
        state.waiting += 1;
        let first = state.waiting == 1;
        drop(state);
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Gives frames to `each`, higher classes first, in order within a class, until `frames` were
    /// given or `bytes` are reached. Returns how many, and whether more can ever come.
    pub(crate) fn take(
        &self,
        frames: usize,
        bytes: usize,
        mut each: impl FnMut(M, usize),
    ) -> (usize, bool) {
        let mut state = self.state.lock();
        let mut taken = 0;
        let mut taken_bytes = 0;
        for lane in &mut state.lanes {
            while taken < frames && taken_bytes < bytes {
                let Some((frame, len)) = lane.frames.pop_front() else {
                    break;
                };
                lane.bytes -= len;
                taken += 1;
                taken_bytes += len;
                each(frame, len);
            }
        }
        state.waiting -= taken;
        let more = state.waiting > 0 || !state.finished;
        let held = if more { None } else { state.held.take() };
        drop(state);
        drop(held);
        if taken > 0 {
            self.drained.notify_waiters();
        }
        (taken, more)
    }

    /// Waits until [`Lanes::take`] gives something or nothing more will come (then 0). Dropping
    /// the future loses nothing.
    pub(crate) async fn take_some(
        &self,
        frames: usize,
        bytes: usize,
        mut each: impl FnMut(M, usize),
    ) -> usize {
        loop {
            let (taken, more) = self.take(frames, bytes, &mut each);
            if taken > 0 || !more {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    /// The producer is gone: what waits is still delivered.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.filled.notify_one();
    }

    /// As [`Lanes::finish`], and holds `held` until everything was delivered or dropped.
    pub(crate) fn finish_holding(&self, held: impl Any + Send) {
        let mut state = self.state.lock();
        if state.waiting > 0 && !state.refused {
            state.held = Some(Box::new(held));
        }
        state.finished = true;
        drop(state);
        self.filled.notify_one();
    }

    /// Whether everything was delivered and nothing more will come.
    pub(crate) fn is_exhausted(&self) -> bool {
        let state = self.state.lock();
        state.finished && state.waiting == 0 && !state.refused
    }

    /// The consumer is gone: what waits is dropped, and nothing more is taken in.
    pub(crate) fn refuse(&self) {
        let mut state = self.state.lock();
        state.refused = true;
        state.waiting = 0;
        let dropped = std::mem::replace(
            &mut state.lanes,
            std::array::from_fn(|_| Lane {
                frames: VecDeque::new(),
                bytes: 0,
            }),
        );
        let held = state.held.take();
        drop(state);
        drop((dropped, held));
        self.drained.notify_waiters();
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.state.lock().refused
    }

    /// Frames that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const CLASSES: [Class; LANES] = [
        Class::Control,
        Class::Acknowledgement,
        Class::Live,
        Class::CatchUp,
    ];

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, usize, usize),
        Take(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..3, 0..LANES, 0usize..60)
                .prop_map(|(share, lane, len)| Step::Push(share, lane, len)),
            (1usize..6, 1usize..120).prop_map(|(frames, bytes)| Step::Take(frames, bytes)),
        ]
    }

    proptest! {
        /// Against one list of (lane, frame, length) in the order of arrival.
        #[test]
        fn lanes_are_ordered_and_bounded(
            steps in vec(step(), 0..200),
            frames in 1usize..8,
            bytes in 1usize..100,
            refused in any::<bool>(),
        ) {
            let lanes = Lanes::new(QueueLimits { frames, bytes });
            let mut model: Vec<(usize, usize, usize)> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(share, lane, len) => {
                        let there = || model.iter().filter(|frame| frame.0 == lane);
                        let fits = there().count() == 0
                            || there().count() < frames / share
                                && there().map(|frame| frame.2).sum::<usize>() + len <= bytes / share;
                        match lanes.push(share, CLASSES[lane], n, len) {
                            Ok(()) => prop_assert!(fits),
                            Err(PushError::Full(frame)) => prop_assert!(!fits && frame == n),
                            Err(PushError::Closed) => prop_assert!(false),
                        }
                        if fits {
                            model.push((lane, n, len));
                        }
                    }
                    Step::Take(most, most_bytes) => {
                        let mut sorted = model.clone();
                        sorted.sort_by_key(|frame| frame.0);
                        let mut sum = 0;
                        let expected: Vec<_> = sorted
                            .into_iter()
                            .take(most)
                            .take_while(|frame| {
                                let open = sum < most_bytes;
                                sum += frame.2;
                                open
                            })
                            .collect();
                        let mut got = Vec::new();
                        let (taken, more) =
                            lanes.take(most, most_bytes, |frame, len| got.push((frame, len)));
                        prop_assert_eq!(taken, got.len());
                        prop_assert!(more);
                        let wanted: Vec<_> = expected.iter().map(|f| (f.1, f.2)).collect();
                        prop_assert_eq!(got, wanted);
                        model.retain(|frame| !expected.contains(frame));
                    }
                }
                prop_assert_eq!(lanes.waiting(), model.len());
            }
            if refused {
                lanes.refuse();
                model.clear();
            }
            lanes.finish();
            prop_assert!(matches!(lanes.push(1, Class::Control, 0, 0), Err(PushError::Closed)));
            let (taken, more) = lanes.take(usize::MAX, usize::MAX, |_, _| ());
            prop_assert_eq!((taken, more), (model.len(), false));
        }
    }
}
