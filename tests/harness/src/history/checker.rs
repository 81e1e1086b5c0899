//! The checker: one pass over the events, then one over the rooms. Offsets are the version order,
//! so that no search is needed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::{Event, Message, Publication, Rule, Violation, What};

/// Broken promises that are kept; more of them are only counted.
const VIOLATIONS_MAX: usize = 1000;
/// Codes after which it is certain that nothing was written: the edge or the session refused, or
/// the disk was full.
const REFUSALS: &[u32] = &[
    101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 1001,
];

/// Reads a history and says what it breaks.
#[derive(Default, Debug)]
pub struct Checker {
    clients: BTreeMap<String, ClientState>,
    /// By `instance/room`.
    rooms: BTreeMap<String, Room>,
    /// The rooms to which some data was sent.
    sent_to: HashMap<String, Vec<String>>,
    violations: Vec<Violation>,
    unshown: u64,
    summary: Summary,
}

/// What a history that breaks nothing holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Events read.
    pub events: u64,
    /// Clients that took part.
    pub clients: u64,
    /// Rooms, of all instances.
    pub rooms: u64,
    /// Different messages that were sent.
    pub messages: u64,
    /// Attempts to publish, retries counted.
    pub attempts: u64,
    /// Acknowledgements.
    pub acknowledged: u64,
    /// Acknowledgements that said that the id was known.
    pub duplicates: u64,
    /// Publications delivered to subscribers.
    pub delivered: u64,
    /// Publications read in pages.
    pub paged: u64,
    /// Connections lost.
    pub lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events of {} clients in {} rooms: {} messages in {} attempts, {} acknowledged ({} as duplicates), {} delivered, {} read in pages, {} connections lost",
            self.events,
            self.clients,
            self.rooms,
            self.messages,
            self.attempts,
            self.acknowledged,
            self.duplicates,
            self.delivered,
            self.paged,
            self.lost
        )
    }
}

#[derive(Default, Debug)]
struct ClientState {
    instance: String,
    user: String,
    connection: u32,
    rooms: BTreeMap<String, View>,
}

/// One client's view of one room.
#[derive(Default, Debug)]
struct View {
    subscribed: bool,
    position: Option<u64>,
    /// Offsets between a lost position and the next one, both inclusive.
    gaps: Vec<(u64, u64)>,
    /// Offsets read in pages, as ranges.
    paged: Vec<(u64, u64)>,
    settled: bool,
    acknowledged_max: u64,
    /// What this client sent, in order: connection and message.
    sent: Vec<(u32, Key)>,
}

#[derive(Default, Debug)]
struct Room {
    epoch: Option<(String, String)>,
    slots: BTreeMap<u64, Slot>,
    messages: HashMap<Key, Sent>,
    offsets: HashMap<Key, Vec<u64>>,
    logs: Vec<LogRead>,
}

/// What stands at an offset, and who said so first.
#[derive(Debug)]
struct Slot {
    user: String,
    id: Option<String>,
    data: String,
    told: String,
    /// Whether a reader saw it, and not only its sender's acknowledgement.
    read: bool,
    acknowledged_to: Option<String>,
}

/// A message: by its sender's id, or by its data where it has none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Key {
    user: String,
    id: Option<String>,
    data: Option<String>,
}

#[derive(Default, Debug)]
struct Sent {
    data: String,
    sender: String,
    attempts: u32,
    refused: u32,
    acknowledged: u32,
    first: Option<u64>,
    firsts: u32,
    /// The highest offset that its sender had an acknowledgement for when it first sent this.
    floor: u64,
}

#[derive(Debug)]
struct LogRead {
    client: String,
    first: u64,
    top: u64,
    trimmed: bool,
    covered: Vec<(u64, u64)>,
}

impl Key {
    fn new(user: &str, id: &Option<String>, data: &str) -> Self {
        Key {
            user: user.to_owned(),
            id: id.clone(),
            data: id.is_none().then(|| data.to_owned()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.id, &self.data) {
            (Some(id), _) => write!(f, "id {id} of {}", self.user),
            (None, Some(data)) => write!(f, "data {data} of {}", self.user),
            (None, None) => write!(f, "a message of {}", self.user),
        }
    }
}

impl Checker {
    /// A checker of an empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event. Events of one client come in their order.
    pub fn add(&mut self, event: &Event) {
        self.summary.events += 1;
        if let What::Client { instance, user } = &event.what {
            let state = self.clients.entry(event.client.clone()).or_default();
            let known = !state.instance.is_empty();
            if known && (state.instance != *instance || state.user != *user) {
                let evidence = format!("{} is two clients in this history", event.client);
                self.broken(Rule::WellFormed, "", evidence);
                return;
            }
            state.instance = instance.clone();
            state.user = user.clone();
            return;
        }
        // Taken out while the event is looked at, so that rooms and clients can change together.
        let Some(mut client) = self.clients.remove(&event.client) else {
            let evidence = format!("{} has an event before its `client`", event.client);
            self.broken(Rule::WellFormed, "", evidence);
            return;
        };
        self.take(&event.client, &mut client, &event.what);
        self.clients.insert(event.client.clone(), client);
    }

