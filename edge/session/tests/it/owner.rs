//! A naive shard owner: a list of publications per room, a batch that is committed as a whole, and
//! the rules of the mesh protocol checked on everything that an edge says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::*;

pub(crate) const LEASE_MS: u64 = 3_000;
pub(crate) const CREDIT: u32 = 4;
pub(crate) const PAGE_MAX: usize = 3;

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) first: u64,
    pub(crate) publications: Vec<Publication>,
    /// Offsets that were erased, in order, with what they were.
    pub(crate) erased: Vec<(u64, bytes::Bytes)>,
    /// How many of them by earlier lives of the owner.
    erased_before: usize,
}

impl Log {
    pub(crate) fn top(&self) -> u64 {
        self.publications.len() as u64
    }

    /// What was written at this offset, erased or not.
    pub(crate) fn original(&self, offset: u64) -> &bytes::Bytes {
        let erased = self.erased.iter().find(|(o, _)| *o == offset);
        let now = &self.publications[offset as usize - 1].data;
        erased.map_or(now, |(_, data)| data)
    }

    fn erasures(&self) -> u64 {
        (self.erased.len() - self.erased_before) as u64
    }

    /// Offsets that the owner had erased when it named this count in its present life.
    pub(crate) fn erased_by(&self, erasures: u64) -> impl Iterator<Item = u64> {
        let count = self.erased_before + erasures as usize;
        self.erased[..count].iter().map(|(offset, _)| *offset)
    }
}

type NumberKey = (u64, u64, RoomRef);

/// A publish that waits for the commit: who must be answered, and the publish.
struct InBatch {
    attachment: u64,
    incarnation: u64,
    publish: Publish,
}

/// The owner of one shard, its log, and the link to one edge.
#[derive(Default)]
pub(crate) struct Owner {
    pub(crate) logs: BTreeMap<RoomRef, Log>,
    /// What each numbered publish became, as long as the edge may ask, and the highest number.
    numbers: BTreeMap<NumberKey, (BTreeMap<u64, u64>, u64)>,
    /// When each incarnation was last heard.
    heard: BTreeMap<u64, u64>,
    ended: BTreeSet<u64>,
    batch: Vec<InBatch>,
    epoch: u64,
    /// Counts attachments.
    attachment: u64,
    attached: Option<u64>,
    interests: BTreeSet<RoomRef>,
    /// By instance.
    unanswered: BTreeMap<String, u32>,
    pub(crate) present: BTreeSet<(RoomRef, String)>,
    parts: BTreeSet<(RoomRef, String)>,
    /// Frames on their way, by class.
    to_edge: BTreeMap<Class, VecDeque<EdgeFrame>>,
    pub(crate) to_owner: VecDeque<OwnerFrame>,
    pub(crate) asked: VecDeque<HistoryRequest>,
    pub(crate) pages: VecDeque<HistoryPage>,
    /// Sessions that are known to have ended.
    pub(crate) sessions_ended: BTreeSet<u64>,
    pub(crate) history_reads: usize,
    /// Users that the edge has reported on this link, and whether all.
    pub(crate) users: BTreeSet<(String, String)>,
    pub(crate) users_complete: bool,
    /// Sessions of whose ends somebody wants to hear, and those named since the edge attached.
    pub(crate) sessions: BTreeSet<u64>,
    sessions_named: BTreeSet<u64>,
    /// Ends that are written, by their numbers, and those that have no answer yet.
    pub(crate) ends: BTreeMap<u64, SessionEnd>,
    pub(crate) ends_unanswered: Vec<u64>,
    /// Data of all signals that came.
    pub(crate) signals: BTreeSet<bytes::Bytes>,
}

impl Owner {
    fn say(&mut self, frame: EdgeFrame) {
        let class = ToEdge {
            frame: Some(frame.clone()),
        }
        .class();
        self.to_edge.entry(class).or_default().push_back(frame);
    }

    /// The next frame for the edge: of the highest class that waits.
    pub(crate) fn next(&mut self) -> Option<EdgeFrame> {
        self.to_edge.values_mut().find_map(VecDeque::pop_front)
    }

    /// Both streams break: what is on its way is lost.
    pub(crate) fn break_link(&mut self) {
        self.attached = None;
        self.users.clear();
        self.users_complete = false;
        self.sessions_named.clear();
        self.ends_unanswered.clear();
        self.interests.clear();
        self.to_edge.clear();
        self.to_owner.clear();
        self.asked.clear();
        self.pages.clear();
        self.unanswered.clear();
    }

