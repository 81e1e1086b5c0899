//! `Signals` in the memory of a process: the contract.

use gb6_core_ports::contract::signals::all;
use gb6_region_stores_embedded::LocalSignals;

#[test]
fn keeps_the_contract() {
    let signals = LocalSignals::new();
    all([&signals, &signals], "signal:");
}
