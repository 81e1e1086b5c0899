//! What an edge's driver does about revocations, and the application, which revokes by the API of
//! some edge.

use std::collections::{BTreeMap, VecDeque};

use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::mesh::{Publication, RoomRef};
use gb6_edge_session::{
    Answer, HistoryAnswer, HistoryQuery, HubRequest, Request, Revocation, RevocationFollower,
    RevocationRead, RevocationUpkeep,
};

use crate::connections::Heard;
use crate::tokens::Token;
use crate::world::{Work, World, room};

/// How long a token waits until the newest revocations are known, in ms.
const PATIENCE_MS: u64 = 1_000;
/// For how long expired revocations stay, in ms: in a run all clocks are one.
const GRACE_MS: i64 = 300;
/// Records that the log may have beyond twice what is revoked: none, so that it is often written anew.
const SPARE: u64 = 0;
/// Between two times at which an edge makes the log small, in ms.
const UPKEEP_MS: u64 = 3_000;

/// What an edge does with the log, one thing after the other.
enum Step {
    /// It reads what is new.
    Look(RevocationRead),
    /// It removes what has expired; what is then to be written anew, behind which record.
    Remove(RevocationUpkeep, u64),
    /// It reads what is to be written anew.
    Oldest(u64),
    /// It writes one anew; these are still to be looked at.
    Anew(VecDeque<Publication>),
}

/// How an edge follows the revocations of the instance.
pub(crate) struct Following {
    pub(crate) follower: RevocationFollower,
    /// The number by which it asks the hub.
    pub(crate) session: u64,
    next_token: u64,
    /// What goes on with the log, and the request that is not answered.
    step: Option<(u64, Step)>,
    upkeep_at: u64,
    look_at: u64,
    /// Something has happened since the read began: another follows at once.
    rung: bool,
    /// Revocations that were sent by the API here and not answered, by request.
    sent: BTreeMap<u64, Revocation>,
    /// The last offset that a page has brought.
    pub(crate) seen: u64,
    /// Tokens that wait: until when, for which connection's request.
    tokens: Vec<(u64, u64, u32, Token)>,
}

impl Following {
    pub(crate) fn new(session: u64) -> Self {
        Self {
            follower: RevocationFollower::with_grace(RevocationFollower::ENTRIES_MAX, GRACE_MS),
            session,
            next_token: 1,
            step: None,
            upkeep_at: 0,
            look_at: 0,
            rung: false,
            sent: BTreeMap::new(),
            seen: 0,
            tokens: Vec::new(),
        }
    }

    /// There may be something new.
    pub(crate) fn ring(&mut self) {
        self.rung = true;
    }
}

impl World {
    // What a driver does.

    /// Looks at the log of revocations where that is due, and lets tokens in that waited for long.
    pub(crate) fn tick_following(&mut self, edge: usize) {
        let now = self.now;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let following = &mut running.following;
        let due = following.tokens.extract_if(.., |(until, ..)| *until <= now);
        let due: Vec<_> = due.collect();
        if following.step.is_none() && (following.rung || following.look_at <= now) {
            following.rung = false;
            let read = following.follower.begin();
            self.look(edge, read);
        }
        for (_, connection, request, token) in due {
            self.hears(edge, connection, Heard::Verified(request, token));
        }
    }

    fn look(&mut self, edge: usize, read: RevocationRead) {
        if let Some(running) = &mut self.edges[edge].up {
            let query = running.following.follower.query();
            self.begin_step(edge, Request::History(query), Step::Look(read));
        }
    }

    fn begin_step(&mut self, edge: usize, request: Request, step: Step) {
        let token = self.ask_revoked(edge, request);
        if let Some(running) = &mut self.edges[edge].up {
            running.following.step = Some((token, step));
        }
    }

    /// Asks the shard of the system channel; the number of the request.
    fn ask_revoked(&mut self, edge: usize, request: Request) -> u64 {
        let now = self.now;
        let Some(running) = &mut self.edges[edge].up else {
            return 0;
        };
        let (token, session) = (running.following.next_token, running.following.session);
        running.following.next_token += 1;
        let request = HubRequest {
            token,
            session: SessionId(session),
            room: revoked_room(),
            request,
        };
        self.with_hub(edge, |running, ears| {
            running.hub.request(now, &session, request, ears);
        });
        token
    }

