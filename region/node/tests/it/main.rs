//! A region on the reference log and the in-memory mesh, as an edge sees it.

mod archived;
mod clock;
mod closing;
mod consumers;
mod cut;
mod edge;
mod full;
mod index;
mod limits;
mod lost_engines;
mod lying;
mod nodes;
mod prefixes;
mod presence;
mod reach;
mod recoveries;
mod relay;
mod retention;
mod sealed;
mod serve;
mod session_ends;
mod signals;
mod slow;
mod statuses;
mod users;
mod webhooks;
