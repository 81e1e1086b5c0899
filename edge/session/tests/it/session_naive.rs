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
    Ping,
    /// A push: the subscription has ended.
    Ended(String),
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
        assert!(push.unsubscribe.is_some(), "{push:?}");
        Said::Ended(push.channel.clone())
    } else {
        let plain = [
            (reply.connect.is_some(), Said::Connect),
            (reply.unsubscribe.is_some(), Said::Unsubscribe),
            (reply.publish.is_some(), Said::Publish),
            (reply.rpc.is_some(), Said::Rpc),
            (reply.refresh.is_some(), Said::Refresh),
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

/// What a hub is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Subscribe { recover: bool, bare: bool },
    Unsubscribe,
    Publish { rpc: bool },
    Presence { entries: bool },
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
    fn may(self, channel: &str, what: &str) -> Result<(), E> {
        let printable = |b: u8| (0x21..=0x7e).contains(&b);
        if channel.is_empty() || !channel.bytes().all(printable) {
            return Err(E::BadRequest);
        }
        if channel.starts_with('$') || channel.contains('#') {
            return Err(E::PermissionDenied);
        }
        match channel.split(':').next() {
            _ if !channel.contains(':') => Err(E::UnknownChannel),
            Some("room") if self.cover(channel, what) => Ok(()),
            Some("bare") if what == "prs" => Err(E::NotAvailable),
            Some("bare") if self.cover(channel, what) => Ok(()),
            Some("room" | "bare" | "closed") => Err(E::PermissionDenied),
            _ => Err(E::UnknownChannel),
        }
    }
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
    /// Each with the command that is to make it one, while that is not answered.
    subscriptions: BTreeMap<String, Option<u32>>,
    /// What hubs were asked and have not answered, in order: command, channel, what.
    pub(crate) asked: VecDeque<(u32, String, Wanted)>,
    /// Pages of history that wait for the one under way.
    pages: VecDeque<(u32, String, Wanted)>,
    /// The page under way.
    page: Option<u32>,
    refreshing: Option<u32>,
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
            said: Vec::new(),
        }
    }

    fn say(&mut self, id: u32, said: Said) {
        self.said.push((id, said));
    }

    fn want(&mut self, id: u32, channel: &str, wanted: Wanted) {
        self.asked.push_back((id, channel.to_owned(), wanted));
    }

    /// A command came.
    pub(crate) fn ask(&mut self, id: u32, ask: &Ask) {
        if let Err(code) = self.try_ask(id, ask) {
            self.say(id, Said::Error(code.code()));
        }
    }

    fn try_ask(&mut self, id: u32, ask: &Ask) -> Result<(), E> {
        // An unsubscribe makes room, and always succeeds.
        let busy = self.asked.len() + self.pages.len() >= IN_FLIGHT;
        if busy && !matches!(ask, Ask::Unsubscribe(_)) {
            return Err(E::TooManyRequests);
        }
        match ask {
            Ask::Subscribe {
                channel,
                recover,
                map,
            } => {
                self.rights.may(channel, "sub")?;
                if *map {
                    return Err(E::NotAvailable);
                }
                if self.subscriptions.contains_key(*channel) {
                    return Err(E::AlreadySubscribed);
                }
                if self.subscriptions.len() >= SUBSCRIPTIONS {
                    return Err(E::LimitExceeded);
                }
                self.subscriptions.insert((*channel).to_owned(), Some(id));
                let bare = channel.starts_with("bare:");
                let recover = *recover;
                self.want(id, channel, Wanted::Subscribe { recover, bare });
            }
            Ask::Unsubscribe(channel) => match self.subscriptions.remove(*channel) {
                // What is not there has ended already.
                None => self.say(id, Said::Unsubscribe),
                Some(_) => self.want(id, channel, Wanted::Unsubscribe),
            },
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
                self.rights.may(&full(room), "hst")?;
                self.want(id, &full(room), Wanted::Trace);
            }
            Ask::Presence(channel) | Ask::Stats(channel) => {
                self.rights.may(channel, "prs")?;
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
                self.rights.may(channel, "hst")?;
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
            Ask::SubRefresh(_) => return Err(E::NotAvailable),
            Ask::UnknownMethod => return Err(E::MethodNotFound),
        }
        Ok(())
    }

    fn publish(&mut self, id: u32, channel: &str, bytes: usize, rpc: bool) -> Result<(), E> {
        self.rights.may(channel, "pub")?;
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
            (Wanted::Subscribe { .. }, Heard::Failed(code)) => {
                // Another one under the same name, asked for since, stays.
                if self.subscriptions.get(&channel) == Some(&Some(id)) {
                    self.subscriptions.remove(&channel);
                }
                Said::Error(code.code())
            }
            (_, Heard::Failed(code)) => Said::Error(code.code()),
            (Wanted::Subscribe { recover, bare }, Heard::Subscribed(recovered)) => {
                if let Some(ours) = self.subscriptions.get_mut(&channel)
                    && *ours == Some(id)
                {
                    *ours = None;
                }
                let kept = recover || !bare;
                Said::Subscribe {
                    positioned: kept,
                    recoverable: kept,
                    recovered: recovered.is_some(),
                    publications: recovered.unwrap_or(0),
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

    /// A hub says that a subscription has ended.
    pub(crate) fn ended(&mut self, channel: &str) {
        if self.subscriptions.get(channel) == Some(&None) {
            self.subscriptions.remove(channel);
            self.say(0, Said::Ended(channel.to_owned()));
        }
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
