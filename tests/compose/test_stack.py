"""The stack as a person runs it, with eight workers: what it does, and what it loses when parts of it die (nothing)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from support.compose_stack import ComposeStack
from support.paths import ROOT

COUNT = "wordcount.tasks.count_words_at_url"
WORKERS = ("worker", "long-worker", "worker-older", "worker-newer")


def words(stack: ComposeStack, numbers: range) -> tuple[list[str], dict[str, int]]:
    """Word counts of pages that are enqueued: the ids, and the right count of each."""
    ids = stack.enqueue(COUNT, [[f"http://pages:8000/{number}.html"] for number in numbers])
    return ids, dict(zip(ids, numbers, strict=True))


def check(outcomes: dict[str, list[Any]], expected: dict[str, int]) -> None:
    wrong = {
        identity: (outcomes[identity], number)
        for identity, number in expected.items()
        if outcomes[identity][:2] != ["finished", number]
    }
    assert not wrong


def test_every_service_is_healthy(stack: ComposeStack) -> None:
    assert stack.healthy("worker") == 8
    for service in ("redis", "long-worker", "scheduler", "worker-older", "worker-newer", "pages"):
        assert stack.healthy(service) == 1, service
    (tasks,) = stack.containers("tasks")
    assert tasks["State"]["ExitCode"] == 0
    status = stack.rqstack("stack", "status", "--json")
    assert all(row["healthy"] for row in json.loads(status.stdout)["processes"])


def test_a_second_start_leaves_what_runs_alone(stack: ComposeStack) -> None:
    def running() -> set[str]:
        return {each["Id"] for each in stack.containers() if each["State"]["Running"]}

    before = running()
    stack.start("--scale", "worker=8")
    assert running() == before


def test_a_word_count_by_hand(stack: ComposeStack) -> None:
    identity = stack.rqstack("trigger", "--url", "http://pages:8000/42.html").stdout.splitlines()[-1]
    stack.rqstack("wait", "--timeout", "30", identity)
    assert stack.rqstack("result", "--jobid", identity).stdout.strip() == "42"


def test_two_hundred_counts_survive_a_restart_of_redis(stack: ComposeStack) -> None:
    ids, expected = words(stack, range(1, 201))
    stack.compose("restart", "redis")
    outcomes = stack.wait(ids)
    check(outcomes, expected)
    assert len({worker for _, _, worker in outcomes.values()}) > 1


def test_killing_every_worker_loses_nothing(stack: ComposeStack) -> None:
    naps = stack.enqueue("probe.tasks.nap", [[0.2]] * 60)
    stack.compose("kill", *WORKERS)
    ids, expected = words(stack, range(1, 51))
    stack.start("--scale", "worker=8")
    check(stack.wait(ids), expected)
    # What was running when its worker was killed runs again.
    outcomes = stack.wait(naps)
    assert {status for status, _, _ in outcomes.values()} == {"finished"}, outcomes


def test_killing_a_producer_does_no_harm(stack: ComposeStack) -> None:
    """Whatever it had enqueued is run; what it was about to enqueue is not half there."""
    program = (
        "import sys\nfrom rqstack import autodiscover\n"
        "from rqstack.registry.registry import registry\nautodiscover()\n"
        "nap = registry.get('probe.tasks.nap')\nwhile True:\n    print(nap.delay(0).id, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=stack.home, env=stack.environment, stdout=subprocess.PIPE, text=True
    ) as producer:
        assert producer.stdout is not None
        ids = [producer.stdout.readline().strip() for _ in range(30)]
        producer.kill()
        ids += [line.strip() for line in producer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert {status for status, _, _ in stack.wait(ids).values()} == {"finished"}
    assert stack.healthy("worker") == 8


def test_two_projects_have_two_versions_of_a_library(stack: ComposeStack) -> None:
    (older,) = stack.enqueue("older.tasks.library", [[]])
    (newer,) = stack.enqueue("newer.tasks.library", [[]])
    assert stack.wait([older])[older][:2] == ["finished", "0.12.1"]
    assert stack.wait([newer])[newer][:2] == ["finished", "1.0.0"]


def test_the_commands_of_the_page_show_the_two_versions(stack: ComposeStack) -> None:
    page = (ROOT / "docs" / "tasks-deploy.md").read_text()
    copied = re.search(r"^    cp -r (.*) tasks/$", page, re.MULTILINE)
    assert copied
    assert all((ROOT / folder / "pyproject.toml").is_file() for folder in copied[1].split())
    services = re.search(r"^  worker-older:.*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    assert services
    assert services[0].strip() in (ROOT / "tests" / "compose" / "override.yml").read_text()
    commands = re.findall(r"^    docker compose exec (worker-.*)$", page, re.MULTILINE)
    found = [stack.compose("exec", "-T", *command.split()).stdout.splitlines()[-1] for command in commands]
    stack.wait(found)
    assert [stack.rqstack("result", each).stdout for each in found] == ["0.12.1\n", "1.0.0\n"]


def test_the_long_queue_has_its_own_worker(stack: ComposeStack) -> None:
    (identity,) = stack.enqueue("probe.tasks.where", [[]])
    (container,) = stack.containers("long-worker")
    assert stack.wait([identity])[identity][:2] == ["finished", container["Id"][:12]]


def test_every_service_is_hardened(stack: ComposeStack) -> None:
    containers = stack.containers()
    assert len(containers) == 15
    for container in containers:
        name, host = container["Name"], container["HostConfig"]
        assert host["Init"] is True, name
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Privileged"] is False, name
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root"), name
        assert 0 < host["PidsLimit"] <= 512, name
        assert host["Memory"] > 0, name
        assert host["NanoCpus"] > 0, name
        assert host["LogConfig"]["Type"] == "json-file", name
        assert host["LogConfig"]["Config"].keys() >= {"max-size", "max-file"}, name
        bindings = [each for entry in (host["PortBindings"] or {}).values() for each in entry]
        assert all(each["HostIp"] == "127.0.0.1" for each in bindings), name
        if container["Config"]["Labels"]["com.docker.compose.service"] == "tasks":
            continue
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert container["Config"]["Healthcheck"]["Test"][0].startswith("CMD"), name
        assert container["Config"]["StopTimeout"] == 30, name
    (worker, *_) = stack.containers("worker")
    assert [mount["RW"] for mount in worker["Mounts"] if mount["Destination"] == "/tasks"] == [False]
    (scheduler,) = stack.containers("scheduler")
    networks = scheduler["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{stack.project}_broker"]
    network = json.loads(stack.docker("network", "inspect", f"{stack.project}_broker"))[0]
    assert network["Internal"] is True


def test_no_secret_is_in_arguments_or_environment(stack: ComposeStack) -> None:
    secrets = [text for path in (stack.home / "var" / "secrets").iterdir() if (text := path.read_text().strip())]
    assert len(secrets) >= 6
    for container in stack.containers():
        shown = json.dumps(container)
        assert not [secret for secret in secrets if secret in shown], container["Name"]
        if container["State"]["Running"]:
            processes = stack.docker("top", container["Id"], "-eo", "pid,args")
            assert not [secret for secret in secrets if secret in processes], container["Name"]


def test_a_role_may_do_no_more_than_it_needs(stack: ComposeStack) -> None:
    port = next(line for line in (stack.home / ".env").read_text().splitlines() if line.startswith("REDIS_PORT="))

    def user(role: str) -> Redis:
        password = (stack.home / "var" / "secrets" / f"redis_{role}_password").read_text()
        return Redis(port=int(port.partition("=")[2]), username=role, password=password)

    for role in ("worker", "producer"):
        for command in (("FLUSHALL",), ("CONFIG", "SET", "appendonly", "no")):
            with pytest.raises(NoPermissionError):
                user(role).execute_command(*command)
    with pytest.raises(NoPermissionError):
        user("exporter").set("rq:x", "1")
    with pytest.raises(AuthenticationError):
        Redis(port=int(port.partition("=")[2])).ping()
    settings = user("admin").config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert int(settings["maxmemory"]) > 0


def test_new_task_code_is_shipped_under_load(stack: ComposeStack) -> None:
    """No container restarts, no job is lost, and each runs wholly on one release; a rollback leads back."""
    module = stack.home / "tasks" / "probe" / "probe" / "version.py"
    before = {
        container["Id"]: container["RestartCount"] for container in stack.containers() if container["State"]["Running"]
    }
    first = stack.enqueue("probe.tasks.nap", [[0.3]] * 120)
    module.write_text("VERSION = 2\n")
    shipped = stack.rqstack("stack", "deploy-tasks").stdout
    assert "installed" in shipped

    def version() -> Any:
        (identity,) = stack.enqueue("probe.tasks.nap", [[0]])
        return stack.wait([identity])[identity][1][0]

    outcomes = stack.wait(first, 120)
    assert {status for status, _, _ in outcomes.values()} == {"finished"}
    assert not [value for _, value, _ in outcomes.values() if value[0] != value[1]]
    stack.until(lambda: version() == 2)
    after = {
        container["Id"]: container["RestartCount"] for container in stack.containers() if container["State"]["Running"]
    }
    assert after == before

    module.write_text("import nothing_of_that_name\n")
    refused = stack.rqstack("stack", "deploy-tasks", check=False)
    # The producer on this machine imports the same folder.
    module.write_text("VERSION = 2\n")
    assert refused.returncode == 1
    assert "probe" in refused.stderr
    assert "nothing_of_that_name" in refused.stderr
    assert "the running one stays" in refused.stderr
    assert version() == 2

    # The way back is open also while the folder cannot be built.
    project = stack.home / "tasks" / "probe" / "pyproject.toml"
    declared = project.read_text()
    project.write_text("[project\n")
    back = stack.rqstack("stack", "rollback-tasks", check=False)
    project.write_text(declared)
    assert back.returncode == 0, back.stderr
    assert re.fullmatch(r"Release \S+ is current again: .+\n", back.stdout)
    stack.until(lambda: version() == 1)


def test_queued_jobs_outlive_a_stop_of_everything(stack: ComposeStack) -> None:
    stack.rqstack("suspend")
    ids, expected = words(stack, range(1, 21))
    stack.rqstack("stack", "stop")
    assert stack.containers() == []
    assert not (stack.home / "var" / "stack.env").exists()
    started = time.monotonic()
    stack.start("--scale", "worker=2")
    print(f"started again in {time.monotonic() - started:.1f} s")
    assert {status for status, _, _ in stack.outcomes(ids).values()} == {"queued"}
    stack.rqstack("resume")
    check(stack.wait(ids), expected)
