"""One broker, or three behind the shipped Envoy, on a store: started, and stopped in order."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from databases import STORES
from processes import ROOT, SERVICES, Failed, Process, free_port, get

# Name to brokers and store. Several stand behind Envoy.
DEPLOYMENTS = {
    "one-embedded": (1, "embedded"),
    "one-postgres": (1, "postgres"),
    "one-cassandra": (1, "cassandra"),
    "three-embedded": (3, "embedded"),
    "three-postgres": (3, "postgres"),
    "three-cassandra": (3, "cassandra"),
}


class Deployment:
    """`with Deployment(...) as running`: `running.address` is what clients call."""

    def __init__(self, name, binary, out):
        self.count, self.store = DEPLOYMENTS[name]
        self.binary = binary
        self.out = out
        self.database = self.envoy = None
        self.brokers = []

    def __enter__(self):
        # The logs of brokers are on the disk of the project, for their fdatasync is in every figure; a database has a user of its own.
        self.folder = Path(tempfile.mkdtemp(prefix="brokers-", dir=self.out))
        self.away = Path(tempfile.mkdtemp(prefix="walcast-load-"))
        self.away.chmod(0o755)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        place = self.away / "database"
        place.mkdir()
        self.database, flags = STORES[self.store](place)
        ports = [free_port() for _ in range(self.count)]
        layout = ",".join(f"node-{number}=127.0.0.1:{port}" for number, port in enumerate(ports))
        admins = [free_port() for _ in ports]
        for number, port in enumerate(ports):
            environment = {"WALCAST_TELEMETRY__LOG_FORMAT": "json"}
            if self.count > 1:
                environment |= {"WALCAST_CLUSTER__NODE": f"node-{number}", "WALCAST_CLUSTER__NODES": layout}
            command = [self.binary, "serve", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admins[number]}"]
            command += ["--data-dir", self.folder / f"data-{number}", *flags]
            self.brokers.append(Process(f"broker {number}", command, self.folder / f"broker-{number}.log", environment))
        # A broker is ready without its store. Three that meet an empty database wait for one of them to make the tables.
        for broker, admin in zip(self.brokers, admins):
            broker.wait_until(lambda: re.search(r"^walcast_store_up.* 1$", get(f"http://127.0.0.1:{admin}/metrics") or "", re.M))
        self.said = {broker: len(broker.log.read_text()) for broker in self.brokers}
        self.address = f"127.0.0.1:{ports[0]}"
        if self.count > 1:
            self.start_envoy(ports)

    def start_envoy(self, ports):
        listen, admin, stats = free_port(), free_port(), free_port()
        command = [ROOT / "deploy/envoy/configure", "--listen", f"127.0.0.1:{listen}", "--admin", str(admin), "--stats", f"127.0.0.1:{stats}"]
        for port in ports:
            command += ["--broker", f"127.0.0.1:{port}"]
        configuration = self.folder / "envoy.yaml"
        configuration.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        program = next(iter(SERVICES.glob("venv/lib/python*/site-packages/envoy/_bin/envoy")), None)
        if program is None:
            raise Failed("Envoy is not there: run `tests/services/install envoy`")
        command = [program, "-c", configuration, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        # Its access log is one line a call.
        self.envoy = Process("Envoy", command, self.folder / "envoy.log")
        healthy = f"cluster.broker.membership_healthy: {len(ports)}"
        self.envoy.wait_until(lambda: healthy in (get(f"http://127.0.0.1:{admin}/stats?filter=membership_healthy") or ""))
        self.address = f"127.0.0.1:{listen}"

    def processor_seconds(self):
        """Of brokers, of Envoy, and of the database."""
        of = lambda processes: sum(process.processor_seconds() for process in processes if process)  # noqa: E731
        return {"brokers": of(self.brokers), "Envoy": of([self.envoy]), "database": of([self.database])}

    def alarms(self):
        """What brokers have warned of since they were all there; a calm load gives them no reason."""
        found = []
        for broker in self.brokers:
            for line in broker.log.read_text()[self.said[broker]:].splitlines():
                if line.startswith("{") and json.loads(line)["level"] in ("WARN", "ERROR"):
                    found.append(f"{broker.name}: {line}")
        return found

    def stop(self):
        """Those that talk before those that are talked to, so that nothing complains."""
        if self.envoy:
            self.envoy.stop()
        for broker in self.brokers:
            broker.tell()
        codes = [broker.ended() for broker in self.brokers]
        if any(codes):
            print(f"brokers ended with {codes}", file=sys.stderr)
        if self.database:
            self.database.stop(getattr(self.database, "last_signal", signal.SIGTERM))
        for folder in (self.folder, self.away):
            shutil.rmtree(folder, ignore_errors=True)
