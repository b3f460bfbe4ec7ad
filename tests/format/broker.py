"""Runs the real broker and its command line for `compare`, on free ports and in a folder of its own."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

START_SECONDS = 60


class Failed(Exception):
    """Something of the rig did not do what it must; says what."""


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A broker's data directory and settings; `start` and `stop` as often as wanted."""

    def __init__(self, binary, folder, settings):
        self.binary, self.folder = binary, folder
        self.log = os.path.join(folder, "log")
        self._environment = {**os.environ, "WALCAST_TELEMETRY__LOG_FORMAT": "json", **settings}
        self._process = None
        self._server = None

    def start(self):
        listen, admin = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
        self._server = f"http://{listen}"
        with open(self.folder + ".log", "ab") as output:
            self._process = subprocess.Popen(
                [self.binary, "serve", "--listen", listen, "--admin-listen", admin, "--data-dir", self.folder],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        for _ in range(START_SECONDS * 20):
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://{admin}/readyz", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        self.kill()
        with open(self.folder + ".log", errors="replace") as output:
            raise Failed("the broker does not get ready: " + "".join(output.readlines()[-3:]))

    def stop(self):
        """An orderly stop, by SIGTERM."""
        self._process.terminate()
        code = self._process.wait(60)
        self._process = None
        if code != 0:
            raise Failed(f"the broker ended with exit code {code} after SIGTERM")

    def kill(self):
        """kill -9, if it runs."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def bench(self, count, body_bytes, subjects, expires, pace=("--in-flight", "256")):
        """Starts `bench publish` in the background; `expires` in seconds, `pace` as its options say it."""
        return subprocess.Popen(
            [self.binary, "bench", "publish", "--server", self._server, "--count", str(count), "--warmup", "0s",
             *pace, "--body-bytes", f"{body_bytes}B", "--subjects", str(subjects), "--expires", f"{expires}s"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def publish(self, subject, body, *options):
        """One `walcast publish`, with the body (bytes) from standard input."""
        command = [self.binary, "publish", "--server", self._server, *options, "--", subject, "-"]
        ended = subprocess.run(command, input=body, capture_output=True)
        if ended.returncode != 0:
            raise Failed(f"publish on {subject!r}: {ended.stderr.decode(errors='replace').strip()}")
        return len(ended.stdout.splitlines())


def finish(bench):
    """Waits for `bench publish`; every call of it must have been acknowledged."""
    output = bench.communicate()[0].decode(errors="replace")
    if bench.returncode != 0:
        raise Failed(f"bench publish ended with exit code {bench.returncode}: {output[-400:]}")
