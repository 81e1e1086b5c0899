//! `gb6 ctl org`: customers, and the organizations below them.

use std::fmt::Write;

use anyhow::anyhow;
use clap::Subcommand;
use gb6_core_ports::directory::{
    Change, Kind, OrgId, OrgKind, Organization, Record, Ref, State, Stored,
};
use serde::Serialize;

use super::{By, Desk, Place, Stale, org_id, random};
use crate::cli::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum OrgCommand {
    /// Add a customer or, with --parent, an organization below one; prints its id
    Add {
        /// Its name for people
        name: String,
        /// Its name in addresses, 1 to 63 of a-z, 0-9 and - [default: made of the name]
        #[arg(long)]
        slug: Option<String>,
        /// The organization above
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        parent: Option<OrgId>,
        /// The customer whose tree it is in [default: the parent]
        #[arg(long, value_name = "ORG", value_parser = org_id, requires = "parent")]
        customer: Option<OrgId>,
        /// What it is to its parent: reseller, customer or unit
        #[arg(long, default_value = "unit", value_parser = kind, requires = "parent")]
        kind: OrgKind,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        place: Place,
    },
    /// Show the customers, and the organizations below them
    List {
        /// This customer's alone
        #[arg(long, value_name = "ORG", value_parser = org_id)]
        customer: Option<OrgId>,
        #[command(flatten)]
        stale: Stale,
        #[command(flatten)]
        place: Place,
    },
    /// Take an organization and every instance below it out of use; everything is kept
    Suspend(Switch),
    /// Put a suspended organization back into use
    Resume(Switch),
}

#[derive(clap::Args, Debug)]
pub(crate) struct Switch {
    /// Which one
    #[arg(value_parser = org_id)]
    org: OrgId,
    /// The customer whose tree it is in [default: itself]
    #[arg(long, value_name = "ORG", value_parser = org_id)]
    customer: Option<OrgId>,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    place: Place,
}

fn kind(text: &str) -> Result<OrgKind, String> {
    let found = OrgKind::parse(text).filter(|kind| *kind != OrgKind::Root);
    found.ok_or_else(|| format!("`{text}` is none: write reseller, customer or unit"))
}

impl OrgCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            OrgCommand::Add {
                name,
                slug,
                parent,
                customer,
                kind,
                by,
                place,
            } => {
                let slug = slug.or_else(|| slug_of(&name)).ok_or_else(|| {
                    Failure::Usage(anyhow!(
                        "no slug can be made of `{name}`: give one with --slug"
                    ))
                })?;
                let organization = Organization {
                    id: new_id()?,
                    kind: match &parent {
                        None => OrgKind::Root,
                        Some(_) => kind,
                    },
                    parent,
                    slug,
                    name,
                    state: State::Active,
                    settings: "{}".into(),
                };
                let first = organization.parent.is_none();
                place.with_or_make(first, |desk| add(desk, customer, organization, &by))
            }
            OrgCommand::List {
                customer,
                stale,
                place,
            } => place.read(&stale, |desk| list(desk, customer.as_ref())),
            OrgCommand::Suspend(switch) => switch.to(State::Suspended),
            OrgCommand::Resume(switch) => switch.to(State::Active),
        }
    }
}

impl Switch {
    fn to(self, state: State) -> Result<(), Failure> {
        let Self {
            org,
            customer,
            by,
            place,
        } = self;
        let root = customer.unwrap_or_else(|| org.clone());
        place.with(|desk| {
            desk.organization(&root, &org)?;
            let what = Ref::new(Kind::Organization, org.as_str());
            let stored = desk.edit(&root, &what, &by.actor()?, |record| match record {
                Record::Organization(o) => Ok(Record::Organization(Organization { state, ..o })),
                other => Ok(other),
            })?;
            let one = Shown::of(&root, &stored);
            desk.say(&one, || format!("organization {org} is {state}\n"))
        })
    }
}