    fn take(&mut self, name: &str, client: &mut ClientState, what: &What) {
        match what {
            What::Client { .. } => {}
            What::Connected => client.connection += 1,
            What::Lost => self.summary.lost += 1,
            What::Sent(message) => self.sent(name, client, message),
            What::Acknowledged {
                message,
                offset,
                epoch,
                duplicate,
            } => self.acknowledged(name, client, message, *offset, epoch, *duplicate),
            What::Failed { message, code } => {
                let room = self.room(client, &message.room);
                if REFUSALS.contains(code)
                    && let Some(sent) = room.messages.get_mut(&client.key(message))
                {
                    sent.refused += 1;
                }
            }
            What::Subscribed {
                room,
                offset,
                epoch,
                recovered,
            } => self.subscribed(name, client, room, *offset, epoch, *recovered),
            What::Received { room, publication } => self.received(name, client, room, publication),
            What::Page {
                room,
                since,
                reverse,
                top,
                epoch,
                publications,
            } => {
                self.epoch(name, client, room, epoch);
                self.page(name, client, room, (*since, *reverse, *top), publications);
            }
            What::Log {
                room,
                first,
                top,
                trimmed,
            } => {
                let covered = client.view(room).paged.clone();
                let read = LogRead {
                    client: name.to_owned(),
                    first: *first,
                    top: *top,
                    trimmed: *trimmed,
                    covered,
                };
                self.room(client, room).logs.push(read);
            }
            What::Settled { room } => client.view(room).settled = true,
            What::Unsubscribed { room } => {
                let view = client.view(room);
                *view = View {
                    paged: std::mem::take(&mut view.paged),
                    acknowledged_max: view.acknowledged_max,
                    sent: std::mem::take(&mut view.sent),
                    ..View::default()
                };
            }
        }
    }

    fn sent(&mut self, name: &str, client: &mut ClientState, message: &Message) {
        self.summary.attempts += 1;
        let key = client.key(message);
        let connection = client.connection;
        let view = client.view(&message.room);
        let floor = view.acknowledged_max;
        let place = client.place(&message.room);
        let places = self.sent_to.entry(message.data.clone()).or_default();
        if !places.contains(&place) {
            places.push(place.clone());
        }
        let sent = self.room(client, &message.room).messages.entry(key.clone());
        let sent = sent.or_insert_with(|| Sent {
            data: message.data.clone(),
            sender: name.to_owned(),
            floor,
            ..Sent::default()
        });
        sent.attempts += 1;
        let first = sent.attempts == 1;
        if sent.data != message.data {
            let evidence = format!("{name} sent different data under {key}");
            self.broken(Rule::WellFormed, &place, evidence);
        } else if first {
            self.summary.messages += 1;
            client
                .view(&message.room)
                .sent
                .push((connection, key.clone()));
        }
    }

    fn acknowledged(
        &mut self,
        name: &str,
        client: &mut ClientState,
        message: &Message,
        offset: Option<u64>,
        epoch: &str,
        duplicate: bool,
    ) {
        self.summary.acknowledged += 1;
        self.summary.duplicates += u64::from(duplicate);
        self.epoch(name, client, &message.room, epoch);
        let place = client.place(&message.room);
        let key = client.key(message);
        let room = self.room(client, &message.room);
        let Some(sent) = room.messages.get_mut(&key) else {
            let evidence = format!("{name} has an acknowledgement of {key}, which it never sent");
            return self.broken(Rule::WellFormed, &place, evidence);
        };
        sent.acknowledged += 1;
        sent.firsts += u32::from(!duplicate);
        let firsts = sent.firsts;
        let before = sent.first;
        sent.first = before.or(offset);
        let Some(offset) = offset else { return };
        if let Some(before) = before.filter(|b| *b != offset) {
            let evidence =
                format!("{key} was acknowledged at {before}, and its retry to {name} at {offset}");
            self.broken(Rule::RetryReturnsFirst, &place, evidence);
        }
        if firsts > 1 && message.id.is_some() {
            let evidence =
                format!("{key} was acknowledged {firsts} times as new, the last time to {name}");
            self.broken(Rule::RetryReturnsFirst, &place, evidence);
        }
        let view = client.view(&message.room);
        view.acknowledged_max = view.acknowledged_max.max(offset);
        let publication = Publication {
            offset,
            id: message.id.clone(),
            user: client.user.clone(),
            data: message.data.clone(),
        };
        self.stands(
            &place,
            &publication,
            &format!("acknowledged to {name}"),
            false,
        );
        if let Some(slot) = self
            .rooms
            .get_mut(&place)
            .and_then(|r| r.slots.get_mut(&offset))
        {
            slot.acknowledged_to.get_or_insert_with(|| name.to_owned());
        }
    }

