//! Configuration: one typed file for each role, over it environment variables, over them flags.

mod address;
mod dev;
mod example;
mod key;
mod load;
mod overrides;
mod roles;
mod store_uri;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use dev::{DevFile, DevSetup, USUAL_QUIC};
pub(crate) use example::{example, markdown};
pub(crate) use load::load;
pub(crate) use overrides::Overrides;
pub(crate) use roles::{EdgeFile, GeoFile, RegionFile, RoleFile};
pub(crate) use store_uri::StoreUri;
#[cfg(test)]
pub(crate) use store_uri::StoreUris;
pub(crate) use tables::{ClientsTable, GeoStoresTable, LogTable, StoresTable};
