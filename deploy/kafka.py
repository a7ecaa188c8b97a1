"""A real Apache Kafka, one node in KRaft mode, as a child process on free loopback ports.

For the demo and the tests. The jars come from Maven, once, into a cache directory; the broker's memory is
capped and it ends with the process that started it (see guard.py). `KAFKA_BOOTSTRAP_SERVERS` in the
environment names a cluster to use instead: `broker()` looks there first.
"""

import asyncio
import base64
import logging
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from deploy.server import LocalServer, accepts, free_ports

log = logging.getLogger(__name__)

_JARS = Path(__file__).parent / "kafka-jars"
_JAVA = 17
# Runs the broker in about 300 MB. The first compiler stage is enough for a broker that lives minutes.
_JVM = ("-Xms128m", "-Xmx384m", "-XX:MaxDirectMemorySize=128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# One node, so every replication factor is 1; few partitions and threads, so that it starts soon; no waiting
# for more members before a first rebalance; and no topic that nobody made on purpose.
_SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.io.threads": "4",
    "num.network.threads": "2",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
}


class KafkaUnavailable(RuntimeError):
    """This machine cannot run the broker; the text says what is missing."""


class LocalKafka(LocalServer):
    """One broker: `with LocalKafka() as kafka: ... kafka.bootstrap_servers`.

    `settings` are further broker settings; `listeners` further ports by name, each with its security protocol, and
    `address` says where one is. Data are kept until `close`. Raises KafkaUnavailable without Java or the jars.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        start_timeout_s: float = 90.0,
        listeners: Mapping[str, str] | None = None,
    ) -> None:
        self.java = find_java()
        self._classpath = f"{fetch_jars()}/*"
        super().__init__("Kafka", start_timeout_s)
        self._settings = dict(settings or {})
        self._protocols = dict(listeners or {})
        self.port, self._controller_port, *others = free_ports(2 + len(self._protocols))
        self._ports = dict(zip(self._protocols, others, strict=True))

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def address(self, listener: str, host: str = "127.0.0.1") -> str:
        return f"{host}:{self._ports[listener]}"

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same data and ports.

        After a kill this takes ten seconds: Kafka waits for the dead broker's session to end.
        """
        self.stop()
        self.start()

    def _command(self) -> list[str]:
        properties = self.directory / "server.properties"
        if not properties.exists():
            self._format(properties)
        return self._java("kafka.Kafka", str(properties))

    def _answers(self) -> bool:
        # A plain connection first: a Kafka client logs every failed attempt.
        if not accepts(self.port):
            return False
        # In a thread, because the caller may itself be inside an event loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._has_broker()).result()

    def _java(self, *arguments: str) -> list[str]:
        logging_file = _JARS / "log4j2.properties"
        return [
            self.java,
            *_JVM,
            f"-Dlog4j2.configurationFile={logging_file}",
            "-cp",
            self._classpath,
            *arguments,
        ]

    def _format(self, properties: Path) -> None:
        listeners = [f"PLAINTEXT://{self.bootstrap_servers}", *(f"{n}://{self.address(n)}" for n in self._ports)]
        protocols = ["CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", *(f"{n}:{p}" for n, p in self._protocols.items())]
        settings = _SETTINGS | {
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{self._controller_port}"]),
            "advertised.listeners": ",".join(listeners),
            "listener.security.protocol.map": ",".join(protocols),
            "log.dirs": str(self.directory / "data"),
        }
        settings |= self._settings
        draft = properties.with_suffix(".draft")
        draft.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        # One id in 64 would begin with a dash, which the command takes for an option: a first byte of 0 is an A.
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(draft))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Kafka could not format its data directory:\n{done.stdout}{done.stderr}")
        draft.rename(properties)

    async def _has_broker(self) -> bool:
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=5000)
        try:
            await client.bootstrap()
            return bool(client.cluster.brokers())
        except KafkaError:
            return False
        finally:
            await client.close()


@contextmanager
def broker() -> Iterator[str]:
    """Bootstrap servers of the cluster in KAFKA_BOOTSTRAP_SERVERS, else of a LocalKafka, ended afterwards."""
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "").strip()
    if servers:
        yield servers
        return
    with LocalKafka() as kafka:
        yield kafka.bootstrap_servers


def find_java() -> str:
    """The `java` command. Raises KafkaUnavailable."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise KafkaUnavailable(f"Kafka needs Java {_JAVA} or newer: no `java` on PATH and no JAVA_HOME.")
    text = subprocess.run([java, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', text)
    if version is None or int(version[1]) < _JAVA:
        found = text.splitlines()[0] if text else "no version"
        raise KafkaUnavailable(f"Kafka needs Java {_JAVA} or newer; {java} says: {found}")
    return java


def fetch_jars() -> Path:
    """The directory of the broker's jars; Maven fetches them the first time (45 files, 43 MB)."""
    pom = _JARS / "pom.xml"
    version = ElementTree.parse(pom).findtext(".//{*}kafka.version")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trunkline" / f"kafka-{version}"
    jars = cache / "libs"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailable(f"Kafka's jars are not in {jars} and there is no `mvn` (Maven) to fetch them.")
    log.info("fetching Kafka %s with Maven, once, into %s", version, jars)
    cache.mkdir(parents=True, exist_ok=True)
    # Fetched beside the place and renamed: neither a second process nor a broken download shows half of it.
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as fetched:
        command = [maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={fetched}/libs"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr)[-3000:]
            raise KafkaUnavailable(f"Maven could not fetch Kafka {version}:\n{said}")
        try:
            os.rename(f"{fetched}/libs", jars)
        except OSError:
            if not jars.is_dir():
                raise
    return jars