    /// The hub answers what was asked about revocations.
    pub(crate) fn followed(&mut self, edge: usize, token: u64, answer: Answer) {
        let now = self.now;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let following = &mut running.following;
        if let Some(revocation) = following.sent.remove(&token) {
            // It need not wait until it is told.
            following.rung = true;
            return self.revoked(revocation, &answer);
        }
        let Some((_, step)) = following.step.take_if(|(asked, _)| *asked == token) else {
            return;
        };
        let read = match step {
            Step::Look(read) => read,
            step => return self.kept_up(edge, step, answer),
        };
        let page = match answer {
            Answer::History(page) => self.page(edge, &page, read),
            _ => Err(ErrorCode::Internal),
        };
        match page {
            Ok(Some(read)) => self.look(edge, read),
            Ok(None) => self.look_in(edge, now + RevocationFollower::LOOK_MS),
            Err(_) => {
                if let Some(running) = &mut self.edges[edge].up {
                    running.following.follower.lost();
                }
                self.look_in(edge, now + RevocationFollower::RETRY_MS);
            }
        }
    }

    /// A page of the log; the read that goes on with the next one.
    fn page(
        &mut self,
        edge: usize,
        page: &HistoryAnswer,
        mut read: RevocationRead,
    ) -> Result<Option<RevocationRead>, ErrorCode> {
        let (now, unix_ms) = (self.now, self.unix());
        let Some(running) = &mut self.edges[edge].up else {
            return Err(ErrorCode::Internal);
        };
        let taken = running.following.follower.page(page, unix_ms)?;
        assert!(
            taken.unreadable.is_empty(),
            "an edge wrote what no edge reads"
        );
        if taken.restarts {
            read = running.following.follower.begin();
        }
        if taken.cuts() {
            self.cut_off(edge);
        }
        if let (Some(running), Some(last)) = (&mut self.edges[edge].up, page.publications.last()) {
            running.following.seen = running.following.seen.max(last.offset);
        }
        if taken.more {
            return Ok(Some(read));
        }
        self.opens(edge, read);
        if let Some(running) = &mut self.edges[edge].up
            && running.following.upkeep_at <= now
        {
            running.following.upkeep_at = now + UPKEEP_MS;
            self.upkeep(edge, page.first);
        }
        Ok(None)
    }

    /// Makes the log small, which begins at `first` and is applied to its end.
    fn upkeep(&mut self, edge: usize, first: u64) {
        let (unix_ms, instance_epoch) = (self.unix(), self.instance_epoch(edge));
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let follower = &mut running.following.follower;
        let wanted = follower.upkeep(first, unix_ms, SPARE);
        let top = follower.applied();
        let Some(first) = wanted.remove_below else {
            return self.oldest(edge, wanted, top);
        };
        self.ledger.removed += 1;
        let removal = Request::RemoveHistory {
            instance_epoch,
            first: Some(first),
        };
        self.begin_step(edge, removal, Step::Remove(wanted, top));
    }

    /// Reads what is to be written anew, if anything is.
    fn oldest(&mut self, edge: usize, wanted: RevocationUpkeep, top: u64) {
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        if let Some(behind) = wanted.write_anew_behind {
            let query = HistoryQuery {
                since: (behind > 0).then_some(behind),
                ..running.following.follower.query()
            };
            self.begin_step(edge, Request::History(query), Step::Oldest(top));
        }
    }

    /// Writes anew what of these is needed, behind the record at `end`.
    fn anew(&mut self, edge: usize, mut rest: VecDeque<Publication>, end: u64) {
        while let Some(oldest) = rest.pop_front() {
            let Some(running) = &mut self.edges[edge].up else {
                return;
            };
            if let Some(revocation) = running.following.follower.anew(&oldest) {
                let publish = revocation.to_publish(self.instance_epoch(edge), Some(end));
                return self.begin_step(edge, publish, Step::Anew(rest));
            }
        }
    }

