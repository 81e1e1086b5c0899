//! The scripts behind `make run` and `make mesh`, run as people run them.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use gb6_tests_harness::process::{free_port, workspace};

use crate::{Node, PATIENCE, eventually, get};

/// A script in a directory of its own, which it takes for the repository, and with the binary that
/// is tested.
fn script(dir: &Path, name: &str) -> Command {
    let scripts = dir.join("scripts");
    if !scripts.exists() {
        std::os::unix::fs::symlink(workspace().join("scripts"), &scripts).unwrap();
    }
    let mut command = Command::new("bash");
    command.arg(scripts.join(name)).current_dir(dir);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GB6_")) {
        command.env_remove(name);
    }
    command.env("GB6_BIN", env!("CARGO_BIN_EXE_gb6"));
    command
}

impl Node {
    /// The next line that holds `words`.
    fn line_with(&self, words: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(words) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {words:?} in {seen:#?}");
    }
}

/// `scripts/mesh.sh` on ports of its own.
struct Mesh {
    script: Node,
    dir: PathBuf,
    ports: [(&'static str, u16); 8],
}

impl Mesh {
    fn command(dir: &Path, ports: &[(&'static str, u16); 8]) -> Command {
        let mut command = script(dir, "mesh.sh");
        // As a terminal has it: signals go to the whole group.
        command.process_group(0);
        command.envs(ports.map(|(name, port)| (name, port.to_string())));
        command
    }

    fn start(dir: &Path) -> Self {
        let names = [
            "G1_HTTP", "R1_HTTP", "E1_HTTP", "E2_HTTP", "E1_ADMIN", "E2_ADMIN", "G1_MESH",
            "R1_MESH",
        ];
        let ports = names.map(|name| (name, free_port().unwrap()));
        let mesh = Self {
            script: Node::start_unready(&mut Self::command(dir, &ports)),
            dir: dir.join("mesh-data"),
            ports,
        };
        mesh.script.line_with("Ctrl-C stops the mesh");
        mesh
    }

    fn pid(&self, node: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.dir.join(format!("{node}.pid")));
        text.ok()?.trim().parse().ok()
    }

    fn address(&self, name: &str) -> SocketAddr {
        let port = self.ports.iter().find(|(of, _)| *of == name).unwrap().1;
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// What `/readyz` of a node answers.
    fn readyz(&self, http: &str) -> u16 {
        get(self.address(http), "/readyz").0
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Left behind by a test that failed.
        let _ = self.script.child.kill();
        for pid in ["g1", "r1", "e1", "e2"].iter().filter_map(|n| self.pid(n)) {
            kill("-KILL", &pid.to_string());
        }
    }
}

fn kill(signal: &str, whom: &str) -> bool {
    let status = Command::new("kill").args([signal, "--", whom]).status();
    status.unwrap().success()
}

#[test]
fn a_mesh_restarts_what_is_killed_and_ends_its_edges_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::start(dir.path());
    for http in ["G1_HTTP", "R1_HTTP", "E1_HTTP", "E2_HTTP"] {
        assert_eq!(mesh.readyz(http), 200, "{http}");
    }

    // A second mesh on these ports says who has them, and leaves them alone.
    let other = tempfile::tempdir().unwrap();
    let output = Mesh::command(other.path(), &mesh.ports).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let (port, holder) = (mesh.ports[0].1, mesh.pid("g1").unwrap());
    for words in [
        format!("port {port} (tcp) of g1"),
        format!("process {holder} "),
    ] {
        assert!(said.contains(&words), "{words:?} is not in {said}");
    }
    // Nor is one started twice.
    let output = Mesh::command(dir.path(), &mesh.ports).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("g1 already runs as process"), "{said}");
    assert_eq!(output.status.code(), Some(1));

    let killed = mesh.pid("r1").unwrap();
    assert!(kill("-KILL", &killed.to_string()));
    mesh.script.line_with("r1 ended with status 137");
    mesh.script.line_with("r1 starts again");
    assert_ne!(mesh.pid("r1"), Some(killed));
    // Before it listens, what ends it is the signal.
    eventually("r1 to be back", || {
        TcpStream::connect(mesh.address("R1_HTTP")).is_ok() && mesh.readyz("R1_HTTP") == 200
    });

    // Ctrl-C: what the terminal sends goes to the script's group, which is not the nodes'.
    let group = format!("-{}", mesh.script.pid());
    assert!(kill("-INT", &group));
    let (status, lines, said) = mesh.script.wait_end();
    assert_eq!(status.code(), Some(0), "{lines:?} {said}");
    let ends: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.trim().strip_suffix(" ended with status 0"))
        .collect();
    assert_eq!(ends, ["e1", "e2", "r1", "g1"], "{lines:?} {said}");
    for node in ends {
        assert_eq!(mesh.pid(node), None, "{node}");
    }
}

#[test]
fn one_command_starts_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = script(dir.path(), "run.sh");
    let node = Node::start(command.args(["--http", "127.0.0.1:0"]));
    assert_eq!(get(node.http(), "/readyz").0, 200);
    assert!(dir.path().join("gb6-data/keys.json").exists());
    let (status, _, said) = node.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("Starting gb6 dev --http"), "{said}");
}

