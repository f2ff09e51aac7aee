"""Redis is away for longer than any health check waits: processes stay alive, healthy, and go on when it is back."""

from __future__ import annotations

import json
import re
import time

from support.compose_stack import ComposeStack

SERVICES = ("worker", "long-worker", "scheduler", "rq-exporter", "dashboard")
AWAY = 120
"""Seconds for which Redis is stopped: twice the age at which a liveness file is too old."""

CHECKS = 45
"""Health checks that each process passes meanwhile; five that fail make one unhealthy."""


def test_nobody_is_unhealthy_or_restarted_while_redis_is_away(new_stack: ComposeStack) -> None:
    stack = new_stack
    with (stack.home / ".env").open("a") as file:
        file.write("HEALTH_INTERVAL=1s\n")
    said = stack.start("--monitoring").stdout
    assert re.search(r"^Jobs page .*  user admin, password: DASHBOARD_PASSWORD in \.env$", said, re.MULTILINE)
    before = {service: stack.containers(service)[0] for service in SERVICES}
    stack.compose("stop", "redis")
    stopped = time.monotonic()
    seen: dict[str, set[str]] = {service: set() for service in SERVICES}
    statuses = set()

    def observe() -> bool:
        for service in SERVICES:
            health = stack.containers(service)[0]["State"]["Health"]
            statuses.add((service, health["Status"], health["FailingStreak"] > 0))
            seen[service] |= {each["Start"] for each in health["Log"]}
        is_over = time.monotonic() - stopped > AWAY
        return is_over and all(len(checks) >= CHECKS for checks in seen.values())

    stack.until(observe, 240)
    print(f"away for {time.monotonic() - stopped:.0f} s")
    assert {status for _, status, _ in statuses} == {"healthy"}, statuses
    ready = stack.compose("exec", "-T", "worker", "rqstack", "health", "--ready", check=False)
    assert ready.returncode == 1
    assert "Redis cannot be reached" in ready.stderr or "no answer from Redis" in ready.stderr

    stack.compose("start", "redis")
    (identity,) = stack.enqueue("rqstack.smoke.check", [[21]])
    assert stack.wait([identity])[identity][:2] == ["finished", 42]
    for service, container in before.items():
        now = stack.containers(service)[0]
        assert now["Id"] == container["Id"], service
        assert now["RestartCount"] == 0, json.dumps(now["State"])
        assert now["State"]["StartedAt"] == container["State"]["StartedAt"], service
