//! `gb6 ctl instance`: the instances of customers, and their settings.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use gb6_core_model::InstanceId;
use gb6_core_ports::directory::{
    CHANGES_MAX, Change, Instance, Kind, OrgId, Record, Ref, State, Stored,
};
use gb6_geo_config_plan::{settings_as_toml, settings_from_toml};
use serde::Serialize;

use super::{By, Desk, Place, Stale, in_file, in_use, instance_id, org_id, read_file};
use crate::cli::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum InstanceCommand {
    /// Add an instance to an organization
    Add {
        /// Its name, which never becomes another customer's
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        /// The organization that it belongs to
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        org: OrgId,
        /// The customer whose tree that is in [default: the organization itself]
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        customer: Option<OrgId>,
        /// The region that owns its rooms: one of the snapshot file
        #[arg(long)]
        region: String,
        /// Where its data must stay, for people
        #[arg(long, default_value = "")]
        residency: String,
        /// A TOML file with the keys of `[instances.NAME]`, without region and keys; -: standard input
        #[arg(long, value_name = "FILE")]
        settings: Option<PathBuf>,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
    /// Show the instances
    List {
        /// Those of this customer alone
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        customer: Option<OrgId>,
        #[command(flatten)]
        stale: Stale,
        #[command(flatten)]
        place: Place,
    },
    /// Show an instance with its settings, as `set` takes them
    Show {
        /// Which one
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        #[command(flatten)]
        place: Place,
    },
    /// Replace the settings of an instance
    Set {
        /// Which one
        #[arg(value_parser = instance_id)]
        instance: InstanceId,
        /// A TOML file with the keys of `[instances.NAME]`, without region and keys; -: standard input
        #[arg(long, value_name = "FILE")]
        settings: PathBuf,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
    /// Take an instance out of use; everything is kept
    Suspend(Which),
    /// Put a suspended instance back into use
    Resume(Which),
    /// Remove an instance with its keys, members and roles; its messages stay where they are
    Remove(Which),
}

#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Which one
    #[arg(value_parser = instance_id)]
    instance: InstanceId,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    place: Place,
}

impl InstanceCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            InstanceCommand::Add {
                instance,
                org,
                customer,
                region,
                residency,
                settings,
                by,
                place,
            } => {
                if !InstanceId::is_valid(&region) {
                    let why = anyhow!("--region: `{region}` is no name of a region");
                    return Err(Failure::Usage(why));
                }
                // Checked before anything is opened; it has no keys yet that settings could name.
                let settings = match settings {
                    None => "{}".to_owned(),
                    Some(path) => {
                        let text = read_file(&path)?;
                        settings_from_toml(&text, &instance, &[])
                            .map_err(|problems| in_file(&path, &problems))?
                    }
                };
                let new = Instance {
                    id: instance,
                    org: org.clone(),
                    region,
                    residency,
                    state: State::Active,
                    settings,
                };
                let root = customer.unwrap_or(org);
                place.with(|desk| add(desk, &root, new, &by))
            }
            InstanceCommand::List {
                customer,
                stale,
                place,
            } => place.read(&stale, |desk| list(desk, customer.as_ref())),
            InstanceCommand::Show { instance, place } => place.with(|desk| show(desk, &instance)),
            InstanceCommand::Set {
                instance,
                settings,
                by,
                place,
            } => {
                let text = read_file(&settings)?;
                place.with(|desk| set(desk, &instance, (&settings, &text), &by))
            }
            InstanceCommand::Suspend(which) => which.to(State::Suspended),
            InstanceCommand::Resume(which) => which.to(State::Active),
            InstanceCommand::Remove(Which {
                instance,
                by,
                place,
            }) => place.with(|desk| remove(desk, &instance, &by)),
        }
    }
}

impl Which {
    fn to(self, state: State) -> Result<(), Failure> {
        let (id, by) = (self.instance, self.by);
        self.place.with(|desk| {
            let (root, ..) = desk.instance(&id)?;
            let stored = edit(desk, &root, &id, &by, |i| Ok(Instance { state, ..i }))?;
            desk.say(&Shown::of(&root, &stored), || {
                format!("instance {id} is {state}\n")
            })
        })
    }
}

fn edit(
    desk: &Desk<'_>,
    root: &OrgId,
    id: &InstanceId,
    by: &By,
    edit: impl Fn(Instance) -> Result<Instance, Failure>,
) -> Result<Stored, Failure> {
    let what = Ref::new(Kind::Instance, id.as_str());
    desk.edit(root, &what, &by.actor()?, |record| match record {
        Record::Instance(instance) => Ok(Record::Instance(edit(instance)?)),
        other => Ok(other),
    })
}

