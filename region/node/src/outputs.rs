//! Carrying out what a shard's machine puts out: frames to edges, pages of history, signals, statuses of
//! users, answers to whoever administers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_mesh::{FrameSender, TrySendError};
use gb6_core_model::{ErrorCode, InstanceId};
use gb6_core_ports::PersonKey;
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage, PresenceAnswer, Publication, ToEdge};
use gb6_region_shard::{HistoryRead, LinkId, Output};
use tokio::time::timeout_at;

use crate::accept::PageReply;
use crate::checks;
use crate::history::{Looked, Reader};
use crate::metrics::ReadsGivenUp;
use crate::places::ReadPlaces;
use crate::recovery::unix_ms;
use crate::worker::Worker;

/// How long a read waits for an index that is being rebuilt, or for the archive. SDKs give up at 5 s.
const READ_WAIT: Duration = Duration::from_secs(4);
/// How often it looks.
const INDEX_POLL: Duration = Duration::from_millis(20);

impl Worker {
    /// Carries out what the machine has put out, and hands on the signals that have come.
    pub(crate) fn flush(&mut self) {
        self.carry_out();
        for (link, answer) in self.statuses.answers() {
            self.send(link, EdgeFrame::UserStatusAnswer(answer));
        }
        loop {
            let signals = self.signals.take();
            if signals.is_empty() {
                return;
            }
            for (room, publication) in signals {
                self.shard.signalled(&room, &publication);
            }
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Send { link, frame } => self.send(link, frame),
                // Dropping the sender ends the stream behind what was queued.
                Output::Close { link } => drop(self.links.remove(&link)),
                Output::Read(read) => self.read(read),
                Output::Page { link, page } => self.reply(link, page),
                Output::Trimmed { room, first } => self.feed.trimmed(room, first),
                Output::Erased { room, offset } => {
                    self.reader.erased.lock().messages.insert((room, offset));
                    self.retained_at = Instant::now()
                        .checked_sub(self.retention_every)
                        .unwrap_or(self.started);
                }
                Output::Signal { room, publication } => {
                    let publication = now(publication);
                    self.shard.signal_sent(&room, &publication);
                    self.signals.send(&room, publication);
                }
                Output::Unkept { room, publication } => {
                    let publication = now(publication);
                    self.shard.signal_sent(&room, &publication);
                    self.shard.signalled(&room, &publication);
                }
                Output::FollowSignals { room, status_of } => {
                    self.signals.follow(&room, true);
                    if let Some(user) = status_of {
                        self.signals.tell_of(&room, user);
                    }
                }
                Output::UnfollowSignals { room } => {
                    self.signals.follow(&room, false);
                    self.signals.tell_no_more(&room);
                }
                Output::UserHere {
                    instance,
                    user,
                    here,
                    ttl_ms,
                } => {
                    let instance = InstanceId::from(instance.as_str());
                    let person = PersonKey { instance, user };
                    self.statuses.here(person, here, ttl_ms, unix_ms());
                }
                Output::Status(asked) => {
                    if let Some((link, refused)) = self.statuses.ask(*asked, unix_ms()) {
                        self.send(link, EdgeFrame::UserStatusAnswer(refused));
                    }
                }
                Output::AdminDone { token, outcome } => {
                    if let Some(done) = self.admins.remove(&token) {
                        // Who asked may have given up.
                        let _ = done.send(outcome);
                    }
                }
                // The loop forms a batch after every turn, and a tick is never far.
                Output::Wake => {}
                Output::Unfounded { offset, head } => checks::unfounded(offset, head),
            }
        }
    }

    fn send(&mut self, link: LinkId, frame: EdgeFrame) {
        let Some(sender) = self.links.get(&link) else {
            return;
        };
        // The first to go where an edge reads slowly: its lane is left to what must not be missing.
        let spare = matches!(frame, EdgeFrame::Signal(_));
        let frame = ToEdge { frame: Some(frame) };
        let sent = match spare {
            true => sender.try_send_spare(frame.class(), frame),
            false => sender.try_send(frame.class(), frame),
        };
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(_)) if spare => self.metrics.signals_dropped.inc(),
            Err(TrySendError::Full(ToEdge {
                frame: Some(EdgeFrame::PresenceAnswer(answer)),
            })) => refuse_presence(sender, answer.request),
            Err(TrySendError::Full(_)) => self.shard.link_lagging(link),
            Err(TrySendError::TooLarge { bytes }) => {
                // The frame alone is lost; its request gets no answer in time and says so.
                tracing::error!(shard = %self.reader.shard, bytes, "a frame is too large for the mesh");
            }
            Err(TrySendError::Closed) => {
                self.links.remove(&link);
                self.shard.link_closed(link);
            }
        }
    }

    fn reply(&mut self, link: LinkId, page: HistoryPage) {
        if let Some(reply) = self.replies.remove(&(link, page.request)) {
            reply.send_soon(page);
        }
    }

    fn read(&mut self, read: HistoryRead) {
        if let Some(page) = self.reader.tail_page(&read) {
            return self.reply(read.link, page);
        }
        let Some(mut reply) = self.replies.remove(&(read.link, read.page.request)) else {
            return;
        };
        let (reader, places) = (self.reader.clone(), self.places.clone());
        let given_up = self.metrics.reads_given_up.clone();
        tokio::spawn(async move {
            let page = read_page(reader, places, read, &mut reply, given_up).await;
            reply.send(page).await;
        });
    }
}

