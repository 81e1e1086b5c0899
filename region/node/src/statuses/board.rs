//! What a shard's task knows of the users that are here, and what it says to the engines.
//!
//! A user that is here is held under a lease, with its state: so others see it while it lasts, also when
//! the shard gets another owner, which learns who is here a moment later. Beside that three values remain
//! for as long as the instance keeps statuses: when the user was active, when it was online, and its state.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use gb6_core_model::{ErrorCode, limits};
use gb6_core_ports::people::STATUS_BATCH_MAX;
use gb6_core_ports::temporary::TEMPORARY_BATCH_MAX;
use gb6_core_ports::{Hold, PersonKey, StoreError, TemporaryKey};
use gb6_core_wire::mesh::{UserStatusAction, UserStatusAnswer};

use super::values::{ACTIVE, ONLINE, STATE, bytes_of, done, key, person, seconds_of};
use super::{Answered, Presence, Question, StatusEngines, Work, not_done, refused};
use crate::metrics::RegionMetrics;
use crate::panics::Panics;

/// How long a user is still here after its last edge has gone: edges come back, and nobody is to be told
/// of the moment between.
const LINGER: Duration = Duration::from_secs(3);
/// When a hold is tried again that the engine did not take.
const AGAIN: Duration = Duration::from_secs(1);
/// How old a question may be. Whoever asked is answered after 4 s at the latest.
const OLD: Duration = Duration::from_secs(3);

pub(super) struct Board {
    engines: StatusEngines,
    holder: String,
    metrics: RegionMetrics,
    panics: Panics,
    /// Who is here, or was a moment ago. Bounded by the users of the shard.
    here: HashMap<PersonKey, Held>,
    /// When which hold is to be renewed; those that are not a person's `due` count no more.
    renewals: VecDeque<(Instant, PersonKey)>,
    /// The same of holds that are new, or that the engine did not take.
    attempts: VecDeque<(Instant, PersonKey)>,
    /// Who left when.
    gone: VecDeque<(Instant, PersonKey)>,
    /// Nobody is held before this: the engine did not take it a moment ago.
    holds_from: Option<Instant>,
    /// Nobody is held or let go before this: it panicked a moment ago.
    rests_until: Option<Instant>,
}

struct Held {
    /// What the user says of itself; `None`: it was not read yet.
    state: Option<Vec<u8>>,
    /// When it is to be held again.
    due: Instant,
    presence: Presence,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.metrics.statuses_held.sub(self.here.len() as i64);
    }
}

impl Board {
    pub(super) fn new(
        engines: StatusEngines,
        holder: String,
        metrics: RegionMetrics,
        panics: Panics,
    ) -> Self {
        Self {
            engines,
            holder,
            metrics,
            panics,
            here: HashMap::new(),
            renewals: VecDeque::new(),
            attempts: VecDeque::new(),
            gone: VecDeque::new(),
            holds_from: None,
            rests_until: None,
        }
    }