#[derive(Serialize)]
struct Shown<'a> {
    instance: &'a str,
    customer: &'a str,
    org: &'a str,
    region: &'a str,
    residency: &'a str,
    state: &'static str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<serde_json::Value>,
}

impl<'a> Shown<'a> {
    fn of(root: &'a OrgId, stored: &'a Stored) -> Option<Self> {
        let Record::Instance(i) = &stored.record else {
            return None;
        };
        Some(Self {
            instance: i.id.as_str(),
            customer: root.as_str(),
            org: i.org.as_str(),
            region: &i.region,
            residency: &i.residency,
            state: i.state.as_str(),
            version: stored.version,
            settings: None,
        })
    }
}

fn add(desk: &Desk<'_>, root: &OrgId, new: Instance, by: &By) -> Result<String, Failure> {
    desk.organization(root, &new.org)?;
    let (id, org) = (new.id.clone(), new.org.clone());
    let record = Record::Instance(new);
    desk.apply(root, &by.actor()?, &[Change::Create(record.clone())])?;
    let stored = Stored { version: 1, record };
    desk.say(&Shown::of(root, &stored), || {
        format!("instance {id} is added to {org}; give it a key with: gb6 ctl key add {id}\n")
    })
}

fn list(desk: &Desk<'_>, only: Option<&OrgId>) -> Result<String, Failure> {
    let found = desk.all_of(only, Kind::Instance)?;
    let shown: Vec<Shown<'_>> = found
        .iter()
        .filter_map(|(root, stored)| Shown::of(root, stored))
        .collect();
    desk.say(&shown, || {
        let mut out = format!(
            "{:<24} {:<16} {:<9} {:>7} org\n",
            "instance", "region", "state", "version"
        );
        for one in &shown {
            // Writing to a string can not fail.
            let _ = writeln!(
                out,
                "{:<24} {:<16} {:<9} {:>7} {}",
                one.instance, one.region, one.state, one.version, one.org
            );
        }
        out
    })
}

fn show(desk: &Desk<'_>, id: &InstanceId) -> Result<String, Failure> {
    let (root, version, instance) = desk.instance(id)?;
    let settings = instance.settings.clone();
    let record = Record::Instance(instance);
    let stored = Stored { version, record };
    let mut shown = Shown::of(&root, &stored);
    if let Some(shown) = &mut shown {
        shown.settings = serde_json::from_str(&settings).ok();
    }
    let text = settings_as_toml(&settings).map_err(|why| anyhow!("instance {id}: {why}"))?;
    desk.say(&shown, || {
        let head = shown.as_ref().map_or_else(String::new, |one| {
            format!(
                "# instance {id} of {}, organization {}, region {}, {}, version {version}\n",
                one.customer, one.org, one.region, one.state
            )
        });
        format!("{head}{text}")
    })
}

fn set(
    desk: &Desk<'_>,
    id: &InstanceId,
    (path, text): (&Path, &str),
    by: &By,
) -> Result<String, Failure> {
    let (root, ..) = desk.instance(id)?;
    let keys = desk.keys(&root, id)?;
    let keys = in_use(keys.iter().map(|(_, key)| key));
    let settings =
        settings_from_toml(text, id, &keys).map_err(|problems| in_file(path, &problems))?;
    let stored = edit(desk, &root, id, by, |instance| {
        let settings = settings.clone();
        Ok(Instance {
            settings,
            ..instance
        })
    })?;
    desk.say(&Shown::of(&root, &stored), || {
        format!("the settings of {id} are version {}\n", stored.version)
    })
}

fn remove(desk: &Desk<'_>, id: &InstanceId, by: &By) -> Result<String, Failure> {
    let (root, version, _) = desk.instance(id)?;
    let mut changes = Vec::new();
    for kind in [Kind::RoleBinding, Kind::Membership, Kind::Key] {
        for stored in desk.all(&root, kind, Some(id.as_str()))? {
            changes.push(Change::Delete(stored.record.reference(), stored.version));
        }
    }
    changes.push(Change::Delete(
        Ref::new(Kind::Instance, id.as_str()),
        version,
    ));
    if changes.len() > CHANGES_MAX {
        let count = changes.len() - 1;
        let why = anyhow!(
            "{id} has {count} keys, members and roles, more than one transaction takes: suspend it, and \
             revoke keys first"
        );
        return Err(why.into());
    }
    let keys = changes.len() - 1;
    desk.apply(&root, &by.actor()?, &changes)?;
    let removed = serde_json::json!({ "instance": id.as_str(), "removed": true });
    desk.say(&removed, || {
        format!("instance {id} is removed, and {keys} keys, members and roles of it\n")
    })
}
