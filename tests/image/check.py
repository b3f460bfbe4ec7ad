#!/usr/bin/env python3
"""The image and compose.yaml with a real engine: `make image-check`, which has started one and made the base images. A line a case.

    DOCKER_HOST=... target/services/venv/bin/python tests/image/check.py WALCAST     (the program, as a client on this machine)
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request

import compose
import tour

ROOT = compose.ROOT
IMAGE = "walcast:0.1.0"
SIZE_MAX = 60 << 20
SUBJECTS = [f"orders.{number}" for number in range(30)]
# Longest that a container may take to be healthy on a machine that does other things as well, in seconds.
PATIENCE = 180
counts = [0, 0]


def case(what, problem):
    """A case with what is wrong with it: nothing, an empty text or an empty list if it holds."""
    counts[bool(problem)] += 1
    print(f"FAILED {what}: {problem}" if problem else f"ok {what}", flush=True)


def run(*command, env=None, check=True):
    done = subprocess.run([str(part) for part in command], env={**os.environ, **(env or {})}, capture_output=True, text=True, cwd=ROOT)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done


def docker(*arguments, check=True):
    return run("docker", *arguments, check=check)


def project(*arguments, profiles, env=None, check=True):
    flags = [flag for profile in profiles for flag in ("--profile", profile)]
    return run(*compose.tool(), "-f", compose.FILE, *flags, *arguments, env=env, check=check)


def health(container):
    return docker("inspect", "-f", "{{.State.Health.Status}}", container, check=False).stdout.strip()


def until(what, condition):
    """Waits until `condition()` holds, or says what did not come."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return ""
        time.sleep(0.3)
    return f"{what} did not come within {PATIENCE} s"


def image():
    """Size, labels, user, and what is not in it."""
    found = json.loads(docker("image", "inspect", IMAGE).stdout)[0]
    size = found["Size"]
    print(f"image {IMAGE}: {size / (1 << 20):.1f} MiB")
    case(f"the image has {size / (1 << 20):.1f} MiB of at most {SIZE_MAX >> 20}", size > SIZE_MAX and "it is larger")
    labels = found["Config"]["Labels"]
    commit = run("git", "rev-parse", "HEAD").stdout.strip()
    case("its labels are of the commit", labels["org.opencontainers.image.revision"] != commit and labels)
    case("it is not root's", found["Config"]["User"] != "65532:65532" and found["Config"]["User"])
    shell = docker("run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-c", "true", check=False)
    case("it has no shell", shell.returncode == 0 and "/bin/sh runs")
    version = docker("run", "--rm", IMAGE, "--version").stdout
    case("it says its version", "walcast 0.1.0" not in version and version)
    refused = docker("run", "--rm", "--read-only", IMAGE, "serve", "--store", "nothing", check=False)
    case("a wrong setting is exit code 2 of the container", refused.returncode != 2 and refused.stderr)


def tour_of_the_readme():
    """The tour of README.md with each command in the container, a kill in its middle, and an orderly end."""
    docker("rm", "-f", "-v", "walcast-tour", check=False)
    restricted = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--pids-limit", "512"]
    docker("run", "-d", "--name", "walcast-tour", *restricted, IMAGE)
    try:
        case("the container is healthy", until("health", lambda: health("walcast-tour") == "healthy"))
        client = ["docker", "exec", "-i", "walcast-tour", "/usr/bin/walcast"]
        for block, commands in enumerate(tour.blocks((ROOT / "README.md").read_text())):
            if block == 2:
                docker("kill", "walcast-tour")
                docker("start", "walcast-tour")
                case("the container is healthy after docker kill", until("health", lambda: health("walcast-tour") == "healthy"))
            case(f"part {block + 1} of the README's tour, {len(commands)} commands", tour.walk(commands, client))
        docker("stop", "-t", "40", "walcast-tour")
        code = docker("inspect", "-f", "{{.State.ExitCode}}", "walcast-tour").stdout.strip()
        case("docker stop is an orderly stop", code != "0" and f"exit code {code}")
    finally:
        docker("rm", "-f", "-v", "walcast-tour", check=False)


class Cluster:
    """Three brokers behind Envoy, as a client on this machine sees them."""

    def __init__(self, walcast):
        self.walcast = walcast
        self.published = {}

    def publish(self, subject, text):
        """The id, or none if the owner is away."""
        done = run(self.walcast, "publish", subject, text, "--expires", "1h", "--server", "http://127.0.0.1:8080", check=False)
        if done.returncode == 0:
            number = int(done.stdout.strip())
            if number in self.published.setdefault(subject, {}):
                raise RuntimeError(f"id {number} of {subject} was given twice")
            self.published[subject][number] = text
            return number
        return None

    def round(self, text):
        """How many of all subjects take a publish."""
        return sum(self.publish(subject, f"{text} {subject}") is not None for subject in SUBJECTS)

    def lost(self):
        """Acknowledged messages that cannot be fetched as they were."""
        missing = []
        for subject, messages in self.published.items():
            for number, text in messages.items():
                done = run(self.walcast, "fetch", subject, number, "--server", "http://127.0.0.1:8080", check=False)
                if done.stdout != text:
                    missing.append(f"{subject} {number}: {done.stdout}{done.stderr}")
        return missing


