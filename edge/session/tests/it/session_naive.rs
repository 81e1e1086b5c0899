//! A naive model of a session: what each command is answered with, and in which order, by plain
//! rules over lists and maps. It knows nothing of how the machine keeps what it keeps.

use std::collections::{BTreeMap, VecDeque};

use gb6_core_model::ErrorCode as E;
use gb6_core_wire::client::Reply;

/// What a test may be told under a command's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Error(u32),
    Connect,
    Subscribe {
        positioned: bool,
        recoverable: bool,
        recovered: bool,
        publications: usize,
    },
    Unsubscribe,
    Publish,
    Presence(usize),
    Stats(u32),
    /// Publications and top.
    History(usize, u64),
    Rpc,
    Refresh,
    SubRefresh,
    Ping,
    /// A push: the server began a subscription.
    Begun(String),
    /// A push: the subscription has ended, with this code.
    Ended(String, u32),
}

/// A reply as [`Said`], with the command's id; 0 for pushes.
pub(crate) fn said(reply: &Reply) -> (u32, Said) {
    let what = if let Some(error) = &reply.error {
        Said::Error(error.code)
    } else if let Some(s) = &reply.subscribe {
        Said::Subscribe {
            positioned: s.positioned,
            recoverable: s.recoverable,
            recovered: s.recovered,
            publications: s.publications.len(),
        }
    } else if let Some(p) = &reply.presence {
        Said::Presence(p.presence.len())
    } else if let Some(p) = &reply.presence_stats {
        Said::Stats(p.num_clients)
    } else if let Some(h) = &reply.history {
        Said::History(h.publications.len(), h.offset)
    } else if let Some(push) = &reply.push {
        match (&push.subscribe, &push.unsubscribe) {
            (Some(_), None) => Said::Begun(push.channel.clone()),
            (None, Some(why)) => Said::Ended(push.channel.clone(), why.code),
            _ => panic!("{push:?}"),
        }
    } else {
        let plain = [
            (reply.connect.is_some(), Said::Connect),
            (reply.unsubscribe.is_some(), Said::Unsubscribe),
            (reply.publish.is_some(), Said::Publish),
            (reply.rpc.is_some(), Said::Rpc),
            (reply.refresh.is_some(), Said::Refresh),
            (reply.sub_refresh.is_some(), Said::SubRefresh),
            (reply.ping.is_some(), Said::Ping),
        ];
        let mut found = plain.into_iter().filter(|(there, _)| *there);
        let (_, what) = found.next().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(found.next().is_none(), "two answers in {reply:?}");
        what
    };
    (reply.id, what)
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    Subscribe {
        channel: &'static str,
        recover: bool,
        /// Of a kind that is not offered.
        map: bool,
        /// With a token for the channel.
        token: bool,
    },
    Unsubscribe(&'static str),
    Publish {
        channel: &'static str,
        /// Bytes of data; 0: none is given.
        bytes: usize,
    },
    RoomPublish {
        room: &'static str,
        /// Bytes of the message id; `None`: none is given.
        id: Option<usize>,
        bytes: usize,
    },
    Trace {
        room: &'static str,
        offset: u64,
    },
    Presence(&'static str),
    Stats(&'static str),
    History {
        channel: &'static str,
        limit: i32,
        /// Backwards from an offset.
        before: Option<u64>,
    },
    Refresh {
        empty: bool,
    },
    Ping,
    SubRefresh(&'static str),
    UnknownMethod,
}

impl Ask {
    /// The channel that it is about, as far as it waits for others about the same.
    fn channel(&self) -> Option<String> {
        match self {
            Ask::Subscribe { channel, .. }
            | Ask::Publish { channel, .. }
            | Ask::Presence(channel)
            | Ask::Stats(channel)
            | Ask::History { channel, .. }
            | Ask::SubRefresh(channel) => Some((*channel).to_owned()),
            Ask::RoomPublish { room, .. } | Ask::Trace { room, .. } => Some(full(room)),
            Ask::Unsubscribe(_) | Ask::Refresh { .. } | Ask::Ping | Ask::UnknownMethod => None,
        }
    }
}

/// What a hub is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Subscribe {
        recover: bool,
        bare: bool,
        /// The server wants it, and not the client.
        push: bool,
        /// Tells it from another of the same name.
        ticket: u32,
    },
    Unsubscribe,
    /// To end a subscription for the server, with this code. An id is that of a refresh.
    End(u32),
    Publish {
        rpc: bool,
    },
    Presence {
        entries: bool,
    },
    History,
    Trace,
}

/// What a hub answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    Failed(E),
    /// With so many publications where a position was to be continued; `None`: it is not.
    Subscribed(Option<usize>),
    Unsubscribed,
    Published,
    People(u32),
    /// So many publications below this top; `None`: not readable from there.
    Page(Option<(usize, u64)>),
    Traced,
}

/// Who is connected: a user's name, empty for nobody's, and what the token allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rights {
    pub(crate) user: &'static str,
    pub(crate) caps: Caps,
}

