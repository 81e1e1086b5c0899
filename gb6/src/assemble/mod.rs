//! Puts the roles together: from a configuration to running nodes.

mod dev_keys;
mod files;
mod port_owner;

pub(crate) use dev_keys::DevKeys;
pub(crate) use port_owner::{Protocol, who_listens};
