"""A Redis Cluster of three masters, one of which has a replica."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from support.ports import free_ports
from support.redis_server import until_redis_answers
from support.waiting import until

SLOTS = 16384


class RedisCluster:
    """Three masters with a third of the slots each, and a replica of the master of one slot.

    Args:
        tag: The hash tag whose slot's master gets the replica.
        arguments: For every server.
        login: User name and password of the tests themselves.
        certificate: A folder with `cert` and `key`: the nodes then speak TLS too, at `tls_url`.
    """

    def __init__(
        self,
        tag: str = "rq",
        *arguments: str,
        login: tuple[str, str] | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rqstack-cluster-"))
        # The bus of a node listens 10,000 above its port.
        ports = [port for port in free_ports(60) if port <= 55_000]
        assert len(ports) >= 8, "no free ports below 55,000"
        self.ports, self.tls_ports = ports[:4], dict(zip(ports[:4], ports[4:8], strict=True))
        self.certificate = certificate
        self.arguments = arguments
        self.slot = key_slot(tag.encode())
        self.login = login or (None, None)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.clients: dict[int, Redis] = {}

    @property
    def url(self) -> str:
        """The value for REDIS_URL."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    @property
    def tls_url(self) -> str:
        """The same with TLS."""
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.tls_ports.values())
        return f"rediss+cluster://{nodes}?ssl_ca_certs={self.certificate}/cert"

    def start(self) -> None:
        """Start it, and wait until every node knows every other, and the replica is in step."""
        for port in self.ports:
            self.start_node(port)
        *masters, replica = self.ports
        bounds = [round(SLOTS * third / 3) for third in range(4)]
        for index, port in enumerate(masters):
            self.call(port, "CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
            self.call(port, "CLUSTER", "ADDSLOTSRANGE", str(bounds[index]), str(bounds[index + 1] - 1))
        for port in self.ports[1:]:
            self.call(
                port,
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                str(self.ports[0] if self.certificate is None else self.tls_ports[self.ports[0]]),
            )
        until(lambda: all(self._knows_all(port) for port in self.ports), 60, "nodes that know each other")
        self.call(replica, "CLUSTER", "REPLICATE", self.node_id(self.master))
        until(lambda: self.clients[replica].info("replication").get("master_link_status") == "up", 60, "the replica")
        until(lambda: all(self._sees_replica(port, replica) for port in self.ports), 60, "nodes that know the replica")

    def start_node(self, port: int) -> None:
        """Start a server, and wait until it answers."""
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{port}.conf"]
        command += ["--cluster-node-timeout", "1000", "--appendonly", "yes", "--appenddirname", f"aof-{port}"]
        if (folder := self.certificate) is not None:
            command += ["--tls-port", str(self.tls_ports[port]), "--tls-cluster", "yes", "--tls-replication", "yes"]
            command += ["--tls-cert-file", f"{folder}/cert", "--tls-key-file", f"{folder}/key"]
            command += ["--tls-ca-cert-file", f"{folder}/cert", "--tls-auth-clients", "no"]
        self.processes[port] = subprocess.Popen(
            [*command, *self.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.clients[port] = self._client(port)
        until_redis_answers(self.clients[port], self.processes[port])

    def _knows_all(self, port: int) -> bool:
        info = self.clients[port].execute_command("CLUSTER INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(len(self.ports)))

    def _sees_replica(self, port: int, replica: int) -> bool:
        return "slave" in self.nodes(port)[f"127.0.0.1:{replica}"]["flags"]

    def call(self, port: int, *command: str) -> Any:
        """One command to one node."""
        return self.clients[port].execute_command(*command)

    def node_id(self, port: int) -> str:
        """The node's id in the cluster."""
        found = self.call(port, "CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else str(found)

    @property
    def master(self) -> int:
        """The port of the node that serves the slot, as the nodes agree."""
        return until(lambda: self._agreed_master(), 60, "nodes that agree on a master", errors=(RedisError,))

    def _agreed_master(self) -> int:
        seen = {self._owner(port) for port, process in self.processes.items() if process.poll() is None}
        return seen.pop() if len(seen) == 1 else 0

    def _owner(self, port: int) -> int:
        """The port of the node that serves the slot, as one node sees it; 0 for none."""
        for address, node in self.nodes(port).items():
            if any(int(slots[0]) <= self.slot <= int(slots[-1]) for slots in node["slots"]):
                return int(address.rpartition(":")[2])
        return 0

    def nodes(self, port: int) -> dict[str, dict[str, Any]]:
        """All nodes, as one node sees them, by address."""
        found: dict[str, dict[str, Any]] = self.clients[port].execute_command("CLUSTER NODES")
        return found

    # -- what happens to a cluster

    def fail_over(self) -> int:
        """Promote the replica of the slot's master, in order. Returns the new master's port."""
        before = self.master
        (replica,) = [port for port in self.ports if self.is_replica(port)]
        until(lambda: self.clients[replica].info("replication").get("master_link_status") == "up", 60, "the replica")
        deadline = 0.0

        def is_promoted() -> bool:
            # The other masters do not vote again within twice the node timeout, and Redis tries for five seconds only.
            nonlocal deadline
            if self.is_replica(replica) and time.monotonic() > deadline:
                self.call(replica, "CLUSTER", "FAILOVER")
                deadline = time.monotonic() + 6
            return self.master == replica

        until(is_promoted, 60, "the failover")
        assert replica != before
        return replica

    def kill_master(self) -> int:
        """Kill the slot's master, and wait until its replica is promoted. Returns the new master's port."""
        before = self.master
        self.processes[before].kill()
        self.processes[before].wait()
        until(lambda: self.master != before, 60, "the failover")
        return self.master

    def begin_move(self) -> tuple[int, int]:
        """Begin to move the slot to another master. Returns the ports of both."""
        source = self.master
        target = next(port for port in self.ports if port != source and not self.is_replica(port))
        self.call(target, "CLUSTER", "SETSLOT", str(self.slot), "IMPORTING", self.node_id(source))
        self.call(source, "CLUSTER", "SETSLOT", str(self.slot), "MIGRATING", self.node_id(target))
        return source, target

    def move_keys(self, source: int, target: int, number: int = 20) -> int:
        """Move some keys of the slot. Returns how many there were."""
        keys = self.call(source, "CLUSTER", "GETKEYSINSLOT", str(self.slot), str(number))
        if keys:
            self.call(source, "MIGRATE", "127.0.0.1", str(target), "", "0", "5000", "KEYS", *keys)
        return len(keys)

    def end_move(self, source: int, target: int) -> None:
        """Say that the slot has moved, once all keys have."""
        for port in (target, source, *(port for port in self.ports if not self.is_replica(port))):
            self.call(port, "CLUSTER", "SETSLOT", str(self.slot), "NODE", self.node_id(target))
        until(lambda: self.master == target, 60, "the move")

    def is_replica(self, port: int) -> bool:
        return bool(self.clients[port].execute_command("ROLE")[0] == b"slave")

    def client(self) -> Redis:
        """A client of the present master."""
        return self._client(self.master)

    def _client(self, port: int) -> Redis:
        username, password = self.login
        return Redis(port=port, username=username, password=password)

    def close(self) -> None:
        """Kill all servers, and delete their data."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        for client in self.clients.values():
            client.close()
        shutil.rmtree(self.folder, ignore_errors=True)
