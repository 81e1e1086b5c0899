//! The Kafka log on a real Kafka, whose address `GB6_TEST_KAFKA` says: `make test-engines`.

mod cluster;
mod contract;
mod events;
mod faults;
mod fencing;
mod many;
mod owner;
mod permissions;
mod reading;
mod secure;
mod topics;
mod writer;
