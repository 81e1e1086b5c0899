//! A shard owner that keeps its rooms in memory: enough of one to test an edge with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{Endpoint, FrameSender, Link, QueueLimits, Stream};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{
    Attached, Class, Deliver, EdgeFrame, HistoryPage, HistoryRemoved, HistoryRequest, Interested,
    LimitShared, LimitWanted, LimitsShared, LimitsWanted, OwnerFrame, OwnersNow, OwnersOpen,
    Person, PrefixFollowed, PrefixRef, Presence, PresenceAnswer, Publication, Publish, Published,
    Purpose, RoomRef, SessionEnd, SessionHere, SessionsWritten, ShardRef, ToEdge, ToOwner, Traced,
    UserAnswer, UserStatusAction, UserStatusAnswer, UserStatusQuery, edges_sum,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::relay::Relay;

/// The rooms of one owner. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Owner {
    state: Arc<Mutex<State>>,
    pub(crate) relay: Relay,
    /// What it tells edges about who owns what.
    pub(crate) owners: Arc<watch::Sender<OwnersNow>>,
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<RoomRef, Vec<Publication>>,
    /// The first kept offset of rooms whose history was removed.
    firsts: BTreeMap<RoomRef, u64>,
    unreadable: Option<String>,
    /// Sessions that have ended.
    ended: BTreeSet<u64>,
    /// Publishes, as they came.
    published: Vec<Publish>,
    edges: BTreeMap<u64, Attachment>,
    attachments: u64,
    /// Who is present, by room and client id.
    present: BTreeMap<RoomRef, BTreeMap<String, Person>>,
    /// Questions about presence that were asked.
    presence_queries: u64,
    /// While this is set nothing is read.
    deaf: bool,
    /// Millionths of every limit that each edge is given; 0: it is not answered.
    share: u32,
    limits_wanted: Vec<LimitWanted>,
    users_reports: usize,
    /// Sessions that are here, by shard, process and session; ends, by process and number.
    sessions: BTreeMap<(u32, u64, u64), SessionHere>,
    ends: BTreeMap<(u64, u64), SessionEnd>,
    /// Publishes are kept and not answered while this is set.
    mute: bool,
    kept: Vec<(u64, Publish)>,
    /// Statuses of users, by their channels.
    statuses: BTreeMap<RoomRef, UserStatusAnswer>,
    /// What questions about them are answered; 0: the status.
    status_error: u32,
    /// Interest in this channel is kept and not answered.
    withheld: Option<String>,
    uninformed: Vec<(u64, RoomRef)>,
    /// Which shard a room is in.
    placement: Snapshot,
}

struct Attachment {
    to: Arc<FrameSender<ToEdge>>,
    interests: BTreeSet<RoomRef>,
    shard: ShardRef,
    node: String,
    /// Instance and name of the users that it has.
    users: BTreeSet<(String, String)>,
    complete_by: u64,
    prefixes: BTreeSet<(String, String)>,
}

impl Attachment {
    /// Whether it wants what is published in a room, which is in this shard.
    fn wants(&self, room: &RoomRef, shard: Option<&ShardRef>) -> bool {
        let mut prefixes = self.prefixes.iter();
        let begins = |(instance, p): &(String, String)| {
            *instance == room.instance && room.channel.starts_with(p)
        };
        let followed = shard == Some(&self.shard) && !room.channel.contains('#');
        self.interests.contains(room) || (followed && prefixes.any(begins))
    }
}

impl Owner {
    /// Serves every link that comes in, until the endpoint is dropped.
    pub(crate) fn serve(&self, endpoint: Endpoint) {
        let owner = self.clone();
        tokio::spawn(async move {
            while let Some(link) = endpoint.accept().await {
                tokio::spawn(owner.clone().link(link));
            }
        });
    }

    /// From now on nothing is read; `false`: everything again.
    pub(crate) fn deafen(&self, deaf: bool) {
        self.state.lock().deaf = deaf;
    }

    /// From now on questions about statuses fail with this code; 0: they are answered.
    pub(crate) fn fail_statuses(&self, code: u32) {
        self.state.lock().status_error = code;
    }

    /// From now on publishes are kept unanswered; `false`: and those that were are answered.
    pub(crate) fn mute(&self, mute: bool) {
        let mut state = self.state.lock();
        state.mute = mute;
        if !mute {
            for (edge, publish) in std::mem::take(&mut state.kept) {
                state.publish(edge, publish);
            }
        }
    }

