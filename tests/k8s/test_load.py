"""deploy/k8s/load: each script of k6 as a Job and as a TestRun, and what it refuses."""

import os
import pathlib
import re
import subprocess
import unittest

import manifests
import references
import schemas

SCRIPTS = ["publish", "fetch", "subscribe", "mixed", "spike", "soak"]
LOAD = manifests.K8S / "load"
KUSTOMIZE = {**os.environ, "KUSTOMIZE": f"{manifests.ROOT}/target/services/bin/kustomize build"}


def load(*arguments):
    return subprocess.run([LOAD, *arguments], capture_output=True, text=True, env=KUSTOMIZE)


def workload(documents):
    found = manifests.of_kind(documents, "Job", "TestRun")
    assert len(found) == 1, found
    return found[0]


def environments(document):
    """Of each container that k6 runs in."""
    return [{each["name"]: each["value"] for each in container["env"]} for _, _, spec in manifests.pods([document]) for container in spec["containers"]]


def script_of(document):
    path = document["spec"].get("script", {}).get("localFile") or document["spec"]["template"]["spec"]["containers"][0]["args"][-1]
    return pathlib.PurePosixPath(path).stem


class Load(unittest.TestCase):
    def test_all_scripts_are_known_here(self):
        runnable = [path.stem for path in (manifests.ROOT / "loadtests/k6").glob("*.js") if re.search(r"^export const options", path.read_text(), re.M)]
        self.assertEqual(sorted(SCRIPTS), sorted(runnable))

    def test_each_script_as_a_job_and_as_a_test_run(self):
        for kind in ([], ["--operator"]):
            for script in SCRIPTS:
                with self.subTest(script=script, kind=kind):
                    done = load(*kind, script, "RATE=70", "MAX_USERS=9")
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    documents = manifests.parse(done.stdout)
                    found = workload(documents)
                    self.assertEqual(script_of(found), script)
                    for environment in environments(found):
                        wanted = {"RATE": "70", "MAX_USERS": "9", "SERVER": "envoy:8080", "DURATION": "1h" if script == "soak" else "5m"}
                        self.assertEqual({**environment, **wanted}, environment)
                    self.assertEqual([problem for document in documents for problem in schemas.problems(document)], [])
                    self.assertEqual(list(references.k6_names(documents)), [])

    def test_nothing_else_changes(self):
        for overlay, kind in (("loadtest", []), ("loadtest-operator", ["--operator"])):
            self.assertEqual(without_settings(manifests.parse(load(*kind, "mixed", "USERS=3").stdout)), without_settings(manifests.build(overlay)))

    def test_a_job_may_take_as_long_as_its_script(self):
        for arguments, seconds in ((["publish"], 301), (["soak"], 3601), (["mixed", "DURATION=1h30m"], 5401), (["mixed", "DURATION=500ms"], 1)):
            job = workload(manifests.parse(load(*arguments).stdout))
            self.assertEqual(job["spec"]["activeDeadlineSeconds"], seconds + 600, arguments)

    def test_refused(self):
        for arguments, reason in (
            (["options"], "no script options"), (["calls"], "no script calls"), (["../k6/mixed"], "no script"), (["mixed", "SPEED=1"], "no script reads SPEED"),
            (["mixed", "TLS=1"], "no script reads TLS"), (["mixed", "RATE"], "expected NAME=VALUE"), (["mixed", 'SERVER=a"b'], "characters"),
            (["mixed", "RATE="], "is empty"), (["mixed", "DURATION=5"], "no duration"), (["mixed", "DURATION=s"], "no duration"),
        ):
            done = load(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn(reason, done.stderr)

    def test_manifests_that_it_can_not_change(self):
        done = subprocess.run([LOAD, "mixed"], capture_output=True, text=True, env={**os.environ, "KUSTOMIZE": "echo"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("do not have the lines", done.stderr)

    def test_the_page_says_how_to_run_each(self):
        page = (manifests.ROOT / "docs/kubernetes.md").read_text()
        for script in SCRIPTS:
            self.assertIn(f"| `{script}` |", page)
        for way in ("deploy/k8s/load", "port-forward service/envoy", "SERVER=127.0.0.1:8080 ", "PLAINTEXT=false"):
            self.assertIn(way, page)


def without_settings(documents):
    """The objects without what a script and its settings are."""
    found = workload(documents)
    found["metadata"]["name"] = found["spec"]["activeDeadlineSeconds"] = None
    if found["kind"] == "Job":
        found["spec"]["template"]["spec"]["containers"][0] |= {"env": [], "args": []}
    else:
        found["spec"]["script"] = {}
        for part in ("initializer", "runner"):
            found["spec"][part]["env"] = []
    return documents


if __name__ == "__main__":
    unittest.main()