def cluster(walcast):
    """Each broker killed in turn: its own subjects wait, the others do not notice, and nothing is lost."""
    profiles = ["cluster"]
    try:
        project("up", "-d", "--build", profiles=profiles)
        names = [f"walcast-{number}" for number in range(3)]
        containers = {name: project("ps", "-q", name, profiles=profiles).stdout.strip() for name in [*names, "envoy"]}
        case("Envoy is healthy, after three brokers are", until("health", lambda: health(containers["envoy"]) == "healthy"))
        seen = Cluster(walcast)
        case("every subject takes a publish", until("all of them", lambda: seen.round("first") == len(SUBJECTS)))
        for name in names:
            docker("kill", containers[name])
            time.sleep(3)  # Envoy's health check has seen it
            taken = seen.round(f"without {name}")
            case(f"without {name} {taken} of {len(SUBJECTS)} subjects take publishes", not 8 <= taken < len(SUBJECTS) and "as with it, or hardly any")
            docker("start", containers[name])
            back = until("health", lambda name=name: health(containers[name]) == "healthy")
            case(f"{name} is back", back or until("all of them", lambda name=name: seen.round(f"with {name}") == len(SUBJECTS)))
        total = sum(map(len, seen.published.values()))
        case(f"{total} acknowledged publishes are there, no id twice", seen.lost()[:3])
        load(profiles)
        observe(profiles)
        every = docker("ps", "-aq", "--filter", "label=com.docker.compose.project=walcast").stdout.split()
        restarts = [said for said in (docker("inspect", "-f", "{{.Name}} {{.RestartCount}}", each).stdout.strip() for each in every) if not said.endswith(" 0")]
        case(f"none of {len(every)} containers ended by itself", restarts)
    finally:
        project("down", "-v", "-t", "40", profiles=["cluster", "observe", "load"], check=False)


def load(profiles):
    """k6 through Envoy: passing, and with a bound that nothing can keep."""
    for bound, wanted in (("5000", 0), ("0", 99)):
        env = {"WALCAST_LOAD_SERVER": "envoy:8080", "WALCAST_LOAD_RATE": "50", "WALCAST_LOAD_DURATION": "5s", "WALCAST_LOAD_MAX_P99_MS": bound}
        done = project("run", "--rm", "k6", profiles=[*profiles, "load"], env=env, check=False)
        case(f"k6 with p(99)<{bound} ms is exit code {wanted}", done.returncode != wanted and f"{done.returncode}: {(done.stdout + done.stderr)[-600:]}")


def observe(profiles):
    """Prometheus sees all brokers and Envoy, and rules have no error. Grafana has no stand-in."""
    project("up", "-d", "--build", "prometheus", "jaeger", profiles=[*profiles, "observe"])

    def up():
        jobs = [series["metric"]["job"] for series in asked("/api/v1/query?query=up==1")["result"]]
        return sorted(jobs) == ["envoy", "walcast", "walcast", "walcast"]

    case("Prometheus scrapes three brokers and Envoy", until("four targets", up))
    bad = [rule["name"] for group in asked("/api/v1/rules")["groups"] for rule in group["rules"] if rule["health"] == "err"]
    case("no rule has an error", bad)


def asked(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9090{path}", timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return {"result": [], "groups": []}


def postgres(walcast):
    """A broker whose history is in the Postgres beside it."""
    profiles = ["postgres"]
    try:
        project("up", "-d", profiles=profiles)
        container = project("ps", "-q", "broker-postgres", profiles=profiles).stdout.strip()
        case("the broker with Postgres is healthy", until("health", lambda: health(container) == "healthy"))
        server = ["--server", "http://127.0.0.1:50051"]
        run(walcast, "publish", "orders", "two teas", "--expires", "1h", *server)

        def projected():
            said = json.loads(run(walcast, "status", "--json").stdout)
            return said["projector"]["store"] == "postgres" and said["projector"]["lag_records"] == 0

        case("what is published is in Postgres", until("projection", projected))
        query = ["exec", "-T", "postgres", "psql", "-h", "127.0.0.1", "-U", "walcast", "-tAc"]
        table = project(*query, "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')", profiles=profiles)
        case("its tables are there", int(table.stdout.strip()) == 0 and "none")
    finally:
        project("down", "-v", "-t", "40", profiles=profiles, check=False)


def main(walcast):
    image()
    tour_of_the_readme()
    cluster(walcast)
    postgres(walcast)
    print(f"{counts[0]} passed, {counts[1]} failed")
    return counts[1] > 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
