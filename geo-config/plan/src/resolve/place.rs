//! Nodes and regions: what they are called, where they are reached, who owns which shard.

use std::collections::BTreeMap;

use gb6_core_model::ids::SLOT_COUNT;
use gb6_core_model::snapshot::{Assigned, Node, Region};
use gb6_core_model::{NodeId, Role, ShardId};
use toml::Spanned;

use super::address::is_address;
use super::{Resolver, names};
use crate::file::{NodeFile, RegionFile, SHARDS_MAX};

impl Resolver<'_> {
    pub(super) fn node(&mut self, name: &Spanned<String>, node: &NodeFile) -> Node {
        let path = format!("nodes.{}", name.get_ref());
        self.label(name, &path, "node");
        let roles = node.roles.get_ref();
        if roles.is_empty() {
            self.wrong(
                &node.roles,
                &format!("{path}.roles"),
                "a node needs a role: edge, region or geo",
            );
        }
        if roles
            .iter()
            .enumerate()
            .any(|(n, role)| roles[..n].contains(role))
        {
            self.wrong(
                &node.roles,
                &format!("{path}.roles"),
                "a role is named twice",
            );
        }
        let listens = roles.iter().any(|r| matches!(r, Role::Region | Role::Geo));
        match &node.mesh {
            Some(mesh) if !is_address(mesh.get_ref()) => self.wrong_with(
                mesh,
                &format!("{path}.mesh"),
                format!("`{}` is no host and port", mesh.get_ref()),
                "as in \"10.0.0.7:7600\" or \"r1.example.org:7600\"".into(),
            ),
            None if listens => self.wrong(
                name,
                &format!("{path}.mesh"),
                "a node with the role region or geo needs the address of its mesh listener",
            ),
            _ => {}
        }
        let is_region = roles.contains(&Role::Region);
        match &node.region {
            Some(region) if is_region => {
                let known = names(&self.file.regions);
                self.refers(
                    region,
                    &format!("{path}.region"),
                    "region",
                    known.into_iter(),
                );
            }
            Some(region) => self.wrong(
                region,
                &format!("{path}.region"),
                "only a node with the role region belongs to a region",
            ),
            None if is_region => self.wrong(
                name,
                &format!("{path}.region"),
                "a node with the role region must say which region it belongs to",
            ),
            None => {}
        }
        Node {
            roles: roles.clone(),
            mesh: node.mesh.as_ref().map(|m| m.get_ref().clone()),
            region: node.region.as_ref().map(|r| r.get_ref().clone()),
        }
    }

    pub(super) fn region(&mut self, name: &Spanned<String>, region: &RegionFile) -> Region {
        let path = format!("regions.{}", name.get_ref());
        self.label(name, &path, "region");
        let shards = *region.shards.get_ref();
        let countable = self.within(
            &region.shards,
            &format!("{path}.shards"),
            shards,
            1,
            SHARDS_MAX,
        );

        let owners = match region.assigned {
            Assigned::Placement => self.owners(name, region),
            Assigned::Region => self.candidates(name, region),
        };
        if let Some(given) = region.owners.as_ref()
            && countable
            && owners.len() as u64 > shards
        {
            self.wrong(
                given,
                &format!("{path}.owners"),
                format!(
                    "{} owners for {shards} shards: some would own nothing",
                    owners.len()
                ),
            );
        }

        let mut slots = BTreeMap::new();
        for (slot, shard) in &region.slots {
            let path = format!("{path}.slots.{}", slot.get_ref());
            let number = slot
                .get_ref()
                .parse::<u16>()
                .ok()
                .filter(|s| *s < SLOT_COUNT);
            if number.is_none() {
                self.wrong(
                    slot,
                    &path,
                    format!("a slot is a number from 0 to {}", SLOT_COUNT - 1),
                );
            }
            let fits = !countable || self.within(shard, &path, *shard.get_ref(), 0, shards - 1);
            if let (Some(slot), true) = (number, fits) {
                slots.insert(slot, ShardId(*shard.get_ref() as u32));
            }
        }

        let dealt = if countable && !owners.is_empty() {
            shards as usize
        } else {
            0
        };
        Region {
            shards: if countable { shards as u32 } else { 0 },
            slots,
            owners: (0..dealt)
                .map(|n| owners[n % owners.len()].clone())
                .collect(),
            assigned: region.assigned,
        }
    }

    /// The nodes that a file names as owners.
    fn owners(&mut self, name: &Spanned<String>, region: &RegionFile) -> Vec<NodeId> {
        let path = format!("regions.{}.owners", name.get_ref());
        let why = "a region needs a node that owns its shards, or assigned = \"region\"";
        let Some(owners) = &region.owners else {
            self.wrong(name, &path, why);
            return Vec::new();
        };
        if owners.get_ref().is_empty() {
            self.wrong(owners, &path, why);
        }
        for owner in owners.get_ref() {
            self.owner(owner, &path, name.get_ref());
        }
        let owners = owners.get_ref().iter();
        owners.map(|o| NodeId::from(o.get_ref().as_str())).collect()
    }

    /// The nodes of a region that decides itself who owns what, by name: where owners are looked for
    /// first.
    fn candidates(&mut self, name: &Spanned<String>, region: &RegionFile) -> Vec<NodeId> {
        let path = format!("regions.{}.owners", name.get_ref());
        if let Some(owners) = &region.owners {
            self.wrong_with(
                owners,
                &path,
                "the region decides itself who owns its shards".to_owned(),
                "leave owners out, or assigned".to_owned(),
            );
        }
        let of_region = self.file.nodes.iter().filter(|(_, node)| {
            let of = node.get_ref().region.as_ref();
            of.is_some_and(|of| of.get_ref() == name.get_ref())
        });
        let candidates: Vec<NodeId> = of_region
            .map(|(node, _)| NodeId::from(node.get_ref().as_str()))
            .collect();
        if candidates.is_empty() {
            self.wrong(
                name,
                &format!("regions.{}.assigned", name.get_ref()),
                "no node belongs to the region: it needs one with the role region",
            );
        }
        candidates
    }

    fn owner(&mut self, owner: &Spanned<String>, path: &str, region: &str) {
        let known = names(&self.file.nodes);
        if !self.refers(owner, path, "node", known.into_iter()) {
            return;
        }
        let found = self
            .file
            .nodes
            .iter()
            .find(|(name, _)| name.get_ref() == owner.get_ref());
        let Some((_, node)) = found else { return };
        let (node, id) = (node.get_ref(), owner.get_ref());
        if !node.roles.get_ref().contains(&Role::Region) {
            self.wrong_with(
                owner,
                path,
                format!("node `{id}` has not the role region"),
                format!("add it to nodes.{id}.roles, or name another owner"),
            );
        }
        if let Some(other) = node.region.as_ref().filter(|r| r.get_ref() != region) {
            let other = other.get_ref();
            self.wrong(
                owner,
                path,
                format!("node `{id}` belongs to region `{other}`"),
            );
        }
    }
}
