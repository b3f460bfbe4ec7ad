"""Controls: manifests that break each policy, each schema and each reference, which must all be found.

    target/services/venv/bin/python -m unittest discover -s tests/k8s
"""

import copy
import unittest

import manifests
import network
import policies
import references
import schemas

EMBEDDED = manifests.build("embedded")
LOAD = manifests.build("loadtest")
OPERATOR = manifests.build("loadtest-operator")
MONITORS = manifests.build("observability")
KIND = manifests.build("kind")


def spoilt(documents, kind, name, change):
    """The objects with one of them changed."""
    changed = copy.deepcopy(documents)
    change(next(each for each in changed if each["kind"] == kind and each["metadata"]["name"] == name))
    return changed


def pod(change):
    """EMBEDDED with another pod of the broker."""
    return spoilt(EMBEDDED, "StatefulSet", "walcast", lambda document: change(document["spec"]["template"]["spec"]))


def container(change):
    return pod(lambda spec: change(spec["containers"][0]))


def environment(**variables):
    added = [{"name": key, "value": value} for key, value in variables.items()]
    return container(lambda found: found["env"].extend(added))


def configured(text):
    return spoilt(EMBEDDED, "ConfigMap", next(each["metadata"]["name"] for each in EMBEDDED if "walcast.toml" in each.get("data", {})), text)


def toml(before, after):
    def change(document):
        assert before in document["data"]["walcast.toml"]
        document["data"]["walcast.toml"] = document["data"]["walcast.toml"].replace(before, after)

    return configured(change)


def without(documents, kind, name):
    return [each for each in documents if (each["kind"], each["metadata"]["name"]) != (kind, name)]


def claim(change):
    return spoilt(EMBEDDED, "StatefulSet", "walcast", lambda document: change(document["spec"]))


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "walcast"}, "stringData": {"password": "x"}}

