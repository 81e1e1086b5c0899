//! The plan of a mesh, pure: reads the text of a snapshot file, checks all of it and turns it into
//! the [`Snapshot`](gb6_core_model::snapshot::Snapshot) that nodes work by. No file is opened
//! here: secrets that stand in files of their own come in through a function. `gb6 dev` has
//! instances in its own file, read by the same rules, and is placed here too. Instances of a directory have
//! settings in the same words, read by the same rules, and are laid over those of the file.

mod demo;
mod directory;
mod file;
pub mod fuzz;
mod key_file;
mod problem;
mod proxy_file;
mod resolve;
mod slots;
mod toml_text;
mod units;
mod webhooks_file;

pub use demo::{
    DEMO_INSTANCE, DEMO_REGION, DEMO_SHARDS, DemoMesh, DevMesh, demo_instance, demo_snapshot,
    dev_snapshot,
};
pub use directory::{
    DirectoryInstance, DirectoryKey, DirectoryKeyUse, DirectoryPlan, Laid, check_directory_key,
    settings_as_toml, settings_from_toml,
};
pub use file::{EXAMPLE, InstanceFile, NamespaceFile, NodeFile, RegionFile, SnapshotFile};
pub use key_file::{KeyFile, PublicKeyFile, SecretText};
pub use problem::{Problem, Problems};
pub use proxy_file::{ProxiesFile, ProxyFile};
pub use resolve::{
    API_KEYS_MAX, CLIENT_KEYS_MAX, INSTANCES_TABLE, SECRET_BYTES_MIN, read_instances, read_snapshot,
};
pub use slots::{SLOTS_DEFAULT, choose_slots};
pub use toml_text::{nearest, parse_toml, parse_toml_without};
pub use units::{Bytes, Millis, UnitError};
pub use webhooks_file::WebhooksFile;
