"""What every manifest of deploy/k8s has to keep to. A policy takes the objects of an overlay and yields what breaks it; test_policies.py has for each
of them manifests that do."""

import re

from manifests import NAME, containers, name, of_kind, pods, selects

SECRET_WORD = re.compile(r"password|passwd|secret|token|private.?key|credential", re.IGNORECASE)
URL_WITH_PASSWORD = re.compile(r"[a-z]+://[^/\s:@'\"]+:[^/\s:@'\"]+@")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
POLICIES = []


def policy(function):
    POLICIES.append(function)
    return function


def each_container(documents):
    for workload, _, spec in pods(documents):
        for container in containers(spec):
            yield f"{name(workload)}, container {container['name']}", container, workload


@policy
def images_are_pinned(documents):
    for where, container, _ in each_container(documents):
        image = container.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            yield f"{where}: image {image!r} has no tag of its own"


@policy
def resources_are_set(documents):
    for where, container, _ in each_container(documents):
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in container.get("resources", {}).get(kind, {}):
                    yield f"{where}: no {kind} of {resource}"


@policy
def nothing_is_root(documents):
    for workload, _, spec in pods(documents):
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{name(workload)}: runAsNonRoot and runAsUser are not set"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name(workload)}: seccompProfile is not RuntimeDefault"


@policy
def containers_are_restricted(documents):
    for where, container, _ in each_container(documents):
        context = container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: the root filesystem can be written"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation is not false"
        if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
            yield f"{where}: capabilities are not dropped"
        if context.get("privileged") or context.get("runAsUser") == 0:
            yield f"{where}: it is privileged"


@policy
def pods_share_nothing_with_the_machine(documents):
    for workload, _, spec in pods(documents):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                yield f"{name(workload)}: {key}"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{name(workload)}: volume {volume['name']} is a folder of the machine"
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{name(workload)}: volume {volume['name']} has no sizeLimit"


@policy
def nobody_has_a_token(documents):
    for workload, _, spec in pods(documents):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name(workload)}: has a token for the API server"
        if spec.get("serviceAccountName", "default") == "default":
            yield f"{name(workload)}: runs as the service account `default`"


@policy
def what_runs_has_probes(documents):
    for workload, _, spec in pods(documents):
        if workload["kind"] in ("Job", "TestRun"):
            continue
        for container in spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{name(workload)}, container {container['name']}: no {probe}"


@policy
def volumes_of_data_have_one_pod(documents):
    for workload in of_kind(documents, "StatefulSet"):
        for claim in workload["spec"].get("volumeClaimTemplates", []):
            if claim["spec"]["accessModes"] != ["ReadWriteOncePod"]:
                yield f"{name(workload)}: {claim['spec']['accessModes']} is not ReadWriteOncePod"
        if workload["spec"].get("persistentVolumeClaimRetentionPolicy") != {"whenDeleted": "Retain", "whenScaled": "Retain"}:
            yield f"{name(workload)}: its volumes can be deleted with it"


@policy
def no_secret_is_in_the_open(documents):
    for document in of_kind(documents, "Secret"):
        yield f"{name(document)}: secrets are made by operators, not by manifests"
    for document in of_kind(documents, "ConfigMap"):
        for key, value in document.get("data", {}).items():
            if URL_WITH_PASSWORD.search(value) or PRIVATE_KEY.search(value):
                yield f"{name(document)}: {key} holds a secret"
            for line in value.splitlines():
                setting, sign, given = line.partition("=")
                if sign and re.fullmatch(r"[\w.]+", setting.strip()) and SECRET_WORD.search(setting) and given.strip() not in ("", '""'):
                    yield f"{name(document)}: {key} sets {setting.strip()}"
    for where, container, _ in each_container(documents):
        for variable in container.get("env", []):
            value = variable.get("value", "")
            is_path = variable["name"].endswith("_FILE")
            if (SECRET_WORD.search(variable["name"]) and value and not is_path) or URL_WITH_PASSWORD.search(value):
                yield f"{where}: {variable['name']} holds a secret"


@policy
def service_ports_are_ports_of_pods(documents):
    workloads = pods(documents)
    for service in of_kind(documents, "Service"):
        selected = [spec for _, labels, spec in workloads if selects({"matchLabels": service["spec"]["selector"]}, labels)]
        if not selected:
            yield f"{name(service)}: selects nothing"
        for spec in selected:
            ports = {port["name"]: port["containerPort"] for container in spec["containers"] for port in container.get("ports", [])}
            for port in service["spec"]["ports"]:
                if ports.get(port["targetPort"]) != port["port"]:
                    yield f"{name(service)}: port {port['port']} is not what the pod calls {port['targetPort']}"


@policy
def probes_ask_ports_that_are_there(documents):
    for where, container, _ in each_container(documents):
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for kind in ("httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(kind, {}).get("port")
                if port is not None and port not in ports:
                    yield f"{where}: {probe} asks {port}, which is none of its ports"


@policy
def who_is_not_alone_has_a_budget(documents):
    """A StatefulSet of several pods, and a Deployment that a HorizontalPodAutoscaler scales."""
    scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(documents, "HorizontalPodAutoscaler")}
    budgets = of_kind(documents, "PodDisruptionBudget")
    for workload, labels, _ in pods(documents):
        several = workload["kind"] == "StatefulSet" or workload["metadata"]["name"] in scaled
        if several and not any(selects(budget["spec"]["selector"], labels) for budget in budgets):
            yield f"{name(workload)}: no PodDisruptionBudget"


@policy
def names_are_of_one_namespace(documents):
    for document in documents:
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != "walcast":
            yield f"{name(document)}: it is not in the namespace walcast"


@policy
def every_pod_is_in_a_policy_of_its_own(documents):
    """What default-deny forbids has to be allowed by a policy that names the pod; one without any could only be talked to by mistake."""
    policies = [found for found in of_kind(documents, "NetworkPolicy") if found["spec"]["podSelector"]]
    for workload, labels, _ in pods(documents):
        if not any(selects(found["spec"]["podSelector"], labels) for found in policies):
            yield f"{name(workload)}: no NetworkPolicy names it"


@policy
def workloads_are_labelled(documents):
    for workload, labels, _ in pods(documents):
        if workload["kind"] != "TestRun" and NAME not in labels:
            yield f"{name(workload)}: its pods have no {NAME}"
