//! The arrows between the workspace's crates, their names, and which of them may use a vendor's
//! client: what `Cargo.toml` files say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Finding, relative};

/// Clients of storage engines: only `region/stores/*` may use them (A3).
const VENDOR_CLIENTS: &[&str] = &[
    "fjall",
    "redis",
    "rdkafka",
    "tikv-client",
    "sqlx",
    "object_store",
];
/// Crates that bring I/O, a clock or randomness: never in a pure crate (A1).
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "quinn",
    "hyper",
    "hyper-util",
    "axum",
    "rand",
    "getrandom",
    "rustix",
    "socket2",
    "mio",
    "tracing-subscriber",
    "prometheus",
    "tempfile",
];

/// The crates of the workspace.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One crate.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder from the workspace root, such as `core/model`.
    pub(crate) folder: String,
    /// The text of its manifest.
    pub(crate) manifest: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency of a crate.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Where it lies in the workspace, if it does.
    pub(crate) folder: Option<String>,
    /// Whether only its tests use it.
    pub(crate) dev: bool,
}

/// What a crate is in the architecture, from its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layer<'a> {
    /// `core/<name>`.
    Core(&'a str),
    /// The pure machine of a role.
    Machine { role: &'a str },
    /// The driver of a role.
    Driver { role: &'a str },
    /// `region/archive`: what the engines of logs share of a log's sealed part.
    Archive,
    /// One backend.
    Store,
    /// The binary.
    Binary,
    /// Tests and what they use.
    Tests,
    /// These tools.
    Tools,
    /// A folder that the architecture does not know.
    Unknown,
}

impl<'a> Layer<'a> {
    pub(crate) fn of(folder: &'a str) -> Self {
        let parts: Vec<&str> = folder.split('/').collect();
        match parts.as_slice() {
            ["core", name] => Layer::Core(name),
            ["edge", "session"]
            | ["region", "shard" | "assign"]
            | ["geo-config", "plan"]
            | ["media-relay", "sfu"] => Layer::Machine { role: parts[0] },
            [
                role @ ("edge" | "region" | "geo-config" | "media-relay"),
                "node",
            ] => Layer::Driver { role },
            ["region", "archive"] => Layer::Archive,
            ["region", "stores", _] => Layer::Store,
            ["gb6"] => Layer::Binary,
            ["tests", _] => Layer::Tests,
            ["xtask"] => Layer::Tools,
            _ => Layer::Unknown,
        }
    }

    /// Whether A1 holds for it: no I/O, no clock, no randomness.
    pub(crate) fn is_pure(self) -> bool {
        matches!(
            self,
            Layer::Machine { .. } | Layer::Core("model") | Layer::Core("wire")
        )
    }

    /// Whether it may depend on `other`.
    fn may_use(self, other: Layer, dev: bool) -> bool {
        let core = |allowed: &[&str]| matches!(other, Layer::Core(name) if allowed.contains(&name));
        match self {
            Layer::Core("model") => false,
            Layer::Core("wire") => core(&["model"]),
            Layer::Core("ports") => core(&["model", "wire"]),
            Layer::Core(_) => core(&["model", "wire", "ports"]),
            Layer::Machine { .. } => core(&["model", "wire"]),
            Layer::Driver { role } => match other {
                Layer::Core(_) => true,
                Layer::Machine { role: other } => role == other,
                Layer::Store => dev && role == "region",
                Layer::Tests => dev,
                _ => false,
            },
            Layer::Archive => {
                core(&["model", "wire", "ports", "obs"]) || (dev && other == Layer::Tests)
            }
            Layer::Store => {
                core(&["model", "wire", "ports", "obs"])
                    || other == Layer::Archive
                    || (dev && matches!(other, Layer::Store | Layer::Tests))
            }
            Layer::Binary => other != Layer::Tools,
            Layer::Tests => !matches!(other, Layer::Tools | Layer::Binary),
            Layer::Tools => false,
            Layer::Unknown => true,
        }
    }

    /// The arrows that leave it, in words.
    fn allowed(self) -> &'static str {
        match self {
            Layer::Core("model") => "core/model depends on no other crate of ours",
            Layer::Core("wire") => "core/wire may use core/model",
            Layer::Core("ports") => "core/ports may use core/model and core/wire",
            Layer::Core(_) => "a core crate may use core/model, core/wire and core/ports",
            Layer::Machine { .. } => "a pure machine may use core/model and core/wire",
            Layer::Driver { .. } => {
                "a driver may use core and its own machine, never another role: roles meet over the mesh (A2)"
            }
            Layer::Archive => "the archive may use core/{model,wire,ports,obs}",
            Layer::Store => "a store may use core/{model,wire,ports,obs} and region/archive",
            Layer::Binary | Layer::Tests | Layer::Unknown => {
                "nothing depends on the tools or on the binary"
            }
            Layer::Tools => "the tools depend on no crate of ours",
        }
    }
}

impl Package {
    /// The line (from 1) of the manifest that begins with `start`, or 1.
    fn line_of(&self, start: &str) -> usize {
        self.manifest
            .lines()
            .position(|l| {
                l.strip_prefix(start)
                    .is_some_and(|r| !r.starts_with(['-', '_']))
            })
            .map_or(1, |n| n + 1)
    }

    fn manifest_path(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

/// Every rule about crates.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    workspace.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let mut findings = Vec::new();
    let layer = Layer::of(&package.folder);
    let mut error = |start: &str, rule, message: String| {
        let line = package.line_of(start);
        findings.push(Finding::error(package.manifest_path(), line, rule, message));
    };
    if layer == Layer::Unknown {
        error(
            "[package]",
            "layers",
            format!(
                "the architecture has no place for a crate in {}: see docs/architecture.md and Layer::of",
                package.folder
            ),
        );
    }
    let want = match package.folder.as_str() {
        own @ ("gb6" | "xtask") => own.to_owned(),
        folder => format!("gb6-{}", folder.replace('/', "-")),
    };
    if package.name != want {
        let name = &package.name;
        error(
            "name",
            "package-name",
            format!("package {name} must be named {want}, after its folder"),
        );
    }
    if !inherits_lints(&package.manifest) {
        error(
            "[lints]",
            "lints",
            "the crate does not have the workspace's lints: add [lints] with workspace = true"
                .to_owned(),
        );
    }
    for dep in &package.dependencies {
        // A crate may turn on its own features for its tests.
        let own = |folder: &String| dep.dev && *folder == package.folder;
        if let Some(folder) = &dep.folder
            && !own(folder)
            && !layer.may_use(Layer::of(folder), dep.dev)
        {
            let message = format!(
                "{} must not depend on {folder}: {}",
                package.folder,
                layer.allowed()
            );
            error(&dep.name, "arrows", message);
        }
        if VENDOR_CLIENTS.contains(&dep.name.as_str()) && layer != Layer::Store {
            let message = format!(
                "{}: only region/stores/* may use a vendor's client (A3)",
                dep.name
            );
            error(&dep.name, "vendor-client", message);
        }
        if layer.is_pure() && !dep.dev && IMPURE.contains(&dep.name.as_str()) {
            let message = format!(
                "{}: a pure crate has no I/O, clock or randomness (A1); take what it gives as input",
                dep.name
            );
            error(&dep.name, "pure", message);
        }
    }
    findings
}

fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let compact: String = line.split_whitespace().collect();
        section == "[lints]" && compact == "workspace=true" || compact == "lints.workspace=true"
    })
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<MetadataDependency>,
}