/// Capabilities of tokens, by what they are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caps {
    /// The claim is absent.
    Absent,
    /// Nothing at all.
    Nothing,
    /// Everything in `room:*`.
    Rooms,
    /// To subscribe to and read `room:1`, and no more.
    ReadOne,
    /// To publish in `bare:*`.
    WriteBare,
}

impl Rights {
    /// Whether a member's rule covers `what` in `channel`.
    fn cover(self, channel: &str, what: &str) -> bool {
        match self.caps {
            Caps::Absent => !self.user.is_empty(),
            Caps::Nothing => false,
            Caps::Rooms => channel.starts_with("room:"),
            Caps::ReadOne => channel == "room:1" && ["sub", "hst"].contains(&what),
            Caps::WriteBare => channel.starts_with("bare:") && what == "pub",
        }
    }

    /// Whether the command's channel is one where this may be done: the error code otherwise.
    /// `proven`: by a token for the channel, shown with a subscribe or held by a subscription.
    fn may(self, channel: &str, what: &str, proven: bool) -> Result<(), E> {
        named(channel)?;
        let listed = channel.rsplit_once('#').map(|(_, users)| users);
        if listed.is_some_and(|l| self.user.is_empty() || !l.split(',').any(|u| u == self.user)) {
            return Err(E::PermissionDenied);
        }
        let namespace = channel.trim_start_matches('$').split(':').next();
        if namespace == Some("bare") && what == "prs" {
            return Err(E::NotAvailable);
        }
        let covered = match namespace {
            Some("closed") => false,
            _ if what == "sub" && (proven || listed.is_some()) => true,
            _ => self.cover(channel, what),
        };
        match covered && (proven || !channel.starts_with('$')) {
            true => Ok(()),
            false => Err(E::PermissionDenied),
        }
    }
}

/// Whether anybody may name the channel: the error code otherwise.
fn named(channel: &str) -> Result<(), E> {
    let printable = |b: u8| (0x21..=0x7e).contains(&b);
    if channel.is_empty() || !channel.bytes().all(printable) {
        return Err(E::BadRequest);
    }
    let name = channel.trim_start_matches('$');
    match name.split_once(':') {
        _ if name.starts_with('!') => Err(E::PermissionDenied),
        Some(("room" | "bare" | "closed", _)) => Ok(()),
        _ => Err(E::UnknownChannel),
    }
}

/// What was found in a subscription token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    Good,
    /// Made for somebody else, or another channel.
    Foreign,
    Expired,
    Invalid,
    Unavailable,
}

/// A subscription.
struct Sub {
    /// What is to make it one; `None`: it is.
    waits: Option<Waits>,
    proven: bool,
    server: bool,
}

#[derive(PartialEq, Eq)]
enum Waits {
    /// For its token.
    Token,
    /// For the hub's answer to this.
    Hub(u32),
}

/// A token that is looked at.
struct Looking {
    id: u32,
    channel: String,
    /// Of a subscribe, with whether it is to recover; otherwise of a refresh.
    subscribe: Option<bool>,
    /// What came behind it about the same channel.
    behind: Vec<(u32, Ask)>,
}

