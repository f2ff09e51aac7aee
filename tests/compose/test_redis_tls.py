"""The stack with TLS and a published Redis, monitoring included."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from rqstack.settings.sources import read_env_file
from support.certificates import Authority
from support.compose_stack import ComposeStack


def test_every_service_speaks_tls(new_stack: ComposeStack, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    tags = {"RQ_EXPORTER_IMAGE": "rqstack/rq-exporter", "DASHBOARD_IMAGE": "rqstack/dashboard"}
    images = {name: f"{image}:{new_stack.project}" for name, image in tags.items()}
    settings = authority.settings("redis", "localhost", "127.0.0.1") | {"REDIS_BIND": "0.0.0.0"} | images
    with (new_stack.home / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())
    try:
        started = new_stack.start("--monitoring")
        port = int(read_env_file(new_stack.home / "var" / "stack.env")["REDIS_PORT"])
        assert f"rediss://127.0.0.1:{port}" in started.stdout
        (redis,) = new_stack.containers("redis")
        assert [place["HostIp"] for place in redis["HostConfig"]["PortBindings"]["6379/tcp"]] == ["0.0.0.0"]
        for service in ("redis", "worker", "long-worker", "scheduler", "rq-exporter", "dashboard"):
            assert new_stack.healthy(service) == 1, service
        with pytest.raises(ConnectionError):
            Redis(port=port, socket_timeout=5).ping()
        job = new_stack.rqstack("trigger", "--url", "http://127.0.0.2:1/").stdout.splitlines()[-1]
        new_stack.rqstack("wait", "--timeout", "60", job, check=False)
        assert "which is not public" in new_stack.rqstack("result", "--jobid", job, check=False).stdout
        metrics = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9726/metrics').read().decode())"
        (exporter,) = new_stack.containers("rq-exporter")
        assert "redis_up 1.0" in new_stack.docker("exec", exporter["Id"], "python", "-c", metrics)
        # The key is Redis's alone.
        for container in new_stack.containers():
            mounted = {mount["Destination"] for mount in container["Mounts"]}
            service = container["Config"]["Labels"]["com.docker.compose.service"]
            assert ("/run/secrets/redis_tls_key" in mounted) == (service == "redis"), service
    finally:
        files = ("-f", "docker-compose.yml", "-f", "docker-compose-monitor.yml")
        new_stack.compose(*files, "down", "--volumes", "--remove-orphans", "--timeout=5", check=False)
        new_stack.docker("image", "rm", *images.values(), check=False)
