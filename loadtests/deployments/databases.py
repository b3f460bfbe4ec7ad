"""A Postgres and a Cassandra of their own, with their defaults for durability."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from processes import ROOT, SERVICES, Failed, Process, free_port

CASSANDRA_YAML = """\
cluster_name: walcast-load
num_tokens: 4
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
authenticator: AllowAllAuthenticator
authorizer: AllowAllAuthorizer
data_file_directories: [ {data}/data ]
commitlog_directory: {data}/commitlog
hints_directory: {data}/hints
saved_caches_directory: {data}/saved_caches
cdc_raw_directory: {data}/cdc
commitlog_sync: periodic
commitlog_sync_period: 10000ms
seed_provider: [ {{ class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [ {{ seeds: "127.0.0.1:{storage}" }} ] }} ]
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: {port}
storage_port: {storage}
endpoint_snitch: SimpleSnitch
auto_snapshot: false
"""
LOGBACK = """\
<configuration><appender name="F" class="ch.qos.logback.core.FileAppender"><file>{folder}/system.log</file>
<encoder><pattern>%-5level %date{{ISO8601}} %logger{{0}} - %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="F"/></root></configuration>
"""


def embedded(_folder):
    return None, ["--store", "embedded"]


def postgres(folder):
    """The server and the flags of a broker that uses it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not programs:
        raise Failed("Postgres is not there: run `tests/services/install postgres`")
    as_user = []
    if os.geteuid() == 0:
        # It refuses to run as root.
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig", "KILL"]
    port, data = free_port(), folder / "data"
    initdb = [*as_user, programs[-1] / "initdb", "-D", data, "-U", "walcast", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    command = [*as_user, programs[-1] / "postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}"]
    server = Process("Postgres", command, folder.parent / "postgres.log", folder=folder)
    create = [programs[-1] / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", "walcast", "-c", "CREATE DATABASE walcast", "postgres"]
    server.wait_until(lambda: subprocess.run(create, capture_output=True).returncode == 0)
    # It waits for its clients otherwise.
    server.last_signal = signal.SIGINT
    return server, ["--store", "postgres", "--postgres-url", f"postgres://walcast@127.0.0.1:{port}/walcast"]


def cassandra(folder):
    """The same with Cassandra."""
    java, library = SERVICES / "cassandra/java", SERVICES / "cassandra/lib"
    if not java.exists():
        raise Failed("Cassandra is not there: run `tests/services/install cassandra`")
    port, storage = free_port(), free_port()
    (folder / "conf").mkdir()
    (folder / "conf/cassandra.yaml").write_text(CASSANDRA_YAML.format(data=folder / "data", port=port, storage=storage))
    (folder / "conf/logback.xml").write_text(LOGBACK.format(folder=folder))
    command = [java, "-Xms1g", "-Xmx1g", "-XX:MaxDirectMemorySize=512m", "-Xss512k", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
    # What Cassandra 5 needs of the modules of Java 17.
    for module in (ROOT / "tests/cassandra/harness/opened-modules").read_text().split():
        command += [f"--add-opens={module}=ALL-UNNAMED", f"--add-exports={module}=ALL-UNNAMED"]
    command += [f"-javaagent:{next(library.glob('jamm-*'))}"]
    properties = {
        "jdk.attach.allowAttachSelf": "true", "io.netty.tryReflectionSetAccessible": "true", "java.net.preferIPv4Stack": "true",
        "cassandra.config": f"file://{folder}/conf/cassandra.yaml", "logback.configurationFile": f"{folder}/conf/logback.xml",
        "cassandra.storagedir": f"{folder}/data", "cassandra.logdir": folder,
        # There is nobody else to gossip with.
        "cassandra.skip_wait_for_gossip_to_settle": "0", "cassandra.ring_delay_ms": "1000", "cassandra.superuser_setup_delay_ms": "0",
        "cassandra-foreground": "yes",
    }
    command += [f"-D{name}={value}" for name, value in properties.items()]
    command += ["-cp", f"{folder}/conf:{library}/*", "org.apache.cassandra.service.CassandraDaemon"]
    server = Process("Cassandra", command, folder.parent / "cassandra.log", folder=folder)
    said = folder / "system.log"
    server.wait_until(lambda: said.exists() and "Startup complete" in said.read_text() and listens(port))
    return server, ["--store", "cassandra", "--cassandra-nodes", f"127.0.0.1:{port}"]


def listens(port):
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


STORES = {"embedded": embedded, "postgres": postgres, "cassandra": cassandra}
