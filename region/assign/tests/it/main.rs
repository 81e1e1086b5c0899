//! The machines of several nodes over one store, under chaos and at rest.

mod alone;
mod chaos;
mod gone;
mod rest;
mod world;
