//! TiKV that is away, hangs or loses answers: calls end in time, say what is known, and work again by
//! themselves.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{RoomStore, StoreError};
use gb6_region_stores_tikv::{TikvRooms, check};

use crate::engine::{config, prefix};

const SHARD: ShardId = ShardId(1);

/// Somebody who takes connections and says nothing.
fn silent() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            held.push(stream);
        }
    });
    (address, stop)
}

fn open(address: &str, options: &str) -> TikvRooms {
    let config = config(address, &prefix(), options);
    TikvRooms::open(config, "eu", &Metrics::bare()).unwrap()
}

#[test]
fn calls_to_a_cluster_that_says_nothing_end_in_time() {
    let (address, stop) = silent();
    let store = open(&address, "&timeout=700ms&gc=off");
    let began = Instant::now();
    // Many at once: they do not wait for each other's attempts.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = store.applied(SHARD).unwrap_err();
                assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            });
        }
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let checks = check(&config(&address, "gb6", "&timeout=700ms"), "eu");
    let found = checks[0].found.as_ref().unwrap_err();
    assert!(found.contains("did not answer in time"), "{found}");
    stop.store(true, Ordering::Relaxed);
}