/// Subscriptions that the model's instance allows.
pub(crate) const SUBSCRIPTIONS: usize = 3;
/// Requests that may be unanswered.
pub(crate) const IN_FLIGHT: usize = 6;
/// Pages of history that may wait behind the one under way.
pub(crate) const PAGES: usize = 2;
/// Bytes of a publication in `bare:*`.
const BARE_BYTES: usize = 20;
const ID_BYTES: usize = 128;

/// The model.
pub(crate) struct Naive {
    rights: Rights,
    subscriptions: BTreeMap<String, Sub>,
    /// What hubs were asked and have not answered, in order: command, channel, what.
    pub(crate) asked: VecDeque<(u32, String, Wanted)>,
    /// Pages of history that wait for the one under way.
    pages: VecDeque<(u32, String, Wanted)>,
    /// The page under way.
    page: Option<u32>,
    refreshing: Option<u32>,
    looking: Vec<Looking>,
    tickets: u32,
    /// What must have been said since the last look.
    pub(crate) said: Vec<(u32, Said)>,
}

impl Naive {
    pub(crate) fn new(rights: Rights) -> Self {
        Self {
            rights,
            subscriptions: BTreeMap::new(),
            asked: VecDeque::new(),
            pages: VecDeque::new(),
            page: None,
            refreshing: None,
            looking: Vec::new(),
            tickets: 0,
            said: Vec::new(),
        }
    }

    fn say(&mut self, id: u32, said: Said) {
        self.said.push((id, said));
    }

    fn want(&mut self, id: u32, channel: &str, wanted: Wanted) {
        self.asked.push_back((id, channel.to_owned(), wanted));
    }

    fn may(&self, channel: &str, what: &str) -> Result<(), E> {
        let sub = self.subscriptions.get(channel);
        let held = sub.is_some_and(|s| s.proven && s.waits != Some(Waits::Token));
        self.rights.may(channel, what, held)
    }

    /// A command came.
    pub(crate) fn ask(&mut self, id: u32, ask: &Ask) {
        // An unsubscribe makes room, and always succeeds.
        let behind: usize = self.looking.iter().map(|l| 1 + l.behind.len()).sum();
        let busy = self.asked.len() + self.pages.len() + behind >= IN_FLIGHT;
        if busy && !matches!(ask, Ask::Unsubscribe(_)) {
            return self.say(id, Said::Error(E::TooManyRequests.code()));
        }
        self.turn(id, ask);
    }

    /// Does a command, unless one about the same channel waits for its token.
    fn turn(&mut self, id: u32, ask: &Ask) {
        let before = ask.channel().and_then(|c| self.subscribe_to(&c));
        match before {
            Some(at) => self.looking[at].behind.push((id, ask.clone())),
            None => {
                if let Err(code) = self.try_ask(id, ask) {
                    self.say(id, Said::Error(code.code()));
                }
            }
        }
    }

    /// The subscribe to a channel whose token is looked at.
    fn subscribe_to(&self, channel: &str) -> Option<usize> {
        let mut looking = self.looking.iter();
        looking.position(|l| l.channel == channel && l.subscribe.is_some())
    }

    /// A subscribe's token is not waited for any more.
    fn give_up(&mut self, channel: &str, code: E) {
        while let Some(at) = self.subscribe_to(channel) {
            let given_up = self.looking.remove(at);
            self.subscriptions.remove(channel);
            self.say(given_up.id, Said::Error(code.code()));
            for (id, ask) in given_up.behind {
                self.turn(id, &ask);
            }
        }
    }

    /// What a subscription was refreshed for has ended.
    fn forget_refresh(&mut self, channel: &str) {
        let mut looking = self.looking.iter();
        let at = looking.position(|l| l.channel == channel && l.subscribe.is_none());
        if let Some(at) = at {
            let forgotten = self.looking.remove(at);
            self.say(forgotten.id, Said::Error(E::PermissionDenied.code()));
        }
    }

