//! The contracts of the ports.

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::{limiter, people, signals, temporary};
use gb6_region_stores_redis::{Config, RedisLimiter, RedisPeople, RedisSignals, RedisTemporary};

use crate::server::{given, region, runtime, until};

/// Runs all contracts.
pub(crate) fn hold(config: &Config) {
    let (runtime, region) = (runtime(), region());
    let open = || RedisSignals::open(config, &region, runtime.handle(), &Metrics::bare());
    let engines = [open(), open()];
    for engine in &engines {
        until("signals are connected", || engine.is_connected());
    }
    signals::all([&engines[0], &engines[1]], "signal:");
    signals::all([&engines[0], &engines[0]], "alone:");
    let limits = RedisLimiter::open(config, &region, runtime.handle(), &Metrics::bare());
    until("limits are connected", || limits.is_connected());
    limiter::all(&limits, &limiter::RealTime::default());
    let values = RedisTemporary::open(config, &region, runtime.handle(), &Metrics::bare());
    until("values are connected", || values.is_connected());
    temporary::all(&values, "t:");
    let open = || RedisPeople::open(config, &region, runtime.handle(), &Metrics::bare());
    let engines = [open(), open()];
    for engine in &engines {
        until("people are connected", || engine.is_connected());
    }
    people::all([&engines[0], &engines[1]], "p:");
    people::all([&engines[0], &engines[0]], "alone:");
}

#[test]
fn on_one_server() {
    hold(&with(&given(), "lease_ms=2000"));
}

/// A URI with further options.
pub(crate) fn with(uri: &str, options: &str) -> Config {
    let sign = if uri.contains('?') { '&' } else { '?' };
    // A machine that builds something beside these tests answers late now and then.
    let uri = format!("{uri}{sign}{options}&timeout_ms=2000&connect_timeout_ms=5000");
    Config::parse(&uri).expect("GB6_TEST_REDIS is a URI")
}
