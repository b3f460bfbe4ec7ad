#!/usr/bin/env python3
"""What a real API server says of the manifests: `make k8s-check`, which has built it. A line a case.

    target/services/venv/bin/python tests/k8s/control_plane.py

etcd, kube-apiserver, controller-manager and scheduler are real; kwok pretends to be three machines and to run pods. So it shows what the API server takes, and in which order
pods are made, updated and evicted; of the broker itself it shows nothing (tests/cluster does).
"""

import contextlib
import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import yaml

import check
import manifests
import schemas

BIN = manifests.ROOT / "target/services/bin"
# Longest that anything may take on a machine that does other things as well, in seconds.
PATIENCE = 240
counts = [0, 0]


def case(what, problem):
    counts[bool(problem)] += 1
    print(f"FAILED {what}: {problem}" if problem else f"ok {what}", flush=True)


class ControlPlane:
    """Its programs, each a child of this process, in a folder of their own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.children = []
        self.port = {name: check.free_port() for name in ("etcd", "peer", "api")}
        self.config = self.folder / "kubeconfig"

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "w")
        self.children.append((name, subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=self.folder)))

    def stop(self):
        for _, child in reversed(self.children):
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
            child.kill()
            child.wait()

    def kubectl(self, *arguments, text=None):
        command = [str(BIN / "kubectl"), "--kubeconfig", str(self.config), *map(str, arguments)]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def must(self, *arguments, text=None):
        code, said = self.kubectl(*arguments, text=text)
        if code:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {said[-1500:]}")
        return said

    def api_server(self):
        """etcd and the API server, ready."""
        etcd, peer, api = (f"127.0.0.1:{self.port[name]}" for name in ("etcd", "peer", "api"))
        self.start("etcd", "etcd", "--data-dir", "etcd", "--unsafe-no-fsync", "--listen-client-urls", f"http://{etcd}", "--advertise-client-urls",
                   f"http://{etcd}", "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
                   "--initial-cluster", f"default=http://{peer}")
        for command in (["genrsa", "-out", "sa.key", "2048"], ["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"]):
            subprocess.run(["openssl", *command], cwd=self.folder, check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text('test-token,admin,1,"system:masters"\n')
        self.start("kube-apiserver", BIN / "kube-apiserver", f"--etcd-servers=http://{etcd}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
                   f"--secure-port={self.port['api']}", "--cert-dir=.", "--token-auth-file=tokens.csv", "--authorization-mode=RBAC",
                   f"--service-account-issuer=https://{api}", "--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key",
                   "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=InternalIP")
        context = {"cluster": "c", "user": "u", "namespace": "walcast"}
        self.config.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": f"https://{api}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": "test-token"}}],
            "contexts": [{"name": "x", "context": context}],
        }))
        return until("the API server", lambda: self.kubectl("get", "--raw", "/readyz")[0] == 0)

    def controllers(self, pretend=True):
        """Controller-manager and scheduler, and pretended machines with a volume each."""
        flags = ["--leader-elect=false", *(f"--{name}={self.config}" for name in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"))]
        self.start("controller-manager", BIN / "kube-controller-manager", *flags, f"--secure-port={check.free_port()}", "--cert-dir=.",
                   "--service-account-private-key-file=sa.key", "--use-service-account-credentials=false")
        self.start("scheduler", BIN / "kube-scheduler", *flags, f"--secure-port={check.free_port()}", "--cert-dir=.")
        if not pretend:
            return
        self.start("kwok", BIN / "kwok", f"--kubeconfig={self.config}", "--manage-all-nodes=true", "--node-lease-duration-seconds=0",
                   f"--config={manifests.ROOT / 'target/services/kwok-stages.yaml'}", f"--server-address=127.0.0.1:{check.free_port()}")
        self.must("apply", "-f", "-", text=yaml.safe_dump_all(machines()))


def machines():
    room = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    yield {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local", "annotations": {
        "storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
    for number in range(4):
        labels = {"kubernetes.io/hostname": f"machine-{number}", "topology.kubernetes.io/zone": f"zone-{number % 3}", "type": "kwok"}
        yield {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"machine-{number}", "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
               "status": {"capacity": room, "allocatable": room, "phase": "Running"}}
        yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"}, "spec": {
            "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOncePod"], "storageClassName": "local", "hostPath": {"path": "/nowhere"}}}


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return ""
        time.sleep(0.2)
    return f"{what} did not come within {PATIENCE} s"


def definitions():
    """The kinds of the operators: the Prometheus operator's own definitions, and TestRun with the fields that are used here."""
    found = [yaml.safe_load(file.read_text()) for file in sorted(schemas.CRDS.glob("*.yaml"))]
    own = copy.deepcopy(schemas.own_schema("test-run"))
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "required": own["properties"]["spec"]["required"]}
    found.append({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "testruns.k6.io"},
        "spec": {"group": "k6.io", "scope": "Namespaced", "names": {"plural": "testruns", "singular": "testrun", "kind": "TestRun", "listKind": "TestRunList"},
                 "versions": [{"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                     "type": "object", "properties": {"spec": spec}}}}]},
    })
    return yaml.safe_dump_all(found)


def overlays(plane):
    """Each overlay with --dry-run=server: taken, and without a warning, of Pod Security or of anything."""
    plane.must("create", "-f", "-", text=definitions())
    case("the API server knows the operators' kinds", until("them", lambda: plane.kubectl("get", "testruns,podmonitors,prometheusrules", "-A")[0] == 0))
    plane.must("apply", "-f", manifests.K8S / "base/namespace.yaml")
    for overlay in manifests.OVERLAYS:
        text = yaml.safe_dump_all(manifests.build(overlay))
        code, said = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
        taken = said.count("(server dry run)")
        wrong = said if code else [line for line in said.splitlines() if line.startswith("Warning")]
        case(f"the API server takes {overlay}, {taken} objects", wrong)
    code, said = plane.kubectl("apply", "--dry-run=server", "-k", manifests.K8S / "overlays/embedded")
    case("kubectl's own kustomize builds it as well", code and said)
    controls(plane)


def controls(plane):
    """What the API server must not take, and must warn of."""
    embedded = manifests.build("embedded")

    def refused(what, kind, change, warned=False):
        changed = copy.deepcopy(next(each for each in embedded if each["kind"] == kind and each["metadata"]["name"] == "walcast"))
        change(changed)
        code, said = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=yaml.safe_dump(changed))
        found = "violate PodSecurity" in said if warned else code != 0
        case(f"control: {what} is {'warned of' if warned else 'refused'}", not found and said)

    refused("a word for a number", "StatefulSet", lambda document: document["spec"].update(replicas="three"))
    refused("a misspelt field", "PodDisruptionBudget", lambda document: document["spec"].update(maxUnavailabel=1))
    refused("another selector than the pods have", "StatefulSet", lambda document: document["spec"]["selector"].update(matchLabels={"app": "x"}))
    refused("a pod that is root's", "StatefulSet", lambda document: document["spec"]["template"]["spec"]["securityContext"].update(runAsNonRoot=False), True)


class Watch:
    """The broker's pods as they come and go."""

    def __init__(self, plane):
        self.plane = plane

    def pods(self):
        said = self.plane.must("-n", "walcast", "get", "pods", "-l", f"{manifests.NAME}=walcast", "-o", "json")
        return {each["metadata"]["name"]: each for each in json.loads(said)["items"]}

    def ready(self):
        return sorted(name for name, pod in self.pods().items() if is_ready(pod))


def is_ready(pod):
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def life(plane):
    """Start, update and drain of the StatefulSet."""
    plane.controllers()
    for document in manifests.build("embedded"):
        # Only the brokers: the rest needs images and volumes of nothing.
        if document["kind"] in ("Namespace", "ServiceAccount", "ConfigMap", "StatefulSet", "PodDisruptionBudget") or document["metadata"]["name"] == "walcast":
            plane.must("apply", "-f", "-", text=yaml.safe_dump(document))
    watch = Watch(plane)
    three = ["walcast-0", "walcast-1", "walcast-2"]
    came = until("three pods", lambda: watch.ready() == three)
    case("three pods are ready, each with a volume", came or len(json.loads(plane.must("-n", "walcast", "get", "pvc", "-o", "json"))["items"]) != 3)
    if came:
        return
    machines_of = {pod["spec"]["nodeName"] for pod in watch.pods().values()}
    case("each is on a machine of its own", len(machines_of) != 3 and machines_of)
    update(plane, watch, three)
    drain(plane, watch, three)


def update(plane, watch, three):
    """From the last to the first, one at a time."""
    before = {name: pod["metadata"]["uid"] for name, pod in watch.pods().items()}
    change = {"spec": {"template": {"metadata": {"annotations": {"walcast.test/update": "1"}}}}}
    plane.must("-n", "walcast", "patch", "statefulset", "walcast", "-p", json.dumps(change))
    order, fewest = [], 3

    def over():
        nonlocal fewest
        pods = watch.pods()
        fewest = min(fewest, sum(is_ready(pod) for pod in pods.values()))
        for name in three:
            if name in pods and pods[name]["metadata"]["uid"] != before[name] and name not in order:
                order.append(name)
        return len(order) == 3 and watch.ready() == three

    case("an update ends", until("its end", over))
    case("it goes from the last node to the first", order != three[::-1] and order)
    case("at most one is away meanwhile", fewest < 2 and f"{3 - fewest} were away")


def drain(plane, watch, three):
    """Two machines drained at once: the budget lets the second wait for the first."""
    until("ready for as long as minReadySeconds", lambda: json.loads(plane.must("-n", "walcast", "get", "pdb", "walcast", "-o", "json"))["status"].get("disruptionsAllowed") == 1)
    homes = {name: pod["spec"]["nodeName"] for name, pod in watch.pods().items()}
    spare = ({f"machine-{number}" for number in range(4)} - set(homes.values())).pop()
    # Nobody may come up elsewhere, so the first that is evicted stays away.
    plane.must("cordon", spare)
    for name in three[:2]:
        plane.must("cordon", homes[name])
    evicted = plane.kubectl("drain", homes[three[0]], "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=30s")
    case("a machine is drained", evicted[0] and evicted[1])
    code, said = plane.kubectl("drain", homes[three[1]], "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=8s")
    case("a second is not, while the first node is away", (code == 0 or "disruption budget" not in said) and said)
    for machine in [spare, *homes.values()]:
        plane.must("uncordon", machine)
    case("all are back when there are machines again", until("three pods", lambda: watch.ready() == three))


def main():
    folder = tempfile.mkdtemp(prefix="walcast-k8s-check.")
    plane = ControlPlane(folder)
    try:
        case("the API server starts", plane.api_server())
        overlays(plane)
        life(plane)
    finally:
        plane.stop()
        if counts[1] and os.environ.get("WALCAST_KEEP"):
            print(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{counts[0]} passed, {counts[1]} failed")
    return counts[1] > 0


if __name__ == "__main__":
    sys.exit(main())