    /// The owner dies: what was not committed is lost, leases begin anew.
    pub(crate) fn restart(&mut self, now: u64) {
        self.break_link();
        self.batch.clear();
        self.epoch += 1;
        self.present.clear();
        for log in self.logs.values_mut() {
            log.erased_before = log.erased.len();
        }
        for heard in self.heard.values_mut() {
            *heard = now;
        }
    }

    pub(crate) fn expire(&mut self, now: u64) {
        let gone: Vec<u64> = self
            .heard
            .iter()
            .filter(|(_, heard)| now >= **heard + LEASE_MS)
            .map(|(incarnation, _)| *incarnation)
            .collect();
        for incarnation in gone {
            self.heard.remove(&incarnation);
            self.ended.insert(incarnation);
            self.numbers.retain(|(i, _, _), _| *i != incarnation);
            if self.attached == Some(incarnation) {
                self.attached = None;
                self.interests.clear();
                self.say(EdgeFrame::Refused(Refused {
                    reason: RefusedReason::LeaseEnded.into(),
                    ..Refused::default()
                }));
            }
        }
    }

    /// Answers the ends of sessions that it was told of.
    pub(crate) fn answer_ends(&mut self) {
        let numbers = std::mem::take(&mut self.ends_unanswered);
        if !numbers.is_empty() {
            self.say(EdgeFrame::SessionsWritten(SessionsWritten {
                numbers,
                moved: Vec::new(),
            }));
        }
    }

    /// Takes one frame of the edge.
    pub(crate) fn take(&mut self, now: u64) {
        let Some(frame) = self.to_owner.pop_front() else {
            return;
        };
        if let OwnerFrame::Attach(attach) = frame {
            return self.attach(now, attach);
        }
        let Some(incarnation) = self.attached else {
            return;
        };
        match frame {
            OwnerFrame::Attach(_) => unreachable!(),
            OwnerFrame::Publish(publish) => self.publish(incarnation, publish),
            OwnerFrame::Signal(signal) => self.signal(signal),
            OwnerFrame::Interest(room) => {
                let log = self.logs.entry(room.clone()).or_default();
                let (top, first) = (log.top(), log.first.max(1));
                let erasures = log.erasures();
                self.interests.insert(room.clone());
                self.say(EdgeFrame::Interested(Interested {
                    room,
                    top,
                    first,
                    generation: 0,
                    erasures,
                }));
            }
            OwnerFrame::Uninterest(room) => {
                assert!(self.interests.remove(&room), "interest that was not there");
            }
            OwnerFrame::Present(p) => {
                assert!(self.present.insert((p.room, p.person.client)));
            }
            OwnerFrame::Absent(p) => {
                assert!(self.present.remove(&(p.room, p.person.client)));
            }
            OwnerFrame::PresenceSet(set) => {
                let named = set.entries.into_iter().map(|p| (p.room, p.person.client));
                self.parts.extend(named);
                if set.last {
                    self.present = std::mem::take(&mut self.parts);
                }
            }
            OwnerFrame::PresenceQuery(q) => {
                let there = self.present.iter().filter(|(room, _)| *room == q.room);
                let clients = there.count() as u32;
                self.say(EdgeFrame::PresenceAnswer(PresenceAnswer {
                    request: q.request,
                    clients,
                    users: clients,
                    error: 0,
                    entries: Vec::new(),
                }));
            }
            OwnerFrame::FollowPrefix(_) | OwnerFrame::UnfollowPrefix(_) => {
                unreachable!("nobody follows prefixes in this model")
            }
            OwnerFrame::Renew(renew) => {
                self.heard.insert(incarnation, now);
                self.say(EdgeFrame::Renewed(renew));
            }
            OwnerFrame::UsersHere(report) => {
                for change in report.changes {
                    let user = (change.instance, change.user);
                    match change.left {
                        true => assert!(self.users.remove(&user), "it was not told"),
                        false => assert!(self.users.insert(user), "it was told twice"),
                    }
                }
                self.users_complete |= report.complete_by > 0;
            }
            OwnerFrame::Sessions(report) => {
                assert_ne!(report.process, 0);
                self.sessions
                    .extend(report.here.iter().map(|here| here.session));
                self.sessions_named
                    .extend(report.here.iter().map(|here| here.session));
                if report.complete {
                    let named = std::mem::take(&mut self.sessions_named);
                    self.sessions.retain(|session| named.contains(session));
                }
                for end in report.ended {
                    if end.channel.is_empty() {
                        self.sessions.remove(&end.of.session);
                    }
                    let written = self.ends.insert(end.number, end.clone());
                    assert!(written.is_none_or(|before| before == end));
                    self.ends_unanswered.push(end.number);
                }
                assert!(self.ends_unanswered.len() <= SESSION_ENDS_UNANSWERED_MAX);
            }
            OwnerFrame::UserQuery(q) => self.say(EdgeFrame::UserAnswer(UserAnswer {
                request: q.request,
                edges: Vec::new(),
                reported: u32::from(self.users_complete),
                reported_sum: 0,
            })),
            OwnerFrame::UserStatus(q) => {
                self.say(EdgeFrame::UserStatusAnswer(UserStatusAnswer {
                    request: q.request,
                    ..UserStatusAnswer::default()
                }));
            }
            OwnerFrame::SessionEnded(ended) => {
                self.sessions_ended.insert(ended.session);
                self.numbers.retain(|(_, s, _), _| *s != ended.session);
            }
            OwnerFrame::RemoveHistory(q) => {
                let log = self.logs.entry(q.room.clone()).or_default();
                log.first = log.top() + 1;
                let first = log.first;
                self.say(EdgeFrame::HistoryRemoved(HistoryRemoved {
                    request: q.request,
                    room: q.room,
                    first,
                    error: 0,
                }));
            }
            OwnerFrame::Trace(q) => self.say(EdgeFrame::Traced(Traced {
                request: q.request,
                shard: 3,
                shard_epoch: self.epoch,
                sync_us: 11,
                batch: 2,
                error: 0,
            })),
        }
    }