    /// A step of that is answered. Where one is not done, the next time is another one.
    fn kept_up(&mut self, edge: usize, step: Step, answer: Answer) {
        match (step, answer) {
            (Step::Remove(wanted, top), Answer::HistoryRemoved) => self.oldest(edge, wanted, top),
            (Step::Oldest(top), Answer::History(page)) if page.error.is_none() => {
                self.anew(edge, page.publications.iter().cloned().collect(), top);
            }
            (Step::Anew(rest), Answer::Published(published)) => {
                self.ledger.anew += 1;
                self.anew(edge, rest, published.offset);
            }
            _ => {}
        }
    }

    /// Cuts off whom the log names: before anything that waits for them.
    fn cut_off(&mut self, edge: usize) {
        let unix_ms = self.unix();
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let mut cut = Vec::new();
        for (connection, connected) in &mut running.sessions {
            let identity = connected.token.as_ref().map(|t| t.identity(*connection));
            let follower = &running.following.follower;
            let why = identity.and_then(|i| follower.verdict(&i, unix_ms));
            if let Some(why) = why {
                connected.outbox.clear();
                connected.waiting = None;
                cut.push((*connection, why));
            }
        }
        for (connection, why) in cut {
            self.ledger.cut += 1;
            self.with_session(edge, connection, |session, cx, out| {
                session.shutdown(cx, why, out);
            });
        }
    }

    /// Everything is known, unless the way was lost meanwhile: what waited for that goes on.
    fn opens(&mut self, edge: usize, read: RevocationRead) {
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        if !running.following.follower.finished(read) {
            return;
        }
        for (_, connection, request, token) in std::mem::take(&mut running.following.tokens) {
            self.hears(edge, connection, Heard::Verified(request, token));
        }
        for connection in self.connections(edge) {
            self.work.push_back(Work::Take(edge, connection));
        }
    }

    fn look_in(&mut self, edge: usize, at: u64) {
        if let Some(running) = &mut self.edges[edge].up {
            running.following.look_at = at;
        }
    }

    /// A token is good: it is held against what is revoked, once that is known.
    pub(crate) fn verify(&mut self, edge: usize, connection: u64, request: u32, text: &str) {
        let until = self.now + PATIENCE_MS;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let Some(token) = Token::parse(text) else {
            panic!("{text:?} is no token of this world");
        };
        if running.following.follower.is_current() {
            return self.judge(edge, connection, request, token);
        }
        let waits = (until, connection, request, token);
        running.following.tokens.push(waits);
    }

    // What the application does.

    /// It revokes something by the API of some edge.
    pub(crate) fn revoke(&mut self) {
        let edge = self.rng.range(0, 2) as usize;
        let at = self.rng.range(0, self.clients.len() as u64) as usize;
        let (unix_ms, kind) = (self.unix(), self.rng.range(0, 4));
        let until = unix_ms + self.rng.range(500, 6_000) as i64;
        let long = self.rng.range(0, 20_000) as i64;
        let client = &self.clients[at];
        let user = client.user.clone();
        let revocation = match (kind, &client.token) {
            (0, Some(token)) => Revocation::of_token(token.key(), until + long),
            (0 | 1, _) => Revocation::UserTokens {
                user,
                before: unix_ms,
                until: until + long,
            },
            (2, _) => Revocation::Block {
                user,
                until: Some(until),
            },
            _ => Revocation::Unblock { user },
        };
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        if !running.following.follower.has_room(&revocation, unix_ms) {
            return;
        }
        self.ledger.is_tried(&revocation);
        let publish = revocation.to_publish(self.instance_epoch(edge), None);
        let token = self.ask_revoked(edge, publish);
        if let Some(running) = &mut self.edges[edge].up {
            running.following.sent.insert(token, revocation);
        }
    }

    fn instance_epoch(&self, edge: usize) -> InstanceEpoch {
        let placed = self.edges[edge].kept.instances.values().next();
        placed.map_or_else(Default::default, |instance| instance.epoch)
    }

    /// It is told what became of that.
    fn revoked(&mut self, revocation: Revocation, answer: &Answer) {
        let Answer::Published(published) = answer else {
            return;
        };
        let (now, offset) = (self.now, published.offset);
        self.ledger.is_durable(revocation, now, offset);
    }
}

/// The system channel.
pub(crate) fn revoked_room() -> RoomRef {
    room(RevocationFollower::CHANNEL)
}
