#!/usr/bin/env python3
"""The brokers, Envoy, the rate limits and k6 as real pods on a real machine: `make k8s-node-check`, which has built the images and a kubelet. A line a case.

    DOCKER_HOST=... target/services/venv/bin/python tests/k8s/node.py WALCAST     (the program, as a client on this machine)
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import yaml

import control_plane
import manifests
import scaling
from control_plane import case, until
from machine import Machine

IMAGES = ["walcast:0.1.0", "envoyproxy/envoy:v1.40.0", "envoyproxy/ratelimit:3fb70258", "redis:7.0.15", "grafana/k6:1.1.0"]
# To look at: Grafana is in no registry that can be reached here, and the others say nothing of the broker.
LEFT_OUT = {"prometheus", "grafana", "jaeger"}
SUBJECTS = [f"orders.{number}" for number in range(30)]


class Brokers:
    """What is in the namespace, and a client of it on this machine."""

    def __init__(self, plane, walcast):
        self.plane, self.walcast, self.published = plane, walcast, {}

    def pods(self, application):
        said = self.plane.must("-n", "walcast", "get", "pods", "-l", f"{manifests.NAME}={application}", "-o", "json")
        return {each["metadata"]["name"]: each for each in json.loads(said)["items"]}

    def ready(self, application, number):
        found = self.pods(application).values()
        return len(found) == number and all(control_plane.is_ready(pod) for pod in found)

    @functools.cached_property
    def envoy(self):
        return f"http://{next(iter(self.pods('envoy').values()))['status']['podIP']}:8080"

    def client(self, *arguments):
        return subprocess.run([self.walcast, *map(str, arguments), "--server", self.envoy], capture_output=True, text=True)

    def publish_all(self, text):
        """How many subjects take a publish."""
        taken = 0
        for subject in SUBJECTS:
            done = self.client("publish", subject, f"{text} {subject}", "--expires", "1h")
            if done.returncode == 0:
                taken += 1
                self.acknowledged(subject, int(done.stdout), f"{text} {subject}")
        return taken

    def all_take(self, text):
        """Whether every subject takes a publish."""
        return self.publish_all(text) == len(SUBJECTS)

    def acknowledged(self, subject, number, text):
        if self.published.setdefault((subject, number), text) != text:
            raise RuntimeError(f"id {number} of {subject} was given twice")

    def lost(self):
        return [key for key, text in self.published.items() if self.client("fetch", *key).stdout != text]


def volumes(folder):
    yield {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local", "annotations": {
        "storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
    # One more than there are nodes: a node that comes back under its name begins with an empty volume.
    for number in range(4):
        path = folder / f"volume-{number}"
        path.mkdir()
        # A folder of the machine has the owner that it has; storage of a cluster is given to fsGroup.
        os.chown(path, 65532, 65532)
        yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"}, "spec": {
            "capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOncePod"], "storageClassName": "local", "hostPath": {"path": str(path)}}}


def start(plane, brokers):
    plane.must("apply", "-f", "-", text=yaml.safe_dump_all(volumes(plane.folder)))
    documents = [each for each in manifests.build("kind") if each["metadata"]["name"] not in LEFT_OUT]
    namespace = [each for each in documents if each["kind"] == "Namespace"]
    plane.must("apply", "-f", "-", text=yaml.safe_dump_all(namespace))
    plane.must("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(documents))
    begun = time.monotonic()
    came = until("three brokers", lambda: brokers.ready("walcast", 3))
    case(f"three real brokers are ready after {time.monotonic() - begun:.0f} s", came)
    for application in ("redis", "ratelimit", "envoy"):
        case(f"{application} is ready", until(application, lambda application=application: brokers.ready(application, 1)))
    case("every subject takes a publish through Envoy", until("all of them", lambda: brokers.all_take("first")))
    said = plane.must("-n", "walcast", "exec", "walcast-0", "--", "/usr/bin/walcast", "cluster", "status", "--admin",
                      ",".join(f"http://walcast-{number}.walcast:9464" for number in range(3)))
    case("walcast cluster status in a pod names three nodes", not all(f"walcast-{number}" in said for number in range(3)) and said)


class Retrying(threading.Thread):
    """A client with keys that sends again whatever failed, as clients of a cluster should: all subjects in turn, until it is told to end."""

    def __init__(self, brokers):
        super().__init__(daemon=True)
        self.brokers, self.over, self.longest, self.given_up, self.tries, self.count = brokers, threading.Event(), 0.0, [], 0, 0

    def run(self):
        while not self.over.is_set():
            subject, key = SUBJECTS[self.count % len(SUBJECTS)], f"key-{self.count}"
            begun = time.monotonic()
            while not self.send(subject, key):
                self.tries += 1
                if time.monotonic() > begun + 60:
                    self.given_up.append(key)
                    break
                time.sleep(0.2)
            self.longest = max(self.longest, time.monotonic() - begun)
            self.count += 1

    def send(self, subject, key):
        done = self.brokers.client("publish", subject, f"with {key}", "--key", key, "--expires", "1h")
        if done.returncode == 0:
            try:
                self.brokers.acknowledged(subject, int(done.stdout), f"with {key}")
            except RuntimeError as error:
                self.given_up.append(str(error))
        return done.returncode == 0


def rolling_restart(plane, brokers):
    """Under publishes with keys: each is taken in the end, and none twice."""
    load = Retrying(brokers)
    load.start()
    before = {name: pod["metadata"]["uid"] for name, pod in brokers.pods("walcast").items()}
    begun = time.monotonic()
    plane.must("-n", "walcast", "rollout", "restart", "statefulset/walcast")
    said = plane.must("-n", "walcast", "rollout", "status", "statefulset/walcast", "--timeout=240s")
    after = {name: pod["metadata"]["uid"] for name, pod in brokers.pods("walcast").items()}
    case(f"a rolling restart ends, after {time.monotonic() - begun:.0f} s", any(before[name] == after[name] for name in before) and said)
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in brokers.pods("walcast").values()]
    case("no broker was killed by a probe on the way", any(restarts) and restarts)
    load.over.set()
    load.join(90)
    case(f"{load.count} publishes were taken meanwhile, after {load.tries} more tries and {load.longest:.1f} s at the most", load.given_up or load.count < 50)


def hang(plane, brokers):
    """A frozen broker: not ready within seconds, started again by the liveness probe after a minute; its neighbours go on."""
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and of_pod(pid, brokers.pods("walcast")["walcast-1"])]
    case("the broker's process is found", len(pids) != 1 and pids)
    os.kill(int(pids[0]), 19)
    begun = time.monotonic()
    gone = until("not ready", lambda: not control_plane.is_ready(brokers.pods("walcast")["walcast-1"]))
    case(f"a frozen broker is not ready after {time.monotonic() - begun:.0f} s", gone)
    taken = brokers.publish_all("frozen")
    case(f"{taken} of {len(SUBJECTS)} subjects take publishes meanwhile", not 8 <= taken < len(SUBJECTS) and "all, or hardly any")

    def again():
        status = brokers.pods("walcast")["walcast-1"]["status"]["containerStatuses"][0]
        return status["restartCount"] == 1 and status["ready"]

    came = until("a restart", again)
    case(f"the liveness probe has started it again after {time.monotonic() - begun:.0f} s", came)
    case("every subject takes a publish again", until("all of them", lambda: brokers.all_take("thawed")))


def of_pod(pid, pod):
    """Whether a process is the broker of this pod."""
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        groups = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
    return command[0] == b"/usr/bin/walcast" and pod["metadata"]["uid"] in groups.replace("_", "-")


def k6(plane):
    """Each script as `deploy/k8s/load` makes a Job of it, for seconds, with a bound that holds; and one with a bound that nothing can keep."""
    for script in ("publish", "fetch", "subscribe", "mixed", "spike", "soak"):
        k6_job(plane, script, "20000", "Complete")
    k6_job(plane, "publish", "0", "Failed")


def k6_job(plane, script, bound, wanted):
    # What is seen is that it works: there are two processors for all of the cluster.
    settings = ["RATE=50", "SPIKE=2", "RAMP=1s", "DURATION=8s", "MESSAGES=20", "USERS=2", "ROUND=10", "MAX_USERS=100", f"MAX_P99_MS={bound}"]
    kustomize = {**os.environ, "KUSTOMIZE": f"{manifests.ROOT}/target/services/bin/kustomize build"}
    made = subprocess.run([manifests.K8S / "load", script, *settings], check=True, capture_output=True, text=True, env=kustomize).stdout
    plane.kubectl("-n", "walcast", "delete", "job", "k6", "--ignore-not-found")
    plane.must("apply", "--server-side", "-f", "-", text=made)

    def ended():
        status = json.loads(plane.must("-n", "walcast", "get", "job", "k6", "-o", "json"))["status"]
        return [each["type"] for each in status.get("conditions", []) if each["status"] == "True"]

    came = until("its end", lambda: {"Complete", "Failed"} & set(ended()))
    case(f"k6 {script} in a pod with p(99)<{bound} ms: {wanted}", came or (wanted not in ended() and plane.kubectl("-n", "walcast", "logs", "job/k6", "--tail=20")[1]))


def main(walcast):
    plane = control_plane.ControlPlane(tempfile.mkdtemp(prefix="walcast-node-check."))
    machine = Machine(plane)
    brokers = Brokers(plane, walcast)
    try:
        case("the API server starts", plane.api_server())
        plane.controllers(pretend=False)
        case("a real machine is ready", machine.start(IMAGES))
        start(plane, brokers)
        rolling_restart(plane, brokers)
        hang(plane, brokers)
        scaling.scaling(plane, brokers, Retrying(brokers), LEFT_OUT)
        k6(plane)
        case(f"all {len(brokers.published)} acknowledged messages are there", brokers.lost()[:3])
    finally:
        machine.stop()
        plane.stop()
        machine.unmount()
        if control_plane.counts[1] and os.environ.get("WALCAST_KEEP"):
            print(f"logs are in {plane.folder}")
        else:
            shutil.rmtree(plane.folder, ignore_errors=True)
    print(f"{control_plane.counts[0]} passed, {control_plane.counts[1]} failed")
    return control_plane.counts[1] > 0


if __name__ == "__main__":
    sys.exit(main(str(pathlib.Path(sys.argv[1]).resolve())))
