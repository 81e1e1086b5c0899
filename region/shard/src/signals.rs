//! Signals: what is published in channels that keep nothing, and what a stream is not to keep. The
//! machine checks that the room is owned here and answers; the driver hands the signal to the engine
//! of `Signals`, and what comes from there goes to every edge with interest in the room. One of a
//! stream, which has no other owner, goes to them at once. Nothing of it is remembered.

use gb6_core_model::snapshot::ChannelKind;
use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{
    Deliver, EdgeFrame, Publication, Published, RefusedReason, RoomRef, SignalPublish,
};

use crate::machine::{LinkId, Output, Shard};
use crate::room::RoomIx;

impl Shard {
    /// Takes a signal. It is answered at once, so that the edge's credit alone holds a flood back.
    pub(crate) fn signal(&mut self, link: LinkId, signal: SignalPublish) {
        if signal.data.len() > limits::CLIENT_FRAME_BYTES_MAX {
            return self.refuse(link, RefusedReason::Violation, "a signal out of bounds");
        }
        let error = match self.may_signal(&signal) {
            Ok(()) => 0,
            Err(code) => code.code(),
        };
        let published = Published {
            request: signal.request,
            error,
            ..Published::default()
        };
        self.send(link, EdgeFrame::Published(published));
        if error == 0 {
            self.counters.signals += 1;
            // The server's own are nobody's.
            let nobody = signal.from.user.is_empty() && signal.from.client.is_empty();
            let publication = Publication {
                from: (!nobody).then_some(signal.from),
                data: signal.data,
                content_type: signal.content_type,
                tags: signal.tags,
                ..Publication::default()
            };
            let room = signal.room;
            self.out.push_back(match self.is_signal(&room) {
                true => Output::Signal { room, publication },
                false => Output::Unkept { room, publication },
            });
        }
    }

    fn may_signal(&self, signal: &SignalPublish) -> Result<(), ErrorCode> {
        let rules = self.rules(&signal.room);
        let taken = rules.is_some_and(|r| r.kind == ChannelKind::Signal || signal.unkept);
        if self.serving.is_none() || !taken {
            // An edge with another snapshot thinks that the channel keeps nothing.
            return Err(ErrorCode::OwnerMoving);
        }
        let here = Some(&self.config.shard);
        let epoch = signal.instance_epoch;
        self.ownership
            .check(&signal.room, epoch, &self.snapshot, here)?;
        Ok(())
    }

    fn is_signal(&self, room: &RoomRef) -> bool {
        let rules = self.rules(room);
        rules.is_some_and(|rules| rules.kind == ChannelKind::Signal)
    }

    /// A signal came for a room that this shard follows, or one that its stream does not keep: one
    /// copy to each edge that wants it.
    pub fn signalled(&mut self, room: &RoomRef, publication: &Publication) {
        let edges = self.rooms.find(room).map(|ix| &self.rooms.get(ix).edges);
        let links = edges.into_iter().flatten();
        let links: Vec<LinkId> = links.filter_map(|ix| self.edges.list[*ix].link).collect();
        for link in links {
            let room = room.clone();
            let publication = publication.clone();
            self.send(link, EdgeFrame::Signal(Deliver { room, publication }));
        }
    }

    /// Follows the room's signals as long as an edge wants them.
    pub(crate) fn follow_signals(&mut self, ix: RoomIx) {
        let room = self.rooms.get(ix);
        let wanted = !room.edges.is_empty() && self.is_signal(&room.key);
        let wanted = wanted.then(|| self.status_of(&room.key).is_some());
        let before = room.followed;
        if before == wanted {
            return;
        }
        let key = room.key.clone();
        self.rooms.get_mut(ix).followed = wanted;
        if before.is_some() {
            let room = key.clone();
            self.out.push_back(Output::UnfollowSignals { room });
        }
        if wanted.is_some() {
            let status_of = self.status_of(&key);
            self.out.push_back(Output::FollowSignals {
                room: key,
                status_of,
            });
        }
    }

    /// Whose status a room tells of.
    fn status_of(&self, room: &RoomRef) -> Option<String> {
        self.rules(room).filter(|rules| rules.user_status)?;
        let (_, user) = room.channel.split_once(':')?;
        (!user.is_empty()).then(|| user.to_owned())
    }

    /// Another snapshot may have made other channels of a namespace.
    pub(crate) fn follow_signals_anew(&mut self) {
        let rooms: Vec<RoomIx> = self.rooms.iter().map(|(ix, _)| ix).collect();
        for ix in rooms {
            self.follow_signals(ix);
        }
    }
}
