"""docs/operations/scale-out.md on real pods, step by step, under load: from three nodes to two, and back to three."""

import json
import os
import subprocess

import yaml

import manifests
from control_plane import case, until

SLOTS = 1024
# The node that goes and comes.
LAST = "walcast-2"


def settings(version, nodes, slots):
    """walcast.toml of the base with another layout: what an operator writes by hand."""
    text = (manifests.K8S / "base/walcast.toml").read_text()
    base = text[:text.index("[cluster]")]
    lines = ["[cluster]", f"version = {version}", "", "[cluster.nodes]"]
    lines += [f'{name} = "{name}.walcast:50051"' for name in nodes]
    lines += ["", "[cluster.slots]"] + [f'{name} = "{of}"' for name, of in slots.items()]
    return base + "\n".join(lines) + "\n"


def overlay(folder, version, nodes, slots):
    """The objects of an overlay on `kind` with these settings and as many replicas."""
    folder.mkdir()
    (folder / "walcast.toml").write_text(settings(version, nodes, slots))
    # A Kustomization may name folders beside it only by a relative path.
    kind = os.path.relpath(manifests.K8S / "overlays/kind", folder.resolve())
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "walcast", "resources": [kind],
        "configMapGenerator": [{"name": "walcast-config", "behavior": "replace", "files": ["walcast.toml"]}],
        "replicas": [{"name": "walcast", "count": len(nodes)}],
    }))
    built = subprocess.run([manifests.ROOT / "target/services/bin/kustomize", "build", folder], check=True, capture_output=True, text=True)
    return manifests.parse(built.stdout)


class Layout:
    """`walcast cluster` as the runbook has it: run in the first pod, with the admin ports of all nodes."""

    def __init__(self, plane):
        self.plane = plane

    def ask(self, nodes, *arguments):
        admin = ",".join(f"http://{name}.walcast:9464" for name in nodes)
        return self.plane.kubectl("-n", "walcast", "exec", "walcast-0", "--", "/usr/bin/walcast", "cluster", *arguments, "--admin", admin)

    def slots(self, nodes):
        """The slots of each node; raises what the command said if nodes are missing or of two minds."""
        code, said = self.ask(nodes, "status", "--json")
        if code:
            raise RuntimeError(said)
        return {each["name"]: each["slots"] for each in json.loads(said)["nodes"]}


def count(slots):
    """How many slots `0-170,341` or `0-170+341` are."""
    total = 0
    for part in filter(None, slots.replace("+", ",").replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def apply(plane, documents, left_out):
    documents = [each for each in documents if each["metadata"]["name"] not in left_out]
    plane.must("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(documents))
    return plane.kubectl("-n", "walcast", "rollout", "status", "statefulset/walcast", "--timeout=240s")


def three_to_two(plane, brokers, layout, left_out):
    names = ["walcast-0", "walcast-1", LAST]
    slots = layout.slots(names)
    first, _, last = slots[LAST].partition("-")
    middle = (int(first) + int(last)) // 2
    for part, to in ((f"{first}-{middle}", "walcast-0"), (f"{middle + 1}-{last}", "walcast-1")):
        code, said = layout.ask(names, "move", "--slots", part, "--to", to)
        case(f"slots {part} move to {to}: {said.strip()}", code and said)
    slots = layout.slots(names)
    case("the last node has no slots any more", count(slots[LAST]) and slots)
    two = names[:2]
    code, said = apply(plane, overlay(plane.folder / "two", 2, two, {name: slots[name] for name in two}), left_out)
    case("the update to two nodes ends", code and said)
    case("two pods are left", until("two", lambda: brokers.ready("walcast", 2)))
    case(f"cluster status of two: {layout.slots(two)}", sum(map(count, layout.slots(two).values())) != SLOTS)
    plane.must("-n", "walcast", "delete", "pvc", f"data-{LAST}", "--timeout=60s")


def two_to_three(plane, brokers, layout, left_out):
    two, three = ["walcast-0", "walcast-1"], ["walcast-0", "walcast-1", LAST]
    slots = layout.slots(two)
    code, said = apply(plane, overlay(plane.folder / "three", 3, three, slots), left_out)
    case("the update to three nodes ends", code and said)
    case("three pods are ready", until("three", lambda: brokers.ready("walcast", 3)))
    now = layout.slots(three)
    case("the new node is in the layout, with no slots", count(now[LAST]) and now)
    third = SLOTS // 3
    for part in (f"0-{third // 2}", f"{SLOTS - third // 2}-{SLOTS - 1}"):
        code, said = layout.ask(three, "move", "--slots", part, "--to", LAST)
        case(f"slots {part} move to {LAST}: {said.strip()}", code and said)
    now = layout.slots(three)
    case(f"each has its share: {now}", any(not SLOTS // 4 < count(each) < SLOTS // 2 for each in now.values()))


def scaling(plane, brokers, load, left_out):
    """Both runbooks while `load` publishes with keys and sends again what failed."""
    layout = Layout(plane)
    load.start()
    try:
        three_to_two(plane, brokers, layout, left_out)
        case("every subject takes a publish with two nodes", until("all of them", lambda: brokers.all_take("two")))
        two_to_three(plane, brokers, layout, left_out)
        case("every subject takes a publish with three nodes", until("all of them", lambda: brokers.all_take("three")))
    finally:
        load.over.set()
        load.join(90)
    case(f"{load.count} publishes were taken meanwhile, after {load.tries} more tries and {load.longest:.1f} s at the most", load.given_up or load.count < 50)