    fn attach(&mut self, now: u64, attach: Attach) {
        let incarnation = attach.edge_incarnation;
        assert_ne!(incarnation, 0);
        if self.ended.contains(&incarnation) {
            return self.say(EdgeFrame::Refused(Refused {
                reason: RefusedReason::LeaseEnded.into(),
                ..Refused::default()
            }));
        }
        self.heard.insert(incarnation, now);
        self.attachment += 1;
        self.attached = Some(incarnation);
        self.users.clear();
        self.users_complete = false;
        self.sessions_named.clear();
        self.ends_unanswered.clear();
        self.interests.clear();
        self.parts.clear();
        self.unanswered.clear();
        self.say(EdgeFrame::Attached(Attached {
            shard_epoch: self.epoch,
            owner_incarnation: self.epoch,
            lease_ms: LEASE_MS as u32,
            credit: CREDIT,
            credit_bytes: 1 << 20,
        }));
    }

    /// Hands a signal on at once and answers it.
    fn signal(&mut self, signal: SignalPublish) {
        let instance = signal.room.instance.clone();
        let unanswered = self.unanswered.entry(instance.clone()).or_default();
        *unanswered += 1;
        assert!(*unanswered <= CREDIT, "more unanswered than the credit");
        assert!(
            self.signals.insert(signal.data.clone()),
            "a signal was sent twice"
        );
        if self.interests.contains(&signal.room) {
            self.say(EdgeFrame::Signal(Deliver {
                room: signal.room,
                publication: Publication {
                    data: signal.data,
                    from: Some(signal.from),
                    content_type: signal.content_type,
                    ..Publication::default()
                },
            }));
        }
        self.answer(&instance, signal.request, 0, 0);
    }

    fn publish(&mut self, incarnation: u64, publish: Publish) {
        let instance = publish.room.instance.clone();
        let unanswered = self.unanswered.entry(instance.clone()).or_default();
        *unanswered += 1;
        assert!(*unanswered <= CREDIT, "more unanswered than the credit");
        assert!(publish.number > 0 && publish.settled_below <= publish.number);
        let key = (incarnation, publish.session, publish.room.clone());
        let (written, highest) = self.numbers.entry(key).or_default();
        written.retain(|number, _| *number >= publish.settled_below);
        let highest = *highest;
        if let Some(offset) = written.get(&publish.number).copied() {
            return self.answer(&instance, publish.request, offset, 0);
        }
        let same = |b: &&mut InBatch| {
            b.incarnation == incarnation
                && b.publish.session == publish.session
                && b.publish.room == publish.room
                && b.publish.number == publish.number
        };
        if let Some(waits) = self.batch.iter_mut().find(same) {
            waits.attachment = self.attachment;
            waits.publish.request = publish.request;
            return;
        }
        let of_room = |b: &&InBatch| {
            b.incarnation == incarnation
                && b.publish.session == publish.session
                && b.publish.room == publish.room
        };
        let in_batch = self.batch.iter().filter(of_room).map(|b| b.publish.number);
        if publish.number <= highest.max(in_batch.max().unwrap_or(0)) {
            let unknown = ErrorCode::OutcomeUnknown.code();
            return self.answer(&instance, publish.request, 0, unknown);
        }
        self.batch.push(InBatch {
            attachment: self.attachment,
            incarnation,
            publish,
        });
    }

