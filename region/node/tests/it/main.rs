//! A region on the reference log and the in-memory mesh, as an edge sees it.

mod edge;
mod lying;
mod presence;
mod index;
mod retention;
mod serve;
