//! The loads against servers inside the test: the floor, and a small one that speaks the client
//! protocol.

mod loads;
mod tiny;
