#!/usr/bin/env python3
"""deploy/compose/compose.yaml: valid for every profile by the real tool, held against policies and against the binary. A line a case.

    target/services/venv/bin/python tests/image/compose.py
"""

import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/k8s"))
import manifests  # noqa: E402
import references  # noqa: E402

FILE = ROOT / "deploy/compose/compose.yaml"
PROFILES = ["alone", "postgres", "cassandra", "cluster", "observe", "load"]
# What has to write below its root, with the reason in compose.yaml.
WRITABLE_ROOT = {"cassandra"}
# What others do not wait for, and what ends by itself.
WITHOUT_HEALTH_CHECK = {"ratelimit", "prometheus", "grafana", "jaeger", "k6"}
POLICIES = []


def tool():
    """Docker Compose 2 where it is, else docker-compose."""
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    return ["docker", "compose"] if plugin else ["docker-compose"]


def resolved(profiles, file=FILE):
    """The configuration as the tool understands it, of these profiles only; raises CalledProcessError with its words."""
    flags = [flag for profile in profiles for flag in ("--profile", profile)]
    said = subprocess.run([*tool(), "-f", file, *flags, "config"], check=True, capture_output=True, text=True).stdout
    config = yaml.safe_load(said)
    chosen = {name: found for name, found in config["services"].items() if set(found.get("profiles", [])) & set(profiles)}
    return {**config, "services": chosen}


def policy(function):
    POLICIES.append(function)
    return function


def published(service):
    """(address, port of the machine, port of the container) of each published port, in both forms that the tools write."""
    for port in service.get("ports", []):
        if isinstance(port, dict):
            yield port.get("host_ip", ""), str(port["published"]), str(port["target"])
        else:
            address, machine, container = ["", *port.partition("/")[0].split(":")][-3:]
            yield address, machine, container


@policy
def every_port_is_on_loopback(config):
    for name, service in config["services"].items():
        for address, machine, _ in published(service):
            if address != "127.0.0.1":
                yield f"{name}: port {machine} is on {address or 'every address'}"


@policy
def no_folder_of_the_machine_is_mounted(config):
    for name, service in config["services"].items():
        for volume in service.get("volumes", []):
            source = volume.get("source", "") if isinstance(volume, dict) else volume.partition(":")[0]
            if source not in config["volumes"]:
                yield f"{name}: {source or volume} is no named volume"
        for key in ("configs", "secrets", "devices", "privileged", "pid", "ipc", "network_mode"):
            if service.get(key):
                yield f"{name}: {key}"


@policy
def images_are_pinned(config):
    for name, service in config["services"].items():
        tag = service.get("image", "").rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            yield f"{name}: image {service.get('image')} has no tag of its own"


@policy
def nothing_may_more_than_it_must(config):
    for name, service in config["services"].items():
        if not service.get("read_only") and name not in WRITABLE_ROOT:
            yield f"{name}: the root filesystem can be written"
        if service.get("cap_drop") != ["ALL"] or (service.get("cap_add") and name not in WRITABLE_ROOT):
            yield f"{name}: capabilities are not dropped"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name}: it may gain privileges"
        if not service.get("mem_limit") or not service.get("pids_limit"):
            yield f"{name}: memory or processes have no limit"


@policy
def who_is_waited_for_says_when(config):
    for name, service in config["services"].items():
        # The broker's is in its image.
        if "healthcheck" not in service and name not in WITHOUT_HEALTH_CHECK and not service["image"].startswith("walcast:"):
            yield f"{name}: no health check"
        depends = service.get("depends_on", {})
        for other, how in depends.items() if isinstance(depends, dict) else []:
            if how["condition"] == "service_healthy" and other in WITHOUT_HEALTH_CHECK:
                yield f"{name}: waits for the health of {other}, which has no check"


@policy
def no_secret_is_in_the_open(config):
    for name, service in config["services"].items():
        for variable, value in service.get("environment", {}).items():
            if value and (re.search("PASSWORD|SECRET|TOKEN", variable) or re.search(r"//[^/\s:@]+:[^/\s:@]+@", str(value))):
                yield f"{name}: {variable} holds a secret"


