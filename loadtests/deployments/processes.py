"""Processes that end with this one, ports, and what processor time they took."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "target/services"
# Ten times what the slowest of them, Cassandra, takes beside builds.
START_SECONDS = 200
# The drain of a broker takes 25 s at most, and a checkpoint 5.
STOP_SECONDS = 60


class Failed(Exception):
    """What the run itself needs is not there or does not start."""


def tie():
    """Who is killed must leave nobody behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port():
    """Below those that the kernel gives to clients, so that none sits on one before its server does."""
    while True:
        port = random.randrange(15_000, 20_000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in free_port.given:
            free_port.given.add(port)
            return port


free_port.given = set()


def get(url):
    """The text there, or None."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return None


class Process:
    """A server with its output in a file, until `stop`."""

    def __init__(self, name, command, log, environment=None, folder=None):
        self.name, self.log = name, Path(log)
        with open(self.log, "w") as output:
            self.child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})}, cwd=folder, preexec_fn=tie, start_new_session=True)

    def wait_until(self, ready):
        """Returns once `ready()` is true; raises Failed with its last words if it ends, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while not ready():
            if self.child.poll() is not None or time.monotonic() > end:
                words = self.log.read_text(errors="replace").splitlines()[-8:]
                raise Failed(f"{self.name} does not start (exit code {self.child.poll()}):\n" + "\n".join(words))
            time.sleep(0.05)
        return self

    def tell(self, number=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(number)

    def ended(self):
        """Its exit code, once it has ended by itself or by what it was told; a second signal would cut a broker's drain short."""
        try:
            return self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()

    def stop(self, number=signal.SIGTERM):
        self.tell(number)
        return self.ended()

    def processor_seconds(self):
        """Of itself and of all processes below it, which Postgres has many of, each in a session of its own."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue  # it has just ended
                # After the name: state and parent; user and system time are the 12th and 13th, of those it waited for the next two.
                found[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
        ours = {self.child.pid}
        # A child may have a lower number than its parent, once numbers begin again.
        while True:
            more = {pid for pid, (parent, _) in found.items() if parent in ours} - ours
            if not more:
                break
            ours |= more
        return sum(ticks for pid, (_, ticks) in found.items() if pid in ours) / os.sysconf("SC_CLK_TCK")
