"""Names in manifests against what has them: settings, flags and paths against the binary, Envoy's ports against what `configure` writes, the variables of
k6 against its scripts. So none of them can go stale."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

from manifests import K8S, ROOT, build, containers, name, of_kind, pods

WALCAST = os.environ.get("BROKER_BIN", str(ROOT / "target/debug/walcast"))
# Longest that a stop takes beyond `shutdown.grace`: LAST_CHECKPOINT of src/broker/shutdown.rs.
LAST_CHECKPOINT_S = 5


def run(*arguments, env=None):
    """(exit code, output) of a command."""
    done = subprocess.run(arguments, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def settings_of_the_binary():
    """Each setting's variable in the environment, of the binary's own."""
    code, said = run(WALCAST, "config", "print", "--json")
    if code:
        raise RuntimeError(said)
    keys = [json.loads(line)["key"] for line in said.splitlines()]
    return {"WALCAST_" + key.upper().replace(".", "__"): key for key in keys}


def flags_of_the_binary(*command):
    code, said = run(WALCAST, *command, "--help")
    if code:
        raise RuntimeError(said)
    return set(re.findall(r"--[a-z][a-z-]+", said)), set(re.findall(r"\[env: ([A-Z_]+)=", said))


def brokers(documents):
    """(StatefulSet, its container) of the broker."""
    for workload, _, spec in pods(documents):
        for container in spec["containers"]:
            if container["name"] == "walcast":
                yield workload, container


def unknown_variables(variables, known):
    return [variable for variable in variables if variable.startswith("WALCAST_") and variable not in known]


def broker_settings(documents):
    """Variables and flags that the binary has, a configuration that it takes, and what of it the manifests repeat."""
    known = settings_of_the_binary()
    flags, variables = flags_of_the_binary("serve")
    for workload, container in brokers(documents):
        named = [variable["name"] for variable in container.get("env", [])]
        for variable in unknown_variables(named, set(known) | variables):
            yield f"{name(workload)}: the binary has no setting {variable}"
        if container["args"][0] != "serve":
            yield f"{name(workload)}: the command is {container['args'][0]}"
        for flag in container["args"][1:]:
            if flag.startswith("--") and flag.partition("=")[0] not in flags:
                yield f"{name(workload)}: `walcast serve` has no {flag}"
        yield from effective_settings(documents, workload, container)


def effective_settings(documents, workload, container):
    config = next(found for found in of_kind(documents, "ConfigMap") if "walcast.toml" in found.get("data", {}))
    # Secrets have their values elsewhere; any does here.
    env = {variable["name"]: variable.get("value", "of-a-secret") for variable in container.get("env", [])}
    env["WALCAST_CLUSTER__NODE"] = f"{workload['metadata']['name']}-0"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(config["data"]["walcast.toml"])
        file.flush()
        code, said = run(WALCAST, "config", "check", "--config", file.name, env=env)
        if code:
            yield f"{name(workload)}: the binary refuses its settings: {said.strip()}"
            return
        _, said = run(WALCAST, "config", "print", "--json", "--config", file.name, env=env)
    effective = {line["key"]: line["value"] for line in map(json.loads, said.splitlines())}
    yield from repeated(workload, container, effective)


def repeated(workload, container, effective):
    """What manifests repeat of the settings."""
    where, spec = name(workload), workload["spec"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for setting, port in (("listen", "grpc"), ("admin_listen", "admin")):
        if effective[setting] != f"0.0.0.0:{ports[port]}":
            yield f"{where}: {setting} is {effective[setting]}, and port {port} {ports[port]}"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    if effective["data_dir"] != mounts["data"]:
        yield f"{where}: data_dir is {effective['data_dir']}, and the volume at {mounts['data']}"
    grace, given = seconds(effective["shutdown.grace"]), spec["template"]["spec"]["terminationGracePeriodSeconds"]
    if given <= grace + LAST_CHECKPOINT_S:
        yield f"{where}: a stop may take {grace + LAST_CHECKPOINT_S} s, and gets {given} s"
    storage = spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    if binary(storage) < 2 * binary(effective["log.max_bytes"]):
        yield f"{where}: a volume of {storage} for a log of {effective['log.max_bytes']}"
    wanted = ",".join(f"{each}={each}.{spec['serviceName']}:{ports['grpc']}" for each in names_of(workload))
    if effective["cluster.nodes"] != wanted:
        yield f"{where}: cluster.nodes is {effective['cluster.nodes']}, and the pods are {wanted}"


def names_of(workload):
    return [f"{workload['metadata']['name']}-{ordinal}" for ordinal in range(workload["spec"]["replicas"])]


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def binary(text):
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    number, unit = re.fullmatch(r"([\d.]+) ?([KMGT]i)B?", text).groups()
    return float(number) * units[unit]


def probe_paths(documents):
    """(application, port's name, path) of each probe over HTTP."""
    for workload, _, spec in pods(documents):
        for container in containers(spec):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in container.get(probe, {}):
                    asked = container[probe]["httpGet"]
                    yield workload["metadata"]["name"], asked["port"], asked["path"]


def configured(container):
    """(exit code, output) of the `configure` that Envoy's first container runs."""
    flags = container["args"][0].split()
    if flags[0] != "/source/configure" or flags[-1] != ">/etc/envoy/envoy.yaml":
        return 2, f"{flags[0]} ... {flags[-1]} is not configure"
    return run("sh", str(ROOT / "deploy/envoy/configure"), *flags[1:-1])


def envoy_addresses(documents):
    """The flags that the manifests give to `configure`, the ports that it writes for them, and the Services that they name."""
    services = {(found["metadata"]["name"], port["port"]) for found in of_kind(documents, "Service") for port in found["spec"]["ports"]}
    # Nobody has to listen there: without a collector Envoy goes on.
    services.add(("jaeger", 4317))
    for workload, _, spec in pods(documents):
        for container in spec.get("initContainers", []):
            code, written = configured(container)
            if code:
                yield f"{name(workload)}: configure says {written.strip()}"
                continue
            yield from envoy_ports(workload, spec, yaml.safe_load(written), services)


def envoy_ports(workload, spec, config, services):
    listeners = {}
    for listener in config["static_resources"]["listeners"]:
        address = listener["address"]["socket_address"]
        listeners["grpc" if listener["name"] == "broker" else listener["name"]] = address["port_value"]
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    if listeners != ports:
        yield f"{name(workload)}: Envoy listens on {listeners}, and the ports are {ports}"
    admin = config["admin"]["address"]["socket_address"]
    if f"/dev/tcp/{admin['address']}/{admin['port_value']}" not in spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]:
        yield f"{name(workload)}: preStop asks another port than {admin['port_value']}"
    for cluster in config["static_resources"]["clusters"]:
        for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]["socket_address"]
            found = (address["address"], address["port_value"])
            if address["address"] != "127.0.0.1" and found not in services:
                yield f"{name(workload)}: cluster {cluster['name']} is at {found}, and no Service is"


