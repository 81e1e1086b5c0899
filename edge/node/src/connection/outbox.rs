//! What goes to one connection: whole frames, encoded once and shared, and events for its session,
//! in one order, with a bound in bytes. Anybody may push; the connection's task takes everything
//! at once, so that what came while it was waiting leaves in one write.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;

use gb6_core_obs::{Invariant, check_invariant};

/// The queue of one connection, shared by its task and by everything that sends to it.
pub(crate) struct Outbox<E> {
    state: Mutex<State<E>>,
    /// Bytes that may wait, those being written included.
    max: usize,
}

struct State<E> {
    frames: VecDeque<Bytes>,
    /// Events, each with the number of frames of `frames` that go before it.
    events: Vec<(usize, E)>,
    /// Bytes of those events that carry what the client sent.
    inbound: usize,
    /// Bytes of `frames`.
    bytes: usize,
    /// Bytes that the task has taken and not yet written.
    held: usize,
    /// Wakes the task; taken by the first push after a poll, so that one wake serves a batch.
    waker: Option<Waker>,
    phase: Phase,
}

/// What the task takes in one go.
pub(crate) struct Taken<E> {
    /// Frames to be written, in order.
    pub(crate) frames: VecDeque<Bytes>,
    /// What the session must hear, each with the number of `frames` that go before it.
    pub(crate) events: Vec<(usize, E)>,
    /// Whether there will be more.
    pub(crate) phase: Phase,
}

/// How far a connection's end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Frames are accepted.
    Open,
    /// The client read too slowly: everything was dropped, only a close frame is still to come.
    Slow,
    /// Nothing is accepted any more.
    Ended,
}

/// What became of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It waits to be written.
    Queued,
    /// It did not fit: the connection is being closed as slow, everything that waited is dropped.
    Overflowed,
    /// It did not fit and was dropped; the connection goes on.
    Refused,
    /// The connection ends or has ended; it was dropped.
    Ended,
}

impl<E> Outbox<E> {
    /// An outbox for at most `max` bytes of frames.
    // overflow: the queue is dropped and the connection closed with 3008, so that a client which
    // does not read costs nobody memory or time; it recovers from its offsets.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                frames: VecDeque::new(),
                events: Vec::new(),
                inbound: 0,
                bytes: 0,
                held: 0,
                waker: None,
                phase: Phase::Open,
            }),
            max,
        }
    }

    /// Queues a whole frame. Never waits.
    pub(crate) fn push(&self, frame: Bytes) -> Pushed {
        let (pushed, waker) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Open {
                return Pushed::Ended;
            }
            let pushed = if state.bytes + state.held + frame.len() > self.max {
                state.overflow();
                Pushed::Overflowed
            } else {
                state.bytes += frame.len();
                state.frames.push_back(frame);
                Pushed::Queued
            };
            (pushed, state.waker.take())
        };
        wake(waker);
        pushed
    }

    /// Queues an event for the session, in order with the frames. Events carry no weight: each
    /// answers something that the session asked for, and what it may ask is bounded.
    pub(crate) fn event(&self, event: E) -> Pushed {
        let waker = {
            let mut state = self.state.lock();
            if state.phase != Phase::Open {
                return Pushed::Ended;
            }
            let before = state.frames.len();
            state.events.push((before, event));
            state.waker.take()
        };
        wake(waker);
        Pushed::Queued
    }

    /// Queues an event that carries `bytes` bytes of the client's, which came by another connection
    /// than the one that this outbox writes to.
    // overflow: refused while `max` bytes of them wait for the task, so that whoever sends faster
    // than the session takes is told to wait.
    pub(crate) fn inbound(&self, event: E, bytes: usize, max: usize) -> Pushed {
        let waker = {
            let mut state = self.state.lock();
            if state.phase != Phase::Open {
                return Pushed::Ended;
            }
            if state.inbound + bytes > max {
                return Pushed::Refused;
            }
            state.inbound += bytes;
            let before = state.frames.len();
            state.events.push((before, event));
            state.waker.take()
        };
        wake(waker);
        Pushed::Queued
    }

    /// Bytes that wait, those being written included.
    pub(crate) fn backlog(&self) -> usize {
        let state = self.state.lock();
        state.bytes + state.held
    }

    /// Wakes the task: its timer may be due.
    pub(crate) fn wake(&self) {
        let waker = self.state.lock().waker.take();
        wake(waker);
    }

    /// For the task: takes everything that waits and remembers how to wake the task.
    pub(crate) fn take(&self, waker: &Waker) -> Taken<E> {
        let mut state = self.state.lock();
        state.remember(waker);
        check_invariant!(
            Invariant::QueueWithinBound,
            state.phase != Phase::Open || state.bytes + state.held <= self.max,
            "{} bytes wait and {} are being written, at most {} may",
            state.bytes,
            state.held,
            self.max
        );
        state.held += state.bytes;
        state.bytes = 0;
        state.inbound = 0;
        Taken {
            frames: std::mem::take(&mut state.frames),
            events: std::mem::take(&mut state.events),
            phase: state.phase,
        }
    }

    /// For the task: takes nothing, and remembers how to wake it: for its timer, and for an event that
    /// does not wait for its turn. That is the first for which `urgent` says something.
    pub(crate) fn watch<T>(&self, waker: &Waker, urgent: impl Fn(&E) -> Option<T>) -> Option<T> {
        let mut state = self.state.lock();
        state.remember(waker);
        state.events.iter().find_map(|(_, event)| urgent(event))
    }

    /// For the task: takes the events that need not wait for their turn, in their order, and leaves the rest.
    pub(crate) fn take_early(&self, may: impl Fn(&E) -> bool) -> Vec<E> {
        let mut state = self.state.lock();
        let early = state.events.extract_if(.., |(_, event)| may(event));
        early.map(|(_, event)| event).collect()
    }

    /// For the task: so many bytes that it has taken or made itself are not yet written. Says
    /// whether that is too much: then the connection is slow, as after an overflowing push.
    pub(crate) fn held(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        state.held = bytes;
        if state.phase == Phase::Open && state.bytes + bytes > self.max {
            state.overflow();
            return true;
        }
        false
    }

    /// For the task: it needs nothing more; everything that waits is dropped.
    pub(crate) fn end(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            state.bytes = 0;
            state.held = 0;
            state.inbound = 0;
            (
                std::mem::take(&mut state.frames),
                std::mem::take(&mut state.events),
            )
        };
        drop(dropped);
    }
}

