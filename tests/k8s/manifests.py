"""The manifests of deploy/k8s as kustomize builds them, and the parts of them that checks look at."""

import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy/k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())
NAME = "app.kubernetes.io/name"


def build(overlay):
    """The objects of an overlay; raises CalledProcessError with kustomize's words."""
    kustomize = ROOT / "target/services/bin/kustomize"
    built = subprocess.run([kustomize, "build", K8S / "overlays" / overlay], check=True, capture_output=True, text=True)
    return parse(built.stdout)


def parse(text):
    """The objects of YAML documents, without empty ones."""
    return [document for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if document]


def name(document):
    """Kind and name, as messages have them."""
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def pods(documents):
    """Each workload with the labels and the spec of its pods."""
    found = []
    for document in of_kind(documents, "Deployment", "StatefulSet", "Job", "DaemonSet"):
        template = document["spec"]["template"]
        found.append((document, template["metadata"]["labels"], template["spec"]))
    for run in of_kind(documents, "TestRun"):
        for part in ("initializer", "runner"):
            found.append((run, {**run["spec"][part]["metadata"]["labels"], "app": "k6"}, of_runner(run["spec"][part])))
    return found


def of_runner(part):
    """The pod that the k6 operator makes of a part of a TestRun, whose pod has one container."""
    of_container = ("image", "env", "resources", "volumeMounts", "ports")
    container = {key: part[key] for key in of_container if key in part}
    container |= {"name": "k6", "securityContext": part.get("containerSecurityContext", {})}
    spec = {key: part[key] for key in ("securityContext", "serviceAccountName", "volumes") if key in part}
    mounted = part.get("automountServiceAccountToken")
    return spec | {"automountServiceAccountToken": mounted != "false", "containers": [container]}


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def selects(selector, labels):
    """Whether a label selector of NetworkPolicies, PodDisruptionBudgets and so on takes pods with these labels."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", []):
        if wanted["operator"] != "In":
            raise ValueError(f"operator {wanted['operator']} is not understood here")
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True