/// An answer about presence did not fit: that question alone fails.
fn refuse_presence(sender: &FrameSender<ToEdge>, request: u64) {
    let refused = ToEdge {
        frame: Some(EdgeFrame::PresenceAnswer(PresenceAnswer {
            request,
            error: ErrorCode::TooManyRequests.code(),
            ..PresenceAnswer::default()
        })),
    };
    // Where not even this fits, the question gets no answer in time and the edge says so.
    let _ = sender.try_send(refused.class(), refused);
}

/// Reads a page off the async threads. While the index does not reach far enough the read waits
/// without holding a place, neither of the shard's nor of its stream's, so that others go on. What lies in the
/// archive is read in places of its own, and only for as long as somebody waits for the answer: the archive
/// may take far longer.
async fn read_page(
    mut reader: Arc<Reader>,
    places: ReadPlaces,
    read: HistoryRead,
    reply: &mut PageReply,
    given_up: ReadsGivenUp,
) -> HistoryPage {
    let deadline = Instant::now() + READ_WAIT;
    let read = Arc::new(read);
    let mut archive = false;
    loop {
        let place = if archive {
            reply.leave_place();
            timeout_at(deadline.into(), places.take(true)).await
        } else {
            reply.take_place().await;
            timeout_at(deadline.into(), places.take(false)).await
        };
        let Ok(Some(place)) = place else {
            given_up.count(archive);
            return give_up(reader, &read);
        };
        let wanted = read.clone();
        let last = Instant::now() >= deadline;
        // The reader comes back where it is needed again: the read may outlive its owner, and closing
        // the log, as whoever holds it last does, blocks. The place is kept for as long as a thread is.
        let looking = tokio::task::spawn_blocking(move || {
            let looked = match reader.read(&wanted, archive) {
                Looked::Page(page) => Ok(page),
                Looked::Later if last => Ok(Reader::failed(&wanted)),
                Looked::Later => Err((reader, archive)),
                Looked::Archived => Err((reader, true)),
            };
            (looked, place)
        });
        let looked = match archive {
            true => timeout_at(deadline.into(), looking).await,
            false => Ok(looking.await),
        };
        let (looked, place) = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                tracing::error!(%error, "a history read failed");
                return Reader::failed(&read);
            }
            Err(_) => {
                given_up.count(archive);
                tracing::warn!(
                    instance = read.room.instance,
                    channel = read.room.channel,
                    low = read.low,
                    high = read.high,
                    "the archive has not answered a read of history in time"
                );
                return Reader::failed(&read);
            }
        };
        // An edge that reads its pages slowly waits for its own place alone.
        drop(place);
        match looked {
            Ok(page) => {
                reply.take_place().await;
                return page;
            }
            Err((again, from_archive)) => {
                reader = again;
                if from_archive && !archive {
                    archive = true;
                    continue;
                }
                reply.leave_place();
                tokio::time::sleep(INDEX_POLL).await;
            }
        }
    }
}

/// The answer of a read that found no place in time.
fn give_up(reader: Arc<Reader>, read: &HistoryRead) -> HistoryPage {
    // As whoever holds the log last closes it, which blocks.
    tokio::task::spawn_blocking(move || drop(reader));
    Reader::failed(read)
}

/// The publication with the wall clock as its time.
fn now(publication: Publication) -> Publication {
    Publication {
        time: unix_ms(),
        ..publication
    }
}
