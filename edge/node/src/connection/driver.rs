//! The task of one connection: reads, lets the session decide, writes, and ends.
//!
//! It is one hand-written future of a few hundred bytes instead of a reader, a writer and a timer:
//! memory and wakeups of an idle connection are what an edge is made of. What waits for it lies in
//! its outbox; bytes pass through buffers that belong to the thread, not to the connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use gb6_core_model::{Disconnect, InstanceId};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Action, Claims, Context, FrameKind, HeldRequests, Session, SessionSeed, id_of_client,
};
use tokio::io::ReadBuf;

use super::actions::client_id;
use super::asking::Shown;
use super::batch::Batch;
use super::carrier::Carrier;
use super::framing::{Framing, Incoming, Verdict};
use super::gather::{Gathered, gather};
use super::handle::{Event, SessionHandle};
use super::transport::{Opening, Transport};
use crate::admission::{Permit, Unproven};
use crate::limits::SessionLimits;
use crate::people::Listed;
use crate::places::Place;
use crate::shards::ShardInbox;
use crate::shared::Shared;
use crate::ws::ping::FramePing;

/// Why a session ended of whose client nothing more was heard.
const CONNECTION_LOST: &str = "connection lost";
/// Bytes read or written at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Bytes read of one connection before others have their turn: of small publishes some hundreds of
/// microseconds of work, so that a flood is as much behind the others as they are behind it.
const READ_AT_ONCE: usize = 64 * 1024;

thread_local! {
    /// Shared by all connections of a thread: nothing in it outlives one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// The connection's future.
pub(crate) struct Connection<C, F: Framing> {
    pub(super) shared: Arc<Shared>,
    carrier: C,
    pub(super) handle: Arc<SessionHandle>,
    pub(super) session: Session,
    pub(super) framing: F,
    pub(super) batch: Batch,
    /// What hubs have delivered before the connect was answered; `None`: nothing.
    #[expect(
        clippy::box_collection,
        reason = "few ever hold any: it is 8 bytes, not 32"
    )]
    pub(super) held: Option<Box<VecDeque<Bytes>>>,
    pub(super) end: End,
    /// Inboxes of the shards that got a request of this session.
    pub(super) asked: Vec<Arc<ShardInbox>>,
    /// The earliest time for which the wheel holds this session.
    pub(super) timer_at: u64,
    /// Since when the client takes nothing of what waits.
    pub(super) stalled_since: Option<u64>,
    /// Whether reading was put off because the session is behind.
    unread: bool,
    /// The client sends no more.
    all_read: bool,
    pub(super) frame_ping: Option<Box<FramePing>>,
    pub(super) origin: Box<Origin>,
    pub(super) place: usize,
    pub(super) dialect: Dialect,
    pub(super) transport: Transport,
    pub(super) unproven: Option<Unproven>,
    /// The limits that it shares with other sessions, once one is wanted.
    pub(super) limits: Option<Arc<SessionLimits>>,
    /// Its place among the sessions of its instance, once a token has named that.
    pub(super) counted: Option<Place>,
    /// Its entry among the sessions of its user.
    pub(super) listed: Option<Listed>,
    /// Whether its connect was answered.
    pub(super) began: bool,
    /// The instance, where the session was reported to it because somebody wants to hear of its end.
    pub(super) reported: Option<InstanceId>,
    /// Its verified token and the verification's number, until the owner of its user's shard has heard
    /// of the user.
    pub(super) arriving: Option<Box<(u32, Claims)>>,
    /// Requests that wait until what is revoked is known; `None`: none do.
    pub(super) waiting: Option<Box<HeldRequests>>,
    _permit: Permit,
}