    /// From now on interest in this channel is kept unanswered; `None`: and what was is answered.
    pub(crate) fn withhold(&self, channel: Option<&str>) {
        let mut state = self.state.lock();
        state.withheld = channel.map(str::to_owned);
        for (edge, room) in std::mem::take(&mut state.uninformed) {
            state.frame(edge, OwnerFrame::Interest(room));
        }
    }

    /// From now on rooms are where this placement has them.
    pub(crate) fn place(&self, placement: Snapshot) {
        self.state.lock().placement = placement;
    }

    /// Prefixes that edges follow, in every shard.
    pub(crate) fn prefixes(&self) -> usize {
        let state = self.state.lock();
        state.edges.values().map(|a| a.prefixes.len()).sum()
    }

    /// Appends a publication as if another edge had sent it.
    pub(crate) fn append(&self, room: &RoomRef, data: Vec<u8>) {
        self.state.lock().append(
            room,
            Publication {
                data: data.into(),
                content_type: 1,
                time: 1_700_000_000_000,
                ..Publication::default()
            },
        );
    }

    /// Lets people be present in a room, as if they were connected to another edge.
    pub(crate) fn present(&self, room: &RoomRef, people: impl IntoIterator<Item = Person>) {
        let mut state = self.state.lock();
        let present = state.present.entry(room.clone()).or_default();
        present.extend(people.into_iter().map(|p| (p.client.clone(), p)));
    }

    /// Client ids of those that are present in a room.
    pub(crate) fn clients(&self, room: &RoomRef) -> Vec<String> {
        let state = self.state.lock();
        let present = state.present.get(room);
        present
            .into_iter()
            .flat_map(|p| p.keys().cloned())
            .collect()
    }

    /// Questions about presence that were asked.
    pub(crate) fn presence_queries(&self) -> u64 {
        self.state.lock().presence_queries
    }

    /// From now on edges are given so many millionths of a limit.
    pub(crate) fn share(&self, parts: u32) {
        self.state.lock().share = parts;
    }

    /// What was asked for of limits.
    pub(crate) fn limits_wanted(&self) -> Vec<LimitWanted> {
        self.state.lock().limits_wanted.clone()
    }

    /// Publishes that wait for an answer.
    pub(crate) fn kept(&self) -> usize {
        self.state.lock().kept.len()
    }

    /// Publishes, as they came.
    pub(crate) fn published(&self) -> Vec<Publish> {
        self.state.lock().published.clone()
    }

    /// The edges that have reported a user, and how often any edge reported anything of users.
    pub(crate) fn edges_of(&self, instance: &str, user: &str) -> (Vec<String>, usize) {
        let state = self.state.lock();
        let user = (instance.to_owned(), user.to_owned());
        let edges = state.edges.values();
        let edges = edges.filter(|a| a.users.contains(&user));
        let names = edges.map(|a| a.node.clone()).collect();
        (names, state.users_reports)
    }

    /// The first offset of a room that is kept, and its newest.
    pub(crate) fn extent(&self, room: &RoomRef) -> (u64, u64) {
        let state = self.state.lock();
        let first = state.firsts.get(room).copied().unwrap_or(1);
        (first, state.rooms.get(room).map_or(0, |r| r.len() as u64))
    }

    /// From now on the log of this channel can not be read; `None`: any can.
    pub(crate) fn unreadable(&self, channel: Option<&str>) {
        self.state.lock().unreadable = channel.map(str::to_owned);
    }