fn add(
    desk: &Desk<'_>,
    customer: Option<OrgId>,
    organization: Organization,
    by: &By,
) -> Result<String, Failure> {
    let id = organization.id.clone();
    let root = customer
        .or_else(|| organization.parent.clone())
        .unwrap_or_else(|| id.clone());
    if let Some(parent) = &organization.parent {
        desk.organization(&root, parent)?;
    }
    let record = Record::Organization(organization);
    desk.apply(&root, &by.actor()?, &[Change::Create(record.clone())])?;
    let stored = Stored { version: 1, record };
    desk.say(&Shown::of(&root, &stored), || format!("{id}\n"))
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    customer: &'a str,
    parent: Option<&'a str>,
    slug: &'a str,
    name: &'a str,
    kind: &'static str,
    state: &'static str,
    version: u64,
}

impl<'a> Shown<'a> {
    fn of(root: &'a OrgId, stored: &'a Stored) -> Option<Self> {
        let Record::Organization(o) = &stored.record else {
            return None;
        };
        Some(Self {
            id: o.id.as_str(),
            customer: root.as_str(),
            parent: o.parent.as_ref().map(OrgId::as_str),
            slug: &o.slug,
            name: &o.name,
            kind: o.kind.as_str(),
            state: o.state.as_str(),
            version: stored.version,
        })
    }
}

fn list(desk: &Desk<'_>, only: Option<&OrgId>) -> Result<String, Failure> {
    let found = desk.all_of(only, Kind::Organization)?;
    let shown: Vec<Shown<'_>> = found
        .iter()
        .filter_map(|(root, stored)| Shown::of(root, stored))
        .collect();
    desk.say(&shown, || {
        let mut out = format!(
            "{:<30} {:<30} {:<9} {:<9} name\n",
            "id", "parent", "kind", "state"
        );
        for one in &shown {
            let parent = one.parent.unwrap_or("-");
            // Writing to a string can not fail.
            let _ = writeln!(
                out,
                "{:<30} {parent:<30} {:<9} {:<9} {} ({})",
                one.id, one.kind, one.state, one.name, one.slug
            );
        }
        out
    })
}

/// A name as it may stand in addresses; `None`: nothing is left of it.
fn slug_of(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let mut slug = words.join("-");
    slug.truncate(63);
    (!slug.is_empty()).then_some(slug)
}

/// A new id: a ULID of this moment.
fn new_id() -> anyhow::Result<OrgId> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let chance = random::<10>()?;
    let ulid = ulid(u64::try_from(now.as_millis())?, chance);
    Ok(OrgId::parse(&format!("{}{ulid}", OrgId::PREFIX))?)
}

/// A ULID: 48 bits of milliseconds since 1970, 80 by chance, in 26 digits of Crockford's base 32.
fn ulid(at_ms: u64, chance: [u8; 10]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let chance = chance.iter().fold(0_u128, |n, b| n << 8 | u128::from(*b));
    let bits = u128::from(at_ms & 0xffff_ffff_ffff) << 80 | chance;
    let digit = |n: u32| char::from(DIGITS[(bits >> (5 * n)) as usize & 31]);
    (0..26).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_slugs() {
        for (name, slug) in [
            ("Acme", Some("acme")),
            ("  Acme, Inc.  (Berlin) ", Some("acme-inc-berlin")),
            ("Ünïcode 7", Some("n-code-7")),
            ("東京", None),
        ] {
            assert_eq!(slug_of(name).as_deref(), slug);
        }
        assert_eq!(slug_of(&"x".repeat(99)).unwrap().len(), 63);
    }

    /// The example of the ULID specification, and the ends.
    #[test]
    fn ids_are_ulids() {
        let example = ulid(1_469_918_176_385, [0; 10]);
        assert_eq!(example, "01ARYZ6S410000000000000000");
        let last = ulid(u64::MAX, [255; 10]);
        assert_eq!(last, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }
}