/// A directory that the scripts take for the repository, with programs of ours before the system's.
struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        for file in ["src/main.ts", "index.html", "package.json"] {
            sandbox.write(file, "");
        }
        for file in ["package-lock.json", "tsconfig.json", "vite.config.ts"] {
            sandbox.write(file, "");
        }
        sandbox
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join("console").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn modified(&self, file: &str, when: SystemTime) {
        let path = self.0.path().join("console").join(file);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(when).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.0.path().join("bin").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }

    /// Its exit code and what it says.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = script(self.0.path(), "console.sh");
        let path = format!("{}:/usr/bin:/bin", self.0.path().join("bin").display());
        let output = command.args(arguments).env("PATH", path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }
}

#[test]
fn a_console_that_can_not_be_built_is_left_out_and_an_old_one_is_built_again() {
    let sandbox = Sandbox::new();
    let left_out = |why: &str| {
        let (code, said) = sandbox.run(&["--if-missing"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(why), "{said}");
        // Who asks for it is told that there is none.
        assert_ne!(sandbox.run(&[]).0, Some(0));
    };
    sandbox.program("npm", "echo unreachable >&2; exit 1");
    for version in ["v18.20.4", "v20.18.1", "v21.7.0", "v22.11.0"] {
        sandbox.program("node", &format!("echo {version}"));
        left_out(&format!("left out: Node {version} will not do"));
    }
    for version in ["v20.19.0", "v22.12.0", "v24.1.0"] {
        sandbox.program("node", &format!("echo {version}"));
        left_out("left out: its npm packages can not be installed");
    }

    let npm = "case $1 in ci) mkdir -p node_modules; touch node_modules/.package-lock.json ;;\n\
               run) mkdir -p dist; echo once >>dist/runs; touch dist/index.html ;; esac";
    sandbox.program("npm", npm);
    let runs = || {
        let (code, said) = sandbox.run(&["--if-missing"]);
        assert_eq!(code, Some(0), "{said}");
        let runs = std::fs::read_to_string(sandbox.0.path().join("console/dist/runs"));
        runs.unwrap().lines().count()
    };
    assert_eq!((runs(), runs()), (1, 1));
    for (n, source) in ["src/main.ts", "package-lock.json"].iter().enumerate() {
        let now = SystemTime::now();
        sandbox.modified(source, now + Duration::from_secs(3600));
        assert_eq!(runs(), n + 2, "{source}");
        sandbox.modified(source, now - Duration::from_secs(3600));
        assert_eq!(runs(), n + 2, "{source}");
    }
}

#[test]
fn who_may_not_run_the_last_stage_is_told_before_the_first() {
    let sandbox = Sandbox::new();
    sandbox.program("id", "echo 1000");
    let check = |stages: &[&str]| {
        let mut command = script(sandbox.0.path(), "test.sh");
        let path = format!("{}:/usr/bin:/bin", sandbox.0.path().join("bin").display());
        command.arg("--check").args(stages).env("PATH", path);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    for stages in [&[][..], &["units", "crash"]] {
        let (code, said) = check(stages);
        assert_eq!(code, Some(1), "{said}");
        let others = "scripts/test.sh units mutants sdk sdk-python sdk-go browser conformance";
        assert!(
            said.contains("sudo make test") && said.contains(others),
            "{said}"
        );
    }
    assert_eq!(check(&["units", "sdk"]), (Some(0), String::new()));
    sandbox.program("id", "echo 0");
    assert_eq!(check(&[]), (Some(0), String::new()));
}

#[test]
fn every_parser_that_has_a_target_is_fuzzed_with_its_corpus() {
    let script = workspace().join("scripts/fuzz.sh");
    let output = Command::new("bash").arg(&script).arg("--list").output();
    let listed = String::from_utf8(output.unwrap().stdout).unwrap();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    let targets = std::fs::read_dir(workspace().join("tests/fuzz/targets")).unwrap();
    let mut targets: Vec<String> = targets
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort_unstable();
    assert_eq!(listed, targets);

    let text = std::fs::read_to_string(script).unwrap();
    for target in &targets {
        let (_, corpus) = text.split_once(&format!("\n    {target}:")).unwrap();
        let corpus = workspace().join(corpus.lines().next().unwrap());
        assert!(corpus.is_dir(), "{target}: there is no {corpus:?}");
    }
}
