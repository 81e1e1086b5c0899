"""Checks what is in deploy/ as far as that goes without containers: that the YAML is good, that every
name that is referred to is there, and that every key of the configuration is one that
docs/configuration.md has (which is held against the code by its own tests).

    python deploy/check/check.py      from the repository's root; says what is wrong and ends with 1
"""

import re
import sys
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path("deploy")
KUBERNETES = DEPLOY / "kubernetes"
# Which API each kind belongs to: a wrong one is refused by a server only.
APIS = {
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
    "Namespace": "v1",
    "ServiceAccount": "v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


class Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""


def mapping(loader, node):
    seen = set()
    for key, _ in node.value:
        if key.value != "<<" and key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} stands twice", key.start_mark
            )
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def documents(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [d for d in yaml.load_all(file, Strict) if d is not None]
    except yaml.YAMLError as error:
        problem(path, f"no YAML: {error}")
        return []


# Configuration.


def known_keys():
    """For each role the keys of its file, and all environment variables, from docs/configuration.md."""
    keys, variables = {}, set()
    role = table = None
    for line in Path("docs/configuration.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"### (\w+): (.*)", line):
            role = heading.group(1)
            named = re.fullmatch(r"`\[(.*)\]`", heading.group(2))
            table = named.group(1) + "." if named else ""
        elif line.startswith("#"):
            role = None
        elif role and (row := re.match(r"\| `(\w+)` \|.*?\| `--[^`]*`, `(GB6_\w+)` \|", line)):
            keys.setdefault(role, set()).add(table + row.group(1))
            variables.add(row.group(2))
    return keys, variables | {"GB6_CONFIG", "GB6_LOG"}


def flat(table, before=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key


def check_config(path, keys):
    role = path.stem
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        problem(path, f"no TOML: {error}")
        return
    # The snapshot is checked by gb6 itself, in its tests.
    if role == "snapshot":
        return
    if role not in keys:
        problem(path, f"no role {role} is in docs/configuration.md")
        return
    for key in flat(config):
        if key not in keys[role]:
            problem(path, f"{role} has no key {key} in docs/configuration.md")


def check_environment(where, names, variables):
    for name in names:
        if name.startswith("GB6_") and name not in variables:
            problem(where, f"no variable {name} is in docs/configuration.md")


# Containers of one machine.


def check_compose(path, variables):
    (compose,) = documents(path) or [{}]
    services = compose.get("services", {})
    volumes = set(compose.get("volumes", {}))
    for name, service in services.items():
        where = f"{path}: {name}"
        image = service.get("image", "")
        if not service.get("build") and not re.fullmatch(r"[\w./-]+:[\w.-]+", image):
            problem(where, f"the image {image!r} has no version")
        if build := service.get("build"):
            dockerfile = path.parent / build["context"] / build["dockerfile"]
            if not dockerfile.resolve().is_file():
                problem(where, f"there is no {dockerfile}")
        check_environment(where, service.get("environment", {}), variables)
        for other in service.get("depends_on", {}):
            if other not in services:
                problem(where, f"it depends on {other}, which is no service")
            elif service["depends_on"][other]["condition"] == "service_healthy" and not services[
                other
            ].get("healthcheck"):
                problem(where, f"it waits for the health of {other}, which has no check of it")
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                if not (path.parent / source).is_file():
                    problem(where, f"there is no {source}")
            elif source not in volumes:
                problem(where, f"there is no volume {source}")
        told = [a for a in service.get("command", []) if a.startswith("/etc/gb6/")]
        mounted = [m.split(":")[1] for m in service.get("volumes", [])]
        for file in told + [a for a in service.get("entrypoint", []) if a.startswith("/etc/gb6/")]:
            if file not in mounted:
                problem(where, f"nothing is mounted at {file}")
    for volume in volumes:
        if not any(
            m.startswith(volume + ":") for s in services.values() for m in s.get("volumes", [])
        ):
            problem(path, f"nobody uses the volume {volume}")


# Kubernetes.


def matches(selector, labels):
    return selector and all(labels.get(k) == v for k, v in selector.items())


def check_kubernetes(variables):
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml") or [{}]
    listed = set(kustomization.get("resources", []))
    present = {p.name for p in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    for name in listed ^ present:
        problem(KUBERNETES / "kustomization.yaml", f"{name} is not both listed and there")
    objects = [(p, o) for p in sorted(KUBERNETES.glob("*.yaml")) for o in documents(p)]
    configs = {}
    for generated in kustomization.get("configMapGenerator", []):
        configs[generated["name"]] = {Path(f).name for f in generated["files"]}
        for file in generated["files"]:
            if not (KUBERNETES / file).is_file():
                problem(KUBERNETES / "kustomization.yaml", f"there is no {file}")
    pods = {}
    seen = set()
    for path, found in objects:
        kind = found.get("kind")
        name = found.get("metadata", {}).get("name", "kustomization")
        where = f"{path}: {kind} {name}"
        if APIS.get(kind) != found.get("apiVersion"):
            problem(where, f"{found.get('apiVersion')} has no {kind}")
        if (kind, name) in seen:
            problem(where, "it is there twice")
        seen.add((kind, name))
        if kind not in ("Namespace", "Kustomization") and found["metadata"].get("namespace") != "gb6":
            problem(where, "it is not in the namespace gb6")
        if kind == "StatefulSet":
            pods[where] = found
    secrets = set(re.findall(r"create secret generic (\S+)", (DEPLOY / "README.md").read_text(encoding="utf-8")))
    accounts = {n for k, n in seen if k == "ServiceAccount"}
    services = {n for k, n in seen if k == "Service"}
    ports = {}
    for where, found in pods.items():
        spec = found["spec"]
        template = spec["template"]
        pod = template["spec"]
        labels = template["metadata"]["labels"]
        if not matches(spec["selector"]["matchLabels"], labels):
            problem(where, "its selector does not match its pods")
        if spec["serviceName"] not in services:
            problem(where, f"there is no service {spec['serviceName']}")
        if pod["serviceAccountName"] not in accounts:
            problem(where, f"there is no service account {pod['serviceAccountName']}")
        volumes = {v["name"]: v for v in pod["volumes"]}
        volumes |= {c["metadata"]["name"]: c for c in spec.get("volumeClaimTemplates", [])}
        for volume in pod["volumes"]:
            if (config := volume.get("configMap")) and config["name"] not in configs:
                problem(where, f"there is no config map {config['name']}")
            if (secret := volume.get("secret")) and secret["secretName"] not in secrets:
                problem(where, f"deploy/README.md makes no secret {secret['secretName']}")
        for container in pod["containers"]:
            mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
            for mounted in mounts.values():
                if mounted not in volumes:
                    problem(where, f"there is no volume {mounted}")
            for unused in volumes.keys() - set(mounts.values()):
                problem(where, f"nobody mounts the volume {unused}")
            names = {p["name"] for p in container["ports"]}
            ports[tuple(sorted(labels.items()))] = names
            for probe in ("readinessProbe", "livenessProbe"):
                if container[probe]["httpGet"]["port"] not in names:
                    problem(where, f"its {probe} asks a port that it does not have")
            check_environment(where, [e["name"] for e in container["env"]], variables)
            check_paths(where, container, mounts, volumes, configs)
            numbers = {str(p["containerPort"]) for p in container["ports"]}
            check_listeners(where, container, numbers)
    check_selectors(objects, ports)


def check_paths(where, container, mounts, volumes, configs):
    """The file that a node is given is one of those that are mounted."""
    file = Path(container["args"][container["args"].index("--config") + 1])
    volume = volumes.get(mounts.get(str(file.parent)), {})
    config = volume.get("configMap", {}).get("name")
    if file.name not in configs.get(config, ()):
        problem(where, f"nothing is mounted at {file}")


def check_listeners(where, container, numbers):
    """The ports that a node listens on are those of its container."""
    path = KUBERNETES / "config" / f"{container['args'][0]}.toml"
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    listens = [config.get("http"), config.get("admin"), config.get("mesh", {}).get("listen")]
    told = {a.rsplit(":", 1)[1] for a in listens if a}
    if told != numbers:
        problem(where, f"it listens on {sorted(told)} and its container has {sorted(numbers)}")


def check_selectors(objects, ports):
    for path, found in objects:
        kind = found.get("kind")
        spec = found.get("spec", {})
        selector = {
            "Service": spec.get("selector"),
            "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
        }.get(kind)
        if selector is None:
            continue
        where = f"{path}: {kind} {found['metadata']['name']}"
        chosen = [names for labels, names in ports.items() if matches(selector, dict(labels))]
        if not chosen:
            problem(where, "it selects no pods")
        for port in spec.get("ports", []) if kind == "Service" else []:
            target = port.get("targetPort")
            if isinstance(target, str) and not any(target in names for names in chosen):
                problem(where, f"its pods have no port {target}")


def main():
    keys, variables = known_keys()
    if not {"edge", "region", "geo"} <= keys.keys():
        problem("docs/configuration.md", "the tables of the roles are not where they were")
    configs = sorted(DEPLOY.rglob("*.toml"))
    for path in configs:
        check_config(path, keys)
    check_compose(DEPLOY / "compose.yaml", variables)
    check_kubernetes(variables)
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"deploy: good, {len(configs)} files of configuration, compose.yaml, Kubernetes")


if __name__ == "__main__":
    main()
