"""A real machine of the cluster of control_plane.py: containerd, a kubelet, a bridge between pods, and a name server that follows the API server. Needs root.

No kube-proxy: the name of a Service leads to its pods and not to an address of its own. And no NetworkPolicy is enforced: the bridge does not know them."""

import json
import os
import pathlib
import subprocess
import threading
import time

import yaml

import check
from control_plane import BIN, until

# Addresses of pods, and of the machine as pods see it.
NETWORK, GATEWAY, BRIDGE = "10.244.77.0/24", "10.244.77.1", "walcast-check"
ZONE = "walcast.svc.cluster.local"
# What holds a pod's network open, an image of this machine only.
PAUSE = "localhost/pause:1"


def run(*command, text=None):
    return subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True)


class Machine:
    def __init__(self, plane):
        self.plane = plane
        self.folder = plane.folder / "machine"
        self.socket = self.folder / "containerd.sock"
        self.over = threading.Event()
        for name in ("cni", "pods", "names"):
            (self.folder / name).mkdir(parents=True)

    def start(self, images):
        """Everything that a machine needs, with these images of the engine; what did not come, if it did not."""
        self.network()
        self.containerd(images)
        self.kubelet()
        self.plane.start("names", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", f"--hostsdir={self.folder / 'names'}", "--user=root",
                         f"--listen-address={GATEWAY}", "--bind-dynamic", "--local=/cluster.local/", "--log-facility=-", "--pid-file=")
        threading.Thread(target=self.follow_names, daemon=True).start()
        return until("a machine that is ready", lambda: " Ready " in self.plane.kubectl("get", "node", "machine", "--no-headers")[1])

    def network(self):
        """The bridge before the first pod, so that the kubelet and the name server have an address."""
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # An engine on the same machine lets nothing through that it does not know.
        run("iptables", "-I", "FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": {
            "type": "host-local", "ranges": [[{"subnet": NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(self.folder / "ipam")}}
        (self.folder / "cni/10-bridge.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "walcast", "plugins": [bridge]}))

    def containerd(self, images):
        (self.folder / "containerd.toml").write_text(f"""
version = 2
root = "{self.folder}/root"
state = "{self.folder}/state"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.folder}/cni"
""")
        self.plane.start("containerd", "containerd", "-c", self.folder / "containerd.toml")
        until("containerd", lambda: self.ctr("version").returncode == 0)
        # What holds a pod's network open: any program that waits.
        context = self.folder / "pause"
        context.mkdir()
        (context / "Dockerfile").write_text('FROM debian:bookworm-slim\nENTRYPOINT ["sleep", "infinity"]\n')
        done = run("docker", "build", "-q", "-t", PAUSE, context)
        if done.returncode:
            raise RuntimeError(done.stderr)
        saved = subprocess.Popen(["docker", "save", PAUSE, *images], stdout=subprocess.PIPE)
        taken = subprocess.run(["ctr", "-a", self.socket, "-n", "k8s.io", "images", "import", "-"], stdin=saved.stdout, capture_output=True, text=True)
        if taken.returncode or saved.wait():
            raise RuntimeError(taken.stderr)

    def ctr(self, *arguments):
        return run("ctr", "-a", self.socket, "-n", "k8s.io", *arguments)

    def kubelet(self):
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "cgroupRoot": "/",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
            "failSwapOn": False, "containerRuntimeEndpoint": f"unix://{self.socket}", "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            # It may not make itself harder to kill than its parent.
            "oomScoreAdj": 0, "address": GATEWAY, "port": check.free_port(), "healthzPort": check.free_port(), "readOnlyPort": 0,
            "clusterDomain": "cluster.local", "clusterDNS": [GATEWAY], "imageGCHighThresholdPercent": 99, "imageGCLowThresholdPercent": 98,
        }))
        self.plane.start("kubelet", BIN / "kubelet", f"--config={self.folder / 'kubelet.yaml'}", f"--kubeconfig={self.plane.config}", f"--root-dir={self.folder / 'pods'}",
                         "--hostname-override=machine", f"--node-ip={GATEWAY}", f"--cert-dir={self.folder / 'pki'}")

    def follow_names(self):
        """Writes the names of Services and of the pods of a StatefulSet as the API server has them, and tells the name server."""
        last = None
        while not self.over.wait(0.3):
            code, said = self.plane.kubectl("-n", "walcast", "get", "endpointslices", "-o", "json")
            if code:
                continue
            lines = set()
            for each in json.loads(said)["items"]:
                service = each["metadata"]["labels"]["kubernetes.io/service-name"]
                for endpoint in each.get("endpoints") or []:
                    for address in endpoint["addresses"]:
                        lines.add(f"{address} {service}.{ZONE}")
                        if "hostname" in endpoint:
                            lines.add(f"{address} {endpoint['hostname']}.{service}.{ZONE}")
            text = "\n".join(sorted(lines)) + "\n"
            if text != last:
                last = text
                new = self.folder / "names.new"
                new.write_text(text)
                os.replace(new, self.folder / "names/hosts")
                for name, child in self.plane.children:
                    if name == "names":
                        child.send_signal(1)

    def stop(self):
        """Kills what runs in containers, and takes back what the kernel has of them."""
        self.over.set()
        for name, child in self.plane.children:
            if name == "kubelet":
                child.kill()
                child.wait()
        spaces = set()
        for container in self.ctr("containers", "ls", "-q").stdout.split():
            said = self.ctr("containers", "info", container).stdout
            for space in json.loads(said or "{}").get("Spec", {}).get("linux", {}).get("namespaces", []):
                if space["type"] == "network" and space.get("path", "").startswith("/var/run/netns/"):
                    spaces.add(space["path"])
            self.ctr("tasks", "kill", "-s", "KILL", container)
            for _ in range(50):
                removed = self.ctr("tasks", "rm", "-f", container)
                # One that has ended has no task any more.
                if removed.returncode == 0 or "not found" in removed.stderr:
                    break
                time.sleep(0.1)
            self.ctr("containers", "rm", container)
        for space in spaces:
            run("umount", space)
            pathlib.Path(space).unlink(missing_ok=True)
        run("ip", "link", "del", BRIDGE)
        run("iptables", "-D", "FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
        for group in sorted(pathlib.Path("/sys/fs/cgroup").glob("*/kubepods/**/"), reverse=True):
            run("rmdir", group)

    def unmount(self):
        """Once nothing runs: what is still mounted below the folder."""
        mounted = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounted if path.startswith(str(self.plane.folder))), reverse=True):
            run("umount", path)
