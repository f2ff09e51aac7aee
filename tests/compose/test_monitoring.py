"""The stack with monitoring as `make start-rq-mon` starts it: everything healthy, every target up, alerts that fire."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from support.compose_stack import ComposeStack

SERVICES = ("rq-exporter", "dashboard", "prometheus", "alertmanager")


@pytest.fixture(scope="module")
def monitored(stack: ComposeStack) -> Iterator[ComposeStack]:
    """The stack, with monitoring added while it runs."""
    images = {"RQ_EXPORTER_IMAGE": "rqstack/rq-exporter", "DASHBOARD_IMAGE": "rqstack/dashboard"}
    images = {name: f"{image}:{stack.project}" for name, image in images.items()}
    with (stack.home / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in images.items())
    # Alerts within seconds rather than minutes.
    path = stack.home / "prometheus" / "prometheus.yml"
    path.write_text(path.read_text().replace(": 15s", ": 1s").replace(": 10s", ": 1s"))
    alerts = stack.home / "prometheus" / "rules" / "alerts.yml"
    alerts.write_text(alerts.read_text().replace("for: 1m", "for: 2s").replace("for: 2m", "for: 2s"))
    try:
        stack.start("--monitoring", "--scale", "worker=8")
        yield stack
    finally:
        files = ("-f", "docker-compose.yml", "-f", "docker-compose-monitor.yml")
        stack.compose(*files, "down", "--volumes", "--remove-orphans", "--timeout=5", check=False)
        stack.docker("image", "rm", *images.values(), check=False)


def setting(stack: ComposeStack, name: str) -> str:
    found = [line.split("=", 1)[1] for line in (stack.home / ".env").read_text().splitlines() if line.startswith(name)]
    return str(found[-1])


def get(stack: ComposeStack, service: str, path: str, **parameters: str) -> str:
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    url = f"http://127.0.0.1:{setting(stack, f'{service}_PORT')}{path}{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def firing(stack: ComposeStack) -> set[str]:
    """The alerts that have reached Alertmanager and are not inhibited there."""
    found = json.loads(get(stack, "ALERTMANAGER", "/api/v2/alerts", inhibited="false"))
    return {alert["labels"]["alertname"] for alert in found}


def test_every_service_is_healthy_and_hardened(monitored: ComposeStack) -> None:
    services = [*SERVICES, "grafana"] if monitored.containers("grafana") else list(SERVICES)
    for service in services:
        assert monitored.healthy(service) == 1, service
        (container,) = monitored.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["Init"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["PidsLimit"], service
        assert host["Memory"], service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
        bound = {place["HostIp"] for places in host["PortBindings"].values() for place in places}
        assert bound == {"127.0.0.1"}, service
        values = [
            line.split("=", 1)[1] for line in (monitored.home / ".env").read_text().splitlines() if "_PASSWORD=" in line
        ]
        shown = json.dumps([container["Config"]["Cmd"], container["Config"]["Env"], container["Args"]])
        assert not [value for value in values if value and value in shown], service


def test_nothing_waits_for_grafana(monitored: ComposeStack) -> None:
    """Where its image cannot be had, all others run without it."""
    config = json.loads(
        monitored.compose(
            *("-f", "docker-compose.yml", "-f", "docker-compose-monitor.yml", "--profile", "grafana"),
            *("config", "--format=json"),
        ).stdout
    )
    assert "grafana" in config["services"]
    assert not [name for name, service in config["services"].items() if "grafana" in (service.get("depends_on") or {})]


def test_prometheus_scrapes_every_target(monitored: ComposeStack) -> None:
    def targets() -> dict[str, str]:
        found = json.loads(get(monitored, "PROMETHEUS", "/api/v1/targets"))["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in found}

    expected = {"rq": "up", "prometheus": "up", "alertmanager": "up"}
    monitored.until(lambda: targets() == expected)
    managers = json.loads(get(monitored, "PROMETHEUS", "/api/v1/alertmanagers"))["data"]["activeAlertmanagers"]
    assert len(managers) == 1


def test_rq_exporter_shows_the_workers_and_their_jobs(monitored: ComposeStack) -> None:
    ids = monitored.enqueue("probe.tasks.nap", [[0.01]] * 20)
    outcomes = monitored.wait(ids)
    assert {identity: outcome[0] for identity, outcome in outcomes.items()} == dict.fromkeys(ids, "finished")

    def shown() -> bool:
        page = get(monitored, "RQ_EXPORTER", "/metrics")
        workers = [line for line in page.splitlines() if line.startswith("rq_workers{")]
        succeeded = [line for line in page.splitlines() if line.startswith("rq_workers_success_total{")]
        done = sum(float(line.rsplit(" ", 1)[1]) for line in succeeded)
        return "redis_up 1.0" in page and len(workers) >= 9 and done >= len(ids)

    monitored.until(shown)


def test_the_jobs_page_needs_the_login(monitored: ComposeStack) -> None:
    assert "password" in get(monitored, "DASHBOARD", "/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(monitored, "DASHBOARD", "/0/data/queues.json")
    refused.value.close()
    assert refused.value.code == 401
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    base = f"http://127.0.0.1:{setting(monitored, 'DASHBOARD_PORT')}"
    form = {"username": "admin", "password": setting(monitored, "DASHBOARD_PASSWORD")}
    opener.open(f"{base}/login", data=urllib.parse.urlencode(form).encode(), timeout=10).close()
    with opener.open(f"{base}/0/data/queues.json", timeout=10) as answer:
        queues = {queue["name"] for queue in json.loads(answer.read())["queues"]}
    assert "short-running" in queues
    with opener.open(f"{base}/0/data/workers.json", timeout=10) as answer:
        assert len(json.loads(answer.read())["workers"]) >= 9


def test_a_queue_without_workers_raises_an_alert_until_it_has_some(monitored: ComposeStack) -> None:
    monitored.until(lambda: "RQWatchdog" in firing(monitored), seconds=90)
    monitored.compose("stop", "long-worker")
    ids = monitored.enqueue("probe.tasks.where", [[]])
    monitored.until(lambda: "RQQueueWithoutWorkers" in firing(monitored), seconds=120)
    monitored.compose("start", "long-worker")
    outcomes = monitored.wait(ids)
    assert outcomes[ids[0]][0] == "finished"


def test_a_lost_redis_raises_one_alert_and_the_exporter_stays(monitored: ComposeStack) -> None:
    monitored.compose("stop", "redis")
    try:
        monitored.until(lambda: "RQRedisDown" in firing(monitored), seconds=120)
        assert "redis_up 0.0" in get(monitored, "RQ_EXPORTER", "/metrics")
        assert firing(monitored) <= {"RQRedisDown", "RQWatchdog"}
        assert monitored.healthy("rq-exporter") == 1
    finally:
        monitored.compose("start", "redis")
    monitored.until(lambda: "redis_up 1.0" in get(monitored, "RQ_EXPORTER", "/metrics"))


TRY = """
import json, socket, sys
def answers(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True
print(json.dumps([answers(*place) for place in json.loads(sys.argv[1])]))
"""


def reaches(stack: ComposeStack, service: str, *places: tuple[str, int]) -> list[bool]:
    """Which places a process in a service's container can connect to."""
    (container, *_) = stack.containers(service)
    return list(json.loads(stack.docker("exec", container["Id"], "python3", "-c", TRY, json.dumps(places))))


def addresses(stack: ComposeStack, service: str) -> list[str]:
    """The name of a service, and the addresses of its container in each network."""
    (container, *_) = stack.containers(service)
    return [service, *(network["IPAddress"] for network in container["NetworkSettings"]["Networks"].values())]


def test_workers_reach_redis_and_the_way_out_and_not_the_monitoring(monitored: ComposeStack) -> None:
    ports = {"rq-exporter": 9726, "dashboard": 9181, "prometheus": 9090, "alertmanager": 9093}
    watched = [(address, port) for service, port in ports.items() for address in addresses(monitored, service)]
    # A server on this machine, at an address that containers reach by their way out.
    outside = json.loads(monitored.docker("network", "inspect", f"{monitored.project}_outside"))[0]
    gateway = outside["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server((gateway, 0)) as server:
        away = (gateway, server.getsockname()[1])
        for service in ("worker", "long-worker"):
            assert reaches(monitored, service, ("redis", 6379), away) == [True, True]
            assert not any(reaches(monitored, service, *watched)), service
    assert reaches(monitored, "scheduler", ("redis", 6379), *watched) == [True] + [False] * len(watched)
    assert reaches(monitored, "rq-exporter", ("redis", 6379), ("alertmanager", 9093)) == [True, True]
    assert reaches(monitored, "dashboard", ("redis", 6379), ("prometheus", 9090)) == [True, False]
    for service in ("prometheus", "alertmanager"):
        (container,) = monitored.containers(service)
        assert list(container["NetworkSettings"]["Networks"]) == [f"{monitored.project}_monitoring"], service


def test_the_monitoring_reaches_no_worker(monitored: ComposeStack) -> None:
    """A worker that listens, which none does, is found by its own network's members alone."""
    (worker, *_) = monitored.containers("worker")
    listen = "import socket, time; s = socket.create_server(('', 7777)); time.sleep(600)"
    monitored.docker("exec", "--detach", worker["Id"], "python3", "-c", listen)
    places = [(network["IPAddress"], 7777) for network in worker["NetworkSettings"]["Networks"].values()]
    assert monitored.until(lambda: any(reaches(monitored, "scheduler", *places)), 30)
    for service in ("rq-exporter", "dashboard"):
        assert not any(reaches(monitored, service, *places)), service
