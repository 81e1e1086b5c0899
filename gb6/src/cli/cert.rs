//! `gb6 cert`: the mesh's authority and the certificates of its nodes.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use gb6_core_mesh::NodeIdentity;
use gb6_core_mesh::certs::{create_ca, create_node};
use gb6_core_model::Role;

use super::exit::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum CertCommand {
    /// Make the authority of a mesh: ca.pem, which every node needs, and ca.key, which signs
    Ca {
        /// Where to; made if absent
        dir: PathBuf,
    },
    /// Make the certificate and key of a node, signed by the authority
    Node(Node),
}

#[derive(Args, Debug)]
pub(crate) struct Node {
    /// The directory of the authority, as made by `gb6 cert ca`
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// What the node may be: edge, region, geo, or several with commas
    #[arg(long, value_name = "ROLE", value_delimiter = ',', required = true, value_parser = role)]
    role: Vec<Role>,
    /// The node's name: a-z, 0-9 and -, a letter first
    #[arg(long)]
    name: String,
    /// Where to; made if absent [default: the directory of the authority]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| format!("no role `{text}`: there are edge, region and geo"))
}

impl CertCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let now = SystemTime::now();
        let files = match self {
            CertCommand::Ca { dir } => {
                let files = create_ca(&dir, now)?;
                eprintln!(
                    "Made the mesh's authority. Keep {} away from the nodes: whoever has it can \
                     join the mesh as any node.",
                    files.key.display()
                );
                files
            }
            CertCommand::Node(node) => {
                let identity = NodeIdentity::new(node.name, node.role).map_err(Failure::usage)?;
                let out = node.out.unwrap_or_else(|| node.ca.clone());
                let files = create_node(&node.ca, &out, &identity, now)?;
                eprintln!(
                    "Made the certificate of node {}, valid for a year.",
                    identity.node
                );
                files
            }
        };
        eprintln!("  certificate {}", files.certificate.display());
        eprintln!("  key         {}", files.key.display());
        Ok(())
    }
}
