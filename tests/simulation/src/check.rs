//! What must hold at the end of a run, read from the disk with fresh eyes.

use std::collections::BTreeMap;

use gb6_core_wire::record::{Kind, Record};
use gb6_region_stores_embedded::SegmentedLog;
use gb6_region_stores_embedded::sim_disk::SimDisk;

use crate::client::Client;
use crate::region::{DIRECTORY, log_config, read_all};
use crate::revocations::revoked_room;

/// The committed messages, room by room.
pub(crate) type Rooms = BTreeMap<String, Vec<Record>>;

/// Reads the whole log as a new process would.
pub(crate) fn read_log(disk: &SimDisk) -> Rooms {
    let log = match SegmentedLog::open(disk.dir(DIRECTORY), log_config()) {
        Ok(log) => log,
        Err(error) => panic!("the log can not be read at the end: {error}"),
    };
    let mut rooms = Rooms::new();
    let mut at = log.range().first;
    let read = read_all(&log, &mut at, |record| {
        if record.kind() == Kind::Message {
            rooms
                .entry(record.channel.clone())
                .or_default()
                .push(record.clone());
        }
    });
    if let Err(error) = read {
        panic!("the log can not be read at the end: {error}");
    }
    rooms
}

/// Checks the log by itself, and every client's story against it. Returns how many records and
/// acknowledgements were looked at.
pub(crate) fn check(rooms: &Rooms, clients: &[Client]) -> (usize, usize) {
    let mut records = 0;
    let mut by_data: BTreeMap<(&str, &[u8]), u64> = BTreeMap::new();
    for (room, log) in rooms {
        let mut time = 0;
        for (at, record) in (1u64..).zip(log) {
            records += 1;
            assert_eq!(record.offset, at, "offsets of {room} are consecutive");
            assert!(record.time >= time, "time in {room} never falls");
            time = record.time;
            let before = by_data.insert((room, &record.body), at);
            // The same may be revoked again.
            let again = *room == revoked_room().channel;
            assert!(
                before.is_none() || again,
                "{room}: {:?} is written twice",
                record.body
            );
        }
    }
    let mut acknowledged = 0;
    for client in clients {
        let user = &client.user;
        // What a session sent once only, in the order of its sending.
        let mut order: BTreeMap<(&str, u64, u32), u64> = BTreeMap::new();
        for a in &client.acknowledged {
            acknowledged += 1;
            let at = by_data.get(&(a.room.as_str(), a.data.as_bytes()));
            let Some(at) = at else {
                panic!("{user}: {} was acknowledged and is lost", a.data);
            };
            if a.id.is_some() {
                assert_eq!(*at, a.offset, "{user}: {} has another offset", a.data);
            }
            if let Some((connection, command)) = a.once {
                order.insert((&a.room, connection, command), *at);
            }
        }
        for (earlier, later) in order.iter().zip(order.iter().skip(1)) {
            let same = (earlier.0.0, earlier.0.1) == (later.0.0, later.0.1);
            assert!(
                !same || earlier.1 < later.1,
                "{user}: {:?} was sent before {:?} and is written behind it",
                earlier.0,
                later.0
            );
        }
        assert!(
            client.wanted.is_empty(),
            "{user}: {:?} never ended",
            client.wanted
        );
        for (room, got) in &client.received {
            for (offset, data) in got {
                let record = rooms
                    .get(room)
                    .and_then(|log| log.get(*offset as usize - 1));
                let Some(record) = record else {
                    panic!("{user}: {room} {offset} was delivered and is not in the log");
                };
                assert_eq!(
                    record.body,
                    data.as_bytes(),
                    "{user}: {room} {offset} differs"
                );
            }
        }
        for (room, (position, _)) in &client.positions {
            let head = rooms.get(room).map_or(0, Vec::len) as u64;
            assert_eq!(
                *position, head,
                "{user}: {room} was not delivered to its end"
            );
        }
    }
    (records, acknowledged)
}