    fn begin(&mut self, id: u32, channel: &str, recover: bool, proven: bool, server: bool) {
        self.tickets += 1;
        let ticket = self.tickets;
        let sub = Sub {
            waits: Some(Waits::Hub(ticket)),
            proven,
            server,
        };
        self.subscriptions.insert(channel.to_owned(), sub);
        let wanted = Wanted::Subscribe {
            recover,
            bare: channel.trim_start_matches('$').starts_with("bare:"),
            push: server,
            ticket,
        };
        self.want(id, channel, wanted);
    }

    fn try_ask(&mut self, id: u32, ask: &Ask) -> Result<(), E> {
        match ask {
            Ask::Subscribe {
                channel,
                recover,
                map,
                token,
            } => {
                self.rights.may(channel, "sub", *token)?;
                if *map {
                    return Err(E::NotAvailable);
                }
                if self.subscriptions.contains_key(*channel) {
                    return Err(E::AlreadySubscribed);
                }
                if self.subscriptions.len() >= SUBSCRIPTIONS {
                    return Err(E::LimitExceeded);
                }
                if !*token {
                    self.begin(id, channel, *recover, false, false);
                    return Ok(());
                }
                let sub = Sub {
                    waits: Some(Waits::Token),
                    proven: true,
                    server: false,
                };
                self.subscriptions.insert((*channel).to_owned(), sub);
                self.look(id, channel, Some(*recover));
            }
            Ask::Unsubscribe(channel) => {
                self.give_up(channel, E::Internal);
                self.forget_refresh(channel);
                match self.subscriptions.remove(*channel) {
                    // What is not there has ended already.
                    None => self.say(id, Said::Unsubscribe),
                    Some(_) => self.want(id, channel, Wanted::Unsubscribe),
                }
            }
            Ask::Publish { channel, bytes } => {
                self.publish(id, channel, *bytes, false)?;
            }
            Ask::RoomPublish {
                room,
                id: message,
                bytes,
            } => {
                if *bytes == 0 || message.is_some_and(|n| n == 0 || n > ID_BYTES) {
                    return Err(E::BadRequest);
                }
                self.publish(id, &full(room), *bytes, true)?;
            }
            Ask::Trace { room, offset } => {
                if *offset == 0 {
                    return Err(E::BadRequest);
                }
                self.may(&full(room), "hst")?;
                self.want(id, &full(room), Wanted::Trace);
            }
            Ask::Presence(channel) | Ask::Stats(channel) => {
                self.may(channel, "prs")?;
                let entries = matches!(ask, Ask::Presence(_));
                let wanted = Wanted::Presence { entries };
                // Numbers alone are no page.
                if !entries {
                    self.want(id, channel, wanted);
                    return Ok(());
                }
                self.turn_pages(id, channel, wanted)?;
            }
            Ask::History {
                channel,
                limit,
                before,
            } => {
                self.may(channel, "hst")?;
                if *before == Some(0) {
                    return Err(E::BadRequest);
                }
                // A position alone is no page.
                if *limit == 0 {
                    self.want(id, channel, Wanted::History);
                    return Ok(());
                }
                self.turn_pages(id, channel, Wanted::History)?;
            }
            Ask::Refresh { empty } => {
                if *empty {
                    return Err(E::BadRequest);
                }
                if self.refreshing.is_some() {
                    return Err(E::TooManyRequests);
                }
                self.refreshing = Some(id);
            }
            Ask::Ping => self.say(id, Said::Ping),
            Ask::SubRefresh(channel) => {
                if named(channel) == Err(E::BadRequest) {
                    return Err(E::BadRequest);
                }
                let sub = self.subscriptions.get(*channel);
                if !sub.is_some_and(|s| s.waits.is_none() && !s.server) {
                    return Err(E::PermissionDenied);
                }
                if self.looking.iter().any(|l| l.channel == **channel) {
                    return Err(E::TooManyRequests);
                }
                self.look(id, channel, None);
            }
            Ask::UnknownMethod => return Err(E::MethodNotFound),
        }
        Ok(())
    }

