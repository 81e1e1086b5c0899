//! The contract of `Signals`: who follows gets each signal once and in order, and nobody else does.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gb6_core_wire::mesh::{Publication, RoomRef};

use crate::signals::{SignalSink, Signals};

/// How long an engine may take to hand a signal over.
const PATIENCE: Duration = Duration::from_secs(10);

/// The room `channel` of instance `instance`.
pub fn room(instance: &str, channel: &str) -> RoomRef {
    RoomRef {
        instance: instance.to_owned(),
        channel: channel.to_owned(),
    }
}

/// Runs the suite. `engines` are handles of one engine as different nodes have them; one of them
/// twice is one node. The rooms that it uses begin with `prefix`.
pub fn all(engines: [&dyn Signals; 2], prefix: &str) {
    what_is_sent_here_is_here_at_once(engines, prefix);
    followers_get_each_once_in_order(engines, prefix);
    neighbours_do_not_mix(engines, prefix);
    who_does_not_follow_gets_nothing(engines, prefix);
    a_dropped_sink_is_forgotten(engines, prefix);
    senders_do_not_wait_for_each_other(engines, prefix);
}

/// Keeps what it is handed.
#[derive(Default)]
struct Collect {
    got: Mutex<Vec<(String, String, Vec<u8>)>>,
    more: Condvar,
    live: Mutex<Vec<RoomRef>>,
    alive: Condvar,
}

impl SignalSink for Collect {
    fn signal(&self, room: &RoomRef, publication: Publication) {
        let (instance, channel) = (room.instance.clone(), room.channel.clone());
        let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        got.push((instance, channel, publication.data.to_vec()));
        self.more.notify_all();
    }

    fn live(&self, room: &RoomRef) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.push(room.clone());
        self.alive.notify_all();
    }
}

impl Collect {
    /// Follows a room and waits until what other nodes send reaches this, too.
    fn follow(&self, engine: &dyn Signals, room: &RoomRef, sink: &Arc<dyn SignalSink>) {
        let count = |live: &[RoomRef]| live.iter().filter(|r| *r == room).count();
        let lock = || self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let before = count(&lock());
        engine.follow(room, sink).expect("follow");
        let until = Instant::now() + PATIENCE;
        let mut live = lock();
        while count(&live) == before {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{room:?} is not followed at other nodes");
            let waited = self.alive.wait_timeout(live, left);
            live = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What was handed over, as soon as there are so many.
    fn wait(&self, count: usize) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        while got.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} signals came", got.len());
            let waited = self.more.wait_timeout(got, left);
            got = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        got.iter().map(|(_, _, data)| text(data)).collect()
    }

    fn rooms(&self) -> Vec<(String, String)> {
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        got.iter().map(|(i, c, _)| (i.clone(), c.clone())).collect()
    }
}

fn sink() -> (Arc<Collect>, Arc<dyn SignalSink>) {
    let collect = Arc::new(Collect::default());
    (collect.clone(), collect)
}

fn send(engine: &dyn Signals, room: &RoomRef, data: &str) {
    let publication = Publication {
        data: data.to_owned().into(),
        time: 7,
        ..Publication::default()
    };
    engine.send(room, publication).expect("send");
}

fn what_is_sent_here_is_here_at_once([here, _]: [&dyn Signals; 2], prefix: &str) {
    let room = room("demo", &format!("{prefix}here"));
    let (one, one_sink) = sink();
    here.follow(&room, &one_sink).expect("follow");
    send(here, &room, "now");
    assert_eq!(one.rooms().len(), 1, "before the call returned");
    // And not again from elsewhere, neither before the follow is known there nor after.
    one.follow(here, &room, &one_sink);
    send(here, &room, "then");
    let (end, end_sink) = sink();
    end.follow(here, &room, &end_sink);
    send(here, &room, "end");
    assert_eq!(one.wait(3), ["now", "then", "end"]);
    assert_eq!(end.wait(1), ["end"]);
}