    fn subscribed(
        &mut self,
        name: &str,
        client: &mut ClientState,
        room: &str,
        offset: u64,
        epoch: &str,
        recovered: Option<bool>,
    ) {
        self.epoch(name, client, room, epoch);
        let place = client.place(room);
        let view = client.view(room);
        view.subscribed = true;
        let Some(position) = view.position else {
            view.position = Some(offset);
            return;
        };
        if recovered == Some(true) {
            if offset != position {
                let evidence =
                    format!("{name} had everything to {position} and was recovered from {offset}");
                self.broken(Rule::NothingSkipped, &place, evidence);
                client.view(room).position = Some(offset.max(position));
            }
        } else if offset < position {
            let evidence = format!(
                "the newest offset was {offset} when {name} subscribed again; it had {position} already"
            );
            self.broken(Rule::Consecutive, &place, evidence);
        } else {
            if offset > position {
                view.gaps.push((position + 1, offset));
            }
            view.position = Some(offset);
        }
    }

    fn received(
        &mut self,
        name: &str,
        client: &mut ClientState,
        room: &str,
        publication: &Publication,
    ) {
        self.summary.delivered += 1;
        let place = client.place(room);
        let view = client.view(room);
        let offset = publication.offset;
        let subscribed = view.subscribed;
        let position = view.position.unwrap_or(0);
        view.position = Some(position.max(offset));
        if !subscribed {
            let evidence = format!("{name} received {offset} without a subscription");
            self.broken(Rule::WellFormed, &place, evidence);
        } else if offset <= position {
            let evidence = format!("{name} received {offset} and had everything to {position}");
            self.broken(Rule::DeliveredOnce, &place, evidence);
        } else if offset > position + 1 {
            let evidence = format!(
                "{name} received {offset} and had everything to {position}: {} are missing",
                offset - position - 1
            );
            self.broken(Rule::NothingSkipped, &place, evidence);
        }
        self.stands(&place, publication, &format!("received by {name}"), true);
    }

    fn page(
        &mut self,
        name: &str,
        client: &mut ClientState,
        room: &str,
        (since, reverse, top): (Option<u64>, bool, u64),
        publications: &[Publication],
    ) {
        self.summary.paged += publications.len() as u64;
        let place = client.place(room);
        let step = |from: u64| {
            if reverse {
                from.checked_sub(1)
            } else {
                from.checked_add(1)
            }
        };
        let mut expected = since.filter(|s| !reverse || *s > 0).and_then(step);
        for publication in publications {
            let offset = publication.offset;
            if expected.is_some_and(|e| e != offset) {
                let evidence = format!(
                    "the page of {name} (since {since:?}, reverse {reverse}) has {offset} where {} belongs",
                    expected.unwrap_or(0)
                );
                self.broken(Rule::PageOrder, &place, evidence);
            }
            if offset > top || offset == 0 {
                let evidence =
                    format!("the page of {name} has {offset}, and says that the newest is {top}");
                self.broken(Rule::PageOrder, &place, evidence);
            }
            expected = step(offset);
            self.stands(&place, publication, &format!("in a page of {name}"), true);
        }
        let offsets = publications.iter().map(|p| p.offset);
        if let (Some(low), Some(high)) = (offsets.clone().min(), offsets.max()) {
            client.view(room).paged.push((low, high));
        }
    }