    fn look(&mut self, id: u32, channel: &str, subscribe: Option<bool>) {
        self.looking.push(Looking {
            id,
            channel: channel.to_owned(),
            subscribe,
            behind: Vec::new(),
        });
    }

    /// How many subscription tokens are looked at.
    pub(crate) fn looking(&self) -> usize {
        self.looking.len()
    }

    /// Whose token is looked at there.
    pub(crate) fn looked_at(&self, at: usize) -> &str {
        &self.looking[at].channel
    }

    /// A subscription token was looked at. With which close the session ends, if it does.
    pub(crate) fn looked(&mut self, at: usize, proof: Proof) -> Option<u32> {
        let Looking {
            id,
            channel,
            subscribe,
            behind,
        } = self.looking.remove(at);
        let error = match proof {
            Proof::Foreign => return Some(3500),
            Proof::Good => None,
            Proof::Expired => Some(E::TokenExpired),
            Proof::Invalid => Some(E::PermissionDenied),
            Proof::Unavailable => Some(E::Internal),
        };
        // Rights may have become others meanwhile.
        let error = match subscribe {
            Some(_) if error.is_none() => self.rights.may(&channel, "sub", true).err(),
            _ => error,
        };
        match (subscribe, error) {
            (Some(recover), None) => self.begin(id, &channel, recover, true, false),
            (Some(_), Some(code)) => {
                self.subscriptions.remove(&channel);
                self.say(id, Said::Error(code.code()));
            }
            (None, error) => match (self.subscriptions.get_mut(&channel), error) {
                (None, _) => self.say(id, Said::Error(E::PermissionDenied.code())),
                (Some(sub), None) => {
                    sub.proven = true;
                    self.say(id, Said::SubRefresh);
                }
                (Some(_), Some(E::TokenExpired)) => {
                    self.subscriptions.remove(&channel);
                    self.want(id, &channel, Wanted::End(2501));
                }
                (Some(_), Some(code)) => self.say(id, Said::Error(code.code())),
            },
        }
        for (id, ask) in behind {
            self.turn(id, &ask);
        }
        None
    }

    /// The application's server subscribes the session.
    pub(crate) fn server_subscribe(&mut self, channel: &str) -> Result<(), E> {
        named(channel)?;
        if self.subscriptions.contains_key(channel) {
            return Err(E::AlreadySubscribed);
        }
        if self.subscriptions.len() >= SUBSCRIPTIONS {
            return Err(E::LimitExceeded);
        }
        self.begin(0, channel, false, true, true);
        Ok(())
    }

    /// The application's server ends a subscription.
    pub(crate) fn server_unsubscribe(&mut self, channel: &str) {
        self.give_up(channel, E::PermissionDenied);
        self.forget_refresh(channel);
        if self.subscriptions.remove(channel).is_some() {
            self.want(0, channel, Wanted::End(2000));
        }
    }

    fn publish(&mut self, id: u32, channel: &str, bytes: usize, rpc: bool) -> Result<(), E> {
        self.may(channel, "pub")?;
        let most = match channel.starts_with("bare:") {
            true => BARE_BYTES,
            false => gb6_core_model::limits::PUBLISH_BYTES_MAX,
        };
        if bytes == 0 || bytes > most {
            return Err(E::BadRequest);
        }
        self.want(id, channel, Wanted::Publish { rpc });
        Ok(())
    }

    /// Pages come one after the other.
    fn turn_pages(&mut self, id: u32, channel: &str, wanted: Wanted) -> Result<(), E> {
        if self.pages.len() >= PAGES {
            return Err(E::TooManyRequests);
        }
        self.pages.push_back((id, channel.to_owned(), wanted));
        self.next_page();
        Ok(())
    }

    /// The next page that waits, if none is under way.
    fn next_page(&mut self) {
        if self.page.is_none()
            && let Some((id, channel, wanted)) = self.pages.pop_front()
        {
            self.page = Some(id);
            self.want(id, &channel, wanted);
        }
    }

