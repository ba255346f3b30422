"""A cluster as containers: an etcd and three brokers on private networks (testcontainers).

Clients, peers and etcd have a network each, so that a broker can be cut off from any of them alone,
by taking it out of that network. The methods are those of `World` (world.py) as far as containers
can do them; a cut is in both directions.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final, Self

from docker.errors import ImageNotFound
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network

BROKERS: Final = ("b1", "b2", "b3")
MEMBERS: Final = ("e1",)
CLIENTS, PEERS, ETCD, ALL = "clients", "peers", "etcd", "all"
CLIENT_PORT, PEER_PORT, ETCD_PORT = 5755, 5757, 2379
SESSION_MS: Final = 3_000
STOP_S: Final = 20
NO_NAME_SERVER: Final = "192.0.2.53"
"""An address that nobody has (RFC 5737)."""


class ContainerCluster:
    """As a context manager, which starts all of it and leaves nothing behind."""

    def __init__(self, image: str, etcd_image: str) -> None:
        self.brokers = BROKERS
        self.members = MEMBERS
        self._image = image
        self._etcd_image = etcd_image
        self._engine = DockerClient()
        self._networks: dict[str, Network] = {}
        self._nodes: dict[str, DockerContainer] = {}
        self._addresses: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        testcontainers_config.ryuk_disabled = not self._has_ryuk()
        with ExitStack() as stack:
            # Clients are outside of Docker and know addresses, so those must stay what they are.
            subnet = self._free_subnet()
            pool = IPAMPool(subnet=f"{subnet}.0/24")
            of = {CLIENTS: {"ipam": IPAMConfig(pool_configs=[pool])}}
            for name in (CLIENTS, PEERS, ETCD):
                how = of.get(name, {"internal": True})
                network = Network(docker_network_kw=how)
                self._networks[name] = stack.enter_context(network)
            for number, node in enumerate(BROKERS, 1):
                self._addresses[node] = f"{subnet}.{10 + number}"
            for node in (*MEMBERS, *BROKERS):
                container = self._member() if node in MEMBERS else self._broker(node)
                self._nodes[node] = stack.enter_context(container)
                for name in (PEERS, CLIENTS) if node in BROKERS else ():
                    self._join(node, name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def servers(self) -> str:
        """Where clients begin."""
        return ",".join(self.address(node) for node in BROKERS)

    def address(self, node: str) -> str:
        """Where clients find a broker."""
        return f"{self._addresses[node]}:{CLIENT_PORT}"

    # Processes

    def start(self, node: str) -> None:
        """Start it, unless it runs; does not wait until it serves."""
        self._of(node).start()

    def stop(self, node: str) -> None:
        """SIGTERM, and SIGKILL if that does not end it in a while."""
        self._of(node).stop(timeout=STOP_S)

    def kill(self, node: str) -> None:
        """SIGKILL, if it runs."""
        if self.is_running(node):
            self._of(node).kill()

    def pause(self, node: str) -> None:
        """Freeze it, if it runs."""
        if self.is_running(node):
            self._of(node).pause()

    def resume(self, node: str) -> None:
        """Thaw it, if it is frozen."""
        if self._of(node).status == "paused":
            self._of(node).unpause()

    # Network

    def cut(self, node: str, what: str) -> None:
        """From now on it is not in the network of `what`: all, etcd, peers or clients."""
        for name in self._names(what):
            self._engine.client.networks.get(self._networks[name].name).disconnect(self._of(node))

    def heal(self, node: str, what: str) -> None:
        """The opposite of the same `cut`."""
        for name in self._names(what):
            self._join(node, name)

    # Disks

    def wipe(self, node: str) -> None:
        """Remove its data. The broker must be down."""
        assert not self.is_running(node)
        self._engine.client.containers.run(
            self._image,
            entrypoint=["find", "/data", "-mindepth", "1", "-delete"],
            volumes_from=[self._of(node).id],
            remove=True,
        )

    # What there is to see

    def is_running(self, node: str) -> bool:
        """Whether there is a process that is not frozen."""
        return str(self._of(node).status) == "running"

    def logs(self, node: str) -> str:
        """What it has written so far."""
        return bytes(self._of(node).logs()).decode(errors="replace")

    def exit_code(self, node: str) -> int:
        """Of its last life; 0 while it runs."""
        return int(self._of(node).attrs["State"]["ExitCode"])

    def _of(self, node: str) -> Container:
        container = self._nodes[node].get_wrapped_container()
        container.reload()
        return container

    def _names(self, what: str) -> tuple[str, ...]:
        return (CLIENTS, PEERS, ETCD) if what == ALL else (what,)

    def _join(self, node: str, name: str) -> None:
        # A name for each network, or peers would find each other in all of them.
        self._engine.client.networks.get(self._networks[name].name).connect(
            self._of(node),
            aliases=[f"{node}.{name}"],
            ipv4_address=self._addresses[node] if name == CLIENTS else None,
        )

    def _broker(self, node: str) -> DockerContainer:
        settings = {
            "ID": BROKERS.index(node) + 1,
            "RACK": node,
            "ADVERTISE": self.address(node),
            "ADVERTISE_PEERS": f"{node}.{PEERS}:{PEER_PORT}",
            "METADATA": f"etcd3://{MEMBERS[0]}.{ETCD}:{ETCD_PORT}/zmqmq",
            "INSECURE": "true",
            "SESSION_MS": SESSION_MS,
        }
        container = DockerContainer(self._image).with_network(self._networks[ETCD])
        container.with_network_aliases(f"{node}.{ETCD}")
        for name, value in settings.items():
            container.with_env(f"ZMQMQ_BROKER__BROKER__{name}", str(value))
        # Of a healthy broker there is nothing to ask while all are busy with tests. The engine
        # knows the names of containers that are there; for others it asks a name server, and there
        # is none that answers.
        return container.with_kwargs(
            init=True,
            read_only=True,
            cap_drop=["ALL"],
            dns=[NO_NAME_SERVER],
            healthcheck={"test": ["NONE"]},
        )

    def _member(self) -> DockerContainer:
        url = f"http://0.0.0.0:{ETCD_PORT}"
        container = DockerContainer(self._etcd_image).with_network(self._networks[ETCD])
        container.with_network_aliases(f"{MEMBERS[0]}.{ETCD}")
        return container.with_command(
            [
                *("etcd", "--data-dir", "/etcd-data", "--log-level", "warn"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
            ]
        )

    def _has_ryuk(self) -> bool:
        """Whether who cleans up after a test that was killed is to be had; else nobody does."""
        if testcontainers_config.ryuk_disabled:
            return False
        try:
            self._engine.client.images.get(testcontainers_config.ryuk_image)
        except ImageNotFound:
            return False
        return True

    def _free_subnet(self) -> str:
        """The first three numbers of addresses that the engine gave to a network just now."""
        with Network() as network:
            found = self._engine.client.networks.get(network.name).attrs
        return str(found["IPAM"]["Config"][0]["Subnet"]).rpartition(".")[0]