@policy
def settings_are_the_binary_s(config):
    known = set(references.settings_of_the_binary())
    for name, service in config["services"].items():
        environment = {variable: str(value) for variable, value in service.get("environment", {}).items()}
        if not service["image"].startswith("walcast:"):
            continue
        for variable in references.unknown_variables(environment, known):
            yield f"{name}: the binary has no setting {variable}"
        code, said = references.run(references.WALCAST, "config", "check", env={**of_the_image(), **environment})
        if code:
            yield f"{name}: the binary refuses its settings: {said.strip()}"


def of_the_image():
    """The variables that deploy/docker/Dockerfile sets."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    return dict(pair.split("=", 1) for pair in re.search(r"^ENV (.*)$", text, re.MULTILINE)[1].split())


@policy
def names_lead_somewhere(config):
    """Ports that services ask each other for, and the files of images."""
    services = config["services"]
    for name, service in services.items():
        file = service.get("build", {}).get("dockerfile")
        if file and not (ROOT / file).exists():
            yield f"{name}: there is no {file}"
        for variable, value in service.get("environment", {}).items():
            for host in re.findall(r"(?:^|[=/@,])([a-z][a-z0-9-]*):\d+", str(value)):
                if host not in ALL_NAMES:
                    yield f"{name}: {variable} names {host}, which is no service"


ALL_NAMES = {"walcast", *yaml.safe_load(FILE.read_text())["services"]}


def undocumented_ports(config, page):
    written = {number for line in page.splitlines() if line.startswith("|") for number in re.findall(r"\b\d{4,5}\b", line)}
    for name, service in config["services"].items():
        for _, machine, _ in published(service):
            if machine not in written:
                yield f"{name}: port {machine} stands nowhere in docs/containers.md"


def image_of_the_broker():
    """What is written of the image in three places is the same."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    ports = set(re.search(r"^EXPOSE (.*)$", text, re.MULTILINE)[1].split())
    env = of_the_image()
    if {env["WALCAST_LISTEN"].rpartition(":")[2], env["WALCAST_ADMIN_LISTEN"].rpartition(":")[2]} != ports:
        yield f"EXPOSE {ports} is not where it listens"
    for variable in references.unknown_variables(env, references.settings_of_the_binary()):
        yield f"the binary has no setting {variable}"
    check = re.search(r"HEALTHCHECK .* CMD \[(.*)\]", text)[1]
    flags, _ = references.flags_of_the_binary("status")
    if '"status", "--ready"' not in check or "--ready" not in flags:
        yield f"the health check is {check}"
    rust = re.search(r"^FROM rust:([\d.]+)", text, re.MULTILINE)[1]
    cargo = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    if not rust.startswith(cargo):
        yield f"it is built by Rust {rust}, and Cargo.toml has {cargo}"
    version = re.search(r'^version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    tags = re.findall(r"image: walcast(?:-\w+)?:([\w.]+)", FILE.read_text()) + re.findall(r"^ARG VERSION=(.*)$", text, re.MULTILINE)
    tags += [change["newTag"] for change in yaml.safe_load((manifests.K8S / "base/kustomization.yaml").read_text())["images"]]
    if set(tags) != {version}:
        yield f"tags are {sorted(set(tags))}, and the version is {version}"


def main():
    failed = 0
    page = (ROOT / "docs/containers.md").read_text()

    def case(what, problems):
        nonlocal failed
        problems = list(problems)
        failed += bool(problems)
        print(f"FAILED {what}: {'; '.join(problems[:5])}" if problems else f"ok {what}", flush=True)

    for profiles in [[profile] for profile in PROFILES] + [PROFILES]:
        what = " + ".join(profiles)
        try:
            config = resolved(profiles)
        except subprocess.CalledProcessError as error:
            case(f"compose config, {what}", [error.stderr.strip()])
            continue
        case(f"compose config, {what}: {len(config['services'])} services", [] if config["services"] else ["no service"])
        if len(profiles) == 1:
            for each in POLICIES:
                case(f"compose {what}: {each.__name__.replace('_', ' ')}", each(config))
            case(f"compose {what}: every port is documented", undocumented_ports(config, page))
    case("the image's Dockerfile, compose, Kubernetes and Cargo.toml agree", image_of_the_broker())
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
