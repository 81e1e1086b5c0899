//! Puts the roles together: from a configuration to running nodes, and down again.

mod admin_http;
mod busy;
mod console;
mod dev;
mod dev_keys;
mod dev_reload;
mod directory;
mod edge;
mod files;
mod geo;
mod node;
mod node_metrics;
mod outbound;
mod port_owner;
mod process;
mod ready;
mod record_keys;
mod region;
mod reload;
mod sealing;
mod stores;

pub(crate) use dev::{DevConfig, run_dev};
pub(crate) use dev_keys::DevKeys;
pub(crate) use directory::Databases;
pub(crate) use edge::run_edge;
pub(crate) use geo::{check_geo, run_geo};
pub(crate) use port_owner::{Holder, Protocol, who_listens};
pub(crate) use process::{Stop, run};
pub(crate) use region::{check_region, run_region};
pub(crate) use reload::Source;
pub(crate) use stores::Engines;
