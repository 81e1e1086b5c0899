//! The engine against real servers: the contracts on the Redis that `GB6_TEST_REDIS` names, on a cluster
//! and over TLS, and what happens when a server is killed, paused or refuses.

mod checks;
mod cluster;
mod contract;
mod faults;
mod server;
mod tls;