    /// Whether something is to be done by now that nobody asks for.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        if self.rests(now) {
            return false;
        }
        let first = |queue: &VecDeque<(Instant, PersonKey)>| queue.front().map(|(at, _)| *at);
        let gone = first(&self.gone).is_some_and(|at| at + LINGER <= now);
        let queues = [&self.attempts, &self.renewals];
        gone || (self.may_hold(now) && queues.into_iter().filter_map(first).any(|at| at <= now))
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    fn may_hold(&self, now: Instant) -> bool {
        self.holds_from.is_none_or(|from| from <= now)
    }

    /// Does what is to be done, a bounded part of it: the answers, and whether more is due. A panic, which is a
    /// defect of ours or of an engine's client, costs those answers that it was about, and a moment.
    pub(super) fn round(&mut self, work: Work, now: Instant) -> (Vec<Answered>, bool) {
        let Work {
            presences,
            questions,
        } = work;
        let asked = questions
            .iter()
            .map(|q| (q.asked.link, q.asked.query.request));
        let asked: Vec<_> = asked.collect();
        let answers = self.guarded(|board| board.answer(questions, now));
        let answers = answers.unwrap_or_else(|| {
            self.count("failed", asked.len());
            let failed = asked.into_iter();
            failed
                .map(|asked| not_done(asked, ErrorCode::Internal))
                .collect()
        });
        for (person, presence) in presences {
            self.presence(person, presence, now);
        }
        if self.rests(now) {
            return (answers, false);
        }
        let more = self.guarded(|board| {
            let left = board.leave(now);
            let renewed = board.hold_due(now);
            left || renewed
        });
        let more = more.unwrap_or_else(|| {
            self.resume(now);
            false
        });
        (answers, more)
    }

    /// `None`: it panicked, which was reported where it happened.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        if done.is_err() {
            self.panics.count("statuses");
            tracing::error!(
                holder = self.holder,
                "what keeps statuses of users panicked, which is a defect; it goes on"
            );
        }
        done.ok()
    }

    /// Goes on after a panic, in a moment: whoever is not in a queue was just worked on, and is put back.
    fn resume(&mut self, now: Instant) {
        let again = now + AGAIN;
        self.rests_until = Some(again);
        let queued = |queue: &VecDeque<(Instant, PersonKey)>| -> HashSet<(Instant, PersonKey)> {
            queue.iter().cloned().collect()
        };
        let (mut to_hold, gone) = (queued(&self.attempts), queued(&self.gone));
        to_hold.extend(queued(&self.renewals));
        for (person, held) in &mut self.here {
            if !to_hold.contains(&(held.due, person.clone())) {
                held.due = again;
                self.attempts.push_back((again, person.clone()));
            }
            let Presence { here, at, .. } = held.presence;
            if !here && !gone.contains(&(at, person.clone())) {
                self.gone.push_back((at, person.clone()));
            }
        }
    }

    /// Answers questions.
    fn answer(&mut self, questions: Vec<Question>, now: Instant) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(questions.len());
        let mut fresh = Vec::with_capacity(questions.len());
        for question in questions {
            match now.saturating_duration_since(question.at) > OLD {
                true => answers.push(self.failed(&question)),
                false => fresh.push(question),
            }
        }
        // In the order in which they came, equal ones together.
        for run in fresh.chunk_by(|a, b| a.asked.query.action == b.asked.query.action) {
            let done = match run[0].asked.query.action() {
                UserStatusAction::Get => self.get(run),
                UserStatusAction::Update => self.update(run),
                UserStatusAction::Delete => self.delete(run),
                UserStatusAction::Unspecified => {
                    let answers = run.iter();
                    Ok(answers
                        .map(|q| refused(&q.asked, ErrorCode::BadRequest))
                        .collect())
                }
            };
            match done {
                Ok(done) => {
                    self.count("answered", done.len());
                    answers.extend(done);
                }
                Err(error) => {
                    tracing::debug!(%error, holder = self.holder, "statuses of users can not be had now");
                    let failed = run.iter().map(|question| self.failed(question));
                    answers.extend(failed.collect::<Vec<_>>());
                }
            }
        }
        answers
    }

    fn count(&self, outcome: &'static str, times: usize) {
        let counter = self.metrics.status_questions.with(&[outcome]);
        counter.inc_by(times as u64);
    }

    fn failed(&self, question: &Question) -> Answered {
        self.count("failed", 1);
        refused(&question.asked, ErrorCode::Internal)
    }

    fn get(&self, run: &[Question]) -> Result<Vec<Answered>, StoreError> {
        let people: Vec<PersonKey> = run.iter().map(person).collect();
        let keys: Vec<_> = people
            .iter()
            .flat_map(|person| [ACTIVE, ONLINE, STATE].map(|what| key(what, person)))
            .collect();
        let mut values = Vec::with_capacity(keys.len());
        for part in keys.chunks(TEMPORARY_BATCH_MAX) {
            values.extend(self.engines.values.get(part)?);
        }
        // Another owner may have held it a moment ago.
        let away = run.iter().zip(&people).filter(|(q, _)| !q.asked.here);
        let away: Vec<PersonKey> = away.map(|(_, person)| person.clone()).collect();
        let mut held = Vec::with_capacity(away.len());
        for part in away.chunks(STATUS_BATCH_MAX) {
            held.extend(self.engines.people.read(part)?);
        }
        let mut held = held.into_iter();
        let statuses = run.iter().zip(values.chunks(3)).map(|(question, values)| {
            let here = question.asked.here || held.next().is_some_and(|held| held.said.is_some());
            let at = |value: &Option<Vec<u8>>| value.as_deref().map_or(0, seconds_of);
            let state = values[2].clone().unwrap_or_default();
            let answer = UserStatusAnswer {
                request: question.asked.query.request,
                active: at(&values[0]),
                online: match here {
                    true => question.unix_s,
                    false => at(&values[1]),
                },
                state: String::from_utf8(state).unwrap_or_default(),
                error: 0,
            };
            (question.asked.link, answer)
        });
        Ok(statuses.collect())
    }

    fn update(&mut self, run: &[Question]) -> Result<Vec<Answered>, StoreError> {
        let mut values: BTreeMap<u64, Vec<(TemporaryKey, Vec<u8>)>> = BTreeMap::new();
        for question in run {
            let (person, state) = (person(question), &question.asked.query.state);
            let values = values.entry(question.asked.ttl_ms).or_default();
            values.push((key(ACTIVE, &person), bytes_of(question.unix_s)));
            if !state.is_empty() {
                values.push((key(STATE, &person), state.clone().into_bytes()));
            }
        }
        for (ttl_ms, values) in values {
            for part in values.chunks(TEMPORARY_BATCH_MAX) {
                self.engines
                    .values
                    .put(part, Duration::from_millis(ttl_ms))?;
            }
        }
        let said = run.iter().filter(|q| !q.asked.query.state.is_empty());
        let said = said.map(|q| (person(q), q.asked.query.state.clone().into_bytes()));
        self.says(said.collect());
        Ok(run.iter().map(done).collect())
    }

    fn delete(&mut self, run: &[Question]) -> Result<Vec<Answered>, StoreError> {
        let people: Vec<PersonKey> = run.iter().map(person).collect();
        let keys: Vec<_> = people
            .iter()
            .flat_map(|person| [ACTIVE, ONLINE, STATE].map(|what| key(what, person)))
            .collect();
        for part in keys.chunks(TEMPORARY_BATCH_MAX) {
            self.engines.values.delete(part)?;
        }
        self.says(
            people
                .into_iter()
                .map(|person| (person, Vec::new()))
                .collect(),
        );
        Ok(run.iter().map(done).collect())
    }

    /// Users say something else of themselves: who is here is held so at once. Where the engine does not
    /// take it, the next renewal says it.
    fn says(&mut self, said: Vec<(PersonKey, Vec<u8>)>) {
        let mut holds = Vec::new();
        for (person, state) in said {
            let Some(held) = self.here.get_mut(&person) else {
                continue;
            };
            held.state = Some(state.clone());
            // The later one of a user counts.
            holds.retain(|hold: &Hold| hold.person != person);
            holds.push(Hold {
                person,
                status: Some(state),
            });
        }
        for part in holds.chunks(STATUS_BATCH_MAX) {
            if self.engines.people.hold(&self.holder, part).is_err() {
                self.metrics.status_holds_failed.inc_by(part.len() as u64);
            }
        }
    }

    /// A user has come or gone. Who is told to have gone and was not here had come since the last round.
    fn presence(&mut self, person: PersonKey, presence: Presence, now: Instant) {
        match self.here.get_mut(&person) {
            Some(held) => held.presence = presence,
            // The instance keeps none any more, and what it kept was let go.
            None if !presence.here && presence.ttl.is_zero() => return,
            None => {
                self.metrics.statuses_held.add(1);
                let held = Held {
                    state: None,
                    due: now,
                    presence,
                };
                self.here.insert(person.clone(), held);
                self.attempts.push_back((now, person.clone()));
            }
        }
        if !presence.here {
            self.gone.push_back((presence.at, person));
        }
    }

    /// Lets go of some of those who have been away for long enough; whether more have.
    fn leave(&mut self, now: Instant) -> bool {
        let mut holds = Vec::new();
        let mut online: BTreeMap<Duration, Vec<(TemporaryKey, Vec<u8>)>> = BTreeMap::new();
        while holds.len() < STATUS_BATCH_MAX
            && let Some((at, _)) = self.gone.front()
            && now.saturating_duration_since(*at) >= LINGER
            && let Some((at, person)) = self.gone.pop_front()
        {
            // It may have come back, and gone again later.
            let presence = self.here.get(&person).map(|held| held.presence);
            let Some(presence) = presence.filter(|p| !p.here && p.at == at) else {
                continue;
            };
            let value = (key(ONLINE, &person), bytes_of(presence.unix_s));
            online.entry(presence.ttl).or_default().push(value);
            holds.push(Hold {
                person,
                status: None,
            });
        }
        if holds.is_empty() {
            return false;
        }
        self.keep_online(online);
        if self.engines.people.hold(&self.holder, &holds).is_err() {
            // It ends with its lease.
            self.metrics.status_holds_failed.inc_by(holds.len() as u64);
        }
        for hold in &holds {
            if self.here.remove(&hold.person).is_some() {
                self.metrics.statuses_held.sub(1);
            }
        }
        holds.len() == STATUS_BATCH_MAX
    }

    /// Holds some of those whose time has come; whether more are due.
    fn hold_due(&mut self, now: Instant) -> bool {
        if !self.may_hold(now) {
            return false;
        }
        let mut people = Vec::new();
        for queue in [&mut self.attempts, &mut self.renewals] {
            while people.len() < STATUS_BATCH_MAX
                && let Some((due, _)) = queue.front()
                && *due <= now
                && let Some((due, person)) = queue.pop_front()
            {
                if self.here.get(&person).is_some_and(|held| held.due == due) {
                    people.push(person);
                }
            }
        }
        if people.is_empty() {
            return false;
        }
        let full = people.len() == STATUS_BATCH_MAX;
        match self.hold(&people) {
            Ok(lease) => {
                let due = now + lease / 2;
                for person in people {
                    if let Some(held) = self.here.get_mut(&person) {
                        held.due = due;
                        self.renewals.push_back((due, person));
                    }
                }
                full
            }
            Err(error) => {
                tracing::debug!(%error, holder = self.holder, "users can not be held as online now");
                self.metrics.status_holds_failed.inc_by(people.len() as u64);
                for person in people {
                    if let Some(held) = self.here.get_mut(&person) {
                        held.due = now + AGAIN;
                        self.attempts.push_back((held.due, person));
                    }
                }
                self.holds_from = Some(now + AGAIN);
                false
            }
        }
    }

    fn hold(&mut self, people: &[PersonKey]) -> Result<Duration, StoreError> {
        let new = people.iter().filter(|person| {
            let held = self.here.get(*person);
            held.is_some_and(|held| held.state.is_none())
        });
        let new: Vec<PersonKey> = new.cloned().collect();
        let states: Vec<_> = new.iter().map(|person| key(STATE, person)).collect();
        let mut online: BTreeMap<Duration, Vec<(TemporaryKey, Vec<u8>)>> = BTreeMap::new();
        if !states.is_empty() {
            for (person, state) in new.iter().zip(self.engines.values.get(&states)?) {
                if let Some(held) = self.here.get_mut(person) {
                    let mut state = state.unwrap_or_default();
                    state.truncate(limits::USER_STATE_BYTES_MAX);
                    held.state = Some(state);
                    let value = (key(ONLINE, person), bytes_of(held.presence.unix_s));
                    online.entry(held.presence.ttl).or_default().push(value);
                }
            }
        }
        // In case nobody can say later that it has gone.
        self.keep_online(online);
        let hold = |person: &PersonKey| Hold {
            person: person.clone(),
            status: self.here.get(person).and_then(|held| held.state.clone()),
        };
        let holds: Vec<Hold> = people.iter().map(hold).collect();
        self.engines.people.hold(&self.holder, &holds)
    }

    /// Keeps when users were online last. What the engine does not take is not known later.
    fn keep_online(&self, online: BTreeMap<Duration, Vec<(TemporaryKey, Vec<u8>)>>) {
        for (ttl, values) in online {
            // The instance keeps none any more.
            if ttl.is_zero() {
                continue;
            }
            for part in values.chunks(TEMPORARY_BATCH_MAX) {
                if self.engines.values.put(part, ttl).is_err() {
                    self.metrics.status_holds_failed.inc_by(part.len() as u64);
                }
            }
        }
    }
}