    /// Clients of sessions of whose ends somebody wants to hear.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let state = self.state.lock();
        state.sessions.values().map(|s| s.client.clone()).collect()
    }

    /// The same in one shard.
    pub(crate) fn sessions_in(&self, shard: u32) -> BTreeSet<String> {
        let state = self.state.lock();
        let sessions = state.sessions.iter().filter(|((s, ..), _)| *s == shard);
        sessions.map(|(_, s)| s.client.clone()).collect()
    }

    /// Ends of sessions and subscriptions, in the order of their numbers.
    pub(crate) fn session_ends(&self) -> Vec<SessionEnd> {
        self.state.lock().ends.values().cloned().collect()
    }

    /// Sessions that have ended.
    pub(crate) fn ended(&self) -> BTreeSet<u64> {
        self.state.lock().ended.clone()
    }

    async fn link(self, link: Link) {
        while let Ok((open, stream)) = link.accept_stream().await {
            match open.purpose {
                Some(Purpose::Shard(shard)) => {
                    let node = link.peer().node.as_str().to_owned();
                    tokio::spawn(self.clone().shard(shard, node, stream));
                }
                Some(Purpose::CatchUp(_)) => {
                    tokio::spawn(self.clone().catch_up(stream));
                }
                Some(Purpose::Relay(_)) => {
                    tokio::spawn(self.relay.clone().serve(stream));
                }
                Some(Purpose::Limits(_)) => {
                    tokio::spawn(self.clone().limits(stream));
                }
                Some(Purpose::Owners(open)) => {
                    assert_eq!(open.region, "r");
                    tokio::spawn(tell_owners(self.owners.subscribe(), stream));
                }
                _ => {}
            }
        }
    }

    async fn shard(self, shard: ShardRef, node: String, stream: Stream) {
        let (to, mut from) = stream.split::<ToEdge, ToOwner>(QueueLimits::default());
        let to = Arc::new(to);
        let edge = {
            let mut state = self.state.lock();
            state.attachments += 1;
            let edge = state.attachments;
            state.edges.insert(
                edge,
                Attachment {
                    to,
                    interests: BTreeSet::new(),
                    shard,
                    node,
                    users: BTreeSet::new(),
                    complete_by: 0,
                    prefixes: BTreeSet::new(),
                },
            );
            edge
        };
        while let Ok(Some(frame)) = from.recv().await {
            while self.state.lock().deaf {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if let Some(frame) = frame.frame {
                self.state.lock().frame(edge, frame);
            }
        }
        self.state.lock().edges.remove(&edge);
    }

    async fn limits(self, stream: Stream) {
        let (to, mut from) = stream.split::<LimitsShared, LimitsWanted>(QueueLimits::default());
        while let Ok(Some(question)) = from.recv().await {
            let parts = {
                let mut state = self.state.lock();
                state.limits_wanted.extend(question.limits.clone());
                state.share
            };
            let limits = question.limits.into_iter().map(|wanted| LimitShared {
                instance: wanted.instance,
                user: wanted.user,
                parts,
                valid_ms: 30_000,
                renew_ms: 1_000,
            });
            let answer = LimitsShared {
                limits: limits.collect(),
            };
            if parts > 0 && to.send(Class::Control, answer).await.is_err() {
                return;
            }
        }
    }

    async fn catch_up(self, stream: Stream) {
        let (to, mut from) = stream.split::<HistoryPage, HistoryRequest>(QueueLimits::default());
        while let Ok(Some(request)) = from.recv().await {
            let page = self.state.lock().page(request);
            if to.send(Class::CatchUp, page).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn frame(&mut self, edge: u64, frame: OwnerFrame) {
        match frame {
            OwnerFrame::Attach(_) => self.tell(
                edge,
                EdgeFrame::Attached(Attached {
                    shard_epoch: 1,
                    owner_incarnation: 1,
                    lease_ms: 10_000,
                    credit: 1024,
                    credit_bytes: 16 << 20,
                }),
            ),
            OwnerFrame::Interest(room) if self.withheld.as_ref() == Some(&room.channel) => {
                self.uninformed.push((edge, room));
            }
            OwnerFrame::Interest(room) => {
                let top = self.rooms.get(&room).map_or(0, |r| r.len() as u64);
                if let Some(attachment) = self.edges.get_mut(&edge) {
                    attachment.interests.insert(room.clone());
                }
                self.tell(
                    edge,
                    EdgeFrame::Interested(Interested {
                        room,
                        top,
                        first: 1,
                        generation: 0,
                        erasures: 0,
                    }),
                );
            }
            OwnerFrame::Uninterest(room) => {
                if let Some(attachment) = self.edges.get_mut(&edge) {
                    attachment.interests.remove(&room);
                }
            }
            OwnerFrame::Publish(publish) if self.mute => self.kept.push((edge, publish)),
            OwnerFrame::Publish(publish) => self.publish(edge, publish),
            OwnerFrame::Signal(signal) => {
                let answer = Published {
                    request: signal.request,
                    ..Published::default()
                };
                self.tell(edge, EdgeFrame::Published(answer));
                let deliver = Deliver {
                    room: signal.room,
                    publication: Publication {
                        // The server's own are nobody's.
                        from: (signal.from != Person::default()).then_some(signal.from),
                        data: signal.data,
                        content_type: signal.content_type,
                        ..Publication::default()
                    },
                };
                let all = self.edges.iter();
                let wanted = all.filter(|(_, a)| a.interests.contains(&deliver.room));
                for edge in wanted.map(|(edge, _)| *edge).collect::<Vec<_>>() {
                    self.tell(edge, EdgeFrame::Signal(deliver.clone()));
                }
            }
            OwnerFrame::Renew(renew) => self.tell(edge, EdgeFrame::Renewed(renew)),
            OwnerFrame::PresenceQuery(query) => {
                self.presence_queries += 1;
                let present = self.present.get(&query.room);
                let people = present.into_iter().flat_map(BTreeMap::values);
                let count = people.clone().count() as u32;
                let entries = match query.entries {
                    true => people.take(1000).cloned().collect(),
                    false => Vec::new(),
                };
                self.tell(
                    edge,
                    EdgeFrame::PresenceAnswer(PresenceAnswer {
                        request: query.request,
                        entries,
                        clients: count,
                        users: count,
                        error: 0,
                    }),
                );
            }
            OwnerFrame::Trace(query) => self.tell(
                edge,
                EdgeFrame::Traced(Traced {
                    request: query.request,
                    ..Traced::default()
                }),
            ),
            OwnerFrame::Present(Presence { room, person }) => {
                let people = self.present.entry(room).or_default();
                people.insert(person.client.clone(), person);
            }
            OwnerFrame::Absent(Presence { room, person }) => {
                if let Some(people) = self.present.get_mut(&room) {
                    people.remove(&person.client);
                }
            }
            OwnerFrame::RemoveHistory(wanted) => {
                let top = self.rooms.get(&wanted.room).map_or(0, |r| r.len() as u64);
                let wanted_first = match wanted.first {
                    0 => top + 1,
                    first => first.min(top + 1),
                };
                let first = self.firsts.entry(wanted.room.clone()).or_insert(1);
                *first = wanted_first.max(*first);
                let removed = HistoryRemoved {
                    request: wanted.request,
                    room: wanted.room,
                    first: *first,
                    error: 0,
                };
                self.tell(edge, EdgeFrame::HistoryRemoved(removed));
            }
            OwnerFrame::FollowPrefix(PrefixRef {
                instance,
                prefix,
                request,
            }) => {
                if let Some(attachment) = self.edges.get_mut(&edge) {
                    attachment.prefixes.insert((instance, prefix));
                }
                let followed = PrefixFollowed { request, error: 0 };
                self.tell(edge, EdgeFrame::PrefixFollowed(followed));
            }
            OwnerFrame::UnfollowPrefix(key) => {
                if let Some(attachment) = self.edges.get_mut(&edge) {
                    attachment.prefixes.remove(&(key.instance, key.prefix));
                }
            }
            OwnerFrame::SessionEnded(ended) => {
                self.ended.insert(ended.session);
            }
            OwnerFrame::PresenceSet(_) => {}
            OwnerFrame::UsersHere(report) => {
                self.users_reports += 1;
                if let Some(attachment) = self.edges.get_mut(&edge) {
                    for change in report.changes {
                        let user = (change.instance, change.user);
                        let known = match change.left {
                            true => attachment.users.remove(&user),
                            false => attachment.users.insert(user),
                        };
                        assert!(known, "told twice");
                    }
                    attachment.complete_by = attachment.complete_by.max(report.complete_by);
                }
            }
            OwnerFrame::Sessions(report) => {
                let Some(shard) = self.edges.get(&edge).map(|a| a.shard.shard) else {
                    return;
                };
                let key = |session| (shard, report.process, session);
                for here in report.here {
                    self.sessions.insert(key(here.session), here);
                }
                for session in report.elsewhere {
                    self.sessions.remove(&key(session));
                }
                let numbers: Vec<u64> = report.ended.iter().map(|end| end.number).collect();
                for end in report.ended {
                    if self
                        .ends
                        .insert((report.process, end.number), end.clone())
                        .is_none()
                        && end.channel.is_empty()
                    {
                        self.sessions.remove(&key(end.of.session));
                    }
                }
                if !numbers.is_empty() {
                    let written = SessionsWritten {
                        numbers,
                        moved: Vec::new(),
                    };
                    self.tell(edge, EdgeFrame::SessionsWritten(written));
                }
            }
            OwnerFrame::UserStatus(query) => {
                let answer = self.status(query);
                self.tell(edge, EdgeFrame::UserStatusAnswer(answer));
            }
            OwnerFrame::UserQuery(query) => {
                let shard = self.edges.get(&edge).map(|a| a.shard.shard);
                let all = self.edges.values().filter(|a| Some(a.shard.shard) == shard);
                let reported = all.clone().filter(|a| a.complete_by == query.revision);
                let user = (query.instance, query.user);
                let answer = UserAnswer {
                    request: query.request,
                    edges: all
                        .filter(|a| a.users.contains(&user))
                        .map(|a| a.node.clone())
                        .collect(),
                    reported: reported.clone().count() as u32,
                    reported_sum: edges_sum(reported.map(|a| a.node.as_str())),
                };
                self.tell(edge, EdgeFrame::UserAnswer(answer));
            }
        }
    }

    /// At the time 5.
    fn status(&mut self, query: UserStatusQuery) -> UserStatusAnswer {
        let answer = UserStatusAnswer {
            request: query.request,
            error: self.status_error,
            ..UserStatusAnswer::default()
        };
        if answer.error != 0 {
            return answer;
        }
        match query.action() {
            UserStatusAction::Get => {
                let known = self.statuses.get(&query.room).cloned().unwrap_or_default();
                return UserStatusAnswer {
                    request: query.request,
                    ..known
                };
            }
            UserStatusAction::Delete => drop(self.statuses.remove(&query.room)),
            _ => {
                let known = self.statuses.entry(query.room).or_default();
                known.active = 5;
                if !query.state.is_empty() {
                    known.state = query.state;
                }
            }
        }
        answer
    }

    fn publish(&mut self, edge: u64, publish: Publish) {
        let time = 1_700_000_000_000;
        self.published.push(publish.clone());
        let top = self.rooms.get(&publish.room).map_or(0, |r| r.len() as u64);
        if publish.next_after > 0 && publish.next_after != top + 1 {
            let late = Published {
                request: publish.request,
                error: 112,
                ..Published::default()
            };
            return self.tell(edge, EdgeFrame::Published(late));
        }
        let nobody = publish.from.user.is_empty() && publish.from.client.is_empty();
        let offset = self.append(
            &publish.room,
            Publication {
                time,
                from: (!nobody).then_some(publish.from),
                data: publish.data,
                content_type: publish.content_type,
                tags: publish.tags,
                ..Publication::default()
            },
        );
        self.tell(
            edge,
            EdgeFrame::Published(Published {
                request: publish.request,
                offset,
                time,
                ..Published::default()
            }),
        );
    }

    fn append(&mut self, room: &RoomRef, mut publication: Publication) -> u64 {
        let log = self.rooms.entry(room.clone()).or_default();
        publication.offset = log.len() as u64 + 1;
        log.push(publication.clone());
        let offset = publication.offset;
        let deliver = EdgeFrame::Deliver(Deliver {
            room: room.clone(),
            publication,
        });
        let shard = self.shard_of(room);
        for attachment in self.edges.values() {
            if attachment.wants(room, shard.as_ref()) {
                let frame = ToEdge {
                    frame: Some(deliver.clone()),
                };
                // An edge whose link is cut misses it, and finds it in the log later.
                let _ = attachment.to.try_send(frame.class(), frame);
            }
        }
        offset
    }

    fn shard_of(&self, room: &RoomRef) -> Option<ShardRef> {
        let instance = room.instance.as_str().into();
        let (region, shard) = self.placement.shard_of(&instance, &room.channel)?;
        Some(ShardRef {
            region: region.to_owned(),
            shard: shard.0,
        })
    }

    fn page(&self, request: HistoryRequest) -> HistoryPage {
        if self.unreadable.as_ref() == Some(&request.room.channel) {
            return HistoryPage {
                request: request.request,
                error: 1002,
                ..HistoryPage::default()
            };
        }
        let empty = Vec::new();
        let log = self.rooms.get(&request.room).unwrap_or(&empty);
        let first = self.firsts.get(&request.room).copied().unwrap_or(1);
        let mut publications: Vec<Publication> = log
            .iter()
            .filter(|p| p.offset >= first)
            .filter(|p| request.from_end || (p.offset > request.since) != request.reverse)
            .filter(|p| !request.reverse || request.from_end || p.offset < request.since)
            .cloned()
            .collect();
        if request.reverse {
            publications.reverse();
        }
        publications.truncate(request.limit as usize);
        HistoryPage {
            request: request.request,
            publications,
            top: log.len() as u64,
            first,
            generation: 0,
            error: match !request.reverse && !request.from_end && request.since + 1 < first {
                true => 112,
                false => 0,
            },
        }
    }

    fn tell(&self, edge: u64, frame: EdgeFrame) {
        if let Some(attachment) = self.edges.get(&edge) {
            let frame = ToEdge { frame: Some(frame) };
            // An edge that has just gone takes nothing more.
            let _ = attachment.to.try_send(frame.class(), frame);
        }
    }
}

/// Tells an edge who owns what, at once and whenever that changes.
async fn tell_owners(mut owners: watch::Receiver<OwnersNow>, stream: Stream) {
    let (to, _from) = stream.split::<OwnersNow, OwnersOpen>(QueueLimits::default());
    loop {
        let now = owners.borrow_and_update().clone();
        if to.send(Class::Control, now).await.is_err() || owners.changed().await.is_err() {
            return;
        }
    }
}
