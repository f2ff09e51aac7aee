"""The stack comes back with the engine, as after a reboot; in an engine of its own, beside that of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rqstack.stack import generated, images
from rqstack.stack.compose import Compose
from support import processes
from support.compose_stack import ComposeStack
from support.waiting import until

TOOLS = ("dockerd", "unshare", "ip", "iptables")
SERVICES = ("redis", "worker")

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS),
    reason=f"a second engine needs root and {', '.join(TOOLS)}",
)


class Engine:
    """A Docker engine with its own data, socket and network namespace, so that it touches nothing of the machine's."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rqstack-engine-"))
        self.socket = f"unix://{self.folder}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--host", self.socket]
        options += ["--pidfile", f"{self.folder}/docker.pid"]
        shell = 'ip link set lo up && exec dockerd "$@"'
        command = ["unshare", "--net", "--", "sh", "-c", shell, "dockerd", *options]
        self.process = process = processes.start(command, self.folder / "log")
        info = ["docker", "--host", self.socket, "info"]

        def answers() -> bool:
            assert process.poll() is None, self.log()
            return subprocess.run(info, capture_output=True, check=False).returncode == 0

        until(answers, 60, log=self.log, pause=0.2)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def close(self) -> None:
        self.stop()
        # Without an engine nothing is mounted below it any more.
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def test_the_stack_comes_back_with_its_jobs(new_stack: ComposeStack, engine: Engine) -> None:
    stack = new_stack
    generated.update(stack.home, images.ensure(stack.home, needed(stack), 60, print).built)
    stack.compose("build", "--quiet", "worker", "tasks")
    names = [image for name, image in needed(stack).items() if name != "python"]
    names += [f"rqstack/worker:{stack.project}", f"rqstack/tasks:{stack.project}"]
    with subprocess.Popen(["docker", "save", *names], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "--host", engine.socket, "load"], stdin=saved.stdout, check=True, capture_output=True)

    stack.environment["DOCKER_HOST"] = engine.socket
    stack.compose("up", "--detach", "--wait", "--no-build", *SERVICES)
    rqstack = ("exec", "-T", "worker", "rqstack")
    stack.compose(*rqstack, "suspend")
    ids = [
        stack.compose(*rqstack, "trigger", "rqstack.smoke.check", str(number)).stdout.split()[-1] for number in (1, 21)
    ]
    before = {container["Id"]: container["State"]["StartedAt"] for container in running(stack)}
    assert len(before) == len(SERVICES)

    engine.stop()
    engine.start()

    stack.until(lambda: all(stack.healthy(service) == 1 for service in SERVICES), 120)
    after = {container["Id"]: container["State"]["StartedAt"] for container in running(stack)}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    stack.compose(*rqstack, "resume")
    stack.compose(*rqstack, "wait", "--timeout", "60", *ids)
    assert [stack.compose(*rqstack, "result", identity).stdout.strip() for identity in ids] == ["2", "42"]


def needed(stack: ComposeStack) -> dict[str, str]:
    """The images of the services that are started, as the home's settings name them."""
    found = images.external_images(Compose(stack.home).config())
    return {name: found[name] for name in ("python", "redis")}


def running(stack: ComposeStack) -> list[dict[str, Any]]:
    return [container for container in stack.containers() if container["State"]["Running"]]