impl<E> State<E> {
    fn remember(&mut self, waker: &Waker) {
        match &self.waker {
            Some(w) if w.will_wake(waker) => {}
            _ => self.waker = Some(waker.clone()),
        }
    }

    fn overflow(&mut self) {
        self.frames = VecDeque::new();
        self.events = Vec::new();
        self.inbound = 0;
        self.bytes = 0;
        self.phase = Phase::Slow;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Batch;
    use super::*;
    use gb6_core_obs::invariant::counted;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rest(batch: &Batch) -> Vec<u8> {
        batch.pieces().flatten().copied().collect()
    }

    fn take<E>(outbox: &Outbox<E>, batch: &mut Batch) -> (Vec<(usize, E)>, Phase) {
        let taken = outbox.take(Waker::noop());
        batch.append(taken.frames);
        (taken.events, taken.phase)
    }

    #[test]
    fn one_wake_for_a_batch_and_memory_back_when_written() {
        let outbox: Outbox<u8> = Outbox::new(1000);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        outbox.take(&Waker::from(count.clone()));
        for _ in 0..10 {
            assert_eq!(
                outbox.push(Bytes::from_static(b"0123456789")),
                Pushed::Queued
            );
        }
        assert_eq!(outbox.event(7), Pushed::Queued);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);

        let mut batch = Batch::default();
        assert_eq!(take(&outbox, &mut batch), (vec![(10, 7)], Phase::Open));
        batch.advance(95);
        assert_eq!(rest(&batch), b"56789");
        assert!(!outbox.held(batch.left()));
        outbox.push(Bytes::from_static(b"next"));
        take(&outbox, &mut batch);
        assert_eq!(rest(&batch), b"56789next");
        batch.advance(9);
        assert!(!outbox.held(batch.left()));
        assert!(batch.is_empty());
        assert_eq!(batch.capacity(), 0);
        assert_eq!(outbox.state.lock().frames.capacity(), 0);
        assert_eq!(outbox.state.lock().held, 0);
    }

    #[test]
    fn what_is_taken_early_leaves_the_rest_in_its_order() {
        let outbox: Outbox<u8> = Outbox::new(1000);
        for event in [1, 2, 3, 4] {
            outbox.push(Bytes::from_static(b"x"));
            outbox.event(event);
        }
        assert_eq!(outbox.take_early(|event| event % 2 == 0), [2, 4]);
        assert_eq!(outbox.take_early(|event| event % 2 == 0), [0; 0]);
        let (events, _) = take(&outbox, &mut Batch::default());
        assert_eq!(events, [(1, 1), (3, 3)]);
    }

