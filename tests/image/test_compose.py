"""Controls: configurations that break each policy, which must all be found."""

import copy
import pathlib
import subprocess
import tempfile
import unittest

import compose

CONFIG = compose.resolved(compose.PROFILES)


def spoilt(service, **changes):
    changed = copy.deepcopy(CONFIG)
    changed["services"][service].update(changes)
    return changed


BROKEN = {
    "every_port_is_on_loopback": [
        spoilt("broker", ports=["50051:50051"]),
        spoilt("broker", ports=["0.0.0.0:50051:50051/tcp"]),
        spoilt("broker", ports=[{"mode": "ingress", "target": 50051, "published": "50051"}]),
    ],
    "no_folder_of_the_machine_is_mounted": [
        spoilt("broker", volumes=["/data:/var/lib/walcast:rw"]),
        spoilt("broker", volumes=[{"type": "bind", "source": "/data", "target": "/var/lib/walcast"}]),
        spoilt("broker", privileged=True),
    ],
    "images_are_pinned": [spoilt("redis", image="redis"), spoilt("redis", image="redis:latest")],
    "nothing_may_more_than_it_must": [
        spoilt("redis", read_only=False),
        spoilt("redis", cap_drop=[]),
        spoilt("redis", cap_add=["SYS_ADMIN"]),
        spoilt("redis", security_opt=[]),
        spoilt("redis", mem_limit=None),
    ],
    "who_is_waited_for_says_when": [
        {**CONFIG, "services": {"redis": {key: value for key, value in CONFIG["services"]["redis"].items() if key != "healthcheck"}}},
        spoilt("envoy", depends_on={"ratelimit": {"condition": "service_healthy"}}),
    ],
    "no_secret_is_in_the_open": [
        spoilt("broker", environment={"PGPASSWORD": "x"}),
        spoilt("broker", environment={"WALCAST_STORE__POSTGRES__URL": "postgres://walcast:x@postgres/walcast"}),
    ],
    "settings_are_the_binary_s": [
        spoilt("broker", environment={"WALCAST_LIMITS__SUBJECT": "1"}),
        spoilt("broker", environment={"WALCAST_LIMITS__SUBJECTS": "many"}),
        spoilt("walcast-0", environment={"WALCAST_CLUSTER__NODE": "walcast-9", "WALCAST_CLUSTER__NODES": "walcast-0=walcast-0:50051"}),
    ],
    "names_lead_somewhere": [
        spoilt("broker", environment={"WALCAST_TELEMETRY__OTLP_ENDPOINT": "http://collector:4317"}),
        spoilt("broker", build={"dockerfile": "deploy/docker/Containerfile"}),
    ],
}


class Controls(unittest.TestCase):
    def test_each_policy_finds_what_breaks_it(self):
        for policy in compose.POLICIES:
            for number, config in enumerate(BROKEN[policy.__name__]):
                with self.subTest(policy=policy.__name__, control=number):
                    self.assertTrue(list(policy(config)))

    def test_a_port_that_no_page_has_is_found(self):
        self.assertTrue(list(compose.undocumented_ports(CONFIG, "| broker | 9464 |")))

    def test_the_tool_refuses_what_is_no_compose_file(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "compose.yaml"
            file.write_text("services: { broker: { image: walcast:0.1.0, profiles: [alone], port: 1 } }\n")
            with self.assertRaises(subprocess.CalledProcessError):
                compose.resolved(["alone"], file)


if __name__ == "__main__":
    unittest.main()
