//! The file of `gb6 dev`: the keys of the process, and the instances that it serves. Those are
//! written and read as in a snapshot file, except that they need no place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::Instance;
use gb6_geo_config_plan::{
    DEMO_INSTANCE, DEMO_REGION, INSTANCES_TABLE, Millis, Problems, read_instances,
};

use super::address::MaybeAddress;
use super::key::config;
use super::load::{ConfigError, layer, parse_role, read_text};
use super::overrides::Overrides;
use super::roles::{DRAIN_MAX_MS, RoleFile, client_bounds, half_of_two, outside};
use super::tables::{ClientsTable, DevOutboundTable, LogFormat, StoresTable, ranges};
use crate::assemble::Engines;

/// Where `gb6 dev` listens for QUIC unless told otherwise.
pub(crate) const USUAL_QUIC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

config! {
    /// The file of `gb6 dev`.
    pub(crate) struct DevFile {
        /// Where everything is kept; made if absent.
        data_dir: String = "gb6-data".into(),
        /// The address for clients, console, health and metrics (TCP). Port 0: any free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// Whether that address speaks TLS 1.3 and nothing else.
        tls: bool = false,
        /// The certificate that is shown to clients (PEM), and behind it those that lead to its
        /// authority: then TLS is spoken. It is read again when it changes, and used if it is
        /// good. "": one that is made by this process.
        tls_cert: String = String::new(),
        /// Its private key (PEM).
        tls_key: String = String::new(),
        /// The address for clients over QUIC (UDP), with the same certificate. Where it is the
        /// default, and taken or http has port 0, any free port. "": there is none.
        quic: MaybeAddress = MaybeAddress(Some(USUAL_QUIC)),
        /// The instance of a connection whose token and host name name none, and of the console.
        /// "": demo, or else the first by name.
        default_instance: String = String::new(),
        /// Over how long clients are told to reconnect when the process stops.
        drain: Millis = Millis(1_000),
        @tables
        /// Bounds of what clients may take up.
        clients: ClientsTable,
        /// Which engine keeps what.
        stores: StoresTable,
        /// Which servers of customers the process may reach: key sets and the like.
        outbound: DevOutboundTable,
        /// What is logged, always to standard error.
        log: DevLogTable,
    }
}

config! {
    /// What is logged, always to standard error.
    pub(crate) struct DevLogTable {
        /// How a line looks: "human" or "json".
        format: LogFormat = LogFormat::Human,
        /// What is logged: a level (error, warn, info, debug, trace), or target=level pairs joined
        /// by commas. The variable GB6_LOG goes before it.
        filter: String = "warn".into(),
    }
}

impl RoleFile for DevFile {
    const COMMAND: &'static str = "dev";
    const OTHER_TABLES: &'static [&'static str] = &[INSTANCES_TABLE];
    const ABOUT: &'static str = "Everything in one process, to try it and to develop against it.";

    fn shown(&self) -> Self {
        Self {
            stores: self.stores.shown(),
            ..self.clone()
        }
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = client_bounds(&self.clients);
        let window = Millis(0)..=Millis(DRAIN_MAX_MS);
        problems.extend(outside("drain", &self.drain, window));
        problems.extend(half_of_two(&self.tls_cert, &self.tls_key));
        problems.extend(ranges(&self.outbound.allow));
        problems.extend(Engines::parse(&self.stores).err().unwrap_or_default());
        if self.data_dir.is_empty() {
            problems.push(("data_dir", "it names no directory".to_owned()));
        }
        problems
    }
}

/// All that the file of `gb6 dev` says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct DevSetup {
    /// The keys of the process.
    pub(crate) file: DevFile,
    /// The instances; `None`: it names none, and there is the instance demo.
    pub(crate) instances: Option<BTreeMap<InstanceId, Instance>>,
}

impl DevSetup {
    /// The file at `path`, if there is one, with `overrides` over it, checked. Secret files are
    /// looked for from its directory.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line.
    pub(crate) fn load(
        path: Option<&Path>,
        overrides: &Overrides<DevFile>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            let file = layer(&DevFile::default(), None, overrides)?;
            return Self::new(file, BTreeMap::new(), None);
        };
        let text = read_text(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let secret = |name: &str| read_text(&dir.join(name)).map_err(|e| e.reason());
        let instances = read_instances(&text, DEMO_REGION, secret);
        let (file, instances) = match (parse_role::<DevFile>(&text), instances) {
            (Ok(file), Ok(instances)) => (file, instances),
            (file, instances) => {
                return Err(ConfigError::File {
                    path: path.to_path_buf(),
                    problems: both(file.err(), instances.err()),
                });
            }
        };
        Self::new(layer(&file, Some(path), overrides)?, instances, Some(path))
    }