    #[test]
    fn the_bound_counts_what_is_being_written() {
        let outbox: Outbox<()> = Outbox::new(100);
        let mut batch = Batch::default();
        outbox.push(Bytes::from(vec![1; 40]));
        outbox.push(Bytes::from(vec![2; 40]));
        take(&outbox, &mut batch);
        batch.advance(10);
        assert!(!outbox.held(batch.left()));
        assert_eq!(outbox.push(Bytes::from(vec![3; 30])), Pushed::Queued);
        assert_eq!(outbox.push(Bytes::from(vec![3; 1])), Pushed::Overflowed);
        assert_eq!(outbox.push(Bytes::from(vec![4; 1])), Pushed::Ended);
        assert_eq!(outbox.event(()), Pushed::Ended);
        assert_eq!(outbox.state.lock().bytes, 0);
        assert_eq!(take(&outbox, &mut batch), (Vec::new(), Phase::Slow));
        batch.keep_half_written();
        batch.push(Bytes::from_static(b"\x88\x06\x0b\xc0slow"));
        let mut want = vec![1; 30];
        want.extend_from_slice(b"\x88\x06\x0b\xc0slow");
        assert_eq!(rest(&batch), want);
        assert_eq!(batch.left(), want.len());
    }

    #[test]
    fn more_than_the_bound_is_counted_when_it_is_taken() {
        let outbox: Outbox<()> = Outbox::new(100);
        outbox.push(Bytes::from(vec![1; 100]));
        take(&outbox, &mut Batch::default());
        // As a push would leave it that forgot to look at what is being written.
        let late = Bytes::from(vec![2; 1]);
        outbox.state.lock().bytes = late.len();
        outbox.state.lock().frames.push_back(late);
        let counted = counted();
        take(&outbox, &mut Batch::default());
        assert_eq!(counted.of(Invariant::QueueWithinBound), 1);
    }

    #[test]
    fn what_the_task_makes_itself_counts_too() {
        let outbox: Outbox<()> = Outbox::new(100);
        assert!(!outbox.held(100));
        assert!(outbox.held(101));
        assert_eq!(take(&outbox, &mut Batch::default()).1, Phase::Slow);
    }

    #[test]
    fn events_keep_their_place_among_frames() {
        let outbox: Outbox<char> = Outbox::new(100);
        outbox.event('a');
        outbox.push(Bytes::from_static(b"1"));
        outbox.push(Bytes::from_static(b"2"));
        outbox.event('b');
        outbox.push(Bytes::from_static(b"3"));
        outbox.event('c');
        let (events, phase) = take(&outbox, &mut Batch::default());
        assert_eq!(events, [(0, 'a'), (2, 'b'), (3, 'c')]);
        assert_eq!(phase, Phase::Open);
        outbox.end();
        assert_eq!(outbox.event('d'), Pushed::Ended);
        assert_eq!(take(&outbox, &mut Batch::default()).1, Phase::Ended);
    }

    #[test]
    fn who_only_watches_sees_what_is_urgent_and_takes_nothing() {
        let outbox: Outbox<char> = Outbox::new(100);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let urgent = |event: &char| event.is_uppercase().then_some(*event);
        assert_eq!(outbox.watch(&waker, urgent), None);
        outbox.event('a');
        assert_eq!(outbox.watch(&waker, urgent), None);
        outbox.event('B');
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(outbox.watch(&waker, urgent), Some('B'));
        let (events, _) = take(&outbox, &mut Batch::default());
        assert_eq!(events, [(0, 'a'), (0, 'B')]);
    }

    #[test]
    fn what_comes_by_another_way_is_bounded_until_it_is_taken() {
        let outbox: Outbox<char> = Outbox::new(100);
        assert_eq!(outbox.inbound('a', 60, 100), Pushed::Queued);
        assert_eq!(outbox.inbound('b', 41, 100), Pushed::Refused);
        assert_eq!(outbox.inbound('c', 40, 100), Pushed::Queued);
        let (events, phase) = take(&outbox, &mut Batch::default());
        assert_eq!(events, [(0, 'a'), (0, 'c')]);
        assert_eq!(phase, Phase::Open);
        assert_eq!(outbox.inbound('d', 100, 100), Pushed::Queued);
        outbox.end();
        assert_eq!(outbox.inbound('e', 1, 100), Pushed::Ended);
    }
}
