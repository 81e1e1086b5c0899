//! Floors: the least that the same work costs on this machine, now, without any server of ours.

pub(crate) mod append;
pub(crate) mod epoll;