    /// Compares what stands at an offset with what others saw there.
    fn stands(&mut self, place: &str, publication: &Publication, told: &str, read: bool) {
        let key = Key::new(&publication.user, &publication.id, &publication.data);
        let offset = publication.offset;
        let room = self.rooms.entry(place.to_owned()).or_default();
        let mut broken = Vec::new();
        match room.slots.get_mut(&offset) {
            Some(slot) => {
                slot.read |= read;
                let there = Key::new(&slot.user, &slot.id, &slot.data);
                if there != key || slot.data != publication.data {
                    let evidence = format!(
                        "offset {offset} is {there} with data {} ({}), and {key} with data {} ({told})",
                        slot.data, slot.told, publication.data
                    );
                    broken.push((Rule::OneOrder, evidence));
                }
            }
            None => {
                let slot = Slot {
                    user: publication.user.clone(),
                    id: publication.id.clone(),
                    data: publication.data.clone(),
                    told: told.to_owned(),
                    read,
                    acknowledged_to: None,
                };
                room.slots.insert(offset, slot);
                let offsets = room.offsets.entry(key.clone()).or_default();
                offsets.push(offset);
                if key.id.is_some() && offsets.len() > 1 {
                    let evidence = format!("{key} stands at {offsets:?}, the last one {told}");
                    broken.push((Rule::OneOffset, evidence));
                }
            }
        }
        for (rule, evidence) in broken {
            self.broken(rule, place, evidence);
        }
    }

    fn epoch(&mut self, name: &str, client: &ClientState, room: &str, epoch: &str) {
        if epoch.is_empty() {
            return;
        }
        let place = client.place(room);
        let known = &mut self.rooms.entry(place.clone()).or_default().epoch;
        match known {
            None => *known = Some((epoch.to_owned(), name.to_owned())),
            Some((before, who)) if before != epoch => {
                let evidence =
                    format!("{who} was told the stream epoch {before}, and {name} {epoch}");
                self.broken(Rule::OneEpoch, &place, evidence);
            }
            Some(_) => {}
        }
    }

    fn room(&mut self, client: &ClientState, room: &str) -> &mut Room {
        self.rooms.entry(client.place(room)).or_default()
    }

    fn broken(&mut self, rule: Rule, room: &str, evidence: String) {
        if self.violations.len() == VIOLATIONS_MAX {
            self.unshown += 1;
            return;
        }
        self.violations.push(Violation {
            rule,
            room: room.to_owned(),
            evidence,
        });
    }

    /// Looks at what only the whole history shows.
    ///
    /// # Errors
    /// The broken promises, each once, in an order that does not depend on the run.
    pub fn finish(mut self) -> Result<Summary, Vec<Violation>> {
        let rooms = std::mem::take(&mut self.rooms);
        let clients = std::mem::take(&mut self.clients);
        self.summary.rooms = rooms.len() as u64;
        self.summary.clients = clients.len() as u64;
        for (place, room) in &rooms {
            self.finish_messages(place, room);
            self.finish_slots(place, room);
            self.finish_logs(place, room);
        }
        for (name, client) in &clients {
            for (room, view) in &client.rooms {
                let place = client.place(room);
                if let Some(room) = rooms.get(&place) {
                    self.finish_view(&place, room, name, view);
                }
            }
        }
        if self.unshown > 0 {
            let evidence = format!("and {} more broken promises", self.unshown);
            self.violations.push(Violation {
                rule: Rule::WellFormed,
                room: String::new(),
                evidence,
            });
        }
        self.violations.sort();
        self.violations.dedup();
        if self.violations.is_empty() {
            Ok(self.summary)
        } else {
            Err(self.violations)
        }
    }

    fn finish_messages(&mut self, place: &str, room: &Room) {
        for (key, sent) in &room.messages {
            let offsets = room.offsets.get(key).map_or(&[][..], Vec::as_slice);
            let read = |o: &&u64| room.slots.get(o).is_some_and(|s| s.read);
            if sent.acknowledged > 0 && !offsets.iter().any(|o| read(&o)) {
                let at = sent.first.map_or(String::new(), |o| format!(" at {o}"));
                let evidence = format!(
                    "{key} was acknowledged to {}{at}, and no reader has it",
                    sent.sender
                );
                self.broken(Rule::AcknowledgedIsKept, place, evidence);
            }
            let plain = key.id.is_none();
            if plain && offsets.len() as u64 > u64::from(sent.attempts) {
                let evidence = format!(
                    "{key} was sent {} times and stands at {offsets:?}",
                    sent.attempts
                );
                self.broken(Rule::OneOffset, place, evidence);
            }
            if sent.refused == sent.attempts && !offsets.is_empty() {
                let evidence = format!("{key} was refused, and stands at {offsets:?}");
                self.broken(Rule::RefusedIsAbsent, place, evidence);
            }
            let early = offsets.iter().find(|o| **o <= sent.floor);
            if let Some(offset) = early.filter(|_| sent.attempts == 1 || key.id.is_some()) {
                let evidence = format!(
                    "{} sent {key} after it had the acknowledgement of {}, and it stands at {offset}",
                    sent.sender, sent.floor
                );
                self.broken(Rule::SenderOrder, place, evidence);
            }
        }
    }