    fn answer(&mut self, instance: &str, request: u64, offset: u64, error: u32) {
        *self.unanswered.get_mut(instance).unwrap() -= 1;
        self.say(EdgeFrame::Published(Published {
            request,
            offset,
            generation: 0,
            time: 1,
            duplicate: false,
            error,
        }));
    }

    /// The batch is durable.
    pub(crate) fn commit(&mut self) {
        for entry in std::mem::take(&mut self.batch) {
            let InBatch {
                attachment,
                incarnation,
                publish,
            } = entry;
            let offset = self.write(
                &publish.room,
                publish.data.clone(),
                Some(publish.from),
                publish.tags,
            );
            let instance = publish.room.instance.clone();
            let key = (incarnation, publish.session, publish.room);
            // One that was given up may be written after its session has ended.
            if !self.sessions_ended.contains(&publish.session) {
                let (written, highest) = self.numbers.entry(key).or_default();
                written.insert(publish.number, offset);
                *highest = publish.number;
            }
            if self.attached.is_some() && attachment == self.attachment {
                self.answer(&instance, publish.request, offset, 0);
            }
        }
    }

    /// Writes a publication, as if by another edge, and delivers it where there is interest.
    pub(crate) fn write(
        &mut self,
        room: &RoomRef,
        data: bytes::Bytes,
        from: Option<Person>,
        tags: BTreeMap<String, String>,
    ) -> u64 {
        let log = self.logs.entry(room.clone()).or_default();
        let publication = Publication {
            offset: log.top() + 1,
            time: 1,
            data,
            from,
            tags,
            ..Publication::default()
        };
        log.publications.push(publication.clone());
        let offset = publication.offset;
        if self.attached.is_some() && self.interests.contains(room) {
            self.say(EdgeFrame::Deliver(Deliver {
                room: room.clone(),
                publication,
            }));
        }
        offset
    }

    pub(crate) fn erase(&mut self, room: &RoomRef, offset: u64) {
        let log = self.logs.entry(room.clone()).or_default();
        let Some(publication) = log.publications.get_mut(offset as usize - 1) else {
            return;
        };
        if publication.data.is_empty() {
            return;
        }
        log.erased.push((offset, publication.data.clone()));
        publication.erase();
        let erasures = log.erasures();
        if self.attached.is_some() && self.interests.contains(room) {
            self.say(EdgeFrame::Erased(Erased {
                room: room.clone(),
                offset,
                erasures,
            }));
        }
    }

    pub(crate) fn trim(&mut self, room: &RoomRef, first: u64) {
        let log = self.logs.entry(room.clone()).or_default();
        log.first = log.first.max(first.min(log.top() + 1));
    }

    /// Sessions whose publish numbers are kept for the edge's present incarnation.
    pub(crate) fn numbered(&self) -> BTreeSet<u64> {
        let keys = self.numbers.keys();
        keys.filter(|(incarnation, _, _)| Some(*incarnation) == self.attached)
            .map(|(_, session, _)| *session)
            .collect()
    }

    /// Fails to read one page for the edge.
    pub(crate) fn fail_read(&mut self) {
        if let Some(asked) = self.asked.pop_front() {
            self.pages.push_back(HistoryPage {
                request: asked.request,
                error: ErrorCode::Internal.code(),
                ..HistoryPage::default()
            });
        }
    }

    /// Reads one page for the edge.
    pub(crate) fn read(&mut self) {
        let Some(asked) = self.asked.pop_front() else {
            return;
        };
        self.history_reads += 1;
        let log = self.logs.entry(asked.room.clone()).or_default();
        let (first, top) = (log.first.max(1), log.top());
        let mut page = HistoryPage {
            request: asked.request,
            top,
            first,
            ..HistoryPage::default()
        };
        let since = if asked.from_end {
            first - 1
        } else {
            asked.since
        };
        if since + 1 < first {
            page.error = ErrorCode::UnrecoverablePosition.code();
        } else {
            let limit = (asked.limit as usize).min(PAGE_MAX);
            let kept = log.publications.iter().filter(|p| p.offset > since);
            page.publications = kept.take(limit).cloned().collect();
        }
        self.pages.push_back(page);
    }
}
