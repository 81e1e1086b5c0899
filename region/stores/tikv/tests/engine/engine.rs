//! The engine that the tests run against, and names that no other test uses.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use gb6_core_model::Position;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::RoomEntry;
use gb6_core_ports::contract::rooms::room;
use gb6_region_stores_tikv::{Config, TikvRooms};

/// The address of PD.
pub(crate) fn address() -> String {
    env::var("GB6_TEST_TIKV").unwrap_or_else(|_| {
        panic!("GB6_TEST_TIKV=HOST:PORT does not say where PD is: run `make test-engines`")
    })
}

/// A prefix of its own for each test and run.
pub(crate) fn prefix() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{number}", now.as_nanos())
}

/// The configuration of a test: `options` in the form of the URI.
pub(crate) fn config(address: &str, prefix: &str, options: &str) -> Config {
    Config::parse(&format!("tikv://{address}?prefix={prefix}{options}")).unwrap()
}

/// A store of the region `eu` under a prefix of its own.
pub(crate) fn store() -> TikvRooms {
    TikvRooms::open(
        config(&address(), &prefix(), "&gc=off"),
        "eu",
        &Metrics::bare(),
    )
    .unwrap()
}

/// An entry of a room of instance `demo`.
pub(crate) fn entry(channel: &str, offset: u64, position: Position) -> RoomEntry {
    RoomEntry {
        room: room("demo", channel),
        offset,
        position,
    }
}
