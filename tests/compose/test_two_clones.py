"""Two clones side by side, each started as its README says, and then by plain compose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rqstack.stack import generated
from support.compose_stack import ComposeStack

ADD = "rqstack.smoke.check"


@pytest.fixture
def clones(tmp_path: Path) -> Iterator[list[ComposeStack]]:
    """Two clones in folders of the same name."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    made: list[ComposeStack] = []
    try:
        for name in ("first", "second"):
            home = tmp_path / name / "rqstack"
            home.mkdir(parents=True)
            made.append(ComposeStack(home, as_cloned=True))
        yield made
    except BaseException:
        for clone in made:
            print(clone.show())
        raise
    finally:
        for clone in made:
            clone.close()


def result(clone: ComposeStack) -> str:
    identity = clone.rqstack("trigger", ADD, "21").stdout.split()[-1]
    clone.rqstack("wait", "--timeout", "60", identity)
    return clone.rqstack("result", identity).stdout.strip()


@pytest.mark.timeout(900)
def test_two_clones_run_at_the_same_time(clones: list[ComposeStack]) -> None:
    first, second = clones
    own = (first.home / ".env").read_text().partition(generated.END)[2]
    with (second.home / ".env").open("a") as file:
        file.write("WORKERS=2\n")
    for clone in clones:
        clone.start()
    assert first.project != second.project
    assert all(clone.project.startswith("rqstack-") for clone in clones)
    values = [generated.read(clone.home) for clone in clones]
    assert values[0]["REDIS_PORT"] != values[1]["REDIS_PORT"]
    assert [clone.healthy("worker") for clone in clones] == [1, 2]
    for clone, value in zip(clones, values, strict=True):
        status = clone.rqstack("stack", "status").stdout
        assert f"Compose project                  {clone.project}" in status
        assert f"redis://127.0.0.1:{value['REDIS_PORT']}/0" in status
        (worker, *_) = clone.containers("worker")
        assert worker["Config"]["Image"] == f"rqstack/worker:{clone.project}"
        assert result(clone) == "42"

    # Stopping one leaves the other, and afterwards plain compose is enough, for the command line too.
    first.rqstack("stack", "stop")
    assert first.containers() == []
    assert result(second) == "42"
    first.compose("up", "--detach", "--wait", "--scale", "worker=2")
    assert not (first.home / "var" / "stack.env").exists()
    assert first.healthy("worker") == 2
    assert first.rqstack("health", "--ready").stdout == "ok: Redis answers\n"
    assert result(first) == "42"
    first.compose(*MONITORING, "up", "--build", "--detach", "--wait")
    assert first.healthy("rq-exporter") == first.healthy("dashboard") == first.healthy("prometheus") == 1
    stopped = first.rqstack("stack", "stop", "--only-monitoring").stdout
    assert "Stopped alertmanager, dashboard" in stopped
    assert first.containers("dashboard") == []
    assert result(first) == "42"
    assert (first.home / ".env").read_text().partition(generated.END)[2] == own

    # A copy of a folder is another stack.
    copy = first.home.parent / "copy"
    shutil.copytree(first.home, copy, symlinks=True)
    first.environment["RQSTACK_HOME"] = str(copy)
    first.rqstack("stack", "setup")
    first.environment["RQSTACK_HOME"] = str(first.home)
    copied = generated.read(copy)
    assert copied["COMPOSE_PROJECT_NAME"] not in (first.project, second.project)
    assert copied["REDIS_PORT"] not in (values[0]["REDIS_PORT"], values[1]["REDIS_PORT"])


MONITORING = ("-f", "docker-compose.yml", "-f", "docker-compose-monitor.yml")