def k6_names(documents):
    """The variables that k6 gets, its script, and that all scripts are there."""
    folder = ROOT / "loadtests/k6"
    scripts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.js")}
    read = set(re.findall(r"(?:__ENV\.|\b(?:setting|number)\(')([A-Z0-9_]+)", "".join(scripts.values())))
    for workload, _, spec in pods(documents):
        for container in spec["containers"]:
            if container["name"] != "k6":
                continue
            for variable in container["env"]:
                if variable["name"] not in read and not variable["name"].startswith("K6_"):
                    yield f"{name(workload)}: no script reads {variable['name']}"
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            given = workload["spec"].get("script", {}).get("localFile") or container["args"][-1]
            script = pathlib.PurePosixPath(given).relative_to(mounts["scripts"]).as_posix()
            if script not in scripts:
                yield f"{name(workload)}: there is no script {script}"
            # common.js loads ../../proto.
            if os.path.normpath(mounts["scripts"] + "/../../proto") != mounts["proto"]:
                yield f"{name(workload)}: the contract is not where the scripts look for it"
    for config in of_kind(documents, "ConfigMap"):
        if config["metadata"]["name"] == "k6-scripts" and config["data"] != scripts:
            yield f"{name(config)}: it does not have what loadtests/k6 has"


def prometheus_targets(documents):
    """Targets that are nodes and Services, for the plain Prometheus; the operator's monitors name ports of pods, jobs are those of the rules."""
    nodes = [(each, container) for workload, container in brokers(documents) for each in names_of(workload)]
    services = {found["metadata"]["name"]: found["spec"]["ports"] for found in of_kind(documents, "Service")}
    for config in of_kind(documents, "ConfigMap"):
        if "prometheus.yml" not in config.get("data", {}):
            continue
        jobs = {job["job_name"]: job for job in yaml.safe_load(config["data"]["prometheus.yml"])["scrape_configs"]}
        ports = {each: next(port["containerPort"] for port in container["ports"] if port["name"] == "admin") for each, container in nodes}
        wanted = [f"{each}.walcast:{port}" for each, port in ports.items()]
        if jobs["walcast"]["static_configs"][0]["targets"] != wanted:
            yield f"{name(config)}: the targets are not {wanted}"
        asked = jobs["envoy"]["dns_sd_configs"][0]
        if [asked["port"]] != [port["port"] for port in services.get(asked["names"][0], [])]:
            yield f"{name(config)}: no Service {asked['names'][0]} has port {asked['port']}"


