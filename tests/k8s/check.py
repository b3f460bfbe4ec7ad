#!/usr/bin/env python3
"""Every overlay of deploy/k8s: built, validated, held against the policies and against the binary. A line a case, `ok ...` or `FAILED ...`.

    target/services/venv/bin/python tests/k8s/check.py
"""

import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import manifests
import network
import policies
import references
import schemas

# What is applied beside what, for checks of who may talk to whom and of names.
TOGETHER = [
    ("embedded",), ("postgres",), ("scylla",), ("kind",),
    ("embedded", "observability"), ("embedded", "loadtest"), ("postgres", "loadtest-operator"),
]
failures = 0


def case(what, problems):
    global failures
    problems = list(problems)
    failures += bool(problems)
    print(f"FAILED {what}: {'; '.join(problems[:5])}" if problems else f"ok {what}", flush=True)


def overlays():
    """The objects of each overlay that builds."""
    built = {}
    for overlay in manifests.OVERLAYS:
        try:
            built[overlay] = manifests.build(overlay)
        except subprocess.CalledProcessError as error:
            case(f"kustomize build {overlay}", [error.stderr.strip()])
            continue
        case(f"kustomize build {overlay}", [] if built[overlay] else ["it is empty"])
        found = [problem for document in built[overlay] for problem in schemas.problems(document)]
        case(f"{overlay}: {len(built[overlay])} objects hold to their schemas", found)
        for policy in policies.POLICIES:
            case(f"{overlay}: {policy.__name__.replace('_', ' ')}", policy(built[overlay]))
    return built


def names(built):
    page = (manifests.ROOT / "docs/kubernetes.md").read_text()
    for group in TOGETHER:
        documents = [document for overlay in group for document in built[overlay]]
        what = " + ".join(group)
        case(f"{what}: who may talk to whom", network.differences(documents))
        case(f"{what}: settings and flags are the binary's", references.broker_settings(documents))
        case(f"{what}: Envoy's ports are those of its file", references.envoy_addresses(documents))
        case(f"{what}: k6's variables are those of its scripts", references.k6_names(documents))
        case(f"{what}: Prometheus asks what is there", list(references.prometheus_targets(documents)) + list(references.monitors(documents, documents)))
        case(f"{what}: every port is documented", references.undocumented_ports(documents, page))
    case("the PrometheusRule is deploy/prometheus", references.rules_are_the_same())
    dashboards = {document["metadata"]["name"] for document in built["kind"] if document["metadata"].get("labels", {}).get("grafana_dashboard")}
    wanted = len(list((manifests.ROOT / "grafana/dashboards").glob("*.json")))
    case("every dashboard is a ConfigMap", [] if len(dashboards) == wanted else [f"{len(dashboards)} of {wanted}"])


def probes(built):
    """The paths that probes of the broker ask, asked of a broker: ready while it serves, and none of a path that is not there."""
    asked = {path for application, _, path in references.probe_paths(built["embedded"]) if application == "walcast"}
    with tempfile.TemporaryDirectory(prefix="walcast-k8s.") as folder:
        ports = [free_port(), free_port()]
        flags = ["--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}", "--data-dir", f"{folder}/data"]
        with open(f"{folder}/log", "w") as log:
            broker = subprocess.Popen([references.WALCAST, "serve", *flags], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while status(ports[1], "/readyz") != 200 and time.monotonic() < deadline and broker.poll() is None:
                time.sleep(0.1)
            for path in sorted(asked):
                case(f"the broker answers the probe {path}", [f"{status(ports[1], path)}" for _ in [0] if status(ports[1], path) != 200])
            case("the broker has no path that nobody asks for", [] if status(ports[1], "/startupz") == 404 else ["/startupz is there"])
        finally:
            broker.terminate()
            broker.wait(60)


def envoy(built):
    """What the pods of Envoy ask it, asked of a real one: the path of the probes, and the drain before the end (preStop)."""
    wheel = subprocess.run([sys.executable, "-c", "import envoy; print(envoy.__file__)"], check=True, capture_output=True, text=True)
    program = pathlib.Path(wheel.stdout.strip()).parent / "_bin/envoy"
    listen, stats, admin = free_port(), free_port(), free_port()
    flags = ["--listen", f"127.0.0.1:{listen}", "--stats", f"127.0.0.1:{stats}", "--admin", str(admin)]
    _, config = references.run("sh", str(manifests.ROOT / "deploy/envoy/configure"), *flags)
    deployment = next(each for each in built["embedded"] if each["kind"] == "Deployment" and each["metadata"]["name"] == "envoy")
    command = deployment["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    with tempfile.TemporaryDirectory(prefix="walcast-k8s.") as folder:
        pathlib.Path(f"{folder}/envoy.yaml").write_text(config)
        with open(f"{folder}/log", "w") as log:
            options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
            started = subprocess.Popen([program, "-c", f"{folder}/envoy.yaml", *options], stdout=log, stderr=log)
        try:
            paths = {path for application, _, path in references.probe_paths(built["embedded"]) if application == "envoy"}
            deadline = time.monotonic() + 60
            while status(stats, "/ready") != 200 and time.monotonic() < deadline and started.poll() is None:
                time.sleep(0.1)
            case("Envoy answers the paths of its probes", [f"{path}: {status(stats, path)}" for path in paths if status(stats, path) != 200])
            # At another port, and without the wait for the drain.
            shown = [part.replace("9901", str(admin)).replace("sleep 20", "true") for part in command]
            case("Envoy drains as its preStop asks", [] if said(shown).startswith("HTTP/1.1 200 ") else [said(shown)])
            older = [part.replace("HTTP/1.1", "HTTP/1.0") for part in shown]
            case("control: it does not if it is asked in HTTP/1.0", [said(older)] if " 200 " in said(older) else [])
        finally:
            started.terminate()
            started.wait(60)


def said(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def free_port():
    """Below the ports that the system gives to connections, which could take one between here and its use."""
    while True:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", random.randrange(20000, 30000)))
            except OSError:
                continue
            return found.getsockname()[1]


if __name__ == "__main__":
    if not os.access(references.WALCAST, os.X_OK):
        sys.exit(f"{references.WALCAST} is not there; build it with `cargo build`")
    everything = overlays()
    if set(everything) == set(manifests.OVERLAYS):
        names(everything)
        probes(everything)
        envoy(everything)
    sys.exit(failures > 0)