# Each policy with manifests that break it.
BROKEN = {
    "images_are_pinned": [
        container(lambda found: found.update(image="walcast")),
        container(lambda found: found.update(image="walcast:latest")),
        container(lambda found: found.update(image="host:5000/walcast")),
    ],
    "resources_are_set": [
        container(lambda found: found["resources"].pop("limits")),
        container(lambda found: found["resources"]["limits"].pop("memory")),
        spoilt(OPERATOR, "TestRun", "publish", lambda document: document["spec"]["runner"].pop("resources")),
    ],
    "nothing_is_root": [
        pod(lambda spec: spec["securityContext"].pop("runAsNonRoot")),
        pod(lambda spec: spec["securityContext"].update(runAsUser=0)),
        pod(lambda spec: spec["securityContext"].pop("seccompProfile")),
    ],
    "containers_are_restricted": [
        container(lambda found: found["securityContext"].pop("readOnlyRootFilesystem")),
        container(lambda found: found["securityContext"].update(allowPrivilegeEscalation=True)),
        container(lambda found: found["securityContext"].pop("capabilities")),
        container(lambda found: found["securityContext"].update(privileged=True)),
        spoilt(LOAD, "Job", "k6", lambda document: document["spec"]["template"]["spec"]["containers"][0].pop("securityContext")),
    ],
    "pods_share_nothing_with_the_machine": [
        pod(lambda spec: spec.update(hostNetwork=True)),
        pod(lambda spec: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        pod(lambda spec: spec["volumes"].append({"name": "x", "emptyDir": {}})),
    ],
    "nobody_has_a_token": [
        pod(lambda spec: spec.pop("automountServiceAccountToken")),
        pod(lambda spec: spec.pop("serviceAccountName")),
    ],
    "what_runs_has_probes": [
        container(lambda found, probe=probe: found.pop(probe)) for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    ],
    "volumes_of_data_have_one_pod": [
        claim(lambda spec: spec["volumeClaimTemplates"][0]["spec"].update(accessModes=["ReadWriteOnce"])),
        claim(lambda spec: spec.pop("persistentVolumeClaimRetentionPolicy")),
    ],
    "no_secret_is_in_the_open": [
        EMBEDDED + [SECRET],
        toml("data_dir =", 'password = "x"\ndata_dir ='),
        toml("data_dir =", 'url = "postgres://walcast:x@h/d"\ndata_dir ='),
        environment(WALCAST_STORE__CASSANDRA__PASSWORD="x"),
        environment(WALCAST_STORE__POSTGRES__URL="postgres://walcast:x@h/d"),
    ],
    "service_ports_are_ports_of_pods": [
        spoilt(EMBEDDED, "Service", "walcast", lambda document: document["spec"]["ports"][0].update(port=50052)),
        spoilt(EMBEDDED, "Service", "walcast", lambda document: document["spec"]["ports"][0].update(targetPort="http")),
        spoilt(EMBEDDED, "Service", "walcast", lambda document: document["spec"].update(selector={"app": "x"})),
    ],
    "probes_ask_ports_that_are_there": [container(lambda found: found["livenessProbe"]["httpGet"].update(port="http"))],
    "who_is_not_alone_has_a_budget": [without(EMBEDDED, "PodDisruptionBudget", "walcast"), without(EMBEDDED, "PodDisruptionBudget", "envoy")],
    "names_are_of_one_namespace": [spoilt(EMBEDDED, "Service", "walcast", lambda document: document["metadata"].update(namespace="default"))],
    "every_pod_is_in_a_policy_of_its_own": [without(EMBEDDED, "NetworkPolicy", "redis")],
    "workloads_are_labelled": [
        spoilt(EMBEDDED, "Deployment", "redis", lambda document: document["spec"]["template"]["metadata"].update(labels={"app": "redis"}))
    ],
}


class Policies(unittest.TestCase):
    def test_each_policy_finds_what_breaks_it(self):
        for policy in policies.POLICIES:
            for number, documents in enumerate(BROKEN[policy.__name__]):
                with self.subTest(policy=policy.__name__, control=number):
                    self.assertTrue(list(policy(documents)))


class Network(unittest.TestCase):
    def found(self, documents, words):
        self.assertTrue(any(words in problem for problem in network.differences(documents)), words)

    def test_an_end_that_forbids_is_found(self):
        self.found(without(EMBEDDED, "NetworkPolicy", "redis"), "ratelimit may not talk to redis on port 6379")
        closed = spoilt(EMBEDDED, "NetworkPolicy", "envoy", lambda document: document["spec"].update(egress=[]))
        self.found(closed, "envoy may not talk to walcast on port 50051")

    def test_what_is_allowed_and_not_needed_is_found(self):
        opened = spoilt(EMBEDDED, "NetworkPolicy", "walcast", lambda document: document["spec"]["ingress"][0]["from"].append({"podSelector": {}}))
        opened = spoilt(opened, "NetworkPolicy", "ratelimit", lambda document: document["spec"]["egress"].append({"ports": [{"port": 50051}]}))
        self.found(opened, "ratelimit may talk to walcast on port 50051, and need not")

    def test_a_namespace_that_denies_nothing_is_found(self):
        self.found(without(EMBEDDED, "NetworkPolicy", "default-deny"), "not denied")


class Schemas(unittest.TestCase):
    def broken(self, documents, kind, name, change):
        changed = spoilt(documents, kind, name, change)
        return [problem for document in changed for problem in schemas.problems(document)]

    def test_a_field_that_is_misspelt_is_found(self):
        for documents, kind, name in (
            (EMBEDDED, "StatefulSet", "walcast"),
            (EMBEDDED, "PodDisruptionBudget", "walcast"),
            (MONITORS, "PodMonitor", "walcast"),
            (MONITORS, "ServiceMonitor", "envoy"),
            (MONITORS, "PrometheusRule", "walcast"),
            (OPERATOR, "TestRun", "publish"),
        ):
            with self.subTest(kind=kind):
                self.assertTrue(self.broken(documents, kind, name, lambda document: document["spec"].update(replica=3)))

    def test_a_type_that_is_wrong_is_found(self):
        for documents, kind, name, key, value in (
            (EMBEDDED, "StatefulSet", "walcast", "replicas", "three"),
            (MONITORS, "PodMonitor", "walcast", "podMetricsEndpoints", "admin"),
            (MONITORS, "PrometheusRule", "walcast", "groups", {}),
            (OPERATOR, "TestRun", "publish", "parallelism", "3"),
        ):
            with self.subTest(kind=kind):
                self.assertTrue(self.broken(documents, kind, name, lambda document: document["spec"].update({key: value})))


class References(unittest.TestCase):
    def found(self, problems, words):
        problems = list(problems)
        self.assertTrue(any(words in problem for problem in problems), f"{words} in {problems}")

    def test_settings_that_the_binary_does_not_have(self):
        self.found(references.broker_settings(environment(WALCAST_STORE__KINDS="none")), "no setting WALCAST_STORE__KINDS")
        self.found(references.broker_settings(toml("max_bytes", "most_bytes")), "refuses its settings")
        self.found(references.broker_settings(container(lambda found: found["args"].append("--verbose"))), "has no --verbose")

    def test_what_manifests_repeat_of_the_settings(self):
        self.found(references.broker_settings(toml("0.0.0.0:9464", "0.0.0.0:9465")), "admin_listen is 0.0.0.0:9465")
        self.found(references.broker_settings(toml('"/var/lib/walcast"', '"/data"')), "data_dir is /data")
        self.found(references.broker_settings(toml('"25s"', '"55s"')), "a stop may take 60")
        self.found(references.broker_settings(toml('"10GiB"', '"11GiB"')), "for a log of")
        self.found(references.broker_settings(claim(lambda spec: spec.update(replicas=4))), "cluster.nodes is")
        self.found(references.broker_settings(toml("walcast-2.walcast:50051", "walcast-2:50051")), "cluster.nodes is")

    def test_ports_of_envoy(self):
        def other_port(document):
            document["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 8088

        def other_broker(document):
            first = document["spec"]["template"]["spec"]["initContainers"][0]
            first["args"] = [first["args"][0].replace("--broker walcast:50051", "--broker brokers:50051")]

        def other_admin(document):
            command = document["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            command[-1] = command[-1].replace("9901", "9900")

        self.found(references.envoy_addresses(spoilt(EMBEDDED, "Deployment", "envoy", other_port)), "listens on")
        self.found(references.envoy_addresses(spoilt(EMBEDDED, "Deployment", "envoy", other_broker)), "no Service is")
        self.found(references.envoy_addresses(spoilt(EMBEDDED, "Deployment", "envoy", other_admin)), "preStop asks another port")

    def test_names_of_k6(self):
        def variable(document):
            document["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "SPEED", "value": "1"})

        def script(document):
            document["spec"]["script"]["localFile"] = "/walcast/loadtests/k6/nothing.js"

        self.found(references.k6_names(spoilt(LOAD, "Job", "k6", variable)), "no script reads SPEED")
        self.found(references.k6_names(spoilt(OPERATOR, "TestRun", "publish", script)), "no script nothing.js")
        self.found(references.k6_names(spoilt(LOAD, "ConfigMap", "k6-scripts", lambda document: document["data"].popitem())), "does not have what")

    def test_targets_of_prometheus(self):
        fewer = spoilt(KIND, "StatefulSet", "walcast", lambda document: document["spec"].update(replicas=2))
        self.found(references.prometheus_targets(fewer), "the targets are not")
        self.found(references.prometheus_targets(without(KIND, "Service", "envoy-pods")), "no Service envoy-pods")
        other = spoilt(MONITORS, "PodMonitor", "walcast", lambda document: document["spec"]["podMetricsEndpoints"][0].update(port="metrics"))
        self.found(references.monitors(other, EMBEDDED), "nothing that it selects has a port metrics")

    def test_ports_that_no_page_has(self):
        self.found(references.undocumented_ports(EMBEDDED, "| Envoy | 8080 |"), "port 50051 stands nowhere")


if __name__ == "__main__":
    unittest.main()
