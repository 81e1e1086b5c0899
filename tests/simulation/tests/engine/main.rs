//! The shard machine on the logs of real engines, whose addresses `GB6_TEST_*` say: `make test-engines`.

mod engines;
mod identical;
mod input;
mod owner;