def monitors(documents, beside):
    """Those of the Prometheus operator select pods and Services of `beside` that have their port, and jobs are those of the rules."""
    for monitor in of_kind(documents, "PodMonitor", "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for endpoint in monitor["spec"].get("podMetricsEndpoints", []) + monitor["spec"].get("endpoints", []):
            if monitor["kind"] == "PodMonitor":
                found = [port["name"] for _, labels, spec in pods(beside) if wanted <= labels.items() for port in spec["containers"][0]["ports"]]
            else:
                chosen = [service for service in of_kind(beside, "Service") if wanted <= service["metadata"]["labels"].items()]
                found = [port["name"] for service in chosen for port in service["spec"]["ports"]]
            if endpoint["port"] not in found:
                yield f"{name(monitor)}: nothing that it selects has a port {endpoint['port']}"
            jobs = [change["replacement"] for change in endpoint["relabelings"] if change.get("targetLabel") == "job"]
            if jobs != [monitor["metadata"]["name"]]:
                yield f"{name(monitor)}: job is {jobs}"


def undocumented_ports(documents, page):
    """Ports that stand in no table of the page."""
    written = {int(number) for line in page.splitlines() if line.startswith("|") for number in re.findall(r"\b\d{4,5}\b", line)}
    used = {(name(workload), port["containerPort"]) for workload, _, spec in pods(documents) for container in spec["containers"] for port in container.get("ports", [])}
    for found in of_kind(documents, "NetworkPolicy"):
        for rule in found["spec"].get("ingress", []) + found["spec"].get("egress", []):
            used |= {(name(found), port["port"]) for port in rule.get("ports", [])}
    for where, port in sorted(used):
        if port not in written and port != 53:
            yield f"{where}: port {port} stands nowhere in docs/kubernetes.md"


def rules_are_the_same():
    code, said = run(sys.executable, str(K8S / "components/monitors/generate"), "--check")
    return [said.strip()] if code else []


if __name__ == "__main__" and sys.argv[1:] == ["configure"]:
    # For Envoy itself to look at.
    for _, _, of_pod in pods(build("embedded")):
        for first in of_pod.get("initContainers", []):
            print(configured(first)[1])