pub(super) struct Origin {
    /// The key of its client id.
    pub(super) client: [u8; 16],
    pub(super) instance: InstanceId,
    pub(super) foreign: Option<Box<str>>,
    /// What the application's backends are shown of it; `None`: nothing more.
    pub(super) shown: Option<Box<Shown>>,
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It has not begun.
    Open,
    /// The verdict is queued or sent; at this time the connection is cut.
    Closing {
        until: u64,
        /// Nothing more is waited for of the client.
        answered: bool,
        verdict: Verdict,
    },
    /// Nothing more can be said: the connection is dropped.
    Cut { verdict: Verdict },
}

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// The connection over `carrier`, of which `early` was read already.
    pub(crate) fn new(
        shared: Arc<Shared>,
        carrier: C,
        framing: F,
        early: &[u8],
        opening: Opening,
        unproven: Unproven,
        permit: Permit,
    ) -> Self {
        let refused = permit.refused();
        let session = shared.next_session();
        let secret: u128 = rand::random();
        let takes = opening.transport.is_emulated().then_some(opening.dialect);
        let handle = SessionHandle::new(session, secret, takes, shared.config.outbox_bytes);
        let handle = Arc::new(handle);
        shared.opened();
        let place = shared.enter(handle.clone());
        let now_ms = shared.clock.now_ms();
        let frame_ping = opening
            .frame_ping
            .then(|| Box::new(FramePing::new(now_ms, &shared.config.session)));
        let client = client_id();
        let client_key = id_of_client(&client);
        let seed = SessionSeed {
            session,
            secret,
            client,
            dialect: opening.dialect,
            instance: opening.instance.clone(),
            spread: rand::random(),
        };
        let machine = {
            let snapshot = shared.snapshot.load();
            Session::new(
                &Context {
                    now_ms,
                    unix_ms: shared.clock.unix_ms(),
                    snapshot: &snapshot,
                    config: shared.session_config(frame_ping.is_some(), opening.transport),
                    counters: &shared.counters,
                    outbox_bytes: 0,
                    limits: None,
                },
                seed,
            )
        };
        shared
            .metrics
            .sessions
            .with(&[opening.transport.name(), opening.dialect.name()])
            .inc();
        let mut connection = Self {
            batch: Batch::new(framing.envelope()),
            carrier,
            handle,
            session: machine,
            framing,
            held: None,
            end: End::Open,
            asked: Vec::new(),
            timer_at: u64::MAX,
            stalled_since: None,
            unread: false,
            all_read: false,
            frame_ping,
            origin: Box::new(Origin {
                client: client_key,
                instance: opening.instance,
                foreign: opening.foreign_origin,
                shown: opening.headers.map(|headers| Box::new(Shown::of(*headers))),
            }),
            place,
            dialect: opening.dialect,
            transport: opening.transport,
            unproven: Some(unproven),
            counted: None,
            began: false,
            reported: None,
            arriving: None,
            waiting: None,
            limits: None,
            listed: None,
            _permit: permit,
            shared,
        };
        match refused {
            Some(why) => connection.begin_close(now_ms, why.into()),
            None => connection.received(now_ms, early),
        }
        connection
    }

    /// Takes bytes of the client.
    fn received(&mut self, now_ms: u64, mut input: &[u8]) {
        if !F::ANSWERS_CLOSE && self.end != End::Open {
            return;
        }
        loop {
            let message = match self.framing.next(&mut input) {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(verdict) => {
                    if self.end == End::Open {
                        self.input(now_ms, |s, cx, out| {
                            s.shutdown(cx, Disconnect::BadRequest, out);
                            // The framing's own verdict says it better.
                            out.retain(|a| !matches!(a, Action::Close(_)));
                        });
                        self.begin_close(now_ms, verdict);
                    }
                    // What comes behind it can not be read: only the end is waited for.
                    self.framing.forget();
                    return;
                }
            };
            match (message, self.end) {
                (Incoming::Close(code), End::Open) => {
                    self.input(now_ms, |s, cx, out| {
                        s.shutdown(cx, Disconnect::ForceDisconnect, out);
                        out.clear();
                    });
                    let verdict = Verdict {
                        code: code.unwrap_or(1000),
                        reason: "",
                        reconnect: false,
                    };
                    self.begin_close(now_ms, verdict);
                    self.answered();
                    return;
                }
                (Incoming::Close(_), _) => return self.answered(),
                (_, End::Closing { .. } | End::Cut { .. }) => {}
                (Incoming::Text(data), End::Open) => self.commands(now_ms, FrameKind::Text, data),
                (Incoming::Binary(data), End::Open) => {
                    self.commands(now_ms, FrameKind::Binary, data);
                }
                (Incoming::Ping(data), End::Open) => {
                    if let Some(pong) = self.framing.pong(&data) {
                        self.batch.push(pong);
                    }
                }
                (Incoming::Pong, End::Open) => {
                    if let Some(ping) = &mut self.frame_ping {
                        ping.pong();
                    }
                }
            }
        }
    }

    fn commands(&mut self, now_ms: u64, kind: FrameKind, commands: Bytes) {
        self.input(now_ms, |s, cx, out| s.frame(cx, kind, commands, out));
    }

    /// Reads what has come, up to a bound. `false`: the connection is over.
    fn read(&mut self, now_ms: u64, cx: &mut TaskContext<'_>, scratch: &mut [u8]) -> bool {
        let mut read = 0;
        while read < READ_AT_ONCE && !self.all_read {
            // Who does not take replies is not asked for more commands.
            self.unread = self.session.is_behind();
            if self.unread {
                return true;
            }
            let mut buf = ReadBuf::new(scratch);
            match self.carrier.poll_read(cx, &mut buf) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    self.all_read = true;
                    // Who has sent all it will can still read why it is to go, except where it
                    // would have said that it goes.
                    return !F::ANSWERS_CLOSE && self.end != End::Open;
                }
                Poll::Ready(Ok(())) => {
                    read += buf.filled().len();
                    self.shared
                        .metrics
                        .bytes_in
                        .inc_by(buf.filled().len() as u64);
                    self.received(now_ms, buf.filled());
                }
            }
        }
        if !self.all_read {
            cx.waker().wake_by_ref();
        }
        true
    }

    /// Writes what waits. `false`: the connection is over.
    fn write(&mut self, now_ms: u64, cx: &mut TaskContext<'_>, scratch: &mut [u8]) -> bool {
        while !self.batch.is_empty() {
            let written = match gather(&self.batch, scratch) {
                Gathered::Copied(n) => self.carrier.poll_write(cx, &scratch[..n]),
                Gathered::First(first) => self.carrier.poll_write(cx, first),
            };
            match written {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.batch.advance(n);
                    self.stalled_since = None;
                    self.shared.metrics.writes.inc();
                    self.shared.metrics.bytes_out.inc_by(n as u64);
                }
                Poll::Ready(_) => return false,
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now_ms);
                    return true;
                }
            }
        }
        match self.carrier.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.stalled_since = None,
            Poll::Ready(Err(_)) => return false,
            Poll::Pending => {
                self.stalled_since.get_or_insert(now_ms);
            }
        }
        true
    }

    fn run(&mut self, cx: &mut TaskContext<'_>, scratch: &mut [u8]) -> Poll<()> {
        // Before it is connected there is nothing that could be delivered or accepted too early.
        let takes = self.arriving.is_some() || !self.handle.is_held();
        let (taken, ends) = if self.end == End::Open && takes {
            (Some(self.handle.outbox.take(cx.waker())), None)
        } else {
            (None, self.handle.outbox.watch(cx.waker(), Event::ends))
        };
        // Behind that: a timer that found no waker to wake is then seen to be over.
        let now_ms = self.shared.clock.now_ms();
        if let Some(why) = ends {
            self.input(now_ms, |s, cx, out| s.shutdown(cx, why, out));
        } else if let Some(taken) = taken {
            self.take(now_ms, taken);
        } else if self.end == End::Open {
            self.take_failures(now_ms);
        }
        self.tick(now_ms);
        if !self.read(now_ms, cx, scratch) {
            // Whoever closes before reading what it was sent gets no more of it.
            self.leave(0, CONNECTION_LOST);
            return Poll::Ready(());
        }
        let mut others_first = false;
        loop {
            if !self.write(now_ms, cx, scratch) {
                self.leave(0, CONNECTION_LOST);
                return Poll::Ready(());
            }
            if self.end != End::Open {
                break;
            }
            if self.handle.outbox.held(self.waiting()) {
                self.slow(now_ms);
                continue;
            }
            let low = self.shared.config.session.bulk_low_water_bytes;
            if !self.session.wants_drain() || self.batch.left() > low {
                break;
            }
            if others_first {
                cx.waker().wake_by_ref();
                break;
            }
            self.input(now_ms, |s, cx, out| s.drained(cx, out));
            others_first = self.session.is_behind();
            if self.batch.is_empty() && !others_first {
                break;
            }
        }
        if self.unread && !self.session.is_behind() {
            cx.waker().wake_by_ref();
        }
        match self.end {
            End::Cut { verdict } => {
                self.carrier.cut(verdict);
                return Poll::Ready(());
            }
            End::Closing {
                answered: true,
                verdict,
                ..
            } if self.batch.is_empty() && self.carrier.poll_finish(cx, verdict).is_ready() => {
                return Poll::Ready(());
            }
            _ => {}
        }
        self.arm(now_ms);
        Poll::Pending
    }
}

impl<C: Carrier, F: Framing> Future for Connection<C, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        SCRATCH.with_borrow_mut(|scratch| self.run(cx, scratch))
    }
}

impl<C, F: Framing> Drop for Connection<C, F> {
    fn drop(&mut self) {
        self.leave(0, CONNECTION_LOST);
        self.shared.gone();
    }
}
