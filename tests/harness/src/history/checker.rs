//! The checker: one pass over the events, then one over the rooms. Offsets are the version order,
//! so that no search is needed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::{Event, Message, Publication, Rule, Summary, Violation, What};

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
    pub(super) clients: BTreeMap<String, ClientState>,
    /// By `instance/room`.
    pub(super) rooms: BTreeMap<String, Room>,
    /// The rooms to which some data was sent.
    pub(super) sent_to: HashMap<String, Vec<String>>,
    pub(super) violations: Vec<Violation>,
    pub(super) unshown: u64,
    pub(super) summary: Summary,
}

#[derive(Default, Debug)]
pub(super) struct ClientState {
    pub(super) instance: String,
    pub(super) user: String,
    pub(super) connection: u32,
    pub(super) rooms: BTreeMap<String, View>,
}

/// One client's view of one room.
#[derive(Default, Debug)]
pub(super) struct View {
    pub(super) subscribed: bool,
    pub(super) position: Option<u64>,
    /// Offsets between a lost position and the next one, both inclusive.
    pub(super) gaps: Vec<(u64, u64)>,
    /// Offsets read in pages, as ranges.
    pub(super) paged: Vec<(u64, u64)>,
    pub(super) settled: bool,
    pub(super) acknowledged_max: u64,
    /// What this client sent, in order: connection and message.
    pub(super) sent: Vec<(u32, Key)>,
}

#[derive(Default, Debug)]
pub(super) struct Room {
    pub(super) epoch: Option<(String, String)>,
    pub(super) slots: BTreeMap<u64, Slot>,
    pub(super) messages: HashMap<Key, Sent>,
    pub(super) offsets: HashMap<Key, Vec<u64>>,
    pub(super) logs: Vec<LogRead>,
}

/// What stands at an offset, and who said so first.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) user: String,
    pub(super) id: Option<String>,
    pub(super) data: String,
    pub(super) told: String,
    /// Whether a reader saw it, and not only its sender's acknowledgement.
    pub(super) read: bool,
    pub(super) acknowledged_to: Option<String>,
}

/// A message: by its sender's id, or by its data where it has none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) user: String,
    pub(super) id: Option<String>,
    pub(super) data: Option<String>,
}

#[derive(Default, Debug)]
pub(super) struct Sent {
    pub(super) data: String,
    pub(super) sender: String,
    pub(super) attempts: u32,
    pub(super) refused: u32,
    pub(super) acknowledged: u32,
    pub(super) first: Option<u64>,
    pub(super) firsts: u32,
    /// The highest offset that its sender had an acknowledgement for when it first sent this.
    pub(super) floor: u64,
}

#[derive(Debug)]
pub(super) struct LogRead {
    pub(super) client: String,
    pub(super) first: u64,
    pub(super) top: u64,
    pub(super) trimmed: bool,
    pub(super) covered: Vec<(u64, u64)>,
}

impl Key {
    pub(super) fn new(user: &str, id: &Option<String>, data: &str) -> Self {
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

    pub(super) fn broken(&mut self, rule: Rule, room: &str, evidence: String) {
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
}

impl ClientState {
    pub(super) fn place(&self, room: &str) -> String {
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