    fn finish_slots(&mut self, place: &str, room: &Room) {
        for (offset, slot) in &room.slots {
            let key = Key::new(&slot.user, &slot.id, &slot.data);
            let sent = room.messages.get(&key);
            if sent.is_some_and(|s| s.data == slot.data) {
                continue;
            }
            let told = &slot.told;
            let instance = place.split('/').next().unwrap_or_default();
            let elsewhere = self.sent_to.get(&slot.data).map_or(&[][..], Vec::as_slice);
            let (rule, evidence) = match elsewhere.iter().find(|p| *p != place) {
                Some(other) if other.split('/').next() != Some(instance) => (
                    Rule::InstanceKept,
                    format!("offset {offset} ({told}) holds what was sent to {other}"),
                ),
                Some(other) => (
                    Rule::SentBefore,
                    format!("offset {offset} ({told}) holds what was sent to {other}"),
                ),
                None => (
                    Rule::SentBefore,
                    format!(
                        "offset {offset} ({told}) holds {key} with data {}, which nobody sent",
                        slot.data
                    ),
                ),
            };
            self.broken(rule, place, evidence);
        }
    }

    fn finish_logs(&mut self, place: &str, room: &Room) {
        for log in &room.logs {
            let LogRead { client, first, .. } = log;
            if *first != 1 && !log.trimmed {
                let evidence = format!("the log that {client} read begins at {first}");
                self.broken(Rule::Consecutive, place, evidence);
            }
            for (low, high) in missing(*first, log.top, &log.covered) {
                let evidence = format!(
                    "the log that {client} read, {first} to {}, has a hole from {low} to {high}",
                    log.top
                );
                self.broken(Rule::Consecutive, place, evidence);
            }
        }
        // Only the last one was read when nothing was sent any more.
        let Some(log) = room.logs.last() else { return };
        for (offset, slot) in room.slots.range(log.top + 1..) {
            let rule = match slot.acknowledged_to {
                Some(_) => Rule::AcknowledgedIsKept,
                None => Rule::Consecutive,
            };
            let evidence = format!(
                "offset {offset} was {}, and the log that {} read ends at {}",
                slot.told, log.client, log.top
            );
            self.broken(rule, place, evidence);
        }
    }

    fn finish_view(&mut self, place: &str, room: &Room, name: &str, view: &View) {
        self.finish_order(place, room, name, view);
        if !view.settled {
            return;
        }
        for (from, to) in &view.gaps {
            for (low, high) in missing(*from, *to, &view.paged) {
                let evidence = format!("{name} never got {low} to {high}, not even in pages");
                self.broken(Rule::NothingSkipped, place, evidence);
            }
        }
        let top = room.slots.last_key_value().map_or(0, |(o, _)| *o);
        let position = view.position.unwrap_or(0);
        if view.subscribed && position < top {
            let evidence = format!("{name} ends at {position}, the room at {top}");
            self.broken(Rule::CaughtUp, place, evidence);
        }
    }

    /// What was sent once, on one connection, stands in the order in which it was sent.
    fn finish_order(&mut self, place: &str, room: &Room, name: &str, view: &View) {
        let mut last: Option<(u32, u64, &Key)> = None;
        for (connection, key) in &view.sent {
            let once = room.messages.get(key).is_some_and(|s| s.attempts == 1);
            let offsets = room.offsets.get(key).map_or(&[][..], Vec::as_slice);
            let (true, [offset]) = (once, offsets) else {
                continue;
            };
            if let Some((c, before, earlier)) = last
                && c == *connection
                && before > *offset
            {
                let evidence = format!(
                    "{name} sent {earlier} before {key}, and they stand at {before} and {offset}"
                );
                self.broken(Rule::SenderOrder, place, evidence);
            }
            last = Some((*connection, *offset, key));
        }
    }
}

impl ClientState {
    fn place(&self, room: &str) -> String {
        format!("{}/{room}", self.instance)
    }

    fn key(&self, message: &Message) -> Key {
        Key::new(&self.user, &message.id, &message.data)
    }

    fn view(&mut self, room: &str) -> &mut View {
        if !self.rooms.contains_key(room) {
            self.rooms.insert(room.to_owned(), View::default());
        }
        self.rooms.entry(room.to_owned()).or_default()
    }
}

/// The parts of `from..=to` that no range covers.
fn missing(from: u64, to: u64, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut holes = Vec::new();
    let mut next = from;
    for (low, high) in sorted {
        if low > to {
            break;
        }
        if low > next {
            holes.push((next, low - 1));
        }
        next = next.max(high.saturating_add(1));
    }
    if next <= to {
        holes.push((next, to));
    }
    holes
}