    /// The hub answers what it was asked at `at` of the list.
    pub(crate) fn hear(&mut self, at: usize, heard: Heard) {
        let Some((id, channel, wanted)) = self.asked.remove(at) else {
            panic!("the hub answers what it was not asked");
        };
        let reply = match (wanted, heard) {
            (Wanted::Unsubscribe, _) => Said::Unsubscribe,
            (Wanted::End(code), _) => {
                // Who has begun another one is not told.
                if !self.subscriptions.contains_key(&channel) {
                    self.say(0, Said::Ended(channel, code));
                }
                if id != 0 {
                    self.say(id, Said::Error(E::TokenExpired.code()));
                }
                return;
            }
            (Wanted::Subscribe { push, ticket, .. }, Heard::Failed(code)) => {
                // Another one under the same name, asked for since, stays.
                if self.waits_for(&channel, ticket) {
                    self.subscriptions.remove(&channel);
                }
                if push {
                    return;
                }
                Said::Error(code.code())
            }
            (_, Heard::Failed(code)) => Said::Error(code.code()),
            (
                Wanted::Subscribe {
                    recover,
                    bare,
                    push,
                    ticket,
                },
                Heard::Subscribed(recovered),
            ) => {
                let ours = self.waits_for(&channel, ticket);
                if let Some(sub) = self.subscriptions.get_mut(&channel).filter(|_| ours) {
                    sub.waits = None;
                }
                let kept = recover || !bare;
                match push {
                    true if ours => Said::Begun(channel),
                    true => return,
                    false => Said::Subscribe {
                        positioned: kept,
                        recoverable: kept,
                        recovered: recovered.is_some(),
                        publications: recovered.unwrap_or(0),
                    },
                }
            }
            (Wanted::Publish { rpc: true }, Heard::Published) => Said::Rpc,
            (Wanted::Publish { rpc: false }, Heard::Published) => Said::Publish,
            (Wanted::Presence { entries: true }, Heard::People(n)) => Said::Presence(n as usize),
            (Wanted::Presence { entries: false }, Heard::People(n)) => Said::Stats(n),
            (Wanted::History, Heard::Page(Some((n, top)))) => Said::History(n, top),
            (Wanted::History, Heard::Page(None)) => Said::Error(E::UnrecoverablePosition.code()),
            (Wanted::Trace, Heard::Traced) => Said::Rpc,
            mixed => panic!("the test answers another question: {mixed:?}"),
        };
        self.say(id, reply);
        if self.page == Some(id) {
            self.page = None;
            self.next_page();
        }
    }

    fn waits_for(&self, channel: &str, ticket: u32) -> bool {
        let sub = self.subscriptions.get(channel);
        sub.is_some_and(|s| s.waits == Some(Waits::Hub(ticket)))
    }

    /// A hub says that a subscription has ended. With which close the session ends, if it does.
    pub(crate) fn ended(&mut self, channel: &str) -> Option<u32> {
        let sub = self.subscriptions.get(channel)?;
        if sub.waits.is_some() {
            return None;
        }
        if sub.server {
            return Some(3010);
        }
        self.subscriptions.remove(channel);
        self.forget_refresh(channel);
        self.say(0, Said::Ended(channel.to_owned(), 2500));
        None
    }

    /// The token of a refresh was looked at. With which close the session ends, if it does.
    pub(crate) fn refreshed(&mut self, result: Result<Rights, E>) -> Option<u32> {
        let id = self.refreshing.take()?;
        match result {
            Ok(rights) if rights.user == self.rights.user => {
                self.rights = rights;
                self.say(id, Said::Refresh);
                None
            }
            // To come back with a new one.
            Err(E::TokenExpired) => Some(3005),
            // Somebody else's token, or nobody's.
            Ok(_) | Err(E::PermissionDenied) => Some(3500),
            Err(code) => {
                self.say(id, Said::Error(code.code()));
                None
            }
        }
    }

    /// Whether a refresh waits for its token to be looked at.
    pub(crate) fn is_refreshing(&self) -> bool {
        self.refreshing.is_some()
    }
}

/// A room's bare name stands in `room:`.
fn full(room: &str) -> String {
    match room.contains(':') {
        true => room.to_owned(),
        false => format!("room:{room}"),
    }
}