#[derive(Deserialize)]
struct MetadataDependency {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

impl Workspace {
    /// Asks cargo for the workspace that the current directory is in.
    pub(crate) fn load() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--offline",
            ])
            .output()
            .context("cargo can not be started")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cargo metadata gave no valid JSON")?;
        let root = metadata.workspace_root;
        let mut packages = BTreeMap::new();
        for package in metadata.packages {
            let folder = package
                .manifest_path
                .parent()
                .map(|p| relative(&root, p))
                .unwrap_or_default();
            let manifest = std::fs::read_to_string(&package.manifest_path)
                .with_context(|| format!("{} can not be read", package.manifest_path.display()))?;
            let dependencies = package
                .dependencies
                .into_iter()
                .map(|d| Dependency {
                    name: d.name,
                    folder: d.path.map(|p| relative(&root, &p)),
                    dev: d.kind.as_deref() == Some("dev"),
                })
                .collect();
            packages.insert(
                folder.clone(),
                Package {
                    name: package.name,
                    folder,
                    manifest,
                    dependencies,
                },
            );
        }
        Ok(Self {
            root,
            packages: packages.into_values().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n\n[dependencies]\ngb6-core-ports-more = \"1\"\ngb6-core-ports.workspace = true\n";

    fn package(folder: &str, deps: &[(&str, Option<&str>, bool)]) -> Package {
        let name = match folder {
            "gb6" | "xtask" => folder.to_owned(),
            _ => format!("gb6-{}", folder.replace('/', "-")),
        };
        Package {
            name,
            folder: folder.to_owned(),
            manifest: MANIFEST.to_owned(),
            dependencies: deps
                .iter()
                .map(|(name, folder, dev)| Dependency {
                    name: (*name).to_owned(),
                    folder: folder.map(str::to_owned),
                    dev: *dev,
                })
                .collect(),
        }
    }

    fn rules(package: &Package) -> Vec<&'static str> {
        check_package(package).iter().map(|f| f.rule).collect()
    }

    fn arrow(from: &str, to: &str, dev: bool) -> bool {
        rules(&package(from, &[("dep", Some(to), dev)])).is_empty()
    }

    #[test]
    fn arrows_point_one_way() {
        for (from, to) in [
            ("core/wire", "core/model"),
            ("core/ports", "core/wire"),
            ("core/mesh", "core/ports"),
            ("edge/session", "core/wire"),
            ("edge/node", "edge/session"),
            ("edge/node", "core/obs"),
            ("region/node", "region/shard"),
            ("region/stores/embedded", "core/ports"),
            ("gb6", "region/stores/embedded"),
            ("gb6", "tests/load"),
            ("tests/harness", "region/shard"),
        ] {
            assert!(arrow(from, to, false), "{from} -> {to} is refused");
        }
        for (from, to) in [
            ("core/model", "core/wire"),
            ("core/wire", "core/ports"),
            ("core/ports", "core/obs"),
            ("core/obs", "core/mesh"),
            ("core/ports", "edge/session"),
            ("edge/session", "core/ports"),
            ("edge/session", "region/shard"),
            ("edge/node", "region/node"),
            ("edge/node", "region/shard"),
            ("region/node", "region/stores/embedded"),
            ("region/stores/embedded", "core/mesh"),
            ("region/node", "gb6"),
            ("tests/harness", "xtask"),
            ("xtask", "core/model"),
        ] {
            assert!(!arrow(from, to, false), "{from} -> {to} is allowed");
        }
        assert!(arrow("region/node", "region/stores/embedded", true));
        assert!(arrow("edge/node", "tests/harness", true));
        assert!(!arrow("edge/node", "region/node", true));
    }

    #[test]
    fn findings_name_the_line() {
        let p = package(
            "edge/session",
            &[("gb6-core-ports", Some("core/ports"), false)],
        );
        let found = check_package(&p);
        assert_eq!(
            (found[0].file.as_str(), found[0].line),
            ("edge/session/Cargo.toml", 9)
        );
        assert!(
            found[0]
                .to_string()
                .contains("error [arrows] edge/session must not depend on core/ports")
        );
    }

    #[test]
    fn vendor_clients_and_impure_crates() {
        assert_eq!(
            rules(&package("region/node", &[("fjall", None, false)])),
            ["vendor-client"]
        );
        assert_eq!(
            rules(&package("gb6", &[("sqlx", None, true)])),
            ["vendor-client"]
        );
        assert!(
            rules(&package(
                "region/stores/embedded",
                &[("fjall", None, false)]
            ))
            .is_empty()
        );
        assert_eq!(
            rules(&package("region/shard", &[("tokio", None, false)])),
            ["pure"]
        );
        assert_eq!(
            rules(&package("core/wire", &[("rand", None, false)])),
            ["pure"]
        );
        assert!(rules(&package("region/shard", &[("tokio", None, true)])).is_empty());
        assert!(rules(&package("core/mesh", &[("tokio", None, false)])).is_empty());
    }

    #[test]
    fn names_lints_and_places() {
        let mut p = package("core/model", &[]);
        p.name = "gb6-model".to_owned();
        p.manifest =
            "[package]\nname = \"gb6-model\"\n[workspace.lints]\nworkspace = true\n".to_owned();
        assert_eq!(rules(&p), ["package-name", "lints"]);
        assert_eq!(rules(&package("stuff/thing", &[])), ["layers"]);
    }
}
