//! What needs no server.

mod parsing;