fn followers_get_each_once_in_order([here, there]: [&dyn Signals; 2], prefix: &str) {
    let room = room("demo", &format!("{prefix}order"));
    let (one, one_sink) = sink();
    let (two, two_sink) = sink();
    one.follow(here, &room, &one_sink);
    one.follow(here, &room, &one_sink);
    two.follow(there, &room, &two_sink);
    let sent: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for data in &sent {
        send(here, &room, data);
    }
    assert_eq!(one.wait(sent.len()), sent);
    assert_eq!(two.wait(sent.len()), sent);
    for (engine, sink) in [(here, &one_sink), (there, &two_sink)] {
        engine.unfollow(&room, sink).expect("unfollow");
    }
}

fn neighbours_do_not_mix([here, there]: [&dyn Signals; 2], prefix: &str) {
    let rooms = [
        room("a", &format!("{prefix}b")),
        room("ab", &format!("{prefix}b")),
        room("a", &format!("{prefix}b:")),
        room("a", &format!("{prefix}bb")),
        room("b", &format!("{prefix}b")),
    ];
    let sinks: Vec<_> = rooms.iter().map(|_| sink()).collect();
    for (room, (collect, sink)) in rooms.iter().zip(&sinks) {
        collect.follow(here, room, sink);
    }
    for room in &rooms {
        send(there, room, &format!("{}/{}", room.instance, room.channel));
    }
    for (room, (collect, sink)) in rooms.iter().zip(&sinks) {
        let name = format!("{}/{}", room.instance, room.channel);
        assert_eq!(collect.wait(1), [name]);
        let named = (room.instance.clone(), room.channel.clone());
        assert_eq!(collect.rooms(), [named]);
        here.unfollow(room, sink).expect("unfollow");
    }
}

fn who_does_not_follow_gets_nothing([here, there]: [&dyn Signals; 2], prefix: &str) {
    let room = room("demo", &format!("{prefix}leave"));
    let (one, one_sink) = sink();
    let (two, two_sink) = sink();
    here.unfollow(&room, &one_sink)
        .expect("not to follow is no error");
    send(here, &room, "nobody");
    one.follow(here, &room, &one_sink);
    two.follow(here, &room, &two_sink);
    send(there, &room, "both");
    assert_eq!(
        (one.wait(1), two.wait(1)),
        (vec!["both".into()], vec!["both".into()])
    );
    here.unfollow(&room, &one_sink).expect("unfollow");
    send(there, &room, "one");
    assert_eq!(two.wait(2), ["both", "one"]);
    one.follow(here, &room, &one_sink);
    send(there, &room, "last");
    assert_eq!(one.wait(2), ["both", "last"]);
    assert_eq!(two.wait(3), ["both", "one", "last"]);
}

fn a_dropped_sink_is_forgotten([here, there]: [&dyn Signals; 2], prefix: &str) {
    let room = room("demo", &format!("{prefix}dropped"));
    let (gone, gone_sink) = sink();
    let (stays, stays_sink) = sink();
    gone.follow(here, &room, &gone_sink);
    stays.follow(here, &room, &stays_sink);
    drop(gone_sink);
    let gone = {
        let weak = Arc::downgrade(&gone);
        drop(gone);
        weak
    };
    send(there, &room, "after");
    assert_eq!(stays.wait(1), ["after"]);
    // The engine may be about to tell it something.
    let until = Instant::now() + PATIENCE;
    while gone.upgrade().is_some() {
        assert!(Instant::now() < until, "the engine holds on to a sink");
        std::thread::yield_now();
    }
}

fn senders_do_not_wait_for_each_other([here, there]: [&dyn Signals; 2], prefix: &str) {
    let room = room("demo", &format!("{prefix}many"));
    let (all, all_sink) = sink();
    all.follow(here, &room, &all_sink);
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let (engine, room) = ([here, there][sender % 2], &room);
            scope.spawn(move || {
                for n in 0..200 {
                    send(engine, room, &format!("{sender}:{n}"));
                }
            });
        }
    });
    let got = all.wait(800);
    for sender in 0..4 {
        let of = format!("{sender}:");
        let numbers = got.iter().filter_map(|data| data.strip_prefix(&of));
        let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
    }
}
