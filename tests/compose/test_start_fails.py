"""What a start says that cannot succeed: one sentence, or the service with the end of its log; exit code 1."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from rqstack.stack import images
from support.compose_stack import ComposeStack

HERE = Path(__file__).resolve().parent


def test_a_port_in_use_is_named_with_its_setting(new_stack: ComposeStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        new_stack.environment["REDIS_PORT"] = str(port)
        done = new_stack.rqstack("stack", "start", "--mode", "compose", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Error: REDIS_PORT={port}: another program listens on port {port}. Stop it, or set REDIS_PORT to a free port "
        "in .env or the environment."
    )
    assert new_stack.containers() == []


def test_a_service_that_does_not_start_is_named_with_its_log(new_stack: ComposeStack) -> None:
    probe = new_stack.home / "tasks" / "probe"
    shutil.copytree(HERE / "projects" / "probe", probe)
    (probe / "probe" / "version.py").write_text("import nothing_of_that_name\n")
    done = new_stack.rqstack("stack", "start", "--mode", "compose", check=False)
    assert done.returncode == 1
    assert "Error: tasks is unhealthy (" in done.stderr
    assert "is refused; the running one stays. probe: " in done.stderr
    assert "No module named 'nothing_of_that_name'" in done.stderr
    assert "Traceback" not in done.stderr

    # Mended, the same command goes on from there.
    (probe / "probe" / "version.py").write_text("VERSION = 1\n")
    new_stack.start()
    assert new_stack.healthy("worker") == 1
    (identity,) = new_stack.enqueue("probe.tasks.where", [[]])
    assert new_stack.wait([identity])[identity][0] == "finished"


def test_without_env_compose_says_what_to_do(new_stack: ComposeStack) -> None:
    (new_stack.home / ".env").unlink()
    done = new_stack.run("docker", "compose", "up", check=False)
    assert done.returncode != 0
    assert 'run "make setup" first, it writes .env' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_service_that_can_run_once_only_is_not_scaled(new_stack: ComposeStack) -> None:
    for service, reason in (("redis", "it can have one container only"), ("wrker", "no such service")):
        done = new_stack.rqstack("stack", "start", "--mode", "compose", "--scale", f"{service}=2", check=False)
        assert done.returncode == 1
        assert f"Error: --scale {service}: {reason}. These can have several: " in done.stderr
    assert new_stack.containers() == []
    done = new_stack.rqstack("stack", "logs", "--mode", "compose", "wrker", check=False)
    assert done.returncode == 1
    assert "Error: wrker: no such service. Known are " in done.stderr


def test_the_stack_of_another_folder_is_never_taken_over(new_stack: ComposeStack, tmp_path: Path) -> None:
    """A user has given the same project name to two folders."""
    other = tmp_path / "other"
    other.mkdir()
    docker = ("docker", "run", "--detach", "--label", f"com.docker.compose.project={new_stack.project}")
    docker += (
        "--label",
        f"com.docker.compose.project.working_dir={other}",
        "rqstack-base/redis:trixie",
        "sleep",
        "600",
    )
    images.ensure(new_stack.home, {"redis": "rqstack-base/redis:trixie"}, 3, print)
    container = new_stack.run(*docker).stdout.strip()
    try:
        for command in ("start", "stop", "status", "deploy-tasks"):
            done = new_stack.rqstack("stack", command, "--mode", "compose", check=False)
            assert done.returncode == 1
            assert f"Error: The containers of the compose project {new_stack.project} belong to {other}." in done.stderr
        assert len(new_stack.containers()) == 1
    finally:
        new_stack.docker("rm", "--force", container)