    fn new(
        file: DevFile,
        instances: BTreeMap<InstanceId, Instance>,
        path: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let setup = Self {
            file,
            instances: (!instances.is_empty()).then_some(instances),
        };
        let wanted = &setup.file.default_instance;
        let names = setup.names();
        if wanted.is_empty() || names.contains(&wanted.as_str()) {
            return Ok(setup);
        }
        let origin = path.map_or(String::new(), |path| format!("{}: ", path.display()));
        let problem = format!(
            "{origin}default_instance: there is no instance `{wanted}`; there are: {}",
            names.join(", ")
        );
        Err(ConfigError::Values {
            problems: vec![problem],
        })
    }

    fn names(&self) -> Vec<&str> {
        match &self.instances {
            None => vec![DEMO_INSTANCE],
            Some(instances) => instances.keys().map(|id| id.as_str()).collect(),
        }
    }

    /// The instance of a connection that names none.
    pub(crate) fn default_instance(&self) -> InstanceId {
        let wanted = self.file.default_instance.as_str();
        let names = self.names();
        let name = match wanted {
            "" if names.contains(&DEMO_INSTANCE) => DEMO_INSTANCE,
            "" => names.first().copied().unwrap_or(DEMO_INSTANCE),
            wanted => wanted,
        };
        InstanceId::from(name)
    }
}

/// The problems of two readings of one text, each once and by line.
fn both(one: Option<Problems>, other: Option<Problems>) -> Problems {
    let mut all: Vec<_> = one.into_iter().chain(other).flat_map(|p| p.0).collect();
    all.sort_by_key(|problem| (problem.line, problem.column));
    all.dedup();
    Problems(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<DevSetup, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("secret"), "s".repeat(32)).unwrap();
        DevSetup::load(Some(&path), &Overrides::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn without_a_file_there_is_demo() {
        let setup = DevSetup::load(None, &Overrides::default()).unwrap();
        assert_eq!(setup.file, DevFile::default());
        assert_eq!(setup.instances, None);
        assert_eq!(setup.default_instance(), "demo".into());
        // As where the file names no instance.
        assert_eq!(load("http = \"127.0.0.1:1\"\n").unwrap().instances, None);
    }

    #[test]
    fn a_file_has_keys_of_the_process_and_instances() {
        let text = "drain = \"3s\"\n[instances.shop]\n[instances.acme]\n\
                    keys = [{ id = \"k\", secret_file = \"secret\" }]\n";
        let setup = load(text).unwrap();
        assert_eq!(setup.file.drain, Millis(3_000));
        assert_eq!(setup.default_instance(), "acme".into());
        let acme = &setup.instances.as_ref().unwrap()["acme"];
        assert_eq!(acme.keys[0].secret, "s".repeat(32));
        let setup = load(&format!("default_instance = \"shop\"\n{text}")).unwrap();
        assert_eq!(setup.default_instance(), "shop".into());
        let setup = load(&format!("{text}[instances.demo]\n")).unwrap();
        assert_eq!(setup.default_instance(), "demo".into());
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let text =
            "htpp = \"127.0.0.1:1\"\n[instances.acme]\nregoin = \"x\"\n[clients]\nqueu = 1\n";
        let said = load(text).unwrap_err();
        let lines: Vec<&str> = said
            .lines()
            .filter_map(|l| l.split(".toml: ").nth(1))
            .collect();
        assert_eq!(
            lines,
            [
                "line 1: unknown key `htpp` (did you mean `http`?)",
                "line 3: unknown key `regoin` (did you mean `region`?)",
                "line 5: unknown key `queu` (did you mean `queue`?)",
            ]
        );
        for (text, want) in [
            ("instances = 1\n", "line 1: instances: invalid type"),
            ("[instances.acme\n", "line 1: "),
            ("[instance.acme]\n", "did you mean `instances`?"),
            ("drain = \"11m\"\n", "drain: 11m is out of range: 0s to 10m"),
            ("data_dir = \"\"\n", "data_dir: it names no directory"),
            (
                "default_instance = \"shop\"\n",
                "no instance `shop`; there are: demo",
            ),
            (
                "[instances.a]\nkeys = [{ id = \"k\", secret_file = \"none\" }]\n",
                "secret_file: none: ",
            ),
        ] {
            let said = load(text).unwrap_err();
            assert!(said.contains(want), "{said}");
            // Two readers of one text do not say the same twice.
            assert_eq!(said.matches(".toml: ").count(), 1, "{said}");
        }
    }
}
